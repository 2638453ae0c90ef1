#include "tests/bench/compositor/compositor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wayland-server-protocol.h>

// One clipboard that every client sees, focused or not.

#define MIME_TYPES_MAX 16

struct source {
	char *mime_types[MIME_TYPES_MAX];
	size_t count;
};

static struct wl_resource *selection; // a source, may be NULL
static uint64_t selection_serial;     // offers of older selections give nothing
static struct wl_list devices;        // wl_resource_get_link()

struct offer {
	uint64_t serial;
};

static void handle_receive(struct wl_resource *resource, const union wl_argument *args)
{
	struct offer *offer = wl_resource_get_user_data(resource);
	if (selection != NULL && offer->serial == selection_serial) {
		wl_data_source_send_send(selection, args[0].s, args[1].h);
	}
	close(args[1].h);
}

static const struct requests offer_requests = {
	.handlers =
		{
			[OPCODE(wl_data_offer, receive)] = handle_receive,
			[OPCODE(wl_data_offer, destroy)] = request_destroy,
		},
};

static void handle_offer_destroy(struct wl_resource *resource)
{
	free(wl_resource_get_user_data(resource));
}

static struct wl_resource *create_offer(struct wl_resource *device)
{
	struct offer *offer = calloc(1, sizeof(*offer));
	if (offer == NULL) {
		return NULL;
	}
	offer->serial = selection_serial;
	struct wl_resource *resource = request_resource_create(wl_resource_get_client(device),
		&wl_data_offer_interface, wl_resource_get_version(device), 0, &offer_requests,
		offer, handle_offer_destroy);
	if (resource == NULL) {
		free(offer);
	}
	return resource;
}

static void send_selection(struct wl_resource *device)
{
	struct wl_resource *offer = selection != NULL ? create_offer(device) : NULL;
	if (offer != NULL) {
		wl_data_device_send_data_offer(device, offer);
		struct source *source = wl_resource_get_user_data(selection);
		for (size_t i = 0; i < source->count; i++) {
			wl_data_offer_send_offer(offer, source->mime_types[i]);
		}
	}
	wl_data_device_send_selection(device, offer);
}

static void set_selection(struct wl_resource *source)
{
	if (selection != NULL && source != NULL) {
		wl_data_source_send_cancelled(selection);
	}
	selection = source;
	selection_serial++;
	struct wl_resource *device;
	wl_resource_for_each(device, &devices)
	{
		send_selection(device);
	}
}

static void handle_offer(struct wl_resource *resource, const union wl_argument *args)
{
	struct source *source = wl_resource_get_user_data(resource);
	if (source->count < MIME_TYPES_MAX) {
		char *mime_type = strdup(args[0].s);
		source->mime_types[source->count] = mime_type;
		source->count += mime_type != NULL ? 1 : 0;
	}
}

static const struct requests source_requests = {
	.handlers =
		{
			[OPCODE(wl_data_source, offer)] = handle_offer,
			[OPCODE(wl_data_source, destroy)] = request_destroy,
		},
};

static void handle_source_destroy(struct wl_resource *resource)
{
	if (resource == selection) {
		set_selection(NULL);
	}
	struct source *source = wl_resource_get_user_data(resource);
	for (size_t i = 0; i < source->count; i++) {
		free(source->mime_types[i]);
	}
	free(source);
}

static void handle_create_source(struct wl_resource *resource, const union wl_argument *args)
{
	struct source *source = calloc(1, sizeof(*source));
	if (source == NULL) {
		wl_resource_post_no_memory(resource);
		return;
	}
	if (request_resource_create(wl_resource_get_client(resource), &wl_data_source_interface,
		    wl_resource_get_version(resource), args[0].n, &source_requests, source,
		    handle_source_destroy) == NULL) {
		free(source);
	}
}

static void handle_set_selection(struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	set_selection(request_object(&args[0]));
}

static const struct requests device_requests = {
	.handlers =
		{
			[OPCODE(wl_data_device, set_selection)] = handle_set_selection,
			[OPCODE(wl_data_device, release)] = request_destroy,
		},
};

static void handle_device_destroy(struct wl_resource *resource)
{
	wl_list_remove(wl_resource_get_link(resource));
}

static void handle_get_device(struct wl_resource *resource, const union wl_argument *args)
{
	struct wl_resource *device = request_resource_create(wl_resource_get_client(resource),
		&wl_data_device_interface, wl_resource_get_version(resource), args[0].n,
		&device_requests, NULL, handle_device_destroy);
	if (device != NULL) {
		wl_list_insert(&devices, wl_resource_get_link(device));
		send_selection(device);
	}
}

static const struct requests manager_requests = {
	.handlers =
		{
			[OPCODE(wl_data_device_manager, create_data_source)] = handle_create_source,
			[OPCODE(wl_data_device_manager, get_data_device)] = handle_get_device,
		},
};

static void bind_manager(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	request_resource_create(client, &wl_data_device_manager_interface, (int)version, id,
		&manager_requests, data, NULL);
}

void selection_create_global(struct wl_display *display)
{
	wl_list_init(&devices);
	wl_global_create(display, &wl_data_device_manager_interface, 3, NULL, bind_manager);
}
