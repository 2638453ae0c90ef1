#include "base/rate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define SECOND UINT64_C(1000000000)
#define START  (1000 * SECOND)

static void a_burst_goes_at_once_and_the_rest_at_the_rate(void **state)
{
	(void)state;
	static const struct rate rate = {.per_second = 4, .burst = 10};
	_Atomic uint64_t until = 0;
	assert_false(rate_take(&until, &rate, 11, START));
	assert_int_equal(until, 0);
	assert_true(rate_take(&until, &rate, 7, START));
	assert_true(rate_take(&until, &rate, 3, START));
	assert_false(rate_take(&until, &rate, 1, START));
	assert_false(rate_take(&until, &rate, 1, START + SECOND / 4 - 1));
	assert_true(rate_take(&until, &rate, 1, START + SECOND / 4));
	for (uint64_t i = 1; i <= 100; i++) {
		assert_true(rate_take(&until, &rate, 4, START + i * SECOND + SECOND / 4));
	}
	assert_false(rate_take(&until, &rate, 1, START + 100 * SECOND + SECOND / 4));
}

static void no_more_than_a_burst_is_saved_up(void **state)
{
	(void)state;
	static const struct rate rate = {.per_second = 1000000000, .burst = 1000000000};
	_Atomic uint64_t until = 0;
	assert_true(rate_take(&until, &rate, 1, START));
	assert_false(rate_take(&until, &rate, rate.burst + 1, 1000000 * SECOND));
	assert_true(rate_take(&until, &rate, rate.burst, 1000000 * SECOND));
	assert_false(rate_take(&until, &rate, 1, 1000000 * SECOND));
}

static void what_has_happened_has_to_be_waited_for(void **state)
{
	(void)state;
	static const struct rate rate = {.per_second = 4, .burst = 10};
	_Atomic uint64_t until = 0;
	assert_int_equal(rate_add(&until, &rate, 10, START), 0);
	assert_int_equal(rate_add(&until, &rate, 2, START), SECOND / 2);
	assert_int_equal(rate_add(&until, &rate, 4, START + SECOND / 2), SECOND);
	assert_int_equal(rate_add(&until, &rate, 0, START + SECOND), SECOND / 2);
	assert_int_equal(rate_add(&until, &rate, 10, START + 100 * SECOND), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_burst_goes_at_once_and_the_rest_at_the_rate),
		fd_count_test(no_more_than_a_burst_is_saved_up),
		fd_count_test(what_has_happened_has_to_be_waited_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
