#ifndef TESTS_SUPPORT_DMABUFS_H
#define TESTS_SUPPORT_DMABUFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/**
 * dma-bufs as a machine has them or not: memory behind /dev/udmabuf, and buffers of the kernel's vgem,
 * whose fences are signalled by who has made them.
 */

bool dmabufs_have_udmabuf(void);
// A dma-buf of size bytes, which are whole pages, of a new memfd; *memory is an fd of that. Both are the
// caller's.
int dmabufs_new(size_t size, int *memory);

// The same of /dev/dma_heap/system; -1: there is none.
int dmabufs_new_from_heap(size_t size);
// The same of a primary node's dumb buffer, which nothing else keeps. handle is what it was called; may be
// NULL.
int dmabufs_new_of_card(int card, size_t size, uint32_t *handle);

// The primary node of a driver; -1: there is none.
int dmabufs_open_card(const char *driver);

#define VGEM_WIDTH  64 // pixels
#define VGEM_HEIGHT 64

struct vgem_buffer {
	int card;
	uint32_t handle;
	int fd; // the dma-buf, for reading only
	size_t size;
	uint32_t stride; // bytes; of 32 bits a pixel
	uint8_t *data;   // where its device writes
	uint32_t fence;  // the last one that was attached
	time_t attached; // CLOCK_MONOTONIC, seconds
};

// False: there is no vgem.
bool vgem_buffer_init(struct vgem_buffer *buffer);
void vgem_buffer_finish(struct vgem_buffer *buffer);
// From now on the buffer is being written to, until vgem_buffer_signal, or for ten seconds.
void vgem_buffer_attach(struct vgem_buffer *buffer);
// The same; it is being read.
void vgem_buffer_attach_reader(struct vgem_buffer *buffer);
void vgem_buffer_signal(struct vgem_buffer *buffer);
// Its fence has not signalled. On a machine so slow that the ten seconds are over, and on no other, this and
// vgem_buffer_signal end the program as one that Meson takes for skipped.
void vgem_buffer_expect_busy(const struct vgem_buffer *buffer);

#define GPU_WIDTH  64 // pixels
#define GPU_HEIGHT 64

// A buffer of virtio-gpu, as clients make them on its render node.
struct gpu_buffer {
	int node;
	uint32_t handle, resource;
	int fd; // the dma-buf, for reading and writing
	size_t size;
	uint32_t stride; // bytes; of 32 bits a pixel
	uint8_t *data;
};

// The render node of a virtio-gpu, opened anew; -1: there is none.
int dmabufs_open_gpu(void);
// node is borrowed.
void gpu_buffer_init(struct gpu_buffer *buffer, int node);
void gpu_buffer_finish(struct gpu_buffer *buffer);
// The GEM handle that the next import on a node would get: the lowest that is free. buffer is of another
// node, and not imported there.
uint32_t gpu_next_handle(int node, const struct gpu_buffer *buffer);

#endif
