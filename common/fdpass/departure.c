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

void departure_finish(struct departure *departure)
{
	if (departure->look != NULL) {
		event_free(departure->look);
	}
	if (departure->info >= 0) {
		close(departure->info);
	}
	departure_init(departure);
}

void departure_count_others(struct departure *departure, int fd)
{
	uint64_t count;
	int info = fd_info_open(fd);
	if (info < 0) {
		return;
	}
	if (fd_info_number(info, "count", 10, &count) && count > 1) {
		departure->others = count - 1;
	}
	close(info);
}

/* The opener has opened the same dma-buf again: until that one is closed, it stays as it is. */
static bool is_followed(const struct fdref *ref)
{
	const struct fdref_table *theirs = &ref->refs->theirs;
	for (size_t i = 0; ref->identity.number != 0 && i < theirs->size; i++) {
		const struct fdref *other = theirs->refs[i];
		if (other != NULL && other != ref && (!other->closing || other->id > ref->id) &&
			fd_identity_equal(&other->identity, &ref->identity)) {
			return true;
		}
	}
	return false;
}

/* By our fd, by those who had one before us, and by who was given one. Where nobody tells, it takes a while. */
static bool is_held(const struct departure *departure)
{
	uint64_t count;
	if (departure->info < 0) {
		return departure->memory->fd >= 0 && departure->waited_ms < LONG_MS;
	}
	return !is_followed(&departure->memory->ref) &&
		fd_info_number(departure->info, "count", 10, &count) &&
		count > 1 + departure->others;
}

static void look_later(struct departure *departure)
{
	const struct timeval after = {
		.tv_sec = departure->next_ms / 1000,
		.tv_usec = departure->next_ms % 1000 * 1000,
	};
	if (departure->look == NULL || event_add(departure->look, &after) < 0) {
		fdrefs_confirm_closed(&departure->memory->ref);
	}
}

/* A peer that keeps it for long keeps it charged, or a guest could have it keep any number. */
static void look(struct departure *departure)
{
	struct fdref *ref = &departure->memory->ref;
	struct fdrefs *refs = ref->refs;
	if (!is_held(departure)) {
		fdrefs_confirm_closed(ref);
		channel_flush(refs->channel);
		return;
	}
	if (departure->waited_ms >= LONG_MS && !departure->told) {
		departure->told = true;
		refs->counts.dmabufs_held++;
		log_limited(LOG_WARN,
			"a dma-buf of %" PRIu64 " bytes is still in use after its end",
			departure->memory->size);
	}
	look_later(departure);
}

static void handle_look(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct departure *departure = data;
	departure->waited_ms += departure->next_ms;
	if (departure->next_ms < (departure->told ? LAST_LOOK_MS : LAST_SOON_MS)) {
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
