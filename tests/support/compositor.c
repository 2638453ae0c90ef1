#include "tests/support/compositor.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/wayland/protocol.h"

#define MAX_HOOKS   64
#define MAX_GLOBALS 64

struct hook {
	const char *interface;
	const char *request;
	compositor_hook_func func;
	void *data;
};

struct global {
	struct compositor *compositor;
	const struct wl_interface *interface;
	void (*bound)(void *data, struct wl_resource *resource);
	void *data;
};

struct compositor {
	struct wl_display *display;
	struct hook hooks[MAX_HOOKS];
	size_t n_hooks;
	struct global globals[MAX_GLOBALS];
	size_t n_globals;
};

struct compositor *compositor_create(void)
{
	struct compositor *compositor = calloc(1, sizeof(*compositor));
	if (compositor == NULL) {
		abort();
	}
	compositor->display = wl_display_create();
	if (compositor->display == NULL) {
		abort();
	}
	return compositor;
}

void compositor_destroy(struct compositor *compositor)
{
	wl_display_destroy_clients(compositor->display);
	wl_display_destroy(compositor->display);
	free(compositor);
}

struct wl_display *compositor_display(struct compositor *compositor)
{
	return compositor->display;
}

static struct hook *find_hook(
	struct compositor *compositor, const char *interface, const char *request)
{
	for (size_t i = 0; i < compositor->n_hooks; i++) {
		struct hook *hook = &compositor->hooks[i];
		if (strcmp(hook->request, request) == 0 &&
			strcmp(hook->interface, interface) == 0) {
			return hook;
		}
	}
	return NULL;
}

void compositor_hook(struct compositor *compositor, const char *interface, const char *request,
	compositor_hook_func func, void *data)
{
	struct hook *hook = find_hook(compositor, interface, request);
	if (hook == NULL && compositor->n_hooks == MAX_HOOKS) {
		abort();
	}
	if (hook == NULL) {
		hook = &compositor->hooks[compositor->n_hooks++];
	}
	*hook = (struct hook){
		.interface = interface, .request = request, .func = func, .data = data};
}

/* ---- requests ---- */

static bool is_destructor(const char *interface, uint32_t opcode)
{
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		if (strcmp(protocol_interfaces[i].interface->name, interface) == 0) {
			return (protocol_interfaces[i].request_destructors >> opcode & 1) != 0;
		}
	}
	return false;
}

/* Calls func for each argument of a type. */
static void each_arg(const struct wl_message *message, union wl_argument *args, char type,
	void (*func)(void *data, const struct wl_interface *interface, union wl_argument *arg),
	void *data)
{
	size_t n = 0;
	for (const char *s = message->signature; *s != '\0'; s++) {
		if (*s == '?' || (*s >= '0' && *s <= '9')) {
			continue;
		}
		if (*s == type) {
			func(data, message->types[n], &args[n]);
		}
		n++;
	}
}

static int dispatch(const void *implementation, void *target, uint32_t opcode,
	const struct wl_message *message, union wl_argument *args);

static struct wl_resource *make(struct compositor *compositor, struct wl_client *client,
	const struct wl_interface *interface, int version, uint32_t id)
{
	struct wl_resource *resource = wl_resource_create(client, interface, version, id);
	if (resource == NULL) {
		abort();
	}
	wl_resource_set_dispatcher(resource, dispatch, compositor, NULL, NULL);
	return resource;
}

struct request {
	struct compositor *compositor;
	struct wl_resource *resource;
};

static void make_new(void *data, const struct wl_interface *interface, union wl_argument *arg)
{
	const struct request *request = data;
	make(request->compositor, wl_resource_get_client(request->resource), interface,
		wl_resource_get_version(request->resource), arg->n);
}

static void close_fd(void *data, const struct wl_interface *interface, union wl_argument *arg)
{
	(void)data;
	(void)interface;
	close(arg->h);
}

static int dispatch(const void *implementation, void *target, uint32_t opcode,
	const struct wl_message *message, union wl_argument *args)
{
	struct compositor *compositor = (struct compositor *)implementation;
	struct wl_resource *resource = target;
	const char *interface = wl_resource_get_class(resource);
	struct request request = {.compositor = compositor, .resource = resource};
	each_arg(message, args, 'n', make_new, &request);

	const struct hook *hook = find_hook(compositor, interface, message->name);
	if (hook != NULL) {
		hook->func(hook->data, resource, args);
	} else {
		each_arg(message, args, 'h', close_fd, NULL);
	}
	if (is_destructor(interface, opcode)) {
		wl_resource_destroy(resource);
	}
	return 0;
}

struct wl_resource *compositor_made(struct wl_resource *resource, const union wl_argument *arg)
{
	return wl_client_get_object(wl_resource_get_client(resource), arg->n);
}

struct wl_resource *compositor_object(const union wl_argument *arg)
{
	return (struct wl_resource *)arg->o; // a resource begins with its wl_object
}

struct wl_resource *compositor_make(struct compositor *compositor, struct wl_resource *parent,
	const struct wl_interface *interface)
{
	return make(compositor, wl_resource_get_client(parent), interface,
		wl_resource_get_version(parent), 0);
}

/* ---- globals ---- */

static void handle_bind(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	struct global *global = data;
	struct wl_resource *resource =
		make(global->compositor, client, global->interface, (int)version, id);
	if (global->bound != NULL) {
		global->bound(global->data, resource);
	}
}

struct wl_global *compositor_add_bound_global(struct compositor *compositor,
	const struct wl_interface *interface, int version,
	void (*bound)(void *data, struct wl_resource *resource), void *data)
{
	if (compositor->n_globals == MAX_GLOBALS) {
		abort();
	}
	struct global *global = &compositor->globals[compositor->n_globals++];
	*global = (struct global){
		.compositor = compositor, .interface = interface, .bound = bound, .data = data};
	return wl_global_create(compositor->display, interface, version, global, handle_bind);
}

struct wl_global *compositor_add_global(
	struct compositor *compositor, const struct wl_interface *interface, int version)
{
	return compositor_add_bound_global(compositor, interface, version, NULL, NULL);
}

void compositor_turn(struct compositor *compositor)
{
	wl_event_loop_dispatch(wl_display_get_event_loop(compositor->display), 0);
	wl_display_flush_clients(compositor->display);
}
