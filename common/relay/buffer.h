#ifndef RELAY_BUFFER_H
#define RELAY_BUFFER_H

#include <pixman.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "relay/format.h"
#include "relay/objects.h"
#include "relay/unchanged.h"

struct budget;
struct charge;
struct memory;
struct region_range;
struct surface;

/**
 * wl_buffers and what their pixels lie in: wl_shm pools (shm.c) and dma-bufs (dmabuf.c). A buffer
 * outlives its pool's object, and its own while a surface is about to show it.
 */
struct pool {
	struct object_state state; // of a wl_shm_pool's object
	struct wl_list link;       // of a dma-buf: wayland.dmabufs
	unsigned int refs;         // its object and the planes in it
	bool is_dmabuf;
	uint32_t shm; // the guest's: the wl_shm that the pool was made by
	struct memory *memory;
	struct wl_list planes; // buffer_plane.pool_link
	uint64_t mapped;       // the host's: of the region, as the compositor knows the pool; bytes
	struct budget *budget; // that has been charged for the compositor's mapping; else NULL
	uint64_t charged;      // bytes of that
};

struct buffer_plane {
	struct buffer *buffer;
	struct pool *pool;
	struct wl_list pool_link;
	struct format_plane sample; // without bytes: rows cannot be cut
	uint64_t offset;            // in the pool, bytes
	uint64_t length;            // bytes
	uint32_t stride;            // bytes
	struct region_range *range; // that the wl_shm_pool was in when it was made; NULL: none
};

struct buffer {
	struct object_state state;
	unsigned int refs;      // its object, and what is to be done with it yet
	bool alive;             // its object is
	struct wl_list showing; // buffer_shown.link, while it is alive
	uint32_t id;            // of its object, if it is in a wl_shm_pool
	int32_t width, height;
	uint32_t format; // as its protocol numbers it
	size_t n_planes;
	struct buffer_plane planes[FORMAT_MAX_PLANES];
	struct charge *fds; // the host's: that its compositor keeps, of dma-bufs; else NULL

	// How the copy on the other side differs from this one, since its last commit:
	struct surface
		*surface; // that it was last committed to; NULL: none, or something is unclear
	struct wl_list surface_link;
	bool stale_all;
	pixman_region32_t stale; // else: at most there
	struct unchanged unchanged;
};

// The buffer that a surface shows, for as long as its object is there. What it showed last stays what it is in
// a region, where the compositor may look at it, until something else is shown.
struct buffer_shown {
	struct buffer *buffer;                          // NULL: none, or its object is gone
	struct wl_list link;                            // buffer.showing
	struct region_range *ranges[FORMAT_MAX_PLANES]; // NULL: none
};

// One reference is the caller's. Uses up one use of memory, also on failure: NULL is ENOMEM.
struct pool *pool_create(struct memory *memory);
// The compositor maps size bytes of it, or more than before: charged until the pool is gone. False: over
// the budget, which is borrowed.
bool pool_charge(struct pool *pool, struct budget *budget, uint64_t size);
struct pool *pool_ref(struct pool *pool);
void pool_unref(struct pool *pool); // NULL is fine

// Without planes. One reference, its object's, is the caller's; NULL is ENOMEM.
struct buffer *buffer_create(int32_t width, int32_t height, uint32_t format);
// The buffer makes a reference of its own to the pool. sample may have no bytes.
void buffer_add_plane(struct buffer *buffer, struct pool *pool, const struct format_plane *sample,
	uint64_t offset, uint32_t stride, uint64_t length);
struct buffer *buffer_ref(struct buffer *buffer); // NULL is fine
void buffer_unref(struct buffer *buffer);         // NULL is fine

void buffer_shown_init(struct buffer_shown *shown);
void buffer_shown_set(struct buffer_shown *shown, struct buffer *buffer); // NULL: none

// The compositor may look at it, or write to it, for as long as it likes: its place in the region is
// not used again.
void buffer_hold(struct buffer *buffer);
// Whether parts of it can be sent, and not only all of it.
bool buffer_has_rows(const struct buffer *buffer);
// Whether it is in memory that devices write to.
bool buffer_is_dmabuf(const struct buffer *buffer);
// Whether devices still write to it: it is not to be read before wayland_retry.
bool buffer_must_wait(const struct buffer *buffer);
// Whether what the compositor writes to it can be written to the client's memory: in the guest, where
// a dma-buf may be for reading only. What both sides share need not come back.
bool buffer_can_come_back(const struct buffer *buffer);
// Whether devices here still use memory of it that is the other side's, too: it is not to be released
// before wayland_retry.
bool buffer_is_in_use(const struct buffer *buffer);
// Sends all of it, or the rectangles of region.
bool buffer_push_all(struct buffer *buffer);
bool buffer_push_region(struct buffer *buffer, pixman_region32_t *region);
// Has the other side copy region from a buffer of the same layout whose copy there is up to date.
bool buffer_push_twin(struct buffer *buffer, struct buffer *twin, pixman_region32_t *region);
// Whether the file is long enough for all of it.
bool buffer_is_whole(const struct buffer *buffer);
bool buffer_same_layout(const struct buffer *a, const struct buffer *b);
bool buffer_overlaps(const struct buffer *a, const struct buffer *b);
// Before bytes are sent: looks whether the pools' files are what they were. Where their owner has
// truncated one, nothing is known of its buffers any more. False: out of memory.
bool buffer_check_pools(struct buffer *buffer);
// The buffer's bytes were just sent: buffers that lie over them are not what they were.
void buffer_spoil_overlapping(struct buffer *buffer);
// Nothing is known any more of how the copies differ.
void buffer_forget(struct buffer *buffer);

#endif
