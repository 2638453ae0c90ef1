#include "host-proxy/gpu_resources.h"

#include <linux/virtio_gpu.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host-proxy/guest_memory.h"

#define SIDE_MAX        16384 // pixels, so that a size fits 32 bits
#define BYTES_PER_PIXEL 4     // of all formats
#define BUFFERS_MAX     4096

struct resource {
	struct wl_list link; // of its bucket
	uint32_t id, width, height;
	struct ram_range *ranges; // NULL: no backing
	size_t n_ranges;
	uint64_t backed; // bytes
	int buffer;      // -1: not made
};

void gpu_resources_init(struct gpu_resources *resources)
{
	*resources = (struct gpu_resources){0};
	for (size_t i = 0; i < GPU_BUCKETS; i++) {
		wl_list_init(&resources->buckets[i]);
	}
}

static const struct wl_list *find_bucket(const struct gpu_resources *resources, uint32_t id)
{
	return &resources->buckets[id % GPU_BUCKETS];
}

static struct resource *find(const struct gpu_resources *resources, uint32_t id)
{
	struct resource *resource;
	wl_list_for_each (resource, find_bucket(resources, id), link) {
		if (resource->id == id) {
			return resource;
		}
	}
	return NULL;
}

static void drop_backing(struct gpu_resources *resources, struct resource *resource)
{
	if (resource->buffer >= 0) {
		close(resource->buffer);
		resource->buffer = -1;
		resources->n_buffers--;
		resources->buffer_bytes -= resource->backed;
	}
	free(resource->ranges);
	resource->ranges = NULL;
	resources->n_ranges -= resource->n_ranges;
	resources->backed -= resource->backed;
	resource->n_ranges = 0;
	resource->backed = 0;
}

static void destroy(struct gpu_resources *resources, struct resource *resource)
{
	drop_backing(resources, resource);
	wl_list_remove(&resource->link);
	resources->count--;
	free(resource);
}

void gpu_resources_clear(struct gpu_resources *resources)
{
	for (size_t i = 0; i < GPU_BUCKETS; i++) {
		struct resource *resource, *next;
		wl_list_for_each_safe (resource, next, &resources->buckets[i], link) {
			destroy(resources, resource);
		}
	}
}

uint32_t gpu_resources_create(
	struct gpu_resources *resources, uint32_t id, uint32_t width, uint32_t height)
{
	if (id == 0 || find(resources, id) != NULL) {
		return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
	}
	if (width == 0 || height == 0 || width > SIDE_MAX || height > SIDE_MAX) {
		return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
	}
	struct resource *resource =
		resources->count < GPU_RESOURCES_MAX ? calloc(1, sizeof(*resource)) : NULL;
	if (resource == NULL) {
		return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
	}
	resource->id = id;
	resource->width = width;
	resource->height = height;
	resource->buffer = -1;
	wl_list_insert(&resources->buckets[id % GPU_BUCKETS], &resource->link);
	resources->count++;
	return VIRTIO_GPU_RESP_OK_NODATA;
}

uint32_t gpu_backing_add(struct wl_array *ranges, uint64_t address, uint32_t length)
{
	if (length == 0 || length > UINT64_MAX - address) {
		return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
	}
	struct ram_range *last = ranges->size > 0
		? (struct ram_range *)((uint8_t *)ranges->data + ranges->size) - 1
		: NULL;
	if (last != NULL && last->address + last->size == address) {
		last->size += length;
		return VIRTIO_GPU_RESP_OK_NODATA;
	}
	last = wl_array_add(ranges, sizeof(*last));
	if (last == NULL) {
		return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
	}
	*last = (struct ram_range){.address = address, .size = length};
	return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint64_t sum_of(const struct ram_range *ranges, size_t n)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++) {
		sum += ranges[i].size; // GPU_ENTRIES_MAX of less than 4 GiB
	}
	return sum;
}

uint32_t gpu_resources_attach(
	struct gpu_resources *resources, uint32_t id, const struct wl_array *ranges)
{
	struct resource *resource = find(resources, id);
	size_t n = ranges->size / sizeof(struct ram_range);
	if (resource == NULL) {
		return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
	}
	if (resource->ranges != NULL) {
		return VIRTIO_GPU_RESP_ERR_UNSPEC;
	}
	if (n == 0) {
		return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
	}
	struct ram_range *copy =
		n <= GPU_RANGES_MAX - resources->n_ranges ? malloc(ranges->size) : NULL;
	if (copy == NULL) {
		return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
	}
	memcpy(copy, ranges->data, ranges->size);
	resource->ranges = copy;
	resource->n_ranges = n;
	resource->backed = sum_of(copy, n);
	resources->n_ranges += n;
	resources->backed += resource->backed;
	return VIRTIO_GPU_RESP_OK_NODATA;
}

uint32_t gpu_resources_detach(struct gpu_resources *resources, uint32_t id)
{
	struct resource *resource = find(resources, id);
	if (resource == NULL || resource->ranges == NULL) {
		return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
	}
	drop_backing(resources, resource);
	return VIRTIO_GPU_RESP_OK_NODATA;
}

uint32_t gpu_resources_unref(struct gpu_resources *resources, uint32_t id)
{
	struct resource *resource = find(resources, id);
	if (resource == NULL) {
		return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
	}
	destroy(resources, resource);
	return VIRTIO_GPU_RESP_OK_NODATA;
}

uint32_t gpu_resources_find(const struct gpu_resources *resources, uint32_t id)
{
	return find(resources, id) != NULL ? VIRTIO_GPU_RESP_OK_NODATA
					   : VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
}

// Each page behind a buffer costs the kernel a few bytes, also if it is behind many: no guest needs more
// of them than it has pages.
static const char *check_buffer(const struct gpu_resources *resources,
	const struct resource *resource, const struct guest_memory *memory)
{
	uint64_t memory_size = guest_memory_size(memory);
	if (resource->backed < (uint64_t)resource->width * BYTES_PER_PIXEL * resource->height) {
		return "its backing is too small for it";
	}
	if (resources->n_buffers == BUFFERS_MAX || resources->buffer_bytes > memory_size ||
		resource->backed > memory_size - resources->buffer_bytes) {
		return "too many buffers";
	}
	return NULL;
}

static const char *make_buffer(struct gpu_resources *resources, struct resource *resource,
	const struct ram_buffers *buffers, const struct guest_memory *memory)
{
	const char *wrong = check_buffer(resources, resource, memory);
	uint64_t size;
	if (wrong != NULL) {
		return wrong;
	}
	resource->buffer = ram_buffer_create(
		buffers, memory, resource->ranges, resource->n_ranges, &size, &wrong);
	if (resource->buffer < 0) {
		return wrong;
	}
	resources->n_buffers++;
	resources->buffer_bytes += resource->backed;
	return NULL;
}

const char *gpu_resources_get_buffer(struct gpu_resources *resources, uint32_t id,
	const struct ram_buffers *buffers, const struct guest_memory *memory,
	struct gpu_buffer *buffer)
{
	struct resource *resource = find(resources, id);
	if (resource == NULL) {
		return "there is no such resource";
	}
	if (resource->ranges == NULL) {
		return "it has no backing";
	}
	const char *wrong = NULL;
	if (resource->buffer < 0) {
		wrong = make_buffer(resources, resource, buffers, memory);
	}
	*buffer = (struct gpu_buffer){
		.fd = resource->buffer,
		.stride = resource->width * BYTES_PER_PIXEL,
	};
	return wrong;
}
