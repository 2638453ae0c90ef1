#ifndef TESTS_BENCH_PASSING_H
#define TESTS_BENCH_PASSING_H

#include <stddef.h>
#include <sys/types.h>

#define PASSING_FDS_MAX 253 // SCM_MAX_FD in the kernel

// fds that go with one byte of a UNIX socket.
struct passed_fds {
	int fds[PASSING_FDS_MAX];
	size_t count;
};

void passed_fds_close(struct passed_fds *passed);

// recv and send with fds: flags, result and errno are theirs. Received fds are CLOEXEC and the
// caller's; what was in passed is overwritten if there are any. Sent ones stay the caller's.
ssize_t passing_recv(int sock, void *bytes, size_t size, struct passed_fds *passed, int flags);
ssize_t passing_send(
	int sock, const void *bytes, size_t size, const struct passed_fds *passed, int flags);

#endif
