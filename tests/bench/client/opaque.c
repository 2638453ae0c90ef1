// Workloads of a protocol that no proxy knows, with bench-service at the other end.

#include "tests/bench/client/workloads.h"

#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/bench/client/clock.h"
#include "tests/bench/listen.h"
#include "tests/bench/opaque/message.h"
#include "tests/bench/opaque/object.h"
#include "tests/bench/opaque/stream.h"
#include "tests/bench/passing.h"

#define WARM_UP_ECHOES      100
#define ECHOES_PER_FD       10
#define OBJECTS_PER_MESSAGE ((size_t)20) // libwayland's receivers have room for no more than 28

static const struct passed_fds no_fds;

static int connect_service(void)
{
	const char *path = getenv("BENCH_SERVICE");
	if (path == NULL) {
		errx(2, "BENCH_SERVICE is not set");
	}
	return connect_to(path);
}

static void ask(int sock, struct opaque_message *message, const struct passed_fds *passed)
{
	struct opaque_message answer;
	struct passed_fds unexpected;
	opaque_send(sock, message, passed);
	if (!opaque_receive(sock, &answer, &unexpected)) {
		errx(1, "the service has closed the connection");
	}
	if (answer.number != message->number || unexpected.count > 0) {
		errx(1, "a wrong answer");
	}
	*message = answer;
}

// Returns how long it took.
static double echo(int sock, uint64_t number, const struct passed_fds *passed)
{
	struct opaque_message message = {.task = OPAQUE_ECHO, .number = number};
	double start = clock_now();
	ask(sock, &message, passed);
	return clock_now() - start;
}

static void warm_up(int sock)
{
	for (uint64_t i = 0; i < WARM_UP_ECHOES; i++) {
		echo(sock, i, &no_fds);
	}
}

// The message takes the write end of a pipe along, which the service writes into and closes.
static double echo_with_pipe(int sock, uint64_t number)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0) {
		err(1, "pipe");
	}
	struct passed_fds passed = {.fds = {fds[1]}, .count = 1};
	double took = echo(sock, number, &passed);
	passed_fds_close(&passed);
	uint64_t written;
	char more;
	if (read(fds[0], &written, sizeof(written)) != sizeof(written) || written != number ||
		read(fds[0], &more, 1) != 0) {
		errx(1, "something else came out of a pipe");
	}
	close(fds[0]);
	return took;
}

void workload_opaque_rtt(const struct job *job)
{
	int sock = connect_service();
	warm_up(sock);
	struct samples samples = {0};
	struct stopwatch watch = {.announce = job->announce};
	stopwatch_start(&watch);
	double end = watch.started + job->seconds;
	while (samples.count < job->count && clock_now() < end) {
		samples_add(&samples, echo(sock, samples.count, &no_fds));
	}
	stopwatch_stop(&watch);
	latencies_print("opaque-rtt", &samples, &watch);
	close(sock);
}

// The samples are those of the messages with an fd; the others keep them apart.
void workload_opaque_rtt_fd(const struct job *job)
{
	int sock = connect_service();
	warm_up(sock);
	struct samples samples = {0};
	struct stopwatch watch = {.announce = job->announce};
	stopwatch_start(&watch);
	double end = watch.started + job->seconds;
	for (uint64_t i = 0; samples.count < job->count && clock_now() < end; i++) {
		if (i % ECHOES_PER_FD == 0) {
			samples_add(&samples, echo_with_pipe(sock, i));
		} else {
			echo(sock, i, &no_fds);
		}
	}
	stopwatch_stop(&watch);
	latencies_print("opaque-rtt-fd", &samples, &watch);
	close(sock);
}

static void print_stream(
	const char *workload, const struct job *job, const struct stopwatch *watch, bool right)
{
	if (!right) {
		errx(1, "other bytes came than were sent");
	}
	printf("{\"workload\": \"%s\", \"count\": %zu, \"seconds\": %.6f, \"mib_per_s\": %.1f}\n",
		workload, job->count, watch->total, (double)job->count / watch->total);
}

// The sum is known beforehand, so that only the receiver adds up while the stopwatch runs.
static uint64_t expected_sum(uint64_t size)
{
	struct stream stream;
	stream_init(&stream);
	uint64_t sum = stream_sum(&stream, size);
	stream_finish(&stream);
	return sum;
}

void workload_opaque_stream_to_service(const struct job *job)
{
	struct opaque_message message = {.task = OPAQUE_TAKE, .size = (uint64_t)job->count << 20};
	struct opaque_message answer;
	struct passed_fds unexpected;
	uint64_t expected = expected_sum(message.size);
	struct stream stream;
	stream_init(&stream);
	int sock = connect_service();
	warm_up(sock);
	struct stopwatch watch = {.announce = job->announce};
	stopwatch_start(&watch);
	opaque_send(sock, &message, &no_fds);
	stream_send(&stream, sock, message.size);
	bool answered = opaque_receive(sock, &answer, &unexpected);
	stopwatch_stop(&watch);
	print_stream("opaque-stream-to-service", job, &watch, answered && answer.sum == expected);
	stream_finish(&stream);
	close(sock);
}

void workload_opaque_stream_from_service(const struct job *job)
{
	struct opaque_message message = {.task = OPAQUE_GIVE, .size = (uint64_t)job->count << 20};
	uint64_t expected = expected_sum(message.size);
	int sock = connect_service();
	warm_up(sock);
	struct stopwatch watch = {.announce = job->announce};
	stopwatch_start(&watch);
	opaque_send(sock, &message, &no_fds);
	uint64_t sum = stream_receive(sock, message.size);
	stopwatch_stop(&watch);
	print_stream("opaque-stream-from-service", job, &watch, sum == expected);
	close(sock);
}

static void pass_objects(int sock, uint64_t first, size_t count)
{
	struct object objects[OBJECTS_PER_MESSAGE];
	struct passed_fds passed = {.count = count};
	for (size_t i = 0; i < count; i++) {
		passed.fds[i] = object_create(&objects[i], first + i);
	}
	struct opaque_message message = {.task = OPAQUE_OBJECTS, .number = first};
	ask(sock, &message, &passed);
	passed_fds_close(&passed);
	size_t right = 0;
	for (size_t i = 0; i < count; i++) {
		right += object_finish(&objects[i]);
	}
	if (message.n_right != count || right != count) {
		errx(1,
			"of %zu objects from %" PRIu64 " on, %" PRIu32
			" came right and %zu ended right",
			count, first, message.n_right, right);
	}
}

void workload_opaque_fds(const struct job *job)
{
	int sock = connect_service();
	warm_up(sock);
	struct stopwatch watch = {.announce = job->announce};
	stopwatch_start(&watch);
	size_t passed = 0;
	while (passed < job->count) {
		size_t left = job->count - passed;
		size_t count = left < OBJECTS_PER_MESSAGE ? left : OBJECTS_PER_MESSAGE;
		pass_objects(sock, passed, count);
		passed += count;
	}
	stopwatch_stop(&watch);
	printf("{\"workload\": \"opaque-fds\", \"count\": %zu, \"seconds\": %.6f, "
	       "\"fds_per_s\": %.0f}\n",
		passed, watch.total, (double)passed / watch.total);
	close(sock);
}
