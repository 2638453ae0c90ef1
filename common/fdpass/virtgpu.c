#include "fdpass/virtgpu.h"

#include <fcntl.h>
#include <linux/virtio_gpu.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <virtgpu_drm.h>
#include <wayland-util.h>
#include <xf86drm.h>

#include "base/log.h"
#include "fdpass/kind.h"
#include "fdpass/sync.h"

#define EXPORTER  "virtio_gpu" // what a dma-buf's fdinfo calls who has made it
#define TARGET_2D 2            // PIPE_TEXTURE_2D of Mesa, which the driver wants
#define PAGE      4096

struct virtgpu_buffer {
	struct virtgpu *gpu;
	struct wl_list link; // gpu.buffers
	uint32_t
		handle; // its GEM handle: of any number of imports the same, and of one only to close
	uint32_t resource;
	unsigned int refs;
};

struct virtgpu {
	int node;
	struct wl_list buffers; // virtgpu_buffer.link
	// Of the buffer that was asked about last, whether the device knows it: see virtgpu_must_wait.
	struct fd_identity asked;
	int barrier; // -1: it does
};

struct virtgpu *virtgpu_create(int node)
{
	struct virtgpu *gpu = calloc(1, sizeof(*gpu));
	if (gpu == NULL) {
		close(node);
		return NULL;
	}
	gpu->node = node;
	gpu->barrier = -1;
	wl_list_init(&gpu->buffers);
	return gpu;
}

void virtgpu_destroy(struct virtgpu *gpu)
{
	if (gpu == NULL) {
		return;
	}
	if (gpu->barrier >= 0) {
		close(gpu->barrier);
	}
	close(gpu->node);
	free(gpu);
}

static bool is_of_gpu(int fd)
{
	char exporter[FD_DESCRIPTION_MAX];
	return fd_dmabuf_exporter(fd, exporter) && strcmp(exporter, EXPORTER) == 0;
}

static void close_handle(const struct virtgpu *gpu, uint32_t handle)
{
	struct drm_gem_close close = {.handle = handle};
	drmIoctl(gpu->node, DRM_IOCTL_GEM_CLOSE, &close);
}

/* ---- the barrier ---- */

/*
 * What is told to the device goes into a queue, in which it is still when another process is given the buffer. A
 * small one that is made now comes after it: it has a fence, which signals when the device has made it, and
 * readable is what its dma-buf is then. Returns that dma-buf, or -1.
 */
static int make_barrier(const struct virtgpu *gpu)
{
	struct drm_virtgpu_resource_create create = {
		.target = TARGET_2D,
		.format = VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM,
		.width = 1,
		.height = 1,
		.depth = 1,
		.array_size = 1,
		.size = PAGE,
	};
	int fd = -1;
	if (drmIoctl(gpu->node, DRM_IOCTL_VIRTGPU_RESOURCE_CREATE, &create) < 0) {
		log_limited(LOG_WARN, "virtio-gpu is not waited for: cannot make a resource: %m");
		return -1;
	}
	if (drmPrimeHandleToFD(gpu->node, create.bo_handle, DRM_CLOEXEC, &fd) < 0) {
		log_limited(LOG_WARN, "virtio-gpu is not waited for: cannot export a resource: %m");
		fd = -1;
	}
	close_handle(gpu, create.bo_handle);
	return fd;
}

static void drop_barrier(struct virtgpu *gpu, struct fdrefs *refs)
{
	if (gpu->barrier >= 0) {
		sync_forget(refs, gpu->barrier);
		close(gpu->barrier);
		gpu->barrier = -1;
	}
}

bool virtgpu_must_wait(struct virtgpu *gpu, struct fdrefs *refs, int fd)
{
	struct fd_identity identity;
	if (!is_of_gpu(fd)) {
		return false;
	}
	fd_identity_of(fd, &identity);
	if (!fd_identity_equal(&identity, &gpu->asked)) {
		drop_barrier(gpu, refs);
		gpu->asked = identity;
		gpu->barrier = make_barrier(gpu);
	}
	struct pollfd made = {.fd = gpu->barrier, .events = POLLIN};
	if (gpu->barrier >= 0 && poll(&made, 1, 0) == 0 && sync_wait_for(refs, gpu->barrier)) {
		return true;
	}
	drop_barrier(gpu, refs);
	return false;
}

/* ---- buffers ---- */

/* One more use of it; NULL: it is not in use. */
static struct virtgpu_buffer *find(const struct virtgpu *gpu, uint32_t handle)
{
	struct virtgpu_buffer *buffer;
	wl_list_for_each (buffer, &gpu->buffers, link) {
		if (buffer->handle == handle) {
			buffer->refs++;
			return buffer;
		}
	}
	return NULL;
}

static struct virtgpu_buffer *create_buffer(struct virtgpu *gpu, uint32_t handle)
{
	struct drm_virtgpu_resource_info info = {.bo_handle = handle};
	if (drmIoctl(gpu->node, DRM_IOCTL_VIRTGPU_RESOURCE_INFO, &info) < 0) {
		return NULL;
	}
	struct virtgpu_buffer *buffer = calloc(1, sizeof(*buffer));
	if (buffer == NULL) {
		return NULL;
	}
	buffer->gpu = gpu;
	buffer->handle = handle;
	buffer->resource = info.res_handle;
	buffer->refs = 1;
	wl_list_insert(&gpu->buffers, &buffer->link);
	return buffer;
}

struct virtgpu_buffer *virtgpu_get(struct virtgpu *gpu, int fd)
{
	uint32_t handle;
	if (!is_of_gpu(fd) || drmPrimeFDToHandle(gpu->node, fd, &handle) < 0) {
		return NULL;
	}
	struct virtgpu_buffer *buffer = find(gpu, handle);
	if (buffer == NULL) {
		buffer = create_buffer(gpu, handle);
	}
	if (buffer == NULL) {
		close_handle(gpu, handle);
	}
	return buffer;
}

uint32_t virtgpu_buffer_resource(const struct virtgpu_buffer *buffer)
{
	return buffer->resource;
}

void virtgpu_buffer_release(struct virtgpu_buffer *buffer)
{
	if (buffer == NULL || --buffer->refs > 0) {
		return;
	}
	close_handle(buffer->gpu, buffer->handle);
	wl_list_remove(&buffer->link);
	free(buffer);
}
