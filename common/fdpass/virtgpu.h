#ifndef FDPASS_VIRTGPU_H
#define FDPASS_VIRTGPU_H

#include <stdbool.h>
#include <stdint.h>

struct fdrefs;
struct virtgpu;

/**
 * The guest's virtio-gpu, as far as its buffers can be named to the host: a dma-buf that it has made is a
 * GEM object, which has a resource id that the device knows it by (linux: virtgpu_drm.h).
 */

struct virtgpu_buffer;

// node is a render node of the driver virtio_gpu, opened for nobody else, since GEM handles are its
// opener's: taken also on failure. NULL: ENOMEM.
struct virtgpu *virtgpu_create(int node);
// When no buffer of it is in use any more. NULL is fine.
void virtgpu_destroy(struct virtgpu *gpu);

// Whether the device may not have heard yet of the buffer behind fd, a dma-buf that is borrowed: who was told of
// its resource by another way would not find it. fdrefs_retry is called when to ask again. False for
// what is no buffer of the GPU.
bool virtgpu_must_wait(struct virtgpu *gpu, struct fdrefs *refs, int fd);

// The buffer behind fd, a dma-buf that is borrowed. It keeps its pages and its resource until it is
// released. NULL: the GPU has not made it, or it cannot be had.
struct virtgpu_buffer *virtgpu_get(struct virtgpu *gpu, int fd);
uint32_t virtgpu_buffer_resource(const struct virtgpu_buffer *buffer);
void virtgpu_buffer_release(struct virtgpu_buffer *buffer); // NULL is fine

#endif
