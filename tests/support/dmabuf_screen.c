#include "tests/support/dmabuf_screen.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-server-protocol.h>

#include "linux-dmabuf-server.h"
#include "tests/support/compositor.h"
#include "wayland-drm-server.h"

#define MAX_PLANES 4

/* ---- what it offers ---- */

static void send_modifiers(void *data, struct wl_resource *dmabuf)
{
	const struct dmabuf_screen *screen = data;
	int version = wl_resource_get_version(dmabuf);
	for (size_t i = 0; version < 4 && i < screen->n_pairs; i++) {
		const struct dmabuf_pair *pair = &screen->pairs[i];
		zwp_linux_dmabuf_v1_send_format(dmabuf, pair->format);
		if (version >= ZWP_LINUX_DMABUF_V1_MODIFIER_SINCE_VERSION) {
			zwp_linux_dmabuf_v1_send_modifier(dmabuf, pair->format,
				(uint32_t)(pair->modifier >> 32), (uint32_t)pair->modifier);
		}
	}
}

static void send_table(const struct dmabuf_screen *screen, struct wl_resource *feedback)
{
	size_t size = screen->n_pairs * sizeof(*screen->pairs);
	int fd = memfd_create("formats", MFD_CLOEXEC);
	if (fd < 0 || write(fd, screen->pairs, size) != (ssize_t)size) {
		abort();
	}
	zwp_linux_dmabuf_feedback_v1_send_format_table(feedback, fd, (uint32_t)size);
	close(fd);
}

static struct wl_array array_of(const void *data, size_t size)
{
	return (struct wl_array){.data = (void *)data, .size = size};
}

static void send_tranche(const struct dmabuf_tranche *tranche, struct wl_resource *feedback)
{
	struct wl_array device = array_of(&tranche->device, sizeof(tranche->device));
	struct wl_array indices =
		array_of(tranche->indices, tranche->n_indices * sizeof(*tranche->indices));
	zwp_linux_dmabuf_feedback_v1_send_tranche_target_device(feedback, &device);
	zwp_linux_dmabuf_feedback_v1_send_tranche_flags(feedback, tranche->flags);
	zwp_linux_dmabuf_feedback_v1_send_tranche_formats(feedback, &indices);
	zwp_linux_dmabuf_feedback_v1_send_tranche_done(feedback);
}

static void get_feedback(void *data, struct wl_resource *dmabuf, const union wl_argument *args)
{
	const struct dmabuf_screen *screen = data;
	struct wl_resource *feedback = compositor_made(dmabuf, &args[0]);
	struct wl_array device =
		array_of(&screen->tranches[0].device, sizeof(screen->tranches[0].device));
	send_table(screen, feedback);
	zwp_linux_dmabuf_feedback_v1_send_main_device(feedback, &device);
	for (size_t i = 0; i < screen->n_tranches; i++) {
		send_tranche(&screen->tranches[i], feedback);
	}
	zwp_linux_dmabuf_feedback_v1_send_done(feedback);
}

/* ---- buffers ---- */

static void destroy_buffer(struct dmabuf_buffer *buffer)
{
	for (size_t i = 0; i < MAX_PLANES; i++) {
		if (buffer->planes[i].fd >= 0) {
			close(buffer->planes[i].fd);
		}
	}
	free(buffer);
}

/* What was collected and not made into a buffer. */
static void handle_params_gone(struct wl_resource *params)
{
	struct dmabuf_buffer *buffer = wl_resource_get_user_data(params);
	if (buffer == NULL) {
		return;
	}
	if (buffer->screen->unanswered == params) {
		buffer->screen->unanswered = NULL;
	}
	destroy_buffer(buffer);
}

static struct dmabuf_buffer *collect_buffer(struct dmabuf_screen *screen)
{
	struct dmabuf_buffer *buffer = calloc(1, sizeof(*buffer));
	if (buffer == NULL) {
		abort();
	}
	buffer->screen = screen;
	for (size_t i = 0; i < MAX_PLANES; i++) {
		buffer->planes[i].fd = -1;
	}
	return buffer;
}

static void create_params(void *data, struct wl_resource *dmabuf, const union wl_argument *args)
{
	struct dmabuf_buffer *buffer = collect_buffer(data);
	struct wl_resource *params = compositor_made(dmabuf, &args[0]);
	wl_resource_set_user_data(params, buffer);
	wl_resource_set_destructor(params, handle_params_gone);
}

static void add(void *data, struct wl_resource *params, const union wl_argument *args)
{
	struct dmabuf_screen *screen = data;
	struct dmabuf_buffer *buffer = wl_resource_get_user_data(params);
	screen->n_planes++;
	if (buffer == NULL || args[1].u >= MAX_PLANES || buffer->planes[args[1].u].fd >= 0) {
		close(args[0].h);
		return;
	}
	buffer->n_planes++;
	buffer->planes[args[1].u] = (struct dmabuf_plane){
		.fd = args[0].h,
		.offset = args[2].u,
		.stride = args[3].u,
		.modifier = (uint64_t)args[4].u << 32 | args[5].u,
	};
}

static void handle_buffer_gone(struct wl_resource *resource)
{
	struct dmabuf_buffer *buffer = wl_resource_get_user_data(resource);
	struct dmabuf_screen *screen = buffer->screen;
	screen->pending = screen->pending == buffer ? NULL : screen->pending;
	screen->shown = screen->shown == buffer ? NULL : screen->shown;
	wl_list_remove(&buffer->link);
	destroy_buffer(buffer);
}

static void finish_buffer(struct dmabuf_buffer *buffer, struct wl_resource *resource)
{
	buffer->resource = resource;
	wl_list_insert(&buffer->screen->buffers, &buffer->link);
	wl_resource_set_user_data(resource, buffer);
	wl_resource_set_destructor(resource, handle_buffer_gone);
}

/* The params' planes are the buffer's from now on. */
static void make_buffer(struct wl_resource *params, struct wl_resource *resource)
{
	struct dmabuf_buffer *buffer = wl_resource_get_user_data(params);
	wl_resource_set_user_data(params, NULL);
	finish_buffer(buffer, resource);
}

static void describe(struct wl_resource *params, const union wl_argument *args)
{
	struct dmabuf_buffer *buffer = wl_resource_get_user_data(params);
	buffer->screen->n_requests++;
	buffer->width = args[0].i;
	buffer->height = args[1].i;
	buffer->format = args[2].u;
	buffer->flags = args[3].u;
}

static void answer(struct dmabuf_screen *screen, struct wl_resource *params)
{
	if (screen->refuses) {
		zwp_linux_buffer_params_v1_send_failed(params);
		return;
	}
	struct wl_resource *resource =
		compositor_make(screen->compositor, params, &wl_buffer_interface);
	make_buffer(params, resource);
	zwp_linux_buffer_params_v1_send_created(params, resource);
}

static void create(void *data, struct wl_resource *params, const union wl_argument *args)
{
	struct dmabuf_screen *screen = data;
	describe(params, args);
	if (screen->hesitates) {
		screen->unanswered = params;
	} else {
		answer(screen, params);
	}
}

static void create_immed(void *data, struct wl_resource *params, const union wl_argument *args)
{
	(void)data;
	describe(params, args + 1);
	make_buffer(params, compositor_made(params, &args[0]));
}

void dmabuf_screen_answer(struct dmabuf_screen *screen)
{
	answer(screen, screen->unanswered);
	screen->unanswered = NULL;
}

/* ---- wl_drm ---- */

static void send_drm(void *data, struct wl_resource *drm)
{
	const struct dmabuf_screen *screen = data;
	wl_drm_send_device(drm, screen->drm_device);
	for (size_t i = 0; i < screen->n_pairs; i++) {
		wl_drm_send_format(drm, screen->pairs[i].format);
	}
	if (wl_resource_get_version(drm) >= 2) {
		wl_drm_send_capabilities(drm, screen->drm_capabilities);
	}
}

static void authenticate(void *data, struct wl_resource *drm, const union wl_argument *args)
{
	(void)drm;
	(void)args;
	((struct dmabuf_screen *)data)->authentications++;
}

static void create_prime_buffer(void *data, struct wl_resource *drm, const union wl_argument *args)
{
	struct dmabuf_buffer *buffer = collect_buffer(data);
	buffer->screen->n_requests++;
	buffer->width = args[2].i;
	buffer->height = args[3].i;
	buffer->format = args[4].u;
	buffer->n_planes = 3;
	for (size_t i = 0; i < buffer->n_planes; i++) {
		buffer->planes[i] = (struct dmabuf_plane){
			.fd = i == 0 ? args[1].h : dup(args[1].h),
			.offset = (uint32_t)args[5 + 2 * i].i,
			.stride = (uint32_t)args[6 + 2 * i].i,
		};
	}
	finish_buffer(buffer, compositor_made(drm, &args[0]));
}

void dmabuf_screen_add_drm(struct dmabuf_screen *screen, const char *device, int version)
{
	struct compositor *compositor = screen->compositor;
	const char *drm = wl_drm_interface.name;
	screen->drm_device = device;
	screen->drm_capabilities = 1;
	compositor_add_bound_global(compositor, &wl_drm_interface, version, send_drm, screen);
	compositor_hook(compositor, drm, "authenticate", authenticate, screen);
	compositor_hook(compositor, drm, "create_prime_buffer", create_prime_buffer, screen);
}

/* ---- surfaces ---- */

static void attach(void *data, struct wl_resource *surface, const union wl_argument *args)
{
	struct dmabuf_screen *screen = data;
	(void)surface;
	struct wl_resource *buffer = compositor_object(&args[0]);
	screen->pending = buffer != NULL ? wl_resource_get_user_data(buffer) : NULL;
}

static void commit(void *data, struct wl_resource *surface, const union wl_argument *args)
{
	struct dmabuf_screen *screen = data;
	(void)surface;
	(void)args;
	screen->shown = screen->pending;
	screen->commits++;
}

void dmabuf_screen_init(struct dmabuf_screen *screen, struct compositor *compositor, int version)
{
	*screen = (struct dmabuf_screen){.compositor = compositor};
	wl_list_init(&screen->buffers);
	compositor_add_bound_global(
		compositor, &zwp_linux_dmabuf_v1_interface, version, send_modifiers, screen);
	const char *params = zwp_linux_buffer_params_v1_interface.name;
	const char *dmabuf = zwp_linux_dmabuf_v1_interface.name;
	compositor_hook(compositor, dmabuf, "create_params", create_params, screen);
	compositor_hook(compositor, dmabuf, "get_default_feedback", get_feedback, screen);
	compositor_hook(compositor, dmabuf, "get_surface_feedback", get_feedback, screen);
	compositor_hook(compositor, params, "add", add, screen);
	compositor_hook(compositor, params, "create", create, screen);
	compositor_hook(compositor, params, "create_immed", create_immed, screen);
	compositor_hook(compositor, "wl_surface", "attach", attach, screen);
	compositor_hook(compositor, "wl_surface", "commit", commit, screen);
}
