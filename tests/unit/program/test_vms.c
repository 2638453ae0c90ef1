#include "program/vms.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define MOST 10

static const struct vms_options options = {
	.limits.most = {[BUDGET_FDS] = MOST},
	.max_sessions = 3,
};

// A session of a VM as its process sees it.
static struct budget join(const struct vm *vm, size_t slot)
{
	struct budget budget = {.limits.most = {[BUDGET_FDS] = MOST}};
	assert_true(budget_join(&budget, fcntl(vm_page(vm), F_DUPFD_CLOEXEC, 0), slot));
	return budget;
}

static bool contains(const struct vms *vms, const char *part)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	vms_print(vms, out, "program");
	fclose(out);
	bool found = strstr(text, part) != NULL;
	free(text);
	return found;
}

static void a_vm_has_so_many_sessions_and_no_more(void **state)
{
	(void)state;
	struct vms *vms = vms_create(&options);
	struct vm *vm[3];
	size_t slots[3], slot;
	for (size_t i = 0; i < 3; i++) {
		vm[i] = vms_enter(vms, 5, &slots[i]);
		assert_non_null(vm[i]);
		assert_int_equal(slots[i], i);
	}
	assert_null(vms_enter(vms, 5, &slot));
	assert_int_equal(errno, EDQUOT);
	struct vm *other = vms_enter(vms, 6, &slot); // another VM has its own
	assert_non_null(other);
	assert_ptr_not_equal(other, vm[0]);
	vm_leave(other, slot);
	vm_leave(vm[1], slots[1]);
	assert_ptr_equal(vms_enter(vms, 5, &slot), vm[0]);
	assert_int_equal(slot, 1);
	assert_true(contains(vms, "VM with CID 5\n  sessions         3 used, 3 at most, limit 3"));
	for (size_t i = 0; i < 3; i++) {
		vm_leave(vm[i], slots[i]);
	}
	assert_true(contains(vms, "VM with CID 5\n  sessions         0 used, 3 at most, limit 3"));
	vms_destroy(vms);
}

static void one_vm_takes_nothing_from_another(void **state)
{
	(void)state;
	struct vms *vms = vms_create(&options);
	size_t slots[3];
	struct vm *first = vms_enter(vms, 5, &slots[0]);
	assert_ptr_equal(vms_enter(vms, 5, &slots[1]), first);
	struct vm *second = vms_enter(vms, 6, &slots[2]);
	struct budget a = join(first, slots[0]), b = join(first, slots[1]),
		      c = join(second, slots[2]);
	assert_true(budget_charge(&a, BUDGET_FDS, MOST));
	assert_false(budget_charge(&b, BUDGET_FDS, 1));
	assert_true(budget_charge(&c, BUDGET_FDS, MOST));
	budget_leave(&a);
	budget_leave(&b);
	budget_leave(&c);
	vm_leave(first, slots[0]);
	vm_leave(first, slots[1]);
	vm_leave(second, slots[2]);
	vms_destroy(vms);
}

static void a_session_that_is_gone_leaves_nothing(void **state)
{
	(void)state;
	struct vms *vms = vms_create(&options);
	size_t slots[2];
	struct vm *vm = vms_enter(vms, 0, &slots[0]);
	assert_ptr_equal(vms_enter(vms, 0, &slots[1]), vm);
	struct budget killed = join(vm, slots[0]), other = join(vm, slots[1]);
	assert_true(budget_charge(&killed, BUDGET_FDS, 7));
	assert_true(budget_charge(&other, BUDGET_FDS, 3));
	assert_true(contains(vms, "local guests\n"));
	assert_true(contains(vms, "fds              10 used, 10 at most, limit 10"));
	vm_leave(vm, slots[0]);
	assert_true(contains(vms, "fds              3 used, 10 at most, limit 10"));
	assert_true(budget_charge(&other, BUDGET_FDS, 7));
	budget_leave(&killed);
	budget_leave(&other);
	vm_leave(vm, slots[1]);
	assert_true(contains(vms, "fds              0 used, 10 at most, limit 10"));
	vms_destroy(vms);
}

static void machines_without_sessions_are_forgotten_in_the_end(void **state)
{
	(void)state;
	struct vms *vms = vms_create(&options);
	size_t slot, before = fd_count(), first;
	struct vm *stays = vms_enter(vms, 3, &first);
	for (uint32_t cid = 10; cid < 500; cid++) {
		struct vm *vm = vms_enter(vms, cid, &slot);
		assert_non_null(vm);
		assert_int_equal(slot, 0);
		vm_leave(vm, slot);
	}
	assert_true(fd_count() < before + 100);
	assert_true(contains(vms, "CID 499\n"));
	assert_true(contains(vms, "CID 3\n"));
	assert_false(contains(vms, "CID 10\n"));
	vm_leave(stays, first);
	vms_destroy(vms);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_vm_has_so_many_sessions_and_no_more),
		fd_count_test(one_vm_takes_nothing_from_another),
		fd_count_test(a_session_that_is_gone_leaves_nothing),
		fd_count_test(machines_without_sessions_are_forgotten_in_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
