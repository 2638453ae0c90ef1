#ifndef TESTS_BENCH_COMPOSITOR_COMPOSITOR_H
#define TESTS_BENCH_COMPOSITOR_COMPOSITOR_H

#include <stddef.h>
#include <stdint.h>
#include <wayland-server-core.h>

// A compositor that shows nothing: it answers every request at once, so that what a client waits
// for is the way to here and back.

// Requests are dispatched by opcode, without libffi and without a function for each of the many
// that need no answer.
typedef void request_handler(struct wl_resource *resource, const union wl_argument *args);

#define REQUESTS_MAX 20
#define OPCODE(interface, request) \
	(offsetof(struct interface##_interface, request) / sizeof(void (*)(void)))

struct requests {
	request_handler *handlers[REQUESTS_MAX]; // by OPCODE; NULL where nothing is to be done
};

// data is handed to destroy, which may be NULL. Where memory runs out, tells the client, calls
// destroy for nothing and returns NULL.
struct wl_resource *request_resource_create(struct wl_client *client,
	const struct wl_interface *interface, int version, uint32_t id,
	const struct requests *requests, void *data, wl_resource_destroy_func_t destroy);

request_handler request_destroy; // for destructors

struct wl_resource *request_object(const union wl_argument *arg); // may be NULL

// What all clients did so far.
struct totals {
	uint64_t frames;
	uint64_t verified;
	uint64_t mismatched;
};
extern struct totals totals;

struct surface {
	struct wl_resource *buffer; // pending, may be NULL
	struct wl_listener buffer_destroy;
	struct wl_list callbacks; // wl_resource_get_link() of frame callbacks

	struct wl_resource *xdg_surface; // may be NULL
	struct wl_resource *toplevel;    // may be NULL

	// The client announces the checksum of the next buffer as the title "sum <16 hex digits>",
	// and is told the verdict by a configure event: width counts checks, height failures.
	bool check;
	uint64_t sum;
	int32_t verified, mismatched;
};

void surface_create_global(struct wl_display *display);

void shell_create_global(struct wl_display *display);
// Tells the client of a checked surface what came of it.
void shell_send_configure(struct surface *surface);
// The surface is going away.
void shell_forget(struct surface *surface);

void seat_create_globals(struct wl_display *display);

void selection_create_global(struct wl_display *display);

void dmabuf_create_global(struct wl_display *display);
// noise_sum() of a buffer of that global: 0 if its bytes cannot be read.
uint64_t dmabuf_sum(struct wl_resource *buffer);

#endif
