#include "tests/bench/client/workloads.h"

#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "tests/bench/client/clock.h"
#include "tests/bench/client/connection.h"
#include "tests/bench/client/window.h"
#include "tests/bench/noise.h"

#define BATCH 17 // odd, so that each of the two buffers is verified in turn

// Of commits that show nothing new, and of frames.
struct latencies {
	struct samples bare, frames;
};

static void find_buffers(int fds[2])
{
	const char *text = getenv("BENCH_DMABUFS");
	if (text == NULL || sscanf(text, "%d,%d", &fds[0], &fds[1]) != 2) {
		errx(1, "$BENCH_DMABUFS has to be the numbers of two fds");
	}
}

// A pixel of each row changes: enough for a copy to need them all, and little to do for a client.
static void paint(const struct window *window, uint32_t *pixels)
{
	for (int y = 0; y < window->height; y++) {
		pixels[(size_t)y * (size_t)window->width] = (uint32_t)window->shown * 2 + 1;
	}
}

static void commit_bare(struct window *window, struct samples *samples)
{
	window->latencies = samples;
	window_commit_bare(window);
	window_drain(window);
}

static void show_frame(struct window *window, struct samples *samples)
{
	const struct rectangle all = {.width = window->width, .height = window->height};
	paint(window, window_wait_buffer(window)->pixels);
	window->latencies = samples;
	window_commit(window, &all);
	window_drain(window);
}

static void show_first_frames(struct window *window)
{
	for (uint64_t i = 0; i < 2; i++) {
		noise_fill(window_wait_buffer(window)->pixels, window->buffer_size, i);
		show_frame(window, NULL);
		window_verify(window);
	}
}

static void show_batch(struct window *window, struct latencies *latencies)
{
	for (int i = 0; i < BATCH; i++) {
		commit_bare(window, &latencies->bare);
		show_frame(window, &latencies->frames);
	}
}

static void print(struct window *window, struct latencies *latencies)
{
	printf("{\"workload\": \"dmabuf\", \"width\": %d, \"height\": %d, \"count\": %zu, "
	       "\"p50_us\": %.2f, \"p95_us\": %.2f, \"bare_p50_us\": %.2f, "
	       "\"bare_p95_us\": %.2f, \"verified\": %d, \"mismatched\": %d}\n",
		window->width, window->height, latencies->frames.count,
		samples_quantile(&latencies->frames, 0.5) * 1e6,
		samples_quantile(&latencies->frames, 0.95) * 1e6,
		samples_quantile(&latencies->bare, 0.5) * 1e6,
		samples_quantile(&latencies->bare, 0.95) * 1e6, window->verified,
		window->mismatched);
	samples_finish(&latencies->bare);
	samples_finish(&latencies->frames);
}

void workload_dmabuf(const struct job *job)
{
	int fds[2];
	find_buffers(fds);
	struct connection connection;
	connection_init(&connection);
	struct window window;
	window_init_dmabufs(&window, &connection, job->width, job->height, fds);
	show_first_frames(&window);

	struct latencies latencies = {0};
	double end = clock_now() + job->seconds;
	while (latencies.frames.count < job->count && clock_now() < end) {
		show_batch(&window, &latencies);
		window_verify(&window);
	}
	print(&window, &latencies);
	window_finish(&window);
	connection_finish(&connection);
}
