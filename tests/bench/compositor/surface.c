#include "tests/bench/compositor/compositor.h"

#include <stdlib.h>
#include <time.h>
#include <wayland-server-protocol.h>
#include "tests/bench/noise.h"

static const struct requests region_requests = {
	.handlers = {[OPCODE(wl_region, destroy)] = request_destroy},
};

static void handle_buffer_destroy(struct wl_listener *listener, void *data)
{
	(void)data;
	struct surface *surface = wl_container_of(listener, surface, buffer_destroy);
	surface->buffer = NULL;
}

static void set_buffer(struct surface *surface, struct wl_resource *buffer)
{
	if (surface->buffer != NULL) {
		wl_list_remove(&surface->buffer_destroy.link);
	}
	surface->buffer = buffer;
	if (buffer != NULL) {
		wl_resource_add_destroy_listener(buffer, &surface->buffer_destroy);
	}
}

static void handle_attach(struct wl_resource *resource, const union wl_argument *args)
{
	set_buffer(wl_resource_get_user_data(resource), request_object(&args[0]));
}

static void handle_callback_destroy(struct wl_resource *callback)
{
	wl_list_remove(wl_resource_get_link(callback));
}

static void handle_frame(struct wl_resource *resource, const union wl_argument *args)
{
	static const struct requests none;
	struct surface *surface = wl_resource_get_user_data(resource);
	struct wl_resource *callback = request_resource_create(wl_resource_get_client(resource),
		&wl_callback_interface, 1, args[0].n, &none, NULL, handle_callback_destroy);
	if (callback != NULL) {
		wl_list_insert(surface->callbacks.prev, wl_resource_get_link(callback));
	}
}

static uint64_t shm_sum(struct wl_shm_buffer *buffer)
{
	wl_shm_buffer_begin_access(buffer);
	size_t size =
		(size_t)wl_shm_buffer_get_stride(buffer) * (size_t)wl_shm_buffer_get_height(buffer);
	uint64_t sum = noise_sum(wl_shm_buffer_get_data(buffer), size);
	wl_shm_buffer_end_access(buffer);
	return sum;
}

static void verify(struct surface *surface)
{
	struct wl_shm_buffer *shm = wl_shm_buffer_get(surface->buffer);
	uint64_t sum = shm != NULL ? shm_sum(shm) : dmabuf_sum(surface->buffer);
	bool equal = sum == surface->sum;
	surface->check = false;
	surface->verified++;
	surface->mismatched += equal ? 0 : 1;
	totals.verified++;
	totals.mismatched += equal ? 0 : 1;
	shell_send_configure(surface);
}

static uint32_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

static void handle_commit(struct wl_resource *resource, const union wl_argument *args)
{
	(void)args;
	struct surface *surface = wl_resource_get_user_data(resource);
	if (surface->buffer != NULL) {
		if (surface->check) {
			verify(surface);
		}
		wl_buffer_send_release(surface->buffer);
		set_buffer(surface, NULL);
		totals.frames++;
	}
	struct wl_resource *callback, *next;
	wl_resource_for_each_safe(callback, next, &surface->callbacks)
	{
		wl_callback_send_done(callback, now_ms());
		wl_resource_destroy(callback);
	}
}

static const struct requests surface_requests = {
	.handlers =
		{
			[OPCODE(wl_surface, destroy)] = request_destroy,
			[OPCODE(wl_surface, attach)] = handle_attach,
			[OPCODE(wl_surface, frame)] = handle_frame,
			[OPCODE(wl_surface, commit)] = handle_commit,
		},
};

static void handle_surface_destroy(struct wl_resource *resource)
{
	struct surface *surface = wl_resource_get_user_data(resource);
	struct wl_resource *callback, *next;
	wl_resource_for_each_safe(callback, next, &surface->callbacks)
	{
		wl_resource_destroy(callback);
	}
	set_buffer(surface, NULL);
	shell_forget(surface);
	free(surface);
}

static void handle_create_surface(struct wl_resource *resource, const union wl_argument *args)
{
	struct surface *surface = calloc(1, sizeof(*surface));
	if (surface == NULL) {
		wl_resource_post_no_memory(resource);
		return;
	}
	wl_list_init(&surface->callbacks);
	surface->buffer_destroy.notify = handle_buffer_destroy;
	if (request_resource_create(wl_resource_get_client(resource), &wl_surface_interface,
		    wl_resource_get_version(resource), args[0].n, &surface_requests, surface,
		    handle_surface_destroy) == NULL) {
		free(surface);
	}
}

static void handle_create_region(struct wl_resource *resource, const union wl_argument *args)
{
	request_resource_create(wl_resource_get_client(resource), &wl_region_interface, 1,
		args[0].n, &region_requests, NULL, NULL);
}

static const struct requests compositor_requests = {
	.handlers =
		{
			[OPCODE(wl_compositor, create_surface)] = handle_create_surface,
			[OPCODE(wl_compositor, create_region)] = handle_create_region,
		},
};

static void bind_compositor(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	request_resource_create(client, &wl_compositor_interface, (int)version, id,
		&compositor_requests, data, NULL);
}

void surface_create_global(struct wl_display *display)
{
	wl_global_create(display, &wl_compositor_interface, 4, NULL, bind_compositor);
}
