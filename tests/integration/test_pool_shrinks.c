#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

#define SIZE (40 * 30 * 4)

/*
 * A pool's file loses its second half while a buffer in the first one is committed, and gets it
 * back, drawn as it was. The compositor must not be left with the hole.
 */
static void what_a_pool_has_lost_for_a_while_is_sent_again(void **state)
{
	(void)state;
	struct world *world = world_create();
	struct client *client = client_create(world, NULL);
	struct wl_compositor *compositor = client_bind(client, &wl_compositor_interface, 4);
	struct wl_shm *shm = client_bind(client, &wl_shm_interface, 1);
	struct paint_pool pool;
	struct paint_rng rng = {.state = 5};
	uint8_t picture[SIZE];
	paint_pool_init(&pool, shm, 2 * SIZE);
	paint_noise(&rng, pool.data, 2 * SIZE);
	struct wl_surface *surfaces[2];
	struct wl_buffer *buffers[2];
	for (int32_t i = 0; i < 2; i++) {
		surfaces[i] = wl_compositor_create_surface(compositor);
		buffers[i] = wl_shm_pool_create_buffer(
			pool.pool, i * SIZE, 40, 30, 160, WL_SHM_FORMAT_ARGB8888);
		wl_surface_attach(surfaces[i], buffers[i], 0, 0);
		wl_surface_commit(surfaces[i]);
	}
	client_roundtrip(client);

	memcpy(picture, pool.data + SIZE, SIZE);
	assert_int_equal(ftruncate(pool.fd, SIZE), 0);
	wl_surface_damage_buffer(surfaces[0], 0, 0, 40, 30);
	wl_surface_commit(surfaces[0]);
	client_roundtrip(client);
	assert_int_equal(ftruncate(pool.fd, 2 * SIZE), 0);
	picture[0]++;
	memcpy(pool.data + SIZE, picture, SIZE);
	wl_surface_attach(surfaces[1], buffers[1], 0, 0);
	wl_surface_damage_buffer(surfaces[1], 0, 0, 1, 1);
	wl_surface_commit(surfaces[1]);
	client_roundtrip(client);
	const struct screen_surface *far = client_shown(client, surfaces[1]);
	assert_memory_equal(far->picture, picture, SIZE);

	for (size_t i = 0; i < 2; i++) {
		wl_buffer_destroy(buffers[i]);
		wl_surface_destroy(surfaces[i]);
	}
	paint_pool_finish(&pool);
	wl_shm_destroy(shm);
	wl_compositor_destroy(compositor);
	world_destroy(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_a_pool_has_lost_for_a_while_is_sent_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
