#include "tests/bench/client/workloads.h"

#include <err.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/bench/client/clock.h"
#include "tests/bench/client/connection.h"
#include "tests/bench/client/window.h"

// Calls once until the job is done; it returns how long the part that counts took.
static void repeat(const struct job *job, const char *workload,
	double (*once)(struct connection *connection), struct connection *connection)
{
	struct samples samples = {0};
	struct stopwatch watch = {.announce = job->announce};
	stopwatch_start(&watch);
	double end = watch.started + job->seconds;
	while (samples.count < job->count && clock_now() < end) {
		samples_add(&samples, once(connection));
	}
	stopwatch_stop(&watch);
	latencies_print(workload, &samples, &watch);
}

static double sync_once(struct connection *connection)
{
	double start = clock_now();
	connection_roundtrip(connection);
	return clock_now() - start;
}

void workload_rtt(const struct job *job)
{
	struct connection connection;
	connection_init(&connection);
	for (int i = 0; i < 100; i++) {
		connection_roundtrip(&connection);
	}
	repeat(job, "rtt", sync_once, &connection);
	connection_finish(&connection);
}

static double connect_once(struct connection *unused)
{
	(void)unused;
	double start = clock_now();
	struct wl_display *display = wl_display_connect(NULL);
	if (display == NULL) {
		err(1, "cannot connect to the display");
	}
	struct wl_registry *registry = wl_display_get_registry(display);
	if (wl_display_roundtrip(display) < 0) {
		err(1, "connection lost");
	}
	double took = clock_now() - start;
	wl_registry_destroy(registry);
	wl_display_disconnect(display);
	return took;
}

// As people start programs: whoever serves has been idle for a moment.
static double connect_after_pause(struct connection *unused)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	nanosleep(&pause, NULL);
	return connect_once(unused);
}

void workload_connect(const struct job *job)
{
	repeat(job, "connect", connect_after_pause, NULL);
}

void workload_connect_storm(const struct job *job)
{
	repeat(job, "connect-storm", connect_once, NULL);
}

static double start_once(struct connection *unused)
{
	(void)unused;
	double start = clock_now();
	struct connection connection;
	connection_init(&connection);
	connection_get_keymap(&connection);
	struct window window;
	window_init(&window, &connection, 256, 256);
	window_commit(&window, &(struct rectangle){.width = 256, .height = 256});
	window_drain(&window);
	double took = clock_now() - start;
	window_finish(&window);
	connection_finish(&connection);
	return took;
}

void workload_startup(const struct job *job)
{
	repeat(job, "startup", start_once, NULL);
}

// As much as libwayland sends at a time: 4096 bytes of requests, 24 bytes each.
#define BURST_REQUESTS  170
#define BURSTS_PER_SYNC 24

struct damage_request {
	uint32_t object;
	uint32_t size_and_opcode;
	int32_t x, y, width, height;
};
_Static_assert(sizeof(struct damage_request) == 24, "wl_surface.damage");

static void send_all(int fd, const void *bytes, size_t size)
{
	const char *next = bytes;
	while (size > 0) {
		ssize_t sent = send(fd, next, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno == EAGAIN) {
			struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
			poll(&poll_fd, 1, -1);
			continue;
		}
		if (sent < 0) {
			err(1, "connection lost");
		}
		next += sent;
		size -= (size_t)sent;
	}
}

static void handle_burst_done(void *data, struct wl_callback *callback, uint32_t serial)
{
	(void)serial;
	size_t *outstanding = data;
	--*outstanding;
	wl_callback_destroy(callback);
}

static const struct wl_callback_listener burst_listener = {
	.done = handle_burst_done,
};

// The requests are made once and sent as bytes: the sender is to cost next to nothing.
static size_t send_bursts(const struct job *job, struct connection *connection,
	struct wl_surface *surface, struct stopwatch *watch)
{
	struct damage_request requests[BURST_REQUESTS];
	for (int i = 0; i < BURST_REQUESTS; i++) {
		requests[i] = (struct damage_request){
			.object = wl_proxy_get_id((struct wl_proxy *)surface),
			.size_and_opcode = (uint32_t)sizeof(requests[i]) << 16 | WL_SURFACE_DAMAGE,
			.x = i,
			.width = 1,
			.height = 1,
		};
	}
	int fd = wl_display_get_fd(connection->display);
	size_t sent = 0, outstanding = 0;
	double end = clock_now() + job->seconds;
	stopwatch_start(watch);
	while (sent < job->count && clock_now() < end) {
		for (int i = 0; i < BURSTS_PER_SYNC; i++) {
			send_all(fd, requests, sizeof(requests));
		}
		sent += BURST_REQUESTS * BURSTS_PER_SYNC;
		struct wl_callback *callback = wl_display_sync(connection->display);
		wl_callback_add_listener(callback, &burst_listener, &outstanding);
		wl_display_flush(connection->display);
		outstanding++;
		while (outstanding > 1) {
			connection_dispatch(connection);
		}
	}
	while (outstanding > 0) {
		connection_dispatch(connection);
	}
	stopwatch_stop(watch);
	return sent;
}

void workload_burst(const struct job *job)
{
	struct connection connection;
	connection_init(&connection);
	struct wl_surface *surface = wl_compositor_create_surface(connection.compositor);
	connection_roundtrip(&connection);
	struct stopwatch watch = {.announce = job->announce};
	size_t sent = send_bursts(job, &connection, surface, &watch);
	printf("{\"workload\": \"burst\", \"count\": %zu, \"seconds\": %.6f, "
	       "\"requests_per_s\": %.0f}\n",
		sent, watch.total, (double)sent / watch.total);
	wl_surface_destroy(surface);
	connection_finish(&connection);
}
