#ifndef FDPASS_MEMORY_H
#define FDPASS_MEMORY_H

#include "fdpass/fdref.h"

struct mapping;
struct page_pinner;
struct region_range;

/**
 * Memory with sync points: a wl_shm pool and its replica. The opener holds the client's file, the
 * importer a memfd of the same size and seals; rows are pushed either way when the protocol says
 * that they are needed.
 *
 * Where the host has the guest's memory, the replica is the pages of the client's file themselves
 * (pages.h). Such a pool cannot grow: it is followed by another one.
 *
 * Where there is a region, the replica is a range of it. A pool that outgrows its range gets another
 * one; what has been made of the pool before stays in the old one, for which it keeps a use. That of a
 * dma-buf is there until CLOSED.
 */
struct memory {
	struct fdref ref;
	int fd;
	uint64_t size;              // that both sides have: of the file, at most wanted
	uint64_t wanted;            // that the protocol says they map; not kept up for a memfd
	struct mapping *mapping;    // NULL while nothing can be mapped
	struct region_range *range; // for what is new in it; NULL: the replica is no range
	unsigned int users;         // objects that refer to it; see memory_release
	bool is_dmabuf;             // dmabuf.h
	bool lasting;               // nobody can truncate it: it may be touched from here
	// Both sides have the same pages: what is written to them is there at once, so nothing is pushed.
	bool shared;
	// The opener's, of a pool whose pages are pinned until it is gone (pages.h); NULL: they are not.
	struct page_pinner *pinner;
	int pinned;
};

// Opens a pool for fd, which is taken also on failure. size is what the protocol says that both
// sides will map: a file that is longer is cut to it in the replica, one that is shorter stays so.
// One use is the caller's. NULL with *wrong set on failure.
struct memory *memory_export(struct fdrefs *refs, int fd, uint64_t size, const char **wrong);
// The same for a file whose owner exchanges its pages: it does not go by them.
struct memory *memory_export_changing(
	struct fdrefs *refs, int fd, uint64_t size, const char **wrong);
// For fdrefs_frame: OPEN of a pool.
const char *memory_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

// NULL if id is not the fdref of a pool, or of one that was closed and that nobody uses.
struct memory *memory_get(const struct fdrefs *refs, uint32_t id);
struct memory *memory_use(struct memory *memory);
// Gives up one use. When the opener has none left, the memory is closed; when the importer has none
// left and the opener has closed it, this is confirmed.
void memory_release(struct memory *memory);

// The opener's file is now looked at as being size bytes long; the replica follows before any later
// message. A pool only grows; a file that its owner has truncated makes a replica of that size. False: it cannot
// be mapped, or the region has no room for what is there.
// Not for one that is shared.
bool memory_resize(struct memory *memory, uint64_t size);
// Before bytes are read for a message: looks whether the file is still as long as it was, and makes the
// replica follow if it is not.
bool memory_check(struct memory *memory);

// Whether devices are still writing to the memory (a dma-buf with a fence): its bytes are not to be read
// yet. fdrefs_retry is called when to ask again. Never for long: a fence signals within finite time,
// which its driver sees to.
bool memory_must_wait(struct memory *memory);
// Whether devices here still use memory that both sides have the same pages of: the other side is not to
// be told yet that it may write there. The rest as above.
bool memory_is_in_use(struct memory *memory);

// Makes the other side's rows equal to ours. offset + rows must lie in the memory; what does not
// is left out. range is the one that the pool had when what is pushed was made of it; may be NULL. A dma-buf
// always has the same. Of one that is shared it is only counted.
bool memory_push(struct memory *memory, struct region_range *range, uint64_t offset, size_t stride,
	size_t row_bytes, size_t rows);

#endif
