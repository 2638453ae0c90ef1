#ifndef CHANNEL_INPUT_H
#define CHANNEL_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct iovec;
struct channel_input;

/**
 * Where the bytes that a channel's peer sends are read from: its socket, unless there is a shorter
 * way. What is sent goes into the socket in any case.
 */

struct channel_input_interface {
	// Fills the pieces, as recvmsg(2) with MSG_DONTWAIT does. Returns how many bytes have come, 0
	// at the end of the stream, or -errno. -EFAULT: the place of the next byte has vanished, and
	// nothing is lost. The last piece is the caller's own and never vanishes.
	ssize_t (*read)(struct channel_input *input, const struct iovec *pieces, size_t n_pieces);
	// There is more, of which the socket may not tell again.
	bool (*has_more)(const struct channel_input *input);
	int (*take_fd)(struct channel_input *input);  // see channel_input_take_fd; NULL: none comes
	void (*destroy)(struct channel_input *input); // leaves the socket alone
};

struct channel_input {
	const struct channel_input_interface *interface;
	int fd;            // the socket, borrowed
	size_t read_ahead; // bytes that are best read before it is known where they belong
};

// Just the socket. NULL with errno on failure.
struct channel_input *channel_input_create(int fd);
// As above, but an fd may come with the bytes, until channel_input_take_fd is called.
struct channel_input *channel_input_create_with_fd(int fd);
void channel_input_destroy(struct channel_input *input); // NULL is fine

ssize_t channel_input_read(
	struct channel_input *input, const struct iovec *pieces, size_t n_pieces);
bool channel_input_has_more(const struct channel_input *input);
// The fd that has come, which is the caller's; -1: none, or it got lost on its way. Others that have
// come, or will, are closed.
int channel_input_take_fd(struct channel_input *input);

#endif
