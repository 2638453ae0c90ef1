#ifndef BASE_RATE_H
#define BASE_RATE_H

#include <stdbool.h>
#include <stdint.h>

/**
 * How often something may happen: so often per second, and a burst of it at once beyond that.
 */
struct rate {
	uint64_t per_second; // at least 1
	uint64_t burst;      // at least 1
};

// It happens n times now (CLOCK_MONOTONIC, nanoseconds). *until is what has to be kept of it, 0 at first;
// several processes may share it. False: that is too often, and *until is as before.
bool rate_take(_Atomic uint64_t *until, const struct rate *rate, uint64_t n, uint64_t now);
// The same, but it has happened already: how many nanoseconds must pass until that is not too often.
uint64_t rate_add(_Atomic uint64_t *until, const struct rate *rate, uint64_t n, uint64_t now);

#endif
