#include "tests/support/paint.h"

#include <drm_fourcc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-client.h>

#include "linux-dmabuf-client.h"
#include "tests/support/world.h"

void paint_pool_init(struct paint_pool *pool, struct wl_shm *shm, size_t size)
{
	*pool = (struct paint_pool){.size = size};
	pool->fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	pool->data = mmap(NULL, PAINT_POOL_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, pool->fd, 0);
	if (pool->fd < 0 || pool->data == MAP_FAILED || ftruncate(pool->fd, (off_t)size) < 0) {
		abort();
	}
	pool->pool = wl_shm_create_pool(shm, pool->fd, (int32_t)size);
}

void paint_pool_resize(struct paint_pool *pool, size_t size)
{
	if (ftruncate(pool->fd, (off_t)size) < 0) {
		abort();
	}
	if (size > pool->size) {
		wl_shm_pool_resize(pool->pool, (int32_t)size);
	}
	pool->size = size;
}

void paint_pool_finish(struct paint_pool *pool)
{
	if (pool->pool != NULL) {
		wl_shm_pool_destroy(pool->pool);
	}
	munmap(pool->data, PAINT_POOL_MAX);
	close(pool->fd);
}

struct wl_buffer *paint_dmabuf_buffer(
	struct client *client, int fd, int32_t width, int32_t height, uint32_t stride)
{
	struct zwp_linux_dmabuf_v1 *dmabuf = client_bind(client, &zwp_linux_dmabuf_v1_interface, 3);
	struct zwp_linux_buffer_params_v1 *params = zwp_linux_dmabuf_v1_create_params(dmabuf);
	zwp_linux_buffer_params_v1_add(params, fd, 0, 0, stride, 0, 0);
	struct wl_buffer *buffer = zwp_linux_buffer_params_v1_create_immed(
		params, width, height, DRM_FORMAT_XRGB8888, 0);
	zwp_linux_buffer_params_v1_destroy(params);
	zwp_linux_dmabuf_v1_destroy(dmabuf);
	return buffer;
}

void paint_show(struct wl_surface *surface, struct wl_buffer *buffer)
{
	wl_surface_attach(surface, buffer, 0, 0);
	wl_surface_damage_buffer(surface, 0, 0, INT32_MAX, INT32_MAX);
	wl_surface_commit(surface);
}

uint32_t paint_next(struct paint_rng *rng)
{
	// splitmix64 (Steele, Lea, Flood 2014)
	uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (uint32_t)((z ^ (z >> 31)) >> 16);
}

int32_t paint_range(struct paint_rng *rng, int32_t low, int32_t high)
{
	return low + (int32_t)(paint_next(rng) % ((uint32_t)(high - low) + 1));
}

int paint_once_in(struct paint_rng *rng, int32_t n)
{
	return paint_range(rng, 1, n) == 1;
}

void paint_noise(struct paint_rng *rng, uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		data[i] = (uint8_t)paint_next(rng);
	}
}
