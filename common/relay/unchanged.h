#ifndef RELAY_UNCHANGED_H
#define RELAY_UNCHANGED_H

#include <pixman.h>
#include <stdbool.h>
#include <stdint.h>

struct buffer;

/**
 * Finds what of a damaged buffer has really changed. Many programs damage everything and change
 * little; a hash of each piece of a row says so at the price of one read, where comparing with a
 * copy would cost the memory of that copy and two reads.
 *
 * A buffer in which most changes is not hashed for a while: that would be for nothing.
 */
struct unchanged {
	uint64_t (
		*hashes)[2]; // rows * columns of what the copy on the other side has; 0: not known
	uint32_t columns;    // pieces in a row
	uint32_t pause;      // pushes without hashing that are left
	uint32_t last_pause;
	bool known; // hashes are those of an earlier push
};

void unchanged_finish(struct unchanged *unchanged);
// The copy on the other side was or will be changed by somebody else, all over or in region.
void unchanged_forget(struct unchanged *unchanged);
void unchanged_forget_region(struct buffer *buffer, pixman_region32_t *region);

// As buffer_push_region, less what is known to be the same.
bool unchanged_push(struct buffer *buffer, pixman_region32_t *region);

#endif
