#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "tests/support/fd_count.h"

#define LIMIT 20

static const struct {
	const char *interface, *request, *makes;
} requests[] = {
	{"zwp_pointer_constraints_v1", "lock_pointer", "zwp_locked_pointer_v1"},
	{"zwp_pointer_constraints_v1", "confine_pointer", "zwp_confined_pointer_v1"},
	{"zwp_keyboard_shortcuts_inhibit_manager_v1", "inhibit_shortcuts",
		"zwp_keyboard_shortcuts_inhibitor_v1"},
	{"zxdg_exporter_v1", "export", "zxdg_exported_v1"},
	{"zxdg_exporter_v2", "export_toplevel", "zxdg_exported_v2"},
};

#define N_REQUESTS (sizeof(requests) / sizeof(requests[0]))

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
		.limits.most = {[BUDGET_OBJECTS] = 1000, [BUDGET_LISTED] = LIMIT},
	};
	refs = (struct fdrefs){.budget = &budget};
	wayland = (struct wayland){.options = {.refs = &refs, .failed = handle_failed}};
	failed = false;
	assert_true(objects_init(&wayland.objects, &budget));
	return fd_count_setup(state);
}

static int teardown(void **state)
{
	objects_finish(&wayland.objects);
	assert_int_equal(budget.used[BUDGET_LISTED], 0);
	wire_schema_finish();
	return fd_count_teardown(state);
}

static const struct wire_op *find_op(const struct wire_interface *interface, const char *name)
{
	const struct wire_ops *ops = &interface->ops[WIRE_REQUEST];
	size_t i = 0;
	while (i < ops->count && strcmp(ops->ops[i].name, name) != 0) {
		i++;
	}
	assert_true(i < ops->count);
	return &ops->ops[i];
}

// By requests[i], whose other arguments name nothing. id is the next one, or free.
static enum wayland_verdict make(size_t i, uint32_t id)
{
	struct object object = {.interface = wire_schema_find(requests[i].interface)};
	assert_non_null(object.interface);
	const struct wire_op *op = find_op(object.interface, requests[i].request);
	const struct wayland_hook *hook = op->hook;
	assert_non_null(hook);
	assert_null(objects_insert(&wayland.objects, id, wire_schema_find(requests[i].makes), 1));
	struct wayland_call call = {
		.wayland = &wayland,
		.object = &object,
		.message = {.op = op, .args = {{.value = id}}},
	};
	return hook->on_import(&call);
}

static void a_session_has_so_many_at_a_time(void **state)
{
	(void)state;
	uint32_t id = 2;
	for (; id < 2 + LIMIT; id++) {
		assert_int_equal(make(id % N_REQUESTS, id), WAYLAND_FORWARD);
	}
	// Those that are gone make room, before their ids are free.
	for (; id < 200; id++) {
		objects_mark_destroyed(objects_get(&wayland.objects, id - LIMIT));
		assert_int_equal(make(id % N_REQUESTS, id), WAYLAND_FORWARD);
	}
	assert_false(failed);
	assert_int_equal(make(0, id), WAYLAND_FAIL);
	assert_true(failed);
	assert_string_equal(budget_exceeded(&budget),
		"over the session's budget of listed objects: 20 (--max-listed)");
}

static void each_takes_of_the_rate_as_there_are_others(void **state)
{
	(void)state;
	budget.limits.most[BUDGET_LISTED] = 1000;
	budget.limits.rate = 1;
	budget.limits.burst = 16 * (1 + 2 + 3); // those before the 64th
	uint32_t id = 2;
	for (; id < 2 + 63; id++) {
		assert_int_equal(make(0, id), WAYLAND_FORWARD);
	}
	assert_int_equal(make(0, id), WAYLAND_FAIL);
	assert_non_null(strstr(budget_exceeded(&budget), "--max-rate"));
}

int main(void)
{
#define listed_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		listed_test(a_session_has_so_many_at_a_time),
		listed_test(each_takes_of_the_rate_as_there_are_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
