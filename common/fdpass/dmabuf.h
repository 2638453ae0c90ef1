#ifndef FDPASS_DMABUF_H
#define FDPASS_DMABUF_H

#include "fdpass/memory.h"

/**
 * Memory of devices: a client's dma-buf, and one on the other side that rows are copied into. It is a
 * struct memory, of a size that never changes: all of memory.h does for it what it does for a pool.
 *
 * A buffer of the guest's virtio-gpu needs no copy where the host can find its pages: the guest
 * names it, and the host has a dma-buf of them (fdrefs.virtgpu, fdrefs.handles). Until CLOSED the guest keeps
 * the buffer, since its pages would be used for something else.
 *
 * Where both sides share a region, the copy is made through a range of it, which the other side's dma-buf is made of
 * where that can be (fdrefs.resolver).
 *
 * Devices write to it, and caches lie between them and us. So before it is read for a message, what they
 * still write is waited for (memory_must_wait), and memory_check tells the kernel that it is read; that
 * rows come is told when they do. The next messages that come are the end of either (fdrefs_settle).
 * What is named and not copied is not read here, and the kernel is told nothing.
 * Rows that come for a buffer which the local peer's GPU still reads wait for that in the kernel.
 */

// Whether dma-bufs can cross in this session: both sides have said so, and the host can make them. In
// the guest it is known once the host has answered, which is before its first message.
bool dmabuf_possible(const struct fdrefs *refs);

// Whether fd, a dma-buf that is borrowed, cannot be opened yet, as the device that names it has not seen
// it; fdrefs_retry is called when to ask again.
bool dmabuf_must_wait_to_open(struct fdrefs *refs, int fd);

// Opens an fdref for fd, a dma-buf, which is taken also on failure. All fds of one dma-buf are one
// memory, and one fdref: several planes, or several buffers, may lie in it. Each call gives the caller
// one use. NULL with *wrong set on failure: it is no dma-buf, or cannot be mapped, or there are too many.
struct memory *dmabuf_export(struct fdrefs *refs, int fd, const char **wrong);
// For fdrefs_frame: OPEN of a dma-buf, which fdrefs.resolver makes, or fdrefs.handles finds. What cannot be
// had is a memory all the same, with fd -1: rows for it are forgotten, and it is up to who names it what is told to whom.
const char *dmabuf_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

// NULL if id is not the fdref of a dma-buf, or of one that has been closed.
struct memory *dmabuf_get(const struct fdrefs *refs, uint32_t id);

#endif
