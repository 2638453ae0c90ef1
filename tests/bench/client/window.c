#include "tests/bench/client/window.h"

#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "tests/bench/client/clock.h"
#include "tests/bench/client/connection.h"
#include "tests/bench/noise.h"
#include "linux-dmabuf-client-protocol.h"
#include "xdg-shell-client-protocol.h"

#define WINDOW_FOURCC 0x34325258 // XRGB8888, of drm_fourcc.h

static void handle_release(void *data, struct wl_buffer *buffer)
{
	(void)buffer;
	struct window_buffer *window_buffer = data;
	window_buffer->busy = false;
}

static const struct wl_buffer_listener buffer_listener = {
	.release = handle_release,
};

static void handle_configure(void *data, struct xdg_surface *xdg_surface, uint32_t serial)
{
	struct window *window = data;
	xdg_surface_ack_configure(xdg_surface, serial);
	window->configured = true;
}

static const struct xdg_surface_listener xdg_surface_listener = {
	.configure = handle_configure,
};

static void handle_toplevel_configure(void *data, struct xdg_toplevel *toplevel, int32_t width,
	int32_t height, struct wl_array *states)
{
	(void)toplevel, (void)states;
	struct window *window = data;
	window->verified = width; // bench-compositor's way to answer window_verify()
	window->mismatched = height;
}

static void handle_close(void *data, struct xdg_toplevel *toplevel)
{
	(void)data, (void)toplevel;
}

static const struct xdg_toplevel_listener toplevel_listener = {
	.configure = handle_toplevel_configure,
	.close = handle_close,
};

static void init_pool(struct window *window)
{
	int stride = window->width * 4;
	size_t size = 2 * window->buffer_size;
	int fd = memfd_create("bench-pool", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
		err(1, "pool");
	}
	window->pool = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (window->pool == MAP_FAILED) {
		err(1, "pool");
	}
	struct wl_shm_pool *pool = wl_shm_create_pool(window->connection->shm, fd, (int32_t)size);
	for (int i = 0; i < 2; i++) {
		struct window_buffer *buffer = &window->buffers[i];
		size_t offset = (size_t)i * window->buffer_size;
		buffer->pixels = (uint32_t *)(void *)((char *)window->pool + offset);
		buffer->buffer = wl_shm_pool_create_buffer(pool, (int32_t)offset, window->width,
			window->height, stride, WL_SHM_FORMAT_XRGB8888);
		wl_buffer_add_listener(buffer->buffer, &buffer_listener, buffer);
	}
	wl_shm_pool_destroy(pool);
	close(fd);
}

static void init_dmabuf(struct window *window, struct window_buffer *buffer, int fd)
{
	buffer->pixels = mmap(NULL, window->buffer_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (buffer->pixels == MAP_FAILED) {
		err(1, "dma-buf");
	}
	struct zwp_linux_buffer_params_v1 *params =
		zwp_linux_dmabuf_v1_create_params(window->connection->dmabuf);
	zwp_linux_buffer_params_v1_add(params, fd, 0, 0, (uint32_t)window->width * 4, 0, 0);
	buffer->buffer = zwp_linux_buffer_params_v1_create_immed(
		params, window->width, window->height, WINDOW_FOURCC, 0);
	zwp_linux_buffer_params_v1_destroy(params);
	wl_buffer_add_listener(buffer->buffer, &buffer_listener, buffer);
}

static void init_surface(
	struct window *window, struct connection *connection, int width, int height)
{
	*window = (struct window){
		.connection = connection,
		.width = width,
		.height = height,
		.buffer_size = (size_t)width * 4 * (size_t)height,
	};
	window->surface = wl_compositor_create_surface(connection->compositor);
	window->xdg_surface = xdg_wm_base_get_xdg_surface(connection->wm_base, window->surface);
	xdg_surface_add_listener(window->xdg_surface, &xdg_surface_listener, window);
	window->toplevel = xdg_surface_get_toplevel(window->xdg_surface);
	xdg_toplevel_add_listener(window->toplevel, &toplevel_listener, window);
	xdg_toplevel_set_title(window->toplevel, "bench");
	wl_surface_commit(window->surface);
}

static void wait_configured(struct window *window)
{
	while (!window->configured) {
		connection_dispatch(window->connection);
	}
}

void window_init(struct window *window, struct connection *connection, int width, int height)
{
	init_surface(window, connection, width, height);
	init_pool(window);
	wait_configured(window);
}

void window_init_dmabufs(struct window *window, struct connection *connection, int width,
	int height, const int dmabufs[2])
{
	if (connection->dmabuf == NULL) {
		errx(1, "the display takes no dma-bufs");
	}
	init_surface(window, connection, width, height);
	for (int i = 0; i < 2; i++) {
		init_dmabuf(window, &window->buffers[i], dmabufs[i]);
	}
	wait_configured(window);
}

void window_finish(struct window *window)
{
	for (int i = 0; i < 2; i++) {
		wl_buffer_destroy(window->buffers[i].buffer);
		if (window->pool == NULL) {
			munmap(window->buffers[i].pixels, window->buffer_size);
		}
	}
	if (window->pool != NULL) {
		munmap(window->pool, 2 * window->buffer_size);
	}
	xdg_toplevel_destroy(window->toplevel);
	xdg_surface_destroy(window->xdg_surface);
	wl_surface_destroy(window->surface);
}

static struct window_buffer *buffer_of(struct window *window, uint64_t frame)
{
	return &window->buffers[frame % 2];
}

struct window_buffer *window_wait_buffer(struct window *window)
{
	struct window_buffer *buffer = buffer_of(window, window->shown);
	while (buffer->busy) {
		connection_dispatch(window->connection);
	}
	return buffer;
}

static void handle_done(void *data, struct wl_callback *callback, uint32_t time)
{
	(void)time;
	struct window *window = data;
	wl_callback_destroy(callback);
	if (window->latencies != NULL) {
		samples_add(
			window->latencies, clock_now() - window->committed_at[window->done % 2]);
	}
	window->done++;
}

static const struct wl_callback_listener frame_listener = {
	.done = handle_done,
};

void window_commit(struct window *window, const struct rectangle *damage)
{
	struct window_buffer *buffer = buffer_of(window, window->shown++);
	buffer->busy = true;
	wl_surface_attach(window->surface, buffer->buffer, 0, 0);
	wl_surface_damage_buffer(
		window->surface, damage->x, damage->y, damage->width, damage->height);
	window_commit_bare(window);
}

void window_commit_bare(struct window *window)
{
	struct wl_callback *callback = wl_surface_frame(window->surface);
	wl_callback_add_listener(callback, &frame_listener, window);
	wl_surface_commit(window->surface);
	window->committed_at[window->committed % 2] = clock_now();
	window->committed++;
	wl_display_flush(window->connection->display);
}

void window_drain(struct window *window)
{
	while (window->done < window->committed) {
		connection_dispatch(window->connection);
	}
}

void window_verify(struct window *window)
{
	struct window_buffer *buffer = buffer_of(window, window->shown - 1);
	while (buffer->busy) {
		connection_dispatch(window->connection);
	}
	char title[32];
	snprintf(title, sizeof(title), "sum %016" PRIx64,
		noise_sum(buffer->pixels, window->buffer_size));
	int verified = window->verified;
	buffer->busy = true;
	xdg_toplevel_set_title(window->toplevel, title);
	wl_surface_attach(window->surface, buffer->buffer, 0, 0);
	wl_surface_commit(window->surface);
	while (window->verified == verified || buffer->busy) {
		connection_dispatch(window->connection);
	}
}
