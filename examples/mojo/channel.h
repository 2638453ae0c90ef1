#ifndef EXAMPLES_MOJO_CHANNEL_H
#define EXAMPLES_MOJO_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/fdlist.h"
#include "examples/mojo/format.h"

struct event_base;
struct mojo_channel;

/**
 * A Mojo channel: messages with handles on a non-blocking UNIX stream socket. All handles of a
 * message go with the sendmsg that takes its first byte; the receiver has one queue of fds for the
 * whole channel, and a message waits until it has those that its head announces.
 *
 * The payload begins with a kind and a number of ours, 4 bytes each.
 */

#define MOJO_NOTE_SIZE   8
#define MOJO_MAX_HANDLES 28 // of a message of ours; Chromium has allowed 64, 128 and 253

struct mojo_message {
	uint32_t kind;
	uint32_t number;
	const uint8_t *data; // behind kind and number; borrowed for the call
	size_t size;
	struct fdlist handles; // closed after the call where they were not taken
};

struct mojo_channel_handler {
	void (*message)(void *data, struct mojo_message *message);
	// Queued bytes went out: mojo_channel_queued has become less. May be NULL.
	void (*drained)(void *data);
	// The peer has closed its end (NULL), or what is wrong. Nothing is called after it. Only here
	// may the channel be destroyed by its own handler.
	void (*ended)(void *data, const char *wrong);
};

// Takes fd, also on failure. handler and data are borrowed. NULL with errno on failure.
struct mojo_channel *mojo_channel_create(struct event_base *base, int fd, enum mojo_format format,
	const struct mojo_channel_handler *handler, void *data);
// The format is that of the first message that comes (mojo_format_detect); until then nothing is to
// be sent.
struct mojo_channel *mojo_channel_create_detecting(
	struct event_base *base, int fd, const struct mojo_channel_handler *handler, void *data);
void mojo_channel_destroy(struct mojo_channel *channel); // closes; NULL is fine

enum mojo_format mojo_channel_format(const struct mojo_channel *channel);

// Queues a message, and sends what the peer takes now. Takes all handles, at most MOJO_MAX_HANDLES
// (may be NULL), also on failure: ENOMEM, or the peer takes nothing any more.
bool mojo_channel_send(struct mojo_channel *channel, uint32_t kind, uint32_t number,
	const void *data, size_t size, struct fdlist *handles);
// The same with one handle; takes fd.
bool mojo_channel_send_fd(struct mojo_channel *channel, uint32_t kind, uint32_t number, int fd);
// Bytes that the peer has not taken yet.
size_t mojo_channel_queued(const struct mojo_channel *channel);
// Handles that came before their messages were handed on.
size_t mojo_channel_waiting_handles(const struct mojo_channel *channel);

#endif
