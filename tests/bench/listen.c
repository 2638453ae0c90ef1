#include "tests/bench/listen.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

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

int listen_on(const char *display)
{
	struct sockaddr_un address = listen_address(display);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		err(1, "socket");
	}
	unlink(address.sun_path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 128) < 0) {
		err(1, "%s", address.sun_path);
	}
	return fd;
}
