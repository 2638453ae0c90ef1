#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "relay/session.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/pages.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

/*
 * Pools that cross by their pages: what a compositor is told of them, and for how long.
 */

#define WIDTH  100
#define HEIGHT 80
#define STRIDE (WIDTH * 4)
#define SIZE   (STRIDE * HEIGHT)
#define ARGB   WL_SHM_FORMAT_ARGB8888

struct stage {
	struct page_world pages;
	struct world *world;
	struct client *client;
	struct wl_compositor *compositor;
	struct wl_shm *shm;
	struct wl_surface *surface;
	struct paint_pool pool;
	struct paint_rng rng;
	unsigned int resized; // pools, as the compositor was told
};

static void count_resize(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	((struct stage *)data)->resized++;
}

static void begin(struct stage *stage)
{
	*stage = (struct stage){.rng = {.state = 23}};
	page_world_init(&stage->pages);
	stage->world = world_create();
	compositor_hook(stage->world->compositor, "wl_shm_pool", "resize", count_resize, stage);
	stage->client = client_create(stage->world,
		&(struct pair_options){
			.pinner = &stage->pages.pinner, .page_buffers = &stage->pages.buffers});
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 5);
	stage->shm = client_bind(stage->client, &wl_shm_interface, 1);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	paint_pool_init(&stage->pool, stage->shm, 2 * SIZE);
	paint_noise(&stage->rng, stage->pool.data, 2 * SIZE);
}

static void end(struct stage *stage)
{
	paint_pool_finish(&stage->pool);
	wl_surface_destroy(stage->surface);
	wl_shm_destroy(stage->shm);
	wl_compositor_destroy(stage->compositor);
	world_destroy(stage->world);
	page_world_finish(&stage->pages);
}

static struct wl_buffer *make_buffer(struct stage *stage, size_t offset)
{
	return wl_shm_pool_create_buffer(
		stage->pool.pool, (int32_t)offset, WIDTH, HEIGHT, STRIDE, ARGB);
}

static void commit(struct stage *stage, struct wl_buffer *buffer)
{
	wl_surface_attach(stage->surface, buffer, 0, 0);
	wl_surface_damage_buffer(stage->surface, 0, 0, 1, 1);
	wl_surface_commit(stage->surface);
	client_roundtrip(stage->client);
}

/* What the compositor finds in the buffer now, whatever it was told of damage. */
static void expect_seen(struct stage *stage, size_t offset)
{
	static uint8_t seen[SIZE];
	uint32_t id = wl_proxy_get_id((struct wl_proxy *)stage->surface);
	const struct screen_surface *far = screen_surface(&stage->world->screen, id);
	assert_non_null(far);
	assert_int_equal(screen_read(&far->shown, seen, SIZE), SIZE);
	assert_memory_equal(seen, stage->pool.data + offset, SIZE);
}

static void expect_nothing_pushed(const struct stage *stage)
{
	const struct stats *guest = session_stats(stage->client->pair.guest.session);
	const struct stats *host = session_stats(stage->client->pair.host.session);
	assert_int_equal(guest->memory_bytes_sent, 0);
	assert_int_equal(guest->memory_bytes_twinned, 0);
	assert_int_equal(host->memory_bytes_sent, 0);
}

static void pixels_are_there_though_nothing_is_pushed(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *buffer = make_buffer(&stage, SIZE);
	commit(&stage, buffer);
	expect_seen(&stage, SIZE);
	paint_noise(&stage.rng, stage.pool.data, 2 * SIZE); // not even committed
	expect_seen(&stage, SIZE);
	expect_nothing_pushed(&stage);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void two_buffers_of_a_surface_need_no_copy_of_each_other(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *buffers[] = {make_buffer(&stage, 0), make_buffer(&stage, SIZE)};
	for (size_t i = 0; i < 10; i++) {
		paint_noise(&stage.rng, stage.pool.data, 2 * SIZE);
		commit(&stage, buffers[i % 2]);
		expect_seen(&stage, i % 2 * SIZE);
	}
	expect_nothing_pushed(&stage);
	wl_buffer_destroy(buffers[0]);
	wl_buffer_destroy(buffers[1]);
	end(&stage);
}

static void a_pool_that_grows_is_another_one_with_its_id(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *old = make_buffer(&stage, 0);
	for (size_t i = 2; i < 10; i++) {
		paint_pool_resize(&stage.pool, (i + 1) * SIZE);
		paint_noise(&stage.rng, stage.pool.data, (i + 1) * SIZE);
		struct wl_buffer *buffer = make_buffer(&stage, i * SIZE);
		commit(&stage, buffer);
		expect_seen(&stage, i * SIZE);
		assert_int_equal(screen_pool(&stage.world->screen, 0)->size, (i + 1) * SIZE);
		commit(&stage, old);
		expect_seen(&stage, 0);
		wl_buffer_destroy(buffer);
		client_roundtrip(stage.client);
		assert_int_equal(stage.pages.pinned, 2); // the one of old, and the last one
	}
	assert_int_equal(stage.resized, 0);
	assert_int_equal(stage.pages.made, 9);
	expect_nothing_pushed(&stage);
	wl_buffer_destroy(old);
	commit(&stage, NULL); // or it would be what is shown
	assert_int_equal(stage.pages.pinned, 1);
	end(&stage);
}

/* All in one go, as cursors are loaded: the compositor answers when it is all over. */
static void a_pool_grows_many_times_before_anybody_answers(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *buffers[20];
	for (size_t i = 0; i < 20; i++) {
		paint_pool_resize(&stage.pool, (i + 3) * SIZE);
		buffers[i] = make_buffer(&stage, (i + 2) * SIZE);
	}
	paint_noise(&stage.rng, stage.pool.data, 22 * SIZE);
	for (size_t i = 0; i < 20; i++) {
		commit(&stage, buffers[i]);
		expect_seen(&stage, (i + 2) * SIZE);
		wl_buffer_destroy(buffers[i]);
	}
	expect_nothing_pushed(&stage);
	end(&stage);
}

/* The client must not see the delete_id of any pool but its own. */
static void ids_are_used_again_as_ever(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	uint32_t id = wl_proxy_get_id((struct wl_proxy *)stage.pool.pool);
	for (size_t i = 0; i < 5; i++) {
		paint_pool_resize(&stage.pool, (i + 3) * SIZE);
	}
	paint_pool_finish(&stage.pool);
	client_roundtrip(stage.client);
	assert_int_equal(stage.pages.pinned, 0);
	// The id of the round trip's callback is given out first.
	struct wl_surface *surfaces[] = {wl_compositor_create_surface(stage.compositor),
		wl_compositor_create_surface(stage.compositor)};
	assert_int_equal(wl_proxy_get_id((struct wl_proxy *)surfaces[1]), id);
	client_roundtrip(stage.client);
	wl_surface_destroy(surfaces[0]);
	wl_surface_destroy(surfaces[1]);
	paint_pool_init(&stage.pool, stage.shm, SIZE);
	client_roundtrip(stage.client);
	end(&stage);
}

static void a_pool_that_can_be_pinned_no_more_goes_by_rows_when_it_grows(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *old = make_buffer(&stage, 0);
	commit(&stage, old);
	stage.pages.refuses = true;
	paint_pool_resize(&stage.pool, 3 * SIZE);
	paint_noise(&stage.rng, stage.pool.data, 3 * SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 2 * SIZE);
	commit(&stage, buffer);
	expect_seen(&stage, 2 * SIZE);
	assert_int_equal(session_stats(stage.client->pair.guest.session)->memory_bytes_sent, SIZE);
	paint_noise(&stage.rng, stage.pool.data, SIZE);
	commit(&stage, old);
	expect_seen(&stage, 0);
	paint_pool_resize(&stage.pool, 4 * SIZE); // as any other, from now on
	client_roundtrip(stage.client);
	assert_int_equal(stage.resized, 1);
	wl_buffer_destroy(old);
	wl_buffer_destroy(buffer);
	end(&stage);
}

/* As foot does it with what has scrolled out of sight: the file has another page there next time. */
static void a_pool_whose_pages_are_exchanged_goes_by_rows_from_then_on(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *old = make_buffer(&stage, SIZE);
	commit(&stage, old);
	assert_int_equal(
		fallocate(stage.pool.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE), 0);
	paint_noise(&stage.rng, stage.pool.data, SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, buffer);
	expect_seen(&stage, 0);
	assert_int_equal(session_stats(stage.client->pair.guest.session)->memory_bytes_sent, SIZE);
	assert_int_equal(stage.pages.made, 1);
	commit(&stage, old);
	expect_seen(&stage, SIZE);
	wl_buffer_destroy(old);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_pool_that_shrinks_is_for_the_compositor_to_reject(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	wl_shm_pool_resize(stage.pool.pool, SIZE);
	client_roundtrip(stage.client);
	assert_int_equal(stage.resized, 1);
	end(&stage);
}

static void expect_end(struct stage *stage, const char *reason)
{
	client_wait_failed(stage->client);
	assert_non_null(strstr(stage->client->error, reason));
	client_wait_over(stage->client);
	end(stage);
}

static void a_host_that_cannot_make_a_buffer_ends_the_session(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	client_roundtrip(stage.client);
	stage.pages.fails = true;
	paint_pool_resize(&stage.pool, 3 * SIZE);
	expect_end(&stage, "a range that is not the guest's memory");
}

static void what_is_pinned_is_free_when_its_client_is_gone(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, buffer);
	assert_int_equal(stage.pages.pinned, 1);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void ten_thousand_pools_leave_nothing_behind(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	client_roundtrip(stage.client);
	size_t fds = fd_count();
	for (size_t i = 0; i < 10000; i++) {
		wl_shm_pool_destroy(wl_shm_create_pool(stage.shm, stage.pool.fd, SIZE));
		if (i % 100 == 99) {
			client_roundtrip(stage.client);
		}
	}
	client_roundtrip(stage.client);
	assert_int_equal(stage.pages.pinned, 1);
	assert_int_equal(stage.pages.made, 10001);
	assert_int_equal(fd_count(), fds);
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(pixels_are_there_though_nothing_is_pushed),
		fd_count_test(two_buffers_of_a_surface_need_no_copy_of_each_other),
		fd_count_test(a_pool_that_grows_is_another_one_with_its_id),
		fd_count_test(a_pool_grows_many_times_before_anybody_answers),
		fd_count_test(ids_are_used_again_as_ever),
		fd_count_test(a_pool_that_can_be_pinned_no_more_goes_by_rows_when_it_grows),
		fd_count_test(a_pool_whose_pages_are_exchanged_goes_by_rows_from_then_on),
		fd_count_test(a_pool_that_shrinks_is_for_the_compositor_to_reject),
		fd_count_test(a_host_that_cannot_make_a_buffer_ends_the_session),
		fd_count_test(what_is_pinned_is_free_when_its_client_is_gone),
		fd_count_test(ten_thousand_pools_leave_nothing_behind),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
