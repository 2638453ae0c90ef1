#ifndef TESTS_SUPPORT_PAINT_H
#define TESTS_SUPPORT_PAINT_H

#include <stddef.h>
#include <stdint.h>

/**
 * A client's buffers, and random numbers that are the same in every run.
 */

struct client;
struct wl_buffer;
struct wl_shm;
struct wl_shm_pool;
struct wl_surface;

struct paint_pool {
	struct wl_shm_pool *pool;
	int fd;
	uint8_t *data; // room for PAINT_POOL_MAX, of which size is there
	size_t size;
};

#define PAINT_POOL_MAX (256u << 20)

void paint_pool_init(struct paint_pool *pool, struct wl_shm *shm, size_t size);
void paint_pool_resize(struct paint_pool *pool, size_t size); // only tells if it grows
void paint_pool_finish(struct paint_pool *pool); // with its object, unless that is NULL

// Of a dma-buf of rows, which is borrowed: XRGB8888.
struct wl_buffer *paint_dmabuf_buffer(
	struct client *client, int fd, int32_t width, int32_t height, uint32_t stride);
// Attaches, damages all of it and commits.
void paint_show(struct wl_surface *surface, struct wl_buffer *buffer);

struct paint_rng {
	uint64_t state;
};

uint32_t paint_next(struct paint_rng *rng);
// In [low, high].
int32_t paint_range(struct paint_rng *rng, int32_t low, int32_t high);
// True once in n times.
int paint_once_in(struct paint_rng *rng, int32_t n);
void paint_noise(struct paint_rng *rng, uint8_t *data, size_t len);

#endif
