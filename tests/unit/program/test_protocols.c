#include "program/protocols.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "program/options.h"
#include "tests/support/fd_count.h"
#include "wire/schema.h"

#define PROTOCOL(interface) \
	"<protocol name='p'><interface name='" interface "' version='1'>" \
	"<request name='r'/></interface></protocol>"

static char path_a[32], path_b[32];

static void write_file(char path[static 32], const char *content)
{
	strcpy(path, "/tmp/test-protocols-XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
	close(fd);
}

static bool load(const char *content_a, const char *content_b)
{
	write_file(path_a, content_a);
	write_file(path_b, content_b);
	struct program_options options;
	program_options_init(&options);
	program_set_protocol(&options, path_a);
	program_set_protocol(&options, path_b);
	bool ok = protocols_load(&options);
	unlink(path_a);
	unlink(path_b);
	return ok;
}

static int teardown(void **state)
{
	wire_schema_finish();
	return fd_count_teardown(state);
}

static void without_files_nothing_is_added(void **state)
{
	(void)state;
	struct program_options options;
	program_options_init(&options);
	assert_true(protocols_load(&options));
	assert_null(wire_schema_find("test_a"));
}

static void every_file_is_loaded(void **state)
{
	(void)state;
	assert_true(load(PROTOCOL("test_a"), PROTOCOL("test_b")));
	assert_non_null(wire_schema_find("test_a"));
	assert_non_null(wire_schema_find("test_b"));
}

static void a_file_given_twice_does_no_harm(void **state)
{
	(void)state;
	assert_true(load(PROTOCOL("test_a"), PROTOCOL("test_a")));
	assert_non_null(wire_schema_find("test_a"));
}

static void the_first_bad_file_ends_it(void **state)
{
	(void)state;
	assert_false(load("<protocol", PROTOCOL("test_b")));
	assert_null(wire_schema_find("test_b"));
	assert_false(load(PROTOCOL("test_a"), ""));
}

static void a_file_that_is_not_there_is_refused(void **state)
{
	(void)state;
	struct program_options options;
	program_options_init(&options);
	program_set_protocol(&options, "/nonexistent/%s%n.xml");
	assert_false(protocols_load(&options));
}

int main(void)
{
#define protocols_test(name) cmocka_unit_test_setup_teardown(name, fd_count_setup, teardown)
	const struct CMUnitTest tests[] = {
		protocols_test(without_files_nothing_is_added),
		protocols_test(every_file_is_loaded),
		protocols_test(a_file_given_twice_does_no_harm),
		protocols_test(the_first_bad_file_ends_it),
		protocols_test(a_file_that_is_not_there_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
