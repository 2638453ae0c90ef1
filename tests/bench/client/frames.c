#include "tests/bench/client/workloads.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "tests/bench/client/clock.h"
#include "tests/bench/client/connection.h"
#include "tests/bench/client/window.h"
#include "tests/bench/noise.h"

#define SQUARE 64
#define BATCH  17 // odd, so that each of the two buffers is verified in turn

typedef void painter(struct window *window, uint32_t *pixels, uint64_t frame);

#define FIRST_FRAMES 2 // which show noise all over, one in each buffer

struct animation {
	const char *name;
	painter *paint;
	bool full_damage; // else the square alone
	bool lockstep;    // waits for each frame callback; else only for a free buffer
	unsigned int
		rate; // of a screen's frames, per second: one that comes late skips some; 0: none
};

static void square_at(const struct window *window, uint64_t frame, struct rectangle *square)
{
	*square = (struct rectangle){
		.x = (int)(frame * 193 % (uint64_t)(window->width - SQUARE)),
		.y = (int)(frame * 131 % (uint64_t)(window->height - SQUARE)),
		.width = SQUARE,
		.height = SQUARE,
	};
}

static void paint_one_square(struct window *window, uint32_t *pixels, uint64_t frame)
{
	struct rectangle square;
	square_at(window, frame, &square);
	uint32_t *row = pixels + (size_t)square.y * (size_t)window->width + square.x;
	for (int y = 0; y < SQUARE; y++) {
		noise_fill(row, SQUARE * sizeof(*row), frame * SQUARE + (uint64_t)y);
		row += window->width;
	}
}

// This buffer was last painted two frames ago, and lacks the square of the frame between.
static void paint_square(struct window *window, uint32_t *pixels, uint64_t frame)
{
	if (frame > FIRST_FRAMES) {
		paint_one_square(window, pixels, frame - 1);
	}
	paint_one_square(window, pixels, frame);
}

static void paint_noise(struct window *window, uint32_t *pixels, uint64_t frame)
{
	noise_fill(pixels, window->buffer_size, frame);
}

static void paint_nothing(struct window *window, uint32_t *pixels, uint64_t frame)
{
	(void)window, (void)pixels, (void)frame;
}

static void show_frame(struct window *window, const struct animation *animation)
{
	struct window_buffer *buffer = window_wait_buffer(window);
	struct rectangle damage = {.width = window->width, .height = window->height};
	animation->paint(window, buffer->pixels, window->committed);
	if (!animation->full_damage) {
		square_at(window, window->committed, &damage);
	}
	window_commit(window, &damage);
	if (animation->lockstep) {
		window_drain(window);
	}
}

// Both buffers start with the same contents.
static void show_first_frames(struct window *window)
{
	struct rectangle all = {.width = window->width, .height = window->height};
	for (int i = 0; i < FIRST_FRAMES; i++) {
		paint_noise(window, window_wait_buffer(window)->pixels, UINT64_MAX);
		window_commit(window, &all);
		window_drain(window);
		window_verify(window);
	}
}

// A timerfd that is ready at each frame of a screen, from the next one on; -1 without one.
static int start_ticks(const struct animation *animation)
{
	if (animation->rate == 0) {
		return -1;
	}
	const struct timespec tick = {.tv_nsec = 1000000000 / animation->rate};
	const struct itimerspec ticks = {.it_interval = tick, .it_value = tick};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (fd < 0 || timerfd_settime(fd, 0, &ticks, NULL) < 0) {
		perror("timerfd");
		exit(1);
	}
	return fd;
}

static void wait_tick(int ticks)
{
	uint64_t passed;
	if (ticks >= 0 && read(ticks, &passed, sizeof(passed)) < 0) {
		perror("timerfd");
		exit(1);
	}
}

static void show_batch(struct window *window, const struct animation *animation)
{
	int ticks = start_ticks(animation);
	for (int i = 0; i < BATCH; i++) {
		wait_tick(ticks);
		show_frame(window, animation);
	}
	window_drain(window);
	if (ticks >= 0) {
		close(ticks);
	}
}

static void run(const struct job *job, const struct animation *animation)
{
	struct connection connection;
	connection_init(&connection);
	struct window window;
	window_init(&window, &connection, job->width, job->height);
	show_first_frames(&window);
	show_frame(&window, animation);
	show_frame(&window, animation);
	window_drain(&window);

	struct samples latencies = {0};
	struct stopwatch watch = {.announce = job->announce};
	window.latencies = &latencies;
	while (latencies.count < job->count && watch.total < job->seconds) {
		stopwatch_start(&watch);
		show_batch(&window, animation);
		stopwatch_stop(&watch);
		window_verify(&window);
	}
	printf("{\"workload\": \"%s\", \"width\": %d, \"height\": %d, \"count\": %zu, "
	       "\"seconds\": %.6f, \"frames_per_s\": %.2f, \"p50_us\": %.2f, \"p95_us\": %.2f, "
	       "\"verified\": %d, \"mismatched\": %d}\n",
		animation->name, window.width, window.height, latencies.count, watch.total,
		(double)latencies.count / watch.total, samples_quantile(&latencies, 0.5) * 1e6,
		samples_quantile(&latencies, 0.95) * 1e6, window.verified, window.mismatched);
	samples_finish(&latencies);
	window_finish(&window);
	connection_finish(&connection);
}

void workload_damage(const struct job *job)
{
	run(job, &(struct animation){"damage", paint_square, false, true});
}

void workload_paced(const struct job *job)
{
	run(job, &(struct animation){"paced", paint_square, false, true, 60});
}

void workload_full(const struct job *job)
{
	run(job, &(struct animation){"full", paint_noise, true, false});
}

void workload_sparse(const struct job *job)
{
	run(job, &(struct animation){"sparse", paint_square, true, false});
}

void workload_static(const struct job *job)
{
	run(job, &(struct animation){"static", paint_nothing, true, false});
}

void workload_memory(const struct job *job)
{
	struct connection connection;
	connection_init(&connection);
	connection_get_keymap(&connection);
	struct window window;
	window_init(&window, &connection, job->width, job->height);
	show_first_frames(&window);
	printf("{\"workload\": \"memory\", \"pid\": %d, \"verified\": %d, \"mismatched\": %d}\n",
		getpid(), window.verified, window.mismatched);
	fflush(stdout);
	while (getchar() != EOF) {
		// open until stdin ends
	}
	window_finish(&window);
	connection_finish(&connection);
}
