#include <drm_fourcc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "fdpass/resolver.h"
#include "linux-dmabuf-client.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* What clients are told of linux-dmabuf. */

#define HOST_DEVICE  0xe280 // 226:128
#define OTHER_DEVICE 0xe281
#define GUEST_DEVICE 0xe29f
#define UNKNOWN      fourcc_code('?', '?', '?', '?')
#define TILED        I915_FORMAT_MOD_X_TILED
#define SCANOUT      1

enum { XRGB_TILED, XRGB, XRGB_IMPLICIT, NV12, UNKNOWN_LINEAR, XRGB_AGAIN, ARGB_TILED, ARGB };

static const struct dmabuf_pair pairs[] = {
	[XRGB_TILED] = {DRM_FORMAT_XRGB8888, 0, TILED},
	[XRGB] = {DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
	[XRGB_IMPLICIT] = {DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_INVALID},
	[NV12] = {DRM_FORMAT_NV12, 0, DRM_FORMAT_MOD_LINEAR},
	[UNKNOWN_LINEAR] = {UNKNOWN, 0, DRM_FORMAT_MOD_LINEAR},
	[XRGB_AGAIN] = {DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
	[ARGB_TILED] = {DRM_FORMAT_ARGB8888, 0, TILED},
	[ARGB] = {DRM_FORMAT_ARGB8888, 0, DRM_FORMAT_MOD_LINEAR},
};

static const uint16_t scanout_indices[] = {XRGB_TILED, ARGB_TILED};
static const uint16_t main_indices[] = {XRGB_TILED, XRGB, XRGB_AGAIN, XRGB_IMPLICIT, 999, NV12};
static const uint16_t last_indices[] = {NV12, UNKNOWN_LINEAR, ARGB, XRGB};

static const struct dmabuf_tranche tranches[] = {
	{OTHER_DEVICE, SCANOUT, scanout_indices, 2},
	{OTHER_DEVICE, SCANOUT, main_indices, 6},
	{HOST_DEVICE, 0, last_indices, 4},
};

#define MAX_TOLD 32

/* What a client was told of one pair, in order; a tranche's end is a pair of zeros. */
struct told {
	struct dmabuf_pair pairs[MAX_TOLD];
	size_t n;
	uint32_t formats[MAX_TOLD];
	size_t n_formats;
	const struct dmabuf_pair *table;
	size_t table_size;
	uint64_t main_device, target_device;
	uint32_t flags;
	bool done;
};

struct stage {
	struct world *world;
	struct client *client;
	struct dmabuf_screen screen;
	struct resolver *resolver;
	struct zwp_linux_dmabuf_v1 *dmabuf;
	struct told told;
};

static void tell(struct told *told, uint32_t format, uint64_t modifier)
{
	assert_true(told->n < MAX_TOLD);
	told->pairs[told->n++] = (struct dmabuf_pair){.format = format, .modifier = modifier};
}

static void handle_format(void *data, struct zwp_linux_dmabuf_v1 *dmabuf, uint32_t format)
{
	(void)dmabuf;
	struct told *told = data;
	assert_true(told->n_formats < MAX_TOLD);
	told->formats[told->n_formats++] = format;
}

static void handle_modifier(void *data, struct zwp_linux_dmabuf_v1 *dmabuf, uint32_t format,
	uint32_t high, uint32_t low)
{
	(void)dmabuf;
	tell(data, format, (uint64_t)high << 32 | low);
}

static const struct zwp_linux_dmabuf_v1_listener dmabuf_listener = {
	.format = handle_format,
	.modifier = handle_modifier,
};

static void begin(struct stage *stage, int version, const struct dmabuf_device *device)
{
	*stage = (struct stage){.resolver = udmabuf_resolver_create()};
	const struct pair_options options = {.resolver = stage->resolver, .device = *device};
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, version);
	stage->screen.pairs = pairs;
	stage->screen.n_pairs = sizeof(pairs) / sizeof(pairs[0]);
	stage->screen.tranches = tranches;
	stage->screen.n_tranches = sizeof(tranches) / sizeof(tranches[0]);
	stage->client = client_create(stage->world, &options);
	stage->dmabuf = client_bind(stage->client, &zwp_linux_dmabuf_v1_interface, 4);
	zwp_linux_dmabuf_v1_add_listener(stage->dmabuf, &dmabuf_listener, &stage->told);
	client_roundtrip(stage->client);
}

static void end(struct stage *stage)
{
	if (stage->told.table != NULL) {
		munmap((void *)stage->told.table, stage->told.table_size);
	}
	zwp_linux_dmabuf_v1_destroy(stage->dmabuf);
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
}

static void expect_told(const struct told *told, const struct dmabuf_pair *expected, size_t n)
{
	assert_int_equal(told->n, n);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(told->pairs[i].format, expected[i].format);
		assert_int_equal(told->pairs[i].modifier, expected[i].modifier);
	}
}

/* The version of the global in a session, 0 if it is hidden. */
static uint32_t offered(struct resolver *resolver, uint64_t number, int version)
{
	const struct pair_options options = {.resolver = resolver, .device.number = number};
	struct dmabuf_screen screen;
	struct world *world = world_create();
	dmabuf_screen_init(&screen, world->compositor, version);
	struct client *client = client_create(world, &options);
	const struct client_global *global = client_find(client, "zwp_linux_dmabuf_v1");
	uint32_t found = global != NULL ? global->version : 0;
	world_destroy(world);
	return found;
}

static void it_is_hidden_where_dma_bufs_cannot_cross(void **state)
{
	(void)state;
	assert_int_equal(offered(NULL, GUEST_DEVICE, 4), 0);
}

static void it_is_hidden_where_the_compositor_tells_of_no_modifiers(void **state)
{
	(void)state;
	struct resolver *resolver = udmabuf_resolver_create();
	assert_int_equal(offered(resolver, GUEST_DEVICE, 2), 0);
	assert_int_equal(offered(resolver, GUEST_DEVICE, 3), 3);
	resolver_destroy(resolver);
}

static void a_guest_without_a_device_is_offered_what_tells_of_none(void **state)
{
	(void)state;
	struct resolver *resolver = udmabuf_resolver_create();
	assert_int_equal(offered(resolver, 0, 4), 3);
	assert_int_equal(offered(resolver, GUEST_DEVICE, 4), 4);
	resolver_destroy(resolver);
}

static void only_linear_pairs_are_told(void **state)
{
	(void)state;
	static const struct dmabuf_pair expected[] = {
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_INVALID},
		{DRM_FORMAT_NV12, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_ARGB8888, 0, DRM_FORMAT_MOD_LINEAR},
	};
	struct stage stage;
	begin(&stage, 3, &(struct dmabuf_device){.implicit_linear = true});
	expect_told(&stage.told, expected, 5);
	for (size_t i = 0; i < stage.told.n_formats; i++) {
		assert_int_not_equal(stage.told.formats[i], UNKNOWN);
	}
	assert_int_equal(stage.told.n_formats, stage.screen.n_pairs - 1);
	end(&stage);
}

static void what_a_device_may_tile_is_not_told_without_a_modifier(void **state)
{
	(void)state;
	static const struct dmabuf_pair expected[] = {
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_NV12, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_ARGB8888, 0, DRM_FORMAT_MOD_LINEAR},
	};
	struct stage stage;
	begin(&stage, 3, &(struct dmabuf_device){.implicit_linear = false});
	expect_told(&stage.told, expected, 4);
	assert_int_equal(stage.told.n_formats, 0);
	end(&stage);
}

/* ---- feedback ---- */

static void handle_done(void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback)
{
	(void)feedback;
	((struct told *)data)->done = true;
}

static void handle_format_table(
	void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, int32_t fd, uint32_t size)
{
	(void)feedback;
	struct told *told = data;
	if (told->table != NULL) {
		munmap((void *)told->table, told->table_size);
	}
	told->table_size = size;
	told->table = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(told->table, MAP_FAILED);
	assert_int_equal(lseek(fd, 0, SEEK_END), size);
	close(fd);
}

static uint64_t number_of(const struct wl_array *device)
{
	uint64_t number;
	assert_int_equal(device->size, sizeof(number));
	memcpy(&number, device->data, sizeof(number));
	return number;
}

static void handle_main_device(
	void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, struct wl_array *device)
{
	(void)feedback;
	((struct told *)data)->main_device = number_of(device);
}

static void handle_tranche_done(void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback)
{
	(void)feedback;
	struct told *told = data;
	assert_int_equal(told->target_device, GUEST_DEVICE);
	assert_int_equal(told->flags, 0);
	told->target_device = told->flags = UINT32_MAX;
	tell(told, 0, 0);
}

static void handle_target_device(
	void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, struct wl_array *device)
{
	(void)feedback;
	((struct told *)data)->target_device = number_of(device);
}

static void handle_formats(
	void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, struct wl_array *indices)
{
	(void)feedback;
	struct told *told = data;
	const uint16_t *index;
	wl_array_for_each (index, indices) {
		assert_true((*index + 1) * sizeof(*told->table) <= told->table_size);
		tell(told, told->table[*index].format, told->table[*index].modifier);
	}
}

static void handle_flags(void *data, struct zwp_linux_dmabuf_feedback_v1 *feedback, uint32_t flags)
{
	(void)feedback;
	((struct told *)data)->flags = flags;
}

static const struct zwp_linux_dmabuf_feedback_v1_listener feedback_listener = {
	.done = handle_done,
	.format_table = handle_format_table,
	.main_device = handle_main_device,
	.tranche_done = handle_tranche_done,
	.tranche_target_device = handle_target_device,
	.tranche_formats = handle_formats,
	.tranche_flags = handle_flags,
};

static struct zwp_linux_dmabuf_feedback_v1 *ask(struct stage *stage)
{
	struct zwp_linux_dmabuf_feedback_v1 *feedback =
		zwp_linux_dmabuf_v1_get_default_feedback(stage->dmabuf);
	zwp_linux_dmabuf_feedback_v1_add_listener(feedback, &feedback_listener, &stage->told);
	world_until(stage->world, &stage->told.done);
	return feedback;
}

static void expect_feedback(bool implicit, const struct dmabuf_pair *expected, size_t n)
{
	struct stage stage;
	const struct dmabuf_device device = {.number = GUEST_DEVICE, .implicit_linear = implicit};
	begin(&stage, 4, &device);
	assert_int_equal(stage.told.n, 0);
	struct zwp_linux_dmabuf_feedback_v1 *feedback = ask(&stage);
	assert_int_equal(stage.told.main_device, GUEST_DEVICE);
	expect_told(&stage.told, expected, n);
	for (size_t i = 0; i * sizeof(*stage.told.table) < stage.told.table_size; i++) {
		assert_int_not_equal(stage.told.table[i].modifier, TILED);
		assert_int_not_equal(stage.told.table[i].format, UNKNOWN);
	}
	zwp_linux_dmabuf_feedback_v1_destroy(feedback);
	end(&stage);
}

static void tranches_name_each_linear_pair_once_and_the_guest_s_device(void **state)
{
	(void)state;
	static const struct dmabuf_pair expected[] = {
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_INVALID},
		{DRM_FORMAT_NV12, 0, DRM_FORMAT_MOD_LINEAR},
		{0, 0, 0},
		{DRM_FORMAT_ARGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{0, 0, 0},
	};
	expect_feedback(true, expected, 6);
}

static void tranches_without_what_a_device_may_tile(void **state)
{
	(void)state;
	static const struct dmabuf_pair expected[] = {
		{DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{DRM_FORMAT_NV12, 0, DRM_FORMAT_MOD_LINEAR},
		{0, 0, 0},
		{DRM_FORMAT_ARGB8888, 0, DRM_FORMAT_MOD_LINEAR},
		{0, 0, 0},
	};
	expect_feedback(false, expected, 5);
}

static void feedback_is_told_again_and_for_a_surface(void **state)
{
	(void)state;
	struct stage stage;
	const struct dmabuf_device device = {.number = GUEST_DEVICE};
	begin(&stage, 4, &device);
	struct zwp_linux_dmabuf_feedback_v1 *first = ask(&stage);
	size_t n = stage.told.n;
	stage.told.done = false;
	stage.told.n = 0;
	struct wl_compositor *compositor = client_bind(stage.client, &wl_compositor_interface, 4);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	struct zwp_linux_dmabuf_feedback_v1 *second =
		zwp_linux_dmabuf_v1_get_surface_feedback(stage.dmabuf, surface);
	zwp_linux_dmabuf_feedback_v1_add_listener(second, &feedback_listener, &stage.told);
	world_until(stage.world, &stage.told.done);
	assert_int_equal(stage.told.n, n);
	zwp_linux_dmabuf_feedback_v1_destroy(first);
	zwp_linux_dmabuf_feedback_v1_destroy(second);
	wl_surface_destroy(surface);
	wl_compositor_destroy(compositor);
	end(&stage);
}

static void nothing_is_told_to_who_has_left(void **state)
{
	(void)state;
	struct stage stage;
	const struct dmabuf_device device = {.number = GUEST_DEVICE};
	begin(&stage, 4, &device);
	for (size_t i = 0; i < 10; i++) {
		struct zwp_linux_dmabuf_feedback_v1 *feedback =
			zwp_linux_dmabuf_v1_get_default_feedback(stage.dmabuf);
		zwp_linux_dmabuf_feedback_v1_destroy(feedback);
	}
	client_roundtrip(stage.client);
	assert_int_equal(stage.told.n, 0);
	end(&stage);
}

static void what_is_kept_of_a_table_is_charged(void **state)
{
	(void)state;
	struct stage stage;
	const struct dmabuf_device device = {.number = GUEST_DEVICE};
	begin(&stage, 4, &device);
	const uint64_t *host = stage.client->pair.host.budget.used;
	const uint64_t before = host[BUDGET_MEMORY];
	struct zwp_linux_dmabuf_feedback_v1 *feedbacks[10];
	for (size_t i = 0; i < 10; i++) {
		feedbacks[i] = ask(&stage);
		stage.told.done = false;
		stage.told.n = 0;
	}
	assert_true(host[BUDGET_MEMORY] >= before + 10 * stage.screen.n_pairs * sizeof(uint16_t));
	for (size_t i = 0; i < 10; i++) {
		zwp_linux_dmabuf_feedback_v1_destroy(feedbacks[i]);
	}
	client_roundtrip(stage.client);
	assert_int_equal(host[BUDGET_MEMORY], before);
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(it_is_hidden_where_dma_bufs_cannot_cross),
		fd_count_test(it_is_hidden_where_the_compositor_tells_of_no_modifiers),
		fd_count_test(a_guest_without_a_device_is_offered_what_tells_of_none),
		fd_count_test(only_linear_pairs_are_told),
		fd_count_test(what_a_device_may_tile_is_not_told_without_a_modifier),
		fd_count_test(tranches_name_each_linear_pair_once_and_the_guest_s_device),
		fd_count_test(tranches_without_what_a_device_may_tile),
		fd_count_test(feedback_is_told_again_and_for_a_surface),
		fd_count_test(nothing_is_told_to_who_has_left),
		fd_count_test(what_is_kept_of_a_table_is_charged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
