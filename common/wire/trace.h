#ifndef WIRE_TRACE_H
#define WIRE_TRACE_H

#include <stdio.h>

#include "wire/message.h"

/**
 * Prints one decoded message as one line, much like libwayland's WAYLAND_DEBUG:
 *
 *     [1700000000.123456] -> wl_surface#7.attach(wl_buffer#9, 0, 0)
 *
 * What a peer chose is escaped and cut.
 */

// interface is the name of the receiving object's interface. fd_names names the message's fds in
// turn; it may be NULL.
void wire_trace(FILE *out, enum wire_direction direction, const char *interface,
	const struct wire_message *message, const char *const *fd_names);

// The same for bytes of which nothing is known, on a socket of a service:
//
//     [1700000000.123456] -> dbus#1 200 bytes, fds: pipe, socket
void wire_trace_bytes(FILE *out, enum wire_direction direction, const char *service,
	uint32_t socket, size_t len, const char *const *fd_names, size_t n_fds);

#endif
