#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "base/log.h"
#include "fdpass/resolver.h"
#include "linux-drm-syncobj-client.h"
#include "linux-drm-syncobj-server.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/syncobjs.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* Timelines that clients and compositors signal for each other. */

#define WIDTH       64
#define HEIGHT      32
#define STRIDE      (4 * WIDTH)
#define SIZE        (STRIDE * HEIGHT)
#define QUIET_TURNS 50
#define MANY        300
#define MAX_MIRRORS 32
#define LATE        1000 // of points that never signal

struct point {
	uint32_t mirror; // the compositor's handle; 0: not set
	uint64_t value;
};

struct stage {
	struct world *world;
	struct client *client;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	int client_node, guest_node, host_node, compositor_node;

	// The compositor's.
	uint32_t mirrors[MAX_MIRRORS];
	size_t n_mirrors;
	struct point acquire, release; // of the next commit
	struct point held;             // to be signalled
	unsigned int commits, early;   // early: whose acquire point had not signalled

	// The client's.
	uint32_t original;
	uint64_t awaited; // point of it
	struct wl_compositor *compositor;
	struct wp_linux_drm_syncobj_manager_v1 *manager;
	struct wp_linux_drm_syncobj_timeline_v1 *timeline;
	struct wl_surface *surface;
	struct wp_linux_drm_syncobj_surface_v1 *sync;
	int memory;
	uint8_t *data;
	struct wl_buffer *buffer;
};

/* ---- the compositor ---- */

static void import_timeline(void *data, struct wl_resource *manager, const union wl_argument *args)
{
	struct stage *stage = data;
	uint32_t mirror = syncobj_import(stage->compositor_node, args[1].h);
	close(args[1].h);
	assert_int_not_equal(mirror, 0);
	assert_true(stage->n_mirrors < MAX_MIRRORS);
	stage->mirrors[stage->n_mirrors++] = mirror;
	wl_resource_set_user_data(compositor_made(manager, &args[0]), (void *)(uintptr_t)mirror);
}

static struct point point_of(const union wl_argument *args)
{
	return (struct point){
		.mirror =
			(uint32_t)(uintptr_t)wl_resource_get_user_data(compositor_object(&args[0])),
		.value = (uint64_t)args[1].u << 32 | args[2].u,
	};
}

static void set_acquire(void *data, struct wl_resource *sync, const union wl_argument *args)
{
	(void)sync;
	((struct stage *)data)->acquire = point_of(args);
}

static void set_release(void *data, struct wl_resource *sync, const union wl_argument *args)
{
	(void)sync;
	((struct stage *)data)->release = point_of(args);
}

static bool has_signalled(const struct stage *stage, const struct point *point)
{
	return syncobj_has_signalled(stage->compositor_node, point->mirror, point->value);
}

static void commit(void *data, struct wl_resource *surface, const union wl_argument *args)
{
	struct stage *stage = data;
	(void)surface;
	(void)args;
	stage->commits++;
	stage->screen.shown = stage->screen.pending;
	if (stage->acquire.mirror != 0) {
		stage->early += !has_signalled(stage, &stage->acquire);
	}
	stage->held = stage->release;
	stage->acquire.mirror = stage->release.mirror = 0;
}

static void release(struct stage *stage)
{
	assert_int_not_equal(stage->held.mirror, 0);
	syncobj_signal(stage->compositor_node, stage->held.mirror, stage->held.value);
}

static void init_compositor(struct stage *stage)
{
	struct compositor *compositor = stage->world->compositor;
	const char *manager = wp_linux_drm_syncobj_manager_v1_interface.name;
	const char *sync = wp_linux_drm_syncobj_surface_v1_interface.name;
	dmabuf_screen_init(&stage->screen, compositor, 3);
	compositor_add_global(compositor, &wp_linux_drm_syncobj_manager_v1_interface, 1);
	compositor_hook(compositor, manager, "import_timeline", import_timeline, stage);
	compositor_hook(compositor, sync, "set_acquire_point", set_acquire, stage);
	compositor_hook(compositor, sync, "set_release_point", set_release, stage);
	compositor_hook(compositor, "wl_surface", "commit", commit, stage);
}

/* ---- the client ---- */

static struct pair_options options_of(const struct stage *stage)
{
	return (struct pair_options){
		.resolver = stage->resolver,
		.device.implicit_linear = true,
		.guest_node = stage->guest_node,
		.host_node = stage->host_node,
	};
}

static struct wp_linux_drm_syncobj_timeline_v1 *import(struct stage *stage)
{
	int fd = syncobj_export(stage->client_node, stage->original);
	struct wp_linux_drm_syncobj_timeline_v1 *timeline =
		wp_linux_drm_syncobj_manager_v1_import_timeline(stage->manager, fd);
	wl_display_flush(stage->client->display);
	close(fd);
	return timeline;
}

static void begin_client(struct stage *stage)
{
	const struct pair_options options = options_of(stage);
	stage->client = client_create(stage->world, &options);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->manager = client_bind(stage->client, &wp_linux_drm_syncobj_manager_v1_interface, 1);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	stage->sync = wp_linux_drm_syncobj_manager_v1_get_surface(stage->manager, stage->surface);
	stage->original = syncobj_create(stage->client_node);
	stage->timeline = import(stage);
	stage->buffer = paint_dmabuf_buffer(stage->client, stage->memory, WIDTH, HEIGHT, STRIDE);
}

static void forget_client(struct stage *stage)
{
	wl_buffer_destroy(stage->buffer);
	if (stage->timeline != NULL) {
		wp_linux_drm_syncobj_timeline_v1_destroy(stage->timeline);
	}
	wp_linux_drm_syncobj_surface_v1_destroy(stage->sync);
	wl_surface_destroy(stage->surface);
	wp_linux_drm_syncobj_manager_v1_destroy(stage->manager);
	wl_compositor_destroy(stage->compositor);
	syncobj_destroy(stage->client_node, stage->original);
}

static void begin(struct stage *stage)
{
	*stage = (struct stage){
		.resolver = udmabuf_resolver_create(),
		.client_node = syncobjs_open_node(),
		.guest_node = syncobjs_open_node(),
		.host_node = syncobjs_open_node(),
		.compositor_node = syncobjs_open_node(),
	};
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
	for (size_t i = 0; i < stage->n_mirrors; i++) {
		syncobj_destroy(stage->compositor_node, stage->mirrors[i]);
	}
	assert_int_equal(syncobjs_left(), 0);
	close(stage->client_node);
	close(stage->guest_node);
	close(stage->host_node);
	close(stage->compositor_node);
}

static void end(struct stage *stage)
{
	forget_client(stage);
	finish(stage);
}

static void attach(struct stage *stage)
{
	wl_surface_attach(stage->surface, stage->buffer, 0, 0);
	wl_surface_damage_buffer(stage->surface, 0, 0, INT32_MAX, INT32_MAX);
}

static void set_acquire_point(struct stage *stage, uint64_t point)
{
	wp_linux_drm_syncobj_surface_v1_set_acquire_point(
		stage->sync, stage->timeline, (uint32_t)(point >> 32), (uint32_t)point);
}

static void set_release_point(struct stage *stage, uint64_t point)
{
	wp_linux_drm_syncobj_surface_v1_set_release_point(
		stage->sync, stage->timeline, (uint32_t)(point >> 32), (uint32_t)point);
}

static void commit_with(struct stage *stage, uint64_t acquire, uint64_t release)
{
	attach(stage);
	set_acquire_point(stage, acquire);
	set_release_point(stage, release);
	wl_surface_commit(stage->surface);
}

static void signal_point(struct stage *stage, uint64_t point)
{
	syncobj_signal(stage->client_node, stage->original, point);
}

static bool is_released(struct stage *stage, uint64_t point)
{
	return syncobj_has_signalled(stage->client_node, stage->original, point);
}

static bool is_awaited_released(void *data)
{
	struct stage *stage = data;
	return is_released(stage, stage->awaited);
}

static void wait_released(struct stage *stage, uint64_t point)
{
	stage->awaited = point;
	world_wait(stage->world, is_awaited_released, stage);
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

/* ---- acquire points ---- */

static void a_late_point_delays_its_commit_and_nothing_before(void **state)
{
	struct stage stage;
	bool before, after;
	(void)state;
	begin(&stage);
	memset(stage.data, 'a', SIZE);
	struct wl_surface *surface = wl_compositor_create_surface(stage.compositor);
	set_acquire_point(&stage, 1);
	wl_surface_attach(surface, NULL, 0, 0);
	client_ask(stage.client, &before);
	commit_with(&stage, 1, 2);
	client_ask(stage.client, &after);
	world_until(stage.world, &before);
	world_turns(stage.world, QUIET_TURNS);
	assert_false(after);
	assert_int_equal(stage.commits, 0);
	memset(stage.data, 'b', SIZE); // by the device, which is late
	signal_point(&stage, 1);
	world_until(stage.world, &after);
	assert_int_equal(stage.commits, 1);
	assert_int_equal(stage.early, 0);
	expect_shown(&stage, 'b');
	wl_surface_destroy(surface);
	end(&stage);
}

static void events_and_other_clients_do_not_wait_for_it(void **state)
{
	struct stage stage;
	bool after;
	(void)state;
	begin(&stage);
	struct client *other = client_create(stage.world, NULL);
	commit_with(&stage, 1, 2);
	signal_point(&stage, 1);
	client_roundtrip(stage.client);
	commit_with(&stage, 3, 4);
	client_ask(stage.client, &after);
	world_turns(stage.world, QUIET_TURNS);
	client_roundtrip(other);
	release(&stage);
	wait_released(&stage, 2); // while the next commit waits
	assert_false(after);
	assert_int_equal(stage.commits, 1);
	signal_point(&stage, 3);
	world_until(stage.world, &after);
	assert_int_equal(stage.commits, 2);
	assert_int_equal(stage.early, 0);
	end(&stage);
}

static void a_client_may_leave_while_it_waits(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	commit_with(&stage, 1, 2);
	world_turns(stage.world, QUIET_TURNS);
	assert_int_equal(stage.commits, 0);
	forget_client(&stage);
	client_disconnect(stage.client);
	world_turns(stage.world, QUIET_TURNS);
	finish(&stage); // its point never signals
}

static void the_other_client_goes_on_when_one_has_left(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	commit_with(&stage, 1, 2);
	world_turns(stage.world, QUIET_TURNS);
	struct client *stuck = stage.client;
	forget_client(&stage);
	begin_client(&stage);
	signal_point(&stage, 1);
	commit_with(&stage, 1, 2);
	client_roundtrip(stage.client);
	assert_int_equal(stage.commits, 1);
	client_disconnect(stuck);
	client_roundtrip(stage.client);
	release(&stage);
	wait_released(&stage, 2);
	end(&stage);
}

/* ---- release points ---- */

static void points_go_up_on_both_sides(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	for (uint64_t i = 1; i < 2 * MANY; i += 2) {
		memset(stage.data, (int)i & 0xff, SIZE);
		signal_point(&stage, i);
		commit_with(&stage, i, i + 1);
		client_roundtrip(stage.client);
		assert_int_equal(stage.commits, (i + 1) / 2);
		expect_shown(&stage, (int)i & 0xff);
		assert_false(is_released(&stage, i + 1));
		release(&stage);
		wait_released(&stage, i + 1);
	}
	assert_int_equal(stage.early, 0);
	end(&stage);
}

static void a_late_release_is_told_when_it_comes(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	const uint64_t large = UINT64_C(7) << 32;
	signal_point(&stage, large);
	commit_with(&stage, large, large + 1);
	client_roundtrip(stage.client);
	world_turns(stage.world, QUIET_TURNS);
	assert_false(is_released(&stage, large + 1));
	release(&stage);
	wait_released(&stage, large + 1);
	end(&stage);
}

static void a_release_comes_though_the_timeline_was_destroyed(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	signal_point(&stage, 1);
	commit_with(&stage, 1, 2);
	wp_linux_drm_syncobj_timeline_v1_destroy(stage.timeline);
	stage.timeline = NULL;
	client_roundtrip(stage.client);
	assert_false(is_released(&stage, 2));
	release(&stage);
	wait_released(&stage, 2);
	end(&stage);
}

static void timelines_come_and_go(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	client_roundtrip(stage.client);
	uint64_t used = stage.client->pair.host.budget.used[BUDGET_FDS];
	for (int i = 0; i < MANY; i++) {
		wp_linux_drm_syncobj_timeline_v1_destroy(stage.timeline);
		stage.timeline = import(&stage);
		client_roundtrip(stage.client);
		syncobj_destroy(stage.compositor_node, stage.mirrors[--stage.n_mirrors]);
	}
	// Those that the compositor has taken count until somebody looks.
	assert_in_range(stage.client->pair.host.budget.used[BUDGET_FDS], 1, used + 8);
	assert_in_range(stage.client->pair.guest.budget.used[BUDGET_FDS], 1, used + 8);
	end(&stage);
}

/* ---- what is not offered ---- */

static bool is_offered(struct stage *stage, int guest_node, int host_node)
{
	struct pair_options options = options_of(stage);
	options.guest_node = guest_node;
	options.host_node = host_node;
	struct client *client = client_create(stage->world, &options);
	client_roundtrip(client);
	bool offered = client_find(client, wp_linux_drm_syncobj_manager_v1_interface.name) != NULL;
	client_destroy(client);
	return offered;
}

static void both_sides_need_a_device(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	assert_true(is_offered(&stage, stage.guest_node, stage.host_node));
	assert_false(is_offered(&stage, 0, stage.host_node));
	assert_false(is_offered(&stage, stage.guest_node, 0));
	assert_false(is_offered(&stage, 0, 0));
	end(&stage);
}

/* ---- wrong uses ---- */

static int open_wrong(char kind)
{
	int ends[2], fd = -1;
	switch (kind) {
	case 'm':
		return memfd_create("memory", MFD_CLOEXEC);
	case 'e':
		return eventfd(0, EFD_CLOEXEC);
	case 'p':
		return epoll_create1(EPOLL_CLOEXEC);
	case 'n':
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 'd':
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case 'u':
		return udmabuf_make(SIZE);
	case 's':
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
		break;
	default:
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	}
	fd = ends[0];
	close(ends[1]);
	return fd;
}

static void what_is_no_timeline_is_told(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	for (const char *kind = "mepndusr"; *kind != '\0'; kind++) {
		const struct wl_interface *interface = NULL;
		uint32_t id = 0;
		int fd = open_wrong(*kind);
		struct wp_linux_drm_syncobj_timeline_v1 *wrong =
			wp_linux_drm_syncobj_manager_v1_import_timeline(stage.manager, fd);
		client_wait_failed(stage.client);
		assert_int_equal(
			wl_display_get_protocol_error(stage.client->display, &interface, &id),
			1); // invalid_timeline
		assert_string_equal(
			interface->name, wp_linux_drm_syncobj_manager_v1_interface.name);
		assert_int_equal(id, wl_proxy_get_id((struct wl_proxy *)stage.manager));
		client_wait_over(stage.client);
		wp_linux_drm_syncobj_timeline_v1_destroy(wrong);
		close(fd);
		forget_client(&stage);
		client_destroy(stage.client);
		begin_client(&stage);
	}
	end(&stage);
}

/*
 * One step after the other: a and r set an acquire and a release point, A and R later ones; none has
 * signalled. b attaches a buffer, 0 nothing.
 */
static const char *const rejected[] = {
	"",
	"b",
	"a",
	"r",
	"ar",
	"ba",
	"br",
	"bRA",
	"bAr",
	"baaA",
	"brr",
	"0",
	"0ar",
	"b0ar",
	"bar0",
};

static void step(struct stage *stage, char what, uint64_t first)
{
	switch (what) {
	case 'a':
		set_acquire_point(stage, first);
		break;
	case 'A':
		set_acquire_point(stage, first + 2);
		break;
	case 'r':
		set_release_point(stage, first + 1);
		break;
	case 'R':
		set_release_point(stage, first + 2);
		break;
	case 'b':
		attach(stage);
		break;
	default:
		wl_surface_attach(stage->surface, NULL, 0, 0);
	}
}

static void what_the_compositor_rejects_is_not_waited_for(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	for (size_t i = 0; i < sizeof(rejected) / sizeof(rejected[0]); i++) {
		unsigned int commits = stage.commits;
		print_message("\"%s\"\n", rejected[i]);
		for (const char *what = rejected[i]; *what != '\0'; what++) {
			step(&stage, *what, LATE);
		}
		wl_surface_commit(stage.surface);
		client_roundtrip(stage.client);
		assert_int_equal(stage.commits, commits + 1);
		forget_client(&stage);
		client_disconnect(stage.client);
		client_wait_over(stage.client);
		client_destroy(stage.client);
		begin_client(&stage);
	}
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_late_point_delays_its_commit_and_nothing_before),
		fd_count_test(events_and_other_clients_do_not_wait_for_it),
		fd_count_test(a_client_may_leave_while_it_waits),
		fd_count_test(the_other_client_goes_on_when_one_has_left),
		fd_count_test(points_go_up_on_both_sides),
		fd_count_test(a_late_release_is_told_when_it_comes),
		fd_count_test(a_release_comes_though_the_timeline_was_destroyed),
		fd_count_test(timelines_come_and_go),
		fd_count_test(both_sides_need_a_device),
		fd_count_test(what_is_no_timeline_is_told),
		fd_count_test(what_the_compositor_rejects_is_not_waited_for),
	};
	log_init("integration", LOG_ERROR);
	print_message("sync objects %s\n", syncobjs_are_real() ? "of the kernel's" : "of our own");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
