#include "base/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "tests/support/fd_count.h"
#include "tests/support/lingering.h"

static void an_fd_whose_close_waits_is_gone_at_once(void **state)
{
	(void)state;
	int peer, fd = lingering_create(&peer);
	if (fd < 0) {
		skip();
	}
	closer_close(fd);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(errno, EBADF);
	close(peer);
}

static void signals_are_as_before(void **state)
{
	(void)state;
	sigset_t before, after;
	int pipe_fds[2];
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	sigprocmask(SIG_SETMASK, NULL, &before);
	closer_close(pipe_fds[0]);
	closer_close(pipe_fds[1]);
	sigprocmask(SIG_SETMASK, NULL, &after);
	for (int signal = 1; signal < SIGRTMAX; signal++) {
		assert_int_equal(sigismember(&after, signal), sigismember(&before, signal));
	}
}

#define MANY 100

// Each costs a thread: who takes more than there may be has not asked.
static void threads_that_wait_are_counted(void **state)
{
	(void)state;
	int peers[MANY];
	size_t n = 0;
	while (n < MANY && !closer_is_full()) {
		int fd = lingering_create(&peers[n]);
		if (fd < 0) {
			skip();
		}
		closer_close(fd);
		n++;
	}
	assert_in_range(n, 1, MANY - 1);
	while (n > 0) {
		close(peers[--n]);
	}
	while (closer_is_full()) {
		sched_yield();
	}
}

// A local program can send any number before it is turned away.
static void no_thread_waits_for_what_is_in_a_socket(void **state)
{
	(void)state;
	int peers[MANY];
	for (size_t i = 0; i < MANY; i++) {
		int pair[2], fd = lingering_create(&peers[i]);
		if (fd < 0) {
			skip();
		}
		const struct fdlist fds = {.fds = &fd, .count = 1};
		struct iovec byte = {.iov_base = "x", .iov_len = 1};
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		assert_int_equal(scm_send(pair[0], &byte, 1, &fds, 1), 1);
		close(fd);
		close(pair[0]);
		closer_close_socket(pair[1]);
		assert_int_equal(fcntl(pair[1], F_GETFD), -1);
		assert_false(closer_is_full());
	}
	for (size_t i = 0; i < MANY; i++) {
		close(peers[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(an_fd_whose_close_waits_is_gone_at_once),
		fd_count_test(signals_are_as_before),
		fd_count_test(threads_that_wait_are_counted),
		fd_count_test(no_thread_waits_for_what_is_in_a_socket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
