#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "host-proxy/guest_memory.h"
#include "host-proxy/virtqueue.h"
#include "tests/support/fd_count.h"

/*
 * The test is the driver, which writes what it likes into a ring of four entries.
 */

#define SIZE    4
#define MEMORY  0x10000
#define ADDRESS UINT64_C(0x40000000)
#define USER    UINT64_C(0x7f0000000000)
#define AVAIL   0x1000
#define USED    0x2000
#define TABLE   0x3000
#define BUFFER  0x4000

struct fixture {
	struct guest_memory memory;
	uint8_t *bytes; // the driver's own view
	struct vring_desc *desc, *table;
	struct vring_avail *avail;
	struct vring_used *used;
	struct virtqueue queue;
	struct virtqueue_chain chain;
};

static const struct virtqueue_addresses addresses = {
	.desc = USER,
	.avail = USER + AVAIL,
	.used = USER + USED,
};

static void begin(struct fixture *fixture)
{
	const struct guest_range range = {
		.address = ADDRESS,
		.size = MEMORY,
		.user_address = USER,
	};
	int fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, MEMORY), 0);
	*fixture = (struct fixture){.queue = {.indirect = true}};
	fixture->bytes = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fixture->desc = (void *)fixture->bytes;
	fixture->avail = (void *)(fixture->bytes + AVAIL);
	fixture->used = (void *)(fixture->bytes + USED);
	fixture->table = (void *)(fixture->bytes + TABLE);
	guest_memory_init(&fixture->memory);
	assert_null(guest_memory_add(&fixture->memory, &range, fd));
	assert_null(virtqueue_map(&fixture->queue, &fixture->memory, &addresses, SIZE));
}

static void end(struct fixture *fixture)
{
	munmap(fixture->bytes, MEMORY);
	guest_memory_finish(&fixture->memory);
}

static struct vring_desc buffer(uint32_t len, uint16_t flags, uint16_t next)
{
	return (struct vring_desc){ADDRESS + BUFFER, len, flags, next};
}

static void offer(struct fixture *fixture, uint16_t head)
{
	fixture->avail->ring[fixture->avail->idx % SIZE] = head;
	fixture->avail->idx++;
}

static enum virtqueue_status pop(struct fixture *fixture)
{
	return virtqueue_pop(&fixture->queue, &fixture->memory, &fixture->chain);
}

static void expect_broken(struct fixture *fixture, const char *wrong)
{
	assert_int_equal(pop(fixture), VIRTQUEUE_BROKEN);
	assert_string_equal(fixture->queue.wrong, wrong);
	assert_int_equal(pop(fixture), VIRTQUEUE_BROKEN); // for good
}

static void a_chain_is_what_its_descriptors_say(void **state)
{
	(void)state;
	struct fixture fixture;
	char text[8] = "";
	begin(&fixture);
	memcpy(fixture.bytes + BUFFER, "hello", 5);
	fixture.desc[2] = buffer(3, VRING_DESC_F_NEXT, 0);
	fixture.desc[0] = (struct vring_desc){ADDRESS + BUFFER + 3, 2, VRING_DESC_F_NEXT, 3};
	fixture.desc[3] = (struct vring_desc){ADDRESS + BUFFER + 8, 100, VRING_DESC_F_WRITE, 0};
	assert_int_equal(pop(&fixture), VIRTQUEUE_EMPTY);
	offer(&fixture, 2);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_int_equal(fixture.chain.readable, 5);
	assert_int_equal(fixture.chain.writable, 100);
	virtqueue_chain_read(&fixture.chain, 0, text, 5);
	assert_string_equal(text, "hello");
	virtqueue_chain_write(&fixture.chain, "world", 5);
	virtqueue_push(&fixture.queue, &fixture.chain, 5);
	assert_memory_equal(fixture.bytes + BUFFER + 8, "world", 5);
	assert_int_equal(fixture.used->idx, 1);
	assert_int_equal(fixture.used->ring[0].id, 2);
	assert_int_equal(fixture.used->ring[0].len, 5);
	end(&fixture);
}

static void an_indirect_table_is_followed(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.table[0] = buffer(10, VRING_DESC_F_NEXT, 2);
	fixture.table[2] = buffer(20, 0, 0);
	fixture.desc[1] = (struct vring_desc){ADDRESS + TABLE, 48, VRING_DESC_F_INDIRECT, 0};
	offer(&fixture, 1);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_int_equal(fixture.chain.head, 1);
	assert_int_equal(fixture.chain.readable, 30);
	end(&fixture);
}

static void indexes_wrap(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.desc[0] = buffer(1, 0, 0);
	for (int i = 0; i < 0x10000 + 3; i++) {
		offer(&fixture, 0);
		assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
		virtqueue_push(&fixture.queue, &fixture.chain, 0);
	}
	assert_int_equal(fixture.used->idx, 3);
	assert_int_equal(pop(&fixture), VIRTQUEUE_EMPTY);
	end(&fixture);
}

static void what_is_put_back_comes_again(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.desc[0] = buffer(1, VRING_DESC_F_WRITE, 0);
	fixture.desc[1] = buffer(2, VRING_DESC_F_WRITE, 0);
	offer(&fixture, 0);
	offer(&fixture, 1);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_int_equal(pop(&fixture), VIRTQUEUE_EMPTY);
	virtqueue_unpop(&fixture.queue, 1);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_int_equal(fixture.chain.writable, 2);
	end(&fixture);
}

struct hostile {
	struct vring_desc desc[2], table[2];
	uint16_t head;
	const char *wrong;
};

#define BUF     (ADDRESS + BUFFER)
#define TAB     (ADDRESS + TABLE)
#define NEXT    VRING_DESC_F_NEXT
#define WRITE   VRING_DESC_F_WRITE
#define IND     VRING_DESC_F_INDIRECT
#define OUTSIDE "a descriptor outside of the guest's memory"
#define NO_IND  "an indirect descriptor where none may be"
#define TABLEN  "an indirect table of an impossible length"
#define NO_TAB  "an indirect table outside of the guest's memory"

// clang-format off
static const struct hostile hostile[] = {
	{.head = SIZE, .wrong = "a chain that begins outside of the ring"},
	{.head = 0xffff, .wrong = "a chain that begins outside of the ring"},
	{.desc = {{BUF, 1, NEXT, 0}}, .wrong = "a chain that is a loop"},
	{.desc = {{BUF, 1, NEXT, 1}, {BUF, 1, NEXT, 0}}, .wrong = "a chain that is a loop"},
	{.desc = {{BUF, 1, NEXT, SIZE}}, .wrong = "a chain that leaves its table"},
	{.desc = {{BUF, 0, 0, 0}}, .wrong = "an empty descriptor"},
	{.desc = {{BUF, 1, NEXT, 1}, {BUF, 0, WRITE, 0}}, .wrong = "an empty descriptor"},
	{.desc = {{ADDRESS - 1, 1, 0, 0}}, .wrong = OUTSIDE},
	{.desc = {{ADDRESS + MEMORY, 1, 0, 0}}, .wrong = OUTSIDE},
	{.desc = {{ADDRESS + MEMORY - 1, 2, 0, 0}}, .wrong = OUTSIDE},
	{.desc = {{BUF, UINT32_MAX, 0, 0}}, .wrong = OUTSIDE},
	{.desc = {{0, 1, 0, 0}}, .wrong = OUTSIDE},
	{.desc = {{UINT64_MAX - 3, 8, 0, 0}}, .wrong = "a descriptor of an impossible length"},
	{.desc = {{BUF, 9, NEXT, 1}, {BUF, UINT32_MAX - 3, 0, 0}},
		.wrong = "a descriptor of an impossible length"},
	{.desc = {{BUF, 1, WRITE | NEXT, 1}, {BUF, 1, 0, 0}},
		.wrong = "a descriptor to be read behind one to be written"},
	{.desc = {{TAB, 16, IND, 0}}, .table = {{TAB, 16, IND, 0}}, .wrong = NO_IND},
	{.desc = {{TAB, 16, IND | NEXT, 1}}, .wrong = NO_IND},
	{.desc = {{BUF, 1, NEXT, 1}, {TAB, 16, IND, 0}}, .wrong = NO_IND},
	{.desc = {{TAB, 0, IND, 0}}, .wrong = TABLEN},
	{.desc = {{TAB, 17, IND, 0}}, .wrong = TABLEN},
	{.desc = {{TAB, 0xfffffff0, IND, 0}}, .wrong = TABLEN},
	{.desc = {{ADDRESS + MEMORY - 16, 32, IND, 0}}, .wrong = NO_TAB},
	{.desc = {{0, 16, IND, 0}}, .wrong = NO_TAB},
	{.desc = {{TAB + 4, 16, IND, 0}}, .wrong = "an indirect table that is not aligned"},
	{.desc = {{TAB, 32, IND, 0}}, .table = {{BUF, 1, NEXT, 1}, {BUF, 1, NEXT, 0}},
		.wrong = "a chain that is a loop"},
	{.desc = {{TAB, 32, IND, 0}}, .table = {{BUF, 1, NEXT, 2}},
		.wrong = "a chain that leaves its table"},
};
// clang-format on

static void a_hostile_chain_breaks_the_ring(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		struct fixture fixture;
		begin(&fixture);
		memcpy(fixture.desc, hostile[i].desc, sizeof(hostile[i].desc));
		memcpy(fixture.table, hostile[i].table, sizeof(hostile[i].table));
		offer(&fixture, hostile[i].head);
		expect_broken(&fixture, hostile[i].wrong);
		end(&fixture);
	}
}

static void an_index_that_jumps_breaks_the_ring(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.desc[0] = buffer(1, 0, 0);
	fixture.avail->idx = SIZE;
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	fixture.avail->idx = SIZE + 2;
	expect_broken(&fixture, "an index that has jumped");
	end(&fixture);
	begin(&fixture);
	fixture.avail->idx = UINT16_MAX; // back by one
	expect_broken(&fixture, "an index that has jumped");
	end(&fixture);
}

static void indirect_descriptors_have_to_be_negotiated(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.queue.indirect = false;
	fixture.desc[0] = (struct vring_desc){TAB, 16, IND, 0};
	offer(&fixture, 0);
	expect_broken(&fixture, NO_IND);
	end(&fixture);
}

static void a_chain_is_bounded(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	for (uint16_t i = 0; i < 300; i++) {
		fixture.table[i] = buffer(1, NEXT, (uint16_t)(i + 1));
	}
	fixture.desc[0] = (struct vring_desc){TAB, 301 * 16, IND, 0};
	offer(&fixture, 0);
	expect_broken(&fixture, "a chain of too many descriptors");
	end(&fixture);
}

static void a_descriptor_may_span_regions(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	const struct guest_range next = {
		.address = ADDRESS + MEMORY,
		.size = 4096,
		.user_address = USER + 2 * MEMORY,
	};
	int fd = memfd_create("more", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_null(guest_memory_add(&fixture.memory, &next, fd));
	fixture.desc[0] = (struct vring_desc){ADDRESS + MEMORY - 10, 30, 0, 0};
	offer(&fixture, 0);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_int_equal(fixture.chain.n_readable, 2);
	assert_int_equal(fixture.chain.readable, 30);
	end(&fixture);
}

static void a_ring_is_in_memory_and_aligned(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtqueue queue = {0};
	begin(&fixture);
	const struct virtqueue_addresses wrong[] = {
		{USER - 16, USER + AVAIL, USER + USED},
		{USER + MEMORY - 48, USER + AVAIL, USER + USED},
		{USER, USER + MEMORY - 12, USER + USED},
		{USER, USER + AVAIL, USER + MEMORY - 36},
		{USER + 8, USER + AVAIL, USER + USED},
		{USER, USER + AVAIL + 1, USER + USED},
		{USER, USER + AVAIL, USER + USED + 2},
		{UINT64_MAX, UINT64_MAX, UINT64_MAX},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(virtqueue_map(&queue, &fixture.memory, &wrong[i], SIZE));
		assert_int_equal(queue.ring.num, 0);
	}
	const unsigned int sizes[] = {0, 3, 65536, UINT32_MAX};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_non_null(virtqueue_map(&queue, &fixture.memory, &addresses, sizes[i]));
	}
	end(&fixture);
}

static void kicks_are_asked_for_by_flag(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	virtqueue_refuse_kick(&fixture.queue);
	assert_int_equal(fixture.used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(virtqueue_want_kick(&fixture.queue));
	assert_int_equal(fixture.used->flags, 0);
	offer(&fixture, 0);
	assert_true(virtqueue_want_kick(&fixture.queue));
	end(&fixture);
}

static void kicks_are_asked_for_by_index(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.queue.event_index = true;
	fixture.desc[0] = buffer(1, 0, 0);
	offer(&fixture, 0);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	assert_false(virtqueue_want_kick(&fixture.queue));
	uint16_t event;
	memcpy(&event, &fixture.used->ring[SIZE], sizeof(event));
	assert_int_equal(event, 1);
	end(&fixture);
}

static void use_one(struct fixture *fixture)
{
	offer(fixture, 0);
	assert_int_equal(pop(fixture), VIRTQUEUE_CHAIN);
	virtqueue_push(&fixture->queue, &fixture->chain, 0);
}

static void the_guest_is_called_if_it_wants(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.desc[0] = buffer(1, 0, 0);
	assert_false(virtqueue_wants_call(&fixture.queue)); // nothing was used
	use_one(&fixture);
	assert_true(virtqueue_wants_call(&fixture.queue));
	assert_false(virtqueue_wants_call(&fixture.queue)); // it knows
	fixture.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	use_one(&fixture);
	assert_false(virtqueue_wants_call(&fixture.queue));
	end(&fixture);
}

static void the_guest_is_called_at_its_index(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.queue.event_index = true;
	fixture.desc[0] = buffer(1, 0, 0);
	fixture.avail->ring[SIZE] = 2; // when the third is used
	use_one(&fixture);
	assert_false(virtqueue_wants_call(&fixture.queue));
	use_one(&fixture);
	use_one(&fixture);
	assert_true(virtqueue_wants_call(&fixture.queue));
	use_one(&fixture);
	assert_false(virtqueue_wants_call(&fixture.queue));
	end(&fixture);
}

static void slices_are_cut_out_of_pieces(void **state)
{
	(void)state;
	struct fixture fixture;
	struct iovec pieces[3];
	begin(&fixture);
	fixture.desc[0] = (struct vring_desc){BUF, 10, NEXT, 1};
	fixture.desc[1] = (struct vring_desc){BUF + 100, 10, NEXT, 2};
	fixture.desc[2] = (struct vring_desc){BUF + 200, 10, WRITE, 0};
	offer(&fixture, 0);
	assert_int_equal(pop(&fixture), VIRTQUEUE_CHAIN);
	size_t len = 100;
	assert_int_equal(virtqueue_chain_slice(&fixture.chain, false, 12, &len, pieces, 3), 1);
	assert_int_equal(len, 8);
	len = 5;
	assert_int_equal(virtqueue_chain_slice(&fixture.chain, false, 7, &len, pieces, 3), 2);
	assert_int_equal(len, 5);
	assert_int_equal(pieces[0].iov_len, 3);
	assert_int_equal(pieces[1].iov_len, 2);
	len = 100;
	assert_int_equal(virtqueue_chain_slice(&fixture.chain, false, 0, &len, pieces, 1), 1);
	assert_int_equal(len, 10);
	len = 100;
	assert_int_equal(virtqueue_chain_slice(&fixture.chain, true, 4, &len, pieces, 3), 1);
	assert_int_equal(len, 6);
	end(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_chain_is_what_its_descriptors_say),
		fd_count_test(an_indirect_table_is_followed),
		fd_count_test(indexes_wrap),
		fd_count_test(what_is_put_back_comes_again),
		fd_count_test(a_hostile_chain_breaks_the_ring),
		fd_count_test(an_index_that_jumps_breaks_the_ring),
		fd_count_test(indirect_descriptors_have_to_be_negotiated),
		fd_count_test(a_chain_is_bounded),
		fd_count_test(a_descriptor_may_span_regions),
		fd_count_test(a_ring_is_in_memory_and_aligned),
		fd_count_test(kicks_are_asked_for_by_flag),
		fd_count_test(kicks_are_asked_for_by_index),
		fd_count_test(the_guest_is_called_if_it_wants),
		fd_count_test(the_guest_is_called_at_its_index),
		fd_count_test(slices_are_cut_out_of_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
