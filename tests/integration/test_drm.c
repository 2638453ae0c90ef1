#include <drm_fourcc.h>
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
#include "fdpass/fdref.h"
#include "fdpass/resolver.h"
#include "fdpass/virtgpu.h"
#include "relay/session.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"
#include "wayland-drm-client.h"
#include "wire/message.h"

/* wl_drm, as Mesa used it before there was linux-dmabuf. */

#define WIDTH      32
#define HEIGHT     16
#define STRIDE     (4 * WIDTH)
#define SIZE       16384 // of every dma-buf
#define HOST_PATH  "/dev/dri/card7"
#define GUEST_PATH "/dev/dri/renderD129"
#define UNKNOWN    fourcc_code('?', '?', '?', '?')

enum drm_error {
	INVALID_FORMAT = 1,
	INVALID_NAME = 2,
};

static const struct dmabuf_pair pairs[] = {
	{DRM_FORMAT_XRGB8888, 0, 0},
	{UNKNOWN, 0, 0},
	{DRM_FORMAT_NV12, 0, 0},
};

static const struct dmabuf_device guest_device = {
	.number = 0xe281, .implicit_linear = true, .path = GUEST_PATH};

struct told {
	char device[64];
	uint32_t formats[4];
	size_t n_formats;
	uint32_t capabilities;
	bool authenticated;
};

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver, *handles;
	struct virtgpu *virtgpu;
	struct dmabuf_screen screen;
	struct wl_drm *drm;
	struct told told;
	int fd; // of a dma-buf
	uint8_t *data;
};

static void handle_device(void *data, struct wl_drm *drm, const char *name)
{
	(void)drm;
	struct told *told = data;
	assert_true(strlen(name) < sizeof(told->device));
	strcpy(told->device, name);
}

static void handle_format(void *data, struct wl_drm *drm, uint32_t format)
{
	(void)drm;
	struct told *told = data;
	assert_true(told->n_formats < 4);
	told->formats[told->n_formats++] = format;
}

static void handle_authenticated(void *data, struct wl_drm *drm)
{
	(void)drm;
	((struct told *)data)->authenticated = true;
}

static void handle_capabilities(void *data, struct wl_drm *drm, uint32_t value)
{
	(void)drm;
	((struct told *)data)->capabilities = value;
}

static const struct wl_drm_listener drm_listener = {
	.device = handle_device,
	.format = handle_format,
	.authenticated = handle_authenticated,
	.capabilities = handle_capabilities,
};

static void begin_world(struct stage *stage, int version)
{
	*stage = (struct stage){.resolver = udmabuf_resolver_create(), .fd = udmabuf_make(SIZE)};
	stage->data = udmabuf_map(stage->fd, SIZE);
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 3);
	stage->screen.pairs = pairs;
	stage->screen.n_pairs = sizeof(pairs) / sizeof(pairs[0]);
	dmabuf_screen_add_drm(&stage->screen, HOST_PATH, version);
	stage->screen.drm_capabilities = 0xff;
}

static void join(struct stage *stage)
{
	const struct pair_options options = {
		.resolver = stage->resolver,
		.handles = stage->handles,
		.virtgpu = stage->virtgpu,
		.device = guest_device,
	};
	stage->client = client_create(stage->world, &options);
	stage->drm = client_bind(stage->client, &wl_drm_interface, 2);
	wl_drm_add_listener(stage->drm, &drm_listener, &stage->told);
	client_roundtrip(stage->client);
}

static void begin(struct stage *stage)
{
	begin_world(stage, 2);
	join(stage);
}

static void end_world(struct stage *stage)
{
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
	resolver_destroy(stage->handles);
	munmap(stage->data, SIZE);
	close(stage->fd);
}

static void end(struct stage *stage)
{
	wl_drm_destroy(stage->drm);
	end_world(stage);
}

/* ---- what is offered ---- */

static void clients_are_told_of_the_guest_s_device_and_of_known_formats(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	assert_string_equal(stage.told.device, GUEST_PATH);
	assert_int_equal(stage.told.n_formats, 2);
	assert_int_equal(stage.told.formats[0], DRM_FORMAT_XRGB8888);
	assert_int_equal(stage.told.formats[1], DRM_FORMAT_NV12);
	assert_int_equal(stage.told.capabilities, 1);
	end(&stage);
}

/* Whether the global is offered to such a guest. */
static bool is_offered(struct resolver *resolver, const struct dmabuf_device *device, int version)
{
	struct stage stage;
	begin_world(&stage, version);
	const struct pair_options options = {.resolver = resolver, .device = *device};
	stage.client = client_create(stage.world, &options);
	bool offered = client_find(stage.client, wl_drm_interface.name) != NULL;
	end_world(&stage);
	return offered;
}

static void it_is_hidden_where_its_buffers_cannot_be_right(void **state)
{
	(void)state;
	struct resolver *resolver = udmabuf_resolver_create();
	const struct dmabuf_device without_node = {.implicit_linear = true};
	struct dmabuf_device tiles = guest_device;
	tiles.implicit_linear = false;
	assert_true(is_offered(resolver, &guest_device, 2));
	assert_false(is_offered(NULL, &guest_device, 2));
	assert_false(is_offered(resolver, &without_node, 2));
	assert_false(is_offered(resolver, &tiles, 2));
	assert_false(is_offered(resolver, &guest_device, 1)); // flink names only
	resolver_destroy(resolver);
}

static void nobody_is_authenticated_on_the_host(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	wl_drm_authenticate(stage.drm, 77);
	client_roundtrip(stage.client);
	assert_true(stage.told.authenticated);
	assert_int_equal(stage.screen.authentications, 0);
	end(&stage);
}

/* ---- buffers ---- */

struct prime {
	int32_t width, height;
	uint32_t format;
	int32_t offsets[3], strides[3];
};

static struct wl_buffer *create(struct stage *stage, int fd, const struct prime *prime)
{
	return wl_drm_create_prime_buffer(stage->drm, fd, prime->width, prime->height,
		prime->format, prime->offsets[0], prime->strides[0], prime->offsets[1],
		prime->strides[1], prime->offsets[2], prime->strides[2]);
}

static void show(struct stage *stage, struct wl_surface *surface, struct wl_buffer *buffer)
{
	paint_show(surface, buffer);
	client_roundtrip(stage->client);
}

/* The rows of one plane of what the compositor shows. */
static void expect_rows(const struct stage *stage, const uint8_t *far, size_t plane, size_t bytes,
	size_t rows, const struct prime *prime)
{
	const struct dmabuf_plane *shown = &stage->screen.shown->planes[plane];
	assert_int_equal(shown->offset, prime->offsets[plane]);
	assert_int_equal(shown->stride, prime->strides[plane]);
	for (size_t y = 0; y < rows; y++) {
		size_t at = shown->offset + y * shown->stride;
		assert_memory_equal(far + at, stage->data + at, bytes);
	}
}

static void expect_picture(struct stage *stage, const struct prime *prime)
{
	const struct dmabuf_buffer *shown = stage->screen.shown;
	assert_non_null(shown);
	assert_int_equal(shown->width, prime->width);
	assert_int_equal(shown->height, prime->height);
	assert_int_equal(shown->format, prime->format);
	uint8_t *far = udmabuf_map(shown->planes[0].fd, SIZE);
	if (prime->format == DRM_FORMAT_NV12) {
		expect_rows(stage, far, 0, WIDTH, HEIGHT, prime);
		expect_rows(stage, far, 1, WIDTH, HEIGHT / 2, prime);
	} else {
		expect_rows(stage, far, 0, (size_t)STRIDE, HEIGHT, prime);
	}
	munmap(far, SIZE);
}

static void the_compositor_shows_what_the_client_drew(void **state)
{
	(void)state;
	static const struct prime primes[] = {
		{WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {STRIDE}},
		{WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {256}, {STRIDE + 64}},
		{WIDTH, HEIGHT, DRM_FORMAT_NV12, {64, 4096, 0}, {WIDTH, WIDTH + 32, 0}},
		// planes that the format has not are nobody's business
		{WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0, -1, SIZE}, {STRIDE, -1, 7}},
	};
	struct stage stage;
	struct paint_rng rng = {.state = 5};
	begin(&stage);
	struct wl_compositor *compositor = client_bind(stage.client, &wl_compositor_interface, 4);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	for (size_t i = 0; i < sizeof(primes) / sizeof(primes[0]); i++) {
		paint_noise(&rng, stage.data, SIZE);
		struct wl_buffer *buffer = create(&stage, stage.fd, &primes[i]);
		show(&stage, surface, buffer);
		expect_picture(&stage, &primes[i]);
		stage.data[primes[i].offsets[0]]++;
		show(&stage, surface, buffer);
		expect_picture(&stage, &primes[i]);
		wl_buffer_destroy(buffer);
	}
	wl_surface_destroy(surface);
	wl_compositor_destroy(compositor);
	end(&stage);
}

/* ---- a GPU that is slow ---- */

bool __wrap_virtgpu_must_wait(struct virtgpu *gpu, struct fdrefs *refs, int fd);
struct virtgpu_buffer *__wrap_virtgpu_get(struct virtgpu *gpu, int fd);

static struct {
	struct fdrefs *waiting; // NULL: nobody has asked
	bool knows;             // the device does
} slow;

bool __wrap_virtgpu_must_wait(struct virtgpu *gpu, struct fdrefs *refs, int fd)
{
	(void)gpu, (void)fd;
	slow.waiting = refs;
	return !slow.knows;
}

struct virtgpu_buffer *__wrap_virtgpu_get(struct virtgpu *gpu, int fd)
{
	(void)gpu, (void)fd;
	return NULL; // it is copied
}

static bool is_waited_for(void *data)
{
	(void)data;
	return slow.waiting != NULL;
}

static void a_buffer_that_waits_for_the_device_is_made_then(void **state)
{
	(void)state;
	static const struct prime prime = {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {STRIDE}};
	struct stage stage;
	begin_world(&stage, 2);
	stage.handles = udmabuf_no_resolver_create();
	stage.virtgpu = (struct virtgpu *)&slow;
	join(&stage);
	struct wl_compositor *compositor = client_bind(stage.client, &wl_compositor_interface, 4);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	struct wl_buffer *buffer = create(&stage, stage.fd, &prime);
	wl_display_flush(stage.client->display);
	world_wait(stage.world, is_waited_for, NULL);
	assert_int_equal(stage.screen.n_requests, 0);
	slow.knows = true;
	fdrefs_retry(slow.waiting);
	show(&stage, surface, buffer);
	expect_picture(&stage, &prime);
	wl_buffer_destroy(buffer);
	wl_surface_destroy(surface);
	wl_compositor_destroy(compositor);
	end(&stage);
}

/* ---- what is wrong ---- */

struct wrong {
	enum drm_error expected;
	struct prime prime;
};

static const struct wrong wrongs[] = {
	{INVALID_FORMAT, {WIDTH, HEIGHT, UNKNOWN, {0}, {STRIDE}}},
	{INVALID_FORMAT, {WIDTH, HEIGHT, 0, {0}, {STRIDE}}},
	{INVALID_NAME, {0, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {STRIDE}}},
	{INVALID_NAME, {WIDTH, -1, DRM_FORMAT_XRGB8888, {0}, {STRIDE}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {0}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {STRIDE - 1}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {-4}, {STRIDE}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {-STRIDE}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {SIZE}, {STRIDE}}},
	{INVALID_NAME, {WIDTH, 4096, DRM_FORMAT_XRGB8888, {0}, {STRIDE}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_NV12, {0, SIZE}, {WIDTH, WIDTH}}},
	{INVALID_NAME, {WIDTH, HEIGHT, DRM_FORMAT_NV12, {0, 4096}, {WIDTH, 1}}},
};

#define N_WRONGS (sizeof(wrongs) / sizeof(wrongs[0]))

static void expect_error(struct stage *stage, enum drm_error expected)
{
	const struct wl_interface *interface = NULL;
	uint32_t about = 0;
	client_wait_failed(stage->client);
	uint32_t code = wl_display_get_protocol_error(stage->client->display, &interface, &about);
	assert_int_equal(code, expected);
	assert_ptr_equal(interface, &wl_drm_interface);
	assert_int_equal(about, wl_proxy_get_id((struct wl_proxy *)stage->drm));
	client_wait_over(stage->client);
	assert_int_equal(stage->screen.n_requests, 0);
}

static void wrong_buffers_are_told_by_the_protocol_s_own_errors(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_WRONGS; i++) {
		struct stage stage;
		begin(&stage);
		struct wl_buffer *buffer = create(&stage, stage.fd, &wrongs[i].prime);
		expect_error(&stage, wrongs[i].expected);
		wl_buffer_destroy(buffer);
		end(&stage);
	}
}

static void what_is_no_dma_buf_is_an_invalid_name(void **state)
{
	(void)state;
	static const struct prime prime = {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {STRIDE}};
	struct stage stage;
	begin(&stage);
	int fd = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	struct wl_buffer *buffer = create(&stage, fd, &prime);
	close(fd);
	expect_error(&stage, INVALID_NAME);
	wl_buffer_destroy(buffer);
	end(&stage);
}

static void names_of_one_machine_are_invalid_in_another(void **state)
{
	(void)state;
	for (size_t planar = 0; planar < 2; planar++) {
		struct stage stage;
		begin(&stage);
		struct wl_buffer *buffer = planar
			? wl_drm_create_planar_buffer(stage.drm, 1, WIDTH, HEIGHT, DRM_FORMAT_NV12,
				  0, WIDTH, 4096, WIDTH, 0, 0)
			: wl_drm_create_buffer(
				  stage.drm, 1, WIDTH, HEIGHT, STRIDE, DRM_FORMAT_XRGB8888);
		expect_error(&stage, INVALID_NAME);
		wl_buffer_destroy(buffer);
		end(&stage);
	}
}

static void a_dma_buf_that_the_host_cannot_make_is_an_invalid_name(void **state)
{
	(void)state;
	static const struct prime prime = {WIDTH, HEIGHT, DRM_FORMAT_XRGB8888, {0}, {STRIDE}};
	struct stage stage;
	begin_world(&stage, 2);
	resolver_destroy(stage.resolver);
	stage.resolver = udmabuf_no_resolver_create();
	join(&stage);
	struct wl_buffer *buffer = create(&stage, stage.fd, &prime);
	expect_error(&stage, INVALID_NAME);
	wl_buffer_destroy(buffer);
	end(&stage);
}

/* ---- guests ---- */

enum { DISPLAY = 1, REGISTRY, SYNC, DRM, MADE };

#define FDREF 1

/* A guest that is the test; its client has done what the guest should have refused. */
struct guest {
	struct stage *stage;
	struct wl_array messages;
	uint8_t received[16384];
	size_t n_received;
};

static void send_frame(const struct guest *guest, const struct channel_header *header,
	const void *first, size_t first_len, const void *second, size_t second_len)
{
	int fd = guest->stage->client->pair.channel_fd;
	assert_int_equal(send(fd, header, sizeof(*header), MSG_NOSIGNAL), sizeof(*header));
	assert_int_equal(send(fd, first, first_len, MSG_NOSIGNAL), first_len);
	assert_int_equal(send(fd, second, second_len, MSG_NOSIGNAL), second_len);
}

static void send_messages(struct guest *guest, uint32_t n_refs)
{
	const uint32_t ref = FDREF;
	const size_t refs_len = n_refs * sizeof(ref);
	const struct channel_header header = {
		.type = CHANNEL_MESSAGES,
		.length = (uint32_t)(refs_len + guest->messages.size),
		.arg = n_refs,
	};
	send_frame(guest, &header, &ref, refs_len, guest->messages.data, guest->messages.size);
	guest->messages.size = 0;
}

static void add_message(
	struct guest *guest, uint32_t object, uint32_t opcode, const uint32_t *words, size_t n)
{
	size_t start = guest->messages.size;
	assert_true(wire_encode_begin(&guest->messages, object, opcode));
	for (size_t i = 0; i < n; i++) {
		assert_true(wire_encode_uint(&guest->messages, words[i]));
	}
	assert_true(wire_encode_end(&guest->messages, start));
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

static bool is_told(const struct guest *guest, const void *bytes, size_t len)
{
	return memmem(guest->received, guest->n_received, bytes, len) != NULL;
}

/* The number that the host has told the global by. */
static uint32_t find_global(const struct guest *guest)
{
	const uint8_t *text = memmem(
		guest->received, guest->n_received, wl_drm_interface.name, strlen("wl_drm") + 1);
	uint32_t name;
	assert_non_null(text);
	memcpy(&name, text - 8, sizeof(name)); // before the string's length
	return name;
}

static void open_dmabuf(const struct guest *guest)
{
	struct channel_open_dmabuf open = {.access = CHANNEL_ACCESS_BOTH};
	channel_put64(open.size, SIZE);
	const struct channel_header header = {
		.type = CHANNEL_OPEN,
		.length = sizeof(open),
		.id = FDREF,
		.arg = CHANNEL_KIND_DMABUF,
	};
	send_frame(guest, &header, &open, sizeof(open), NULL, 0);
}

static void guest_begin(struct guest *guest, struct stage *stage)
{
	const uint32_t synced[] = {DISPLAY, 12 << 16 | 1, SYNC};
	const struct pair_options options = {.resolver = stage->resolver, .no_guest = true};
	*guest = (struct guest){.stage = stage};
	wl_array_init(&guest->messages);
	stage->client = client_create_bare(stage->world, &options);
	wl_client_create(compositor_display(stage->world->compositor),
		pair_take_compositor(&stage->client->pair));
	add_message(guest, DISPLAY, 1, (uint32_t[]){REGISTRY}, 1);
	add_message(guest, DISPLAY, 0, (uint32_t[]){SYNC}, 1);
	send_messages(guest, 0);
	while (!is_told(guest, synced, sizeof(synced))) {
		assert_true(receive(guest));
	}
	size_t start = guest->messages.size;
	assert_true(wire_encode_begin(&guest->messages, REGISTRY, 0) &&
		wire_encode_uint(&guest->messages, find_global(guest)) &&
		wire_encode_string(&guest->messages, "wl_drm") &&
		wire_encode_uint(&guest->messages, 2) && wire_encode_uint(&guest->messages, DRM) &&
		wire_encode_end(&guest->messages, start));
}

static void guest_end(struct guest *guest)
{
	while (receive(guest)) {
	}
	shutdown(guest->stage->client->pair.channel_fd, SHUT_RDWR);
	client_wait_over(guest->stage->client);
	wl_array_release(&guest->messages);
}

static void expect_told_error(const struct guest *guest, enum drm_error expected)
{
	bool found = false;
	for (size_t at = 0; !found && at + 16 <= guest->n_received; at++) {
		uint32_t words[4];
		memcpy(words, guest->received + at, sizeof(words));
		found = words[0] == DISPLAY && (words[1] & 0xffff) == 0 && words[2] == DRM &&
			words[3] == expected;
	}
	assert_true(found);
	assert_int_equal(guest->stage->screen.n_requests, 0);
}

static void a_host_believes_no_guest(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_WRONGS; i++) {
		const struct prime *prime = &wrongs[i].prime;
		struct stage stage;
		struct guest guest;
		begin_world(&stage, 2);
		guest_begin(&guest, &stage);
		open_dmabuf(&guest);
		const uint32_t words[] = {MADE, (uint32_t)prime->width, (uint32_t)prime->height,
			prime->format, (uint32_t)prime->offsets[0], (uint32_t)prime->strides[0],
			(uint32_t)prime->offsets[1], (uint32_t)prime->strides[1], 0, 0};
		add_message(&guest, DRM, 3, words, 10);
		send_messages(&guest, 1);
		guest_end(&guest);
		expect_told_error(&guest, wrongs[i].expected);
		end_world(&stage);
	}
}

static void a_guest_neither_learns_the_host_s_device_nor_is_let_at_it(void **state)
{
	(void)state;
	struct stage stage;
	struct guest guest;
	const uint32_t authenticated[] = {DRM, 8 << 16 | 2};
	begin_world(&stage, 2);
	guest_begin(&guest, &stage);
	add_message(&guest, DRM, 0, (uint32_t[]){77}, 1);
	send_messages(&guest, 0);
	while (!is_told(&guest, authenticated, sizeof(authenticated))) {
		assert_true(receive(&guest));
	}
	add_message(&guest, DRM, 1, (uint32_t[]){MADE, 1, WIDTH, HEIGHT, STRIDE, pairs[0].format},
		6); // create_buffer
	send_messages(&guest, 0);
	guest_end(&guest);
	expect_told_error(&guest, INVALID_NAME);
	assert_false(is_told(&guest, HOST_PATH, strlen(HOST_PATH)));
	assert_int_equal(stage.screen.authentications, 0);
	end_world(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(clients_are_told_of_the_guest_s_device_and_of_known_formats),
		fd_count_test(it_is_hidden_where_its_buffers_cannot_be_right),
		fd_count_test(nobody_is_authenticated_on_the_host),
		fd_count_test(the_compositor_shows_what_the_client_drew),
		fd_count_test(a_buffer_that_waits_for_the_device_is_made_then),
		fd_count_test(wrong_buffers_are_told_by_the_protocol_s_own_errors),
		fd_count_test(what_is_no_dma_buf_is_an_invalid_name),
		fd_count_test(names_of_one_machine_are_invalid_in_another),
		fd_count_test(a_dma_buf_that_the_host_cannot_make_is_an_invalid_name),
		fd_count_test(a_host_believes_no_guest),
		fd_count_test(a_guest_neither_learns_the_host_s_device_nor_is_let_at_it),
	};
	log_init("integration", LOG_ERROR); // what stands for a dma-buf knows no DMA_BUF_IOCTL_SYNC
	return cmocka_run_group_tests(tests, NULL, NULL);
}
