#include "examples/mojo/handle.h"

#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "examples/mojo/region.h"
#include "tests/support/fd_count.h"

static const struct handle_tag tag = {.seed = 1, .message = 2, .position = 3};

struct verdict {
	unsigned int calls;
	const char *wrong;
};

static void handle_checked_one(void *data, struct handle_check *check, const char *wrong)
{
	struct verdict *verdict = data;
	verdict->calls++;
	verdict->wrong = wrong;
	handle_check_destroy(check);
}

/* Takes fd. What is wrong with it. */
static const char *check(int fd, enum handle_kind kind, const struct handle_tag *expected)
{
	struct verdict verdict = {0};
	struct event_base *base = event_base_new();
	struct handle_check *check = handle_check_create(base, fd, kind, expected);
	assert_non_null(check);
	handle_check_start(check, handle_checked_one, &verdict);
	event_base_dispatch(base);
	assert_int_equal(verdict.calls, 1);
	event_base_free(base);
	return verdict.wrong;
}

static void a_handle_of_each_kind_is_known_again(void **state)
{
	(void)state;
	for (enum handle_kind kind = 0; kind < HANDLE_KINDS; kind++) {
		assert_null(check(handle_create(kind, &tag), kind, &tag));
	}
}

static void a_handle_of_another_place_is_found(void **state)
{
	(void)state;
	struct handle_tag other = tag;
	other.position++;
	for (enum handle_kind kind = 0; kind < HANDLE_TAGGED; kind++) {
		assert_non_null(check(handle_create(kind, &tag), kind, &other));
	}
}

static void a_handle_of_another_kind_is_found(void **state)
{
	(void)state;
	for (enum handle_kind kind = 0; kind < HANDLE_KINDS; kind++) {
		enum handle_kind other = (kind + 1) % HANDLE_KINDS;
		assert_non_null(check(handle_create(kind, &tag), other, &tag));
	}
}

static const char *check_region(int fd, enum region_flavour flavour, size_t size)
{
	uint64_t hash = 0;
	const char *wrong = region_check(fd, flavour, size, 7, &hash);
	close(fd);
	return wrong;
}

static void a_region_is_known_again(void **state)
{
	(void)state;
	assert_null(check_region(region_create(REGION_MEMFD, 4097, 7), REGION_MEMFD, 4097));
	assert_null(check_region(region_create(REGION_SHM, 4097, 7), REGION_SHM, 4097));
}

static void a_region_of_another_size_or_content_is_found(void **state)
{
	(void)state;
	assert_non_null(check_region(region_create(REGION_MEMFD, 4097, 7), REGION_MEMFD, 4096));
	assert_non_null(check_region(region_create(REGION_MEMFD, 4097, 8), REGION_MEMFD, 4097));
}

static void a_region_without_seals_is_found(void **state)
{
	(void)state;
	assert_non_null(check_region(region_create(REGION_SHM, 4, 7), REGION_MEMFD, 4));
}

static void a_region_that_may_be_written_to_is_found(void **state)
{
	(void)state;
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4), 0);
	assert_non_null(check_region(fd, REGION_SHM, 4));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_handle_of_each_kind_is_known_again),
		fd_count_test(a_handle_of_another_place_is_found),
		fd_count_test(a_handle_of_another_kind_is_found),
		fd_count_test(a_region_is_known_again),
		fd_count_test(a_region_of_another_size_or_content_is_found),
		fd_count_test(a_region_without_seals_is_found),
		fd_count_test(a_region_that_may_be_written_to_is_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
