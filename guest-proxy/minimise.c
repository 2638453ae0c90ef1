#include "guest-proxy/minimise.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "channel/recording.h"
#include "guest-proxy/player.h"

#define PROBE_PATIENCE_MS  10000
#define REPLAY_PATIENCE_MS 1000
#define RESTART_TRIES      100
#define RESTART_PAUSE_US   100000

static bool add_message(
	struct recording *recording, enum record_direction direction, const uint32_t words[3])
{
	const struct channel_header header = {
		.length = 3 * sizeof(uint32_t),
		.type = CHANNEL_MESSAGES,
	};
	struct recorded_frame *frame = recorded_frame_create(0, direction, &header);
	if (frame != NULL) {
		memcpy(frame->payload, words, header.length);
		wl_list_insert(recording->frames.prev, &frame->link);
	}
	return frame != NULL;
}

bool minimise_probe(const struct guest_options *guest)
{
	static const uint32_t sync[] = {1, 12u << 16, 2}, done[] = {2, 12u << 16, 0};
	const struct player_options options = {
		.guest = guest,
		.patience_ms = PROBE_PATIENCE_MS,
	};
	struct player_result result = {.complete = false};
	struct recording recording;
	recording_init(&recording);
	if (add_message(&recording, RECORD_TO_HOST, sync) &&
		add_message(&recording, RECORD_TO_GUEST, done)) {
		player_run(&options, &recording, &result);
	}
	recording_finish(&recording);
	return result.complete && result.given_up == 0;
}

static bool restart(const struct minimise_options *options)
{
	if (system(options->restart_command) != 0) {
		log_error("--restart-command has failed");
		return false;
	}
	for (int i = 0; i < RESTART_TRIES; i++) {
		if (minimise_probe(options->guest)) {
			return true;
		}
		usleep(RESTART_PAUSE_US);
	}
	log_error("the compositor does not answer after --restart-command");
	return false;
}

enum outcome {
	OUTCOME_ALIVE,
	OUTCOME_GONE,
	OUTCOME_UNKNOWN, // it could not be started
};

static enum outcome play(const struct minimise_options *options, const struct recording *recording)
{
	const struct player_options player = {
		.guest = options->guest,
		.patience_ms = REPLAY_PATIENCE_MS,
	};
	struct player_result result;
	if (!minimise_probe(options->guest) && !restart(options)) {
		return OUTCOME_UNKNOWN;
	}
	player_run(&player, recording, &result);
	if (result.stopped) {
		return OUTCOME_UNKNOWN;
	}
	// The first answer may overtake what the replay has left in another connection.
	bool alive = minimise_probe(options->guest) && minimise_probe(options->guest);
	return alive ? OUTCOME_ALIVE : OUTCOME_GONE;
}

static struct recorded_frame *next_request(
	const struct recording *recording, const struct wl_list *after)
{
	for (const struct wl_list *at = after->next; at != &recording->frames; at = at->next) {
		struct recorded_frame *frame = wl_container_of(at, frame, link);
		if (frame->direction == RECORD_TO_HOST) {
			return frame;
		}
	}
	return NULL;
}

static size_t count_requests(const struct recording *recording)
{
	size_t count = 0;
	const struct recorded_frame *frame = next_request(recording, &recording->frames);
	for (; frame != NULL; frame = next_request(recording, &frame->link)) {
		count++;
	}
	return count;
}

/* Frames that were taken out of a recording, and what they were behind. */
struct chunk {
	struct recorded_frame **frames;
	struct wl_list **places;
	size_t count;
};

static bool cut(
	const struct recording *recording, struct wl_list *after, size_t size, struct chunk *chunk)
{
	*chunk = (struct chunk){
		.frames = calloc(size, sizeof(*chunk->frames)),
		.places = calloc(size, sizeof(*chunk->places)),
	};
	struct recorded_frame *frame;
	while (chunk->frames != NULL && chunk->places != NULL && chunk->count < size &&
		(frame = next_request(recording, after)) != NULL) {
		chunk->frames[chunk->count] = frame;
		chunk->places[chunk->count++] = frame->link.prev;
		wl_list_remove(&frame->link);
	}
	return chunk->count > 0;
}

/* Returns the last frame of what is back in its place. */
static struct wl_list *paste(struct chunk *chunk, struct wl_list *after)
{
	for (size_t i = chunk->count; i > 0; i--) {
		wl_list_insert(chunk->places[i - 1], &chunk->frames[i - 1]->link);
	}
	struct wl_list *last = chunk->count > 0 ? &chunk->frames[chunk->count - 1]->link : after;
	chunk->count = 0;
	return last;
}

static void finish_chunk(struct chunk *chunk)
{
	for (size_t i = 0; i < chunk->count; i++) {
		free(chunk->frames[i]);
	}
	free(chunk->frames);
	free(chunk->places);
}

/* One pass with chunks of that size. False: no more runs are to be made. */
static bool pass(const struct minimise_options *options, struct recording *recording, size_t size,
	size_t *n_runs)
{
	struct wl_list *after = &recording->frames;
	struct chunk chunk;
	bool go_on = true;
	while (go_on && cut(recording, after, size, &chunk)) {
		go_on = ++*n_runs < options->max_runs;
		enum outcome outcome = play(options, recording);
		if (outcome != OUTCOME_GONE) {
			after = paste(&chunk, after);
		}
		go_on = go_on && outcome != OUTCOME_UNKNOWN;
		finish_chunk(&chunk);
	}
	if (go_on) {
		finish_chunk(&chunk); // an empty one
	}
	return go_on;
}

bool minimise_run(
	const struct minimise_options *options, struct recording *recording, size_t *n_runs)
{
	*n_runs = 1;
	if (play(options, recording) != OUTCOME_GONE) {
		return false;
	}
	size_t size = (count_requests(recording) + 1) / 2;
	size_t before = 0;
	// One by one, as long as what was left out makes others needless.
	while (before != count_requests(recording)) {
		before = count_requests(recording);
		while (size > 0 && pass(options, recording, size, n_runs)) {
			size /= 2;
		}
		size = *n_runs < options->max_runs ? 1 : 0;
	}
	return true;
}
