#include "tests/bench/passing.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * PASSING_FDS_MAX)];
};

void passed_fds_close(struct passed_fds *passed)
{
	for (size_t i = 0; i < passed->count; i++) {
		close(passed->fds[i]);
	}
	passed->count = 0;
}

static void take_fds(struct passed_fds *passed, struct msghdr *message)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(message);
	for (; cmsg != NULL; cmsg = CMSG_NXTHDR(message, cmsg)) {
		if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
			size_t size = cmsg->cmsg_len - CMSG_LEN(0);
			memcpy(passed->fds, CMSG_DATA(cmsg), size);
			passed->count = size / sizeof(int);
		}
	}
}

ssize_t passing_recv(int sock, void *bytes, size_t size, struct passed_fds *passed, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = bytes, .iov_len = size};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t length = recvmsg(sock, &message, flags | MSG_CMSG_CLOEXEC);
	if (length > 0) {
		take_fds(passed, &message);
	}
	return length;
}

ssize_t passing_send(
	int sock, const void *bytes, size_t size, const struct passed_fds *passed, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = size};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	if (passed->count > 0) {
		size_t fds_size = sizeof(int) * passed->count;
		control.align = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(fds_size),
		};
		memcpy(CMSG_DATA(&control.align), passed->fds, fds_size);
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fds_size);
	}
	return sendmsg(sock, &message, flags | MSG_NOSIGNAL);
}
