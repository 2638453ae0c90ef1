#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define PASSED_FD  3 // where sd_listen_fds(3) begins
#define PASSED_MAX 3

static int open_manager(const struct sockaddr_un *address, size_t name_len)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name_len);
	assert_int_equal(bind(fd, (const struct sockaddr *)address, len), 0);
	return fd;
}

static void assert_told_once(int manager)
{
	char text[64];
	ssize_t n = recv(manager, text, sizeof(text) - 1, 0);
	assert_true(n >= 0);
	text[n] = '\0';
	assert_string_equal(text, "READY=1");
	assert_int_equal(recv(manager, text, sizeof(text), 0), -1);
	assert_int_equal(errno, EAGAIN);
}

static void a_path_socket_is_told_once(void **state)
{
	(void)state;
	char dir[] = "/tmp/notify-XXXXXX";
	assert_non_null(mkdtemp(dir));
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/n", dir);
	int manager = open_manager(&address, strlen(address.sun_path) + 1);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	notify_ready();
	assert_null(getenv("NOTIFY_SOCKET"));
	notify_ready();
	assert_told_once(manager);
	close(manager);
	unlink(address.sun_path);
	rmdir(dir);
}

static void an_abstract_socket_is_told_once(void **state)
{
	(void)state;
	char name[64];
	snprintf(name, sizeof(name), "@fdferry-test-notify-%d", (int)getpid());
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
	int manager = open_manager(&address, strlen(name));
	setenv("NOTIFY_SOCKET", name, 1);
	notify_ready();
	assert_null(getenv("NOTIFY_SOCKET"));
	notify_ready();
	assert_told_once(manager);
	close(manager);
}

static void without_a_manager_nothing_is_said(void **state)
{
	(void)state;
	unsetenv("NOTIFY_SOCKET");
	notify_ready();
	setenv("NOTIFY_SOCKET", "", 1);
	notify_ready();
	assert_null(getenv("NOTIFY_SOCKET"));
}

static void an_address_that_is_none_does_no_harm(void **state)
{
	(void)state;
	static char too_long[4096];
	memset(too_long, 'x', sizeof(too_long) - 1);
	too_long[0] = '/';
	static char just_too_long[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
	memset(just_too_long, 'x', sizeof(just_too_long) - 1);
	just_too_long[0] = '@';
	const char *const paths[] = {"relative", "vsock:2:1", "@", "/", "/nonexistent/notify",
		"/dev/null", too_long, just_too_long};
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		setenv("NOTIFY_SOCKET", paths[i], 1);
		notify_ready();
		assert_null(getenv("NOTIFY_SOCKET"));
	}
}

static void the_longest_address_is_told(void **state)
{
	(void)state;
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	int len = snprintf(name, sizeof(name), "@fdferry-test-notify-long-%d", (int)getpid());
	name[len] = '.';
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
	int manager = open_manager(&address, strlen(name));
	setenv("NOTIFY_SOCKET", name, 1);
	notify_ready();
	assert_told_once(manager);
	close(manager);
}

// What the process itself was started with at those places; -1 if nothing.
static int saved[PASSED_MAX];

static int setup(void **state)
{
	int result = fd_count_setup(state);
	for (int i = 0; i < PASSED_MAX; i++) {
		saved[i] = fcntl(PASSED_FD + i, F_DUPFD_CLOEXEC, PASSED_FD + PASSED_MAX);
	}
	for (int i = 0; i < PASSED_MAX; i++) {
		close(PASSED_FD + i);
	}
	return result;
}

static int teardown(void **state)
{
	for (int i = 0; i < PASSED_MAX; i++) {
		close(PASSED_FD + i);
		if (saved[i] >= 0) {
			dup2(saved[i], PASSED_FD + i);
			close(saved[i]);
		}
	}
	return fd_count_teardown(state);
}

static void pass_as(int fd, int place)
{
	assert_true(fd >= 0);
	if (fd != place) {
		assert_int_equal(dup2(fd, place), place);
		close(fd);
	}
}

static void pass(int fd)
{
	pass_as(fd, PASSED_FD);
}

static int listening_socket(int type)
{
	int fd = socket(AF_UNIX, type, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static void pass_listener(void)
{
	pass(listening_socket(SOCK_STREAM));
}

static void set_variables(long pid, const char *count)
{
	char text[32];
	snprintf(text, sizeof(text), "%ld", pid);
	setenv("LISTEN_PID", text, 1);
	setenv("LISTEN_FDS", count, 1);
	setenv("LISTEN_FDNAMES", "wayland", 1);
}

static void assert_forgotten(void)
{
	assert_null(getenv("LISTEN_PID"));
	assert_null(getenv("LISTEN_FDS"));
	assert_null(getenv("LISTEN_FDNAMES"));
}

static void a_listener_is_taken_cloexec_and_non_blocking(void **state)
{
	(void)state;
	pass_listener();
	set_variables(getpid(), "1");
	assert_int_equal(notify_take_listener(), PASSED_FD);
	assert_int_equal(fcntl(PASSED_FD, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(PASSED_FD, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_forgotten();
	assert_int_equal(notify_take_listener(), 0); // once
}

static void without_variables_there_is_none(void **state)
{
	(void)state;
	pass_listener();
	assert_int_equal(notify_take_listener(), 0);
	setenv("LISTEN_FDS", "1", 1);
	assert_int_equal(notify_take_listener(), 0);
	assert_forgotten();
	set_variables(getpid(), "1");
	unsetenv("LISTEN_FDS");
	assert_int_equal(notify_take_listener(), 0);
	assert_forgotten();
}

static void what_another_process_was_passed_is_left_alone(void **state)
{
	(void)state;
	pass_listener();
	int flags = fcntl(PASSED_FD, F_GETFL);
	set_variables(getppid(), "1");
	assert_int_equal(notify_take_listener(), 0);
	assert_forgotten();
	char trailing[32];
	snprintf(trailing, sizeof(trailing), "%dx", (int)getpid());
	const char *const pids[] = {"", "0", "-1", "self", "99999999999999999999", trailing};
	for (size_t i = 0; i < sizeof(pids) / sizeof(pids[0]); i++) {
		set_variables(0, "1");
		setenv("LISTEN_PID", pids[i], 1);
		assert_int_equal(notify_take_listener(), 0);
		assert_forgotten();
	}
	// Two to the 32nd more is not the same process.
	set_variables((long)getpid() + (1l << 32), "1");
	assert_int_equal(notify_take_listener(), 0);
	assert_int_equal(fcntl(PASSED_FD, F_GETFL), flags);
}

static void any_other_count_than_one_is_refused(void **state)
{
	(void)state;
	pass_listener();
	const char *const counts[] = {"", "0", "2", "-1", "11", "1x", " 1", "4294967297", "one"};
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		set_variables(getpid(), counts[i]);
		assert_int_equal(notify_take_listener(), -EINVAL);
		assert_forgotten();
	}
}

static void what_does_not_listen_is_refused(void **state)
{
	(void)state;
	set_variables(getpid(), "1");
	assert_int_equal(notify_take_listener(), -EBADF); // nothing at all
	assert_forgotten();
	pass(open("/dev/null", O_RDONLY | O_CLOEXEC));
	set_variables(getpid(), "1");
	assert_int_equal(notify_take_listener(), -ENOTSOCK);
	assert_forgotten();
	close(PASSED_FD);
	pass(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	set_variables(getpid(), "1");
	assert_int_equal(notify_take_listener(), -EINVAL);
	assert_forgotten();
	close(PASSED_FD);
	pass(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	set_variables(getpid(), "1");
	assert_int_equal(notify_take_listener(), -EINVAL);
	assert_forgotten();
}

static void several_listeners_are_taken_with_their_names(void **state)
{
	(void)state;
	struct notify_listener listeners[PASSED_MAX];
	pass_listener();
	pass_as(listening_socket(SOCK_SEQPACKET), PASSED_FD + 1);
	pass_as(listening_socket(SOCK_STREAM), PASSED_FD + 2);
	set_variables(getpid(), "3");
	setenv("LISTEN_FDNAMES", "dbus::fdferry-guest.socket", 1);
	assert_int_equal(notify_take_listeners(listeners, PASSED_MAX), 3);
	static const char *const names[] = {"dbus", "", "fdferry-guest.socket"};
	for (int i = 0; i < PASSED_MAX; i++) {
		assert_int_equal(listeners[i].fd, PASSED_FD + i);
		assert_string_equal(listeners[i].name, names[i]);
		assert_int_equal(fcntl(PASSED_FD + i, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		assert_int_equal(fcntl(PASSED_FD + i, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	}
	assert_forgotten();
	assert_int_equal(notify_take_listeners(listeners, PASSED_MAX), 0); // once
}

static void names_may_be_fewer_or_long(void **state)
{
	(void)state;
	struct notify_listener listeners[2];
	char names[2 * NOTIFY_NAME_MAX];
	memset(names, 'n', sizeof(names) - 1);
	names[sizeof(names) - 1] = '\0';
	pass_listener();
	pass_as(listening_socket(SOCK_STREAM), PASSED_FD + 1);
	set_variables(getpid(), "2");
	setenv("LISTEN_FDNAMES", names, 1);
	assert_int_equal(notify_take_listeners(listeners, 2), 2);
	assert_int_equal(strlen(listeners[0].name), NOTIFY_NAME_MAX);
	assert_string_equal(listeners[1].name, "");
	set_variables(getpid(), "2");
	unsetenv("LISTEN_FDNAMES");
	assert_int_equal(notify_take_listeners(listeners, 2), 2);
	assert_string_equal(listeners[0].name, "");
}

static void one_that_does_not_listen_spoils_them_all(void **state)
{
	(void)state;
	struct notify_listener listeners[2];
	pass_listener();
	pass_as(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), PASSED_FD + 1);
	set_variables(getpid(), "2");
	assert_int_equal(notify_take_listeners(listeners, 2), -EINVAL);
	assert_forgotten();
	set_variables(getpid(), "3"); // more than there is room for
	assert_int_equal(notify_take_listeners(listeners, 2), -EINVAL);
	assert_forgotten();
}

int main(void)
{
#define listener_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		fd_count_test(a_path_socket_is_told_once),
		fd_count_test(an_abstract_socket_is_told_once),
		fd_count_test(without_a_manager_nothing_is_said),
		fd_count_test(an_address_that_is_none_does_no_harm),
		fd_count_test(the_longest_address_is_told),
		listener_test(a_listener_is_taken_cloexec_and_non_blocking),
		listener_test(without_variables_there_is_none),
		listener_test(what_another_process_was_passed_is_left_alone),
		listener_test(any_other_count_than_one_is_refused),
		listener_test(what_does_not_listen_is_refused),
		listener_test(several_listeners_are_taken_with_their_names),
		listener_test(names_may_be_fewer_or_long),
		listener_test(one_that_does_not_listen_spoils_them_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
