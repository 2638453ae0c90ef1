#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "tests/support/fd_count.h"

static struct budget budget; // without limits
static struct fdrefs refs = {.budget = &budget};
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

static void clear(void)
{
	wl_array_release(&original);
	wl_array_init(&original);
	wl_array_release(&replacement);
	wl_array_init(&replacement);
}

static void make_call(uint32_t opcode, const char *text)
{
	clear();
	assert_true(wire_encode_begin(&original, 9, opcode) &&
		wire_encode_string(&original, text) && wire_encode_end(&original, 0));
	call = (struct wayland_call){
		.wayland = &wayland, .object = &object, .replacement = &replacement};
	decode(&original, opcode);
}

static int setup(void **state)
{
	hooks_init();
	wayland = (struct wayland){.options = {.refs = &refs, .failed = handle_failed}};
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

static const struct wayland_hook *decode_request(
	struct wl_array *from, const char *interface, const char *request)
{
	struct wire_header header;
	assert_true(wire_header_decode(from->data, from->size, &header));
	assert_int_equal(header.size, from->size);
	object.interface = wire_schema_find(interface);
	assert_non_null(object.interface);
	const struct wire_op *op = &object.interface->ops[WIRE_REQUEST].ops[header.opcode];
	assert_string_equal(op->name, request);
	assert_null(wire_message_decode(&call.message, &header, from->data, op));
	return op->hook;
}

// Its arguments are those that encode_args puts into original.
static enum wayland_verdict import_request(const char *interface, const char *request,
	bool (*encode_args)(const char *text), const char *text)
{
	const struct wire_interface *found = wire_schema_find(interface);
	assert_non_null(found);
	uint32_t opcode = 0;
	while (strcmp(found->ops[WIRE_REQUEST].ops[opcode].name, request) != 0) {
		opcode++;
	}
	clear();
	if (object.state != NULL) { // it is a new object
		object.state->destroy(object.state);
		object.state = NULL;
	}
	wl_list_init(&wayland.told);
	assert_true(wire_encode_begin(&original, 9, opcode) && encode_args(text) &&
		wire_encode_end(&original, 0));
	call = (struct wayland_call){
		.wayland = &wayland, .object = &object, .replacement = &replacement};
	const struct wayland_hook *hook = decode_request(&original, interface, request);
	assert_non_null(hook);
	return hook->on_import(&call);
}

static bool encode_text(const char *text)
{
	return wire_encode_string(&original, text);
}

static bool encode_object_and_text(const char *text)
{
	return wire_encode_uint(&original, 77) && wire_encode_string(&original, text);
}

static bool encode_six_texts(const char *text)
{
	return wire_encode_string(&original, text) && wire_encode_string(&original, "/a") &&
		wire_encode_string(&original, NULL) && wire_encode_string(&original, "/window") &&
		wire_encode_string(&original, "") && wire_encode_string(&original, ":1.7");
}

static void expect_prefixed(const char *interface, const char *request, const char *text)
{
	bool names_toplevel = strstr(request, "set_toplevel_") == request;
	enum wayland_verdict verdict = import_request(
		interface, request, names_toplevel ? encode_object_and_text : encode_text, "abc");
	assert_int_equal(verdict, WAYLAND_REPLACE);
	decode_request(&replacement, interface, request);
	assert_string_equal(call.message.args[names_toplevel].string, text);
	assert_true(!names_toplevel || call.message.args[0].value == 77);
}

static void whatever_says_what_a_window_is_called_has_its_prefix(void **state)
{
	(void)state;
	wayland.options.title_prefix = "[vm] ";
	wayland.options.app_id_prefix = "vm.";
	expect_prefixed("xdg_toplevel", "set_title", "[vm] abc");
	expect_prefixed("xdg_toplevel", "set_app_id", "vm.abc");
	expect_prefixed("zxdg_toplevel_v6", "set_title", "[vm] abc");
	expect_prefixed("zxdg_toplevel_v6", "set_app_id", "vm.abc");
	expect_prefixed("wl_shell_surface", "set_title", "[vm] abc");
	expect_prefixed("wl_shell_surface", "set_class", "vm.abc");
	expect_prefixed("xdg_activation_token_v1", "set_app_id", "vm.abc");
	expect_prefixed("xdg_toplevel_tag_manager_v1", "set_toplevel_tag", "vm.abc");
	expect_prefixed("xdg_toplevel_tag_manager_v1", "set_toplevel_description", "[vm] abc");
}

static void texts_behind_the_one_with_the_prefix_stay_as_they_are(void **state)
{
	(void)state;
	const char *gtk = "gtk_surface1", *request = "set_dbus_properties";
	const struct wire_arg *args = call.message.args;
	wayland.options.app_id_prefix = "vm.";
	assert_int_equal(
		import_request(gtk, request, encode_six_texts, "org.app"), WAYLAND_REPLACE);
	decode_request(&replacement, gtk, request);
	assert_string_equal(args[0].string, "vm.org.app");
	assert_string_equal(args[1].string, "/a");
	assert_null(args[2].string);
	assert_string_equal(args[3].string, "/window");
	assert_string_equal(args[4].string, "");
	assert_string_equal(args[5].string, ":1.7");
	assert_int_equal(import_request(gtk, request, encode_six_texts, NULL), WAYLAND_FORWARD);
}

static void a_path_is_no_name(void **state)
{
	(void)state;
	static const char *const paths[] = {"/etc/passwd", "../../x", "org/../../x"};
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		assert_int_equal(
			import_request("xdg_toplevel_icon_v1", "set_name", encode_text, paths[i]),
			WAYLAND_DROP);
		assert_int_equal(
			import_request("xdg_toplevel", "set_app_id", encode_text, paths[i]),
			WAYLAND_DROP);
		assert_int_equal(import_request("xdg_toplevel", "set_title", encode_text, paths[i]),
			WAYLAND_FORWARD);
	}
	assert_int_equal(import_request("xdg_toplevel_icon_v1", "set_name", encode_text, "mail"),
		WAYLAND_FORWARD);
	assert_int_equal(import_request("xdg_toplevel", "set_app_id", encode_text, "org.app"),
		WAYLAND_FORWARD);
}

int main(void)
{
#define labels_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		labels_test(without_a_prefix_texts_are_forwarded),
		labels_test(each_prefix_is_put_before_its_own_text),
		labels_test(an_empty_or_odd_text_has_its_prefix),
		labels_test(a_text_that_becomes_too_long_ends_the_session),
		labels_test(whatever_says_what_a_window_is_called_has_its_prefix),
		labels_test(texts_behind_the_one_with_the_prefix_stay_as_they_are),
		labels_test(a_path_is_no_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
