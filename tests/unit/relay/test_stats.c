#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "relay/stats.h"
#include "tests/support/fd_count.h"

// A struct of counters and nothing else: seen as an array, every one of them is told apart.
#define COUNTERS (sizeof(struct stats) / sizeof(uint64_t))

static struct stats numbered(uint64_t first)
{
	uint64_t counters[COUNTERS];
	struct stats stats;
	for (size_t i = 0; i < COUNTERS; i++) {
		counters[i] = first + i;
	}
	memcpy(&stats, counters, sizeof(stats));
	return stats;
}

static void every_counter_is_added(void **state)
{
	(void)state;
	struct stats sum = numbered(1000), part = numbered(1);
	stats_add(&sum, &part);
	uint64_t counters[COUNTERS];
	memcpy(counters, &sum, sizeof(sum));
	for (size_t i = 0; i < COUNTERS; i++) {
		assert_int_equal(counters[i], 1001 + 2 * i);
	}
}

static void every_counter_is_printed(void **state)
{
	(void)state;
	char *text = NULL;
	size_t len = 0;
	struct stats stats = numbered(7000);
	FILE *out = open_memstream(&text, &len);
	stats_print(out, "the title", &stats);
	fclose(out);
	assert_memory_equal(text, "the title\n", strlen("the title\n"));
	for (size_t i = 0; i < COUNTERS; i++) {
		char number[16];
		snprintf(number, sizeof(number), "%zu", 7000 + i);
		assert_non_null(strstr(text, number));
	}
	assert_int_equal(text[len - 1], '\n');
	free(text);
}

static void what_there_was_none_of_is_left_out(void **state)
{
	(void)state;
	char *text = NULL;
	size_t len = 0;
	struct stats stats = {.fds = {[STATS_FD_PIPE] = 3, [STATS_FD_SOCKET] = 2}};
	FILE *out = open_memstream(&text, &len);
	stats_print(out, "some", &stats);
	stats = (struct stats){0};
	stats_print(out, "none", &stats);
	fclose(out);
	assert_non_null(strstr(text, "\n  fds       3 pipes, 2 sockets\n"));
	assert_non_null(strstr(text, "\n  fds       none\n"));
	assert_null(strstr(text, "conflict"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(every_counter_is_added),
		fd_count_test(every_counter_is_printed),
		fd_count_test(what_there_was_none_of_is_left_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
