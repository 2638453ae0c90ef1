#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "relay/hooks.h"
#include "tests/support/fd_count.h"

static struct wayland wayland;
static struct object object;
static struct wl_array original, replacement;
static struct wayland_call call;
static uint32_t failed_code;

static void handle_failed(void *data, uint32_t code, const char *text)
{
	(void)data;
	assert_non_null(strstr(text, "set_title"));
	failed_code = code;
}

// xdg_toplevel's opcodes 2 and 3.
static void decode(struct wl_array *from, uint32_t opcode)
{
	struct wire_header header;
	assert_true(wire_header_decode(from->data, from->size, &header));
	assert_int_equal(header.object, 9);
	assert_int_equal(header.opcode, opcode);
	assert_int_equal(header.size, from->size);
	const struct wire_interface *toplevel = wire_schema_find("xdg_toplevel");
	assert_non_null(toplevel);
	const struct wire_op *op = &toplevel->ops[WIRE_REQUEST].ops[opcode];
	assert_null(wire_message_decode(&call.message, &header, from->data, op));
}

static void make_call(uint32_t opcode, const char *text)
{
	wl_array_release(&original);
	wl_array_init(&original);
	wl_array_release(&replacement);
	wl_array_init(&replacement);
	assert_true(wire_encode_begin(&original, 9, opcode) &&
		wire_encode_string(&original, text) && wire_encode_end(&original, 0));
	call = (struct wayland_call){
		.wayland = &wayland, .object = &object, .replacement = &replacement};
	decode(&original, opcode);
}

static int setup(void **state)
{
	wayland = (struct wayland){.options = {.failed = handle_failed}};
	object = (struct object){.interface = wire_schema_find("xdg_toplevel")};
	failed_code = UINT32_MAX;
	return fd_count_setup(state);
}

static int teardown(void **state)
{
	wl_array_release(&original);
	wl_array_init(&original);
	wl_array_release(&replacement);
	wl_array_init(&replacement);
	wire_schema_finish();
	return fd_count_teardown(state);
}

static void without_a_prefix_texts_are_forwarded(void **state)
{
	(void)state;
	make_call(2, "a title");
	assert_int_equal(labels_import_title(&call), WAYLAND_FORWARD);
	make_call(3, "an.id");
	assert_int_equal(labels_import_app_id(&call), WAYLAND_FORWARD);
	assert_int_equal(replacement.size, 0);
}

static void each_prefix_is_put_before_its_own_text(void **state)
{
	(void)state;
	wayland.options.title_prefix = "[vm] ";
	wayland.options.app_id_prefix = "vm.";
	make_call(2, "a title");
	assert_int_equal(labels_import_title(&call), WAYLAND_REPLACE);
	decode(&replacement, 2);
	assert_string_equal(call.message.args[0].string, "[vm] a title");
	make_call(3, "an.id");
	assert_int_equal(labels_import_app_id(&call), WAYLAND_REPLACE);
	decode(&replacement, 3);
	assert_string_equal(call.message.args[0].string, "vm.an.id");
}

static void an_empty_or_odd_text_has_its_prefix(void **state)
{
	(void)state;
	wayland.options.title_prefix = "[vm] ";
	make_call(2, "");
	assert_int_equal(labels_import_title(&call), WAYLAND_REPLACE);
	decode(&replacement, 2);
	assert_string_equal(call.message.args[0].string, "[vm] ");
	make_call(2, "%s%n");
	assert_int_equal(labels_import_title(&call), WAYLAND_REPLACE);
	decode(&replacement, 2);
	assert_string_equal(call.message.args[0].string, "[vm] %s%n");
}

static void a_text_that_becomes_too_long_ends_the_session(void **state)
{
	(void)state;
	static char text[WIRE_MESSAGE_MAX - WIRE_HEADER_SIZE - sizeof(uint32_t)];
	memset(text, 't', sizeof(text) - 1);
	make_call(2, text);
	assert_int_equal(original.size, WIRE_MESSAGE_MAX);
	wayland.options.title_prefix = "vm";
	assert_int_equal(labels_import_title(&call), WAYLAND_FAIL);
	assert_int_equal(failed_code, WAYLAND_ERROR_IMPLEMENTATION);
	text[sizeof(text) - 3] = '\0'; // two less: fits again
	make_call(2, text);
	assert_int_equal(labels_import_title(&call), WAYLAND_REPLACE);
	decode(&replacement, 2);
	assert_int_equal(call.message.args[0].length, sizeof(text) - 1);
}

int main(void)
{
#define labels_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		labels_test(without_a_prefix_texts_are_forwarded),
		labels_test(each_prefix_is_put_before_its_own_text),
		labels_test(an_empty_or_odd_text_has_its_prefix),
		labels_test(a_text_that_becomes_too_long_ends_the_session),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
