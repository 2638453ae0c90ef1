#include "wire/schema.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "protocol/wayland/protocol.h"
#include "tests/support/fd_count.h"

static const struct wire_op *find_op(
	const struct wire_interface *interface, enum wire_direction direction, const char *name)
{
	assert_non_null(interface);
	for (size_t i = 0; i < interface->ops[direction].count; i++) {
		if (strcmp(interface->ops[direction].ops[i].name, name) == 0) {
			return &interface->ops[direction].ops[i];
		}
	}
	fail_msg("no %s.%s", interface->name, name);
	return NULL;
}

static int teardown(void **state)
{
	wire_schema_finish();
	return fd_count_teardown(state);
}

static bool load_text(const char *text, char *error, size_t error_len)
{
	char path[] = "/tmp/test-schema-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	bool ok = wire_schema_load(path, error, error_len);
	unlink(path);
	return ok;
}

static void load_good(const char *text)
{
	char error[256] = "";
	if (!load_text(text, error, sizeof(error))) {
		fail_msg("%s", error);
	}
}

static void every_built_in_interface_is_found(void **state)
{
	(void)state;
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		const struct wl_interface *source = protocol_interfaces[i].interface;
		const struct wire_interface *found = wire_schema_find(source->name);
		assert_non_null(found);
		assert_string_equal(found->name, source->name);
		assert_int_equal(found->version, source->version);
		assert_int_equal(found->ops[WIRE_REQUEST].count, source->method_count);
		assert_int_equal(found->ops[WIRE_EVENT].count, source->event_count);
		assert_ptr_equal(wire_schema_find(source->name), found);
		assert_ptr_equal(wire_schema_get(source), found);
		assert_ptr_equal(wire_schema_get(source), found);
	}
}

static void every_fd_message_has_a_kind(void **state)
{
	(void)state;
	size_t n = 0;
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		const struct wire_interface *found =
			wire_schema_find(protocol_interfaces[i].interface->name);
		for (size_t direction = 0; direction < 2; direction++) {
			for (size_t j = 0; j < found->ops[direction].count; j++) {
				const struct wire_op *op = &found->ops[direction].ops[j];
				if (op->n_fds > 0 && !op->fd_kind_known) {
					print_error("%s.%s has no kind\n", found->name, op->name);
				}
				assert_int_equal(op->n_fds > 0, op->fd_kind_known);
				n += op->n_fds > 0;
			}
		}
	}
	assert_true(n >= 20);
}

static void an_unknown_name_is_not_found(void **state)
{
	(void)state;
	assert_null(wire_schema_find("no_such_interface"));
	assert_null(wire_schema_find(""));
	assert_null(wire_schema_find("wl_"));
	assert_null(wire_schema_find("wl_surfaces"));
	assert_null(wire_schema_find("zzzz"));
	struct wl_interface stub = {.name = "no_such_interface"};
	assert_null(wire_schema_get(&stub));
}

static void a_bind_folds_three_arguments_into_one(void **state)
{
	(void)state;
	const struct wire_op *op = find_op(wire_schema_find("wl_registry"), WIRE_REQUEST, "bind");
	assert_int_equal(op->n_args, 2);
	assert_int_equal(op->args[0].type, WIRE_ARG_UINT);
	assert_int_equal(op->args[1].type, WIRE_ARG_ANY_NEW_ID);
	assert_int_equal(op->fixed_size, 0);
	assert_true(op->makes_object);
}

static void arguments_have_types_interfaces_and_nullness(void **state)
{
	(void)state;
	const struct wire_interface *surface = wire_schema_find("wl_surface");
	const struct wire_op *attach = find_op(surface, WIRE_REQUEST, "attach");
	assert_int_equal(attach->n_args, 3);
	assert_int_equal(attach->args[0].type, WIRE_ARG_OBJECT);
	assert_true(attach->args[0].nullable);
	assert_string_equal(attach->args[0].interface->name, "wl_buffer");
	assert_int_equal(attach->args[1].type, WIRE_ARG_INT);
	assert_false(attach->args[1].nullable);
	assert_int_equal(attach->fixed_size, 20);
	assert_false(attach->makes_object);

	const struct wire_op *frame = find_op(surface, WIRE_REQUEST, "frame");
	assert_int_equal(frame->args[0].type, WIRE_ARG_NEW_ID);
	assert_string_equal(frame->args[0].interface->name, "wl_callback");
	assert_true(frame->makes_object);
	assert_int_equal(frame->fixed_size, 12);

	assert_int_equal(find_op(surface, WIRE_REQUEST, "commit")->fixed_size, 8);
	assert_int_equal(find_op(surface, WIRE_REQUEST, "commit")->since, 1);
	assert_int_equal(find_op(surface, WIRE_REQUEST, "damage_buffer")->since, 4);

	const struct wire_op *motion =
		find_op(wire_schema_find("wl_pointer"), WIRE_EVENT, "motion");
	assert_int_equal(motion->args[1].type, WIRE_ARG_FIXED);
	const struct wire_op *enter = find_op(wire_schema_find("wl_keyboard"), WIRE_EVENT, "enter");
	assert_int_equal(enter->args[2].type, WIRE_ARG_ARRAY);
	assert_int_equal(enter->fixed_size, 0);
}

static void destructors_are_marked_in_both_directions(void **state)
{
	(void)state;
	const struct wire_interface *surface = wire_schema_find("wl_surface");
	assert_true(find_op(surface, WIRE_REQUEST, "destroy")->is_destructor);
	assert_false(find_op(surface, WIRE_REQUEST, "attach")->is_destructor);
	const struct wire_interface *feedback = wire_schema_find("wp_presentation_feedback");
	assert_true(find_op(feedback, WIRE_EVENT, "presented")->is_destructor);
	assert_false(find_op(feedback, WIRE_EVENT, "sync_output")->is_destructor);
}

static void fds_have_the_kind_that_the_protocol_gives_them(void **state)
{
	(void)state;
	const struct wire_op *op = find_op(wire_schema_find("wl_shm"), WIRE_REQUEST, "create_pool");
	assert_int_equal(op->n_fds, 1);
	assert_int_equal(op->fixed_size, 16);
	assert_true(op->fd_kind_known);
	assert_int_equal(op->fd_kind, PROTOCOL_FD_POOL);
	op = find_op(wire_schema_find("wl_keyboard"), WIRE_EVENT, "keymap");
	assert_int_equal(op->fd_kind, PROTOCOL_FD_FILE);
	op = find_op(wire_schema_find("wl_surface"), WIRE_REQUEST, "commit");
	assert_int_equal(op->n_fds, 0);
	assert_false(op->fd_kind_known);
}

static size_t n_hooked;

static const void *count_hooks(const struct wire_interface *interface,
	enum wire_direction direction, const struct wire_op *op)
{
	n_hooked++;
	assert_ptr_equal(op, &interface->ops[direction].ops[op - interface->ops[direction].ops]);
	return direction == WIRE_EVENT ? op->name : NULL;
}

static void hooks_are_asked_once_for_each_op(void **state)
{
	(void)state;
	n_hooked = 0;
	wire_schema_set_hooks(count_hooks);
	const struct wire_interface *callback = wire_schema_find("wl_callback");
	assert_int_equal(n_hooked, 1);
	assert_string_equal(callback->ops[WIRE_EVENT].ops[0].hook, "done");
	wire_schema_find("wl_callback");
	wire_schema_get(callback->source);
	assert_int_equal(n_hooked, 1);
}

static void a_loaded_interface_is_found(void **state)
{
	(void)state;
	load_good("<protocol name='t'><interface name='test_thing' version='3'>"
		  "<request name='make' since='2'>"
		  "<arg name='id' type='new_id' interface='test_part'/>"
		  "<arg name='surface' type='object' interface='wl_surface' allow-null='true'/>"
		  "<arg name='fd' type='fd'/></request>"
		  "<request name='any'><arg name='id' type='new_id'/></request>"
		  "<event name='gone' type='destructor'/></interface></protocol>");
	const struct wire_interface *thing = wire_schema_find("test_thing");
	const struct wire_op *make = find_op(thing, WIRE_REQUEST, "make");
	assert_int_equal(make->since, 2);
	assert_int_equal(make->n_args, 3);
	assert_int_equal(make->n_fds, 1);
	assert_false(make->fd_kind_known);
	assert_int_equal(make->fixed_size, 16);
	assert_ptr_equal(wire_schema_get(make->args[1].interface), wire_schema_find("wl_surface"));
	const struct wire_op *any = find_op(thing, WIRE_REQUEST, "any");
	assert_int_equal(any->n_args, 1);
	assert_int_equal(any->args[0].type, WIRE_ARG_ANY_NEW_ID);
	assert_true(find_op(thing, WIRE_EVENT, "gone")->is_destructor);

	// What the first file refers to may come in a later one.
	assert_null(wire_schema_get(make->args[0].interface));
	load_good("<protocol name='u'><interface name='test_part' version='1'/></protocol>");
	const struct wire_interface *part = wire_schema_find("test_part");
	assert_non_null(part);
	assert_ptr_equal(wire_schema_get(make->args[0].interface), part);
	assert_ptr_equal(wire_schema_find("test_thing"), thing);
}

static void a_newer_version_replaces_a_built_in_one(void **state)
{
	(void)state;
	load_good("<protocol name='t'><interface name='wl_shm_pool' version='99'>"
		  "<request name='other'/></interface>"
		  "<interface name='wl_shm' version='1'/></protocol>");
	assert_int_equal(wire_schema_find("wl_shm_pool")->version, 99);
	assert_string_equal(
		wire_schema_find("wl_shm_pool")->ops[WIRE_REQUEST].ops[0].name, "other");
	assert_string_equal(
		wire_schema_find("wl_shm")->ops[WIRE_REQUEST].ops[0].name, "create_pool");
	// The built-in table's own reference means the new one, too.
	const struct wire_op *op = find_op(wire_schema_find("wl_shm"), WIRE_REQUEST, "create_pool");
	assert_int_equal(wire_schema_get(op->args[0].interface)->version, 99);
}

static void a_file_that_fails_adds_nothing(void **state)
{
	(void)state;
	char error[256] = "";
	assert_false(load_text("<protocol name='t'>\n<interface name='test_thing' version='1'/>\n"
			       "<interface version='1'/></protocol>",
		error, sizeof(error)));
	assert_non_null(strstr(error, ":3: "));
	assert_null(wire_schema_find("test_thing"));
	assert_non_null(wire_schema_find("wl_surface"));
}

int main(void)
{
#define schema_test(name) cmocka_unit_test_setup_teardown(name, fd_count_setup, teardown)
	const struct CMUnitTest tests[] = {
		schema_test(every_built_in_interface_is_found),
		schema_test(every_fd_message_has_a_kind),
		schema_test(an_unknown_name_is_not_found),
		schema_test(a_bind_folds_three_arguments_into_one),
		schema_test(arguments_have_types_interfaces_and_nullness),
		schema_test(destructors_are_marked_in_both_directions),
		schema_test(fds_have_the_kind_that_the_protocol_gives_them),
		schema_test(hooks_are_asked_once_for_each_op),
		schema_test(a_loaded_interface_is_found),
		schema_test(a_newer_version_replaces_a_built_in_one),
		schema_test(a_file_that_fails_adds_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
