#include <errno.h>
#include <event2/event.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "base/scm.h"
#include "base/workers.h"
#include "tests/support/fd_count.h"
#include "tests/support/lingering.h"

/*
 * This program is its own worker: with "--session-fd N" it does what the record that it is given
 * says.
 */

#define STATE "TEST_WORKERS_STATE" // in the environment of those that are started from now on

static int worker_main(int session_fd, const char *mode)
{
	char record[CHILD_RECORD_MAX];
	struct fdlist fds;
	if (strcmp(mode, "dies") == 0) {
		return 1;
	}
	if (strcmp(mode, "tells") == 0) {
		if (strcmp(getenv(STATE), "ready") == 0) {
			workers_ready(session_fd);
		}
		workers_report(session_fd, "started", 7, -1);
	}
	fdlist_init(&fds);
	ssize_t n = workers_receive(session_fd, record, sizeof(record) - 1, &fds);
	if (n <= 0) {
		return n == 0 ? 0 : 2;
	}
	record[n] = '\0';
	if (strcmp(record, "crash") == 0) {
		raise(SIGKILL);
	} else if (strcmp(record, "stay") == 0) {
		workers_report(session_fd, "staying", 7, -1);
		pause();
	} else if (strcmp(record, "state") == 0) {
		workers_report(session_fd, getenv(STATE), strlen(getenv(STATE)), -1);
	} else if (strcmp(record, "again") == 0) {
		fdlist_finish(&fds);
		n = workers_receive(session_fd, record, sizeof(record), &fds);
		workers_report(session_fd, record, (size_t)n, fdlist_take(&fds));
	} else if (strcmp(record, "nonsense") == 0) {
		workers_report(session_fd, record, (size_t)n, -1);
		pause();
	} else if (strcmp(record, "two") == 0) {
		struct iovec iov = {.iov_base = record, .iov_len = (size_t)n};
		scm_send(session_fd, &iov, 1, &fds, fds.count);
		pause();
	} else if (strcmp(record, "mute") == 0) { // what follows is not read
		for (int i = 0; i < 2; i++) {
			workers_report(session_fd, record, 0, -1);
		}
		workers_report(session_fd, record, 0, *fdlist_peek(&fds));
	} else if (strcmp(record, "close") == 0) {
		// as it ends
	} else if (strcmp(record, "leave") == 0) {
		int fd = fdlist_take(&fds);
		workers_report(session_fd, record, (size_t)n, fd);
		close(fd);
	} else if (strcmp(record, "stubborn") == 0) {
		signal(SIGTERM, SIG_IGN);
		workers_report(session_fd, "staying", 7, -1);
		for (;;) {
			pause();
		}
	} else {
		// "echo": the fds' own bytes come back, and one fd
		char byte = '?';
		int fd = fdlist_take(&fds);
		if (read(fd, &byte, 1) != 1) {
			return 3;
		}
		workers_report(session_fd, &byte, 1, fd);
		close(fd);
	}
	fdlist_finish(&fds);
	return 0;
}

struct fixture {
	struct event_base *base;
	struct workers *workers;
	char text[64]; // of the last record from one with a session
	size_t records;
	size_t fds;     // that came with records
	pid_t reporter; // who sent it
	size_t gone;
	pid_t dead;                // the last one gone
	unsigned int assigned;     // the last session's number
	unsigned int gone_numbers; // their sum
	int status;                // of that
};

static bool handle_record(void *data, const struct workers_sender *from, const void *record,
	size_t len, struct fdlist *fds)
{
	struct fixture *fixture = data;
	assert_in_range(from->number, 0, fixture->assigned);
	assert_true(len < sizeof(fixture->text));
	if (from->number > 0) {
		memcpy(fixture->text, record, len);
		fixture->text[len] = '\0';
	}
	fixture->reporter = from->pid;
	fixture->records++;
	fixture->fds += fds->count;
	return strcmp(fixture->text, "nonsense") != 0;
}

static void handle_gone(void *data, const struct workers_sender *from, int status)
{
	struct fixture *fixture = data;
	fixture->gone++;
	fixture->dead = from->pid;
	fixture->gone_numbers += from->number;
	fixture->status = status;
}

static const struct workers_handler handler = {.record = handle_record, .gone = handle_gone};

static void start(struct fixture *fixture, const char *mode)
{
	static char program[] = "test-workers";
	static char mode_text[16];
	strncpy(mode_text, mode, sizeof(mode_text) - 1);
	char *argv[] = {program, mode_text, NULL};
	*fixture = (struct fixture){0};
	fixture->base = event_base_new();
	fixture->workers = workers_create(fixture->base, argv, &handler, fixture);
	assert_non_null(fixture->workers);
}

static void stop(struct fixture *fixture)
{
	workers_destroy(fixture->workers, 2000);
	event_base_free(fixture->base);
}

static void wait_for(struct fixture *fixture, const size_t *value, size_t wanted)
{
	while (*value < wanted) {
		assert_int_equal(event_base_loop(fixture->base, EVLOOP_ONCE), 0);
	}
}

static void assign(struct fixture *fixture, const char *text, struct fdlist *fds)
{
	assert_int_equal(
		workers_assign(fixture->workers, ++fixture->assigned, text, strlen(text), fds), 0);
	assert_int_equal(fds->count, 0);
}

static void assign_nothing(struct fixture *fixture, const char *text)
{
	struct fdlist fds;
	fdlist_init(&fds);
	assign(fixture, text, &fds);
	fdlist_finish(&fds);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void a_worker_gets_its_record_and_fds_and_reports_back(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	for (size_t i = 1; i <= 3; i++) {
		int pipe_fds[2];
		struct fdlist fds;
		assert_int_equal(pipe(pipe_fds), 0);
		assert_int_equal(write(pipe_fds[1], "x", 1), 1);
		close(pipe_fds[1]);
		fdlist_init(&fds);
		assert_true(fdlist_push(&fds, pipe_fds[0]));
		assign(&fixture, "echo", &fds);
		fdlist_finish(&fds);
		wait_for(&fixture, &fixture.gone, i);
		assert_string_equal(fixture.text, "x");
		assert_int_equal(fixture.fds, i);
		assert_int_equal(fixture.reporter, fixture.dead);
		assert_int_equal(fixture.status, 0);
	}
	assert_int_equal(workers_busy(fixture.workers), 0);
	stop(&fixture);
}

static void a_worker_is_told_more(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	assign_nothing(&fixture, "stay");
	assign_nothing(&fixture, "again");
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(workers_tell(fixture.workers, 3, "x", 1, fd), -ESRCH);
	assert_int_equal(workers_tell(fixture.workers, 2, "more", 4, fd), 0);
	close(fd);
	wait_for(&fixture, &fixture.gone, 1);
	assert_int_equal(fixture.gone_numbers, 2);
	assert_int_equal(fixture.status, 0);
	assert_int_equal(fixture.fds, 1);
	assert_int_equal(workers_tell(fixture.workers, 2, "more", 4, -1), -ESRCH);
	stop(&fixture);
}

static void assert_killed(struct fixture *fixture)
{
	wait_for(fixture, &fixture->gone, 1);
	assert_true(WIFSIGNALED(fixture->status));
	assert_int_equal(WTERMSIG(fixture->status), SIGKILL);
}

static void a_worker_that_talks_nonsense_is_killed(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	assign_nothing(&fixture, "nonsense");
	assert_killed(&fixture);
	assert_int_equal(fixture.records, 1);
	stop(&fixture);
}

static void a_worker_that_sends_two_fds_is_killed(void **state)
{
	(void)state;
	struct fixture fixture;
	struct fdlist fds;
	start(&fixture, "works");
	fdlist_init(&fds);
	for (int i = 0; i < 2; i++) {
		assert_true(fdlist_push(&fds, eventfd(0, EFD_CLOEXEC)));
	}
	assign(&fixture, "two", &fds);
	fdlist_finish(&fds);
	assert_killed(&fixture);
	assert_int_equal(fixture.records, 0);
	stop(&fixture);
}

static void leave_lingering(const char *how, size_t seen)
{
	struct fixture fixture;
	struct fdlist fds;
	int peer, fd = lingering_create(&peer);
	if (fd < 0) {
		skip();
	}
	start(&fixture, "works");
	fdlist_init(&fds);
	assert_true(fdlist_push(&fds, fd));
	assign(&fixture, how, &fds);
	fdlist_finish(&fds);
	siginfo_t info; // of the worker: from there on it is our fd only
	assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
	wait_for(&fixture, &fixture.gone, 1);
	assert_int_equal(fixture.fds, seen);
	stop(&fixture);
	close(peer);
}

static void an_fd_whose_close_waits_does_not_stop_the_parent(void **state)
{
	(void)state;
	leave_lingering("leave", 1);
}

static void an_fd_that_nobody_has_read_does_not_stop_the_parent(void **state)
{
	(void)state;
	leave_lingering("mute", 0);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);

static bool worker_is_faster; // than who gives it something

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	ssize_t n = __real_sendmsg(fd, message, flags);
	siginfo_t info;
	if (worker_is_faster) {
		waitid(P_ALL, 0, &info, WEXITED | WNOWAIT);
	}
	return n;
}

static void what_a_worker_has_not_read_from_a_connection_does_not_stop_the_parent(void **state)
{
	(void)state;
	struct fixture fixture;
	struct fdlist fds;
	int pair[2], peer, fd = lingering_create(&peer);
	if (fd < 0) {
		skip();
	}
	const struct fdlist lingering = {.fds = &fd, .count = 1};
	const struct iovec iov = {.iov_base = "x", .iov_len = 1};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(scm_send(pair[0], &iov, 1, &lingering, 1), 1);
	close(fd);
	close(pair[0]);
	start(&fixture, "works");
	fdlist_init(&fds);
	assert_true(fdlist_push(&fds, pair[1]));
	worker_is_faster = true;
	assign(&fixture, "close", &fds);
	worker_is_faster = false;
	fdlist_finish(&fds);
	wait_for(&fixture, &fixture.gone, 1);
	stop(&fixture);
	close(peer);
}

static void a_crash_is_told_with_its_signal(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	assign_nothing(&fixture, "crash");
	assert_int_equal(workers_busy(fixture.workers), 1);
	wait_for(&fixture, &fixture.gone, 1);
	assert_true(WIFSIGNALED(fixture.status));
	assert_int_equal(WTERMSIG(fixture.status), SIGKILL);
	assert_int_equal(workers_busy(fixture.workers), 0);
	stop(&fixture);
}

static void many_sessions_at_once_each_have_a_worker(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	for (int i = 0; i < 5; i++) {
		assign_nothing(&fixture, "stay");
	}
	assert_int_equal(workers_busy(fixture.workers), 5);
	wait_for(&fixture, &fixture.records, 5);
	workers_signal(fixture.workers, SIGTERM);
	wait_for(&fixture, &fixture.gone, 5);
	assert_int_equal(fixture.gone_numbers, 1 + 2 + 3 + 4 + 5);
	assert_int_equal(WTERMSIG(fixture.status), SIGTERM);
	stop(&fixture);
}

static void destroy_ends_the_running_and_kills_the_stubborn(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	assign_nothing(&fixture, "stay");
	assign_nothing(&fixture, "stubborn");
	wait_for(&fixture, &fixture.records, 2);
	int64_t before = now_ms();
	workers_destroy(fixture.workers, 100);
	assert_true(now_ms() - before >= 90);
	assert_int_equal(fixture.gone, 2);
	event_base_free(fixture.base);
}

static bool has_children(void)
{
	siginfo_t info;
	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

// Until there is no worker, and none is about to be started: SIGCHLD is all that is waited for.
static void wait_for_rest(struct fixture *fixture)
{
	while (has_children() ||
		event_base_get_num_events(fixture->base, EVENT_BASE_COUNT_ADDED) > 1) {
		assert_int_equal(event_base_loop(fixture->base, EVLOOP_ONCE), 0);
	}
}

static void spares_that_die_at_once_are_not_started_for_ever(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "dies");
	wait_for_rest(&fixture);
	// A session is a reason to try again, as often as at first.
	struct fdlist fds;
	fdlist_init(&fds);
	workers_assign(fixture.workers, 1, "echo", 4, &fds);
	fdlist_finish(&fds);
	wait_for_rest(&fixture);
	assert_int_equal(workers_busy(fixture.workers), 0);
	stop(&fixture);
}

static void a_worker_whose_parent_is_gone_receives_nothing(void **state)
{
	(void)state;
	int pair[2];
	char record[16];
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	close(pair[1]);
	assert_int_equal(workers_receive(pair[0], record, sizeof(record), &fds), 0);
	workers_report(pair[0], "x", 1, -1); // harmless
	close(pair[0]);
	fdlist_finish(&fds);
}

// The first spare is in state older, the second one in state newer. Which of the two gets a session?
static void assert_taken(const char *older, const char *newer, const char *taken)
{
	struct fixture fixture;
	setenv(STATE, older, 1);
	start(&fixture, "tells");
	setenv(STATE, newer, 1);
	wait_for(&fixture, &fixture.records, 2);
	assign_nothing(&fixture, "state");
	wait_for(&fixture, &fixture.gone, 1);
	assert_string_equal(fixture.text, taken);
	stop(&fixture);
	unsetenv(STATE);
}

static void a_spare_that_is_ready_is_taken_before_a_newer_one_that_is_not(void **state)
{
	(void)state;
	assert_taken("ready", "unready", "ready");
	assert_taken("unready", "ready", "ready");
}

static void of_spares_that_are_not_ready_the_older_is_taken(void **state)
{
	(void)state;
	assert_taken("young", "younger", "young");
}

static void another_child_is_left_to_its_owner(void **state)
{
	(void)state;
	struct fixture fixture;
	start(&fixture, "works");
	pid_t pid = fork();
	if (pid == 0) {
		_exit(7);
	}
	assign_nothing(&fixture, "crash");
	wait_for(&fixture, &fixture.gone, 1);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	stop(&fixture);
}

int main(int argc, char *argv[])
{
	if (argc == 4 && strcmp(argv[1], "--session-fd") == 0) {
		return worker_main(atoi(argv[2]), argv[3]);
	}
	const struct CMUnitTest tests[] = {
		fd_count_test(a_worker_gets_its_record_and_fds_and_reports_back),
		fd_count_test(a_worker_is_told_more),
		fd_count_test(a_worker_that_talks_nonsense_is_killed),
		fd_count_test(a_worker_that_sends_two_fds_is_killed),
		fd_count_test(an_fd_whose_close_waits_does_not_stop_the_parent),
		fd_count_test(an_fd_that_nobody_has_read_does_not_stop_the_parent),
		fd_count_test(
			what_a_worker_has_not_read_from_a_connection_does_not_stop_the_parent),
		fd_count_test(a_crash_is_told_with_its_signal),
		fd_count_test(many_sessions_at_once_each_have_a_worker),
		fd_count_test(destroy_ends_the_running_and_kills_the_stubborn),
		fd_count_test(spares_that_die_at_once_are_not_started_for_ever),
		fd_count_test(a_worker_whose_parent_is_gone_receives_nothing),
		fd_count_test(a_spare_that_is_ready_is_taken_before_a_newer_one_that_is_not),
		fd_count_test(of_spares_that_are_not_ready_the_older_is_taken),
		fd_count_test(another_child_is_left_to_its_owner),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
