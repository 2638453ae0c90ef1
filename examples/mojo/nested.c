#include <inttypes.h>
#include <stdlib.h>

#include "examples/mojo/pattern.h"
#include "examples/mojo/scenario.h"
#include "examples/mojo/traffic.h"

/**
 * A channel in a channel in a channel: both sides in turn make the next, and each is busy with big
 * messages both ways while its child is made.
 */

#define DEPTH 5

enum {
	OPEN = SCENARIO_KINDS, // number: the level; with its socket; on the channel above it
};

struct level {
	struct nested *nested;
	struct traffic *traffic;
};

struct nested {
	struct run *run;
	struct level levels[DEPTH + 1];
	unsigned int done;
};

static const struct traffic_shape shape = {
	.messages = 3,
	.min = 1024 * 1024 + 1,
	.max = 1536 * 1024,
	.window = 3,
};

static void open_level(struct nested *nested, uint32_t number);

static void tell_result(struct nested *nested)
{
	unsigned int messages = 0;
	uint64_t bytes = 0, hash = 0;
	for (size_t i = 0; i <= DEPTH; i++) {
		const struct traffic_counts *counts = traffic_received(nested->levels[i].traffic);
		messages += counts->messages;
		bytes += counts->bytes;
		hash = pattern_hash(hash, &counts->hash, sizeof(counts->hash));
	}
	run_done(nested->run, "depth=%d messages=%u bytes=%" PRIu64 " hash=%016" PRIx64, DEPTH,
		messages, bytes, hash);
}

static void handle_done(void *data)
{
	struct level *level = data;
	level->nested->done++;
	if (level->nested->done == DEPTH + 1) {
		tell_result(level->nested);
	}
}

static void handle_failed(void *data, const char *wrong)
{
	struct level *level = data;
	run_fail(level->nested->run, "level %td: %s", level - level->nested->levels, wrong);
}

/* Whether this side makes the level. */
static bool makes(const struct nested *nested, uint32_t number)
{
	return (number % 2 == 0) == nested->run->starts;
}

static void handle_other(void *data, struct mojo_message *message);

static const struct traffic_handler traffic_handler = {
	.done = handle_done,
	.failed = handle_failed,
	.other = handle_other,
};

/* Takes fd. */
static void start_level(struct nested *nested, uint32_t number, int fd)
{
	struct run *run = nested->run;
	struct level *level = &nested->levels[number];
	level->nested = nested;
	level->traffic = traffic_create(run->base, fd, run_format(run), &shape,
		pattern_number(run->seed, number), makes(nested, number), &traffic_handler, level);
	if (level->traffic == NULL) {
		run_fail(run, "level %" PRIu32 " cannot be made", number);
		return;
	}
	traffic_start(level->traffic);
	if (number < DEPTH && makes(nested, number + 1)) {
		open_level(nested, number + 1);
	}
}

static void open_level(struct nested *nested, uint32_t number)
{
	int pair[2];
	if (!run_pair(nested->run, pair)) {
		return;
	}
	if (number == 0) {
		run_send(nested->run, OPEN, number, pair[1]);
	} else {
		struct traffic *above = nested->levels[number - 1].traffic;
		mojo_channel_send_fd(traffic_channel(above), OPEN, number, pair[1]);
	}
	start_level(nested, number, pair[0]);
}

static void accept_level(struct nested *nested, uint32_t number, struct mojo_message *message)
{
	int fd = fdlist_take(&message->handles);
	if (message->kind != OPEN || message->number != number || number > DEPTH || fd < 0 ||
		nested->levels[number].traffic != NULL || makes(nested, number)) {
		run_fail(nested->run, "a message that opens no level");
		return;
	}
	start_level(nested, number, fd);
}

static void handle_other(void *data, struct mojo_message *message)
{
	struct level *level = data;
	accept_level(level->nested, (uint32_t)(level - level->nested->levels) + 1, message);
}

static void begin(struct run *run)
{
	struct nested *nested = calloc(1, sizeof(*nested));
	run->state = nested;
	if (nested == NULL) {
		run_fail(run, "out of memory");
		return;
	}
	nested->run = run;
	if (run->starts) {
		open_level(nested, 0);
	}
}

static void message(struct run *run, struct mojo_message *message)
{
	if (run->state != NULL) {
		accept_level(run->state, 0, message);
	}
}

static void end(struct run *run)
{
	struct nested *nested = run->state;
	for (size_t i = 0; nested != NULL && i <= DEPTH; i++) {
		traffic_destroy(nested->levels[i].traffic);
	}
	free(nested);
}

const struct scenario nested_scenario = {
	.name = "nested",
	.text = "channels in channels, 5 deep, all busy with messages of more than 1 MiB",
	.begin = begin,
	.message = message,
	.end = end,
};
