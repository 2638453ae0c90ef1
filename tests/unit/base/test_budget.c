#include "base/budget.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define SLOTS 4

// A VM and its sessions.
struct fixture {
	struct budget_page *page;
	int fd;
	struct budget sessions[SLOTS];
};

static void set_all(struct budget_limits *limits, uint64_t most)
{
	*limits = (struct budget_limits){0};
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		limits->most[i] = most;
	}
}

static void join(struct fixture *fixture, size_t slot, uint64_t most)
{
	struct budget *session = &fixture->sessions[slot];
	*session = (struct budget){0};
	set_all(&session->limits, most);
	budget_page_clear(fixture->page, slot, SLOTS);
	assert_true(budget_join(session, fcntl(fixture->fd, F_DUPFD_CLOEXEC, 0), slot));
}

static void begin(struct fixture *fixture, uint64_t vm, uint64_t session)
{
	struct budget_limits limits;
	set_all(&limits, vm);
	fixture->page = budget_page_create(&limits, SLOTS, &fixture->fd);
	assert_non_null(fixture->page);
	for (size_t i = 0; i < SLOTS; i++) {
		join(fixture, i, session);
	}
}

static void end(struct fixture *fixture)
{
	for (size_t i = 0; i < SLOTS; i++) {
		budget_leave(&fixture->sessions[i]);
	}
	budget_page_destroy(fixture->page);
	close(fixture->fd);
}

static void exactly_the_limit_can_be_had(void **state)
{
	(void)state;
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		enum budget_kind kind = (enum budget_kind)i;
		struct budget budget = {0};
		set_all(&budget.limits, 10);
		assert_true(budget_charge(&budget, kind, 4));
		assert_true(budget_charge(&budget, kind, 6));
		assert_null(budget_exceeded(&budget));
		assert_false(budget_charge(&budget, kind, 1));
		assert_non_null(budget_exceeded(&budget));
		assert_false(budget_charge(&budget, kind, UINT64_MAX));
		assert_int_equal(budget.used[kind], 10);
		assert_true(budget_charge(&budget, kind, 0));
		budget_release(&budget, kind, 10);
		assert_int_equal(budget.used[kind], 0);
		assert_int_equal(budget.peak[kind], 10);
		assert_false(budget_charge(&budget, kind, 11));
	}
}

static void memory_that_several_keep_is_given_back_by_the_last(void **state)
{
	(void)state;
	struct budget budget = {0};
	set_all(&budget.limits, 10);
	struct charge *charge = charge_create(&budget, 4);
	assert_null(charge_create(&budget, 7));
	assert_true(charge_grow(charge, 3));
	assert_int_equal(budget.used[BUDGET_MEMORY], 4);
	assert_true(charge_grow(charge, 10));
	assert_false(charge_grow(charge, 11));
	assert_ptr_equal(charge_ref(charge), charge);
	charge_unref(charge);
	assert_int_equal(budget.used[BUDGET_MEMORY], 10);
	charge_unref(charge);
	assert_int_equal(budget.used[BUDGET_MEMORY], 0);
	charge_unref(NULL);
}

static void give_back(void *data)
{
	struct budget *budget = data;
	budget_release(budget, BUDGET_FDS, budget->used[BUDGET_FDS] > 5 ? 5 : 0);
}

static void what_nobody_has_noticed_is_given_back_before_a_charge_fails(void **state)
{
	(void)state;
	struct budget budget = {.reclaim = give_back};
	budget.reclaim_data = &budget;
	set_all(&budget.limits, 10);
	assert_true(budget_charge(&budget, BUDGET_FDS, 10));
	assert_true(budget_charge(&budget, BUDGET_FDS, 5));
	assert_null(budget_exceeded(&budget));
	assert_int_equal(budget.used[BUDGET_FDS], 10);
	assert_false(budget_charge(&budget, BUDGET_FDS, 6));
	assert_non_null(budget_exceeded(&budget));
	assert_int_equal(budget.used[BUDGET_FDS], 5);
}

static void what_is_exceeded_is_named_until_it_is_forgotten(void **state)
{
	(void)state;
	struct budget budget = {0};
	budget.limits.most[BUDGET_MEMORY] = 4096;
	assert_false(budget_charge(&budget, BUDGET_MEMORY, 4097));
	assert_string_equal(budget_exceeded(&budget),
		"over the session's budget of bytes of memory: 4096 (--max-memory)");
	assert_true(budget_charge(&budget, BUDGET_MEMORY, 1));
	assert_non_null(budget_exceeded(&budget));
	budget_forget(&budget);
	assert_null(budget_exceeded(&budget));
}

static void a_level_is_what_was_measured_last(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, 15, 10);
	struct budget *a = &fixture.sessions[0], *b = &fixture.sessions[1];
	assert_true(budget_set(a, BUDGET_UNSENT, 10));
	assert_false(budget_set(a, BUDGET_UNSENT, 11));
	assert_true(budget_set(a, BUDGET_UNSENT, 7));
	assert_true(budget_set(b, BUDGET_UNSENT, 8));
	assert_int_equal(budget_page_used(fixture.page, BUDGET_UNSENT), 15);
	assert_false(budget_set(b, BUDGET_UNSENT, 9));
	assert_string_equal(
		budget_exceeded(b), "over the VM's budget of unsent bytes: 15 (--max-vm-unsent)");
	assert_true(budget_set(b, BUDGET_UNSENT, 0));
	assert_true(budget_set(a, BUDGET_UNSENT, 0));
	assert_int_equal(budget_page_used(fixture.page, BUDGET_UNSENT), 0);
	end(&fixture);
}

static void the_sessions_of_a_vm_share_its_limit(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, 25, 10);
	struct budget *sessions = fixture.sessions;
	assert_true(budget_charge(&sessions[0], BUDGET_FDS, 10));
	assert_true(budget_charge(&sessions[1], BUDGET_FDS, 10));
	assert_true(budget_charge(&sessions[3], BUDGET_FDS, 5));
	assert_int_equal(budget_page_used(fixture.page, BUDGET_FDS), 25);
	assert_false(budget_charge(&sessions[2], BUDGET_FDS, 1));
	assert_string_equal(
		budget_exceeded(&sessions[2]), "over the VM's budget of fds: 25 (--max-vm-fds)");
	assert_int_equal(budget_page_used(fixture.page, BUDGET_FDS), 25); // nothing was charged
	assert_true(budget_charge(&sessions[2], BUDGET_STREAMS, 10));     // another kind
	budget_release(&sessions[0], BUDGET_FDS, 1);
	assert_true(budget_charge(&sessions[2], BUDGET_FDS, 1));
	end(&fixture);
}

static void what_a_killed_session_had_is_given_back_with_its_slot(void **state)
{
	(void)state;
	struct fixture fixture;
	int status;
	begin(&fixture, 10, 10);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		budget_charge(&fixture.sessions[2], BUDGET_OBJECTS, 10);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(budget_page_used(fixture.page, BUDGET_OBJECTS), 10);
	assert_false(budget_charge(&fixture.sessions[0], BUDGET_OBJECTS, 1));
	budget_page_clear(fixture.page, 2, SLOTS);
	assert_int_equal(budget_page_used(fixture.page, BUDGET_OBJECTS), 0);
	assert_true(budget_charge(&fixture.sessions[0], BUDGET_OBJECTS, 10));
	end(&fixture);
}

// Each charges and releases at the edge: the limit holds, and nothing is left in the end.
static void sessions_that_charge_at_once_stay_within_the_limit(void **state)
{
	(void)state;
	struct fixture fixture;
	int status;
	begin(&fixture, 3, 10);
	for (size_t i = 0; i < SLOTS; i++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		for (int n = 0; pid == 0 && n < 100000; n++) {
			if (budget_charge(&fixture.sessions[i], BUDGET_FRAMES, 1)) {
				budget_release(&fixture.sessions[i], BUDGET_FRAMES, 1);
			}
		}
		if (pid == 0) {
			_exit(fixture.sessions[i].used[BUDGET_FRAMES] == 0 ? 0 : 1);
		}
	}
	for (size_t i = 0; i < SLOTS; i++) {
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	assert_int_equal(budget_page_used(fixture.page, BUDGET_FRAMES), 0);
	assert_true(budget_charge(&fixture.sessions[0], BUDGET_FRAMES, 3));
	end(&fixture);
}

static void messages_may_come_in_a_burst_and_then_at_the_rate(void **state)
{
	(void)state;
	struct budget budget = {.limits = {.rate = 1, .burst = 10}};
	assert_true(budget_messages(&budget, 10));
	assert_false(budget_messages(&budget, 3600)); // an hour of them
	assert_string_equal(budget_exceeded(&budget),
		"over the session's budget of messages per second: 1 (--max-rate)");
	struct budget other = {.limits = {.rate = 1000000000, .burst = 5}};
	assert_true(budget_messages(&other, 5));
	assert_false(budget_messages(&(struct budget){.limits = {.rate = 3, .burst = 7}}, 8));
	assert_true(budget_messages(&(struct budget){.limits = {.rate = 3, .burst = 7}}, 7));
	assert_true(budget_messages(&(struct budget){0}, UINT32_MAX));       // no limit
	assert_false(budget_messages(&budget, UINT64_MAX / 1000000000 + 1)); // of nanoseconds
}

static void the_sessions_of_a_vm_share_its_rate(void **state)
{
	(void)state;
	struct fixture fixture;
	struct budget_limits limits = {.rate = 1, .burst = 10};
	fixture.page = budget_page_create(&limits, SLOTS, &fixture.fd);
	assert_non_null(fixture.page);
	for (size_t i = 0; i < SLOTS; i++) {
		join(&fixture, i, 0);
	}
	assert_true(budget_messages(&fixture.sessions[0], 6));
	assert_true(budget_messages(&fixture.sessions[1], 4));
	assert_false(budget_messages(&fixture.sessions[2], 3600));
	assert_string_equal(budget_exceeded(&fixture.sessions[2]),
		"over the VM's budget of messages per second: 1 (--max-vm-rate)");
	end(&fixture);
}

// Whatever is in the page: it is another process's, which may be anybody's by now.
static void a_page_that_was_written_over_does_no_harm(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, 10, 10);
	size_t size = (size_t)lseek(fixture.fd, 0, SEEK_END);
	void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fixture.fd, 0);
	assert_ptr_not_equal(bytes, MAP_FAILED);
	memset(bytes, 0xff, size);
	assert_false(budget_charge(&fixture.sessions[0], BUDGET_FDS, 1));
	assert_int_equal(ftruncate(fixture.fd, 0), -1);
	assert_int_equal(errno, EPERM);
	budget_page_clear(fixture.page, 1, SLOTS);
	budget_page_print(stderr, "written over", fixture.page);
	munmap(bytes, size);
	end(&fixture);
}

static void a_slot_that_is_not_there_cannot_be_joined(void **state)
{
	(void)state;
	struct fixture fixture;
	struct budget budget = {0};
	begin(&fixture, 1, 1);
	assert_false(budget_join(&budget, fcntl(fixture.fd, F_DUPFD_CLOEXEC, 0), SLOTS));
	assert_null(budget.page);
	int pipe_fds[2];
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	close(pipe_fds[1]);
	assert_false(budget_join(&budget, pipe_fds[0], 0));
	end(&fixture);
}

// The clock stands still for some milliseconds at a time, and a machine may stop for longer.
static void bytes_beyond_the_throughput_are_waited_for(void **state)
{
	(void)state;
	const uint64_t second = 1000000000, mib = 1 << 20;
	struct budget free = {0}, budget = {.limits.throughput = mib};
	assert_int_equal(budget_bytes(&free, 1u << 30), 0);
	assert_int_equal(budget_bytes(&budget, mib), 0);
	assert_int_equal(budget.paused, 0);
	uint64_t pause = budget_bytes(&budget, 1000 * mib);
	assert_true(pause > 0 && pause <= 1000 * second); // there is a longest one
	assert_int_equal(budget.paused, pause);
}

static void the_sessions_of_a_vm_share_its_throughput(void **state)
{
	(void)state;
	const uint64_t mib = 1 << 20;
	struct budget_limits limits = {.throughput = mib};
	int fd;
	struct budget_page *page = budget_page_create(&limits, 2, &fd);
	struct budget one = {0}, other = {0};
	assert_true(budget_join(&one, fcntl(fd, F_DUPFD_CLOEXEC, 0), 0));
	assert_true(budget_join(&other, fd, 1));
	assert_int_equal(budget_bytes(&one, mib), 0);
	assert_true(budget_bytes(&other, 1000 * mib) > 0);
	budget_leave(&one);
	budget_leave(&other);
	budget_page_destroy(page);
}

// Nothing of it is taken where it has to be waited for.
static void what_others_are_told_waits_beyond_its_limit(void **state)
{
	(void)state;
	const uint64_t second = 1000000000, mib = 1 << 20;
	struct budget free = {0}, budget = {.limits.told = mib};
	assert_int_equal(budget_tell(&free, BUDGET_PANELS, 1000 * mib), 0);
	assert_int_equal(budget_tell(&budget, BUDGET_PANELS, mib), 0);
	budget.told_until[BUDGET_PANELS] = UINT64_MAX / 2;
	assert_int_equal(budget_tell(&budget, BUDGET_PANELS, mib / 2), second / 2);
	assert_int_equal(budget_tell(&budget, BUDGET_PANELS, 1000 * mib), second);
	assert_int_equal(budget.told_until[BUDGET_PANELS], UINT64_MAX / 2);
	budget.told_until[BUDGET_PANELS] = 0;
	assert_int_equal(budget_tell(&budget, BUDGET_PANELS, 1000 * mib), 0); // all that there is
}

static void what_costs_more_than_may_come_at_once_costs_that(void **state)
{
	(void)state;
	struct budget_limits limits = {.rate = 1, .burst = 50};
	int fd;
	struct budget_page *page = budget_page_create(&limits, 1, &fd);
	struct budget budget = {.limits.burst = 10}; // without a rate
	assert_int_equal(budget_burst(&budget, 1000), 1000);
	budget.limits.rate = 1;
	assert_int_equal(budget_burst(&budget, 9), 9);
	assert_int_equal(budget_burst(&budget, 1000), 10);
	budget.limits.burst = 100;
	assert_true(budget_join(&budget, fd, 0));
	assert_int_equal(budget_burst(&budget, 1000), 50);
	budget_leave(&budget);
	budget_page_destroy(page);
}

static void the_sessions_of_a_vm_share_what_others_are_told(void **state)
{
	(void)state;
	const uint64_t gib = 1 << 30;
	struct budget_limits limits = {.told = gib};
	int fd;
	struct budget_page *page = budget_page_create(&limits, 2, &fd);
	struct budget one = {0}, other = {.limits.told = 2 * gib};
	assert_true(budget_join(&one, fcntl(fd, F_DUPFD_CLOEXEC, 0), 0));
	assert_true(budget_join(&other, fd, 1));
	assert_int_equal(budget_tell(&one, BUDGET_PANELS, gib), 0);
	assert_true(budget_tell(&other, BUDGET_PANELS, gib) > 0);
	assert_int_equal(other.told_until[BUDGET_PANELS], 0);
	budget_leave(&one);
	budget_leave(&other);
	budget_page_destroy(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(exactly_the_limit_can_be_had),
		fd_count_test(memory_that_several_keep_is_given_back_by_the_last),
		fd_count_test(what_nobody_has_noticed_is_given_back_before_a_charge_fails),
		fd_count_test(what_is_exceeded_is_named_until_it_is_forgotten),
		fd_count_test(a_level_is_what_was_measured_last),
		fd_count_test(the_sessions_of_a_vm_share_its_limit),
		fd_count_test(what_a_killed_session_had_is_given_back_with_its_slot),
		fd_count_test(sessions_that_charge_at_once_stay_within_the_limit),
		fd_count_test(messages_may_come_in_a_burst_and_then_at_the_rate),
		fd_count_test(bytes_beyond_the_throughput_are_waited_for),
		fd_count_test(the_sessions_of_a_vm_share_its_throughput),
		fd_count_test(what_others_are_told_waits_beyond_its_limit),
		fd_count_test(the_sessions_of_a_vm_share_what_others_are_told),
		fd_count_test(what_costs_more_than_may_come_at_once_costs_that),
		fd_count_test(the_sessions_of_a_vm_share_its_rate),
		fd_count_test(a_page_that_was_written_over_does_no_harm),
		fd_count_test(a_slot_that_is_not_there_cannot_be_joined),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
