#include "base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

// What linux/landlock.h of 6.1 does not have yet.
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15)
#endif

#define OPEN_FLAGS (O_ACCMODE | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_LARGEFILE)

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

const struct sandbox_rule sandbox_basics[] = {
	// memory, none of it to be run, nor of the huge pages that were set aside for others
	SANDBOX_ALLOW("brk"),
	SANDBOX_IF_BOTH(
		"mmap", SANDBOX_ARG_WITHOUT(2, PROT_EXEC), SANDBOX_ARG_WITHOUT(3, MAP_HUGETLB)),
	SANDBOX_IF_BOTH(
		"mmap2", SANDBOX_ARG_WITHOUT(2, PROT_EXEC), SANDBOX_ARG_WITHOUT(3, MAP_HUGETLB)),
	SANDBOX_IF("mprotect", SANDBOX_ARG_WITHOUT(2, PROT_EXEC)),
	SANDBOX_ALLOW("mremap"),
	SANDBOX_ALLOW("munmap"),
	SANDBOX_ALLOW("sched_getaffinity"), // what malloc(3) asks for before it gives up
	SANDBOX_ALLOW("madvise"),
	// time
	SANDBOX_ALLOW("clock_gettime"),
	SANDBOX_ALLOW("clock_gettime64"),
	SANDBOX_ALLOW("gettimeofday"),
	SANDBOX_ALLOW("time"),
	SANDBOX_ALLOW("restart_syscall"),
	// events
	SANDBOX_ALLOW("epoll_create1"),
	SANDBOX_ALLOW("epoll_ctl"),
	SANDBOX_ALLOW("epoll_wait"),
	SANDBOX_ALLOW("epoll_pwait"),
	SANDBOX_ALLOW("epoll_pwait2"),
	SANDBOX_ALLOW("poll"),
	SANDBOX_ALLOW("ppoll"),
	SANDBOX_ALLOW("ppoll_time64"),
	SANDBOX_ALLOW("eventfd2"),
	SANDBOX_ALLOW("futex"),
	SANDBOX_ALLOW("futex_time64"),
	// fds
	SANDBOX_ALLOW("close"),
	SANDBOX_ALLOW("close_range"),
	SANDBOX_ALLOW("fstat"),
	SANDBOX_ALLOW("fstat64"),
	SANDBOX_ALLOW("newfstatat"),
	SANDBOX_ALLOW("fstatat64"),
	SANDBOX_ALLOW("statx"),
	SANDBOX_ALLOW("read"),
	SANDBOX_ALLOW("readv"),
	SANDBOX_ALLOW("preadv2"),
	SANDBOX_ALLOW("write"),
	SANDBOX_ALLOW("writev"),
	SANDBOX_ALLOW("pwritev2"),
	// sockets that are there, or are connected to each other
	SANDBOX_IF_BOTH("socketpair", SANDBOX_ARG(0, AF_UNIX),
		SANDBOX_ARG_ONLY(1, SOCK_STREAM | SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK)),
	SANDBOX_ALLOW("sendmsg"),
	SANDBOX_IF("sendto", SANDBOX_ARG_NULL(4)),
	SANDBOX_ALLOW("send"),
	SANDBOX_ALLOW("recvmsg"),
	SANDBOX_ALLOW("recvfrom"),
	SANDBOX_ALLOW("recv"),
	SANDBOX_ALLOW("shutdown"),
	SANDBOX_ALLOW("getsockname"),
	SANDBOX_ALLOW("getpeername"),
	SANDBOX_IF("getsockopt", SANDBOX_ARG(1, SOL_SOCKET)),
	SANDBOX_IF_BOTH("setsockopt", SANDBOX_ARG(1, SOL_SOCKET), SANDBOX_ARG(2, SO_SNDBUF)),
	// signals: of ours, and not SIGSYS
	SANDBOX_ALLOW("rt_sigreturn"),
	SANDBOX_ALLOW("rt_sigprocmask"),
	SANDBOX_ALLOW("sigaltstack"),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGABRT)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGBUS)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGTERM)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGUSR1)),
	SANDBOX_OWN("tgkill"),
	// ourselves
	SANDBOX_ALLOW("getpid"),
	SANDBOX_ALLOW("gettid"),
	SANDBOX_ALLOW("getuid"),
	SANDBOX_ALLOW("geteuid"),
	SANDBOX_ALLOW("getgid"),
	SANDBOX_ALLOW("getegid"),
	SANDBOX_ALLOW("getrandom"),
	SANDBOX_ALLOW("rseq"),
	SANDBOX_ALLOW("exit"),
	SANDBOX_ALLOW("exit_group"),
	{0},
};

static const struct sandbox_rule open_rules[] = {
	SANDBOX_IF("openat", SANDBOX_ARG_ONLY(2, OPEN_FLAGS)),
	SANDBOX_IF("open", SANDBOX_ARG_ONLY(1, OPEN_FLAGS)),
	{0},
};

// What fails instead: where there is no Landlock, any file could be opened.
static const struct sandbox_rule closed_rules[] = {
	SANDBOX_ALLOW("openat"),
	SANDBOX_ALLOW("open"),
	{0},
};

#if SANITIZED
#define LEAK_TRACER (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED)

// What looks for leaks at the end: a thread of its own that stops this one and reads its registers.
static const struct sandbox_rule sanitizer_rules[] = {
	SANDBOX_IF("clone", SANDBOX_ARG(0, LEAK_TRACER)),
	SANDBOX_IF("ptrace", SANDBOX_ARG(0, PTRACE_ATTACH)),
	SANDBOX_IF("ptrace", SANDBOX_ARG(0, PTRACE_CONT)),
	SANDBOX_IF("ptrace", SANDBOX_ARG(0, PTRACE_DETACH)),
#ifdef __x86_64__
	SANDBOX_IF("ptrace", SANDBOX_ARG(0, PTRACE_GETREGS)),
#endif
	SANDBOX_IF("ptrace", SANDBOX_ARG(0, PTRACE_GETREGSET)),
	SANDBOX_IF("prctl", SANDBOX_ARG(0, PR_GET_DUMPABLE)),
	SANDBOX_IF("prctl", SANDBOX_ARG(0, PR_SET_DUMPABLE)),
	SANDBOX_IF("prctl", SANDBOX_ARG(0, PR_SET_PTRACER)),
	SANDBOX_IF("prctl", SANDBOX_ARG(0, PR_SET_PDEATHSIG)),
	SANDBOX_ALLOW("wait4"),
	SANDBOX_ALLOW("getdents"),
	SANDBOX_ALLOW("getdents64"),
	SANDBOX_IF("openat", SANDBOX_ARG_ONLY(2, OPEN_FLAGS | O_DIRECTORY)),
	SANDBOX_IF("open", SANDBOX_ARG_ONLY(1, OPEN_FLAGS | O_DIRECTORY)),
	SANDBOX_ALLOW("readlink"),
	SANDBOX_ALLOW("readlinkat"),
	SANDBOX_ALLOW("getppid"),
	SANDBOX_ALLOW("lseek"),
	SANDBOX_ALLOW("getrlimit"),
	SANDBOX_ALLOW("prlimit64"),
	SANDBOX_ALLOW("sched_yield"),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGFPE)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGILL)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGSEGV)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGXCPU)),
	SANDBOX_IF("rt_sigaction", SANDBOX_ARG(0, SIGXFSZ)),
	{0},
};
// It opens what is below this.
static const struct sandbox_path sanitizer_paths[] = {{"/proc/self", false}, {0}};
#else
static const struct sandbox_rule sanitizer_rules[] = {{0}};
static const struct sandbox_path sanitizer_paths[] = {{0}};
#endif

static bool has_seccomp(void)
{
	const uint32_t action = SECCOMP_RET_TRAP;
	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

// The version of Landlock's interface, or 0.
static int landlock_version(void)
{
	long version =
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	return version < 0 ? 0 : (int)version;
}

bool sandbox_check(bool strict)
{
	if (!has_seccomp()) {
		log_write(strict ? LOG_ERROR : LOG_WARN,
			"this kernel has no seccomp filters: there is no sandbox%s",
			strict ? ", which only --no-sandbox can do without" : "");
		return !strict;
	}
	if (landlock_version() == 0) {
		log_warn("this kernel has no Landlock: sessions can open %s",
			strict ? "nothing at all, so that eventfds cannot cross" : "files");
	}
	return true;
}

/* ---- limits ---- */

static bool limit(int resource, uint64_t value)
{
	struct rlimit old;
	if (getrlimit(resource, &old) < 0) {
		return false;
	}
	rlim_t max = value < old.rlim_max ? (rlim_t)value : old.rlim_max;
	const struct rlimit limit = {.rlim_cur = max, .rlim_max = max};
	return setrlimit(resource, &limit) == 0;
}

static bool set_limits(const struct sandbox_profile *profile)
{
	signal(SIGXFSZ, SIG_IGN); // EFBIG says it, too
	return limit(RLIMIT_CORE, 0) &&
		(profile->max_fds == 0 || limit(RLIMIT_NOFILE, profile->max_fds)) &&
		(profile->max_file == 0 || limit(RLIMIT_FSIZE, profile->max_file)) &&
		(profile->max_space == 0 || SANITIZED || limit(RLIMIT_AS, profile->max_space));
}

static bool drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
	return syscall(SYS_capset, &header, none) == 0;
}

/* ---- Landlock ---- */

// struct landlock_ruleset_attr as of version 6; older kernels want it shorter.
struct ruleset {
	uint64_t fs;
	uint64_t net;    // since version 4
	uint64_t scoped; // since version 6
};

static int create_ruleset(int version)
{
	static const uint64_t added[] = {
		[2] = LANDLOCK_ACCESS_FS_REFER,
		[3] = LANDLOCK_ACCESS_FS_TRUNCATE,
		[5] = LANDLOCK_ACCESS_FS_IOCTL_DEV,
	};
	struct ruleset ruleset = {
		.fs = LANDLOCK_ACCESS_FS_REFER - 1, // all of version 1
		.net = 3,                           // bind(2) and connect(2) of TCP
		.scoped = 3,                        // abstract sockets and signals of others
	};
	for (int i = 0; i < (int)(sizeof(added) / sizeof(added[0])) && i <= version; i++) {
		ruleset.fs |= added[i];
	}
	size_t size = version >= 6 ? sizeof(ruleset)
		: version >= 4     ? offsetof(struct ruleset, scoped)
				   : offsetof(struct ruleset, net);
	return (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
}

static uint64_t access_to(const struct sandbox_path *path, bool is_directory, int version)
{
	uint64_t access = LANDLOCK_ACCESS_FS_READ_FILE;
	if (path->writable) {
		access |= LANDLOCK_ACCESS_FS_WRITE_FILE;
		access |= version >= 5 ? LANDLOCK_ACCESS_FS_IOCTL_DEV : 0;
	}
	if (SANITIZED && is_directory) {
		access |= LANDLOCK_ACCESS_FS_READ_DIR;
	}
	return access;
}

static bool add_path(int ruleset, int version, const struct sandbox_path *path, const char *name)
{
	struct stat st = {0};
	int fd = open(name, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		return fd < 0 && (errno == ENOENT || errno == EACCES);
	}
	struct landlock_path_beneath_attr beneath = {
		.allowed_access = access_to(path, S_ISDIR(st.st_mode), version),
		.parent_fd = fd,
	};
	bool ok = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath,
			  0) == 0;
	if (!S_ISDIR(st.st_mode)) {
		close(fd);
	} // else it stays: the rule is for this inode, which /proc would make anew
	return ok;
}

static bool add_matches(int ruleset, int version, const struct sandbox_path *path)
{
	glob_t names;
	int error = glob(path->path, GLOB_NOSORT, NULL, &names);
	bool ok = error == 0 || error == GLOB_NOMATCH;
	for (size_t i = 0; ok && error == 0 && i < names.gl_pathc; i++) {
		ok = add_path(ruleset, version, path, names.gl_pathv[i]);
	}
	globfree(&names);
	return ok;
}

static bool add_paths(int ruleset, int version, const struct sandbox_path *paths)
{
	bool ok = true;
	for (; ok && paths != NULL && paths->path != NULL; paths++) {
		ok = add_matches(ruleset, version, paths);
	}
	return ok;
}

static bool restrict_files(const struct sandbox_profile *profile, int version)
{
	int ruleset = create_ruleset(version);
	bool ok = ruleset >= 0 && add_paths(ruleset, version, profile->paths) &&
		add_paths(ruleset, version, sanitizer_paths) &&
		syscall(SYS_landlock_restrict_self, ruleset, 0) == 0;
	int saved = errno;
	if (ruleset >= 0) {
		close(ruleset);
	}
	errno = saved;
	return ok;
}

/* ---- seccomp ---- */

static struct sandbox_violation violation;
static int report_fd = -1;

// The kernel uses the default action where this handler is blocked, and nobody can replace it any more
// (sandbox_basics has no SIGSYS).
static void handle_sigsys(int signal, siginfo_t *info, void *context)
{
	(void)context;
	violation.number = (uint32_t)info->si_syscall;
	if (report_fd >= 0) {
		send(report_fd, &violation, sizeof(violation), MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	raise(signal); // which ends the process: SA_RESETHAND
	_exit(EXIT_FAILURE);
}

static bool catch_violations(const struct sandbox_profile *profile)
{
	const struct sigaction action = {
		.sa_sigaction = handle_sigsys,
		.sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER,
	};
	report_fd = profile->report_fd;
	violation.type = profile->report_type;
	return sigaction(SIGSYS, &action, NULL) == 0;
}

static int add_rule(scmp_filter_ctx context, uint32_t action, const struct sandbox_rule *rule)
{
	struct scmp_arg_cmp args[3];
	unsigned int n = rule->n_args;
	int number = seccomp_syscall_resolve_name(rule->name);
	if (number < 0) {
		return 0;
	}
	memcpy(args, rule->args, sizeof(rule->args));
	if (rule->own) {
		args[n++] = (struct scmp_arg_cmp)SANDBOX_ARG(0, getpid());
	}
	return seccomp_rule_add_array(context, action, number, n, args);
}

static int add_rules(scmp_filter_ctx context, uint32_t action, const struct sandbox_rule *rules)
{
	int error = 0;
	for (; error == 0 && rules->name != NULL; rules++) {
		error = add_rule(context, action, rules);
	}
	return error;
}

static int add_open_rules(
	scmp_filter_ctx context, const struct sandbox_profile *profile, bool has_landlock)
{
	if (!profile->opens || SANITIZED) {
		return 0; // or the sanitizer's rules do it
	}
	return has_landlock || !profile->strict
		? add_rules(context, SCMP_ACT_ALLOW, open_rules)
		: add_rules(context, SCMP_ACT_ERRNO(EACCES), closed_rules);
}

static int add_tables(
	scmp_filter_ctx context, const struct sandbox_profile *profile, bool has_landlock)
{
	int error = add_rules(context, SCMP_ACT_ALLOW, sanitizer_rules);
	for (size_t i = 0; i < SANDBOX_TABLES && profile->rules[i] != NULL && error == 0; i++) {
		error = add_rules(context, SCMP_ACT_ALLOW, profile->rules[i]);
	}
	return error == 0 ? add_open_rules(context, profile, has_landlock) : error;
}

// Other architectures' calls (32 bits, x32) end the process without a report.
static int compile(
	scmp_filter_ctx context, const struct sandbox_profile *profile, bool has_landlock)
{
	int error = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (error == 0) {
		error = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	}
	return error == 0 ? add_tables(context, profile, has_landlock) : error;
}

// What libseccomp has written to fd.
static int read_code(struct sandbox_filter *filter, int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0) {
		return -errno;
	}
	filter->size = (size_t)st.st_size;
	filter->code = malloc(filter->size);
	if (filter->code == NULL) {
		return -ENOMEM;
	}
	return pread(fd, filter->code, filter->size, 0) == st.st_size ? 0 : -EIO;
}

static int export(struct sandbox_filter *filter, scmp_filter_ctx context)
{
	int fd = memfd_create("fdferry-filter", MFD_CLOEXEC);
	if (fd < 0) {
		return -errno;
	}
	int error = seccomp_export_bpf(context, fd);
	if (error == 0) {
		error = read_code(filter, fd);
	}
	close(fd);
	return error;
}

int sandbox_filter_init(struct sandbox_filter *filter, const struct sandbox_profile *profile)
{
	*filter = (struct sandbox_filter){0};
	if (!profile->strict && !has_seccomp()) {
		return 0;
	}
	scmp_filter_ctx context = seccomp_init(SCMP_ACT_TRAP);
	int error = context == NULL ? -ENOMEM : 0;
	if (error == 0) {
		error = compile(context, profile, landlock_version() > 0);
	}
	if (error == 0) {
		error = export(filter, context);
	}
	if (error < 0) {
		log_error("cannot make a filter of system calls: %s", strerror(-error));
		sandbox_filter_finish(filter);
	}
	seccomp_release(context);
	return error;
}

void sandbox_filter_finish(struct sandbox_filter *filter)
{
	free(filter->code);
	*filter = (struct sandbox_filter){0};
}

static int restrict_calls(const struct sandbox_filter *filter)
{
	const struct sock_fprog program = {
		.len = (unsigned short)(filter->size / sizeof(*filter->code)),
		.filter = filter->code,
	};
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}

static int confine(const struct sandbox_profile *profile, const struct sandbox_filter *filter)
{
	int version = landlock_version();
	if (!set_limits(profile) || !drop_capabilities() ||
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		(version > 0 && !restrict_files(profile, version)) || !catch_violations(profile)) {
		return -errno;
	}
	return filter->code != NULL ? restrict_calls(filter) : 0;
}

int sandbox_enter(const struct sandbox_profile *profile, struct sandbox_filter *filter)
{
	int error = filter->code == NULL ? sandbox_filter_init(filter, profile) : 0;
	if (error < 0) {
		return error;
	}
	error = confine(profile, filter);
	if (error < 0) {
		log_error("cannot enter the sandbox: %s", strerror(-error));
	}
	return error;
}

void sandbox_log_violation(pid_t pid, const struct sandbox_violation *reported)
{
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)reported->number);
	log_error("process %d called %s (%u), which its sandbox forbids", (int)pid,
		name != NULL ? name : "an unknown system call", reported->number);
	free(name);
}
