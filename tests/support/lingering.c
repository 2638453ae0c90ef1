#include "tests/support/lingering.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static int new_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(fd >= 0, "AF_INET");
	return fd;
}

// What the peer does not take stays, and so does the end of the connection.
static void fill(int fd)
{
	static const char bytes[65536];
	while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
	}
}

int lingering_create(int *peer)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(address);
	const struct linger hour = {.l_onoff = 1, .l_linger = 3600};
	int listener = new_socket();
	if (bind(listener, (struct sockaddr *)&address, len) < 0) {
		close(listener);
		return -1;
	}
	check(listen(listener, 1) == 0, "listen");
	check(getsockname(listener, (struct sockaddr *)&address, &len) == 0, "getsockname");
	int fd = new_socket();
	check(connect(fd, (struct sockaddr *)&address, len) == 0, "connect");
	*peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	check(*peer >= 0, "accept");
	close(listener);
	fill(fd);
	check(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hour, sizeof(hour)) == 0, "SO_LINGER");
	return fd;
}
