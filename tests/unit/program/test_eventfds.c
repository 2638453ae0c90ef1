#include "program/eventfds.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "fdpass/kind.h"
#include "tests/support/fd_count.h"

#define FIRST_GUEST 3 // CIDs

// What sessions are told by their parent, on the host's side.
struct fixture {
	struct eventfds eventfds;
	unsigned int told; // how often
	unsigned int room; // for so many more
	unsigned int session;
	struct event_note note;      // the last one
	struct fd_identity identity; // of its fd; zeros: it had none
	struct record_event record;  // that the next question is made of
	uint32_t role;               // that the asker has
	int fd;                      // an eventfd
};

static const struct eventfds_asker one = {.session = 1, .cid = FIRST_GUEST};
static const struct eventfds_asker two = {.session = 2, .cid = FIRST_GUEST};
static const struct eventfds_asker three = {.session = 3, .cid = FIRST_GUEST};

static bool tell(void *data, unsigned int session, const struct event_note *note, int fd)
{
	struct fixture *fixture = data;
	if (fixture->room == 0) {
		return false;
	}
	fixture->room--;
	fixture->told++;
	fixture->session = session;
	fixture->note = *note;
	fixture->identity = (struct fd_identity){0};
	if (fd >= 0) {
		fd_identity_of(fd, &fixture->identity);
	}
	return true;
}

static int new_event(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void init(struct fixture *fixture)
{
	*fixture = (struct fixture){.room = UINT_MAX, .fd = new_event()};
	eventfds_init(&fixture->eventfds);
	fixture->eventfds.max_per_session = 100;
	fixture->eventfds.side = CHANNEL_EVENT_HOST;
	fixture->eventfds.tell = tell;
	fixture->eventfds.data = fixture;
	fixture->record = (struct record_event){.type = RECORD_EVENT, .link = "of a guest"};
}

static void finish(struct fixture *fixture)
{
	eventfds_finish(&fixture->eventfds);
	close(fixture->fd);
}

static bool has_told(const struct fixture *fixture, int fd)
{
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	return fd_identity_equal(&identity, &fixture->identity);
}

// Asks with a copy of fd.
static bool ask(struct fixture *fixture, const struct eventfds_asker *who, uint64_t name, int fd)
{
	fixture->record.note =
		(struct event_note){.name = name, .number = 7, .role = fixture->role};
	return eventfds_handle(
		&fixture->eventfds, who, &fixture->record, fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

// The answer's role; it is for who has asked.
static uint32_t role_of(
	struct fixture *fixture, const struct eventfds_asker *who, uint64_t name, int fd)
{
	unsigned int before = fixture->told;
	assert_true(ask(fixture, who, name, fd));
	assert_int_equal(fixture->told, before + 1);
	assert_int_equal(fixture->session, who->session);
	assert_int_equal(fixture->note.number, 7);
	return fixture->note.role;
}

static void the_first_who_asks_moves_the_counts(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	assert_int_equal(role_of(&fixture, &one, 0, fixture.fd), CHANNEL_EVENT_MOVES);
	uint64_t name = fixture.note.name;
	assert_true(name & CHANNEL_EVENT_HOST);
	assert_int_equal(role_of(&fixture, &two, 0, fixture.fd), CHANNEL_EVENT_OTHER);
	assert_int_equal(fixture.note.name, name);
	int another = new_event();
	assert_int_equal(role_of(&fixture, &two, 0, another), CHANNEL_EVENT_MOVES);
	assert_true(fixture.note.name != name);
	close(another);
	finish(&fixture);
}

static void a_name_is_one_fd(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	int first = new_event(), second = new_event();
	assert_int_equal(role_of(&fixture, &one, 5, first), CHANNEL_EVENT_OTHER);
	assert_false(has_told(&fixture, first)); // the asker's own
	assert_int_equal(role_of(&fixture, &two, 5, second), CHANNEL_EVENT_OTHER);
	assert_true(has_told(&fixture, first));
	assert_int_equal(fixture.note.name, 5);
	// it has that name when it goes home, too
	assert_int_equal(role_of(&fixture, &three, 0, first), CHANNEL_EVENT_OTHER);
	assert_int_equal(fixture.note.name, 5);
	close(first);
	close(second);
	finish(&fixture);
}

static void what_comes_home_is_the_original(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	int original = new_event(), replica = new_event();
	role_of(&fixture, &one, 0, original);
	uint64_t name = fixture.note.name;
	assert_int_equal(role_of(&fixture, &two, name, replica), CHANNEL_EVENT_OTHER);
	assert_true(has_told(&fixture, original));
	close(original);
	close(replica);
	finish(&fixture);
}

static void a_name_of_ours_that_was_never_given_names_nothing(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	int forged = new_event();
	uint64_t next = (fixture.eventfds.last + 1) | CHANNEL_EVENT_HOST;
	assert_int_equal(role_of(&fixture, &one, next, forged), CHANNEL_EVENT_MOVES);
	assert_false(has_told(&fixture, forged));
	assert_int_equal(fixture.eventfds.count, 0);
	// who gets it by right does not get the forger's
	assert_int_equal(role_of(&fixture, &two, 0, fixture.fd), CHANNEL_EVENT_MOVES);
	assert_int_equal(fixture.note.name, next);
	close(forged);
	finish(&fixture);
}

static void another_link_or_machine_finds_nothing(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	const struct eventfds_asker elsewhere = {.session = 2, .cid = FIRST_GUEST + 1};
	int theirs = new_event(), ours = new_event(), fd = new_event();
	role_of(&fixture, &one, 5, theirs);
	role_of(&fixture, &one, 0, ours);
	uint64_t name = fixture.note.name;

	role_of(&fixture, &elsewhere, 5, fd);
	assert_false(has_told(&fixture, theirs));
	assert_int_equal(role_of(&fixture, &elsewhere, name, fd), CHANNEL_EVENT_MOVES);
	assert_false(has_told(&fixture, ours));

	fixture.record.link[15]++;
	role_of(&fixture, &two, 5, fd);
	assert_false(has_told(&fixture, theirs));
	assert_int_equal(role_of(&fixture, &two, name, fd), CHANNEL_EVENT_MOVES);
	assert_false(has_told(&fixture, ours));
	assert_int_equal(role_of(&fixture, &two, 0, ours), CHANNEL_EVENT_MOVES);
	assert_true(fixture.note.name != name);
	close(theirs);
	close(ours);
	close(fd);
	finish(&fixture);
}

// placed: COUNT_MAX while it moves counts.
static bool note(struct fixture *fixture, unsigned int session, uint64_t name, uint32_t role,
	uint64_t placed)
{
	const struct eventfds_asker who = {.session = session, .cid = FIRST_GUEST};
	fixture->record.note = (struct event_note){.name = name, .role = role, .placed = placed};
	return eventfds_handle(&fixture->eventfds, &who, &fixture->record, -1);
}

// The first one moves its counts. Its name.
static uint64_t share_by_three(struct fixture *fixture, int fd)
{
	role_of(fixture, &one, 0, fd);
	uint64_t name = fixture->note.name;
	role_of(fixture, &two, 0, fd);
	role_of(fixture, &three, 0, fd);
	return name;
}

static void when_who_moves_counts_has_ended_the_next_one_does(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	uint64_t name = share_by_three(&fixture, fixture.fd);
	assert_true(note(&fixture, 1, name, CHANNEL_EVENT_SINK, COUNT_MAX));
	assert_true(note(&fixture, 2, name, CHANNEL_EVENT_SOURCE, COUNT_MAX)); // not its to say
	eventfds_forget(&fixture.eventfds, 1);
	assert_int_equal(fixture.session, 2);
	assert_int_equal(fixture.note.number, 0);
	assert_int_equal(fixture.note.name, name);
	assert_int_equal(fixture.note.role, CHANNEL_EVENT_SINK);
	assert_int_equal(fixture.note.placed, COUNT_MAX); // nobody knows

	// a session that did not move them is not missed
	unsigned int told = fixture.told;
	eventfds_forget(&fixture.eventfds, 3);
	eventfds_forget(&fixture.eventfds, 3);
	assert_int_equal(fixture.told, told);
	assert_int_equal(fixture.eventfds.count, 1);
	eventfds_forget(&fixture.eventfds, 2);
	assert_int_equal(fixture.told, told);
	assert_int_equal(fixture.eventfds.count, 0);
	finish(&fixture);
}

static void the_other_side_decides_about_its_own(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	role_of(&fixture, &one, 5, fixture.fd);
	role_of(&fixture, &two, 5, fixture.fd);
	unsigned int told = fixture.told;
	eventfds_forget(&fixture.eventfds, 1);
	assert_int_equal(fixture.told, told);
	finish(&fixture);
}

static void expect_told(
	const struct fixture *fixture, unsigned int session, uint32_t role, uint64_t placed)
{
	assert_int_equal(fixture->session, session);
	assert_int_equal(fixture->note.number, 0);
	assert_int_equal(fixture->note.role, role);
	assert_int_equal(fixture->note.placed, placed);
}

static void the_next_one_goes_on_where_the_last_one_was(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	uint64_t name = share_by_three(&fixture, fixture.fd);
	assert_true(note(&fixture, 1, name, CHANNEL_EVENT_SINK, COUNT_MAX));
	assert_true(note(&fixture, 1, name, CHANNEL_EVENT_SINK, 5));
	expect_told(&fixture, 2, CHANNEL_EVENT_SINK, 5);
	// who ends without having begun leaves it as it was
	eventfds_forget(&fixture.eventfds, 2);
	expect_told(&fixture, 3, CHANNEL_EVENT_SINK, 5);
	eventfds_forget(&fixture.eventfds, 1);
	eventfds_forget(&fixture.eventfds, 3);
	assert_int_equal(fixture.eventfds.count, 0);
	finish(&fixture);
}

// The other side has decided that the second one is the next.
static void nobody_begins_while_another_one_has_not_ended_here(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	role_of(&fixture, &two, 5, fixture.fd);
	fixture.role = CHANNEL_EVENT_MOVES;
	role_of(&fixture, &one, 5, fixture.fd);
	fixture.role = CHANNEL_EVENT_OTHER;
	role_of(&fixture, &three, 5, fixture.fd);
	unsigned int told = fixture.told;
	assert_true(note(&fixture, 1, 5, CHANNEL_EVENT_SINK, COUNT_MAX));
	assert_true(note(&fixture, 2, 5, CHANNEL_EVENT_SINK, COUNT_MAX));
	assert_int_equal(fixture.told, told);
	// ends before its turn came
	assert_true(note(&fixture, 2, 5, CHANNEL_EVENT_OTHER, 4));
	assert_true(note(&fixture, 1, 5, CHANNEL_EVENT_SINK, 3));
	assert_int_equal(fixture.told, told);
	assert_true(note(&fixture, 3, 5, CHANNEL_EVENT_SOURCE, COUNT_MAX));
	assert_int_equal(fixture.told, told + 1);
	expect_told(&fixture, 3, CHANNEL_EVENT_SINK, 7);
	eventfds_forget(&fixture.eventfds, 3);
	assert_int_equal(fixture.eventfds.count, 0);
	finish(&fixture);
}

// A socket has room for some hundreds.
static void a_session_is_told_of_as_much_as_it_reads(void **state)
{
	(void)state;
	struct fixture fixture;
	uint64_t names[10];
	init(&fixture);
	for (size_t i = 0; i < 10; i++) {
		int fd = new_event();
		names[i] = share_by_three(&fixture, fd);
		close(fd);
	}
	unsigned int told = fixture.told;
	fixture.room = 2;
	eventfds_forget(&fixture.eventfds, 1);
	assert_int_equal(fixture.told, told + 2);
	for (unsigned int i = 2; i < 6; i++) {
		fixture.room = 1;
		assert_true(note(&fixture, 2, fixture.note.name, CHANNEL_EVENT_MOVES, COUNT_MAX));
		assert_int_equal(fixture.told, told + i + 1);
		assert_int_equal(fixture.session, 2);
	}
	// the others, and those that it had
	fixture.room = UINT_MAX;
	eventfds_forget(&fixture.eventfds, 2);
	assert_int_equal(fixture.told, told + 6 + 10);
	assert_int_equal(fixture.session, 3);
	assert_true(note(&fixture, 3, names[0], CHANNEL_EVENT_SINK, COUNT_MAX));
	assert_int_equal(fixture.told, told + 6 + 10);
	finish(&fixture);
}

static void a_name_is_not_given_twice(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	uint64_t last = 0;
	for (int i = 0; i < 10; i++) {
		int fd = new_event(); // the kernel gives it the same number each time
		role_of(&fixture, &one, 0, fd);
		assert_true(fixture.note.name != last);
		last = fixture.note.name;
		close(fd);
		eventfds_forget(&fixture.eventfds, 1);
	}
	finish(&fixture);
	struct fixture later;
	init(&later);
	assert_true(later.eventfds.last != last && later.eventfds.last + 10 != last);
	finish(&later);
}

static void what_is_too_many_is_known_to_one_session_only(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	fixture.eventfds.max_per_session = 2;
	int fds[4];
	for (size_t i = 0; i < 4; i++) {
		fds[i] = new_event();
		assert_int_equal(role_of(&fixture, &one, 0, fds[i]), CHANNEL_EVENT_MOVES);
		assert_int_equal(fixture.note.name != 0, i < 2);
	}
	assert_int_equal(role_of(&fixture, &one, 9, fds[3]), CHANNEL_EVENT_MOVES);
	assert_int_equal(fixture.note.name, 9);
	assert_int_equal(role_of(&fixture, &two, 9, fds[3]), CHANNEL_EVENT_OTHER);
	fixture.eventfds.max = 3; // in all
	assert_int_equal(role_of(&fixture, &two, 0, fds[2]), CHANNEL_EVENT_MOVES);
	assert_int_equal(fixture.note.name, 0);
	for (size_t i = 0; i < 4; i++) {
		close(fds[i]);
	}
	finish(&fixture);
}

static void one_link_does_not_take_all(void **state)
{
	(void)state;
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < EVENTFDS_PER_LINK + 100) {
		skip();
	}
	struct fixture fixture;
	init(&fixture);
	fixture.eventfds.max_per_session = SIZE_MAX;
	fixture.eventfds.max = fixture.eventfds.max_per_vm = SIZE_MAX;
	for (uint64_t name = 1; name <= EVENTFDS_PER_LINK; name++) {
		assert_int_equal(role_of(&fixture, &one, name, fixture.fd), CHANNEL_EVENT_OTHER);
	}
	assert_int_equal(
		role_of(&fixture, &one, EVENTFDS_PER_LINK + 1, fixture.fd), CHANNEL_EVENT_MOVES);
	fixture.record.link[0]++;
	assert_int_equal(role_of(&fixture, &one, 1, fixture.fd), CHANNEL_EVENT_OTHER);
	finish(&fixture);
}

// A guest can make up links, and has sessions as it likes.
static void one_vm_leaves_room_for_others(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	fixture.eventfds.max_per_session = SIZE_MAX;
	const struct eventfds_asker other = {.session = 2, .cid = FIRST_GUEST + 1};
	size_t max = fixture.eventfds.max;
	for (uint64_t name = 1; name <= max; name++) {
		fixture.record.link[0] = (uint8_t)name;
		role_of(&fixture, &one, name, fixture.fd);
	}
	assert_int_equal(fixture.eventfds.count, max / 4);
	assert_int_equal(role_of(&fixture, &other, 1, fixture.fd), CHANNEL_EVENT_OTHER);
	assert_int_equal(fixture.eventfds.count, max / 4 + 1);
	// what a session gives back another one of its VM may have
	eventfds_forget(&fixture.eventfds, 1);
	assert_int_equal(role_of(&fixture, &three, 1, fixture.fd), CHANNEL_EVENT_OTHER);
	finish(&fixture);
}

static void a_record_that_makes_no_sense_is_refused(void **state)
{
	(void)state;
	struct fixture fixture;
	int pipe_fds[2];
	init(&fixture);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	assert_false(ask(&fixture, &one, 0, pipe_fds[0])); // not an eventfd
	fixture.record.note = (struct event_note){.number = 7};
	assert_false(eventfds_handle(&fixture.eventfds, &one, &fixture.record, -1)); // no fd
	fixture.record.note = (struct event_note){0};
	assert_false(eventfds_handle(
		&fixture.eventfds, &one, &fixture.record, fcntl(fixture.fd, F_DUPFD_CLOEXEC, 0)));
	assert_false(note(&fixture, 1, 5, CHANNEL_EVENT_SINK, UINT64_MAX));
	assert_false(note(&fixture, 1, 5, CHANNEL_EVENT_SINK + 1, 0));
	assert_true(note(&fixture, 1, 5, CHANNEL_EVENT_SINK, 0));    // it has just been forgotten
	memset(fixture.record.link, 0, sizeof(fixture.record.link)); // of no link
	assert_false(ask(&fixture, &one, 0, fixture.fd));
	assert_false(note(&fixture, 1, 5, CHANNEL_EVENT_SINK, 0));
	assert_int_equal(fixture.told, 0);
	assert_int_equal(fixture.eventfds.count, 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	finish(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(the_first_who_asks_moves_the_counts),
		fd_count_test(a_name_is_one_fd),
		fd_count_test(what_comes_home_is_the_original),
		fd_count_test(a_name_of_ours_that_was_never_given_names_nothing),
		fd_count_test(another_link_or_machine_finds_nothing),
		fd_count_test(when_who_moves_counts_has_ended_the_next_one_does),
		fd_count_test(the_other_side_decides_about_its_own),
		fd_count_test(the_next_one_goes_on_where_the_last_one_was),
		fd_count_test(nobody_begins_while_another_one_has_not_ended_here),
		fd_count_test(a_session_is_told_of_as_much_as_it_reads),
		fd_count_test(a_name_is_not_given_twice),
		fd_count_test(what_is_too_many_is_known_to_one_session_only),
		fd_count_test(one_link_does_not_take_all),
		fd_count_test(one_vm_leaves_room_for_others),
		fd_count_test(a_record_that_makes_no_sense_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
