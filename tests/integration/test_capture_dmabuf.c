#include <drm_fourcc.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mapping.h"
#include "fdpass/resolver.h"
#include "image-capture-source-client.h"
#include "image-copy-capture-client.h"
#include "image-copy-capture-server.h"
#include "linux-dmabuf-client.h"
#include "relay/session.h"
#include "screencopy-client.h"
#include "screencopy-server.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* Captures into a client's dma-bufs. */

#define WIDTH        48
#define HEIGHT       20
#define STRIDE       (4 * WIDTH + 64)
#define OFFSET       256
#define SIZE         16384 // of every dma-buf
#define HOST_DEVICE  0xe280
#define GUEST_DEVICE 0xe281
#define QUIET_TURNS  50
#define UNKNOWN      fourcc_code('?', '?', '?', '?')
#define TILED        I915_FORMAT_MOD_X_TILED

static bool in_region; // all of it

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	struct wl_output *output;
	struct zwp_linux_dmabuf_v1 *dmabuf;
	int fd;
	uint8_t *data;
	struct wl_buffer *buffer;
	struct paint_rng rng;
	uint8_t picture[SIZE];        // what the compositor has written
	struct wl_resource *attached; // of a frame of ext-image-copy-capture
	unsigned int copies;          // that it was asked for
	bool ready, failed;
	uint32_t reason;
	uint32_t formats[8]; // that were offered
	uint64_t modifiers[8];
	size_t n_formats, n_modifiers;
	uint64_t device;
	struct vgem_buffer *late; // that the copy on the host is, and is written to later; or NULL
};

/* ---- the compositor ---- */

static void write_screen(struct stage *stage, struct wl_resource *resource)
{
	const struct dmabuf_buffer *buffer = wl_resource_get_user_data(resource);
	assert_int_equal(buffer->n_planes, 1);
	uint8_t *far = udmabuf_map(buffer->planes[0].fd, SIZE);
	stage->copies++;
	paint_noise(&stage->rng, stage->picture, SIZE);
	for (uint32_t y = 0; y < HEIGHT; y++) {
		size_t at = buffer->planes[0].offset + y * buffer->planes[0].stride;
		memcpy(far + at, stage->picture + at, (size_t)4 * WIDTH);
	}
	munmap(far, SIZE);
}

static void handle_frame(void *data, struct wl_resource *manager, const union wl_argument *args)
{
	(void)data;
	struct wl_resource *frame = compositor_made(manager, &args[0]);
	zwlr_screencopy_frame_v1_send_buffer(frame, 0, WIDTH, HEIGHT, STRIDE);
	zwlr_screencopy_frame_v1_send_linux_dmabuf(frame, UNKNOWN, WIDTH, HEIGHT);
	zwlr_screencopy_frame_v1_send_linux_dmabuf(frame, DRM_FORMAT_XRGB8888, WIDTH, HEIGHT);
	zwlr_screencopy_frame_v1_send_buffer_done(frame);
}

static void copy(void *data, struct wl_resource *frame, const union wl_argument *args)
{
	struct stage *stage = data;
	if (stage->late != NULL) {
		stage->copies++;
		vgem_buffer_attach(stage->late);
	} else {
		write_screen(stage, compositor_object(&args[0]));
	}
	zwlr_screencopy_frame_v1_send_flags(frame, 0);
	zwlr_screencopy_frame_v1_send_ready(frame, 0, 5, 6);
}

static void send_format(struct wl_resource *session, uint32_t format, uint64_t first, uint64_t last)
{
	uint64_t modifiers[] = {first, last};
	struct wl_array array = {.data = modifiers, .size = sizeof(modifiers)};
	ext_image_copy_capture_session_v1_send_dmabuf_format(session, format, &array);
}

static void handle_session(void *data, struct wl_resource *manager, const union wl_argument *args)
{
	(void)data;
	struct wl_resource *session = compositor_made(manager, &args[0]);
	uint64_t device = HOST_DEVICE;
	struct wl_array array = {.data = &device, .size = sizeof(device)};
	ext_image_copy_capture_session_v1_send_buffer_size(session, WIDTH, HEIGHT);
	ext_image_copy_capture_session_v1_send_dmabuf_device(session, &array);
	send_format(session, DRM_FORMAT_XRGB8888, TILED, DRM_FORMAT_MOD_LINEAR);
	send_format(session, DRM_FORMAT_ARGB8888, TILED, TILED + 1);
	send_format(session, UNKNOWN, DRM_FORMAT_MOD_LINEAR, DRM_FORMAT_MOD_INVALID);
	ext_image_copy_capture_session_v1_send_done(session);
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
	ext_image_copy_capture_frame_v1_send_presentation_time(frame, 0, 5, 6);
	ext_image_copy_capture_frame_v1_send_ready(frame);
}

static void add_captures(struct stage *stage)
{
	struct compositor *compositor = stage->world->compositor;
	compositor_add_global(compositor, &wl_output_interface, 3);
	compositor_add_global(compositor, &zwlr_screencopy_manager_v1_interface, 3);
	compositor_add_global(compositor, &ext_output_image_capture_source_manager_v1_interface, 1);
	compositor_add_global(compositor, &ext_image_copy_capture_manager_v1_interface, 1);
	compositor_hook(
		compositor, "zwlr_screencopy_manager_v1", "capture_output", handle_frame, stage);
	compositor_hook(compositor, "zwlr_screencopy_frame_v1", "copy", copy, stage);
	compositor_hook(compositor, "ext_image_copy_capture_manager_v1", "create_session",
		handle_session, stage);
	compositor_hook(compositor, "ext_image_copy_capture_frame_v1", "attach_buffer",
		attach_buffer, stage);
	compositor_hook(compositor, "ext_image_copy_capture_frame_v1", "capture", capture, stage);
}

/* ---- the client ---- */

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

/* number is 0 for a guest without a device; without a resolver, no dma-bufs cross. */
static void begin_with(struct stage *stage, struct resolver *resolver, uint64_t number)
{
	*stage = (struct stage){.resolver = resolver, .rng = {.state = 3}, .fd = -1};
	struct pair_options options = {
		.resolver = resolver, .device = {.number = number, .implicit_linear = false}};
	if (in_region) {
		share_region(&options);
	}
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 3);
	add_captures(stage);
	stage->client = client_create(stage->world, &options);
	stage->output = client_bind(stage->client, &wl_output_interface, 3);
}

static void use_buffer(struct stage *stage, int fd)
{
	stage->fd = fd;
	stage->dmabuf = client_bind(stage->client, &zwp_linux_dmabuf_v1_interface, 3);
	struct zwp_linux_buffer_params_v1 *params =
		zwp_linux_dmabuf_v1_create_params(stage->dmabuf);
	zwp_linux_buffer_params_v1_add(params, fd, 0, OFFSET, STRIDE, 0, 0);
	stage->buffer = zwp_linux_buffer_params_v1_create_immed(
		params, WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, 0);
	zwp_linux_buffer_params_v1_destroy(params);
}

static void begin(struct stage *stage)
{
	begin_with(stage, udmabuf_resolver_create(), GUEST_DEVICE);
	use_buffer(stage, udmabuf_make(SIZE));
	stage->data = udmabuf_map(stage->fd, SIZE);
}

static void end(struct stage *stage)
{
	if (stage->buffer != NULL) {
		wl_buffer_destroy(stage->buffer);
		zwp_linux_dmabuf_v1_destroy(stage->dmabuf);
		close(stage->fd);
	}
	if (stage->data != NULL) {
		munmap(stage->data, SIZE);
	}
	wl_output_destroy(stage->output);
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
}

/* At the moment of ready, not later; and nothing beside the rows was touched. */
static void expect_screen(struct stage *stage)
{
	for (size_t y = 0; y < HEIGHT; y++) {
		size_t at = OFFSET + y * STRIDE;
		assert_memory_equal(stage->data + at, stage->picture + at, (size_t)4 * WIDTH);
	}
	for (size_t i = 0; i < OFFSET; i++) {
		assert_int_equal(stage->data[i], 0);
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
	(void)frame, (void)hi, (void)lo;
	assert_int_equal(nsec, 6);
	expect_screen(data);
}

static void handle_failed(void *data, struct zwlr_screencopy_frame_v1 *frame)
{
	(void)frame;
	((struct stage *)data)->failed = true;
}

static void handle_linux_dmabuf(void *data, struct zwlr_screencopy_frame_v1 *frame, uint32_t format,
	uint32_t width, uint32_t height)
{
	(void)frame;
	struct stage *stage = data;
	assert_int_equal(width, WIDTH);
	assert_int_equal(height, HEIGHT);
	stage->formats[stage->n_formats++] = format;
}

static void ignore_done(void *data, struct zwlr_screencopy_frame_v1 *frame)
{
	(void)data, (void)frame;
}

static const struct zwlr_screencopy_frame_v1_listener screencopy_listener = {
	.buffer = ignore_buffer,
	.flags = ignore_flags,
	.ready = handle_ready,
	.failed = handle_failed,
	.linux_dmabuf = handle_linux_dmabuf,
	.buffer_done = ignore_done,
};

/* A frame of the screen, copied to the stage's buffer if there is one. */
static void screencopy(struct stage *stage)
{
	struct zwlr_screencopy_manager_v1 *manager =
		client_bind(stage->client, &zwlr_screencopy_manager_v1_interface, 3);
	struct zwlr_screencopy_frame_v1 *frame =
		zwlr_screencopy_manager_v1_capture_output(manager, 0, stage->output);
	zwlr_screencopy_frame_v1_add_listener(frame, &screencopy_listener, stage);
	stage->n_formats = 0;
	client_roundtrip(stage->client);
	if (stage->buffer != NULL) {
		zwlr_screencopy_frame_v1_copy(frame, stage->buffer);
		client_roundtrip(stage->client);
	}
	zwlr_screencopy_frame_v1_destroy(frame);
	zwlr_screencopy_manager_v1_destroy(manager);
}

static void a_screencopy_is_in_the_client_s_dma_buf_when_it_is_ready(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	for (size_t i = 0; i < 5; i++) {
		stage.ready = false;
		screencopy(&stage);
		assert_true(stage.ready);
		assert_int_equal(stage.n_formats, 1);
		assert_int_equal(stage.formats[0], DRM_FORMAT_XRGB8888);
	}
	assert_int_equal(stage.copies, 5);
	end(&stage);
}

static void a_buffer_may_be_gone_when_it_is_ready(void **state)
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
	client_roundtrip(stage.client);
	zwlr_screencopy_frame_v1_destroy(frame);
	zwlr_screencopy_manager_v1_destroy(manager);
	client_roundtrip(stage.client);
	stage.buffer = NULL;
	zwp_linux_dmabuf_v1_destroy(stage.dmabuf);
	close(stage.fd);
	end(&stage);
}

/* What was captured has changed the copy on the host, too: all of it is sent when it is shown. */
static void what_was_captured_can_be_shown(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_compositor *compositor = client_bind(stage.client, &wl_compositor_interface, 4);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	for (size_t i = 0; i < 3; i++) {
		screencopy(&stage);
		stage.data[OFFSET + i]++;
		wl_surface_attach(surface, stage.buffer, 0, 0);
		wl_surface_damage_buffer(surface, 0, 0, WIDTH, HEIGHT);
		wl_surface_commit(surface);
		client_roundtrip(stage.client);
		uint8_t *far = udmabuf_map(stage.screen.shown->planes[0].fd, SIZE);
		for (size_t y = 0; y < HEIGHT; y++) {
			size_t at = OFFSET + y * STRIDE;
			assert_memory_equal(far + at, stage.data + at, (size_t)4 * WIDTH);
		}
		munmap(far, SIZE);
	}
	wl_surface_destroy(surface);
	wl_compositor_destroy(compositor);
	end(&stage);
}

/* How many formats a screencopy offers to such a guest. */
static size_t offers(struct resolver *resolver, uint64_t number)
{
	struct stage stage;
	begin_with(&stage, resolver, number);
	screencopy(&stage);
	end(&stage);
	return stage.n_formats;
}

static void a_client_that_can_make_none_is_offered_none(void **state)
{
	(void)state;
	assert_int_equal(offers(udmabuf_resolver_create(), GUEST_DEVICE), 1);
	assert_int_equal(offers(udmabuf_resolver_create(), 0), 0);
	assert_int_equal(offers(NULL, GUEST_DEVICE), 0);
}

/* ---- ext_image_copy_capture_v1 ---- */

static void ignore_size(void *data, struct ext_image_copy_capture_session_v1 *session,
	uint32_t width, uint32_t height)
{
	(void)data, (void)session, (void)width, (void)height;
}

static void handle_device(
	void *data, struct ext_image_copy_capture_session_v1 *session, struct wl_array *device)
{
	(void)session;
	struct stage *stage = data;
	assert_int_equal(device->size, sizeof(stage->device));
	memcpy(&stage->device, device->data, sizeof(stage->device));
}

static void handle_format(void *data, struct ext_image_copy_capture_session_v1 *session,
	uint32_t format, struct wl_array *modifiers)
{
	(void)session;
	struct stage *stage = data;
	uint64_t *modifier;
	stage->formats[stage->n_formats++] = format;
	wl_array_for_each (modifier, modifiers) {
		stage->modifiers[stage->n_modifiers++] = *modifier;
	}
}

static void ignore_session(void *data, struct ext_image_copy_capture_session_v1 *session)
{
	(void)data, (void)session;
}

static const struct ext_image_copy_capture_session_v1_listener session_listener = {
	.buffer_size = ignore_size,
	.dmabuf_device = handle_device,
	.dmabuf_format = handle_format,
	.done = ignore_session,
};

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

static void handle_refused(
	void *data, struct ext_image_copy_capture_frame_v1 *frame, uint32_t reason)
{
	(void)frame;
	struct stage *stage = data;
	stage->failed = true;
	stage->reason = reason;
}

static const struct ext_image_copy_capture_frame_v1_listener frame_listener = {
	.presentation_time = ignore_time,
	.ready = handle_copied,
	.failed = handle_refused,
};

/* Captures n frames of a session. */
static void image_copy(struct stage *stage, size_t n)
{
	struct ext_output_image_capture_source_manager_v1 *sources = client_bind(
		stage->client, &ext_output_image_capture_source_manager_v1_interface, 1);
	struct ext_image_copy_capture_manager_v1 *manager =
		client_bind(stage->client, &ext_image_copy_capture_manager_v1_interface, 1);
	struct ext_image_capture_source_v1 *source =
		ext_output_image_capture_source_manager_v1_create_source(sources, stage->output);
	struct ext_image_copy_capture_session_v1 *session =
		ext_image_copy_capture_manager_v1_create_session(manager, source, 0);
	ext_image_copy_capture_session_v1_add_listener(session, &session_listener, stage);
	client_roundtrip(stage->client);
	for (size_t i = 0; i < n; i++) {
		struct ext_image_copy_capture_frame_v1 *frame =
			ext_image_copy_capture_session_v1_create_frame(session);
		ext_image_copy_capture_frame_v1_add_listener(frame, &frame_listener, stage);
		stage->ready = stage->failed = false;
		ext_image_copy_capture_frame_v1_attach_buffer(frame, stage->buffer);
		ext_image_copy_capture_frame_v1_damage_buffer(frame, 0, 0, WIDTH, HEIGHT);
		ext_image_copy_capture_frame_v1_capture(frame);
		client_roundtrip(stage->client);
		assert_true(stage->ready || stage->failed);
		ext_image_copy_capture_frame_v1_destroy(frame);
	}
	ext_image_copy_capture_session_v1_destroy(session);
	ext_image_capture_source_v1_destroy(source);
	ext_image_copy_capture_manager_v1_destroy(manager);
	ext_output_image_capture_source_manager_v1_destroy(sources);
}

static void an_image_copy_is_in_the_client_s_dma_buf_when_it_is_ready(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	image_copy(&stage, 5);
	assert_true(stage.ready);
	assert_int_equal(stage.copies, 5);
	end(&stage);
}

static void a_session_offers_linear_buffers_on_the_guest_s_device(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	image_copy(&stage, 0);
	assert_int_equal(stage.device, GUEST_DEVICE);
	assert_int_equal(stage.n_formats, 1);
	assert_int_equal(stage.formats[0], DRM_FORMAT_XRGB8888);
	assert_int_equal(stage.n_modifiers, 1);
	assert_int_equal(stage.modifiers[0], DRM_FORMAT_MOD_LINEAR);
	end(&stage);
	begin_with(&stage, NULL, GUEST_DEVICE);
	image_copy(&stage, 0);
	assert_int_equal(stage.device, 0);
	assert_int_equal(stage.n_formats, 0);
	end(&stage);
}

/* ---- what can only be read ---- */

/* A dma-buf that cannot be written to; -1: there is none to be had. */
static int make_readable(struct vgem_buffer *buffer)
{
	char path[64];
	if (vgem_buffer_init(buffer)) {
		return fcntl(buffer->fd, F_DUPFD_CLOEXEC, 0);
	}
	int writable = udmabuf_make(SIZE);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", writable);
	int fd = open(path, O_RDONLY | O_CLOEXEC); // not of a real one
	close(writable);
	return fd;
}

static void a_capture_into_what_can_only_be_read_fails(void **state)
{
	(void)state;
	struct stage stage;
	struct vgem_buffer vgem = {.card = -1};
	int fd = make_readable(&vgem);
	if (fd < 0) {
		skip();
	}
	begin_with(&stage, udmabuf_resolver_create(), GUEST_DEVICE);
	use_buffer(&stage, fd);
	screencopy(&stage);
	assert_true(stage.failed);
	image_copy(&stage, 2);
	assert_true(stage.failed);
	assert_int_equal(stage.reason, 1); // buffer_constraints
	assert_false(stage.ready);
	assert_int_equal(stage.copies, 0);
	end(&stage);
	if (vgem.card >= 0) {
		vgem_buffer_finish(&vgem);
	}
}

/* ---- what is written later ---- */

struct late_resolver {
	struct resolver base;
	struct vgem_buffer vgem;
};

static int make_late(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	const struct vgem_buffer *vgem = &((struct late_resolver *)resolver)->vgem;
	assert_true(size <= vgem->size);
	buffer->size = vgem->size;
	buffer->fd = fcntl(vgem->fd, F_DUPFD_CLOEXEC, 0);
	buffer->mapping = mapping_create(buffer->fd, buffer->size, false);
	assert_non_null(buffer->mapping);
	return 0;
}

static void destroy_late(struct resolver *resolver)
{
	vgem_buffer_finish(&((struct late_resolver *)resolver)->vgem);
}

static bool is_asked(void *data)
{
	return ((struct stage *)data)->copies > 0;
}

/* The compositor's device has its orders only, when the compositor says "ready". */
static void a_late_device_delays_ready(void **state)
{
	(void)state;
	static const struct resolver_interface interface = {
		.name = "late", .make = make_late, .destroy = destroy_late};
	struct late_resolver late = {.base.interface = &interface};
	struct stage stage;
	if (!vgem_buffer_init(&late.vgem)) {
		skip();
	}
	begin_with(&stage, &late.base, GUEST_DEVICE);
	use_buffer(&stage, udmabuf_make(SIZE));
	stage.data = udmabuf_map(stage.fd, SIZE);
	stage.late = &late.vgem;
	struct zwlr_screencopy_manager_v1 *manager =
		client_bind(stage.client, &zwlr_screencopy_manager_v1_interface, 3);
	struct zwlr_screencopy_frame_v1 *frame =
		zwlr_screencopy_manager_v1_capture_output(manager, 0, stage.output);
	zwlr_screencopy_frame_v1_add_listener(frame, &screencopy_listener, &stage);
	zwlr_screencopy_frame_v1_copy(frame, stage.buffer);
	world_wait(stage.world, is_asked, &stage);
	world_turns(stage.world, QUIET_TURNS);
	vgem_buffer_expect_busy(&late.vgem);
	assert_false(stage.ready);
	paint_noise(&stage.rng, stage.picture, SIZE);
	memcpy(late.vgem.data, stage.picture, SIZE);
	vgem_buffer_signal(&late.vgem);
	world_until(stage.world, &stage.ready);
	zwlr_screencopy_frame_v1_destroy(frame);
	zwlr_screencopy_manager_v1_destroy(manager);
	end(&stage);
}

static void all_of_it_holds_in_a_region(void **state)
{
	in_region = true;
	a_screencopy_is_in_the_client_s_dma_buf_when_it_is_ready(state);
	a_buffer_may_be_gone_when_it_is_ready(state);
	what_was_captured_can_be_shown(state);
	an_image_copy_is_in_the_client_s_dma_buf_when_it_is_ready(state);
	a_capture_into_what_can_only_be_read_fails(state);
	in_region = false;
}

static void in_a_region_no_row_goes_by_the_channel(void **state)
{
	(void)state;
	struct stage stage;
	in_region = true;
	begin(&stage);
	in_region = false;
	screencopy(&stage);
	assert_true(stage.ready);
	const struct stats *stats = session_stats(stage.client->pair.host.session);
	assert_int_equal(stats->memory_bytes_sent, 0);
	assert_in_range(stats->channel_bytes_sent, 1, HEIGHT * STRIDE);
	assert_true(session_stats(stage.client->pair.guest.session)->memory_bytes_shared > 0);
	end(&stage);
}

static void a_late_device_delays_ready_in_a_region_too(void **state)
{
	in_region = true;
	a_late_device_delays_ready(state);
	in_region = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_screencopy_is_in_the_client_s_dma_buf_when_it_is_ready),
		fd_count_test(a_buffer_may_be_gone_when_it_is_ready),
		fd_count_test(what_was_captured_can_be_shown),
		fd_count_test(a_client_that_can_make_none_is_offered_none),
		fd_count_test(an_image_copy_is_in_the_client_s_dma_buf_when_it_is_ready),
		fd_count_test(a_session_offers_linear_buffers_on_the_guest_s_device),
		fd_count_test(a_capture_into_what_can_only_be_read_fails),
		fd_count_test(a_late_device_delays_ready),
		fd_count_test(all_of_it_holds_in_a_region),
		fd_count_test(in_a_region_no_row_goes_by_the_channel),
		fd_count_test(a_late_device_delays_ready_in_a_region_too),
	};
	log_init("integration", LOG_ERROR); // what stands for a dma-buf knows no DMA_BUF_IOCTL_SYNC
	return cmocka_run_group_tests(tests, NULL, NULL);
}
