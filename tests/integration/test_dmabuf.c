#include <drm_fourcc.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "fdpass/resolver.h"
#include "linux-dmabuf-client.h"
#include "relay/session.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* A client's dma-bufs and the compositor's, which maps what it is given. */

#define WIDTH      57
#define HEIGHT     35
#define PADDING    16 // at the end of each row
#define MAX_PLANES 3

struct layout {
	uint32_t format;
	size_t n_planes;
	struct {
		uint32_t bytes, width, height; // of a sample
	} planes[MAX_PLANES];
};

static const struct layout layouts[] = {
	{DRM_FORMAT_XRGB8888, 1, {{4, 1, 1}}},
	{DRM_FORMAT_BGR888, 1, {{3, 1, 1}}},
	{DRM_FORMAT_RGB565, 1, {{2, 1, 1}}},
	{DRM_FORMAT_ABGR16161616F, 1, {{8, 1, 1}}},
	{DRM_FORMAT_YUYV, 1, {{4, 2, 1}}},
	{DRM_FORMAT_NV12, 2, {{1, 1, 1}, {2, 2, 2}}},
	{DRM_FORMAT_P010, 2, {{2, 1, 1}, {4, 2, 2}}},
	{DRM_FORMAT_YUV420, 3, {{1, 1, 1}, {1, 2, 2}, {1, 2, 2}}},
};

#define N_LAYOUTS (sizeof(layouts) / sizeof(layouts[0]))

struct plane {
	int fd;
	uint8_t *data; // of the plane's first row
	uint8_t *mapping;
	size_t size;
	uint32_t offset, stride, row_bytes, rows;
};

struct picture {
	const struct layout *layout;
	struct plane planes[MAX_PLANES];
	struct wl_buffer *buffer;
};

static bool in_region; // all of it

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	struct zwp_linux_dmabuf_v1 *dmabuf;
	struct wl_compositor *compositor;
	struct wl_surface *surface;
	struct paint_rng rng;
	struct wl_buffer *created;
	bool answered;
};

// A region is passed by a UNIX socket only.
static void make_channel(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void share_region(struct pair_options *options)
{
	options->region = true;
	options->make_channel = make_channel;
}

static void begin_with(struct stage *stage, struct resolver *resolver)
{
	*stage = (struct stage){.resolver = resolver, .rng = {.state = 11}};
	struct pair_options options = {.resolver = resolver, .device.implicit_linear = true};
	if (in_region) {
		share_region(&options);
	}
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 3);
	stage->client = client_create(stage->world, &options);
	stage->dmabuf = client_bind(stage->client, &zwp_linux_dmabuf_v1_interface, 3);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->surface = wl_compositor_create_surface(stage->compositor);
}

static void begin(struct stage *stage)
{
	begin_with(stage, udmabuf_resolver_create());
}

static void end(struct stage *stage)
{
	wl_surface_destroy(stage->surface);
	wl_compositor_destroy(stage->compositor);
	zwp_linux_dmabuf_v1_destroy(stage->dmabuf);
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
}

static uint32_t divide_up(uint32_t value, uint32_t by)
{
	return (value + by - 1) / by;
}

/* ---- pictures ---- */

static void measure(struct picture *picture, const struct layout *layout)
{
	*picture = (struct picture){.layout = layout};
	for (size_t i = 0; i < layout->n_planes; i++) {
		struct plane *plane = &picture->planes[i];
		plane->row_bytes =
			divide_up(WIDTH, layout->planes[i].width) * layout->planes[i].bytes;
		plane->rows = divide_up(HEIGHT, layout->planes[i].height);
		plane->stride = plane->row_bytes + PADDING;
	}
}

static void give_memory(struct stage *stage, struct plane *plane, int fd, size_t size)
{
	plane->fd = fd;
	plane->size = size;
	plane->mapping = udmabuf_map(fd, size);
	plane->data = plane->mapping + plane->offset;
	for (uint32_t row = 0; row < plane->rows; row++) {
		paint_noise(&stage->rng, plane->data + row * plane->stride, plane->row_bytes);
	}
}

/* Each plane in a dma-buf of its own. */
static void make_apart(struct stage *stage, struct picture *picture, const struct layout *layout)
{
	measure(picture, layout);
	for (size_t i = 0; i < layout->n_planes; i++) {
		struct plane *plane = &picture->planes[i];
		size_t size = (size_t)plane->stride * plane->rows;
		give_memory(stage, plane, udmabuf_make(size), size);
	}
}

/* One after the other in a single one, of which each has an fd. */
static void make_together(struct stage *stage, struct picture *picture, const struct layout *layout)
{
	measure(picture, layout);
	uint32_t size = PADDING;
	for (size_t i = 0; i < layout->n_planes; i++) {
		picture->planes[i].offset = size;
		size += picture->planes[i].stride * picture->planes[i].rows;
	}
	int fd = udmabuf_make(size);
	for (size_t i = 0; i < layout->n_planes; i++) {
		give_memory(stage, &picture->planes[i], fcntl(fd, F_DUPFD_CLOEXEC, 0), size);
	}
	close(fd);
}

static void destroy_picture(struct picture *picture)
{
	for (size_t i = 0; i < picture->layout->n_planes; i++) {
		munmap(picture->planes[i].mapping, picture->planes[i].size);
		close(picture->planes[i].fd);
	}
	if (picture->buffer != NULL) {
		wl_buffer_destroy(picture->buffer);
	}
}

static struct zwp_linux_buffer_params_v1 *add_planes(
	struct stage *stage, const struct picture *picture)
{
	struct zwp_linux_buffer_params_v1 *params =
		zwp_linux_dmabuf_v1_create_params(stage->dmabuf);
	for (size_t i = picture->layout->n_planes; i > 0; i--) { // in any order
		const struct plane *plane = &picture->planes[i - 1];
		zwp_linux_buffer_params_v1_add(
			params, plane->fd, (uint32_t)(i - 1), plane->offset, plane->stride, 0, 0);
	}
	return params;
}

static void make_buffer(struct stage *stage, struct picture *picture)
{
	struct zwp_linux_buffer_params_v1 *params = add_planes(stage, picture);
	picture->buffer = zwp_linux_buffer_params_v1_create_immed(
		params, WIDTH, HEIGHT, picture->layout->format, 0);
	zwp_linux_buffer_params_v1_destroy(params);
}

static void commit(struct stage *stage, const struct picture *picture, const int32_t damage[4])
{
	wl_surface_attach(stage->surface, picture->buffer, 0, 0);
	wl_surface_damage_buffer(stage->surface, damage[0], damage[1], damage[2], damage[3]);
	wl_surface_commit(stage->surface);
	client_roundtrip(stage->client);
}

static const int32_t everything[4] = {0, 0, INT32_MAX, INT32_MAX};

static void expect_plane(const struct dmabuf_plane *far, const struct plane *plane)
{
	assert_int_equal(far->offset, plane->offset);
	assert_int_equal(far->stride, plane->stride);
	uint8_t *data = udmabuf_map(far->fd, plane->size);
	for (uint32_t row = 0; row < plane->rows; row++) {
		assert_memory_equal(data + plane->offset + row * plane->stride,
			plane->data + row * plane->stride, plane->row_bytes);
	}
	munmap(data, plane->size);
}

/* What the compositor shows is what the client drew. */
static void expect_shown(const struct stage *stage, const struct picture *picture)
{
	const struct dmabuf_buffer *far = stage->screen.shown;
	assert_non_null(far);
	assert_int_equal(far->n_planes, picture->layout->n_planes);
	assert_int_equal(far->format, picture->layout->format);
	assert_int_equal(far->width, WIDTH);
	assert_int_equal(far->height, HEIGHT);
	for (size_t i = 0; i < far->n_planes; i++) {
		expect_plane(&far->planes[i], &picture->planes[i]);
	}
}

static uint64_t charged_planes(const struct stage *stage)
{
	return stage->client->pair.host.budget.used[BUDGET_PLANES];
}

static bool three_are_charged(void *data)
{
	return charged_planes(data) == 3;
}

static bool one_is_charged(void *data)
{
	return charged_planes(data) == 1;
}

static bool none_is_charged(void *data)
{
	return charged_planes(data) == 0;
}

// Of one dma-buf, a compositor has as many fds as there are planes of it.
static void each_plane_that_the_compositor_has_is_charged(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin(&stage);
	assert_int_equal(layouts[0].n_planes, 1);
	make_apart(&stage, &picture, &layouts[0]);
	make_buffer(&stage, &picture);
	commit(&stage, &picture, everything);
	struct zwp_linux_buffer_params_v1 *params[2];
	for (int i = 0; i < 2; i++) {
		params[i] = add_planes(&stage, &picture);
	}
	client_roundtrip(stage.client);
	// The buffer's and those of the params.
	world_wait(stage.world, three_are_charged, &stage);
	for (int i = 0; i < 2; i++) {
		zwp_linux_buffer_params_v1_destroy(params[i]);
	}
	world_wait(stage.world, one_is_charged, &stage);
	wl_surface_attach(stage.surface, NULL, 0, 0);
	wl_surface_commit(stage.surface);
	destroy_picture(&picture);
	world_wait(stage.world, none_is_charged, &stage);
	end(&stage);
}

static void a_committed_buffer_holds_what_the_client_drew(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2 * N_LAYOUTS; i++) {
		struct stage stage;
		struct picture picture;
		begin(&stage);
		if (i < N_LAYOUTS) {
			make_apart(&stage, &picture, &layouts[i]);
		} else {
			make_together(&stage, &picture, &layouts[i - N_LAYOUTS]);
		}
		make_buffer(&stage, &picture);
		commit(&stage, &picture, everything);
		expect_shown(&stage, &picture);
		destroy_picture(&picture);
		end(&stage);
	}
}

static void all_fds_of_one_dma_buf_are_one_memory(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin(&stage);
	make_together(&stage, &picture, &layouts[N_LAYOUTS - 1]);
	make_buffer(&stage, &picture);
	struct wl_buffer *first = picture.buffer;
	make_buffer(&stage, &picture);
	commit(&stage, &picture, everything);
	expect_shown(&stage, &picture);
	const struct session *host = stage.client->pair.host.session;
	assert_int_equal(session_stats(host)->fds[STATS_FD_DMABUF], 1);
	wl_buffer_destroy(first);
	destroy_picture(&picture);
	end(&stage);
}

/* ---- damage ---- */

/* Changes every sample of the rectangle. How many bytes these are. */
static uint64_t paint(struct picture *picture, const int32_t rect[4])
{
	uint64_t painted = 0;
	for (size_t i = 0; i < picture->layout->n_planes; i++) {
		const struct plane *plane = &picture->planes[i];
		const uint32_t width = picture->layout->planes[i].width;
		const uint32_t height = picture->layout->planes[i].height;
		const uint32_t bytes = picture->layout->planes[i].bytes;
		uint32_t x1 = (uint32_t)rect[0] / width * bytes;
		uint32_t x2 = divide_up((uint32_t)(rect[0] + rect[2]), width) * bytes;
		uint32_t y2 = divide_up((uint32_t)(rect[1] + rect[3]), height);
		for (uint32_t y = (uint32_t)rect[1] / height; y < y2; y++) {
			for (uint32_t x = x1; x < x2; x++, painted++) {
				plane->data[y * plane->stride + x]++;
			}
		}
	}
	return painted;
}

static uint64_t bytes_sent(const struct stage *stage)
{
	const struct stats *stats = session_stats(stage->client->pair.guest.session);
	return in_region ? stats->memory_bytes_shared : stats->memory_bytes_sent;
}

static void only_samples_that_damage_touches_are_sent(void **state)
{
	(void)state;
	static const int32_t damage[4] = {7, 5, 12, 8};
	for (size_t i = 0; i < N_LAYOUTS; i++) {
		struct stage stage;
		struct picture picture;
		begin(&stage);
		make_together(&stage, &picture, &layouts[i]);
		make_buffer(&stage, &picture);
		commit(&stage, &picture, everything);
		uint64_t before = bytes_sent(&stage);
		uint64_t painted = paint(&picture, damage);
		commit(&stage, &picture, damage);
		expect_shown(&stage, &picture);
		assert_int_equal(bytes_sent(&stage) - before, painted);
		destroy_picture(&picture);
		end(&stage);
	}
}

static void random_rect(struct stage *stage, int32_t rect[4])
{
	rect[0] = paint_range(&stage->rng, 0, WIDTH - 1);
	rect[1] = paint_range(&stage->rng, 0, HEIGHT - 1);
	rect[2] = paint_range(&stage->rng, 1, WIDTH - rect[0]);
	rect[3] = paint_range(&stage->rng, 1, HEIGHT - rect[1]);
}

/* A client with several buffers paints what is new, and what the buffer has missed. */
static void buffers_in_turn_show_what_was_drawn_last(void **state)
{
	(void)state;
	enum { BUFFERS = 3, FRAMES = 100 };
	for (size_t i = 0; i < N_LAYOUTS; i++) {
		struct stage stage;
		struct picture pictures[BUFFERS];
		begin(&stage);
		for (size_t j = 0; j < BUFFERS; j++) {
			make_apart(&stage, &pictures[j], &layouts[i]);
			make_buffer(&stage, &pictures[j]);
		}
		const struct picture *last = &pictures[0];
		for (size_t frame = 0; frame < FRAMES; frame++) {
			struct picture *next = &pictures[paint_range(&stage.rng, 0, BUFFERS - 1)];
			int32_t rect[4];
			random_rect(&stage, rect);
			for (size_t j = 0; next != last && j < next->layout->n_planes; j++) {
				memcpy(next->planes[j].mapping, last->planes[j].mapping,
					next->planes[j].size);
			}
			paint(next, rect);
			commit(&stage, next, frame < BUFFERS ? everything : rect);
			expect_shown(&stage, next);
			last = next;
		}
		for (size_t j = 0; j < BUFFERS; j++) {
			destroy_picture(&pictures[j]);
		}
		end(&stage);
	}
}

static void a_picture_that_stands_on_its_head_is_sent_whole(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	const int32_t damage[4] = {0, 0, 1, 1}, bottom[4] = {0, HEIGHT - 1, WIDTH, 1};
	begin(&stage);
	make_together(&stage, &picture, &layouts[0]);
	struct zwp_linux_buffer_params_v1 *params = add_planes(&stage, &picture);
	picture.buffer = zwp_linux_buffer_params_v1_create_immed(params, WIDTH, HEIGHT,
		picture.layout->format, ZWP_LINUX_BUFFER_PARAMS_V1_FLAGS_Y_INVERT);
	zwp_linux_buffer_params_v1_destroy(params);
	commit(&stage, &picture, everything);
	paint(&picture, bottom);
	commit(&stage, &picture, damage);
	expect_shown(&stage, &picture);
	destroy_picture(&picture);
	end(&stage);
}

/* ---- answers ---- */

static void handle_created(
	void *data, struct zwp_linux_buffer_params_v1 *params, struct wl_buffer *buffer)
{
	(void)params;
	struct stage *stage = data;
	stage->created = buffer;
	stage->answered = true;
}

static void handle_failed(void *data, struct zwp_linux_buffer_params_v1 *params)
{
	(void)params;
	struct stage *stage = data;
	stage->created = NULL;
	stage->answered = true;
}

static const struct zwp_linux_buffer_params_v1_listener params_listener = {
	.created = handle_created,
	.failed = handle_failed,
};

/* Waits for the answer; NULL: it has failed. */
static struct wl_buffer *create(struct stage *stage, struct zwp_linux_buffer_params_v1 *params,
	const struct picture *picture)
{
	stage->answered = false;
	zwp_linux_buffer_params_v1_add_listener(params, &params_listener, stage);
	zwp_linux_buffer_params_v1_create(params, WIDTH, HEIGHT, picture->layout->format, 0);
	world_until(stage->world, &stage->answered);
	zwp_linux_buffer_params_v1_destroy(params);
	return stage->created;
}

static void a_buffer_that_the_compositor_makes_is_like_others(void **state)
{
	(void)state;
	struct stage stage;
	struct picture pictures[2];
	begin(&stage);
	for (size_t i = 0; i < 2; i++) {
		make_apart(&stage, &pictures[i], &layouts[N_LAYOUTS - 1]);
		pictures[i].buffer = create(&stage, add_planes(&stage, &pictures[i]), &pictures[i]);
		assert_non_null(pictures[i].buffer);
		assert_true(wl_proxy_get_id((struct wl_proxy *)pictures[i].buffer) >= 0xff000000);
		commit(&stage, &pictures[i], everything);
		expect_shown(&stage, &pictures[i]);
	}
	const int32_t damage[4] = {3, 3, 20, 20};
	paint(&pictures[1], damage);
	commit(&stage, &pictures[1], damage);
	expect_shown(&stage, &pictures[1]);
	destroy_picture(&pictures[0]);
	destroy_picture(&pictures[1]);
	end(&stage);
}

static void a_compositor_may_refuse(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin(&stage);
	stage.screen.refuses = true;
	make_apart(&stage, &picture, &layouts[0]);
	assert_null(create(&stage, add_planes(&stage, &picture), &picture));
	assert_int_equal(stage.screen.n_requests, 1);
	stage.screen.refuses = false;
	picture.buffer = create(&stage, add_planes(&stage, &picture), &picture);
	commit(&stage, &picture, everything);
	expect_shown(&stage, &picture);
	destroy_picture(&picture);
	end(&stage);
}

static bool was_asked(void *data)
{
	return ((const struct dmabuf_screen *)data)->unanswered != NULL;
}

static void an_answer_may_meet_the_end_of_its_params(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin(&stage);
	stage.screen.hesitates = true;
	make_apart(&stage, &picture, &layouts[0]);
	struct zwp_linux_buffer_params_v1 *params = add_planes(&stage, &picture);
	zwp_linux_buffer_params_v1_create(params, WIDTH, HEIGHT, picture.layout->format, 0);
	world_wait(stage.world, was_asked, &stage.screen);
	zwp_linux_buffer_params_v1_destroy(params);
	dmabuf_screen_answer(&stage.screen);
	client_roundtrip(stage.client);
	destroy_picture(&picture);
	end(&stage);
}

static void expect_invalid_buffer(struct stage *stage, struct picture *picture)
{
	const struct wl_interface *interface;
	struct zwp_linux_buffer_params_v1 *params = add_planes(stage, picture);
	picture->buffer = zwp_linux_buffer_params_v1_create_immed(
		params, WIDTH, HEIGHT, picture->layout->format, 0);
	client_wait_failed(stage->client);
	assert_int_equal(wl_display_get_protocol_error(stage->client->display, &interface, NULL),
		ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_INVALID_WL_BUFFER);
	assert_string_equal(interface->name, zwp_linux_buffer_params_v1_interface.name);
	zwp_linux_buffer_params_v1_destroy(params);
	client_wait_over(stage->client);
}

static void a_host_that_makes_no_dma_buf_says_failed(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin_with(&stage, udmabuf_no_resolver_create());
	make_apart(&stage, &picture, &layouts[N_LAYOUTS - 1]);
	assert_null(create(&stage, add_planes(&stage, &picture), &picture));
	assert_null(create(&stage, add_planes(&stage, &picture), &picture));
	assert_int_equal(stage.screen.n_planes, 0);
	assert_int_equal(stage.screen.n_requests, 0);
	expect_invalid_buffer(&stage, &picture);
	destroy_picture(&picture);
	end(&stage);
}

static void a_plane_that_is_no_dma_buf_fails(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin(&stage);
	make_apart(&stage, &picture, &layouts[N_LAYOUTS - 1]);
	close(picture.planes[1].fd);
	picture.planes[1].fd = memfd_create("memory", MFD_CLOEXEC);
	assert_null(create(&stage, add_planes(&stage, &picture), &picture));
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.n_requests, 0);
	expect_invalid_buffer(&stage, &picture);
	destroy_picture(&picture);
	end(&stage);
}

/* ---- lifetime ---- */

static bool has_so_many_fds(void *data)
{
	return fd_count() == *(size_t *)data;
}

static void buffers_that_come_and_go_leave_nothing(void **state)
{
	(void)state;
	enum { CYCLES = 1000, AT_ONCE = 10 };
	struct stage stage;
	begin(&stage);
	client_roundtrip(stage.client);
	size_t before = fd_count();
	for (size_t i = 0; i < CYCLES; i++) {
		struct picture picture;
		make_together(&stage, &picture, &layouts[i % N_LAYOUTS]);
		make_buffer(&stage, &picture);
		wl_surface_attach(stage.surface, picture.buffer, 0, 0);
		wl_surface_damage_buffer(stage.surface, 0, 0, WIDTH, HEIGHT);
		wl_surface_commit(stage.surface);
		wl_surface_attach(stage.surface, NULL, 0, 0);
		wl_surface_commit(stage.surface);
		destroy_picture(&picture);
		if (i % AT_ONCE == 0) {
			client_roundtrip(stage.client);
		}
	}
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 2 * CYCLES);
	assert_true(wl_list_empty(&stage.screen.buffers));
	world_wait(stage.world, has_so_many_fds, &before);
	end(&stage);
}

static void a_client_that_leaves_takes_its_buffers_with_it(void **state)
{
	(void)state;
	struct stage stage;
	struct picture picture;
	begin(&stage);
	make_apart(&stage, &picture, &layouts[N_LAYOUTS - 1]);
	make_buffer(&stage, &picture);
	commit(&stage, &picture, everything);
	struct wl_buffer *other = create(&stage, add_planes(&stage, &picture), &picture);
	wl_proxy_destroy((struct wl_proxy *)other); // without a word
	destroy_picture(&picture);
	end(&stage);
}

static void all_of_it_holds_in_a_region(void **state)
{
	in_region = true;
	a_committed_buffer_holds_what_the_client_drew(state);
	all_fds_of_one_dma_buf_are_one_memory(state);
	only_samples_that_damage_touches_are_sent(state);
	buffers_in_turn_show_what_was_drawn_last(state);
	a_picture_that_stands_on_its_head_is_sent_whole(state);
	a_buffer_that_the_compositor_makes_is_like_others(state);
	a_compositor_may_refuse(state);
	a_host_that_makes_no_dma_buf_says_failed(state);
	a_plane_that_is_no_dma_buf_fails(state);
	buffers_that_come_and_go_leave_nothing(state);
	a_client_that_leaves_takes_its_buffers_with_it(state);
	in_region = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(each_plane_that_the_compositor_has_is_charged),
		fd_count_test(a_committed_buffer_holds_what_the_client_drew),
		fd_count_test(all_fds_of_one_dma_buf_are_one_memory),
		fd_count_test(only_samples_that_damage_touches_are_sent),
		fd_count_test(buffers_in_turn_show_what_was_drawn_last),
		fd_count_test(a_picture_that_stands_on_its_head_is_sent_whole),
		fd_count_test(a_buffer_that_the_compositor_makes_is_like_others),
		fd_count_test(a_compositor_may_refuse),
		fd_count_test(an_answer_may_meet_the_end_of_its_params),
		fd_count_test(a_host_that_makes_no_dma_buf_says_failed),
		fd_count_test(a_plane_that_is_no_dma_buf_fails),
		fd_count_test(buffers_that_come_and_go_leave_nothing),
		fd_count_test(a_client_that_leaves_takes_its_buffers_with_it),
		fd_count_test(all_of_it_holds_in_a_region),
	};
	log_init("integration", LOG_ERROR); // what stands for a dma-buf knows no DMA_BUF_IOCTL_SYNC
	return cmocka_run_group_tests(tests, NULL, NULL);
}
