#ifndef HOST_PROXY_GUEST_MEMORY_H
#define HOST_PROXY_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The memory of a virtual machine, as its VMM describes it: ranges of guest-physical addresses, each
 * a part of a file. The files are the VMM's, which may truncate them at any time: payload is moved by
 * system calls, which then fail with EFAULT. Only rings and packet headers are touched from here.
 * Other processes may be given the files, but not to write to them.
 */

#define GUEST_MEMORY_MAX  32   // regions
#define GUEST_MEMORY_MODE 0400 // that a memfd gets, so that nobody opens it for writing again

// A region in a vhost-user message (docs/interop/vhost-user.rst, "A memory region").
struct guest_range {
	uint64_t address; // guest-physical
	uint64_t size;
	uint64_t user_address; // the VMM's own, in which it says where rings are
	uint64_t offset;       // in the file
};

struct guest_region {
	struct guest_range range;
	uint8_t *data; // of the first byte
	void *map;
	size_t map_size;
	int fd; // of the file, read-only; -1: it cannot be had
};

struct guest_memory {
	uint32_t version; // not 0; changes with the regions
	size_t count;
	struct guest_region regions[GUEST_MEMORY_MAX];
};

void guest_memory_init(struct guest_memory *memory);
void guest_memory_finish(struct guest_memory *memory);

// Takes fd. NULL, or in one static phrase what is wrong: it overlaps another one, goes beyond the file
// or cannot be mapped.
const char *guest_memory_add(struct guest_memory *memory, const struct guest_range *range, int fd);
const char *guest_memory_remove(struct guest_memory *memory, const struct guest_range *range);

// In bytes.
uint64_t guest_memory_size(const struct guest_memory *memory);
// The region that a guest-physical address is in; NULL if it is no memory. Until the regions change.
const struct guest_region *guest_memory_find(const struct guest_memory *memory, uint64_t address);
// Where a guest-physical address is, and in *len how much of *len bytes (> 0) lie there in one piece.
// NULL if the address is no memory.
uint8_t *guest_memory_at(const struct guest_memory *memory, uint64_t address, size_t *len);
// Which of the files that can be had, and where in it, an address that one of these functions gave is.
// False: its file cannot be had.
bool guest_memory_locate(
	const struct guest_memory *memory, const void *data, uint32_t *file, uint64_t *offset);
// Where len bytes at one of the VMM's own addresses are; NULL unless all are in one region.
uint8_t *guest_memory_at_user(const struct guest_memory *memory, uint64_t user_address, size_t len);

#endif
