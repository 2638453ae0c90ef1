#include "relay/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define SECOND 1000000000ull
#define HALF   (UINT64_C(1) << 63)

static void a_sample_gives_the_difference_in_the_middle_of_the_way(void **state)
{
	(void)state;
	// 100 there and 100 back, 50 in between; the other side is 10,000 ahead
	struct relay_clock clock = {0};
	relay_clock_sample(&clock, 1000, 11100, 11150, 1250);
	assert_int_equal(clock.offset, -10000);
	assert_int_equal(clock.round_trip, 200);
	// and behind
	clock = (struct relay_clock){0};
	relay_clock_sample(&clock, 100000, 90100, 90150, 100250);
	assert_int_equal(clock.offset, 10000);
}

static void a_clock_of_long_uptime_is_compared_with_a_fresh_one(void **state)
{
	(void)state;
	struct relay_clock clock = {0};
	const uint64_t ahead = 4000ull * 86400 * SECOND;
	relay_clock_sample(&clock, 1000, ahead + 1100, ahead + 1150, 1250);
	assert_true(clock.offset == -(int64_t)ahead);
}

static void the_shortest_way_is_believed(void **state)
{
	(void)state;
	struct relay_clock clock = {0};
	relay_clock_sample(&clock, 1000, 11100, 11150, 1250);
	relay_clock_sample(&clock, 2000, 12500, 12550, 2550); // longer, on one way
	assert_int_equal(clock.offset, -10000);
	relay_clock_sample(&clock, 3000, 13060, 13070, 3100);
	assert_int_equal(clock.offset, -10015);
	assert_int_equal(clock.round_trip, 90);
}

static void an_old_sample_makes_way_for_a_worse_one(void **state)
{
	(void)state;
	struct relay_clock clock = {0};
	relay_clock_sample(&clock, 1000, 1100, 1150, 1250);
	uint64_t later = 1250 + 60 * SECOND;
	relay_clock_sample(&clock, later - 1000, later - 200, later - 100, later);
	assert_int_equal(clock.round_trip, 200);
	later++;
	relay_clock_sample(&clock, later - 1000, later - 200, later - 100, later);
	assert_int_equal(clock.round_trip, 900);
}

static void samples_that_cannot_be_are_ignored(void **state)
{
	(void)state;
	static const uint64_t samples[][4] = {
		{1000, 5, 6, 999},    // answered before it was asked
		{1000, 6, 5, 1100},   // sent before it was received
		{1000, 0, 101, 1100}, // longer there than the whole way
		{1000, 0, UINT64_MAX, 1100},
		{1000, HALF + 1000, HALF + 1100, 1100}, // would be INT64_MIN, which has no opposite
	};
	struct relay_clock clock = {0};
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
		relay_clock_sample(
			&clock, samples[i][0], samples[i][1], samples[i][2], samples[i][3]);
		assert_int_equal(clock.taken, 0);
		assert_int_equal(clock.offset, 0);
	}
}

static void any_times_of_the_other_side_are_taken_without_harm(void **state)
{
	(void)state;
	static const uint64_t times[] = {0, 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
	for (size_t i = 0; i < 5; i++) {
		for (size_t j = 0; j < 5; j++) {
			struct relay_clock clock = {0};
			relay_clock_sample(&clock, 1000, times[i], times[j], 2000);
			relay_clock_sample(&clock, 0, times[i], times[j], UINT64_MAX);
		}
	}
}

static void on_one_kernel_nothing_is_believed(void **state)
{
	(void)state;
	struct relay_clock clock = {.same = true};
	relay_clock_sample(&clock, 1000, 11100, 11150, 1250);
	assert_int_equal(clock.offset, 0);
	assert_int_equal(clock.taken, 0);
}

static void expect_shift(
	uint64_t seconds, uint32_t nsec, int64_t offset, uint64_t new_seconds, uint32_t new_nsec)
{
	uint32_t hi = (uint32_t)(seconds >> 32), lo = (uint32_t)seconds;
	relay_clock_shift(&hi, &lo, &nsec, offset);
	assert_true(((uint64_t)hi << 32 | lo) == new_seconds);
	assert_int_equal(nsec, new_nsec);
}

static void times_are_moved_with_carry(void **state)
{
	(void)state;
	expect_shift(5, 7, 0, 5, 7);
	expect_shift(5, 999999999, 1, 6, 0);
	expect_shift(5, 0, -1, 4, 999999999);
	expect_shift(5, 500, 3 * (int64_t)SECOND + 600, 8, 1100);
	expect_shift(0xffffffff, 999999999, 1, 0x100000000, 0);
	expect_shift(0x100000000, 0, -1, 0xffffffff, 999999999);
	expect_shift(5, 0, -5 * (int64_t)SECOND, 0, 0);
}

static void times_that_cannot_be_moved_are_left_alone(void **state)
{
	(void)state;
	expect_shift(5, 0, -5 * (int64_t)SECOND - 1, 5, 0);
	expect_shift(5, 1000000000, 1, 5, 1000000000);
	expect_shift(5, UINT32_MAX, 1, 5, UINT32_MAX);
	expect_shift(UINT64_MAX, 0, 1, UINT64_MAX, 0);
	expect_shift(INT64_MAX / SECOND, 0, 1, INT64_MAX / SECOND, 0);
	expect_shift(INT64_MAX / SECOND - 1, 0, INT64_MAX, INT64_MAX / SECOND - 1, 0);
	expect_shift(0, 0, INT64_MIN, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_sample_gives_the_difference_in_the_middle_of_the_way),
		fd_count_test(a_clock_of_long_uptime_is_compared_with_a_fresh_one),
		fd_count_test(the_shortest_way_is_believed),
		fd_count_test(an_old_sample_makes_way_for_a_worse_one),
		fd_count_test(samples_that_cannot_be_are_ignored),
		fd_count_test(any_times_of_the_other_side_are_taken_without_harm),
		fd_count_test(on_one_kernel_nothing_is_believed),
		fd_count_test(times_are_moved_with_carry),
		fd_count_test(times_that_cannot_be_moved_are_left_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
