#include "tests/bench/opaque/message.h"

#include <err.h>
#include <errno.h>
#include <sys/socket.h>
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

bool opaque_receive(int sock, struct opaque_message *message, struct passed_fds *fds)
{
	char *bytes = (char *)message;
	size_t length = 0;
	fds->count = 0;
	while (length < sizeof(*message)) {
		ssize_t got = passing_recv(sock, bytes + length, sizeof(*message) - length, fds, 0);
		if (got == 0 && length == 0) {
			return false;
		}
		if (got <= 0) {
			err(1, "cannot receive");
		}
		length += (size_t)got;
	}
	return true;
}
