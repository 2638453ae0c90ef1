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
#include "channel/channel.h"
#include "fdpass/resolver.h"
#include "linux-dmabuf-client.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"
#include "wire/message.h"

/*
 * What clients and guests say wrong of their buffers. The compositor here takes everything, so that
 * whatever is told is told by us.
 */

#define SIZE   (64u * 1024) // of every dma-buf
#define WIDTH  64
#define HEIGHT 32
#define STRIDE (4u * WIDTH)

enum {
	ALREADY_USED = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_ALREADY_USED,
	PLANE_IDX = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_PLANE_IDX,
	PLANE_SET = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_PLANE_SET,
	INCOMPLETE = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_INCOMPLETE,
	FORMAT = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_INVALID_FORMAT,
	DIMENSIONS = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_INVALID_DIMENSIONS,
	BOUNDS = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_OUT_OF_BOUNDS,
	BUFFER = ZWP_LINUX_BUFFER_PARAMS_V1_ERROR_INVALID_WL_BUFFER,
	FAILED, // by the event, or BUFFER
};

enum kind { DMABUF, MEMORY, PIPE };

struct plane {
	uint32_t index, offset, stride;
	uint64_t modifier;
	enum kind kind; // of what its fd is; all dma-bufs are one
};

#define MAX_ADDED 5

struct wrong {
	const char *what;
	uint32_t expected;
	int32_t width, height;
	uint32_t format, flags;
	size_t n_planes;
	struct plane planes[MAX_ADDED];
	bool twice; // created
};

#define LINEAR DRM_FORMAT_MOD_LINEAR
#define XRGB   DRM_FORMAT_XRGB8888
#define NV12   DRM_FORMAT_NV12
#define YUV420 DRM_FORMAT_YUV420
#define TILED  I915_FORMAT_MOD_X_TILED

static const struct wrong wrongs[] = {
	{"no plane", INCOMPLETE, WIDTH, HEIGHT, XRGB, 0, 0, {{0}}, false},
	{"no first plane", INCOMPLETE, WIDTH, HEIGHT, XRGB, 0, 1, {{1, 0, STRIDE}}, false},
	{"a gap", INCOMPLETE, WIDTH, HEIGHT, YUV420, 0, 2, {{0, 0, STRIDE}, {2, 0, STRIDE}}, false},
	{"a plane too few", INCOMPLETE, WIDTH, HEIGHT, NV12, 0, 1, {{0, 0, STRIDE}}, false},
	{"a plane too many", INCOMPLETE, WIDTH, HEIGHT, XRGB, 0, 2,
		{{0, 0, STRIDE}, {1, 0, STRIDE}}, false},
	{"the same fd for planes that the format has not", INCOMPLETE, WIDTH, HEIGHT, NV12, 0, 3,
		{{0, 0, STRIDE}, {1, 8192, STRIDE}, {2, 16384, STRIDE}}, false},
	{"four planes", INCOMPLETE, WIDTH, HEIGHT, YUV420, 0, 4,
		{{0, 0, STRIDE}, {1, 0, STRIDE}, {2, 0, STRIDE}, {3, 0, STRIDE}}, false},
	{"a fifth plane", PLANE_IDX, WIDTH, HEIGHT, XRGB, 0, 1, {{4, 0, STRIDE}}, false},
	{"the last plane that there is a number for", PLANE_IDX, WIDTH, HEIGHT, XRGB, 0, 1,
		{{UINT32_MAX, 0, STRIDE}}, false},
	{"a plane that was set", PLANE_SET, WIDTH, HEIGHT, XRGB, 0, 2,
		{{0, 0, STRIDE}, {0, 0, STRIDE}}, false},
	{"a plane that was set with what is no dma-buf", PLANE_SET, WIDTH, HEIGHT, XRGB, 0, 2,
		{{0, 0, STRIDE, LINEAR, MEMORY}, {0, 0, STRIDE}}, false},
	{"no format", FORMAT, WIDTH, HEIGHT, 0, 0, 1, {{0, 0, STRIDE}}, false},
	{"an unknown format", FORMAT, WIDTH, HEIGHT, fourcc_code('?', '?', '?', '?'), 0, 1,
		{{0, 0, STRIDE}}, false},
	{"a format that is never linear", FORMAT, WIDTH, HEIGHT, DRM_FORMAT_YUV420_8BIT, 0, 1,
		{{0, 0, STRIDE}}, false},
	{"another byte order", FORMAT, WIDTH, HEIGHT, XRGB | DRM_FORMAT_BIG_ENDIAN, 0, 1,
		{{0, 0, STRIDE}}, false},
	{"a tiled buffer", FORMAT, WIDTH, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE, TILED}}, false},
	{"a plane that is tiled", FORMAT, WIDTH, HEIGHT, NV12, 0, 2,
		{{0, 0, STRIDE}, {1, 0, STRIDE, TILED}}, false},
	{"a plane that may be tiled", FORMAT, WIDTH, HEIGHT, NV12, 0, 2,
		{{0, 0, STRIDE}, {1, 0, STRIDE, DRM_FORMAT_MOD_INVALID}}, false},
	{"unknown flags", FORMAT, WIDTH, HEIGHT, XRGB, 8, 1, {{0, 0, STRIDE}}, false},
	{"all flags", FORMAT, WIDTH, HEIGHT, XRGB, UINT32_MAX, 1, {{0, 0, STRIDE}}, false},
	{"no width", DIMENSIONS, 0, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"no height", DIMENSIONS, WIDTH, 0, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"a negative width", DIMENSIONS, -1, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"the least height", DIMENSIONS, WIDTH, INT32_MIN, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"the largest width", BOUNDS, INT32_MAX, 1, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"the largest height", BOUNDS, WIDTH, INT32_MAX, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"the largest picture", BOUNDS, INT32_MAX, INT32_MAX, XRGB, 0, 1, {{0, 0, UINT32_MAX}},
		false},
	{"no stride", BOUNDS, WIDTH, HEIGHT, XRGB, 0, 1, {{0, 0, 0}}, false},
	{"a stride of less than a row", BOUNDS, WIDTH, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE - 1}},
		false},
	{"a later stride of less than a row", BOUNDS, WIDTH, HEIGHT, NV12, 0, 2,
		{{0, 0, STRIDE}, {1, 0, WIDTH - 1}}, false},
	{"a row too many", BOUNDS, WIDTH, SIZE / STRIDE + 1, XRGB, 0, 1, {{0, 0, STRIDE}}, false},
	{"an offset of a byte too many", BOUNDS, WIDTH, SIZE / STRIDE, XRGB, 0, 1, {{0, 1, STRIDE}},
		false},
	{"an offset behind the end", BOUNDS, WIDTH, 1, XRGB, 0, 1, {{0, SIZE, STRIDE}}, false},
	{"an offset that wraps around", BOUNDS, WIDTH, HEIGHT, XRGB, 0, 1,
		{{0, UINT32_MAX - STRIDE *HEIGHT + 1, STRIDE}}, false},
	{"a stride that wraps around", BOUNDS, WIDTH, HEIGHT, XRGB, 0, 1,
		{{0, 0, UINT32_MAX / HEIGHT + 1}}, false},
	{"a later plane behind the end", BOUNDS, WIDTH, HEIGHT, NV12, 0, 2,
		{{0, 0, STRIDE}, {1, SIZE - STRIDE, STRIDE}}, false},
	{"odd sizes without room for the rest", BOUNDS, WIDTH + 1, HEIGHT, NV12, 0, 2,
		{{0, 0, WIDTH + 1}, {1, 0, WIDTH + 1}}, false},
	{"memory", FAILED, WIDTH, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE, LINEAR, MEMORY}}, false},
	{"a pipe", FAILED, WIDTH, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE, LINEAR, PIPE}}, false},
	{"a plane that is memory", FAILED, WIDTH, HEIGHT, NV12, 0, 2,
		{{0, 0, STRIDE}, {1, 0, STRIDE, LINEAR, MEMORY}}, false},
	{"an interlaced picture", FAILED, WIDTH, HEIGHT, XRGB,
		ZWP_LINUX_BUFFER_PARAMS_V1_FLAGS_INTERLACED, 1, {{0, 0, STRIDE}}, false},
	{"bottom first", FAILED, WIDTH, HEIGHT, XRGB, ZWP_LINUX_BUFFER_PARAMS_V1_FLAGS_BOTTOM_FIRST,
		1, {{0, 0, STRIDE}}, false},
	{"a second buffer", ALREADY_USED, WIDTH, HEIGHT, XRGB, 0, 1, {{0, 0, STRIDE}}, true},
};

#define N_WRONGS (sizeof(wrongs) / sizeof(wrongs[0]))

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	int fds[3]; // by enum kind
};

static void begin(struct stage *stage)
{
	int ends[2];
	*stage = (struct stage){.resolver = udmabuf_resolver_create()};
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 4);
	stage->fds[DMABUF] = udmabuf_make(SIZE);
	stage->fds[MEMORY] = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(stage->fds[MEMORY], SIZE), 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	close(ends[0]);
	stage->fds[PIPE] = ends[1];
}

static void end(struct stage *stage)
{
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
	for (size_t i = 0; i < 3; i++) {
		close(stage->fds[i]);
	}
}

/* ---- clients ---- */

static void handle_created(
	void *data, struct zwp_linux_buffer_params_v1 *params, struct wl_buffer *buffer)
{
	(void)params;
	struct wl_buffer **created = data;
	*created = buffer;
}

static void handle_failed(void *data, struct zwp_linux_buffer_params_v1 *params)
{
	// Nobody has made this buffer.
	struct wl_buffer **created = data;
	*created = (struct wl_buffer *)params;
}

static const struct zwp_linux_buffer_params_v1_listener listener = {
	.created = handle_created,
	.failed = handle_failed,
};

static bool is_answered(void *data)
{
	return *(struct wl_buffer **)data != NULL;
}

static void expect_error(struct stage *stage, uint32_t id, uint32_t code)
{
	const struct wl_interface *interface = NULL;
	uint32_t about = 0;
	client_wait_failed(stage->client);
	uint32_t told = wl_display_get_protocol_error(stage->client->display, &interface, &about);
	assert_int_equal(told, code);
	assert_non_null(interface);
	assert_string_equal(interface->name, zwp_linux_buffer_params_v1_interface.name);
	assert_int_equal(about, id);
	client_wait_over(stage->client);
}

static struct wl_buffer *create(
	struct zwp_linux_buffer_params_v1 *params, const struct wrong *wrong, bool immediately)
{
	if (immediately) {
		return zwp_linux_buffer_params_v1_create_immed(
			params, wrong->width, wrong->height, wrong->format, wrong->flags);
	}
	zwp_linux_buffer_params_v1_create(
		params, wrong->width, wrong->height, wrong->format, wrong->flags);
	return NULL;
}

static void destroy_buffer(struct wl_buffer *buffer)
{
	if (buffer != NULL) {
		wl_buffer_destroy(buffer);
	}
}

/* A client that does it wrong, by create or create_immed. */
static void do_wrong(struct stage *stage, const struct wrong *wrong, bool immediately)
{
	const struct pair_options options = {
		.resolver = stage->resolver, .device = {.number = 0xe280, .implicit_linear = true}};
	struct wl_buffer *answer = NULL, *first = NULL;
	stage->client = client_create(stage->world, &options);
	struct zwp_linux_dmabuf_v1 *dmabuf =
		client_bind(stage->client, &zwp_linux_dmabuf_v1_interface, 4);
	struct zwp_linux_buffer_params_v1 *params = zwp_linux_dmabuf_v1_create_params(dmabuf);
	zwp_linux_buffer_params_v1_add_listener(params, &listener, &answer);
	for (size_t i = 0; i < wrong->n_planes; i++) {
		const struct plane *plane = &wrong->planes[i];
		zwp_linux_buffer_params_v1_add(params, stage->fds[plane->kind], plane->index,
			plane->offset, plane->stride, (uint32_t)(plane->modifier >> 32),
			(uint32_t)plane->modifier);
	}
	if (wrong->twice) {
		first = create(params, wrong, true);
		client_roundtrip(stage->client);
	}
	struct wl_buffer *buffer = create(params, wrong, immediately);
	if (wrong->expected == FAILED && !immediately) {
		world_wait(stage->world, is_answered, &answer);
		assert_ptr_equal(answer, params);
		client_roundtrip(stage->client); // and goes on
	} else {
		expect_error(stage, wl_proxy_get_id((struct wl_proxy *)params),
			wrong->expected == FAILED ? BUFFER : wrong->expected);
	}
	assert_int_equal(stage->screen.n_requests, wrong->twice);
	stage->screen.n_requests = 0;
	destroy_buffer(first);
	destroy_buffer(buffer);
	zwp_linux_buffer_params_v1_destroy(params);
	zwp_linux_dmabuf_v1_destroy(dmabuf);
	client_destroy(stage->client);
}

static void each_wrong_set_is_told_by_the_protocol_s_own_error(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	for (size_t i = 0; i < N_WRONGS; i++) {
		print_message("%s\n", wrongs[i].what);
		do_wrong(&stage, &wrongs[i], false);
		do_wrong(&stage, &wrongs[i], true);
	}
	end(&stage);
}

/* ---- guests ---- */

// What a guest without a client, that is the test, gives its objects for ids.
enum { DISPLAY = 1, REGISTRY, SYNC, GLOBAL, PARAMS, MADE };

#define FDREF 1

struct guest {
	struct stage *stage;
	struct wl_array messages;
	size_t start;
	uint32_t refs[MAX_ADDED];
	uint32_t n_refs;
	uint8_t received[65536]; // all that the host sent
	size_t n_received;
};

static void send_bytes(const struct guest *guest, const void *bytes, size_t len)
{
	int fd = guest->stage->client->pair.channel_fd;
	assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
}

static void begin_message(struct guest *guest, uint32_t object, uint32_t opcode)
{
	guest->start = guest->messages.size;
	assert_true(wire_encode_begin(&guest->messages, object, opcode));
}

static void add_words(struct guest *guest, const uint32_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_true(wire_encode_uint(&guest->messages, words[i]));
	}
}

static void end_message(struct guest *guest)
{
	assert_true(wire_encode_end(&guest->messages, guest->start));
}

static void send_messages(struct guest *guest)
{
	const size_t ids = guest->n_refs * sizeof(*guest->refs);
	const struct channel_header header = {
		.type = CHANNEL_MESSAGES,
		.length = (uint32_t)(ids + guest->messages.size),
		.arg = guest->n_refs,
	};
	send_bytes(guest, &header, sizeof(header));
	send_bytes(guest, guest->refs, ids);
	send_bytes(guest, guest->messages.data, guest->messages.size);
}

static void open_dmabuf(struct guest *guest)
{
	struct channel_open_dmabuf open = {.access = CHANNEL_ACCESS_BOTH};
	channel_put64(open.size, SIZE);
	const struct channel_header header = {
		.type = CHANNEL_OPEN,
		.length = sizeof(open),
		.id = FDREF,
		.arg = CHANNEL_KIND_DMABUF,
	};
	send_bytes(guest, &header, sizeof(header));
	send_bytes(guest, &open, sizeof(open));
}

/* More of what the host sends. False: there is no more. */
static bool receive(struct guest *guest)
{
	const int fd = guest->stage->client->pair.channel_fd;
	world_until_readable(guest->stage->world, fd);
	ssize_t n = recv(fd, guest->received + guest->n_received,
		sizeof(guest->received) - guest->n_received, MSG_DONTWAIT);
	guest->n_received += n > 0 ? (size_t)n : 0;
	return n > 0;
}

static bool is_told(const struct guest *guest, const uint32_t *words, size_t n)
{
	return memmem(guest->received, guest->n_received, words, n * sizeof(*words)) != NULL;
}

static void bind_global(struct guest *guest)
{
	const uint32_t name = 5;                                  // after those of the screen
	const uint32_t deleted[] = {DISPLAY, 12 << 16 | 1, SYNC}; // after all globals
	begin_message(guest, DISPLAY, 1);                         // get_registry
	add_words(guest, (uint32_t[]){REGISTRY}, 1);
	end_message(guest);
	begin_message(guest, DISPLAY, 0); // sync
	add_words(guest, (uint32_t[]){SYNC}, 1);
	end_message(guest);
	send_messages(guest);
	guest->messages.size = 0;
	while (!is_told(guest, deleted, 3)) {
		assert_true(receive(guest));
	}
	begin_message(guest, REGISTRY, 0);
	add_words(guest, &name, 1);
	assert_true(wire_encode_string(&guest->messages, zwp_linux_dmabuf_v1_interface.name));
	add_words(guest, (uint32_t[]){4, GLOBAL}, 2);
	end_message(guest);
}

static void add_planes(struct guest *guest, const struct wrong *wrong)
{
	begin_message(guest, GLOBAL, 1); // create_params
	add_words(guest, (uint32_t[]){PARAMS}, 1);
	end_message(guest);
	for (size_t i = 0; i < wrong->n_planes; i++) {
		const struct plane *plane = &wrong->planes[i];
		begin_message(guest, PARAMS, 1); // add
		add_words(guest, (uint32_t[]){plane->index, plane->offset, plane->stride}, 3);
		add_words(guest, (uint32_t[]){plane->modifier >> 32, (uint32_t)plane->modifier}, 2);
		end_message(guest);
		guest->refs[guest->n_refs++] = FDREF;
	}
}

static void add_create(struct guest *guest, const struct wrong *wrong, bool immediately)
{
	begin_message(guest, PARAMS, immediately ? 3 : 2);
	add_words(guest, (uint32_t[]){MADE}, immediately);
	add_words(guest,
		(uint32_t[]){(uint32_t)wrong->width, (uint32_t)wrong->height, wrong->format,
			wrong->flags},
		4);
	end_message(guest);
}

static void end_session(struct guest *guest)
{
	while (receive(guest)) {
	}
	shutdown(guest->stage->client->pair.channel_fd, SHUT_RDWR);
	client_wait_over(guest->stage->client);
}

/* Whether wl_display.error told a code for the params. */
static bool has_error(const struct guest *guest, uint32_t code)
{
	for (size_t at = 0; at + 16 <= guest->n_received; at++) {
		uint32_t words[4];
		memcpy(words, guest->received + at, sizeof(words));
		if (words[0] == DISPLAY && (words[1] & 0xffff) == 0 && words[2] == PARAMS &&
			words[3] == code) {
			return true;
		}
	}
	return false;
}

/* A guest that forwards what its client has done wrong, as if it did not know. */
static void forward_wrong(struct stage *stage, const struct wrong *wrong, bool immediately)
{
	const struct pair_options options = {.resolver = stage->resolver, .no_guest = true};
	struct guest guest = {.stage = stage};
	wl_array_init(&guest.messages);
	stage->client = client_create_bare(stage->world, &options);
	wl_client_create(compositor_display(stage->world->compositor),
		pair_take_compositor(&stage->client->pair));
	bind_global(&guest);
	open_dmabuf(&guest);
	add_planes(&guest, wrong);
	if (wrong->twice) {
		add_create(&guest, wrong, true);
		send_messages(&guest);
		guest.messages.size = guest.n_refs = 0;
	}
	add_create(&guest, wrong, immediately && !wrong->twice);
	send_messages(&guest);
	end_session(&guest);
	assert_true(has_error(&guest, wrong->expected));
	assert_non_null(strstr(stage->client->pair.host.reason, "zwp_linux_buffer_params_v1"));
	assert_int_equal(stage->screen.n_requests, wrong->twice);
	stage->screen.n_requests = 0;
	wl_array_release(&guest.messages);
	client_destroy(stage->client);
}

static bool can_be_forwarded(const struct wrong *wrong)
{
	bool can = wrong->expected != FAILED;
	for (size_t i = 0; i < wrong->n_planes; i++) {
		can = can && wrong->planes[i].kind == DMABUF;
	}
	return can;
}

static void a_host_believes_no_guest(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	for (size_t i = 0; i < N_WRONGS; i++) {
		if (can_be_forwarded(&wrongs[i])) {
			forward_wrong(&stage, &wrongs[i], i % 2 == 0);
		}
	}
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(each_wrong_set_is_told_by_the_protocol_s_own_error),
		fd_count_test(a_host_believes_no_guest),
	};
	log_init("integration", LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
