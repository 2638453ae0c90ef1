#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "relay/denied.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/world.h"
#include "wire/schema.h"
#include "xdg-shell-client.h"

// What the compositor has seen of a window.
struct seen {
	unsigned int maximized, fullscreen, minimized, titles;
};

static void count(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	(void)args;
	++*(unsigned int *)data;
}

static const struct wire_op *request(const char *interface, const char *name)
{
	const struct wire_interface *found = wire_schema_find(interface);
	assert_non_null(found);
	for (size_t i = 0; i < found->ops[WIRE_REQUEST].count; i++) {
		if (strcmp(found->ops[WIRE_REQUEST].ops[i].name, name) == 0) {
			return &found->ops[WIRE_REQUEST].ops[i];
		}
	}
	fail_msg("%s has no %s", interface, name);
	return NULL;
}

static struct world *create_world(struct seen *seen)
{
	struct world *world = world_create();
	struct compositor *compositor = world->compositor;
	*seen = (struct seen){0};
	compositor_add_global(compositor, &xdg_wm_base_interface, 3);
	compositor_hook(compositor, "xdg_toplevel", "set_maximized", count, &seen->maximized);
	compositor_hook(compositor, "xdg_toplevel", "set_fullscreen", count, &seen->fullscreen);
	compositor_hook(compositor, "xdg_toplevel", "set_minimized", count, &seen->minimized);
	compositor_hook(compositor, "xdg_toplevel", "set_title", count, &seen->titles);
	return world;
}

struct window {
	struct wl_compositor *compositor;
	struct xdg_wm_base *shell;
	struct wl_surface *surface;
	struct xdg_surface *xdg_surface;
	struct xdg_toplevel *toplevel;
};

static void open_window(struct client *client, struct window *window)
{
	window->compositor = client_bind(client, &wl_compositor_interface, 4);
	window->shell = client_bind(client, &xdg_wm_base_interface, 3);
	window->surface = wl_compositor_create_surface(window->compositor);
	window->xdg_surface = xdg_wm_base_get_xdg_surface(window->shell, window->surface);
	window->toplevel = xdg_surface_get_toplevel(window->xdg_surface);
}

static void close_window(struct window *window)
{
	xdg_toplevel_destroy(window->toplevel);
	xdg_surface_destroy(window->xdg_surface);
	wl_surface_destroy(window->surface);
	xdg_wm_base_destroy(window->shell);
	wl_compositor_destroy(window->compositor);
}

static void expect_end(struct client *client, const char *text)
{
	client_wait_failed(client);
	assert_int_equal(wl_display_get_error(client->display), EPROTO);
	assert_non_null(strstr(client->error, text));
	client_wait_over(client);
	assert_null(client->far);
}

static void a_denied_request_ends_its_session_and_no_other(void **state)
{
	(void)state;
	struct seen seen;
	struct world *world = create_world(&seen);
	const struct denied_request denied[] = {
		{.op = request("xdg_toplevel", "set_fullscreen")},
	};
	const struct pair_options options = {.denied = denied, .n_denied = 1};
	struct window window, other_window;
	struct client *client = client_create(world, &options);
	struct client *other = client_create(world, &options);
	open_window(client, &window);
	open_window(other, &other_window);
	xdg_toplevel_set_maximized(window.toplevel);
	xdg_toplevel_set_fullscreen(window.toplevel, NULL);
	xdg_toplevel_set_minimized(window.toplevel);
	char text[128];
	snprintf(text, sizeof(text), "xdg_toplevel#%u.set_fullscreen: denied by the host's policy",
		wl_proxy_get_id((struct wl_proxy *)window.toplevel));
	expect_end(client, text);
	assert_int_equal(seen.fullscreen, 0);
	assert_int_equal(seen.minimized, 0);
	xdg_toplevel_set_maximized(other_window.toplevel);
	client_roundtrip(other);
	assert_true(seen.maximized >= 1);
	close_window(&window);
	close_window(&other_window);
	client_roundtrip(other);
	world_destroy(world);
}

static void a_request_that_makes_an_object_can_be_denied(void **state)
{
	(void)state;
	struct seen seen;
	struct world *world = create_world(&seen);
	const struct denied_request denied[] = {
		{.op = request("xdg_wm_base", "create_positioner")},
	};
	const struct pair_options options = {.denied = denied, .n_denied = 1};
	struct client *client = client_create(world, &options);
	struct xdg_wm_base *shell = client_bind(client, &xdg_wm_base_interface, 3);
	struct xdg_positioner *positioner = xdg_wm_base_create_positioner(shell);
	char text[128];
	snprintf(text, sizeof(text),
		"xdg_wm_base#%u.create_positioner: denied by the host's policy",
		wl_proxy_get_id((struct wl_proxy *)shell));
	expect_end(client, text);
	xdg_positioner_destroy(positioner);
	xdg_wm_base_destroy(shell);
	world_destroy(world);
}

static void an_ignored_request_is_left_out_and_its_neighbours_are_not(void **state)
{
	(void)state;
	struct seen seen;
	struct world *world = create_world(&seen);
	const struct denied_request denied[] = {
		{.op = request("xdg_toplevel", "set_fullscreen"), .ignored = true},
		{.op = request("xdg_toplevel", "set_title"), .ignored = true},
	};
	// A prefix does not bring the title back.
	const struct pair_options options = {
		.denied = denied, .n_denied = 2, .title_prefix = "[vm] "};
	struct window window;
	struct client *client = client_create(world, &options);
	open_window(client, &window);
	for (int i = 0; i < 100; i++) {
		xdg_toplevel_set_fullscreen(window.toplevel, NULL);
		xdg_toplevel_set_maximized(window.toplevel);
		xdg_toplevel_set_title(window.toplevel, "a title");
		xdg_toplevel_set_minimized(window.toplevel);
		xdg_toplevel_set_fullscreen(window.toplevel, NULL);
	}
	client_roundtrip(client);
	assert_int_equal(seen.fullscreen, 0);
	assert_int_equal(seen.titles, 0);
	assert_int_equal(seen.maximized, 100);
	assert_int_equal(seen.minimized, 100);
	close_window(&window);
	client_roundtrip(client);
	world_destroy(world);
}

static void of_two_rules_the_later_one_counts(void **state)
{
	(void)state;
	struct seen seen;
	struct world *world = create_world(&seen);
	const struct denied_request denied[] = {
		{.op = request("xdg_toplevel", "set_fullscreen")},
		{.op = request("xdg_toplevel", "set_fullscreen"), .ignored = true},
	};
	const struct pair_options options = {.denied = denied, .n_denied = 2};
	struct window window;
	struct client *client = client_create(world, &options);
	open_window(client, &window);
	xdg_toplevel_set_fullscreen(window.toplevel, NULL);
	client_roundtrip(client);
	assert_int_equal(seen.fullscreen, 0);
	close_window(&window);
	client_roundtrip(client);
	world_destroy(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_denied_request_ends_its_session_and_no_other),
		fd_count_test(a_request_that_makes_an_object_can_be_denied),
		fd_count_test(an_ignored_request_is_left_out_and_its_neighbours_are_not),
		fd_count_test(of_two_rules_the_later_one_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
