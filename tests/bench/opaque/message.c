#include "tests/bench/opaque/message.h"

#include <err.h>
#include <poll.h>
#include "tests/bench/passing.h"

void opaque_send(int sock, const struct opaque_message *message, const struct passed_fds *fds)
{
	ssize_t sent = passing_send(sock, message, sizeof(*message), fds, 0);
	if (sent < 0) {
		err(1, "cannot send");
	}
	if ((size_t)sent < sizeof(*message)) {
		errx(1, "a message was sent in part"); // a blocking socket takes all
	}
}

// Programs with an event loop ask before they read; so does libwayland.
static void wait_readable(int sock)
{
	struct pollfd poll_fd = {.fd = sock, .events = POLLIN};
	if (poll(&poll_fd, 1, -1) < 0) {
		err(1, "poll");
	}
}

bool opaque_receive(int sock, struct opaque_message *message, struct passed_fds *fds)
{
	char *bytes = (char *)message;
	size_t length = 0;
	fds->count = 0;
	while (length < sizeof(*message)) {
		wait_readable(sock);
		ssize_t got = passing_recv(sock, bytes + length, sizeof(*message) - length, fds, 0);
		if (got == 0 && length == 0) {
			return false;
		}
		if (got == 0) {
			errx(1, "the connection ends within a message");
		}
		if (got < 0) {
			err(1, "cannot receive");
		}
		length += (size_t)got;
	}
	return true;
}
