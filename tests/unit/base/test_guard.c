#include "base/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define PAGE 4096

struct sum {
	const volatile uint8_t *data;
	size_t len;
	unsigned int value;
};

static void add_up(void *data)
{
	struct sum *sum = data;
	for (size_t i = 0; i < sum->len; i++) {
		sum->value += sum->data[i];
	}
}

static void memory_that_stays_is_read(void **state)
{
	(void)state;
	static const uint8_t data[] = {1, 2, 3};
	struct sum sum = {.data = data, .len = sizeof(data)};
	assert_true(guard_run(add_up, &sum));
	assert_int_equal(sum.value, 6);
}

static void memory_that_was_truncated_ends_the_reading_each_time(void **state)
{
	(void)state;
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	uint8_t *data = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	data[0] = data[PAGE] = 1;
	for (int i = 0; i < 3; i++) {
		struct sum sum = {.data = data, .len = 2 * PAGE};
		assert_true(guard_run(add_up, &sum));
		assert_int_equal(sum.value, 2);
		assert_int_equal(ftruncate(fd, PAGE), 0);
		sum.value = 0;
		assert_false(guard_run(add_up, &sum));
		assert_int_equal(sum.value, 1); // what is left of it was read
		assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
		data[PAGE] = 1;
	}
	munmap(data, 2 * PAGE);
	close(fd);
}

int main(void)
{
	// cmocka takes SIGBUS back after each test: only the first can have one that is caught
	const struct CMUnitTest tests[] = {
		fd_count_test(memory_that_was_truncated_ends_the_reading_each_time),
		fd_count_test(memory_that_stays_is_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
