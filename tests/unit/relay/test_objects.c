#include "relay/objects.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "tests/support/fd_count.h"
#include "wire/message.h"
#include "wire/schema.h"

static const char skips[] = "a new id that skips others";
static const char in_use[] = "a new id that is in use";

struct counted {
	struct object_state state;
	unsigned int *destroyed;
};

static void destroy_counted(struct object_state *state)
{
	struct counted *counted = (struct counted *)state;
	(*counted->destroyed)++;
	free(counted);
}

static struct object_state *new_state(unsigned int *destroyed)
{
	struct counted *counted = calloc(1, sizeof(*counted));
	counted->state.destroy = destroy_counted;
	counted->destroyed = destroyed;
	return &counted->state;
}

static const char *insert(struct objects *objects, uint32_t id)
{
	return objects_insert(objects, id, wire_schema_find("wl_surface"), 4);
}

static bool start(struct objects *objects, uint64_t most)
{
	static struct budget budget;
	budget = (struct budget){.limits.most[BUDGET_OBJECTS] = most};
	return objects_init(objects, &budget);
}

static void finish(struct objects *objects)
{
	objects_finish(objects);
	assert_int_equal(objects->budget->used[BUDGET_OBJECTS], 0);
}

static void object_1_is_the_display(void **state)
{
	(void)state;
	struct objects objects;
	assert_true(start(&objects, 100));
	assert_string_equal(objects_get(&objects, 1)->interface->name, "wl_display");
	assert_null(objects_get(&objects, 0));
	assert_string_equal(insert(&objects, 1), in_use);
	objects_remove(&objects, 1);
	assert_non_null(objects_get(&objects, 1));
	finish(&objects);
	wire_schema_finish();
}

static void what_was_never_made_is_nothing(void **state)
{
	(void)state;
	static const uint32_t ids[] = {0, 2, 64, 0x7fffffff, WIRE_SERVER_ID_MIN - 1,
		WIRE_SERVER_ID_MIN, WIRE_SERVER_ID_MIN + 1, UINT32_MAX};
	struct objects objects;
	assert_true(start(&objects, 100));
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		assert_null(objects_get(&objects, ids[i]));
		objects_remove(&objects, ids[i]);
	}
	finish(&objects);
	wire_schema_finish();
}

static void ids_are_given_out_densely_in_both_ranges(void **state)
{
	(void)state;
	struct objects objects;
	assert_true(start(&objects, 1000));
	assert_string_equal(insert(&objects, 0), skips);
	for (uint32_t i = 0; i < 200; i++) {
		assert_string_equal(insert(&objects, 2 + i + 1), skips);
		assert_null(insert(&objects, 2 + i));
		assert_string_equal(insert(&objects, WIRE_SERVER_ID_MIN + i + 1), skips);
		assert_null(insert(&objects, WIRE_SERVER_ID_MIN + i));
	}
	assert_string_equal(insert(&objects, WIRE_SERVER_ID_MIN - 1), skips);
	assert_string_equal(insert(&objects, UINT32_MAX), skips);
	for (uint32_t i = 0; i < 200; i++) {
		assert_int_equal(objects_get(&objects, 2 + i)->version, 4);
		assert_string_equal(objects_get(&objects, WIRE_SERVER_ID_MIN + i)->interface->name,
			"wl_surface");
	}
	finish(&objects);
	wire_schema_finish();
}

static void a_clients_id_is_free_again_after_delete_id_only(void **state)
{
	(void)state;
	unsigned int destroyed = 0;
	struct objects objects;
	assert_true(start(&objects, 100));
	assert_null(insert(&objects, 2));
	assert_null(insert(&objects, 3));
	objects_get(&objects, 2)->state = new_state(&destroyed);
	assert_string_equal(insert(&objects, 2), in_use);

	objects_mark_destroyed(objects_get(&objects, 2));
	assert_int_equal(destroyed, 1);
	const struct object *object = objects_get(&objects, 2); // its late events have a type
	assert_true(object->destroyed);
	assert_string_equal(object->interface->name, "wl_surface");
	assert_string_equal(insert(&objects, 2), in_use);

	objects_remove(&objects, 2);
	assert_null(objects_get(&objects, 2));
	assert_int_equal(destroyed, 1);
	objects_remove(&objects, 2);
	assert_null(objects_insert(&objects, 2, wire_schema_find("wl_seat"), 1));
	object = objects_get(&objects, 2);
	assert_false(object->destroyed);
	assert_null(object->state);
	assert_string_equal(object->interface->name, "wl_seat");
	finish(&objects);
	wire_schema_finish();
}

static void a_servers_id_keeps_its_object_until_it_is_given_out_again(void **state)
{
	(void)state;
	unsigned int destroyed = 0;
	struct objects objects;
	assert_true(start(&objects, 100));
	assert_null(insert(&objects, WIRE_SERVER_ID_MIN));
	objects_get(&objects, WIRE_SERVER_ID_MIN)->state = new_state(&destroyed);
	assert_null(
		objects_insert(&objects, WIRE_SERVER_ID_MIN, wire_schema_find("wl_data_offer"), 3));
	assert_int_equal(destroyed, 1);
	assert_string_equal(
		objects_get(&objects, WIRE_SERVER_ID_MIN)->interface->name, "wl_data_offer");
	finish(&objects);
	wire_schema_finish();
}

static void objects_are_limited_and_freed_ids_count_once(void **state)
{
	(void)state;
	struct objects objects;
	assert_true(start(&objects, 9)); // with the display
	uint32_t made = 0;
	while (insert(&objects, 2 + made) == NULL) {
		made++;
	}
	assert_int_equal(made, 8);
	assert_string_equal(insert(&objects, 2 + made), "more objects than the session may have");
	assert_non_null(insert(&objects, WIRE_SERVER_ID_MIN));
	objects_remove(&objects, 5);
	assert_null(insert(&objects, 5));
	assert_non_null(insert(&objects, 2 + made));
	finish(&objects);
	wire_schema_finish();
}

static void states_end_with_the_table(void **state)
{
	(void)state;
	unsigned int destroyed = 0;
	struct objects objects;
	assert_true(start(&objects, 100));
	for (uint32_t i = 0; i < 5; i++) {
		assert_null(insert(&objects, 2 + i));
		objects_get(&objects, 2 + i)->state = new_state(&destroyed);
		assert_null(insert(&objects, WIRE_SERVER_ID_MIN + i));
		objects_get(&objects, WIRE_SERVER_ID_MIN + i)->state = new_state(&destroyed);
	}
	finish(&objects);
	assert_int_equal(destroyed, 10);
	finish(&objects);
	wire_schema_finish();
}

static void an_object_of_an_unknown_type_is_still_an_object(void **state)
{
	(void)state;
	struct objects objects;
	assert_true(start(&objects, 100));
	assert_null(objects_insert(&objects, 2, NULL, 1));
	assert_non_null(objects_get(&objects, 2));
	assert_null(objects_get(&objects, 2)->interface);
	finish(&objects);
	wire_schema_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(object_1_is_the_display),
		fd_count_test(what_was_never_made_is_nothing),
		fd_count_test(ids_are_given_out_densely_in_both_ranges),
		fd_count_test(a_clients_id_is_free_again_after_delete_id_only),
		fd_count_test(a_servers_id_keeps_its_object_until_it_is_given_out_again),
		fd_count_test(objects_are_limited_and_freed_ids_count_once),
		fd_count_test(states_end_with_the_table),
		fd_count_test(an_object_of_an_unknown_type_is_still_an_object),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
