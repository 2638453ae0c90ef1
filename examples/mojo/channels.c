#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "examples/mojo/handle.h"
#include "examples/mojo/scenario.h"
#include "examples/mojo/traffic.h"

/**
 * Cases with one new channel: bootstrap, which is invited to it on another new one, burst and
 * transfers, whose channel comes over the main one.
 */

enum {
	OPEN = SCENARIO_KINDS, // with the socket of the new channel, or of the inviting one
	INVITE,                // on the inviting channel, with the socket of the new one
};

struct channels {
	struct run *run;
	struct mojo_channel *first; // of bootstrap
	struct traffic *traffic;
};

static const struct traffic_shape bootstrap_shape = {
	.messages = 16,
	.max = 100000,
	.window = 16,
};

static const struct traffic_shape burst_shape = {
	.messages = 1000,
	.max = 200000 - MOJO_HEADER_MAX - MOJO_NOTE_SIZE,
	.max_handles = 8,
	.handle_kinds = HANDLE_TAGGED,
	.window = 1000,
};

static const struct traffic_shape transfers_shape = {
	.messages = 2500,
	.max = 64,
	.max_handles = 4,
	.always_max_handles = true,
	.handle_kinds = HANDLE_KINDS,
	.window = 64,
};

static const struct traffic_shape *shape_of(const struct run *run)
{
	if (run->scenario == &bootstrap_scenario) {
		return &bootstrap_shape;
	}
	return run->scenario == &burst_scenario ? &burst_shape : &transfers_shape;
}

static void handle_done(void *data)
{
	struct channels *channels = data;
	const struct traffic_counts *counts = traffic_received(channels->traffic);
	run_done(channels->run, "messages=%u handles=%u bytes=%" PRIu64 " hash=%016" PRIx64,
		counts->messages, counts->handles, counts->bytes, counts->hash);
}

static void handle_failed(void *data, const char *wrong)
{
	struct channels *channels = data;
	run_fail(channels->run, "%s", wrong);
}

static const struct traffic_handler traffic_handler = {
	.done = handle_done,
	.failed = handle_failed,
};

/* Takes fd. */
static void start_traffic(struct channels *channels, int fd)
{
	struct run *run = channels->run;
	if (fd < 0 || channels->traffic != NULL) {
		run_fail(run, "no socket for a channel, or a second one");
		return;
	}
	channels->traffic = traffic_create(run->base, fd, run_format(run), shape_of(run), run->seed,
		run->starts, &traffic_handler, channels);
	if (channels->traffic == NULL) {
		run_fail(run, "a channel cannot be made");
		return;
	}
	traffic_start(channels->traffic);
}

static void handle_first_message(void *data, struct mojo_message *message)
{
	struct channels *channels = data;
	if (message->kind == INVITE) {
		start_traffic(channels, fdlist_take(&message->handles));
	} else {
		run_fail(
			channels->run, "the first channel has another message than its invitation");
	}
}

static void handle_first_ended(void *data, const char *wrong)
{
	struct channels *channels = data;
	run_fail(channels->run, "%s", wrong != NULL ? wrong : "the first channel ended");
}

static const struct mojo_channel_handler first_handler = {
	.message = handle_first_message,
	.ended = handle_first_ended,
};

/* Takes fd. */
static bool create_first(struct channels *channels, int fd)
{
	struct run *run = channels->run;
	if (fd < 0 || channels->first != NULL) {
		run_fail(run, "no socket for the first channel, or a second one");
		return false;
	}
	channels->first =
		mojo_channel_create(run->base, fd, run_format(run), &first_handler, channels);
	if (channels->first == NULL) {
		run_fail(run, "the first channel cannot be made");
	}
	return channels->first != NULL;
}

static struct channels *create_state(struct run *run)
{
	struct channels *channels = calloc(1, sizeof(*channels));
	run->state = channels;
	if (channels == NULL) {
		run_fail(run, "out of memory");
	} else {
		channels->run = run;
	}
	return channels;
}

static void begin(struct run *run)
{
	struct channels *channels = create_state(run);
	int pair[2];
	if (channels == NULL || !run->starts || !run_pair(run, pair)) {
		return;
	}
	run_send(run, OPEN, 0, pair[1]);
	start_traffic(channels, pair[0]);
}

static void message(struct run *run, struct mojo_message *message)
{
	if (run->state != NULL && message->kind == OPEN) {
		start_traffic(run->state, fdlist_take(&message->handles));
	}
}

static void bootstrap_begin(struct run *run)
{
	struct channels *channels = create_state(run);
	int outer[2], inner[2];
	if (channels == NULL || !run->starts || !run_pair(run, outer)) {
		return;
	}
	run_send(run, OPEN, 0, outer[1]);
	if (!create_first(channels, outer[0]) || !run_pair(run, inner)) {
		return;
	}
	mojo_channel_send_fd(channels->first, INVITE, 0, inner[1]);
	start_traffic(channels, inner[0]);
}

static void bootstrap_message(struct run *run, struct mojo_message *message)
{
	if (run->state != NULL && message->kind == OPEN) {
		create_first(run->state, fdlist_take(&message->handles));
	}
}

static void end(struct run *run)
{
	struct channels *channels = run->state;
	if (channels == NULL) {
		return;
	}
	traffic_destroy(channels->traffic);
	mojo_channel_destroy(channels->first);
	free(channels);
}

const struct scenario bootstrap_scenario = {
	.name = "bootstrap",
	.text = "a socket that carries one message with the socket of the real channel",
	.begin = bootstrap_begin,
	.message = bootstrap_message,
	.end = end,
};

const struct scenario burst_scenario = {
	.name = "burst",
	.text = "1000 messages in flight each way, with 0 to 8 tagged handles each",
	.begin = begin,
	.message = message,
	.end = end,
};

const struct scenario transfers_scenario = {
	.name = "transfers",
	.text = "10000 handles each way: pipes, sockets, regions, devices",
	.begin = begin,
	.message = message,
	.end = end,
};
