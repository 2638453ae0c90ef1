#include "fdpass/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wayland-util.h>

#include "base/log.h"
#include "fdpass/departure.h"
#include "fdpass/fdref.h"
#include "fdpass/kind.h"
#include "fdpass/memory_impl.h"

// What making a buffer of so many bytes takes of the rate: so much as one message.
#define BYTES_PER_MESSAGE (64u * 1024)

struct page_pool {
	struct memory memory;
	bool leaving; // nobody here uses it
	struct departure departure;
};

void page_pinner_destroy(struct page_pinner *pinner)
{
	if (pinner != NULL) {
		pinner->interface->destroy(pinner);
	}
}

void page_buffers_destroy(struct page_buffers *buffers)
{
	if (buffers != NULL) {
		buffers->interface->destroy(buffers);
	}
}

/* ---- the opener ---- */

bool pages_pin(struct fdrefs *refs, struct memory *memory, uint64_t size, struct wl_array *ranges)
{
	struct page_pinner *pinner = refs->pinner;
	size_t before = ranges->size;
	if (pinner == NULL || size == 0 || size > CHANNEL_MAX_PAGES) {
		return false;
	}
	int pinned = pinner->interface->pin(pinner, memory->fd, size, ranges);
	if (pinned < 0) {
		log_debug("a pool of %llu bytes does not go by its pages: %s",
			(unsigned long long)size, strerror(-pinned));
		ranges->size = before;
		return false;
	}
	memory->shared = true;
	memory->pinner = pinner;
	memory->pinned = pinned;
	memory->size = size;
	return true;
}

void pages_unpin(struct memory *memory)
{
	if (memory->pinner != NULL) {
		memory->pinner->interface->unpin(memory->pinner, memory->pinned);
		memory->pinner = NULL;
	}
}

bool pages_are_exchanged(const struct memory *memory)
{
	return !memory->pinner->interface->holds(memory->pinner, memory->pinned);
}

/* ---- the importer ---- */

static void destroy_pool(struct fdref *ref)
{
	struct page_pool *pool = (struct page_pool *)ref;
	struct page_buffers *buffers = ref->refs->page_buffers;
	struct fd_identity identity;
	fd_identity_of(pool->memory.fd, &identity);
	departure_finish(&pool->departure);
	memory_finish(&pool->memory);
	free(pool);
	if (identity.number != 0) {
		buffers->interface->let_go(buffers, &identity);
	}
}

static int get_fd(struct fdref *ref)
{
	return ((struct page_pool *)ref)->leaving ? -EBADF : memory_get_fd(ref);
}

void pages_let_go(struct memory *memory)
{
	struct page_pool *pool = (struct page_pool *)memory;
	pool->leaving = true;
	departure_begin(&pool->departure, memory);
}

static const char *handle_frame(struct fdref *ref, const struct channel_frame *frame)
{
	struct memory *memory = (struct memory *)ref;
	if (frame->header.type != CHANNEL_CLOSE) {
		return "frame of the wrong type for a pool of the guest's pages";
	}
	if (memory->users == 0) {
		pages_let_go(memory);
	}
	return NULL;
}

static const struct fdref_interface imported = {
	.name = "pool in the guest's pages",
	.frame = handle_frame,
	.place = memory_place_in_replica,
	.get_fd = get_fd,
	.destroy = destroy_pool,
};

static int compare_addresses(const void *a, const void *b)
{
	uint64_t left = channel_get64(((const struct channel_page_range *)a)->address);
	uint64_t right = channel_get64(((const struct channel_page_range *)b)->address);
	return left < right ? -1 : left > right;
}

/* Sorts ranges, which do not wrap. */
static bool overlap(struct channel_page_range *ranges, size_t n)
{
	qsort(ranges, n, sizeof(ranges[0]), compare_addresses);
	for (size_t i = 1; i < n; i++) {
		const struct channel_page_range *before = &ranges[i - 1];
		if (channel_get64(before->address) + before->length >
			channel_get64(ranges[i].address)) {
			return true;
		}
	}
	return false;
}

static const char *check_ranges(const struct channel_page_range *ranges, size_t n, uint64_t size)
{
	struct channel_page_range sorted[CHANNEL_MAX_RANGES];
	uint64_t total = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t address = channel_get64(ranges[i].address);
		if (ranges[i].length == 0 || ranges[i].length % CHANNEL_PAGE != 0 ||
			address % CHANNEL_PAGE != 0 || address > UINT64_MAX - ranges[i].length) {
			return "a pool's range that is not of whole pages";
		}
		total += ranges[i].length;
	}
	if (total < size || total - size >= CHANNEL_PAGE) {
		return "a pool whose pages are not as long as it is";
	}
	memcpy(sorted, ranges, n * sizeof(ranges[0]));
	return overlap(sorted, n) ? "a pool's ranges that overlap" : NULL;
}

static const char *read_ranges(const struct channel_frame *frame,
	struct channel_page_range ranges[CHANNEL_MAX_RANGES], size_t *n)
{
	size_t len = frame->header.length - sizeof(struct channel_open_memory);
	*n = len / sizeof(ranges[0]);
	if (*n > CHANNEL_MAX_RANGES || len % sizeof(ranges[0]) != 0) {
		return "OPEN of a pool with a wrong number of ranges";
	}
	memcpy(ranges, frame->payload + sizeof(struct channel_open_memory), len);
	return NULL;
}

/* Without an fd. */
static const char *create_pool(struct fdrefs *refs, uint64_t size, struct fdref **ref)
{
	uint64_t pages = (size + CHANNEL_PAGE - 1) / CHANNEL_PAGE * CHANNEL_PAGE;
	struct charge *charge = charge_create(refs->budget, pages);
	if (charge == NULL) {
		return "more memory than the session may have";
	}
	struct page_pool *pool = calloc(1, sizeof(*pool));
	if (pool == NULL) {
		charge_unref(charge);
		return "out of memory";
	}
	departure_init(&pool->departure);
	pool->departure.kept = refs->page_buffers->kept;
	pool->memory = (struct memory){
		.ref = {.interface = &imported, .refs = refs, .memory = charge},
		.fd = -1,
		.size = size,
		.wanted = size,
		.shared = true,
	};
	refs->counts.pools++;
	*ref = &pool->memory.ref;
	return NULL;
}

const char *pages_import(struct fdrefs *refs, const struct channel_frame *frame,
	const struct channel_open_memory *open, struct fdref **ref)
{
	struct channel_page_range ranges[CHANNEL_MAX_RANGES];
	uint64_t size = channel_get64(open->size);
	size_t n;
	const char *wrong = read_ranges(frame, ranges, &n);
	if (wrong != NULL) {
		return wrong;
	}
	if (refs->page_buffers == NULL) {
		return "OPEN of a pool by its pages, which was not agreed to";
	}
	if (size == 0 || size > CHANNEL_MAX_PAGES || open->access != CHANNEL_ACCESS_BOTH) {
		return "OPEN of a pool by its pages with a wrong size or access mode";
	}
	wrong = check_ranges(ranges, n, size);
	if (wrong != NULL) {
		return wrong;
	}
	if (!budget_messages(refs->budget, size / BYTES_PER_MESSAGE)) {
		return "more pages than the session may ask for";
	}
	wrong = create_pool(refs, size, ref);
	if (wrong != NULL) {
		return wrong;
	}
	int fd = refs->page_buffers->interface->make(refs->page_buffers, ranges, n, &wrong);
	((struct memory *)*ref)->fd = fd;
	if (fd < 0) {
		destroy_pool(*ref);
	}
	return fd < 0 ? wrong : NULL;
}
