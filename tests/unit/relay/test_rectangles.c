#include "relay/hooks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "tests/support/fd_count.h"

#define PLENTY (UINT64_C(1) << 30)

static struct wayland wayland;
static struct fdrefs refs;
static struct budget budget;
static struct object object; // that requests are sent to
static struct wayland_call call;
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
	budget = (struct budget){0};
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		budget.limits.most[i] = PLENTY;
	}
	refs = (struct fdrefs){.budget = &budget};
	wayland = (struct wayland){.options = {.refs = &refs, .failed = handle_failed}};
	object = (struct object){0};
	failed = false;
	return fd_count_setup(state);
}

static void destroy_object(void)
{
	if (object.state != NULL) {
		object.state->destroy(object.state);
		object.state = NULL;
	}
}

static int teardown(void **state)
{
	destroy_object();
	wire_schema_finish();
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		assert_int_equal(budget.used[i], 0);
	}
	return fd_count_teardown(state);
}

// Of four numbers, or none; they are seen in call.message.args.
static enum wayland_verdict import(wayland_hook_func func, const char *interface, int32_t x,
	int32_t y, int32_t width, int32_t height)
{
	static const struct wire_op op = {.name = "request"};
	static uint32_t words[4];
	memcpy(words, (const int32_t[]){x, y, width, height}, sizeof(words));
	object.interface = wire_schema_find(interface);
	assert_non_null(object.interface);
	call = (struct wayland_call){.wayland = &wayland, .object = &object};
	call.message.op = &op;
	for (size_t i = 0; i < 4; i++) {
		call.message.args[i] = (struct wire_arg){.word = &words[i], .value = words[i]};
	}
	return func(&call);
}

static enum wayland_verdict add(int32_t x, int32_t y, int32_t width, int32_t height)
{
	return import(rectangles_import_add, "wl_region", x, y, width, height);
}

static enum wayland_verdict subtract(int32_t x, int32_t y, int32_t width, int32_t height)
{
	return import(rectangles_import_subtract, "wl_region", x, y, width, height);
}

/* ---- regions ---- */

static void a_region_may_have_4096_rectangles(void **state)
{
	(void)state;
	for (int32_t i = 0; i < 4096; i++) {
		assert_int_equal(add(2 * (i % 64), 2 * (i / 64), 1, 1), WAYLAND_FORWARD);
	}
	assert_int_equal(add(0, 0, 1, 1), WAYLAND_FORWARD); // is there
	assert_int_equal(add(0, 1000, 1, 1), WAYLAND_FAIL);
	assert_true(failed);
}

static void rectangles_that_become_one_count_as_one(void **state)
{
	(void)state;
	for (int32_t i = 0; i < 10000; i++) {
		assert_int_equal(add(i, 0, 1, 1), WAYLAND_FORWARD);
	}
	assert_true(budget.used[BUDGET_MEMORY] < 100);
}

static void what_is_subtracted_may_make_more_of_them(void **state)
{
	(void)state;
	enum wayland_verdict verdict = WAYLAND_FORWARD;
	for (int32_t i = 0; i < 100; i++) {
		assert_int_equal(add(0, 2 * i, 1000, 1), WAYLAND_FORWARD);
	}
	int32_t n = 0;
	for (; n < 100 && verdict == WAYLAND_FORWARD; n++) {
		verdict = subtract(2 * n + 1, 0, 1, 1000);
	}
	assert_int_equal(verdict, WAYLAND_FAIL);
	assert_int_equal(n, 40); // of 100 rows with 41 pieces each
}

static void odd_rectangles_do_no_harm(void **state)
{
	(void)state;
	static const int32_t odd[] = {0, 1, -1, INT32_MAX, INT32_MIN, INT32_MIN + 1};
	const size_t n = sizeof(odd) / sizeof(odd[0]);
	for (size_t i = 0; i < n * n * n; i++) {
		int32_t a = odd[i % n], b = odd[i / n % n], c = odd[i / n / n];
		assert_int_equal(add(a, b, c, a), WAYLAND_FORWARD);
		assert_int_equal(subtract(b, c, a, b), WAYLAND_FORWARD);
	}
}

static void rectangles_are_charged_while_they_are_there(void **state)
{
	(void)state;
	for (int32_t i = 0; i < 1000; i++) {
		assert_int_equal(add(2 * i, 0, 1, 1), WAYLAND_FORWARD);
	}
	assert_int_equal(budget.used[BUDGET_MEMORY], 16000);
	destroy_object();
	assert_int_equal(budget.used[BUDGET_MEMORY], 0);
	budget.limits.most[BUDGET_MEMORY] = 100;
	assert_int_equal(add(0, 0, 1, 1), WAYLAND_FORWARD);
	for (int32_t i = 1; i < 7; i++) {
		assert_int_equal(add(2 * i, 0, 1, 1), i < 6 ? WAYLAND_FORWARD : WAYLAND_FAIL);
	}
}

static void a_change_of_many_rectangles_takes_of_the_rate(void **state)
{
	(void)state;
	for (int32_t i = 0; i < 1280; i++) {
		assert_int_equal(add(2 * i, 0, 1, 1), WAYLAND_FORWARD);
	}
	budget.limits.rate = 1;
	budget.limits.burst = 100;
	enum wayland_verdict verdict = WAYLAND_FORWARD;
	int n = 0;
	for (; n < 1000 && verdict == WAYLAND_FORWARD; n++) {
		verdict = add(0, 0, 1, 1); // adds nothing, and takes as long
	}
	assert_int_equal(verdict, WAYLAND_FAIL);
	assert_in_range(n, 10, 900);
	assert_non_null(strstr(budget_exceeded(&budget), "--max-rate"));
}

/* ---- damage ---- */

static enum wayland_verdict damage(int32_t x, int32_t y)
{
	return import(rectangles_import_damage, "wl_surface", x, y, 1, 1);
}

static void commit(void)
{
	assert_int_equal(
		import(rectangles_import_commit, "wl_surface", 0, 0, 0, 0), WAYLAND_FORWARD);
}

static void expect_words(int32_t x, int32_t y, int32_t width, int32_t height)
{
	const int32_t expected[] = {x, y, width, height};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal((int32_t)*call.message.args[i].word, expected[i]);
	}
}

static void damage_a_little(void)
{
	for (int32_t i = 0; i < 128; i++) {
		assert_int_equal(damage(i, 5), WAYLAND_FORWARD);
		expect_words(i, 5, 1, 1);
	}
}

static void expect_whole(void)
{
	assert_int_equal(damage(3, 4), WAYLAND_FORWARD);
	expect_words(0, 0, INT32_MAX, INT32_MAX);
	for (int32_t i = 0; i < 1000; i++) {
		assert_int_equal(damage(i, 5), WAYLAND_DROP);
	}
}

static void much_damage_becomes_all_of_the_surface(void **state)
{
	(void)state;
	damage_a_little();
	expect_whole();
	commit();
	damage_a_little();
	expect_whole();
	assert_false(failed);
}

static void damage_of_many_commits_stays_as_it_is(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++) {
		damage_a_little();
		commit();
	}
}

/* ---- surfaces and sub-surfaces ---- */

// An object that has that id, which is the next one.
static void make(uint32_t id, const char *interface)
{
	const struct wire_interface *found = wire_schema_find(interface);
	assert_non_null(found);
	assert_null(objects_insert(&wayland.objects, id, found, 4));
}

static void destroy(uint32_t id)
{
	objects_mark_destroyed(objects_get(&wayland.objects, id));
	objects_remove(&wayland.objects, id);
}

static const struct wire_op *find_op(const struct object *of, const char *name)
{
	const struct wire_ops *ops = &of->interface->ops[WIRE_REQUEST];
	for (size_t i = 0; i < ops->count; i++) {
		if (strcmp(ops->ops[i].name, name) == 0) {
			return &ops->ops[i];
		}
	}
	fail_msg("no request %s", name);
	return NULL;
}

// A request of the object, with its hook.
static enum wayland_verdict request(uint32_t id, const char *name, const uint32_t args[3])
{
	call = (struct wayland_call){
		.wayland = &wayland, .object = objects_get(&wayland.objects, id)};
	assert_non_null(call.object);
	call.message.op = find_op(call.object, name);
	call.message.header.object = id;
	for (size_t i = 0; args != NULL && i < 3; i++) {
		call.message.args[i].value = args[i];
	}
	const struct wayland_hook *hook = call.message.op->hook;
	assert_non_null(hook);
	assert_non_null(hook->on_import);
	return hook->on_import(&call);
}

static int setup_objects(void **state)
{
	int error = setup(state);
	hooks_init();
	assert_true(objects_init(&wayland.objects, &budget));
	make(2, "wl_subcompositor");
	return error;
}

static int teardown_objects(void **state)
{
	objects_finish(&wayland.objects);
	return teardown(state);
}

// The wl_subsurface's id is the next one.
static enum wayland_verdict join(uint32_t id, uint32_t surface, uint32_t parent)
{
	make(id, "wl_subsurface");
	return request(2, "get_subsurface", (const uint32_t[]){id, surface, parent});
}

#define SECOND UINT64_C(1000000000)
#define LATER  (500000000 * SECOND) // than any time that this machine is up

// So many messages.
static uint64_t taken_by(uint32_t id, const char *name, const uint32_t args[3])
{
	budget.limits.rate = 1;
	budget.limits.burst = 1000000000;
	budget.messages_until = LATER;
	assert_int_equal(request(id, name, args), WAYLAND_FORWARD);
	return (budget.messages_until - LATER) / SECOND;
}

static void damage_of_a_sub_surface_adds_up_over_its_commits(void **state)
{
	(void)state;
	make(3, "wl_surface");
	make(4, "wl_surface");
	assert_int_equal(join(5, 4, 3), WAYLAND_FORWARD);
	object.state = objects_get(&wayland.objects, 4)->state;
	for (int i = 0; i < 3; i++) {
		for (int32_t j = 0; j < 128; j++) {
			assert_int_equal(damage(j, 5), WAYLAND_FORWARD);
			expect_words(j, 5, 1, 1);
			commit();
		}
		expect_whole();
		commit();
	}
	object.state = NULL;
}

static void fill_region(uint32_t id, uint32_t n)
{
	make(id, "wl_region");
	object = *objects_get(&wayland.objects, id);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(add(2 * (int32_t)i, 0, 1, 1), WAYLAND_FORWARD);
	}
	objects_get(&wayland.objects, id)->state = object.state;
	object.state = NULL;
}

static void a_region_that_is_copied_takes_of_the_rate(void **state)
{
	(void)state;
	fill_region(3, 1280);
	make(4, "wl_surface");
	make(5, "zwp_pointer_constraints_v1");
	make(6, "zwp_confined_pointer_v1");
	const uint32_t region[3] = {3};
	const uint32_t none[3] = {0};
	assert_int_equal(taken_by(4, "set_input_region", none), 0);
	assert_int_equal(taken_by(4, "commit", NULL), 0);
	assert_int_equal(taken_by(4, "set_input_region", region), 10);
	assert_int_equal(taken_by(4, "commit", NULL), 10);
	assert_int_equal(taken_by(4, "set_opaque_region", region), 10);
	assert_int_equal(taken_by(4, "commit", NULL), 20);
	assert_int_equal(taken_by(6, "set_region", region), 10);
	destroy(3);
	assert_int_equal(taken_by(4, "commit", NULL), 20); // has copies
	assert_int_equal(taken_by(4, "set_input_region", none), 0);
	assert_int_equal(taken_by(4, "commit", NULL), 10);
}

static void a_commit_takes_of_the_rate_what_is_below_it(void **state)
{
	(void)state;
	make(3, "wl_surface");
	for (uint32_t i = 0; i < 100; i++) {
		make(4 + 2 * i, "wl_surface");
		// Ten have nine of their own.
		uint32_t parent = i % 10 == 0 ? 3 : 4 + 2 * (i - i % 10);
		assert_int_equal(join(5 + 2 * i, 4 + 2 * i, parent), WAYLAND_FORWARD);
	}
	assert_int_equal(taken_by(3, "commit", NULL), 100);
	assert_int_equal(taken_by(4, "commit", NULL), 9);
	assert_int_equal(taken_by(6, "commit", NULL), 0);
	const uint32_t sibling[3] = {4 + 20};
	assert_int_equal(taken_by(5, "place_above", sibling), 100);
	assert_int_equal(taken_by(5, "place_below", sibling), 100);
	assert_int_equal(taken_by(5, "set_desync", NULL), 9);
	assert_int_equal(taken_by(7, "set_desync", NULL), 0);
	destroy(4); // the parent of nine
	assert_int_equal(taken_by(3, "commit", NULL), 90);
	destroy(25); // the role of a parent of nine
	assert_int_equal(taken_by(3, "commit", NULL), 80);
	assert_int_equal(taken_by(24, "commit", NULL), 9);
	assert_int_equal(join(4, 24, 44), WAYLAND_FORWARD); // and back, one deeper
	assert_int_equal(taken_by(3, "commit", NULL), 90);
	assert_int_equal(taken_by(44, "commit", NULL), 19);
	destroy(3);
	assert_int_equal(taken_by(44, "commit", NULL), 19);
}

static void sub_surfaces_are_at_most_64_deep(void **state)
{
	(void)state;
	make(3, "wl_surface");
	for (uint32_t i = 0; i < 64; i++) {
		make(4 + 2 * i, "wl_surface");
		assert_int_equal(
			join(5 + 2 * i, 4 + 2 * i, i == 0 ? 3 : 2 + 2 * i), WAYLAND_FORWARD);
	}
	make(132, "wl_surface");
	assert_int_equal(join(133, 132, 2 + 2 * 63), WAYLAND_FORWARD); // a sibling
	make(134, "wl_surface");
	assert_int_equal(join(135, 134, 132), WAYLAND_FAIL);
	assert_true(failed);
}

static void a_tree_that_is_put_below_another_counts_as_deep_as_it_is(void **state)
{
	(void)state;
	// Each new surface is the parent of what was there.
	make(3, "wl_surface");
	for (uint32_t i = 0; i < 64; i++) {
		make(4 + 2 * i, "wl_surface");
		assert_int_equal(
			join(5 + 2 * i, i == 0 ? 3 : 2 + 2 * i, 4 + 2 * i), WAYLAND_FORWARD);
	}
	make(132, "wl_surface");
	assert_int_equal(join(133, 2 + 2 * 64, 132), WAYLAND_FAIL);
}

static void a_surface_whose_parent_has_gone_may_have_another_one(void **state)
{
	(void)state;
	for (uint32_t id = 3; id < 6; id++) {
		make(id, "wl_surface");
	}
	assert_int_equal(join(6, 3, 4), WAYLAND_FORWARD);
	destroy(4);
	assert_int_equal(join(4, 3, 5), WAYLAND_FORWARD);
	assert_int_equal(taken_by(5, "commit", NULL), 1);
	destroy(6);
	assert_int_equal(taken_by(5, "commit", NULL), 1);
	destroy(4);
	assert_int_equal(taken_by(5, "commit", NULL), 0);
}

static void what_a_compositor_rejects_makes_no_tree(void **state)
{
	(void)state;
	for (uint32_t id = 3; id < 6; id++) {
		make(id, "wl_surface");
	}
	assert_int_equal(join(6, 3, 3), WAYLAND_FORWARD); // of itself
	assert_int_equal(join(7, 4, 3), WAYLAND_FORWARD);
	assert_int_equal(join(8, 5, 4), WAYLAND_FORWARD);
	assert_int_equal(join(9, 3, 5), WAYLAND_FORWARD);  // in a circle
	assert_int_equal(join(10, 5, 3), WAYLAND_FORWARD); // twice
	assert_int_equal(join(11, 4, 999), WAYLAND_FORWARD);
	assert_int_equal(join(12, 4, 2), WAYLAND_FORWARD);
	assert_int_equal(request(6, "place_above", NULL), WAYLAND_FORWARD);
	assert_int_equal(taken_by(3, "commit", NULL), 2);
	assert_int_equal(taken_by(5, "commit", NULL), 0);
}

int main(void)
{
#define rectangles_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define surface_test(name)    cmocka_unit_test_setup_teardown(name, setup_objects, teardown_objects)
	const struct CMUnitTest tests[] = {
		rectangles_test(a_region_may_have_4096_rectangles),
		rectangles_test(rectangles_that_become_one_count_as_one),
		rectangles_test(what_is_subtracted_may_make_more_of_them),
		rectangles_test(odd_rectangles_do_no_harm),
		rectangles_test(rectangles_are_charged_while_they_are_there),
		rectangles_test(a_change_of_many_rectangles_takes_of_the_rate),
		rectangles_test(much_damage_becomes_all_of_the_surface),
		rectangles_test(damage_of_many_commits_stays_as_it_is),
		surface_test(damage_of_a_sub_surface_adds_up_over_its_commits),
		surface_test(a_region_that_is_copied_takes_of_the_rate),
		surface_test(a_commit_takes_of_the_rate_what_is_below_it),
		surface_test(sub_surfaces_are_at_most_64_deep),
		surface_test(a_tree_that_is_put_below_another_counts_as_deep_as_it_is),
		surface_test(a_surface_whose_parent_has_gone_may_have_another_one),
		surface_test(what_a_compositor_rejects_makes_no_tree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
