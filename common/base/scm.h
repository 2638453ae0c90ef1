#ifndef BASE_SCM_H
#define BASE_SCM_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct fdlist;

/**
 * The only place that speaks SCM_RIGHTS. Never blocks (MSG_DONTWAIT), never raises SIGPIPE, retries
 * EINTR. Every received fd is CLOEXEC.
 */

#define SCM_RECV_MAX 253 // the kernel's SCM_MAX_FD
#define SCM_SEND_MAX 28  // libwayland's receivers have room for no more

// Returns the number of bytes, 0 at the end of the stream, or -errno. Fds are added to fds.
// -EPROTO: the kernel had to drop fds (MSG_CTRUNC): the connection cannot go on.
ssize_t scm_recv(int sock, void *data, size_t len, struct fdlist *fds);

// Sends at most n_iov pieces and, with their first byte, the n_fds oldest fds of fds
// (n_fds <= SCM_SEND_MAX). The fds stay the caller's: drop them once the call has returned > 0.
// Returns the number of bytes, which may be short, or -errno.
ssize_t scm_send(
	int sock, const struct iovec *iov, size_t n_iov, const struct fdlist *fds, size_t n_fds);

#endif
