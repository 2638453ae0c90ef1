#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples/mojo/flow.h"
#include "examples/mojo/pattern.h"
#include "examples/mojo/scenario.h"
#include "examples/mojo/victim.h"

/**
 * Peers that go wrong, one after the other, each at the far end of a socket of its own:
 *
 * EXITS   a process writes and exits without closing: its bytes come, then the end
 * UNREAD  a socket is closed with bytes in it that nobody has read: the same
 * STOPS   a stopped process reads nothing: its writer has to wait, others do not; when it goes on,
 *         everything comes
 */
enum step {
	EXITS,
	UNREAD,
	STOPS,
	STEPS,
};

enum {
	OPEN = SCENARIO_KINDS, // number: the step; with the socket
	OVER,                  // number: the step; what had to be seen was seen
	PING,                  // while the victim is stopped
	PONG,
};

#define LAST_WORDS   65536 // fit into an empty socket
#define UNREAD_BYTES 10000
#define LOST_BYTES   (32 * 1024 * 1024)
#define STOPPED_SIZE (32 * 1024 * 1024) // more than all queues on the way
#define PINGS        20

struct half_dead {
	struct run *run;
	enum step step;
	int socket; // -1: none
	struct flow_reader *reader;
	struct flow_writer *writer;
	// Who starts:
	pid_t victim; // 0: none
	struct event *pause_over;
	bool paused;
	unsigned int pings;
	// The other:
	uint64_t sent_hash, hash;
};

static uint64_t step_seed(const struct half_dead *half)
{
	return pattern_number(half->run->seed, half->step);
}

static void finish_step(struct half_dead *half)
{
	flow_reader_destroy(half->reader);
	flow_writer_destroy(half->writer);
	half->reader = NULL;
	half->writer = NULL;
	if (half->socket >= 0) {
		close(half->socket);
		half->socket = -1;
	}
	if (half->victim > 0) {
		victim_end(half->victim);
		half->victim = 0;
	}
}

static void read_from(struct half_dead *half, size_t wanted, flow_read_done done)
{
	half->reader = flow_reader_create(half->run->base, half->socket, wanted, done, half);
	if (half->reader == NULL) {
		run_fail(half->run, "out of memory");
	}
}

static void write_to(struct half_dead *half, struct evbuffer *bytes, flow_write_done done)
{
	if (bytes != NULL) {
		half->writer = flow_writer_create(half->run->base, half->socket, bytes, done, half);
	}
	if (half->writer == NULL) {
		run_fail(half->run, "out of memory");
	}
}

/* Who starts. */

/* The first unread byte is there: last words, and away. */
static void handle_unread(void *data, struct evbuffer *bytes, int error)
{
	struct half_dead *half = data;
	uint8_t words[LAST_WORDS];
	pattern_fill(step_seed(half), words, sizeof(words));
	ssize_t n = send(half->socket, words, sizeof(words), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (error != 0 || evbuffer_get_length(bytes) != 1 || n != sizeof(words)) {
		run_fail(half->run, "last words cannot be written: %m");
	}
	flow_reader_destroy(half->reader);
	half->reader = NULL;
	close(half->socket);
	half->socket = -1;
}

static void continue_if_due(struct half_dead *half)
{
	if (half->paused && half->pings == PINGS) {
		victim_continue(half->victim);
	}
}

static void handle_pause_over(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct half_dead *half = data;
	half->paused = true;
	continue_if_due(half);
}

static void start_pause(struct half_dead *half)
{
	uint32_t ms = half->run->pause_ms;
	const struct timeval pause = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	half->pause_over = evtimer_new(half->run->base, handle_pause_over, half);
	if (half->pause_over == NULL || event_add(half->pause_over, &pause) < 0) {
		run_fail(half->run, "out of memory");
	}
}

/* Takes fd, which is the victim's. */
static void start_victim(struct half_dead *half, int fd)
{
	switch (half->step) {
	case EXITS:
		half->victim = victim_start_exiting(fd, step_seed(half), LAST_WORDS);
		break;
	case STOPS:
		half->victim = victim_start_stopped(fd);
		start_pause(half);
		break;
	case UNREAD:
	case STEPS:
		half->socket = fd;
		read_from(half, 1, handle_unread);
		break;
	}
	if (half->victim < 0) {
		run_fail(half->run, "there is no victim: %d", -half->victim);
	}
}

static void start_step(struct half_dead *half)
{
	int pair[2];
	if (!run_pair(half->run, pair)) {
		return;
	}
	start_victim(half, pair[0]);
	run_send(half->run, OPEN, half->step, pair[1]);
}

static void handle_over(struct half_dead *half)
{
	finish_step(half);
	half->step++;
	if (half->step < STEPS) {
		start_step(half);
	} else {
		run_done(half->run, "peers=%d pings=%u", STEPS, half->pings);
	}
}

static void starter_message(struct half_dead *half, const struct mojo_message *message)
{
	if (message->kind == OVER && message->number == half->step) {
		handle_over(half);
	} else if (message->kind == PING && half->step == STOPS && half->pings < PINGS) {
		half->pings++;
		run_send(half->run, PONG, message->number, -1);
		continue_if_due(half);
	} else {
		run_fail(half->run, "a message out of order");
	}
}

/* The other. */

static void finish_watching(struct half_dead *half)
{
	enum step step = half->step;
	finish_step(half);
	half->step++;
	run_send(half->run, OVER, step, -1);
	if (half->step == STEPS) {
		run_done(half->run,
			"exited=%d bytes unread=%d bytes stopped=%d bytes hash=%016" PRIx64,
			LAST_WORDS, LAST_WORDS, STOPPED_SIZE, half->hash);
	}
}

static void handle_lost(void *data, int error)
{
	struct half_dead *half = data;
	if (error == -EPIPE || error == -ECONNRESET) {
		finish_watching(half);
	} else {
		run_fail(half->run, "step %d: writing to nobody does not fail: %d", half->step,
			-error);
	}
}

/* Nobody is there any more; writing has to tell. */
static void handle_last_words(void *data, struct evbuffer *bytes, int error)
{
	struct half_dead *half = data;
	size_t size = evbuffer_get_length(bytes);
	const uint8_t *words = evbuffer_pullup(bytes, -1);
	if (size != LAST_WORDS || !pattern_matches(step_seed(half), words, size) ||
		(error != 0 && error != -ECONNRESET)) {
		run_fail(half->run, "step %d: %zu bytes of last words, error %d", half->step, size,
			-error);
		return;
	}
	half->hash = pattern_hash(half->hash, words, size);
	flow_writer_destroy(half->writer);
	half->writer = NULL;
	write_to(half, pattern_buffer(step_seed(half), 0, LOST_BYTES), handle_lost);
}

static void handle_answer(void *data, struct evbuffer *bytes, int error)
{
	struct half_dead *half = data;
	uint64_t hash = 0;
	bool whole = evbuffer_get_length(bytes) == sizeof(hash);
	evbuffer_remove(bytes, &hash, sizeof(hash));
	if (error != 0 || !whole || hash != half->sent_hash) {
		run_fail(
			half->run, "the stopped process has read something else: error %d", -error);
		return;
	}
	half->hash = pattern_hash(half->hash, &hash, sizeof(hash));
	finish_watching(half);
}

static void handle_all_written(void *data, int error)
{
	struct half_dead *half = data;
	if (error != 0) {
		run_fail(half->run, "the stopped process cannot be written to: %d", -error);
		return;
	}
	shutdown(half->socket, SHUT_WR);
}

static uint64_t hash_in_pieces(struct evbuffer *bytes)
{
	const uint8_t *data = evbuffer_pullup(bytes, -1);
	uint64_t hash = 0;
	for (size_t at = 0; data != NULL && at < STOPPED_SIZE; at += VICTIM_PIECE) {
		hash = pattern_hash(hash, data + at, VICTIM_PIECE);
	}
	return hash;
}

static void watch_stopped(struct half_dead *half)
{
	struct evbuffer *bytes = pattern_buffer(step_seed(half), 0, STOPPED_SIZE);
	if (bytes != NULL) {
		half->sent_hash = hash_in_pieces(bytes);
	}
	write_to(half, bytes, handle_all_written);
	read_from(half, SIZE_MAX, handle_answer);
	run_send(half->run, PING, 0, -1);
}

static void watch(struct half_dead *half, struct mojo_message *message)
{
	half->socket = fdlist_take(&message->handles);
	if (message->number != half->step || half->step >= STEPS || half->socket < 0) {
		run_fail(half->run, "a message that brings no socket");
		return;
	}
	switch (half->step) {
	case UNREAD:
		write_to(half, pattern_buffer(step_seed(half), 0, UNREAD_BYTES), NULL);
		read_from(half, SIZE_MAX, handle_last_words);
		break;
	case STOPS:
		watch_stopped(half);
		break;
	case EXITS:
	case STEPS:
		read_from(half, SIZE_MAX, handle_last_words);
		break;
	}
}

static void handle_pong(struct half_dead *half, uint32_t number)
{
	if (half->writer == NULL || flow_writer_left(half->writer) == 0) {
		run_fail(half->run, "a stopped process takes everything");
	} else if (number + 1 < PINGS) {
		run_send(half->run, PING, number + 1, -1);
	}
}

static void other_message(struct half_dead *half, struct mojo_message *message)
{
	if (message->kind == OPEN && half->socket < 0) {
		watch(half, message);
	} else if (message->kind == PONG && half->step == STOPS) {
		handle_pong(half, message->number);
	} else {
		run_fail(half->run, "a message out of order");
	}
}

static void begin(struct run *run)
{
	struct half_dead *half = calloc(1, sizeof(*half));
	run->state = half;
	if (half == NULL) {
		run_fail(run, "out of memory");
		return;
	}
	half->run = run;
	half->socket = -1;
	if (run->starts) {
		start_step(half);
	}
}

static void message(struct run *run, struct mojo_message *message)
{
	if (run->state != NULL && run->starts) {
		starter_message(run->state, message);
	} else if (run->state != NULL) {
		other_message(run->state, message);
	}
}

static void end(struct run *run)
{
	struct half_dead *half = run->state;
	if (half == NULL) {
		return;
	}
	finish_step(half);
	if (half->pause_over != NULL) {
		event_free(half->pause_over);
	}
	free(half);
}

const struct scenario half_dead_scenario = {
	.name = "half-dead",
	.text = "peers that exit without closing, stop, or close with bytes unread",
	.begin = begin,
	.message = message,
	.end = end,
};
