#ifndef EXAMPLES_MOJO_REGION_H
#define EXAMPLES_MOJO_REGION_H

#include <stddef.h>
#include <stdint.h>

/**
 * Shared memory regions that their receiver may only read, as Chromium makes them: one fd, which
 * has to be O_RDONLY.
 */
enum region_flavour {
	REGION_MEMFD, // 2026: a memfd, sealed against shrinking, growing and further seals
	REGION_SHM,   // before: an unlinked file on /dev/shm
};
#define REGION_FLAVOURS 2

// An O_RDONLY, CLOEXEC fd of a region whose bytes are the pattern of seed; -errno on failure.
int region_create(enum region_flavour flavour, size_t size, uint64_t seed);
// NULL, or what the receiver of such a region has to complain of. Adds its bytes to *hash. fd stays
// the caller's.
const char *region_check(
	int fd, enum region_flavour flavour, size_t size, uint64_t seed, uint64_t *hash);

#endif
