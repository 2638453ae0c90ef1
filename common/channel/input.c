#include "channel/input.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

// Two of the longest STREAM_DATA frames.
#define READ_AHEAD (132 * 1024)

static ssize_t socket_read(struct channel_input *input, const struct iovec *pieces, size_t n_pieces)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)pieces, .msg_iovlen = n_pieces};
	ssize_t n;
	do {
		n = recvmsg(input->fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static bool socket_has_more(const struct channel_input *input)
{
	(void)input;
	return false;
}

static void socket_destroy(struct channel_input *input)
{
	free(input);
}

static const struct channel_input_interface socket_interface = {
	.read = socket_read,
	.has_more = socket_has_more,
	.destroy = socket_destroy,
};

struct channel_input *channel_input_create(int fd)
{
	struct channel_input *input = calloc(1, sizeof(*input));
	if (input != NULL) {
		*input = (struct channel_input){
			.interface = &socket_interface,
			.fd = fd,
			.read_ahead = READ_AHEAD,
		};
	}
	return input;
}

void channel_input_destroy(struct channel_input *input)
{
	if (input != NULL) {
		input->interface->destroy(input);
	}
}

ssize_t channel_input_read(struct channel_input *input, const struct iovec *pieces, size_t n_pieces)
{
	return input->interface->read(input, pieces, n_pieces);
}

bool channel_input_has_more(const struct channel_input *input)
{
	return input->interface->has_more(input);
}
