#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "host-proxy/handout.h"
#include "tests/support/fd_count.h"

static const struct compositor_id id = {.device = 1, .inode = 2, .changed = 3};
static const struct compositor_id other = {.device = 4, .inode = 5, .changed = 6};

static void what_was_stored_is_loaded_as_often_as_one_likes(void **state)
{
	(void)state;
	char text[] = "[vm]\nvm-name = a\n";
	const struct handout stored = {
		.without_contexts = id, .with_dmabufs = other, .policy = text};
	int fd = handout_store(&stored);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(
		fcntl(fd, F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	for (int i = 0; i < 2; i++) {
		struct handout loaded;
		assert_int_equal(handout_load(&loaded, fd), 0);
		assert_true(compositor_id_equal(&loaded.without_contexts, &id));
		assert_true(compositor_id_equal(&loaded.with_dmabufs, &other));
		assert_string_equal(loaded.policy, text);
		free(loaded.policy);
	}
	close(fd);
}

static void no_policy_is_not_an_empty_one(void **state)
{
	(void)state;
	char empty[] = "";
	struct handout stored = {.without_contexts = id}, loaded;
	int fd = handout_store(&stored);
	assert_int_equal(handout_load(&loaded, fd), 0);
	assert_null(loaded.policy);
	assert_true(compositor_id_equal(&loaded.without_contexts, &id));
	close(fd);
	stored.policy = empty;
	fd = handout_store(&stored);
	assert_int_equal(handout_load(&loaded, fd), 0);
	assert_string_equal(loaded.policy, "");
	free(loaded.policy);
	close(fd);
}

static void what_is_no_handout_is_an_error(void **state)
{
	(void)state;
	struct handout loaded;
	int fd = memfd_create("short", MFD_CLOEXEC);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(handout_load(&loaded, fd), -EBADMSG);
	close(fd);
	assert_int_equal(handout_load(&loaded, -1), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_was_stored_is_loaded_as_often_as_one_likes),
		fd_count_test(no_policy_is_not_an_empty_one),
		fd_count_test(what_is_no_handout_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
