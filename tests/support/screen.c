#include "tests/support/screen.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wayland-server-protocol.h>

#include "tests/support/compositor.h"
#include "viewporter-server.h"

#define MAX_PLANES 3

/* ---- pools and buffers ---- */

static void unref_pool(struct screen_pool *pool)
{
	if (--pool->refs > 0) {
		return;
	}
	wl_list_remove(&pool->link);
	close(pool->fd);
	free(pool);
}

static void handle_pool_gone(struct wl_resource *resource)
{
	unref_pool(wl_resource_get_user_data(resource));
}

static void create_pool(void *data, struct wl_resource *shm, const union wl_argument *args)
{
	struct screen *screen = data;
	struct screen_pool *pool = calloc(1, sizeof(*pool));
	*pool = (struct screen_pool){.refs = 1, .fd = args[1].h, .size = (size_t)args[2].i};
	wl_list_insert(&screen->pools, &pool->link);
	struct wl_resource *resource = compositor_made(shm, &args[0]);
	wl_resource_set_user_data(resource, pool);
	wl_resource_set_destructor(resource, handle_pool_gone);
	void *mapping = args[2].i <= 0
		? MAP_FAILED
		: mmap(NULL, pool->size, PROT_READ | PROT_WRITE, MAP_SHARED, pool->fd, 0);
	if (mapping == MAP_FAILED) {
		wl_resource_post_error(shm, WL_SHM_ERROR_INVALID_FD, "failed mmap fd");
		return;
	}
	munmap(mapping, pool->size);
}

static void resize_pool(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct screen_pool *pool = wl_resource_get_user_data(resource);
	if ((size_t)args[0].i < pool->size) {
		wl_resource_post_error(resource, WL_SHM_ERROR_INVALID_FD, "shrinking pool invalid");
		return;
	}
	pool->size = (size_t)args[0].i;
}

static void handle_buffer_gone(struct wl_resource *resource)
{
	struct screen_buffer *buffer = wl_resource_get_user_data(resource);
	unref_pool(buffer->pool);
	free(buffer);
}

static void create_buffer(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct screen_buffer *buffer = calloc(1, sizeof(*buffer));
	*buffer = (struct screen_buffer){
		.resource = compositor_made(resource, &args[0]),
		.pool = wl_resource_get_user_data(resource),
		.offset = args[1].i,
		.width = args[2].i,
		.height = args[3].i,
		.stride = args[4].i,
		.format = args[5].u,
	};
	buffer->pool->refs++;
	wl_resource_set_user_data(buffer->resource, buffer);
	wl_resource_set_destructor(buffer->resource, handle_buffer_gone);
	int64_t end = buffer->offset + (int64_t)buffer->stride * buffer->height;
	if (buffer->offset < 0 || buffer->width <= 0 || buffer->height <= 0 ||
		end > (int64_t)buffer->pool->size) {
		wl_resource_post_error(
			resource, WL_SHM_ERROR_INVALID_STRIDE, "invalid width, height or stride");
	}
}

struct screen_buffer *screen_buffer(struct wl_resource *resource)
{
	return wl_resource_get_user_data(resource);
}

size_t screen_read(const struct screen_buffer *buffer, void *data, size_t len)
{
	ssize_t n = pread(buffer->pool->fd, data, len, buffer->offset);
	return n < 0 ? 0 : (size_t)n;
}

size_t screen_write(const struct screen_buffer *buffer, const void *data, size_t len)
{
	ssize_t n = pwrite(buffer->pool->fd, data, len, buffer->offset);
	return n < 0 ? 0 : (size_t)n;
}

/* ---- surfaces ---- */

static void forget(struct wl_listener *listener, struct wl_resource **buffer)
{
	if (*buffer != NULL) {
		wl_list_remove(&listener->link);
		*buffer = NULL;
	}
}

static void handle_pending_gone(struct wl_listener *listener, void *data)
{
	(void)data;
	struct screen_surface *surface = wl_container_of(listener, surface, pending_gone);
	forget(listener, &surface->pending);
}

static void handle_current_gone(struct wl_listener *listener, void *data)
{
	(void)data;
	struct screen_surface *surface = wl_container_of(listener, surface, current_gone);
	forget(listener, &surface->current);
}

static void remember(
	struct wl_listener *listener, struct wl_resource **at, struct wl_resource *buffer)
{
	forget(listener, at);
	*at = buffer;
	if (buffer != NULL) {
		wl_resource_add_destroy_listener(buffer, listener);
	}
}

static void handle_surface_gone(struct wl_resource *resource)
{
	struct screen_surface *surface = wl_resource_get_user_data(resource);
	forget(&surface->pending_gone, &surface->pending);
	forget(&surface->current_gone, &surface->current);
	struct wl_resource *callback, *next;
	wl_resource_for_each_safe(callback, next, &surface->frames)
	{
		wl_list_init(wl_resource_get_link(callback));
	}
	wl_list_remove(&surface->link);
	free(surface->picture);
	free(surface);
}

static void create_surface(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	struct screen *screen = data;
	struct screen_surface *surface = calloc(1, sizeof(*surface));
	surface->resource = compositor_made(resource, &args[0]);
	wl_list_init(&surface->frames);
	surface->pending_gone.notify = handle_pending_gone;
	surface->current_gone.notify = handle_current_gone;
	wl_list_insert(&screen->surfaces, &surface->link);
	wl_resource_set_user_data(surface->resource, surface);
	wl_resource_set_destructor(surface->resource, handle_surface_gone);
}

static void attach(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct screen_surface *surface = wl_resource_get_user_data(resource);
	remember(&surface->pending_gone, &surface->pending, compositor_object(&args[0]));
	surface->attached = true;
}

static void take_picture(struct screen_surface *surface)
{
	surface->shown = *screen_buffer(surface->current);
	size_t most = (size_t)surface->shown.stride * (size_t)surface->shown.height * MAX_PLANES;
	free(surface->picture);
	surface->picture = malloc(most);
	surface->picture_size = screen_read(&surface->shown, surface->picture, most);
	if (surface->picture_size < most / MAX_PLANES) {
		wl_resource_post_error(
			surface->current, WL_SHM_ERROR_INVALID_FD, "error accessing SHM buffer");
	}
}

static void send_frames(struct screen_surface *surface)
{
	struct wl_resource *callback, *next;
	wl_resource_for_each_safe(callback, next, &surface->frames)
	{
		wl_callback_send_done(callback, 0);
		wl_resource_destroy(callback);
	}
}

static void commit(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)args;
	struct screen *screen = data;
	struct screen_surface *surface = wl_resource_get_user_data(resource);
	bool attached = surface->attached;
	if (attached) {
		remember(&surface->current_gone, &surface->current, surface->pending);
		forget(&surface->pending_gone, &surface->pending);
		surface->attached = false;
	}
	surface->commits++;
	if (surface->current != NULL) {
		take_picture(surface);
	}
	if (surface->current != NULL && attached && !screen->keeps_buffers) {
		wl_buffer_send_release(surface->current);
	}
	send_frames(surface);
}

static void handle_frame_gone(struct wl_resource *callback)
{
	wl_list_remove(wl_resource_get_link(callback));
}

static void frame(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)data;
	struct screen_surface *surface = wl_resource_get_user_data(resource);
	struct wl_resource *callback = compositor_made(resource, &args[0]);
	wl_list_insert(surface->frames.prev, wl_resource_get_link(callback));
	wl_resource_set_destructor(callback, handle_frame_gone);
}

/* ---- the screen ---- */

static void send_formats(void *data, struct wl_resource *shm)
{
	(void)data;
	wl_shm_send_format(shm, WL_SHM_FORMAT_ARGB8888);
	wl_shm_send_format(shm, WL_SHM_FORMAT_XRGB8888);
}

void screen_init(struct screen *screen, struct compositor *compositor)
{
	*screen = (struct screen){.compositor = compositor};
	wl_list_init(&screen->pools);
	wl_list_init(&screen->surfaces);
	compositor_add_bound_global(compositor, &wl_shm_interface, 1, send_formats, screen);
	compositor_add_global(compositor, &wl_compositor_interface, 5);
	compositor_add_global(compositor, &wl_subcompositor_interface, 1);
	compositor_add_global(compositor, &wp_viewporter_interface, 1);
	compositor_hook(compositor, "wl_shm", "create_pool", create_pool, screen);
	compositor_hook(compositor, "wl_shm_pool", "resize", resize_pool, screen);
	compositor_hook(compositor, "wl_shm_pool", "create_buffer", create_buffer, screen);
	compositor_hook(compositor, "wl_compositor", "create_surface", create_surface, screen);
	compositor_hook(compositor, "wl_surface", "attach", attach, screen);
	compositor_hook(compositor, "wl_surface", "commit", commit, screen);
	compositor_hook(compositor, "wl_surface", "frame", frame, screen);
}

void screen_finish(struct screen *screen)
{
	if (!wl_list_empty(&screen->pools) || !wl_list_empty(&screen->surfaces)) {
		abort();
	}
}

struct screen_pool *screen_pool(const struct screen *screen, size_t newest_first)
{
	struct screen_pool *pool;
	wl_list_for_each (pool, &screen->pools, link) {
		if (newest_first-- == 0) {
			return pool;
		}
	}
	return NULL;
}

struct screen_surface *screen_surface(const struct screen *screen, uint32_t id)
{
	struct screen_surface *surface;
	wl_list_for_each (surface, &screen->surfaces, link) {
		if (wl_resource_get_id(surface->resource) == id) {
			return surface;
		}
	}
	return NULL;
}
