#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "base/log.h"
#include "fdpass/resolver.h"
#include "linux-explicit-synchronization-client.h"
#include "linux-explicit-synchronization-server.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"
#include "tests/support/fence.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* Fences that clients and compositors give each other with their buffers. */

#define WIDTH       64
#define HEIGHT      32
#define STRIDE      (4 * WIDTH)
#define SIZE        (STRIDE * HEIGHT)
#define QUIET_TURNS 50
#define MANY        300

struct stage {
	struct world *world;
	struct client *client, *other;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	unsigned int n_fences;        // that the compositor was given
	struct wl_resource *released; // what the compositor was asked for last; NULL: nothing
	struct wl_compositor *compositor;
	struct zwp_linux_explicit_synchronization_v1 *global;
	struct wl_surface *surface;
	struct zwp_linux_surface_synchronization_v1 *sync;
	int memory;
	uint8_t *data;
	struct wl_buffer *buffer, *shm_buffer;
	struct zwp_linux_buffer_release_v1 *release; // that the client has asked for; NULL: told
	unsigned int immediate, fenced;              // that it was told of
};

/* ---- the compositor ---- */

static void take_fence(void *data, struct wl_resource *sync, const union wl_argument *args)
{
	(void)sync;
	((struct stage *)data)->n_fences++;
	close(args[0].h);
}

static void take_release(void *data, struct wl_resource *sync, const union wl_argument *args)
{
	((struct stage *)data)->released = compositor_made(sync, &args[0]);
}

static void init_compositor(struct stage *stage)
{
	struct compositor *compositor = stage->world->compositor;
	const char *sync = zwp_linux_surface_synchronization_v1_interface.name;
	dmabuf_screen_init(&stage->screen, compositor, 3);
	compositor_add_global(compositor, &zwp_linux_explicit_synchronization_v1_interface, 2);
	compositor_hook(compositor, sync, "set_acquire_fence", take_fence, stage);
	compositor_hook(compositor, sync, "get_release", take_release, stage);
}

/* ---- the client ---- */

static struct wl_buffer *make_shm_buffer(struct stage *stage)
{
	struct wl_shm *shm = client_bind(stage->client, &wl_shm_interface, 1);
	int fd = memfd_create("pool", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	struct wl_shm_pool *pool = wl_shm_create_pool(shm, fd, SIZE);
	struct wl_buffer *buffer =
		wl_shm_pool_create_buffer(pool, 0, WIDTH, HEIGHT, STRIDE, WL_SHM_FORMAT_XRGB8888);
	wl_shm_pool_destroy(pool);
	wl_shm_destroy(shm);
	close(fd);
	return buffer;
}

static void begin_client(struct stage *stage)
{
	const struct pair_options options = {
		.resolver = stage->resolver, .device.implicit_linear = true};
	stage->client = client_create(stage->world, &options);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->global =
		client_bind(stage->client, &zwp_linux_explicit_synchronization_v1_interface, 2);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	stage->sync = zwp_linux_explicit_synchronization_v1_get_synchronization(
		stage->global, stage->surface);
	stage->buffer = paint_dmabuf_buffer(stage->client, stage->memory, WIDTH, HEIGHT, STRIDE);
	stage->shm_buffer = make_shm_buffer(stage);
}

static void forget_client(struct stage *stage)
{
	if (stage->release != NULL) {
		zwp_linux_buffer_release_v1_destroy(stage->release);
	}
	wl_buffer_destroy(stage->shm_buffer);
	wl_buffer_destroy(stage->buffer);
	if (stage->sync != NULL) {
		zwp_linux_surface_synchronization_v1_destroy(stage->sync);
	}
	if (stage->surface != NULL) {
		wl_surface_destroy(stage->surface);
	}
	zwp_linux_explicit_synchronization_v1_destroy(stage->global);
	wl_compositor_destroy(stage->compositor);
}

static void begin(struct stage *stage)
{
	*stage = (struct stage){.resolver = udmabuf_resolver_create()};
	stage->memory = udmabuf_make(SIZE);
	stage->data = udmabuf_map(stage->memory, SIZE);
	stage->world = world_create();
	init_compositor(stage);
	begin_client(stage);
}

static void finish(struct stage *stage)
{
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
	munmap(stage->data, SIZE);
	close(stage->memory);
}

static void end(struct stage *stage)
{
	forget_client(stage);
	finish(stage);
}

static void paint(struct stage *stage, int byte)
{
	memset(stage->data, byte, SIZE);
}

static void expect_shown(struct stage *stage, int byte)
{
	assert_non_null(stage->screen.shown);
	uint8_t *data = udmabuf_map(stage->screen.shown->planes[0].fd, SIZE);
	for (size_t i = 0; i < SIZE; i++) {
		assert_int_equal(data[i], byte);
	}
	munmap(data, SIZE);
}

static void attach(struct stage *stage)
{
	wl_surface_attach(stage->surface, stage->buffer, 0, 0);
	wl_surface_damage_buffer(stage->surface, 0, 0, INT32_MAX, INT32_MAX);
}

static void commit_with(struct stage *stage, int fence)
{
	attach(stage);
	zwp_linux_surface_synchronization_v1_set_acquire_fence(stage->sync, fence);
	wl_surface_commit(stage->surface);
}

/* ---- acquire fences ---- */

static void a_late_fence_delays_its_commit_and_nothing_before(void **state)
{
	struct stage stage;
	struct fence fence;
	bool before, after;
	(void)state;
	begin(&stage);
	fence_init(&fence);
	paint(&stage, 'a');
	// What is said between the fence and its commit does not wait for it.
	zwp_linux_surface_synchronization_v1_set_acquire_fence(stage.sync, fence.fd);
	struct wl_surface *surface = wl_compositor_create_surface(stage.compositor);
	wl_surface_attach(surface, stage.buffer, 0, 0);
	wl_surface_commit(surface);
	attach(&stage);
	client_ask(stage.client, &before);
	wl_surface_commit(stage.surface);
	client_ask(stage.client, &after);
	world_until(stage.world, &before);
	world_turns(stage.world, QUIET_TURNS);
	fence_expect_pending(&fence);
	assert_int_equal(stage.screen.commits, 1);
	assert_false(after);

	paint(&stage, 'b'); // by the device, which is late
	fence_signal(&fence);
	world_until(stage.world, &after);
	assert_int_equal(stage.screen.commits, 2);
	assert_int_equal(stage.n_fences, 0);
	expect_shown(&stage, 'b');
	fence_finish(&fence);
	wl_surface_destroy(surface);
	end(&stage);
}

static void events_and_other_clients_do_not_wait_for_it(void **state)
{
	struct stage stage;
	struct fence fence;
	bool after;
	(void)state;
	begin(&stage);
	stage.other = client_create(stage.world, NULL);
	fence_init(&fence);
	struct zwp_linux_buffer_release_v1 *release =
		zwp_linux_surface_synchronization_v1_get_release(stage.sync);
	client_roundtrip(stage.client);
	commit_with(&stage, fence.fd);
	client_ask(stage.client, &after);
	world_turns(stage.world, QUIET_TURNS);
	client_roundtrip(stage.other);
	fence_expect_pending(&fence);
	assert_non_null(stage.released);
	uint32_t id = wl_proxy_get_id((struct wl_proxy *)release);
	assert_ptr_equal(wl_client_get_object(stage.client->far, id), stage.released);
	assert_false(after);
	assert_int_equal(stage.screen.commits, 0);
	fence_signal(&fence);
	world_until(stage.world, &after);
	assert_int_equal(stage.screen.commits, 1);
	fence_finish(&fence);
	zwp_linux_buffer_release_v1_destroy(release);
	end(&stage);
}

static void a_fence_is_for_one_commit(void **state)
{
	struct stage stage;
	struct fence fence;
	(void)state;
	begin(&stage);
	fence_init(&fence);
	fence_signal(&fence);
	for (int i = 0; i < MANY; i++) {
		paint(&stage, i & 0xff);
		commit_with(&stage, fence.fd);
		client_roundtrip(stage.client);
		assert_int_equal(stage.screen.commits, i + 1);
		expect_shown(&stage, i & 0xff);
	}
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	assert_int_equal(stage.client->pair.guest.budget.used[BUDGET_FDS],
		stage.client->pair.host.budget.used[BUDGET_FDS]);
	fence_finish(&fence);
	end(&stage);
}

static void a_fence_goes_with_its_object(void **state)
{
	struct stage stage;
	struct fence fence;
	(void)state;
	begin(&stage);
	fence_init(&fence);
	paint(&stage, 'a');
	zwp_linux_surface_synchronization_v1_set_acquire_fence(stage.sync, fence.fd);
	zwp_linux_surface_synchronization_v1_destroy(stage.sync);
	attach(&stage);
	wl_surface_commit(stage.surface);
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 1);
	expect_shown(&stage, 'a');
	stage.sync = zwp_linux_explicit_synchronization_v1_get_synchronization(
		stage.global, stage.surface);
	commit_with(&stage, fence.fd);
	world_turns(stage.world, QUIET_TURNS);
	fence_expect_pending(&fence);
	assert_int_equal(stage.screen.commits, 1);
	fence_signal(&fence);
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 2);
	fence_finish(&fence);
	end(&stage);
}

static void a_client_may_leave_while_it_waits(void **state)
{
	struct stage stage;
	struct fence fence;
	(void)state;
	begin(&stage);
	fence_init(&fence);
	commit_with(&stage, fence.fd);
	world_turns(stage.world, QUIET_TURNS);
	fence_expect_pending(&fence);
	assert_int_equal(stage.screen.commits, 0);
	forget_client(&stage);
	client_disconnect(stage.client);
	world_turns(stage.world, QUIET_TURNS);
	fence_signal(&fence);
	client_wait_over(stage.client);
	fence_finish(&fence);
	finish(&stage);
}

/* Its fences, one set and one waited for, go with the session, whether they signal or not. */
static void a_client_may_leave_for_good(void **state)
{
	struct stage stage;
	struct fence fence;
	(void)state;
	begin(&stage);
	fence_init(&fence);
	struct wl_surface *surface = wl_compositor_create_surface(stage.compositor);
	struct zwp_linux_surface_synchronization_v1 *sync =
		zwp_linux_explicit_synchronization_v1_get_synchronization(stage.global, surface);
	zwp_linux_surface_synchronization_v1_set_acquire_fence(sync, fence.fd);
	commit_with(&stage, fence.fd);
	world_turns(stage.world, QUIET_TURNS);
	zwp_linux_surface_synchronization_v1_destroy(sync);
	wl_surface_destroy(surface);
	forget_client(&stage);
	world_destroy(stage.world);
	resolver_destroy(stage.resolver);
	munmap(stage.data, SIZE);
	close(stage.memory);
	fence_finish(&fence);
}

/* ---- releases ---- */

static void handle_fenced(void *data, struct zwp_linux_buffer_release_v1 *release, int fence)
{
	struct stage *stage = data;
	stage->fenced++;
	stage->release = NULL;
	close(fence);
	zwp_linux_buffer_release_v1_destroy(release);
}

static void handle_immediate(void *data, struct zwp_linux_buffer_release_v1 *release)
{
	struct stage *stage = data;
	stage->immediate++;
	stage->release = NULL;
	zwp_linux_buffer_release_v1_destroy(release);
}

static uint32_t commit_for_release(struct stage *stage)
{
	static const struct zwp_linux_buffer_release_v1_listener listener = {
		.fenced_release = handle_fenced,
		.immediate_release = handle_immediate,
	};
	stage->release = zwp_linux_surface_synchronization_v1_get_release(stage->sync);
	zwp_linux_buffer_release_v1_add_listener(stage->release, &listener, stage);
	attach(stage);
	wl_surface_commit(stage->surface);
	client_roundtrip(stage->client);
	return wl_proxy_get_id((struct wl_proxy *)stage->release);
}

static void release_with(struct stage *stage, int fence)
{
	zwp_linux_buffer_release_v1_send_fenced_release(stage->released, fence);
	wl_resource_destroy(stage->released);
	stage->released = NULL;
}

static void a_release_comes_when_its_fence_has_signalled(void **state)
{
	struct stage stage;
	struct fence fence;
	bool after;
	(void)state;
	begin(&stage);
	stage.other = client_create(stage.world, NULL);
	fence_init(&fence);
	uint32_t id = commit_for_release(&stage);
	release_with(&stage, fence.fd);
	client_ask(stage.client, &after);
	world_turns(stage.world, QUIET_TURNS);
	client_roundtrip(stage.other);
	fence_expect_pending(&fence);
	assert_int_equal(stage.immediate, 0);
	assert_false(after); // what the compositor says stays in order
	fence_signal(&fence);
	world_until(stage.world, &after);
	assert_int_equal(stage.immediate, 1);
	assert_int_equal(stage.fenced, 0);

	for (unsigned int i = 1; i < MANY; i++) {
		// Its id is free again.
		assert_true(commit_for_release(&stage) < id + 8);
		release_with(&stage, fence.fd); // which has signalled
		client_roundtrip(stage.client);
		assert_int_equal(stage.immediate, i + 1);
	}
	commit_for_release(&stage);
	zwp_linux_buffer_release_v1_send_immediate_release(stage.released);
	wl_resource_destroy(stage.released);
	client_roundtrip(stage.client);
	assert_int_equal(stage.immediate, MANY + 1);
	fence_finish(&fence);
	end(&stage);
}

static void a_client_may_leave_before_its_release(void **state)
{
	struct stage stage;
	struct fence fence;
	(void)state;
	begin(&stage);
	fence_init(&fence);
	commit_for_release(&stage);
	release_with(&stage, fence.fd);
	world_turns(stage.world, QUIET_TURNS);
	forget_client(&stage);
	client_disconnect(stage.client);
	client_wait_over(stage.client);
	fence_finish(&fence);
	finish(&stage);
}

static void a_compositor_that_gives_no_fence_is_told_so(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	commit_for_release(&stage);
	int fd = memfd_create("no fence", MFD_CLOEXEC);
	release_with(&stage, fd);
	close(fd);
	client_wait_failed(stage.client);
	client_wait_over(stage.client);
	assert_non_null(strstr(stage.client->pair.host.reason, "no sync_file"));
	assert_int_equal(stage.immediate + stage.fenced, 0);
	end(&stage);
}

/* ---- what is not offered ---- */

static void without_dmabufs_there_are_no_fences(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	stage.other = client_create(stage.world, NULL);
	client_roundtrip(stage.other);
	assert_null(client_find(stage.other, zwp_linux_explicit_synchronization_v1_interface.name));
	const struct client_global *global =
		client_find(stage.client, zwp_linux_explicit_synchronization_v1_interface.name);
	assert_non_null(global);
	assert_int_equal(global->version, 2);
	end(&stage);
}

/* ---- wrong uses ---- */

enum {
	FENCE = ZWP_LINUX_SURFACE_SYNCHRONIZATION_V1_ERROR_INVALID_FENCE,
	AGAIN = ZWP_LINUX_SURFACE_SYNCHRONIZATION_V1_ERROR_DUPLICATE_FENCE,
	SURFACE = ZWP_LINUX_SURFACE_SYNCHRONIZATION_V1_ERROR_NO_SURFACE,
	UNSUPPORTED = ZWP_LINUX_SURFACE_SYNCHRONIZATION_V1_ERROR_UNSUPPORTED_BUFFER,
	NOTHING = ZWP_LINUX_SURFACE_SYNCHRONIZATION_V1_ERROR_NO_BUFFER,
};

/*
 * One step after the other: f sets a fence, F one that has not signalled; b and s attach a dma-buf or
 * shared memory, 0 nothing; c commits; D destroys the surface; other letters set what is no fence
 * (open_wrong).
 */
static const struct {
	const char *what;
	uint32_t expected;
	const char *steps;
} wrongs[] = {
	{"memory for a fence", FENCE, "m"},
	{"memory for a fence, later", FENCE, "bm"},
	{"memory for a fence after a commit", FENCE, "bcm"},
	{"memory for a fence after a good one", FENCE, "bfcm"},
	{"a pipe's read end for a fence", FENCE, "r"},
	{"a pipe's write end for a fence", FENCE, "w"},
	{"a socket for a fence", FENCE, "k"},
	{"a device for a fence", FENCE, "n"},
	{"a directory for a fence", FENCE, "d"},
	{"an epoll instance for a fence", FENCE, "e"},
	{"a timer for a fence", FENCE, "t"},
	{"the dma-buf itself for a fence", FENCE, "u"},
	{"a file for a fence", FENCE, "p"},
	{"two fences", AGAIN, "ff"},
	{"two fences that have not signalled", AGAIN, "FF"},
	{"two fences with a buffer between them", AGAIN, "fbf"},
	{"two fences for a buffer", AGAIN, "bff"},
	{"two fences, the second of which is none", AGAIN, "fm"},
	{"two fences for the second commit", AGAIN, "bfcff"},
	{"two fences after a buffer was replaced", AGAIN, "bfsf"},
	{"a fence without a buffer", NOTHING, "fc"},
	{"a fence that has not signalled, without a buffer", NOTHING, "Fc"},
	{"a fence for nothing", NOTHING, "0fc"},
	{"a fence and then nothing", NOTHING, "f0c"},
	{"a fence for the buffer of an earlier commit", NOTHING, "bcfc"},
	{"a fence after one that was good", NOTHING, "bfcfc"},
	{"a fence for a buffer that was taken back", NOTHING, "bf0c"},
	{"a fence for shared memory", UNSUPPORTED, "sfc"},
	{"a fence that has not signalled, for shared memory", UNSUPPORTED, "sFc"},
	{"a fence, then shared memory", UNSUPPORTED, "fsc"},
	{"a fence for a dma-buf, then shared memory", UNSUPPORTED, "bfsc"},
	{"a fence for shared memory after a dma-buf", UNSUPPORTED, "bfcsfc"},
	{"a fence for a surface that has gone", SURFACE, "Df"},
	{"a second fence for a surface that has gone", SURFACE, "fDf"},
	{"no fence for a surface that has gone", SURFACE, "Dm"},
	{"a fence for a surface that has gone after a commit", SURFACE, "bfcDf"},
};

static int open_wrong(char kind, int *other)
{
	int ends[2];
	*other = -1;
	switch (kind) {
	case 'm':
		return memfd_create("memory", MFD_CLOEXEC);
	case 'r':
	case 'w':
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		*other = ends[kind == 'r'];
		return ends[kind != 'r'];
	case 'k':
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
		*other = ends[1];
		return ends[0];
	case 'n':
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 'd':
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case 'e':
		return epoll_create1(EPOLL_CLOEXEC);
	case 't':
		return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	case 'p':
		return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	default:
		return udmabuf_make(SIZE);
	}
}

static void set_wrong(struct stage *stage, char kind)
{
	int other, fd = open_wrong(kind, &other);
	assert_true(fd >= 0);
	zwp_linux_surface_synchronization_v1_set_acquire_fence(stage->sync, fd);
	close(fd);
	if (other >= 0) {
		close(other);
	}
}

static void set_fence(struct stage *stage, bool signalled)
{
	struct fence fence;
	fence_init(&fence);
	if (signalled) {
		fence_signal(&fence);
	}
	zwp_linux_surface_synchronization_v1_set_acquire_fence(stage->sync, fence.fd);
	wl_display_flush(stage->client->display);
	fence_finish(&fence);
}

static void step(struct stage *stage, char what)
{
	switch (what) {
	case 'f':
	case 'F':
		set_fence(stage, what == 'f');
		break;
	case 'b':
		attach(stage);
		break;
	case 's':
		wl_surface_attach(stage->surface, stage->shm_buffer, 0, 0);
		break;
	case '0':
		wl_surface_attach(stage->surface, NULL, 0, 0);
		break;
	case 'c':
		wl_surface_commit(stage->surface);
		break;
	case 'D':
		wl_surface_destroy(stage->surface);
		stage->surface = NULL;
		break;
	default:
		set_wrong(stage, what);
	}
}

static void expect_error(struct stage *stage, uint32_t code)
{
	const struct wl_interface *interface = NULL;
	uint32_t id = 0;
	client_wait_failed(stage->client);
	assert_int_equal(
		wl_display_get_protocol_error(stage->client->display, &interface, &id), code);
	assert_non_null(interface);
	assert_string_equal(interface->name, zwp_linux_surface_synchronization_v1_interface.name);
	assert_int_equal(id, wl_proxy_get_id((struct wl_proxy *)stage->sync));
	client_wait_over(stage->client);
}

static void each_wrong_use_is_told_by_the_protocol_s_own_error(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		size_t n = strlen(wrongs[i].steps);
		print_message("%s\n", wrongs[i].what);
		for (size_t at = 0; at + 1 < n; at++) {
			step(&stage, wrongs[i].steps[at]);
			client_roundtrip(stage.client);
			assert_false(stage.client->failed);
		}
		step(&stage, wrongs[i].steps[n - 1]);
		expect_error(&stage, wrongs[i].expected);
		forget_client(&stage);
		client_destroy(stage.client);
		begin_client(&stage);
	}
	assert_int_equal(stage.n_fences, 0);
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_late_fence_delays_its_commit_and_nothing_before),
		fd_count_test(events_and_other_clients_do_not_wait_for_it),
		fd_count_test(a_fence_is_for_one_commit),
		fd_count_test(a_fence_goes_with_its_object),
		fd_count_test(a_client_may_leave_while_it_waits),
		fd_count_test(a_client_may_leave_for_good),
		fd_count_test(a_release_comes_when_its_fence_has_signalled),
		fd_count_test(a_client_may_leave_before_its_release),
		fd_count_test(a_compositor_that_gives_no_fence_is_told_so),
		fd_count_test(without_dmabufs_there_are_no_fences),
		fd_count_test(each_wrong_use_is_told_by_the_protocol_s_own_error),
	};
	log_init("integration", LOG_ERROR);
	fences_are_real(); // before fds are counted
	return cmocka_run_group_tests(tests, NULL, NULL);
}
