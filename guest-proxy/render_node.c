#include "guest-proxy/render_node.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <virtgpu_drm.h>
#include <xf86drm.h>

#include "base/log.h"
#include "relay/dmabuf.h"

#define MAX_DEVICES 64

enum driver {
	DRIVER_NONE,
	DRIVER_VGEM, // memory and nothing else
	DRIVER_VIRTIO_GPU,
	DRIVER_OTHER,
};

static enum driver driver_of(int fd)
{
	drmVersion *version = drmGetVersion(fd);
	enum driver driver = DRIVER_OTHER;
	if (version == NULL) {
		return DRIVER_NONE;
	}
	if (strcmp(version->name, "vgem") == 0) {
		driver = DRIVER_VGEM;
	} else if (strcmp(version->name, "virtio_gpu") == 0) {
		driver = DRIVER_VIRTIO_GPU;
	}
	drmFreeVersion(version);
	return driver;
}

static bool renders_on_host(int fd)
{
	uint64_t value = 0;
	struct drm_virtgpu_getparam param = {
		.param = VIRTGPU_PARAM_3D_FEATURES,
		.value = (uintptr_t)&value,
	};
	return drmIoctl(fd, DRM_IOCTL_VIRTGPU_GETPARAM, &param) == 0 && value != 0;
}

static uint64_t number_of(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : st.st_rdev;
}

/* False: it is such a GPU. */
static bool look_at(
	const drmDevice *found, struct dmabuf_device *device, enum driver *best, int *virtgpu)
{
	bool has_node = (found->available_nodes & (1 << DRM_NODE_RENDER)) != 0;
	int fd = has_node ? open(found->nodes[DRM_NODE_RENDER], O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0) {
		return true;
	}
	enum driver driver = driver_of(fd);
	bool readable = driver != DRIVER_VIRTIO_GPU || !renders_on_host(fd);
	if (driver > *best) {
		*best = driver;
		device->number = number_of(fd);
		device->implicit_linear = driver != DRIVER_OTHER;
		snprintf(device->path, sizeof(device->path), "%s", found->nodes[DRM_NODE_RENDER]);
	}
	if (driver == DRIVER_VIRTIO_GPU && readable && *virtgpu < 0) {
		*virtgpu = fd;
	} else {
		close(fd);
	}
	return readable;
}

bool render_node_find(struct dmabuf_device *device, int *virtgpu)
{
	drmDevice *devices[MAX_DEVICES];
	enum driver best = DRIVER_NONE;
	bool readable = true;
	// What clients make without any device is udmabuf's or a dma-heap's: rows.
	*device = (struct dmabuf_device){.implicit_linear = true};
	*virtgpu = -1;
	int n = drmGetDevices2(0, devices, MAX_DEVICES);
	for (int i = 0; i < n; i++) {
		readable = look_at(devices[i], device, &best, virtgpu) && readable;
	}
	if (n > 0) {
		drmFreeDevices(devices, n);
	}
	if (!readable) {
		log_debug("no dma-bufs: what virtio-gpu renders is in the host's memory");
	}
	return readable;
}
