#ifndef HOST_PROXY_GPU_RESOURCES_H
#define HOST_PROXY_GPU_RESOURCES_H

#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "host-proxy/ram_buffer.h"

struct guest_memory;

/**
 * The 2D resources of a guest's GPU (virtio 1.2, section 5.7.6.8): of each its size, and the pages of
 * the guest that are behind it. What is shown is nowhere kept. The guest names them as it likes; what
 * it can make us keep is bounded.
 */

#define GPU_RESOURCES_MAX 16384
#define GPU_ENTRIES_MAX   65536 // of one backing, as the guest names them: 256 MiB of single pages
#define GPU_RANGES_MAX    (1 << 20) // of all of them, where neighbours are one: 16 MiB here

#define GPU_BUCKETS 256

struct gpu_resources {
	struct wl_list buckets[GPU_BUCKETS]; // of resources, by their id
	size_t count;
	size_t n_ranges;       // of all
	uint64_t backed;       // bytes of the guest's behind all
	size_t n_buffers;      // dma-bufs that were made of backings
	uint64_t buffer_bytes; // of those
};

// A resource as a dma-buf.
struct gpu_buffer {
	int fd;          // borrowed; the same one as long as the resource has this backing
	uint32_t stride; // bytes
};

void gpu_resources_init(struct gpu_resources *resources);
// Forgets all.
void gpu_resources_clear(struct gpu_resources *resources);

// These return what the guest is answered: VIRTIO_GPU_RESP_OK_NODATA or VIRTIO_GPU_RESP_ERR_… .
uint32_t gpu_resources_create(
	struct gpu_resources *resources, uint32_t id, uint32_t width, uint32_t height);
// ranges (struct ram_range) are copied.
uint32_t gpu_resources_attach(
	struct gpu_resources *resources, uint32_t id, const struct wl_array *ranges);
uint32_t gpu_resources_detach(struct gpu_resources *resources, uint32_t id);
uint32_t gpu_resources_unref(struct gpu_resources *resources, uint32_t id);
uint32_t gpu_resources_find(const struct gpu_resources *resources, uint32_t id);

// Adds what a guest's entry names to the ranges of a backing. VIRTIO_GPU_RESP_…, as above.
uint32_t gpu_backing_add(struct wl_array *ranges, uint64_t address, uint32_t length);

// The resource's pages as a dma-buf, made when it is asked for first. NULL, or in one static phrase why
// there is none.
const char *gpu_resources_get_buffer(struct gpu_resources *resources, uint32_t id,
	const struct ram_buffers *buffers, const struct guest_memory *memory,
	struct gpu_buffer *buffer);

#endif
