#include "relay/buffer.h"

#include <assert.h>
#include <stdlib.h>

#include "base/budget.h"
#include "base/mapping.h"
#include "channel/channel.h"
#include "fdpass/fdref.h"
#include "fdpass/memory.h"
#include "fdpass/region.h"

/* ---- pools ---- */

struct pool *pool_create(struct memory *memory)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	if (pool == NULL) {
		memory_release(memory);
		return NULL;
	}
	pool->refs = 1;
	pool->memory = memory;
	wl_list_init(&pool->planes);
	wl_list_init(&pool->link);
	return pool;
}

bool pool_charge(struct pool *pool, struct budget *budget, uint64_t size)
{
	bool first = pool->budget == NULL;
	if (first && !budget_charge(budget, BUDGET_POOLS, 1)) {
		return false;
	}
	pool->budget = budget;
	if (size <= pool->charged) {
		return true;
	}
	if (!budget_charge(budget, BUDGET_MAPPED, size - pool->charged)) {
		return false;
	}
	pool->charged = size;
	return true;
}

static void discharge(struct pool *pool)
{
	if (pool->budget != NULL) {
		budget_release(pool->budget, BUDGET_MAPPED, pool->charged);
		budget_release(pool->budget, BUDGET_POOLS, 1);
	}
}

struct pool *pool_ref(struct pool *pool)
{
	pool->refs++;
	return pool;
}

void pool_unref(struct pool *pool)
{
	if (pool == NULL) {
		return;
	}
	assert(pool->refs > 0);
	if (--pool->refs == 0) {
		wl_list_remove(&pool->link);
		discharge(pool);
		memory_release(pool->memory);
		free(pool);
	}
}

/* ---- buffers ---- */

void buffer_shown_init(struct buffer_shown *shown)
{
	*shown = (struct buffer_shown){0};
	wl_list_init(&shown->link);
}

static void lose_shown(struct buffer_shown *shown)
{
	wl_list_remove(&shown->link);
	wl_list_init(&shown->link);
	shown->buffer = NULL;
}

void buffer_shown_set(struct buffer_shown *shown, struct buffer *buffer)
{
	lose_shown(shown);
	for (size_t i = 0; i < FORMAT_MAX_PLANES; i++) {
		region_range_release(shown->ranges[i]);
		shown->ranges[i] = NULL;
	}
	for (size_t i = 0; buffer != NULL && i < buffer->n_planes; i++) {
		shown->ranges[i] = region_range_use(buffer->planes[i].range);
	}
	if (buffer != NULL && buffer->alive) {
		shown->buffer = buffer;
		wl_list_insert(&buffer->showing, &shown->link);
	}
}

static void destroy_buffer_object(struct object_state *state)
{
	struct buffer *buffer = (struct buffer *)state;
	struct buffer_shown *shown, *next;
	buffer->alive = false;
	wl_list_for_each_safe (shown, next, &buffer->showing, link) {
		lose_shown(shown);
	}
	for (size_t i = 0; i < buffer->n_planes; i++) {
		region_keep(buffer->planes[i].range, buffer->id);
	}
	buffer_unref(buffer);
}

struct buffer *buffer_create(int32_t width, int32_t height, uint32_t format)
{
	struct buffer *buffer = calloc(1, sizeof(*buffer));
	if (buffer == NULL) {
		return NULL;
	}
	buffer->state.destroy = destroy_buffer_object;
	buffer->refs = 1;
	buffer->alive = true;
	buffer->width = width;
	buffer->height = height;
	buffer->format = format;
	buffer->stale_all = true;
	wl_list_init(&buffer->showing);
	wl_list_init(&buffer->surface_link);
	pixman_region32_init(&buffer->stale);
	return buffer;
}

void buffer_add_plane(struct buffer *buffer, struct pool *pool, const struct format_plane *sample,
	uint64_t offset, uint32_t stride, uint64_t length)
{
	assert(buffer->n_planes < FORMAT_MAX_PLANES);
	struct buffer_plane *plane = &buffer->planes[buffer->n_planes++];
	*plane = (struct buffer_plane){
		.buffer = buffer,
		.pool = pool_ref(pool),
		.sample = *sample,
		.offset = offset,
		.length = length,
		.stride = stride,
		.range = pool->is_dmabuf ? NULL : region_range_use(pool->memory->range),
	};
	wl_list_insert(&pool->planes, &plane->pool_link);
}

struct buffer *buffer_ref(struct buffer *buffer)
{
	if (buffer != NULL) {
		buffer->refs++;
	}
	return buffer;
}

void buffer_unref(struct buffer *buffer)
{
	if (buffer == NULL) {
		return;
	}
	assert(buffer->refs > 0);
	if (--buffer->refs > 0) {
		return;
	}
	for (size_t i = 0; i < buffer->n_planes; i++) {
		wl_list_remove(&buffer->planes[i].pool_link);
		region_range_release(buffer->planes[i].range);
		pool_unref(buffer->planes[i].pool);
	}
	charge_unref(buffer->fds);
	wl_list_remove(&buffer->surface_link);
	pixman_region32_fini(&buffer->stale);
	unchanged_finish(&buffer->unchanged);
	free(buffer);
}

void buffer_hold(struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		if (buffer->planes[i].range != NULL) {
			buffer->planes[i].range->held = true;
		}
	}
}

void buffer_forget(struct buffer *buffer)
{
	buffer->surface = NULL;
	wl_list_remove(&buffer->surface_link);
	wl_list_init(&buffer->surface_link);
	buffer->stale_all = true;
	pixman_region32_clear(&buffer->stale);
}

bool buffer_has_rows(const struct buffer *buffer)
{
	return buffer->planes[0].sample.bytes > 0; // all planes alike
}

bool buffer_is_dmabuf(const struct buffer *buffer)
{
	return buffer->planes[0].pool->is_dmabuf;
}

bool buffer_must_wait(const struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		if (memory_must_wait(buffer->planes[i].pool->memory)) {
			return true;
		}
	}
	return false;
}

bool buffer_can_come_back(const struct buffer *buffer)
{
	for (size_t i = 0; buffer_is_dmabuf(buffer) && i < buffer->n_planes; i++) {
		const struct memory *memory = buffer->planes[i].pool->memory;
		bool writable = memory->mapping != NULL && memory->mapping->writable;
		if (!memory->shared && !writable) {
			return false;
		}
	}
	return true;
}

bool buffer_is_in_use(const struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		if (memory_is_in_use(buffer->planes[i].pool->memory)) {
			return true;
		}
	}
	return false;
}

bool buffer_is_whole(const struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		const struct buffer_plane *plane = &buffer->planes[i];
		uint64_t size = plane->pool->memory->size;
		if (plane->offset > size || plane->length > size - plane->offset) {
			return false;
		}
	}
	return true;
}

bool buffer_same_layout(const struct buffer *a, const struct buffer *b)
{
	bool same = a->width == b->width && a->height == b->height && a->format == b->format &&
		a->n_planes == b->n_planes && buffer_has_rows(a) && buffer_has_rows(b) &&
		buffer_is_dmabuf(a) == buffer_is_dmabuf(b);
	for (size_t i = 0; same && i < a->n_planes; i++) {
		same = a->planes[i].stride == b->planes[i].stride;
	}
	return same;
}

static bool planes_overlap(const struct buffer_plane *a, const struct buffer_plane *b)
{
	return a->pool == b->pool && a->offset < b->offset + b->length &&
		b->offset < a->offset + a->length;
}

bool buffer_overlaps(const struct buffer *a, const struct buffer *b)
{
	for (size_t i = 0; i < a->n_planes; i++) {
		for (size_t j = 0; j < b->n_planes; j++) {
			if (planes_overlap(&a->planes[i], &b->planes[j])) {
				return true;
			}
		}
	}
	return false;
}

static void spoil(struct buffer *buffer)
{
	buffer->stale_all = true;
	unchanged_forget(&buffer->unchanged);
}

static bool check_pool(struct pool *pool)
{
	uint64_t size = pool->memory->size;
	bool ok = memory_check(pool->memory);
	if (pool->memory->size == size) {
		return ok;
	}
	struct buffer_plane *plane;
	wl_list_for_each (plane, &pool->planes, pool_link) {
		spoil(plane->buffer);
	}
	return ok;
}

bool buffer_check_pools(struct buffer *buffer)
{
	bool ok = true;
	for (size_t i = 0; ok && i < buffer->n_planes; i++) {
		ok = check_pool(buffer->planes[i].pool);
	}
	return ok;
}

void buffer_spoil_overlapping(struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		struct buffer_plane *plane = &buffer->planes[i], *other;
		wl_list_for_each (other, &plane->pool->planes, pool_link) {
			if (other->buffer != buffer && planes_overlap(plane, other)) {
				spoil(other->buffer);
			}
		}
	}
}

/* ---- sending ---- */

static bool push_plane(const struct buffer *buffer, const struct buffer_plane *plane)
{
	if (plane->sample.bytes == 0) {
		return memory_push(plane->pool->memory, plane->range, plane->offset, plane->length,
			plane->length, 1);
	}
	return memory_push(plane->pool->memory, plane->range, plane->offset, plane->stride,
		format_row_bytes(&plane->sample, buffer->width),
		format_rows(&plane->sample, buffer->height));
}

bool buffer_push_all(struct buffer *buffer)
{
	bool ok = true;
	unchanged_forget(&buffer->unchanged);
	for (size_t i = 0; ok && i < buffer->n_planes; i++) {
		ok = push_plane(buffer, &buffer->planes[i]);
	}
	return ok;
}

static bool push_box(const struct buffer_plane *plane, const pixman_box32_t *box)
{
	struct format_span span = format_span(&plane->sample, box);
	return memory_push(plane->pool->memory, plane->range,
		plane->offset + (uint64_t)span.y * plane->stride + span.x, plane->stride,
		span.width, span.height);
}

bool buffer_push_region(struct buffer *buffer, pixman_region32_t *region)
{
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	bool ok = true;
	for (size_t i = 0; i < buffer->n_planes; i++) {
		for (int box = 0; ok && box < n; box++) {
			ok = push_box(&buffer->planes[i], &boxes[box]);
		}
	}
	return ok;
}

static bool push_plane_twin(const struct buffer_plane *plane, const struct buffer_plane *twin,
	const pixman_box32_t *boxes, int n)
{
	struct channel_rect rects[CHANNEL_MAX_RECTS];
	for (int i = 0; i < n; i++) {
		struct format_span span = format_span(&plane->sample, &boxes[i]);
		rects[i] = (struct channel_rect){
			.x = (uint32_t)span.x, // no further than the stride
			.y = span.y,
			.width = (uint32_t)span.width,
			.height = span.height,
		};
	}
	struct channel_mem_copy copy = {
		.source = twin->pool->memory->ref.id,
		.stride = plane->stride,
		.n_rects = (uint32_t)n,
	};
	channel_put64(copy.source_offset, twin->offset);
	channel_put64(copy.destination_offset, plane->offset);
	const struct fdref *ref = &plane->pool->memory->ref;
	return channel_push(ref->refs->channel, CHANNEL_MEM_COPY, ref->id, 0, &copy, sizeof(copy),
		rects, (size_t)n * sizeof(rects[0]));
}

static bool is_in_region(const struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		const struct buffer_plane *plane = &buffer->planes[i];
		if (plane->range != NULL || plane->pool->memory->range != NULL) {
			return true;
		}
	}
	return false;
}

static bool has_shared(const struct buffer *buffer)
{
	for (size_t i = 0; i < buffer->n_planes; i++) {
		if (buffer->planes[i].pool->memory->shared) {
			return true;
		}
	}
	return false;
}

bool buffer_push_twin(struct buffer *buffer, struct buffer *twin, pixman_region32_t *region)
{
	unchanged_forget_region(buffer, region);
	if (!buffer_is_whole(buffer) || !buffer_is_whole(twin)) {
		return buffer_push_region(buffer, region); // truncated by its owner
	}
	if (has_shared(buffer) || has_shared(twin)) {
		return buffer_push_region(buffer, region); // the other side maps none of them
	}
	if (is_in_region(buffer) || is_in_region(twin)) {
		// One copy as well; and what the other side copied later could be something else by then.
		return buffer_push_region(buffer, region);
	}
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	if (n > (int)CHANNEL_MAX_RECTS) {
		boxes = pixman_region32_extents(region);
		n = 1;
		unchanged_forget(&buffer->unchanged);
	}
	bool ok = true;
	for (size_t i = 0; ok && n > 0 && i < buffer->n_planes; i++) {
		ok = push_plane_twin(&buffer->planes[i], &twin->planes[i], boxes, n);
	}
	return ok;
}
