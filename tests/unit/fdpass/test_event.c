#include "fdpass/event.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "tests/support/fd_count.h"

#define COUNT_MAX (UINT64_MAX - 1)

// The guest's eventfd and the one that the host was given.
struct pair {
	struct ends ends;
	uint32_t id;
	int guest, host;
};

static int duplicate(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	assert_true(copy >= 0);
	return copy;
}

static void init_pair(struct pair *pair, unsigned int count, int flags)
{
	const char *wrong;
	ends_init(&pair->ends);
	pair->guest = eventfd(count, flags | EFD_CLOEXEC);
	pair->id = event_export(&pair->ends.guest.refs, duplicate(pair->guest), &wrong);
	assert_int_not_equal(pair->id, 0);
	assert_null(wrong);
	ends_run(&pair->ends);
	assert_null(pair->ends.host.wrong);
	pair->host = end_take(&pair->ends.host);
	assert_true(pair->host >= 0);
	assert_int_equal(fcntl(pair->host, F_GETFD), FD_CLOEXEC);
}

static void finish_pair(struct pair *pair)
{
	assert_null(pair->ends.guest.wrong);
	assert_null(pair->ends.host.wrong);
	close(pair->guest);
	close(pair->host);
	ends_finish(&pair->ends);
}

static uint64_t count_of(int fd)
{
	int info = fd_info_open(fd);
	uint64_t count;
	assert_true(fd_info_number(info, "eventfd-count", 16, &count));
	close(info);
	return count;
}

static void expect_counts(struct pair *pair, uint64_t guest, uint64_t host)
{
	ends_run(&pair->ends);
	assert_int_equal(count_of(pair->guest), guest);
	assert_int_equal(count_of(pair->host), host);
}

static uint64_t take(int fd)
{
	eventfd_t count;
	assert_true(count_of(fd) > 0);
	assert_int_equal(eventfd_read(fd, &count), 0);
	return count;
}

// Lets so much time go by.
static void wait_for(struct pair *pair, int milliseconds)
{
	struct timeval time = {.tv_usec = milliseconds * 1000};
	event_base_loopexit(pair->ends.base, &time);
	event_base_loop(pair->ends.base, 0);
}

// The other end of the guest's new channel, where frames can be looked at.
static int reconnect_guest(struct pair *pair)
{
	int sockets[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	end_reconnect(&pair->ends.guest, pair->ends.base, sockets[0]);
	return sockets[1];
}

static uint64_t receive_add(int peer, uint32_t *seen)
{
	struct {
		struct channel_header header;
		struct channel_event_add add;
	} frame;
	assert_int_equal(recv(peer, &frame, sizeof(frame), MSG_DONTWAIT), sizeof(frame));
	assert_int_equal(frame.header.type, CHANNEL_EVENT_ADD);
	*seen = frame.header.arg;
	return channel_get64(frame.add.count);
}

static void expect_add(int peer, uint32_t seen, uint64_t count)
{
	uint32_t arg;
	assert_int_equal(receive_add(peer, &arg), count);
	assert_int_equal(arg, seen);
}

/* ---- counts ---- */

static void what_the_opener_writes_is_read_on_the_other_side(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	for (uint64_t i = 1; i < 100; i++) {
		eventfd_write(pair.guest, i);
		expect_counts(&pair, 0, i);
		assert_int_equal(take(pair.host), i);
	}
	assert_int_equal(pair.ends.guest.frames[CHANNEL_EVENT_ADD], 0);
	finish_pair(&pair);
}

static void what_the_other_side_writes_is_read_at_the_openers(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	for (uint64_t i = 1; i < 100; i++) {
		eventfd_write(pair.host, i);
		expect_counts(&pair, i, 0);
		assert_int_equal(take(pair.guest), i);
	}
	assert_int_equal(pair.ends.host.frames[CHANNEL_EVENT_ADD], 0);
	finish_pair(&pair);
}

static void counts_that_nobody_reads_add_up(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	for (int i = 0; i < 10; i++) {
		eventfd_write(pair.guest, 7);
		ends_run(&pair.ends);
	}
	expect_counts(&pair, 0, 70);
	finish_pair(&pair);
}

static void a_count_that_is_there_goes_with_the_eventfd(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 5, 0);
	// the replica had it when it was made
	assert_int_equal(pair.ends.host.frames[CHANNEL_EVENT_ADD], 0);
	assert_int_equal(count_of(pair.host), 5);
	assert_int_equal(count_of(pair.guest), 0);
	eventfd_write(pair.guest, 1);
	expect_counts(&pair, 0, 6);
	finish_pair(&pair);
}

static void a_semaphore_stays_one(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 3, EFD_SEMAPHORE);
	eventfd_write(pair.guest, 2000);
	expect_counts(&pair, 0, 2003);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(take(pair.host), 1);
	}
	assert_int_equal(count_of(pair.host), 2000);
	finish_pair(&pair);
}

static void only_the_replicas_flags_are_ours(void **state)
{
	(void)state;
	struct pair pair;
	eventfd_t count;
	init_pair(&pair, 0, EFD_NONBLOCK);
	assert_true(fcntl(pair.host, F_GETFL) & O_NONBLOCK);
	assert_int_equal(eventfd_read(pair.host, &count), -1);
	assert_int_equal(errno, EAGAIN);
	finish_pair(&pair);

	init_pair(&pair, 0, 0);
	assert_false(fcntl(pair.host, F_GETFL) & O_NONBLOCK);
	eventfd_write(pair.guest, 1);
	expect_counts(&pair, 0, 1);
	assert_false(fcntl(pair.guest, F_GETFL) & O_NONBLOCK);
	assert_false(fcntl(pair.host, F_GETFL) & O_NONBLOCK);
	finish_pair(&pair);
}

/* ---- direction ---- */

static void when_both_write_at_once_nothing_is_lost_and_the_opener_wins(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	eventfd_write(pair.guest, 3);
	eventfd_write(pair.host, 50);
	expect_counts(&pair, 0, 53);
	assert_int_equal(pair.ends.guest.frames[CHANNEL_EVENT_ADD], 1);
	eventfd_write(pair.guest, 100);
	expect_counts(&pair, 0, 153);
	finish_pair(&pair);
}

static void what_a_reader_adds_for_itself_stays_with_it(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	pair.ends.host.refs.rules.turn_ms = 600 * 1000; // however slow this machine is
	eventfd_write(pair.guest, 1);
	expect_counts(&pair, 0, 1);
	for (int i = 0; i < 3; i++) {
		take(pair.host);
		eventfd_write(pair.host, 9);
		expect_counts(&pair, 0, 9);
		assert_int_equal(take(pair.host), 9);
		eventfd_write(pair.guest, 1);
		expect_counts(&pair, 0, 1);
	}
	assert_int_equal(pair.ends.guest.frames[CHANNEL_EVENT_ADD], 0);
	finish_pair(&pair);
}

static void what_nobody_takes_turns_the_direction_round(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	eventfd_write(pair.guest, 1);
	expect_counts(&pair, 0, 1);
	take(pair.host);
	eventfd_write(pair.host, 4);
	expect_counts(&pair, 0, 4);
	wait_for(&pair, 2 * EVENT_GRACE_MS);
	expect_counts(&pair, 4, 0);
	// from now on at once
	eventfd_write(pair.host, 1);
	expect_counts(&pair, 5, 0);
	take(pair.guest);
	expect_counts(&pair, 0, 0);
	// and back
	eventfd_write(pair.guest, 2);
	wait_for(&pair, 2 * EVENT_GRACE_MS);
	expect_counts(&pair, 0, 2);
	eventfd_write(pair.guest, 2);
	expect_counts(&pair, 0, 4);
	finish_pair(&pair);
}

// The opener has signalled itself before the other side did.
static void a_direction_that_was_wrong_is_put_right(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 1, 0);
	eventfd_write(pair.host, 1);
	wait_for(&pair, 2 * EVENT_GRACE_MS);
	expect_counts(&pair, 2, 0);
	finish_pair(&pair);
}

static void a_slow_reader_is_no_writer(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	eventfd_write(pair.guest, 1);
	ends_run(&pair.ends);
	eventfd_write(pair.guest, 1);
	wait_for(&pair, 2 * EVENT_GRACE_MS);
	expect_counts(&pair, 0, 2);
	finish_pair(&pair);
}

// An eventfd can be written to at all times, which must not keep us busy.
static void one_that_rests_wakes_nobody(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 1, 0);
	struct timeval time = {.tv_usec = 50000};
	uint64_t start = channel_clock();
	event_base_loopexit(pair.ends.base, &time);
	event_base_loop(pair.ends.base, EVLOOP_ONCE);
	assert_true(channel_clock() - start > 40000000);
	finish_pair(&pair);
}

static void an_add_that_has_crossed_does_not_turn_the_opener(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	int peer = reconnect_guest(&pair);
	struct channel_event_add add = {.count = {2}};
	struct end *guest = &pair.ends.guest;
	eventfd_write(pair.guest, 1);
	event_base_loop(pair.ends.base, EVLOOP_NONBLOCK);
	expect_add(peer, 0, 1);
	// sent before our 1 had come; it is added, and moved like any other
	assert_null(end_frame(guest, CHANNEL_EVENT_ADD, pair.id, 0, &add, sizeof(add)));
	assert_int_equal(count_of(pair.guest), 2);
	event_base_loop(pair.ends.base, EVLOOP_NONBLOCK);
	expect_add(peer, 1, 2);
	// sent after it: they have turned
	assert_null(end_frame(guest, CHANNEL_EVENT_ADD, pair.id, 2, &add, sizeof(add)));
	event_base_loop(pair.ends.base, EVLOOP_NONBLOCK);
	assert_int_equal(count_of(pair.guest), 2);
	close(peer);
	finish_pair(&pair);
}

/* ---- one object ---- */

static void it_is_one_however_often_it_is_given_out(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	struct fd_identity first, second;
	int again = end_take(&pair.ends.host);
	fd_identity_of(pair.host, &first);
	fd_identity_of(again, &second);
	assert_true(fd_identity_equal(&first, &second));
	struct fdref *ref = fdrefs_get(&pair.ends.host.refs, pair.id);
	assert_ptr_equal(fdrefs_find(&pair.ends.host.refs, &first), ref);
	close(again);
	finish_pair(&pair);
}

static void the_original_comes_home(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	struct fd_identity identity;
	fd_identity_of(pair.guest, &identity);
	struct fdref *ref = fdrefs_find(&pair.ends.guest.refs, &identity);
	assert_non_null(ref);
	assert_int_equal(ref->id, pair.id);
	int home = ref->interface->get_fd(ref);
	assert_true(home >= 0);
	eventfd_write(home, 6);
	assert_int_equal(count_of(pair.guest), 6);
	close(home);
	finish_pair(&pair);
}

static void what_is_not_an_eventfd_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	assert_int_equal(event_export(&ends.guest.refs, new_memfd(8), &wrong), 0);
	assert_non_null(wrong);
	ends_finish(&ends);
}

static void one_too_many_keeps_its_count(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	ends.guest.budget.limits.most[BUDGET_FDS] = 0;
	int fd = eventfd(3, EFD_CLOEXEC);
	assert_int_equal(event_export(&ends.guest.refs, duplicate(fd), &wrong), 0);
	assert_non_null(wrong);
	assert_int_equal(count_of(fd), 3);
	close(fd);
	ends_finish(&ends);
}

/* ---- bounds ---- */

static void a_count_that_does_not_fit_waits(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	eventfd_write(pair.guest, COUNT_MAX);
	expect_counts(&pair, 0, COUNT_MAX);
	eventfd_write(pair.guest, 5);
	expect_counts(&pair, 0, COUNT_MAX);
	assert_int_equal(take(pair.host), COUNT_MAX);
	expect_counts(&pair, 0, 5);

	// a part of it fits
	eventfd_write(pair.host, COUNT_MAX - 5 - 2);
	eventfd_write(pair.guest, 10);
	expect_counts(&pair, 0, COUNT_MAX);
	assert_int_equal(take(pair.host), COUNT_MAX);
	expect_counts(&pair, 0, 8);
	finish_pair(&pair);
}

static void a_writer_does_not_flood_a_channel_that_nobody_reads(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	int peer = reconnect_guest(&pair);
	struct ends *ends = &pair.ends;
	uint64_t written = 0;
	for (int i = 0; i < 100000 && count_of(pair.guest) == 0; i++, written++) {
		eventfd_write(pair.guest, 1);
		event_base_loop(ends->base, EVLOOP_NONBLOCK);
	}
	assert_int_equal(count_of(pair.guest), 1);
	assert_in_range(channel_queued(ends->guest.channel), 64 * 1024, 65 * 1024);
	eventfd_write(pair.guest, 41);
	event_base_loop(ends->base, EVLOOP_NONBLOCK);
	assert_int_equal(count_of(pair.guest), 42);

	// once it is read, the rest comes as one
	uint64_t came = 0, last = 0;
	while (came < written + 41) {
		uint32_t seen;
		event_base_loop(ends->base, EVLOOP_NONBLOCK);
		last = receive_add(peer, &seen);
		came += last;
	}
	assert_int_equal(came, written + 41);
	assert_int_equal(last, 42);
	close(peer);
	finish_pair(&pair);
}

/* ---- hostile frames ---- */

static void an_open_that_is_wrong_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	struct channel_open_event open = {0};
	struct end *guest = &ends.guest;
	const uint32_t id = CHANNEL_ID_HOST | 1;
	const uint32_t kind = CHANNEL_KIND_EVENT;
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open) - 1));
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, 0));
	open.semaphore = 2;
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	open = (struct channel_open_event){.nonblocking = 2};
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	open = (struct channel_open_event){.count = {UINT32_MAX, UINT32_MAX}};
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	assert_int_equal(guest->refs.theirs.used, 0);
	open.count[0]--;
	assert_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	guest->opened = id;
	int fd = end_take(guest);
	assert_int_equal(count_of(fd), COUNT_MAX);
	close(fd);
	ends_finish(&ends);
}

static const char *add_to(struct pair *pair, uint32_t arg, uint64_t count, size_t len)
{
	struct channel_event_add add;
	channel_put64(add.count, count);
	return end_frame(&pair->ends.host, CHANNEL_EVENT_ADD, pair->id, arg, &add, len);
}

static void an_add_that_is_wrong_ends_the_session(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	assert_non_null(add_to(&pair, 0, 1, 4));
	assert_non_null(add_to(&pair, 0, 0, 8));
	assert_non_null(add_to(&pair, 0, UINT64_MAX, 8));
	assert_non_null(add_to(&pair, 1, 1, 8));
	assert_non_null(add_to(&pair, UINT32_MAX, 1, 8));
	assert_int_equal(count_of(pair.host), 0);
	assert_null(add_to(&pair, 0, 1, 8));
	assert_int_equal(count_of(pair.host), 1);
	finish_pair(&pair);
}

static void who_has_seen_something_has_seen_it(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	for (int i = 0; i < 2; i++) {
		eventfd_write(pair.host, 1);
		ends_run(&pair.ends);
	}
	assert_null(add_to(&pair, 1, 1, 8));
	assert_non_null(add_to(&pair, 0, 1, 8));
	assert_non_null(add_to(&pair, 3, 1, 8));
	assert_null(add_to(&pair, 2, 1, 8));
	finish_pair(&pair);
}

static void more_than_can_ever_fit_ends_the_session(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	assert_null(add_to(&pair, 0, COUNT_MAX, 8)); // fills it
	assert_null(add_to(&pair, 0, COUNT_MAX, 8)); // waits
	assert_non_null(add_to(&pair, 0, 1, 8));
	finish_pair(&pair);
}

static void frames_that_are_not_for_it_end_the_session(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	static const uint16_t types[] = {CHANNEL_CREDIT, CHANNEL_STREAM_DATA, CHANNEL_STREAM_EOF,
		CHANNEL_STREAM_STOP, CHANNEL_STREAM_PAUSE, CHANNEL_MEM_RESIZE, CHANNEL_MEM_COPY,
		CHANNEL_MEM_READ, CHANNEL_MEM_READ_REPLY};
	struct channel_event_add add = {.count = {1}};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_non_null(
			end_frame(&pair.ends.host, types[i], pair.id, 0, &add, sizeof(add)));
		assert_non_null(
			end_frame(&pair.ends.guest, types[i], pair.id, 0, &add, sizeof(add)));
	}
	struct channel_mem_write write = {.row_bytes = 1, .rows = 1, .stride = 1};
	struct channel_rows rows;
	assert_non_null(end_write(&pair.ends.host, pair.id, &write, &rows));
	// CLOSED before CLOSE, and CLOSE from who did not open it
	assert_non_null(end_frame(&pair.ends.guest, CHANNEL_CLOSED, pair.id, 0, NULL, 0));
	assert_non_null(end_frame(&pair.ends.guest, CHANNEL_CLOSE, pair.id, 0, NULL, 0));
	finish_pair(&pair);
}

static void an_add_is_for_eventfds_only(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	struct channel_event_add add = {.count = {1}};
	struct channel_open_memory file = {0};
	const uint32_t id = CHANNEL_ID_HOST | 1;
	assert_null(
		end_frame(&ends.guest, CHANNEL_OPEN, id, CHANNEL_KIND_FILE, &file, sizeof(file)));
	assert_non_null(end_frame(&ends.guest, CHANNEL_EVENT_ADD, id, 0, &add, sizeof(add)));
	assert_non_null(end_frame(&ends.guest, CHANNEL_EVENT_ADD, id + 1, 0, &add, sizeof(add)));
	ends_finish(&ends);
}

static void a_closed_one_is_confirmed_and_gone(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	assert_null(end_frame(&pair.ends.host, CHANNEL_CLOSE, pair.id, 0, NULL, 0));
	assert_int_equal(pair.ends.host.refs.theirs.used, 0);
	assert_non_null(add_to(&pair, 0, 1, 8));
	// what our local peer has goes on to work, by itself
	eventfd_write(pair.host, 2);
	assert_int_equal(take(pair.host), 2);
	close(pair.guest);
	close(pair.host);
	ends_finish(&pair.ends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_the_opener_writes_is_read_on_the_other_side),
		fd_count_test(what_the_other_side_writes_is_read_at_the_openers),
		fd_count_test(counts_that_nobody_reads_add_up),
		fd_count_test(a_count_that_is_there_goes_with_the_eventfd),
		fd_count_test(a_semaphore_stays_one),
		fd_count_test(only_the_replicas_flags_are_ours),
		fd_count_test(when_both_write_at_once_nothing_is_lost_and_the_opener_wins),
		fd_count_test(what_a_reader_adds_for_itself_stays_with_it),
		fd_count_test(what_nobody_takes_turns_the_direction_round),
		fd_count_test(a_direction_that_was_wrong_is_put_right),
		fd_count_test(a_slow_reader_is_no_writer),
		fd_count_test(one_that_rests_wakes_nobody),
		fd_count_test(an_add_that_has_crossed_does_not_turn_the_opener),
		fd_count_test(it_is_one_however_often_it_is_given_out),
		fd_count_test(the_original_comes_home),
		fd_count_test(what_is_not_an_eventfd_is_refused),
		fd_count_test(one_too_many_keeps_its_count),
		fd_count_test(a_count_that_does_not_fit_waits),
		fd_count_test(a_writer_does_not_flood_a_channel_that_nobody_reads),
		fd_count_test(an_open_that_is_wrong_is_refused),
		fd_count_test(an_add_that_is_wrong_ends_the_session),
		fd_count_test(who_has_seen_something_has_seen_it),
		fd_count_test(more_than_can_ever_fit_ends_the_session),
		fd_count_test(frames_that_are_not_for_it_end_the_session),
		fd_count_test(an_add_is_for_eventfds_only),
		fd_count_test(a_closed_one_is_confirmed_and_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
