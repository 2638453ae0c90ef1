#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/world.h"
#include "xdg-shell-client.h"

struct labels {
	char title[4096], app_id[4096];
};

static void take_title(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct labels *labels = data;
	snprintf(labels->title, sizeof(labels->title), "%s", args[0].s);
}

static void take_app_id(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct labels *labels = data;
	snprintf(labels->app_id, sizeof(labels->app_id), "%s", args[0].s);
}

// title and app_id may be NULL: the client does not say them.
static void label_with(const struct pair_options *options, const char *title, const char *app_id,
	struct labels *labels)
{
	struct world *world = world_create();
	*labels = (struct labels){0};
	compositor_add_global(world->compositor, &xdg_wm_base_interface, 3);
	compositor_hook(world->compositor, "xdg_toplevel", "set_title", take_title, labels);
	compositor_hook(world->compositor, "xdg_toplevel", "set_app_id", take_app_id, labels);
	struct client *client = client_create(world, options);
	struct wl_compositor *compositor = client_bind(client, &wl_compositor_interface, 4);
	struct xdg_wm_base *shell = client_bind(client, &xdg_wm_base_interface, 3);
	struct wl_surface *surface = wl_compositor_create_surface(compositor);
	struct xdg_surface *xdg_surface = xdg_wm_base_get_xdg_surface(shell, surface);
	struct xdg_toplevel *toplevel = xdg_surface_get_toplevel(xdg_surface);
	if (title != NULL) {
		xdg_toplevel_set_title(toplevel, title);
	}
	if (app_id != NULL) {
		xdg_toplevel_set_app_id(toplevel, app_id);
	}
	client_roundtrip(client);
	xdg_toplevel_destroy(toplevel);
	xdg_surface_destroy(xdg_surface);
	wl_surface_destroy(surface);
	xdg_wm_base_destroy(shell);
	wl_compositor_destroy(compositor);
	client_roundtrip(client);
	world_destroy(world);
}

static void a_title_and_an_app_id_get_their_prefixes(void **state)
{
	(void)state;
	const struct pair_options options = {.title_prefix = "[vm] ", .app_id_prefix = "vm."};
	struct labels labels;
	label_with(&options, "A title", "org.example.App", &labels);
	assert_string_equal(labels.title, "[vm] A title");
	assert_string_equal(labels.app_id, "vm.org.example.App");
	label_with(&options, "", "", &labels);
	assert_string_equal(labels.title, "[vm] ");
	assert_string_equal(labels.app_id, "vm.");
}

static void without_prefixes_they_are_what_the_client_said(void **state)
{
	(void)state;
	struct labels labels;
	label_with(NULL, "A title", "org.example.App", &labels);
	assert_string_equal(labels.title, "A title");
	assert_string_equal(labels.app_id, "org.example.App");
}

static void a_long_title_keeps_all_of_its_text(void **state)
{
	(void)state;
	const struct pair_options options = {.title_prefix = "[vm] "};
	struct labels labels;
	char title[3001];
	memset(title, 't', sizeof(title) - 1);
	title[sizeof(title) - 1] = '\0';
	label_with(&options, title, "app", &labels);
	assert_int_equal(strlen(labels.title), strlen(title) + strlen("[vm] "));
	assert_string_equal(labels.title + strlen("[vm] "), title);
}

static void a_window_that_says_nothing_has_the_prefixes(void **state)
{
	(void)state;
	const struct pair_options options = {.title_prefix = "[vm] ", .app_id_prefix = "vm."};
	struct labels labels;
	label_with(&options, NULL, NULL, &labels);
	assert_string_equal(labels.title, "[vm] ");
	assert_string_equal(labels.app_id, "vm.");
	label_with(NULL, NULL, NULL, &labels);
	assert_string_equal(labels.title, "");
	assert_string_equal(labels.app_id, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_title_and_an_app_id_get_their_prefixes),
		fd_count_test(without_prefixes_they_are_what_the_client_said),
		fd_count_test(a_window_that_says_nothing_has_the_prefixes),
		fd_count_test(a_long_title_keeps_all_of_its_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
