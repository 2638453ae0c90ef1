#ifndef TESTS_SUPPORT_PAGES_H
#define TESTS_SUPPORT_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "fdpass/pages.h"

/**
 * A guest whose pages are wherever it says, and a host that has its memory: what the one pins, the other
 * makes a buffer of, which is the client's file once more.
 */
struct page_world {
	struct page_pinner pinner;
	struct page_buffers buffers;
	struct wl_list files; // that are pinned
	uint64_t next;        // address
	size_t pinned;        // now
	size_t made, let_go;  // ever
	size_t ranges;        // that a file is said to be in; 0: one
	bool refuses;         // to pin
	bool fails;           // to make
};

// Embedded; both destroy functions do nothing.
void page_world_init(struct page_world *world);
void page_world_finish(struct page_world *world); // nothing is pinned any more, nor kept

#endif
