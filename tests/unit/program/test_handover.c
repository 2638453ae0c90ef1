#include "program/eventfds.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "fdpass/event.h"
#include "fdpass/kind.h"
#include "tests/support/fd_count.h"
#include "tests/unit/fdpass/ends.h"

/**
 * One eventfd in three sessions, of which two end while its counts are moved. All that may happen in
 * any order, does: records reach a parent or a session process, a session's loop runs, a session goes one
 * step of its end, a local process writes or reads.
 */

#define SESSIONS  3
#define SCHEDULES 150 // of each kind
#define STEPS     400
#define WRITES    50
#define REPLY     1000 // more than all that is written the other way, and moved in one frame

enum side { GUEST, HOST };

// How far a session has come in its end.
enum stage { ALIVE, FIRST_ENDS, BOTH_END, FIRST_FINISHED, BOTH_FINISHED };

struct session {
	struct ends ends;
	enum stage stage;
	enum side first;
	bool gone[2]; // as the parent knows
};

// Under way between a parent and its session process.
struct record {
	struct wl_list link; // world.records
	enum side side;
	bool to_parent;
	size_t session;
	struct event_note note;
	int fd;
};

struct parent {
	struct world *world;
	struct eventfds eventfds;
};

struct world {
	struct session sessions[SESSIONS];
	struct parent parents[2];
	struct wl_list records; // in their order
	unsigned int random;
	int fds[2];       // of the local processes
	enum side writer; // the other one reads
	uint64_t written, taken;
	unsigned int writes;
	bool replies, replied; // the reader writes, too, when all has come
};

static struct world *current; // refs->ask has no data of ours

static unsigned int choose(struct world *world, unsigned int n)
{
	world->random = world->random * 1103515245 + 12345;
	return world->random / 65536 % n;
}

static struct end *end_of(struct session *session, enum side side)
{
	return side == GUEST ? &session->ends.guest : &session->ends.host;
}

static uint64_t count_of(int fd)
{
	int info = fd_info_open(fd);
	uint64_t count;
	assert_true(fd_info_number(info, "eventfd-count", 16, &count));
	close(info);
	return count;
}

/* ---- records ---- */

static void send_record(struct world *world, enum side side, bool to_parent, size_t session,
	const struct event_note *note, int fd)
{
	struct record *record = malloc(sizeof(*record));
	assert_non_null(record);
	*record = (struct record){
		.side = side,
		.to_parent = to_parent,
		.session = session,
		.note = *note,
		.fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1,
	};
	wl_list_insert(world->records.prev, &record->link);
}

static bool handle_ask(void *data, const struct event_note *note, int fd)
{
	for (size_t i = 0; i < SESSIONS; i++) {
		for (enum side side = GUEST; side <= HOST; side++) {
			if (data == end_of(&current->sessions[i], side)) {
				send_record(current, side, true, i, note, fd);
				return true;
			}
		}
	}
	return false;
}

static bool handle_tell(void *data, unsigned int number, const struct event_note *note, int fd)
{
	struct parent *parent = data;
	struct world *world = parent->world;
	enum side side = parent == &world->parents[HOST] ? HOST : GUEST;
	send_record(world, side, false, number - 1, note, fd);
	return true;
}

static struct record *first_record(
	struct world *world, enum side side, bool to_parent, size_t session)
{
	struct record *record;
	wl_list_for_each (record, &world->records, link) {
		if (record->side == side && record->to_parent == to_parent &&
			record->session == session) {
			return record;
		}
	}
	return NULL;
}

static void deliver(struct world *world, struct record *record)
{
	struct parent *parent = &world->parents[record->side];
	wl_list_remove(&record->link);
	if (record->to_parent) {
		const struct eventfds_asker asker = {.session = (unsigned int)record->session + 1};
		const struct record_event event = {.link = "a link", .note = record->note};
		assert_true(eventfds_handle(&parent->eventfds, &asker, &event, record->fd));
	} else {
		struct session *session = &world->sessions[record->session];
		event_answer(&end_of(session, record->side)->refs, &record->note, record->fd);
	}
	free(record);
}

static bool deliver_one(struct world *world, enum side side, bool to_parent, size_t session)
{
	struct record *record = first_record(world, side, to_parent, session);
	if (record == NULL) {
		return false;
	}
	bool reads = to_parent || world->sessions[session].stage < FIRST_FINISHED;
	if (reads) {
		deliver(world, record);
	}
	return reads;
}

/* ---- sessions ---- */

static void run_loop(struct session *session)
{
	if (session->stage < FIRST_FINISHED) {
		channel_flush(session->ends.guest.channel);
		channel_flush(session->ends.host.channel);
		event_base_loop(session->ends.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	}
}

/* END comes after all that was sent before it; after it nothing is taken any more. */
static void end_further(struct session *session)
{
	enum side second = session->first == GUEST ? HOST : GUEST;
	switch (session->stage++) {
	case ALIVE:
		end_of(session, session->first)->refs.ending = true;
		return;
	case FIRST_ENDS:
		ends_run(&session->ends);
		end_of(session, second)->refs.ending = true;
		return;
	case BOTH_END:
		ends_run(&session->ends);
		fdrefs_finish(&end_of(session, session->first)->refs);
		return;
	case FIRST_FINISHED:
		fdrefs_finish(&end_of(session, second)->refs);
		return;
	case BOTH_FINISHED:
		session->stage = BOTH_FINISHED;
		return;
	}
}

/* Its last words are read before. */
static void notice_end(struct world *world, enum side side, size_t i)
{
	struct session *session = &world->sessions[i];
	if (session->stage < BOTH_FINISHED || session->gone[side]) {
		return;
	}
	while (deliver_one(world, side, true, i)) {
	}
	session->gone[side] = true;
	eventfds_forget(&world->parents[side].eventfds, (unsigned int)i + 1);
}

/* ---- the world ---- */

static void write_count(struct world *world, enum side side, uint64_t count)
{
	world->written += count;
	assert_int_equal(eventfd_write(world->fds[side], count), 0);
}

static void act(struct world *world, size_t i)
{
	enum side reader = world->writer == GUEST ? HOST : GUEST;
	bool come = world->taken + count_of(world->fds[reader]) == world->written;
	if (i == 0 && !world->replied && world->writes < WRITES) {
		world->writes++;
		write_count(world, world->writer, 1 + choose(world, 3));
	} else if (i == 1 && !world->replied && count_of(world->fds[reader]) > 0) {
		eventfd_t count;
		assert_int_equal(eventfd_read(world->fds[reader], &count), 0);
		world->taken += count;
	} else if (i == 2 && world->replies && !world->replied && come) {
		world->replied = true;
		write_count(world, reader, REPLY);
	}
}

static void step(struct world *world)
{
	size_t i = choose(world, SESSIONS);
	enum side side = choose(world, 2);
	switch (choose(world, 16)) {
	case 0:
		if (i != SESSIONS - 1) { // the last one stays
			end_further(&world->sessions[i]);
		}
		return;
	case 1:
		notice_end(world, side, i);
		return;
	case 2:
	case 3:
	case 4:
		act(world, i);
		return;
	case 5:
	case 6:
	case 7:
		run_loop(&world->sessions[i]);
		return;
	default:
		deliver_one(world, side, choose(world, 2), i);
	}
}

/* Lets all that is under way arrive. */
static void settle(struct world *world)
{
	for (bool more = true; more;) {
		more = false;
		for (size_t i = 0; i < SESSIONS; i++) {
			if (world->sessions[i].stage < FIRST_FINISHED) {
				ends_run(&world->sessions[i].ends);
			}
			for (unsigned int way = 0; way < 4; way++) {
				more |= deliver_one(world, way & 1, way & 2, i);
			}
		}
	}
}

static void init_world(struct world *world, unsigned int seed, int flags)
{
	*world = (struct world){.random = seed};
	current = world;
	wl_list_init(&world->records);
	for (enum side side = GUEST; side <= HOST; side++) {
		struct parent *parent = &world->parents[side];
		parent->world = world;
		eventfds_init(&parent->eventfds);
		parent->eventfds.max_per_session = 100;
		parent->eventfds.side = side == HOST ? CHANNEL_EVENT_HOST : 0;
		parent->eventfds.tell = handle_tell;
		parent->eventfds.data = parent;
	}
	world->fds[HOST] = eventfd(0, EFD_CLOEXEC | flags);
	for (size_t i = 0; i < SESSIONS; i++) {
		struct session *session = &world->sessions[i];
		session->first = choose(world, 2);
		ends_init(&session->ends);
		for (enum side side = GUEST; side <= HOST; side++) {
			end_of(session, side)->refs.ask = handle_ask;
			end_of(session, side)->refs.rules.turn_ms = 1;
		}
		assert_true(event_must_wait(&session->ends.host.refs, world->fds[HOST]));
	}
	settle(world);
	world->fds[GUEST] = end_take(&world->sessions[SESSIONS - 1].ends.guest);
	assert_true(world->fds[GUEST] >= 0);
}

static void finish_world(struct world *world)
{
	for (size_t i = 0; i < SESSIONS; i++) {
		assert_null(world->sessions[i].ends.guest.wrong);
		assert_null(world->sessions[i].ends.host.wrong);
		ends_finish(&world->sessions[i].ends);
	}
	for (enum side side = GUEST; side <= HOST; side++) {
		eventfds_finish(&world->parents[side].eventfds);
		close(world->fds[side]);
	}
	struct record *record, *next;
	wl_list_for_each_safe (record, next, &world->records, link) {
		if (record->fd >= 0) {
			close(record->fd);
		}
		free(record);
	}
}

/* Everything goes to where it is read; also what needs a turn of the direction, which takes a while. */
static void expect_all_at(struct world *world, enum side side)
{
	enum side other = side == GUEST ? HOST : GUEST;
	for (unsigned int passes = 0; passes < 10000; passes++) {
		settle(world);
		bool there = count_of(world->fds[other]) == 0 &&
			world->taken + count_of(world->fds[side]) == world->written;
		if (there && passes >= 3) {
			return; // and stays there
		}
		usleep(1000);
	}
	fail_msg("%u + %u of %u are there, %u are not", (unsigned int)world->taken,
		(unsigned int)count_of(world->fds[side]), (unsigned int)world->written,
		(unsigned int)count_of(world->fds[other]));
}

static void play(unsigned int seed, int flags, enum side writer, bool replies)
{
	struct world world;
	init_world(&world, seed, flags);
	world.writer = writer;
	world.replies = replies;
	for (unsigned int i = 0; i < STEPS || (replies && !world.replied); i++) {
		step(&world);
	}
	for (size_t i = 0; i < SESSIONS - 1; i++) {
		for (unsigned int stage = ALIVE; stage < BOTH_FINISHED; stage++) {
			end_further(&world.sessions[i]);
		}
		notice_end(&world, GUEST, i);
		notice_end(&world, HOST, i);
	}
	enum side reader = writer == GUEST ? HOST : GUEST;
	expect_all_at(&world, replies ? writer : reader);
	finish_world(&world);
}

static bool has_identity(void)
{
	static const struct fd_identity unknown;
	struct fd_identity identity;
	int fd = eventfd(0, EFD_CLOEXEC);
	fd_identity_of(fd, &identity);
	close(fd);
	return !fd_identity_equal(&identity, &unknown);
}

static void play_all(int flags, bool replies)
{
	if (!has_identity()) {
		skip();
	}
	for (unsigned int seed = 1; seed <= SCHEDULES; seed++) {
		play(seed, flags, HOST, replies);
		play(seed, flags, GUEST, replies);
	}
}

static void what_is_written_while_sessions_end_comes_once_and_stays(void **state)
{
	(void)state;
	play_all(0, false);
}

static void so_does_what_a_semaphore_has(void **state)
{
	(void)state;
	play_all(EFD_SEMAPHORE, false);
}

static void what_its_reader_writes_while_sessions_end_comes_back(void **state)
{
	(void)state;
	play_all(0, true);
}

static void so_does_what_a_semaphores_reader_writes(void **state)
{
	(void)state;
	play_all(EFD_SEMAPHORE, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_written_while_sessions_end_comes_once_and_stays),
		fd_count_test(so_does_what_a_semaphore_has),
		fd_count_test(what_its_reader_writes_while_sessions_end_comes_back),
		fd_count_test(so_does_what_a_semaphores_reader_writes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
