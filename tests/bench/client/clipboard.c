#include "tests/bench/client/workloads.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/bench/client/clock.h"
#include "tests/bench/client/connection.h"
#include "tests/bench/noise.h"

#define MIB ((size_t)1 << 20)

// What the source gives and the receiver expects.
struct clip {
	char mime_type[64]; // names this run: an earlier selection may still be there
	char *bytes;
	size_t size;
	struct connection connection;

	struct wl_data_offer *offer; // the latest
	bool offer_matches;
	bool selected;
};

static void write_all(int fd, const char *bytes, size_t size)
{
	while (size > 0) {
		ssize_t written = write(fd, bytes, size);
		if (written < 0 && errno == EAGAIN) {
			struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
			poll(&poll_fd, 1, -1);
			continue;
		}
		if (written < 0) {
			warn("source");
			return; // the receiver misses the rest
		}
		bytes += written;
		size -= (size_t)written;
	}
}

static void handle_target(void *data, struct wl_data_source *source, const char *mime_type)
{
	(void)data, (void)source, (void)mime_type;
}

static void handle_send(void *data, struct wl_data_source *source, const char *mime_type, int fd)
{
	(void)source, (void)mime_type;
	struct clip *clip = data;
	write_all(fd, clip->bytes, clip->size);
	close(fd);
}

static void handle_cancelled(void *data, struct wl_data_source *source)
{
	(void)data, (void)source;
}

static const struct wl_data_source_listener source_listener = {
	.target = handle_target,
	.send = handle_send,
	.cancelled = handle_cancelled,
};

static struct wl_data_device *get_device(struct clip *clip)
{
	connection_init(&clip->connection);
	return wl_data_device_manager_get_data_device(
		clip->connection.data_device_manager, clip->connection.seat);
}

static void handle_mime_type(void *data, struct wl_data_offer *offer, const char *mime_type)
{
	(void)offer;
	struct clip *clip = data;
	clip->offer_matches |= strcmp(mime_type, clip->mime_type) == 0;
}

static void handle_source_actions(void *data, struct wl_data_offer *offer, uint32_t actions)
{
	(void)data, (void)offer, (void)actions;
}

static const struct wl_data_offer_listener offer_listener = {
	.offer = handle_mime_type,
	.source_actions = handle_source_actions,
	.action = handle_source_actions,
};

static void handle_data_offer(
	void *data, struct wl_data_device *device, struct wl_data_offer *offer)
{
	(void)device;
	struct clip *clip = data;
	if (clip->offer != NULL) {
		wl_data_offer_destroy(clip->offer);
	}
	clip->offer = offer;
	clip->offer_matches = false;
	wl_data_offer_add_listener(offer, &offer_listener, clip);
}

static void handle_selection(void *data, struct wl_data_device *device, struct wl_data_offer *offer)
{
	(void)device;
	struct clip *clip = data;
	clip->selected = offer != NULL && offer == clip->offer && clip->offer_matches;
}

static void handle_enter(void *data, struct wl_data_device *device, uint32_t serial,
	struct wl_surface *surface, wl_fixed_t x, wl_fixed_t y, struct wl_data_offer *offer)
{
	(void)data, (void)device, (void)serial, (void)surface, (void)x, (void)y, (void)offer;
}

static void handle_motion(
	void *data, struct wl_data_device *device, uint32_t time, wl_fixed_t x, wl_fixed_t y)
{
	(void)data, (void)device, (void)time, (void)x, (void)y;
}

static void handle_nothing(void *data, struct wl_data_device *device)
{
	(void)data, (void)device;
}

static const struct wl_data_device_listener device_listener = {
	.data_offer = handle_data_offer,
	.enter = handle_enter,
	.leave = handle_nothing,
	.motion = handle_motion,
	.drop = handle_nothing,
	.selection = handle_selection,
};

// Never returns: the receiver ends this process.
static void run_source(struct clip *clip)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	struct wl_data_device *device = get_device(clip);
	wl_data_device_add_listener(device, &device_listener, clip);
	struct wl_data_source *source =
		wl_data_device_manager_create_data_source(clip->connection.data_device_manager);
	wl_data_source_add_listener(source, &source_listener, clip);
	wl_data_source_offer(source, clip->mime_type);
	wl_data_device_set_selection(device, source, 0);
	while (true) {
		connection_dispatch(&clip->connection);
	}
}

static size_t read_all(int fd, char *bytes, size_t size)
{
	size_t got = 0;
	while (got < size) {
		ssize_t length = read(fd, bytes + got, size - got);
		if (length <= 0) {
			break;
		}
		got += (size_t)length;
	}
	char extra;
	return got + (size_t)(read(fd, &extra, 1) > 0 ? 1 : 0);
}

// Into memory that was there before, so that only the transfer is timed.
static void paste(struct clip *clip, char *to, struct stopwatch *watch)
{
	int pipe_fds[2];
	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		err(1, "pipe");
	}
	memset(to, 0, clip->size);
	stopwatch_start(watch);
	wl_data_offer_receive(clip->offer, clip->mime_type, pipe_fds[1]);
	wl_display_flush(clip->connection.display);
	close(pipe_fds[1]);
	size_t got = read_all(pipe_fds[0], to, clip->size);
	stopwatch_stop(watch);
	close(pipe_fds[0]);
	if (got != clip->size) {
		errx(1, "received %zu of %zu bytes", got, clip->size);
	}
	if (noise_sum(to, got) != noise_sum(clip->bytes, clip->size)) {
		errx(1, "received %zu bytes, but not those that were sent", got);
	}
}

static void receive(struct clip *clip, const struct job *job)
{
	struct wl_data_device *device = get_device(clip);
	wl_data_device_add_listener(device, &device_listener, clip);
	while (!clip->selected) {
		connection_dispatch(&clip->connection);
	}
	char *to = malloc(clip->size);
	if (to == NULL) {
		err(1, "clip");
	}
	struct stopwatch watch = {.announce = job->announce};
	size_t mib = 0;
	do {
		paste(clip, to, &watch);
		mib += job->count;
	} while (watch.total < job->seconds);
	printf("{\"workload\": \"clipboard\", \"count\": %zu, \"seconds\": %.6f, "
	       "\"mib_per_s\": %.2f}\n",
		mib, watch.total, (double)mib / watch.total);
	free(to);
	wl_data_offer_destroy(clip->offer);
	wl_data_device_destroy(device);
	connection_finish(&clip->connection);
}

void workload_clipboard(const struct job *job)
{
	struct clip clip = {
		.bytes = malloc(job->count * MIB),
		.size = job->count * MIB,
	};
	if (clip.bytes == NULL) {
		err(1, "clip");
	}
	noise_fill(clip.bytes, clip.size, 1);
	snprintf(clip.mime_type, sizeof(clip.mime_type), "application/x-bench-%d", getpid());
	pid_t source = fork();
	if (source < 0) {
		err(1, "fork");
	}
	if (source == 0) {
		run_source(&clip);
	}
	receive(&clip, job);
	kill(source, SIGKILL);
	waitpid(source, NULL, 0);
	free(clip.bytes);
}
