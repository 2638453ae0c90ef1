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

static void damage_of_a_sub_surface_adds_up_over_its_commits(void **state)
{
	(void)state;
	assert_true(objects_init(&wayland.objects, &budget));
	struct object subcompositor = {.interface = wire_schema_find("wl_subcompositor")};
	assert_null(objects_insert(&wayland.objects, 2, wire_schema_find("wl_surface"), 1));
	call = (struct wayland_call){.wayland = &wayland, .object = &subcompositor};
	call.message.args[1].value = 2;
	assert_int_equal(rectangles_import_subsurface(&call), WAYLAND_FORWARD);
	object.state = objects_get(&wayland.objects, 2)->state;
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
	objects_finish(&wayland.objects);
}

int main(void)
{
#define rectangles_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		rectangles_test(a_region_may_have_4096_rectangles),
		rectangles_test(rectangles_that_become_one_count_as_one),
		rectangles_test(what_is_subtracted_may_make_more_of_them),
		rectangles_test(odd_rectangles_do_no_harm),
		rectangles_test(rectangles_are_charged_while_they_are_there),
		rectangles_test(a_change_of_many_rectangles_takes_of_the_rate),
		rectangles_test(much_damage_becomes_all_of_the_surface),
		rectangles_test(damage_of_many_commits_stays_as_it_is),
		rectangles_test(damage_of_a_sub_surface_adds_up_over_its_commits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
