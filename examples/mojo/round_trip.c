#include <errno.h>
#include <event2/buffer.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "examples/mojo/flow.h"
#include "examples/mojo/pattern.h"
#include "examples/mojo/region.h"
#include "examples/mojo/scenario.h"

/**
 * Handles that are sent away and come home: each has to work as before, and what was in it, or was
 * put into it abroad, is still to come.
 */

enum {
	THERE = SCENARIO_KINDS, // number: enum object; with it
	BACK,                   // the same
};

enum object {
	SOCKET,
	PIPE_READ,
	PIPE_WRITE,
	REGION,
	OBJECTS,
};

#define EARLY_BYTES 20000 // fit into an empty pipe or socket
#define ALL_BYTES   500000
#define REGION_SIZE 65568

/* Bytes from one fd to another: the early ones are on their way when it starts. */
struct stream {
	struct round_trip *trip;
	int from; // borrowed
	struct flow_writer *writer;
	struct flow_reader *reader;
	uint64_t seed;
	bool over;
};

struct round_trip {
	struct run *run;
	enum object object;
	int ours;                 // the other end of what is away, or -1
	int travelled;            // what came back, or -1
	struct stream streams[2]; // home to traveller and back; one of them for a pipe
	size_t n_streams;
	uint64_t hash;
	unsigned int returned;
};

static uint64_t stream_seed(const struct run *run, enum object object, size_t which)
{
	return pattern_number(run->seed, 2 * (uint64_t)object + which);
}

static bool put_early_bytes(int fd, uint64_t seed)
{
	uint8_t bytes[EARLY_BYTES];
	pattern_fill(seed, bytes, sizeof(bytes));
	return write(fd, bytes, sizeof(bytes)) == sizeof(bytes);
}

static bool create_ends(struct run *run, enum object object, int ends[2])
{
	if (object == SOCKET) {
		return run_pair(run, ends) && put_early_bytes(ends[0], stream_seed(run, object, 0));
	}
	int pipe[2];
	if (pipe2(pipe, O_CLOEXEC) < 0) {
		return false;
	}
	ends[0] = object == PIPE_READ ? pipe[1] : pipe[0];
	ends[1] = object == PIPE_READ ? pipe[0] : pipe[1];
	return object == PIPE_WRITE || put_early_bytes(pipe[1], stream_seed(run, object, 0));
}

static void send_object(struct round_trip *trip)
{
	struct run *run = trip->run;
	int ends[2] = {-1, -1};
	if (trip->object == REGION) {
		ends[1] =
			region_create(REGION_MEMFD, REGION_SIZE, stream_seed(run, trip->object, 0));
	} else if (!create_ends(run, trip->object, ends)) {
		run_fail(run, "object %d cannot be made", trip->object);
	}
	trip->ours = ends[0];
	run_send(run, THERE, trip->object, ends[1]);
}

static void close_fd(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
	}
	*fd = -1;
}

static void finish_object(struct round_trip *trip)
{
	for (size_t i = 0; i < trip->n_streams; i++) {
		flow_writer_destroy(trip->streams[i].writer);
		flow_reader_destroy(trip->streams[i].reader);
	}
	trip->n_streams = 0;
	close_fd(&trip->ours);
	close_fd(&trip->travelled);
}

static void next_object(struct round_trip *trip)
{
	finish_object(trip);
	trip->object++;
	if (trip->object < OBJECTS) {
		send_object(trip);
	} else {
		run_done(trip->run, "objects=%d hash=%016" PRIx64, OBJECTS, trip->hash);
	}
}

/* The reader has to see the end now. */
static void handle_written(void *data, int error)
{
	struct stream *stream = data;
	struct round_trip *trip = stream->trip;
	if (error != 0) {
		run_fail(trip->run, "object %d cannot be written to: %d", trip->object, -error);
	} else if (trip->object == SOCKET) {
		shutdown(stream->from, SHUT_WR);
	} else {
		flow_writer_destroy(stream->writer);
		stream->writer = NULL;
		close_fd(stream->from == trip->ours ? &trip->ours : &trip->travelled);
	}
}

static bool streams_over(const struct round_trip *trip)
{
	for (size_t i = 0; i < trip->n_streams; i++) {
		if (!trip->streams[i].over) {
			return false;
		}
	}
	return true;
}

static void handle_read(void *data, struct evbuffer *bytes, int error)
{
	struct stream *stream = data;
	struct round_trip *trip = stream->trip;
	size_t size = evbuffer_get_length(bytes);
	if (error != 0 || size != ALL_BYTES ||
		!pattern_matches(stream->seed, evbuffer_pullup(bytes, -1), size)) {
		run_fail(trip->run, "object %d: %zu bytes that are not what was written, error %d",
			trip->object, size, -error);
		return;
	}
	trip->hash ^= pattern_hash(trip->object, evbuffer_pullup(bytes, -1), size);
	stream->over = true;
	if (streams_over(trip)) {
		next_object(trip);
	}
}

static void start_stream(struct round_trip *trip, int from, int to)
{
	struct run *run = trip->run;
	size_t which = trip->n_streams++;
	struct stream *stream = &trip->streams[which];
	*stream = (struct stream){
		.trip = trip,
		.from = from,
		.seed = stream_seed(run, trip->object, which),
	};
	struct evbuffer *rest = pattern_buffer(stream->seed, EARLY_BYTES, ALL_BYTES - EARLY_BYTES);
	if (rest != NULL) {
		stream->writer = flow_writer_create(run->base, from, rest, handle_written, stream);
	}
	stream->reader = flow_reader_create(run->base, to, SIZE_MAX, handle_read, stream);
	if (stream->writer == NULL || stream->reader == NULL) {
		run_fail(run, "out of memory");
	}
}

static void check_region(struct round_trip *trip)
{
	const char *wrong = region_check(trip->travelled, REGION_MEMFD, REGION_SIZE,
		stream_seed(trip->run, REGION, 0), &trip->hash);
	if (wrong != NULL) {
		run_fail(trip->run, "%s", wrong);
		return;
	}
	next_object(trip);
}

static void use_object(struct round_trip *trip)
{
	switch (trip->object) {
	case SOCKET:
		start_stream(trip, trip->ours, trip->travelled);
		start_stream(trip, trip->travelled, trip->ours);
		break;
	case PIPE_READ:
		start_stream(trip, trip->ours, trip->travelled);
		break;
	case PIPE_WRITE:
		start_stream(trip, trip->travelled, trip->ours);
		break;
	case REGION:
		check_region(trip);
		break;
	case OBJECTS:
		break;
	}
}

static void handle_back(struct round_trip *trip, struct mojo_message *message)
{
	if (message->number != trip->object || message->handles.count != 1 ||
		trip->travelled >= 0) {
		run_fail(trip->run, "something else came back");
		return;
	}
	trip->travelled = fdlist_take(&message->handles);
	use_object(trip);
}

/* Abroad: what can be written to brings bytes home. */
static void return_object(struct round_trip *trip, struct mojo_message *message)
{
	struct run *run = trip->run;
	enum object object = (enum object)message->number;
	int fd = fdlist_take(&message->handles);
	bool ok = fd >= 0;
	if (object == SOCKET) {
		ok = ok && put_early_bytes(fd, stream_seed(run, object, 1));
	} else if (object == PIPE_WRITE) {
		ok = ok && put_early_bytes(fd, stream_seed(run, object, 0));
	}
	if (!ok) {
		run_fail(run, "object %d cannot be used: %m", object);
	}
	run_send(run, BACK, object, fd);
	trip->returned++;
	if (trip->returned == OBJECTS) {
		run_done(run, "returned=%u", trip->returned);
	}
}

static void begin(struct run *run)
{
	struct round_trip *trip = calloc(1, sizeof(*trip));
	run->state = trip;
	if (trip == NULL) {
		run_fail(run, "out of memory");
		return;
	}
	*trip = (struct round_trip){.run = run, .ours = -1, .travelled = -1};
	if (run->starts) {
		send_object(trip);
	}
}

static void message(struct run *run, struct mojo_message *message)
{
	if (run->state == NULL) {
		return;
	}
	if (run->starts && message->kind == BACK) {
		handle_back(run->state, message);
	} else if (!run->starts && message->kind == THERE) {
		return_object(run->state, message);
	} else {
		run_fail(run, "a message of an unknown kind");
	}
}

static void end(struct run *run)
{
	if (run->state != NULL) {
		finish_object(run->state);
	}
	free(run->state);
}

const struct scenario round_trip_scenario = {
	.name = "round-trip",
	.text = "handles that come home, with bytes in them, and work",
	.begin = begin,
	.message = message,
	.end = end,
};
