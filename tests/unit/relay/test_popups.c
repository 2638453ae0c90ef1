#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "tests/support/fd_count.h"

#define GET_POPUP 2 // of xdg_surface

static struct budget budget;
static struct fdrefs refs;
static struct wayland wayland;
static bool failed;

static void handle_failed(void *data, uint32_t code, const char *text)
{
	(void)data;
	(void)code;
	assert_non_null(strstr(text, "64 popups"));
	failed = true;
}

static int setup(void **state)
{
	hooks_init();
	budget = (struct budget){.limits.most[BUDGET_OBJECTS] = 1000};
	refs = (struct fdrefs){.budget = &budget};
	wayland = (struct wayland){.options = {.refs = &refs, .failed = handle_failed}};
	failed = false;
	assert_true(objects_init(&wayland.objects, &budget));
	return fd_count_setup(state);
}

static int teardown(void **state)
{
	objects_finish(&wayland.objects);
	assert_int_equal(wayland.n_popups, 0);
	wire_schema_finish();
	return fd_count_teardown(state);
}

// Of what is its parent does not matter. id is the next one, or free.
static enum wayland_verdict open_popup(uint32_t id)
{
	struct object surface = {.interface = wire_schema_find("xdg_surface")};
	assert_non_null(surface.interface);
	const struct wire_op *op = &surface.interface->ops[WIRE_REQUEST].ops[GET_POPUP];
	assert_string_equal(op->name, "get_popup");
	const struct wayland_hook *hook = op->hook;
	assert_non_null(hook);
	assert_null(objects_insert(&wayland.objects, id, wire_schema_find("xdg_popup"), 1));
	struct wayland_call call = {
		.wayland = &wayland,
		.object = &surface,
		.message = {.op = op, .args = {{.value = id}}},
	};
	return hook->on_import(&call);
}

static void there_are_64_popups_at_a_time(void **state)
{
	(void)state;
	for (uint32_t id = 2; id < 66; id++) {
		assert_int_equal(open_popup(id), WAYLAND_FORWARD);
	}
	// Those that are closed make room, before their ids are free.
	for (uint32_t id = 66; id < 200; id++) {
		objects_mark_destroyed(objects_get(&wayland.objects, id - 64));
		assert_int_equal(open_popup(id), WAYLAND_FORWARD);
	}
	assert_false(failed);
	assert_int_equal(open_popup(200), WAYLAND_FAIL);
	assert_true(failed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(there_are_64_popups_at_a_time, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
