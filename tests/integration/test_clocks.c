#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "commit-timing-client.h"
#include "presentation-time-client.h"
#include "presentation-time-server.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/world.h"

#define SECOND 1000000000ll
#define DAY    (86400 * SECOND)
#define NEAR   (60 * SECOND) // a slow machine's round trip

struct times {
	clockid_t clock; // of the compositor
	uint32_t told;   // clock_id
	int64_t shown;   // what the compositor said
	int64_t seen;    // what the client was told
	int64_t wished;  // what reached the compositor
	bool presented;
};

static int64_t join(uint32_t hi, uint32_t lo, uint32_t nsec)
{
	return (int64_t)((uint64_t)hi << 32 | lo) * SECOND + nsec;
}

static int64_t now(clockid_t clock)
{
	struct timespec time;
	assert_int_equal(clock_gettime(clock, &time), 0);
	return time.tv_sec * SECOND + time.tv_nsec;
}

static void send_clock(void *data, struct wl_resource *presentation)
{
	wp_presentation_send_clock_id(presentation, (uint32_t)((struct times *)data)->clock);
}

static void present(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	struct times *times = data;
	struct wl_resource *feedback = compositor_made(resource, &args[1]);
	times->shown = now(times->clock);
	uint64_t seconds = (uint64_t)(times->shown / SECOND);
	wp_presentation_feedback_send_presented(feedback, (uint32_t)(seconds >> 32),
		(uint32_t)seconds, (uint32_t)(times->shown % SECOND), 16666666, 0, 1, 0);
	wl_resource_destroy(feedback);
}

static void take_timestamp(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	((struct times *)data)->wished = join(args[0].u, args[1].u, args[2].u);
}

static void handle_clock_id(void *data, struct wp_presentation *presentation, uint32_t id)
{
	(void)presentation;
	((struct times *)data)->told = id;
}

static const struct wp_presentation_listener presentation_listener = {
	.clock_id = handle_clock_id,
};

static void handle_sync_output(
	void *data, struct wp_presentation_feedback *feedback, struct wl_output *output)
{
	(void)data;
	(void)feedback;
	(void)output;
}

static void handle_presented(void *data, struct wp_presentation_feedback *feedback, uint32_t hi,
	uint32_t lo, uint32_t nsec, uint32_t refresh, uint32_t seq_hi, uint32_t seq_lo,
	uint32_t flags)
{
	(void)feedback;
	struct times *times = data;
	times->seen = join(hi, lo, nsec);
	times->presented = true;
	assert_int_equal(refresh, 16666666);
	assert_int_equal(seq_hi, 0);
	assert_int_equal(seq_lo, 1);
	assert_int_equal(flags, 0);
}

static void handle_discarded(void *data, struct wp_presentation_feedback *feedback)
{
	(void)data;
	(void)feedback;
}

static const struct wp_presentation_feedback_listener feedback_listener = {
	.sync_output = handle_sync_output,
	.presented = handle_presented,
	.discarded = handle_discarded,
};

static void watch_frame(struct times *times, int64_t ahead, int64_t wish)
{
	const struct pair_options options = {.clock = ahead};
	struct world *world = world_create();
	struct compositor *mock = world->compositor;
	compositor_add_bound_global(mock, &wp_presentation_interface, 1, send_clock, times);
	compositor_add_global(mock, &wp_commit_timing_manager_v1_interface, 1);
	compositor_hook(mock, "wp_presentation", "feedback", present, times);
	compositor_hook(mock, "wp_commit_timer_v1", "set_timestamp", take_timestamp, times);
	struct client *client = client_create(world, &options);
	struct wl_compositor *compositor = client_bind(client, &wl_compositor_interface, 4);
	struct wp_presentation *presentation = client_bind(client, &wp_presentation_interface, 1);
	wp_presentation_add_listener(presentation, &presentation_listener, times);
	struct wp_commit_timing_manager_v1 *timing =
		client_bind(client, &wp_commit_timing_manager_v1_interface, 1);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	client_roundtrip(client);

	struct wp_presentation_feedback *feedback = wp_presentation_feedback(presentation, surface);
	wp_presentation_feedback_add_listener(feedback, &feedback_listener, times);
	struct wp_commit_timer_v1 *timer = wp_commit_timing_manager_v1_get_timer(timing, surface);
	uint64_t seconds = (uint64_t)(wish / SECOND);
	wp_commit_timer_v1_set_timestamp(
		timer, (uint32_t)(seconds >> 32), (uint32_t)seconds, (uint32_t)(wish % SECOND));
	client_roundtrip(client);
	assert_true(times->presented);

	wp_commit_timer_v1_destroy(timer);
	wp_presentation_feedback_destroy(feedback);
	wl_surface_destroy(surface);
	wp_commit_timing_manager_v1_destroy(timing);
	wp_presentation_destroy(presentation);
	wl_compositor_destroy(compositor);
	world_destroy(world);
}

static void on_one_kernel_times_are_not_touched(void **state)
{
	(void)state;
	struct times times = {.clock = CLOCK_MONOTONIC};
	int64_t wish = now(CLOCK_MONOTONIC) + 12345;
	watch_frame(&times, 0, wish);
	assert_int_equal(times.told, CLOCK_MONOTONIC);
	assert_int_equal(times.seen, times.shown);
	assert_int_equal(times.wished, wish);
}

static void expect_moved(int64_t ahead)
{
	struct times times = {.clock = CLOCK_MONOTONIC};
	int64_t wish = now(CLOCK_MONOTONIC) + 2 * llabs(ahead);
	watch_frame(&times, ahead, wish);
	// The compositor of this test shows the guest's own time, which the host's is taken for.
	int64_t expected = times.shown - ahead;
	assert_true(llabs(times.seen - expected) < NEAR);
	assert_true(llabs(times.wished - (wish + ahead)) < NEAR);
}

static void times_are_moved_by_the_difference_of_the_clocks(void **state)
{
	(void)state;
	expect_moved(-DAY);
	expect_moved(-1000 * DAY);
	if (now(CLOCK_MONOTONIC) > 2 * NEAR) {
		expect_moved(NEAR + SECOND);
	}
}

static void another_clock_is_told_as_the_monotonic_one(void **state)
{
	(void)state;
	struct times times = {.clock = CLOCK_REALTIME};
	int64_t wish = now(CLOCK_MONOTONIC) + SECOND;
	watch_frame(&times, 0, wish);
	assert_int_equal(times.told, CLOCK_MONOTONIC);
	assert_true(llabs(times.seen - now(CLOCK_MONOTONIC)) < NEAR);
	assert_true(llabs(times.wished - now(CLOCK_REALTIME)) < NEAR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(on_one_kernel_times_are_not_touched),
		fd_count_test(times_are_moved_by_the_difference_of_the_clocks),
		fd_count_test(another_clock_is_told_as_the_monotonic_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
