#include "tests/support/channel_pair.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define VSOCK_LEAST     4096 // about what a UNIX socket has at least
#define CONNECT_SECONDS 90   // the kernel's own two are too few where others take the processor

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static bool is_vsock(void)
{
	const char *name = getenv("FDFERRY_TEST_CHANNEL");
	return name != NULL && strcmp(name, "vsock") == 0;
}

static int vsock_socket(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(fd >= 0, "AF_VSOCK");
	return fd;
}

static void create_vsock(int fds[2])
{
	const struct timeval longest = {.tv_sec = CONNECT_SECONDS};
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_LOCAL,
		.svm_port = VMADDR_PORT_ANY,
	};
	socklen_t len = sizeof(address);
	int listener = vsock_socket();
	check(bind(listener, (struct sockaddr *)&address, len) == 0, "bind");
	check(listen(listener, 1) == 0, "listen");
	check(getsockname(listener, (struct sockaddr *)&address, &len) == 0, "getsockname");
	fds[0] = vsock_socket();
	check(setsockopt(fds[0], AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &longest,
		      sizeof(longest)) == 0,
		"SO_VM_SOCKETS_CONNECT_TIMEOUT");
	check(connect(fds[0], (struct sockaddr *)&address, len) == 0, "connect");
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	check(fds[1] >= 0, "accept");
	close(listener);
}

void channel_pair_create(int fds[2])
{
	if (is_vsock()) {
		create_vsock(fds);
	} else {
		check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
	}
}

static void limit_vsock(int fd, uint64_t size)
{
	size = size < VSOCK_LEAST ? VSOCK_LEAST : size;
	check(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof(size)) == 0,
		"SO_VM_SOCKETS_BUFFER_SIZE");
}

void channel_pair_limit(const int fds[2], int size)
{
	for (int i = 0; i < 2; i++) {
		if (is_vsock()) {
			limit_vsock(fds[i], (uint64_t)size);
		} else {
			check(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0,
				"SO_SNDBUF");
		}
	}
}
