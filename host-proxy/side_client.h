#ifndef HOST_PROXY_SIDE_CLIENT_H
#define HOST_PROXY_SIDE_CLIENT_H

#include <wayland-client-core.h>

/**
 * A client of the compositor that no guest has anything to do with: for what the host asks on its
 * own account.
 */

// Takes fd, connected to the compositor. NULL with errno on failure. wl_display_disconnect ends it.
struct wl_display *side_client_create(int fd);

// As wl_display_roundtrip, but for so long at most: 0, -ETIMEDOUT, or -errno as
// wl_display_get_error has it.
int side_client_roundtrip(struct wl_display *display, int timeout_ms);

#endif
