#ifndef TESTS_BENCH_NOISE_H
#define TESTS_BENCH_NOISE_H

#include <stddef.h>
#include <stdint.h>

// Writes size bytes that the seed alone decides and that do not compress. Bytes past the last
// multiple of 32 are left as they are.
void noise_fill(void *bytes, size_t size, uint64_t seed);

// Checksum of size bytes; fast enough to check whole frames, not meant against an adversary. Bytes
// past the last multiple of 32 do not count.
uint64_t noise_sum(const void *bytes, size_t size);

#endif
