#ifndef FDPASS_EVENT_IMPL_H
#define FDPASS_EVENT_IMPL_H

#include <event2/util.h>
#include <stdbool.h>
#include <stdint.h>

#include "fdpass/fdref.h"

struct event;

/**
 * What the two parts of an eventfd's fdref share, and nobody else includes: its life and its name
 * (event.c), and how its counts are moved (event_counter.c).
 */

struct counter {
	struct fdref ref;
	bool ours; // opened here
	int fd;    // the original or the replica
	int info;  // of fd, where its count is read without taking it
	bool semaphore;
	bool asked;                     // what its name is, or whether there is an fd of that name
	bool awaited;                   // ours: it may not be named yet
	uint64_t name;                  // 0: it is known to this session only
	enum channel_event_role role;   // as it was told; that it is a source or a sink may change
	enum channel_event_role wanted; // while it waits for its turn. OTHER: it does not
	uint32_t told; // of these two, who looks after it was told that it is. 0: neither
	bool source;   // counts that appear here go to the other side
	bool paused;   // a source whose channel is busy
	uint64_t used; // refs->uses when it was last passed, or a count moved
	struct event *event;
	struct event *turn; // a sink, when what has appeared was there for long enough

	uint64_t pending; // came, but does not fit into fd yet
	uint64_t placed;  // of a sink: at most so much of what is in fd came from the other side
	uint32_t sent, received; // EVENT_ADD frames
	uint32_t seen;           // of those sent, by the other side when it sent its last one
};

/* event_counter.c */

// It is in use: others are let go before it.
void counter_use(struct counter *counter);
// What is in fd, which stays there.
uint64_t counter_count(const struct counter *counter);
// 0 where there is nothing to take.
uint64_t counter_take(const struct counter *counter);
// Adds what is pending as far as it fits.
void counter_put_pending(struct counter *counter);
// Waits for what its state wants to be waited for.
void counter_watch(struct counter *counter);
// Tells who looks after it on which side counts appear, if that is new.
void counter_tell_direction(struct counter *counter);
// From now on this session moves the counts. placed is how much the other side has put there.
void counter_take_role(struct counter *counter, enum channel_event_role role, uint64_t placed);
// Its session ends: the next one goes on from here.
void counter_leave(struct counter *counter);
// NULL, or what is wrong.
const char *counter_handle_add(struct counter *counter, const struct channel_frame *frame);
// The loop's: something has happened to fd; nobody has taken what has appeared.
void counter_handle_event(evutil_socket_t fd, short what, void *data);
void counter_handle_turn(evutil_socket_t fd, short what, void *data);

#endif
