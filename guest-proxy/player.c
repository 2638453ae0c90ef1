#include "guest-proxy/player.h"

#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "channel/channel.h"
#include "channel/recording.h"
#include "guest-proxy/connection.h"
#include "guest-proxy/options.h"
#include "guest-proxy/translation.h"
#include "relay/handshake.h"

// Frames wait in the recording while so much is queued on the channel.
#define CHANNEL_FULL (1024u * 1024)
#define FOREVER      1e18 // nanoseconds

/* Bytes that were sent on a pipe without credit for them. */
struct used_window {
	uint32_t id;
	uint32_t bytes;
};

struct player {
	const struct player_options *options;
	struct player_result *result;
	const struct recording *recording;
	struct translation translation;
	struct event_base *base;
	struct channel *channel;
	struct event *timer, *interrupt, *terminate;
	const struct wl_list *next; // recorded_frame.link, or the list's head
	bool heard;                 // next came to the guest, and that was told to translation
	uint64_t recorded_start, started;
	uint64_t waiting;        // since when for what the next frame needs; 0: it is not
	bool asked;              // in this wait
	unsigned int impatience; // waits given up one after another
	uint32_t used;           // of the window for messages
	struct wl_array windows; // struct used_window
	bool holds;              // at the end, until a signal
	bool ending;             // END was sent or came
	bool shut;
	bool over;
};

static void stop(struct player *player, const char *reason)
{
	if (!player->over) {
		player->over = true;
		snprintf(player->result->reason, sizeof(player->result->reason), "%s", reason);
		event_base_loopbreak(player->base);
	}
}

/* ---- what goes to the host ---- */

static void send_frame(struct player *player, const struct channel_header *header, const void *ids,
	size_t ids_len, const void *payload)
{
	size_t payload_len = header->length - ids_len, n = 0;
	struct iovec pieces[3];
	pieces[n++] = (struct iovec){(void *)header, sizeof(*header)};
	if (ids_len > 0) {
		pieces[n++] = (struct iovec){(void *)ids, ids_len};
	}
	if (payload_len > 0) {
		pieces[n++] = (struct iovec){(void *)payload, payload_len};
	}
	if (!channel_send(player->channel, pieces, n)) {
		stop(player, "out of memory");
	}
	player->result->frames++;
}

static void send_end(struct player *player)
{
	player->ending = true;
	channel_push(player->channel, CHANNEL_END, 0, CHANNEL_END_DONE, NULL, 0, NULL, 0);
	channel_flush(player->channel);
}

static uint32_t *window_of(struct player *player, uint32_t id)
{
	struct used_window *window;
	wl_array_for_each (window, &player->windows) {
		if (window->id == id) {
			return &window->bytes;
		}
	}
	window = wl_array_add(&player->windows, sizeof(*window));
	if (window == NULL) {
		return &player->used;
	}
	*window = (struct used_window){.id = id};
	return &window->bytes;
}

static void give_credit(struct player *player, uint32_t id, uint32_t bytes)
{
	if (bytes > 0) {
		channel_push(player->channel, CHANNEL_CREDIT, id, bytes, NULL, 0, NULL, 0);
	}
}

static void send_answers(struct player *player)
{
	struct wl_array *answers = &player->translation.answers;
	if (answers->size > 0 && !player->ending) {
		player->used += (uint32_t)answers->size;
		channel_push(player->channel, CHANNEL_MESSAGES, 0, 0, NULL, 0, answers->data,
			answers->size);
	}
	answers->size = 0;
}

/* False of what is not the client's doing: it is said when it is due now. */
static bool is_repeated(const struct recorded_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_HELLO:
	case CHANNEL_CHALLENGE:
	case CHANNEL_PROOF:
	case CHANNEL_PING:
	case CHANNEL_PONG:
	case CHANNEL_CREDIT:
	case CHANNEL_CLOSED:
		return false;
	default:
		return true;
	}
}

static bool has_credit(struct player *player, const struct recorded_frame *frame)
{
	struct channel_header header = frame->header;
	if (header.type == CHANNEL_MESSAGES) {
		return player->used + header.length <= CHANNEL_MESSAGE_WINDOW;
	}
	bool data = header.type == CHANNEL_STREAM_DATA &&
		translation_fdref(&player->translation, &header) == TRANSLATION_SEND;
	return !data || *window_of(player, header.id) + header.length <= CHANNEL_STREAM_WINDOW;
}

static void send_messages(struct player *player)
{
	struct translation *translation = &player->translation;
	size_t ids_len = translation->fdrefs.size, len = translation->messages.size;
	const struct channel_header header = {
		.length = (uint32_t)(ids_len + len),
		.type = CHANNEL_MESSAGES,
		.arg = (uint32_t)(ids_len / sizeof(uint32_t)),
	};
	player->used += (uint32_t)len;
	send_frame(player, &header, translation->fdrefs.data, ids_len, translation->messages.data);
}

/* False: not now. */
static bool play_messages(struct player *player, const struct recorded_frame *frame)
{
	struct translation *translation = &player->translation;
	uint8_t *payload = malloc(frame->header.length + 1);
	if (payload == NULL) {
		stop(player, "out of memory");
		return false;
	}
	memcpy(payload, frame->payload, frame->header.length);
	enum translation_verdict verdict =
		translation_messages(translation, &frame->header, payload);
	if (verdict == TRANSLATION_SEND) {
		send_messages(player);
	}
	free(payload);
	return verdict != TRANSLATION_WAIT;
}

static void play_other(struct player *player, const struct recorded_frame *frame)
{
	struct channel_header header = frame->header;
	if (header.type == CHANNEL_END) {
		if (!player->ending) {
			send_end(player);
		}
		return;
	}
	if (translation_fdref(&player->translation, &header) == TRANSLATION_SEND) {
		if (header.type == CHANNEL_STREAM_DATA) {
			*window_of(player, header.id) += header.length;
		}
		send_frame(player, &header, NULL, 0, frame->payload);
	}
}

/* ---- waiting ---- */

static void wait_until(struct player *player, uint64_t time)
{
	uint64_t now = channel_clock();
	uint64_t left = time > now ? (time - now) / 1000 + 1 : 1;
	const struct timeval timeout = {
		.tv_sec = (time_t)(left / 1000000),
		.tv_usec = (suseconds_t)(left % 1000000),
	};
	event_add(player->timer, &timeout);
}

/* Who has waited in vain does not wait as long for the next event that is missing, too. */
static uint64_t patience(const struct player *player)
{
	unsigned int shift = player->impatience < 6 ? player->impatience : 6;
	return (uint64_t)player->options->patience_ms * 1000000 >> shift;
}

/* True: it has been waited for long enough. */
static bool has_waited(struct player *player, uint64_t patience)
{
	uint64_t now = channel_clock();
	if (player->waiting == 0) {
		player->waiting = now;
	}
	if (now - player->waiting < patience) {
		wait_until(player, player->waiting + patience);
		return false;
	}
	player->waiting = 0;
	player->impatience++;
	player->result->given_up++;
	return true;
}

static bool is_due(struct player *player, const struct recorded_frame *frame)
{
	if (player->options->speed == 0) {
		return true;
	}
	uint64_t start = player->recorded_start;
	double recorded = frame->clock > start ? (double)(frame->clock - start) : 0;
	double after = recorded / player->options->speed;
	uint64_t due = player->started + (uint64_t)(after < FOREVER ? after : FOREVER);
	if (due > channel_clock()) {
		wait_until(player, due);
		return false;
	}
	return true;
}

/* ---- the recording, frame by frame ---- */

static void ask(struct player *player)
{
	if (!player->asked && !player->ending) {
		translation_ask(&player->translation);
		player->asked = player->translation.sync != 0;
		send_answers(player);
	}
}

static bool hear_recorded(struct player *player, const struct recorded_frame *frame)
{
	if (!player->heard) {
		uint8_t *payload = malloc(frame->header.length + 1);
		if (payload != NULL) {
			memcpy(payload, frame->payload, frame->header.length);
			translation_hear(&player->translation, TRANSLATION_RECORDED, &frame->header,
				payload);
			free(payload);
		}
		player->heard = true;
	}
	if (!translation_caught_up(&player->translation)) {
		ask(player);
		if (!has_waited(player, patience(player))) {
			return false;
		}
		translation_give_up(&player->translation);
	} else if (player->waiting != 0) {
		player->waiting = 0;
		player->impatience = 0;
	}
	player->asked = false;
	return true;
}

/* False: not now. */
static bool play(struct player *player, const struct recorded_frame *frame)
{
	if (!is_repeated(frame)) {
		return true;
	}
	if (channel_queued(player->channel) > CHANNEL_FULL || !has_credit(player, frame) ||
		!is_due(player, frame)) {
		return false;
	}
	if (frame->header.type != CHANNEL_MESSAGES) {
		play_other(player, frame);
		return true;
	}
	if (player->ending || play_messages(player, frame)) {
		player->waiting = 0;
		return true;
	}
	// Globals come in one go, soon after the registry.
	if (!player->over && has_waited(player, patience(player) / 4)) {
		stop(player, player->translation.missing);
	}
	return false;
}

static bool is_held(const struct player *player, const struct recorded_frame *frame)
{
	return player->holds && frame->direction == RECORD_TO_HOST &&
		frame->header.type == CHANNEL_END;
}

static bool is_holding(const struct player *player)
{
	const struct recorded_frame *frame = wl_container_of(player->next, frame, link);
	return player->next == &player->recording->frames ? player->holds : is_held(player, frame);
}

/* Goes on as far as that is possible now. */
static void advance(struct player *player)
{
	const struct wl_list *end = &player->recording->frames;
	while (!player->over && player->next != end) {
		const struct recorded_frame *frame = wl_container_of(player->next, frame, link);
		if (is_held(player, frame)) {
			return;
		}
		bool done = frame->direction == RECORD_TO_GUEST ? hear_recorded(player, frame)
								: play(player, frame);
		if (!done) {
			return;
		}
		player->next = player->next->next;
		player->heard = false;
	}
	if (player->over || player->shut || player->holds) {
		return;
	}
	player->shut = true;
	if (!player->ending) {
		send_end(player);
	}
	channel_shutdown(player->channel);
}

/* ---- what comes from the host ---- */

static void hear_end(struct player *player, const struct channel_frame *frame)
{
	char reason[CHANNEL_MAX_TEXT + 1];
	const char *error = player->translation.error;
	int len = frame->header.length < CHANNEL_MAX_TEXT ? (int)frame->header.length
							  : (int)CHANNEL_MAX_TEXT;
	snprintf(reason, sizeof(reason), "%s%s%.*s", error, error[0] != '\0' ? "; " : "", len,
		(const char *)frame->payload);
	stop(player, reason[0] != '\0' ? reason : "the host ends the session");
}

static void hear_messages(struct player *player, const struct channel_frame *frame)
{
	uint32_t ids_len = frame->header.arg * (uint32_t)sizeof(uint32_t);
	translation_hear(&player->translation, TRANSLATION_LIVE, &frame->header, frame->payload);
	if (ids_len <= frame->header.length) {
		give_credit(player, 0, frame->header.length - ids_len);
	}
	send_answers(player);
}

static void take_credit(struct player *player, const struct channel_header *header)
{
	uint32_t *used = header->id == 0 ? &player->used : window_of(player, header->id);
	*used -= header->arg < *used ? header->arg : *used;
}

static void answer_ping(struct player *player, const struct channel_frame *frame)
{
	struct channel_pong pong;
	if (frame->header.length == sizeof(pong.ping_clock)) {
		memcpy(pong.ping_clock, frame->payload, sizeof(pong.ping_clock));
		channel_put64(pong.received_clock, channel_clock());
		channel_put64(pong.sent_clock, channel_clock());
		channel_push(player->channel, CHANNEL_PONG, 0, 0, &pong, sizeof(pong), NULL, 0);
	}
}

static const char *handle_frame(void *data, const struct channel_frame *frame)
{
	struct player *player = data;
	const struct channel_header *header = &frame->header;
	switch (header->type) {
	case CHANNEL_REFUSE:
	case CHANNEL_END:
		hear_end(player, frame);
		return NULL;
	case CHANNEL_WELCOME:
		player->result->welcomed = true;
		return NULL;
	case CHANNEL_PING:
		answer_ping(player, frame);
		return NULL;
	case CHANNEL_CREDIT:
		take_credit(player, header);
		return NULL;
	case CHANNEL_STREAM_DATA:
		give_credit(player, header->id, header->length);
		return NULL;
	case CHANNEL_MESSAGES:
		hear_messages(player, frame);
		return NULL;
	case CHANNEL_CLOSE:
		channel_push(player->channel, CHANNEL_CLOSED, header->id, 0, NULL, 0, NULL, 0);
		break;
	case CHANNEL_CLOSED:
		*window_of(player, header->id) = 0;
		break;
	default:
		break;
	}
	translation_hear(&player->translation, TRANSLATION_LIVE, header, frame->payload);
	return NULL;
}

/* What a compositor paints is of no use here. */
static const char *handle_place(
	void *data, uint32_t id, const struct channel_mem_write *write, struct channel_rows *rows)
{
	(void)data;
	(void)id;
	(void)write;
	(void)rows;
	return NULL;
}

static void handle_written(void *data, uint32_t id)
{
	(void)data;
	(void)id;
}

static void handle_ended(void *data, int error, const char *reason)
{
	struct player *player = data;
	if (player->shut && error == 0) {
		player->result->complete = true;
		stop(player, "");
		return;
	}
	char text[128];
	snprintf(text, sizeof(text), "the connection to the host was lost: %s",
		reason != NULL       ? reason
			: error != 0 ? strerror(-error)
				     : "closed by the host");
	stop(player, text);
}

static void handle_moved(void *data)
{
	struct player *player = data;
	advance(player);
	if (!player->over) {
		channel_flush(player->channel);
	}
}

static const struct channel_handler handler = {
	.frame = handle_frame,
	.place = handle_place,
	.written = handle_written,
	.ended = handle_ended,
	.drained = handle_moved,
	.settled = handle_moved,
};

static void handle_timer(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	handle_moved(data);
}

static void handle_signal(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	struct player *player = data;
	if (is_holding(player)) {
		player->holds = false;
		handle_moved(player);
		return;
	}
	player->result->stopped = true;
	stop(player, "stopped by a signal");
}

/* ---- life ---- */

static bool open_channel(struct player *player)
{
	struct handshake_text text;
	int fd = connection_open(player->options->guest, SERVICE_WAYLAND, NULL, NULL, 0, &text);
	if (fd < 0) {
		snprintf(player->result->reason, sizeof(player->result->reason), "%s", text.text);
		return false;
	}
	player->channel = channel_create(player->base, fd, &handler, player);
	return player->channel != NULL;
}

static bool prepare(struct player *player)
{
	player->base = event_base_new();
	if (player->base == NULL) {
		return false;
	}
	player->timer = evtimer_new(player->base, handle_timer, player);
	player->interrupt = evsignal_new(player->base, SIGINT, handle_signal, player);
	player->terminate = evsignal_new(player->base, SIGTERM, handle_signal, player);
	return player->timer != NULL && player->interrupt != NULL && player->terminate != NULL &&
		event_add(player->interrupt, NULL) == 0 &&
		event_add(player->terminate, NULL) == 0 && open_channel(player);
}

static void free_event(struct event *event)
{
	if (event != NULL) {
		event_free(event);
	}
}

static void finish(struct player *player)
{
	channel_destroy(player->channel);
	free_event(player->timer);
	free_event(player->interrupt);
	free_event(player->terminate);
	if (player->base != NULL) {
		event_base_free(player->base);
	}
	player->result->left_out = player->translation.left_out;
	translation_finish(&player->translation);
	wl_array_release(&player->windows);
}

static uint64_t first_clock(const struct recording *recording)
{
	const struct recorded_frame *frame;
	wl_list_for_each (frame, &recording->frames, link) {
		return frame->clock;
	}
	return 0;
}

void player_run(const struct player_options *options, const struct recording *recording,
	struct player_result *result)
{
	*result = (struct player_result){.reason = "out of memory"};
	struct player player = {
		.options = options,
		.result = result,
		.holds = options->hold,
		.recording = recording,
		.next = recording->frames.next,
		.recorded_start = first_clock(recording),
		.started = channel_clock(),
	};
	wl_array_init(&player.windows);
	if (!translation_init(&player.translation, (recording->flags & RECORD_MUTATED) != 0)) {
		return;
	}
	if (prepare(&player)) {
		handle_moved(&player);
		if (!player.over) {
			event_base_dispatch(player.base);
		}
	}
	finish(&player);
}
