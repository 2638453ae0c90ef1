#ifndef GUEST_PROXY_RENDER_NODE_H
#define GUEST_PROXY_RENDER_NODE_H

#include <stdbool.h>

struct dmabuf_device;

// The device that clients are told to make dma-bufs on: a GPU's render node, or vgem's if there
// is no other; zeros where there is none. False: some clients would make dma-bufs whose bytes
// the guest cannot read, as a GPU of the host's keeps them (virtio-gpu with 3D).
//
// *virtgpu: a virtio-gpu whose buffers the guest can read, opened for fdpass/virtgpu.h, which takes it: the
// caller's; -1: there is none.
bool render_node_find(struct dmabuf_device *device, int *virtgpu);

#endif
