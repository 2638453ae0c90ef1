#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "relay/session.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

/*
 * Pools in a region: what a compositor is told of them, and what becomes of their bytes.
 */

#define WIDTH  100
#define HEIGHT 80
#define STRIDE (WIDTH * 4)
#define SIZE   (STRIDE * HEIGHT)
#define ARGB   WL_SHM_FORMAT_ARGB8888

struct stage {
	struct world *world;
	struct client *client;
	struct wl_compositor *compositor;
	struct wl_shm *shm;
	struct wl_surface *surface;
	struct paint_pool pool;
	struct paint_rng rng;
};

// A region is passed by a UNIX socket only.
static void make_channel(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void begin_pool(struct stage *stage, size_t size)
{
	paint_pool_init(&stage->pool, stage->shm, size);
	paint_noise(&stage->rng, stage->pool.data, size);
}

static void begin_with(struct stage *stage, const struct pair_options *options)
{
	*stage = (struct stage){.rng = {.state = 11}};
	stage->world = world_create();
	stage->client = client_create(stage->world, options);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 5);
	stage->shm = client_bind(stage->client, &wl_shm_interface, 1);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	begin_pool(stage, 2 * SIZE);
}

static void begin(struct stage *stage)
{
	begin_with(stage, &(struct pair_options){.region = true, .make_channel = make_channel});
}

static uint64_t bytes_shared(const struct stage *stage)
{
	return session_stats(stage->client->pair.guest.session)->memory_bytes_shared;
}

static void end(struct stage *stage)
{
	paint_pool_finish(&stage->pool);
	wl_surface_destroy(stage->surface);
	wl_shm_destroy(stage->shm);
	wl_compositor_destroy(stage->compositor);
	world_destroy(stage->world);
}

static struct wl_buffer *make_buffer(struct stage *stage, size_t offset)
{
	return wl_shm_pool_create_buffer(
		stage->pool.pool, (int32_t)offset, WIDTH, HEIGHT, STRIDE, ARGB);
}

static void commit(struct stage *stage, struct wl_buffer *buffer)
{
	paint_show(stage->surface, buffer);
	client_roundtrip(stage->client);
}

static void expect_shown(struct stage *stage, struct wl_surface *surface, size_t offset)
{
	const struct screen_surface *far = client_shown(stage->client, surface);
	assert_true(far->picture_size >= SIZE);
	assert_memory_equal(far->picture, stage->pool.data + offset, SIZE);
}

/* ---- pixels ---- */

static void pixels_are_there_and_do_not_cross_the_channel(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_buffer *buffer = make_buffer(&stage, SIZE);
	commit(&stage, buffer);
	expect_shown(&stage, stage.surface, SIZE);
	assert_int_equal(bytes_shared(&stage), SIZE);
	const struct stats *stats = session_stats(stage.client->pair.guest.session);
	assert_int_equal(stats->memory_bytes_sent, 0);
	assert_in_range(stats->channel_bytes_sent, 1, SIZE / 2);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void where_the_fd_gets_lost_pixels_go_by_the_channel(void **state)
{
	(void)state;
	struct stage stage;
	begin_with(&stage,
		&(struct pair_options){
			.region = true, .loses_region = true, .make_channel = make_channel});
	struct wl_buffer *buffer = make_buffer(&stage, SIZE);
	commit(&stage, buffer);
	expect_shown(&stage, stage.surface, SIZE);
	assert_int_equal(bytes_shared(&stage), 0);
	assert_int_equal(session_stats(stage.client->pair.guest.session)->memory_bytes_sent, SIZE);
	wl_buffer_destroy(buffer);
	end(&stage);
}

/* Each time, buffers of the old size are under way, and committed again later. */
static void a_pool_is_moved_with_buffers_in_flight(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	stage.world->screen.keeps_buffers = true;
	struct wl_surface *other = wl_compositor_create_surface(stage.compositor);
	struct wl_buffer *old = make_buffer(&stage, 0);
	for (size_t i = 2; i < 40; i += i) {
		paint_show(stage.surface, old);
		struct wl_buffer *before = make_buffer(&stage, SIZE); // goes with the resize
		paint_pool_resize(&stage.pool, (i + 1) * SIZE);
		paint_noise(&stage.rng, stage.pool.data + i * SIZE, SIZE);
		struct wl_buffer *buffer = make_buffer(&stage, i * SIZE);
		paint_show(other, buffer);
		client_roundtrip(stage.client);
		expect_shown(&stage, stage.surface, 0);
		expect_shown(&stage, other, i * SIZE);
		paint_show(other, before);
		paint_noise(&stage.rng, stage.pool.data, SIZE);
		commit(&stage, old);
		expect_shown(&stage, stage.surface, 0);
		expect_shown(&stage, other, SIZE);
		wl_buffer_destroy(before);
		wl_buffer_destroy(buffer);
	}
	assert_true(bytes_shared(&stage) > 0);
	wl_buffer_destroy(old);
	wl_surface_destroy(other);
	end(&stage);
}

/* ---- lifetimes ---- */

/* Where the compositor has the buffer that was committed last; the fd is the caller's. */
static int place_of(struct stage *stage, int32_t *offset)
{
	const struct screen_buffer *shown = &client_shown(stage->client, stage->surface)->shown;
	*offset = shown->offset;
	return fcntl(shown->pool->fd, F_DUPFD_CLOEXEC, 0);
}

static void a_new_pool_with_other_pixels(struct stage *stage)
{
	paint_pool_finish(&stage->pool);
	begin_pool(stage, 2 * SIZE);
	struct wl_buffer *buffer = make_buffer(stage, 0);
	commit(stage, buffer);
	expect_shown(stage, stage->surface, 0);
	wl_buffer_destroy(buffer);
	client_roundtrip(stage->client);
}

static void what_is_shown_keeps_its_pixels_though_its_buffer_is_gone(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	stage.world->screen.keeps_buffers = true;
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, buffer);
	uint8_t before[SIZE], after[SIZE];
	int32_t offset;
	int fd = place_of(&stage, &offset);
	assert_int_equal(pread(fd, before, SIZE, offset), SIZE);
	assert_memory_equal(before, stage.pool.data, SIZE);
	wl_buffer_destroy(buffer);
	struct wl_surface *shows = stage.surface;
	stage.surface = wl_compositor_create_surface(stage.compositor);
	for (size_t i = 0; i < 5; i++) {
		a_new_pool_with_other_pixels(&stage);
	}
	wl_surface_destroy(stage.surface);
	stage.surface = shows;
	assert_int_equal(pread(fd, after, SIZE, offset), SIZE);
	assert_memory_equal(before, after, SIZE);
	close(fd);
	end(&stage);
}

/* Whether the compositor releases buffers or not: they are shown no more, and it knows that. */
static void makes_room(bool released)
{
	struct stage stage;
	begin(&stage);
	stage.world->screen.keeps_buffers = !released;
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, buffer);
	int32_t first, last;
	close(place_of(&stage, &first));
	wl_buffer_destroy(buffer);
	client_roundtrip(stage.client);
	for (size_t i = 0; i < 5; i++) {
		a_new_pool_with_other_pixels(&stage);
	}
	buffer = make_buffer(&stage, 0);
	commit(&stage, buffer);
	close(place_of(&stage, &last));
	assert_in_range(last, 0, first + 2 * (2 * SIZE + 65536)); // two pools, at most, at a time
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void what_was_released_makes_room(void **state)
{
	(void)state;
	makes_room(true);
}

static void what_is_shown_no_more_makes_room_though_never_released(void **state)
{
	(void)state;
	makes_room(false);
}

/* ---- what the compositor rejects ---- */

static void expect_rejected(struct stage *stage, const char *error)
{
	client_wait_failed(stage->client);
	assert_non_null(strstr(stage->client->error, error));
	client_wait_over(stage->client);
	end(stage);
}

static void buffers_that_leave_their_pool_are_rejected_though_the_region_goes_on(void **state)
{
	(void)state;
	static const int32_t offsets[] = {
		SIZE + 1, 2 * SIZE, INT32_MAX, INT32_MAX - SIZE, -1, -SIZE, INT32_MIN};
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		struct stage stage;
		begin(&stage);
		struct wl_shm_pool *second = wl_shm_create_pool(stage.shm, stage.pool.fd, 2 * SIZE);
		struct wl_buffer *buffer =
			wl_shm_pool_create_buffer(second, offsets[i], WIDTH, HEIGHT, STRIDE, ARGB);
		wl_buffer_destroy(buffer);
		wl_shm_pool_destroy(second);
		expect_rejected(&stage, "invalid width, height or stride");
	}
}

static void a_pool_that_shrinks_is_rejected(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	wl_shm_pool_resize(stage.pool.pool, 2 * SIZE);
	client_roundtrip(stage.client);
	wl_shm_pool_resize(stage.pool.pool, 2 * SIZE - 1);
	expect_rejected(&stage, "shrinking pool invalid");
}

static void a_pool_of_no_size_is_rejected(void **state)
{
	(void)state;
	static const int32_t sizes[] = {0, -1, INT32_MIN};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct stage stage;
		begin(&stage);
		wl_shm_pool_destroy(wl_shm_create_pool(stage.shm, stage.pool.fd, sizes[i]));
		expect_rejected(&stage, "failed mmap fd");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(pixels_are_there_and_do_not_cross_the_channel),
		fd_count_test(where_the_fd_gets_lost_pixels_go_by_the_channel),
		fd_count_test(a_pool_is_moved_with_buffers_in_flight),
		fd_count_test(what_is_shown_keeps_its_pixels_though_its_buffer_is_gone),
		fd_count_test(what_was_released_makes_room),
		fd_count_test(what_is_shown_no_more_makes_room_though_never_released),
		fd_count_test(buffers_that_leave_their_pool_are_rejected_though_the_region_goes_on),
		fd_count_test(a_pool_that_shrinks_is_rejected),
		fd_count_test(a_pool_of_no_size_is_rejected),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
