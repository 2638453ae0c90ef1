#ifndef PROTOCOL_WAYLAND_FDS_H
#define PROTOCOL_WAYLAND_FDS_H

#include <stddef.h>

// What the protocol says about the fds in a message. The fd itself is still checked on arrival.

enum protocol_fd_kind {
	PROTOCOL_FD_POOL,   // shared memory with sync points
	PROTOCOL_FD_FILE,   // written once: keymap, gamma ramps, ICC profile, format table
	PROTOCOL_FD_STREAM, // the receiver of the message writes bytes into it until EOF
	PROTOCOL_FD_PLANE,  // a dma-buf: planes of a picture that messages describe
	PROTOCOL_FD_DMABUF, // any other
	PROTOCOL_FD_SYNC_FILE,
	PROTOCOL_FD_SYNCOBJ,
	PROTOCOL_FD_SOCKET,  // connected socket that may carry fds itself (libei)
	PROTOCOL_FD_REFUSED, // device, lease, listening socket: cannot cross
};

struct protocol_fd {
	const char *interface;
	const char *message;        // request or event; no interface has both by one name
	enum protocol_fd_kind kind; // of every fd in the message
};

extern const struct protocol_fd protocol_fds[];
extern const size_t protocol_fds_len;

// NULL for a message that is not in the table
const struct protocol_fd *protocol_fd_find(const char *interface, const char *message);

#endif
