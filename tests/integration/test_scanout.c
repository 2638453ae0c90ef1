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
#include "export-dmabuf-client.h"
#include "export-dmabuf-server.h"
#include "fdpass/resolver.h"
#include "protocol/channel.h"
#include "relay/session.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* Dma-bufs that a compositor gives to its clients. */

#define WIDTH       30
#define HEIGHT      12
#define SIZE        8192 // of every dma-buf
#define QUIET_TURNS 50
#define UNKNOWN     fourcc_code('?', '?', '?', '?')

struct layout {
	uint32_t format;
	uint64_t modifier;
	size_t n_planes;
	uint32_t offsets[2], strides[2];
	uint32_t row_bytes[2], rows[2];
	bool apart; // each plane in a dma-buf of its own
};

static const struct layout packed = {
	.format = DRM_FORMAT_XRGB8888,
	.n_planes = 1,
	.offsets = {128},
	.strides = {4 * WIDTH + 8},
	.row_bytes = {4 * WIDTH},
	.rows = {HEIGHT},
};
static const struct layout planar = {
	.format = DRM_FORMAT_NV12,
	.n_planes = 2,
	.offsets = {0, 4096},
	.strides = {WIDTH + 2, WIDTH + 34},
	.row_bytes = {WIDTH, WIDTH},
	.rows = {HEIGHT, HEIGHT / 2},
};

static bool in_region, loses_region; // all of it

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver, *guest_resolver;
	struct wl_output *output;
	struct zwlr_export_dmabuf_manager_v1 *manager;
	// the compositor's
	struct layout layout;
	int fds[2];
	uint8_t *screen[2];
	struct paint_rng rng;
	bool hesitates; // a frame is told of when the test says so
	struct wl_resource *frame;
	// the client's
	bool described, ready, cancelled;
	uint32_t reason;
	uint64_t modifier;
	size_t n_objects;
	int copies[2];
};

/* ---- the compositor ---- */

static void tell(struct stage *stage, struct wl_resource *frame)
{
	const struct layout *layout = &stage->layout;
	for (size_t i = 0; i < 2 && stage->screen[i] != NULL; i++) {
		paint_noise(&stage->rng, stage->screen[i], SIZE);
	}
	zwlr_export_dmabuf_frame_v1_send_frame(frame, WIDTH, HEIGHT, 0, 0, 0, 0, layout->format,
		(uint32_t)(layout->modifier >> 32), (uint32_t)layout->modifier,
		(uint32_t)layout->n_planes);
	for (uint32_t i = 0; i < layout->n_planes; i++) {
		int fd = stage->fds[layout->apart ? i : 0];
		zwlr_export_dmabuf_frame_v1_send_object(
			frame, i, fd, SIZE, layout->offsets[i], layout->strides[i], i);
	}
	zwlr_export_dmabuf_frame_v1_send_ready(frame, 0, 5, 6);
}

static void capture_output(void *data, struct wl_resource *manager, const union wl_argument *args)
{
	struct stage *stage = data;
	stage->frame = compositor_made(manager, &args[0]);
	if (!stage->hesitates) {
		tell(stage, stage->frame);
	}
}

static void begin_without_client(struct stage *stage, const struct layout *layout)
{
	*stage = (struct stage){
		.resolver = udmabuf_resolver_create(),
		.layout = *layout,
		.rng = {.state = 9},
		.fds = {-1, -1},
		.copies = {-1, -1},
	};
	for (size_t i = 0; i < (layout->apart ? 2 : 1); i++) {
		stage->fds[i] = udmabuf_make(SIZE);
		stage->screen[i] = udmabuf_map(stage->fds[i], SIZE);
	}
	stage->world = world_create();
	compositor_add_global(stage->world->compositor, &wl_output_interface, 3);
	compositor_add_global(
		stage->world->compositor, &zwlr_export_dmabuf_manager_v1_interface, 1);
	compositor_hook(stage->world->compositor, "zwlr_export_dmabuf_manager_v1", "capture_output",
		capture_output, stage);
}

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

/* Takes guest_resolver, which may be NULL. */
static void join(struct stage *stage, struct resolver *guest_resolver)
{
	struct pair_options options = {
		.resolver = stage->resolver, .guest_resolver = guest_resolver};
	if (in_region) {
		share_region(&options);
		options.loses_region = loses_region;
	}
	stage->guest_resolver = guest_resolver;
	stage->client = client_create(stage->world, &options);
}

static void bind_globals(struct stage *stage)
{
	stage->output = client_bind(stage->client, &wl_output_interface, 3);
	stage->manager = client_bind(stage->client, &zwlr_export_dmabuf_manager_v1_interface, 1);
}

static void begin(struct stage *stage, const struct layout *layout)
{
	begin_without_client(stage, layout);
	join(stage, udmabuf_resolver_create());
	bind_globals(stage);
}

static void close_copies(struct stage *stage)
{
	for (size_t i = 0; i < 2; i++) {
		if (stage->copies[i] >= 0) {
			close(stage->copies[i]);
		}
		stage->copies[i] = -1;
	}
}

static void end(struct stage *stage)
{
	close_copies(stage);
	if (stage->manager != NULL) {
		zwlr_export_dmabuf_manager_v1_destroy(stage->manager);
		wl_output_destroy(stage->output);
	}
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
	resolver_destroy(stage->guest_resolver);
	for (size_t i = 0; i < 2; i++) {
		if (stage->fds[i] >= 0) {
			close(stage->fds[i]);
		}
		if (stage->screen[i] != NULL) {
			munmap(stage->screen[i], SIZE);
		}
	}
}

/* ---- the client ---- */

static void handle_frame(void *data, struct zwlr_export_dmabuf_frame_v1 *frame, uint32_t width,
	uint32_t height, uint32_t x, uint32_t y, uint32_t buffer_flags, uint32_t flags,
	uint32_t format, uint32_t high, uint32_t low, uint32_t n_objects)
{
	(void)frame, (void)x, (void)y, (void)buffer_flags, (void)flags;
	struct stage *stage = data;
	assert_int_equal(width, WIDTH);
	assert_int_equal(height, HEIGHT);
	assert_int_equal(format, stage->layout.format);
	assert_int_equal(n_objects, stage->layout.n_planes);
	stage->modifier = (uint64_t)high << 32 | low;
	stage->described = true;
}

static void handle_object(void *data, struct zwlr_export_dmabuf_frame_v1 *frame, uint32_t index,
	int32_t fd, uint32_t size, uint32_t offset, uint32_t stride, uint32_t plane)
{
	(void)frame;
	struct stage *stage = data;
	assert_true(index < 2 && stage->copies[index] < 0);
	assert_int_equal(plane, index);
	assert_int_equal(size, SIZE);
	assert_int_equal(offset, stage->layout.offsets[index]);
	assert_int_equal(stride, stage->layout.strides[index]);
	stage->copies[index] = fd;
	stage->n_objects++;
}

static void expect_plane(const struct stage *stage, size_t i)
{
	const struct layout *layout = &stage->layout;
	const uint8_t *screen = stage->screen[layout->apart ? i : 0];
	uint8_t *copy = udmabuf_map(stage->copies[i], SIZE);
	for (size_t y = 0; y < layout->rows[i]; y++) {
		size_t at = layout->offsets[i] + y * layout->strides[i];
		assert_memory_equal(copy + at, screen + at, layout->row_bytes[i]);
	}
	munmap(copy, SIZE);
}

/* At the moment of ready, not later. */
static void handle_ready(void *data, struct zwlr_export_dmabuf_frame_v1 *frame, uint32_t hi,
	uint32_t lo, uint32_t nsec)
{
	(void)frame, (void)hi, (void)lo;
	struct stage *stage = data;
	assert_int_equal(nsec, 6);
	assert_true(stage->described);
	assert_int_equal(stage->modifier, DRM_FORMAT_MOD_LINEAR);
	assert_int_equal(stage->n_objects, stage->layout.n_planes);
	for (size_t i = 0; i < stage->layout.n_planes; i++) {
		expect_plane(stage, i);
	}
	stage->ready = true;
}

static void handle_cancel(void *data, struct zwlr_export_dmabuf_frame_v1 *frame, uint32_t reason)
{
	(void)frame;
	struct stage *stage = data;
	stage->cancelled = true;
	stage->reason = reason;
}

static const struct zwlr_export_dmabuf_frame_v1_listener frame_listener = {
	.frame = handle_frame,
	.object = handle_object,
	.ready = handle_ready,
	.cancel = handle_cancel,
};

static struct zwlr_export_dmabuf_frame_v1 *ask(struct stage *stage)
{
	close_copies(stage);
	stage->described = stage->ready = stage->cancelled = false;
	stage->n_objects = 0;
	struct zwlr_export_dmabuf_frame_v1 *frame =
		zwlr_export_dmabuf_manager_v1_capture_output(stage->manager, 0, stage->output);
	zwlr_export_dmabuf_frame_v1_add_listener(frame, &frame_listener, stage);
	client_roundtrip(stage->client);
	return frame;
}

static void frames_are_right_when_they_are_ready(const struct layout *layout)
{
	struct stage stage;
	begin(&stage, layout);
	for (size_t i = 0; i < 5; i++) {
		struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
		assert_true(stage.ready);
		assert_false(stage.cancelled);
		zwlr_export_dmabuf_frame_v1_destroy(frame);
	}
	end(&stage);
}

static void a_client_gets_a_copy_that_is_right_when_it_is_ready(void **state)
{
	(void)state;
	struct layout apart = planar;
	apart.apart = true;
	frames_are_right_when_they_are_ready(&packed);
	frames_are_right_when_they_are_ready(&planar);
	frames_are_right_when_they_are_ready(&apart);
}

static void a_copy_does_not_change_any_more(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, &packed);
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
	assert_true(stage.ready);
	uint8_t before[SIZE];
	uint8_t *copy = udmabuf_map(stage.copies[0], SIZE);
	memcpy(before, copy, SIZE);
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	paint_noise(&stage.rng, stage.screen[0], SIZE);
	client_roundtrip(stage.client);
	assert_memory_equal(copy, before, SIZE);
	munmap(copy, SIZE);
	end(&stage);
}

static void expect_cancelled(struct stage *stage, uint32_t reason)
{
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(stage);
	assert_true(stage->cancelled);
	assert_int_equal(stage->reason, reason);
	assert_false(stage->ready);
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	client_roundtrip(stage->client);
}

static void what_cannot_be_copied_is_cancelled_for_good(void **state)
{
	(void)state;
	struct layout wrong[] = {packed, packed, packed, packed, packed, planar};
	wrong[0].modifier = I915_FORMAT_MOD_X_TILED;
	wrong[1].modifier = DRM_FORMAT_MOD_INVALID;
	wrong[2].format = UNKNOWN;
	wrong[3].offsets[0] = SIZE;
	wrong[4].strides[0] = WIDTH;
	wrong[5].n_planes = 1;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct stage stage;
		begin(&stage, &wrong[i]);
		expect_cancelled(&stage, 1);
		expect_cancelled(&stage, 1);
		end(&stage);
	}
}

static void what_is_no_dma_buf_is_cancelled_for_good(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, &packed);
	close(stage.fds[0]);
	stage.fds[0] = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(stage.fds[0], SIZE), 0);
	expect_cancelled(&stage, 1);
	end(&stage);
}

static void a_guest_without_memory_cancels_for_now(void **state)
{
	(void)state;
	struct stage stage;
	begin_without_client(&stage, &packed);
	join(&stage, udmabuf_no_resolver_create());
	bind_globals(&stage);
	expect_cancelled(&stage, 0);
	end(&stage);
}

static void it_is_hidden_where_a_guest_can_make_no_copies(void **state)
{
	(void)state;
	const char *name = zwlr_export_dmabuf_manager_v1_interface.name;
	struct stage stage;
	begin_without_client(&stage, &packed);
	join(&stage, NULL);
	assert_null(client_find(stage.client, name));
	end(&stage);
	begin_without_client(&stage, &packed);
	resolver_destroy(stage.resolver);
	stage.resolver = NULL; // dma-bufs do not cross
	join(&stage, udmabuf_resolver_create());
	assert_null(client_find(stage.client, name));
	end(&stage);
}

static void a_client_may_leave_before_it_is_told(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, &packed);
	stage.hesitates = true;
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
	tell(&stage, stage.frame);
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	client_roundtrip(stage.client);
	assert_false(stage.ready);
	stage.hesitates = false;
	frame = ask(&stage);
	assert_true(stage.ready);
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	end(&stage);
}

static void two_frames_at_once_are_both_right(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, &packed);
	struct zwlr_export_dmabuf_frame_v1 *first = ask(&stage);
	assert_true(stage.ready);
	struct zwlr_export_dmabuf_frame_v1 *second = ask(&stage);
	assert_true(stage.ready);
	zwlr_export_dmabuf_frame_v1_destroy(first);
	zwlr_export_dmabuf_frame_v1_destroy(second);
	end(&stage);
}

/* What a client could do only where the guest's program is another one. */
static void forge_rows(const struct stage *stage)
{
	static const uint8_t bytes[64];
	const struct channel_mem_write write = {
		.stride = sizeof(bytes), .row_bytes = sizeof(bytes), .rows = 1};
	const struct channel_header header = {
		.type = CHANNEL_MEM_WRITE,
		.id = CHANNEL_ID_HOST | 1,
		.length = sizeof(write) + sizeof(bytes),
	};
	const int fd = stage->client->pair.guest_channel;
	assert_int_equal(send(fd, &header, sizeof(header), MSG_NOSIGNAL), sizeof(header));
	assert_int_equal(send(fd, &write, sizeof(write), MSG_NOSIGNAL), sizeof(write));
	assert_int_equal(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
}

static void a_guest_does_not_draw_on_the_screen(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, &packed);
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
	assert_true(stage.ready);
	uint8_t before[SIZE];
	memcpy(before, stage.screen[0], SIZE);
	forge_rows(&stage);
	client_wait_failed(stage.client);
	client_wait_over(stage.client);
	assert_non_null(strstr(stage.client->pair.host.reason, "the host has opened"));
	assert_memory_equal(stage.screen[0], before, SIZE);
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	end(&stage);
}

/* Nor by saying that rows are in the range. */
static void a_guest_does_not_draw_on_the_screen_by_a_region(void **state)
{
	(void)state;
	struct stage stage;
	in_region = true;
	begin(&stage, &packed);
	in_region = false;
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
	assert_true(stage.ready);
	struct {
		struct channel_header header;
		struct channel_region_rows rows;
	} forged = {
		.header = {.type = CHANNEL_REGION_ROWS,
			.id = CHANNEL_ID_HOST | 1,
			.length = sizeof(forged.rows)},
		.rows = {.stride = 64, .row_bytes = 64, .rows = 1},
	};
	const uint64_t steps = CHANNEL_MAX_REGION / CHANNEL_REGION_STEP;
	channel_put64(forged.rows.range, (steps - steps / 4) * CHANNEL_REGION_STEP);
	const int fd = stage.client->pair.guest_channel;
	assert_int_equal(send(fd, &forged, sizeof(forged), MSG_NOSIGNAL), sizeof(forged));
	client_wait_failed(stage.client);
	client_wait_over(stage.client);
	assert_non_null(strstr(stage.client->pair.host.reason, "wrong type for a dma-buf"));
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	end(&stage);
}

static void all_of_it_holds_in_a_region(void **state)
{
	in_region = true;
	a_client_gets_a_copy_that_is_right_when_it_is_ready(state);
	a_copy_does_not_change_any_more(state);
	what_cannot_be_copied_is_cancelled_for_good(state);
	what_is_no_dma_buf_is_cancelled_for_good(state);
	a_guest_without_memory_cancels_for_now(state);
	a_client_may_leave_before_it_is_told(state);
	two_frames_at_once_are_both_right(state);
	in_region = false;
}

static void where_the_fd_gets_lost_rows_go_by_the_channel(void **state)
{
	(void)state;
	in_region = loses_region = true;
	frames_are_right_when_they_are_ready(&packed);
	in_region = loses_region = false;
}

/* What the channel carries for a frame. */
static uint64_t channel_bytes_of_a_frame(void)
{
	struct stage stage;
	begin(&stage, &packed);
	const struct session *host = stage.client->pair.host.session;
	uint64_t before = session_stats(host)->channel_bytes_sent;
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
	assert_true(stage.ready);
	uint64_t bytes = session_stats(host)->channel_bytes_sent - before;
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	end(&stage);
	return bytes;
}

static void in_a_region_no_row_goes_by_the_channel(void **state)
{
	(void)state;
	const uint64_t rows = (uint64_t)packed.row_bytes[0] * packed.rows[0];
	uint64_t before = channel_bytes_of_a_frame();
	in_region = true;
	uint64_t by_region = channel_bytes_of_a_frame();
	in_region = false;
	assert_in_range(before, rows, 2 * rows);
	assert_in_range(by_region, before - rows, before - rows + 64); // where it is, instead
}

static void a_late_device_delays_ready_and_nothing_before(void **state)
{
	(void)state;
	struct stage stage;
	struct vgem_buffer vgem;
	if (!vgem_buffer_init(&vgem)) {
		skip();
	}
	begin(&stage, &packed);
	close(stage.fds[0]);
	stage.fds[0] = fcntl(vgem.fd, F_DUPFD_CLOEXEC, 0);
	stage.hesitates = true;
	struct zwlr_export_dmabuf_frame_v1 *frame = ask(&stage);
	vgem_buffer_attach(&vgem);
	tell(&stage, stage.frame);
	world_until(stage.world, &stage.described);
	world_turns(stage.world, QUIET_TURNS);
	vgem_buffer_expect_busy(&vgem);
	assert_false(stage.ready);
	memcpy(vgem.data, stage.screen[0], SIZE); // by the device, which is late
	vgem_buffer_signal(&vgem);
	world_until(stage.world, &stage.ready);
	zwlr_export_dmabuf_frame_v1_destroy(frame);
	end(&stage);
	vgem_buffer_finish(&vgem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_client_gets_a_copy_that_is_right_when_it_is_ready),
		fd_count_test(a_copy_does_not_change_any_more),
		fd_count_test(what_cannot_be_copied_is_cancelled_for_good),
		fd_count_test(what_is_no_dma_buf_is_cancelled_for_good),
		fd_count_test(a_guest_without_memory_cancels_for_now),
		fd_count_test(it_is_hidden_where_a_guest_can_make_no_copies),
		fd_count_test(a_client_may_leave_before_it_is_told),
		fd_count_test(two_frames_at_once_are_both_right),
		fd_count_test(a_guest_does_not_draw_on_the_screen),
		fd_count_test(a_late_device_delays_ready_and_nothing_before),
		fd_count_test(a_guest_does_not_draw_on_the_screen_by_a_region),
		fd_count_test(all_of_it_holds_in_a_region),
		fd_count_test(where_the_fd_gets_lost_rows_go_by_the_channel),
		fd_count_test(in_a_region_no_row_goes_by_the_channel),
	};
	log_init("integration", LOG_ERROR); // what stands for a dma-buf knows no DMA_BUF_IOCTL_SYNC
	return cmocka_run_group_tests(tests, NULL, NULL);
}
