#include "tests/bench/noise.h"

#include <string.h>

#define LANES     16 // so many that memory is the limit, not the arithmetic
#define SUM_LANES 4

static uint64_t scramble(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

void noise_fill(void *bytes, size_t size, uint64_t seed)
{
	uint64_t state[LANES];
	for (int lane = 0; lane < LANES; lane++) {
		state[lane] = scramble(seed * LANES + (uint64_t)lane) | 1;
	}
	char *to = bytes;
	for (size_t i = 0; i + sizeof(state) <= size; i += sizeof(state)) {
		for (int lane = 0; lane < LANES; lane++) {
			state[lane] ^= state[lane] << 13;
			state[lane] ^= state[lane] >> 7;
			state[lane] ^= state[lane] << 17;
		}
		memcpy(to + i, state, sizeof(state));
	}
}

uint64_t noise_sum(const void *bytes, size_t size)
{
	uint64_t sums[SUM_LANES] = {1, 2, 3, 4};
	const char *from = bytes;
	for (size_t i = 0; i + sizeof(sums) <= size; i += sizeof(sums)) {
		uint64_t words[SUM_LANES];
		memcpy(words, from + i, sizeof(words));
		for (int lane = 0; lane < SUM_LANES; lane++) {
			sums[lane] = (sums[lane] ^ words[lane]) * 0x100000001b3;
			sums[lane] ^= sums[lane] >> 29;
		}
	}
	uint64_t sum = 0;
	for (int lane = 0; lane < SUM_LANES; lane++) {
		sum = scramble(sum ^ sums[lane]);
	}
	return sum;
}
