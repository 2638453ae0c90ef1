#include "program/leftovers.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

static const uint64_t amounts[BUDGET_COUNT] = {[BUDGET_FDS] = 3, [BUDGET_MEMORY] = 100};

// A socket with something unread; *reader is its peer.
static int new_socket(int *reader)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(send(pair[0], "xy", 2, 0), 2);
	*reader = pair[1];
	return pair[0];
}

static void read_byte(int fd)
{
	char byte;
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 1);
}

static void what_is_left_is_charged_until_it_is_read(void **state)
{
	(void)state;
	struct leftovers leftovers;
	int readers[2];
	leftovers_init(&leftovers);
	for (size_t i = 0; i < 2; i++) {
		assert_true(leftovers_add(&leftovers, new_socket(&readers[i]), amounts));
	}
	assert_int_equal(leftovers.charged[BUDGET_FDS], 6);
	assert_int_equal(leftovers.charged[BUDGET_MEMORY], 200);
	read_byte(readers[0]);
	assert_true(leftovers_look(&leftovers));
	assert_int_equal(leftovers.charged[BUDGET_FDS], 6);
	read_byte(readers[0]);
	assert_true(leftovers_look(&leftovers));
	assert_int_equal(leftovers.charged[BUDGET_FDS], 3);
	assert_int_equal(leftovers.charged[BUDGET_MEMORY], 100);
	close(readers[1]); // which will never read it
	assert_false(leftovers_look(&leftovers));
	assert_int_equal(leftovers.charged[BUDGET_FDS], 0);
	close(readers[0]);
	leftovers_finish(&leftovers);
}

static void a_listener_that_does_not_accept_has_read_nothing(void **state)
{
	(void)state;
	struct leftovers leftovers;
	struct sockaddr_un {
		sa_family_t family;
		char name[8];
	} address = {.family = AF_UNIX};
	socklen_t len = sizeof(sa_family_t); // the kernel makes up a name
	leftovers_init(&leftovers);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	len = sizeof(address);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, len), 0);
	assert_int_equal(send(fd, "x", 1, 0), 1);
	shutdown(fd, SHUT_RDWR); // as the end of its session does
	assert_true(leftovers_add(&leftovers, fd, amounts));
	assert_true(leftovers_look(&leftovers));
	close(listener);
	assert_false(leftovers_look(&leftovers));
	leftovers_finish(&leftovers);
}

static void nothing_but_sockets_is_looked_at(void **state)
{
	(void)state;
	struct leftovers leftovers;
	int pipe_fds[2];
	leftovers_init(&leftovers);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	assert_false(leftovers_add(&leftovers, pipe_fds[0], amounts));
	assert_false(leftovers_add(&leftovers, pipe_fds[1], amounts));
	assert_false(
		leftovers_add(&leftovers, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), amounts));
	assert_int_equal(leftovers.count, 0);
	leftovers_finish(&leftovers);
}

static void there_are_no_more_than_there_may_be(void **state)
{
	(void)state;
	uint64_t huge[BUDGET_COUNT];
	memset(huge, 0xff, sizeof(huge));
	struct leftovers leftovers;
	int reader, other;
	leftovers_init(&leftovers);
	int fd = new_socket(&reader);
	for (size_t i = 0; i < LEFTOVERS_MAX; i++) {
		int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		assert_true(leftovers_add(&leftovers, copy, huge));
	}
	uint64_t charged = leftovers.charged[BUDGET_FDS];
	assert_true(charged > UINT64_MAX / 4); // and has not wrapped around
	assert_true(leftovers_add(&leftovers, new_socket(&other), amounts));
	assert_int_equal(leftovers.count, LEFTOVERS_MAX);
	assert_int_equal(leftovers.charged[BUDGET_FDS], charged);
	close(fd);
	close(reader);
	close(other);
	while (leftovers_look(&leftovers)) {
		sched_yield();
	}
	assert_int_equal(leftovers.charged[BUDGET_FDS], 0);
	leftovers_finish(&leftovers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_left_is_charged_until_it_is_read),
		fd_count_test(a_listener_that_does_not_accept_has_read_nothing),
		fd_count_test(nothing_but_sockets_is_looked_at),
		fd_count_test(there_are_no_more_than_there_may_be),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
