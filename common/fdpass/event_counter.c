#include "fdpass/event_impl.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fdpass/event.h"
#include "fdpass/kind.h"
#include "fdpass/shared.h"

// A semaphore gives one at a time: so many for one frame.
#define SEMAPHORE_STEP 1024

static bool is_ready(int fd, short events)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & events);
}

void counter_use(struct counter *counter)
{
	counter->used = ++counter->ref.refs->uses;
}

/* What is in fd, which stays there. */
uint64_t counter_count(const struct counter *counter)
{
	uint64_t count;
	if (!is_ready(counter->fd, POLLIN)) {
		return 0; // most often, and cheaper
	}
	return fd_info_number(counter->info, "eventfd-count", 16, &count) ? count : 0;
}

/* 0 where there is nothing to take. O_NONBLOCK is the local peer's: it is not looked at. */
uint64_t counter_take(const struct counter *counter)
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

/* Else another session does, or nobody any more. */
static bool moves_counts(const struct counter *counter)
{
	return counter->role != CHANNEL_EVENT_OTHER && !counter->asked && !counter->ref.closing;
}

/* After this session's last word, they stay for the next one. */
static bool takes_counts(const struct counter *counter)
{
	return moves_counts(counter) && !counter->ref.refs->ending;
}

/* Another session may still look at what is there, and would take ours for a local peer's. */
static bool must_wait(const struct counter *counter)
{
	return counter->asked || counter->wanted != CHANNEL_EVENT_OTHER;
}

/* How much of what is pending can be written without blocking: 1 if anything can. */
static uint64_t count_that_fits(const struct counter *counter)
{
	uint64_t pending = counter->pending;
	if (pending == 0 || must_wait(counter) || !is_ready(counter->fd, POLLOUT)) {
		return 0;
	}
	if (pending == 1) {
		return 1;
	}
	uint64_t room = COUNT_MAX - counter_count(counter);
	return pending < room ? pending : room;
}

/* What of a sink's is gone has been taken: who looks later could take new counts for it. */
static void forget_taken(struct counter *counter)
{
	uint64_t count = counter_count(counter);
	counter->placed = count < counter->placed ? count : counter->placed;
}

/* Adds what is pending as far as it fits. */
void counter_put_pending(struct counter *counter)
{
	uint64_t count;
	while ((count = count_that_fits(counter)) > 0) {
		if (!counter->source) {
			forget_taken(counter);
		}
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

/*
 * A source waits for any count, a sink hears of each change: epoll reports an edge when somebody
 * adds (readable) and when somebody takes (writable), also for who comes after it.
 */
static short events_of(const struct counter *counter)
{
	bool takes = takes_counts(counter);
	if (moves_counts(counter) && !counter->source) {
		return EV_PERSIST | EV_READ | EV_WRITE | EV_ET;
	}
	short events = EV_PERSIST;
	events |= takes && !counter->paused ? EV_READ : 0;
	events |= counter->pending > 0 && !must_wait(counter) ? EV_WRITE : 0;
	return events;
}

void counter_watch(struct counter *counter)
{
	short events = events_of(counter);
	if (event_get_events(counter->event) == events) {
		return;
	}
	struct event_base *base = event_get_base(counter->event);
	event_del(counter->event);
	event_assign(counter->event, base, counter->fd, events, event_get_callback(counter->event),
		counter);
	// What was written before the count comes first.
	event_priority_set(counter->event, event_base_get_npriorities(base) - 1);
	if ((events & (EV_READ | EV_WRITE)) && event_add(counter->event, NULL) < 0) {
		fdrefs_fail(counter->ref.refs, "an eventfd cannot be waited for: out of memory");
	}
}

static bool tell(struct counter *counter, enum channel_event_role role, uint64_t placed)
{
	struct fdrefs *refs = counter->ref.refs;
	const struct event_note note = {.name = counter->name, .role = role, .placed = placed};
	return refs->ask != NULL && refs->ask(refs->data, &note, -1);
}

static enum channel_event_role direction_of(const struct counter *counter)
{
	return counter->source ? CHANNEL_EVENT_SOURCE : CHANNEL_EVENT_SINK;
}

/* Who is told to go on when this session has ended needs to know on which side counts appear. */
void counter_tell_direction(struct counter *counter)
{
	enum channel_event_role role = direction_of(counter);
	bool named = counter->name != 0 && moves_counts(counter);
	if (named && role != counter->told && tell(counter, role, COUNT_MAX)) {
		counter->told = role;
	}
}

/* What cannot wait for its turn any more is added before it. */
void counter_leave(struct counter *counter)
{
	bool waits = counter->wanted != CHANNEL_EVENT_OTHER;
	if (counter->name == 0 || !(waits || moves_counts(counter))) {
		return;
	}
	counter->wanted = CHANNEL_EVENT_OTHER;
	counter_put_pending(counter);
	forget_taken(counter);
	bool known = counter->told != 0;
	enum channel_event_role role = waits ? CHANNEL_EVENT_OTHER
		: known                      ? direction_of(counter)
					     : CHANNEL_EVENT_MOVES;
	tell(counter, role, counter->source ? 0 : counter->placed);
}

/* ---- source: counts leave ---- */

static void move_count(struct counter *counter)
{
	struct channel *channel = counter->ref.refs->channel;
	counter->paused = channel_queued(channel) > FDREFS_BUSY;
	if (counter->paused) {
		return; // drained goes on, counts add up meanwhile
	}
	uint64_t count = counter_take(counter);
	if (count == 0) {
		return; // somebody here was faster
	}
	shared_push_changes(counter->ref.refs);
	struct channel_event_add add;
	channel_put64(add.count, count);
	counter_use(counter);
	counter->sent++;
	channel_push(channel, CHANNEL_EVENT_ADD, counter->ref.id, counter->received, &add,
		sizeof(add), NULL, 0);
	counter_tell_direction(counter);
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
	uint64_t count = counter_count(counter);
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
void counter_handle_turn(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct counter *counter = data;
	if (counter->source || !takes_counts(counter) || !has_foreign_count(counter)) {
		return;
	}
	counter->source = true;
	move_count(counter);
	counter_watch(counter);
	channel_flush(counter->ref.refs->channel);
}

/* ---- both ---- */

void counter_handle_event(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct counter *counter = data;
	counter_put_pending(counter);
	if (takes_counts(counter) && counter->source) {
		move_count(counter);
	} else if (moves_counts(counter) && !counter->source) {
		look_for_foreign_count(counter);
	}
	counter_watch(counter);
	channel_flush(counter->ref.refs->channel);
}

/* arg says whether the sender had seen all that we sent, or has crossed with it. */
const char *counter_handle_add(struct counter *counter, const struct channel_frame *frame)
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
	counter_use(counter);
	counter->seen = frame->header.arg;
	counter->received++;
	if (unseen == 0 || !counter->ours) {
		become_sink(counter);
	}
	counter->pending += count;
	counter_put_pending(counter);
	counter_watch(counter);
	counter_tell_direction(counter);
	return NULL;
}

/* What came while it waited says more than what was known before. Who looks after it hears of it in any case. */
void counter_take_role(struct counter *counter, enum channel_event_role role, uint64_t placed)
{
	counter->role = role;
	counter->wanted = CHANNEL_EVENT_OTHER;
	counter->source = role != CHANNEL_EVENT_SINK && counter->received == 0;
	counter->placed = role == CHANNEL_EVENT_SINK ? placed : 0;
	forget_taken(counter);
	if (role == CHANNEL_EVENT_MOVES && counter->source) {
		tell(counter, role, COUNT_MAX);
	} else {
		counter_tell_direction(counter);
	}
	counter_put_pending(counter);
	counter_watch(counter);
}
