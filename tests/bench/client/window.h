#ifndef TESTS_BENCH_CLIENT_WINDOW_H
#define TESTS_BENCH_CLIENT_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct connection;
struct samples;

struct rectangle {
	int x, y, width, height;
};

struct window_buffer {
	struct wl_buffer *buffer;
	uint32_t *pixels; // mapped
	bool busy;        // until wl_buffer.release
};

// A toplevel with two XRGB8888 buffers that take turns.
struct window {
	struct connection *connection;
	int width, height;
	size_t buffer_size;
	struct wl_surface *surface;
	struct xdg_surface *xdg_surface;
	struct xdg_toplevel *toplevel;
	bool configured;

	void *pool; // of wl_shm, with both buffers; NULL: they are dma-bufs
	struct window_buffer buffers[2];
	uint64_t committed, done; // commits with a frame callback, and those callbacks
	uint64_t shown;           // commits with a buffer among them
	double committed_at[2];
	struct samples *latencies; // of frame callbacks, in seconds; may be NULL

	int verified, mismatched; // the compositor's count
};

// Returns when the window is configured. Ends the program on failure, as everything here.
void window_init(struct window *window, struct connection *connection, int width, int height);
// The same with dma-bufs for buffers, linear ones without padding, which stay the caller's.
void window_init_dmabufs(struct window *window, struct connection *connection, int width,
	int height, const int dmabufs[2]);
void window_finish(struct window *window);

// Waits until the buffer whose turn it is is free.
struct window_buffer *window_wait_buffer(struct window *window);
// Commits the buffer whose turn it is, and asks for a frame callback.
void window_commit(struct window *window, const struct rectangle *damage);
// Commits nothing new, and asks for a frame callback.
void window_commit_bare(struct window *window);
// Waits until every commit had its frame callback.
void window_drain(struct window *window);

// Shows the last committed buffer again, undamaged, and has the compositor compare it with a
// checksum of what it should be.
void window_verify(struct window *window);

#endif
