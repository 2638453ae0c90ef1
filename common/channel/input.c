#include "channel/input.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/fdlist.h"
#include "base/scm.h"

// Two of the longest STREAM_DATA frames.
#define READ_AHEAD (132 * 1024)

static ssize_t socket_read(struct channel_input *input, const struct iovec *pieces, size_t n_pieces)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)pieces, .msg_iovlen = n_pieces};
	ssize_t n;
	do { // most reads are into one piece, and recv is the cheaper one
		n = n_pieces == 1 ? recv(input->fd, pieces->iov_base, pieces->iov_len, MSG_DONTWAIT)
				  : recvmsg(input->fd, &msg, MSG_DONTWAIT);
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

/* ---- with an fd ---- */

struct fd_input {
	struct channel_input input;
	struct fdlist fds;
	bool taken; // from now on the kernel closes what comes
};

static ssize_t fd_read(struct channel_input *input, const struct iovec *pieces, size_t n_pieces)
{
	struct fd_input *self = (struct fd_input *)input;
	return self->taken ? socket_read(input, pieces, n_pieces)
			   : scm_recv_pieces(input->fd, pieces, n_pieces, &self->fds);
}

static int fd_take(struct channel_input *input)
{
	struct fd_input *self = (struct fd_input *)input;
	int fd = fdlist_take(&self->fds);
	fdlist_drop(&self->fds, self->fds.count);
	self->taken = true;
	return fd;
}

static void fd_destroy(struct channel_input *input)
{
	fdlist_finish(&((struct fd_input *)input)->fds);
	free(input);
}

static const struct channel_input_interface fd_interface = {
	.read = fd_read,
	.has_more = socket_has_more,
	.take_fd = fd_take,
	.destroy = fd_destroy,
};

struct channel_input *channel_input_create_with_fd(int fd)
{
	struct fd_input *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		return NULL;
	}
	self->input = (struct channel_input){
		.interface = &fd_interface,
		.fd = fd,
		.read_ahead = READ_AHEAD,
	};
	fdlist_init(&self->fds);
	return &self->input;
}

/* ---- any ---- */

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

int channel_input_take_fd(struct channel_input *input)
{
	return input->interface->take_fd != NULL ? input->interface->take_fd(input) : -1;
}
