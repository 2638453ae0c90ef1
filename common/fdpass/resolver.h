#ifndef FDPASS_RESOLVER_H
#define FDPASS_RESOLVER_H

#include <stdint.h>

struct mapping;

/**
 * Where the importer of a dma-buf gets one of its own from, which compositors can import. What the
 * other side says of a buffer is all that it goes by, and none of it is trusted.
 */

struct resolver_buffer {
	int fd;                  // the dma-buf: CLOEXEC, for reading and writing
	struct mapping *mapping; // of its bytes, writable
	uint64_t size;           // of the dma-buf: what was asked for, in whole pages
};

struct resolver {
	const struct resolver_interface *interface;
};

struct resolver_interface {
	const char *name; // "copy"
	// Makes a buffer for at least size bytes, which is not 0 and has been charged: all zeros. It is the
	// caller's: fd and one reference to mapping. 0 or -errno, which has been logged.
	int (*make)(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer);
	void (*destroy)(struct resolver *resolver);
};

// Buffers that rows are copied into: pages of ours behind /dev/udmabuf, else of /dev/dma_heap/system.
// The devices are opened now, as they cannot be later in a sandbox. NULL with errno: there is neither.
struct resolver *resolver_create_copy(void);

void resolver_destroy(struct resolver *resolver); // NULL is fine

#endif
