#ifndef EXAMPLES_MOJO_FLOW_H
#define EXAMPLES_MOJO_FLOW_H

#include <stddef.h>

struct event_base;
struct evbuffer;

/**
 * Plain bytes through a pipe or a stream socket that may be somebody else's, too: its flags are left
 * alone, and nothing blocks.
 */

// Reads until enough bytes have come, or the end.
struct flow_reader;
// Called once. error: 0 when as many bytes came as were wanted or it ended before, else -errno.
typedef void (*flow_read_done)(void *data, struct evbuffer *bytes, int error);
// fd stays the caller's and has to outlive the reader. wanted: SIZE_MAX reads to the end. NULL on
// ENOMEM.
struct flow_reader *flow_reader_create(
	struct event_base *base, int fd, size_t wanted, flow_read_done done, void *data);
void flow_reader_destroy(struct flow_reader *reader); // also from inside done; NULL is fine

// Writes bytes until all are out or the reader is gone.
struct flow_writer;
// Called once. error: 0 when all bytes are out, else -errno (-EPIPE, -ECONNRESET).
typedef void (*flow_write_done)(void *data, int error);
// fd stays the caller's and has to outlive the writer; a socket or a pipe. Takes bytes, also on
// failure. NULL on ENOMEM. done may be NULL.
struct flow_writer *flow_writer_create(
	struct event_base *base, int fd, struct evbuffer *bytes, flow_write_done done, void *data);
void flow_writer_destroy(struct flow_writer *writer); // also from inside done; NULL is fine
// Bytes that are not out yet.
size_t flow_writer_left(const struct flow_writer *writer);

#endif
