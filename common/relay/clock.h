#ifndef RELAY_CLOCK_H
#define RELAY_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/**
 * The difference between the two sides' CLOCK_MONOTONIC, from the four times of a question and its
 * answer, as NTP does it. The sample with the shortest way is believed for a while; on one and the
 * same kernel (equal boot ids) the difference is zero and no sample is believed.
 */
struct relay_clock {
	bool same;           // both sides read one clock
	int64_t offset;      // nanoseconds to add to the other side's time to get ours
	uint64_t round_trip; // of the sample that offset is from
	uint64_t taken;      // when, in our time; 0: no sample yet
};

// asked and answered are ours, received and sent the other side's; nanoseconds.
void relay_clock_sample(struct relay_clock *clock, uint64_t asked, uint64_t received, uint64_t sent,
	uint64_t answered);

// Time of a split "tv_sec_hi, tv_sec_lo, tv_nsec" as Wayland writes it, moved by offset in place.
// What would be negative or is no valid time is left alone.
void relay_clock_shift(uint32_t *sec_hi, uint32_t *sec_lo, uint32_t *nsec, int64_t offset);

#endif
