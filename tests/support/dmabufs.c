#include "tests/support/dmabufs.h"

#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <virtgpu_drm.h>
#include <xf86drm.h>
#include <cmocka.h>

#define NODES   64 // of each kind, at most
#define SKIPPED 77 // for Meson

static int open_udmabuf(void)
{
	return open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
}

bool dmabufs_have_udmabuf(void)
{
	int device = open_udmabuf();
	if (device >= 0) {
		close(device);
	}
	return device >= 0;
}

int dmabufs_new(size_t size, int *memory)
{
	*memory = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(*memory >= 0);
	assert_int_equal(ftruncate(*memory, (off_t)size), 0);
	assert_int_equal(fcntl(*memory, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	const struct udmabuf_create create = {
		.memfd = (uint32_t)*memory,
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.size = size,
	};
	int device = open_udmabuf();
	int fd = ioctl(device, UDMABUF_CREATE, &create);
	assert_true(fd >= 0);
	close(device);
	return fd;
}

int dmabufs_new_from_heap(size_t size)
{
	struct dma_heap_allocation_data allocation = {.len = size, .fd_flags = O_RDWR | O_CLOEXEC};
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	if (heap < 0) {
		return -1;
	}
	assert_int_equal(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &allocation), 0);
	close(heap);
	return (int)allocation.fd;
}

int dmabufs_new_of_card(int card, size_t size, uint32_t *handle)
{
	struct drm_mode_create_dumb dumb = {.width = (uint32_t)size / 4, .height = 1, .bpp = 32};
	int fd;
	assert_int_equal(drmIoctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb), 0);
	assert_true(dumb.size >= size);
	assert_int_equal(drmPrimeHandleToFD(card, dumb.handle, DRM_CLOEXEC | DRM_RDWR, &fd), 0);
	assert_int_equal(drmCloseBufferHandle(card, dumb.handle), 0);
	if (handle != NULL) {
		*handle = dumb.handle;
	}
	return fd;
}

static int open_node(const char *kind, int first, const char *driver)
{
	for (int i = first; i < first + NODES; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/dev/dri/%s%d", kind, i);
		int fd = open(path, O_RDWR | O_CLOEXEC);
		drmVersion *version = fd < 0 ? NULL : drmGetVersion(fd);
		bool found = version != NULL && strcmp(version->name, driver) == 0;
		drmFreeVersion(version);
		if (found) {
			return fd;
		}
		if (fd >= 0) {
			close(fd);
		}
	}
	return -1;
}

int dmabufs_open_card(const char *driver)
{
	return open_node("card", 0, driver);
}

int dmabufs_open_gpu(void)
{
	return open_node("renderD", 128, "virtio_gpu");
}

// vgem's own ioctls, whose header distributions leave out.
struct vgem_fence_attach {
	uint32_t handle;
	uint32_t flags;
	uint32_t out_fence;
	uint32_t pad;
};

struct vgem_fence_signal {
	uint32_t fence;
	uint32_t flags;
};

#define VGEM_FENCE_S      10 // seconds: then it ends by itself
#define VGEM_FENCE_WRITE  1
#define VGEM_FENCE_ATTACH DRM_IOWR(DRM_COMMAND_BASE + 1, struct vgem_fence_attach)
#define VGEM_FENCE_SIGNAL DRM_IOW(DRM_COMMAND_BASE + 2, struct vgem_fence_signal)

static void map_buffer(struct vgem_buffer *buffer)
{
	struct drm_mode_map_dumb map = {.handle = buffer->handle};
	assert_int_equal(drmIoctl(buffer->card, DRM_IOCTL_MODE_MAP_DUMB, &map), 0);
	buffer->data = mmap(NULL, buffer->size, PROT_READ | PROT_WRITE, MAP_SHARED, buffer->card,
		(off_t)map.offset);
	assert_ptr_not_equal(buffer->data, MAP_FAILED);
}

bool vgem_buffer_init(struct vgem_buffer *buffer)
{
	struct drm_mode_create_dumb dumb = {.width = VGEM_WIDTH, .height = VGEM_HEIGHT, .bpp = 32};
	*buffer = (struct vgem_buffer){.card = dmabufs_open_card("vgem"), .fd = -1};
	if (buffer->card < 0) {
		return false;
	}
	assert_int_equal(drmIoctl(buffer->card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb), 0);
	buffer->handle = dumb.handle;
	buffer->size = dumb.size;
	buffer->stride = dumb.pitch;
	map_buffer(buffer);
	assert_int_equal(
		drmPrimeHandleToFD(buffer->card, dumb.handle, DRM_CLOEXEC, &buffer->fd), 0);
	return true;
}

void vgem_buffer_finish(struct vgem_buffer *buffer)
{
	munmap(buffer->data, buffer->size);
	close(buffer->fd);
	close(buffer->card);
}

static time_t seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void attach_fence(struct vgem_buffer *buffer, uint32_t flags)
{
	struct vgem_fence_attach attach = {.handle = buffer->handle, .flags = flags};
	assert_int_equal(drmIoctl(buffer->card, VGEM_FENCE_ATTACH, &attach), 0);
	buffer->fence = attach.out_fence;
	buffer->attached = seconds();
}

void vgem_buffer_attach(struct vgem_buffer *buffer)
{
	attach_fence(buffer, VGEM_FENCE_WRITE);
}

void vgem_buffer_attach_reader(struct vgem_buffer *buffer)
{
	attach_fence(buffer, 0);
}

static void expect(const struct vgem_buffer *buffer, bool right)
{
	if (!right && seconds() - buffer->attached >= VGEM_FENCE_S) {
		fprintf(stderr, "the machine is too slow: the kernel has ended a fence of vgem\n");
		_exit(SKIPPED);
	}
	assert_true(right);
}

void vgem_buffer_signal(struct vgem_buffer *buffer)
{
	struct vgem_fence_signal signal = {.fence = buffer->fence};
	expect(buffer, drmIoctl(buffer->card, VGEM_FENCE_SIGNAL, &signal) == 0);
}

void vgem_buffer_expect_busy(const struct vgem_buffer *buffer)
{
	struct pollfd unused = {.fd = buffer->fd, .events = POLLOUT}; // by readers, too
	expect(buffer, poll(&unused, 1, 0) == 0);
}

/* ---- virtio-gpu ---- */

#define TARGET_2D   2
#define FORMAT_BGRA 1

void gpu_buffer_init(struct gpu_buffer *buffer, int node)
{
	struct drm_virtgpu_resource_create create = {
		.target = TARGET_2D,
		.format = FORMAT_BGRA,
		.width = GPU_WIDTH,
		.height = GPU_HEIGHT,
		.depth = 1,
		.array_size = 1,
		.size = GPU_WIDTH * GPU_HEIGHT * 4,
	};
	*buffer = (struct gpu_buffer){.node = node, .fd = -1, .stride = GPU_WIDTH * 4};
	assert_int_equal(drmIoctl(node, DRM_IOCTL_VIRTGPU_RESOURCE_CREATE, &create), 0);
	buffer->handle = create.bo_handle;
	buffer->resource = create.res_handle;
	buffer->size = create.size;
	assert_int_equal(
		drmPrimeHandleToFD(node, buffer->handle, DRM_CLOEXEC | DRM_RDWR, &buffer->fd), 0);
	buffer->data = mmap(NULL, buffer->size, PROT_READ | PROT_WRITE, MAP_SHARED, buffer->fd, 0);
	assert_ptr_not_equal(buffer->data, MAP_FAILED);
}

static void close_handle(int node, uint32_t handle)
{
	struct drm_gem_close close = {.handle = handle};
	assert_int_equal(drmIoctl(node, DRM_IOCTL_GEM_CLOSE, &close), 0);
}

void gpu_buffer_finish(struct gpu_buffer *buffer)
{
	munmap(buffer->data, buffer->size);
	close(buffer->fd);
	close_handle(buffer->node, buffer->handle);
}

uint32_t gpu_next_handle(int node, const struct gpu_buffer *buffer)
{
	uint32_t handle;
	assert_int_equal(drmPrimeFDToHandle(node, buffer->fd, &handle), 0);
	close_handle(node, handle);
	return handle;
}
