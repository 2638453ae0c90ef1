#ifndef TESTS_FUZZ_STAND_INS_H
#define TESTS_FUZZ_STAND_INS_H

#include <stdint.h>

/**
 * What stands for things of the kernel's that a machine may not have, and for time, in targets that are
 * linked with all of this (meson.build): what waits for less than a second has waited long enough by the
 * next turn of the loop, so that an input does the same on every machine.
 */

// A memfd that is taken for a dma-buf, of whole pages, at least size bytes. The caller's, CLOEXEC.
int stand_in_buffer(uint64_t size);
// An eventfd that is taken for a sync_file; once it is written to, it has signalled. The caller's, CLOEXEC.
int stand_in_fence(void);
// How many have each dma-buf from now on, as fdinfo tells; 0: it does not tell.
void stand_in_count(uint64_t count);

#endif
