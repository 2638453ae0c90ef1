#include "tests/bench/compositor/compositor.h"

#include <err.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/bench/listen.h"

struct totals totals;

static int dispatch(const void *table, void *target, uint32_t opcode,
	const struct wl_message *message, union wl_argument *args)
{
	(void)message;
	const struct requests *requests = table;
	request_handler *handler = opcode < REQUESTS_MAX ? requests->handlers[opcode] : NULL;
	if (handler != NULL) {
		handler(target, args);
	}
	return 0;
}

struct wl_resource *request_resource_create(struct wl_client *client,
	const struct wl_interface *interface, int version, uint32_t id,
	const struct requests *requests, void *data, wl_resource_destroy_func_t destroy)
{
	struct wl_resource *resource = wl_resource_create(client, interface, version, id);
	if (resource == NULL) {
		wl_client_post_no_memory(client);
		return NULL;
	}
	wl_resource_set_dispatcher(resource, dispatch, requests, data, destroy);
	return resource;
}

void request_destroy(struct wl_resource *resource, const union wl_argument *args)
{
	(void)args;
	wl_resource_destroy(resource);
}

struct wl_resource *request_object(const union wl_argument *arg)
{
	return (struct wl_resource *)arg->o; // what libwayland-server's objects are
}

static int handle_signal(int signal, void *data)
{
	(void)signal;
	wl_display_terminate(data);
	return 0;
}

int main(int argc, char *argv[])
{
	bool dmabufs = argc == 3 && strcmp(argv[1], "--dmabuf") == 0;
	const char *name = argv[argc - 1];
	if (argc != (dmabufs ? 3 : 2) || name[0] == '-') {
		fprintf(stderr, "usage: bench-compositor [--dmabuf] DISPLAY\n");
		return 2;
	}
	struct wl_display *display = wl_display_create();
	if (display == NULL || wl_display_init_shm(display) < 0) {
		errx(1, "cannot create a display");
	}
	surface_create_global(display);
	shell_create_global(display);
	seat_create_globals(display);
	selection_create_global(display);
	if (dmabufs) {
		dmabuf_create_global(display);
	}
	struct wl_event_loop *loop = wl_display_get_event_loop(display);
	struct wl_event_source *sources[] = {
		wl_event_loop_add_signal(loop, SIGTERM, handle_signal, display),
		wl_event_loop_add_signal(loop, SIGINT, handle_signal, display),
	};
	if (sources[0] == NULL || sources[1] == NULL) {
		errx(1, "cannot wait for signals");
	}
	if (wl_display_add_socket_fd(display, listen_on(name)) < 0) {
		err(1, "%s", name);
	}
	puts("READY");
	fflush(stdout);

	wl_display_run(display);

	wl_event_source_remove(sources[0]);
	wl_event_source_remove(sources[1]);
	wl_display_destroy_clients(display);
	wl_display_destroy(display);
	printf("{\"frames\": %" PRIu64 ", \"verified\": %" PRIu64 ", \"mismatched\": %" PRIu64
	       "}\n",
		totals.frames, totals.verified, totals.mismatched);
	return EXIT_SUCCESS;
}
