#include "fdpass/event.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/event_impl.h"
#include "fdpass/kind.h"
#include "fdpass/shared.h"

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
	counter_leave(counter);
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

/* On this side, the session that has moved the counts may still have some to add. */
static bool ask_for_turn(struct counter *counter, enum channel_event_role role)
{
	struct fdrefs *refs = counter->ref.refs;
	const struct event_note note = {.name = counter->name, .role = role, .placed = COUNT_MAX};
	bool asks = refs->ask != NULL && refs->ask(refs->data, &note, -1);
	counter->wanted = asks ? role : CHANNEL_EVENT_OTHER;
	return asks;
}

/* Who has opened an eventfd that is this session's alone on the other side has nobody to wait for. */
static void begin_moving(struct counter *counter, enum channel_event_role role, bool alone)
{
	bool idle = counter->role == CHANNEL_EVENT_OTHER && counter->wanted == CHANNEL_EVENT_OTHER;
	if (idle && (alone || !ask_for_turn(counter, role))) {
		counter_take_role(counter, role, COUNT_MAX);
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
	if (theirs != CHANNEL_EVENT_OTHER) {
		begin_moving(counter, ours[theirs], answers);
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
		return counter_handle_add(counter, frame);
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
		counter_watch(counter);
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
	(void)fd;
	counter_use((struct counter *)ref);
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

static struct fd_identity learn(struct counter *counter)
{
	uint64_t semaphore;
	struct fd_identity identity;
	if (fd_info_number(counter->info, "eventfd-semaphore", 10, &semaphore)) {
		counter->semaphore = semaphore;
	}
	fd_identity_of(counter->fd, &identity);
	return identity;
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
	counter->event = event_new(refs->base, fd, 0, counter_handle_event, counter);
	counter->turn = evtimer_new(refs->base, counter_handle_turn, counter);
	if (counter->info < 0 || counter->event == NULL || counter->turn == NULL) {
		log_errno("cannot look after an eventfd");
		destroy_counter(&counter->ref);
		return NULL;
	}
	counter->ref.identity = learn(counter);
	return counter;
}

static struct counter *counter_at(const struct fdref_table *table, size_t i)
{
	struct fdref *ref = table->refs[i];
	return ref != NULL && ref->interface == &events ? (struct counter *)ref : NULL;
}

/* ---- letting go ---- */

/* The other sessions of the link do not hear of it: who has a name keeps it. */
static bool can_let_go(const struct counter *counter)
{
	return counter != NULL && counter->name == 0 && !counter->asked && !counter->ref.closing;
}

/* Who has it keeps it; counts do not cross any more. What is on its way here still arrives. */
static void let_go(struct counter *counter)
{
	static const struct fd_identity unknown;
	log_limited(LOG_WARN,
		"too many eventfds: the one that was not used for longest does not "
		"cross any more");
	fdref_identify(&counter->ref, &unknown);
	fdrefs_close(&counter->ref);
	counter_watch(counter);
}

/*
 * Nobody can see which eventfds are still in use, and what a service passes may come from others
 * than who gets it. So those that were opened here take at most a share of the session's fds, but
 * as many as one message can name.
 */
static void make_room(struct fdrefs *refs)
{
	uint64_t most = refs->budget->limits.most[BUDGET_FDS] / EVENT_SHARE;
	struct counter *oldest = NULL;
	uint64_t n = 0;
	most = most < CHANNEL_MAX_FDREFS ? CHANNEL_MAX_FDREFS : most;
	if (refs->ours.used < most) {
		return;
	}
	for (size_t i = 0; i < refs->ours.size; i++) {
		struct counter *counter = counter_at(&refs->ours, i);
		if (can_let_go(counter)) {
			n++;
			oldest = oldest == NULL || counter->used < oldest->used ? counter : oldest;
		}
	}
	if (oldest != NULL && n >= most) {
		let_go(oldest);
	}
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
	counter->used = ++refs->uses;
	make_room(refs);
	if (!fdrefs_reserve(refs, &counter->ref, &events, CHANNEL_KIND_EVENT)) {
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
	uint64_t count = moves ? counter_take(counter) : 0;
	shared_push_changes(refs);
	channel_put64(open.count, count);
	channel_put64(open.name, counter->name);
	fdrefs_push_open(&counter->ref, CHANNEL_KIND_EVENT, &open, sizeof(open));
	refs->counts.events++;
	counter_watch(counter);
	if (count > 0) {
		counter_tell_direction(counter);
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
	const struct event_note question = {
		.name = counter->name,
		.number = counter->ref.id,
		.role = counter->role,
	};
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
	event_assign(counter->event, base, fd, EV_PERSIST, counter_handle_event, counter);
	close(counter->fd);
	close(counter->info);
	counter->fd = fd;
	counter->info = info;
	const struct fd_identity identity = learn(counter);
	fdref_identify(&counter->ref, &identity);
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
	counter_put_pending(counter);
	counter_watch(counter);
	if (!counter->source) {
		counter_tell_direction(counter);
	}
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
	uint64_t name = channel_get64(open.name);
	if (name == 0 && open.role != CHANNEL_EVENT_MOVES) {
		return "OPEN of an eventfd whose counts nobody moves";
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
	counter->name = name;
	counter->role = open.role;
	counter->ref.id = frame->header.id;
	refs->counts.events++;
	if (counter->name == 0) {
		counter_put_pending(counter);
		counter_watch(counter);
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

/*
 * The session that moved the counts has ended. The other side knows it if it was that one that has
 * asked; what is known here says more than what it has said.
 */
static void go_on(struct counter *counter, const struct event_note *note)
{
	enum channel_event_role wanted = counter->wanted;
	bool told = wanted != CHANNEL_EVENT_OTHER;
	bool better = note->role != CHANNEL_EVENT_MOVES;
	counter_take_role(counter, better || !told ? note->role : wanted, note->placed);
	if (!told) {
		push_role(counter, counter->role);
	}
}

static bool take_over(const struct fdref_table *table, const struct event_note *note)
{
	for (size_t i = 0; i < table->size; i++) {
		struct counter *counter = counter_at(table, i);
		if (counter != NULL && counter->name == note->name &&
			counter->role == CHANNEL_EVENT_OTHER &&
			(counter->wanted != CHANNEL_EVENT_OTHER || !counter->ref.refs->ending)) {
			go_on(counter, note);
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
	if (note->number == 0 && note->name != 0 && moves &&
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
		} else if (counter != NULL && counter->wanted != CHANNEL_EVENT_OTHER) {
			counter_take_role(counter, counter->wanted, COUNT_MAX);
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
