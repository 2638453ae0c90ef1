#include "fdpass/departure.h"

#include <event2/event.h>
#include <inttypes.h>
#include <stdint.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/fdref.h"
#include "fdpass/kind.h"
#include "fdpass/memory.h"

#define FIRST_LOOK_MS 1
#define LAST_SOON_MS  256
#define LONG_MS       10000 // in all; then the local peer is said to hold it
#define LAST_LOOK_MS  4096  // after that

void departure_init(struct departure *departure)
{
	*departure = (struct departure){.info = -1};
}

/* Out of the list. */
static void unlink_confirmed(struct departure *departure)
{
	struct departure **link = &departure->memory->ref.refs->departures;
	while (*link != departure) {
		link = &(*link)->next;
	}
	*link = departure->next;
}

void departure_finish(struct departure *departure)
{
	if (departure->confirmed) {
		unlink_confirmed(departure);
	}
	if (departure->look != NULL) {
		event_free(departure->look);
	}
	if (departure->info >= 0) {
		close(departure->info);
	}
	departure_init(departure);
}

uint64_t departure_count_references(int fd)
{
	uint64_t count;
	int info = fd_info_open(fd);
	if (info < 0) {
		return 0;
	}
	bool told = fd_info_number(info, "count", 10, &count);
	close(info);
	return told ? count : 0;
}

void departure_count_others(struct departure *departure, int fd)
{
	uint64_t count = departure_count_references(fd);
	if (count > 1) {
		departure->others = count - 1;
	}
}

static bool follows(const struct fdref *other, const void *data)
{
	const struct departure *departure = data;
	const struct fdref *ref = &departure->memory->ref;
	bool is_theirs = (other->id & CHANNEL_ID_HOST) != ref->refs->own_bit;
	return is_theirs && other != ref &&
		(departure->confirmed || !other->closing || other->id > ref->id);
}

/* The opener has opened the same dma-buf again: until that one is closed, it stays as it is. */
static bool is_followed(const struct departure *departure)
{
	const struct fdref *ref = &departure->memory->ref;
	return ref->identity.number != 0 &&
		fdrefs_find_suitable(ref->refs, &ref->identity, follows, departure) != NULL;
}

/* By our fd, by those who had one before us, and by who was given one. Where nobody tells, it takes a while. */
static bool is_held(const struct departure *departure)
{
	uint64_t count;
	if (departure->info < 0) {
		return departure->memory->fd >= 0 && departure->waited_ms < LONG_MS;
	}
	return !is_followed(departure) && fd_info_number(departure->info, "count", 10, &count) &&
		count > 1 + departure->kept + departure->others;
}

/*
 * A guest can have its GPU forget the buffer at any time, and what another session's peer had may go, too: then
 * the local peer is taken for one of the others. So what is not held stays charged while anybody has it.
 */
static bool is_had(const struct departure *departure)
{
	uint64_t count;
	return departure->others > 0 && departure->info >= 0 && !is_followed(departure) &&
		fd_info_number(departure->info, "count", 10, &count) && count > 1 + departure->kept;
}

/* departure is gone then. */
static void end(struct departure *departure)
{
	struct fdref *ref = &departure->memory->ref;
	if (departure->confirmed) {
		fdrefs_destroy(ref);
	} else {
		fdrefs_confirm_closed(ref);
	}
}

/* One charge for one dma-buf is enough. */
static void end_alike(const struct departure *departure)
{
	const struct fdref *ref = &departure->memory->ref;
	struct departure *next, *other;
	for (other = ref->refs->departures; other != NULL; other = next) {
		next = other->next;
		if (fd_identity_equal(&other->memory->ref.identity, &ref->identity)) {
			end(other);
		}
	}
}

static void confirm(struct departure *departure)
{
	struct fdrefs *refs = departure->memory->ref.refs;
	if (departure->confirmed) {
		return;
	}
	end_alike(departure);
	departure->confirmed = true;
	departure->next_ms = FIRST_LOOK_MS;
	departure->next = refs->departures;
	refs->departures = departure;
	fdrefs_confirm_charged(&departure->memory->ref);
}

static void look_later(struct departure *departure)
{
	const struct timeval after = {
		.tv_sec = departure->next_ms / 1000,
		.tv_usec = departure->next_ms % 1000 * 1000,
	};
	if (departure->look == NULL || event_add(departure->look, &after) < 0) {
		end(departure);
	}
}

/* A peer that keeps it for long keeps it charged, or a guest could have it keep any number. */
static void tell_once(struct departure *departure)
{
	if (departure->waited_ms >= LONG_MS && !departure->told) {
		departure->told = true;
		departure->memory->ref.refs->counts.dmabufs_held++;
		log_limited(LOG_WARN,
			"a dma-buf of %" PRIu64 " bytes is still in use after its end",
			departure->memory->size);
	}
}

static void look(struct departure *departure)
{
	struct fdrefs *refs = departure->memory->ref.refs;
	if (!departure->confirmed && is_held(departure)) {
		tell_once(departure);
		look_later(departure);
		return;
	}
	if (is_had(departure)) {
		confirm(departure);
		look_later(departure);
	} else {
		end(departure);
	}
	channel_flush(refs->channel);
}

static void handle_look(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct departure *departure = data;
	bool seldom = departure->told || departure->confirmed;
	departure->waited_ms += departure->next_ms;
	if (departure->next_ms < (seldom ? LAST_LOOK_MS : LAST_SOON_MS)) {
		departure->next_ms *= 2;
	}
	look(departure);
}

void departure_begin(struct departure *departure, struct memory *memory)
{
	departure->memory = memory;
	if (memory->fd >= 0) {
		departure->info = fd_info_open(memory->fd);
		departure->look = evtimer_new(memory->ref.refs->base, handle_look, departure);
	}
	departure->next_ms = FIRST_LOOK_MS;
	look(departure);
}

void departures_finish(struct fdrefs *refs)
{
	while (refs->departures != NULL) {
		end(refs->departures);
	}
}
