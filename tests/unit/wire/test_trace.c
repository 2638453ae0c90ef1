#include "wire/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"

// Compares a line behind its time. Frees it.
static void check_line(char *line, const char *expected)
{
	long long seconds;
	long micros;
	int end = 0;
	assert_int_equal(sscanf(line, "[%lld.%6ld] %n", &seconds, &micros, &end), 2);
	assert_true(end > 0);
	assert_string_equal(line + end, expected);
	free(line);
}

// Decodes bytes, prints them, and compares the line behind its time.
static void check(const struct wl_array *bytes, const char *interface,
	enum wire_direction direction, const char *const *fd_names, const char *expected)
{
	struct wire_header header;
	assert_true(wire_header_decode(bytes->data, bytes->size, &header));
	const struct wire_interface *found = wire_schema_find(interface);
	assert_non_null(found);
	assert_true(header.opcode < found->ops[direction].count);
	struct wire_message message;
	assert_null(wire_message_decode(
		&message, &header, bytes->data, &found->ops[direction].ops[header.opcode]));

	char *line = NULL;
	size_t len;
	FILE *out = open_memstream(&line, &len);
	assert_non_null(out);
	wire_trace(out, direction, interface, &message, fd_names);
	fclose(out);
	check_line(line, expected);
}

static void begin(struct wl_array *out, uint32_t object, uint32_t opcode)
{
	wl_array_init(out);
	assert_true(wire_encode_begin(out, object, opcode));
}

static void finish(struct wl_array *out)
{
	assert_true(wire_encode_end(out, 0));
}

static void a_request_is_printed(void **state)
{
	(void)state;
	struct wl_array bytes;
	begin(&bytes, 7, 1);
	wire_encode_uint(&bytes, 9);
	wire_encode_uint(&bytes, (uint32_t)-3);
	wire_encode_uint(&bytes, 0);
	finish(&bytes);
	check(&bytes, "wl_surface", WIRE_REQUEST, NULL,
		"-> wl_surface#7.attach(wl_buffer#9, -3, 0)\n");
	wl_array_release(&bytes);

	begin(&bytes, 7, 1);
	wire_encode_uint(&bytes, 0);
	wire_encode_uint(&bytes, 0);
	wire_encode_uint(&bytes, 0);
	finish(&bytes);
	check(&bytes, "wl_surface", WIRE_REQUEST, NULL, "-> wl_surface#7.attach(nil, 0, 0)\n");
	wl_array_release(&bytes);

	begin(&bytes, 7, 6);
	finish(&bytes);
	check(&bytes, "wl_surface", WIRE_REQUEST, NULL, "-> wl_surface#7.commit()\n");
	wl_array_release(&bytes);
}

static void an_event_is_printed(void **state)
{
	(void)state;
	struct wl_array bytes;
	begin(&bytes, 0xff000000u, 2); // wl_pointer.motion
	wire_encode_uint(&bytes, 0xffffffffu);
	wire_encode_uint(&bytes, 0x180);
	wire_encode_uint(&bytes, (uint32_t)-1);
	finish(&bytes);
	check(&bytes, "wl_pointer", WIRE_EVENT, NULL,
		"<- wl_pointer#4278190080.motion(4294967295, 1.50000000, -0.00390625)\n");
	wl_array_release(&bytes);

	begin(&bytes, 8, 1); // wl_keyboard.enter
	wire_encode_uint(&bytes, 5);
	wire_encode_uint(&bytes, 7);
	wire_encode_uint(&bytes, 12);
	wire_encode_uint(&bytes, 1);
	wire_encode_uint(&bytes, 2);
	wire_encode_uint(&bytes, 3);
	finish(&bytes);
	check(&bytes, "wl_keyboard", WIRE_EVENT, NULL,
		"<- wl_keyboard#8.enter(5, wl_surface#7, array[12])\n");
	wl_array_release(&bytes);
}

static void new_ids_are_printed(void **state)
{
	(void)state;
	struct wl_array bytes;
	begin(&bytes, 7, 3);
	wire_encode_uint(&bytes, 4);
	finish(&bytes);
	check(&bytes, "wl_surface", WIRE_REQUEST, NULL,
		"-> wl_surface#7.frame(new id wl_callback#4)\n");
	wl_array_release(&bytes);

	begin(&bytes, 2, 0);
	wire_encode_uint(&bytes, 1);
	wire_encode_string(&bytes, "wl_compositor");
	wire_encode_uint(&bytes, 4);
	wire_encode_uint(&bytes, 3);
	finish(&bytes);
	check(&bytes, "wl_registry", WIRE_REQUEST, NULL,
		"-> wl_registry#2.bind(1, \"wl_compositor\", 4, new id [unknown]#3)\n");
	wl_array_release(&bytes);
}

static void fds_are_printed_by_name(void **state)
{
	(void)state;
	struct wl_array bytes;
	begin(&bytes, 4, 1); // wl_data_offer.receive
	wire_encode_string(&bytes, "text/plain");
	finish(&bytes);
	const char *const names[] = {"pipe"};
	check(&bytes, "wl_data_offer", WIRE_REQUEST, names,
		"-> wl_data_offer#4.receive(\"text/plain\", fd pipe)\n");
	check(&bytes, "wl_data_offer", WIRE_REQUEST, NULL,
		"-> wl_data_offer#4.receive(\"text/plain\", fd)\n");
	wl_array_release(&bytes);

	begin(&bytes, 4, 1); // wp_security_context_manager_v1.create_listener
	wire_encode_uint(&bytes, 5);
	finish(&bytes);
	const char *const both[] = {"socket", "pipe"};
	check(&bytes, "wp_security_context_manager_v1", WIRE_REQUEST, both,
		"-> wp_security_context_manager_v1#4.create_listener("
		"new id wp_security_context_v1#5, fd socket, fd pipe)\n");
	wl_array_release(&bytes);
}

static void strings_are_escaped_and_cut(void **state)
{
	(void)state;
	struct wl_array bytes;
	begin(&bytes, 9, 2);
	wire_encode_string(&bytes, "a\"b\\c\n\x1b[0m\xe2\x82\xac");
	finish(&bytes);
	check(&bytes, "xdg_toplevel", WIRE_REQUEST, NULL,
		"-> xdg_toplevel#9.set_title(\"a\\\"b\\\\c\\x0a\\x1b[0m\\xe2\\x82\\xac\")\n");
	wl_array_release(&bytes);

	char text[1001], expected[300];
	memset(text, 'x', 1000);
	text[1000] = '\0';
	begin(&bytes, 9, 2);
	wire_encode_string(&bytes, text);
	finish(&bytes);
	snprintf(expected, sizeof(expected), "-> xdg_toplevel#9.set_title(\"%.200s\"...)\n", text);
	check(&bytes, "xdg_toplevel", WIRE_REQUEST, NULL, expected);
	wl_array_release(&bytes);

	begin(&bytes, 4, 0); // wl_data_offer.accept
	wire_encode_uint(&bytes, 1);
	wire_encode_string(&bytes, NULL);
	finish(&bytes);
	check(&bytes, "wl_data_offer", WIRE_REQUEST, NULL, "-> wl_data_offer#4.accept(1, nil)\n");
	wl_array_release(&bytes);
}

static void bytes_are_printed_by_their_number(void **state)
{
	(void)state;
	static const char *const names[] = {"pipe", "socket"};
	for (size_t n_fds = 0; n_fds <= 2; n_fds += 2) {
		char *line = NULL;
		size_t len;
		FILE *out = open_memstream(&line, &len);
		assert_non_null(out);
		wire_trace_bytes(out, WIRE_EVENT, "dbus", 0x8000000a, 200, names, n_fds);
		fclose(out);
		check_line(line,
			n_fds == 0 ? "<- dbus#8000000a 200 bytes\n"
				   : "<- dbus#8000000a 200 bytes, fds: pipe, socket\n");
	}
}

static int finish_schema(void **state)
{
	(void)state;
	wire_schema_finish();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_request_is_printed),
		fd_count_test(an_event_is_printed),
		fd_count_test(new_ids_are_printed),
		fd_count_test(fds_are_printed_by_name),
		fd_count_test(strings_are_escaped_and_cut),
		fd_count_test(bytes_are_printed_by_their_number),
	};
	return cmocka_run_group_tests(tests, NULL, finish_schema);
}
