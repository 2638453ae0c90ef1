#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "tests/support/fd_count.h"

static struct budget budget;
static struct fdrefs refs;
static struct wayland wayland;
static struct object object;
static bool failed;

static void handle_failed(void *data, uint32_t code, const char *text)
{
	(void)data;
	(void)code;
	(void)text;
	failed = true;
}

static int teardown(void **state)
{
	if (object.state != NULL) {
		object.state->destroy(object.state);
	}
	object = (struct object){0};
	assert_int_equal(budget.used[BUDGET_MEMORY], 0);
	wire_schema_finish();
	return fd_count_teardown(state);
}

static int setup(void **state)
{
	hooks_init();
	budget = (struct budget){.limits.most[BUDGET_MEMORY] = 1 << 20};
	refs = (struct fdrefs){.budget = &budget};
	wayland = (struct wayland){.options = {.refs = &refs, .failed = handle_failed}};
	failed = false;
	object = (struct object){0};
	return fd_count_setup(state);
}

static enum wayland_verdict offer(const char *interface, uint32_t size)
{
	object.interface = wire_schema_find(interface);
	assert_non_null(object.interface);
	const struct wire_op *op = &object.interface->ops[WIRE_REQUEST].ops[0];
	assert_string_equal(op->name, "offer");
	const struct wayland_hook *hook = op->hook;
	assert_non_null(hook);
	assert_non_null(hook->on_import);
	assert_null(hook->on_export);
	struct wayland_call call = {
		.wayland = &wayland,
		.object = &object,
		.message = {.header = {.size = size}, .op = op},
	};
	return hook->on_import(&call);
}

static void forget_source(void)
{
	object.state->destroy(object.state);
	object.state = NULL;
}

static void of_a_source_512_types_go_on(void **state)
{
	(void)state;
	static const char *const interfaces[] = {
		"wl_data_source",
		"zwp_primary_selection_source_v1",
		"gtk_primary_selection_source",
		"zwlr_data_control_source_v1",
		"ext_data_control_source_v1",
	};
	for (size_t i = 0; i < sizeof(interfaces) / sizeof(interfaces[0]); i++) {
		for (int n = 0; n < 1000; n++) {
			assert_int_equal(
				offer(interfaces[i], 24), n < 512 ? WAYLAND_FORWARD : WAYLAND_DROP);
		}
		forget_source();
	}
}

static void of_a_source_64_kib_of_types_go_on(void **state)
{
	(void)state;
	for (int n = 0; n < 15; n++) {
		assert_int_equal(offer("wl_data_source", 4096), WAYLAND_FORWARD);
	}
	assert_int_equal(offer("wl_data_source", 4100), WAYLAND_DROP);
	assert_int_equal(offer("wl_data_source", 4080), WAYLAND_FORWARD);
	assert_int_equal(offer("wl_data_source", 20), WAYLAND_DROP);
	assert_int_equal(offer("wl_data_source", 16), WAYLAND_FORWARD);
	assert_int_equal(offer("wl_data_source", 16), WAYLAND_DROP);
	forget_source();
	assert_int_equal(offer("wl_data_source", WIRE_MESSAGE_MAX), WAYLAND_FORWARD);
	assert_int_equal(offer("wl_data_source", 16), WAYLAND_DROP);
}

// A session has as many sources as it has objects.
static void what_a_compositor_keeps_of_them_is_charged(void **state)
{
	(void)state;
	budget.limits.most[BUDGET_MEMORY] = 10000;
	assert_int_equal(offer("wl_data_source", 4000), WAYLAND_FORWARD);
	assert_int_equal(offer("wl_data_source", 6000), WAYLAND_FORWARD);
	assert_int_equal(budget.used[BUDGET_MEMORY], 10000);
	assert_int_equal(offer("wl_data_source", 16), WAYLAND_FAIL);
	assert_true(failed);
	assert_non_null(strstr(budget_exceeded(&budget), "--max-memory"));
	forget_source();
	assert_int_equal(budget.used[BUDGET_MEMORY], 0);
}

int main(void)
{
#define offers_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		offers_test(of_a_source_512_types_go_on),
		offers_test(of_a_source_64_kib_of_types_go_on),
		offers_test(what_a_compositor_keeps_of_them_is_charged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
