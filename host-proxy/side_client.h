#ifndef HOST_PROXY_SIDE_CLIENT_H
#define HOST_PROXY_SIDE_CLIENT_H

#include <stdint.h>
#include <wayland-client-core.h>

struct wl_registry;

/**
 * A client of the compositor that no guest has anything to do with: for what the host asks on its
 * own account.
 */

// Takes fd, connected to the compositor. NULL with errno on failure. wl_display_disconnect ends it.
struct wl_display *side_client_create(int fd);

// As wl_registry_listener.global; registry is there until it returns, what it binds stays.
typedef void (*side_client_global_func)(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version);
// Hands over each of the compositor's globals. Returns as side_client_roundtrip.
int side_client_list_globals(
	struct wl_display *display, int timeout_ms, side_client_global_func global, void *data);

// As wl_display_roundtrip, but for so long at most: 0, -ETIMEDOUT, or -errno as
// wl_display_get_error has it.
int side_client_roundtrip(struct wl_display *display, int timeout_ms);

#endif
