#ifndef TESTS_SUPPORT_COMPOSITOR_H
#define TESTS_SUPPORT_COMPOSITOR_H

#include <stdint.h>
#include <wayland-server-core.h>

/**
 * A compositor of real libwayland-server that takes every request of every protocol: it makes the
 * objects that a request makes and destroys those that it destroys. What more should happen is a
 * hook's work.
 */

struct compositor;

// Called when the objects that the request makes are there, and before the one that it destroys
// goes. The hook takes the request's fds.
typedef void (*compositor_hook_func)(
	void *data, struct wl_resource *resource, const union wl_argument *args);

struct compositor *compositor_create(void);
void compositor_destroy(struct compositor *compositor);

struct wl_display *compositor_display(struct compositor *compositor);

struct wl_global *compositor_add_global(
	struct compositor *compositor, const struct wl_interface *interface, int version);
// bound may be NULL; it is called with the new resource.
struct wl_global *compositor_add_bound_global(struct compositor *compositor,
	const struct wl_interface *interface, int version,
	void (*bound)(void *data, struct wl_resource *resource), void *data);

// The names are borrowed. A later hook for the same request replaces the earlier one.
void compositor_hook(struct compositor *compositor, const char *interface, const char *request,
	compositor_hook_func func, void *data);

// An object made by an event, as wl_data_device.data_offer does it.
struct wl_resource *compositor_make(struct compositor *compositor, struct wl_resource *parent,
	const struct wl_interface *interface);

// The resource that a request's new_id made.
struct wl_resource *compositor_made(struct wl_resource *resource, const union wl_argument *arg);
struct wl_resource *compositor_object(const union wl_argument *arg); // NULL if null

// Takes what clients sent and sends what is for them, without waiting.
void compositor_turn(struct compositor *compositor);

#endif
