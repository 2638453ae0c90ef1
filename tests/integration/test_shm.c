#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "relay/session.h"
#include "relay/stats.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"
#include "toplevel-icon-client.h"

#define WIDTH  40
#define HEIGHT 30
#define STRIDE (WIDTH * 4)
#define SIZE   (STRIDE * HEIGHT)
#define ARGB   WL_SHM_FORMAT_ARGB8888
#define NV12   0x3231564e // drm_fourcc.h

struct stage {
	struct world *world;
	struct client *client;
	struct wl_compositor *compositor;
	struct wl_shm *shm;
	struct wl_surface *surface;
	struct paint_pool pool;
	struct paint_rng rng;
};

static void begin_with(struct stage *stage, size_t pool_size, const struct pair_options *options)
{
	*stage = (struct stage){.rng = {.state = 7}};
	stage->world = world_create();
	compositor_add_global(stage->world->compositor, &xdg_toplevel_icon_manager_v1_interface, 1);
	stage->client = client_create(stage->world, options);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 5);
	stage->shm = client_bind(stage->client, &wl_shm_interface, 1);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	paint_pool_init(&stage->pool, stage->shm, pool_size);
	paint_noise(&stage->rng, stage->pool.data, pool_size);
}

static void begin(struct stage *stage, size_t pool_size)
{
	begin_with(stage, pool_size, NULL);
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

static void commit(struct stage *stage, struct wl_surface *surface, struct wl_buffer *buffer)
{
	paint_show(surface, buffer);
	client_roundtrip(stage->client);
}

/* What the compositor has of a buffer of size bytes at offset is what the client has. */
static void expect_shown(
	struct stage *stage, struct wl_surface *surface, size_t offset, size_t size)
{
	const struct screen_surface *far = client_shown(stage->client, surface);
	assert_true(far->picture_size >= size);
	assert_memory_equal(far->picture, stage->pool.data + offset, size);
}

static off_t file_size(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return st.st_size;
}

static void a_committed_buffer_holds_what_the_client_drew(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 0, SIZE);
	assert_int_equal(client_shown(stage.client, stage.surface)->commits, 1);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_buffer_attached_without_damage_is_seen_whole_at_first(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	wl_surface_attach(stage.surface, buffer, 0, 0);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	expect_shown(&stage, stage.surface, 0, SIZE);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_buffer_of_one_pixel_crosses(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 4);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, 1, 1, 4, WL_SHM_FORMAT_ARGB8888);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 0, 4);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_buffer_at_the_very_end_of_its_pool_crosses(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 3 * SIZE + 124);
	struct wl_buffer *buffer = make_buffer(&stage, 2 * SIZE + 124);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 2 * SIZE + 124, SIZE);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_large_buffer_crosses_a_channel_that_takes_little(void **state)
{
	(void)state;
	struct stage stage;
	const struct pair_options options = {.channel_buffer = 1, .local_buffer = 1};
	const int32_t width = 1000, height = 700;
	begin_with(&stage, (size_t)width * (size_t)height * 4, &options);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, width, height, width * 4, ARGB);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 0, stage.pool.size);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_row_longer_than_a_frame_crosses(void **state)
{
	(void)state;
	struct stage stage;
	const int32_t width = 200000, height = 3; // 800,000 bytes a row
	begin(&stage, (size_t)width * (size_t)height * 4);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, width, height, width * 4, ARGB);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 0, stage.pool.size);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_pool_grows_with_buffers_in_flight(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	stage.world->screen.keeps_buffers = true;
	struct wl_buffer *old = make_buffer(&stage, 0);
	commit(&stage, stage.surface, old);
	struct wl_surface *other = wl_compositor_create_surface(stage.compositor);
	for (size_t i = 1; i <= 5; i++) {
		wl_surface_attach(stage.surface, old, 0, 0);
		wl_surface_commit(stage.surface);
		paint_pool_resize(&stage.pool, (i + 1) * SIZE);
		paint_noise(&stage.rng, stage.pool.data + i * SIZE, SIZE);
		struct wl_buffer *buffer = make_buffer(&stage, i * SIZE);
		commit(&stage, other, buffer);
		expect_shown(&stage, other, i * SIZE, SIZE);
		expect_shown(&stage, stage.surface, 0, SIZE);
		assert_int_equal(
			file_size(screen_pool(&stage.world->screen, 0)->fd), stage.pool.size);
		wl_buffer_destroy(buffer);
	}
	wl_surface_destroy(other);
	wl_buffer_destroy(old);
	end(&stage);
}

static void buffers_outlive_their_pool(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 2 * SIZE);
	struct wl_buffer *buffers[] = {make_buffer(&stage, 0), make_buffer(&stage, SIZE)};
	wl_shm_pool_destroy(stage.pool.pool);
	stage.pool.pool = NULL;
	for (size_t i = 0; i < 6; i++) {
		size_t at = (i & 1) * SIZE;
		paint_noise(&stage.rng, stage.pool.data + at, SIZE);
		commit(&stage, stage.surface, buffers[i & 1]);
		expect_shown(&stage, stage.surface, at, SIZE);
	}
	wl_buffer_destroy(buffers[0]);
	wl_buffer_destroy(buffers[1]);
	client_roundtrip(stage.client);
	wl_surface_attach(stage.surface, NULL, 0, 0);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	assert_null(screen_pool(&stage.world->screen, 0));
	end(&stage);
}

static bool host_has_no_pool(void *data)
{
	const struct stage *stage = data;
	return stage->client->pair.host.budget.used[BUDGET_FDS] == 0;
}

static void what_is_shown_keeps_no_memory_when_its_buffer_is_gone(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, stage.surface, buffer);
	assert_false(host_has_no_pool(&stage));
	wl_shm_pool_destroy(stage.pool.pool);
	stage.pool.pool = NULL;
	wl_buffer_destroy(buffer);
	world_wait(stage.world, host_has_no_pool, &stage);
	expect_shown(&stage, stage.surface, 0, SIZE);
	// which may be damaged and committed all the same
	wl_surface_damage_buffer(stage.surface, 0, 0, 1, 1);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	end(&stage);
}

static void a_buffer_is_compared_with_one_that_is_gone(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 2 * SIZE);
	struct wl_buffer *buffers[] = {make_buffer(&stage, 0), make_buffer(&stage, SIZE)};
	memcpy(stage.pool.data + SIZE, stage.pool.data, SIZE);
	commit(&stage, stage.surface, buffers[1]);
	stage.pool.data[0]++;
	wl_surface_attach(stage.surface, buffers[0], 0, 0);
	wl_surface_damage_buffer(stage.surface, 0, 0, 1, 1);
	wl_surface_commit(stage.surface);
	wl_buffer_destroy(buffers[0]);
	client_roundtrip(stage.client);
	struct session *guest = stage.client->pair.guest.session;
	const uint64_t sent = session_stats(guest)->memory_bytes_sent;
	memcpy(stage.pool.data + SIZE, stage.pool.data, SIZE);
	stage.pool.data[SIZE + STRIDE]++;
	wl_surface_attach(stage.surface, buffers[1], 0, 0);
	wl_surface_damage_buffer(stage.surface, 0, 1, 1, 1);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	expect_shown(&stage, stage.surface, SIZE, SIZE);
	// the two pixels that it lacked
	assert_int_equal(session_stats(guest)->memory_bytes_sent - sent, 2 * 4);
	wl_buffer_destroy(buffers[1]);
	end(&stage);
}

static void a_pool_may_be_destroyed_at_once(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	for (size_t i = 0; i < 50; i++) {
		struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, stage.pool.fd, SIZE);
		if (i % 2 == 1) {
			wl_buffer_destroy(
				wl_shm_pool_create_buffer(pool, 0, WIDTH, HEIGHT, STRIDE, ARGB));
		}
		wl_shm_pool_destroy(pool);
	}
	client_roundtrip(stage.client);
	end(&stage);
}

static void a_thousand_pools_come_and_go(void **state)
{
	(void)state;
	struct stage stage;
	const struct pair_options options = {.max_fds = 32, .max_memory = 64 * SIZE};
	begin_with(&stage, SIZE, &options);
	for (size_t i = 0; i < 1000; i++) {
		struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, stage.pool.fd, SIZE);
		struct wl_buffer *buffer =
			wl_shm_pool_create_buffer(pool, 0, WIDTH, HEIGHT, STRIDE, ARGB);
		wl_shm_pool_destroy(pool);
		commit(&stage, stage.surface, buffer);
		wl_buffer_destroy(buffer);
	}
	expect_shown(&stage, stage.surface, 0, SIZE);
	end(&stage);
}

static void buffers_that_overlap_are_both_right(void **state)
{
	(void)state;
	struct stage stage;
	const size_t shift = 10 * STRIDE + 36;
	begin(&stage, SIZE + shift);
	struct wl_buffer *first = make_buffer(&stage, 0), *second = make_buffer(&stage, shift);
	for (size_t i = 0; i < 4; i++) {
		paint_noise(&stage.rng, stage.pool.data, SIZE);
		commit(&stage, stage.surface, first);
		expect_shown(&stage, stage.surface, 0, SIZE);
		// One pixel is new to the surface's eye, but all of the second buffer may be.
		memcpy(stage.pool.data + shift, client_shown(stage.client, stage.surface)->picture,
			SIZE);
		stage.pool.data[shift]++;
		wl_surface_attach(stage.surface, second, 0, 0);
		wl_surface_damage_buffer(stage.surface, 0, 0, 1, 1);
		wl_surface_commit(stage.surface);
		client_roundtrip(stage.client);
		expect_shown(&stage, stage.surface, shift, SIZE);
	}
	wl_buffer_destroy(first);
	wl_buffer_destroy(second);
	end(&stage);
}

static void two_surfaces_show_one_buffer(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_surface *other = wl_compositor_create_surface(stage.compositor);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, stage.surface, buffer);
	commit(&stage, other, buffer);
	for (size_t i = 0; i < 6; i++) {
		stage.pool.data[i * STRIDE]++;
		struct wl_surface *surface = i & 1 ? other : stage.surface;
		wl_surface_attach(surface, buffer, 0, 0);
		wl_surface_damage_buffer(surface, 0, 0, 1, (int32_t)i + 1);
		wl_surface_commit(surface);
		client_roundtrip(stage.client);
		expect_shown(&stage, surface, 0, SIZE);
	}
	wl_surface_destroy(other);
	wl_buffer_destroy(buffer);
	end(&stage);
}

/* Beside the pool itself. */
static uint64_t charged_pictures(const struct stage *stage)
{
	uint64_t used = stage->client->pair.host.budget.used[BUDGET_MEMORY];
	return used - stage->pool.size;
}

// A compositor may have a copy of it for each of them.
static void what_each_surface_shows_is_charged(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 2 * SIZE);
	struct wl_buffer *small = make_buffer(&stage, 0);
	struct wl_buffer *tall =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, WIDTH, 2 * HEIGHT, STRIDE, ARGB);
	struct wl_surface *other = wl_compositor_create_surface(stage.compositor);
	commit(&stage, stage.surface, small);
	assert_int_equal(charged_pictures(&stage), SIZE);
	commit(&stage, other, small);
	assert_int_equal(charged_pictures(&stage), 2 * SIZE);
	commit(&stage, other, tall);
	assert_int_equal(charged_pictures(&stage), 3 * SIZE);
	wl_surface_attach(other, small, 0, 0); // and not committed
	client_roundtrip(stage.client);
	assert_int_equal(charged_pictures(&stage), 3 * SIZE);
	wl_surface_destroy(other);
	commit(&stage, stage.surface, NULL);
	assert_int_equal(charged_pictures(&stage), 0);
	wl_buffer_destroy(tall);
	wl_buffer_destroy(small);
	end(&stage);
}

static void more_pictures_than_there_is_memory_end_the_session(void **state)
{
	(void)state;
	struct stage stage;
	const struct pair_options options = {.max_memory = 4 * SIZE};
	struct wl_surface *surfaces[4];
	begin_with(&stage, SIZE, &options);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	for (int i = 0; i < 4; i++) {
		surfaces[i] = wl_compositor_create_surface(stage.compositor);
		paint_show(surfaces[i], buffer);
	}
	client_wait_failed(stage.client);
	assert_non_null(strstr(stage.client->error, "--max-memory"));
	for (int i = 0; i < 4; i++) {
		wl_surface_destroy(surfaces[i]);
	}
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_format_that_nobody_knows_crosses(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, WIDTH, HEIGHT, STRIDE, 0x21212121);
	commit(&stage, stage.surface, buffer);
	stage.pool.data[SIZE - 1]++;
	wl_surface_damage_buffer(stage.surface, WIDTH - 1, HEIGHT - 1, 1, 1);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	expect_shown(&stage, stage.surface, 0, SIZE);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void all_planes_of_a_picture_cross(void **state)
{
	(void)state;
	struct stage stage;
	const size_t luma = WIDTH * HEIGHT, all = luma * 3 / 2;
	begin(&stage, all);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, WIDTH, HEIGHT, WIDTH, NV12);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 0, all);
	stage.pool.data[all - 1]++;
	wl_surface_attach(stage.surface, buffer, 0, 0);
	wl_surface_damage_buffer(stage.surface, WIDTH - 2, HEIGHT - 2, 2, 2);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	expect_shown(&stage, stage.surface, 0, all);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void damage_of_every_size_is_taken(void **state)
{
	(void)state;
	static const int32_t boxes[][4] = {
		{INT32_MIN, INT32_MIN, INT32_MAX, INT32_MAX},
		{0, 0, INT32_MAX, INT32_MAX},
		{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX},
		{-5, -5, 0, 0},
		{0, 0, -1, -1},
		{5, 5, INT32_MIN, INT32_MIN},
		{-1000000, -1000000, INT32_MAX, INT32_MAX},
	};
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	for (size_t i = 0; i < sizeof(boxes) / sizeof(boxes[0]); i++) {
		const int32_t *box = boxes[i];
		paint_noise(&stage.rng, stage.pool.data, SIZE);
		wl_surface_attach(stage.surface, buffer, 0, 0);
		wl_surface_damage(stage.surface, box[0], box[1], box[2], box[3]);
		wl_surface_damage_buffer(stage.surface, box[0], box[1], box[2], box[3]);
		wl_surface_set_buffer_scale(stage.surface, (int32_t)i % 3 + 1);
		wl_surface_commit(stage.surface);
		client_roundtrip(stage.client);
		expect_shown(&stage, stage.surface, 0, SIZE);
	}
	wl_buffer_destroy(buffer);
	end(&stage);
}

/* Draws a chessboard's black squares anew, each its own damage. */
static void draw_squares(struct stage *stage, size_t offset, size_t other)
{
	memcpy(stage->pool.data + offset, stage->pool.data + other, SIZE);
	for (int32_t y = 0; y < HEIGHT; y += 2) {
		for (int32_t x = y % 4; x < WIDTH; x += 4) {
			stage->pool.data[offset + (size_t)(y * STRIDE + x * 4)]++;
			wl_surface_damage_buffer(stage->surface, x, y, 1, 1);
		}
	}
}

static void what_a_buffer_missed_in_many_places_does_not_undo_what_is_new(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 2 * SIZE);
	struct wl_buffer *buffers[] = {make_buffer(&stage, 0), make_buffer(&stage, SIZE)};
	memcpy(stage.pool.data + SIZE, stage.pool.data, SIZE);
	commit(&stage, stage.surface, buffers[1]);
	commit(&stage, stage.surface, buffers[0]);
	for (size_t i = 1; i <= 3; i++) {
		size_t at = (i & 1) * SIZE, other = SIZE - at;
		// Few at a time, so that they stay rectangles of their own.
		for (int32_t n = 0; n < 3; n++) {
			draw_squares(&stage, other, other);
			wl_surface_commit(stage.surface);
		}
		memcpy(stage.pool.data + at, stage.pool.data + other, SIZE);
		stage.pool.data[at + SIZE / 2 + 4]++;
		wl_surface_attach(stage.surface, buffers[i & 1], 0, 0);
		wl_surface_damage_buffer(stage.surface, 1, HEIGHT / 2, 1, 1);
		wl_surface_commit(stage.surface);
		client_roundtrip(stage.client);
		expect_shown(&stage, stage.surface, at, SIZE);
	}
	wl_buffer_destroy(buffers[0]);
	wl_buffer_destroy(buffers[1]);
	end(&stage);
}

static void subsurfaces_are_surfaces(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 2 * SIZE);
	struct wl_subcompositor *subcompositor =
		client_bind(stage.client, &wl_subcompositor_interface, 1);
	struct wl_surface *child = wl_compositor_create_surface(stage.compositor);
	struct wl_subsurface *subsurface =
		wl_subcompositor_get_subsurface(subcompositor, child, stage.surface);
	struct wl_buffer *buffers[] = {make_buffer(&stage, 0), make_buffer(&stage, SIZE)};
	for (size_t i = 0; i < 4; i++) {
		paint_noise(&stage.rng, stage.pool.data, 2 * SIZE);
		commit(&stage, child, buffers[1]);
		expect_shown(&stage, child, SIZE, SIZE);
		commit(&stage, stage.surface, buffers[0]);
		expect_shown(&stage, stage.surface, 0, SIZE);
	}
	wl_buffer_destroy(buffers[0]);
	wl_buffer_destroy(buffers[1]);
	wl_subsurface_destroy(subsurface);
	wl_surface_destroy(child);
	wl_subcompositor_destroy(subcompositor);
	end(&stage);
}

struct icon {
	uint8_t picture[SIZE];
	size_t size;
};

static void take_icon(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct icon *icon = data;
	icon->size = screen_read(screen_buffer(compositor_object(&args[0])), icon->picture, SIZE);
}

static void a_buffer_named_by_any_request_crosses(void **state)
{
	(void)state;
	struct stage stage;
	struct icon icon = {.size = 0};
	begin(&stage, 2 * SIZE);
	compositor_hook(
		stage.world->compositor, "xdg_toplevel_icon_v1", "add_buffer", take_icon, &icon);
	struct xdg_toplevel_icon_manager_v1 *manager =
		client_bind(stage.client, &xdg_toplevel_icon_manager_v1_interface, 1);
	struct xdg_toplevel_icon_v1 *object = xdg_toplevel_icon_manager_v1_create_icon(manager);
	struct wl_buffer *buffer = make_buffer(&stage, SIZE);
	for (size_t i = 0; i < 3; i++) {
		paint_noise(&stage.rng, stage.pool.data + SIZE, SIZE);
		xdg_toplevel_icon_v1_add_buffer(object, buffer, 1);
		client_roundtrip(stage.client);
		assert_int_equal(icon.size, SIZE);
		assert_memory_equal(icon.picture, stage.pool.data + SIZE, SIZE);
	}
	wl_buffer_destroy(buffer);
	xdg_toplevel_icon_v1_destroy(object);
	xdg_toplevel_icon_manager_v1_destroy(manager);
	end(&stage);
}

/* ---- files that are not as announced ---- */

static void a_pool_file_that_is_too_short_is_as_short_for_the_compositor(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, stage.pool.fd, 4 * SIZE);
	client_roundtrip(stage.client);
	struct screen_pool *far = screen_pool(&stage.world->screen, 0);
	assert_int_equal(far->size, 4 * SIZE);
	assert_int_equal(file_size(far->fd), SIZE);

	// It is made as long as it should be before it is used.
	assert_int_equal(ftruncate(stage.pool.fd, 4 * SIZE), 0);
	paint_noise(&stage.rng, stage.pool.data, 4 * SIZE);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(pool, 3 * SIZE, WIDTH, HEIGHT, STRIDE, ARGB);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 3 * SIZE, SIZE);
	wl_buffer_destroy(buffer);
	wl_shm_pool_destroy(pool);
	end(&stage);
}

static void a_pool_file_that_is_longer_is_cut_to_what_was_announced(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 3 * SIZE);
	struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, stage.pool.fd, SIZE);
	struct wl_buffer *buffer = wl_shm_pool_create_buffer(pool, 0, WIDTH, HEIGHT, STRIDE, ARGB);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, 0, SIZE);
	wl_shm_pool_resize(pool, 3 * SIZE);
	struct wl_buffer *last =
		wl_shm_pool_create_buffer(pool, 2 * SIZE, WIDTH, HEIGHT, STRIDE, ARGB);
	commit(&stage, stage.surface, last);
	expect_shown(&stage, stage.surface, 2 * SIZE, SIZE);
	wl_buffer_destroy(last);
	wl_buffer_destroy(buffer);
	wl_shm_pool_destroy(pool);
	end(&stage);
}

static void a_truncated_pool_gets_the_compositors_own_error(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	struct wl_buffer *buffer = make_buffer(&stage, 0);
	commit(&stage, stage.surface, buffer);
	assert_int_equal(ftruncate(stage.pool.fd, SIZE / 2), 0);
	wl_surface_attach(stage.surface, buffer, 0, 0);
	wl_surface_damage_buffer(stage.surface, 0, 0, WIDTH, HEIGHT);
	wl_surface_commit(stage.surface);
	client_wait_failed(stage.client);
	assert_non_null(strstr(stage.client->error, "error accessing SHM buffer"));
	client_wait_over(stage.client);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void a_sealed_pool_has_the_same_seals(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	assert_int_equal(fcntl(stage.pool.fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, stage.pool.fd, SIZE);
	client_roundtrip(stage.client);
	struct screen_pool *far = screen_pool(&stage.world->screen, 0);
	assert_int_equal(fcntl(far->fd, F_GET_SEALS), F_SEAL_SHRINK);
	wl_shm_pool_destroy(pool);
	end(&stage);
}

static void a_pool_in_a_file_that_cannot_grow_may_be_announced_in_parts(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, 2 * SIZE);
	assert_int_equal(fcntl(stage.pool.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, stage.pool.fd, SIZE);
	wl_shm_pool_resize(pool, 2 * SIZE);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(pool, SIZE, WIDTH, HEIGHT, STRIDE, ARGB);
	commit(&stage, stage.surface, buffer);
	expect_shown(&stage, stage.surface, SIZE, SIZE);
	wl_buffer_destroy(buffer);
	wl_shm_pool_destroy(pool);
	end(&stage);
}

static void a_pool_of_something_else_than_memory_ends_the_session_with_a_text(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, SIZE);
	int ends[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	struct wl_shm_pool *pool = wl_shm_create_pool(stage.shm, ends[0], SIZE);
	close(ends[0]);
	close(ends[1]);
	client_wait_failed(stage.client);
	assert_non_null(strstr(stage.client->error, "wl_shm#"));
	client_wait_over(stage.client);
	wl_shm_pool_destroy(pool);
	end(&stage);
}

/* ---- how much there is ---- */

static void pixels_that_the_channel_takes_all_at_once_do_not_stop_what_follows(void **state)
{
	(void)state;
	struct stage stage;
	const int32_t width = 42500, height = 7; // more than may be queued before the client waits
	begin(&stage, (size_t)width * (size_t)height * 4);
	int room = 16 << 20;
	int fd = stage.client->pair.guest_channel;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0) {
		end(&stage);
		skip();
	}
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(stage.pool.pool, 0, width, height, width * 4, ARGB);
	for (size_t i = 0; i < 4; i++) {
		commit(&stage, stage.surface, buffer);
		expect_shown(&stage, stage.surface, 0, stage.pool.size);
	}
	wl_buffer_destroy(buffer);
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_committed_buffer_holds_what_the_client_drew),
		fd_count_test(a_buffer_attached_without_damage_is_seen_whole_at_first),
		fd_count_test(a_buffer_of_one_pixel_crosses),
		fd_count_test(a_buffer_at_the_very_end_of_its_pool_crosses),
		fd_count_test(a_large_buffer_crosses_a_channel_that_takes_little),
		fd_count_test(a_row_longer_than_a_frame_crosses),
		fd_count_test(a_pool_grows_with_buffers_in_flight),
		fd_count_test(buffers_outlive_their_pool),
		fd_count_test(what_is_shown_keeps_no_memory_when_its_buffer_is_gone),
		fd_count_test(a_buffer_is_compared_with_one_that_is_gone),
		fd_count_test(a_pool_may_be_destroyed_at_once),
		fd_count_test(a_thousand_pools_come_and_go),
		fd_count_test(buffers_that_overlap_are_both_right),
		fd_count_test(two_surfaces_show_one_buffer),
		fd_count_test(what_each_surface_shows_is_charged),
		fd_count_test(more_pictures_than_there_is_memory_end_the_session),
		fd_count_test(a_format_that_nobody_knows_crosses),
		fd_count_test(all_planes_of_a_picture_cross),
		fd_count_test(damage_of_every_size_is_taken),
		fd_count_test(what_a_buffer_missed_in_many_places_does_not_undo_what_is_new),
		fd_count_test(subsurfaces_are_surfaces),
		fd_count_test(a_buffer_named_by_any_request_crosses),
		fd_count_test(a_pool_file_that_is_too_short_is_as_short_for_the_compositor),
		fd_count_test(a_pool_file_that_is_longer_is_cut_to_what_was_announced),
		fd_count_test(a_truncated_pool_gets_the_compositors_own_error),
		fd_count_test(a_sealed_pool_has_the_same_seals),
		fd_count_test(a_pool_in_a_file_that_cannot_grow_may_be_announced_in_parts),
		fd_count_test(a_pool_of_something_else_than_memory_ends_the_session_with_a_text),
		fd_count_test(pixels_that_the_channel_takes_all_at_once_do_not_stop_what_follows),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
