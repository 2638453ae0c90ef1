#include "base/log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"

static char text[16384];

// Calls func and keeps in text what it writes to stderr.
static void capture(void (*func)(void))
{
	int file = memfd_create("stderr", MFD_CLOEXEC);
	int saved = dup(STDERR_FILENO);
	assert_true(file >= 0 && saved >= 0);
	fflush(stderr);
	dup2(file, STDERR_FILENO);
	func();
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	ssize_t n = pread(file, text, sizeof(text) - 1, 0);
	close(file);
	assert_true(n >= 0);
	text[n] = '\0';
}

static size_t count_lines(void)
{
	size_t n = 0;
	for (const char *c = text; *c != '\0'; c++) {
		n += *c == '\n';
	}
	return n;
}

static int setup(void **state)
{
	log_init("test", LOG_INFO);
	log_set_session(0);
	return fd_count_setup(state);
}

static void write_one_of_each(void)
{
	log_error("an error: %d", 1);
	log_warn("a warning");
	log_info("information");
	log_debug("a detail");
}

static void lines_name_the_program_and_are_marked_by_level(void **state)
{
	(void)state;
	capture(write_one_of_each);
	assert_string_equal(text, "test: an error: 1\ntest: warn: a warning\ntest: information\n");
}

static void write_controls(void)
{
	log_warn("said: %s", "a\ntest: forged \x1b[2J\x7f\xc3\xa9");
}

static void what_a_peer_says_stays_on_its_line(void **state)
{
	(void)state;
	capture(write_controls);
	assert_string_equal(text, "test: warn: said: a?test: forged ?[2J?\xc3\xa9\n");
}

static void write_odd_bytes(void)
{
	log_warn("\xc2\x9b[2J \xc2\x80 \xc2\xa0 \xe2\x82\xac \xf0\x9f\x98\x80"); // U+009B is CSI
	log_warn("\x9b \xc0\x8a \xe0\x82\x9b \xed\xa0\x80 \xf4\x90\x80\x80 \xff \xe2\x82");
}

static void controls_of_eight_bits_and_what_is_no_utf_8_are_masked(void **state)
{
	(void)state;
	capture(write_odd_bytes);
	assert_string_equal(text,
		"test: warn: ??[2J ?? \xc2\xa0 \xe2\x82\xac \xf0\x9f\x98\x80\n"
		"test: warn: ? ?? ??? ??? ???? ? ??\n");
}

static void lines_beyond_the_level_are_not_written(void **state)
{
	(void)state;
	log_init("test", LOG_ERROR);
	capture(write_one_of_each);
	assert_string_equal(text, "test: an error: 1\n");
	log_init("test", LOG_DEBUG);
	capture(write_one_of_each);
	assert_int_equal(count_lines(), 4);
	assert_non_null(strstr(text, "test: debug: a detail\n"));
}

static void write_for_sessions(void)
{
	log_set_session(12);
	log_info("in it");
	log_set_session(0);
	log_info("outside");
}

static void a_session_is_named(void **state)
{
	(void)state;
	capture(write_for_sessions);
	assert_string_equal(text, "test: session 12: in it\ntest: outside\n");
}

static void write_errno(void)
{
	errno = ENOENT;
	log_errno("open %s", "file");
	assert_int_equal(errno, ENOENT);
}

static void errno_is_told_and_kept(void **state)
{
	(void)state;
	capture(write_errno);
	assert_string_equal(text, "test: open file: No such file or directory\n");
}

static void write_long(void)
{
	static char line[5000];
	memset(line, 'x', sizeof(line) - 1);
	log_info("%s", line);
}

static void a_long_line_is_cut_and_ends(void **state)
{
	(void)state;
	capture(write_long);
	assert_int_equal(count_lines(), 1);
	assert_true(strlen(text) < 1100);
}

static long second_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec;
}

static void write_lines(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		log_limited(LOG_WARN, "line %zu", i);
	}
}

static void write_many(void)
{
	write_lines(50);
	log_limited(LOG_WARN, "something else");
}

static void write_one(void)
{
	write_lines(1);
}

static void limited_lines_are_ten_a_second_and_the_rest_is_counted(void **state)
{
	(void)state;
	long second;
	do {
		second = second_now();
		while (second_now() == second) {
		}
		second = second_now();
		capture(write_many);
	} while (second_now() != second); // the second ended meanwhile: once more
	const char *last = strstr(text, "line 0\n");
	assert_non_null(last);
	assert_non_null(strstr(last, "line 9\n"));
	assert_null(strstr(last, "line 10\n"));
	assert_non_null(strstr(last, "something else\n")); // nobody can hide it
	while (second_now() == second) {
	}
	capture(write_one);
	assert_string_equal(text,
		"test: warn: 40 more lines like the last ones were left out\ntest: warn: line 0\n");
}

static void level_words_are_parsed(void **state)
{
	(void)state;
	enum log_level level = LOG_DEBUG;
	assert_true(log_level_parse("error", &level));
	assert_int_equal(level, LOG_ERROR);
	assert_true(log_level_parse("warn", &level));
	assert_int_equal(level, LOG_WARN);
	assert_true(log_level_parse("info", &level));
	assert_int_equal(level, LOG_INFO);
	assert_true(log_level_parse("debug", &level));
	assert_int_equal(level, LOG_DEBUG);
	assert_false(log_level_parse("", &level));
	assert_false(log_level_parse("Warn", &level));
	assert_false(log_level_parse("warning", &level));
	assert_int_equal(level, LOG_DEBUG);
}

int main(void)
{
#define log_test(name) cmocka_unit_test_setup_teardown(name, setup, fd_count_teardown)
	const struct CMUnitTest tests[] = {
		log_test(lines_name_the_program_and_are_marked_by_level),
		log_test(what_a_peer_says_stays_on_its_line),
		log_test(controls_of_eight_bits_and_what_is_no_utf_8_are_masked),
		log_test(lines_beyond_the_level_are_not_written),
		log_test(a_session_is_named),
		log_test(errno_is_told_and_kept),
		log_test(a_long_line_is_cut_and_ends),
		log_test(limited_lines_are_ten_a_second_and_the_rest_is_counted),
		log_test(level_words_are_parsed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
