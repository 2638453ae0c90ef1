#include "fdpass/pages.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "fdpass/memory.h"
#include "tests/support/fd_count.h"
#include "tests/support/pages.h"

#define PAGE 4096u

struct fixture {
	struct ends ends;
	struct page_world pages;
};

static void init(struct fixture *fixture)
{
	ends_init_wayland(&fixture->ends);
	page_world_init(&fixture->pages);
	fixture->ends.guest.refs.pinner = &fixture->pages.pinner;
	fixture->ends.host.refs.page_buffers = &fixture->pages.buffers;
}

static void finish(struct fixture *fixture)
{
	ends_finish(&fixture->ends);
	page_world_finish(&fixture->pages);
}

static struct memory *open_pool(struct fixture *fixture, int fd, uint64_t size)
{
	const char *wrong;
	struct memory *pool = memory_export(&fixture->ends.guest.refs, fd, size, &wrong);
	assert_non_null(pool);
	ends_run(&fixture->ends);
	return pool;
}

static struct memory *use_replica(struct fixture *fixture, const struct memory *pool)
{
	struct memory *replica = memory_get(&fixture->ends.host.refs, pool->ref.id);
	assert_non_null(replica);
	return memory_use(replica);
}

static uint64_t charged(const struct fixture *fixture)
{
	return fixture->ends.host.budget.used[BUDGET_MEMORY];
}

/* ---- pools ---- */

static void both_have_the_same_bytes(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	int file = new_memfd(3 * PAGE + 5);
	struct memory *pool = open_pool(&fixture, fcntl(file, F_DUPFD_CLOEXEC, 0), 3 * PAGE + 5);
	struct memory *replica = use_replica(&fixture, pool);
	assert_true(pool->shared && replica->shared);
	assert_int_equal(replica->size, 3 * PAGE + 5);
	assert_int_equal(charged(&fixture), 4 * PAGE);
	assert_int_equal(pwrite(file, "now", 3, 2 * PAGE), 3);
	char there[3];
	int fd = end_take(&fixture.ends.host);
	assert_int_equal(pread(fd, there, 3, 2 * PAGE), 3);
	assert_memory_equal(there, "now", 3);
	close(fd);
	close(file);
	finish(&fixture);
}

static void nothing_is_pushed_either_way(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	struct memory *pool = open_pool(&fixture, new_memfd(2 * PAGE), 2 * PAGE);
	struct memory *replica = use_replica(&fixture, pool);
	assert_true(memory_check(pool));
	assert_true(memory_push(pool, NULL, 0, PAGE, PAGE, 2));
	assert_true(memory_push(replica, NULL, 0, PAGE, PAGE, 2));
	ends_run(&fixture.ends);
	assert_int_equal(fixture.ends.host.frames[CHANNEL_MEM_WRITE], 0);
	assert_int_equal(fixture.ends.guest.frames[CHANNEL_MEM_WRITE], 0);
	assert_int_equal(fixture.ends.guest.refs.counts.memory_saved, 2 * PAGE);
	finish(&fixture);
}

static void pages_stay_pinned_until_the_host_has_let_them_go(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	struct memory *pool = open_pool(&fixture, new_memfd(PAGE), PAGE);
	struct memory *replica = use_replica(&fixture, pool);
	memory_release(pool);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.pages.pinned, 1);
	memory_release(replica);
	ends_run(&fixture.ends);
	assert_int_equal(fixture.pages.pinned, 0);
	assert_int_equal(charged(&fixture), 0);
	assert_null(fixture.ends.guest.wrong);
	assert_null(fixture.ends.host.wrong);
	finish(&fixture);
}

static void pages_of_a_session_that_ends_are_not_pinned_any_more(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	use_replica(&fixture, open_pool(&fixture, new_memfd(PAGE), PAGE));
	assert_int_equal(fixture.pages.pinned, 1);
	finish(&fixture);
}

static void as_many_ranges_as_there_may_be_cross(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	fixture.pages.ranges = CHANNEL_MAX_RANGES;
	uint64_t size = (uint64_t)CHANNEL_MAX_RANGES * PAGE;
	use_replica(&fixture, open_pool(&fixture, new_memfd(size), size));
	assert_int_equal(fixture.pages.made, 1);
	finish(&fixture);
}

/* ---- what goes another way ---- */

static void expect_rows(struct fixture *fixture, int fd, uint64_t size)
{
	struct memory *pool = open_pool(fixture, fd, size);
	assert_false(pool->shared);
	assert_false(use_replica(fixture, pool)->shared);
	assert_int_equal(fixture->pages.pinned, 0);
	finish(fixture);
}

static void what_cannot_be_pinned_goes_by_rows(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	fixture.pages.refuses = true;
	expect_rows(&fixture, new_memfd(PAGE), PAGE);
}

static void a_file_shorter_than_its_pool_goes_by_rows(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	expect_rows(&fixture, new_memfd(PAGE), 2 * PAGE);
}

static void a_pool_of_no_size_goes_by_rows(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	expect_rows(&fixture, new_memfd(PAGE), 0);
}

static void a_pool_longer_than_udmabuf_takes_goes_by_rows(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	int fd = memfd_create("large", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, CHANNEL_MAX_PAGES + PAGE), 0);
	expect_rows(&fixture, fd, CHANNEL_MAX_PAGES + PAGE);
}

static void a_file_that_is_not_to_be_written_goes_by_rows(void **state)
{
	(void)state;
	struct fixture fixture;
	char path[32];
	init(&fixture);
	int fd = new_memfd(PAGE);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int read_only = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	expect_rows(&fixture, read_only, PAGE);
}

/* ---- a guest that may write anything ---- */

struct open_frame {
	struct channel_open_memory open;
	struct channel_page_range ranges[CHANNEL_MAX_RANGES + 1];
};

static void add(struct open_frame *frame, size_t i, uint64_t address, uint32_t length)
{
	channel_put64(frame->ranges[i].address, address);
	frame->ranges[i].length = length;
}

static const char *send_open(
	struct fixture *fixture, struct open_frame *frame, uint64_t size, size_t n)
{
	channel_put64(frame->open.size, size);
	return end_frame(&fixture->ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_POOL, frame,
		sizeof(frame->open) + n * sizeof(frame->ranges[0]));
}

static void expect_wrong(struct fixture *fixture, const char *got, const char *expected)
{
	assert_non_null(got);
	assert_string_equal(got, expected);
	assert_int_equal(charged(fixture), 0);
	assert_int_equal(fixture->ends.host.budget.used[BUDGET_FDS], 0);
	assert_int_equal(fixture->pages.made, 0);
}

static struct open_frame *new_frame(void)
{
	static struct open_frame frame;
	frame = (struct open_frame){.open = {.access = CHANNEL_ACCESS_BOTH}};
	return &frame;
}

static void ranges_that_are_not_of_whole_pages_are_wrong(void **state)
{
	(void)state;
	static const struct {
		uint64_t address;
		uint32_t length;
	} cases[] = {{PAGE, 0}, {PAGE, 1}, {PAGE, PAGE + 8}, {1, PAGE}, {PAGE / 2, PAGE},
		{UINT64_MAX - PAGE + 1, 2 * PAGE}, {UINT64_MAX, PAGE}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture fixture;
		init(&fixture);
		struct open_frame *frame = new_frame();
		add(frame, 0, cases[i].address, cases[i].length);
		expect_wrong(&fixture, send_open(&fixture, frame, PAGE, 1),
			"a pool's range that is not of whole pages");
		finish(&fixture);
	}
}

static void ranges_that_are_not_as_long_as_the_pool_are_wrong(void **state)
{
	(void)state;
	static const uint64_t sizes[] = {1, PAGE, 2 * PAGE + 1, 3 * PAGE, CHANNEL_MAX_PAGES};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct fixture fixture;
		init(&fixture);
		struct open_frame *frame = new_frame();
		add(frame, 0, PAGE, PAGE);
		add(frame, 1, 8 * PAGE, PAGE);
		expect_wrong(&fixture, send_open(&fixture, frame, sizes[i], 2),
			"a pool whose pages are not as long as it is");
		finish(&fixture);
	}
}

static void ranges_that_overlap_are_wrong(void **state)
{
	(void)state;
	static const uint64_t others[] = {8 * PAGE, 9 * PAGE, 11 * PAGE, 6 * PAGE, 5 * PAGE};
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		struct fixture fixture;
		init(&fixture);
		struct open_frame *frame = new_frame();
		add(frame, 0, 8 * PAGE, 4 * PAGE);
		add(frame, 1, 100 * PAGE, PAGE);
		add(frame, 2, others[i], 4 * PAGE);
		expect_wrong(&fixture, send_open(&fixture, frame, 9 * PAGE, 3),
			"a pool's ranges that overlap");
		finish(&fixture);
	}
}

static void too_many_ranges_or_parts_of_one_are_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	struct open_frame *frame = new_frame();
	for (size_t i = 0; i <= CHANNEL_MAX_RANGES; i++) {
		add(frame, i, 2 * i * PAGE, PAGE);
	}
	uint64_t size = (CHANNEL_MAX_RANGES + 1) * (uint64_t)PAGE;
	expect_wrong(&fixture, send_open(&fixture, frame, size, CHANNEL_MAX_RANGES + 1),
		"OPEN of a pool with a wrong number of ranges");
	const char *wrong = end_frame(&fixture.ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_POOL, frame,
		sizeof(frame->open) + sizeof(frame->ranges[0]) + 4);
	expect_wrong(&fixture, wrong, "OPEN of a pool with a wrong number of ranges");
	finish(&fixture);
}

static void a_wrong_size_or_access_is_wrong(void **state)
{
	(void)state;
	static const struct {
		uint64_t size;
		uint32_t access;
	} cases[] = {{0, CHANNEL_ACCESS_BOTH},
		{(uint64_t)CHANNEL_MAX_PAGES + 1, CHANNEL_ACCESS_BOTH},
		{UINT64_MAX, CHANNEL_ACCESS_BOTH}, {PAGE, CHANNEL_ACCESS_READ}, {PAGE, 77}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture fixture;
		init(&fixture);
		struct open_frame *frame = new_frame();
		frame->open.access = cases[i].access;
		add(frame, 0, PAGE, PAGE);
		expect_wrong(&fixture, send_open(&fixture, frame, cases[i].size, 1),
			"OPEN of a pool by its pages with a wrong size or access mode");
		finish(&fixture);
	}
}

static void what_was_not_agreed_to_is_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	fixture.ends.host.refs.page_buffers = NULL;
	struct open_frame *frame = new_frame();
	add(frame, 0, PAGE, PAGE);
	expect_wrong(&fixture, send_open(&fixture, frame, PAGE, 1),
		"OPEN of a pool by its pages, which was not agreed to");
	finish(&fixture);
}

static void what_is_not_the_guests_memory_is_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	struct open_frame *frame = new_frame();
	add(frame, 0, PAGE, PAGE);
	expect_wrong(&fixture, send_open(&fixture, frame, PAGE, 1),
		"a range that is not the guest's memory");
	finish(&fixture);
}

static void pages_beyond_the_budget_are_wrong(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	fixture.ends.host.budget.limits.most[BUDGET_MEMORY] = PAGE;
	struct open_frame *frame = new_frame();
	add(frame, 0, PAGE, 2 * PAGE);
	expect_wrong(&fixture, send_open(&fixture, frame, PAGE + 1, 1),
		"more memory than the session may have");
	finish(&fixture);
}

static void such_a_pool_takes_no_rows_no_size_and_no_place(void **state)
{
	(void)state;
	static const uint16_t types[] = {CHANNEL_MEM_RESIZE, CHANNEL_MEM_COPY, CHANNEL_REGION_MAP};
	struct fixture fixture;
	init(&fixture);
	struct memory *pool = open_pool(&fixture, new_memfd(PAGE), PAGE);
	use_replica(&fixture, pool);
	uint8_t payload[64] = {0};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_string_equal(end_frame(&fixture.ends.host, types[i], pool->ref.id, 0,
					    payload, sizeof(payload)),
			"frame of the wrong type for a pool of the guest's pages");
	}
	struct channel_rows rows = {0};
	const struct channel_mem_write write = {.stride = 4, .row_bytes = 4, .rows = 1};
	assert_string_equal(end_write(&fixture.ends.host, pool->ref.id, &write, &rows),
		"MEM_WRITE to a memory that both sides share");
	finish(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(both_have_the_same_bytes),
		fd_count_test(nothing_is_pushed_either_way),
		fd_count_test(pages_stay_pinned_until_the_host_has_let_them_go),
		fd_count_test(pages_of_a_session_that_ends_are_not_pinned_any_more),
		fd_count_test(as_many_ranges_as_there_may_be_cross),
		fd_count_test(what_cannot_be_pinned_goes_by_rows),
		fd_count_test(a_file_shorter_than_its_pool_goes_by_rows),
		fd_count_test(a_pool_of_no_size_goes_by_rows),
		fd_count_test(a_pool_longer_than_udmabuf_takes_goes_by_rows),
		fd_count_test(a_file_that_is_not_to_be_written_goes_by_rows),
		fd_count_test(ranges_that_are_not_of_whole_pages_are_wrong),
		fd_count_test(ranges_that_are_not_as_long_as_the_pool_are_wrong),
		fd_count_test(ranges_that_overlap_are_wrong),
		fd_count_test(too_many_ranges_or_parts_of_one_are_wrong),
		fd_count_test(a_wrong_size_or_access_is_wrong),
		fd_count_test(what_was_not_agreed_to_is_wrong),
		fd_count_test(what_is_not_the_guests_memory_is_wrong),
		fd_count_test(pages_beyond_the_budget_are_wrong),
		fd_count_test(such_a_pool_takes_no_rows_no_size_and_no_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
