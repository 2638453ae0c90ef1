#include "fdpass/memory.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "ends.h"
#include "tests/support/fd_count.h"

#define PAGE 4096

// A pool of the guest's and its replica on the host, which has one user.
struct fixture {
	struct ends ends;
	int file; // a second fd of the pool
	struct memory *pool;
	struct memory *replica;
};

static void open_pool(struct fixture *fixture, int fd, uint64_t size)
{
	const char *wrong;
	ends_init_wayland(&fixture->ends);
	fixture->file = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	fixture->pool = memory_export(&fixture->ends.guest.refs, fd, size, &wrong);
	assert_non_null(fixture->pool);
	assert_null(wrong);
	ends_run(&fixture->ends);
	fixture->replica = memory_get(&fixture->ends.host.refs, fixture->pool->ref.id);
	assert_non_null(fixture->replica);
	memory_use(fixture->replica);
}

static void close_all(struct fixture *fixture)
{
	assert_null(fixture->ends.guest.wrong);
	assert_null(fixture->ends.host.wrong);
	close(fixture->file);
	ends_finish(&fixture->ends);
}

static uint64_t size_of(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

// Of a file from its start; its bytes are the caller's to free.
static uint8_t *contents(int fd, size_t size)
{
	uint8_t *data = calloc(1, size + 1);
	assert_int_equal(pread(fd, data, size, 0), (ssize_t)size);
	return data;
}

// Which of the replica's bytes are the original's; the others have to be 0.
static size_t count_equal(struct fixture *fixture, size_t size)
{
	uint8_t *original = contents(fixture->file, size);
	uint8_t *replica = contents(fixture->replica->fd, size);
	size_t n = 0;
	for (size_t i = 0; i < size; i++) {
		assert_true(replica[i] == original[i] || replica[i] == 0);
		n += replica[i] == original[i] && original[i] != 0;
	}
	free(original);
	free(replica);
	return n;
}

static size_t nonzero(size_t from, size_t to)
{
	size_t n = 0;
	for (size_t i = from; i < to; i++) {
		n += pattern(i) != 0;
	}
	return n;
}

static void push(
	struct fixture *fixture, uint64_t offset, size_t stride, size_t row_bytes, size_t rows)
{
	assert_true(memory_push(fixture->pool, NULL, offset, stride, row_bytes, rows));
	ends_run(&fixture->ends);
}

/* ---- export and import ---- */

static void a_replica_is_as_large_as_what_both_sides_map(void **state)
{
	(void)state;
	static const struct {
		size_t file;
		uint64_t wanted, shared;
	} sizes[] = {{5000, 5000, 5000}, {5000, 1000, 1000}, {1000, 5000, 1000}, {0, 5000, 0},
		{5000, 0, 0}, {100, UINT64_MAX, 100}};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct fixture fixture;
		open_pool(&fixture, new_memfd(sizes[i].file), sizes[i].wanted);
		assert_int_equal(fixture.pool->size, sizes[i].shared);
		assert_int_equal(fixture.replica->size, sizes[i].shared);
		assert_int_equal(size_of(fixture.replica->fd), sizes[i].shared);
		assert_int_equal(fixture.ends.host.budget.used[BUDGET_MEMORY], sizes[i].shared);
		assert_int_equal(fixture.ends.guest.budget.used[BUDGET_MEMORY], 0);
		assert_int_equal(count_equal(&fixture, sizes[i].shared), 0); // not before a push
		push(&fixture, 0, sizes[i].shared, sizes[i].shared, 1);
		assert_int_equal(
			count_equal(&fixture, sizes[i].shared), nonzero(0, sizes[i].shared));
		close_all(&fixture);
	}
}

static void the_local_peer_gets_an_fd_of_the_replica(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	push(&fixture, 0, PAGE, PAGE, 1);
	int fd = end_take(&fixture.ends.host);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	uint8_t *data = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	assert_int_equal(data[100], pattern(100));
	munmap(data, PAGE);
	close(fd);
	close_all(&fixture);
}

static void what_is_no_memory_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	int pipe_ends[2];
	const char *wrong;
	ends_init_wayland(&ends);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	assert_null(memory_export(&ends.guest.refs, pipe_ends[0], 100, &wrong));
	assert_string_equal(wrong, "a pool's fd is not shared memory");
	close(pipe_ends[1]);

	char path[] = "/tmp/memory-XXXXXX";
	int file = mkstemp(path), write_only = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(file, 100), 0);
	assert_null(memory_export(&ends.guest.refs, write_only, 100, &wrong));
	assert_string_equal(wrong, "a pool's fd cannot be mapped");
	close(file);
	unlink(path);
	assert_int_equal(ends.guest.refs.ours.used, 0);
	assert_int_equal(channel_queued(ends.guest.channel), 0);
	ends_finish(&ends);
}

static void the_seals_of_size_are_the_originals(void **state)
{
	(void)state;
	static const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_SEAL};
	for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
		struct fixture fixture;
		int fd = new_memfd(PAGE);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		open_pool(&fixture, fd, PAGE);
		assert_int_equal(fcntl(fixture.replica->fd, F_GET_SEALS), seals[i]);
		push(&fixture, 0, PAGE, PAGE, 1);
		assert_int_equal(count_equal(&fixture, PAGE), nonzero(0, PAGE));
		close_all(&fixture);
	}
}

static void a_pool_may_grow_within_a_file_that_is_sealed_against_growing(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd = new_memfd(2 * PAGE);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	open_pool(&fixture, fd, PAGE);
	assert_int_equal(fcntl(fixture.replica->fd, F_GET_SEALS), F_SEAL_SHRINK);
	assert_true(memory_resize(fixture.pool, 2 * PAGE));
	push(&fixture, 0, 2 * PAGE, 2 * PAGE, 1);
	assert_int_equal(count_equal(&fixture, 2 * PAGE), nonzero(0, 2 * PAGE));
	close_all(&fixture);
}

static void a_pool_that_cannot_be_written_is_still_shown(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd = new_memfd(PAGE);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	open_pool(&fixture, fd, PAGE);
	assert_false(fixture.pool->mapping->writable);
	push(&fixture, 0, PAGE, PAGE, 1);
	assert_int_equal(count_equal(&fixture, PAGE), nonzero(0, PAGE));
	memset(fixture.replica->mapping->data, 9, PAGE);
	assert_true(memory_push(fixture.replica, NULL, 0, PAGE, PAGE, 1)); // and comes to nothing
	ends_run(&fixture.ends);
	uint8_t *data = contents(fixture.file, PAGE);
	assert_int_equal(data[5], pattern(5));
	free(data);
	close_all(&fixture);
}

/* ---- rows ---- */

static void only_the_rows_that_are_pushed_cross(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(5000), 5000);
	push(&fixture, 10, 100, 7, 4);
	size_t expected = 0;
	for (size_t row = 0; row < 4; row++) {
		expected += nonzero(10 + row * 100, 17 + row * 100);
	}
	assert_int_equal(count_equal(&fixture, 5000), expected);
	assert_int_equal(fixture.ends.guest.refs.counts.memory_sent, 28);
	assert_int_equal(fixture.ends.host.refs.counts.memory_received, 28);
	close_all(&fixture);
}

static void rows_past_the_end_are_left_out(void **state)
{
	(void)state;
	static const struct {
		uint64_t offset;
		size_t stride, row_bytes, rows;
		size_t pushed; // bytes
	} table[] = {
		{1000, 10, 10, 1, 0},
		{1001, 10, 10, 1, 0},
		{UINT64_MAX, 10, 10, 1, 0},
		{999, 10, 10, 5, 1},
		{0, 100, 100, 11, 1000},
		{0, 100, 50, 20, 500},
		{60, 100, 50, 20, 450},
		{0, 0x7fffffff, 10, 0x7fffffff, 10},
		{0, 1, 1, 0x7fffffff, 1000},
		{0, 0x7fffffff, 0x7fffffff, 0x7fffffff, 1000},
		{0, 10, 0, 10, 0},
		{0, 10, 10, 0, 0},
		{0, 10, 5000, 0, 0},
	};
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct fixture fixture;
		open_pool(&fixture, new_memfd(1000), 1000);
		push(&fixture, table[i].offset, table[i].stride, table[i].row_bytes, table[i].rows);
		assert_int_equal(fixture.ends.host.refs.counts.memory_received, table[i].pushed);
		count_equal(&fixture, 1000);
		close_all(&fixture);
	}
}

static void rows_come_back_to_the_original(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	memset(fixture.replica->mapping->data, 0x55, PAGE);
	assert_true(memory_push(fixture.replica, NULL, 100, 200, 50, 3));
	ends_run(&fixture.ends);
	uint8_t *data = contents(fixture.file, PAGE);
	for (size_t i = 0; i < PAGE; i++) {
		bool pushed = i >= 100 && i < 700 && (i - 100) % 200 < 50;
		assert_int_equal(data[i], pushed ? 0x55 : pattern(i));
	}
	free(data);
	close_all(&fixture);
}

static const struct channel_mem_write hostile_writes[] = {
	{.offset = {1000}, .stride = 1, .row_bytes = 1, .rows = 1},
	{.offset = {1001}, .stride = 1, .row_bytes = 0, .rows = 1},
	{.offset = {991}, .stride = 10, .row_bytes = 10, .rows = 1},
	{.offset = {0}, .stride = 100, .row_bytes = 100, .rows = 11},
	{.offset = {0}, .stride = 0xffffffff, .row_bytes = 1, .rows = 2},
	{.offset = {0}, .stride = 0xffffffff, .row_bytes = 1, .rows = 0xffffffff},
	{.offset = {0, 1}, .stride = 1, .row_bytes = 1, .rows = 1},
	{.offset = {0xffffffff, 0xffffffff}, .stride = 1, .row_bytes = 1, .rows = 1},
	{.offset = {0xfffffffe, 0xffffffff}, .stride = 1, .row_bytes = 1, .rows = 2},
};

static void rows_past_the_end_of_a_replica_are_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	struct channel_rows rows;
	open_pool(&fixture, new_memfd(1000), 1000);
	uint32_t id = fixture.replica->ref.id;
	for (size_t i = 0; i < sizeof(hostile_writes) / sizeof(hostile_writes[0]); i++) {
		assert_string_equal(end_write(&fixture.ends.host, id, &hostile_writes[i], &rows),
			"MEM_WRITE past the end of its memory");
		assert_null(rows.base);
	}
	struct channel_mem_write last = {.offset = {900}, .stride = 90, .row_bytes = 10, .rows = 2};
	assert_null(end_write(&fixture.ends.host, id, &last, &rows));
	assert_ptr_equal(rows.base, fixture.replica->mapping->data + 900);
	close_all(&fixture);
}

static void rows_past_the_end_of_an_original_are_forgotten(void **state)
{
	(void)state;
	struct fixture fixture;
	struct channel_rows rows;
	open_pool(&fixture, new_memfd(1000), 1000);
	uint32_t id = fixture.pool->ref.id;
	for (size_t i = 0; i < sizeof(hostile_writes) / sizeof(hostile_writes[0]); i++) {
		assert_null(end_write(&fixture.ends.guest, id, &hostile_writes[i], &rows));
		assert_null(rows.base);
	}
	memory_release(fixture.pool);
	struct channel_mem_write one = {.stride = 1, .row_bytes = 1, .rows = 1};
	assert_null(end_write(&fixture.ends.guest, id, &one, &rows));
	assert_null(rows.base);
	close_all(&fixture);
}

// Half of some rows has come for the original when its mapping goes.
static void check_rows_under_way(void (*drop_mapping)(struct memory *pool))
{
	struct fixture fixture;
	const size_t size = 16 * PAGE;
	open_pool(&fixture, new_memfd(size), size);
	struct ends *ends = &fixture.ends;
	int sockets[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	end_reconnect(&ends->guest, ends->base, sockets[0]);

	struct channel_mem_write head = {
		.stride = (uint32_t)size, .row_bytes = (uint32_t)size, .rows = 1};
	struct channel_header header = {
		.length = (uint32_t)(sizeof(head) + size),
		.type = CHANNEL_MEM_WRITE,
		.id = fixture.pool->ref.id,
	};
	uint8_t half[8 * PAGE];
	memset(half, 0x77, sizeof(half));
	assert_int_equal(write(sockets[1], &header, sizeof(header)), sizeof(header));
	assert_int_equal(write(sockets[1], &head, sizeof(head)), sizeof(head));
	assert_int_equal(write(sockets[1], half, sizeof(half)), sizeof(half));
	ends_run(ends);

	uint8_t *place = fixture.pool->mapping->data;
	drop_mapping(fixture.pool);
	// whoever is given the address next must not find the rest of the rows there
	uint8_t *next = mmap(place, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_int_equal(write(sockets[1], half, sizeof(half)), sizeof(half));
	ends_run(ends);
	if (next != MAP_FAILED) {
		for (size_t i = 0; i < size; i++) {
			assert_int_equal(next[i], 0);
		}
		munmap(next, size);
	}
	close(sockets[1]);
	close_all(&fixture);
}

static void grow_pool(struct memory *pool)
{
	assert_int_equal(ftruncate(pool->fd, 32 * PAGE), 0);
	assert_true(memory_resize(pool, 32 * PAGE));
}

static void rows_that_are_under_way_go_nowhere_else_when_their_memory_goes(void **state)
{
	(void)state;
	check_rows_under_way(memory_release);
	check_rows_under_way(grow_pool);
}

/* ---- sizes that change ---- */

static void a_pool_that_grows_has_a_replica_that_grows(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(5000), 1000);
	push(&fixture, 0, 1000, 1000, 1);
	assert_true(memory_resize(fixture.pool, 3000));
	push(&fixture, 2000, 1000, 1000, 1);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_MEM_RESIZE], 1);
	assert_int_equal(size_of(fixture.replica->fd), 3000);
	assert_int_equal(count_equal(&fixture, 3000), nonzero(0, 1000) + nonzero(2000, 3000));
	assert_int_equal(fixture.ends.host.budget.used[BUDGET_MEMORY], 3000);

	// no longer than the file, and then as soon as that has grown
	assert_true(memory_resize(fixture.pool, 9000));
	ends_run(&fixture.ends);
	assert_int_equal(fixture.replica->size, 5000);
	assert_int_equal(ftruncate(fixture.file, 9000), 0);
	assert_true(memory_check(fixture.pool));
	ends_run(&fixture.ends);
	assert_int_equal(fixture.replica->size, 9000);
	assert_true(memory_check(fixture.pool));
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_MEM_RESIZE], 3);
	close_all(&fixture);
}

static void a_pool_that_is_truncated_has_a_replica_that_is(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(3 * PAGE), 3 * PAGE);
	push(&fixture, 0, 3 * PAGE, 3 * PAGE, 1);
	assert_int_equal(ftruncate(fixture.file, PAGE), 0);
	push(&fixture, 0, 3 * PAGE, 3 * PAGE, 1); // before anybody has looked: zeros
	uint8_t *data = contents(fixture.replica->fd, 3 * PAGE);
	assert_int_equal(data[PAGE - 1], pattern(PAGE - 1));
	assert_int_equal(data[PAGE + 1], 0);
	free(data);
	assert_true(memory_check(fixture.pool));
	ends_run(&fixture.ends);
	assert_int_equal(size_of(fixture.replica->fd), PAGE);
	push(&fixture, 0, 3 * PAGE, 3 * PAGE, 1);

	assert_int_equal(ftruncate(fixture.file, 0), 0);
	assert_true(memory_check(fixture.pool));
	push(&fixture, 0, PAGE, PAGE, 1);
	assert_int_equal(size_of(fixture.replica->fd), 0);
	assert_null(fixture.replica->mapping);
	assert_int_equal(ftruncate(fixture.file, PAGE), 0);
	assert_true(memory_check(fixture.pool));
	ends_run(&fixture.ends);
	assert_int_equal(size_of(fixture.replica->fd), PAGE);
	assert_int_equal(
		fixture.ends.host.budget.used[BUDGET_MEMORY], 3 * PAGE); // what was charged stays
	close_all(&fixture);
}

static void rows_that_wait_are_sent_from_what_they_were_pushed_from(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(2 * PAGE), PAGE);
	assert_true(memory_push(fixture.pool, NULL, 0, PAGE, PAGE, 1));
	assert_true(memory_resize(fixture.pool, 2 * PAGE));
	assert_true(memory_push(fixture.pool, NULL, PAGE, PAGE, PAGE, 1));
	memory_release(fixture.pool);
	ends_run(&fixture.ends);
	assert_int_equal(count_equal(&fixture, 2 * PAGE), nonzero(0, 2 * PAGE));
	close_all(&fixture);
}

static const char *resize(struct fixture *fixture, uint64_t size, size_t len)
{
	uint32_t halves[3] = {0};
	channel_put64(halves, size);
	return end_frame(
		&fixture->ends.host, CHANNEL_MEM_RESIZE, fixture->replica->ref.id, 0, halves, len);
}

static void a_hostile_resize_is_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	for (size_t len = 0; len <= 12; len++) {
		if (len != sizeof(struct channel_mem_resize)) {
			assert_string_equal(
				resize(&fixture, 100, len), "MEM_RESIZE with a wrong length");
		}
	}
	assert_non_null(resize(&fixture, UINT64_MAX, 8));
	assert_non_null(resize(&fixture, (uint64_t)INT64_MAX + 1, 8));
	assert_non_null(resize(&fixture, INT64_MAX, 8));
	assert_int_equal(fixture.replica->size, PAGE);
	assert_null(resize(&fixture, 2 * PAGE, 8));
	close_all(&fixture);
}

/* ---- the budget ---- */

static void memory_beyond_the_limit_is_wrong(void **state)
{
	(void)state;
	static const char wrong[] = "more memory than the session may have";
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	struct end *host = &fixture.ends.host;
	host->budget.limits.most[BUDGET_MEMORY] = 3 * PAGE;
	struct channel_open_memory open = {.access = CHANNEL_ACCESS_BOTH};
	channel_put64(open.size, 2 * PAGE + 1);
	assert_string_equal(
		end_frame(host, CHANNEL_OPEN, 9, CHANNEL_KIND_POOL, &open, sizeof(open)), wrong);
	channel_put64(open.size, INT64_MAX);
	assert_string_equal(
		end_frame(host, CHANNEL_OPEN, 9, CHANNEL_KIND_POOL, &open, sizeof(open)), wrong);
	channel_put64(open.size, UINT64_MAX);
	assert_non_null(end_frame(host, CHANNEL_OPEN, 9, CHANNEL_KIND_POOL, &open, sizeof(open)));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], PAGE);
	channel_put64(open.size, 2 * PAGE);
	assert_null(end_frame(host, CHANNEL_OPEN, 9, CHANNEL_KIND_POOL, &open, sizeof(open)));

	// growing counts, shrinking gives nothing back, closing does
	assert_string_equal(resize(&fixture, PAGE + 1, 8), wrong);
	assert_null(resize(&fixture, 1, 8));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 3 * PAGE);
	assert_null(resize(&fixture, PAGE, 8));
	assert_null(end_frame(host, CHANNEL_CLOSE, 9, 0, NULL, 0));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], PAGE);
	assert_null(resize(&fixture, 3 * PAGE, 8));
	assert_string_equal(resize(&fixture, 3 * PAGE + 1, 8), wrong);
	close_all(&fixture);
}

/* ---- twins ---- */

struct copy_frame {
	struct channel_mem_copy head;
	struct channel_rect rects[CHANNEL_MAX_RECTS + 1];
};

static const char *copy(struct fixture *fixture, const struct copy_frame *frame)
{
	return end_frame(&fixture->ends.host, CHANNEL_MEM_COPY, fixture->replica->ref.id, 0, frame,
		sizeof(frame->head) + frame->head.n_rects * sizeof(frame->rects[0]));
}

static void rectangles_are_copied_from_a_twin(void **state)
{
	(void)state;
	struct fixture fixture;
	const char *wrong;
	open_pool(&fixture, new_memfd(1000), 1000);
	struct memory *other =
		memory_export(&fixture.ends.guest.refs, new_memfd(1000), 1000, &wrong);
	assert_true(memory_push(other, NULL, 0, 1000, 1000, 1));
	ends_run(&fixture.ends);
	// two of 100 x 5, at 0 of the other and at 500 of this one
	struct copy_frame frame = {
		.head = {.source = other->ref.id,
			.stride = 100,
			.destination_offset = {500},
			.n_rects = 2},
		.rects = {{.x = 3, .y = 1, .width = 10, .height = 2},
			{.x = 99, .y = 4, .width = 1, .height = 1}},
	};
	assert_null(copy(&fixture, &frame));
	uint8_t *data = contents(fixture.replica->fd, 1000);
	for (size_t i = 0; i < 1000; i++) {
		size_t x = i % 100, y = (i - 500) / 100;
		bool copied =
			i >= 500 && ((x >= 3 && x < 13 && y >= 1 && y < 3) || (x == 99 && y == 4));
		assert_int_equal(data[i], copied ? pattern(i - 500) : 0);
	}
	free(data);
	assert_int_equal(fixture.ends.host.refs.counts.memory_twinned, 21);

	// from this one to itself
	frame.head.source = fixture.replica->ref.id;
	channel_put64(frame.head.source_offset, 500);
	channel_put64(frame.head.destination_offset, 0);
	assert_null(copy(&fixture, &frame));
	data = contents(fixture.replica->fd, 1000);
	assert_int_equal(data[103], pattern(103));
	free(data);
	close_all(&fixture);
}

/* Only its own client's windows are the worse for it. */
static void a_replica_may_be_truncated_by_who_has_got_it(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(2 * PAGE), 2 * PAGE);
	struct copy_frame frame = {
		.head = {.source = fixture.replica->ref.id, .stride = PAGE, .n_rects = 1},
		.rects = {{.width = PAGE, .height = 1}},
	};
	channel_put64(frame.head.destination_offset, PAGE);
	assert_int_equal(ftruncate(fixture.replica->fd, 0), 0);
	push(&fixture, 0, PAGE, PAGE, 1);
	assert_null(copy(&fixture, &frame));
	assert_int_equal(ftruncate(fixture.replica->fd, 2 * PAGE), 0);
	push(&fixture, 0, PAGE, PAGE, 1);
	assert_null(copy(&fixture, &frame));
	uint8_t *data = contents(fixture.replica->fd, 2 * PAGE);
	assert_memory_equal(data, data + PAGE, PAGE);
	assert_int_equal(data[1], pattern(1));
	free(data);
	close_all(&fixture);
}

static void a_twin_that_is_no_replica_is_wrong(void **state)
{
	(void)state;
	static const char wrong[] = "MEM_COPY from an fdref that is not a pool";
	struct fixture fixture;
	const char *unused;
	open_pool(&fixture, new_memfd(1000), 1000);
	// a pool of the host's own, a pipe, nothing, the session
	struct memory *own = memory_export(&fixture.ends.host.refs, new_memfd(1000), 1000, &unused);
	struct channel_open_pipe open = {.access = CHANNEL_ACCESS_WRITE};
	assert_null(end_frame(
		&fixture.ends.host, CHANNEL_OPEN, 50, CHANNEL_KIND_PIPE, &open, sizeof(open)));
	const uint32_t sources[] = {own->ref.id, 50, 51, 0, 0xffffffff};
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		struct copy_frame frame = {
			.head = {.source = sources[i], .stride = 10, .n_rects = 1},
			.rects = {{.width = 1, .height = 1}},
		};
		assert_string_equal(copy(&fixture, &frame), wrong);
	}
	close_all(&fixture);
}

static void hostile_rectangles_are_wrong(void **state)
{
	(void)state;
	static const uint32_t max = UINT32_MAX;
	const struct {
		uint32_t stride;
		uint64_t from, to;
		struct channel_rect rect;
	} table[] = {
		{100, 0, 0, {0, 0, 0, 1}},
		{100, 0, 0, {0, 0, 1, 0}},
		{100, 0, 0, {91, 0, 10, 1}},
		{100, 0, 0, {max, 0, 2, 1}},
		{100, 0, 0, {2, 0, max, 1}},
		{0, 0, 0, {0, 0, 1, 1}},
		{100, 0, 0, {0, 10, 1, 1}},
		{100, 0, 0, {0, 0, 100, 11}},
		{100, 0, 901, {0, 0, 100, 1}},
		{100, 901, 0, {0, 0, 100, 1}},
		{100, 1000, 0, {0, 0, 1, 1}},
		{100, UINT64_MAX, 0, {0, 0, 1, 1}},
		{100, 0, UINT64_MAX, {0, 0, 1, 1}},
		{100, 0, 0, {0, max, 1, 1}},
		{100, 0, 0, {0, max, 1, max}},
		{100, 0, 0, {0, 1, 1, max}},
		{max, 0, 0, {0, 1, 1, 1}},
		{max, 0, 0, {0, max, 1, max}},
		// ends that are small in 64 bits: rows 2^32 + 1 and 2^32 + 2
		{max, 0, 0, {0, 3, 2, max}},
		{max, 0, 0, {0, max, 2, 3}},
		{max, 0, 0, {2, 4, 1, max}},
		{0x80000000, 0, 0, {0, max, 1, max}},
	};
	struct fixture fixture;
	open_pool(&fixture, new_memfd(1000), 1000);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct copy_frame frame = {
			.head = {.source = fixture.replica->ref.id,
				.stride = table[i].stride,
				.n_rects = 1},
			.rects = {table[i].rect},
		};
		channel_put64(frame.head.source_offset, table[i].from);
		channel_put64(frame.head.destination_offset, table[i].to);
		assert_string_equal(copy(&fixture, &frame), "MEM_COPY past the end of its memory");
	}
	close_all(&fixture);
}

static void a_wrong_number_of_rectangles_is_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(1000), 1000);
	uint32_t id = fixture.replica->ref.id;
	struct copy_frame frame = {.head = {.source = id, .stride = 100}};
	for (size_t i = 0; i <= CHANNEL_MAX_RECTS; i++) {
		frame.rects[i] = (struct channel_rect){.width = 1, .height = 1};
	}
	static const uint32_t numbers[] = {0, 2, CHANNEL_MAX_RECTS + 1, 0x10000001, UINT32_MAX};
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		frame.head.n_rects = numbers[i];
		assert_string_equal(end_frame(&fixture.ends.host, CHANNEL_MEM_COPY, id, 0, &frame,
					    sizeof(frame.head) + sizeof(frame.rects[0])),
			"MEM_COPY with a wrong number of rectangles");
	}
	for (size_t len = 0; len < sizeof(frame.head); len++) {
		assert_string_equal(
			end_frame(&fixture.ends.host, CHANNEL_MEM_COPY, id, 0, &frame, len),
			"MEM_COPY that is too short");
	}
	frame.head.n_rects = CHANNEL_MAX_RECTS;
	assert_null(copy(&fixture, &frame));
	frame.head.n_rects = CHANNEL_MAX_RECTS + 1;
	assert_non_null(copy(&fixture, &frame));
	frame.head.n_rects = 0;
	assert_null(copy(&fixture, &frame));
	close_all(&fixture);
}

static void more_than_a_memory_is_not_copied_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(1000), 1000);
	struct copy_frame frame = {
		.head = {.source = fixture.replica->ref.id, .stride = 100, .n_rects = 2},
		.rects = {{.width = 100, .height = 9}, {.width = 100, .height = 1}},
	};
	assert_null(copy(&fixture, &frame)); // all of it
	frame.rects[1] = (struct channel_rect){.width = 1, .height = 10};
	frame.rects[2] = (struct channel_rect){.x = 1, .width = 91, .height = 1};
	frame.head.n_rects = 3;
	assert_string_equal(copy(&fixture, &frame), "MEM_COPY of more than its memory");
	assert_int_equal(fixture.ends.host.refs.counts.memory_twinned, 1000);
	close_all(&fixture);
}

// As often as so many messages may come at once.
static void check_copies(uint32_t width, uint32_t height, size_t messages)
{
	struct fixture fixture;
	const size_t size = (size_t)width * height;
	open_pool(&fixture, new_memfd(size), size);
	struct copy_frame frame = {
		.head = {.source = fixture.replica->ref.id, .stride = width, .n_rects = 1},
		.rects = {{.width = width, .height = height}},
	};
	struct budget *budget = &fixture.ends.host.budget;
	budget->limits.rate = 1;
	budget->limits.burst = 3600 + 2 * messages; // no hour will pass
	assert_true(budget_messages(budget, 3600));
	assert_null(copy(&fixture, &frame));
	assert_null(copy(&fixture, &frame));
	budget->limits.burst = messages;
	assert_string_equal(copy(&fixture, &frame), "more to copy than the session may ask for");
	assert_int_equal(fixture.ends.host.refs.counts.memory_twinned, 2 * size);
	close_all(&fixture);
}

static void what_is_copied_takes_of_the_rate(void **state)
{
	(void)state;
	check_copies(65536, 10, 10);
	check_copies(1, 64 * 10, 10);
	check_copies(8192, 64, 9);
}

/* ---- lifetimes ---- */

static void the_opener_keeps_the_id_until_the_replica_is_used_no_more(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	uint32_t id = fixture.pool->ref.id;
	memory_use(fixture.pool);
	memory_use(fixture.replica);
	memory_release(fixture.pool);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_CLOSE], 0);
	memory_release(fixture.pool);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_CLOSE], 1);
	memory_release(fixture.replica);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.guest.frames[CHANNEL_CLOSED], 0);
	assert_non_null(fdrefs_get(&fixture.ends.guest.refs, id));
	memory_release(fixture.replica);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.guest.frames[CHANNEL_CLOSED], 1);
	assert_null(fdrefs_get(&fixture.ends.guest.refs, id));
	assert_null(memory_get(&fixture.ends.host.refs, id));
	assert_int_equal(fixture.ends.host.budget.used[BUDGET_MEMORY], 0);
	close_all(&fixture);
}

static void a_replica_without_users_waits_for_its_opener(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	uint32_t id = fixture.pool->ref.id;
	memory_release(fixture.replica);
	assert_non_null(memory_get(&fixture.ends.host.refs, id));
	memory_release(fixture.pool);
	ends_run(&fixture.ends);
	assert_null(memory_get(&fixture.ends.host.refs, id));
	assert_null(memory_get(&fixture.ends.guest.refs, id));
	close_all(&fixture);
}

static void a_pool_that_is_closed_lets_go_of_its_file(void **state)
{
	(void)state;
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	size_t before = fd_count();
	memory_release(fixture.pool);
	assert_int_equal(fd_count(), before - 1);
	assert_true(memory_push(fixture.pool, NULL, 0, PAGE, PAGE, 1)); // nothing is left to push
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_MEM_WRITE], 0);
	close_all(&fixture);
}

static void frames_of_the_wrong_type_are_wrong(void **state)
{
	(void)state;
	static const uint16_t types[] = {CHANNEL_CREDIT, CHANNEL_STREAM_DATA, CHANNEL_STREAM_EOF,
		CHANNEL_STREAM_STOP, CHANNEL_MESSAGES, CHANNEL_MEM_READ, 0, 0xffff};
	struct fixture fixture;
	open_pool(&fixture, new_memfd(PAGE), PAGE);
	uint32_t id = fixture.pool->ref.id;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_string_equal(end_frame(&fixture.ends.host, types[i], id, 0, NULL, 0),
			"frame of the wrong type for a pool");
		assert_non_null(end_frame(&fixture.ends.guest, types[i], id, 0, NULL, 0));
	}
	// the importer does not resize or copy what is not its own
	assert_non_null(end_frame(&fixture.ends.guest, CHANNEL_MEM_RESIZE, id, 0, "12345678", 8));
	assert_non_null(end_frame(&fixture.ends.guest, CHANNEL_MEM_COPY, id, 0, NULL, 0));
	close_all(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_replica_is_as_large_as_what_both_sides_map),
		fd_count_test(the_local_peer_gets_an_fd_of_the_replica),
		fd_count_test(what_is_no_memory_is_refused),
		fd_count_test(the_seals_of_size_are_the_originals),
		fd_count_test(a_pool_may_grow_within_a_file_that_is_sealed_against_growing),
		fd_count_test(a_pool_that_cannot_be_written_is_still_shown),
		fd_count_test(only_the_rows_that_are_pushed_cross),
		fd_count_test(rows_past_the_end_are_left_out),
		fd_count_test(rows_come_back_to_the_original),
		fd_count_test(rows_past_the_end_of_a_replica_are_wrong),
		fd_count_test(rows_past_the_end_of_an_original_are_forgotten),
		fd_count_test(rows_that_are_under_way_go_nowhere_else_when_their_memory_goes),
		fd_count_test(a_pool_that_grows_has_a_replica_that_grows),
		fd_count_test(a_pool_that_is_truncated_has_a_replica_that_is),
		fd_count_test(rows_that_wait_are_sent_from_what_they_were_pushed_from),
		fd_count_test(a_hostile_resize_is_wrong),
		fd_count_test(memory_beyond_the_limit_is_wrong),
		fd_count_test(rectangles_are_copied_from_a_twin),
		fd_count_test(a_replica_may_be_truncated_by_who_has_got_it),
		fd_count_test(a_twin_that_is_no_replica_is_wrong),
		fd_count_test(hostile_rectangles_are_wrong),
		fd_count_test(a_wrong_number_of_rectangles_is_wrong),
		fd_count_test(more_than_a_memory_is_not_copied_at_once),
		fd_count_test(what_is_copied_takes_of_the_rate),
		fd_count_test(the_opener_keeps_the_id_until_the_replica_is_used_no_more),
		fd_count_test(a_replica_without_users_waits_for_its_opener),
		fd_count_test(a_pool_that_is_closed_lets_go_of_its_file),
		fd_count_test(frames_of_the_wrong_type_are_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
