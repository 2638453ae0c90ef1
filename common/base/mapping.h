#ifndef BASE_MAPPING_H
#define BASE_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * A mapping of a file, mostly from its start. It lives as long as somebody refers to it: a pool may
 * be gone or grown while its rows still wait to be sent.
 *
 * The memory may be truncated by its owner at any time. Hand it to system calls, which then fail
 * with EFAULT; do not touch it from here.
 */
struct mapping {
	unsigned int refs;
	bool writable;
	uint8_t *data;
	size_t size; // of the mapping; at least 1
};

// One reference is the caller's. NULL with errno on failure. fd stays the caller's.
struct mapping *mapping_create(int fd, size_t size, bool writable);
// Of a range that begins at a page's start; writable. As above.
struct mapping *mapping_create_range(int fd, uint64_t offset, size_t size);
// Of any file that can be read, also where a shared mapping cannot be had: a memfd that is sealed
// against writing before Linux 6.7, a file system that reads past the page cache. As above.
struct mapping *mapping_create_private(int fd, size_t size);
struct mapping *mapping_ref(struct mapping *mapping);
void mapping_unref(struct mapping *mapping); // NULL is fine

// Copies len bytes between two places that may vanish; false if one did.
bool mapping_copy(void *to, const void *from, size_t len);

#endif
