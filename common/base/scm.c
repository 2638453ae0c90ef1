#include "base/scm.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fdlist.h"

// Takes every fd of the message, whatever happens.
static bool collect_fds(struct msghdr *msg, struct fdlist *fds)
{
	bool ok = true;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
			continue;
		}
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			ok = fdlist_push(fds, fd) && ok;
		}
	}
	return ok;
}

ssize_t scm_recv(int sock, void *data, size_t len, struct fdlist *fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(SCM_RECV_MAX * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = data, .iov_len = len};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;
	do {
		n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return -errno;
	}
	bool ok = collect_fds(&msg, fds);
	if (msg.msg_flags & MSG_CTRUNC) {
		return -EPROTO;
	}
	return ok ? n : -ENOMEM;
}

ssize_t scm_send(
	int sock, const struct iovec *iov, size_t n_iov, const struct fdlist *fds, size_t n_fds)
{
	assert(n_fds <= SCM_SEND_MAX);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(SCM_SEND_MAX * sizeof(int))];
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
	ssize_t n;
	do {
		n = sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}
