#ifndef BASE_SANDBOX_H
#define BASE_SANDBOX_H

#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct sock_filter;

/**
 * What a process gives up for good before it reads what somebody else sends: capabilities, new
 * privileges (no_new_privs), the file system (Landlock), and every system call that a table does not
 * name (seccomp). A call that is not in the table ends the process with SIGSYS, and its parent is
 * told which one it was.
 */

// A system call that is let through if all its args are as said, else if another row lets it. A name
// that libseccomp or this architecture does not know stands for nothing.
struct sandbox_rule {
	const char *name; // NULL ends a table
	struct scmp_arg_cmp args[2];
	unsigned int n_args;
	bool own; // besides, argument 0 is this process
};

// A row's arguments. An int's upper half is not looked at, as the kernel does not.
// clang-format off
#define SANDBOX_ARG(n, value)         {n, SCMP_CMP_MASKED_EQ, UINT32_MAX, (uint32_t)(value)}
#define SANDBOX_ARG_ONLY(n, bits)     {n, SCMP_CMP_MASKED_EQ, (uint32_t)~(bits), 0}
#define SANDBOX_ARG_WITHOUT(n, bits)  {n, SCMP_CMP_MASKED_EQ, (bits), 0}
#define SANDBOX_ARG_NULL(n)           {n, SCMP_CMP_EQ, 0, 0}
#define SANDBOX_ALLOW(name)           {name, {{0}}, 0, false}
#define SANDBOX_IF(name, ...)         {name, {__VA_ARGS__}, 1, false}
#define SANDBOX_IF_BOTH(name, ...)    {name, {__VA_ARGS__}, 2, false}
#define SANDBOX_OWN(name)             {name, {{0}}, 0, true}
// clang-format on

// Files, or all below directories, that may still be opened.
struct sandbox_path {
	// A pattern (glob(7)). NULL ends a table; one that matches nothing stands for nothing.
	const char *path;
	bool writable; // for writing, too, and for ioctl(2) if it is a device
};

#define SANDBOX_TABLES 5

struct sandbox_profile {
	const struct sandbox_rule *rules[SANDBOX_TABLES]; // up to the first NULL
	const struct sandbox_path *paths;                 // may be NULL: none
	// open(2) of what exists, as far as Landlock lets it. Where there is none, it fails if strict.
	bool opens;
	bool strict;        // else what the kernel does not have is done without
	uint64_t max_fds;   // RLIMIT_NOFILE; 0 leaves it as it is, as the next two
	uint64_t max_space; // RLIMIT_AS, bytes; not with sanitizers, which need terabytes
	uint64_t max_file;  // RLIMIT_FSIZE, bytes
	// Where a struct sandbox_violation goes: a SOCK_SEQPACKET socket to the parent. -1: nowhere.
	int report_fd;
	uint32_t report_type;
};

struct sandbox_violation {
	uint32_t type;
	uint32_t number; // of the system call
};

// What processes of any kind need: memory, time, signals, epoll, and what is read and written.
extern const struct sandbox_rule sandbox_basics[];

// For the parent, once: whether its processes can have a sandbox. Says so if there can be none, or less
// than all; false only if strict.
bool sandbox_check(bool strict);

// A profile's rules as the kernel wants them. Making them takes longer than all else, so it can be done
// ahead, by the process that they are for. Zeros: not made yet, or the kernel has none and the profile is
// not strict.
struct sandbox_filter {
	struct sock_filter *code;
	size_t size; // bytes
};

// 0; or -errno, which has been logged. It needs rules, opens and strict of the profile.
int sandbox_filter_init(struct sandbox_filter *filter, const struct sandbox_profile *profile);
void sandbox_filter_finish(struct sandbox_filter *filter);

// 0, and there is no way back; -errno, which has been logged: the process should end. A filter that is
// not made yet is made.
int sandbox_enter(const struct sandbox_profile *profile, struct sandbox_filter *filter);

// For the parent, once of each process. What it reported is not more than a hint: it may be somebody else's.
void sandbox_log_violation(pid_t pid, const struct sandbox_violation *violation);

#endif
