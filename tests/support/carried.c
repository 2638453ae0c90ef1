#include "tests/support/carried.h"

#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "relay/session.h"
#include "relay/stats.h"

#define QUIET_TURNS  6 // enough for what one thing causes at the other end, and back
#define HANG_SECONDS 90
#define BUSY_TURNS   2000 // after so many the loop lets others have the processor

void carried_init(struct carried *carried, const struct pair_options *options)
{
	struct pair_options with_service = options != NULL ? *options : (struct pair_options){0};
	with_service.service = "test";
	carried->base = event_base_new();
	carried->host_base = event_base_new();
	if (carried->base == NULL || carried->host_base == NULL) {
		abort();
	}
	with_service.host_base = carried->host_base;
	pair_init(&carried->pair, carried->base, &with_service);
	carried->client = pair_take_client(&carried->pair);
	carried->service = pair_take_compositor(&carried->pair);
}

void carried_finish(struct carried *carried)
{
	carried_close(&carried->client);
	carried_close(&carried->service);
	pair_finish(&carried->pair);
	event_base_free(carried->base);
	event_base_free(carried->host_base);
}

void carried_turn_guest(struct carried *carried)
{
	event_base_loop(carried->base, EVLOOP_NONBLOCK);
}

void carried_turn_host(struct carried *carried)
{
	event_base_loop(carried->host_base, EVLOOP_NONBLOCK);
}

void carried_turn(struct carried *carried)
{
	carried_turn_guest(carried);
	carried_turn_host(carried);
}

static uint64_t moved(const struct carried *carried)
{
	const struct pair *pair = &carried->pair;
	uint64_t bytes = 0;
	if (pair->guest.session != NULL) {
		bytes += session_stats(pair->guest.session)->channel_bytes_received;
	}
	if (pair->host.session != NULL) {
		bytes += session_stats(pair->host.session)->channel_bytes_received;
	}
	return bytes;
}

void carried_settle(struct carried *carried)
{
	uint64_t last = UINT64_MAX;
	for (int quiet = 0; quiet < QUIET_TURNS; quiet++) {
		carried_turn(carried);
		uint64_t now = moved(carried);
		quiet = now == last ? quiet : 0;
		last = now;
	}
}

void carried_wait(struct carried *carried, bool (*done)(void *data), void *data)
{
	time_t deadline = time(NULL) + HANG_SECONDS;
	for (size_t turns = 0; !done(data); turns++) {
		carried_turn(carried);
		if (turns > BUSY_TURNS) {
			usleep(1000);
		}
		if (time(NULL) > deadline) {
			fail_msg("nothing has come of waiting");
		}
	}
}

static bool is_over(void *data)
{
	const struct pair *pair = data;
	return (pair->guest.session == NULL || pair->guest.over) &&
		(pair->host.session == NULL || pair->host.over);
}

void carried_wait_over(struct carried *carried)
{
	carried_wait(carried, is_over, &carried->pair);
}

void carried_leave(struct carried *carried)
{
	carried_close(&carried->client);
	carried_close(&carried->service);
	carried_wait_over(carried);
	assert_string_equal(carried->pair.guest.reason, "");
	assert_string_equal(carried->pair.host.reason, "");
}

void carried_close(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}
