#include "fdpass/device.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "tests/support/fd_count.h"

static const char *const paths[] = {
	[CHANNEL_DEVICE_NULL] = "/dev/null",
	[CHANNEL_DEVICE_ZERO] = "/dev/zero",
	[CHANNEL_DEVICE_FULL] = "/dev/full",
	[CHANNEL_DEVICE_RANDOM] = "/dev/random",
	[CHANNEL_DEVICE_URANDOM] = "/dev/urandom",
};

// What the host is given for what the guest has.
static int cross(struct ends *ends, const char *path, int flags)
{
	const char *wrong;
	int fd = open(path, flags | O_CLOEXEC);
	assert_true(fd >= 0);
	uint32_t id = device_export(&ends->guest.refs, fd, &wrong);
	assert_int_not_equal(id, 0);
	assert_null(wrong);
	assert_int_equal(fcntl(fd, F_GETFD), -1); // needed no more
	ends_run(ends);
	assert_null(ends->host.wrong);
	int given = end_take(&ends->host);
	assert_true(given >= 0);
	assert_int_equal(fcntl(given, F_GETFD), FD_CLOEXEC);
	fdrefs_get(&ends->guest.refs, id)->interface->named(fdrefs_get(&ends->guest.refs, id));
	return given;
}

static void each_is_opened_anew_as_it_was(void **state)
{
	(void)state;
	static const int flags[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_NONBLOCK};
	struct ends ends;
	ends_init(&ends);
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		struct stat expected, found;
		assert_int_equal(stat(paths[i], &expected), 0);
		for (size_t j = 0; j < sizeof(flags) / sizeof(flags[0]); j++) {
			int fd = cross(&ends, paths[i], flags[j]);
			assert_int_equal(fstat(fd, &found), 0);
			assert_true(found.st_rdev == expected.st_rdev);
			assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), flags[j]);
			close(fd);
		}
	}
	ends_finish(&ends);
}

static void nothing_is_kept_of_it(void **state)
{
	(void)state;
	struct ends ends;
	char byte = 1;
	ends_init(&ends);
	int fd = cross(&ends, "/dev/zero", O_RDWR);
	ends_run(&ends);
	assert_int_equal(ends.guest.refs.ours.used, 0);
	assert_int_equal(ends.host.refs.theirs.used, 0);
	assert_int_equal(ends.guest.refs.counts.devices, 1);
	assert_int_equal(ends.host.refs.counts.devices, 1);
	assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(byte, 0);
	close(fd);
	ends_finish(&ends);
}

static void another_device_does_not_cross(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(device_export(&ends.guest.refs, fd, &wrong), 0);
	assert_non_null(wrong);
	assert_int_equal(device_export(&ends.guest.refs, new_memfd(1), &wrong), 0);
	assert_non_null(wrong);
	assert_int_equal(ends.guest.refs.ours.used, 0);
	ends_finish(&ends);
}

static void one_too_many_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	ends.guest.budget.limits.most[BUDGET_FDS] = 0;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(device_export(&ends.guest.refs, fd, &wrong), 0);
	assert_non_null(wrong);
	ends_finish(&ends);
}

static void frames_that_are_wrong_end_the_session(void **state)
{
	(void)state;
	static const struct channel_open_device wrong[] = {
		{.device = CHANNEL_DEVICE_URANDOM + 1},
		{.device = UINT32_MAX},
		{.access = CHANNEL_ACCESS_BOTH + 1},
		{.nonblocking = 2},
	};
	const uint32_t id = CHANNEL_ID_HOST | 1, kind = CHANNEL_KIND_DEVICE;
	struct channel_open_device good = {0};
	struct ends ends;
	ends_init(&ends);
	struct end *guest = &ends.guest;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(
			end_frame(guest, CHANNEL_OPEN, id, kind, &wrong[i], sizeof(wrong[i])));
	}
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &good, sizeof(good) - 4));
	assert_int_equal(guest->refs.theirs.used, 0);
	assert_null(end_frame(guest, CHANNEL_OPEN, id, kind, &good, sizeof(good)));
	for (uint16_t type = CHANNEL_MEM_COPY; type <= CHANNEL_EVENT_ADD; type++) {
		assert_non_null(end_frame(guest, type, id, 0, &good, sizeof(good)));
	}
	assert_null(end_frame(guest, CHANNEL_CLOSE, id, 0, NULL, 0));
	assert_non_null(end_frame(guest, CHANNEL_CLOSE, id, 0, NULL, 0));

	const char *reason;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	uint32_t ours = device_export(&guest->refs, fd, &reason);
	assert_non_null(end_frame(guest, CHANNEL_EVENT_ADD, ours, 0, &good, 8));
	assert_non_null(end_frame(guest, CHANNEL_CLOSED, ours, 0, NULL, 0));
	ends_finish(&ends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(each_is_opened_anew_as_it_was),
		fd_count_test(nothing_is_kept_of_it),
		fd_count_test(another_device_does_not_cross),
		fd_count_test(one_too_many_is_refused),
		fd_count_test(frames_that_are_wrong_end_the_session),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
