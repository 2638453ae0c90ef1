#include "examples/mojo/traffic.h"

#include <assert.h>
#include <stdlib.h>
#include <wayland-util.h>

#include "examples/mojo/handle.h"
#include "examples/mojo/pattern.h"

// Enough for the peer to find the socket full again and again.
#define QUEUED_BYTES (512 * 1024)

enum {
	MESSAGE = TRAFFIC_KINDS, // its number, from 0
	ACKNOWLEDGED,            // how many were right so far
};

struct traffic {
	struct event_base *base;
	struct mojo_channel *channel;
	const struct traffic_shape *shape;
	const struct traffic_handler *handler;
	void *data;
	uint64_t send_seed, receive_seed;
	unsigned int sent, acknowledged;
	unsigned int checked; // messages that came, with all handles
	struct traffic_counts received;
	struct wl_list arrivals; // arrival.link
	uint8_t *scratch;        // shape->max bytes
	bool started, over;
};

/* A message whose handles are being looked at. */
struct arrival {
	struct wl_list link; // traffic.arrivals
	struct traffic *traffic;
	size_t n_checks, unchecked;
	struct handle_check *checks[MOJO_MAX_HANDLES]; // NULL: done
};

static void fail(struct traffic *traffic, const char *wrong)
{
	if (!traffic->over) {
		traffic->over = true;
		traffic->handler->failed(traffic->data, wrong);
	}
}

static void finish_if_done(struct traffic *traffic)
{
	unsigned int messages = traffic->shape->messages;
	if (!traffic->over && traffic->checked == messages && traffic->acknowledged == messages &&
		mojo_channel_queued(traffic->channel) == 0) {
		traffic->over = true;
		traffic->handler->done(traffic->data);
	}
}

static uint32_t message_size(const struct traffic *traffic, uint64_t seed, uint32_t number)
{
	return pattern_between(seed, 2u * number, traffic->shape->min, traffic->shape->max);
}

static unsigned int message_handles(const struct traffic *traffic, uint64_t seed, uint32_t number)
{
	unsigned int max = traffic->shape->max_handles;
	return traffic->shape->always_max_handles ? max
						  : pattern_between(seed, 2u * number + 1, 0, max);
}

static bool create_handles(struct traffic *traffic, uint32_t number, struct fdlist *handles)
{
	unsigned int n = message_handles(traffic, traffic->send_seed, number);
	struct handle_tag tag = {.seed = traffic->send_seed, .message = number};
	for (tag.position = 0; tag.position < n; tag.position++) {
		enum handle_kind kind = handle_kind_at(&tag, traffic->shape->handle_kinds);
		int fd = handle_create(kind, &tag);
		if (fd < 0 || !fdlist_push(handles, fd)) {
			return false;
		}
	}
	return true;
}

static bool send_message(struct traffic *traffic, uint32_t number)
{
	size_t size = message_size(traffic, traffic->send_seed, number);
	pattern_fill(traffic->send_seed + number, traffic->scratch, size);
	struct fdlist handles;
	fdlist_init(&handles);
	bool ok = create_handles(traffic, number, &handles) &&
		mojo_channel_send(
			traffic->channel, MESSAGE, number, traffic->scratch, size, &handles);
	fdlist_finish(&handles);
	return ok;
}

static bool may_send(const struct traffic *traffic)
{
	return traffic->started && !traffic->over && traffic->sent < traffic->shape->messages &&
		traffic->sent - traffic->acknowledged < traffic->shape->window &&
		mojo_channel_queued(traffic->channel) < QUEUED_BYTES;
}

static void pump(struct traffic *traffic)
{
	while (may_send(traffic)) {
		if (!send_message(traffic, traffic->sent)) {
			fail(traffic, "a message cannot be sent");
			return;
		}
		traffic->sent++;
	}
}

static void arrival_destroy(struct arrival *arrival)
{
	for (size_t i = 0; i < arrival->n_checks; i++) {
		handle_check_destroy(arrival->checks[i]);
	}
	wl_list_remove(&arrival->link);
	free(arrival);
}

static void acknowledge(struct traffic *traffic)
{
	traffic->checked++;
	if (!mojo_channel_send(traffic->channel, ACKNOWLEDGED, traffic->checked, NULL, 0, NULL)) {
		fail(traffic, "an acknowledgement cannot be sent");
	}
	finish_if_done(traffic);
}

static void handle_checked_one(void *data, struct handle_check *check, const char *wrong)
{
	struct arrival *arrival = data;
	if (wrong != NULL) {
		fail(arrival->traffic, wrong);
	}
	for (size_t i = 0; i < arrival->n_checks; i++) {
		if (arrival->checks[i] == check) {
			arrival->checks[i] = NULL;
		}
	}
	handle_check_destroy(check);
	arrival->unchecked--;
	if (arrival->unchecked == 0) {
		struct traffic *traffic = arrival->traffic;
		arrival_destroy(arrival);
		acknowledge(traffic);
	}
}

/* The checks own the handles from now on; none is started yet. */
static bool take_handles(
	struct arrival *arrival, uint32_t number, struct fdlist *handles, unsigned int kinds)
{
	struct traffic *traffic = arrival->traffic;
	struct handle_tag tag = {.seed = traffic->receive_seed, .message = number};
	size_t n = handles->count;
	for (tag.position = 0; tag.position < n; tag.position++) {
		struct handle_check *check = handle_check_create(
			traffic->base, fdlist_take(handles), handle_kind_at(&tag, kinds), &tag);
		if (check == NULL) {
			return false;
		}
		arrival->checks[arrival->n_checks++] = check;
	}
	return true;
}

static void start_checks(struct arrival *arrival)
{
	struct handle_check *checks[MOJO_MAX_HANDLES];
	size_t n = arrival->n_checks;
	for (size_t i = 0; i < n; i++) {
		checks[i] = arrival->checks[i];
	}
	arrival->unchecked = n;
	for (size_t i = 0; i < n; i++) { // the last may end the arrival
		handle_check_start(checks[i], handle_checked_one, arrival);
	}
}

static void check_handles(struct traffic *traffic, struct mojo_message *message)
{
	if (message->handles.count == 0) {
		acknowledge(traffic);
		return;
	}
	struct arrival *arrival = calloc(1, sizeof(*arrival));
	if (arrival == NULL) {
		fail(traffic, "out of memory");
		return;
	}
	arrival->traffic = traffic;
	wl_list_insert(&traffic->arrivals, &arrival->link);
	if (!take_handles(
		    arrival, message->number, &message->handles, traffic->shape->handle_kinds)) {
		fail(traffic, "out of memory");
		return;
	}
	start_checks(arrival);
}

static const char *check_message(struct traffic *traffic, const struct mojo_message *message)
{
	uint32_t number = message->number;
	uint64_t seed = traffic->receive_seed;
	if (number != traffic->received.messages || number >= traffic->shape->messages) {
		return "a message with another number";
	}
	if (message->size != message_size(traffic, seed, number)) {
		return "a message of another size";
	}
	if (message->handles.count != message_handles(traffic, seed, number)) {
		return "a message with another number of handles";
	}
	return pattern_matches(seed + number, message->data, message->size)
		? NULL
		: "a message with other bytes";
}

static void count_message(struct traffic *traffic, const struct mojo_message *message)
{
	struct traffic_counts *received = &traffic->received;
	received->messages++;
	received->handles += (unsigned int)message->handles.count;
	received->bytes += message->size;
	received->hash = pattern_hash(received->hash, message->data, message->size);
}

static void handle_message(void *data, struct mojo_message *message)
{
	struct traffic *traffic = data;
	if (traffic->over) {
		return;
	}
	if (message->kind == ACKNOWLEDGED) {
		traffic->acknowledged = message->number;
		pump(traffic);
		finish_if_done(traffic);
		return;
	}
	if (message->kind != MESSAGE) {
		if (traffic->handler->other != NULL) {
			traffic->handler->other(traffic->data, message);
		} else {
			fail(traffic, "a message of an unknown kind");
		}
		return;
	}
	const char *wrong = check_message(traffic, message);
	if (wrong != NULL) {
		fail(traffic, wrong);
		return;
	}
	count_message(traffic, message);
	check_handles(traffic, message);
}

static void handle_drained(void *data)
{
	struct traffic *traffic = data;
	pump(traffic);
	finish_if_done(traffic);
}

static void handle_ended(void *data, const char *wrong)
{
	fail(data, wrong != NULL ? wrong : "the channel ended too early");
}

static const struct mojo_channel_handler channel_handler = {
	.message = handle_message,
	.drained = handle_drained,
	.ended = handle_ended,
};

struct traffic *traffic_create(struct event_base *base, int fd, enum mojo_format format,
	const struct traffic_shape *shape, uint64_t seed, bool opener,
	const struct traffic_handler *handler, void *data)
{
	assert(shape->max_handles <= MOJO_MAX_HANDLES);
	struct traffic *traffic = calloc(1, sizeof(*traffic));
	struct mojo_channel *channel =
		mojo_channel_create(base, fd, format, &channel_handler, traffic);
	uint8_t *scratch = malloc(shape->max + 1);
	if (traffic == NULL || channel == NULL || scratch == NULL) {
		mojo_channel_destroy(channel);
		free(scratch);
		free(traffic);
		return NULL;
	}
	traffic->base = base;
	traffic->channel = channel;
	traffic->scratch = scratch;
	traffic->shape = shape;
	traffic->handler = handler;
	traffic->data = data;
	traffic->send_seed = pattern_number(seed, opener ? 0 : 1);
	traffic->receive_seed = pattern_number(seed, opener ? 1 : 0);
	wl_list_init(&traffic->arrivals);
	return traffic;
}

void traffic_destroy(struct traffic *traffic)
{
	if (traffic == NULL) {
		return;
	}
	struct arrival *arrival, *next;
	wl_list_for_each_safe (arrival, next, &traffic->arrivals, link) {
		arrival_destroy(arrival);
	}
	mojo_channel_destroy(traffic->channel);
	free(traffic->scratch);
	free(traffic);
}

void traffic_start(struct traffic *traffic)
{
	traffic->started = true;
	pump(traffic);
}

struct mojo_channel *traffic_channel(struct traffic *traffic)
{
	return traffic->channel;
}

const struct traffic_counts *traffic_received(const struct traffic *traffic)
{
	return &traffic->received;
}
