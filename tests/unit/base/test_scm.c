#include "base/scm.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fdlist.h"
#include "tests/support/fd_count.h"

static int pair[2];

static int setup(void **state)
{
	fd_count_setup(state);
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		if (pair[i] >= 0) {
			close(pair[i]);
		}
	}
	return fd_count_teardown(state);
}

static void close_end(size_t i)
{
	close(pair[i]);
	pair[i] = -1;
}

static void add_fds(struct fdlist *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int fd = open("/dev/null", O_RDONLY); // without CLOEXEC
		assert_true(fd >= 0);
		assert_true(fdlist_push(list, fd));
	}
}

static void send_text(const char *text, struct fdlist *fds, size_t n_fds)
{
	struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	assert_int_equal(scm_send(pair[0], &iov, 1, fds, n_fds), (ssize_t)strlen(text));
}

static void bytes_cross_from_several_pieces(void **state)
{
	(void)state;
	struct iovec iov[] = {
		{.iov_base = "abc", .iov_len = 3},
		{.iov_base = "", .iov_len = 0},
		{.iov_base = "defg", .iov_len = 4},
	};
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_send(pair[0], iov, 3, &fds, 0), 7);
	char bytes[16];
	assert_int_equal(scm_recv(pair[1], bytes, sizeof(bytes), &fds), 7);
	assert_memory_equal(bytes, "abcdefg", 7);
	assert_int_equal(fds.count, 0);
	fdlist_finish(&fds);
}

static void the_oldest_fds_cross_and_are_cloexec(void **state)
{
	(void)state;
	struct fdlist sent, received;
	fdlist_init(&sent);
	fdlist_init(&received);
	add_fds(&sent, SCM_MAX + 2);
	send_text("x", &sent, SCM_MAX);
	assert_int_equal(sent.count, SCM_MAX + 2); // still the sender's
	fdlist_drop(&sent, SCM_MAX);
	send_text("y", &sent, 2);

	char bytes[16];
	assert_int_equal(scm_recv(pair[1], bytes, sizeof(bytes), &received), 1);
	assert_int_equal(received.count, SCM_MAX);
	assert_int_equal(scm_recv(pair[1], bytes, sizeof(bytes), &received), 1);
	assert_int_equal(received.count, SCM_MAX + 2);
	struct stat null, got;
	assert_int_equal(stat("/dev/null", &null), 0);
	for (size_t i = 0; i < received.count; i++) {
		int fd = fdlist_peek(&received)[i];
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fstat(fd, &got), 0);
		assert_int_equal(got.st_rdev, null.st_rdev);
	}
	fdlist_finish(&sent);
	fdlist_finish(&received);
}

static void dropped_fds_are_an_error_and_none_leaks(void **state)
{
	(void)state;
	struct fdlist sent, received;
	fdlist_init(&sent);
	fdlist_init(&received);
	add_fds(&sent, 10);
	send_text("x", &sent, 10);
	struct rlimit old, low;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	int next = dup(0);
	close(next);
	low = old;
	low.rlim_cur = (rlim_t)next + 4;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	char byte;
	ssize_t n = scm_recv(pair[1], &byte, 1, &received);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(n, -EPROTO);
	assert_int_equal(received.count, 4);
	fdlist_finish(&received);
	fdlist_finish(&sent);
}

static void nothing_to_read_does_not_block(void **state)
{
	(void)state;
	struct fdlist fds;
	fdlist_init(&fds);
	char byte;
	assert_int_equal(scm_recv(pair[1], &byte, 1, &fds), -EAGAIN);
	fdlist_finish(&fds);
}

static void a_full_socket_does_not_block_and_keeps_the_fds(void **state)
{
	(void)state;
	struct fdlist fds;
	fdlist_init(&fds);
	static char bytes[65536];
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	ssize_t n;
	do {
		n = scm_send(pair[0], &iov, 1, &fds, 0);
	} while (n > 0);
	assert_int_equal(n, -EAGAIN);
	add_fds(&fds, 2);
	assert_int_equal(scm_send(pair[0], &iov, 1, &fds, 2), -EAGAIN);
	assert_int_equal(fds.count, 2);
	fdlist_finish(&fds);
}

static void the_end_is_zero_when_read_and_epipe_when_written(void **state)
{
	(void)state;
	struct fdlist fds;
	fdlist_init(&fds);
	send_text("x", &fds, 0);
	close_end(0);
	char byte;
	assert_int_equal(scm_recv(pair[1], &byte, 1, &fds), 1);
	assert_int_equal(scm_recv(pair[1], &byte, 1, &fds), 0);
	struct iovec iov = {.iov_base = "x", .iov_len = 1};
	assert_int_equal(scm_send(pair[1], &iov, 1, &fds, 0), -EPIPE); // and no SIGPIPE
	fdlist_finish(&fds);
}

int main(void)
{
#define scm_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		scm_test(bytes_cross_from_several_pieces),
		scm_test(the_oldest_fds_cross_and_are_cloexec),
		scm_test(dropped_fds_are_an_error_and_none_leaks),
		scm_test(nothing_to_read_does_not_block),
		scm_test(a_full_socket_does_not_block_and_keeps_the_fds),
		scm_test(the_end_is_zero_when_read_and_epipe_when_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
