#include "fdpass/dmabuf.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "ends.h"
#include "fdpass/any.h"
#include "fdpass/region.h"
#include "fdpass/resolver.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"

#define PAGE 4096u

/* ---- buffers where a machine has none: memory that says so, and is told nothing by ioctl(2) ---- */

struct memory_resolver {
	struct resolver base;
	unsigned int made;
	int error;
	uint32_t asked;   // the resource that was asked for last
	uint64_t surplus; // bytes by which what is found is longer than what was asked for
	uint64_t wrapped; // the offset of the last memory that a buffer was made of
};

static int make_memory(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	struct memory_resolver *memories = (struct memory_resolver *)resolver;
	if (memories->error != 0) {
		return memories->error;
	}
	memories->made++;
	buffer->size = (size + PAGE - 1) / PAGE * PAGE;
	buffer->fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(buffer->fd, (off_t)buffer->size), 0);
	buffer->mapping = mapping_create(buffer->fd, buffer->size, true);
	assert_non_null(buffer->mapping);
	return 0;
}

static int find_memory(
	struct resolver *resolver, uint32_t resource, uint64_t size, struct resolver_buffer *buffer)
{
	struct memory_resolver *memories = (struct memory_resolver *)resolver;
	memories->asked = resource;
	int error = make_memory(resolver, size + memories->surplus, buffer);
	if (error == 0) {
		mapping_unref(buffer->mapping);
		buffer->mapping = NULL;
	}
	return error;
}

static const struct resolver_interface memory_interface = {
	.name = "test",
	.make = make_memory,
	.find = find_memory,
};

static int wrap_memory(struct resolver *resolver, int memory, uint64_t offset, uint64_t size,
	struct resolver_buffer *buffer)
{
	struct memory_resolver *memories = (struct memory_resolver *)resolver;
	assert_true(memory >= 0);
	assert_int_equal(size % PAGE, 0);
	memories->wrapped = offset;
	*buffer = (struct resolver_buffer){.size = size};
	buffer->fd = memfd_create("test", MFD_CLOEXEC);
	return 0;
}

static const struct resolver_interface wrapping_interface = {
	.name = "test",
	.make = make_memory,
	.wrap = wrap_memory,
};

struct fixture {
	struct ends ends;
	struct memory_resolver memories;
};

static void fixture_init(struct fixture *fixture)
{
	ends_init(&fixture->ends);
	fixture->memories = (struct memory_resolver){.base.interface = &memory_interface};
	for (int i = 0; i < 2; i++) {
		struct end *end = i == 0 ? &fixture->ends.guest : &fixture->ends.host;
		end->refs.any_kind = false;
		end->refs.dmabufs = true;
	}
	fixture->ends.host.refs.resolver = &fixture->memories.base;
}

static void fixture_finish(struct fixture *fixture)
{
	assert_null(fixture->ends.guest.wrong);
	assert_null(fixture->ends.host.wrong);
	ends_finish(&fixture->ends);
}

/* ---- what a guest may say ---- */

#define ID 7u

static struct channel_open_dmabuf open_of(uint64_t size)
{
	struct channel_open_dmabuf open = {
		.access = CHANNEL_ACCESS_BOTH,
		.plane = CHANNEL_PLANE_COPY,
	};
	channel_put64(open.size, size);
	return open;
}

static const char *open_copy(struct fixture *fixture, uint32_t id, uint64_t size)
{
	struct channel_open_dmabuf open = open_of(size);
	return end_frame(
		&fixture->ends.host, CHANNEL_OPEN, id, CHANNEL_KIND_DMABUF, &open, sizeof(open));
}

static void expect_refused(const struct channel_open_dmabuf *open, size_t len)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	fixture_init(&fixture);
	assert_non_null(end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, open, len));
	assert_int_equal(fixture.memories.made, 0);
	assert_null(fdrefs_get(&host->refs, ID));
	assert_int_equal(host->budget.used[BUDGET_FDS], 0);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);
	fixture_finish(&fixture);
}

static void an_open_that_makes_no_sense_is_refused(void **state)
{
	static const uint64_t sizes[] = {
		0, (uint64_t)INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX, (1u << 30) + 1u};
	struct channel_open_dmabuf open = open_of(PAGE);
	(void)state;
	expect_refused(&open, 0);
	expect_refused(&open, sizeof(open) - 1);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		open = open_of(sizes[i]);
		expect_refused(&open, sizeof(open));
	}
	open = open_of(PAGE);
	open.access = CHANNEL_ACCESS_WRITE;
	expect_refused(&open, sizeof(open));
	open.access = UINT32_MAX;
	expect_refused(&open, sizeof(open));
	open = open_of(PAGE);
	open.plane = 1;
	expect_refused(&open, sizeof(open));
}

static void one_that_was_not_agreed_to_is_refused(void **state)
{
	struct fixture fixture;
	(void)state;
	fixture_init(&fixture);
	fixture.ends.host.refs.dmabufs = false;
	assert_false(dmabuf_possible(&fixture.ends.host.refs));
	assert_string_equal(open_copy(&fixture, ID, PAGE), "OPEN of an unknown kind");
	fixture.ends.host.refs.any_kind = true;
	assert_string_equal(open_copy(&fixture, ID, PAGE), "OPEN of an unknown kind");
	fixture_finish(&fixture);
}

static void a_copy_costs_whole_pages_and_gives_them_back(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	(void)state;
	fixture_init(&fixture);
	assert_true(dmabuf_possible(&host->refs));
	assert_null(open_copy(&fixture, ID, PAGE + 1));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 2 * PAGE);
	assert_int_equal(host->budget.used[BUDGET_FDS], 1);
	assert_int_equal(dmabuf_get(&host->refs, ID)->size, PAGE + 1);
	assert_null(memory_get(&host->refs, ID)); // no pool
	assert_null(end_frame(host, CHANNEL_CLOSE, ID, 0, NULL, 0));
	assert_null(fdrefs_get(&host->refs, ID));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);
	assert_int_equal(host->budget.used[BUDGET_FDS], 0);
	fixture_finish(&fixture);
}

static void rows_have_their_place_in_the_copy(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	struct channel_rows rows;
	struct channel_mem_write write = {
		.offset = {PAGE - 8}, .stride = 4, .row_bytes = 4, .rows = 2};
	(void)state;
	fixture_init(&fixture);
	assert_null(open_copy(&fixture, ID, PAGE));
	struct memory *copy = dmabuf_get(&host->refs, ID);
	assert_null(end_write(host, ID, &write, &rows));
	assert_ptr_equal(rows.base, copy->mapping->data + PAGE - 8);
	assert_true(rows.lasting);
	assert_int_equal(host->refs.accessed, 1);
	fdrefs_settle(&host->refs);
	assert_int_equal(host->refs.accessed, 0);
	write.rows = 3; // in its last page, but not in what the guest has
	assert_non_null(end_write(host, ID, &write, &rows));
	fixture_finish(&fixture);
}

/* ---- by a handle ---- */

#define RESOURCE 23u

struct open_handle {
	struct channel_open_dmabuf dmabuf;
	struct channel_open_handle handle;
};

static struct open_handle handle_of(uint64_t size)
{
	struct open_handle open = {.dmabuf = open_of(size), .handle.resource = RESOURCE};
	open.dmabuf.plane = CHANNEL_PLANE_HANDLE;
	return open;
}

static void one_by_a_handle_is_found(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	const struct open_handle open = handle_of(PAGE + 1);
	(void)state;
	fixture_init(&fixture);
	host->refs.handles = &fixture.memories.base;
	assert_null(end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, &open, sizeof(open)));
	assert_int_equal(fixture.memories.asked, RESOURCE);
	struct memory *found = dmabuf_get(&host->refs, ID);
	assert_true(found->shared);
	assert_int_equal(found->size, PAGE + 1);
	assert_int_equal(host->refs.counts.dmabufs, 1);
	assert_int_equal(host->refs.counts.dmabufs_shared, 1);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 2 * PAGE);
	int fd = fdrefs_get_fd(&host->refs, ID);
	assert_true(fd >= 0);
	close(fd);
	assert_null(end_frame(host, CHANNEL_CLOSE, ID, 0, NULL, 0));
	assert_null(fdrefs_get(&host->refs, ID));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);
	fixture_finish(&fixture);
}

// A guest may say less than its GPU has, and have that forget the buffer at once.
static void one_by_a_handle_costs_all_of_its_pages(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	const struct open_handle open = handle_of(PAGE);
	(void)state;
	fixture_init(&fixture);
	host->refs.handles = &fixture.memories.base;
	fixture.memories.surplus = 7 * PAGE;
	assert_null(end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, &open, sizeof(open)));
	assert_int_equal(dmabuf_get(&host->refs, ID)->size, PAGE);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 8 * PAGE);
	assert_null(end_frame(host, CHANNEL_CLOSE, ID, 0, NULL, 0));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);

	host->budget.limits.most[BUDGET_MEMORY] = 7 * PAGE;
	assert_string_equal(
		end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, &open, sizeof(open)),
		"more memory than the session may have");
	assert_null(fdrefs_get(&host->refs, ID));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);
	assert_int_equal(host->refs.counts.dmabufs_shared, 1);
	fixture_finish(&fixture);
}

static void nothing_is_pushed_into_one_that_is_shared(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	struct channel_rows rows;
	const struct open_handle open = handle_of(PAGE);
	const struct channel_mem_write write = {.stride = 4, .row_bytes = 4, .rows = 1};
	struct {
		struct channel_mem_copy copy;
		struct channel_rect rect;
	} twin = {.copy = {.source = ID, .stride = 4, .n_rects = 1}, .rect = {0, 0, 4, 1}};
	(void)state;
	fixture_init(&fixture);
	host->refs.handles = &fixture.memories.base;
	assert_null(end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, &open, sizeof(open)));
	assert_null(open_copy(&fixture, ID + 1, PAGE));
	assert_non_null(end_write(host, ID, &write, &rows));
	assert_non_null(end_frame(host, CHANNEL_MEM_COPY, ID + 1, 0, &twin, sizeof(twin)));
	twin.copy.source = ID + 1;
	assert_non_null(end_frame(host, CHANNEL_MEM_COPY, ID, 0, &twin, sizeof(twin)));
	struct memory *found = dmabuf_get(&host->refs, ID);
	assert_true(memory_push(found, NULL, 0, 64, 60, 2));
	assert_int_equal(host->refs.counts.memory_sent, 0);
	assert_int_equal(host->refs.counts.memory_saved, 120);
	fixture_finish(&fixture);
}

static void one_that_is_shared_is_not_read(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	const struct open_handle open = handle_of(PAGE);
	(void)state;
	fixture_init(&fixture);
	host->refs.handles = &fixture.memories.base;
	assert_null(end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, &open, sizeof(open)));
	assert_true(memory_check(dmabuf_get(&host->refs, ID)));
	assert_int_equal(host->refs.accessed, 0);
	fixture_finish(&fixture);
}

static void one_that_is_not_found_is_there_without_an_fd(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	const struct open_handle open = handle_of(PAGE);
	(void)state;
	fixture_init(&fixture);
	host->refs.handles = &fixture.memories.base;
	fixture.memories.error = -ENOENT;
	assert_null(end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, &open, sizeof(open)));
	assert_int_equal(dmabuf_get(&host->refs, ID)->fd, -1);
	assert_int_equal(fdrefs_get_fd(&host->refs, ID), -EBADF);
	assert_int_equal(host->refs.counts.dmabufs_shared, 0);
	assert_null(end_frame(host, CHANNEL_CLOSE, ID, 0, NULL, 0));
	assert_null(fdrefs_get(&host->refs, ID));
	fixture_finish(&fixture);
}

static const char *try_open(bool agreed, const void *open, size_t len)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	fixture_init(&fixture);
	host->refs.handles = agreed ? &fixture.memories.base : NULL;
	const char *wrong = end_frame(host, CHANNEL_OPEN, ID, CHANNEL_KIND_DMABUF, open, len);
	assert_int_equal(fixture.memories.made, wrong == NULL);
	fixture_finish(&fixture);
	return wrong;
}

static void a_handle_that_makes_no_sense_is_refused(void **state)
{
	struct open_handle open = handle_of(PAGE);
	(void)state;
	assert_null(try_open(true, &open, sizeof(open)));
	assert_non_null(try_open(false, &open, sizeof(open)));
	for (size_t len = 0; len < sizeof(open); len++) {
		assert_non_null(try_open(true, &open, len));
	}
	open.dmabuf.plane = CHANNEL_PLANE_COPY;
	assert_non_null(try_open(true, &open, sizeof(open)));
	open.dmabuf.plane = UINT32_MAX;
	assert_non_null(try_open(true, &open, sizeof(open)));
	open = handle_of(0);
	assert_non_null(try_open(true, &open, sizeof(open)));
	open = handle_of((1u << 30) + 1u); // over the budget
	assert_non_null(try_open(true, &open, sizeof(open)));
}

static void what_cannot_be_made_is_there_without_an_fd(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	struct channel_rows rows;
	const struct channel_mem_write write = {.stride = 4, .row_bytes = 4, .rows = 1};
	struct {
		struct channel_mem_copy copy;
		struct channel_rect rect;
	} twin = {.copy = {.source = ID, .stride = 4, .n_rects = 1}, .rect = {0, 0, 4, 1}};
	(void)state;
	fixture_init(&fixture);
	fixture.memories.error = -ENOMEM;
	assert_null(open_copy(&fixture, ID, PAGE));
	fixture.memories.error = 0;
	assert_null(open_copy(&fixture, ID + 1, PAGE));
	assert_int_equal(dmabuf_get(&host->refs, ID)->fd, -1);
	assert_int_equal(fdrefs_get_fd(&host->refs, ID), -EBADF);
	assert_null(end_write(host, ID, &write, &rows));
	assert_null(rows.base);
	assert_null(end_frame(host, CHANNEL_MEM_COPY, ID + 1, 0, &twin, sizeof(twin)));
	twin.copy.source = ID + 1;
	assert_null(end_frame(host, CHANNEL_MEM_COPY, ID, 0, &twin, sizeof(twin)));
	assert_false(memory_must_wait(dmabuf_get(&host->refs, ID)));
	assert_null(end_frame(host, CHANNEL_CLOSE, ID, 0, NULL, 0));
	assert_null(fdrefs_get(&host->refs, ID));
	fixture_finish(&fixture);
}

static void it_never_changes_its_size(void **state)
{
	struct fixture fixture;
	const struct channel_mem_resize resize = {.size = {2 * PAGE}};
	(void)state;
	fixture_init(&fixture);
	assert_null(open_copy(&fixture, ID, PAGE));
	assert_non_null(
		end_frame(&fixture.ends.host, CHANNEL_MEM_RESIZE, ID, 0, &resize, sizeof(resize)));
	fixture_finish(&fixture);
}

/* Another one may have its fd's number next. */
static void its_fence_is_of_no_interest_after_its_end(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	(void)state;
	fixture_init(&fixture);
	assert_null(open_copy(&fixture, ID, PAGE));
	struct memory *memory = dmabuf_get(&host->refs, ID);
	int unsignalled = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(dup3(unsignalled, memory->fd, O_CLOEXEC), memory->fd);
	close(unsignalled);
	assert_true(memory_must_wait(memory));
	assert_non_null(host->refs.waits);
	assert_null(end_frame(host, CHANNEL_CLOSE, ID, 0, NULL, 0));
	assert_null(fdrefs_get(&host->refs, ID));
	assert_null(host->refs.waits);
	fixture_finish(&fixture);
}

static void a_twin_is_copied(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	struct {
		struct channel_mem_copy copy;
		struct channel_rect rect;
	} twin = {.copy = {.source = ID, .stride = 64, .n_rects = 1}, .rect = {8, 1, 16, 2}};
	(void)state;
	fixture_init(&fixture);
	assert_null(open_copy(&fixture, ID, PAGE));
	assert_null(open_copy(&fixture, ID + 1, PAGE));
	memset(dmabuf_get(&host->refs, ID)->mapping->data, 'a', PAGE);
	assert_null(end_frame(host, CHANNEL_MEM_COPY, ID + 1, 0, &twin, sizeof(twin)));
	const uint8_t *copy = dmabuf_get(&host->refs, ID + 1)->mapping->data;
	for (size_t i = 0; i < PAGE; i++) {
		bool inside = (i / 64 == 1 || i / 64 == 2) && i % 64 >= 8 && i % 64 < 24;
		assert_int_equal(copy[i], inside ? 'a' : 0);
	}
	assert_int_equal(host->refs.accessed, 2);
	fixture_finish(&fixture);
}

static void what_is_no_dmabuf_is_refused(void **state)
{
	struct fixture fixture;
	const char *wrong;
	(void)state;
	fixture_init(&fixture);
	int fd = new_memfd(PAGE);
	assert_null(dmabuf_export(&fixture.ends.guest.refs, fd, &wrong));
	assert_non_null(wrong);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(fixture.ends.guest.refs.ours.used, 0);
	fixture_finish(&fixture);
}

/* ---- real ones ---- */

static void a_service_cannot_pass_one(void **state)
{
	struct ends ends;
	char wrong[ANY_WRONG_MAX];
	uint32_t id;
	int memory;
	(void)state;
	if (!dmabufs_have_udmabuf()) {
		print_message("no /dev/udmabuf\n");
		skip();
	}
	ends_init(&ends);
	int fd = dmabufs_new(PAGE, &memory);
	assert_int_equal(any_export(&ends.guest.refs, fd, &id, wrong), ANY_REFUSED);
	assert_string_equal(wrong, "a dma-buf cannot cross");
	close(memory);
	ends_finish(&ends);
}

/* ---- in a region ---- */

#define STEP   CHANNEL_REGION_STEP
#define REGION (16 * STEP)
#define HOSTS  (12 * STEP)

struct open_in_region {
	struct channel_open_dmabuf dmabuf;
	struct channel_region_range range;
};

static void share_region(struct fixture *fixture)
{
	ends_share_region(&fixture->ends, REGION);
	ends_divide_region(&fixture->ends);
}

static const char *open_in_region(
	struct end *end, uint32_t id, uint64_t size, uint64_t offset, uint64_t length)
{
	struct open_in_region open = {.dmabuf = open_of(size)};
	open.dmabuf.plane = CHANNEL_PLANE_REGION;
	channel_put64(open.range.offset, offset);
	channel_put64(open.range.length, length);
	return end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_DMABUF, &open, sizeof(open));
}

static const char *tell_rows(
	struct end *end, uint32_t id, uint64_t range, uint32_t offset, uint32_t len)
{
	struct channel_region_rows rows = {
		.offset = {offset}, .stride = len, .row_bytes = len, .rows = 1};
	channel_put64(rows.range, range);
	return end_frame(end, CHANNEL_REGION_ROWS, id, 0, &rows, sizeof(rows));
}

/* The pages are the opener's to remove. */
static void close_and_expect_nothing(struct end *end, uint32_t id)
{
	assert_int_equal(fallocate(end->refs.region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 0, REGION),
		0);
	assert_null(end_frame(end, CHANNEL_CLOSE, id, 0, NULL, 0));
	assert_null(fdrefs_get(&end->refs, id));
	assert_int_equal(end->refs.region->used, 0);
	assert_int_equal(end->budget.used[BUDGET_MEMORY], 0);
}

static void a_range_is_made_a_dma_buf_of(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	(void)state;
	fixture_init(&fixture);
	share_region(&fixture);
	fixture.memories.base.interface = &wrapping_interface;
	assert_null(open_in_region(host, ID, PAGE + 1, 2 * STEP, STEP));
	assert_int_equal(fixture.memories.wrapped, 2 * STEP);
	assert_int_equal(fixture.memories.made, 0);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], STEP);
	struct memory *memory = dmabuf_get(&host->refs, ID);
	assert_int_equal(memory->size, PAGE + 1);
	assert_null(tell_rows(host, ID, 2 * STEP, 10, 100));
	assert_int_equal(host->refs.accessed, 1); // which the kernel is told
	fdrefs_settle(&host->refs);
	memory->mapping->data[10] = 'x';
	assert_true(memory_push(memory, NULL, 0, 100, 100, 1));
	assert_int_equal(host->refs.counts.memory_shared, 0);
	assert_int_equal(host->refs.counts.memory_sent, 0);
	fdrefs_settle(&host->refs);
	close_and_expect_nothing(host, ID);
	assert_null(open_in_region(host, ID, STEP, 2 * STEP, STEP));
	ends_finish(&fixture.ends); // the guest has not opened what it is told of
}

static void where_none_can_be_made_of_a_range_its_rows_are_copied(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	uint8_t bytes[2 * PAGE];
	(void)state;
	fixture_init(&fixture);
	share_region(&fixture);
	const int region = fixture.ends.guest.refs.region->fd;
	assert_null(open_in_region(host, ID, 2 * PAGE, STEP, STEP));
	assert_int_equal(fixture.memories.made, 1);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], STEP + 2 * PAGE);
	struct memory *memory = dmabuf_get(&host->refs, ID);
	memset(bytes, 'g', sizeof(bytes));
	assert_int_equal(pwrite(region, bytes, sizeof(bytes), STEP), sizeof(bytes));
	assert_null(tell_rows(host, ID, STEP, 10, PAGE));
	for (size_t i = 0; i < 2 * PAGE; i++) {
		assert_int_equal(memory->mapping->data[i], i >= 10 && i < 10 + PAGE ? 'g' : 0);
	}
	memset(memory->mapping->data, 'h', 2 * PAGE);
	assert_true(memory_push(memory, NULL, 100, 200, 200, 3));
	assert_int_equal(host->refs.counts.memory_shared, PAGE + 600);
	assert_int_equal(host->refs.counts.memory_sent, 0);
	assert_int_equal(pread(region, bytes, sizeof(bytes), STEP), sizeof(bytes));
	for (size_t i = 0; i < 2 * PAGE; i++) {
		assert_int_equal(bytes[i], i >= 100 && i < 700 ? 'h' : 'g');
	}
	fdrefs_settle(&host->refs);
	close_and_expect_nothing(host, ID);
	ends_finish(&fixture.ends); // the guest has not opened what it is told of
}

static void copying_is_work_that_a_guest_has_its_share_of(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	const char *wrong = NULL;
	(void)state;
	fixture_init(&fixture);
	share_region(&fixture);
	assert_null(open_in_region(host, ID, 4 * STEP, 0, 4 * STEP));
	host->budget.limits.rate = 100;
	for (int i = 0; i < 1000 && wrong == NULL; i++) {
		wrong = tell_rows(host, ID, 0, 0, 4 * STEP);
	}
	assert_string_equal(wrong, "more to copy than the session may ask for");
	fixture_finish(&fixture);
}

static void what_the_host_opens_is_in_its_part(void **state)
{
	struct fixture fixture;
	struct end *guest = &fixture.ends.guest;
	const uint32_t id = CHANNEL_ID_HOST | ID;
	(void)state;
	fixture_init(&fixture);
	share_region(&fixture);
	fixture.memories.base.interface = &wrapping_interface;
	guest->refs.resolver = &fixture.memories.base;
	assert_non_null(open_in_region(guest, id, PAGE, HOSTS - STEP, STEP));
	assert_non_null(open_in_region(guest, id, PAGE, HOSTS - STEP, 2 * STEP));
	assert_null(open_in_region(guest, id, PAGE, HOSTS, STEP));
	assert_int_equal(guest->budget.used[BUDGET_MEMORY], 0); // it is the host's memory
	int fd = fdrefs_get_fd(&guest->refs, id);
	assert_true(fd >= 0);
	close(fd);
	close_and_expect_nothing(guest, id);
	ends_finish(&fixture.ends); // the host has not opened what is closed
}

static void ranges_that_make_no_sense_are_refused(void **state)
{
	static const struct {
		uint64_t size, offset, length;
	} ranges[] = {
		{PAGE, STEP, 0},
		{PAGE, STEP + PAGE, STEP},
		{STEP + 1, 4 * STEP, STEP},
		{PAGE, 2 * STEP, STEP}, // another's
		{PAGE, STEP, 2 * STEP},
		{PAGE, HOSTS, STEP},
		{PAGE, HOSTS - STEP, 2 * STEP},
		{PAGE, REGION, STEP},
		{PAGE, UINT64_MAX - STEP + 1, STEP},
		{PAGE, STEP, UINT64_MAX - STEP + 1},
	};
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	(void)state;
	fixture_init(&fixture);
	share_region(&fixture);
	assert_null(open_in_region(host, ID, PAGE, 2 * STEP, STEP));
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		assert_non_null(open_in_region(
			host, ID + 1, ranges[i].size, ranges[i].offset, ranges[i].length));
		assert_null(fdrefs_get(&host->refs, ID + 1));
	}
	struct open_in_region open = {.dmabuf = open_of(PAGE)};
	open.dmabuf.plane = CHANNEL_PLANE_REGION;
	for (size_t len = 0; len < sizeof(open); len++) {
		assert_non_null(
			end_frame(host, CHANNEL_OPEN, ID + 1, CHANNEL_KIND_DMABUF, &open, len));
	}
	host->budget.limits.most[BUDGET_MEMORY] = 2 * STEP;
	assert_non_null(open_in_region(host, ID + 1, PAGE, 0, 2 * STEP));
	assert_non_null(open_in_region(host, ID + 1, PAGE, 0, STEP)); // its copy is too much
	assert_int_equal(host->refs.region->used, STEP);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], STEP + PAGE);
	host->refs.region->names_rows = false;
	assert_non_null(open_in_region(host, ID + 1, PAGE, 0, STEP));
	fixture_finish(&fixture);
	fixture_init(&fixture);
	assert_non_null(open_in_region(host, ID, PAGE, 0, STEP)); // none is shared
	fixture_finish(&fixture);
}

static void rows_of_a_range_come_by_no_other_way(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	struct channel_rows rows;
	const struct channel_mem_write write = {.stride = 4, .row_bytes = 4, .rows = 1};
	const struct channel_region_range range = {.offset = {0}, .length = {STEP}};
	struct {
		struct channel_mem_copy copy;
		struct channel_rect rect;
	} twin = {.copy = {.source = ID, .stride = 4, .n_rects = 1}, .rect = {0, 0, 4, 1}};
	(void)state;
	fixture_init(&fixture);
	share_region(&fixture);
	assert_null(open_in_region(host, ID, PAGE, 0, STEP));
	assert_null(open_in_region(host, ID + 1, PAGE, STEP, STEP));
	assert_null(open_copy(&fixture, ID + 2, PAGE));
	assert_non_null(end_write(host, ID, &write, &rows));
	assert_non_null(end_frame(host, CHANNEL_MEM_COPY, ID + 2, 0, &twin, sizeof(twin)));
	twin.copy.source = ID + 2;
	assert_non_null(end_frame(host, CHANNEL_MEM_COPY, ID, 0, &twin, sizeof(twin)));
	assert_non_null(tell_rows(host, ID, STEP, 0, 4));  // its neighbour's
	assert_non_null(tell_rows(host, ID + 2, 0, 0, 4)); // that has none
	assert_non_null(tell_rows(host, ID, 0, 0, STEP + 1));
	assert_non_null(
		end_frame(host, CHANNEL_REGION_UNMAP, 0, 0, &range, sizeof(range))); // by CLOSE
	assert_null(tell_rows(host, ID, 0, 0, STEP)); // beyond the dma-buf's end
	fixture_finish(&fixture);
}

static struct resolver *real_resolver(struct fixture *fixture)
{
	struct resolver *resolver = resolver_create_copy();
	if (resolver == NULL || !dmabufs_have_udmabuf()) {
		resolver_destroy(resolver);
		print_message("no /dev/udmabuf\n");
		skip();
	}
	fixture_init(fixture);
	fixture->ends.host.refs.resolver = resolver;
	return resolver;
}

static struct memory *export(struct fixture *fixture, int fd)
{
	const char *wrong;
	struct memory *memory = dmabuf_export(&fixture->ends.guest.refs, fd, &wrong);
	assert_null(wrong);
	assert_non_null(memory);
	return memory;
}

static int copy_of(struct fixture *fixture, const struct memory *memory)
{
	ends_run(&fixture->ends);
	int fd = fdrefs_get_fd(&fixture->ends.host.refs, memory->ref.id);
	assert_true(fd >= 0);
	assert_int_equal(fd_kind_of(fd), FD_KIND_DMABUF);
	return fd;
}

static void fill(int memory, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		uint8_t byte = pattern(i);
		assert_int_equal(pwrite(memory, &byte, 1, (off_t)i), 1);
	}
}

static void expect_pattern(int dmabuf, size_t from, size_t to, size_t size)
{
	struct mapping *mapping = mapping_create(dmabuf, size, false);
	assert_non_null(mapping);
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(mapping->data[i], i >= from && i < to ? pattern(i) : 0);
	}
	mapping_unref(mapping);
}

static void rows_of_a_real_one_are_in_a_real_one(void **state)
{
	struct fixture fixture;
	int memory;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	int fd = dmabufs_new(4 * PAGE, &memory);
	fill(memory, 4 * PAGE);
	struct memory *original = export(&fixture, fd);
	assert_false(memory_must_wait(original));
	assert_true(memory_check(original));
	assert_int_equal(fixture.ends.guest.refs.accessed, 1);
	assert_true(memory_push(original, NULL, 100, PAGE, PAGE, 2));
	int copy = copy_of(&fixture, original);
	fdrefs_settle(&fixture.ends.guest.refs);
	fdrefs_settle(&fixture.ends.host.refs);
	expect_pattern(copy, 100, 100 + 2 * PAGE, 4 * PAGE);
	assert_int_equal(lseek(copy, 0, SEEK_END), 4 * PAGE);
	close(copy);
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

static void two_fds_of_one_buffer_are_one_memory(void **state)
{
	struct fixture fixture;
	struct end *guest = &fixture.ends.guest;
	int memory;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	int fd = dmabufs_new(PAGE, &memory);
	int again = fcntl(fd, F_DUPFD_CLOEXEC, 0), later = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	struct memory *original = export(&fixture, fd);
	assert_ptr_equal(export(&fixture, again), original);
	assert_int_equal(guest->refs.ours.used, 1);
	memory_release(original);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_CLOSE], 0);
	uint32_t id = original->ref.id;
	memory_release(original);
	assert_ptr_not_equal(export(&fixture, later), fdrefs_get(&guest->refs, id));
	ends_run(&fixture.ends);
	assert_null(fdrefs_get(&guest->refs, id));
	assert_int_equal(guest->refs.ours.used, 1);
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

static void run_once(struct fixture *fixture)
{
	channel_flush(fixture->ends.guest.channel);
	channel_flush(fixture->ends.host.channel);
	event_base_loop(fixture->ends.base, EVLOOP_ONCE);
}

static void run_until_closed(struct fixture *fixture)
{
	while (fixture->ends.guest.frames[CHANNEL_CLOSED] == 0) {
		run_once(fixture);
	}
}

static void a_copy_stays_until_it_is_let_go(void **state)
{
	struct fixture fixture;
	struct end *host = &fixture.ends.host;
	int memory;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	struct memory *original = export(&fixture, dmabufs_new(PAGE, &memory));
	int copy = copy_of(&fixture, original);
	uint32_t id = original->ref.id;
	memory_release(original);
	for (int i = 0; i < 3; i++) {
		ends_run(&fixture.ends);
	}
	assert_int_equal(host->frames[CHANNEL_CLOSE], 1);
	assert_int_equal(fixture.ends.guest.frames[CHANNEL_CLOSED], 0);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], PAGE);
	assert_null(dmabuf_get(&host->refs, id)); // nobody can begin to use it again
	assert_int_equal(fdrefs_get_fd(&host->refs, id), -EBADF);
	close(copy);
	run_until_closed(&fixture);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);
	assert_int_equal(host->refs.counts.dmabufs_held, 0);
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

static void one_that_is_held_for_long_is_counted_and_stays_charged(void **state)
{
	struct fixture fixture;
	int memory;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	struct memory *original = export(&fixture, dmabufs_new(PAGE, &memory));
	int copy = copy_of(&fixture, original);
	memory_release(original);
	struct end *host = &fixture.ends.host;
	while (host->refs.counts.dmabufs_held == 0) {
		run_once(&fixture);
	}
	assert_int_equal(fixture.ends.guest.frames[CHANNEL_CLOSED], 0);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], PAGE);
	close(copy);
	run_until_closed(&fixture);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 0);
	assert_int_equal(host->refs.counts.dmabufs_held, 1);
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

static unsigned int retries;

static void count_retry(void *data)
{
	(void)data;
	retries++;
}

static void what_is_written_to_is_read_when_its_fence_has_signalled(void **state)
{
	struct fixture fixture;
	struct vgem_buffer buffer;
	(void)state;
	if (!vgem_buffer_init(&buffer)) {
		print_message("no vgem\n");
		skip();
	}
	fixture_init(&fixture);
	retries = 0;
	fixture.ends.guest.refs.retried = count_retry;
	struct memory *original = export(&fixture, fcntl(buffer.fd, F_DUPFD_CLOEXEC, 0));
	assert_int_equal(original->size, buffer.size);
	assert_false(original->mapping->writable);
	assert_false(memory_must_wait(original));
	vgem_buffer_attach(&buffer);
	bool waits = memory_must_wait(original) && memory_must_wait(original);
	ends_run(&fixture.ends);
	vgem_buffer_expect_busy(&buffer);
	assert_true(waits);
	assert_int_equal(retries, 0);
	vgem_buffer_signal(&buffer);
	while (retries == 0) {
		event_base_loop(fixture.ends.base, EVLOOP_ONCE);
	}
	assert_int_equal(retries, 1);
	assert_false(memory_must_wait(original));
	assert_true(memory_check(original));
	assert_true(memory_push(original, NULL, 0, 256, 256, 64));
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.refs.counts.memory_received, 256 * 64);
	fixture_finish(&fixture);
	vgem_buffer_finish(&buffer);
}

static struct memory memory_of(struct fixture *fixture, int fd)
{
	return (struct memory){
		.ref.refs = &fixture->ends.host.refs,
		.fd = fd,
		.is_dmabuf = true,
		.shared = true,
	};
}

static void pages_that_are_shared_are_in_use_while_they_are_read(void **state)
{
	struct fixture fixture;
	struct vgem_buffer buffer;
	(void)state;
	if (!vgem_buffer_init(&buffer)) {
		print_message("no vgem\n");
		skip();
	}
	fixture_init(&fixture);
	retries = 0;
	fixture.ends.host.refs.retried = count_retry;
	struct memory memory = memory_of(&fixture, buffer.fd);
	assert_false(memory_is_in_use(&memory));
	vgem_buffer_attach_reader(&buffer);
	assert_false(memory_must_wait(&memory)); // it can be read, too
	bool in_use = memory_is_in_use(&memory) && memory_is_in_use(&memory);
	ends_run(&fixture.ends);
	vgem_buffer_expect_busy(&buffer);
	assert_true(in_use);
	assert_int_equal(retries, 0);
	vgem_buffer_signal(&buffer);
	while (retries == 0) {
		event_base_loop(fixture.ends.base, EVLOOP_ONCE);
	}
	assert_int_equal(retries, 1);
	assert_false(memory_is_in_use(&memory));
	fixture_finish(&fixture);
	vgem_buffer_finish(&buffer);
}

// A pipe without room, which is not writable either.
static void a_copy_is_never_in_use(void **state)
{
	struct fixture fixture;
	int fds[2];
	char byte = 0;
	(void)state;
	fixture_init(&fixture);
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	struct memory memory = memory_of(&fixture, fds[1]);
	assert_false(memory_is_in_use(&memory));
	while (write(fds[1], &byte, 1) == 1) {
	}
	assert_true(memory_is_in_use(&memory));
	memory.shared = false;
	assert_false(memory_is_in_use(&memory));
	fixture_finish(&fixture);
	close(fds[0]);
	close(fds[1]);
}

// A capture: what the host's side has painted comes back.
static void rows_come_back_to_one_that_can_be_written_to(void **state)
{
	struct fixture fixture;
	int memory;
	uint8_t byte;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	struct memory *original = export(&fixture, dmabufs_new(PAGE, &memory));
	assert_true(original->mapping->writable);
	ends_run(&fixture.ends);
	struct memory *copy = dmabuf_get(&fixture.ends.host.refs, original->ref.id);
	memset(copy->mapping->data, 'x', PAGE);
	assert_true(memory_check(copy));
	assert_true(memory_push(copy, NULL, PAGE / 2, PAGE / 2, PAGE / 2, 1));
	ends_run(&fixture.ends);
	assert_int_equal(pread(memory, &byte, 1, PAGE / 2 - 1), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(pread(memory, &byte, 1, PAGE - 1), 1);
	assert_int_equal(byte, 'x');
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

/* original is released here, its copy closed. */
static void expect_range_goes_with(struct fixture *fixture, struct memory *original, int copy)
{
	struct fdrefs *opener = original->ref.refs;
	const struct region *host = fixture->ends.host.refs.region,
			    *guest = fixture->ends.guest.refs.region;
	const uint32_t id = original->ref.id;
	memory_release(original);
	ends_run(&fixture->ends);
	assert_int_equal(host->used, STEP); // while somebody has it
	close(copy);
	while (fdrefs_get(opener, id) != NULL) {
		run_once(fixture);
	}
	assert_int_equal(host->used + guest->used, 0);
}

/* Both ways, as in the two above, and without a byte of it on the channel. */
static void real_ones_share_a_range(void **state)
{
	struct fixture fixture;
	int memory;
	uint8_t byte;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	share_region(&fixture);
	struct end *guest = &fixture.ends.guest, *host = &fixture.ends.host;
	int fd = dmabufs_new(4 * PAGE, &memory);
	fill(memory, 4 * PAGE);
	struct memory *original = export(&fixture, fd);
	assert_true(memory_check(original));
	assert_true(memory_push(original, NULL, 100, PAGE, PAGE, 2));
	int copy = copy_of(&fixture, original);
	struct memory *far = dmabuf_get(&host->refs, original->ref.id);
	assert_ptr_equal(far->mapping, far->range->mapping);
	fdrefs_settle(&guest->refs);
	fdrefs_settle(&host->refs);
	expect_pattern(copy, 100, 100 + 2 * PAGE, 4 * PAGE);
	assert_int_equal(lseek(copy, 0, SEEK_END), 4 * PAGE);
	memset(far->mapping->data, 'x', PAGE);
	assert_true(memory_check(far));
	assert_true(memory_push(far, NULL, 0, PAGE, PAGE, 1));
	ends_run(&fixture.ends);
	assert_int_equal(pread(memory, &byte, 1, PAGE - 1), 1);
	assert_int_equal(byte, 'x');
	assert_int_equal(host->frames[CHANNEL_MEM_WRITE] + guest->frames[CHANNEL_MEM_WRITE], 0);
	expect_range_goes_with(&fixture, original, copy);
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

static void one_of_the_host_s_is_shared_by_a_range(void **state)
{
	struct fixture fixture;
	const char *wrong;
	int memory;
	(void)state;
	struct resolver *resolver = real_resolver(&fixture);
	share_region(&fixture);
	struct end *guest = &fixture.ends.guest, *host = &fixture.ends.host;
	guest->refs.resolver = resolver;
	int fd = dmabufs_new(4 * PAGE, &memory);
	fill(memory, 4 * PAGE);
	struct memory *original = dmabuf_export(&host->refs, fd, &wrong);
	assert_non_null(original);
	assert_true(memory_check(original));
	assert_true(memory_push(original, NULL, 100, PAGE, PAGE, 2));
	uint32_t id = original->ref.id;
	ends_run(&fixture.ends);
	int copy = fdrefs_get_fd(&guest->refs, id);
	assert_int_equal(fd_kind_of(copy), FD_KIND_DMABUF);
	fdrefs_settle(&guest->refs);
	fdrefs_settle(&host->refs);
	expect_pattern(copy, 100, 100 + 2 * PAGE, 4 * PAGE);
	assert_int_equal(guest->frames[CHANNEL_MEM_WRITE], 0);
	assert_int_equal(guest->refs.counts.memory_shared, 0); // it is not copied again
	expect_range_goes_with(&fixture, original, copy);
	close(memory);
	fixture_finish(&fixture);
	resolver_destroy(resolver);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(an_open_that_makes_no_sense_is_refused),
		fd_count_test(one_that_was_not_agreed_to_is_refused),
		fd_count_test(a_copy_costs_whole_pages_and_gives_them_back),
		fd_count_test(rows_have_their_place_in_the_copy),
		fd_count_test(one_by_a_handle_is_found),
		fd_count_test(one_by_a_handle_costs_all_of_its_pages),
		fd_count_test(nothing_is_pushed_into_one_that_is_shared),
		fd_count_test(one_that_is_shared_is_not_read),
		fd_count_test(one_that_is_not_found_is_there_without_an_fd),
		fd_count_test(a_handle_that_makes_no_sense_is_refused),
		fd_count_test(what_cannot_be_made_is_there_without_an_fd),
		fd_count_test(it_never_changes_its_size),
		fd_count_test(its_fence_is_of_no_interest_after_its_end),
		fd_count_test(a_twin_is_copied),
		fd_count_test(a_range_is_made_a_dma_buf_of),
		fd_count_test(where_none_can_be_made_of_a_range_its_rows_are_copied),
		fd_count_test(copying_is_work_that_a_guest_has_its_share_of),
		fd_count_test(what_the_host_opens_is_in_its_part),
		fd_count_test(ranges_that_make_no_sense_are_refused),
		fd_count_test(rows_of_a_range_come_by_no_other_way),
		fd_count_test(real_ones_share_a_range),
		fd_count_test(one_of_the_host_s_is_shared_by_a_range),
		fd_count_test(what_is_no_dmabuf_is_refused),
		fd_count_test(a_service_cannot_pass_one),
		fd_count_test(rows_of_a_real_one_are_in_a_real_one),
		fd_count_test(two_fds_of_one_buffer_are_one_memory),
		fd_count_test(a_copy_stays_until_it_is_let_go),
		fd_count_test(one_that_is_held_for_long_is_counted_and_stays_charged),
		fd_count_test(what_is_written_to_is_read_when_its_fence_has_signalled),
		fd_count_test(pages_that_are_shared_are_in_use_while_they_are_read),
		fd_count_test(a_copy_is_never_in_use),
		fd_count_test(rows_come_back_to_one_that_can_be_written_to),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
