#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wayland-server-protocol.h>

#include <cmocka.h>

#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/world.h"
#include "xdg-shell-client.h"

#define FLOOD   2000
#define AT_ONCE 10
#define COST    1100 // of a short request, at most

struct stage {
	struct world *world;
	struct client *client;
	struct wl_compositor *compositor;
	struct xdg_wm_base *shell;
	size_t n_titles, n_parents, n_fullscreen, n_selections;
	char title[64];
	bool unset; // came last
	size_t n_pastes, n_accepts;
	bool acted, finished; // the latter after the former
	struct wl_data_offer *offer;
};

struct window {
	struct wl_surface *surface;
	struct xdg_surface *xdg_surface;
	struct xdg_toplevel *toplevel;
};

static void take_title(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct stage *stage = data;
	stage->n_titles++;
	snprintf(stage->title, sizeof(stage->title), "%s", args[0].s);
}

static void take_parent(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	((struct stage *)data)->n_parents++;
}

static void take_fullscreen(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	struct stage *stage = data;
	stage->n_fullscreen++;
	stage->unset = false;
}

static void take_unset(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	take_fullscreen(data, resource, args);
	((struct stage *)data)->unset = true;
}

static void take_selection(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	((struct stage *)data)->n_selections++;
}

static void hook(struct stage *stage)
{
	struct compositor *compositor = stage->world->compositor;
	compositor_add_global(compositor, &xdg_wm_base_interface, 3);
	compositor_add_global(compositor, &wl_seat_interface, 1);
	compositor_add_global(compositor, &wl_data_device_manager_interface, 3);
	compositor_hook(compositor, "xdg_toplevel", "set_title", take_title, stage);
	compositor_hook(compositor, "xdg_toplevel", "set_parent", take_parent, stage);
	compositor_hook(compositor, "xdg_toplevel", "set_fullscreen", take_fullscreen, stage);
	compositor_hook(compositor, "xdg_toplevel", "unset_fullscreen", take_unset, stage);
	compositor_hook(compositor, "wl_data_device", "set_selection", take_selection, stage);
}

static void begin(struct stage *stage)
{
	*stage = (struct stage){.world = world_create()};
	hook(stage);
	stage->client = client_create(stage->world, NULL);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->shell = client_bind(stage->client, &xdg_wm_base_interface, 3);
}

static void end(struct stage *stage)
{
	xdg_wm_base_destroy(stage->shell);
	wl_compositor_destroy(stage->compositor);
	client_disconnect(stage->client);
	client_wait_over(stage->client);
	assert_string_equal(stage->client->pair.host.reason, "");
	assert_int_equal(stage->client->pair.host.budget.used[BUDGET_MEMORY], 0);
	world_destroy(stage->world);
}

static void set_told(struct stage *stage, uint64_t told)
{
	struct budget *budget = &stage->client->pair.host.budget;
	budget->limits.told = told;
	memset(budget->told_until, 0, sizeof(budget->told_until));
}

/* Nothing is told until set_told. */
static void tell_nothing(struct stage *stage)
{
	set_told(stage, AT_ONCE * COST);
	stage->client->pair.host.budget.told_until[BUDGET_PANELS] = UINT64_MAX / 2;
}

static uint64_t waiting_bytes(const struct stage *stage)
{
	return stage->client->pair.host.budget.used[BUDGET_MEMORY];
}

static bool nothing_waits(void *data)
{
	return waiting_bytes(data) == 0;
}

static struct window open_window(struct stage *stage)
{
	struct window window = {.surface = wl_compositor_create_surface(stage->compositor)};
	window.xdg_surface = xdg_wm_base_get_xdg_surface(stage->shell, window.surface);
	window.toplevel = xdg_surface_get_toplevel(window.xdg_surface);
	return window;
}

static void close_window(struct window *window)
{
	xdg_toplevel_destroy(window->toplevel);
	xdg_surface_destroy(window->xdg_surface);
	wl_surface_destroy(window->surface);
}

static bool has_last_title(void *data)
{
	return strcmp(((struct stage *)data)->title, "the last") == 0;
}

static void of_a_flood_of_titles_few_are_told_and_the_last(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	set_told(&stage, AT_ONCE * COST);
	struct window window = open_window(&stage);
	for (int i = 0; i < FLOOD; i++) {
		char title[32];
		snprintf(title, sizeof(title), "title %d", i);
		xdg_toplevel_set_title(window.toplevel, title);
	}
	xdg_toplevel_set_title(window.toplevel, "the last");
	world_wait(stage.world, has_last_title, &stage);
	assert_in_range(stage.n_titles, 2, FLOOD / 4);
	close_window(&window);
	end(&stage);
}

static bool is_unset(void *data)
{
	const struct stage *stage = data;
	return stage->unset && stage->n_fullscreen >= 2;
}

static void a_state_that_is_set_and_unset_is_what_it_was_set_to_last(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	set_told(&stage, AT_ONCE * COST);
	struct window window = open_window(&stage);
	for (int i = 0; i < FLOOD; i++) {
		xdg_toplevel_set_fullscreen(window.toplevel, NULL);
		xdg_toplevel_unset_fullscreen(window.toplevel);
	}
	client_roundtrip(stage.client);
	world_wait(stage.world, is_unset, &stage);
	assert_in_range(stage.n_fullscreen, 2, FLOOD / 2);
	close_window(&window);
	end(&stage);
}

static void nobody_overtakes_who_waits(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct window one = open_window(&stage), other = open_window(&stage);
	tell_nothing(&stage);
	xdg_toplevel_set_fullscreen(one.toplevel, NULL);
	xdg_toplevel_set_title(one.toplevel, "a title");
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_fullscreen + stage.n_titles, 0);
	set_told(&stage, AT_ONCE * COST);
	xdg_toplevel_set_title(other.toplevel, "the last");
	world_wait(stage.world, has_last_title, &stage);
	assert_int_equal(stage.n_titles, 2);
	assert_int_equal(stage.n_fullscreen, 1);
	close_window(&one);
	close_window(&other);
	end(&stage);
}

static void what_waits_is_charged_and_goes_with_its_window(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	tell_nothing(&stage);
	struct window window = open_window(&stage);
	xdg_toplevel_set_title(window.toplevel, "the first");
	xdg_toplevel_set_title(window.toplevel, "the second");
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_titles, 0);
	assert_int_equal(waiting_bytes(&stage), 8 + 4 + 12); // of one message
	close_window(&window);
	client_roundtrip(stage.client);
	assert_int_equal(waiting_bytes(&stage), 0);
	end(&stage);
}

// A compositor ends the connection of a client that names an object which is gone.
static void what_names_an_object_that_has_gone_is_not_told(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	tell_nothing(&stage);
	struct window window = open_window(&stage), parent = open_window(&stage);
	xdg_toplevel_set_parent(window.toplevel, parent.toplevel);
	close_window(&parent);
	client_roundtrip(stage.client);
	assert_true(waiting_bytes(&stage) > 0);
	set_told(&stage, AT_ONCE * COST);
	world_wait(stage.world, nothing_waits, &stage);
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_parents, 0);
	assert_false(stage.client->failed);
	close_window(&window);
	end(&stage);
}

static void a_selection_costs_what_its_types_are(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_data_device_manager *manager =
		client_bind(stage.client, &wl_data_device_manager_interface, 3);
	struct wl_seat *seat = client_bind(stage.client, &wl_seat_interface, 1);
	struct wl_data_device *device = wl_data_device_manager_get_data_device(manager, seat);
	struct wl_data_source *source = wl_data_device_manager_create_data_source(manager);
	char type[2001];
	memset(type, 't', sizeof(type) - 1);
	type[sizeof(type) - 1] = '\0';
	for (int i = 0; i < 10; i++) {
		wl_data_source_offer(source, type);
	}
	set_told(&stage, 30000); // room for one of 20 KB
	for (uint32_t serial = 1; serial < FLOOD; serial++) {
		wl_data_device_set_selection(device, source, serial);
	}
	client_roundtrip(stage.client);
	assert_in_range(stage.n_selections, 1, FLOOD / 20);
	wl_data_source_destroy(source);
	wl_data_device_destroy(device);
	wl_seat_destroy(seat);
	wl_data_device_manager_destroy(manager);
	end(&stage);
}

static void take_receive(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	close(args[1].h);
	((struct stage *)data)->n_pastes++;
}

static void take_device(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	struct stage *stage = data;
	struct wl_resource *device = compositor_made(resource, &args[0]);
	struct wl_resource *offer =
		compositor_make(stage->world->compositor, device, &wl_data_offer_interface);
	wl_data_device_send_data_offer(device, offer);
	wl_data_device_send_selection(device, offer);
}

static void handle_offer(void *data, struct wl_data_device *device, struct wl_data_offer *offer)
{
	(void)device;
	((struct stage *)data)->offer = offer;
}

static void handle_selection(void *data, struct wl_data_device *device, struct wl_data_offer *offer)
{
	(void)data;
	(void)device;
	(void)offer;
}

static const struct wl_data_device_listener device_listener = {
	.data_offer = handle_offer,
	.selection = handle_selection,
};

static bool reads_an_end(int fd)
{
	char byte;
	return read(fd, &byte, 1) == 0;
}

struct paste {
	struct wl_data_device_manager *manager;
	struct wl_seat *seat;
	struct wl_data_device *device;
};

static void take_accept(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	((struct stage *)data)->n_accepts++;
}

static void take_actions(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	((struct stage *)data)->acted = true;
}

static void take_finish(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	struct stage *stage = data;
	stage->finished = stage->acted;
}

/* The client has an offer then. */
static void begin_paste(struct stage *stage, struct paste *paste)
{
	begin(stage);
	struct compositor *compositor = stage->world->compositor;
	compositor_hook(
		compositor, "wl_data_device_manager", "get_data_device", take_device, stage);
	compositor_hook(compositor, "wl_data_offer", "receive", take_receive, stage);
	compositor_hook(compositor, "wl_data_offer", "accept", take_accept, stage);
	compositor_hook(compositor, "wl_data_offer", "set_actions", take_actions, stage);
	compositor_hook(compositor, "wl_data_offer", "finish", take_finish, stage);
	paste->manager = client_bind(stage->client, &wl_data_device_manager_interface, 3);
	paste->seat = client_bind(stage->client, &wl_seat_interface, 1);
	paste->device = wl_data_device_manager_get_data_device(paste->manager, paste->seat);
	wl_data_device_add_listener(paste->device, &device_listener, stage);
	client_roundtrip(stage->client);
	assert_non_null(stage->offer);
}

static void end_paste(struct stage *stage, struct paste *paste)
{
	wl_data_offer_destroy(stage->offer);
	wl_data_device_destroy(paste->device);
	wl_seat_destroy(paste->seat);
	wl_data_device_manager_destroy(paste->manager);
	end(stage);
}

// Toolkits accept what is dragged at each motion.
static void what_is_said_again_is_told_once(void **state)
{
	(void)state;
	struct stage stage;
	struct paste paste;
	begin_paste(&stage, &paste);
	for (int i = 0; i < 100; i++) {
		wl_data_offer_accept(stage.offer, 1, "text/plain");
	}
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_accepts, 1);
	wl_data_offer_accept(stage.offer, 1, NULL);
	wl_data_offer_accept(stage.offer, 1, "text/plain");
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_accepts, 3);
	end_paste(&stage, &paste);
}

// A compositor ends the connection of a client that finishes without an action.
static void what_was_said_of_a_drop_is_told_before_its_end(void **state)
{
	(void)state;
	struct stage stage;
	struct paste paste;
	begin_paste(&stage, &paste);
	tell_nothing(&stage);
	uint32_t copy = WL_DATA_DEVICE_MANAGER_DND_ACTION_COPY;
	wl_data_offer_accept(stage.offer, 1, "text/plain");
	wl_data_offer_set_actions(stage.offer, copy, copy);
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_accepts, 0);
	wl_data_offer_finish(stage.offer);
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_accepts, 1);
	assert_true(stage.finished);
	assert_int_equal(waiting_bytes(&stage), 0);
	end_paste(&stage, &paste);
}

// Whose selection it is would be disconnected for those that it has not read.
static void who_pastes_too_often_reads_an_end(void **state)
{
	(void)state;
	struct stage stage;
	struct paste paste;
	begin_paste(&stage, &paste);
	tell_nothing(&stage); // panels, which is another thing
	int ends[100];
	for (size_t i = 0; i < 100; i++) {
		int fds[2];
		assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		wl_data_offer_receive(stage.offer, "text/plain", fds[1]);
		close(fds[1]);
		ends[i] = fds[0];
	}
	client_roundtrip(stage.client);
	assert_in_range(stage.n_pastes, AT_ONCE, 99);
	for (size_t i = 0; i < 100; i++) {
		world_until_readable(stage.world, ends[i]);
		assert_true(reads_an_end(ends[i]));
		close(ends[i]);
	}
	end_paste(&stage, &paste);
}

// 125 of them are what the default burst lets come at once.
static void windows_take_of_the_rate(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct budget *budget = &stage.client->pair.host.budget;
	budget->limits.rate = 1;
	budget->limits.burst = 50000;
	struct window windows[3];
	for (int i = 0; i < 3; i++) {
		windows[i] = open_window(&stage);
	}
	client_roundtrip(stage.client);
	struct window fourth = open_window(&stage);
	client_wait_failed(stage.client);
	assert_non_null(strstr(stage.client->error, "--max-rate"));
	close_window(&fourth);
	for (int i = 0; i < 3; i++) {
		close_window(&windows[i]);
	}
	xdg_wm_base_destroy(stage.shell);
	wl_compositor_destroy(stage.compositor);
	client_wait_over(stage.client);
	world_destroy(stage.world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(of_a_flood_of_titles_few_are_told_and_the_last),
		fd_count_test(a_state_that_is_set_and_unset_is_what_it_was_set_to_last),
		fd_count_test(nobody_overtakes_who_waits),
		fd_count_test(what_waits_is_charged_and_goes_with_its_window),
		fd_count_test(what_names_an_object_that_has_gone_is_not_told),
		fd_count_test(a_selection_costs_what_its_types_are),
		fd_count_test(what_is_said_again_is_told_once),
		fd_count_test(what_was_said_of_a_drop_is_told_before_its_end),
		fd_count_test(who_pastes_too_often_reads_an_end),
		fd_count_test(windows_take_of_the_rate),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
