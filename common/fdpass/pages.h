#ifndef FDPASS_PAGES_H
#define FDPASS_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct channel_frame;
struct channel_open_memory;
struct channel_page_range;
struct fd_identity;
struct fdref;
struct fdrefs;
struct memory;
struct wl_array;

/**
 * Pools that cross by their pages. The guest keeps the pages of its client's file where they are and
 * says where in the guest's memory that is; the host, which has the memory of the whole guest, makes a
 * dma-buf of just these, and gives it to its local peer as the pool. Both have the same bytes then, and
 * nothing is pushed. The pages stay where they are until the local peer has let the dma-buf go.
 */

// The guest's.
struct page_pinner {
	const struct page_pinner_interface *interface;
};

struct page_pinner_interface {
	// Keeps the pages of the first size bytes of fd, which is borrowed and for reading and writing, whatever
	// its owner does with the file. Appends to ranges, which has whole struct channel_page_range behind
	// what else is in it, where they are. Returns what unpin needs, or -errno: then ranges is to be forgotten.
	int (*pin)(struct page_pinner *pinner, int fd, uint64_t size, struct wl_array *ranges);
	void (*unpin)(struct page_pinner *pinner, int pinned);
	// Whether the file still has all the pages that were pinned. It may seem to have lost some while the
	// kernel tries to move them, or once it has tried to swap them out.
	bool (*holds)(struct page_pinner *pinner, int pinned);
	void (*destroy)(struct page_pinner *pinner);
};

// The host's.
struct page_buffers {
	const struct page_buffers_interface *interface;
	unsigned int kept; // references to each buffer that stay until ours is gone
};

struct page_buffers_interface {
	// A dma-buf of the ranges, which are whole pages: the caller's, CLOEXEC. -1, and *wrong says why.
	int (*make)(struct page_buffers *buffers, const struct channel_page_range *ranges, size_t n,
		const char **wrong);
	// Nobody here has that one any more, nor the local peer, as far as can be told.
	void (*let_go)(struct page_buffers *buffers, const struct fd_identity *identity);
	void (*destroy)(struct page_buffers *buffers);
};

void page_pinner_destroy(struct page_pinner *pinner);    // NULL is fine
void page_buffers_destroy(struct page_buffers *buffers); // NULL is fine

// The opener: pins the size bytes of the pool's file and appends its ranges. False: it goes another way,
// and ranges is as it was.
bool pages_pin(struct fdrefs *refs, struct memory *memory, uint64_t size, struct wl_array *ranges);
void pages_unpin(struct memory *memory);
// The opener: whether the owner of a shared pool's file has exchanged pages of it since they were pinned,
// as by punching a hole or truncating.
bool pages_are_exchanged(const struct memory *memory);
// The importer: OPEN of a pool, which ranges follow in frame.
const char *pages_import(struct fdrefs *refs, const struct channel_frame *frame,
	const struct channel_open_memory *open, struct fdref **ref);
// The opener has closed such a pool and nobody here uses it: confirms that when the local peer has let it go.
void pages_let_go(struct memory *memory);

#endif
