#include "program/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

static char text[4096];
static struct program_options options;
static char **command; // in the last arguments
static char *arguments[OPTIONS_MAX_PROTOCOLS + 8];

static const char *set_choosy(void *data, const char *value)
{
	(void)data;
	return strcmp(value, "good") == 0 ? NULL : "is not good";
}

static const struct option_spec specs[] = {
	{"choosy", "WORD", "takes one word only", false, set_choosy},
	PROGRAM_OPTIONS,
};

static const struct options_usage usage = {
	.program = "ferry",
	.synopsis = "[OPTION]... [-- COMMAND]",
	.takes_command = true,
	.specs = specs,
};

static const struct options_usage without_command = {
	.program = "ferry",
	.synopsis = "[OPTION]...",
	.specs = specs,
};

// Keeps in text what is written to either of stdout and stderr.
static int parse_list(const struct options_usage *how, int out, const char *argv[])
{
	int argc = 0;
	for (; argv[argc] != NULL; argc++) {
		arguments[argc] = (char *)argv[argc];
	}
	arguments[argc] = NULL;
	int file = memfd_create("out", MFD_CLOEXEC);
	int saved = dup(out);
	assert_true(file >= 0 && saved >= 0);
	fflush(NULL);
	dup2(file, out);
	program_options_init(&options);
	command = arguments;
	int status = options_parse(how, argc, arguments, &options, &command);
	fflush(NULL);
	dup2(saved, out);
	close(saved);
	ssize_t n = pread(file, text, sizeof(text) - 1, 0);
	close(file);
	assert_true(n >= 0);
	text[n] = '\0';
	return status;
}

#define parse_with(how, out, ...) \
	parse_list((how), (out), (const char *[]){"argv0", ##__VA_ARGS__, NULL})
#define parse(...) parse_with(&usage, STDERR_FILENO, ##__VA_ARGS__)

#define assert_runs(...) \
	do { \
		assert_int_equal(parse(__VA_ARGS__), OPTIONS_STATUS_RUN); \
		assert_string_equal(text, ""); \
	} while (0)

#define assert_wrong(line, ...) \
	do { \
		assert_int_equal(parse(__VA_ARGS__), OPTIONS_STATUS_USAGE); \
		assert_string_equal(text, "ferry: " line "\n"); \
	} while (0)

static void nothing_at_all_leaves_the_defaults(void **state)
{
	(void)state;
	assert_runs();
	assert_null(command);
	assert_int_equal(options.log_level, LOG_WARN);
	assert_int_equal(options.max_sessions, 256);
	assert_int_equal(options.session_fd, -1);
	assert_int_equal(options.n_protocols, 0);
	assert_int_equal(options.services.count, 0);
	assert_int_equal(options.rules.shared, FDREF_SHARED_REFUSE);
	assert_int_equal(options.rules.unsupported, FDREF_UNSUPPORTED_CLOSE);
	assert_int_equal(options.rules.max_file_copy, 64 << 20);
}

static void an_unknown_option_is_named(void **state)
{
	(void)state;
	assert_wrong("unknown option '--nonsense' (see --help)", "--nonsense");
	assert_wrong("unknown option '--nonsense' (see --help)", "--trace", "--nonsense");
	assert_wrong("unknown option '--nonsense=1' (see --help)", "--nonsense=1", "--trace");
	assert_wrong("unknown option '-x' (see --help)", "-x");
	assert_wrong("unknown option '-x' (see --help)", "--trace", "-x");
	assert_wrong("unknown option '--traces' (see --help)", "--traces");
	assert_wrong("unknown option '--%n%s' (see --help)", "--%n%s");
}

static void an_ambiguous_abbreviation_is_no_option(void **state)
{
	(void)state;
	// --session-fd and --stats, the one with a value and the other without; --trace alone
	assert_wrong("unknown option '--s' (see --help)", "--s", "3");
	assert_wrong("unknown option '--o=1' (see --help)", "--o=1");
	assert_runs("--tr");
}

static void a_cluster_of_short_options_is_named(void **state)
{
	(void)state;
	assert_wrong("unknown option '-xy' (see --help)", "--trace", "-xy");
}

static void two_dashes_are_no_value(void **state)
{
	(void)state;
	assert_wrong("--choosy: its value is missing", "--choosy", "--", "run");
}

static void a_value_that_is_missing_is_told(void **state)
{
	(void)state;
	assert_wrong("--max-sessions: its value is missing", "--max-sessions");
	assert_wrong("--max-sessions: its value is missing", "--trace", "--max-sessions");
	assert_wrong("--protocol: its value is missing", "--protocol", "a.xml", "--protocol");
}

static void a_value_where_none_belongs_is_refused(void **state)
{
	(void)state;
	assert_int_equal(parse("--trace=yes"), OPTIONS_STATUS_USAGE);
	assert_int_equal(parse("--help=me"), OPTIONS_STATUS_USAGE);
	assert_int_equal(parse("--version="), OPTIONS_STATUS_USAGE);
}

static void an_option_given_twice_is_refused(void **state)
{
	(void)state;
	assert_wrong("--trace: given twice", "--trace", "--trace");
	assert_wrong("--max-sessions: given twice", "--max-sessions", "3", "--max-sessions=3");
	assert_wrong("--max-sessions: given twice", "--max-sessions", "3", "--max-s", "4");
}

static void a_repeatable_option_keeps_its_order_up_to_the_most(void **state)
{
	(void)state;
	assert_runs("--protocol", "a.xml", "--trace", "--protocol=b.xml");
	assert_int_equal(options.n_protocols, 2);
	assert_string_equal(options.protocols[0], "a.xml");
	assert_string_equal(options.protocols[1], "b.xml");
	const char *argv[OPTIONS_MAX_PROTOCOLS + 3] = {"argv0"};
	for (size_t i = 0; i < OPTIONS_MAX_PROTOCOLS; i++) {
		argv[1 + i] = "--protocol=p.xml";
	}
	assert_int_equal(parse_list(&usage, STDERR_FILENO, argv), OPTIONS_STATUS_RUN);
	assert_int_equal(options.n_protocols, OPTIONS_MAX_PROTOCOLS);
	argv[1 + OPTIONS_MAX_PROTOCOLS] = "--protocol=q.xml";
	assert_int_equal(parse_list(&usage, STDERR_FILENO, argv), OPTIONS_STATUS_USAGE);
	assert_string_equal(text, "ferry: --protocol q.xml: too many files\n");
}

static void a_beginning_that_is_unique_is_understood(void **state)
{
	(void)state;
	assert_runs("--tr", "--max-s=7", "--log", "info", "--ses", "3");
	assert_true(options.trace);
	assert_int_equal(options.max_sessions, 7);
	assert_int_equal(options.log_level, LOG_INFO);
	assert_int_equal(options.session_fd, 3);
}

static void a_beginning_of_several_is_refused(void **state)
{
	(void)state;
	assert_int_equal(parse("--p"), OPTIONS_STATUS_USAGE); // protocol, print-ready
	assert_int_equal(parse("--s"), OPTIONS_STATUS_USAGE); // stats, session-fd, shm-mode
	assert_null(strstr(text, "value"));
}

static void what_is_wrong_with_a_value_is_told(void **state)
{
	(void)state;
	assert_runs("--choosy", "good");
	assert_wrong("--choosy bad: is not good", "--choosy", "bad");
	assert_wrong("--choosy : is not good", "--choosy=");
	assert_wrong("--choosy %s%n: is not good", "--choosy", "%s%n");
	assert_wrong("--log-level loud: must be error, warn, info or debug", "--log-level", "loud");
}

static void a_long_wrong_value_is_cut(void **state)
{
	(void)state;
	static char value[3000];
	memset(value, 'v', sizeof(value) - 1);
	assert_int_equal(parse("--choosy", value), OPTIONS_STATUS_USAGE);
	assert_true(strlen(text) < 600);
	assert_int_equal(text[strlen(text) - 1], '\n');
}

static void numbers_have_bounds(void **state)
{
	(void)state;
	assert_runs("--max-sessions", "1");
	assert_runs("--max-sessions", "100000");
	assert_int_equal(options.max_sessions, 100000);
	assert_wrong("--max-sessions 0: too small", "--max-sessions", "0");
	assert_wrong("--max-sessions 100001: too large", "--max-sessions", "100001");
	assert_wrong("--max-sessions 4294967297: too large", "--max-sessions", "4294967297");
	assert_wrong("--max-sessions 18446744073709551617: too large", "--max-sessions",
		"18446744073709551617");
	assert_runs("--session-fd", "2147483647");
	assert_wrong("--session-fd 2: too small", "--session-fd", "2");
	assert_wrong("--session-fd 2147483648: too large", "--session-fd", "2147483648");
}

static void what_is_no_decimal_number_is_refused(void **state)
{
	(void)state;
	const char *const wrong[] = {
		"", " ", " 5", "5 ", "+5", "-5", "-0", "0x10", "1e3", "5.0", "5,", "five", "\n5"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		unsigned long number;
		assert_string_equal(options_number(wrong[i], 0, 100, &number), "not a number");
		assert_int_equal(parse("--max-sessions", wrong[i]), OPTIONS_STATUS_USAGE);
	}
	unsigned long number = 0;
	assert_null(options_number("010", 0, 100, &number));
	assert_int_equal(number, 10); // not octal
	assert_null(options_number("18446744073709551615", 0, UINT64_MAX, &number));
	assert_true(number == UINT64_MAX);
}

static void sizes_have_units(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t size;
	} right[] = {{"1", 1}, {"1023", 1023}, {"3K", 3072}, {"64M", 64 << 20},
		{"5G", UINT64_C(5) << 30}, {"8589934591G", UINT64_C(8589934591) << 30},
		{"9223372036854775807", INT64_MAX}, {"010K", 10240}};
	for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
		uint64_t size = 0;
		assert_null(options_size(right[i].text, 1, &size));
		assert_true(size == right[i].size);
	}
}

static void wrong_sizes_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *text, *wrong;
	} sizes[] = {{"", "not a number"}, {"G", "not a number"}, {"1T", "not a number"},
		{"1k", "not a number"}, {"1KK", "not a number"}, {"-1", "not a number"},
		{" 1", "not a number"}, {"1.5G", "not a number"},
		{"9223372036854775808", "too large"}, {"8589934592G", "too large"},
		{"9007199254740992K", "too large"},
		{"00000000000000000000000000000001", "too large"}, {"0", "too small"},
		{"2", "too small"}};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t size;
		assert_string_equal(options_size(sizes[i].text, 3, &size), sizes[i].wrong);
	}
	uint64_t size;
	assert_null(options_size("1K", 1024, &size)); // the least counts bytes
	assert_string_equal(options_size("1K", 1025, &size), "too small");
}

static void fds_go_by_rules(void **state)
{
	(void)state;
	assert_runs("--shm-mode", "snapshot", "--on-unsupported", "drop", "--max-file-copy", "2K");
	assert_int_equal(options.rules.shared, FDREF_SHARED_SNAPSHOT);
	assert_int_equal(options.rules.unsupported, FDREF_UNSUPPORTED_DROP);
	assert_int_equal(options.rules.max_file_copy, 2048);
	assert_runs("--shm-mode=diff", "--on-unsupported=devnull", "--max-file-copy=1");
	assert_int_equal(options.rules.shared, FDREF_SHARED_DIFF);
	assert_int_equal(options.rules.unsupported, FDREF_UNSUPPORTED_DEVNULL);
	assert_int_equal(options.rules.max_file_copy, 1);
	assert_runs("--shm-mode=refuse", "--on-unsupported=close");
	assert_int_equal(options.rules.shared, FDREF_SHARED_REFUSE);
	assert_int_equal(options.rules.unsupported, FDREF_UNSUPPORTED_CLOSE);
	assert_wrong("--shm-mode copy: must be refuse, snapshot or diff", "--shm-mode", "copy");
	assert_wrong("--on-unsupported : must be close, drop or devnull", "--on-unsupported=");
	assert_wrong("--max-file-copy 1T: not a number", "--max-file-copy", "1T");
}

static void a_silence_is_too_long_after_four_pings(void **state)
{
	(void)state;
	assert_runs();
	assert_int_equal(program_options_settle(&usage, &options), OPTIONS_STATUS_RUN);
	assert_int_equal(options.ping_interval, 20);
	assert_int_equal(options.ping_timeout, 80);
	assert_runs("--ping-interval", "86400");
	assert_int_equal(program_options_settle(&usage, &options), OPTIONS_STATUS_RUN);
	assert_int_equal(options.ping_timeout, 4 * 86400);
}

static void a_silence_may_be_as_long_as_is_said(void **state)
{
	(void)state;
	assert_runs("--ping-timeout", "3", "--ping-interval", "3");
	assert_int_equal(program_options_settle(&usage, &options), OPTIONS_STATUS_RUN);
	assert_int_equal(options.ping_interval, 3);
	assert_int_equal(options.ping_timeout, 3);
	assert_runs("--ping-timeout", "0");
	assert_int_equal(program_options_settle(&usage, &options), OPTIONS_STATUS_RUN);
	assert_int_equal(options.ping_timeout, 0);
}

static void a_silence_before_the_next_ping_is_not_too_long(void **state)
{
	(void)state;
	assert_runs("--ping-interval", "3", "--ping-timeout", "2");
	assert_int_equal(program_options_settle(&usage, &options), OPTIONS_STATUS_USAGE);
	assert_runs("--ping-timeout", "19");
	assert_int_equal(program_options_settle(&usage, &options), OPTIONS_STATUS_USAGE);
	assert_wrong("--ping-interval 0: too small", "--ping-interval", "0");
	assert_wrong("--ping-interval 86401: too large", "--ping-interval", "86401");
	assert_wrong("--ping-timeout 86401: too large", "--ping-timeout", "86401");
	assert_wrong("--ping-timeout 1.5: not a number", "--ping-timeout", "1.5");
}

static void a_command_follows_two_dashes(void **state)
{
	(void)state;
	assert_runs("--trace", "--", "run", "--trace", "--", "--nonsense");
	assert_string_equal(command[0], "run");
	assert_string_equal(command[1], "--trace");
	assert_string_equal(command[2], "--");
	assert_string_equal(command[3], "--nonsense");
	assert_null(command[4]);
	assert_runs("--", "--");
	assert_string_equal(command[0], "--");
	assert_null(command[1]);
}

static void a_command_that_is_missing_or_has_no_dashes_is_refused(void **state)
{
	(void)state;
	assert_wrong("the command after -- is missing", "--");
	assert_wrong("the command after -- is missing", "--trace", "--");
	assert_wrong("unexpected argument 'run' (a command goes after --)", "run");
	assert_wrong("unexpected argument 'run' (a command goes after --)", "run", "--", "run");
	assert_wrong("unexpected argument '-' (a command goes after --)", "-");
	assert_wrong("unexpected argument '' (a command goes after --)", "");
}

static void who_takes_no_command_refuses_one(void **state)
{
	(void)state;
	assert_int_equal(
		parse_with(&without_command, STDERR_FILENO, "--", "run"), OPTIONS_STATUS_USAGE);
	assert_string_equal(text, "ferry: unexpected argument 'run'\n");
	assert_null(command);
	assert_int_equal(
		parse_with(&without_command, STDERR_FILENO, "--trace"), OPTIONS_STATUS_RUN);
	assert_null(command);
}

static void help_shows_what_is_not_hidden(void **state)
{
	(void)state;
	assert_int_equal(parse_with(&usage, STDOUT_FILENO, "--help", "--nonsense"), 0);
	assert_memory_equal(text, "Usage: ferry [OPTION]... [-- COMMAND]\n\n", 39);
	assert_non_null(strstr(text, "\n  --choosy WORD           takes one word only\n"));
	assert_non_null(strstr(text, "(repeatable)\n"));
	assert_null(strstr(text, "session-fd"));
}

static void the_version_is_one_line(void **state)
{
	(void)state;
	assert_int_equal(parse_with(&usage, STDOUT_FILENO, "--version"), 0);
	assert_string_equal(text, "ferry " FDFERRY_VERSION "\n");
}

static void what_is_wrong_before_help_is_told(void **state)
{
	(void)state;
	assert_wrong("--max-sessions 0: too small", "--max-sessions", "0", "--help");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(nothing_at_all_leaves_the_defaults),
		fd_count_test(an_unknown_option_is_named),
		fd_count_test(a_value_that_is_missing_is_told),
		fd_count_test(a_value_where_none_belongs_is_refused),
		fd_count_test(an_option_given_twice_is_refused),
		fd_count_test(a_repeatable_option_keeps_its_order_up_to_the_most),
		fd_count_test(a_beginning_that_is_unique_is_understood),
		fd_count_test(a_beginning_of_several_is_refused),
		fd_count_test(what_is_wrong_with_a_value_is_told),
		fd_count_test(a_long_wrong_value_is_cut),
		fd_count_test(numbers_have_bounds),
		fd_count_test(what_is_no_decimal_number_is_refused),
		fd_count_test(sizes_have_units),
		fd_count_test(wrong_sizes_are_refused),
		fd_count_test(fds_go_by_rules),
		fd_count_test(a_silence_is_too_long_after_four_pings),
		fd_count_test(a_silence_may_be_as_long_as_is_said),
		fd_count_test(a_silence_before_the_next_ping_is_not_too_long),
		fd_count_test(a_command_follows_two_dashes),
		fd_count_test(a_command_that_is_missing_or_has_no_dashes_is_refused),
		fd_count_test(who_takes_no_command_refuses_one),
		fd_count_test(an_ambiguous_abbreviation_is_no_option),
		fd_count_test(a_cluster_of_short_options_is_named),
		fd_count_test(two_dashes_are_no_value),
		fd_count_test(help_shows_what_is_not_hidden),
		fd_count_test(the_version_is_one_line),
		fd_count_test(what_is_wrong_before_help_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
