#ifndef RELAY_DMABUF_H
#define RELAY_DMABUF_H

#include <stdbool.h>
#include <stdint.h>

struct wayland;

/**
 * linux-dmabuf: what clients are offered (feedback.c), and the buffers that they make (dmabuf.c).
 *
 * Only linear buffers cross, since what is copied is rows. A modifier that is not told
 * ("implicit", DRM_FORMAT_MOD_INVALID) is whatever a driver chooses: on the host a driver takes
 * a foreign dma-buf without one for linear, and many drivers of virtual GPUs can name none for
 * what they make, though it is linear. So it goes on where the guest's device is known for that.
 */

#define DMABUF_GLOBAL "zwp_linux_dmabuf_v1"

// Of the guest: what its clients are told to make their buffers on.
struct dmabuf_device {
	uint64_t number;      // dev_t; 0: there is none
	bool implicit_linear; // what it makes without a modifier is linear
};

// The version of the global to offer, at most version; 0: it stays hidden.
uint32_t dmabuf_version(const struct wayland *wayland, uint32_t version);

// Whether the pair may be offered to the session's client.
bool dmabuf_offers(const struct wayland *wayland, uint32_t format, uint64_t modifier);

#endif
