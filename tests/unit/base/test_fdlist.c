#include "base/fdlist.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"

static int new_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void an_empty_list_gives_nothing(void **state)
{
	(void)state;
	struct fdlist list;
	fdlist_init(&list);
	assert_int_equal(list.count, 0);
	assert_int_equal(fdlist_take(&list), -1);
	fdlist_drop(&list, 0);
	fdlist_finish(&list);
	fdlist_finish(&list);
}

static void fds_are_taken_in_the_order_they_were_pushed(void **state)
{
	(void)state;
	struct fdlist list;
	fdlist_init(&list);
	int fds[40];
	for (size_t i = 0; i < 40; i++) {
		fds[i] = new_fd();
		assert_true(fdlist_push(&list, fds[i]));
	}
	assert_int_equal(list.count, 40);
	for (size_t i = 0; i < 40; i++) {
		assert_int_equal(fdlist_peek(&list)[0], fds[i]);
		assert_int_equal(fdlist_take(&list), fds[i]);
		assert_true(is_open(fds[i]));
		close(fds[i]);
	}
	assert_int_equal(fdlist_take(&list), -1);
	fdlist_finish(&list);
}

static void order_holds_while_pushing_and_taking(void **state)
{
	(void)state;
	struct fdlist list;
	fdlist_init(&list);
	int fds[200];
	size_t pushed = 0, taken = 0;
	while (taken < 200) {
		for (size_t i = 0; i < 5 && pushed < 200; i++) {
			fds[pushed] = new_fd();
			assert_true(fdlist_push(&list, fds[pushed++]));
		}
		for (size_t i = 0; i < 3 && taken < pushed; i++) {
			assert_int_equal(fdlist_take(&list), fds[taken]);
			close(fds[taken++]);
		}
		for (size_t i = 0; i < list.count; i++) {
			assert_int_equal(fdlist_peek(&list)[i], fds[taken + i]);
		}
	}
	fdlist_finish(&list);
}

static void finish_closes_what_nobody_took(void **state)
{
	(void)state;
	struct fdlist list;
	fdlist_init(&list);
	int taken = new_fd(), left = new_fd();
	assert_true(fdlist_push(&list, taken));
	assert_true(fdlist_push(&list, left));
	assert_int_equal(fdlist_take(&list), taken);
	fdlist_finish(&list);
	assert_true(is_open(taken));
	assert_false(is_open(left));
	assert_int_equal(list.count, 0);
	close(taken);
}

static void drop_closes_the_oldest(void **state)
{
	(void)state;
	struct fdlist list;
	fdlist_init(&list);
	int fds[3];
	for (size_t i = 0; i < 3; i++) {
		fds[i] = new_fd();
		assert_true(fdlist_push(&list, fds[i]));
	}
	fdlist_drop(&list, 2);
	assert_false(is_open(fds[0]));
	assert_false(is_open(fds[1]));
	assert_true(is_open(fds[2]));
	assert_int_equal(list.count, 1);
	fdlist_finish(&list);
}

static void move_takes_the_oldest_to_the_end(void **state)
{
	(void)state;
	struct fdlist from, to;
	fdlist_init(&from);
	fdlist_init(&to);
	int fds[5];
	for (size_t i = 0; i < 5; i++) {
		fds[i] = new_fd();
		assert_true(fdlist_push(i == 0 ? &to : &from, fds[i]));
	}
	assert_true(fdlist_move(&to, &from, 3));
	assert_int_equal(to.count, 4);
	assert_int_equal(from.count, 1);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(fdlist_peek(&to)[i], fds[i]);
	}
	assert_int_equal(fdlist_peek(&from)[0], fds[4]);
	assert_true(fdlist_move(&to, &from, 0));
	fdlist_finish(&from);
	assert_false(is_open(fds[4]));
	assert_true(is_open(fds[3]));
	fdlist_finish(&to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(an_empty_list_gives_nothing),
		fd_count_test(fds_are_taken_in_the_order_they_were_pushed),
		fd_count_test(order_holds_while_pushing_and_taking),
		fd_count_test(finish_closes_what_nobody_took),
		fd_count_test(drop_closes_the_oldest),
		fd_count_test(move_takes_the_oldest_to_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
