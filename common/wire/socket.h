#ifndef WIRE_SOCKET_H
#define WIRE_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/fdlist.h"

struct event_base;
struct flights;
struct parcel;
struct wire_socket;

/**
 * A connected UNIX stream socket whose bytes carry fds. Reads into a buffer of its own, queues what
 * the peer does not take at once, and keeps every fd at the first byte of the message it was pushed
 * with.
 */

struct wire_socket_handler {
	// Bytes are there: take what is whole by wire_socket_consume.
	void (*readable)(void *data);
	// The peer has closed its end, or error (-errno) broke the connection. Called once, after the
	// last readable.
	void (*ended)(void *data, int error);
	// Queued bytes went out: wire_socket_queued has become less.
	void (*drained)(void *data);
};

// Takes fd, also on failure. flights, which may be NULL, handler and data are borrowed; flights may go
// first.
struct wire_socket *wire_socket_create(struct event_base *base, int fd, struct flights *flights,
	const struct wire_socket_handler *handler, void *data);
// Closes; NULL is fine. Also from inside a handler: then it is freed when the handler returns.
void wire_socket_destroy(struct wire_socket *sock);

// The unconsumed bytes, 4-byte aligned as long as whole words are consumed; the handler may change
// them in place.
uint8_t *wire_socket_data(struct wire_socket *sock, size_t *len);
void wire_socket_consume(struct wire_socket *sock, size_t len);
// Fds that came and were not taken yet, oldest first.
struct fdlist *wire_socket_fds(struct wire_socket *sock);

// Starts or stops reading. Reading is on at first. When it starts again, the loop calls readable for
// what was left unconsumed.
void wire_socket_set_reading(struct wire_socket *sock, bool reading);

// Queues bytes and all of fds (which is emptied; may be NULL), which go with the first byte. parcel is
// what is charged for them until the peer has them: taken, also on failure; may be NULL.
// False on ENOMEM: fds are closed, the socket is of no more use.
bool wire_socket_push(struct wire_socket *sock, const void *bytes, size_t len, struct fdlist *fds,
	struct parcel *parcel);
// Writes what the peer takes now. What is left goes out by itself. An error is told by ended.
void wire_socket_flush(struct wire_socket *sock);
// Nothing more will be pushed: once all is out, the peer sees the end of the stream. It may go on
// sending.
void wire_socket_shutdown(struct wire_socket *sock);
// Bytes that the peer has not taken yet.
size_t wire_socket_queued(const struct wire_socket *sock);

#endif
