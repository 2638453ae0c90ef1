#ifndef EXAMPLES_MOJO_PATTERN_H
#define EXAMPLES_MOJO_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evbuffer;

/**
 * Numbers and bytes that follow from a seed, so that both ends know what has to come.
 */

// A number for each pair, evenly spread.
uint64_t pattern_number(uint64_t seed, uint64_t n);
// A number from min to max, both included.
uint32_t pattern_between(uint64_t seed, uint64_t n, uint32_t min, uint32_t max);
// A seed for each name.
uint64_t pattern_named(uint64_t seed, const char *name);

void pattern_fill(uint64_t seed, void *data, size_t size);
// The bytes from skip on, of a pattern that is longer. NULL on ENOMEM.
struct evbuffer *pattern_buffer(uint64_t seed, size_t skip, size_t size);
bool pattern_matches(uint64_t seed, const void *data, size_t size);

// Adds bytes to a hash; the first hash is 0.
uint64_t pattern_hash(uint64_t hash, const void *data, size_t size);

#endif
