#include "base/scm.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"

// Younger than the C library's headers.
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif

#define SEND_FLAGS  (MSG_DONTWAIT | MSG_NOSIGNAL)
#define LOOK_MAX    4096 // bytes that are looked at before it is asked how many there are
#define EXTRAS_SIZE 1024 // for credentials, a security label, a pidfd and a time

// Room for all that may come beside a message's bytes.
union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(SCM_MAX * sizeof(int)) + EXTRAS_SIZE];
};

struct envelope {
	int flags;     // MSG_TRUNC: the record was longer
	bool has_time; // it was a message, not the end
};

static bool take_fds(const struct cmsghdr *c, struct fdlist *fds)
{
	bool ok = true;
	size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < n; i++) {
		int fd;
		memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
		ok = fdlist_push(fds, fd) && ok;
	}
	return ok;
}

static void close_pidfd(const struct cmsghdr *c)
{
	int fd;
	if (c->cmsg_len >= CMSG_LEN(sizeof(fd))) {
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		if (fd >= 0) {
			close(fd);
		}
	}
}

// Takes every fd of the message, whatever happens.
static bool open_envelope(struct msghdr *msg, struct fdlist *fds, struct envelope *envelope)
{
	bool ok = true;
	*envelope = (struct envelope){.flags = msg->msg_flags};
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET) {
			continue;
		}
		if (c->cmsg_type == SCM_RIGHTS) {
			ok = take_fds(c, fds) && ok;
		} else if (c->cmsg_type == SCM_PIDFD) {
			close_pidfd(c);
		} else if (c->cmsg_type == SCM_TIMESTAMP) {
			envelope->has_time = true;
		}
	}
	return ok;
}

/* room is that for control messages, in bytes. */
static ssize_t receive_with(int sock, const struct iovec *iov, size_t n_iov, struct fdlist *fds,
	struct envelope *envelope, size_t room)
{
	union control control;
	struct msghdr msg = {
		.msg_iov = (struct iovec *)iov,
		.msg_iovlen = n_iov,
		.msg_control = control.bytes,
		.msg_controllen = room,
	};
	ssize_t n;
	do {
		n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return -errno;
	}
	bool ok = open_envelope(&msg, fds, envelope);
	if (msg.msg_flags & MSG_CTRUNC) {
		return -EPROTO;
	}
	return ok ? n : -ENOMEM;
}

static ssize_t receive(
	int sock, void *data, size_t len, struct fdlist *fds, struct envelope *envelope)
{
	struct iovec iov = {.iov_base = data, .iov_len = len};
	return receive_with(sock, &iov, 1, fds, envelope, sizeof(union control));
}

ssize_t scm_recv(int sock, void *data, size_t len, struct fdlist *fds)
{
	struct envelope envelope;
	return receive(sock, data, len, fds, &envelope);
}

/* CMSG_SPACE would have room for two. */
ssize_t scm_recv_one(int sock, void *data, size_t len, struct fdlist *fds)
{
	struct envelope envelope;
	struct iovec iov = {.iov_base = data, .iov_len = len};
	return receive_with(sock, &iov, 1, fds, &envelope, CMSG_LEN(sizeof(int)));
}

ssize_t scm_recv_none(int sock, void *data, size_t len, struct fdlist *fds)
{
	struct envelope envelope;
	struct iovec iov = {.iov_base = data, .iov_len = len};
	return receive_with(sock, &iov, 1, fds, &envelope, 0);
}

ssize_t scm_recv_pieces(int sock, const struct iovec *iov, size_t n_iov, struct fdlist *fds)
{
	struct envelope envelope;
	return receive_with(sock, iov, n_iov, fds, &envelope, sizeof(union control));
}

bool scm_is_unix(int fd)
{
	int domain;
	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){sizeof(domain)}) == 0 &&
		domain == AF_UNIX;
}

void scm_refuse_fds(int sock)
{
	setsockopt(sock, SOL_SOCKET, SO_PASSRIGHTS, &(int){0}, sizeof(int));
}

// What scm_adopt changes, in the order of its result's bits.
static const struct {
	int name;
	int value;
	int type; // of the sockets that it is for; 0: of all
} socket_options[] = {
	{SO_PASSCRED, 0, 0}, {SO_PASSSEC, 0, 0}, {SO_PASSPIDFD, 0, 0},
	{SO_TIMESTAMP, 1, SOCK_SEQPACKET}, // all records have one, the end has none
};

#define N_OPTIONS (sizeof(socket_options) / sizeof(socket_options[0]))

int scm_adopt(int sock)
{
	int type;
	if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)}) < 0) {
		return -errno;
	}
	// Peeking begins with the oldest byte.
	setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &(int){-1}, sizeof(int));
	int changed = 0;
	for (size_t i = 0; i < N_OPTIONS; i++) {
		int name = socket_options[i].name, value = socket_options[i].value, old;
		if ((socket_options[i].type != 0 && socket_options[i].type != type) ||
			getsockopt(sock, SOL_SOCKET, name, &old, &(socklen_t){sizeof(old)}) < 0 ||
			old == value) {
			continue; // or the kernel does not know it
		}
		if (setsockopt(sock, SOL_SOCKET, name, &value, sizeof(value)) < 0) {
			int error = -errno;
			scm_release(sock, changed);
			return error;
		}
		changed |= 1 << i;
	}
	return changed;
}

void scm_release(int sock, int adopted)
{
	for (size_t i = 0; i < N_OPTIONS; i++) {
		if (adopted & (1 << i)) {
			int old = !socket_options[i].value;
			setsockopt(sock, SOL_SOCKET, socket_options[i].name, &old, sizeof(old));
		}
	}
}

// Looks at what would be read. Without room for fds the kernel only says whether some are queued,
// with these bytes or behind them.
static ssize_t peek(int sock, struct iovec *iov, size_t n_iov, bool *fds)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n_iov};
	ssize_t n;
	do {
		n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_PEEK);
	} while (n < 0 && errno == EINTR);
	*fds = n >= 0 && (msg.msg_flags & MSG_CTRUNC) != 0;
	return n < 0 ? -errno : n;
}

// What is known to have no fds: this is cheaper than asking for them.
static ssize_t recv_plain(int sock, void *data, size_t len)
{
	ssize_t n;
	do {
		n = recv(sock, data, len, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

// The stream is a queue of pieces, each (a part of) what one sendmsg sent. A peek ends with the first
// piece that has fds, and fails at a piece that it cannot store, having stored those before. So one
// whose last byte has nowhere to go tells where the piece of that byte begins.
static size_t piece_len(int sock, void *data, size_t len)
{
	for (int i = 0; i < 2; i++) {
		struct iovec iov[] = {
			{.iov_base = data, .iov_len = len - 1},
			{.iov_base = NULL, .iov_len = 1},
		};
		bool fds;
		ssize_t n = peek(sock, iov, 2, &fds);
		if (n == -EFAULT) {
			return len; // of one piece
		}
		if (n > 0 && !fds) {
			return n; // of pieces before one that may have fds
		}
		if (n <= 0) {
			break;
		}
		len = n; // the last one has fds
	}
	return 1;
}

// What is queued is long: does not copy it where none has fds.
static size_t long_len(int sock, void *data, size_t len, bool *fds)
{
	int queued;
	*fds = true;
	if (ioctl(sock, SIOCINQ, &queued) < 0 || queued <= 0) {
		return 1;
	}
	if (len > (size_t)queued) {
		len = queued;
	}
	// Sees at least these bytes, and the fds behind the first one, too.
	if (peek(sock, &(struct iovec){.iov_base = data, .iov_len = 1}, 1, fds) <= 0) {
		*fds = true;
		return 1;
	}
	return *fds ? piece_len(sock, data, len) : len;
}

// How many bytes can be read so that fds come with the first of them, if any. One is always safe,
// and needed where there are none: the end, and a byte of MSG_OOB, are only noticed by a read.
// *fds: there may be some.
static size_t exact_len(int sock, void *data, size_t len, bool *fds)
{
	struct iovec iov = {.iov_base = data, .iov_len = len < LOOK_MAX ? len : LOOK_MAX};
	ssize_t n = peek(sock, &iov, 1, fds);
	if (n == LOOK_MAX) {
		return long_len(sock, data, len, fds);
	}
	*fds = *fds || n <= 0;
	if (n <= 0) {
		return 1;
	}
	return *fds ? piece_len(sock, data, n) : (size_t)n;
}

// For kernels that tell about the fds with the bytes that are looked at, and no more.
static size_t bytewise_len(int sock, void *data, size_t len, bool *fds)
{
	struct iovec iov = {.iov_base = data, .iov_len = len < LOOK_MAX ? len : LOOK_MAX};
	ssize_t n = peek(sock, &iov, 1, fds);
	*fds = *fds || n <= 0;
	return *fds ? 1 : (size_t)n;
}

struct piece {
	const char *bytes;
	size_t n_fds;
};

static bool send_pieces(int sock, const struct piece *pieces, size_t n_pieces)
{
	struct fdlist fds;
	fdlist_init(&fds);
	int fd = fcntl(sock, F_DUPFD_CLOEXEC, 0);
	bool ok = fd >= 0 && fdlist_push(&fds, fd);
	for (size_t i = 0; ok && i < n_pieces; i++) {
		size_t len = strlen(pieces[i].bytes);
		struct iovec iov = {.iov_base = (char *)pieces[i].bytes, .iov_len = len};
		ok = scm_send(sock, &iov, 1, &fds, pieces[i].n_fds) == (ssize_t)len;
	}
	fdlist_finish(&fds);
	return ok;
}

typedef size_t (*read_len_func)(int sock, void *data, size_t len, bool *fds);

static ssize_t recv_piece(
	int sock, void *data, size_t len, struct fdlist *fds, read_len_func read_len)
{
	bool may_have_fds;
	len = read_len(sock, data, len, &may_have_fds);
	return may_have_fds ? scm_recv(sock, data, len, fds) : recv_plain(sock, data, len);
}

static bool expect_pieces(
	int sock, const struct piece *pieces, size_t n_pieces, read_len_func read_len)
{
	char data[32];
	struct fdlist fds;
	fdlist_init(&fds);
	bool ok = true;
	for (size_t i = 0; ok && i < n_pieces; i++) {
		size_t len = strlen(pieces[i].bytes);
		ok = recv_piece(sock, data, sizeof(data), &fds, read_len) == (ssize_t)len &&
			memcmp(data, pieces[i].bytes, len) == 0 && fds.count == pieces[i].n_fds;
		fdlist_drop(&fds, fds.count);
	}
	fdlist_finish(&fds);
	return ok;
}

// The oldest piece is read in part: some kernels count all of it then.
static bool expect_queued(int sock, int len)
{
	char byte;
	int queued;
	return read(sock, &byte, 1) == 1 && ioctl(sock, SIOCINQ, &queued) == 0 && queued == len;
}

static enum { UNTRIED, EXACT, BYTEWISE } peeking;

static void try_peeking(void)
{
	static const struct piece sent[] = {{"aaa", 0}, {"bb", 0}, {"ccc", 1}, {"d", 0}, {"ee", 1}};
	static const struct piece read[] = {{"aabb", 0}, {"ccc", 1}, {"d", 0}, {"ee", 1}};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		return; // later
	}
	bool ok = true;
	for (int i = 0; ok && i < 2; i++) {
		if (!send_pieces(pair[0], sent, 5)) {
			goto out; // later
		}
		ok = expect_queued(pair[1], 10) &&
			expect_pieces(pair[1], read, 4, i == 0 ? exact_len : long_len);
	}
	peeking = ok ? EXACT : BYTEWISE;
out:
	close(pair[0]);
	close(pair[1]);
}

void scm_use_bytewise(bool bytewise)
{
	peeking = bytewise ? BYTEWISE : EXACT;
}

ssize_t scm_recv_piece(int sock, void *data, size_t len, struct fdlist *fds)
{
	assert(len > 0);
	if (peeking == UNTRIED) {
		try_peeking();
	}
	read_len_func read_len = peeking == EXACT ? exact_len : bytewise_len;
	ssize_t n = recv_piece(sock, data, len, fds, read_len);
	return n == -ECONNRESET ? 0 : n; // told once, and perhaps to a peek
}

ssize_t scm_recv_record(int sock, void *data, size_t len, struct fdlist *fds)
{
	struct fdlist received;
	fdlist_init(&received);
	struct envelope envelope = {0};
	ssize_t n = receive(sock, data, len, &received, &envelope);
	if (n == -ECONNRESET) {
		// Told once, ahead of records that came before.
		n = receive(sock, data, len, &received, &envelope);
	}
	if (n == 0 && !envelope.has_time) {
		n = SCM_END;
	} else if (n >= 0 && (envelope.flags & MSG_TRUNC)) {
		n = -EMSGSIZE;
	}
	if (n >= 0 && !fdlist_move(fds, &received, received.count)) {
		n = -ENOMEM;
	}
	fdlist_finish(&received);
	return n;
}

/* Nothing is to be read now, not even an empty record. */
static bool has_no_record(int sock)
{
	unsigned char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = sizeof(byte)};
	bool record; // has a time, for which there is no room
	if (setsockopt(sock, SOL_SOCKET, SO_TIMESTAMP, &(int){1}, sizeof(int)) < 0) {
		return false;
	}
	ssize_t n = peek(sock, &iov, 1, &record);
	if (n == -ECONNRESET) {
		n = peek(sock, &iov, 1, &record); // told once
	}
	return n == -EAGAIN || (n == 0 && !record);
}

bool scm_may_hold_fds(int sock)
{
	unsigned char bytes[LOOK_MAX];
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	int type, queued;
	bool fds;
	if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)}) == 0 &&
		type == SOCK_SEQPACKET) {
		return !has_no_record(sock);
	}
	if (ioctl(sock, SIOCINQ, &queued) < 0 || queued > LOOK_MAX) {
		return true;
	}
	return queued > 0 && (peek(sock, &iov, 1, &fds) < 0 || fds);
}

void scm_discard(int sock, int type)
{
	unsigned char bytes[4096];
	struct fdlist fds;
	ssize_t n;
	shutdown(sock, SHUT_RD);
	fdlist_init(&fds);
	do {
		n = type == SOCK_STREAM ? scm_recv(sock, bytes, sizeof(bytes), &fds)
					: scm_recv_record(sock, bytes, sizeof(bytes), &fds);
		fdlist_drop(&fds, fds.count);
	} while (type == SOCK_STREAM ? n > 0 : n >= 0 || n == -EMSGSIZE);
	fdlist_finish(&fds);
}

static ssize_t send_message(
	int sock, const struct iovec *iov, size_t n_iov, const struct fdlist *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(SCM_MAX * sizeof(int))];
	} control;
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n_iov};
	if (n_fds > 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fdlist_peek(fds), n_fds * sizeof(int));
	}
	return sendmsg(sock, &msg, SEND_FLAGS);
}

ssize_t scm_send(
	int sock, const struct iovec *iov, size_t n_iov, const struct fdlist *fds, size_t n_fds)
{
	assert(n_fds <= SCM_MAX);
	ssize_t n;
	do { // plain bytes are common, and send is the cheaper one
		n = n_iov == 1 && n_fds == 0 ? send(sock, iov->iov_base, iov->iov_len, SEND_FLAGS)
					     : send_message(sock, iov, n_iov, fds, n_fds);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}
