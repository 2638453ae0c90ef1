#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "image-capture-source-client.h"
#include "image-copy-capture-client.h"
#include "image-copy-capture-server.h"
#include "screencopy-client.h"
#include "screencopy-server.h"
#include "relay/session.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

#define WIDTH  64
#define HEIGHT 48
#define STRIDE (WIDTH * 4 + 16)
#define SIZE   (STRIDE * HEIGHT)

static struct pair_options options;

struct stage {
	struct world *world;
	struct client *client;
	struct wl_output *output;
	struct wl_shm *shm;
	struct paint_pool pool;
	struct wl_buffer *buffer;
	struct paint_rng rng;
	uint8_t screen[SIZE];         // what the compositor writes
	struct wl_resource *attached; // of a frame of ext-image-copy-capture
	bool ready;
};

/* The compositor's screen is as new in every frame. */
static void write_screen(struct stage *stage, struct wl_resource *buffer)
{
	paint_noise(&stage->rng, stage->screen, SIZE);
	assert_int_equal(screen_write(screen_buffer(buffer), stage->screen, SIZE), SIZE);
}

static void copy(void *data, struct wl_resource *frame, const union wl_argument *args)
{
	write_screen(data, compositor_object(&args[0]));
	zwlr_screencopy_frame_v1_send_flags(frame, 0);
	zwlr_screencopy_frame_v1_send_ready(frame, 0, 5, 6);
}

static void attach_buffer(void *data, struct wl_resource *frame, const union wl_argument *args)
{
	(void)frame;
	((struct stage *)data)->attached = compositor_object(&args[0]);
}

static void capture(void *data, struct wl_resource *frame, const union wl_argument *args)
{
	(void)args;
	struct stage *stage = data;
	write_screen(stage, stage->attached);
	ext_image_copy_capture_frame_v1_send_transform(frame, 0);
	ext_image_copy_capture_frame_v1_send_damage(frame, 0, 0, WIDTH, HEIGHT);
	ext_image_copy_capture_frame_v1_send_presentation_time(frame, 0, 5, 6);
	ext_image_copy_capture_frame_v1_send_ready(frame);
}

static void begin(struct stage *stage)
{
	*stage = (struct stage){.rng = {.state = 3}};
	stage->world = world_create();
	struct compositor *compositor = stage->world->compositor;
	compositor_add_global(compositor, &wl_output_interface, 3);
	compositor_add_global(compositor, &zwlr_screencopy_manager_v1_interface, 3);
	compositor_add_global(compositor, &ext_output_image_capture_source_manager_v1_interface, 1);
	compositor_add_global(compositor, &ext_image_copy_capture_manager_v1_interface, 1);
	compositor_hook(compositor, "zwlr_screencopy_frame_v1", "copy", copy, stage);
	compositor_hook(compositor, "zwlr_screencopy_frame_v1", "copy_with_damage", copy, stage);
	compositor_hook(compositor, "ext_image_copy_capture_frame_v1", "attach_buffer",
		attach_buffer, stage);
	compositor_hook(compositor, "ext_image_copy_capture_frame_v1", "capture", capture, stage);
	stage->client = client_create(stage->world, &options);
	stage->output = client_bind(stage->client, &wl_output_interface, 3);
	stage->shm = client_bind(stage->client, &wl_shm_interface, 1);
	paint_pool_init(&stage->pool, stage->shm, 3 * SIZE);
	stage->buffer = wl_shm_pool_create_buffer(
		stage->pool.pool, SIZE, WIDTH, HEIGHT, STRIDE, WL_SHM_FORMAT_XRGB8888);
}

static void end(struct stage *stage)
{
	wl_buffer_destroy(stage->buffer);
	paint_pool_finish(&stage->pool);
	wl_shm_destroy(stage->shm);
	wl_output_destroy(stage->output);
	world_destroy(stage->world);
}

/* At the moment of ready, not later. */
static void expect_screen(struct stage *stage)
{
	for (size_t y = 0; y < HEIGHT; y++) {
		assert_memory_equal(stage->pool.data + SIZE + y * STRIDE,
			stage->screen + y * STRIDE, WIDTH * 4);
	}
	stage->ready = true;
}

/* ---- zwlr_screencopy_v1 ---- */

static void ignore_buffer(void *data, struct zwlr_screencopy_frame_v1 *frame, uint32_t format,
	uint32_t width, uint32_t height, uint32_t stride)
{
	(void)data, (void)frame, (void)format, (void)width, (void)height, (void)stride;
}

static void ignore_flags(void *data, struct zwlr_screencopy_frame_v1 *frame, uint32_t flags)
{
	(void)data, (void)frame, (void)flags;
}

static void handle_ready(
	void *data, struct zwlr_screencopy_frame_v1 *frame, uint32_t hi, uint32_t lo, uint32_t nsec)
{
	(void)frame;
	assert_int_equal(hi, 0);
	assert_int_equal(lo, 5);
	assert_int_equal(nsec, 6);
	expect_screen(data);
}

static const struct zwlr_screencopy_frame_v1_listener screencopy_listener = {
	.buffer = ignore_buffer,
	.flags = ignore_flags,
	.ready = handle_ready,
};

static void the_client_has_the_screens_pixels_when_a_screencopy_is_ready(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct zwlr_screencopy_manager_v1 *manager =
		client_bind(stage.client, &zwlr_screencopy_manager_v1_interface, 3);
	for (size_t i = 0; i < 5; i++) {
		struct zwlr_screencopy_frame_v1 *frame =
			zwlr_screencopy_manager_v1_capture_output(manager, 0, stage.output);
		zwlr_screencopy_frame_v1_add_listener(frame, &screencopy_listener, &stage);
		stage.ready = false;
		if (i & 1) {
			zwlr_screencopy_frame_v1_copy_with_damage(frame, stage.buffer);
		} else {
			zwlr_screencopy_frame_v1_copy(frame, stage.buffer);
		}
		client_roundtrip(stage.client);
		assert_true(stage.ready);
		zwlr_screencopy_frame_v1_destroy(frame);
	}
	zwlr_screencopy_manager_v1_destroy(manager);
	end(&stage);
}

static void what_was_captured_can_be_shown(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_compositor *compositor = client_bind(stage.client, &wl_compositor_interface, 4);
	struct zwlr_screencopy_manager_v1 *manager =
		client_bind(stage.client, &zwlr_screencopy_manager_v1_interface, 3);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	for (size_t i = 0; i < 5; i++) {
		struct zwlr_screencopy_frame_v1 *frame =
			zwlr_screencopy_manager_v1_capture_output(manager, 0, stage.output);
		zwlr_screencopy_frame_v1_add_listener(frame, &screencopy_listener, &stage);
		zwlr_screencopy_frame_v1_copy(frame, stage.buffer);
		client_roundtrip(stage.client);
		stage.pool.data[SIZE + i]++;
		wl_surface_attach(surface, stage.buffer, 0, 0);
		wl_surface_damage_buffer(surface, 0, 0, WIDTH, HEIGHT);
		wl_surface_commit(surface);
		client_roundtrip(stage.client);
		const struct screen_surface *far = screen_surface(
			&stage.world->screen, wl_proxy_get_id((struct wl_proxy *)surface));
		for (size_t y = 0; y < HEIGHT; y++) {
			assert_memory_equal(far->picture + y * STRIDE,
				stage.pool.data + SIZE + y * STRIDE, WIDTH * 4);
		}
		zwlr_screencopy_frame_v1_destroy(frame);
	}
	wl_surface_destroy(surface);
	zwlr_screencopy_manager_v1_destroy(manager);
	wl_compositor_destroy(compositor);
	end(&stage);
}

static void a_captured_buffer_may_be_gone_when_it_is_ready(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct zwlr_screencopy_manager_v1 *manager =
		client_bind(stage.client, &zwlr_screencopy_manager_v1_interface, 3);
	struct zwlr_screencopy_frame_v1 *frame =
		zwlr_screencopy_manager_v1_capture_output(manager, 0, stage.output);
	zwlr_screencopy_frame_v1_copy(frame, stage.buffer);
	wl_buffer_destroy(stage.buffer);
	stage.buffer = wl_shm_pool_create_buffer(
		stage.pool.pool, 0, WIDTH, HEIGHT, STRIDE, WL_SHM_FORMAT_XRGB8888);
	client_roundtrip(stage.client);
	zwlr_screencopy_frame_v1_destroy(frame);
	zwlr_screencopy_manager_v1_destroy(manager);
	client_roundtrip(stage.client);
	end(&stage);
}

/* ---- ext_image_copy_capture_v1 ---- */

static void ignore_transform(
	void *data, struct ext_image_copy_capture_frame_v1 *frame, uint32_t transform)
{
	(void)data, (void)frame, (void)transform;
}

static void ignore_damage(void *data, struct ext_image_copy_capture_frame_v1 *frame, int32_t x,
	int32_t y, int32_t width, int32_t height)
{
	(void)data, (void)frame, (void)x, (void)y, (void)width, (void)height;
}

static void ignore_time(void *data, struct ext_image_copy_capture_frame_v1 *frame, uint32_t hi,
	uint32_t lo, uint32_t nsec)
{
	(void)data, (void)frame, (void)hi, (void)lo, (void)nsec;
}

static void handle_copied(void *data, struct ext_image_copy_capture_frame_v1 *frame)
{
	(void)frame;
	expect_screen(data);
}

static const struct ext_image_copy_capture_frame_v1_listener frame_listener = {
	.transform = ignore_transform,
	.damage = ignore_damage,
	.presentation_time = ignore_time,
	.ready = handle_copied,
};

static void the_client_has_the_screens_pixels_when_an_image_copy_is_ready(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct ext_output_image_capture_source_manager_v1 *sources =
		client_bind(stage.client, &ext_output_image_capture_source_manager_v1_interface, 1);
	struct ext_image_copy_capture_manager_v1 *manager =
		client_bind(stage.client, &ext_image_copy_capture_manager_v1_interface, 1);
	struct ext_image_capture_source_v1 *source =
		ext_output_image_capture_source_manager_v1_create_source(sources, stage.output);
	struct ext_image_copy_capture_session_v1 *session =
		ext_image_copy_capture_manager_v1_create_session(manager, source, 0);
	for (size_t i = 0; i < 5; i++) {
		struct ext_image_copy_capture_frame_v1 *frame =
			ext_image_copy_capture_session_v1_create_frame(session);
		ext_image_copy_capture_frame_v1_add_listener(frame, &frame_listener, &stage);
		stage.ready = false;
		ext_image_copy_capture_frame_v1_attach_buffer(frame, stage.buffer);
		ext_image_copy_capture_frame_v1_damage_buffer(frame, 0, 0, WIDTH, HEIGHT);
		ext_image_copy_capture_frame_v1_capture(frame);
		client_roundtrip(stage.client);
		assert_true(stage.ready);
		ext_image_copy_capture_frame_v1_destroy(frame);
	}
	ext_image_copy_capture_session_v1_destroy(session);
	ext_image_capture_source_v1_destroy(source);
	ext_image_copy_capture_manager_v1_destroy(manager);
	ext_output_image_capture_source_manager_v1_destroy(sources);
	end(&stage);
}

// A region is passed by a UNIX socket only.
static void make_channel(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void holds_in_a_region(void **state, bool rows_are_told)
{
	options = (struct pair_options){
		.region = true, .no_region_rows = !rows_are_told, .make_channel = make_channel};
	the_client_has_the_screens_pixels_when_a_screencopy_is_ready(state);
	what_was_captured_can_be_shown(state);
	a_captured_buffer_may_be_gone_when_it_is_ready(state);
	the_client_has_the_screens_pixels_when_an_image_copy_is_ready(state);
	options = (struct pair_options){0};
}

static void all_of_it_holds_in_a_region(void **state)
{
	holds_in_a_region(state, true);
	holds_in_a_region(state, false);
}

#define FULL_WIDTH  1920
#define FULL_HEIGHT 1080
#define FULL_STRIDE (FULL_WIDTH * 4)
#define FULL_SIZE   (FULL_STRIDE * FULL_HEIGHT)

/* What the channel carries for one capture of a whole screen; the client has the screen's bytes then. */
static uint64_t channel_bytes_of_a_capture(const struct pair_options *with)
{
	struct stage stage;
	options = *with;
	begin(&stage);
	options = (struct pair_options){0};
	struct zwlr_screencopy_manager_v1 *manager =
		client_bind(stage.client, &zwlr_screencopy_manager_v1_interface, 3);
	struct zwlr_screencopy_frame_v1 *frame =
		zwlr_screencopy_manager_v1_capture_output(manager, 0, stage.output);
	struct paint_pool pool;
	paint_pool_init(&pool, stage.shm, FULL_SIZE);
	struct wl_buffer *buffer = wl_shm_pool_create_buffer(
		pool.pool, 0, FULL_WIDTH, FULL_HEIGHT, FULL_STRIDE, WL_SHM_FORMAT_XRGB8888);
	client_roundtrip(stage.client);
	const struct session *host = stage.client->pair.host.session;
	uint64_t before = session_stats(host)->channel_bytes_sent;
	zwlr_screencopy_frame_v1_copy(frame, buffer);
	client_roundtrip(stage.client);
	uint64_t bytes = session_stats(host)->channel_bytes_sent - before;
	assert_memory_equal(pool.data, stage.screen, SIZE);
	zwlr_screencopy_frame_v1_destroy(frame);
	zwlr_screencopy_manager_v1_destroy(manager);
	wl_buffer_destroy(buffer);
	paint_pool_finish(&pool);
	end(&stage);
	return bytes;
}

static void in_a_region_no_pixel_of_a_capture_goes_by_the_channel(void **state)
{
	(void)state;
	struct pair_options with = {.region = true, .make_channel = make_channel};
	uint64_t by_region = channel_bytes_of_a_capture(&with);
	assert_in_range(by_region, 1, FULL_WIDTH); // not even a row's
	with.no_region_rows = true;
	assert_in_range(channel_bytes_of_a_capture(&with), FULL_SIZE, FULL_SIZE + SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(all_of_it_holds_in_a_region),
		fd_count_test(in_a_region_no_pixel_of_a_capture_goes_by_the_channel),
		fd_count_test(the_client_has_the_screens_pixels_when_a_screencopy_is_ready),
		fd_count_test(what_was_captured_can_be_shown),
		fd_count_test(a_captured_buffer_may_be_gone_when_it_is_ready),
		fd_count_test(the_client_has_the_screens_pixels_when_an_image_copy_is_ready),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
