#include <drm_fourcc.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "fdpass/resolver.h"
#include "linux-dmabuf-client.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/*
 * Ten thousand buffers that come and go, of whatever makes dma-bufs here, in one dma-buf or several:
 * what they leave is nothing.
 */

#define CYCLES  10000
#define AT_ONCE 25  // without waiting for the compositor
#define LOOKED  100 // of so many, one is looked at

#define WIDTH   16
#define HEIGHT  16
#define STRIDE  (4 * WIDTH)
#define SIZE    4096 // of every dma-buf
#define PLANES  3
#define CHROMA  2048 // where the second plane is, if there is one dma-buf
#define CHROMA2 3072

enum maker { MAKER_UDMABUF, MAKER_HEAP, MAKER_VGEM, MAKERS };

static const struct {
	uint32_t format;
	size_t n_planes, n_dmabufs;
} kinds[] = {
	{DRM_FORMAT_XRGB8888, 1, 1},
	{DRM_FORMAT_NV12, 2, 1},
	{DRM_FORMAT_NV12, 2, 2},
	{DRM_FORMAT_YUV420, 3, 1},
	{DRM_FORMAT_YUV420, 3, 3},
};

#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	struct zwp_linux_dmabuf_v1 *dmabuf;
	struct wl_compositor *compositor;
	struct wl_surface *surface;
	struct paint_rng rng;
	int card; // vgem's; -1: there is none
	bool has_heap;
};

/* What there is of everything that a buffer takes. */
struct remains {
	size_t fds, mappings, dmabufs;
	uint32_t handle; // the next GEM handle that vgem gives
	struct budget guest, host;
};

/* ---- dma-bufs ---- */

static int make_dmabuf(struct stage *stage, enum maker maker)
{
	if (maker == MAKER_VGEM && stage->card >= 0) {
		return dmabufs_new_of_card(stage->card, SIZE, NULL);
	}
	if (maker == MAKER_HEAP && stage->has_heap) {
		return dmabufs_new_from_heap(SIZE);
	}
	return udmabuf_make(SIZE);
}

/* The handles of a file are given anew from the lowest on. */
static uint32_t next_handle(const struct stage *stage)
{
	uint32_t handle = 0;
	if (stage->card >= 0) {
		close(dmabufs_new_of_card(stage->card, SIZE, &handle));
	}
	return handle;
}

/* ---- what remains ---- */

static size_t count_mappings(void)
{
	char line[512];
	size_t n = 0;
	FILE *maps = fopen("/proc/self/maps", "re");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps) != NULL) {
		n += strstr(line, "/dmabuf:") != NULL || strstr(line, "/memfd:") != NULL;
	}
	fclose(maps);
	return n;
}

/* Those of the whole machine; 0 where the kernel does not tell. */
static size_t count_dmabufs(void)
{
	char line[256];
	size_t n = 0;
	FILE *info = fopen("/sys/kernel/debug/dma_buf/bufinfo", "re");
	while (info != NULL && fgets(line, sizeof(line), info) != NULL) {
		sscanf(line, "Total %zu objects", &n);
	}
	if (info != NULL) {
		fclose(info);
	}
	return n;
}

static struct remains look(const struct stage *stage)
{
	const struct remains remains = {
		.handle = next_handle(stage),
		.fds = fd_count(),
		.mappings = count_mappings(),
		.dmabufs = count_dmabufs(),
		.guest = stage->client->pair.guest.budget,
		.host = stage->client->pair.host.budget,
	};
	return remains;
}

static bool budget_is(const struct budget *now, const struct budget *before)
{
	static const enum budget_kind kept[] = {
		BUDGET_FDS, BUDGET_MEMORY, BUDGET_PENDING, BUDGET_POOLS, BUDGET_MAPPED};
	bool same = true;
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		same = same && now->used[kept[i]] == before->used[kept[i]];
	}
	return same;
}

struct wait {
	const struct pair *pair;
	const struct remains *before;
};

static bool is_as_before(void *data)
{
	const struct wait *wait = data;
	return fd_count() == wait->before->fds &&
		budget_is(&wait->pair->guest.budget, &wait->before->guest) &&
		budget_is(&wait->pair->host.budget, &wait->before->host);
}

/* Ids that were given once stay: of params, buffers and callbacks. */
static void expect_few_objects(const struct budget *now, const struct budget *before)
{
	const uint64_t first = before->used[BUDGET_OBJECTS];
	assert_in_range(now->used[BUDGET_OBJECTS], first, first + 3 * AT_ONCE);
}

/* The last copies go when it was seen that the compositor has let them go. */
static void expect_nothing_new(const struct stage *stage, const struct remains *before)
{
	struct wait wait = {.pair = &stage->client->pair, .before = before};
	world_wait(stage->world, is_as_before, &wait);
	const struct remains now = look(stage);
	assert_int_equal(now.mappings, before->mappings);
	assert_int_equal(now.dmabufs, before->dmabufs);
	assert_int_equal(now.handle, before->handle);
	expect_few_objects(&now.guest, &before->guest);
	expect_few_objects(&now.host, &before->host);
}

/* ---- buffers ---- */

static void begin(struct stage *stage)
{
	*stage = (struct stage){
		.resolver = udmabuf_resolver_create(),
		.rng = {.state = 17},
		.card = dmabufs_open_card("vgem"),
	};
	int heap = dmabufs_new_from_heap(SIZE);
	stage->has_heap = heap >= 0;
	if (heap >= 0) {
		close(heap);
	}
	const struct pair_options options = {.resolver = stage->resolver};
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 3);
	stage->client = client_create(stage->world, &options);
	stage->dmabuf = client_bind(stage->client, &zwp_linux_dmabuf_v1_interface, 3);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	client_roundtrip(stage->client);
}

static void end(struct stage *stage)
{
	wl_surface_destroy(stage->surface);
	wl_compositor_destroy(stage->compositor);
	zwp_linux_dmabuf_v1_destroy(stage->dmabuf);
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
	if (stage->card >= 0) {
		close(stage->card);
	}
}

static void add(struct zwp_linux_buffer_params_v1 *params, int fd, uint32_t plane, bool apart)
{
	static const uint32_t offsets[PLANES] = {0, CHROMA, CHROMA2};
	static const uint32_t strides[PLANES] = {STRIDE, WIDTH, WIDTH};
	zwp_linux_buffer_params_v1_add(
		params, fd, plane, apart ? 0 : offsets[plane], strides[plane], 0, 0);
}

/* Of kind i; its dma-bufs are the caller's. */
static struct wl_buffer *make_buffer(struct stage *stage, size_t i, int fds[PLANES])
{
	const size_t kind = i % N_KINDS;
	struct zwp_linux_buffer_params_v1 *params =
		zwp_linux_dmabuf_v1_create_params(stage->dmabuf);
	for (size_t j = 0; j < kinds[kind].n_dmabufs; j++) {
		fds[j] = make_dmabuf(stage, (enum maker)((i / N_KINDS + j) % MAKERS));
	}
	for (uint32_t plane = 0; plane < kinds[kind].n_planes; plane++) {
		bool apart = kinds[kind].n_dmabufs > 1;
		add(params, fds[apart ? plane : 0], plane, apart);
	}
	struct wl_buffer *buffer = zwp_linux_buffer_params_v1_create_immed(
		params, WIDTH, HEIGHT, kinds[kind].format, 0);
	zwp_linux_buffer_params_v1_destroy(params);
	return buffer;
}

static void paint(struct stage *stage, int fd, uint8_t painted[WIDTH])
{
	uint8_t *data = udmabuf_map(fd, SIZE);
	paint_noise(&stage->rng, data, WIDTH);
	memcpy(painted, data, WIDTH);
	munmap(data, SIZE);
}

static void expect_painted(const struct stage *stage, const uint8_t painted[WIDTH])
{
	uint8_t *data = udmabuf_map(stage->screen.shown->planes[0].fd, SIZE);
	assert_memory_equal(data, painted, WIDTH);
	munmap(data, SIZE);
}

static void run_cycle(struct stage *stage, size_t i)
{
	int fds[PLANES];
	uint8_t painted[WIDTH];
	struct wl_buffer *buffer = make_buffer(stage, i, fds);
	if (i % LOOKED == 0) {
		paint(stage, fds[0], painted);
	}
	wl_surface_attach(stage->surface, buffer, 0, 0);
	wl_surface_damage_buffer(stage->surface, 0, 0, WIDTH, HEIGHT);
	wl_surface_commit(stage->surface);
	if (i % LOOKED == 0) {
		client_roundtrip(stage->client);
		expect_painted(stage, painted);
	}
	wl_surface_attach(stage->surface, NULL, 0, 0);
	wl_surface_commit(stage->surface);
	wl_buffer_destroy(buffer);
	for (size_t j = 0; j < kinds[i % N_KINDS].n_dmabufs; j++) {
		close(fds[j]);
	}
}

static void ten_thousand_buffers_leave_nothing(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct remains before = look(&stage);
	for (size_t i = 0; i < CYCLES; i++) {
		run_cycle(&stage, i);
		if (i % AT_ONCE == 0) {
			client_roundtrip(stage.client);
		}
	}
	client_roundtrip(stage.client);
	assert_true(wl_list_empty(&stage.screen.buffers));
	expect_nothing_new(&stage, &before);
	print_message("of %s%s%s\n", dmabufs_have_udmabuf() ? "udmabuf" : "memfds",
		stage.has_heap ? ", a dma-heap" : "", stage.card >= 0 ? ", vgem" : "");
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(ten_thousand_buffers_leave_nothing),
	};
	log_init("integration", LOG_ERROR); // what stands for a dma-buf knows no DMA_BUF_IOCTL_SYNC
	return cmocka_run_group_tests(tests, NULL, NULL);
}
