#ifndef RELAY_DMABUF_H
#define RELAY_DMABUF_H

#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct memory;
struct params;
struct params_picture;
struct pool;
struct wayland;

/**
 * linux-dmabuf: what clients are offered (feedback.c), and the buffers that they make (dmabuf.c). The
 * same by its predecessor, wl_drm (drm.c), and buffers of a compositor that clients are given (scanout.c).
 *
 * Only linear buffers cross, since what is copied is rows. A modifier that is not told
 * ("implicit", DRM_FORMAT_MOD_INVALID) is whatever a driver chooses: on the host a driver takes
 * a foreign dma-buf without one for linear, and many drivers of virtual GPUs can name none for
 * what they make, though it is linear. So it goes on where the guest's device is known for that.
 */

#define DMABUF_GLOBAL "zwp_linux_dmabuf_v1"
#define DRM_GLOBAL    "wl_drm"
#define DMABUF_PATH   64

#define SCANOUT_GLOBAL "zwlr_export_dmabuf_manager_v1"

// Of the guest: what its clients are told to make their buffers on.
struct dmabuf_device {
	uint64_t number;        // dev_t; 0: there is none
	bool implicit_linear;   // what it makes without a modifier is linear
	char path[DMABUF_PATH]; // of its node; empty: there is none
};

// The version of the global to offer, at most version; 0: it stays hidden.
uint32_t dmabuf_version(const struct wayland *wayland, uint32_t version);
uint32_t drm_version(const struct wayland *wayland, uint32_t version);
// Whether the session's client can be given copies of the compositor's own dma-bufs.
bool scanout_possible(const struct wayland *wayland);

// Whether the pair may be offered to the session's client.
bool dmabuf_offers(const struct wayland *wayland, uint32_t format, uint64_t modifier);

// The pool of a dma-buf, to which the caller gets a reference. Uses up one use of memory, also on failure:
// NULL is ENOMEM.
struct pool *dmabuf_get_pool(struct wayland *wayland, struct memory *memory);
// The buffer of a picture that has been checked, in the pools of its planes, which are borrowed. NULL is
// ENOMEM, or over the budget of fds.
struct buffer *dmabuf_make_buffer(const struct params *params, const struct params_picture *picture,
	struct pool *const pools[]);

#endif
