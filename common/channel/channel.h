#ifndef CHANNEL_CHANNEL_H
#define CHANNEL_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"

struct event_base;
struct iovec;
struct mapping;
struct record;
struct channel;
struct channel_input;

/**
 * A connected channel: frames in, frames out. Bulk rows go from a sender's mapping into the socket
 * and from the socket into a receiver's mapping without a stop in between.
 */

struct channel_frame {
	struct channel_header header;
	uint8_t *payload; // header.length bytes, 4-byte aligned; the handler may change them
};

// Rows of memory.
struct channel_rows {
	uint8_t *base; // of the first row
	size_t stride;
	size_t row_bytes;
	size_t rows;
	bool lasting;            // nobody else can truncate the memory: it may be touched from here
	struct mapping *mapping; // that they lie in, borrowed: a placed one is kept until written
};

struct channel_handler {
	// A whole frame other than MEM_WRITE. NULL, or in one phrase what is wrong with it.
	const char *(*frame)(void *data, const struct channel_frame *frame);
	// The rows of a MEM_WRITE are about to come: fill in where they belong. base == NULL takes and
	// forgets them. The phrase as above.
	const char *(*place)(void *data, uint32_t id, const struct channel_mem_write *write,
		struct channel_rows *rows);
	// All rows of the last place are in.
	void (*written)(void *data, uint32_t id);
	// The peer closed (error 0), the connection broke (-errno), or the peer's frames are wrong
	// (-EPROTO with reason). Called once, never from within a function below.
	void (*ended)(void *data, int error, const char *reason);
	// channel_queued has become less.
	void (*drained)(void *data);
	// All frames that one read brought were handed over: time to flush what they have caused.
	void (*settled)(void *data);
	// n bytes have come: how many nanoseconds nothing is to be read now. NULL: there is no such limit.
	uint64_t (*came)(void *data, size_t n);
};

// Takes fd, also on failure. handler and data are borrowed.
struct channel *channel_create(
	struct event_base *base, int fd, const struct channel_handler *handler, void *data);
// As above, for bytes that come by another way; input is taken, also on failure, and may be NULL: a
// failure.
struct channel *channel_create_with_input(struct event_base *base, int fd,
	struct channel_input *input, const struct channel_handler *handler, void *data);
// From now on all that crosses is recorded. record is borrowed; NULL: nothing.
void channel_set_record(struct channel *channel, struct record *record);
// Closes; what is queued is lost. NULL is fine. May be called from a handler.
void channel_destroy(struct channel *channel);

// Queues a frame with a payload of two parts, either of which may be empty. False on ENOMEM: the
// channel is of no more use.
bool channel_push(struct channel *channel, uint16_t type, uint32_t id, uint32_t arg,
	const void *head, size_t head_len, const void *body, size_t body_len);

// Sends frames (rows are better pushed, without a copy), encoded by the caller and cut into pieces as it likes, after
// what is queued. Only what the peer does not take now is copied. False as above.
bool channel_send(struct channel *channel, const struct iovec *pieces, size_t n_pieces);

// Queues MEM_WRITE frames for rows of mapping, which are read when they are sent: until then each
// frame holds a reference to it. Pages that vanished are sent as zeros. False as above.
bool channel_push_rows(struct channel *channel, uint32_t id, uint64_t offset,
	struct mapping *mapping, const struct channel_rows *rows);

// Writes what the peer takes now; what is left goes out by itself.
void channel_flush(struct channel *channel);
// Bytes queued and not yet taken by the peer.
size_t channel_queued(const struct channel *channel);
// Those of them that are copies, roughly: what a peer that reads nothing costs us.
size_t channel_kept(const struct channel *channel);
// Nothing more will be pushed; once all is out, the peer sees the end of the stream.
void channel_shutdown(struct channel *channel);

uint64_t channel_bytes_sent(const struct channel *channel);
uint64_t channel_bytes_received(const struct channel *channel);

// CLOCK_MONOTONIC in nanoseconds, and its on-wire form.
uint64_t channel_clock(void);
static inline uint64_t channel_get64(const uint32_t half[2])
{
	return (uint64_t)half[1] << 32 | half[0];
}
static inline void channel_put64(uint32_t half[2], uint64_t value)
{
	half[0] = (uint32_t)value;
	half[1] = (uint32_t)(value >> 32);
}

#endif
