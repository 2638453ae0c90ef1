#ifndef TESTS_SUPPORT_DMABUFS_H
#define TESTS_SUPPORT_DMABUFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * dma-bufs as a machine has them or not: memory behind /dev/udmabuf, and buffers of the kernel's vgem,
 * whose fences are signalled by who has made them.
 */

bool dmabufs_have_udmabuf(void);
// A dma-buf of size bytes, which are whole pages, of a new memfd; *memory is an fd of that. Both are the
// caller's.
int dmabufs_new(size_t size, int *memory);

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
};

// False: there is no vgem.
bool vgem_buffer_init(struct vgem_buffer *buffer);
void vgem_buffer_finish(struct vgem_buffer *buffer);
// From now on the buffer is being written to, until vgem_buffer_signal, or for ten seconds.
void vgem_buffer_attach(struct vgem_buffer *buffer);
// The same; it is being read.
void vgem_buffer_attach_reader(struct vgem_buffer *buffer);
void vgem_buffer_signal(struct vgem_buffer *buffer);

#endif
