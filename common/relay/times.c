#include <time.h>

#include "relay/hooks.h"

/*
 * Times in the host's CLOCK_MONOTONIC are told to the guest's client in the guest's. Both
 * translations are done where the messages meet the client: events that are imported, requests that
 * are exported. A compositor with another presentation clock has its times moved to CLOCK_MONOTONIC
 * where they are exported.
 *
 * Every message here begins with "tv_sec_hi, tv_sec_lo, tv_nsec".
 */

static void shift(struct wayland_call *call, int64_t offset)
{
	struct wire_arg *args = call->message.args;
	relay_clock_shift(args[0].word, args[1].word, args[2].word, offset);
}

static int64_t read_clock(clockid_t id)
{
	struct timespec now = {0};
	clock_gettime(id, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* wp_presentation.clock_id(clk_id) */
enum wayland_verdict times_export_clock_id(struct wayland_call *call)
{
	struct timespec now;
	uint32_t id = call->message.args[0].value;
	if (clock_gettime((clockid_t)id, &now) == 0) {
		call->wayland->host_clock = (int)id;
		*call->message.args[0].word = CLOCK_MONOTONIC;
	}
	return WAYLAND_FORWARD;
}

enum wayland_verdict times_export(struct wayland_call *call)
{
	if (call->direction == WIRE_REQUEST) {
		shift(call, -call->wayland->options.clock->offset);
	} else if (call->wayland->host_clock != CLOCK_MONOTONIC) {
		shift(call, read_clock(CLOCK_MONOTONIC) - read_clock(call->wayland->host_clock));
	}
	return WAYLAND_FORWARD;
}

enum wayland_verdict times_import(struct wayland_call *call)
{
	if (call->direction == WIRE_EVENT) {
		shift(call, call->wayland->options.clock->offset);
	} else if (call->wayland->host_clock != CLOCK_MONOTONIC) {
		shift(call, read_clock(call->wayland->host_clock) - read_clock(CLOCK_MONOTONIC));
	}
	return WAYLAND_FORWARD;
}
