/*
 * A compositor with wp_security_context_v1, for tests of programs: context-compositor SOCKET.
 * Clients within a context are not offered what is privileged. Prints a line for whatever concerns
 * contexts.
 */

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wayland-server-core.h>
#include <wayland-server-protocol.h>

#include "screencopy-server.h"
#include "security-context-server.h"
#include "tests/support/compositor.h"

struct context {
	struct wl_display *display;
	char engine[64], app_id[64], instance_id[64];
	int listen_fd, close_fd;
	struct wl_event_source *incoming, *closing;
};

struct context_client {
	struct wl_listener gone; // marks the client, too
};

static void handle_client_gone(struct wl_listener *listener, void *data)
{
	(void)data;
	struct context_client *client = wl_container_of(listener, client, gone);
	wl_list_remove(&client->gone.link);
	free(client);
}

static int handle_incoming(int fd, uint32_t mask, void *data)
{
	const struct context *context = data;
	(void)mask;
	int client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	struct wl_client *client =
		client_fd >= 0 ? wl_client_create(context->display, client_fd) : NULL;
	if (client == NULL) {
		return 0;
	}
	struct context_client *mark = calloc(1, sizeof(*mark));
	if (mark == NULL) {
		abort();
	}
	mark->gone.notify = handle_client_gone;
	wl_client_add_destroy_listener(client, &mark->gone);
	printf("client of %s\n", context->instance_id);
	return 0;
}

static int handle_closing(int fd, uint32_t mask, void *data)
{
	struct context *context = data;
	(void)fd;
	(void)mask;
	printf("end of %s\n", context->instance_id);
	wl_event_source_remove(context->incoming);
	wl_event_source_remove(context->closing);
	close(context->listen_fd);
	close(context->close_fd);
	free(context);
	return 0;
}

static void handle_create(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	struct context *context = calloc(1, sizeof(*context));
	if (context == NULL) {
		abort();
	}
	context->display = compositor_display(data);
	context->listen_fd = args[1].h;
	context->close_fd = args[2].h;
	wl_resource_set_user_data(compositor_made(resource, &args[0]), context);
}

static void handle_engine(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct context *context = wl_resource_get_user_data(resource);
	snprintf(context->engine, sizeof(context->engine), "%s", args[0].s);
}

static void handle_app_id(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct context *context = wl_resource_get_user_data(resource);
	snprintf(context->app_id, sizeof(context->app_id), "%s", args[0].s);
}

static void handle_instance(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct context *context = wl_resource_get_user_data(resource);
	snprintf(context->instance_id, sizeof(context->instance_id), "%s", args[0].s);
}

static bool is_listening(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &len) == 0 && value != 0;
}

static void handle_commit(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	(void)args;
	struct context *context = wl_resource_get_user_data(resource);
	struct wl_event_loop *loop = wl_display_get_event_loop(context->display);
	if (!is_listening(context->listen_fd) || getenv("REFUSE_CONTEXTS") != NULL) {
		wl_resource_post_error(resource, 2, "not a listening socket");
		close(context->listen_fd);
		close(context->close_fd);
		free(context);
		return;
	}
	context->incoming = wl_event_loop_add_fd(
		loop, context->listen_fd, WL_EVENT_READABLE, handle_incoming, context);
	context->closing =
		wl_event_loop_add_fd(loop, context->close_fd, 0, handle_closing, context);
	printf("context of %s: engine %s, app %s\n", context->instance_id, context->engine,
		context->app_id[0] != '\0' ? context->app_id : "(none)");
}

static bool is_offered(const struct wl_client *client, const struct wl_global *global, void *data)
{
	(void)data;
	const char *name = wl_global_get_interface(global)->name;
	bool privileged = strcmp(name, "wp_security_context_manager_v1") == 0 ||
		strcmp(name, "zwlr_screencopy_manager_v1") == 0;
	return !privileged ||
		wl_client_get_destroy_listener((struct wl_client *)client, handle_client_gone) ==
		NULL;
}

static int handle_terminate(int signal, void *data)
{
	(void)signal;
	wl_display_terminate(data);
	return 0;
}

int main(int argc, char *argv[])
{
	struct compositor *compositor = compositor_create();
	struct wl_display *display = compositor_display(compositor);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 2 || wl_display_add_socket(display, argv[1]) < 0) {
		fprintf(stderr, "usage: context-compositor SOCKET\n");
		return 2;
	}
	wl_display_set_global_filter(display, is_offered, NULL);
	compositor_add_global(compositor, &wl_compositor_interface, 4);
	compositor_add_global(compositor, &wl_seat_interface, 7);
	compositor_add_global(compositor, &zwlr_screencopy_manager_v1_interface, 3);
	compositor_add_global(compositor, &wp_security_context_manager_v1_interface, 1);
	compositor_hook(compositor, wp_security_context_manager_v1_interface.name,
		"create_listener", handle_create, compositor);
	const char *name = wp_security_context_v1_interface.name;
	compositor_hook(compositor, name, "set_sandbox_engine", handle_engine, NULL);
	compositor_hook(compositor, name, "set_app_id", handle_app_id, NULL);
	compositor_hook(compositor, name, "set_instance_id", handle_instance, NULL);
	compositor_hook(compositor, name, "commit", handle_commit, NULL);
	struct wl_event_source *terminate = wl_event_loop_add_signal(
		wl_display_get_event_loop(display), SIGTERM, handle_terminate, display);
	puts("ready");
	wl_display_run(display);
	wl_event_source_remove(terminate);
	compositor_destroy(compositor);
	return 0;
}
