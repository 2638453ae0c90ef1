#include "fdpass/event.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/kind.h"
#include "fdpass/shared.h"

#define COUNT_MAX (UINT64_MAX - 1) // that an eventfd holds
// A semaphore gives one at a time: so many for one frame.
#define SEMAPHORE_STEP 1024

struct counter {
	struct fdref ref;
	bool ours; // opened here
	int fd;    // the original or the replica
	int info;  // of fd, where its count is read without taking it
	bool semaphore;
	bool asked;                   // what its name is, or whether there is an fd of that name
	bool awaited;                 // ours: it may not be named yet
	uint64_t name;                // 0: it is known to this session only
	enum channel_event_role role; // as it was told; that it is a source or a sink may change
	uint32_t told;                // of these two, who looks after it was told that it is
	bool source;                  // counts that appear here go to the other side
	bool paused;                  // a source whose channel is busy
	struct event *event;
	struct event *turn; // a sink, when what has appeared was there for long enough

	uint64_t pending; // came, but does not fit into fd yet
	uint64_t placed;  // of a sink: at most so much of what is in fd came from the other side
	uint32_t sent, received; // EVENT_ADD frames
	uint32_t seen;           // of those sent, by the other side when it sent its last one
};

static size_t *n_awaited(const struct counter *counter)
{
	struct fdrefs *refs = counter->ref.refs;
	return counter->ours ? &refs->unnamed : &refs->unsettled;
}

static void begin_waiting(struct counter *counter)
{
	counter->awaited = true;
	(*n_awaited(counter))++;
}

/* It may be named now, or never. */
static void end_waiting(struct counter *counter)
{
	if (counter->awaited) {
		counter->awaited = false;
		(*n_awaited(counter))--;
	}
}

static void destroy_counter(struct fdref *ref)
{
	struct counter *counter = (struct counter *)ref;
	end_waiting(counter);
	if (counter->event != NULL) {
		event_free(counter->event);
	}
	if (counter->turn != NULL) {
		event_free(counter->turn);
	}
	if (counter->info >= 0) {
		close(counter->info);
	}
	close(counter->fd);
	free(counter);
}

static bool is_ready(int fd, short events)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & events);
}

/* What is in fd, which stays there. */
static uint64_t count_in(const struct counter *counter)
{
	uint64_t count;
	if (!is_ready(counter->fd, POLLIN)) {
		return 0; // most often, and cheaper
	}
	return fd_info_number(counter->info, "eventfd-count", 16, &count) ? count : 0;
}

/* 0 where there is nothing to take. O_NONBLOCK is the local peer's: it is not looked at. */
static uint64_t take_count(const struct counter *counter)
{
	uint64_t total = 0, count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};
	unsigned int left = counter->semaphore ? SEMAPHORE_STEP : 1;
	while (left > 0) {
		ssize_t n = preadv2(counter->fd, &iov, 1, -1, RWF_NOWAIT);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n != (ssize_t)sizeof(count)) {
			break;
		}
		total += count;
		left--;
	}
	return total;
}

/* How much of what is pending can be written without blocking: 1 if anything can. */
static uint64_t count_that_fits(const struct counter *counter)
{
	uint64_t pending = counter->pending;
	if (pending == 0 || counter->asked || !is_ready(counter->fd, POLLOUT)) {
		return 0;
	}
	if (pending == 1) {
		return 1;
	}
	uint64_t room = COUNT_MAX - count_in(counter);
	return pending < room ? pending : room;
}

/* Adds what is pending as far as it fits. */
static void put_pending(struct counter *counter)
{
	uint64_t count;
	while ((count = count_that_fits(counter)) > 0) {
		ssize_t n = write(counter->fd, &count, sizeof(count));
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n != (ssize_t)sizeof(count)) {
			return;
		}
		counter->pending -= count;
		if (!counter->source) {
			bool fits = count <= COUNT_MAX - counter->placed;
			counter->placed = fits ? counter->placed + count : COUNT_MAX;
		}
	}
}

/* Else another session does; or, after this one's last word, counts stay for the next one. */
static bool takes_counts(const struct counter *counter)
{
	return counter->role != CHANNEL_EVENT_OTHER && !counter->asked &&
		!counter->ref.refs->ending;
}

/*
 * A source waits for any count, a sink hears of each change: epoll reports an edge when somebody
 * adds (readable) and when somebody takes (writable).
 */
static short events_of(const struct counter *counter)
{
	bool takes = takes_counts(counter);
	if (takes && !counter->source) {
		return EV_PERSIST | EV_READ | EV_WRITE | EV_ET;
	}
	short events = EV_PERSIST;
	events |= takes && !counter->paused ? EV_READ : 0;
	events |= counter->pending > 0 && !counter->asked ? EV_WRITE : 0;
	return events;
}

static void watch(struct counter *counter)
{
	short events = events_of(counter);
	if (event_get_events(counter->event) == events) {
		return;
	}
	struct event_base *base = event_get_base(counter->event);
	event_del(counter->event);
	event_assign(counter->event, base, counter->fd, events, event_get_callback(counter->event),
		counter);
	if (event_base_get_npriorities(base) > 1) {
		event_priority_set(
			counter->event, 1); // what was written before the count comes first
	}
	if ((events & (EV_READ | EV_WRITE)) && event_add(counter->event, NULL) < 0) {
		fdrefs_fail(counter->ref.refs, "an eventfd cannot be waited for: out of memory");
	}
}

/* Who is told to go on when this session has ended needs to know on which side counts appear. */
static void tell_direction(struct counter *counter)
{
	struct fdrefs *refs = counter->ref.refs;
	bool is_host = refs->own_bit != 0;
	bool named_here = counter->name != 0 && !(counter->name & CHANNEL_EVENT_HOST) == !is_host;
	const struct event_note note = {
		.name = counter->name,
		.role = counter->source ? CHANNEL_EVENT_SOURCE : CHANNEL_EVENT_SINK,
	};
	if (named_here && note.role != counter->told && refs->ask != NULL &&
		refs->ask(refs->data, &note, -1)) {
		counter->told = note.role;
	}
}

/* ---- source: counts leave ---- */

static void move_count(struct counter *counter)
{
	struct channel *channel = counter->ref.refs->channel;
	counter->paused = channel_queued(channel) > FDREFS_BUSY;
	if (counter->paused) {
		return; // drained goes on, counts add up meanwhile
	}
	uint64_t count = take_count(counter);
	if (count == 0) {
		return; // somebody here was faster
	}
	shared_push_changes(counter->ref.refs);
	struct channel_event_add add;
	channel_put64(add.count, count);
	counter->sent++;
	channel_push(channel, CHANNEL_EVENT_ADD, counter->ref.id, counter->received, &add,
		sizeof(add), NULL, 0);
	tell_direction(counter);
}

/* ---- sink: counts come ---- */

static void become_sink(struct counter *counter)
{
	if (counter->source) {
		counter->source = false;
		counter->paused = false;
		counter->placed = 0;
	}
}

/* Whether there is a count that did not come from the other side. */
static bool has_foreign_count(struct counter *counter)
{
	uint64_t count = count_in(counter);
	if (count > counter->placed) {
		return true;
	}
	counter->placed = count; // the rest was taken
	return false;
}

static void look_for_foreign_count(struct counter *counter)
{
	if (!has_foreign_count(counter)) {
		event_del(counter->turn);
	} else if (!event_pending(counter->turn, EV_TIMEOUT, NULL)) {
		uint32_t ms = counter->ref.refs->rules.turn_ms;
		ms = ms > 0 ? ms : EVENT_GRACE_MS;
		const struct timeval grace = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
		event_add(counter->turn, &grace);
	}
}

/* Nobody here takes what somebody here has added: it is the other side that reads. */
static void handle_turn(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct counter *counter = data;
	if (counter->source || !takes_counts(counter) || !has_foreign_count(counter)) {
		return;
	}
	counter->source = true;
	move_count(counter);
	watch(counter);
	channel_flush(counter->ref.refs->channel);
}

/* ---- both ---- */

static void handle_event(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct counter *counter = data;
	put_pending(counter);
	if (takes_counts(counter) && counter->source) {
		move_count(counter);
	} else if (takes_counts(counter)) {
		look_for_foreign_count(counter);
	}
	watch(counter);
	channel_flush(counter->ref.refs->channel);
}

/* arg says whether the sender had seen all that we sent, or has crossed with it. */
static const char *handle_add(struct counter *counter, const struct channel_frame *frame)
{
	struct channel_event_add add;
	if (frame->header.length != sizeof(add)) {
		return "EVENT_ADD with a wrong length";
	}
	memcpy(&add, frame->payload, sizeof(add));
	uint64_t count = channel_get64(add.count);
	if (count == 0 || count > COUNT_MAX) {
		return "EVENT_ADD of a count that cannot be";
	}
	if (count > COUNT_MAX - counter->pending) {
		return "more counts wait for an eventfd than it can ever hold";
	}
	uint32_t unseen = counter->sent - frame->header.arg;
	if (unseen > counter->sent - counter->seen) {
		return "EVENT_ADD of who has seen more, or less, than before";
	}
	counter->seen = frame->header.arg;
	counter->received++;
	if (unseen == 0 || !counter->ours) {
		become_sink(counter);
	}
	counter->pending += count;
	put_pending(counter);
	watch(counter);
	tell_direction(counter);
	return NULL;
}

/* From now on this session moves the counts. What a sink finds is there for its readers. */
static void take_role(struct counter *counter, enum channel_event_role role)
{
	counter->role = role;
	counter->source = role != CHANNEL_EVENT_SINK;
	counter->placed = counter->source ? 0 : count_in(counter);
	watch(counter);
}

static void push_role(struct counter *counter, enum channel_event_role role)
{
	channel_push(counter->ref.refs->channel, CHANNEL_EVENT_ROLE, counter->ref.id, role, NULL, 0,
		NULL, 0);
}

/* All that wait try again at once, since each of them looks at all of its fds. */
static void retry(struct fdrefs *refs)
{
	if (refs->unnamed == 0) {
		fdrefs_retry(refs);
	}
}

static const char *handle_role(struct counter *counter, uint32_t theirs)
{
	static const enum channel_event_role ours[] = {
		[CHANNEL_EVENT_OTHER] = CHANNEL_EVENT_OTHER,
		[CHANNEL_EVENT_MOVES] = CHANNEL_EVENT_MOVES,
		[CHANNEL_EVENT_SOURCE] = CHANNEL_EVENT_SINK,
		[CHANNEL_EVENT_SINK] = CHANNEL_EVENT_SOURCE,
	};
	if (counter->name == 0 || theirs >= sizeof(ours) / sizeof(ours[0])) {
		return "EVENT_ROLE that is none, or of an eventfd without a name";
	}
	bool answers = counter->ours && counter->awaited;
	if (theirs == CHANNEL_EVENT_OTHER && !answers) {
		return "EVENT_ROLE that leaves the counts to nobody";
	}
	if (answers) {
		end_waiting(counter);
	}
	if (theirs != CHANNEL_EVENT_OTHER && counter->role == CHANNEL_EVENT_OTHER) {
		take_role(counter, ours[theirs]);
	}
	if (answers) {
		retry(counter->ref.refs);
	}
	return NULL;
}

static const char *handle_frame(struct fdref *ref, const struct channel_frame *frame)
{
	struct counter *counter = (struct counter *)ref;
	if (counter->ours && counter->asked) {
		return "frame for an eventfd that is not open";
	}
	switch (frame->header.type) {
	case CHANNEL_EVENT_ADD:
		return handle_add(counter, frame);
	case CHANNEL_EVENT_ROLE:
		return handle_role(counter, frame->header.arg);
	case CHANNEL_CLOSE:
		fdrefs_confirm_closed(ref);
		return NULL;
	default:
		return "frame of the wrong type for an eventfd";
	}
}

static void handle_drained(struct fdref *ref)
{
	struct counter *counter = (struct counter *)ref;
	if (counter->paused && channel_queued(ref->refs->channel) <= FDREFS_BUSY) {
		counter->paused = false;
		watch(counter);
	}
}

static int get_fd(struct fdref *ref)
{
	const struct counter *counter = (struct counter *)ref;
	if (counter->asked) {
		return -EBADF; // it is too early
	}
	int fd = fcntl(counter->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

/* However often it is sent, it is one. */
static enum fdref_again again(struct fdref *ref, int fd)
{
	(void)ref;
	(void)fd;
	return FDREF_AGAIN_NAME;
}

static const struct fdref_interface events = {
	.name = "eventfd",
	.frame = handle_frame,
	.get_fd = get_fd,
	.drained = handle_drained,
	.again = again,
	.destroy = destroy_counter,
};

static void learn(struct counter *counter)
{
	uint64_t semaphore;
	if (fd_info_number(counter->info, "eventfd-semaphore", 10, &semaphore)) {
		counter->semaphore = semaphore;
	}
	fd_identity_of(counter->fd, &counter->ref.identity);
}

/* Takes fd, also on failure (NULL). */
static struct counter *create_counter(struct fdrefs *refs, int fd)
{
	struct counter *counter = calloc(1, sizeof(*counter));
	if (counter == NULL) {
		close(fd);
		return NULL;
	}
	counter->ref.interface = &events;
	counter->ref.refs = refs;
	counter->fd = fd;
	counter->role = CHANNEL_EVENT_MOVES;
	counter->source = true;
	counter->info = fd_info_open(fd);
	counter->event = event_new(refs->base, fd, 0, handle_event, counter);
	counter->turn = evtimer_new(refs->base, handle_turn, counter);
	if (counter->info < 0 || counter->event == NULL || counter->turn == NULL) {
		log_errno("cannot look after an eventfd");
		destroy_counter(&counter->ref);
		return NULL;
	}
	learn(counter);
	return counter;
}

/* ---- opening ---- */

/* An id, but no OPEN yet. Takes fd. NULL: *wrong says why. */
static struct counter *reserve(struct fdrefs *refs, int fd, const char **wrong)
{
	struct counter *counter = create_counter(refs, fd);
	if (counter == NULL) {
		*wrong = "out of memory or fds for an eventfd";
		return NULL;
	}
	counter->ours = true;
	if (!fdrefs_reserve(refs, &counter->ref, &events)) {
		destroy_counter(&counter->ref);
		*wrong = "too many fds are open in this session";
		return NULL;
	}
	return counter;
}

static void push_open(struct counter *counter)
{
	struct fdrefs *refs = counter->ref.refs;
	bool moves = counter->role != CHANNEL_EVENT_OTHER;
	struct channel_open_event open = {
		.semaphore = counter->semaphore,
		.nonblocking = (fcntl(counter->fd, F_GETFL) & O_NONBLOCK) != 0,
		.role = moves ? CHANNEL_EVENT_MOVES : CHANNEL_EVENT_OTHER,
	};
	uint64_t count = moves ? take_count(counter) : 0;
	shared_push_changes(refs);
	channel_put64(open.count, count);
	channel_put64(open.name, counter->name);
	fdrefs_push_open(&counter->ref, CHANNEL_KIND_EVENT, &open, sizeof(open));
	refs->counts.events++;
	watch(counter);
	if (count > 0) {
		tell_direction(counter);
	}
}

uint32_t event_export(struct fdrefs *refs, int fd, const char **wrong)
{
	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_EVENTFD) {
		*wrong = "an fd that should be an eventfd is not one";
		close(fd);
		return 0;
	}
	struct counter *counter = reserve(refs, fd, wrong);
	if (counter == NULL) {
		return 0;
	}
	push_open(counter);
	return counter->ref.id;
}

static bool ask(struct counter *counter)
{
	struct fdrefs *refs = counter->ref.refs;
	const struct event_note question = {.name = counter->name, .number = counter->ref.id};
	counter->asked = refs->ask != NULL && refs->ask(refs->data, &question, counter->fd);
	return counter->asked;
}

/* False: nobody has to be waited for. */
static bool ask_for_name(struct fdrefs *refs, int fd)
{
	const char *wrong;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	struct counter *counter = copy >= 0 ? reserve(refs, copy, &wrong) : NULL;
	if (counter == NULL) {
		return false; // as the export will find out
	}
	if (!ask(counter)) {
		push_open(counter);
		return false;
	}
	begin_waiting(counter);
	return true;
}

bool event_must_wait(struct fdrefs *refs, int fd)
{
	static const struct fd_identity unknown;
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	if (fd_identity_equal(&identity, &unknown)) {
		return false;
	}
	const struct fdref *ref = fdrefs_find(refs, &identity);
	if (ref == NULL) {
		bool full = refs->unnamed >= CHANNEL_MAX_UNNAMED;
		return refs->ask != NULL && (full || ask_for_name(refs, fd));
	}
	return ref->interface == &events && ((const struct counter *)ref)->awaited;
}

static void open_named(struct counter *counter, const struct event_note *answer)
{
	struct fdrefs *refs = counter->ref.refs;
	counter->asked = false;
	counter->name = answer->name;
	counter->role = answer->name != 0 && answer->role == CHANNEL_EVENT_OTHER
		? CHANNEL_EVENT_OTHER
		: CHANNEL_EVENT_MOVES;
	push_open(counter);
	if (counter->name == 0) {
		end_waiting(counter); // the other side has nothing to ask for
		retry(refs);
	}
}

/* ---- what the other side has opened ---- */

/* Takes fd, which other sessions hand out, too, in place of our own. */
static bool adopt(struct counter *counter, int fd)
{
	int info = fd_kind_of(fd) == FD_KIND_EVENTFD ? fd_info_open(fd) : -1;
	if (info < 0) {
		log_errno("cannot look after an eventfd");
		close(fd);
		return false;
	}
	struct event_base *base = event_get_base(counter->event);
	event_assign(counter->event, base, fd, EV_PERSIST, handle_event, counter);
	close(counter->fd);
	close(counter->info);
	counter->fd = fd;
	counter->info = info;
	learn(counter);
	return true;
}

/* Takes fd, -1: ours is the one. */
static void settle_import(struct counter *counter, enum channel_event_role role, int fd)
{
	bool alone = fd >= 0 ? !adopt(counter, fd) : role != CHANNEL_EVENT_OTHER;
	counter->asked = false;
	end_waiting(counter);
	if (alone && counter->role == CHANNEL_EVENT_OTHER) {
		counter->role = CHANNEL_EVENT_MOVES;
	}
	bool moves = counter->role != CHANNEL_EVENT_OTHER;
	push_role(counter, moves ? CHANNEL_EVENT_MOVES : CHANNEL_EVENT_OTHER);
	if (counter->role == CHANNEL_EVENT_SINK) {
		counter->placed = count_in(counter);
	}
	put_pending(counter);
	watch(counter);
}

static int make_replica(const struct channel_open_event *open)
{
	int flags = EFD_CLOEXEC | (open->semaphore ? EFD_SEMAPHORE : 0) |
		(open->nonblocking ? EFD_NONBLOCK : 0);
	return eventfd(0, flags);
}

const char *event_import(struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_event open;
	if (frame->header.length != sizeof(open)) {
		return "OPEN of an eventfd with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	uint64_t count = channel_get64(open.count);
	if (open.semaphore > 1 || open.nonblocking > 1 || count > COUNT_MAX ||
		open.role > CHANNEL_EVENT_MOVES) {
		return "OPEN of an eventfd with wrong flags or an impossible count";
	}
	if (refs->unsettled >= CHANNEL_MAX_UNNAMED) {
		return "more eventfds than may wait for EVENT_ROLE";
	}
	int fd = make_replica(&open);
	if (fd < 0) {
		log_errno("cannot make an eventfd");
		return "out of fds for an eventfd";
	}
	struct counter *counter = create_counter(refs, fd);
	if (counter == NULL) {
		return "out of memory or fds for an eventfd";
	}
	counter->semaphore = open.semaphore; // also where the kernel does not show it
	counter->source = count == 0;
	counter->pending = count;
	counter->name = channel_get64(open.name);
	counter->role = open.role;
	counter->ref.id = frame->header.id;
	refs->counts.events++;
	if (counter->name == 0) {
		put_pending(counter);
		watch(counter);
	} else if (ask(counter)) {
		begin_waiting(counter);
	} else {
		settle_import(counter, CHANNEL_EVENT_MOVES, -1);
	}
	*ref = &counter->ref;
	return NULL;
}

/* ---- who looks after all sessions' ---- */

static void take_answer(struct counter *counter, const struct event_note *answer, int fd)
{
	if (!counter->ours) {
		settle_import(counter, answer->role, fd);
		return;
	}
	if (fd >= 0) {
		close(fd);
	}
	open_named(counter, answer);
}

static struct counter *counter_at(const struct fdref_table *table, size_t i)
{
	struct fdref *ref = table->refs[i];
	return ref != NULL && ref->interface == &events ? (struct counter *)ref : NULL;
}

/* The session that moved the counts has ended. */
static bool take_over(const struct fdref_table *table, const struct event_note *note)
{
	for (size_t i = 0; i < table->size; i++) {
		struct counter *counter = counter_at(table, i);
		if (counter != NULL && counter->name == note->name &&
			counter->role == CHANNEL_EVENT_OTHER) {
			take_role(counter, note->role);
			push_role(counter, note->role);
			return true;
		}
	}
	return false;
}

void event_answer(struct fdrefs *refs, const struct event_note *note, int fd)
{
	struct fdref *ref = fdrefs_get(refs, note->number);
	struct counter *counter =
		ref != NULL && ref->interface == &events ? (struct counter *)ref : NULL;
	bool expected =
		counter != NULL && counter->asked && (counter->ours || counter->name == note->name);
	if (expected && !refs->ending) {
		take_answer(counter, note, fd);
		channel_flush(refs->channel);
		return;
	}
	if (fd >= 0) {
		close(fd);
	}
	bool moves = note->role > CHANNEL_EVENT_OTHER && note->role <= CHANNEL_EVENT_SINK;
	if (note->number == 0 && note->name != 0 && moves && !refs->ending &&
		(take_over(&refs->ours, note) || take_over(&refs->theirs, note))) {
		channel_flush(refs->channel);
	}
}

static void forsake(const struct fdref_table *table)
{
	const struct event_note none = {.role = CHANNEL_EVENT_MOVES};
	for (size_t i = 0; i < table->size; i++) {
		struct counter *counter = counter_at(table, i);
		if (counter != NULL && counter->asked) {
			take_answer(counter, &none, -1);
		}
	}
}

void event_forsake(struct fdrefs *refs)
{
	refs->ask = NULL;
	if (!refs->ending) {
		forsake(&refs->ours);
		forsake(&refs->theirs);
		channel_flush(refs->channel);
	}
}
