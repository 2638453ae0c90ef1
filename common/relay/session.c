#include "relay/session.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/log.h"
#include "channel/channel.h"
#include "channel/input.h"
#include "fdpass/event.h"
#include "fdpass/fdref.h"
#include "fdpass/kind.h"
#include "fdpass/ondemand.h"
#include "fdpass/region.h"
#include "fdpass/shared.h"
#include "relay/clock.h"
#include "relay/handshake.h"
#include "relay/peer.h"
#include "relay/wayland.h"

// Who asks without reading the answers gets no more of them.
#define PONG_MAX_QUEUED (4u * 1024 * 1024)
// What is left to say when a session ends is given so long to get out.
#define LAST_WORDS_SECONDS 2

/*
 * A session is open until one of its two peers is gone or something is wrong. Then the other peer is
 * told (ending), pipes that still carry data may go on, and when nothing is left to be said it is
 * over.
 */
struct session {
	struct session_options options;
	struct peer *peer;
	struct channel *channel; // NULL once closed
	struct fdrefs refs;
	struct relay_clock clock;
	// Pings, then last words. A timerfd: with a timeout of the loop's own, every wait for the next
	// message would start and cancel a kernel timer.
	struct event *timer;
	int timer_fd;
	struct event *over_event;
	uint64_t heard; // channel_bytes_received when the timer last ran
	// Counted by the timer's turns, not by a clock: when all of us were stopped for an hour, the
	// other side has not been silent for one.
	unsigned int turn, silent; // seconds
	bool asked;                // a PING was sent at the beginning of this turn
	bool welcomed;
	bool ending; // END was sent or came: no more messages
	// END 0 was sent and none has come: the other side's last counts may be on their way.
	bool hears_out;
	bool over;
	char reason[512]; // empty: orderly
	struct stats stats;
};

static const struct channel_handler channel_handler;

static bool peer_is_client(const struct session *session)
{
	return session->options.exports == WIRE_REQUEST;
}

static void set_timer(struct session *session, unsigned int seconds)
{
	struct itimerspec after = {.it_value.tv_sec = seconds};
	timerfd_settime(session->timer_fd, 0, &after, NULL);
}

/* Until the next PING, or until the silence has lasted too long. */
static void begin_turn(struct session *session)
{
	unsigned int timeout = session->options.ping_timeout;
	session->turn = session->options.ping_interval;
	if (timeout > 0 && timeout - session->silent < session->turn) {
		session->turn = timeout - session->silent;
	}
	set_timer(session, session->turn);
}

static bool peer_is_open(const struct session *session)
{
	return session->peer->interface->is_open(session->peer);
}

/* ---- the end ---- */

static bool has_failed(const struct session *session)
{
	return session->reason[0] != '\0';
}

static void tell_over(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct session *session = data;
	session->options.ended(session->options.data, has_failed(session) ? session->reason : NULL);
}

/* The owner is told from the loop, never from within a call of its own. */
static void finish(struct session *session)
{
	if (!session->over) {
		session->over = true;
		event_del(session->timer);
		event_active(session->over_event, EV_TIMEOUT, 0);
	}
}

/* What waits of the words of shared memories is in what is charged for these. */
static bool charge_unsent(struct session *session)
{
	struct budget *budget = session->options.budget;
	uint64_t kept = session->channel != NULL ? channel_kept(session->channel) : 0;
	uint64_t words = session->refs.words_memory;
	return budget_set(budget, BUDGET_UNSENT, kept > words ? kept - words : 0);
}

/* Nothing that is known of the session is needed any more, and no frame can be sent. */
static void close_channel(struct session *session)
{
	if (session->channel == NULL) {
		return;
	}
	session->stats.channel_bytes_sent = channel_bytes_sent(session->channel);
	session->stats.channel_bytes_received = channel_bytes_received(session->channel);
	if (session->peer != NULL) {
		session->peer->interface->release(session->peer);
	}
	fdrefs_finish(&session->refs);
	channel_destroy(session->channel);
	session->channel = NULL;
	charge_unsent(session);
}

/* Pipes outlive their client, but not a session that has failed. */
static bool carries_data(const struct session *session)
{
	return session->refs.streams > 0 && !has_failed(session);
}

/* Goes on with ending as far as that is possible now. */
static void advance(struct session *session)
{
	if (peer_is_open(session) || carries_data(session)) {
		return;
	}
	// While we can still be heard, the other side's process waits for us: when it is gone, and
	// another session's begins to move counts, we have added all that it has sent.
	if (session->channel != NULL && channel_queued(session->channel) == 0 &&
		!session->hears_out) {
		channel_shutdown(session->channel);
	}
	if (session->channel == NULL) {
		finish(session);
	}
}

/* No more messages. What is queued for the local peer still goes out. */
static void begin_ending(struct session *session)
{
	session->ending = true;
	session->refs.stopped = has_failed(session);
	session->refs.ending = true;
	session->peer->interface->end(session->peer);
	if (!carries_data(session)) {
		set_timer(session, LAST_WORDS_SECONDS);
	}
}

static void send_end(struct session *session, enum channel_end code, const char *text)
{
	if (session->channel != NULL) {
		channel_push(session->channel, CHANNEL_END, 0, code, text,
			strnlen(text, CHANNEL_MAX_TEXT), NULL, 0);
		channel_flush(session->channel);
	}
}

/* Something is wrong on this side, or this side is being stopped. */
static void fail(struct session *session, uint32_t code, const char *text)
{
	if (session->ending) {
		return;
	}
	const char *over = budget_exceeded(session->options.budget);
	text = over != NULL ? over : text;
	snprintf(session->reason, sizeof(session->reason), "%s", text);
	log_limited(LOG_ERROR, "%s", text);
	session->peer->interface->tell(session->peer, code, text);
	send_end(session, CHANNEL_END_ERROR, text);
	begin_ending(session);
	advance(session);
}

static void handle_failed(void *data, uint32_t code, const char *text)
{
	fail(data, code, text);
}

void session_stop(struct session *session, const char *reason)
{
	fail(session, WAYLAND_ERROR_IMPLEMENTATION, reason);
}

static void handle_left(void *data, const char *reason)
{
	struct session *session = data;
	if (!session->ending) {
		if (reason == NULL) {
			send_end(session, CHANNEL_END_DONE, "");
			session->hears_out = session->refs.counts.events > 0;
		} else {
			snprintf(session->reason, sizeof(session->reason), "%s", reason);
			log_info("%s", reason);
			send_end(session, CHANNEL_END_ERROR, reason);
		}
		begin_ending(session);
	}
	advance(session);
}

/* ---- the channel ---- */

static const char *take_text(const struct channel_frame *frame, char *text, size_t size)
{
	size_t len = frame->header.length;
	if (len > CHANNEL_MAX_TEXT || memchr(frame->payload, '\0', len) != NULL) {
		return "a text that is too long or has a NUL in it";
	}
	len = len < size ? len : size - 1;
	memcpy(text, frame->payload, len);
	text[len] = '\0';
	return NULL;
}

static const char *handle_end(struct session *session, const struct channel_frame *frame)
{
	char text[CHANNEL_MAX_TEXT + 1];
	const char *wrong = take_text(frame, text, sizeof(text));
	if (frame->header.type == CHANNEL_REFUSE &&
		(!peer_is_client(session) || session->welcomed)) {
		return "REFUSE out of place";
	}
	session->hears_out = false;
	if (wrong != NULL || session->ending) {
		return wrong;
	}
	if (frame->header.type == CHANNEL_REFUSE || frame->header.arg != CHANNEL_END_DONE) {
		snprintf(session->reason, sizeof(session->reason), "%s%.400s",
			frame->header.type == CHANNEL_REFUSE ? "refused by the host: " : "", text);
		// A Wayland client is told; for others this is the only place to learn why.
		log_limited(session->options.service == NULL ? LOG_INFO : LOG_WARN,
			"the other side ends the session: %s", session->reason);
		session->peer->interface->tell(
			session->peer, WAYLAND_ERROR_IMPLEMENTATION, session->reason);
	}
	begin_ending(session);
	advance(session);
	return NULL;
}

/* The fd may have been lost on its way, at who only passes bytes on. Then all goes by the channel. */
static void take_region(struct session *session, uint32_t features)
{
	struct channel_input *input = session->options.channel_input;
	int fd = input != NULL ? channel_input_take_fd(input) : -1;
	if (fd < 0) {
		return;
	}
	session->refs.region = region_open(fd);
	if (session->refs.region == NULL) {
		log_warn("cannot use the region that the host shares: %m");
		return;
	}
	if ((features & CHANNEL_FEATURE_REGION_ROWS) != 0) {
		region_agree(session->refs.region);
		region_push_arrived(&session->refs);
	}
}

static const char *handle_welcome(struct session *session, const struct channel_frame *frame)
{
	struct channel_welcome welcome;
	uint8_t boot_id[16], none[16] = {0};
	if (!peer_is_client(session) || session->welcomed ||
		frame->header.length != sizeof(welcome)) {
		return "WELCOME out of place or with a wrong length";
	}
	session->welcomed = true;
	memcpy(&welcome, frame->payload, sizeof(welcome));
	if (welcome.magic != CHANNEL_MAGIC || welcome.version != CHANNEL_VERSION) {
		return "WELCOME of another version";
	}
	take_region(session, welcome.features);
	handshake_boot_id(boot_id);
	session->refs.dmabufs =
		session->options.dmabufs && (welcome.features & CHANNEL_FEATURE_DMABUF) != 0;
	session->refs.timelines = session->refs.dmabufs && session->options.timelines &&
		(welcome.features & CHANNEL_FEATURE_TIMELINE) != 0;
	if (session->refs.dmabufs && (welcome.features & CHANNEL_FEATURE_HANDLE) != 0) {
		session->refs.virtgpu = session->options.virtgpu;
	}
	if ((welcome.features & CHANNEL_FEATURE_PAGES) != 0) {
		session->refs.pinner = session->options.pinner;
	}
	session->clock.same = memcmp(boot_id, none, sizeof(none)) != 0 &&
		memcmp(boot_id, welcome.boot_id, sizeof(boot_id)) == 0;
	relay_clock_sample(&session->clock, channel_get64(welcome.hello_clock),
		channel_get64(welcome.received_clock), channel_get64(welcome.sent_clock),
		channel_clock());
	return NULL;
}

static const char *handle_ping(struct session *session, const struct channel_frame *frame)
{
	struct channel_ping ping;
	if (frame->header.length != sizeof(ping)) {
		return "PING with a wrong length";
	}
	if (channel_queued(session->channel) > PONG_MAX_QUEUED) {
		return NULL;
	}
	memcpy(&ping, frame->payload, sizeof(ping));
	struct channel_pong pong = {.ping_clock = {ping.clock[0], ping.clock[1]}};
	channel_put64(pong.received_clock, channel_clock());
	channel_put64(pong.sent_clock, channel_clock());
	channel_push(session->channel, CHANNEL_PONG, 0, 0, &pong, sizeof(pong), NULL, 0);
	return NULL;
}

static const char *handle_pong(struct session *session, const struct channel_frame *frame)
{
	struct channel_pong pong;
	if (frame->header.length != sizeof(pong)) {
		return "PONG with a wrong length";
	}
	memcpy(&pong, frame->payload, sizeof(pong));
	relay_clock_sample(&session->clock, channel_get64(pong.ping_clock),
		channel_get64(pong.received_clock), channel_get64(pong.sent_clock),
		channel_clock());
	return NULL;
}

/* What the type alone says of a frame: its payload's length. */
static bool has_shape(const struct channel_header *header)
{
	switch (header->type) {
	case CHANNEL_CREDIT:
	case CHANNEL_CLOSE:
	case CHANNEL_CLOSED:
	case CHANNEL_STREAM_EOF:
	case CHANNEL_STREAM_STOP:
	case CHANNEL_STREAM_PAUSE:
	case CHANNEL_STREAM_PAUSED:
	case CHANNEL_MEM_UNUSED:
	case CHANNEL_EVENT_ROLE:
		return header->length == 0;
	default:
		return true;
	}
}

static bool is_known(const struct channel_header *header)
{
	return header->type >= CHANNEL_HELLO && header->type <= CHANNEL_REGION_ROWS;
}

/* What is about an fdref may change what later frames about it mean. */
static bool may_skip(const struct channel_header *header)
{
	return (header->flags & CHANNEL_FLAG_SKIPPABLE) != 0 && header->id == 0;
}

static const char *charge_frame(struct session *session, const struct channel_header *header)
{
	struct budget *budget = session->options.budget;
	budget_forget(budget); // what did not end the session is not what ends it later
	if (!charge_unsent(session)) {
		return "frames without reading what they are answered";
	}
	// How many messages are in a frame of them, only their engine knows.
	bool single = header->type != CHANNEL_MESSAGES || header->id != 0;
	return !single || budget_messages(budget, 1) ? NULL : "more frames than it may send";
}

static const char *handle_frame(void *data, const struct channel_frame *frame)
{
	struct session *session = data;
	if (!is_known(&frame->header) && !may_skip(&frame->header)) {
		return "a frame of an unknown type";
	}
	if (!has_shape(&frame->header)) {
		return "a frame with a wrong length";
	}
	const char *wrong = charge_frame(session, &frame->header);
	if (wrong != NULL || !is_known(&frame->header)) {
		return wrong;
	}
	if (frame->header.id != 0) {
		// Of a session that has failed, nothing is open any more.
		return has_failed(session) ? NULL : fdrefs_frame(&session->refs, frame);
	}
	switch (frame->header.type) {
	case CHANNEL_MESSAGES:
		return session->ending ? NULL
				       : session->peer->interface->messages(session->peer, frame);
	case CHANNEL_CREDIT:
		return session->peer->interface->credit(session->peer, frame->header.arg);
	case CHANNEL_REGION_MAP:
		return has_failed(session) ? NULL : region_handle_arrived(&session->refs, frame);
	case CHANNEL_REGION_UNMAP:
		return has_failed(session) ? NULL : region_handle_unmap(&session->refs, frame);
	case CHANNEL_PING:
		return handle_ping(session, frame);
	case CHANNEL_PONG:
		return handle_pong(session, frame);
	case CHANNEL_WELCOME:
		return handle_welcome(session, frame);
	case CHANNEL_REFUSE:
	case CHANNEL_END:
		return handle_end(session, frame);
	default:
		return "a frame that is out of place";
	}
}

static const char *handle_place(
	void *data, uint32_t id, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct session *session = data;
	if (has_failed(session)) {
		return NULL;
	}
	budget_forget(session->options.budget);
	if (!budget_messages(session->options.budget, 1)) {
		return "more frames than it may send";
	}
	return fdrefs_place(&session->refs, id, write, rows);
}

static void handle_written(void *data, uint32_t id)
{
	(void)data;
	(void)id;
}

static void lose_channel(struct session *session, const char *why)
{
	char text[256];
	snprintf(text, sizeof(text), "the connection between guest and host was lost: %s", why);
	fail(session, WAYLAND_ERROR_IMPLEMENTATION, text);
	close_channel(session);
	advance(session);
}

static void handle_channel_ended(void *data, int error, const char *wrong)
{
	struct session *session = data;
	if (wrong == NULL) {
		lose_channel(session, error == 0 ? "closed by the other side" : strerror(-error));
		return;
	}
	if (!session->ending) {
		char text[256];
		snprintf(text, sizeof(text), "the other side sent %s", wrong);
		fail(session, WAYLAND_ERROR_IMPLEMENTATION, text);
	}
	// The frames that are queued may still help the other side, if it only sent wrong ones.
	channel_shutdown(session->channel);
	close_channel(session);
	advance(session);
}

static void handle_settled(void *data)
{
	struct session *session = data;
	session->peer->interface->settled(session->peer);
	channel_flush(session->channel);
	if (session->ending) {
		advance(session);
	}
}

static void handle_channel_drained(void *data)
{
	struct session *session = data;
	charge_unsent(session);
	fdrefs_drained(&session->refs);
	session->peer->interface->drained(session->peer);
	if (session->ending) {
		advance(session);
	}
}

static uint64_t handle_came(void *data, size_t n)
{
	return budget_bytes(((struct session *)data)->options.budget, n);
}

static const struct channel_handler channel_handler = {
	.frame = handle_frame,
	.place = handle_place,
	.written = handle_written,
	.ended = handle_channel_ended,
	.drained = handle_channel_drained,
	.settled = handle_settled,
	.came = handle_came,
};

static void handle_streams_over(void *data)
{
	struct session *session = data;
	session->peer->interface->streams_over(session->peer);
	if (session->ending) {
		set_timer(session, LAST_WORDS_SECONDS);
		advance(session);
	}
}

static void handle_retried(void *data)
{
	struct session *session = data;
	session->peer->interface->retried(session->peer);
}

/* ---- time ---- */

static void ping(struct session *session)
{
	struct channel_ping frame;
	channel_put64(frame.clock, channel_clock());
	channel_push(session->channel, CHANNEL_PING, 0, 0, &frame, sizeof(frame), NULL, 0);
	channel_flush(session->channel);
}

/* At the end of a turn. What was never asked may be silent. */
static bool is_silent_for_too_long(struct session *session)
{
	uint64_t heard = channel_bytes_received(session->channel);
	bool silent = session->asked && heard == session->heard;
	session->silent = silent ? session->silent + session->turn : 0;
	session->heard = heard;
	return session->options.ping_timeout > 0 &&
		session->silent >= session->options.ping_timeout;
}

static void handle_timer(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct session *session = data;
	uint64_t expirations;
	if (read(fd, &expirations, sizeof(expirations)) < 0) {
		return; // set anew meanwhile
	}
	if (session->ending && !carries_data(session)) {
		// The last words had their time.
		session->peer->interface->close(session->peer);
		close_channel(session);
		finish(session);
		return;
	}
	if (is_silent_for_too_long(session)) {
		char text[64];
		snprintf(text, sizeof(text), "no answer for %u s", session->silent);
		lose_channel(session, text);
		return;
	}
	shared_collect(&session->refs);
	ping(session);
	session->asked = true;
	begin_turn(session);
}

/* ---- life ---- */

static void handle_stored(void *data, const struct content_hash *hash, int fd)
{
	struct session *session = data;
	if (session->options.stored != NULL) {
		session->options.stored(session->options.data, hash, fd);
	}
}

static bool handle_ask(void *data, const struct event_note *note, int fd)
{
	struct session *session = data;
	return session->options.ask(session->options.data, note, fd);
}

static void init_refs(struct session *session)
{
	const struct session_options *options = &session->options;
	session->refs = (struct fdrefs){
		.channel = session->channel,
		.base = options->base,
		.own_bit = peer_is_client(session) ? 0 : CHANNEL_ID_HOST,
		.budget = options->budget,
		.rules = options->rules,
		.region = options->region,
		.contents = options->exports == WIRE_REQUEST ? options->contents : NULL,
		.peer_contents = options->peer_contents,
		.n_peer_contents = options->n_peer_contents,
		.stored = handle_stored,
		.ask = options->ask != NULL ? handle_ask : NULL,
		.streams_over = handle_streams_over,
		.retried = handle_retried,
		.dmabufs = options->dmabufs && !peer_is_client(session),
		.resolver = options->resolver,
		.handles = options->handles,
		.timelines = options->timelines && !peer_is_client(session),
		.node = options->node,
		.page_buffers = options->page_buffers,
		.data = session,
	};
	fd_identity_of(options->channel_fd, &session->refs.channel_identity);
}

static bool create_peer(struct session *session)
{
	const struct peer_interface *interface =
		session->options.service == NULL ? &wayland_peer : &opaque_peer;
	const struct peer_context context = {
		.options = &session->options,
		.channel = session->channel,
		.refs = &session->refs,
		.clock = &session->clock,
		.failed = handle_failed,
		.left = handle_left,
		.data = session,
	};
	session->peer = interface->create(&context);
	return session->peer != NULL;
}

static struct channel *create_channel(struct session *session)
{
	const struct session_options *options = &session->options;
	struct channel_input *input = options->channel_input;
	if (input == NULL) {
		input = channel_input_create(options->channel_fd);
	}
	return channel_create_with_input(
		options->base, options->channel_fd, input, &channel_handler, session);
}

struct session *session_create(const struct session_options *options)
{
	struct session *session = calloc(1, sizeof(*session));
	if (session == NULL) {
		close(options->local_fd);
		region_destroy(options->region);
		channel_input_destroy(options->channel_input);
		close(options->channel_fd);
		return NULL;
	}
	session->options = *options;
	session->stats.sessions = 1;
	session->channel = create_channel(session);
	session->over_event = event_new(options->base, -1, 0, tell_over, session);
	session->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	session->timer = event_new(
		options->base, session->timer_fd, EV_READ | EV_PERSIST, handle_timer, session);
	init_refs(session);
	bool ready = session->channel != NULL && session->timer != NULL &&
		session->over_event != NULL && session->timer_fd >= 0 &&
		event_add(session->timer, NULL) == 0;
	if (ready && options->region != NULL) {
		ready = region_watch(&session->refs);
	}
	if (!ready) {
		close(options->local_fd);
	} else {
		channel_set_record(session->channel, options->record);
	}
	if (!ready || !create_peer(session)) {
		session_destroy(session);
		errno = ENOMEM;
		return NULL;
	}
	if (options->serves_files) {
		ondemand_prepare(&session->refs);
	}
	begin_turn(session);
	return session;
}

void session_destroy(struct session *session)
{
	if (session == NULL) {
		return;
	}
	close_channel(session);
	region_destroy(session->refs.region); // of one that never had a channel
	if (session->peer != NULL) {
		session->peer->interface->destroy(session->peer);
	}
	if (session->timer != NULL) {
		event_free(session->timer);
	}
	if (session->timer_fd >= 0) {
		close(session->timer_fd);
	}
	if (session->over_event != NULL) {
		event_free(session->over_event);
	}
	free(session);
}

void session_answer(struct session *session, const struct event_note *note, int fd)
{
	if (session->channel != NULL) {
		event_answer(&session->refs, note, fd);
	} else if (fd >= 0) {
		close(fd);
	}
}

void session_forsake(struct session *session)
{
	session->options.ask = NULL;
	if (session->channel != NULL) {
		event_forsake(&session->refs);
	}
}

const struct stats *session_stats(const struct session *session)
{
	struct stats *stats = (struct stats *)&session->stats;
	const struct fdref_counts *counts = &session->refs.counts;
	session->peer->interface->count(session->peer, stats);
	stats->fds[STATS_FD_POOL] = counts->pools;
	stats->fds[STATS_FD_FILE] = counts->files;
	stats->fds[STATS_FD_PIPE] = counts->pipes;
	stats->fds[STATS_FD_SOCKET] = counts->sockets;
	stats->fds[STATS_FD_EVENT] = counts->events;
	stats->fds[STATS_FD_DEVICE] = counts->devices;
	stats->fds[STATS_FD_SHARED] = counts->shared;
	stats->fds[STATS_FD_SYNC] = counts->syncs;
	stats->fds[STATS_FD_DMABUF] = counts->dmabufs;
	stats->fds[STATS_FD_TIMELINE] = counts->timelines;
	stats->fds_cached = counts->files_cached;
	stats->fds_on_demand = counts->files_on_demand;
	stats->fds_home = counts->homecomings;
	stats->fds_unsupported = counts->unsupported;
	stats->dmabufs_shared = counts->dmabufs_shared;
	stats->dmabufs_held = counts->dmabufs_held;
	stats->memory_bytes_sent = counts->memory_sent;
	stats->memory_bytes_received = counts->memory_received;
	stats->memory_bytes_twinned = counts->memory_twinned;
	stats->memory_bytes_shared = counts->memory_shared;
	stats->memory_bytes_saved = counts->memory_saved;
	stats->memory_conflicts = counts->shared_conflicts;
	stats->stream_bytes_sent = counts->stream_sent;
	stats->stream_bytes_received = counts->stream_received;
	if (session->channel != NULL) {
		stats->channel_bytes_sent = channel_bytes_sent(session->channel);
		stats->channel_bytes_received = channel_bytes_received(session->channel);
	}
	return stats;
}
