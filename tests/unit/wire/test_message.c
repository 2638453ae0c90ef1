#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"

static const struct wire_op *find_op(
	const char *interface, enum wire_direction direction, const char *name)
{
	const struct wire_interface *found = wire_schema_find(interface);
	assert_non_null(found);
	for (size_t i = 0; i < found->ops[direction].count; i++) {
		if (strcmp(found->ops[direction].ops[i].name, name) == 0) {
			return &found->ops[direction].ops[i];
		}
	}
	fail_msg("no %s.%s", interface, name);
	return NULL;
}

// Decodes a copy that is exactly as large as the message, so that an overrun is seen.
static const char *decode(
	const struct wl_array *bytes, const struct wire_op *op, struct wire_message *message)
{
	struct wire_header header;
	assert_true(wire_header_decode(bytes->data, bytes->size, &header));
	uint8_t *copy = malloc(bytes->size);
	assert_non_null(copy);
	memcpy(copy, bytes->data, bytes->size);
	header.size = bytes->size;
	const char *error = wire_message_decode(message, &header, copy, op);
	free(copy);
	return error;
}

static void put(struct wl_array *array, size_t offset, uint32_t word)
{
	assert_true(offset + 4 <= array->size);
	memcpy((char *)array->data + offset, &word, sizeof(word));
}

static void make_bind(struct wl_array *out, uint32_t id)
{
	wl_array_init(out);
	assert_true(wire_encode_begin(out, 2, 0));
	assert_true(wire_encode_uint(out, 17));
	assert_true(wire_encode_string(out, "wl_compositor"));
	assert_true(wire_encode_uint(out, 4));
	assert_true(wire_encode_uint(out, id));
	assert_true(wire_encode_end(out, 0));
}

static void make_title(struct wl_array *out, const char *title)
{
	wl_array_init(out);
	assert_true(wire_encode_begin(out, 9, 2));
	assert_true(wire_encode_string(out, title));
	assert_true(wire_encode_end(out, 0));
}

static void a_header_needs_eight_bytes(void **state)
{
	(void)state;
	uint8_t data[8] = {0};
	uint32_t words[] = {0xff000001u, 0x00140003u};
	memcpy(data, words, sizeof(words));
	struct wire_header header;
	for (size_t len = 0; len < 8; len++) {
		assert_false(wire_header_decode(data, len, &header));
	}
	assert_true(wire_header_decode(data, 8, &header));
	assert_int_equal(header.object, 0xff000001u);
	assert_int_equal(header.size, 20);
	assert_int_equal(header.opcode, 3);
}

static void impossible_sizes_are_refused(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("wl_surface", WIRE_REQUEST, "commit");
	uint32_t data[4] = {0};
	static const uint32_t sizes[] = {0, 1, 4, 7, 9, 10, 11, 65533, 65535};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct wire_header header = {.object = 3, .size = sizes[i]};
		struct wire_message message;
		assert_non_null(wire_message_decode(&message, &header, (uint8_t *)data, op));
	}
}

static void words_are_decoded_and_can_be_rewritten(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("wl_surface", WIRE_REQUEST, "attach");
	uint32_t data[] = {7, 20u << 16 | 1, 9, (uint32_t)-5, 6};
	struct wire_header header;
	assert_true(wire_header_decode((uint8_t *)data, sizeof(data), &header));
	struct wire_message message;
	assert_null(wire_message_decode(&message, &header, (uint8_t *)data, op));
	assert_ptr_equal(message.data, data);
	assert_ptr_equal(message.op, op);
	assert_int_equal(message.header.object, 7);
	assert_int_equal(message.args[0].value, 9);
	assert_int_equal((int32_t)message.args[1].value, -5);
	assert_int_equal(message.args[2].value, 6);
	*message.args[2].word = 8;
	assert_int_equal(data[4], 8);
}

static void an_fd_takes_no_bytes(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("wl_shm", WIRE_REQUEST, "create_pool");
	uint32_t data[] = {5, 16u << 16 | 0, 11, 4096};
	struct wire_header header;
	assert_true(wire_header_decode((uint8_t *)data, sizeof(data), &header));
	struct wire_message message;
	assert_null(wire_message_decode(&message, &header, (uint8_t *)data, op));
	assert_int_equal(message.args[0].value, 11);
	assert_null(message.args[1].word);
	assert_int_equal(message.args[2].value, 4096);
}

static void null_objects_are_taken_where_they_are_allowed(void **state)
{
	(void)state;
	struct wire_message message;
	uint32_t attach[] = {7, 20u << 16 | 1, 0, 0, 0};
	struct wire_header header = {.object = 7, .size = sizeof(attach), .opcode = 1};
	assert_null(wire_message_decode(&message, &header, (uint8_t *)attach,
		find_op("wl_surface", WIRE_REQUEST, "attach")));

	uint32_t enter[] = {7, 12u << 16 | 0, 0};
	header = (struct wire_header){.object = 7, .size = sizeof(enter)};
	assert_non_null(wire_message_decode(
		&message, &header, (uint8_t *)enter, find_op("wl_surface", WIRE_EVENT, "enter")));
}

static void a_null_new_id_is_refused(void **state)
{
	(void)state;
	struct wire_message message;
	uint32_t frame[] = {7, 12u << 16 | 3, 0};
	struct wire_header header = {.object = 7, .size = sizeof(frame), .opcode = 3};
	const struct wire_op *op = find_op("wl_surface", WIRE_REQUEST, "frame");
	assert_non_null(wire_message_decode(&message, &header, (uint8_t *)frame, op));

	struct wl_array bind;
	make_bind(&bind, 0);
	assert_non_null(decode(&bind, find_op("wl_registry", WIRE_REQUEST, "bind"), &message));
	wl_array_release(&bind);
}

static void a_bind_has_interface_version_and_id(void **state)
{
	(void)state;
	struct wl_array bind;
	make_bind(&bind, 5);
	struct wire_header header;
	assert_true(wire_header_decode(bind.data, bind.size, &header));
	assert_int_equal(header.size, bind.size);
	struct wire_message message;
	assert_null(wire_message_decode(
		&message, &header, bind.data, find_op("wl_registry", WIRE_REQUEST, "bind")));
	assert_int_equal(message.args[0].value, 17);
	assert_string_equal(message.args[1].string, "wl_compositor");
	assert_int_equal(message.args[1].length, 13);
	assert_int_equal(message.args[1].version, 4);
	assert_int_equal(message.args[1].value, 5);
	assert_ptr_equal(message.args[1].word, (uint32_t *)bind.data + 3);
	wl_array_release(&bind);
}

static void every_truncation_of_a_message_is_refused(void **state)
{
	(void)state;
	struct wl_array bind, title;
	struct wire_message message;
	make_bind(&bind, 5);
	make_title(&title, "a title");
	const struct wire_op *bind_op = find_op("wl_registry", WIRE_REQUEST, "bind");
	const struct wire_op *title_op = find_op("xdg_toplevel", WIRE_REQUEST, "set_title");
	assert_null(decode(&bind, bind_op, &message));
	assert_null(decode(&title, title_op, &message));
	while (--bind.size >= WIRE_HEADER_SIZE) {
		assert_non_null(decode(&bind, bind_op, &message));
	}
	while (--title.size >= WIRE_HEADER_SIZE) {
		assert_non_null(decode(&title, title_op, &message));
	}
	wl_array_release(&bind);
	wl_array_release(&title);
}

static void bytes_after_the_last_argument_are_refused(void **state)
{
	(void)state;
	struct wl_array bind;
	struct wire_message message;
	make_bind(&bind, 5);
	assert_true(wire_encode_uint(&bind, 0));
	assert_true(wire_encode_end(&bind, 0));
	assert_non_null(decode(&bind, find_op("wl_registry", WIRE_REQUEST, "bind"), &message));
	wl_array_release(&bind);

	uint32_t commit[] = {7, 12u << 16 | 6, 0};
	struct wire_header header = {.object = 7, .size = sizeof(commit), .opcode = 6};
	assert_non_null(wire_message_decode(&message, &header, (uint8_t *)commit,
		find_op("wl_surface", WIRE_REQUEST, "commit")));
}

static void a_string_of_hostile_length_is_refused(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("xdg_toplevel", WIRE_REQUEST, "set_title");
	static const uint32_t lengths[] = {0, 1, 2, 3, 4, 9, 12, 13, 65520, 0x7ffffffeu,
		0x7fffffffu, 0x80000000u, 0x80000001u, 0xfffffff8u, 0xfffffffbu, 0xfffffffcu,
		0xfffffffdu, 0xfffffffeu, 0xffffffffu};
	struct wire_message message;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct wl_array title;
		make_title(&title, "a title");
		put(&title, WIRE_HEADER_SIZE, lengths[i]);
		assert_non_null(decode(&title, op, &message));
		wl_array_release(&title);
	}
}

static void an_array_of_hostile_length_is_refused(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("wl_keyboard", WIRE_EVENT, "enter");
	struct wire_message message;
	uint32_t words[] = {8, 28u << 16 | 1, 1, 3, 8, 30, 31};
	struct wire_header header = {.object = 8, .size = sizeof(words), .opcode = 1};
	for (uint32_t length = 5; length <= 8; length++) {
		words[4] = length; // padded to 8
		assert_null(wire_message_decode(&message, &header, (uint8_t *)words, op));
		assert_int_equal(message.args[2].length, length);
		assert_ptr_equal(message.args[2].word, &words[4]);
	}
	static const uint32_t lengths[] = {
		0, 1, 4, 9, 12, 0x7fffffffu, 0x80000000u, 0xfffffff8u, 0xfffffffdu, 0xffffffffu};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		words[4] = lengths[i];
		assert_non_null(wire_message_decode(&message, &header, (uint8_t *)words, op));
	}
	header.size = 20;
	words[4] = 0;
	assert_null(wire_message_decode(&message, &header, (uint8_t *)words, op));
	assert_int_equal(message.args[2].length, 0);
}

static void a_string_without_its_nul_is_refused(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("xdg_toplevel", WIRE_REQUEST, "set_title");
	struct wire_message message;
	struct wl_array title;
	make_title(&title, "a title");
	((char *)title.data)[WIRE_HEADER_SIZE + 4 + 7] = '!';
	assert_string_equal(decode(&title, op, &message), "string without its NUL");
	wl_array_release(&title);
}

static void a_string_with_an_embedded_nul_is_refused(void **state)
{
	(void)state;
	const struct wire_op *op = find_op("xdg_toplevel", WIRE_REQUEST, "set_title");
	struct wire_message message;
	for (size_t i = 0; i < 7; i++) {
		struct wl_array title;
		make_title(&title, "a title");
		((char *)title.data)[WIRE_HEADER_SIZE + 4 + i] = '\0';
		assert_string_equal(decode(&title, op, &message), "string with an embedded NUL");
		wl_array_release(&title);
	}
}

static void an_empty_string_is_not_a_null_string(void **state)
{
	(void)state;
	struct wire_message message;
	struct wl_array bytes;
	make_title(&bytes, "");
	struct wire_header header;
	assert_true(wire_header_decode(bytes.data, bytes.size, &header));
	assert_null(wire_message_decode(
		&message, &header, bytes.data, find_op("xdg_toplevel", WIRE_REQUEST, "set_title")));
	assert_string_equal(message.args[0].string, "");
	wl_array_release(&bytes);

	// wl_data_offer.accept's type may be null
	wl_array_init(&bytes);
	assert_true(wire_encode_begin(&bytes, 4, 0));
	assert_true(wire_encode_uint(&bytes, 1));
	assert_true(wire_encode_string(&bytes, NULL));
	assert_true(wire_encode_end(&bytes, 0));
	const struct wire_op *op = find_op("wl_data_offer", WIRE_REQUEST, "accept");
	assert_null(decode(&bytes, op, &message));
	assert_null(message.args[1].string);
	wl_array_release(&bytes);

	make_title(&bytes, NULL);
	op = find_op("xdg_toplevel", WIRE_REQUEST, "set_title");
	assert_non_null(decode(&bytes, op, &message));
	wl_array_release(&bytes);
}

static void a_message_of_the_largest_size_passes(void **state)
{
	(void)state;
	// Header and length take 12 bytes.
	size_t len = WIRE_MESSAGE_MAX - 12 - 1;
	char *text = malloc(len + 2);
	assert_non_null(text);
	memset(text, 'x', len + 1);
	text[len] = '\0';
	struct wl_array title;
	make_title(&title, text);
	assert_int_equal(title.size, WIRE_MESSAGE_MAX);
	struct wire_message message;
	assert_null(decode(&title, find_op("xdg_toplevel", WIRE_REQUEST, "set_title"), &message));
	assert_int_equal(message.args[0].length, len);
	wl_array_release(&title);

	text[len] = 'x';
	text[len + 1] = '\0';
	wl_array_init(&title);
	assert_true(wire_encode_begin(&title, 9, 2));
	assert_true(wire_encode_string(&title, text));
	assert_false(wire_encode_end(&title, 0));
	wl_array_release(&title);
	free(text);
}

static void messages_are_encoded_one_after_the_other(void **state)
{
	(void)state;
	struct wl_array out;
	wl_array_init(&out);
	assert_true(wire_encode_begin(&out, 3, 6));
	assert_true(wire_encode_end(&out, 0));
	size_t start = out.size;
	assert_true(wire_encode_begin(&out, 4, 1));
	assert_true(wire_encode_string(&out, "abcd"));
	assert_true(wire_encode_end(&out, start));
	uint32_t expected[] = {3, 8u << 16 | 6, 4, 20u << 16 | 1, 5, 0, 0};
	memcpy(&expected[5], "abcd", 4);
	assert_int_equal(out.size, sizeof(expected));
	assert_memory_equal(out.data, expected, sizeof(expected));
	wl_array_release(&out);
}

static void an_array_is_encoded_with_its_padding(void **state)
{
	(void)state;
	struct wl_array out;
	wl_array_init(&out);
	assert_true(wire_encode_array(&out, "abcde", 5));
	assert_true(wire_encode_array(&out, NULL, 0));
	const char expected[] = "\5\0\0\0abcde\0\0\0\0\0\0"; // and a NUL
	assert_int_equal(out.size, sizeof(expected));
	assert_memory_equal(out.data, expected, sizeof(expected));
	static const uint8_t long_one[WIRE_MESSAGE_MAX + 1];
	assert_false(wire_encode_array(&out, long_one, sizeof(long_one)));
	wl_array_release(&out);
}

static void check_error(const char *text, size_t expected_length)
{
	struct wl_array out;
	wl_array_init(&out);
	assert_true(wire_encode_error(&out, 12, 3, text));
	assert_true(out.size <= 4096);
	struct wire_header header;
	assert_true(wire_header_decode(out.data, out.size, &header));
	assert_int_equal(header.object, 1);
	assert_int_equal(header.opcode, 0);
	assert_int_equal(header.size, out.size);
	struct wire_message message;
	assert_null(wire_message_decode(
		&message, &header, out.data, find_op("wl_display", WIRE_EVENT, "error")));
	assert_int_equal(message.args[0].value, 12);
	assert_int_equal(message.args[1].value, 3);
	assert_int_equal(message.args[2].length, expected_length);
	assert_memory_equal(message.args[2].string, text, expected_length);
	wl_array_release(&out);
}

static void the_text_of_an_error_is_cut_to_what_every_client_can_read(void **state)
{
	(void)state;
	check_error("", 0);
	check_error("out of memory", 13);
	static char text[70001];
	memset(text, 'x', sizeof(text) - 1);
	check_error(text, 4075);
	text[4075] = '\0';
	check_error(text, 4075);
	// Half a character is left out.
	memcpy(text + 4073, "\xe2\x82\xac", 4);
	check_error(text, 4073);
	memset(text, 0x80, sizeof(text) - 1);
	check_error(text, 0);
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
		fd_count_test(a_header_needs_eight_bytes),
		fd_count_test(impossible_sizes_are_refused),
		fd_count_test(words_are_decoded_and_can_be_rewritten),
		fd_count_test(an_fd_takes_no_bytes),
		fd_count_test(null_objects_are_taken_where_they_are_allowed),
		fd_count_test(a_null_new_id_is_refused),
		fd_count_test(a_bind_has_interface_version_and_id),
		fd_count_test(every_truncation_of_a_message_is_refused),
		fd_count_test(bytes_after_the_last_argument_are_refused),
		fd_count_test(a_string_of_hostile_length_is_refused),
		fd_count_test(an_array_of_hostile_length_is_refused),
		fd_count_test(a_string_without_its_nul_is_refused),
		fd_count_test(a_string_with_an_embedded_nul_is_refused),
		fd_count_test(an_empty_string_is_not_a_null_string),
		fd_count_test(a_message_of_the_largest_size_passes),
		fd_count_test(messages_are_encoded_one_after_the_other),
		fd_count_test(an_array_is_encoded_with_its_padding),
		fd_count_test(the_text_of_an_error_is_cut_to_what_every_client_can_read),
	};
	return cmocka_run_group_tests(tests, NULL, finish_schema);
}
