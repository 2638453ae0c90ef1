#ifndef TESTS_BENCH_CLIENT_CONNECTION_H
#define TESTS_BENCH_CLIENT_CONNECTION_H

#include <stdbool.h>
#include <wayland-client.h>

// A connection to $WAYLAND_DISPLAY with the globals that every workload may use. Whatever goes
// wrong with it ends the program.
struct connection {
	struct wl_display *display;
	struct wl_registry *registry;
	struct wl_compositor *compositor;
	struct wl_shm *shm;
	struct xdg_wm_base *wm_base;
	struct wl_seat *seat;
	struct wl_data_device_manager *data_device_manager;
	struct zwp_linux_dmabuf_v1 *dmabuf; // NULL where the display has none

	struct wl_keyboard *keyboard; // connection_get_keymap()'s, or NULL
	bool has_keymap;
};

void connection_init(struct connection *connection);
void connection_finish(struct connection *connection);

// Waits for events and handles them.
void connection_dispatch(struct connection *connection);
void connection_roundtrip(struct connection *connection);

// Gets a keyboard and waits for its keymap, which is looked at and dropped.
void connection_get_keymap(struct connection *connection);

#endif
