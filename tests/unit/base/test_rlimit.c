#include "base/rlimit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define GIVEN 256 // the soft limit that the process starts with

static struct rlimit read_limit(void)
{
	struct rlimit limit = {0};
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	return limit;
}

static int lower(void **state)
{
	(void)state;
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max < GIVEN) {
		return -1;
	}
	limit.rlim_cur = GIVEN;
	return setrlimit(RLIMIT_NOFILE, &limit);
}

// Has to be the first test: what was given is remembered for the life of the process.
static void restoring_what_was_never_raised_changes_nothing(void **state)
{
	(void)state;
	rlimit_restore_files();
	assert_int_equal(read_limit().rlim_cur, GIVEN);
}

static void the_soft_limit_is_raised_to_the_hard_one(void **state)
{
	(void)state;
	rlim_t hard = read_limit().rlim_max;
	rlimit_raise_files();
	assert_int_equal(read_limit().rlim_cur, hard);
	assert_int_equal(read_limit().rlim_max, hard);
	rlimit_restore_files();
}

static void what_was_given_is_restored(void **state)
{
	(void)state;
	rlim_t hard = read_limit().rlim_max;
	rlimit_raise_files();
	rlimit_restore_files();
	assert_int_equal(read_limit().rlim_cur, GIVEN);
	assert_int_equal(read_limit().rlim_max, hard);
}

static void raising_twice_does_not_forget_what_was_given(void **state)
{
	(void)state;
	rlimit_raise_files();
	rlimit_raise_files();
	rlimit_restore_files();
	assert_int_equal(read_limit().rlim_cur, GIVEN);
	rlimit_raise_files();
	assert_int_equal(read_limit().rlim_cur, read_limit().rlim_max);
	rlimit_restore_files();
	rlimit_restore_files();
	assert_int_equal(read_limit().rlim_cur, GIVEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(restoring_what_was_never_raised_changes_nothing),
		fd_count_test(the_soft_limit_is_raised_to_the_hard_one),
		fd_count_test(what_was_given_is_restored),
		fd_count_test(raising_twice_does_not_forget_what_was_given),
	};
	return cmocka_run_group_tests(tests, lower, NULL);
}
