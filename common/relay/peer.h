#ifndef RELAY_PEER_H
#define RELAY_PEER_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/stats.h"

struct channel;
struct channel_frame;
struct fdrefs;
struct relay_clock;
struct session_options;

/**
 * The local peer of a session, with the engine that knows what it speaks: a client or a compositor
 * with Wayland (relay/wayland_peer.c), or either end of a protocol of which nothing is known
 * (relay/opaque_peer.c).
 */

struct peer_context {
	const struct session_options *options; // local_fd is taken; borrowed, as all here
	struct channel *channel;
	struct fdrefs *refs;
	struct relay_clock *clock;
	// The session cannot go on. code is a wl_display.error one.
	void (*failed)(void *data, uint32_t code, const char *text);
	// The peer is gone; reason is NULL if it may go like that.
	void (*left)(void *data, const char *reason);
	void *data;
};

struct peer {
	const struct peer_interface *interface;
	struct peer_context context;
};

struct peer_interface {
	// NULL with errno on failure.
	struct peer *(*create)(const struct peer_context *context);
	void (*destroy)(struct peer *peer);

	// Frames for the session itself. NULL, or in one phrase what is wrong.
	const char *(*messages)(struct peer *peer, const struct channel_frame *frame);
	const char *(*credit)(struct peer *peer, uint32_t bytes);
	// All frames that one read brought were handed over.
	void (*settled)(struct peer *peer);
	// The channel can take more.
	void (*drained)(struct peer *peer);
	// No fdref is carrying data any more.
	void (*streams_over)(struct peer *peer);
	// What a message of the peer has waited for may have come.
	void (*retried)(struct peer *peer);

	// The session ends, and this is why: to be told to a client.
	void (*tell)(struct peer *peer, uint32_t code, const char *text);
	// No more messages: what is queued goes out still. left follows when the peer has gone, too.
	void (*end)(struct peer *peer);
	// Closes the connection at once.
	void (*close)(struct peer *peer);
	bool (*is_open)(const struct peer *peer);
	// The channel and the fdrefs are about to go: nothing of them is used after this.
	void (*release)(struct peer *peer);

	void (*count)(const struct peer *peer, struct stats *stats);
};

extern const struct peer_interface wayland_peer;
extern const struct peer_interface opaque_peer;

#endif
