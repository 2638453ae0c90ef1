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

// Whoever reads turns the direction round as soon as may be.
static void make_hasty(struct pair *pair)
{
	pair->ends.guest.refs.rules.turn_ms = pair->ends.host.refs.rules.turn_ms = 1;
}

// expect_counts, once the guest has that many.
static void wait_for_counts(struct pair *pair, uint64_t guest, uint64_t host)
{
	while (count_of(pair->guest) != guest) {
		event_base_loop(pair->ends.base, EVLOOP_ONCE);
	}
	expect_counts(pair, guest, host);
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

// As a socket's bytes would be, of which a count tells.
static void look_at_count(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct pair *pair = data;
	assert_int_equal(count_of(pair->guest), 1); // nobody has taken it yet
}

static void what_was_written_before_a_count_leaves_first(void **state)
{
	(void)state;
	struct pair pair;
	int pipe_ends[2];
	init_pair(&pair, 0, 0);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	struct event *bytes =
		event_new(pair.ends.base, pipe_ends[0], EV_READ, look_at_count, &pair);
	for (int i = 0; i < 10; i++) {
		eventfd_write(pair.guest, 1); // what is ready first is told first by epoll
		assert_int_equal(write(pipe_ends[1], "x", 1), 1);
		event_add(bytes, NULL);
		expect_counts(&pair, 0, 1);
		assert_false(event_pending(bytes, EV_READ, NULL));
		assert_int_equal(take(pair.host), 1);
	}
	event_free(bytes);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
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
	make_hasty(&pair);
	eventfd_write(pair.guest, 1);
	expect_counts(&pair, 0, 1);
	take(pair.host);
	eventfd_write(pair.host, 4);
	wait_for_counts(&pair, 4, 0);
	// from now on at once
	eventfd_write(pair.host, 1);
	expect_counts(&pair, 5, 0);
	take(pair.guest);
	expect_counts(&pair, 0, 0);
	// and back
	eventfd_write(pair.guest, 2);
	wait_for_counts(&pair, 0, 2);
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
	make_hasty(&pair);
	eventfd_write(pair.host, 1);
	wait_for_counts(&pair, 2, 0);
	finish_pair(&pair);
}

static void a_slow_reader_is_no_writer(void **state)
{
	(void)state;
	struct pair pair;
	struct timeval moment = {.tv_usec = 20000};
	init_pair(&pair, 0, 0);
	make_hasty(&pair);
	eventfd_write(pair.guest, 1);
	ends_run(&pair.ends);
	eventfd_write(pair.guest, 1);
	event_base_loopexit(pair.ends.base, &moment);
	event_base_loop(pair.ends.base, 0);
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
	struct channel_open_event open = {.role = CHANNEL_EVENT_MOVES};
	struct end *guest = &ends.guest;
	const uint32_t id = CHANNEL_ID_HOST | 1;
	const uint32_t kind = CHANNEL_KIND_EVENT;
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open) - 1));
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, 0));
	open.semaphore = 2;
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	open = (struct channel_open_event){.nonblocking = 2};
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	open = (struct channel_open_event){0}; // nobody moves its counts
	assert_non_null(end_frame(guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	open.role = CHANNEL_EVENT_MOVES;
	open.count[0] = open.count[1] = UINT32_MAX;
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

/* ---- several sessions ---- */

#define NAME 77 // that the guest's side has given

// What both ends have asked or told; refs->ask has no data of ours.
static struct {
	unsigned int questions, notes;
	struct event_note last;
	bool refuses;
} keeper;

static bool handle_ask(void *data, const struct event_note *note, int fd)
{
	(void)data;
	if (keeper.refuses) {
		return false;
	}
	assert_int_equal(note->number != 0, fd >= 0);
	keeper.questions += note->number != 0;
	keeper.notes += note->number == 0;
	keeper.last = *note;
	return true;
}

static void init_shared(struct ends *ends)
{
	ends_init(ends);
	memset(&keeper, 0, sizeof(keeper));
	ends->guest.refs.ask = handle_ask;
	ends->host.refs.ask = handle_ask;
}

// To the last question. fd is taken.
static void answer(struct end *end, uint64_t name, uint32_t role, int fd)
{
	const struct event_note note = {.name = name, .number = keeper.last.number, .role = role};
	event_answer(&end->refs, &note, fd);
}

// placed: where the session before it has ended.
static void take_over(struct end *end, uint32_t role, uint64_t placed)
{
	const struct event_note note = {.name = NAME, .role = role, .placed = placed};
	event_answer(&end->refs, &note, -1);
}

// The guest's eventfd has crossed, and the host has been given there for it; -1: nothing.
static void init_shared_pair(struct pair *pair, uint32_t role, int there)
{
	struct ends *ends = &pair->ends;
	init_shared(ends);
	pair->guest = eventfd(0, EFD_CLOEXEC);
	assert_true(event_must_wait(&ends->guest.refs, pair->guest));
	pair->id = keeper.last.number;
	answer(&ends->guest, NAME, role, -1);
	ends_run(ends);
	assert_int_equal(keeper.questions, 2);
	assert_int_equal(keeper.last.name, NAME);
	answer(&ends->host, NAME, CHANNEL_EVENT_OTHER, there);
	ends_run(ends);
	assert_false(event_must_wait(&ends->guest.refs, pair->guest));
	pair->host = end_take(&ends->host);
	assert_true(pair->host >= 0);
}

static void an_opener_waits_for_a_name_and_for_the_other_side(void **state)
{
	(void)state;
	struct ends ends;
	init_shared(&ends);
	struct fdrefs *refs = &ends.guest.refs;
	int fd = eventfd(0, EFD_CLOEXEC);
	for (int i = 0; i < 2; i++) {
		assert_true(event_must_wait(refs, fd));
		ends_run(&ends);
	}
	assert_int_equal(keeper.questions, 1);
	assert_int_equal(ends.host.frames[CHANNEL_OPEN], 0);
	answer(&ends.guest, NAME, CHANNEL_EVENT_MOVES, -1);
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_OPEN], 1);
	assert_true(event_must_wait(refs, fd));
	assert_int_equal(end_take(&ends.host), -EBADF); // who names it so early is wrong
	answer(&ends.host, NAME, CHANNEL_EVENT_OTHER, -1);
	ends_run(&ends);
	assert_false(event_must_wait(refs, fd));
	assert_int_equal(ends.guest.frames[CHANNEL_EVENT_ROLE], 1);
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	assert_int_equal(fdrefs_find(refs, &identity)->id, ends.host.opened);
	close(fd);
	ends_finish(&ends);
}

static void not_more_than_a_few_names_are_asked_for_at_a_time(void **state)
{
	(void)state;
	struct ends ends;
	int fds[100];
	init_shared(&ends);
	for (size_t i = 0; i < 100; i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC);
		assert_true(event_must_wait(&ends.guest.refs, fds[i]));
		close(fds[i]);
	}
	assert_int_equal(keeper.questions, CHANNEL_MAX_UNNAMED);

	// nor may the other side make us ask for more
	struct channel_open_event open = {.name = {NAME}};
	uint32_t id = CHANNEL_ID_HOST;
	const char *wrong = NULL;
	while (wrong == NULL) {
		wrong = end_frame(
			&ends.guest, CHANNEL_OPEN, ++id, CHANNEL_KIND_EVENT, &open, sizeof(open));
	}
	assert_int_equal(id & ~CHANNEL_ID_HOST, CHANNEL_MAX_UNNAMED + 1);
	answer(&ends.guest, NAME, CHANNEL_EVENT_OTHER, -1);
	assert_null(
		end_frame(&ends.guest, CHANNEL_OPEN, id, CHANNEL_KIND_EVENT, &open, sizeof(open)));
	ends_finish(&ends);
}

static void what_another_session_was_given_is_given_again(void **state)
{
	(void)state;
	struct pair pair;
	int there = eventfd(0, EFD_CLOEXEC);
	init_shared_pair(&pair, CHANNEL_EVENT_MOVES, duplicate(there));
	struct fd_identity identity, given;
	fd_identity_of(there, &identity);
	fd_identity_of(pair.host, &given);
	assert_true(fd_identity_equal(&identity, &given));
	assert_non_null(fdrefs_find(&pair.ends.host.refs, &identity));
	eventfd_write(pair.guest, 4);
	expect_counts(&pair, 0, 4);
	assert_int_equal(take(there), 4);
	close(there);
	finish_pair(&pair);
}

static void who_does_not_move_counts_leaves_them(void **state)
{
	(void)state;
	struct pair pair;
	init_shared_pair(&pair, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
	eventfd_write(pair.guest, 3);
	eventfd_write(pair.host, 4);
	expect_counts(&pair, 3, 4);
	finish_pair(&pair);
}

static void who_takes_over_leaves_what_is_there_for_the_reader(void **state)
{
	(void)state;
	static const struct {
		uint32_t role;
		uint64_t guest, host;
	} cases[] = {{CHANNEL_EVENT_SOURCE, 0, 7}, {CHANNEL_EVENT_SINK, 7, 0}};
	for (size_t i = 0; i < 2; i++) {
		struct pair pair;
		init_shared_pair(&pair, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
		pair.ends.guest.refs.rules.turn_ms = 600 * 1000;
		pair.ends.host.refs.rules.turn_ms = 600 * 1000;
		eventfd_write(pair.guest, 3);
		eventfd_write(pair.host, 4);
		take_over(&pair.ends.guest, cases[i].role, COUNT_MAX);
		take_over(&pair.ends.guest, cases[i].role, COUNT_MAX); // does no harm
		ends_run(&pair.ends);
		assert_int_equal(pair.ends.host.frames[CHANNEL_EVENT_ROLE], 1);
		take_over(&pair.ends.host, CHANNEL_EVENT_MOVES, COUNT_MAX); // not known there
		expect_counts(&pair, cases[i].guest, cases[i].host);
		assert_int_equal(pair.ends.guest.frames[CHANNEL_EVENT_ROLE], 1);
		finish_pair(&pair);
	}
}

static void who_takes_over_goes_on_where_the_last_one_was(void **state)
{
	(void)state;
	struct pair pair;
	init_shared_pair(&pair, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
	pair.ends.host.refs.rules.turn_ms = 1;
	eventfd_write(pair.host, 11); // of which 4 were brought there
	take_over(&pair.ends.guest, CHANNEL_EVENT_SOURCE, 0);
	ends_run(&pair.ends);
	take_over(&pair.ends.host, CHANNEL_EVENT_SINK, 4);
	while (count_of(pair.guest) == 0) {
		event_base_loop(pair.ends.base, EVLOOP_ONCE);
	}
	expect_counts(&pair, 11, 0);
	finish_pair(&pair);
}

static void who_waits_for_its_turn_adds_nothing_before(void **state)
{
	(void)state;
	for (int forsaken = 0; forsaken < 2; forsaken++) {
		struct pair pair;
		init_shared_pair(&pair, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
		pair.ends.host.refs.rules.turn_ms = 600 * 1000;
		eventfd_write(pair.guest, 3);
		take_over(&pair.ends.guest, CHANNEL_EVENT_SOURCE, 0);
		expect_counts(&pair, 0, 0);
		assert_int_equal(keeper.last.number, 0);
		assert_int_equal(keeper.last.role, CHANNEL_EVENT_SINK);
		if (forsaken) {
			event_forsake(&pair.ends.host.refs);
		} else {
			take_over(&pair.ends.host, CHANNEL_EVENT_SINK, 0);
		}
		expect_counts(&pair, 0, 3);
		assert_int_equal(pair.ends.guest.frames[CHANNEL_EVENT_ROLE], 1);
		finish_pair(&pair);
	}
}

static void who_ends_before_its_turn_adds_what_has_come(void **state)
{
	(void)state;
	struct pair pair;
	init_shared_pair(&pair, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
	eventfd_write(pair.guest, 3);
	take_over(&pair.ends.guest, CHANNEL_EVENT_SOURCE, 0);
	expect_counts(&pair, 0, 0);
	fdrefs_finish(&pair.ends.host.refs);
	assert_int_equal(keeper.last.role, CHANNEL_EVENT_OTHER);
	assert_int_equal(keeper.last.placed, 3);
	assert_int_equal(count_of(pair.host), 3);
	finish_pair(&pair);
}

static void who_ends_says_how_far_it_has_come(void **state)
{
	(void)state;
	struct pair pair;
	init_shared_pair(&pair, CHANNEL_EVENT_MOVES, -1);
	eventfd_write(pair.guest, 7);
	ends_run(&pair.ends);
	pair.ends.host.refs.ending = true;
	take(pair.host);
	eventfd_write(pair.host, 2);
	ends_run(&pair.ends);
	eventfd_write(pair.host, 8);
	fdrefs_finish(&pair.ends.host.refs);
	assert_int_equal(keeper.last.role, CHANNEL_EVENT_SINK);
	assert_int_equal(keeper.last.placed, 2);
	fdrefs_finish(&pair.ends.guest.refs);
	assert_int_equal(keeper.last.role, CHANNEL_EVENT_SOURCE);
	assert_int_equal(keeper.last.placed, 0);
	assert_int_equal(count_of(pair.host), 10);
	finish_pair(&pair);
}

static void who_looks_after_it_is_told_where_counts_appear(void **state)
{
	(void)state;
	struct pair pair;
	init_shared_pair(&pair, CHANNEL_EVENT_MOVES, -1);
	assert_int_equal(keeper.notes, 0);
	for (int i = 0; i < 5; i++) {
		eventfd_write(pair.guest, 1);
		ends_run(&pair.ends);
	}
	assert_int_equal(keeper.notes, 2);
	assert_int_equal(keeper.last.name, NAME);
	assert_int_equal(keeper.last.role, CHANNEL_EVENT_SINK); // the host's end, after the guest's
	assert_int_equal(keeper.last.placed, COUNT_MAX);
	assert_int_equal(take(pair.host), 5);
	ends_run(&pair.ends);
	eventfd_write(pair.host, 1);
	while (count_of(pair.guest) == 0) {
		event_base_loop(pair.ends.base, EVLOOP_ONCE);
	}
	assert_int_equal(keeper.notes, 4);
	assert_int_equal(keeper.last.role, CHANNEL_EVENT_SINK);
	finish_pair(&pair);
}

static void a_session_that_ends_takes_no_more_but_gives_what_comes(void **state)
{
	(void)state;
	struct pair pair;
	init_shared_pair(&pair, CHANNEL_EVENT_MOVES, -1);
	pair.ends.guest.refs.ending = true;
	eventfd_write(pair.guest, 3);
	eventfd_write(pair.host, 4);
	expect_counts(&pair, 7, 0);
	finish_pair(&pair);
}

static void without_an_answer_each_session_has_its_own(void **state)
{
	(void)state;
	struct pair pair;
	struct ends *ends = &pair.ends;
	init_shared(ends);
	pair.guest = eventfd(2, EFD_CLOEXEC);
	assert_true(event_must_wait(&ends->guest.refs, pair.guest));
	pair.id = keeper.last.number;
	event_forsake(&ends->guest.refs);
	assert_false(event_must_wait(&ends->guest.refs, pair.guest));
	answer(&ends->guest, NAME, CHANNEL_EVENT_OTHER, duplicate(pair.guest)); // too late
	ends_run(ends);
	assert_int_equal(keeper.questions, 1); // it has no name that could be asked for
	pair.host = end_take(&ends->host);
	expect_counts(&pair, 0, 2);
	finish_pair(&pair);
}

static void an_importer_that_gets_no_answer_moves_counts_itself(void **state)
{
	(void)state;
	for (int refuses = 0; refuses < 2; refuses++) {
		struct pair pair;
		struct ends *ends = &pair.ends;
		init_shared(ends);
		pair.guest = eventfd(0, EFD_CLOEXEC);
		assert_true(event_must_wait(&ends->guest.refs, pair.guest));
		pair.id = keeper.last.number;
		answer(&ends->guest, NAME, CHANNEL_EVENT_OTHER, -1);
		keeper.refuses = refuses;
		ends_run(ends);
		event_forsake(&ends->host.refs);
		ends_run(ends);
		assert_false(event_must_wait(&ends->guest.refs, pair.guest));
		pair.host = end_take(&ends->host);
		eventfd_write(pair.guest, 5);
		expect_counts(&pair, 0, 5);
		finish_pair(&pair);
	}
}

static void nobody_to_ask_is_nobody_to_wait_for(void **state)
{
	(void)state;
	struct ends ends;
	init_shared(&ends);
	keeper.refuses = true;
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_false(event_must_wait(&ends.guest.refs, fd));
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_OPEN], 1);
	close(fd);
	ends_finish(&ends);
}

static const char *role_to(struct end *end, uint32_t id, uint32_t role)
{
	return end_frame(end, CHANNEL_EVENT_ROLE, id, role, NULL, 0);
}

static void a_role_that_is_wrong_ends_the_session(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	assert_non_null(role_to(&pair.ends.host, pair.id, CHANNEL_EVENT_MOVES)); // it has no name
	assert_non_null(role_to(&pair.ends.guest, pair.id, CHANNEL_EVENT_OTHER));
	finish_pair(&pair);

	init_shared_pair(&pair, CHANNEL_EVENT_OTHER, -1);
	assert_non_null(role_to(&pair.ends.host, pair.id, CHANNEL_EVENT_SINK + 1));
	assert_non_null(role_to(&pair.ends.host, pair.id, UINT32_MAX));
	assert_non_null(role_to(&pair.ends.host, pair.id, CHANNEL_EVENT_OTHER));
	assert_non_null(role_to(&pair.ends.guest, pair.id, CHANNEL_EVENT_OTHER)); // has answered
	assert_null(role_to(&pair.ends.host, pair.id, CHANNEL_EVENT_SINK));
	assert_null(
		role_to(&pair.ends.host, pair.id, CHANNEL_EVENT_SOURCE)); // it moves them already
	finish_pair(&pair);
}

static void what_is_not_opened_yet_cannot_be_spoken_of(void **state)
{
	(void)state;
	struct ends ends;
	init_shared(&ends);
	int fd = eventfd(1, EFD_CLOEXEC);
	assert_true(event_must_wait(&ends.guest.refs, fd));
	uint32_t id = keeper.last.number;
	struct channel_event_add add = {.count = {1}};
	assert_non_null(end_frame(&ends.guest, CHANNEL_EVENT_ADD, id, 0, &add, sizeof(add)));
	assert_non_null(role_to(&ends.guest, id, CHANNEL_EVENT_MOVES));
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSED, id, 0, NULL, 0));
	assert_non_null(end_frame(&ends.guest, CHANNEL_CLOSE, id, 0, NULL, 0));
	assert_int_equal(fdrefs_get_fd(&ends.guest.refs, id), -EBADF);
	assert_int_equal(count_of(fd), 1);
	close(fd);
	ends_finish(&ends);
}

static void what_is_closed_before_the_answer_is_forgotten(void **state)
{
	(void)state;
	struct ends ends;
	init_shared(&ends);
	struct channel_open_event open = {.name = {NAME}};
	const uint32_t id = CHANNEL_ID_HOST | 1, kind = CHANNEL_KIND_EVENT;
	assert_null(end_frame(&ends.guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	assert_int_equal(keeper.last.number, id);
	assert_null(end_frame(&ends.guest, CHANNEL_CLOSE, id, 0, NULL, 0));
	answer(&ends.guest, NAME, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
	// nor is it the answer for another one with that id
	open.name[0]++;
	assert_null(end_frame(&ends.guest, CHANNEL_OPEN, id, kind, &open, sizeof(open)));
	answer(&ends.guest, NAME, CHANNEL_EVENT_OTHER, eventfd(0, EFD_CLOEXEC));
	ends.guest.opened = id;
	assert_int_equal(end_take(&ends.guest), -EBADF);
	open = (struct channel_open_event){.role = CHANNEL_EVENT_SOURCE};
	assert_non_null(end_frame(&ends.guest, CHANNEL_OPEN, id + 1, kind, &open, sizeof(open)));
	ends_finish(&ends);
}

/* ---- too many ---- */

static uint32_t pass(struct ends *ends, int fd)
{
	const char *wrong;
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	struct fdref *ref = fdrefs_find(&ends->guest.refs, &identity);
	if (ref != NULL) {
		assert_int_equal(ref->interface->again(ref, fd), FDREF_AGAIN_NAME);
		return ref->id;
	}
	uint32_t id = event_export(&ends->guest.refs, duplicate(fd), &wrong);
	assert_int_not_equal(id, 0);
	ends_run(ends);
	assert_null(ends->host.wrong);
	return id;
}

static bool has_identity(int fd)
{
	static const struct fd_identity unknown;
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	return !fd_identity_equal(&identity, &unknown);
}

static void those_that_nobody_uses_make_room_for_others(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	if (!has_identity(pair.guest)) {
		finish_pair(&pair);
		skip();
	}
	for (int i = 0; i < 2000; i++) { // of 1000 that may be open
		int fd = eventfd(1, EFD_CLOEXEC);
		pass(&pair.ends, fd);
		close(fd);
		assert_int_equal(pass(&pair.ends, pair.guest), pair.id); // is in use
	}
	assert_in_range(
		pair.ends.host.refs.theirs.used, CHANNEL_MAX_FDREFS / 2, CHANNEL_MAX_FDREFS + 1);
	assert_int_equal(pair.ends.guest.refs.ours.used, pair.ends.host.refs.theirs.used);
	eventfd_write(pair.guest, 7);
	expect_counts(&pair, 0, 7);
	finish_pair(&pair);
}

static void who_is_let_go_still_gets_what_was_on_its_way(void **state)
{
	(void)state;
	struct pair pair;
	init_pair(&pair, 0, 0);
	int peer = reconnect_guest(&pair);
	for (size_t i = 0; i < CHANNEL_MAX_FDREFS; i++) {
		const char *wrong;
		assert_int_not_equal(
			event_export(&pair.ends.guest.refs, eventfd(0, EFD_CLOEXEC), &wrong), 0);
	}
	assert_true(fdrefs_get(&pair.ends.guest.refs, pair.id)->closing);
	struct channel_event_add add;
	channel_put64(add.count, 5);
	assert_null(end_frame(&pair.ends.guest, CHANNEL_EVENT_ADD, pair.id, 0, &add, sizeof(add)));
	assert_int_equal(count_of(pair.guest), 5);
	assert_null(end_frame(&pair.ends.guest, CHANNEL_CLOSED, pair.id, 0, NULL, 0));
	assert_null(fdrefs_get(&pair.ends.guest.refs, pair.id));
	eventfd_write(pair.guest, 1);
	ends_run(&pair.ends);
	assert_int_equal(count_of(pair.guest), 6); // nobody takes it
	close(peer);
	finish_pair(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_the_opener_writes_is_read_on_the_other_side),
		fd_count_test(what_the_other_side_writes_is_read_at_the_openers),
		fd_count_test(what_was_written_before_a_count_leaves_first),
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
		fd_count_test(an_opener_waits_for_a_name_and_for_the_other_side),
		fd_count_test(not_more_than_a_few_names_are_asked_for_at_a_time),
		fd_count_test(what_another_session_was_given_is_given_again),
		fd_count_test(who_does_not_move_counts_leaves_them),
		fd_count_test(who_takes_over_leaves_what_is_there_for_the_reader),
		fd_count_test(who_takes_over_goes_on_where_the_last_one_was),
		fd_count_test(who_waits_for_its_turn_adds_nothing_before),
		fd_count_test(who_ends_before_its_turn_adds_what_has_come),
		fd_count_test(who_ends_says_how_far_it_has_come),
		fd_count_test(who_looks_after_it_is_told_where_counts_appear),
		fd_count_test(a_session_that_ends_takes_no_more_but_gives_what_comes),
		fd_count_test(without_an_answer_each_session_has_its_own),
		fd_count_test(an_importer_that_gets_no_answer_moves_counts_itself),
		fd_count_test(nobody_to_ask_is_nobody_to_wait_for),
		fd_count_test(a_role_that_is_wrong_ends_the_session),
		fd_count_test(what_is_not_opened_yet_cannot_be_spoken_of),
		fd_count_test(what_is_closed_before_the_answer_is_forgotten),
		fd_count_test(those_that_nobody_uses_make_room_for_others),
		fd_count_test(who_is_let_go_still_gets_what_was_on_its_way),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
