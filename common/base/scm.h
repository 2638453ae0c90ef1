#ifndef BASE_SCM_H
#define BASE_SCM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct fdlist;

/**
 * The only place that speaks SCM_RIGHTS. Never blocks (MSG_DONTWAIT), never raises SIGPIPE, retries
 * EINTR. Every received fd is CLOEXEC.
 */

#define SCM_MAX 253 // the kernel's SCM_MAX_FD: in one message, either way
#define SCM_END (-ESHUTDOWN)

// Returns the number of bytes, 0 at the end of the stream, or -errno. Fds are added to fds.
// -EPROTO: the kernel had to drop fds (MSG_CTRUNC): the connection cannot go on.
// The kernel joins what was sent without fds with what came with fds after it: the fds may belong to
// any byte of the read.
ssize_t scm_recv(int sock, void *data, size_t len, struct fdlist *fds);
// The same, into pieces of memory.
ssize_t scm_recv_pieces(int sock, const struct iovec *iov, size_t n_iov, struct fdlist *fds);

// The same for who wants one fd at most: the kernel drops all others, which never have a number here, and
// says so (-EPROTO).
ssize_t scm_recv_one(int sock, void *data, size_t len, struct fdlist *fds);
// The same for who wants none.
ssize_t scm_recv_none(int sock, void *data, size_t len, struct fdlist *fds);

// Whether an fd of any kind is an AF_UNIX socket.
bool scm_is_unix(int fd);

// Nobody can send fds to a socket, or to those that are accepted from it, as long as the kernel knows how to
// refuse them (since Linux 6.16): what is never in a socket cannot make its close wait.
void scm_refuse_fds(int sock);

// Prepares an AF_UNIX socket that was somebody else's for the two functions below: switches off what
// its former owner asked to have with every message, and timestamps on for records. Whoever else
// holds that end of the socket sees the change. Returns what scm_release needs (>= 0), or -errno.
int scm_adopt(int sock);
// Makes sock as it was before scm_adopt, which returned adopted.
void scm_release(int sock, int adopted);

// Reads from a SOCK_STREAM socket either bytes that came without fds, or bytes of which the first
// came with fds, never both together. So every fd stays with its byte, and the fds of two messages
// never mix. May return less than there is; -EAGAIN says that there is no more. Returns as scm_recv,
// and 0 also if the peer has closed its end with bytes unread (no -ECONNRESET). data may be written
// to beyond what is returned, up to len (> 0). Bytes sent with MSG_OOB are lost. Nobody else may read
// from the socket meanwhile.
ssize_t scm_recv_piece(int sock, void *data, size_t len, struct fdlist *fds);
// Kernels on which positions cannot be found by peeking are noticed by a test at the first
// scm_recv_piece, which then reads byte by byte while fds are near. This says so (or the contrary)
// without the test.
void scm_use_bytewise(bool bytewise);

// Reads one record of a SOCK_SEQPACKET socket that scm_adopt has seen. Returns its length, 0 for an
// empty one (perhaps with fds), SCM_END if the peer has closed its end, or -errno, as scm_recv.
// -EMSGSIZE: the record was longer than len and is lost, its fds are closed.
ssize_t scm_recv_record(int sock, void *data, size_t len, struct fdlist *fds);

// Whether fds may be unread in an AF_UNIX socket. True also where much is, where a record is, which is not looked
// into, and of a socket that listens, in whose connections they could be. Records have timestamps from then on,
// as by scm_adopt.
bool scm_may_hold_fds(int sock);

// Ends reading: the peer can write no more, and what it has written is dropped, with its fds. sock is
// one that scm_adopt has seen.
void scm_discard(int sock, int type);

// Sends at most n_iov pieces and, with their first byte, the n_fds oldest fds of fds
// (n_fds <= SCM_MAX). The fds stay the caller's: drop them once the call has returned > 0, or >= 0 on
// a SOCK_SEQPACKET socket, where an empty record may carry fds; a stream would lose them. Returns the
// number of bytes, which may be short on a stream, or -errno.
ssize_t scm_send(
	int sock, const struct iovec *iov, size_t n_iov, const struct fdlist *fds, size_t n_fds);

#endif
