#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "drm-lease-server.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/world.h"

// A protocol that no file describes, and a version of wl_output from the future.
static const struct wl_interface unknown_interface = {.name = "test_unknown", .version = 1};
static struct wl_interface newer_output;

static void add_globals(struct world *world)
{
	newer_output = wl_output_interface;
	newer_output.version = 99;
	compositor_add_global(world->compositor, &wl_seat_interface, 5);
	compositor_add_global(world->compositor, &unknown_interface, 1);
	compositor_add_global(world->compositor, &newer_output, 99);
	compositor_add_global(world->compositor, &wp_drm_lease_device_v1_interface, 1);
	compositor_add_global(world->compositor, &wl_data_device_manager_interface, 2);
}

static void expect_globals(const struct client *client, const char *const *names, size_t n)
{
	assert_int_equal(client->n_globals, n);
	for (size_t i = 0; i < n; i++) {
		assert_string_equal(client->globals[i].interface, names[i]);
	}
}

static void globals_come_in_order_without_what_cannot_cross(void **state)
{
	(void)state;
	static const char *const names[] = {"wl_shm", "wl_compositor", "wl_subcompositor",
		"wp_viewporter", "wl_seat", "wl_output", "wl_data_device_manager"};
	struct world *world = world_create();
	add_globals(world);
	struct client *client = client_create(world, NULL);
	expect_globals(client, names, sizeof(names) / sizeof(names[0]));
	world_destroy(world);
}

static void a_version_is_capped_at_what_is_known(void **state)
{
	(void)state;
	struct world *world = world_create();
	add_globals(world);
	struct client *client = client_create(world, NULL);
	assert_int_equal(client_find(client, "wl_seat")->version, 5);
	assert_int_equal(client_find(client, "wl_output")->version, wl_output_interface.version);
	assert_int_equal(client_find(client, "wl_data_device_manager")->version, 2);
	world_destroy(world);
}

static uint32_t allow_some(void *data, const char *interface, uint32_t version)
{
	(void)data;
	if (strcmp(interface, "wl_seat") == 0) {
		return 3;
	}
	return strcmp(interface, "wl_output") == 0 ? 0 : version;
}

static void the_owner_hides_and_caps_globals(void **state)
{
	(void)state;
	static const char *const names[] = {"wl_shm", "wl_compositor", "wl_subcompositor",
		"wp_viewporter", "wl_seat", "wl_data_device_manager"};
	const struct pair_options options = {.offer_global = allow_some};
	struct world *world = world_create();
	add_globals(world);
	struct client *client = client_create(world, &options);
	expect_globals(client, names, sizeof(names) / sizeof(names[0]));
	assert_int_equal(client_find(client, "wl_seat")->version, 3);
	world_destroy(world);
}

static void a_global_that_comes_and_goes_is_told(void **state)
{
	(void)state;
	struct world *world = world_create();
	struct client *client = client_create(world, NULL);
	struct wl_global *hidden = compositor_add_global(world->compositor, &unknown_interface, 1);
	struct wl_global *output =
		compositor_add_global(world->compositor, &wl_output_interface, 2);
	client_roundtrip(client);
	assert_non_null(client_find(client, "wl_output"));
	size_t n = client->n_globals;
	wl_global_remove(hidden);
	client_roundtrip(client);
	assert_int_equal(client->n_globals, n);
	wl_global_remove(output);
	client_roundtrip(client);
	assert_int_equal(client->n_globals, n - 1);
	assert_null(client_find(client, "wl_output"));
	world_destroy(world);
}

static void two_registries_tell_the_same(void **state)
{
	(void)state;
	struct world *world = world_create();
	add_globals(world);
	struct client *client = client_create(world, NULL);
	struct wl_registry *second = wl_display_get_registry(client->display);
	client_roundtrip(client);
	const struct client_global *seat = client_find(client, "wl_seat");
	struct wl_seat *bound = wl_registry_bind(second, seat->name, &wl_seat_interface, 5);
	client_roundtrip(client);
	wl_seat_destroy(bound);
	wl_registry_destroy(second);
	client_roundtrip(client);
	world_destroy(world);
}

/* A client binds what it was not offered; another one goes on. */
static void expect_refused(uint32_t name, const struct wl_interface *interface, uint32_t version)
{
	struct world *world = world_create();
	add_globals(world);
	struct client *other = client_create(world, NULL);
	struct client *client = client_create(world, NULL);
	void *bound = wl_registry_bind(client->registry, name, interface, version);
	client_wait_failed(client);
	assert_int_equal(wl_display_get_error(client->display), EINVAL); // an invalid object
	assert_non_null(strstr(client->error, "never offered") != NULL
			? strstr(client->error, "never offered")
			: strstr(client->error, "another interface"));
	client_wait_over(client);
	assert_null(client->far);
	client_roundtrip(other);
	wl_proxy_destroy(bound);
	world_destroy(world);
}

static void binding_what_was_never_offered_is_a_protocol_error(void **state)
{
	(void)state;
	enum { SEAT = 5, UNKNOWN, OUTPUT, LEASE };
	expect_refused(4711, &wl_seat_interface, 1);
	expect_refused(0, &wl_seat_interface, 1);
	expect_refused(UNKNOWN, &unknown_interface, 1);
	expect_refused(LEASE, &wp_drm_lease_device_v1_interface, 1);
	expect_refused(SEAT, &wl_output_interface, 1);
	expect_refused(SEAT, &wl_seat_interface, 6);
	expect_refused(OUTPUT, &newer_output, 99);
}

static void a_hundred_round_trips_come_back(void **state)
{
	(void)state;
	struct world *world = world_create();
	struct client *clients[4];
	for (size_t i = 0; i < 4; i++) {
		clients[i] = client_create(world, NULL);
	}
	for (size_t i = 0; i < 100; i++) {
		client_roundtrip(clients[i % 4]);
	}
	world_destroy(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(globals_come_in_order_without_what_cannot_cross),
		fd_count_test(a_version_is_capped_at_what_is_known),
		fd_count_test(the_owner_hides_and_caps_globals),
		fd_count_test(a_global_that_comes_and_goes_is_told),
		fd_count_test(two_registries_tell_the_same),
		fd_count_test(binding_what_was_never_offered_is_a_protocol_error),
		fd_count_test(a_hundred_round_trips_come_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
