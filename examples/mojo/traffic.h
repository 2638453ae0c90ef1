#ifndef EXAMPLES_MOJO_TRAFFIC_H
#define EXAMPLES_MOJO_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

#include "examples/mojo/channel.h"

/**
 * Both ends of a channel send each other messages that follow from a seed, and check what comes: the
 * order, each byte, and each handle.
 */
struct traffic_shape {
	unsigned int messages;    // each way
	uint32_t min, max;        // bytes behind kind and number
	unsigned int max_handles; // of a message; all have as many where that is said
	bool always_max_handles;
	unsigned int handle_kinds; // the first so many of enum handle_kind
	unsigned int window;       // messages that may wait for their acknowledgement
};

struct traffic_counts {
	unsigned int messages;
	unsigned int handles;
	uint64_t bytes;
	uint64_t hash; // of all bytes, in order
};

struct traffic_handler {
	// All messages came and were right, the peer has said the same and has been told. Called once.
	void (*done)(void *data);
	// Called once, instead.
	void (*failed)(void *data, const char *wrong);
	// A message of another kind than traffic's, which are above TRAFFIC_KINDS. May be NULL.
	void (*other)(void *data, struct mojo_message *message);
};
#define TRAFFIC_KINDS 0x10000u

struct traffic;

// Takes fd, also on failure. The end that has opened the channel says so. handler, shape and data
// are borrowed. NULL on failure.
struct traffic *traffic_create(struct event_base *base, int fd, enum mojo_format format,
	const struct traffic_shape *shape, uint64_t seed, bool opener,
	const struct traffic_handler *handler, void *data);
void traffic_destroy(struct traffic *traffic); // not from inside its handler; NULL is fine

// Sends what may be sent. To be called once; from then on it goes on by itself.
void traffic_start(struct traffic *traffic);
struct mojo_channel *traffic_channel(struct traffic *traffic); // borrowed
// Of what came.
const struct traffic_counts *traffic_received(const struct traffic *traffic);

#endif
