#include "fdpass/pinner.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-util.h>

#include <cmocka.h>

#include "channel/channel.h"
#include "fdpass/pages.h"
#include "tests/support/fd_count.h"

#define PAGE  4096u
#define TRIES 1000 // while the kernel looks whether it can move or swap out a page that is pinned

struct fixture {
	struct page_pinner *pinner;
	struct wl_array ranges; // that were pinned
	int fd;                 // the client's memory
	uint64_t size;
};

static void set_up(struct fixture *fixture, uint64_t size)
{
	fixture->pinner = pinner_create();
	if (fixture->pinner == NULL) {
		print_message("pinner_create: %s\n", strerror(errno));
		skip();
	}
	wl_array_init(&fixture->ranges);
	fixture->fd = memfd_create("client", MFD_CLOEXEC);
	fixture->size = size;
	assert_true(fixture->fd >= 0);
	assert_int_equal(ftruncate(fixture->fd, (off_t)size), 0);
}

static void tear_down(struct fixture *fixture)
{
	wl_array_release(&fixture->ranges);
	page_pinner_destroy(fixture->pinner);
	close(fixture->fd);
}

static int pin(struct fixture *fixture, int fd, uint64_t size)
{
	size_t before = fixture->ranges.size;
	int pinned = -ENODATA;
	for (int i = 0; pinned == -ENODATA && i < TRIES; i++) {
		usleep(i > 0 ? 1000 : 0);
		fixture->ranges.size = before;
		pinned = fixture->pinner->interface->pin(
			fixture->pinner, fd, size, &fixture->ranges);
	}
	return pinned;
}

/* All of the memory, whose ranges are named from now on. */
static int pin_all(struct fixture *fixture)
{
	fixture->ranges.size = 0;
	int pinned = pin(fixture, fixture->fd, fixture->size);
	assert_true(pinned >= 0);
	return pinned;
}

static void unpin(struct fixture *fixture, int pinned)
{
	fixture->pinner->interface->unpin(fixture->pinner, pinned);
}

static bool holds(struct fixture *fixture, int pinned)
{
	bool all = false;
	for (int i = 0; !all && i < TRIES; i++) {
		all = fixture->pinner->interface->holds(fixture->pinner, pinned);
	}
	return all;
}

/* Where a page of the file is now, by a mapping of the test's own. */
static uint64_t address_of(int fd, size_t page)
{
	uint64_t entry;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint8_t *data = mmap(
		NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page * PAGE);
	assert_true(data != MAP_FAILED);
	(void)*(volatile uint8_t *)data;
	assert_int_equal(pread(pagemap, &entry, sizeof(entry), (off_t)((uintptr_t)data / PAGE * 8)),
		sizeof(entry));
	munmap(data, PAGE);
	close(pagemap);
	return (entry & ((UINT64_C(1) << 55) - 1)) * PAGE;
}

static uint64_t total(const struct wl_array *ranges)
{
	uint64_t bytes = 0;
	const struct channel_page_range *range;
	wl_array_for_each (range, ranges) {
		bytes += range->length;
	}
	return bytes;
}

/* Of the page-th page that the ranges name. */
static uint64_t named(const struct wl_array *ranges, size_t page)
{
	uint64_t at = (uint64_t)page * PAGE;
	const struct channel_page_range *range;
	wl_array_for_each (range, ranges) {
		if (at < range->length) {
			return channel_get64(range->address) + at;
		}
		at -= range->length;
	}
	fail_msg("page %zu is in no range", page);
	return 0;
}

static void pages_are_named_in_their_order(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 300 * PAGE);
	int pinned = pin_all(&fixture);
	assert_int_equal(total(&fixture.ranges), 300 * PAGE);
	for (size_t page = 0; page < 300; page++) {
		assert_int_equal(named(&fixture.ranges, page), address_of(fixture.fd, page));
	}
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

static void neighbours_are_one_range(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 300 * PAGE);
	int pinned = pin_all(&fixture);
	const struct channel_page_range *range = fixture.ranges.data;
	size_t n = fixture.ranges.size / sizeof(*range);
	for (size_t i = 1; i < n; i++) {
		assert_int_not_equal(channel_get64(range[i - 1].address) + range[i - 1].length,
			channel_get64(range[i].address));
	}
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

static void a_file_may_end_within_a_page(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 3 * PAGE + 17);
	int pinned = pin_all(&fixture);
	assert_int_equal(total(&fixture.ranges), 4 * PAGE);
	assert_int_equal(named(&fixture.ranges, 3), address_of(fixture.fd, 3));
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

static void what_was_in_the_array_stays(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, PAGE);
	memcpy(wl_array_add(&fixture.ranges, 8), "a header", 8);
	int pinned = pin(&fixture, fixture.fd, fixture.size);
	assert_true(pinned >= 0);
	assert_int_equal(fixture.ranges.size, 8 + sizeof(struct channel_page_range));
	assert_memory_equal(fixture.ranges.data, "a header", 8);
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

/* A hole gives the file another page: ours is not for anybody else while it is pinned. */
static void a_page_whose_file_has_lost_it_is_not_used_again(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, PAGE);
	int pinned = pin_all(&fixture);
	uint64_t ours = named(&fixture.ranges, 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(
			fallocate(fixture.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE),
			0);
		assert_int_not_equal(address_of(fixture.fd, 0), ours);
	}
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

static void touch(int fd, size_t page)
{
	uint8_t *data = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page * PAGE);
	assert_true(data != MAP_FAILED);
	*(volatile uint8_t *)data = 1;
	munmap(data, PAGE);
}

/* However soon after it was pinned, and though there is another page in its place already. */
static void a_page_that_its_file_has_lost_is_missed_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 600 * PAGE);
	for (size_t page = 0; page < 600; page += 13) {
		int pinned = pin_all(&fixture);
		assert_int_equal(fallocate(fixture.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					 (off_t)(page * PAGE), PAGE),
			0);
		touch(fixture.fd, page);
		assert_false(holds(&fixture, pinned));
		unpin(&fixture, pinned);
	}
	tear_down(&fixture);
}

static void what_is_cut_off_is_missed(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 3 * PAGE);
	int pinned = pin_all(&fixture);
	assert_int_equal(ftruncate(fixture.fd, 2 * PAGE + 1), 0); // the page stays
	assert_true(holds(&fixture, pinned));
	assert_int_equal(ftruncate(fixture.fd, 2 * PAGE), 0);
	assert_int_equal(ftruncate(fixture.fd, 3 * PAGE), 0);
	assert_false(holds(&fixture, pinned));
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

static void a_file_that_is_written_or_grows_holds_its_pages(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 3 * PAGE + 17);
	int pinned = pin_all(&fixture);
	for (size_t page = 0; page < 4; page++) {
		touch(fixture.fd, page);
	}
	assert_int_equal(pwrite(fixture.fd, "here", 4, PAGE), 4);
	assert_int_equal(ftruncate(fixture.fd, 9 * PAGE), 0);
	assert_int_equal(fallocate(fixture.fd, 0, 0, 12 * PAGE), 0);
	assert_true(holds(&fixture, pinned));
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

/* A session that ends unpins nothing by itself. */
static void what_is_still_pinned_goes_with_the_pinner(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, PAGE);
	assert_int_equal(pin(&fixture, fixture.fd, PAGE), 0);
	assert_int_equal(pin(&fixture, fixture.fd, PAGE), 1);
	tear_down(&fixture);
}

static void what_is_too_short_is_not_pinned(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, 2 * PAGE);
	assert_true(pin(&fixture, fixture.fd, 3 * PAGE) < 0);
	fixture.ranges.size = 0;
	int pinned = pin(&fixture, fixture.fd, 2 * PAGE); // its place is free again
	assert_int_equal(pinned, 0);
	unpin(&fixture, pinned);
	tear_down(&fixture);
}

static void what_cannot_be_written_is_not_pinned(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, PAGE);
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fixture.fd);
	int read_only = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(read_only >= 0);
	assert_true(pin(&fixture, read_only, PAGE) < 0);
	close(read_only);
	tear_down(&fixture);
}

static void places_are_used_again(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture, PAGE);
	for (int i = 0; i < 10000; i++) {
		int pinned = pin_all(&fixture);
		assert_int_equal(pinned, 0);
		unpin(&fixture, pinned);
	}
	tear_down(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(pages_are_named_in_their_order),
		fd_count_test(neighbours_are_one_range),
		fd_count_test(a_file_may_end_within_a_page),
		fd_count_test(what_was_in_the_array_stays),
		fd_count_test(a_page_whose_file_has_lost_it_is_not_used_again),
		fd_count_test(a_page_that_its_file_has_lost_is_missed_at_once),
		fd_count_test(what_is_cut_off_is_missed),
		fd_count_test(a_file_that_is_written_or_grows_holds_its_pages),
		fd_count_test(what_is_still_pinned_goes_with_the_pinner),
		fd_count_test(what_is_too_short_is_not_pinned),
		fd_count_test(what_cannot_be_written_is_not_pinned),
		fd_count_test(places_are_used_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
