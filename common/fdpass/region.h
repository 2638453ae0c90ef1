#ifndef FDPASS_REGION_H
#define FDPASS_REGION_H

#include <stdbool.h>
#include <stdint.h>
#include <wayland-util.h>

struct channel_frame;
struct channel_region_range;
struct channel_rows;
struct event;
struct fdrefs;
struct mapping;

/**
 * The region: a memory that both sides of a session share, where they run on one kernel. The guest
 * gives ranges of it to its pools and copies there what their replicas are to show; the host's local
 * peer maps the same bytes. So pixels are copied once, and none go through the channel. What that peer has
 * written, the guest copies from there when the host says so.
 *
 * Dma-bufs have ranges, too, those that the guest opens and those of the host, which has a part of the region
 * for them. Such a range is in use from OPEN to CLOSED. What is copied to it is told to the other side, whose
 * dma-buf is of the same pages, or a copy.
 *
 * A range that nobody refers to any more is used again when the host has said that nobody does there,
 * either. Only ranges in use are mapped.
 */
struct region {
	int fd;
	uint64_t size;
	uint64_t used;         // bytes of ranges
	struct wl_list ranges; // region_range.link
	struct region_range *
		*at; // by offset / CHANNEL_REGION_STEP: the range that is there, or NULL
	size_t n_steps;
	struct wl_list kept; // see region_keep
	bool stopped;        // no more frames can be sent
	bool names_rows;     // both sides have agreed to REGION_ROWS
	bool arrived;        // the host: at the guest, which has said so
	uint64_t hosts_from; // where the host's part begins, up to the end
	uint64_t hosts_used; // of used: what is there
	// The host: what is charged to refs' session, ranges or what is really there, whatever is more.
	struct fdrefs *refs;
	uint64_t charged;
	struct event *look; // NULL: nobody looks what is there
};

struct region_range {
	struct fdrefs *refs;
	struct wl_list link;
	unsigned int users;      // pools and buffers
	uint64_t offset, length; // in the region, bytes
	struct mapping *mapping;
	// The guest: the host's local peer may look at it even when nobody uses it here, and will not say
	// when it has stopped to: it stays as it is.
	bool held;
	bool unmapped;  // the guest has sent REGION_UNMAP
	bool of_dmabuf; // it ends with its fdref
};

// A new memory that keeps its size, of at most CHANNEL_MAX_REGION bytes. NULL with errno.
struct region *region_create(uint64_t size);
// What the other side has created. Takes fd, also on failure: NULL with errno, EINVAL if it could be
// truncated.
struct region *region_open(int fd);
void region_destroy(struct region *region); // NULL is fine

// The guest: a range of at least size bytes, with one user. A pool that is new gets none of the half
// that is kept for those that grow. NULL: no room, or no region.
struct region_range *region_allocate(struct fdrefs *refs, uint64_t size, bool grows);
// Both sides have agreed to REGION_ROWS: the last quarter is the host's from now on. Before any range is there.
void region_agree(struct region *region);
// The guest: tells the host that it has the region, so that ranges of the host's part can come. False: out of
// memory.
bool region_push_arrived(const struct fdrefs *refs);
// The host: that frame, a REGION_MAP for the session. NULL, or what is wrong with it.
const char *region_handle_arrived(struct fdrefs *refs, const struct channel_frame *frame);
// Either side: a range of at least size bytes for a dma-buf that is about to be opened, with one user. NULL: no
// room, no budget, or not agreed to; or the guest has not said that it has the region.
struct region_range *region_allocate_for_dmabuf(struct fdrefs *refs, uint64_t size);
// Gives either back before the other side has heard of it. NULL is fine.
void region_forget(struct region_range *range);
// Tells the host that the pool is in the range from now on.
bool region_push_map(const struct region_range *range, uint32_t pool);
// The host: looks from time to time what the guest has written, be it in ranges or not, and charges it. The
// session ends when that is over its budget. False: out of memory.
bool region_watch(struct fdrefs *refs);
// The host: charges what is there now. False: over the budget; it is charged for less.
bool region_account(struct fdrefs *refs);
void region_range_describe(
	const struct region_range *range, struct channel_region_range *described);
// Either side: the range of a dma-buf of the other's, which has at least size bytes. One user; NULL with *wrong.
struct region_range *region_map_for_dmabuf(struct fdrefs *refs, uint64_t size,
	const struct channel_region_range *described, const char **wrong);
// The host: a REGION_MAP frame. A range with one user; NULL with *wrong.
struct region_range *region_map(
	struct fdrefs *refs, const struct channel_frame *frame, const char **wrong);
// A REGION_UNMAP frame, either way. NULL, or what is wrong with it.
const char *region_handle_unmap(struct fdrefs *refs, const struct channel_frame *frame);

struct region_range *region_range_use(struct region_range *range); // NULL is fine
void region_range_release(struct region_range *range);             // NULL is fine
// The guest: what was an object is in the range, and the host's local peer may look at it until it has
// deleted that. Keeps the range in use until then. NULL is fine.
void region_keep(struct region_range *range, uint32_t object);
// wl_display.delete_id has come for an object. NULL is fine.
void region_let_go(struct region *region, uint32_t object);

// Copies rows, which their owner may truncate meanwhile, to offset in the range, with the stride that
// they have. They fit.
void region_range_write(
	struct region_range *range, uint64_t offset, const struct channel_rows *rows);
// Tells the other side of rows that are in the range, and from offset on in the memory that is there. They
// fit. False: out of memory.
bool region_push_rows(const struct region_range *range, uint32_t memory, uint64_t offset,
	const struct channel_rows *rows);
// Where the rows are that a REGION_ROWS frame tells of, and from where on in their memory; base is NULL where
// the range is not needed here any more. range is the only one that may be named; NULL: of a pool, any. NULL, or
// what is wrong with the frame.
const char *region_find_rows(const struct fdrefs *refs, const struct channel_frame *frame,
	const struct region_range *range, uint64_t *offset, struct channel_rows *rows);
// Copies them to where their owner may truncate the memory meanwhile, with the stride that they have.
void region_copy_rows(uint8_t *to, const struct channel_rows *rows);

#endif
