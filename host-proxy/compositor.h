#ifndef HOST_PROXY_COMPOSITOR_H
#define HOST_PROXY_COMPOSITOR_H

#include <stdbool.h>
#include <stddef.h>

#include "channel/transport.h"

/**
 * Where the compositor's socket is, by libwayland's rules (wl_display_connect): a name in
 * $XDG_RUNTIME_DIR, or an absolute path.
 */

// name: NULL for $WAYLAND_DISPLAY, or wayland-0 without it. False: error says why in one line.
// Whether anybody listens there is not asked: a compositor may start later.
bool compositor_locate(
	const char *name, struct transport *compositor, char *error, size_t error_len);

#endif
