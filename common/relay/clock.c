#include "relay/clock.h"

#define SECOND 1000000000

// A sample is replaced by a worse one when it is older than this: clocks drift apart.
#define BELIEVED_FOR (60ull * SECOND)

void relay_clock_sample(struct relay_clock *clock, uint64_t asked, uint64_t received, uint64_t sent,
	uint64_t answered)
{
	if (clock->same || answered < asked || sent < received ||
		sent - received > answered - asked) {
		return;
	}
	uint64_t round_trip = (answered - asked) - (sent - received);
	bool old = clock->taken == 0 || answered - clock->taken > BELIEVED_FOR;
	if (!old && round_trip > clock->round_trip) {
		return;
	}
	// Our middle of the way less theirs; wrapping subtraction keeps large uptimes right.
	int64_t out = (int64_t)(asked - received);
	int64_t back = (int64_t)(answered - sent);
	int64_t offset = out / 2 + back / 2;
	if (offset == INT64_MIN) {
		return; // no clocks differ so much, and there is no time the other way
	}
	clock->offset = offset;
	clock->round_trip = round_trip;
	clock->taken = answered;
}

void relay_clock_shift(uint32_t *sec_hi, uint32_t *sec_lo, uint32_t *nsec, int64_t offset)
{
	uint64_t seconds = (uint64_t)*sec_hi << 32 | *sec_lo;
	if (offset == 0 || *nsec >= SECOND || seconds > INT64_MAX / SECOND - 1) {
		return;
	}
	int64_t time;
	if (__builtin_add_overflow((int64_t)(seconds * SECOND + *nsec), offset, &time) ||
		time < 0) {
		return;
	}
	seconds = (uint64_t)time / SECOND;
	*sec_hi = (uint32_t)(seconds >> 32);
	*sec_lo = (uint32_t)seconds;
	*nsec = (uint32_t)((uint64_t)time % SECOND);
}
