#ifndef TESTS_SUPPORT_WORLD_H
#define TESTS_SUPPORT_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-client.h>
#include <wayland-server-core.h>

#include "tests/support/pair.h"
#include "tests/support/screen.h"

struct compositor;
struct event_base;

/**
 * Clients, their pairs of sessions and one compositor, all in one thread. Nothing happens but in
 * world_turn, which lets everybody do what can be done without waiting.
 */

struct world {
	struct event_base *base;
	struct compositor *compositor;
	struct screen screen;
	struct wl_list clients; // client.link
};

#define CLIENT_MAX_GLOBALS 64

struct client_global {
	uint32_t name, version;
	char interface[64];
};

struct client {
	struct wl_list link;
	struct world *world;
	struct pair pair;
	struct wl_client *far; // in the compositor; NULL: gone
	struct wl_listener far_gone;
	struct wl_display *display; // NULL: gone
	struct wl_registry *registry;
	struct client_global globals[CLIENT_MAX_GLOBALS];
	size_t n_globals;
	bool paused;     // neither reads nor writes
	bool failed;     // the display has an error
	char error[512]; // its text, if it is a protocol error
};

struct world *world_create(void);
void world_destroy(struct world *world); // with its clients

void world_turn(struct world *world);
// Turns until *done, or until done(data); a test that hangs fails.
void world_until(struct world *world, const bool *done);
void world_wait(struct world *world, bool (*done)(void *data), void *data);
// Until something has arrived at a socket of the test's own, which is not read.
void world_until_readable(struct world *world, int fd);
void world_turns(struct world *world, size_t n);

// A client with a display and its registry's globals. options may be NULL.
struct client *client_create(struct world *world, const struct pair_options *options);
// The same without a display or a wl_client where the ends are the test's: see pair.
struct client *client_create_bare(struct world *world, const struct pair_options *options);
void client_destroy(struct client *client);
// Closes the connection, as by a client's exit.
void client_disconnect(struct client *client);

const struct client_global *client_find(const struct client *client, const char *interface);
// Of the version given or what is offered, whichever is lower.
void *client_bind(struct client *client, const struct wl_interface *interface, uint32_t version);
void client_roundtrip(struct client *client);
// Sets *done, which is false until then, once the compositor has seen all that was said so far.
void client_ask(struct client *client, bool *done);
// What the compositor has of the client's surface; there is such a one.
struct screen_surface *client_shown(const struct client *client, struct wl_surface *surface);
// Until the display has failed or was disconnected by the other side.
void client_wait_failed(struct client *client);
// Until both sessions are over. A client that has failed hangs up first.
void client_wait_over(struct client *client);

#endif
