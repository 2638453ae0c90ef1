#ifndef HOST_PROXY_RAM_BUFFER_H
#define HOST_PROXY_RAM_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct guest_memory;
struct wl_array;

/**
 * dma-bufs that are a guest's own pages: ranges of guest-physical addresses are looked up in its
 * memory, and udmabuf (linux/udmabuf.h) makes one buffer of them, in the order in which they are named.
 * Nothing is copied, so either side sees at once what the other writes. A buffer pins its pages, but
 * does not keep the guest from using them for something else.
 */

// Guest-physical, in bytes; whole pages.
struct ram_range {
	uint64_t address;
	uint64_t size;
};

struct ram_buffers {
	int device;          // /dev/udmabuf; -1: there is none
	uint32_t max_pieces; // udmabuf's list_limit
	uint64_t max_size;   // bytes, udmabuf's size_limit_mb
};

// Opens the device and reads its limits, as neither can be done in a sandbox. 0 or -errno.
int ram_buffers_open(struct ram_buffers *buffers);
void ram_buffers_close(struct ram_buffers *buffers); // also where it could not be opened

// NULL, or in one static phrase why udmabuf takes none of the memory's files: they have to be memfds, and
// sealed against shrinking.
const char *ram_buffers_check(const struct guest_memory *memory);

// Where in which files the ranges are: pieces becomes an array of struct udmabuf_create_item. Ranges are
// cut where a region of the memory ends; what follows each other in a file is one piece. NULL, or in one
// static phrase what is wrong. *size is the sum, in bytes.
const char *ram_buffer_find(const struct ram_buffers *buffers, const struct guest_memory *memory,
	const struct ram_range *ranges, size_t n, struct wl_array *pieces, uint64_t *size);

// A dma-buf of the ranges: the caller's, CLOEXEC, and *size its bytes. -1, and *wrong says in one static
// phrase why: also if the memory's files are not such as udmabuf takes (memfds, sealed against shrinking).
int ram_buffer_create(const struct ram_buffers *buffers, const struct guest_memory *memory,
	const struct ram_range *ranges, size_t n, uint64_t *size, const char **wrong);

#endif
