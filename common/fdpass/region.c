#include "fdpass/region.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/mapping.h"
#include "channel/channel.h"
#include "fdpass/fdref.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define PAGE  4096u // that a truncated file may lack

#define BLOCK 512u // of st_blocks

#define LOOK_SECONDS 1

#define WORTH_STREAMING (512u * 1024) // bytes

struct kept_range {
	struct wl_list link; // region.kept
	struct region_range *range;
	uint32_t object;
};

struct region *region_create(uint64_t size)
{
	assert(size <= CHANNEL_MAX_REGION);
	int fd = memfd_create("fdferry-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		return NULL;
	}
	if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
		int error = errno;
		close(fd);
		errno = error;
		return NULL;
	}
	return region_open(fd);
}

static bool keeps_its_size(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

struct region *region_open(int fd)
{
	struct stat st;
	struct region *region = calloc(1, sizeof(*region));
	if (region == NULL || fstat(fd, &st) < 0 || !keeps_its_size(fd)) {
		errno = EINVAL;
		goto err_region;
	}
	uint64_t size = (uint64_t)st.st_size;
	region->fd = fd;
	region->size = size < CHANNEL_MAX_REGION ? size : CHANNEL_MAX_REGION;
	region->n_steps = region->size / CHANNEL_REGION_STEP;
	region->at = calloc(region->n_steps + 1, sizeof(*region->at));
	if (region->at == NULL) {
		goto err_region;
	}
	region->hosts_from = region->n_steps * CHANNEL_REGION_STEP;
	wl_list_init(&region->ranges);
	wl_list_init(&region->kept);
	return region;

err_region:
	free(region);
	close(fd);
	return NULL;
}

void region_agree(struct region *region)
{
	region->names_rows = true;
	region->hosts_from = (region->n_steps - region->n_steps / 4) * CHANNEL_REGION_STEP;
}

/* ---- what is charged ---- */

/* The guest has all of it mapped, and fills what it likes: pages that are there say how much. */
static uint64_t bytes_there(const struct region *region)
{
	struct stat st;
	return fstat(region->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * BLOCK;
}

/* Ranges count from the start, since nothing asks before their pages come. */
static bool charge(struct fdrefs *refs, uint64_t ranges)
{
	struct region *region = refs->region;
	uint64_t there = bytes_there(region);
	uint64_t now = there > ranges ? there : ranges;
	region->refs = refs;
	if (now > region->charged && !fdrefs_charge(refs, now - region->charged)) {
		return false;
	}
	if (now < region->charged) {
		fdrefs_discharge(refs, region->charged - now);
	}
	region->charged = now;
	return true;
}

bool region_account(struct fdrefs *refs)
{
	return charge(refs, refs->region->used);
}

static void handle_look(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct fdrefs *refs = data;
	if (!region_account(refs)) {
		fdrefs_fail(refs, "more memory than the session may have");
	}
}

bool region_watch(struct fdrefs *refs)
{
	const struct timeval interval = {.tv_sec = LOOK_SECONDS};
	struct region *region = refs->region;
	region->look = event_new(refs->base, -1, EV_PERSIST, handle_look, refs);
	return region->look != NULL && event_add(region->look, &interval) == 0;
}

/* ---- ranges ---- */

static bool is_host(const struct fdrefs *refs)
{
	return refs->own_bit == CHANNEL_ID_HOST;
}

static void put_at(
	struct region *region, uint64_t offset, uint64_t length, struct region_range *range)
{
	size_t first = offset / CHANNEL_REGION_STEP, n = length / CHANNEL_REGION_STEP;
	for (size_t i = first; i < first + n; i++) {
		region->at[i] = range;
	}
}

static bool is_hosts(const struct region_range *range)
{
	return range->offset >= range->refs->region->hosts_from;
}

static void destroy_range(struct region_range *range)
{
	struct region *region = range->refs->region;
	region->used -= range->length;
	region->hosts_used -= is_hosts(range) ? range->length : 0;
	put_at(region, range->offset, range->length, NULL);
	wl_list_remove(&range->link);
	mapping_unref(range->mapping);
	if (is_host(range->refs)) {
		charge(range->refs, region->used);
	}
	free(range);
}

static void destroy_kept(struct kept_range *kept)
{
	wl_list_remove(&kept->link);
	free(kept);
}

void region_destroy(struct region *region)
{
	if (region == NULL) {
		return;
	}
	struct kept_range *kept, *next_kept;
	wl_list_for_each_safe (kept, next_kept, &region->kept, link) {
		kept->range->users--;
		destroy_kept(kept);
	}
	struct region_range *range, *next;
	wl_list_for_each_safe (range, next, &region->ranges, link) {
		assert(range->users == 0);
		destroy_range(range);
	}
	if (region->look != NULL) {
		event_free(region->look);
	}
	if (region->charged > 0) {
		fdrefs_discharge(region->refs, region->charged);
	}
	close(region->fd);
	free(region->at);
	free(region);
}

/* NULL: out of memory. */
static struct region_range *create_range(struct fdrefs *refs, uint64_t offset, uint64_t length)
{
	struct region *region = refs->region;
	struct region_range *range = calloc(1, sizeof(*range));
	if (range == NULL) {
		return NULL;
	}
	range->mapping = mapping_create_range(region->fd, offset, length);
	if (range->mapping == NULL) {
		log_errno("cannot map %llu bytes of the region", (unsigned long long)length);
		free(range);
		return NULL;
	}
	range->refs = refs;
	range->users = 1;
	range->offset = offset;
	range->length = length;
	wl_list_insert(&region->ranges, &range->link);
	put_at(region, offset, length, range);
	region->used += length;
	region->hosts_used += is_hosts(range) ? length : 0;
	return range;
}

/* They lie within the region. */
static struct region_range *find_range(
	const struct region *region, uint64_t offset, uint64_t length)
{
	struct region_range *range = region->at[offset / CHANNEL_REGION_STEP];
	return range != NULL && range->offset == offset && range->length == length ? range : NULL;
}

void region_range_describe(const struct region_range *range, struct channel_region_range *described)
{
	channel_put64(described->offset, range->offset);
	channel_put64(described->length, range->length);
}

static bool push(const struct region_range *range, enum channel_type type, uint32_t pool)
{
	struct channel_region_range frame;
	region_range_describe(range, &frame);
	return channel_push(range->refs->channel, type, pool, 0, &frame, sizeof(frame), NULL, 0);
}

struct region_range *region_range_use(struct region_range *range)
{
	if (range != NULL) {
		range->users++;
	}
	return range;
}

/* Nobody uses it any more: its pages go, so that what comes there begins with zeros. */
static void remove_pages(const struct region_range *range)
{
	madvise(range->mapping->data, range->mapping->size, MADV_REMOVE);
}

static void confirm_unmapped(struct region_range *range)
{
	remove_pages(range);
	push(range, CHANNEL_REGION_UNMAP, 0);
	destroy_range(range);
}

/* CLOSED has come, or goes. The opener has the pages removed, which uses the range again. */
static void end_with_fdref(struct region_range *range)
{
	if (is_hosts(range) == is_host(range->refs)) {
		remove_pages(range);
	}
	destroy_range(range);
}

void region_range_release(struct region_range *range)
{
	if (range == NULL) {
		return;
	}
	assert(range->users > 0);
	if (--range->users > 0 || range->refs->region->stopped) {
		return;
	}
	if (range->of_dmabuf) {
		end_with_fdref(range);
		return;
	}
	if (is_host(range->refs)) {
		if (range->unmapped) {
			confirm_unmapped(range);
		}
		return;
	}
	mapping_unref(range->mapping);
	range->mapping = NULL;
	if (!range->held) {
		range->unmapped = true;
		push(range, CHANNEL_REGION_UNMAP, 0);
	}
}

/* ---- the guest ---- */

void region_keep(struct region_range *range, uint32_t object)
{
	if (range == NULL || is_host(range->refs)) {
		return;
	}
	struct kept_range *kept = calloc(1, sizeof(*kept));
	if (kept == NULL) {
		range->held = true;
		return;
	}
	kept->range = region_range_use(range);
	kept->object = object;
	wl_list_insert(&range->refs->region->kept, &kept->link);
}

void region_let_go(struct region *region, uint32_t object)
{
	struct kept_range *kept, *next;
	if (region == NULL) {
		return;
	}
	wl_list_for_each_safe (kept, next, &region->kept, link) {
		if (kept->object == object) {
			struct region_range *range = kept->range;
			destroy_kept(kept);
			region_range_release(range);
		}
	}
}

/* Between two places, which are multiples of the step. */
static bool find_gap(
	const struct region *region, uint64_t from, uint64_t to, uint64_t length, uint64_t *offset)
{
	size_t n = length / CHANNEL_REGION_STEP, free = 0;
	*offset = from;
	for (size_t i = from / CHANNEL_REGION_STEP; i < to / CHANNEL_REGION_STEP && free < n; i++) {
		free = region->at[i] == NULL ? free + 1 : 0;
		*offset = (i + 1 - free) * CHANNEL_REGION_STEP;
	}
	return free == n;
}

static uint64_t whole_steps(uint64_t size)
{
	return (size + CHANNEL_REGION_STEP - 1) & ~(uint64_t)(CHANNEL_REGION_STEP - 1);
}

struct region_range *region_allocate(struct fdrefs *refs, uint64_t size, bool grows)
{
	struct region *region = refs->region;
	if (region == NULL || is_host(refs) || size == 0 || size > region->size) {
		return NULL;
	}
	uint64_t length = whole_steps(size);
	uint64_t most = grows ? region->hosts_from : region->hosts_from / 2;
	uint64_t offset;
	if (region->used - region->hosts_used + length > most ||
		!find_gap(region, 0, region->hosts_from, length, &offset)) {
		return NULL;
	}
	return create_range(refs, offset, length);
}

static struct region_range *allocate_hosts(struct fdrefs *refs, uint64_t size)
{
	struct region *region = refs->region;
	uint64_t end = region->n_steps * CHANNEL_REGION_STEP;
	uint64_t offset;
	if (!region->arrived || size > end ||
		!find_gap(region, region->hosts_from, end, whole_steps(size), &offset) ||
		!charge(refs, region->used + whole_steps(size))) {
		return NULL;
	}
	struct region_range *range = create_range(refs, offset, whole_steps(size));
	region_account(refs);
	return range;
}

struct region_range *region_allocate_for_dmabuf(struct fdrefs *refs, uint64_t size)
{
	struct region *region = refs->region;
	if (region == NULL || !region->names_rows || size == 0) {
		return NULL;
	}
	struct region_range *range =
		is_host(refs) ? allocate_hosts(refs, size) : region_allocate(refs, size, false);
	if (range != NULL) {
		range->of_dmabuf = true;
	}
	return range;
}

void region_forget(struct region_range *range)
{
	if (range != NULL) {
		destroy_range(range);
	}
}

bool region_push_map(const struct region_range *range, uint32_t pool)
{
	return push(range, CHANNEL_REGION_MAP, pool);
}

struct transfer {
	uint8_t *to;
	const struct channel_rows *rows;
};

/*
 * Past the caches: they would read what is overwritten first, and hold what nobody reads here. For
 * frames that halves the time; what is small is read from the caches soon.
 */
static void stream(uint8_t *to, const uint8_t *from, size_t len)
{
#ifdef __SSE2__
	size_t lead = -(uintptr_t)to % sizeof(__m128i);
	lead = lead < len ? lead : len;
	memcpy(to, from, lead);
	size_t at = lead;
	for (; len - at >= 4 * sizeof(__m128i); at += 4 * sizeof(__m128i)) {
		const __m128i *source = (const __m128i *)(from + at);
		__m128i *target = (__m128i *)(to + at);
		__m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
		__m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
		_mm_stream_si128(target, a);
		_mm_stream_si128(target + 1, b);
		_mm_stream_si128(target + 2, c);
		_mm_stream_si128(target + 3, d);
	}
	memcpy(to + at, from + at, len - at);
	_mm_sfence();
#else
	memcpy(to, from, len);
#endif
}

static void copy_rows(void *data)
{
	const struct transfer *transfer = data;
	const struct channel_rows *rows = transfer->rows;
	bool large = rows->row_bytes * rows->rows >= WORTH_STREAMING;
	for (size_t row = 0; row < rows->rows; row++) {
		uint8_t *to = transfer->to + row * rows->stride;
		const uint8_t *from = rows->base + row * rows->stride;
		if (large) {
			stream(to, from, rows->row_bytes);
		} else {
			memcpy(to, from, rows->row_bytes);
		}
	}
}

/* What has vanished becomes zeros. */
static void copy_what_is_there(uint8_t *to, const uint8_t *from, size_t len)
{
	static const uint8_t zeros[PAGE];
	while (len > 0) {
		size_t rest = PAGE - ((uintptr_t)from & (PAGE - 1));
		size_t n = rest < len ? rest : len;
		if (!mapping_copy(to, from, n)) {
			mapping_copy(to, zeros, n);
		}
		to += n;
		from += n;
		len -= n;
	}
}

void region_copy_rows(uint8_t *to, const struct channel_rows *rows)
{
	struct transfer transfer = {.to = to, .rows = rows};
	if (guard_run(copy_rows, &transfer)) {
		return;
	}
	for (size_t row = 0; row < rows->rows; row++) {
		copy_what_is_there(
			to + row * rows->stride, rows->base + row * rows->stride, rows->row_bytes);
	}
}

static bool rows_fit(
	const struct region_range *range, uint64_t offset, const struct channel_rows *rows)
{
	uint64_t span =
		rows->rows == 0 ? 0 : (uint64_t)rows->stride * (rows->rows - 1) + rows->row_bytes;
	return offset <= range->length && span <= range->length - offset;
}

void region_range_write(
	struct region_range *range, uint64_t offset, const struct channel_rows *rows)
{
	assert(rows_fit(range, offset, rows));
	region_copy_rows(range->mapping->data + offset, rows);
}

bool region_push_rows(const struct region_range *range, uint32_t memory, uint64_t offset,
	const struct channel_rows *rows)
{
	assert(rows_fit(range, offset, rows));
	struct channel_region_rows frame = {
		.stride = (uint32_t)rows->stride,
		.row_bytes = (uint32_t)rows->row_bytes,
		.rows = (uint32_t)rows->rows,
	};
	channel_put64(frame.range, range->offset);
	channel_put64(frame.offset, offset);
	return channel_push(range->refs->channel, CHANNEL_REGION_ROWS, memory, 0, &frame,
		sizeof(frame), NULL, 0);
}

/* ---- frames ---- */

static bool decode(const struct channel_frame *frame, struct channel_region_range *range)
{
	if (frame->header.length != sizeof(*range)) {
		return false;
	}
	memcpy(range, frame->payload, sizeof(*range));
	return true;
}

static struct channel_region_range hosts_part(const struct region *region)
{
	struct channel_region_range part;
	channel_put64(part.offset, region->hosts_from);
	channel_put64(part.length, region->n_steps * CHANNEL_REGION_STEP - region->hosts_from);
	return part;
}

bool region_push_arrived(const struct fdrefs *refs)
{
	const struct channel_region_range part = hosts_part(refs->region);
	return channel_push(refs->channel, CHANNEL_REGION_MAP, 0, 0, &part, sizeof(part), NULL, 0);
}

const char *region_handle_arrived(struct fdrefs *refs, const struct channel_frame *frame)
{
	struct channel_region_range told;
	struct region *region = refs->region;
	if (region == NULL || !region->names_rows || !is_host(refs) || region->arrived ||
		!decode(frame, &told)) {
		return "REGION_MAP out of place or with a wrong length";
	}
	const struct channel_region_range part = hosts_part(region);
	if (memcmp(&told, &part, sizeof(part)) != 0) {
		return "REGION_MAP of what is not the host's part";
	}
	region->arrived = true;
	return NULL;
}

const char *region_find_rows(const struct fdrefs *refs, const struct channel_frame *frame,
	const struct region_range *range, uint64_t *offset, struct channel_rows *rows)
{
	struct channel_region_rows told;
	const struct region *region = refs->region;
	if (region == NULL || !region->names_rows || frame->header.length != sizeof(told)) {
		return "REGION_ROWS out of place or with a wrong length";
	}
	memcpy(&told, frame->payload, sizeof(told));
	uint64_t begin = channel_get64(told.range);
	if (range == NULL && begin < region->size) {
		range = region->at[begin / CHANNEL_REGION_STEP];
	}
	if (range == NULL || range->offset != begin) {
		return "REGION_ROWS of a range that is not in use";
	}
	*offset = channel_get64(told.offset);
	*rows = (struct channel_rows){
		.stride = told.stride,
		.row_bytes = told.row_bytes,
		.rows = told.rows,
	};
	if (told.stride < told.row_bytes || !rows_fit(range, *offset, rows)) {
		return "REGION_ROWS past the end of their range";
	}
	rows->base = range->mapping != NULL ? range->mapping->data + *offset : NULL;
	return NULL;
}

static bool lies_within(const struct region *region, uint64_t offset, uint64_t length)
{
	return length > 0 && offset % CHANNEL_REGION_STEP == 0 &&
		length % CHANNEL_REGION_STEP == 0 && offset <= region->size &&
		length <= region->size - offset;
}

static bool overlaps(const struct region *region, uint64_t offset, uint64_t length)
{
	size_t first = offset / CHANNEL_REGION_STEP, n = length / CHANNEL_REGION_STEP;
	for (size_t i = first; i < first + n; i++) {
		if (region->at[i] != NULL) {
			return true;
		}
	}
	return false;
}

/* One of the other side's. What the host shares is not the guest's to answer for. */
static struct region_range *map_range(
	struct fdrefs *refs, const struct channel_region_range *described, const char **wrong)
{
	struct region *region = refs->region;
	uint64_t offset = channel_get64(described->offset),
		 length = channel_get64(described->length);
	*wrong = NULL;
	if (!lies_within(region, offset, length)) {
		*wrong = "a range that is not in the region";
	} else if (is_host(refs) ? offset + length > region->hosts_from
				 : offset < region->hosts_from) {
		*wrong = "a range in the other part of the region";
	} else if (overlaps(region, offset, length)) {
		*wrong = "a range of the region that is in use";
	} else if (is_host(refs) && !charge(refs, region->used + length)) {
		*wrong = "more memory than the session may have";
	}
	if (*wrong != NULL) {
		return NULL;
	}
	struct region_range *range = create_range(refs, offset, length);
	if (range == NULL) {
		*wrong = "out of memory for a range of the region";
		if (is_host(refs)) {
			region_account(refs);
		}
	}
	return range;
}

struct region_range *region_map_for_dmabuf(struct fdrefs *refs, uint64_t size,
	const struct channel_region_range *described, const char **wrong)
{
	if (refs->region == NULL || !refs->region->names_rows) {
		*wrong = "OPEN of a dma-buf in a region that is not shared";
		return NULL;
	}
	if (channel_get64(described->length) < size) {
		*wrong = "OPEN of a dma-buf that is longer than its range";
		return NULL;
	}
	struct region_range *range = map_range(refs, described, wrong);
	if (range != NULL) {
		range->of_dmabuf = true;
	}
	return range;
}

struct region_range *region_map(
	struct fdrefs *refs, const struct channel_frame *frame, const char **wrong)
{
	struct channel_region_range described;
	if (refs->region == NULL || !is_host(refs)) {
		*wrong = "REGION_MAP where no region is shared";
		return NULL;
	}
	if (!decode(frame, &described)) {
		*wrong = "REGION_MAP with a wrong length";
		return NULL;
	}
	return map_range(refs, &described, wrong);
}

const char *region_handle_unmap(struct fdrefs *refs, const struct channel_frame *frame)
{
	struct channel_region_range described;
	if (refs->region == NULL || !decode(frame, &described)) {
		return "REGION_UNMAP out of place or with a wrong length";
	}
	struct region_range *range = NULL;
	uint64_t offset = channel_get64(described.offset), length = channel_get64(described.length);
	if (lies_within(refs->region, offset, length)) {
		range = find_range(refs->region, offset, length);
	}
	if (range == NULL || range->of_dmabuf || range->unmapped == is_host(refs)) {
		return "REGION_UNMAP of a range that is not in use";
	}
	if (!is_host(refs)) {
		destroy_range(range);
		return NULL;
	}
	range->unmapped = true;
	if (range->users == 0) {
		confirm_unmapped(range);
	}
	return NULL;
}
