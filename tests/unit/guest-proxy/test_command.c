#include "guest-proxy/command.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/rlimit.h"
#include "tests/support/fd_count.h"

#define STILL_RUNS (-1)
#define GIVEN      256 // open files, the soft limit that the process starts with

static struct event_base *base;
static int status;

static void handle_exited(void *data, int value)
{
	assert_ptr_equal(data, &status);
	assert_int_equal(status, STILL_RUNS); // once
	status = value;
	event_base_loopbreak(base);
}

static int setup(void **state)
{
	int result = fd_count_setup(state);
	status = STILL_RUNS;
	base = event_base_new();
	return base != NULL ? result : -1;
}

static int teardown(void **state)
{
	event_base_free(base);
	return fd_count_teardown(state);
}

static struct command *start(const char *script)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};
	return command_create(base, argv, "wayland-7", handle_exited, &status);
}

static int run(const char *script)
{
	struct command *command = start(script);
	assert_non_null(command);
	event_base_dispatch(base);
	command_destroy(command);
	return status;
}

static void its_status_is_told(void **state)
{
	(void)state;
	assert_int_equal(run("exit 0"), 0);
	status = STILL_RUNS;
	assert_int_equal(run("exit 7"), 7);
	status = STILL_RUNS;
	assert_int_equal(run("exit 255"), 255);
}

static void a_signal_is_told_as_a_shell_does(void **state)
{
	(void)state;
	assert_int_equal(run("kill -KILL $$"), 128 + SIGKILL);
}

static void it_is_told_the_display_and_no_socket(void **state)
{
	(void)state;
	setenv("WAYLAND_DISPLAY", "wayland-0", 1);
	setenv("WAYLAND_SOCKET", "3", 1);
	assert_int_equal(
		run("test \"$WAYLAND_DISPLAY\" = wayland-7 && test -z \"${WAYLAND_SOCKET+set}\""),
		0);
}

static void arguments_are_passed_as_they_are(void **state)
{
	(void)state;
	char *argv[] = {
		"sh", "-c", "test \"$1\" = 'a  $b' && test $# = 2", "sh", "a  $b", "", NULL};
	struct command *command = command_create(base, argv, "d", handle_exited, &status);
	assert_non_null(command);
	event_base_dispatch(base);
	assert_int_equal(status, 0);
	command_destroy(command);
}

static void what_cannot_be_run_is_refused(void **state)
{
	(void)state;
	char *missing[] = {"/nonexistent/%s%n", NULL};
	assert_null(command_create(base, missing, "d", handle_exited, &status));
	char *empty[] = {"", NULL};
	assert_null(command_create(base, empty, "d", handle_exited, &status));
	char *directory[] = {"/", NULL};
	assert_null(command_create(base, directory, "d", handle_exited, &status));
	assert_int_equal(status, STILL_RUNS);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // no child is left
	command_destroy(NULL);
}

static void signals_that_we_block_or_ignore_are_its_own(void **state)
{
	(void)state;
	sigset_t blocked, before;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	assert_int_equal(sigprocmask(SIG_BLOCK, &blocked, &before), 0);
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(run("kill -TERM $$; exit 1"), 128 + SIGTERM);
	status = STILL_RUNS;
	assert_int_equal(run("kill -PIPE $$; exit 1"), 128 + SIGPIPE);
	signal(SIGPIPE, SIG_DFL);
	assert_int_equal(sigprocmask(SIG_SETMASK, &before, NULL), 0);
}

static void it_gets_the_limit_of_files_that_we_were_given(void **state)
{
	(void)state;
	struct rlimit limit;
	rlimit_raise_files();
	assert_int_equal(run("test $(ulimit -Sn) = 256"), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(limit.rlim_cur, limit.rlim_max);
}

static void destroying_it_ends_it(void **state)
{
	(void)state;
	int fds[2];
	assert_int_equal(pipe2(fds, 0), 0);
	struct command *command = start("exec sleep 1000000");
	assert_non_null(command);
	close(fds[1]);
	command_destroy(command);
	char byte;
	assert_int_equal(read(fds[0], &byte, 1), 0); // its end is closed
	close(fds[0]);
	int how;
	assert_true(waitpid(-1, &how, 0) > 0);
	assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGTERM);
	assert_int_equal(status, STILL_RUNS);
}

static void the_end_of_another_child_is_not_its_end(void **state)
{
	(void)state;
	int fds[2];
	assert_int_equal(pipe2(fds, 0), 0);
	char script[64];
	snprintf(script, sizeof(script), "exec %d>&-; read x <&%d; exit 5", fds[1], fds[0]);
	struct command *command = start(script);
	assert_non_null(command);
	pid_t other = fork();
	assert_true(other >= 0);
	if (other == 0) {
		_exit(3);
	}
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)other, &info, WEXITED | WNOWAIT), 0);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(status, STILL_RUNS);
	assert_int_equal(waitpid(other, NULL, 0), other); // nobody else took it
	close(fds[1]);
	event_base_dispatch(base);
	assert_int_equal(status, 5);
	close(fds[0]);
	command_destroy(command);
}

static int lower(void **state)
{
	(void)state;
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max < GIVEN) {
		return -1;
	}
	limit.rlim_cur = GIVEN;
	return setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
#define command_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		command_test(its_status_is_told),
		command_test(a_signal_is_told_as_a_shell_does),
		command_test(it_is_told_the_display_and_no_socket),
		command_test(arguments_are_passed_as_they_are),
		command_test(what_cannot_be_run_is_refused),
		command_test(signals_that_we_block_or_ignore_are_its_own),
		command_test(it_gets_the_limit_of_files_that_we_were_given),
		command_test(destroying_it_ends_it),
		command_test(the_end_of_another_child_is_not_its_end),
	};
	return cmocka_run_group_tests(tests, lower, NULL);
}
