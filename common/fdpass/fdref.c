#include "fdpass/fdref.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/flight.h"
#include "fdpass/departure.h"
#include "fdpass/device.h"
#include "fdpass/dmabuf.h"
#include "fdpass/event.h"
#include "fdpass/file.h"
#include "fdpass/fileserver.h"
#include "fdpass/memory.h"
#include "fdpass/region.h"
#include "fdpass/shared.h"
#include "fdpass/socket.h"
#include "fdpass/stream.h"
#include "fdpass/sync.h"
#include "fdpass/timeline.h"

static bool carries(enum channel_kind kind)
{
	return kind == CHANNEL_KIND_PIPE || kind == CHANNEL_KIND_SOCKET;
}

// Before anything is made of it.
static bool charge(struct fdrefs *refs, enum channel_kind kind)
{
	if (!budget_charge(refs->budget, BUDGET_FDS, 1)) {
		return false;
	}
	if (carries(kind) && !budget_charge(refs->budget, BUDGET_STREAMS, 1)) {
		budget_release(refs->budget, BUDGET_FDS, 1);
		return false;
	}
	return true;
}

static void discharge(struct fdrefs *refs, enum channel_kind kind)
{
	budget_release(refs->budget, BUDGET_FDS, 1);
	if (carries(kind)) {
		budget_release(refs->budget, BUDGET_STREAMS, 1);
	}
}

static void remove_alike(struct fdref *ref)
{
	wl_list_remove(&ref->alike);
	wl_list_init(&ref->alike);
}

static void finish_table(struct fdrefs *refs, struct fdref_table *table)
{
	for (size_t i = 0; i < table->size; i++) {
		if (table->refs[i] != NULL) {
			struct fdref *ref = table->refs[i];
			table->refs[i] = NULL;
			remove_alike(ref);
			discharge(refs, ref->kind);
			ref->interface->destroy(ref);
		}
	}
	free(table->refs);
	*table = (struct fdref_table){0};
}

void fdrefs_finish(struct fdrefs *refs)
{
	refs->streams_over = NULL;
	sync_finish(refs);
	refs->failed = NULL;
	if (refs->has_root) {
		close(refs->root_fd);
		refs->has_root = false;
	}
	if (refs->region != NULL) {
		refs->region->stopped = true;
	}
	departures_finish(refs);
	finish_table(refs, &refs->ours);
	finish_table(refs, &refs->theirs);
	free(refs->by_identity);
	refs->by_identity = NULL;
	region_destroy(refs->region);
	refs->region = NULL;
	fileserver_destroy(refs->fileserver);
	refs->fileserver = NULL;
	flights_destroy(refs->flights);
	refs->flights = NULL;
}

struct flights *fdrefs_flights(struct fdrefs *refs)
{
	if (refs->flights == NULL) {
		refs->flights = flights_create(refs->base, refs->budget);
	}
	return refs->flights;
}

static bool grow(struct fdref_table *table, size_t index)
{
	if (index < table->size) {
		return true;
	}
	size_t size = table->size == 0 ? 16 : table->size;
	while (size <= index) {
		size *= 2;
	}
	struct fdref **grown = reallocarray(table->refs, size, sizeof(*grown));
	if (grown == NULL) {
		return false;
	}
	for (size_t i = table->size; i < size; i++) {
		grown[i] = NULL;
	}
	table->refs = grown;
	table->size = size;
	return true;
}

/* ---- by identity ---- */

static bool make_buckets(struct fdrefs *refs)
{
	if (refs->by_identity == NULL) {
		refs->by_identity = calloc(FDREFS_BUCKETS, sizeof(*refs->by_identity));
		for (size_t i = 0; refs->by_identity != NULL && i < FDREFS_BUCKETS; i++) {
			wl_list_init(&refs->by_identity[i]);
		}
	}
	return refs->by_identity != NULL;
}

/* Inodes are counted up by the kernel. */
static struct wl_list *bucket_of(const struct fdrefs *refs, const struct fd_identity *identity)
{
	return &refs->by_identity[(identity->number ^ identity->device) % FDREFS_BUCKETS];
}

static bool is_known(const struct fd_identity *identity)
{
	static const struct fd_identity unknown;
	return !fd_identity_equal(identity, &unknown);
}

static void add_alike(struct fdref *ref)
{
	wl_list_init(&ref->alike);
	if (is_known(&ref->identity)) {
		wl_list_insert(bucket_of(ref->refs, &ref->identity)->prev, &ref->alike);
	}
}

void fdref_identify(struct fdref *ref, const struct fd_identity *identity)
{
	remove_alike(ref);
	ref->identity = *identity;
	add_alike(ref);
}

/* ---- by id ---- */

static struct fdref_table *table_of(struct fdrefs *refs, uint32_t id, size_t *index)
{
	*index = id & ~CHANNEL_ID_HOST;
	return (id & CHANNEL_ID_HOST) == refs->own_bit ? &refs->ours : &refs->theirs;
}

// It has been charged.
static bool insert(struct fdrefs *refs, struct fdref *ref, uint32_t id, enum channel_kind kind)
{
	size_t index;
	struct fdref_table *table = table_of(refs, id, &index);
	if (!grow(table, index) || !make_buckets(refs)) {
		discharge(refs, kind);
		return false;
	}
	assert(table->refs[index] == NULL);
	table->refs[index] = ref;
	table->used++;
	ref->refs = refs;
	ref->id = id;
	ref->kind = kind;
	add_alike(ref);
	return true;
}

static void remove_from_table(struct fdref *ref)
{
	size_t index;
	struct fdref_table *table = table_of(ref->refs, ref->id, &index);
	table->refs[index] = NULL;
	table->used--;
	remove_alike(ref);
	if (index < table->next) {
		table->next = index;
	}
}

void fdrefs_destroy(struct fdref *ref)
{
	discharge(ref->refs, ref->kind);
	ref->interface->destroy(ref);
}

static void remove_and_destroy(struct fdref *ref)
{
	remove_from_table(ref);
	fdrefs_destroy(ref);
}

struct fdref *fdrefs_get(const struct fdrefs *refs, uint32_t id)
{
	size_t index;
	struct fdref_table *table = table_of((struct fdrefs *)refs, id, &index);
	return index < table->size ? table->refs[index] : NULL;
}

struct fdref *fdrefs_find(const struct fdrefs *refs, const struct fd_identity *identity)
{
	struct fdref *ref, *ours = NULL;
	if (refs->by_identity == NULL) {
		return NULL;
	}
	wl_list_for_each (ref, bucket_of(refs, identity), alike) {
		if (!fd_identity_equal(&ref->identity, identity)) {
			continue;
		}
		if ((ref->id & CHANNEL_ID_HOST) != refs->own_bit) {
			return ref;
		}
		ours = ours != NULL ? ours : ref;
	}
	return ours;
}

struct fdref *fdrefs_find_suitable(const struct fdrefs *refs, const struct fd_identity *identity,
	bool (*suits)(const struct fdref *ref, const void *data), const void *data)
{
	struct fdref *ref;
	if (refs->by_identity == NULL) {
		return NULL;
	}
	wl_list_for_each (ref, bucket_of(refs, identity), alike) {
		if (fd_identity_equal(&ref->identity, identity) && suits(ref, data)) {
			return ref;
		}
	}
	return NULL;
}

bool fdrefs_reserve(struct fdrefs *refs, struct fdref *ref, const struct fdref_interface *interface,
	enum channel_kind kind)
{
	size_t index = refs->ours.next > 0 ? refs->ours.next : 1; // 0 is the session
	while (index < refs->ours.size && refs->ours.refs[index] != NULL) {
		index++;
	}
	if (index > CHANNEL_MAX_ID || !charge(refs, kind) ||
		!insert(refs, ref, (uint32_t)index | refs->own_bit, kind)) {
		return false;
	}
	refs->ours.next = index + 1;
	ref->interface = interface;
	ref->closing = false;
	return true;
}

void fdrefs_push_open(
	const struct fdref *ref, enum channel_kind kind, const void *open, size_t open_len)
{
	channel_push(ref->refs->channel, CHANNEL_OPEN, ref->id, kind, open, open_len, NULL, 0);
}

bool fdrefs_open(struct fdrefs *refs, struct fdref *ref, const struct fdref_interface *interface,
	enum channel_kind kind, const void *open, size_t open_len)
{
	if (!fdrefs_reserve(refs, ref, interface, kind)) {
		return false;
	}
	fdrefs_push_open(ref, kind, open, open_len);
	return true;
}

void fdrefs_close(struct fdref *ref)
{
	if (!ref->closing) {
		ref->closing = true;
		channel_push(ref->refs->channel, CHANNEL_CLOSE, ref->id, 0, NULL, 0, NULL, 0);
	}
}

void fdrefs_confirm_charged(struct fdref *ref)
{
	assert(ref->closing);
	channel_push(ref->refs->channel, CHANNEL_CLOSED, ref->id, 0, NULL, 0, NULL, 0);
	remove_from_table(ref);
}

void fdrefs_confirm_closed(struct fdref *ref)
{
	fdrefs_confirm_charged(ref);
	fdrefs_destroy(ref);
}

const char *fdref_expect_close(struct fdref *ref, const struct channel_frame *frame)
{
	if (frame->header.type != CHANNEL_CLOSE) {
		return "frame of the wrong type for its fdref";
	}
	fdrefs_confirm_closed(ref);
	return NULL;
}

bool fdrefs_charge(struct fdrefs *refs, uint64_t bytes)
{
	return budget_charge(refs->budget, BUDGET_MEMORY, bytes);
}

void fdrefs_discharge(struct fdrefs *refs, uint64_t bytes)
{
	budget_release(refs->budget, BUDGET_MEMORY, bytes);
}

/* Pools and dma-bufs follow from Wayland's messages, what comes after pipes is for other services. */
static bool may_open(const struct fdrefs *refs, uint32_t kind)
{
	if (kind == CHANNEL_KIND_DMABUF) {
		return refs->dmabufs;
	}
	if (kind == CHANNEL_KIND_TIMELINE) {
		return refs->timelines;
	}
	return refs->any_kind ? kind != CHANNEL_KIND_POOL : kind <= CHANNEL_KIND_PIPE;
}

static const char *handle_open(struct fdrefs *refs, const struct channel_frame *frame)
{
	static const struct {
		const char *(*import)(
			struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);
	} kinds[] = {
		[CHANNEL_KIND_POOL] = {memory_import},
		[CHANNEL_KIND_FILE] = {file_import},
		[CHANNEL_KIND_PIPE] = {stream_import},
		[CHANNEL_KIND_EVENT] = {event_import},
		[CHANNEL_KIND_DEVICE] = {device_import},
		[CHANNEL_KIND_SYNC] = {sync_import},
		[CHANNEL_KIND_SOCKET] = {socket_import},
		[CHANNEL_KIND_SHARED] = {shared_import},
		[CHANNEL_KIND_DMABUF] = {dmabuf_import},
		[CHANNEL_KIND_TIMELINE] = {timeline_import},
	};
	uint32_t id = frame->header.id;
	uint32_t kind = frame->header.arg;
	size_t index = id & ~CHANNEL_ID_HOST;
	if ((id & CHANNEL_ID_HOST) == refs->own_bit || index == 0 || index > CHANNEL_MAX_ID) {
		return "OPEN with an id that is not the sender's to give";
	}
	if (fdrefs_get(refs, id) != NULL) {
		return "OPEN with an id that is in use";
	}
	if (kind >= sizeof(kinds) / sizeof(kinds[0]) || kinds[kind].import == NULL ||
		!may_open(refs, kind)) {
		return "OPEN of an unknown kind";
	}
	struct fdref *ref = NULL;
	if (!charge(refs, kind)) {
		return "more fds than the session may have open";
	}
	const char *wrong = kinds[kind].import(refs, frame, &ref);
	if (wrong != NULL) {
		discharge(refs, kind);
		return wrong;
	}
	ref->closing = false;
	if (!insert(refs, ref, id, kind)) {
		ref->refs = refs;
		ref->interface->destroy(ref);
		return "out of memory";
	}
	return NULL;
}

const char *fdrefs_frame(struct fdrefs *refs, const struct channel_frame *frame)
{
	if (frame->header.type == CHANNEL_OPEN) {
		return handle_open(refs, frame);
	}
	struct fdref *ref = fdrefs_get(refs, frame->header.id);
	if (ref == NULL) {
		return "frame for an fdref that is not open";
	}
	bool ours = (ref->id & CHANNEL_ID_HOST) == refs->own_bit;
	switch (frame->header.type) {
	case CHANNEL_CLOSED:
		if (!ours || !ref->closing) {
			return "CLOSED for an fdref that is not closing";
		}
		remove_and_destroy(ref);
		return NULL;
	case CHANNEL_CLOSE:
		if (ours || ref->closing) {
			return "CLOSE of an fdref by the side that did not open it, or twice";
		}
		ref->closing = true;
		return ref->interface->frame(ref, frame);
	default:
		return ref->interface->frame(ref, frame);
	}
}

const char *fdrefs_place(struct fdrefs *refs, uint32_t id, const struct channel_mem_write *write,
	struct channel_rows *rows)
{
	struct fdref *ref = fdrefs_get(refs, id);
	if (ref == NULL) {
		return "MEM_WRITE to an fdref that is not open";
	}
	if (ref->interface->place == NULL) {
		return "MEM_WRITE to an fdref that is not a memory";
	}
	return ref->interface->place(ref, write, rows);
}

void fdrefs_named(const struct fdrefs *refs, const uint32_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct fdref *ref = fdrefs_get(refs, ids[i]);
		if (ref != NULL && ref->interface->named != NULL) {
			ref->interface->named(ref);
		}
	}
}

int fdrefs_get_fd(const struct fdrefs *refs, uint32_t id)
{
	struct fdref *ref = fdrefs_get(refs, id);
	bool gives = ref != NULL && ref->interface->get_fd != NULL;
	return gives ? ref->interface->get_fd(ref) : -EBADF;
}

void fdrefs_fail(struct fdrefs *refs, const char *text)
{
	if (!refs->stopped) {
		refs->stopped = true;
		if (refs->failed != NULL) {
			refs->failed(refs->failed_data, text);
		}
	}
}

static void table_retry(struct fdref_table *table)
{
	for (size_t i = 0; i < table->size; i++) {
		if (table->refs[i] != NULL && table->refs[i]->interface->retry != NULL) {
			table->refs[i]->interface->retry(table->refs[i]);
		}
	}
}

void fdrefs_retry(struct fdrefs *refs)
{
	table_retry(&refs->ours);
	table_retry(&refs->theirs);
	if (refs->retried != NULL) {
		refs->retried(refs->data);
	}
}

static void table_settle(struct fdref_table *table)
{
	for (size_t i = 0; i < table->size; i++) {
		if (table->refs[i] != NULL && table->refs[i]->interface->settle != NULL) {
			table->refs[i]->interface->settle(table->refs[i]);
		}
	}
}

void fdrefs_settle(struct fdrefs *refs)
{
	if (refs->accessed > 0) {
		table_settle(&refs->ours);
		table_settle(&refs->theirs);
	}
}

static void table_drained(struct fdref_table *table)
{
	for (size_t i = 0; i < table->size; i++) {
		if (table->refs[i] != NULL && table->refs[i]->interface->drained != NULL) {
			table->refs[i]->interface->drained(table->refs[i]);
		}
	}
}

void fdrefs_drained(struct fdrefs *refs)
{
	if (refs->streams > 0 || refs->counts.events > 0 || refs->questions > 0) {
		table_drained(&refs->ours);
		table_drained(&refs->theirs);
	}
}
