#ifndef TESTS_SUPPORT_FD_COUNT_H
#define TESTS_SUPPORT_FD_COUNT_H

#include <stddef.h>

/**
 * Brackets a cmocka test by counts of the process's open fds: one that is left open fails the test.
 *
 *     cmocka_unit_test_setup_teardown(name, fd_count_setup, fd_count_teardown)
 */

int fd_count_setup(void **state);
int fd_count_teardown(void **state);

// The fds that are open now.
size_t fd_count(void);

#define fd_count_test(name) cmocka_unit_test_setup_teardown(name, fd_count_setup, fd_count_teardown)

#endif
