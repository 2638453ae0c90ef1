#include "program/vms.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "program/leftovers.h"
#include "tests/support/fd_count.h"

#define MOST   10
#define SECOND UINT64_C(1000000000)
#define START  (1000 * SECOND) // when it is now

static const struct vms_options options = {
	.limits.most = {[BUDGET_FDS] = MOST},
	.max_sessions = 3,
	.connections = {.per_second = 1000, .burst = 1000},
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
		vm[i] = vms_enter(vms, 5, START, &slots[i]);
		assert_non_null(vm[i]);
		assert_int_equal(slots[i], i + 1); // the first one is for what they leave
	}
	assert_null(vms_enter(vms, 5, START, &slot));
	assert_int_equal(errno, EDQUOT);
	struct vm *other = vms_enter(vms, 6, START, &slot); // another VM has its own
	assert_non_null(other);
	assert_ptr_not_equal(other, vm[0]);
	vm_leave(other, slot);
	vm_leave(vm[1], slots[1]);
	assert_ptr_equal(vms_enter(vms, 5, START, &slot), vm[0]);
	assert_int_equal(slot, slots[1]);
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
	struct vm *first = vms_enter(vms, 5, START, &slots[0]);
	assert_ptr_equal(vms_enter(vms, 5, START, &slots[1]), first);
	struct vm *second = vms_enter(vms, 6, START, &slots[2]);
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
	struct vm *vm = vms_enter(vms, 0, START, &slots[0]);
	assert_ptr_equal(vms_enter(vms, 0, START, &slots[1]), vm);
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
	struct vm *stays = vms_enter(vms, 3, START, &first);
	for (uint32_t cid = 10; cid < 500; cid++) {
		struct vm *vm = vms_enter(vms, cid, START, &slot);
		assert_non_null(vm);
		assert_int_equal(slot, 1);
		vm_leave(vm, slot);
	}
	assert_true(fd_count() < before + 100);
	assert_true(contains(vms, "CID 499\n"));
	assert_true(contains(vms, "CID 3\n"));
	assert_false(contains(vms, "CID 10\n"));
	vm_leave(stays, first);
	vms_destroy(vms);
}

// False: it connects more often than it may.
static bool connects(struct vms *vms, uint32_t cid, uint64_t now)
{
	size_t slot;
	struct vm *vm = vms_enter(vms, cid, now, &slot);
	if (vm == NULL) {
		assert_int_equal(errno, EAGAIN);
		return false;
	}
	vm_leave(vm, slot);
	return true;
}

static const struct vms_options seldom = {
	.max_sessions = 3,
	.connections = {.per_second = 2, .burst = 5},
};

static void a_vm_connects_in_a_burst_and_then_at_its_rate(void **state)
{
	(void)state;
	struct vms *vms = vms_create(&seldom);
	for (int i = 0; i < 5; i++) {
		assert_true(connects(vms, 5, START));
	}
	assert_false(connects(vms, 5, START));
	assert_true(connects(vms, 6, START)); // another VM has its own
	assert_false(connects(vms, 5, START + SECOND / 2 - 1));
	assert_true(connects(vms, 5, START + SECOND / 2));
	assert_false(connects(vms, 5, START + SECOND / 2));
	for (int i = 0; i < 5; i++) {
		assert_true(connects(vms, 5, START + 100 * SECOND));
	}
	assert_false(connects(vms, 5, START + 100 * SECOND));
	assert_true(contains(vms, "VM with CID 5\n"));
	assert_true(contains(vms, "connections      4 turned away"));
	vms_destroy(vms);
}

// What is printed to stderr from the call of stderr_begin on.
static int stderr_begin(int *before)
{
	int file = memfd_create("stderr", MFD_CLOEXEC);
	*before = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(dup2(file, STDERR_FILENO), STDERR_FILENO);
	return file;
}

static void stderr_end(int file, int before, char *text, size_t len)
{
	dup2(before, STDERR_FILENO);
	close(before);
	ssize_t n = pread(file, text, len - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	close(file);
}

static size_t count_lines(const char *text)
{
	size_t n = 0;
	for (; *text != '\0'; text++) {
		n += *text == '\n' ? 1 : 0;
	}
	return n;
}

static void who_connects_too_often_makes_few_lines(void **state)
{
	(void)state;
	struct vms *vms = vms_create(&seldom);
	char text[4096];
	int before, file = stderr_begin(&before);
	for (int i = 0; i < 1005; i++) {
		connects(vms, 5, START);
	}
	connects(vms, 5, START + 9 * SECOND); // may, and it is too early to tell of the others
	connects(vms, 5, START + 11 * SECOND);
	connects(vms, 5, START + 22 * SECOND); // nothing is left to be told
	stderr_end(file, before, text, sizeof(text));
	assert_int_equal(count_lines(text), 2);
	assert_non_null(strstr(text, "VM with CID 5: connections turned away: 1,"));
	assert_non_null(strstr(text, "VM with CID 5: connections turned away: 999,"));
	vms_destroy(vms);
}

static void new_limits_are_for_new_sessions(void **state)
{
	(void)state;
	const struct vms_options other = {
		.limits.most = {[BUDGET_FDS] = 2 * MOST},
		.max_sessions = 1,
		.connections = {.per_second = 1, .burst = 2},
	};
	struct vms *vms = vms_create(&options);
	size_t slots[2];
	struct vm *vm = vms_enter(vms, 5, START, &slots[0]);
	struct budget early = join(vm, slots[0]);
	early.limits.most[BUDGET_FDS] = 100;
	vms_set_options(vms, &other);
	assert_null(vms_enter(vms, 5, START, &slots[1]));
	assert_int_equal(errno, EDQUOT);
	assert_false(budget_charge(&early, BUDGET_FDS, MOST + 1));
	vms_set_options(vms,
		&(struct vms_options){.limits = other.limits,
			.max_sessions = 2,
			.connections = options.connections});
	assert_ptr_equal(vms_enter(vms, 5, START + 10 * SECOND, &slots[1]), vm);
	struct budget late = join(vm, slots[1]);
	late.limits.most[BUDGET_FDS] = 100;
	assert_true(budget_charge(&late, BUDGET_FDS, 2 * MOST));
	assert_false(budget_charge(&late, BUDGET_FDS, 1));
	budget_leave(&early);
	budget_leave(&late);
	vm_leave(vm, slots[0]);
	vm_leave(vm, slots[1]);
	vms_set_options(vms, &other);
	assert_true(connects(vms, 7, START));
	assert_true(connects(vms, 7, START));
	assert_false(connects(vms, 7, START));
	vms_destroy(vms);
}

static void a_vm_may_have_more_sessions_than_before(void **state)
{
	(void)state;
	static struct vm *vm[2 * VMS_SLOTS];
	static size_t slots[2 * VMS_SLOTS];
	struct vms_options more = options;
	more.connections = (struct rate){.per_second = 1, .burst = 3 * VMS_SLOTS};
	struct vms *vms = vms_create(&more);
	vm[0] = vms_enter(vms, 5, START, &slots[0]);
	more.max_sessions = 2 * VMS_SLOTS;
	vms_set_options(vms, &more);
	for (size_t i = 1; i < VMS_SLOTS; i++) {
		vm[i] = vms_enter(vms, 5, START, &slots[i]);
		assert_ptr_equal(vm[i], vm[0]);
	}
	size_t slot;
	assert_null(vms_enter(vms, 5, START, &slot)); // not as long as it has sessions
	assert_int_equal(errno, EDQUOT);
	for (size_t i = 0; i < VMS_SLOTS; i++) {
		vm_leave(vm[i], slots[i]);
	}
	for (size_t i = 0; i < VMS_SLOTS + 1; i++) {
		vm[i] = vms_enter(vms, 5, START, &slots[i]);
		assert_non_null(vm[i]);
	}
	for (size_t i = 0; i < VMS_SLOTS + 1; i++) {
		vm_leave(vm[i], slots[i]);
	}
	vms_destroy(vms);
}

static void what_nobody_has_read_stays_charged_to_the_vm(void **state)
{
	(void)state;
	const uint64_t left[BUDGET_COUNT] = {[BUDGET_FDS] = 7};
	struct vms *vms = vms_create(&options);
	size_t slot;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(send(pair[0], "x", 1, 0), 1);
	struct vm *vm = vms_enter(vms, 5, START, &slot);
	assert_true(vm_leave_unread(vm, pair[0], left));
	vm_leave(vm, slot);
	assert_true(contains(vms, "fds              7 used, 0 at most, limit 10"));
	struct vm *other = vms_enter(vms, 6, START, &slot);
	vm_leave(other, slot);
	assert_ptr_equal(vms_enter(vms, 5, START, &slot), vm); // as long as it is remembered
	struct budget budget = join(vm, slot);
	assert_true(budget_charge(&budget, BUDGET_FDS, 3));
	assert_false(budget_charge(&budget, BUDGET_FDS, 1));
	assert_true(vms_look(vms));
	close(pair[1]);
	assert_false(vms_look(vms));
	assert_true(budget_charge(&budget, BUDGET_FDS, 7));
	budget_leave(&budget);
	vm_leave(vm, slot);
	vms_destroy(vms);
}

static void a_vm_that_has_left_too_much_begins_nothing(void **state)
{
	(void)state;
	const uint64_t left[BUDGET_COUNT] = {0};
	struct vms *vms = vms_create(&options);
	size_t slot;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(send(pair[0], "x", 1, 0), 1);
	struct vm *vm = vms_enter(vms, 5, START, &slot);
	for (size_t i = 0; i < LEFTOVERS_FULL; i++) {
		assert_true(vm_leave_unread(vm, fcntl(pair[0], F_DUPFD_CLOEXEC, 0), left));
	}
	vm_leave(vm, slot);
	assert_null(vms_enter(vms, 5, START, &slot));
	assert_int_equal(errno, ENOBUFS);
	struct vm *other = vms_enter(vms, 6, START, &slot);
	assert_non_null(other);
	vm_leave(other, slot);
	close(pair[0]);
	close(pair[1]);
	while (vms_look(vms)) {
		sched_yield(); // threads close them, not more at a time than there may be
	}
	assert_ptr_equal(vms_enter(vms, 5, START, &slot), vm);
	vm_leave(vm, slot);
	vms_destroy(vms);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_vm_has_so_many_sessions_and_no_more),
		fd_count_test(one_vm_takes_nothing_from_another),
		fd_count_test(a_session_that_is_gone_leaves_nothing),
		fd_count_test(what_nobody_has_read_stays_charged_to_the_vm),
		fd_count_test(a_vm_that_has_left_too_much_begins_nothing),
		fd_count_test(a_vm_connects_in_a_burst_and_then_at_its_rate),
		fd_count_test(who_connects_too_often_makes_few_lines),
		fd_count_test(new_limits_are_for_new_sessions),
		fd_count_test(a_vm_may_have_more_sessions_than_before),
		fd_count_test(machines_without_sessions_are_forgotten_in_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
