#include "tests/support/world.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <wayland-server-core.h>
#include <cmocka.h>

#include "tests/support/compositor.h"
#include "wire/schema.h"

#define HANG_SECONDS 90
#define BUSY_TURNS   2000 // after so many the loop lets others have the processor

static struct client *dispatching; // whose error libwayland logs

static void take_error(const char *format, va_list args)
{
	char line[512];
	vsnprintf(line, sizeof(line), format, args);
	if (dispatching != NULL && strstr(line, "error ") != NULL) {
		snprintf(dispatching->error, sizeof(dispatching->error), "%s", line);
	}
}

static void ignore_log(const char *format, va_list args)
{
	(void)format;
	(void)args;
}

struct world *world_create(void)
{
	struct world *world = calloc(1, sizeof(*world));
	world->base = event_base_new();
	world->compositor = compositor_create();
	if (world->base == NULL) {
		abort();
	}
	wl_list_init(&world->clients);
	screen_init(&world->screen, world->compositor);
	wl_log_set_handler_client(take_error);
	wl_log_set_handler_server(ignore_log);
	return world;
}

void world_destroy(struct world *world)
{
	struct client *client, *next;
	wl_list_for_each_safe (client, next, &world->clients, link) {
		client_destroy(client);
	}
	compositor_destroy(world->compositor);
	screen_finish(&world->screen);
	event_base_free(world->base);
	free(world);
	wire_schema_finish();
}

/* ---- turns ---- */

static void client_turn(struct client *client)
{
	if (client->display == NULL || client->failed || client->paused) {
		return;
	}
	dispatching = client;
	while (wl_display_prepare_read(client->display) != 0) {
		wl_display_dispatch_pending(client->display);
	}
	wl_display_flush(client->display);
	struct pollfd readable = {.fd = wl_display_get_fd(client->display), .events = POLLIN};
	if (poll(&readable, 1, 0) == 1) {
		wl_display_read_events(client->display);
	} else {
		wl_display_cancel_read(client->display);
	}
	wl_display_dispatch_pending(client->display);
	client->failed = wl_display_get_error(client->display) != 0;
	dispatching = NULL;
}

void world_turn(struct world *world)
{
	struct client *client;
	wl_list_for_each (client, &world->clients, link) {
		client_turn(client);
	}
	event_base_loop(world->base, EVLOOP_NONBLOCK);
	compositor_turn(world->compositor);
}

void world_turns(struct world *world, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		world_turn(world);
	}
}

void world_wait(struct world *world, bool (*done)(void *data), void *data)
{
	time_t deadline = time(NULL) + HANG_SECONDS;
	for (size_t turns = 0; !done(data); turns++) {
		world_turn(world);
		if (turns > BUSY_TURNS) {
			usleep(1000);
		}
		if (time(NULL) > deadline) {
			fail_msg("nothing has come of waiting");
		}
	}
}

static bool is_set(void *data)
{
	return *(bool *)data;
}

void world_until(struct world *world, const bool *done)
{
	world_wait(world, is_set, (void *)done);
}

static bool is_readable(void *data)
{
	struct pollfd readable = {.fd = *(int *)data, .events = POLLIN};
	return poll(&readable, 1, 0) == 1;
}

void world_until_readable(struct world *world, int fd)
{
	world_wait(world, is_readable, &fd);
}

/* ---- clients ---- */

static void handle_far_gone(struct wl_listener *listener, void *data)
{
	(void)data;
	struct client *client = wl_container_of(listener, client, far_gone);
	client->far = NULL;
}

static void handle_global(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version)
{
	(void)registry;
	struct client *client = data;
	if (client->n_globals == CLIENT_MAX_GLOBALS) {
		abort();
	}
	struct client_global *global = &client->globals[client->n_globals++];
	global->name = name;
	global->version = version;
	snprintf(global->interface, sizeof(global->interface), "%s", interface);
}

static void handle_global_remove(void *data, struct wl_registry *registry, uint32_t name)
{
	(void)registry;
	struct client *client = data;
	for (size_t i = 0; i < client->n_globals; i++) {
		if (client->globals[i].name == name) {
			client->n_globals--;
			memmove(&client->globals[i], &client->globals[i + 1],
				(client->n_globals - i) * sizeof(client->globals[0]));
			return;
		}
	}
}

static const struct wl_registry_listener registry_listener = {
	.global = handle_global,
	.global_remove = handle_global_remove,
};

struct client *client_create_bare(struct world *world, const struct pair_options *options)
{
	struct client *client = calloc(1, sizeof(*client));
	client->world = world;
	wl_list_insert(world->clients.prev, &client->link);
	pair_init(&client->pair, world->base, options);
	return client;
}

struct client *client_create(struct world *world, const struct pair_options *options)
{
	struct client *client = client_create_bare(world, options);
	if (client->pair.compositor_fd >= 0) {
		client->far = wl_client_create(
			compositor_display(world->compositor), pair_take_compositor(&client->pair));
		client->far_gone.notify = handle_far_gone;
		wl_client_add_destroy_listener(client->far, &client->far_gone);
	}
	client->display = wl_display_connect_to_fd(pair_take_client(&client->pair));
	client->registry = wl_display_get_registry(client->display);
	wl_registry_add_listener(client->registry, &registry_listener, client);
	if (client->far != NULL) {
		client_roundtrip(client);
	}
	return client;
}

void client_disconnect(struct client *client)
{
	if (client->display != NULL) {
		wl_registry_destroy(client->registry);
		wl_display_disconnect(client->display);
		client->display = NULL;
	}
}

void client_destroy(struct client *client)
{
	client_disconnect(client);
	if (client->far != NULL) {
		wl_client_destroy(client->far);
	}
	pair_finish(&client->pair);
	wl_list_remove(&client->link);
	free(client);
}

const struct client_global *client_find(const struct client *client, const char *interface)
{
	for (size_t i = 0; i < client->n_globals; i++) {
		if (strcmp(client->globals[i].interface, interface) == 0) {
			return &client->globals[i];
		}
	}
	return NULL;
}

void *client_bind(struct client *client, const struct wl_interface *interface, uint32_t version)
{
	const struct client_global *global = client_find(client, interface->name);
	if (global == NULL) {
		fail_msg("%s is not offered", interface->name);
	}
	uint32_t bound = version < global->version ? version : global->version;
	return wl_registry_bind(client->registry, global->name, interface, bound);
}

static void handle_done(void *data, struct wl_callback *callback, uint32_t serial)
{
	(void)callback;
	(void)serial;
	*(bool *)data = true;
}

static const struct wl_callback_listener callback_listener = {.done = handle_done};

void client_roundtrip(struct client *client)
{
	bool done = false;
	struct wl_callback *callback = wl_display_sync(client->display);
	wl_callback_add_listener(callback, &callback_listener, &done);
	time_t deadline = time(NULL) + HANG_SECONDS;
	while (!done && !client->failed) {
		world_turn(client->world);
		if (time(NULL) > deadline) {
			fail_msg("a round trip has not come back");
		}
	}
	wl_callback_destroy(callback);
	if (client->failed) {
		fail_msg("a round trip has failed: %s", client->error);
	}
}

static void handle_answered(void *data, struct wl_callback *callback, uint32_t serial)
{
	handle_done(data, callback, serial);
	wl_callback_destroy(callback);
}

void client_ask(struct client *client, bool *done)
{
	static const struct wl_callback_listener listener = {.done = handle_answered};
	*done = false;
	wl_callback_add_listener(wl_display_sync(client->display), &listener, done);
}

struct screen_surface *client_shown(const struct client *client, struct wl_surface *surface)
{
	struct screen_surface *shown =
		screen_surface(&client->world->screen, wl_proxy_get_id((struct wl_proxy *)surface));
	assert_non_null(shown);
	return shown;
}

void client_wait_failed(struct client *client)
{
	world_until(client->world, &client->failed);
}

static bool is_over(void *data)
{
	const struct pair *pair = data;
	return (pair->guest.session == NULL || pair->guest.over) &&
		(pair->host.session == NULL || pair->host.over);
}

/* As a client does that has got an error, and whoever the test plays. */
static void hang_up(struct client *client)
{
	if (client->display != NULL && client->failed) {
		shutdown(wl_display_get_fd(client->display), SHUT_RDWR);
	} else if (client->pair.client_fd >= 0) {
		shutdown(client->pair.client_fd, SHUT_RDWR);
	}
	if (client->pair.compositor_fd >= 0) {
		shutdown(client->pair.compositor_fd, SHUT_RDWR);
	}
}

void client_wait_over(struct client *client)
{
	hang_up(client);
	world_wait(client->world, is_over, &client->pair);
}
