#ifndef BASE_ACCEPTOR_H
#define BASE_ACCEPTOR_H

struct event_base;
struct acceptor;

/**
 * Accepts the connections of one listening socket. Where the system runs out of what a connection
 * needs, those that wait go on waiting: accepting pauses for a while instead of spinning.
 */

// Takes fd, also on failure: a non-blocking listening socket. connected is given each connection,
// CLOEXEC and blocking, to take; it may destroy the acceptor. NULL with errno on failure.
struct acceptor *acceptor_create(
	struct event_base *base, int fd, void (*connected)(void *data, int fd), void *data);
// Closes the socket, and the connections that nobody has accepted; NULL is fine.
void acceptor_destroy(struct acceptor *acceptor);
// Destroys all but the socket, which is the caller's.
int acceptor_take_socket(struct acceptor *acceptor);

#endif
