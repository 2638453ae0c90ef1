#ifndef FDPASS_SOCKET_H
#define FDPASS_SOCKET_H

#include "fdpass/fdref.h"

/**
 * Connected UNIX sockets, SOCK_STREAM and SOCK_SEQPACKET, and the fds in what they carry, which may
 * be sockets again. Every fd stays with the byte, or the record, that it came with; each direction
 * has its own credit and its own end.
 *
 * The side that had the socket reads and writes that one end of it; the other side makes a pair,
 * gives one socket of it away and keeps the other. A socket that is sent back to where it came from
 * is given there as what it was, once nothing is under way to it.
 */

// Opens a socket for fd, which is taken also on failure. Gives the id, or 0 with *wrong set.
uint32_t socket_export(struct fdrefs *refs, int fd, const char **wrong);
// The same for the connection that the session is about: the other side joins it to its root_fd.
uint32_t socket_export_root(struct fdrefs *refs, int fd, const char **wrong);
// For fdrefs_frame: OPEN of a socket.
const char *socket_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

#endif
