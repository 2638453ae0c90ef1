#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <wayland-util.h>

#include "host-proxy/guest_memory.h"
#include "host-proxy/ram_buffer.h"
#include "tests/support/fd_count.h"

#define PAGE    UINT64_C(4096)
#define ADDRESS UINT64_C(0x100000) // of the first region, whose bytes are at PAGE of its file
#define PAGES   8                  // of each region
#define HIGH    UINT64_C(0x100000000)

static const struct ram_buffers limits = {.device = -1, .max_pieces = 4, .max_size = 12 * PAGE};

static int make_file(unsigned int seals)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, (off_t)((PAGES + 1) * PAGE)), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void add(struct guest_memory *memory, uint64_t address, int fd)
{
	const struct guest_range range = {address, PAGES * PAGE, address, PAGE};
	assert_null(guest_memory_add(memory, &range, fd));
}

// Two regions side by side, and one far away.
static void begin(struct guest_memory *memory)
{
	guest_memory_init(memory);
	add(memory, ADDRESS, make_file(F_SEAL_SHRINK));
	add(memory, ADDRESS + PAGES * PAGE, make_file(F_SEAL_SHRINK));
	add(memory, HIGH, make_file(0));
}

struct piece {
	size_t region;
	uint64_t offset, size; // pages
};

static void expect_pieces(const struct guest_memory *memory, const struct ram_range *ranges,
	size_t n, const struct piece *expected, size_t n_expected)
{
	struct wl_array pieces;
	uint64_t size, sum = 0;
	wl_array_init(&pieces);
	assert_null(ram_buffer_find(&limits, memory, ranges, n, &pieces, &size));
	const struct udmabuf_create_item *list = pieces.data;
	assert_int_equal(pieces.size, n_expected * sizeof(*list));
	for (size_t i = 0; i < n_expected; i++) {
		assert_int_equal(list[i].memfd, memory->regions[expected[i].region].fd);
		assert_int_equal(list[i].offset, expected[i].offset * PAGE);
		assert_int_equal(list[i].size, expected[i].size * PAGE);
		sum += list[i].size;
	}
	assert_int_equal(size, sum);
	wl_array_release(&pieces);
}

static void neighbours_are_one_piece(void **state)
{
	(void)state;
	const struct ram_range ranges[] = {
		{ADDRESS, PAGE}, {ADDRESS + PAGE, 2 * PAGE}, {ADDRESS + 4 * PAGE, PAGE},
		{ADDRESS + 3 * PAGE, PAGE}, // it is before the last one
	};
	const struct piece expected[] = {{0, 1, 3}, {0, 5, 1}, {0, 4, 1}};
	struct guest_memory memory;
	begin(&memory);
	expect_pieces(&memory, ranges, 4, expected, 3);
	guest_memory_finish(&memory);
}

static void a_range_is_cut_where_a_region_ends(void **state)
{
	(void)state;
	const struct ram_range ranges[] = {
		{ADDRESS + 6 * PAGE, 4 * PAGE},
		{HIGH, PAGE},
	};
	const struct piece expected[] = {{0, 7, 2}, {1, 1, 2}, {2, 1, 1}};
	struct guest_memory memory;
	begin(&memory);
	expect_pieces(&memory, ranges, 2, expected, 3);
	guest_memory_finish(&memory);
}

static void expect_wrong(const struct ram_range *ranges, size_t n, const char *expected)
{
	struct guest_memory memory;
	struct wl_array pieces;
	uint64_t size;
	begin(&memory);
	wl_array_init(&pieces);
	const char *wrong = ram_buffer_find(&limits, &memory, ranges, n, &pieces, &size);
	assert_non_null(wrong);
	assert_string_equal(wrong, expected);
	wl_array_release(&pieces);
	guest_memory_finish(&memory);
}

static void impossible_ranges_are_refused(void **state)
{
	(void)state;
	const char *outside = "a range outside of the guest's memory";
	const char *impossible = "a range of an impossible size";
	const char *uneven = "a range that is not of whole pages";
	expect_wrong(NULL, 0, "no range");
	expect_wrong(&(struct ram_range){ADDRESS, 0}, 1, impossible);
	expect_wrong(&(struct ram_range){UINT64_MAX - PAGE + 1, 2 * PAGE}, 1, impossible);
	expect_wrong(&(struct ram_range){ADDRESS, UINT64_MAX}, 1, impossible);
	expect_wrong(&(struct ram_range){ADDRESS - PAGE, 2 * PAGE}, 1, outside);
	expect_wrong(&(struct ram_range){ADDRESS + 15 * PAGE, 2 * PAGE}, 1, outside);
	expect_wrong(&(struct ram_range){ADDRESS + 16 * PAGE, PAGE}, 1, outside);
	expect_wrong(&(struct ram_range){ADDRESS + 1, PAGE}, 1, uneven);
	expect_wrong(&(struct ram_range){ADDRESS, PAGE - 1}, 1, uneven);
}

static void limits_are_kept(void **state)
{
	(void)state;
	struct ram_range ranges[5];
	const char *size = "more bytes than udmabuf's size_limit_mb";
	for (size_t i = 0; i < 5; i++) {
		ranges[i] = (struct ram_range){ADDRESS + 2 * i * PAGE, PAGE};
	}
	expect_wrong(ranges, 5, "more pieces than udmabuf's list_limit");
	ranges[0].size = 13 * PAGE;
	expect_wrong(ranges, 1, size);
	ranges[0].size = ranges[1].size = 7 * PAGE;
	expect_wrong(ranges, 2, size);
}

static void expect_no_buffer(const struct ram_buffers *buffers, const struct guest_memory *memory,
	uint64_t address, const char *expected)
{
	const struct ram_range range = {address, PAGE};
	const char *wrong = NULL;
	uint64_t size;
	assert_int_equal(ram_buffer_create(buffers, memory, &range, 1, &size, &wrong), -1);
	assert_string_equal(wrong, expected);
}

static void there_is_no_buffer_without_udmabuf(void **state)
{
	(void)state;
	struct guest_memory memory;
	begin(&memory);
	expect_no_buffer(&limits, &memory, ADDRESS, "there is no /dev/udmabuf");
	guest_memory_finish(&memory);
}

static void memory_that_may_shrink_makes_no_buffer(void **state)
{
	(void)state;
	struct ram_buffers buffers = limits;
	struct guest_memory memory;
	begin(&memory);
	buffers.device = open("/dev/null", O_RDWR | O_CLOEXEC);
	expect_no_buffer(
		&buffers, &memory, HIGH, "the guest's memory is not sealed against shrinking");
	expect_no_buffer(&buffers, &memory, ADDRESS, "udmabuf does not take it");
	ram_buffers_close(&buffers);
	guest_memory_finish(&memory);
}

static void all_of_the_memory_is_checked_at_once(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	add(&memory, ADDRESS, make_file(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	assert_null(ram_buffers_check(&memory));
	add(&memory, HIGH, make_file(F_SEAL_GROW));
	assert_string_equal(
		ram_buffers_check(&memory), "the guest's memory is not sealed against shrinking");
	guest_memory_finish(&memory);
}

// What either side writes, the other one sees.
static void check_shared(int buffer, size_t size, const struct guest_memory *memory)
{
	uint8_t *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, buffer, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	size_t len = 1;
	uint8_t *first = guest_memory_at(memory, ADDRESS + 6 * PAGE, &len);
	uint8_t *second = guest_memory_at(memory, ADDRESS + 8 * PAGE, &len);
	uint8_t *third = guest_memory_at(memory, ADDRESS, &len);
	first[0] = 1;
	second[0] = 2;
	third[PAGE - 1] = 3;
	assert_int_equal(data[0], 1);
	assert_int_equal(data[2 * PAGE], 2);
	assert_int_equal(data[4 * PAGE - 1], 3);
	data[2 * PAGE] = 4;
	assert_int_equal(second[0], 4);
	munmap(data, size);
}

static void a_buffer_is_the_guests_own_pages(void **state)
{
	(void)state;
	const struct ram_range ranges[] = {{ADDRESS + 6 * PAGE, 3 * PAGE}, {ADDRESS, PAGE}};
	struct ram_buffers buffers;
	struct guest_memory memory;
	const char *wrong = NULL;
	uint64_t size = 0;
	if (ram_buffers_open(&buffers) < 0) {
		assert_int_equal(buffers.device, -1);
		skip();
	}
	begin(&memory);
	int fd = ram_buffer_create(&buffers, &memory, ranges, 2, &size, &wrong);
	assert_null(wrong);
	assert_int_equal(size, 4 * PAGE);
	assert_int_equal(lseek(fd, 0, SEEK_END), size);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	check_shared(fd, (size_t)size, &memory);
	close(fd);
	guest_memory_finish(&memory);
	ram_buffers_close(&buffers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(neighbours_are_one_piece),
		fd_count_test(a_range_is_cut_where_a_region_ends),
		fd_count_test(impossible_ranges_are_refused),
		fd_count_test(limits_are_kept),
		fd_count_test(there_is_no_buffer_without_udmabuf),
		fd_count_test(memory_that_may_shrink_makes_no_buffer),
		fd_count_test(all_of_the_memory_is_checked_at_once),
		fd_count_test(a_buffer_is_the_guests_own_pages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
