#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sandbox.h"
#include "host-proxy/guest_memory.h"
#include "tests/support/fd_count.h"

#define PAGE UINT64_C(4096)

static const char *add(struct guest_memory *memory, uint64_t address, uint64_t size,
	uint64_t user_address, uint64_t offset)
{
	const struct guest_range range = {address, size, user_address, offset};
	int fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4 * (off_t)PAGE), 0);
	return guest_memory_add(memory, &range, fd);
}

static void addresses_are_found_in_their_region(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	assert_null(add(&memory, 0x10000, 2 * PAGE, 0x7000000, PAGE));
	assert_null(add(&memory, 0x10000 + 2 * PAGE, PAGE, 0x9000000, 0));
	size_t len = 100;
	uint8_t *first = guest_memory_at(&memory, 0x10000, &len);
	assert_int_equal(len, 100);
	assert_ptr_equal(guest_memory_at_user(&memory, 0x7000000, 2 * PAGE), first);
	assert_null(guest_memory_at_user(&memory, 0x7000000, 2 * PAGE + 1));
	assert_null(guest_memory_at_user(&memory, 0x7000000 + 2 * PAGE, 1));
	assert_null(guest_memory_at_user(&memory, UINT64_MAX, 2));
	len = 3 * PAGE;
	assert_ptr_equal(guest_memory_at(&memory, 0x10000 + 5, &len), first + 5);
	assert_int_equal(len, 2 * PAGE - 5);
	len = 1;
	assert_null(guest_memory_at(&memory, 0xffff, &len));
	assert_null(guest_memory_at(&memory, 0x10000 + 3 * PAGE, &len));
	guest_memory_finish(&memory);
}

static void a_region_begins_anywhere_in_its_file(void **state)
{
	(void)state;
	const struct guest_range range = {.address = PAGE, .size = 100, .offset = PAGE + 10};
	struct guest_memory memory;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 2 * (off_t)PAGE), 0);
	assert_int_equal(pwrite(fd, "here", 4, (off_t)PAGE + 10), 4);
	guest_memory_init(&memory);
	assert_null(guest_memory_add(&memory, &range, fd));
	size_t len = 4;
	assert_memory_equal(guest_memory_at(&memory, PAGE, &len), "here", 4);
	guest_memory_finish(&memory);
}

static void impossible_regions_are_refused(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	assert_non_null(add(&memory, 0, 0, 0, 0));
	assert_non_null(add(&memory, 0, 5 * PAGE, 0, 0));
	assert_non_null(add(&memory, 0, PAGE, 0, 4 * PAGE));
	assert_non_null(add(&memory, 0, PAGE, 0, UINT64_MAX - 10));
	assert_non_null(add(&memory, UINT64_MAX - 10, PAGE, 0, 0));
	assert_non_null(add(&memory, 0, PAGE, UINT64_MAX - 10, 0));
	assert_non_null(add(&memory, 0, UINT64_MAX, 0, 0));
	assert_int_equal(memory.count, 0);
	guest_memory_finish(&memory);
}

static void regions_do_not_overlap(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	assert_null(add(&memory, 4 * PAGE, 2 * PAGE, 100 * PAGE, 0));
	assert_non_null(add(&memory, 5 * PAGE, PAGE, 0, 0));
	assert_non_null(add(&memory, 3 * PAGE, 2 * PAGE, 0, 0));
	assert_non_null(add(&memory, 3 * PAGE, 4 * PAGE, 0, 0));
	assert_non_null(add(&memory, 0, PAGE, 101 * PAGE, 0));
	assert_null(add(&memory, 6 * PAGE, PAGE, 102 * PAGE, 0));
	assert_null(add(&memory, 3 * PAGE, PAGE, 99 * PAGE, 0));
	guest_memory_finish(&memory);
}

static void a_region_can_be_removed(void **state)
{
	(void)state;
	struct guest_memory memory;
	struct guest_range range = {PAGE, PAGE, PAGE, 0};
	size_t len = 1;
	guest_memory_init(&memory);
	assert_null(add(&memory, PAGE, PAGE, PAGE, 0));
	range.size = 2 * PAGE;
	assert_non_null(guest_memory_remove(&memory, &range));
	range.size = PAGE;
	assert_null(guest_memory_remove(&memory, &range));
	assert_null(guest_memory_at(&memory, PAGE, &len));
	assert_non_null(guest_memory_remove(&memory, &range));
	guest_memory_finish(&memory);
}

static void there_are_only_so_many_regions(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	for (uint64_t i = 0; i < GUEST_MEMORY_MAX; i++) {
		assert_null(add(&memory, i * PAGE, PAGE, i * PAGE, 0));
	}
	assert_non_null(add(&memory, 100 * PAGE, PAGE, 100 * PAGE, 0));
	guest_memory_finish(&memory);
}

static void a_piece_is_found_in_its_file(void **state)
{
	(void)state;
	struct guest_memory memory;
	uint32_t file;
	uint64_t offset;
	size_t len = 1;
	guest_memory_init(&memory);
	assert_null(add(&memory, 0, PAGE, 0, 10));
	assert_null(add(&memory, 4 * PAGE, PAGE, 4 * PAGE, 3 * PAGE));
	uint8_t *first = guest_memory_at(&memory, 0, &len);
	assert_true(guest_memory_locate(&memory, first, &file, &offset));
	assert_int_equal(file, 0);
	assert_int_equal(offset, 10);
	assert_true(guest_memory_locate(&memory, first + PAGE - 1, &file, &offset));
	assert_int_equal(offset, PAGE + 9);
	const uint8_t *second = guest_memory_at(&memory, 4 * PAGE + 5, &len);
	assert_true(guest_memory_locate(&memory, second, &file, &offset));
	assert_int_equal(file, 1);
	assert_int_equal(offset, 3 * PAGE + 5);
	assert_false(guest_memory_locate(&memory, &memory, &file, &offset));
	guest_memory_finish(&memory);
}

static void the_files_that_are_kept_cannot_be_written_to(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	assert_null(add(&memory, 0, PAGE, 0, 0));
	assert_int_equal(fcntl(memory.regions[0].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(memory.regions[0].fd, F_GETFD), FD_CLOEXEC);
	guest_memory_finish(&memory);
}

/* As a session can that was taken over: by a description that is for reading only. */
static int reopen_in_sandbox(int fd, int flags)
{
	const struct sandbox_profile profile = {
		.rules = {sandbox_basics},
		.opens = true,
		.strict = true,
		.report_fd = -1,
	};
	struct sandbox_filter filter = {0};
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int error = sandbox_enter(&profile, &filter);
		_exit(error == 0 && open(path, flags | O_CLOEXEC) < 0 ? errno : 0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void who_is_given_a_file_cannot_open_it_for_writing(void **state)
{
	(void)state;
	struct guest_memory memory;
	guest_memory_init(&memory);
	assert_null(add(&memory, 0, PAGE, 0, 0));
	assert_int_equal(reopen_in_sandbox(memory.regions[0].fd, O_RDWR), EACCES);
	assert_int_equal(reopen_in_sandbox(memory.regions[0].fd, O_WRONLY), EACCES);
	guest_memory_finish(&memory);
}

static void a_file_with_a_name_keeps_its_mode(void **state)
{
	(void)state;
	const struct guest_range range = {.size = PAGE};
	struct guest_memory memory;
	struct stat st;
	char name[] = "/tmp/guest-memory-XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)PAGE), 0);
	assert_int_equal(fchmod(fd, 0640), 0);
	guest_memory_init(&memory);
	assert_null(guest_memory_add(&memory, &range, fd));
	assert_int_equal(stat(name, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	guest_memory_finish(&memory);
	unlink(name);
}

static void memory_whose_file_cannot_be_kept_is_memory(void **state)
{
	(void)state;
	const struct guest_range range = {.size = PAGE};
	struct guest_memory memory;
	struct rlimit limit, none;
	uint32_t file;
	uint64_t offset;
	size_t len = 1;
	guest_memory_init(&memory);
	int fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)PAGE), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	const char *wrong = guest_memory_add(&memory, &range, fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_null(wrong);
	assert_null(add(&memory, 4 * PAGE, PAGE, 4 * PAGE, 0));
	const uint8_t *data = guest_memory_at(&memory, 0, &len);
	assert_non_null(data);
	assert_false(guest_memory_locate(&memory, data, &file, &offset));
	data = guest_memory_at(&memory, 4 * PAGE, &len);
	assert_true(guest_memory_locate(&memory, data, &file, &offset));
	assert_int_equal(file, 0); // the first that is kept
	guest_memory_finish(&memory);
}

static void each_change_has_its_version(void **state)
{
	(void)state;
	const struct guest_range range = {.address = PAGE, .size = PAGE, .user_address = PAGE};
	struct guest_memory memory;
	guest_memory_init(&memory);
	uint32_t version = memory.version;
	assert_int_not_equal(version, 0);
	assert_null(add(&memory, PAGE, PAGE, PAGE, 0));
	assert_int_not_equal(memory.version, version);
	version = memory.version;
	assert_non_null(add(&memory, PAGE, PAGE, PAGE, 0));
	assert_int_equal(memory.version, version);
	assert_null(guest_memory_remove(&memory, &range));
	assert_int_not_equal(memory.version, version);
	memory.version = UINT32_MAX;
	guest_memory_finish(&memory);
	assert_int_equal(memory.version, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(addresses_are_found_in_their_region),
		fd_count_test(a_region_begins_anywhere_in_its_file),
		fd_count_test(impossible_regions_are_refused),
		fd_count_test(regions_do_not_overlap),
		fd_count_test(a_region_can_be_removed),
		fd_count_test(there_are_only_so_many_regions),
		fd_count_test(a_piece_is_found_in_its_file),
		fd_count_test(the_files_that_are_kept_cannot_be_written_to),
		fd_count_test(who_is_given_a_file_cannot_open_it_for_writing),
		fd_count_test(a_file_with_a_name_keeps_its_mode),
		fd_count_test(memory_whose_file_cannot_be_kept_is_memory),
		fd_count_test(each_change_has_its_version),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
