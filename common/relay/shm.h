#ifndef RELAY_SHM_H
#define RELAY_SHM_H

#include <pixman.h>
#include <stdbool.h>
#include <stdint.h>
#include <wayland-util.h>

#include "relay/objects.h"
#include "relay/unchanged.h"

struct fdrefs;
struct memory;
struct surface;

/**
 * wl_shm pools and the wl_buffers in them. A buffer outlives its pool's object, and is referred to
 * by the surfaces that show it.
 */
struct pool {
	struct object_state state;
	unsigned int refs; // its object and its buffers
	struct memory *memory;
	struct wl_list buffers; // buffer.pool_link
};

struct buffer {
	struct object_state state;
	unsigned int refs; // its object and the surfaces that show it or will
	bool alive;        // its object is
	struct pool *pool;
	struct wl_list pool_link;

	uint64_t offset; // in the pool, bytes
	int32_t width, height, stride;
	uint32_t format;          // wl_shm.format
	uint32_t bytes_per_pixel; // 0: rows cannot be cut
	uint64_t length;          // of all its planes, bytes

	// How the copy on the other side differs from this one, since its last commit:
	struct surface
		*surface; // that it was last committed to; NULL: none, or something is unclear
	struct wl_list surface_link;
	bool stale_all;
	pixman_region32_t stale; // else: at most there
	struct unchanged unchanged;
};

struct buffer *buffer_ref(struct buffer *buffer); // NULL is fine
void buffer_unref(struct buffer *buffer);         // NULL is fine

// Sends all of it, or the rectangles of region.
bool buffer_push_all(struct buffer *buffer);
bool buffer_push_region(struct buffer *buffer, pixman_region32_t *region);
// Has the other side copy region from a buffer of the same layout whose copy there is up to date.
bool buffer_push_twin(struct buffer *buffer, struct buffer *twin, pixman_region32_t *region);
// Whether the file is long enough for all of it.
bool buffer_is_whole(const struct buffer *buffer);
bool buffer_same_layout(const struct buffer *a, const struct buffer *b);
bool buffer_overlaps(const struct buffer *a, const struct buffer *b);
// Before bytes are sent: looks whether the pool's file is what it was. Where its owner has truncated
// it, nothing is known of the pool's buffers any more. False: out of memory.
bool buffer_check_pool(struct buffer *buffer);
// The buffer's bytes were just sent: buffers that lie over them are not what they were.
void buffer_spoil_overlapping(struct buffer *buffer);
// Nothing is known any more of how the copies differ.
void buffer_forget(struct buffer *buffer);

#endif
