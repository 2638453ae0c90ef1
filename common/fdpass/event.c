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
	bool source; // counts that appear here go to the other side
	bool paused; // a source whose channel is busy
	struct event *event;
	struct event *turn; // a sink, when what has appeared was there for long enough

	uint64_t pending; // came, but does not fit into fd yet
	uint64_t placed;  // of a sink: at most so much of what is in fd came from the other side
	uint32_t sent, received; // EVENT_ADD frames
	uint32_t seen;           // of those sent, by the other side when it sent its last one
};

static void destroy_counter(struct fdref *ref)
{
	struct counter *counter = (struct counter *)ref;
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
	if (pending == 0 || !is_ready(counter->fd, POLLOUT)) {
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

/*
 * A source waits for any count, a sink hears of each change: epoll reports an edge when somebody
 * adds (readable) and when somebody takes (writable).
 */
static void watch(struct counter *counter)
{
	short events = EV_PERSIST;
	if (!counter->source) {
		events |= EV_READ | EV_WRITE | EV_ET;
	} else {
		events |= counter->paused ? 0 : EV_READ;
		events |= counter->pending > 0 ? EV_WRITE : 0;
	}
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
	if (counter->source || !has_foreign_count(counter)) {
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
	if (counter->source) {
		move_count(counter);
	} else {
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
	return NULL;
}

static const char *handle_frame(struct fdref *ref, const struct channel_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_EVENT_ADD:
		return handle_add((struct counter *)ref, frame);
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
	int fd = fcntl(((struct counter *)ref)->fd, F_DUPFD_CLOEXEC, 0);
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
	counter->source = true;
	counter->info = fd_info_open(fd);
	counter->event = event_new(refs->base, fd, 0, handle_event, counter);
	counter->turn = evtimer_new(refs->base, handle_turn, counter);
	if (counter->info < 0 || counter->event == NULL || counter->turn == NULL) {
		log_errno("cannot look after an eventfd");
		destroy_counter(&counter->ref);
		return NULL;
	}
	uint64_t semaphore;
	counter->semaphore =
		fd_info_number(counter->info, "eventfd-semaphore", 10, &semaphore) && semaphore;
	fd_identity_of(fd, &counter->ref.identity);
	return counter;
}

uint32_t event_export(struct fdrefs *refs, int fd, const char **wrong)
{
	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_EVENTFD) {
		*wrong = "an fd that should be an eventfd is not one";
		close(fd);
		return 0;
	}
	struct counter *counter = create_counter(refs, fd);
	if (counter == NULL) {
		*wrong = "out of memory or fds for an eventfd";
		return 0;
	}
	counter->ours = true;
	struct channel_open_event open = {
		.semaphore = counter->semaphore,
		.nonblocking = (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0,
	};
	uint64_t count = take_count(counter);
	shared_push_changes(refs);
	channel_put64(open.count, count);
	if (!fdrefs_open(refs, &counter->ref, &events, CHANNEL_KIND_EVENT, &open, sizeof(open))) {
		counter->pending = count;
		put_pending(counter); // as if nothing had been
		destroy_counter(&counter->ref);
		*wrong = "too many fds are open in this session";
		return 0;
	}
	refs->counts.events++;
	watch(counter);
	return counter->ref.id;
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
	if (open.semaphore > 1 || open.nonblocking > 1 || count > COUNT_MAX) {
		return "OPEN of an eventfd with wrong flags or an impossible count";
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
	put_pending(counter);
	refs->counts.events++;
	watch(counter);
	*ref = &counter->ref;
	return NULL;
}
