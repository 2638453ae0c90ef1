#include "base/rate.h"

#include <stdatomic.h>

#define SECOND 1000000000u // nanoseconds

/*
 * The time at which all that has happened would have happened at the limit's rate: it may be ahead of
 * ours by as long as the burst takes. One number, so that several processes can share it.
 */
bool rate_take(_Atomic uint64_t *until, const struct rate *rate, uint64_t n, uint64_t now)
{
	if (n > rate->burst) {
		return false; // and its product would overflow
	}
	uint64_t old = *until, next;
	uint64_t latest = now + rate->burst * SECOND / rate->per_second;
	do {
		next = (old > now ? old : now) + n * SECOND / rate->per_second;
		if (next > latest) {
			return false;
		}
	} while (!atomic_compare_exchange_weak(until, &old, next));
	return true;
}

uint64_t rate_add(_Atomic uint64_t *until, const struct rate *rate, uint64_t n, uint64_t now)
{
	uint64_t old = *until, next;
	do {
		next = (old > now ? old : now) + n * SECOND / rate->per_second;
	} while (!atomic_compare_exchange_weak(until, &old, next));
	uint64_t latest = now + rate->burst * SECOND / rate->per_second;
	return next > latest ? next - latest : 0;
}
