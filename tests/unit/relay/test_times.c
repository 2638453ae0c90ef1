#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "relay/hooks.h"
#include "tests/support/fd_count.h"

#define SECOND 1000000000

static struct relay_clock relay_clock;
static struct wayland wayland;
static uint32_t words[3];

static int setup(void **state)
{
	relay_clock = (struct relay_clock){.offset = 5ll * SECOND + 7};
	wayland =
		(struct wayland){.options = {.clock = &relay_clock}, .host_clock = CLOCK_MONOTONIC};
	words[0] = 0;
	words[1] = 100;
	words[2] = 200;
	return fd_count_setup(state);
}

static enum wayland_verdict call_hook(wayland_hook_func hook, enum wire_direction direction)
{
	struct wayland_call call = {.wayland = &wayland, .direction = direction};
	for (size_t i = 0; i < 3; i++) {
		call.message.args[i] = (struct wire_arg){.word = &words[i], .value = words[i]};
	}
	return hook(&call);
}

static void assert_words(uint32_t hi, uint32_t lo, uint32_t nsec)
{
	assert_int_equal(words[0], hi);
	assert_int_equal(words[1], lo);
	assert_int_equal(words[2], nsec);
}

static void an_event_is_moved_to_the_clients_clock(void **state)
{
	(void)state;
	assert_int_equal(call_hook(times_export, WIRE_EVENT), WAYLAND_FORWARD);
	assert_words(0, 100, 200);
	assert_int_equal(call_hook(times_import, WIRE_EVENT), WAYLAND_FORWARD);
	assert_words(0, 105, 207);
}

static void a_request_is_moved_the_other_way(void **state)
{
	(void)state;
	assert_int_equal(call_hook(times_export, WIRE_REQUEST), WAYLAND_FORWARD);
	assert_words(0, 95, 193);
	assert_int_equal(call_hook(times_import, WIRE_REQUEST), WAYLAND_FORWARD);
	assert_words(0, 95, 193);
}

static void what_is_no_time_is_left_alone(void **state)
{
	(void)state;
	words[2] = SECOND;
	call_hook(times_import, WIRE_EVENT);
	assert_words(0, 100, SECOND);
	words[0] = UINT32_MAX;
	words[1] = UINT32_MAX;
	words[2] = 0;
	call_hook(times_import, WIRE_EVENT);
	assert_words(UINT32_MAX, UINT32_MAX, 0);
	words[0] = 0;
	words[1] = 1; // would be before zero
	call_hook(times_export, WIRE_REQUEST);
	assert_words(0, 1, 0);
}

static void another_clock_of_the_host_is_told_as_monotonic(void **state)
{
	(void)state;
	words[0] = CLOCK_REALTIME;
	assert_int_equal(call_hook(times_export_clock_id, WIRE_EVENT), WAYLAND_FORWARD);
	assert_int_equal(words[0], CLOCK_MONOTONIC);
	assert_int_equal(wayland.host_clock, CLOCK_REALTIME);
}

static void a_clock_that_there_is_not_is_left_alone(void **state)
{
	(void)state;
	const uint32_t ids[] = {12345, 0x7fffffff};
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		words[0] = ids[i];
		assert_int_equal(call_hook(times_export_clock_id, WIRE_EVENT), WAYLAND_FORWARD);
		assert_int_equal(words[0], ids[i]);
		assert_int_equal(wayland.host_clock, CLOCK_MONOTONIC);
	}
}

static void a_time_of_another_clock_lies_in_monotonic_then(void **state)
{
	(void)state;
	wayland.host_clock = CLOCK_REALTIME;
	struct timespec before, real, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	clock_gettime(CLOCK_REALTIME, &real);
	words[0] = (uint32_t)((uint64_t)real.tv_sec >> 32);
	words[1] = (uint32_t)real.tv_sec;
	words[2] = (uint32_t)real.tv_nsec;
	call_hook(times_export, WIRE_EVENT);
	clock_gettime(CLOCK_MONOTONIC, &after);
	int64_t told = (int64_t)((uint64_t)words[0] << 32 | words[1]);
	// The hook reads one clock after the other.
	int64_t slack = after.tv_sec - before.tv_sec + 1;
	assert_true(told >= before.tv_sec - slack && told <= after.tv_sec + slack);
}

int main(void)
{
#define times_test(name) cmocka_unit_test_setup_teardown(name, setup, fd_count_teardown)
	const struct CMUnitTest tests[] = {
		times_test(an_event_is_moved_to_the_clients_clock),
		times_test(a_request_is_moved_the_other_way),
		times_test(what_is_no_time_is_left_alone),
		times_test(another_clock_of_the_host_is_told_as_monotonic),
		times_test(a_clock_that_there_is_not_is_left_alone),
		times_test(a_time_of_another_clock_lies_in_monotonic_then),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
