#include "examples/mojo/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"

static void the_bytes_of_a_legacy_head_are_chromiums(void **state)
{
	(void)state;
	struct mojo_header header = {.payload = 0x010203 - 8, .handles = 0x0405};
	const uint8_t expected[] = {0x03, 0x02, 0x01, 0, 0x05, 0x04, 0, 0};
	uint8_t bytes[MOJO_HEADER_MAX];
	mojo_header_encode(MOJO_LEGACY, &header, bytes);
	assert_int_equal(header.size, sizeof(expected));
	assert_memory_equal(bytes, expected, sizeof(expected));
}

static void the_bytes_of_a_normal_head_are_chromiums(void **state)
{
	(void)state;
	struct mojo_header header = {.payload = 0x010203 - 16, .handles = 0x0405};
	const uint8_t expected[16] = {0x03, 0x02, 0x01, 0, 16, 0, 1, 0, 0x05, 0x04};
	uint8_t bytes[MOJO_HEADER_MAX];
	mojo_header_encode(MOJO_NORMAL, &header, bytes);
	assert_int_equal(header.size, sizeof(expected));
	assert_memory_equal(bytes, expected, sizeof(expected));
}

static void the_bytes_of_an_ipcz_head_are_chromiums(void **state)
{
	(void)state;
	struct mojo_header header = {.payload = 0x010203 - 16, .handles = 0x0405};
	const uint8_t expected[] = {16, 0, 0x05, 0x04, 0x03, 0x02, 0x01, 0};
	uint8_t bytes[MOJO_HEADER_MAX];
	mojo_header_encode(MOJO_IPCZ, &header, bytes);
	assert_int_equal(header.size, 16);
	assert_memory_equal(bytes, expected, sizeof(expected)); // then comes the time
}

static void a_head_is_read_as_it_was_written_and_its_format_is_seen(void **state)
{
	(void)state;
	for (enum mojo_format format = MOJO_LEGACY; format <= MOJO_IPCZ; format++) {
		struct mojo_header written = {.payload = 40, .handles = 3}, read = {0};
		uint8_t bytes[MOJO_HEADER_MAX];
		const char *wrong = NULL;
		mojo_header_encode(format, &written, bytes);
		assert_false(mojo_header_decode(format, bytes, 7, &read, &wrong));
		assert_true(mojo_header_decode(format, bytes, written.size, &read, &wrong));
		assert_null(wrong);
		assert_memory_equal(&read, &written, sizeof(read));
		assert_int_equal(mojo_format_detect(bytes), format);
	}
}

static void an_ipcz_head_without_time_is_read(void **state)
{
	(void)state;
	const uint8_t bytes[] = {8, 0, 2, 0, 48, 0, 0, 0};
	struct mojo_header header;
	const char *wrong = NULL;
	assert_true(mojo_header_decode(MOJO_IPCZ, bytes, sizeof(bytes), &header, &wrong));
	assert_null(wrong);
	assert_int_equal(header.size, 8);
	assert_int_equal(header.payload, 40);
	assert_int_equal(header.handles, 2);
}

static void a_length_that_cannot_be_is_wrong(void **state)
{
	(void)state;
	const uint8_t too_short[] = {7, 0, 0, 0, 0, 0, 0, 0};
	const uint8_t too_long[] = {1, 0, 0, 0x10, 0, 0, 0, 0};
	struct mojo_header header;
	const char *wrong = NULL;
	assert_true(mojo_header_decode(MOJO_LEGACY, too_short, 8, &header, &wrong));
	assert_non_null(wrong);
	wrong = NULL;
	assert_true(mojo_header_decode(MOJO_LEGACY, too_long, 8, &header, &wrong));
	assert_non_null(wrong);
}

static void a_head_of_another_format_is_wrong(void **state)
{
	(void)state;
	const uint8_t bytes[MOJO_HEADER_MAX] = {24, 0, 0, 0, 9, 0, 7, 0};
	struct mojo_header header;
	for (enum mojo_format format = MOJO_LEGACY; format <= MOJO_IPCZ; format++) {
		const char *wrong = NULL;
		assert_true(mojo_header_decode(format, bytes, sizeof(bytes), &header, &wrong));
		assert_non_null(wrong);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(the_bytes_of_a_legacy_head_are_chromiums),
		fd_count_test(the_bytes_of_a_normal_head_are_chromiums),
		fd_count_test(the_bytes_of_an_ipcz_head_are_chromiums),
		fd_count_test(a_head_is_read_as_it_was_written_and_its_format_is_seen),
		fd_count_test(an_ipcz_head_without_time_is_read),
		fd_count_test(a_length_that_cannot_be_is_wrong),
		fd_count_test(a_head_of_another_format_is_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
