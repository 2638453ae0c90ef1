#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "tests/support/fd_count.h"

#define SECOND UINT64_C(1000000000)
#define LATER  (500000000 * SECOND) // than any time that this machine is up

#define GET_REGISTRY 1 // of wl_display
#define BIND         0 // of wl_registry
#define GLOBAL       0 // likewise, an event

static struct budget budget;
static struct fdrefs refs;
static struct wayland wayland;
static bool failed;

static void handle_failed(void *data, uint32_t code, const char *text)
{
	(void)data;
	(void)code;
	(void)text;
	failed = true;
}

static int setup(void **state)
{
	hooks_init();
	budget = (struct budget){
		.limits = {.rate = 1, .burst = 1000000000},
		.messages_until = LATER,
	};
	refs = (struct fdrefs){.budget = &budget};
	wayland = (struct wayland){.options = {.refs = &refs, .failed = handle_failed}};
	failed = false;
	wl_array_init(&wayland.globals);
	return fd_count_setup(state);
}

static int teardown(void **state)
{
	wl_array_release(&wayland.globals);
	wire_schema_finish();
	return fd_count_teardown(state);
}

static const struct wayland_hook *find_hook(struct object *object, const char *interface,
	enum wire_direction direction, uint32_t opcode)
{
	*object = (struct object){.interface = wire_schema_find(interface)};
	assert_non_null(object->interface);
	return object->interface->ops[direction].ops[opcode].hook;
}

// A global of the compositor's, number 7.
static void tell_of_shm(void)
{
	static uint32_t version = 1;
	struct object registry;
	const struct wayland_hook *hook = find_hook(&registry, "wl_registry", WIRE_EVENT, GLOBAL);
	struct wayland_call call = {
		.wayland = &wayland,
		.direction = WIRE_EVENT,
		.object = &registry,
		.message.args = {{.value = 7}, {.string = "wl_shm"},
			{.word = &version, .value = version}},
	};
	assert_int_equal(hook->on_export(&call), WAYLAND_FORWARD);
}

static enum wayland_verdict bind(const struct wayland_hook *hook, wayland_hook_func func)
{
	static const struct wire_op op = {.name = "bind"};
	struct object registry = {.interface = wire_schema_find("wl_registry")};
	struct wayland_call call = {
		.wayland = &wayland,
		.object = &registry,
		.message = {.op = &op,
			.args = {{.value = 7}, {.string = "wl_shm", .version = 1, .value = 3}}},
	};
	assert_non_null(hook);
	return func(&call);
}

static uint64_t taken(void)
{
	return (budget.messages_until - LATER) / SECOND;
}

static void who_asks_for_all_globals_takes_of_the_rate(void **state)
{
	(void)state;
	struct object display;
	const struct wayland_hook *hook =
		find_hook(&display, "wl_display", WIRE_REQUEST, GET_REGISTRY);
	struct wayland_call call = {.wayland = &wayland, .object = &display};
	assert_int_equal(hook->on_import(&call), WAYLAND_FORWARD);
	assert_int_equal(taken(), 32);
}

static void a_bind_takes_of_the_rate_where_it_is_imported(void **state)
{
	(void)state;
	struct object registry;
	tell_of_shm();
	const struct wayland_hook *hook = find_hook(&registry, "wl_registry", WIRE_REQUEST, BIND);
	assert_int_equal(bind(hook, hook->on_export), WAYLAND_FORWARD);
	assert_int_equal(taken(), 0);
	for (uint64_t i = 1; i < 10; i++) {
		assert_int_equal(bind(hook, hook->on_import), WAYLAND_FORWARD);
		assert_int_equal(taken(), i * 32);
	}
	budget.limits.burst = 1;
	assert_int_equal(bind(hook, hook->on_import), WAYLAND_FAIL);
	assert_true(failed);
	assert_non_null(strstr(budget_exceeded(&budget), "--max-rate"));
}

int main(void)
{
#define registry_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		registry_test(who_asks_for_all_globals_takes_of_the_rate),
		registry_test(a_bind_takes_of_the_rate_where_it_is_imported),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
