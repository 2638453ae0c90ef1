#ifndef HOST_PROXY_GPU_DEVICE_H
#define HOST_PROXY_GPU_DEVICE_H

#include <stdint.h>

#include "host-proxy/gpu_resources.h"

struct event_base;
struct gpu_device;
struct ram_buffers;

/**
 * The virtio-gpu device of one virtual machine (virtio 1.2, section 5.7), by vhost-user: 2D resources
 * only, and no display is connected. It shows nothing, but knows the guest's pages behind each resource,
 * and makes dma-bufs of them.
 */

struct gpu_device_config {
	struct event_base *base;           // borrowed
	int fd;                            // the VMM's connection; taken, also on failure
	const struct ram_buffers *buffers; // borrowed
	// The VMM's connection is over. NULL: the VMM hung up. Must not destroy the device.
	void (*ended)(void *data, const char *wrong);
	void *data;
};

// NULL with errno on failure.
struct gpu_device *gpu_device_create(const struct gpu_device_config *config);
void gpu_device_destroy(struct gpu_device *device); // NULL is fine

// gpu_resources_get_buffer of the guest's resources as they are now.
const char *gpu_device_get_buffer(
	struct gpu_device *device, uint32_t id, struct gpu_buffer *buffer);
// For counts.
const struct gpu_resources *gpu_device_resources(const struct gpu_device *device);

#endif
