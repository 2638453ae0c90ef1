#include "host-proxy/device_sandbox.h"

#include <fcntl.h>
#include <linux/udmabuf.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "base/sandbox.h"
#include "host-proxy/device_process.h"
#include "host-proxy/options.h"
#include "tests/support/fd_count.h"

struct call {
	const char *name;
	long args[3];
};

static const struct call never[] = {
	{"openat", {AT_FDCWD, (long)"/etc/passwd", O_WRONLY | O_TRUNC}},
	{"openat", {AT_FDCWD, (long)"/etc/passwd", O_RDONLY | O_CREAT}},
	{"memfd_create", {(long)"test"}},
	{"fsync", {0}},
	{"fchmod", {0, 0666}},
	{"fchmodat", {AT_FDCWD, (long)"/etc/passwd", 0400}},
	{"timerfd_create", {0}},
	{"ftruncate", {0}},
	{"process_vm_writev", {1}},
	{"fcntl", {0, F_SETFL, O_NONBLOCK}},
	{"fcntl", {0, F_ADD_SEALS, F_SEAL_SEAL}},
	{"socket", {AF_INET, SOCK_STREAM}},
	{"socket", {AF_VSOCK, SOCK_STREAM}},
	{"socket", {AF_UNIX, SOCK_DGRAM}},
	{"bind", {0}},
	{"clone", {SIGCHLD}},
	{"execve", {0}},
	{"ptrace", {0}},
	{"kill", {1, SIGTERM}},
	{"mount", {0}},
	{"io_uring_setup", {8}},
	{"userfaultfd", {0}},
};

static int (*enter)(const struct host_options *options) = device_sandbox_enter_vsock;

// The system call that a device was killed for, or -1 if it goes on.
static int fate_of(struct host_options *options, const struct call *call)
{
	struct sandbox_violation violation = {0};
	int pair[2], status;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	options->device_fd = pair[1];
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int error = enter(options);
		syscall(seccomp_syscall_resolve_name(call->name), call->args[0], call->args[1],
			call->args[2], 0L, 0L, 0L);
		_exit(error == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	close(pair[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ssize_t n = recv(pair[0], &violation, sizeof(violation), 0);
	close(pair[0]);
	if (WIFEXITED(status)) {
		assert_int_equal(WEXITSTATUS(status), EXIT_SUCCESS);
		assert_int_equal(n, 0);
		return -1;
	}
	assert_int_equal(WTERMSIG(status), SIGSYS);
	assert_int_equal(n, sizeof(violation));
	assert_int_equal(violation.type, DEVICE_VIOLATION);
	return (int)violation.number;
}

static void expect(struct host_options *options, const struct call *call, bool killed)
{
	int number = fate_of(options, call);
	if (number != (killed ? seccomp_syscall_resolve_name(call->name) : -1)) {
		print_error("%s(%lx, %lx): %d\n", call->name, call->args[0], call->args[1], number);
		fail();
	}
}

static void what_a_device_does_not_need_ends_it(void **state)
{
	struct host_options plain = {0};
	struct host_options bridges = {.vsock_ports = {.n_from_guest = 1, .n_to_guest = 1}};
	(void)state;
	for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
		expect(&plain, &never[i], true);
		expect(&bridges, &never[i], true);
	}
}

static void only_a_bridge_lets_it_connect_or_accept(void **state)
{
	static const struct call new_socket = {"socket", {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC}};
	static const struct call connect_it = {"connect", {-1}};
	static const struct call accept_it = {"accept4", {-1}};
	struct host_options options = {0};
	(void)state;
	expect(&options, &new_socket, true);
	expect(&options, &connect_it, true);
	expect(&options, &accept_it, true);
	options.vsock_ports.n_from_guest = 1;
	expect(&options, &new_socket, false);
	expect(&options, &connect_it, false);
	expect(&options, &accept_it, true);
	options.vsock_ports.n_from_guest = 0;
	options.vsock_ports.n_to_guest = 1;
	expect(&options, &connect_it, true);
	expect(&options, &accept_it, false);
}

static void a_gpu_accepts_and_makes_buffers_and_no_more(void **state)
{
	static const struct call allowed[] = {
		{"accept4", {-1}},
		{"ioctl", {-1, UDMABUF_CREATE_LIST}},
		{"fcntl", {0, F_GET_SEALS}},
		{"fchmod", {-1, 0400}},
	};
	static const struct call forbidden[] = {
		{"ioctl", {-1, UDMABUF_CREATE}},
		{"connect", {-1}},
		{"socket", {AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC}},
		{"pipe2", {0}},
	};
	struct host_options options = {0};
	(void)state;
	enter = device_sandbox_enter_gpu;
	for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
		expect(&options, &never[i], true);
	}
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
		expect(&options, &allowed[i], false);
	}
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
		expect(&options, &forbidden[i], true);
	}
	enter = device_sandbox_enter_vsock;
}

// What a slow reader has not taken is copied so.
static void it_may_copy_what_may_vanish(void **state)
{
	static const char from[] = "bytes";
	struct host_options options = {.device_fd = -1};
	char to[sizeof(from)];
	int status;
	(void)state;
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		bool ok = device_sandbox_enter_vsock(&options) == 0 &&
			mapping_copy(to, from, sizeof(to));
		_exit(ok ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EXIT_SUCCESS);
}

static void without_a_sandbox_nothing_is_forbidden(void **state)
{
	static const struct call call = {"memfd_create", {(long)"test"}};
	struct host_options options = {.program.no_sandbox = true};
	(void)state;
	expect(&options, &call, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_a_device_does_not_need_ends_it),
		fd_count_test(only_a_bridge_lets_it_connect_or_accept),
		fd_count_test(a_gpu_accepts_and_makes_buffers_and_no_more),
		fd_count_test(it_may_copy_what_may_vanish),
		fd_count_test(without_a_sandbox_nothing_is_forbidden),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
