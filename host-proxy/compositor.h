#ifndef HOST_PROXY_COMPOSITOR_H
#define HOST_PROXY_COMPOSITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/transport.h"

/**
 * Where the compositor's socket is, by libwayland's rules (wl_display_connect): a name in
 * $XDG_RUNTIME_DIR, or an absolute path.
 */

// name: NULL for $WAYLAND_DISPLAY, or wayland-0 without it. False: error says why in one line.
// Whether anybody listens there is not asked: a compositor may start later.
bool compositor_locate(
	const char *name, struct transport *compositor, char *error, size_t error_len);

// One compositor's socket, but not that of a later one at the same path. Zeros are none.
struct compositor_id {
	uint64_t device, inode;
	int64_t changed; // nanoseconds
};

// False: there is no such socket now.
bool compositor_identify(const struct transport *compositor, struct compositor_id *id);
bool compositor_id_equal(const struct compositor_id *a, const struct compositor_id *b);

#endif
