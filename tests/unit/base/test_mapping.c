#include "base/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define PAGE 4096

static int new_memfd(off_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	return fd;
}

static bool is_mapped(void *page)
{
	unsigned char present;
	return mincore(page, PAGE, &present) == 0;
}

static void a_mapping_shows_the_file_and_changes_it(void **state)
{
	(void)state;
	int fd = new_memfd(100);
	char bytes[3];
	assert_int_equal(pwrite(fd, "abc", 3, 50), 3);
	struct mapping *mapping = mapping_create(fd, 100, true);
	assert_non_null(mapping);
	assert_true(mapping->writable);
	assert_int_equal(mapping->size, 100);
	assert_memory_equal(mapping->data + 50, "abc", 3);
	memcpy(mapping->data, "xyz", 3);
	assert_int_equal(pread(fd, bytes, 3, 0), 3);
	assert_memory_equal(bytes, "xyz", 3);
	mapping_unref(mapping);
	close(fd);
}

static void a_mapping_lives_as_long_as_somebody_refers_to_it(void **state)
{
	(void)state;
	int fd = new_memfd(PAGE);
	struct mapping *mapping = mapping_create(fd, PAGE, false);
	assert_non_null(mapping);
	close(fd); // needed no more
	void *data = mapping->data;
	assert_ptr_equal(mapping_ref(mapping), mapping);
	mapping_unref(mapping);
	assert_true(is_mapped(data));
	mapping_unref(mapping);
	assert_false(is_mapped(data));
	mapping_unref(NULL);
}

static void a_file_that_is_sealed_against_writing_can_be_mapped(void **state)
{
	(void)state;
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(pwrite(fd, "abc", 3, 0), 3);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	struct mapping *mapping = mapping_create_private(fd, 3);
	assert_non_null(mapping);
	assert_false(mapping->writable);
	assert_memory_equal(mapping->data, "abc", 3);
	mapping_unref(mapping);
	close(fd);
}

static void what_cannot_be_mapped_says_so(void **state)
{
	(void)state;
	int fd = new_memfd(PAGE);
	errno = 0;
	assert_null(mapping_create(fd, 0, false));
	assert_int_equal(errno, EINVAL);
	assert_null(mapping_create(fd, SIZE_MAX, false));
	errno = 0;
	assert_null(mapping_create(-1, PAGE, false));
	assert_int_equal(errno, EBADF);

	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int read_only = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(read_only >= 0);
	assert_null(mapping_create(read_only, PAGE, true));
	struct mapping *mapping = mapping_create(read_only, PAGE, false);
	assert_non_null(mapping);
	assert_false(mapping->writable);
	mapping_unref(mapping);
	close(read_only);
	close(fd);
}

static void bytes_are_copied_between_mappings(void **state)
{
	(void)state;
	const size_t size = 3 * PAGE;
	int fds[2] = {new_memfd(size), new_memfd(size)};
	struct mapping *from = mapping_create(fds[0], size, true);
	struct mapping *to = mapping_create(fds[1], size, true);
	for (size_t i = 0; i < size; i++) {
		from->data[i] = (uint8_t)(i * 13);
	}
	assert_true(mapping_copy(to->data + 1, from->data + 2, size - 2));
	assert_memory_equal(to->data + 1, from->data + 2, size - 2);
	assert_int_equal(to->data[0], 0);
	assert_int_equal(to->data[size - 1], 0);
	assert_true(mapping_copy(to->data, from->data, 0));
	assert_int_equal(to->data[0], 0);
	mapping_unref(from);
	mapping_unref(to);
	close(fds[0]);
	close(fds[1]);
}

static void a_copy_from_or_to_memory_that_vanished_fails_and_does_not_kill(void **state)
{
	(void)state;
	const size_t size = 3 * PAGE;
	int fds[2] = {new_memfd(size), new_memfd(size)};
	struct mapping *whole = mapping_create(fds[0], size, true);
	struct mapping *cut = mapping_create(fds[1], size, true);
	memset(whole->data, 1, size);
	assert_int_equal(ftruncate(fds[1], PAGE), 0);
	assert_false(mapping_copy(cut->data, whole->data, size));
	assert_false(mapping_copy(whole->data, cut->data, size));
	assert_false(mapping_copy(cut->data + PAGE, whole->data, 1));
	assert_false(mapping_copy(whole->data, cut->data + PAGE, 1));
	assert_true(mapping_copy(cut->data, whole->data, PAGE)); // what is left of it
	mapping_unref(whole);
	mapping_unref(cut);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_mapping_shows_the_file_and_changes_it),
		fd_count_test(a_mapping_lives_as_long_as_somebody_refers_to_it),
		fd_count_test(a_file_that_is_sealed_against_writing_can_be_mapped),
		fd_count_test(what_cannot_be_mapped_says_so),
		fd_count_test(bytes_are_copied_between_mappings),
		fd_count_test(a_copy_from_or_to_memory_that_vanished_fails_and_does_not_kill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
