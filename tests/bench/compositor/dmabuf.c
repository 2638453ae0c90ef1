#include "tests/bench/compositor/compositor.h"

#include <err.h>
#include <linux/dma-buf.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include "linux-dmabuf-server-protocol.h"
#include "tests/bench/noise.h"

#define XRGB8888 0x34325258 // drm_fourcc.h

// What params collect, and then a buffer: one linear plane.
struct plane {
	int fd; // -1: none yet
	uint32_t offset, stride;
	int32_t height; // of a buffer
};

static void handle_plane_destroy(struct wl_resource *resource)
{
	struct plane *plane = wl_resource_get_user_data(resource);
	if (plane->fd >= 0) {
		close(plane->fd);
	}
	free(plane);
}

static const struct requests buffer_requests = {
	.handlers = {[OPCODE(wl_buffer, destroy)] = request_destroy},
};

static void handle_add(struct wl_resource *params, const union wl_argument *args)
{
	struct plane *plane = wl_resource_get_user_data(params);
	if (args[1].u != 0 || plane->fd >= 0) {
		close(args[0].h);
		wl_resource_post_error(params, ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_PLANE_IDX,
			"buffers have one plane here");
		return;
	}
	plane->fd = args[0].h;
	plane->offset = args[2].u;
	plane->stride = args[3].u;
}

static void handle_create_immed(struct wl_resource *params, const union wl_argument *args)
{
	struct plane *collected = wl_resource_get_user_data(params);
	struct plane *plane = malloc(sizeof(*plane));
	if (plane == NULL) {
		wl_resource_post_no_memory(params);
		return;
	}
	*plane = *collected;
	plane->height = args[2].i;
	collected->fd = -1;
	request_resource_create(wl_resource_get_client(params), &wl_buffer_interface, 1, args[0].n,
		&buffer_requests, plane, handle_plane_destroy);
}

static const struct requests params_requests = {
	.handlers =
		{
			[OPCODE(zwp_linux_buffer_params_v1, destroy)] = request_destroy,
			[OPCODE(zwp_linux_buffer_params_v1, add)] = handle_add,
			[OPCODE(zwp_linux_buffer_params_v1, create_immed)] = handle_create_immed,
		},
};

static void handle_create_params(struct wl_resource *resource, const union wl_argument *args)
{
	struct plane *plane = malloc(sizeof(*plane));
	if (plane == NULL) {
		wl_resource_post_no_memory(resource);
		return;
	}
	*plane = (struct plane){.fd = -1};
	request_resource_create(wl_resource_get_client(resource),
		&zwp_linux_buffer_params_v1_interface, wl_resource_get_version(resource), args[0].n,
		&params_requests, plane, handle_plane_destroy);
}

static const struct requests dmabuf_requests = {
	.handlers =
		{
			[OPCODE(zwp_linux_dmabuf_v1, destroy)] = request_destroy,
			[OPCODE(zwp_linux_dmabuf_v1, create_params)] = handle_create_params,
		},
};

static void bind_dmabuf(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	struct wl_resource *resource = request_resource_create(client,
		&zwp_linux_dmabuf_v1_interface, (int)version, id, &dmabuf_requests, data, NULL);
	if (resource != NULL) {
		zwp_linux_dmabuf_v1_send_format(resource, XRGB8888);
		zwp_linux_dmabuf_v1_send_modifier(resource, XRGB8888, 0, 0);
	}
}

void dmabuf_create_global(struct wl_display *display)
{
	wl_global_create(display, &zwp_linux_dmabuf_v1_interface, 3, NULL, bind_dmabuf);
}

static void sync_access(int fd, uint64_t flags)
{
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &(struct dma_buf_sync){.flags = flags}) < 0) {
		warn("DMA_BUF_IOCTL_SYNC");
	}
}

uint64_t dmabuf_sum(struct wl_resource *buffer)
{
	const struct plane *plane = wl_resource_get_user_data(buffer);
	size_t size = (size_t)plane->stride * (size_t)plane->height;
	char *bytes = mmap(NULL, plane->offset + size, PROT_READ, MAP_SHARED, plane->fd, 0);
	if (bytes == MAP_FAILED) {
		warn("a dma-buf cannot be mapped");
		return 0;
	}
	sync_access(plane->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	uint64_t sum = noise_sum(bytes + plane->offset, size);
	sync_access(plane->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	munmap(bytes, plane->offset + size);
	return sum;
}
