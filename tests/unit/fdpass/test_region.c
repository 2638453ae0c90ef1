#include "fdpass/region.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "ends.h"
#include "fdpass/memory.h"
#include "tests/support/fd_count.h"

#define STEP   CHANNEL_REGION_STEP
#define REGION (16 * STEP)
#define PAGE   4096

// A pool of the guest's, of the pattern's bytes. One use of its replica is the test's.
struct shared_pool {
	struct memory *pool, *replica;
};

static struct shared_pool open_pool(struct ends *ends, uint64_t size)
{
	const char *wrong;
	struct shared_pool opened = {
		.pool = memory_export(&ends->guest.refs, new_memfd(size), size, &wrong),
	};
	assert_non_null(opened.pool);
	ends_run(ends);
	opened.replica = memory_get(&ends->host.refs, opened.pool->ref.id);
	assert_non_null(opened.replica);
	memory_use(opened.replica);
	opened.replica->wanted = size;
	return opened;
}

static void init(struct ends *ends)
{
	ends_init_wayland(ends);
	ends_share_region(ends, REGION);
}

static void finish(struct ends *ends)
{
	assert_null(ends->guest.wrong);
	assert_null(ends->host.wrong);
	ends_finish(ends);
}

static void push_all(const struct memory *pool)
{
	assert_true(
		memory_push((struct memory *)pool, pool->range, 0, PAGE, PAGE, pool->size / PAGE));
}

// Which byte the host's local peer finds.
static uint8_t byte_at(struct ends *ends, uint64_t offset)
{
	uint8_t byte;
	int fd = end_take(&ends->host);
	assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
	close(fd);
	return byte;
}

/* ---- pools ---- */

static void what_is_pushed_is_in_the_region_and_not_on_the_channel(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, 4 * PAGE);
	assert_non_null(shared.pool->range);
	uint64_t base = shared.pool->range->offset;
	assert_int_equal(byte_at(&ends, base + 100), 0);
	push_all(shared.pool);
	for (uint64_t at = 0; at < 4 * PAGE; at += 111) {
		assert_int_equal(byte_at(&ends, base + at), pattern(at));
	}
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_MEM_WRITE], 0);
	assert_int_equal(ends.guest.refs.counts.memory_shared, 4 * PAGE);
	assert_int_equal(ends.guest.refs.counts.memory_sent, 0);
	finish(&ends);
}

static void rows_are_put_where_they_were(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, 64 * PAGE);
	uint64_t base = shared.pool->range->offset;
	assert_true(memory_push(shared.pool, shared.pool->range, 1000, 500, 37, 20));
	for (uint64_t at = 900; at < 12000; at++) {
		bool pushed = at >= 1000 && at < 11000 && (at - 1000) % 500 < 37;
		assert_int_equal(byte_at(&ends, base + at), pushed ? pattern(at) : 0);
	}
	finish(&ends);
}

static void much_is_put_where_it_was_too(void **state)
{
	(void)state;
	static const struct {
		uint64_t offset;
		size_t stride, row_bytes, rows;
	} layouts[] = {{0, PAGE, PAGE, 160}, {3, PAGE, PAGE - 5, 159}, {17, 600000, 600000, 1}};
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
		struct ends ends;
		ends_init_wayland(&ends);
		ends_share_region(&ends, 4 * REGION);
		struct shared_pool shared = open_pool(&ends, 160 * PAGE);
		uint64_t offset = layouts[i].offset;
		assert_true(memory_push(shared.pool, shared.pool->range, offset, layouts[i].stride,
			layouts[i].row_bytes, layouts[i].rows));
		const uint8_t *there = shared.replica->range->mapping->data;
		for (uint64_t at = 0; at < 160 * PAGE; at++) {
			bool pushed = at >= offset &&
				(at - offset) / layouts[i].stride < layouts[i].rows &&
				(at - offset) % layouts[i].stride < layouts[i].row_bytes;
			assert_int_equal(there[at], pushed ? pattern(at) : 0);
		}
		finish(&ends);
	}
}

static void pools_have_ranges_of_their_own(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool first = open_pool(&ends, 2 * STEP);
	struct shared_pool second = open_pool(&ends, STEP + 1);
	assert_int_equal(first.pool->range->length, 2 * STEP);
	assert_int_equal(second.pool->range->length, 2 * STEP);
	assert_int_not_equal(first.pool->range->offset, second.pool->range->offset);
	assert_int_equal(ends.host.refs.region->used, 4 * STEP);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 4 * STEP);
	finish(&ends);
}

static void a_pool_that_finds_no_room_goes_by_the_channel(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	open_pool(&ends, REGION / 2);
	struct shared_pool other = open_pool(&ends, PAGE); // the other half is for those that grow
	assert_null(other.pool->range);
	assert_null(other.replica->range);
	push_all(other.pool);
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_MEM_WRITE], 1);
	assert_int_equal(byte_at(&ends, 100), pattern(100));
	finish(&ends);
}

static struct region_range *allocate(struct ends *ends, bool host, uint64_t size)
{
	return region_allocate_for_dmabuf(host ? &ends->host.refs : &ends->guest.refs, size);
}

static void a_quarter_is_the_host_s(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	ends_divide_region(&ends);
	assert_null(allocate(&ends, true, REGION / 4 + 1));
	assert_null(allocate(&ends, true, UINT64_MAX));
	assert_null(allocate(&ends, true, 0));
	struct region_range *first = allocate(&ends, true, STEP + 1);
	assert_int_equal(first->offset, REGION / 4 * 3);
	assert_int_equal(first->length, 2 * STEP);
	struct region_range *second = allocate(&ends, true, 2 * STEP);
	assert_int_equal(second->offset, REGION / 4 * 3 + 2 * STEP);
	assert_null(allocate(&ends, true, 1));
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], REGION / 4);
	struct region_range *guests = allocate(&ends, false, REGION / 8 * 3); // half of its part
	assert_non_null(guests);
	assert_null(allocate(&ends, false, 1));
	assert_null(open_pool(&ends, PAGE).pool->range);
	memset(first->mapping->data, 'x', first->length);
	region_range_release(first); // nobody is told of it
	first = allocate(&ends, true, 2 * STEP);
	assert_int_equal(first->mapping->data[100], 0);
	region_range_release(first);
	region_range_release(second);
	region_range_release(guests);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], PAGE); // of the pool
	assert_int_equal(ends.host.refs.region->used, 0);
	assert_int_equal(ends.guest.refs.region->used, 0);
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_REGION_UNMAP], 0);
	finish(&ends);
}

static void the_host_s_part_is_charged_too(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	ends_divide_region(&ends);
	ends.host.budget.limits.most[BUDGET_MEMORY] = STEP;
	assert_null(allocate(&ends, true, STEP + 1));
	assert_int_equal(ends.host.refs.region->used, 0);
	region_range_release(allocate(&ends, true, STEP));
	finish(&ends);
}

static const char *tell_arrived(struct end *end, uint64_t offset, uint64_t length)
{
	struct channel_region_range part;
	channel_put64(part.offset, offset);
	channel_put64(part.length, length);
	return end_frame(end, CHANNEL_REGION_MAP, 0, 0, &part, sizeof(part));
}

static void the_host_has_no_range_before_the_guest_has_the_region(void **state)
{
	(void)state;
	const uint64_t part = REGION / 4 * 3;
	struct ends ends;
	init(&ends);
	ends.host.refs.region->names_rows = false;
	assert_non_null(tell_arrived(&ends.host, REGION, 0));
	region_agree(ends.host.refs.region);
	assert_null(allocate(&ends, true, STEP));
	assert_non_null(tell_arrived(&ends.host, part, STEP));
	assert_non_null(tell_arrived(&ends.host, part - STEP, REGION / 4 + STEP));
	assert_non_null(tell_arrived(&ends.host, 0, REGION));
	assert_non_null(tell_arrived(&ends.guest, part, REGION / 4));
	assert_null(allocate(&ends, true, STEP));
	assert_null(tell_arrived(&ends.host, part, REGION / 4));
	region_range_release(allocate(&ends, true, STEP));
	assert_non_null(tell_arrived(&ends.host, part, REGION / 4));
	finish(&ends);
}

/* ---- what comes back ---- */

// Where rows of a layout are, in a pool that is one byte everywhere else.
static void expect_rows(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t stride,
	uint64_t bytes, uint64_t rows)
{
	for (uint64_t at = 0; at < size; at++) {
		bool told = at >= offset && (at - offset) / stride < rows &&
			(at - offset) % stride < bytes;
		assert_int_equal(data[at], told ? 'x' : pattern(at));
	}
}

static void comes_back(struct ends *ends)
{
	struct shared_pool shared = open_pool(ends, 16 * PAGE);
	struct memory *replica = shared.replica;
	memset(replica->range->mapping->data, 'x', 16 * PAGE);
	assert_true(memory_push(replica, replica->range, 1000, 500, 37, 20));
	ends_run(ends);
	expect_rows(shared.pool->mapping->data, 16 * PAGE, 1000, 500, 37, 20);
}

static void what_the_host_has_painted_comes_back_by_the_region(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	comes_back(&ends);
	assert_int_equal(ends.guest.frames[CHANNEL_REGION_ROWS], 1);
	assert_int_equal(ends.guest.frames[CHANNEL_MEM_WRITE], 0);
	assert_int_equal(ends.guest.refs.counts.memory_shared, 20 * 37);
	assert_int_equal(ends.host.refs.counts.memory_sent, 0);
	finish(&ends);
}

static void to_an_older_guest_it_comes_back_by_the_channel(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	ends.host.refs.region->names_rows = ends.guest.refs.region->names_rows = false;
	comes_back(&ends);
	assert_int_equal(ends.guest.frames[CHANNEL_REGION_ROWS], 0);
	assert_int_equal(ends.guest.frames[CHANNEL_MEM_WRITE], 1);
	assert_int_equal(ends.host.refs.counts.memory_sent, 20 * 37);
	finish(&ends);
}

static void of_a_file_that_was_truncated_what_is_left_comes_back(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, 4 * PAGE);
	struct memory *replica = shared.replica;
	memset(replica->range->mapping->data, 'x', 4 * PAGE);
	assert_int_equal(ftruncate(shared.pool->fd, PAGE + 10), 0);
	assert_true(memory_push(replica, replica->range, 0, PAGE, PAGE, 4));
	ends_run(&ends);
	expect_rows(shared.pool->mapping->data, PAGE + 10, 0, PAGE, PAGE, 4);
	assert_true(memory_check(shared.pool)); // now it is known here
	assert_int_equal(shared.pool->size, PAGE + 10);
	memset(replica->range->mapping->data, 'y', 4 * PAGE);
	assert_true(memory_push(replica, replica->range, 100, PAGE / 2, 1, 6));
	ends_run(&ends);
	assert_int_equal(shared.pool->mapping->data[100], 'y');
	assert_int_equal(shared.pool->mapping->data[100 + PAGE / 2], 'y');
	assert_int_equal(shared.pool->mapping->data[101], 'x');
	finish(&ends);
}

static void nothing_comes_back_to_what_is_for_reading_only(void **state)
{
	(void)state;
	const char *wrong;
	char path[64];
	struct ends ends;
	init(&ends);
	int fd = new_memfd(PAGE);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	struct memory *pool =
		memory_export(&ends.guest.refs, open(path, O_RDONLY | O_CLOEXEC), PAGE, &wrong);
	close(fd);
	ends_run(&ends);
	struct memory *replica = memory_use(memory_get(&ends.host.refs, pool->ref.id));
	replica->wanted = PAGE;
	assert_true(memory_push(replica, replica->range, 0, PAGE, PAGE, 1));
	ends_run(&ends);
	assert_int_equal(ends.guest.frames[CHANNEL_REGION_ROWS], 1);
	assert_int_equal(pool->mapping->data[100], pattern(100));
	finish(&ends);
}

static void pages_that_have_vanished_are_zeros(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, 4 * PAGE);
	push_all(shared.pool);
	assert_int_equal(ftruncate(shared.pool->fd, PAGE + 10), 0);
	push_all(shared.pool);
	uint64_t base = shared.pool->range->offset;
	assert_int_equal(byte_at(&ends, base + PAGE + 9), pattern(PAGE + 9));
	assert_int_equal(byte_at(&ends, base + PAGE + 10), 0);
	assert_int_equal(byte_at(&ends, base + 2 * PAGE), 0);
	assert_int_equal(byte_at(&ends, base + 4 * PAGE - 1), 0);
	finish(&ends);
}

/* ---- growing ---- */

static void a_pool_grows_within_its_range(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, PAGE);
	struct region_range *range = shared.pool->range;
	assert_int_equal(ftruncate(shared.pool->fd, STEP), 0);
	assert_true(memory_resize(shared.pool, STEP));
	ends_run(&ends);
	assert_ptr_equal(shared.pool->range, range);
	assert_int_equal(shared.pool->size, STEP);
	assert_int_equal(ends.host.frames[CHANNEL_MEM_RESIZE], 0);
	push_all(shared.pool);
	finish(&ends);
}

static void a_pool_that_outgrows_its_range_is_moved_and_what_it_was_stays(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	struct region_range *before = region_range_use(shared.pool->range); // as a buffer does
	struct region_range *there = region_range_use(shared.replica->range);
	push_all(shared.pool);
	assert_true(memory_resize(shared.pool, 2 * STEP));
	ends_run(&ends);
	assert_ptr_not_equal(shared.pool->range, before);
	assert_int_equal(shared.pool->range->length, 4 * STEP);
	assert_int_equal(shared.replica->range->offset, shared.pool->range->offset);
	assert_int_equal(there->mapping->data[100], pattern(100));
	shared.pool->mapping->data[100] = 'n';
	assert_true(memory_push(shared.pool, before, 0, PAGE, PAGE, 1));
	assert_int_equal(there->mapping->data[100], 'n');
	assert_int_equal(shared.replica->range->mapping->data[100], 0);
	region_range_release(there);
	region_range_release(before);
	ends_run(&ends);
	assert_int_equal(ends.guest.refs.region->used, 4 * STEP);
	assert_int_equal(ends.host.refs.region->used, 4 * STEP);
	finish(&ends);
}

static void a_pool_that_finds_no_room_to_grow_is_told_so(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, REGION / 2);
	struct region_range *range = shared.pool->range;
	assert_true(memory_resize(shared.pool, REGION)); // what is there has room
	assert_ptr_equal(shared.pool->range, range);
	assert_int_equal(ftruncate(shared.pool->fd, REGION), 0);
	assert_false(memory_resize(shared.pool, REGION + STEP));
	ends_run(&ends);
	assert_ptr_equal(shared.pool->range, range);
	push_all(shared.pool);
	const uint8_t *there = shared.replica->range->mapping->data;
	assert_int_equal(there[REGION / 2 - 1], pattern(REGION / 2 - 1));
	assert_int_equal(ends.host.refs.region->used, REGION / 2);
	finish(&ends);
}

static void a_pool_much_larger_than_its_file_finds_room_for_what_is_there(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	assert_int_equal(ftruncate(shared.pool->fd, 3 * STEP), 0);
	assert_true(memory_resize(shared.pool, INT32_MAX));
	ends_run(&ends);
	assert_int_equal(shared.pool->range->length, 3 * STEP);
	assert_true(memory_check(shared.pool));
	assert_int_equal(shared.pool->range->length, 3 * STEP);
	finish(&ends);
}

/* ---- ranges again ---- */

static void close_pool(struct ends *ends, struct shared_pool *shared)
{
	memory_release(shared->replica);
	memory_release(shared->pool);
	ends_run(ends);
}

static void a_range_is_used_again_and_begins_with_zeros(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	uint64_t base = shared.pool->range->offset;
	push_all(shared.pool);
	close_pool(&ends, &shared);
	assert_int_equal(ends.guest.refs.region->used, 0);
	assert_int_equal(ends.host.refs.region->used, 0);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 0);
	shared = open_pool(&ends, STEP);
	assert_int_equal(shared.pool->range->offset, base);
	assert_int_equal(byte_at(&ends, base + 100), 0);
	finish(&ends);
}

static void a_range_is_not_used_again_while_the_host_uses_it(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	uint64_t base = shared.pool->range->offset;
	push_all(shared.pool);
	memory_release(shared.pool);
	ends_run(&ends);
	assert_int_equal(ends.guest.refs.region->used, STEP);
	assert_int_equal(shared.replica->range->mapping->data[100], pattern(100));
	struct shared_pool other = open_pool(&ends, STEP);
	assert_int_not_equal(other.pool->range->offset, base);
	memory_release(shared.replica);
	ends_run(&ends);
	assert_int_equal(ends.guest.refs.region->used, STEP);
	finish(&ends);
}

static void a_range_that_is_held_stays_what_it_was(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	uint64_t base = shared.pool->range->offset;
	push_all(shared.pool);
	shared.pool->range->held = true;
	close_pool(&ends, &shared);
	assert_int_equal(ends.guest.refs.region->used, STEP);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], STEP);
	struct shared_pool other = open_pool(&ends, STEP);
	assert_int_not_equal(other.pool->range->offset, base);
	assert_int_equal(byte_at(&ends, base + 100), pattern(100));
	finish(&ends);
}

static void a_pool_that_cannot_be_opened_leaves_no_range(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	const char *wrong;
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, STEP), 0);
	ends.guest.budget.limits.most[BUDGET_FDS] = ends.guest.budget.used[BUDGET_FDS];
	assert_null(memory_export(&ends.guest.refs, fd, STEP, &wrong));
	assert_int_equal(ends.guest.refs.region->used, 0);
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_REGION_UNMAP], 0);
	finish(&ends);
}

static void a_range_stays_until_the_object_in_it_is_deleted(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	region_keep(shared.pool->range, 7);
	region_keep(shared.pool->range, 7); // of several planes
	region_keep(NULL, 7);
	close_pool(&ends, &shared);
	region_let_go(ends.guest.refs.region, 8);
	region_let_go(NULL, 7);
	ends_run(&ends);
	assert_int_equal(ends.guest.refs.region->used, STEP);
	region_let_go(ends.guest.refs.region, 7);
	for (int i = 0; i < 3; i++) {
		ends_run(&ends);
	}
	assert_int_equal(ends.guest.refs.region->used, 0);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 0);
	shared = open_pool(&ends, STEP);
	region_keep(shared.pool->range, 9); // and the session ends
	close_pool(&ends, &shared);
	finish(&ends);
}

static void what_a_moved_pool_was_comes_back_from_where_it_was(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	struct region_range *before = region_range_use(shared.pool->range);
	struct region_range *far = region_range_use(shared.replica->range); // of a buffer each
	assert_int_equal(ftruncate(shared.pool->fd, 4 * STEP), 0);
	assert_true(memory_resize(shared.pool, 4 * STEP));
	ends_run(&ends);
	shared.replica->wanted = 4 * STEP;
	assert_ptr_not_equal(shared.replica->range, far);
	memset(far->mapping->data, 'x', STEP);
	memset(shared.replica->range->mapping->data, 'y', 4 * STEP);
	assert_true(memory_push(shared.replica, far, 0, PAGE, PAGE, 1));
	assert_true(memory_push(shared.replica, shared.replica->range, PAGE, PAGE, PAGE, 1));
	ends_run(&ends);
	assert_int_equal(shared.pool->mapping->data[0], 'x');
	assert_int_equal(shared.pool->mapping->data[PAGE], 'y');
	region_range_release(before);
	region_range_release(far);
	ends_run(&ends);
	finish(&ends);
}

/* The host tells of it before it knows. */
static void what_is_not_needed_any_more_does_not_come_back(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	int fd = fcntl(shared.pool->fd, F_DUPFD_CLOEXEC, 0);
	uint8_t byte;
	memset(shared.replica->range->mapping->data, 'x', STEP);
	assert_true(memory_push(shared.replica, shared.replica->range, 0, PAGE, PAGE, 1));
	memory_release(shared.pool);
	ends_run(&ends);
	assert_int_equal(ends.guest.frames[CHANNEL_REGION_ROWS], 1);
	assert_int_equal(pread(fd, &byte, 1, 100), 1);
	assert_int_equal(byte, pattern(100));
	close(fd);
	memory_release(shared.replica);
	finish(&ends);
}

/* ---- peers that may write anything ---- */

static const char *tell(struct end *end, uint32_t id, uint64_t range, uint64_t offset,
	uint32_t stride, uint32_t bytes, uint32_t rows)
{
	struct channel_region_rows told = {.stride = stride, .row_bytes = bytes, .rows = rows};
	channel_put64(told.range, range);
	channel_put64(told.offset, offset);
	return end_frame(end, CHANNEL_REGION_ROWS, id, 0, &told, sizeof(told));
}

static void rows_that_are_in_no_range_are_wrong(void **state)
{
	(void)state;
	static const struct {
		uint64_t range, offset;
		uint32_t stride, bytes, rows;
		const char *wrong;
	} told[] = {
		{0, 0, 2 * STEP, 2 * STEP, 1, NULL},
		{0, 0, 1, 0, UINT32_MAX, "past the end"},
		{0, 0, PAGE, PAGE, 0, NULL},
		{0, 2 * STEP, 0, 0, 0, NULL},
		{0, 2 * STEP - 1, PAGE, 1, 1, NULL},
		{0, 2 * STEP - 1, 2, 2, 1, "past the end"},
		{0, 2 * STEP + 1, 0, 0, 0, "past the end"},
		{0, 1, STEP, STEP, 2, "past the end"},
		{0, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, "past the end"},
		{0, UINT64_MAX, 1, 1, 1, "past the end"},
		{0, UINT64_MAX - STEP, STEP, STEP, 2, "past the end"},
		{0, 0, 3, 4, 2, "past the end"},
		{1, 0, 4, 4, 1, "not in use"},
		{STEP, 0, 4, 4, 1, "not in use"},
		{2 * STEP, 0, 4, 4, 1, "not in use"},
		{REGION, 0, 4, 4, 1, "not in use"},
		{UINT64_MAX, 0, 4, 4, 1, "not in use"},
	};
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, 2 * STEP);
	assert_int_equal(shared.pool->range->offset, 0);
	uint32_t id = shared.pool->ref.id;
	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
		const char *wrong = tell(&ends.guest, id, told[i].range, told[i].offset,
			told[i].stride, told[i].bytes, told[i].rows);
		assert_int_equal(wrong != NULL, told[i].wrong != NULL);
		assert_true(wrong == NULL || strstr(wrong, told[i].wrong) != NULL);
	}
	static const uint8_t bytes[sizeof(struct channel_region_rows) + 1];
	for (size_t len = 0; len <= sizeof(bytes); len++) {
		const char *wrong = end_frame(&ends.guest, CHANNEL_REGION_ROWS, id, 0, bytes, len);
		assert_int_equal(wrong == NULL, len == sizeof(bytes) - 1);
	}
	finish(&ends);
}

static void rows_of_ranges_that_were_not_agreed_to_are_wrong(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	struct shared_pool shared = open_pool(&ends, STEP);
	uint32_t id = shared.pool->ref.id;
	assert_null(tell(&ends.guest, id, 0, 0, 4, 4, 1));
	assert_non_null(tell(&ends.host, id, 0, 0, 4, 4, 1)); // by a guest
	ends.guest.refs.region->names_rows = false;
	assert_non_null(tell(&ends.guest, id, 0, 0, 4, 4, 1));
	finish(&ends);
	ends_init_wayland(&ends);
	shared = open_pool(&ends, STEP);
	assert_non_null(tell(&ends.guest, shared.pool->ref.id, 0, 0, 4, 4, 1));
	finish(&ends);
}

static struct channel_region_range range_of(uint64_t offset, uint64_t length)
{
	struct channel_region_range range;
	channel_put64(range.offset, offset);
	channel_put64(range.length, length);
	return range;
}

static const char *map(struct end *end, uint32_t id, uint64_t offset, uint64_t length)
{
	struct channel_region_range range = range_of(offset, length);
	return end_frame(end, CHANNEL_REGION_MAP, id, 0, &range, sizeof(range));
}

static const char *unmap(struct end *end, uint64_t offset, uint64_t length)
{
	struct channel_region_range range = range_of(offset, length);
	return end_frame(end, CHANNEL_REGION_UNMAP, 0, 0, &range, sizeof(range));
}

static const char *open_bare(struct end *end, uint32_t id, uint64_t size)
{
	struct channel_open_memory open = {.access = CHANNEL_ACCESS_BOTH};
	channel_put64(open.size, size);
	return end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_POOL, &open, sizeof(open));
}

static void ranges_that_are_not_in_the_region_are_wrong(void **state)
{
	(void)state;
	static const uint64_t ranges[][2] = {
		{0, 0},
		{1, STEP},
		{0, STEP - 1},
		{0, REGION + STEP},
		{REGION, STEP},
		{STEP, REGION},
		{UINT64_MAX - STEP + 1, STEP},
		{UINT64_MAX - STEP + 1, 2 * STEP},
		{STEP, UINT64_MAX - STEP + 1},
	};
	struct ends ends;
	init(&ends);
	assert_null(open_bare(&ends.host, 7, 0));
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		const char *wrong = map(&ends.host, 7, ranges[i][0], ranges[i][1]);
		assert_string_equal(wrong, "a range that is not in the region");
	}
	struct channel_region_range range = range_of(0, STEP);
	assert_non_null(end_frame(&ends.host, CHANNEL_REGION_MAP, 7, 0, &range, 15));
	assert_null(map(&ends.host, 7, 0, REGION));
	finish(&ends);
}

static void ranges_that_overlap_are_wrong(void **state)
{
	(void)state;
	static const uint64_t ranges[][2] = {{4 * STEP, 2 * STEP}, {5 * STEP, STEP},
		{3 * STEP, 2 * STEP}, {5 * STEP, 2 * STEP}, {0, REGION}};
	struct ends ends;
	init(&ends);
	assert_null(open_bare(&ends.host, 7, 0));
	assert_null(open_bare(&ends.host, 8, 0));
	assert_null(map(&ends.host, 7, 4 * STEP, 2 * STEP));
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		const char *wrong = map(&ends.host, 8, ranges[i][0], ranges[i][1]);
		assert_string_equal(wrong, "a range of the region that is in use");
	}
	assert_null(map(&ends.host, 8, 6 * STEP, STEP));
	assert_null(map(
		&ends.host, 7, 3 * STEP, STEP)); // moved; the old one is there until it is unmapped
	assert_non_null(map(&ends.host, 8, 4 * STEP, STEP));
	assert_null(unmap(&ends.host, 4 * STEP, 2 * STEP));
	assert_null(map(&ends.host, 8, 4 * STEP, STEP));
	finish(&ends);
}

static void only_ranges_in_use_can_be_unmapped_and_once(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	assert_null(open_bare(&ends.host, 7, 0));
	assert_non_null(unmap(&ends.host, 0, STEP));
	assert_null(map(&ends.host, 7, 0, 2 * STEP));
	assert_non_null(unmap(&ends.host, 0, STEP));
	assert_non_null(unmap(&ends.host, STEP, STEP));
	struct channel_region_range range = range_of(0, 2 * STEP);
	assert_non_null(end_frame(&ends.host, CHANNEL_REGION_UNMAP, 0, 0, &range, 12));
	assert_null(unmap(&ends.host, 0, 2 * STEP)); // as soon as the pool is gone
	assert_non_null(unmap(&ends.host, 0, 2 * STEP));
	assert_int_equal(ends.host.refs.region->used, 2 * STEP);
	assert_null(end_frame(&ends.host, CHANNEL_CLOSE, 7, 0, NULL, 0));
	assert_int_equal(ends.host.refs.region->used, 0);
	assert_non_null(map(&ends.host, 7, 0, STEP)); // of what is closed
	ends_finish(&ends); // the guest has been told of a range that it never had
}

static void pools_that_have_a_place_are_not_moved_to_the_region(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	assert_null(open_bare(&ends.host, 7, PAGE));
	assert_null(open_bare(&ends.host, 8, 0));
	memory_use(memory_get(&ends.host.refs, 8)); // its memfd was given away
	assert_non_null(map(&ends.host, 7, 0, STEP));
	assert_non_null(map(&ends.host, 8, 0, STEP));
	assert_int_equal(ends.host.refs.region->used, 0);
	finish(&ends);
}

static void a_pool_in_the_region_takes_no_rows_and_no_size(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	assert_null(open_bare(&ends.host, 7, 0));
	assert_null(open_bare(&ends.host, 8, PAGE));
	assert_null(map(&ends.host, 7, 0, STEP));
	struct channel_mem_write write = {.stride = 4, .row_bytes = 4, .rows = 1};
	struct channel_rows rows;
	assert_non_null(end_write(&ends.host, 7, &write, &rows));
	struct channel_mem_resize resize = {.size = {PAGE, 0}};
	assert_non_null(end_frame(&ends.host, CHANNEL_MEM_RESIZE, 7, 0, &resize, sizeof(resize)));
	struct {
		struct channel_mem_copy copy;
		struct channel_rect rect;
	} copy = {{.source = 8, .stride = 4, .n_rects = 1}, {.width = 4, .height = 1}};
	assert_non_null(end_frame(&ends.host, CHANNEL_MEM_COPY, 7, 0, &copy, sizeof(copy)));
	copy.copy.source = 7;
	assert_non_null(end_frame(&ends.host, CHANNEL_MEM_COPY, 8, 0, &copy, sizeof(copy)));
	finish(&ends);
}

static void only_pools_of_the_guest_can_be_in_the_region(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	assert_null(end_frame(&ends.host, CHANNEL_OPEN, 7, CHANNEL_KIND_PIPE,
		&(struct channel_open_pipe){0}, sizeof(struct channel_open_pipe)));
	assert_non_null(map(&ends.host, 7, 0, STEP));
	assert_null(open_bare(&ends.guest, CHANNEL_ID_HOST | 7, 0));
	assert_non_null(map(&ends.guest, CHANNEL_ID_HOST | 7, 0, STEP));
	struct shared_pool shared = open_pool(&ends, PAGE);
	assert_non_null(map(&ends.guest, shared.pool->ref.id, 0, STEP));
	assert_non_null(unmap(&ends.guest, 0, STEP)); // it was not asked for
	finish(&ends);
}

static void a_guest_has_no_pools_in_the_host_s_part(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	region_agree(ends.host.refs.region);
	const uint64_t part = REGION / 4 * 3;
	assert_null(open_bare(&ends.host, 7, 0));
	assert_non_null(map(&ends.host, 7, part, STEP));
	assert_non_null(map(&ends.host, 7, part - STEP, 2 * STEP));
	assert_non_null(map(&ends.host, 7, REGION - STEP, STEP));
	assert_null(map(&ends.host, 7, part - STEP, STEP));
	finish(&ends);
}

static void where_nothing_is_shared_there_are_no_ranges(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	assert_null(open_bare(&ends.host, 7, 0));
	assert_non_null(map(&ends.host, 7, 0, STEP));
	assert_non_null(unmap(&ends.host, 0, STEP));
	assert_non_null(unmap(&ends.guest, 0, STEP));
	finish(&ends);
}

static void ranges_beyond_the_budget_are_wrong(void **state)
{
	(void)state;
	struct ends ends;
	init(&ends);
	ends.host.budget.limits.most[BUDGET_MEMORY] = 3 * STEP;
	assert_null(open_bare(&ends.host, 7, 0));
	assert_null(map(&ends.host, 7, 0, 2 * STEP));
	assert_non_null(map(&ends.host, 7, 2 * STEP, 2 * STEP)); // both are in use by then
	assert_int_equal(ends.host.refs.region->used, 2 * STEP);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 2 * STEP);
	finish(&ends);
}

#define MANY 10000

// In an order in which none is next to the one before.
static uint64_t scattered(size_t i)
{
	return (uint64_t)(i * 4001 % MANY) * STEP;
}

static void many_ranges_are_kept_apart(void **state)
{
	(void)state;
	struct ends ends;
	ends_init_wayland(&ends);
	ends_share_region(&ends, (uint64_t)MANY * STEP);
	ends.host.budget.limits.most[BUDGET_FDS] = MANY;
	for (size_t i = 0; i < MANY - 1; i++) {
		uint32_t id = (uint32_t)i + 1;
		assert_null(open_bare(&ends.host, id, 0));
		assert_null(map(&ends.host, id, scattered(i), STEP));
	}
	assert_null(open_bare(&ends.host, MANY, 0));
	assert_non_null(map(&ends.host, MANY, scattered(MANY - 2), STEP));
	assert_non_null(map(&ends.host, MANY, scattered(MANY - 1), 2 * STEP));
	assert_null(map(&ends.host, MANY, scattered(MANY - 1), STEP));
	assert_int_equal(ends.host.refs.region->used, (uint64_t)MANY * STEP);
	finish(&ends);
}

// A guest need not say where it writes.
static void what_is_written_outside_of_ranges_is_charged(void **state)
{
	(void)state;
	static const uint8_t bytes[2 * STEP] = {1};
	struct ends ends;
	init(&ends);
	ends.host.budget.limits.most[BUDGET_MEMORY] = 3 * STEP;
	struct fdrefs *refs = &ends.host.refs;
	assert_null(open_bare(&ends.host, 7, 0));
	assert_null(map(&ends.host, 7, 0, STEP));
	assert_int_equal(pwrite(refs->region->fd, bytes, sizeof(bytes), STEP), sizeof(bytes));
	assert_true(region_account(refs));
	assert_in_range(ends.host.budget.used[BUDGET_MEMORY], 2 * STEP, 3 * STEP);
	// what is there and what may come do not count twice
	assert_null(open_bare(&ends.host, 8, 0));
	assert_null(map(&ends.host, 8, STEP, 2 * STEP));
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 3 * STEP);
	assert_int_equal(pwrite(refs->region->fd, bytes, sizeof(bytes), 3 * STEP), sizeof(bytes));
	assert_int_equal(pwrite(refs->region->fd, bytes, STEP, 0), STEP);
	assert_int_equal(pwrite(refs->region->fd, bytes, STEP, 5 * STEP), STEP);
	assert_false(region_account(refs));
	assert_non_null(budget_exceeded(&ends.host.budget));
	finish(&ends);
}

static void the_session_of_who_writes_too_much_ends(void **state)
{
	(void)state;
	static const uint8_t bytes[2 * STEP] = {1};
	struct ends ends;
	init(&ends);
	struct fdrefs *refs = &ends.host.refs;
	ends.host.budget.limits.most[BUDGET_MEMORY] = STEP;
	assert_true(region_watch(refs));
	assert_int_equal(pwrite(refs->region->fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	while (!refs->stopped) { // which is said with it
		event_base_loop(ends.base, EVLOOP_ONCE);
	}
	finish(&ends);
}

/* ---- the memory itself ---- */

static void a_region_keeps_its_size(void **state)
{
	(void)state;
	struct region *region = region_create(REGION);
	assert_non_null(region);
	assert_int_equal(region->size, REGION);
	assert_int_equal(fcntl(region->fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(ftruncate(region->fd, 0), -1);
	assert_int_equal(ftruncate(region->fd, 2 * REGION), -1);
	region_destroy(region);
}

static void what_could_be_truncated_is_no_region(void **state)
{
	(void)state;
	assert_null(region_open(new_memfd(STEP)));
	assert_int_equal(errno, EINVAL);
	int fds[2];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_null(region_open(fds[0]));
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_pushed_is_in_the_region_and_not_on_the_channel),
		fd_count_test(rows_are_put_where_they_were),
		fd_count_test(much_is_put_where_it_was_too),
		fd_count_test(pools_have_ranges_of_their_own),
		fd_count_test(a_pool_that_finds_no_room_goes_by_the_channel),
		fd_count_test(a_quarter_is_the_host_s),
		fd_count_test(the_host_s_part_is_charged_too),
		fd_count_test(the_host_has_no_range_before_the_guest_has_the_region),
		fd_count_test(what_the_host_has_painted_comes_back_by_the_region),
		fd_count_test(to_an_older_guest_it_comes_back_by_the_channel),
		fd_count_test(of_a_file_that_was_truncated_what_is_left_comes_back),
		fd_count_test(nothing_comes_back_to_what_is_for_reading_only),
		fd_count_test(what_a_moved_pool_was_comes_back_from_where_it_was),
		fd_count_test(what_is_not_needed_any_more_does_not_come_back),
		fd_count_test(rows_that_are_in_no_range_are_wrong),
		fd_count_test(rows_of_ranges_that_were_not_agreed_to_are_wrong),
		fd_count_test(pages_that_have_vanished_are_zeros),
		fd_count_test(a_pool_grows_within_its_range),
		fd_count_test(a_pool_that_outgrows_its_range_is_moved_and_what_it_was_stays),
		fd_count_test(a_pool_that_finds_no_room_to_grow_is_told_so),
		fd_count_test(a_pool_much_larger_than_its_file_finds_room_for_what_is_there),
		fd_count_test(a_range_is_used_again_and_begins_with_zeros),
		fd_count_test(a_range_is_not_used_again_while_the_host_uses_it),
		fd_count_test(a_range_that_is_held_stays_what_it_was),
		fd_count_test(a_pool_that_cannot_be_opened_leaves_no_range),
		fd_count_test(a_range_stays_until_the_object_in_it_is_deleted),
		fd_count_test(ranges_that_are_not_in_the_region_are_wrong),
		fd_count_test(ranges_that_overlap_are_wrong),
		fd_count_test(only_ranges_in_use_can_be_unmapped_and_once),
		fd_count_test(pools_that_have_a_place_are_not_moved_to_the_region),
		fd_count_test(a_pool_in_the_region_takes_no_rows_and_no_size),
		fd_count_test(only_pools_of_the_guest_can_be_in_the_region),
		fd_count_test(a_guest_has_no_pools_in_the_host_s_part),
		fd_count_test(where_nothing_is_shared_there_are_no_ranges),
		fd_count_test(ranges_beyond_the_budget_are_wrong),
		fd_count_test(many_ranges_are_kept_apart),
		fd_count_test(what_is_written_outside_of_ranges_is_charged),
		fd_count_test(the_session_of_who_writes_too_much_ends),
		fd_count_test(a_region_keeps_its_size),
		fd_count_test(what_could_be_truncated_is_no_region),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
