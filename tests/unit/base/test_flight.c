#include "base/flight.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/budget.h"
#include "base/fdlist.h"
#include "base/scm.h"
#include "tests/support/fd_count.h"

// A socket with fds on their way to its reader.
struct fixture {
	struct event_base *base;
	struct budget budget;
	struct flights *flights;
	struct flight *flight;
	int own, reader;
};

static void begin(struct fixture *fixture, int type)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair), 0);
	*fixture = (struct fixture){.own = pair[0], .reader = pair[1]};
	fixture->budget.limits.most[BUDGET_FDS] = 1000;
	fixture->budget.limits.most[BUDGET_MEMORY] = 1000;
	fixture->budget.limits.most[BUDGET_FLIGHT] = 1000;
	fixture->base = event_base_new();
	fixture->flights = flights_create(fixture->base, &fixture->budget);
	fixture->flight = flight_create(fixture->flights, fixture->own, NULL);
	assert_non_null(fixture->flight);
}

static void end(struct fixture *fixture)
{
	flight_destroy(fixture->flight);
	flights_destroy(fixture->flights);
	assert_int_equal(fixture->budget.used[BUDGET_FDS], 0);
	assert_int_equal(fixture->budget.used[BUDGET_MEMORY], 0);
	assert_int_equal(fixture->budget.used[BUDGET_FLIGHT], 0);
	event_base_free(fixture->base);
	if (fixture->own >= 0) {
		close(fixture->own);
	}
	close(fixture->reader);
}

// A byte with n fds of some memory, which may be NULL. As flight_send.
static ssize_t try_to_send(struct fixture *fixture, size_t n, struct charge *memory)
{
	struct parcel *parcel = parcel_create(&fixture->budget);
	struct iovec iov = {"x", 1};
	struct fdlist fds;
	fdlist_init(&fds);
	for (size_t i = 0; i < n; i++) {
		assert_true(parcel_add(parcel, memory));
		assert_true(fdlist_push(&fds, open("/dev/null", O_RDONLY | O_CLOEXEC)));
	}
	ssize_t sent = flight_send(fixture->flight, &iov, 1, &fds, n);
	fdlist_finish(&fds);
	if (sent >= 0) {
		flight_add(fixture->flight, parcel);
	} else {
		parcel_destroy(parcel);
	}
	return sent;
}

static void send_fds(struct fixture *fixture, size_t n, struct charge *memory)
{
	assert_int_equal(try_to_send(fixture, n, memory), 1);
}

static void take(struct fixture *fixture)
{
	char byte;
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_recv(fixture->reader, &byte, 1, &fds), 1);
	fdlist_finish(&fds);
}

static void wait_for_fds(struct fixture *fixture, uint64_t used)
{
	while (fixture->budget.used[BUDGET_FDS] != used) {
		assert_int_equal(event_base_loop(fixture->base, EVLOOP_ONCE), 0);
	}
}

static void what_nobody_reads_stays_charged(void **state)
{
	(void)state;
	const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (size_t i = 0; i < 2; i++) {
		struct fixture fixture;
		begin(&fixture, types[i]);
		struct charge *memory = charge_create(&fixture.budget, 100);
		send_fds(&fixture, 3, memory);
		charge_unref(memory);
		send_fds(&fixture, 2, NULL);
		assert_int_equal(fixture.budget.used[BUDGET_FDS], 5);
		assert_int_equal(fixture.budget.used[BUDGET_MEMORY], 100);
		take(&fixture);
		wait_for_fds(&fixture, 2);
		assert_int_equal(fixture.budget.used[BUDGET_MEMORY], 0);
		take(&fixture);
		wait_for_fds(&fixture, 0);
		end(&fixture);
	}
}

static void a_reader_that_always_lags_behind_has_taken_the_rest(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	for (size_t i = 0; i < 10; i++) {
		send_fds(&fixture, 1, NULL);
	}
	for (size_t i = 0; i < 5000; i++) { // never empty
		take(&fixture);
		send_fds(&fixture, 1, NULL);
		assert_true(fixture.budget.used[BUDGET_FDS] <= 11);
	}
	end(&fixture);
}

static void a_budget_that_is_full_has_all_looked_at(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	fixture.budget.limits.most[BUDGET_FDS] = 3;
	send_fds(&fixture, 3, NULL);
	assert_false(budget_charge(&fixture.budget, BUDGET_FDS, 1));
	assert_string_equal(budget_exceeded(&fixture.budget),
		"over the session's budget of fds: 3 (--max-fds)");
	take(&fixture);
	budget_forget(&fixture.budget);
	assert_true(budget_charge(&fixture.budget, BUDGET_FDS, 3));
	assert_null(budget_exceeded(&fixture.budget));
	budget_release(&fixture.budget, BUDGET_FDS, 3);
	end(&fixture);
}

static void a_parcel_beyond_the_budget_is_as_it_was(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	fixture.budget.limits.most[BUDGET_FDS] = 1;
	struct charge *memory = charge_create(&fixture.budget, 10);
	struct parcel *parcel = parcel_create(&fixture.budget);
	assert_true(parcel_add(parcel, NULL));
	assert_false(parcel_add(parcel, memory));
	charge_unref(memory);
	assert_int_equal(fixture.budget.used[BUDGET_MEMORY], 0);
	parcel_destroy(parcel);
	end(&fixture);
}

static void a_socket_that_is_closed_stays_until_its_fds_were_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	char byte;
	begin(&fixture, SOCK_STREAM);
	send_fds(&fixture, 4, NULL);
	flight_close(fixture.flight, true);
	fixture.flight = NULL;
	int own = fixture.own;
	fixture.own = -1;
	assert_int_equal(send(fixture.reader, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(fixture.budget.used[BUDGET_FDS], 4);
	take(&fixture);
	assert_int_equal(recv(fixture.reader, &byte, 1, MSG_DONTWAIT), 0);
	wait_for_fds(&fixture, 0);
	assert_int_equal(fcntl(own, F_GETFD), -1);
	end(&fixture);
}

static void what_was_written_without_fds_is_charged_by_the_buffer(void **state)
{
	(void)state;
	for (int alone = 0; alone < 2; alone++) {
		struct fixture fixture;
		struct iovec iov = {"x", 1};
		begin(&fixture, SOCK_STREAM);
		flight_destroy(fixture.flight);
		struct charge *buffer = charge_create(&fixture.budget, 200);
		fixture.flight = flight_create(fixture.flights, fixture.own, buffer);
		charge_unref(buffer);
		assert_int_equal(flight_send(fixture.flight, &iov, 1, NULL, 0), 1);
		flight_close(fixture.flight, alone);
		fixture.flight = NULL;
		fixture.own = -1;
		assert_int_equal(fixture.budget.used[BUDGET_MEMORY], alone ? 200 : 0);
		take(&fixture);
		while (fixture.budget.used[BUDGET_MEMORY] > 0) {
			event_base_loop(fixture.base, EVLOOP_ONCE);
		}
		end(&fixture);
	}
}

static void one_that_others_have_is_not_shut_down(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	int other = fcntl(fixture.own, F_DUPFD_CLOEXEC, 0);
	send_fds(&fixture, 1, NULL);
	flight_close(fixture.flight, false);
	fixture.flight = NULL;
	fixture.own = -1;
	assert_int_equal(send(fixture.reader, "x", 1, MSG_NOSIGNAL), 1);
	assert_int_equal(send(other, "y", 1, MSG_NOSIGNAL), 1);
	close(other);
	end(&fixture); // nothing is left of it
}

struct left {
	unsigned int calls;
	int fd;
	uint64_t amounts[BUDGET_COUNT];
};

static void handle_leave(void *data, int fd, const uint64_t amounts[BUDGET_COUNT])
{
	struct left *left = data;
	left->calls++;
	left->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	memcpy(left->amounts, amounts, sizeof(left->amounts));
}

static void what_is_not_taken_when_the_session_ends_is_left(void **state)
{
	(void)state;
	for (int closed = 0; closed < 2; closed++) {
		struct fixture fixture;
		struct left left = {0};
		begin(&fixture, SOCK_STREAM);
		fixture.budget.leave = handle_leave;
		fixture.budget.leave_data = &left;
		struct charge *memory = charge_create(&fixture.budget, 100);
		send_fds(&fixture, 2, NULL);
		send_fds(&fixture, 3, memory);
		charge_unref(memory);
		take(&fixture);
		if (closed) {
			flight_close(fixture.flight, true);
			fixture.flight = NULL;
			fixture.own = -1;
		}
		end(&fixture); // nothing is charged any more
		assert_int_equal(left.calls, 1);
		assert_int_equal(left.amounts[BUDGET_FDS], 3);
		assert_int_equal(left.amounts[BUDGET_FLIGHT], 3);
		assert_int_equal(left.amounts[BUDGET_MEMORY], 100);
		close(left.fd);
	}
}

static void what_is_taken_is_not_left(void **state)
{
	(void)state;
	struct fixture fixture;
	struct left left = {0};
	begin(&fixture, SOCK_STREAM);
	fixture.budget.leave = handle_leave;
	fixture.budget.leave_data = &left;
	send_fds(&fixture, 2, NULL);
	take(&fixture);
	end(&fixture);
	assert_int_equal(left.calls, 0);
}

static void a_reader_that_leaves_has_taken_all(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	send_fds(&fixture, 4, NULL);
	shutdown(fixture.reader, SHUT_RDWR);
	close(fixture.reader);
	fixture.reader = fcntl(fixture.own, F_DUPFD_CLOEXEC, 0);
	wait_for_fds(&fixture, 0);
	end(&fixture);
}

static void fds_wait_while_too_many_are_in_flight(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	fixture.budget.limits.most[BUDGET_FLIGHT] = 5;
	send_fds(&fixture, 3, NULL);
	assert_int_equal(try_to_send(&fixture, 3, NULL), -ETOOMANYREFS);
	assert_null(budget_exceeded(&fixture.budget)); // nobody has done anything wrong
	assert_int_equal(fixture.budget.used[BUDGET_FLIGHT], 3);
	send_fds(&fixture, 0, NULL);
	send_fds(&fixture, 2, NULL);
	assert_int_equal(try_to_send(&fixture, 1, NULL), -ETOOMANYREFS);
	take(&fixture);
	send_fds(&fixture, 3, NULL);
	assert_int_equal(fixture.budget.used[BUDGET_FLIGHT], 5);
	end(&fixture);
}

static ssize_t try_by(struct fixture *fixture, struct flight *flight, size_t n)
{
	struct flight *own = fixture->flight;
	fixture->flight = flight;
	ssize_t sent = try_to_send(fixture, n, NULL);
	fixture->flight = own;
	return sent;
}

static void who_waits_first_goes_first(void **state)
{
	(void)state;
	struct fixture fixture;
	int pair[2];
	begin(&fixture, SOCK_STREAM);
	fixture.budget.limits.most[BUDGET_FLIGHT] = 2;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	struct flight *second = flight_create(fixture.flights, pair[0], NULL);
	struct flight *third = flight_create(fixture.flights, pair[1], NULL);
	send_fds(&fixture, 2, NULL);
	assert_int_equal(try_by(&fixture, second, 1), -ETOOMANYREFS);
	assert_int_equal(try_by(&fixture, third, 1), -ETOOMANYREFS);
	take(&fixture);
	assert_int_equal(try_by(&fixture, third, 1), -ETOOMANYREFS);
	assert_int_equal(try_by(&fixture, second, 2), 1);
	assert_int_equal(try_to_send(&fixture, 1, NULL), -ETOOMANYREFS);
	flight_destroy(second);
	assert_int_equal(try_to_send(&fixture, 1, NULL), -ETOOMANYREFS);
	flight_destroy(third); // whose turn it was
	assert_int_equal(try_to_send(&fixture, 1, NULL), 1);
	close(pair[0]);
	close(pair[1]);
	end(&fixture);
}

static void a_parcel_in_parts_is_in_flight_by_its_parts(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture, SOCK_STREAM);
	struct iovec iov = {"x", 1};
	struct fdlist fds;
	fdlist_init(&fds);
	for (size_t i = 0; i < 3; i++) {
		assert_true(fdlist_push(&fds, open("/dev/null", O_RDONLY | O_CLOEXEC)));
	}
	struct parcel *parcel = parcel_create(&fixture.budget);
	assert_int_equal(flight_send(fixture.flight, &iov, 1, &fds, 2), 1);
	assert_int_equal(flight_send(fixture.flight, &iov, 1, &fds, 1), 1);
	assert_int_equal(fixture.budget.used[BUDGET_FLIGHT], 3);
	flight_add(fixture.flight, parcel);
	take(&fixture);
	take(&fixture);
	send_fds(&fixture, 1, NULL); // looks
	assert_int_equal(fixture.budget.used[BUDGET_FLIGHT], 1);
	assert_int_equal(flight_send(fixture.flight, &iov, 1, &fds, 2), 1); // no parcel will come
	fdlist_finish(&fds);
	end(&fixture);
}

#define NOBODY 65534

// How many fds can be in flight of a user who is not root.
static size_t fill(void)
{
	struct rlimit limit, after;
	struct fixture fixture;
	size_t n = 0;
	begin(&fixture, SOCK_STREAM);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	ssize_t sent = 1;
	while (sent == 1 && n < 900) {
		sent = try_to_send(&fixture, 28, NULL);
		n += sent == 1 ? 28 : 0;
	}
	assert_true(sent == 1 || sent == -ETOOMANYREFS);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &after), 0);
	assert_int_equal(after.rlim_cur, limit.rlim_cur);
	end(&fixture);
	return n;
}

// Calls good as a user who is not root, whom it has to be true for.
static void run_as_nobody(bool (*good)(void))
{
	struct rlimit limit;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_max < 1024 || geteuid() != 0) {
		skip(); // who runs the tests may have any number in flight
	}
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		limit.rlim_cur = 1024;
		bool ok = setrlimit(RLIMIT_NOFILE, &limit) == 0 && setgid(NOBODY) == 0 &&
			setuid(NOBODY) == 0;
		_exit(!ok ? 2 : !good());
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 2) {
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

static bool one_fills_half(void)
{
	return fill() <= FLIGHT_USER_MAX + 28;
}

static void fds_wait_while_the_user_has_too_many_in_flight(void **state)
{
	(void)state;
	run_as_nobody(one_fills_half);
}

#define MACHINES 8

static bool one_is_left_room(void)
{
	struct fixture machines[MACHINES], late;
	for (size_t i = 0; i < MACHINES; i++) {
		begin(&machines[i], SOCK_STREAM);
		machines[i].budget.limits.most[BUDGET_FLIGHT] = 256;
		while (try_to_send(&machines[i], 4, NULL) == 1) {
		}
	}
	begin(&late, SOCK_STREAM);
	bool good = try_to_send(&late, 4, NULL) == 1 && try_to_send(&late, 4, NULL) == 1;
	end(&late);
	for (size_t i = 0; i < MACHINES; i++) {
		end(&machines[i]);
	}
	return good;
}

// Each may have a share, and there may be any number.
static void others_leave_room_for_who_has_few_in_flight(void **state)
{
	(void)state;
	run_as_nobody(one_is_left_room);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_nobody_reads_stays_charged),
		fd_count_test(a_reader_that_always_lags_behind_has_taken_the_rest),
		fd_count_test(a_budget_that_is_full_has_all_looked_at),
		fd_count_test(a_parcel_beyond_the_budget_is_as_it_was),
		fd_count_test(a_socket_that_is_closed_stays_until_its_fds_were_taken),
		fd_count_test(what_was_written_without_fds_is_charged_by_the_buffer),
		fd_count_test(one_that_others_have_is_not_shut_down),
		fd_count_test(what_is_not_taken_when_the_session_ends_is_left),
		fd_count_test(what_is_taken_is_not_left),
		fd_count_test(a_reader_that_leaves_has_taken_all),
		fd_count_test(fds_wait_while_too_many_are_in_flight),
		fd_count_test(who_waits_first_goes_first),
		fd_count_test(a_parcel_in_parts_is_in_flight_by_its_parts),
		fd_count_test(fds_wait_while_the_user_has_too_many_in_flight),
		fd_count_test(others_leave_room_for_who_has_few_in_flight),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
