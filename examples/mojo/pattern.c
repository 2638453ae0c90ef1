#include "examples/mojo/pattern.h"

#include <endian.h>
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* SplitMix64 (Steele, Lea and Flood, 2014). */
uint64_t pattern_number(uint64_t seed, uint64_t n)
{
	uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint32_t pattern_between(uint64_t seed, uint64_t n, uint32_t min, uint32_t max)
{
	return min + (uint32_t)(pattern_number(seed, n) % ((uint64_t)max - min + 1));
}

uint64_t pattern_named(uint64_t seed, const char *name)
{
	return pattern_number(seed, XXH64(name, strlen(name), 0));
}

static uint64_t word_at(uint64_t seed, size_t at)
{
	return htole64(pattern_number(seed, at));
}

void pattern_fill(uint64_t seed, void *data, size_t size)
{
	uint8_t *bytes = data;
	for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
		uint64_t word = word_at(seed, at);
		memcpy(bytes + at, &word, size - at < sizeof(word) ? size - at : sizeof(word));
	}
}

struct evbuffer *pattern_buffer(uint64_t seed, size_t skip, size_t size)
{
	struct evbuffer *buffer = evbuffer_new();
	uint8_t *bytes = malloc(skip + size);
	if (buffer != NULL && bytes != NULL) {
		pattern_fill(seed, bytes, skip + size);
		if (evbuffer_add(buffer, bytes + skip, size) == 0) {
			free(bytes);
			return buffer;
		}
	}
	free(bytes);
	if (buffer != NULL) {
		evbuffer_free(buffer);
	}
	return NULL;
}

bool pattern_matches(uint64_t seed, const void *data, size_t size)
{
	const uint8_t *bytes = data;
	for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
		uint64_t word = word_at(seed, at);
		size_t n = size - at < sizeof(word) ? size - at : sizeof(word);
		if (memcmp(bytes + at, &word, n) != 0) {
			return false;
		}
	}
	return true;
}

uint64_t pattern_hash(uint64_t hash, const void *data, size_t size)
{
	return XXH64(data, size, hash);
}
