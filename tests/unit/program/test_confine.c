#include "program/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/io_uring.h>
#include <linux/udmabuf.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "fdpass/device.h"
#include "fdpass/kind.h"
#include "fdpass/resolver.h"
#include "fdpass/timeline.h"
#include "program/records.h"
#include "tests/support/fd_count.h"

#define PASSED 42 // the exit status of a child that has seen what it expected

// A child in the sandbox of a session, the host's if strict; report is the parent's end of its socket.
static pid_t start_at(
	bool strict, bool any_kind, bool (*run)(const void *data), const void *data, int *report)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		const struct confine_options options = {
			.any_kind = any_kind,
			.strict = strict,
			.max_memory = 1 << 20,
			.max_fds = 100,
			.session_fd = pair[1],
		};
		struct confine_filters filters = {0};
		_exit(confine_session(&filters, &options) == 0 && run(data) ? PASSED
									    : EXIT_FAILURE);
	}
	close(pair[1]);
	*report = pair[0];
	return pid;
}

static pid_t start(bool any_kind, bool (*run)(const void *data), const void *data, int *report)
{
	return start_at(true, any_kind, run, data, report);
}

static void expect_passed_at(
	bool strict, bool any_kind, bool (*run)(const void *data), const void *data)
{
	int report, status;
	pid_t pid = start_at(strict, any_kind, run, data, &report);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	struct sandbox_violation violation;
	if (recv(report, &violation, sizeof(violation), 0) > 0) {
		print_error("system call %u\n", violation.number);
	}
	close(report);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), PASSED);
}

static void expect_passed(bool any_kind, bool (*run)(const void *data), const void *data)
{
	expect_passed_at(true, any_kind, run, data);
}

/* ---- what ends the process ---- */

struct call {
	const char *name;
	long args[5];
};

static const char path[] = "/tmp/confine-test";

static const struct call forbidden[] = {
	// files
	{"openat", {AT_FDCWD, (long)path, O_WRONLY | O_CREAT, 0600}},
	{"openat", {AT_FDCWD, (long)path, O_RDWR | O_TRUNC}},
	{"openat", {AT_FDCWD, (long)"/tmp", O_RDWR | O_TMPFILE, 0600}},
	{"openat", {AT_FDCWD, (long)"/tmp", O_PATH}},
	{"openat2", {AT_FDCWD, (long)path}},
	{"open_by_handle_at", {AT_FDCWD}},
	{"unlinkat", {AT_FDCWD, (long)path}},
	{"renameat2", {AT_FDCWD, (long)path, AT_FDCWD, (long)path}},
	{"mkdirat", {AT_FDCWD, (long)path, 0700}},
	{"linkat", {AT_FDCWD, (long)path, AT_FDCWD, (long)path}},
	{"symlinkat", {(long)path, AT_FDCWD, (long)path}},
	{"fchmod", {0, 0666}},
	{"fchmodat", {AT_FDCWD, (long)path, 0666}},
	{"fchownat", {AT_FDCWD, (long)path}},
	{"chdir", {(long)"/"}},
	{"chroot", {(long)"/tmp"}},
	{"mount", {0}},
	{"umount2", {(long)"/proc"}},
	{"pivot_root", {(long)"/", (long)"/"}},
	{"fsopen", {(long)"fuse"}},
	{"inotify_init1", {0}},
	{"fanotify_init", {0}},
	// sockets
	{"socket", {AF_UNIX, SOCK_STREAM}},
	{"socket", {AF_INET, SOCK_STREAM}},
	{"socket", {AF_NETLINK, SOCK_RAW}},
	{"socket", {AF_VSOCK, SOCK_STREAM}},
	{"socket", {AF_PACKET, SOCK_RAW}},
	{"socketpair", {AF_UNIX, SOCK_DGRAM}},
	{"socketpair", {AF_UNIX, SOCK_RAW}},
	{"connect", {0}},
	{"bind", {0}},
	{"listen", {0}},
	{"accept4", {0}},
	{"sendto", {0, 0, 0, 0, (long)path}},
	{"setsockopt", {0, SOL_SOCKET, SO_ATTACH_FILTER}},
	{"setsockopt", {0, SOL_SOCKET, SO_MARK}},
	// processes
	{"clone", {SIGCHLD}},
	{"clone", {CLONE_VM | CLONE_VFORK | SIGCHLD}},
	{"clone3", {0}},
	{"execve", {(long)"/bin/true"}},
	{"execveat", {AT_FDCWD, (long)"/bin/true"}},
	{"ptrace", {PTRACE_TRACEME}},
	{"ptrace", {PTRACE_SEIZE, 1}},
	{"kill", {1, SIGTERM}},
	{"tkill", {1, SIGTERM}},
	{"tgkill", {1, 1, SIGTERM}},
	{"rt_sigqueueinfo", {1, SIGTERM}},
	{"rt_sigaction", {SIGSYS}},
	{"pidfd_open", {1}},
	{"pidfd_getfd", {0}},
	{"process_vm_readv", {1}},
	{"process_vm_writev", {1}},
	{"kcmp", {1, 1}},
	{"unshare", {CLONE_NEWUSER}},
	{"setns", {0}},
	{"setuid", {0}},
	{"setresgid", {0}},
	{"setgroups", {0}},
	{"capset", {0}},
	{"setrlimit", {RLIMIT_NOFILE}},
	{"personality", {0}},
	{"prctl", {PR_SET_MM}},
	{"seccomp", {0}},
	// memory that is run
	{"mmap", {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1}},
	{"mprotect", {0, 4096, PROT_READ | PROT_EXEC}},
	// huge pages: there are only so many
	{"mmap", {0, 1 << 21, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1}},
	{"memfd_create", {(long)"test", MFD_HUGETLB}},
	{"pkey_mprotect", {0, 4096, PROT_READ | PROT_EXEC, -1}},
	{"shmget", {0}},
	{"memfd_secret", {0}},
	// the rest of the kernel
	{"io_uring_setup", {8}},
	{"io_uring_register", {0, IORING_REGISTER_BUFFERS}},
	{"io_uring_register", {0, IORING_REGISTER_BUFFERS_UPDATE}}, // a guest's session alone
	{"io_uring_enter", {0, 1}},
	{"userfaultfd", {0}},
	{"bpf", {0}},
	{"perf_event_open", {0}},
	{"keyctl", {0}},
	{"add_key", {0}},
	{"mq_open", {0}},
	{"finit_module", {0}},
	{"kexec_load", {0}},
	{"reboot", {0}},
	{"syslog", {0}},
	{"clock_settime", {0}},
	{"landlock_create_ruleset", {0}},
	{"ioctl", {0, TIOCSTI}},
	{"ioctl", {0, TIOCLINUX}},
	{"fcntl", {0, F_SETOWN, 1}},
	{"fcntl", {0, F_NOTIFY}},
	{"fcntl", {0, F_SETSIG, SIGKILL}}, // of whoever has asked for signals
	{"fcntl", {0, F_SETFL, O_ASYNC}},
	{"fcntl", {0, F_SETFL, O_APPEND | O_NONBLOCK}},
};

static bool call(const void *data)
{
	const struct call *call = data;
	const long *args = call->args;
	syscall(seccomp_syscall_resolve_name(call->name), args[0], args[1], args[2], args[3],
		args[4], 0L);
	return false;
}

static void expect_death(bool any_kind, const struct call *row)
{
	struct sandbox_violation violation = {0};
	int report, status;
	pid_t pid = start(any_kind, call, row, &report);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ssize_t n = recv(report, &violation, sizeof(violation), 0);
	close(report);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS) {
		print_error("%s(%lx, %lx, %lx): status %x\n", row->name, row->args[0], row->args[1],
			row->args[2], (unsigned int)status);
		fail();
	}
	assert_int_equal(n, sizeof(violation));
	assert_int_equal(violation.type, RECORD_VIOLATION);
	assert_int_equal(violation.number, seccomp_syscall_resolve_name(row->name));
}

static void what_a_session_does_not_need_ends_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
		expect_death(false, &forbidden[i]);
	}
}

static void what_a_services_session_does_not_need_ends_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
		expect_death(true, &forbidden[i]);
	}
}

// What a session of a service may do, and one of Wayland may not, and the other way round.
static void each_kind_of_session_has_only_what_it_needs(void **state)
{
	static const struct call services[] = {
		{"fcntl", {0, F_SETLEASE}},
		{"fcntl", {0, F_SETLK}},
		{"fcntl", {0, F_SETSIG, SIGURG}},
		{"setsockopt", {0, SOL_SOCKET, SO_PASSCRED}},
	};
	static const struct call waylands[] = {
		{"ioctl", {0, DMA_BUF_IOCTL_SYNC}},
		{"ioctl", {0, UDMABUF_CREATE}},
		{"ioctl", {0, DMA_HEAP_IOCTL_ALLOC}},
		{"ioctl", {0, DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE}},
		{"ioctl", {0, DRM_IOCTL_SYNCOBJ_QUERY}},
		{"ioctl", {0, DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT}},
		{"ioctl", {0, DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL}},
		{"ioctl", {0, TIMELINE_IOCTL_EVENTFD}},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
		expect_death(false, &services[i]);
	}
	for (size_t i = 0; i < sizeof(waylands) / sizeof(waylands[0]); i++) {
		expect_death(true, &waylands[i]);
	}
}

static bool block_and_call(const void *data)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	return call(data);
}

static void blocking_the_signal_does_not_help(void **state)
{
	static const struct call row = {"socket", {AF_INET, SOCK_STREAM}};
	int report, status;
	(void)state;
	pid_t pid = start(true, block_and_call, &row, &report);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(report);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
}

#ifdef __x86_64__
static bool call_by_32_bits(const void *data)
{
	long result;
	(void)data;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory"); // getpid
	return result == getpid();
}

static bool call_by_x32(const void *data)
{
	(void)data;
	return syscall(0x40000000L + SYS_getpid) >= 0 || errno == ENOSYS;
}

static void calls_of_other_architectures_end_the_process(void **state)
{
	bool (*const calls[])(const void *data) = {call_by_32_bits, call_by_x32};
	(void)state;
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int report, status;
		pid_t pid = start(true, calls[i], NULL, &report);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		close(report);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGSYS);
	}
}
#endif

/* ---- what is refused ---- */

static bool is_refused(const char *name, int flags)
{
	errno = 0;
	int fd = open(name, flags | O_CLOEXEC);
	if (fd >= 0 || errno != EACCES) {
		fprintf(stderr, "open %s: %d, %m\n", name, fd);
	}
	return fd < 0 && errno == EACCES;
}

static bool open_what_is_not_ours(const void *data)
{
	(void)data;
	return is_refused("/etc/passwd", O_RDONLY) && is_refused("/etc/passwd", O_WRONLY) &&
		is_refused("/", O_RDONLY) && is_refused("/proc/1/environ", O_RDONLY) &&
		is_refused("/proc/sys/kernel/hostname", O_RDONLY) &&
		is_refused("/dev/kmsg", O_RDWR) && is_refused("/sys/kernel/notes", O_RDONLY);
}

static bool open_devices(const void *data)
{
	(void)data;
	return is_refused("/dev/null", O_RDWR) && is_refused("/dev/urandom", O_RDONLY);
}

// Where there is no Landlock, nothing is opened at all.
static bool have_landlock(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
}

static void no_file_can_be_opened(void **state)
{
	(void)state;
	if (!have_landlock()) {
		skip();
	}
	expect_passed(false, open_what_is_not_ours, NULL);
	expect_passed(true, open_what_is_not_ours, NULL);
	expect_passed(false, open_devices, NULL);
}

static bool open_cards(const void *data)
{
	const glob_t *cards = data;
	bool ok = true;
	for (size_t i = 0; i < cards->gl_pathc; i++) {
		ok = is_refused(cards->gl_pathv[i], O_RDWR) && ok;
	}
	return ok;
}

// Who opens one that nobody shows anything on could keep others from doing so.
static void no_session_opens_a_graphics_card(void **state)
{
	glob_t cards;
	(void)state;
	if (!have_landlock() || glob("/dev/dri/card*", 0, NULL, &cards) != 0) {
		print_message("no Landlock, or no graphics card\n");
		skip();
	}
	expect_passed(false, open_cards, &cards);
	expect_passed(true, open_cards, &cards);
	globfree(&cards);
}

/* ---- what is left ---- */

static bool open_nodes(const void *data)
{
	const glob_t *nodes = data;
	bool ok = true;
	for (size_t i = 0; i < nodes->gl_pathc; i++) {
		ok = open(nodes->gl_pathv[i], O_RDWR | O_CLOEXEC) >= 0 && ok;
	}
	return ok;
}

static void a_services_session_opens_render_nodes(void **state)
{
	glob_t nodes;
	(void)state;
	if (!have_landlock() || glob("/dev/dri/renderD*", 0, NULL, &nodes) != 0) {
		print_message("no Landlock, or no render node\n");
		skip();
	}
	expect_passed(true, open_nodes, &nodes);
	globfree(&nodes);
}

static bool limit_what_the_user_shares(const void *data)
{
	struct rlimit limit;
	int ends[2];
	(void)data;
	return getrlimit(RLIMIT_NOFILE, &limit) == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0 &&
		pipe2(ends, O_CLOEXEC) == 0 &&
		fcntl(ends[0], F_SETPIPE_SZ, 1) == sysconf(_SC_PAGESIZE);
}

static void fds_in_flight_and_pages_of_pipes_can_be_limited(void **state)
{
	(void)state;
	expect_passed(false, limit_what_the_user_shares, NULL);
	expect_passed(true, limit_what_the_user_shares, NULL);
}

static bool wait_for_end(const void *data)
{
	(void)data;
	poll(NULL, 0, -1);
	return false;
}

// A line of a file in /proc/PID; false: there is none that begins so.
static bool read_line(pid_t pid, const char *file, const char *beginning, char line[256])
{
	char name[64];
	bool found = false;
	snprintf(name, sizeof(name), "/proc/%d/%s", (int)pid, file);
	FILE *lines = fopen(name, "re");
	assert_non_null(lines);
	while (!found && fgets(line, 256, lines) != NULL) {
		found = strncmp(line, beginning, strlen(beginning)) == 0;
	}
	fclose(lines);
	return found;
}

static unsigned long long number_in(pid_t pid, const char *file, const char *name, int base)
{
	char line[256];
	assert_true(read_line(pid, file, name, line));
	return strtoull(line + strlen(name), NULL, base);
}

static void capabilities_privileges_and_limits_are_gone(void **state)
{
	int report;
	(void)state;
	pid_t pid = start(false, wait_for_end, NULL, &report);
	while (number_in(pid, "status", "Seccomp:", 10) != 2) { // the last thing that is done
		usleep(1000);
	}
	assert_int_equal(number_in(pid, "status", "NoNewPrivs:", 10), 1);
	assert_int_equal(number_in(pid, "status", "CapPrm:", 16), 0);
	assert_int_equal(number_in(pid, "status", "CapEff:", 16), 0);
	assert_int_equal(number_in(pid, "limits", "Max core file size", 10), 0);
	assert_true(number_in(pid, "limits", "Max open files", 10) <= 65536);
	assert_int_equal(number_in(pid, "limits", "Max file size", 10), 4ull << 30);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(report);
}

static bool reopens(int fd, int flags)
{
	char name[32];
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	int own = open(name, flags | O_CLOEXEC);
	if (own < 0) {
		fprintf(stderr, "open %s: %m\n", name);
	}
	close(own);
	return own >= 0;
}

static bool use_replicas(const void *data)
{
	int ends[2], sockets[2];
	(void)data;
	int memory = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	bool ok = memory >= 0 && ftruncate(memory, 4096) == 0 && pipe2(ends, O_CLOEXEC) == 0 &&
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0;
	void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	return ok && mapped != MAP_FAILED && fd_kind_of(ends[0]) == FD_KIND_PIPE &&
		fd_kind_of(memory) == FD_KIND_FILE && fd_seals(memory) == 0 &&
		reopens(memory, O_RDONLY) && reopens(memory, O_RDWR) &&
		reopens(ends[0], O_RDONLY | O_NONBLOCK) && reopens(ends[1], O_WRONLY | O_NONBLOCK);
}

static bool know_eventfds(const void *data)
{
	uint64_t count = 0;
	(void)data;
	int fd = eventfd(7, EFD_CLOEXEC);
	int info = fd_info_open(fd);
	return fd_kind_of(fd) == FD_KIND_EVENTFD && info >= 0 &&
		fd_info_number(info, "eventfd-count", 16, &count) && count == 7;
}

static bool tells_of_dmabufs(int fd)
{
	const struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
	int info = fd_info_open(fd);
	return info >= 0 && ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync) < 0 && errno == ENOTTY &&
		ioctl(fd, UDMABUF_CREATE, NULL) < 0 && errno == ENOTTY &&
		ioctl(fd, DMA_HEAP_IOCTL_ALLOC, NULL) < 0 && errno == ENOTTY;
}

static bool use_ring(const void *data)
{
	(void)data;
	int fd = memfd_create("no ring", MFD_CLOEXEC);
	return syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS_UPDATE, NULL, 0) < 0 &&
		errno == EOPNOTSUPP;
}

/* As qsort(3) does once, before it takes memory for what is larger than a kilobyte. */
static bool look_for_memory(const void *data)
{
	struct sysinfo info;
	(void)data;
	return sysinfo(&info) == 0;
}

static bool use_dmabufs(const void *data)
{
	(void)data;
	return tells_of_dmabufs(memfd_create("test", MFD_CLOEXEC));
}

// By devices that were open before; data is their resolver.
static bool make_dmabuf(const void *data)
{
	struct resolver *resolver = (struct resolver *)data;
	struct resolver_buffer buffer;
	const struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE};
	uint64_t count = 0;
	if (resolver->interface->make(resolver, 4096, &buffer) < 0) {
		return false;
	}
	buffer.mapping->data[0] = 1;
	int info = fd_info_open(buffer.fd);
	return ioctl(buffer.fd, DMA_BUF_IOCTL_SYNC, &sync) == 0 &&
		fd_info_number(info, "count", 10, &count) && count == 1 &&
		lseek(buffer.fd, 0, SEEK_END) == 4096;
}

static void a_session_makes_dmabufs_by_what_it_has_open(void **state)
{
	(void)state;
	struct resolver *resolver = resolver_create_copy();
	if (!have_landlock() || resolver == NULL) {
		resolver_destroy(resolver);
		print_message("no Landlock, or neither /dev/udmabuf nor a dma-heap\n");
		skip();
	}
	expect_passed(false, make_dmabuf, resolver);
	resolver_destroy(resolver);
}

static bool use_devices(const void *data)
{
	(void)data;
	for (int device = CHANNEL_DEVICE_NULL; device <= CHANNEL_DEVICE_URANDOM; device++) {
		int fd = device_open(device, O_RDWR);
		if (fd < 0) {
			return false;
		}
		close(fd);
	}
	return true;
}

static void what_a_session_needs_works(void **state)
{
	(void)state;
	if (!have_landlock()) {
		skip();
	}
	expect_passed(false, use_replicas, NULL);
	expect_passed(true, use_replicas, NULL);
	expect_passed(false, use_dmabufs, NULL);
	expect_passed_at(false, false, use_ring, NULL);
	expect_passed(false, look_for_memory, NULL);
	expect_passed(true, know_eventfds, NULL);
	expect_passed(true, use_devices, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_a_session_does_not_need_ends_it),
		fd_count_test(what_a_services_session_does_not_need_ends_it),
		fd_count_test(each_kind_of_session_has_only_what_it_needs),
		fd_count_test(blocking_the_signal_does_not_help),
#ifdef __x86_64__
		fd_count_test(calls_of_other_architectures_end_the_process),
#endif
		fd_count_test(no_file_can_be_opened),
		fd_count_test(no_session_opens_a_graphics_card),
		fd_count_test(a_services_session_opens_render_nodes),
		fd_count_test(fds_in_flight_and_pages_of_pipes_can_be_limited),
		fd_count_test(capabilities_privileges_and_limits_are_gone),
		fd_count_test(what_a_session_needs_works),
		fd_count_test(a_session_makes_dmabufs_by_what_it_has_open),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
