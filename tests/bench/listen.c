#include "tests/bench/listen.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_vm vm;
};

struct sockaddr_un listen_address(const char *display)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *dir = getenv("XDG_RUNTIME_DIR");
	if (display[0] != '/' && dir == NULL) {
		errx(2, "XDG_RUNTIME_DIR is not set");
	}
	int length = display[0] == '/'
		? snprintf(address.sun_path, sizeof(address.sun_path), "%s", display)
		: snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, display);
	if (length < 0 || (size_t)length >= sizeof(address.sun_path)) {
		errx(2, "%s: name of a socket is too long", display);
	}
	return address;
}

// Returns its length.
static socklen_t parse(const char *text, union address *address)
{
	unsigned int first, second;
	int numbers = sscanf(text, "vsock:%u:%u", &first, &second);
	if (numbers < 1) {
		address->un = listen_address(text);
		return sizeof(address->un);
	}
	address->vm = (struct sockaddr_vm){
		.svm_family = AF_VSOCK,
		.svm_cid = numbers == 2 ? first : VMADDR_CID_ANY,
		.svm_port = numbers == 2 ? second : first,
	};
	return sizeof(address->vm);
}

static int open_socket(const union address *address, int flags)
{
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0) {
		err(1, "socket");
	}
	return fd;
}

int listen_on(const char *text)
{
	union address address;
	socklen_t length = parse(text, &address);
	int fd = open_socket(&address, SOCK_NONBLOCK);
	if (address.any.sa_family == AF_UNIX) {
		unlink(address.un.sun_path);
	}
	if (bind(fd, &address.any, length) < 0 || listen(fd, 128) < 0) {
		err(1, "%s", text);
	}
	return fd;
}

int connect_to(const char *text)
{
	union address address;
	socklen_t length = parse(text, &address);
	int fd = open_socket(&address, 0);
	if (connect(fd, &address.any, length) < 0) {
		err(1, "%s", text);
	}
	return fd;
}
