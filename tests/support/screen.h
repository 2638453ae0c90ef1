#ifndef TESTS_SUPPORT_SCREEN_H
#define TESTS_SUPPORT_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-server-core.h>

/**
 * The test compositor's wl_shm, wl_compositor, wl_subcompositor and wp_viewporter. Pools keep their
 * fd, and pixels are read by pread(2), so that a test can look at what a client made of its pool.
 */

struct compositor;

struct screen {
	struct compositor *compositor;
	struct wl_list pools;    // screen_pool.link, newest first
	struct wl_list surfaces; // screen_surface.link, newest first
	bool keeps_buffers;      // no wl_buffer.release
};

struct screen_pool {
	struct wl_list link;
	unsigned int refs; // its resource and its buffers
	int fd;
	size_t size; // as announced
};

struct screen_buffer {
	struct wl_resource *resource;
	struct screen_pool *pool;
	int32_t offset, width, height, stride;
	uint32_t format;
};

struct screen_surface {
	struct wl_list link;
	struct wl_resource *resource;
	bool attached; // pending
	struct wl_resource *pending, *current;
	struct wl_listener pending_gone, current_gone;
	struct wl_list frames; // of wl_callback resources
	unsigned int commits;
	// What the buffer held at the last commit: from its first byte to the end of its pool's file,
	// at most three times stride * height.
	uint8_t *picture;
	size_t picture_size;
	struct screen_buffer shown; // its resource may be gone
};

// Adds the globals.
void screen_init(struct screen *screen, struct compositor *compositor);
void screen_finish(struct screen *screen); // after the compositor's clients are gone

struct screen_pool *screen_pool(const struct screen *screen, size_t newest_first);
struct screen_surface *screen_surface(const struct screen *screen, uint32_t id); // or NULL
struct screen_buffer *screen_buffer(struct wl_resource *resource);

// Reads or writes a buffer's bytes: how many there were.
size_t screen_read(const struct screen_buffer *buffer, void *data, size_t len);
size_t screen_write(const struct screen_buffer *buffer, const void *data, size_t len);

#endif
