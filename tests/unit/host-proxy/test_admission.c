#include "host-proxy/admission.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "program/worker.h"
#include "tests/support/fd_count.h"

static bool check_vm(const struct admission *admission, uint32_t cid, uint32_t port)
{
	struct worker_peer peer = {.cid = cid, .port = port, .by_device = true};
	return admission_check(admission, -1, &peer);
}

// A connection of this process's own, whose other end says that it is of our uid.
static bool check_local(const struct admission *admission)
{
	int pair[2];
	struct worker_peer peer = {0};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	bool ok = admission_check(admission, pair[0], &peer);
	assert_int_equal(peer.cid, 0);
	close(pair[0]);
	close(pair[1]);
	return ok;
}

static void without_rules_any_vm_may_connect_and_our_own_user(void **state)
{
	(void)state;
	const struct admission none = {0};
	assert_true(check_vm(&none, 3, 5000));
	assert_true(check_vm(&none, UINT32_MAX - 1, UINT32_MAX));
	assert_true(check_local(&none));
}

static void with_cids_no_other_one_may_connect_nor_a_local_program(void **state)
{
	(void)state;
	struct admission admission = {0};
	assert_null(admission_allow_cid(&admission, "3"));
	assert_null(admission_allow_cid(&admission, "77"));
	assert_true(check_vm(&admission, 3, 5000));
	assert_true(check_vm(&admission, 77, 5000));
	assert_false(check_vm(&admission, 4, 5000));
	assert_false(check_vm(&admission, 1, 5000));
	assert_false(check_local(&admission));
}

static void a_privileged_port_is_below_1024(void **state)
{
	(void)state;
	const struct admission admission = {.privileged_port = true};
	assert_true(check_vm(&admission, 3, 1));
	assert_true(check_vm(&admission, 3, 1023));
	assert_false(check_vm(&admission, 3, 1024));
	assert_false(check_vm(&admission, 3, UINT32_MAX));
	assert_false(check_local(&admission));
}

static void each_rule_has_to_hold(void **state)
{
	(void)state;
	struct admission admission = {.privileged_port = true};
	assert_null(admission_allow_cid(&admission, "3"));
	assert_true(check_vm(&admission, 3, 1000));
	assert_false(check_vm(&admission, 3, 2000));
	assert_false(check_vm(&admission, 4, 1000));
}

static void values_are_numbers(void **state)
{
	(void)state;
	struct admission admission = {0};
	assert_non_null(admission_allow_cid(&admission, "0"));
	assert_non_null(admission_allow_cid(&admission, "4294967295"));
	assert_non_null(admission_allow_cid(&admission, "-3"));
	assert_non_null(admission_allow_cid(&admission, ""));
	assert_non_null(admission_allow_uid(&admission, "root"));
	assert_non_null(admission_allow_uid(&admission, "4294967295"));
	assert_int_equal(admission.n_cids, 0);
	assert_int_equal(admission.n_uids, 0);
	for (size_t i = 0; i < ADMISSION_MAX; i++) {
		assert_null(admission_allow_cid(&admission, "3"));
		assert_null(admission_allow_uid(&admission, "1000"));
	}
	assert_string_equal(admission_allow_cid(&admission, "3"), "too many");
	assert_string_equal(admission_allow_uid(&admission, "1000"), "too many");
}

static void what_is_no_connection_is_turned_away(void **state)
{
	(void)state;
	const struct admission none = {0};
	struct worker_peer peer = {0};
	int fd = dup(STDERR_FILENO);
	assert_false(admission_check(&none, fd, &peer));
	assert_false(admission_check_user(&none, fd));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(without_rules_any_vm_may_connect_and_our_own_user),
		fd_count_test(with_cids_no_other_one_may_connect_nor_a_local_program),
		fd_count_test(a_privileged_port_is_below_1024),
		fd_count_test(each_rule_has_to_hold),
		fd_count_test(values_are_numbers),
		fd_count_test(what_is_no_connection_is_turned_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
