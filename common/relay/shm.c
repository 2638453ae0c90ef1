#include "relay/shm.h"

#include <assert.h>
#include <stdlib.h>
#include <wayland-util.h>

#include "channel/channel.h"
#include "fdpass/fdref.h"
#include "fdpass/memory.h"
#include "relay/hooks.h"
#include "wire/socket.h"

#define WL_SHM_ERROR_INVALID_FD 2

#define FOURCC(a, b, c, d) \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* Formats with one plane and whole bytes per pixel (drm_fourcc.h), as wl_shm numbers them. */
static const struct {
	uint32_t format;
	uint32_t bytes_per_pixel;
} packed_formats[] = {
	{0, 4}, // argb8888
	{1, 4}, // xrgb8888
	{FOURCC('A', 'R', '2', '4'), 4},
	{FOURCC('X', 'R', '2', '4'), 4},
	{FOURCC('A', 'B', '2', '4'), 4},
	{FOURCC('X', 'B', '2', '4'), 4},
	{FOURCC('R', 'A', '2', '4'), 4},
	{FOURCC('R', 'X', '2', '4'), 4},
	{FOURCC('B', 'A', '2', '4'), 4},
	{FOURCC('B', 'X', '2', '4'), 4},
	{FOURCC('A', 'R', '3', '0'), 4},
	{FOURCC('X', 'R', '3', '0'), 4},
	{FOURCC('A', 'B', '3', '0'), 4},
	{FOURCC('X', 'B', '3', '0'), 4},
	{FOURCC('R', 'A', '3', '0'), 4},
	{FOURCC('R', 'X', '3', '0'), 4},
	{FOURCC('B', 'A', '3', '0'), 4},
	{FOURCC('B', 'X', '3', '0'), 4},
	{FOURCC('R', 'G', '2', '4'), 3},
	{FOURCC('B', 'G', '2', '4'), 3},
	{FOURCC('R', 'G', '1', '6'), 2},
	{FOURCC('B', 'G', '1', '6'), 2},
	{FOURCC('A', 'R', '1', '5'), 2},
	{FOURCC('X', 'R', '1', '5'), 2},
	{FOURCC('A', 'B', '1', '5'), 2},
	{FOURCC('X', 'B', '1', '5'), 2},
	{FOURCC('R', '8', ' ', ' '), 1},
	{FOURCC('C', '8', ' ', ' '), 1},
	{FOURCC('R', '1', '6', ' '), 2},
	{FOURCC('A', 'R', '4', 'H'), 8},
	{FOURCC('X', 'R', '4', 'H'), 8},
	{FOURCC('A', 'B', '4', 'H'), 8},
	{FOURCC('X', 'B', '4', 'H'), 8},
	{FOURCC('A', 'R', '4', '8'), 8},
	{FOURCC('X', 'R', '4', '8'), 8},
	{FOURCC('A', 'B', '4', '8'), 8},
	{FOURCC('X', 'B', '4', '8'), 8},
};

/* 0: several planes, or not known. */
static uint32_t format_bytes_per_pixel(uint32_t format)
{
	for (size_t i = 0; i < sizeof(packed_formats) / sizeof(packed_formats[0]); i++) {
		if (packed_formats[i].format == format) {
			return packed_formats[i].bytes_per_pixel;
		}
	}
	return 0;
}

/* ---- pools ---- */

static void pool_unref(struct pool *pool)
{
	assert(pool->refs > 0);
	if (--pool->refs == 0) {
		memory_release(pool->memory);
		free(pool);
	}
}

static void destroy_pool_object(struct object_state *state)
{
	pool_unref((struct pool *)state);
}

/* Uses up one use of memory, also on failure. */
static bool create_pool(struct wayland_call *call, struct memory *memory)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	if (pool == NULL) {
		memory_release(memory);
		return false;
	}
	pool->state.destroy = destroy_pool_object;
	pool->refs = 1;
	pool->memory = memory;
	wl_list_init(&pool->buffers);
	wayland_new_object(call, 0)->state = &pool->state;
	return true;
}

/* wl_shm.create_pool(id, fd, size) */
enum wayland_verdict shm_export_create_pool(struct wayland_call *call)
{
	struct fdlist *fds = wire_socket_fds(call->wayland->options.local);
	int32_t size = (int32_t)call->message.args[2].value;
	int fd = fdlist_take(fds);
	if (fd < 0) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"the fd of the message did not come with it");
	}
	const char *wrong;
	// A size that is not positive is for the compositor to reject.
	struct memory *memory = memory_export(
		call->wayland->options.refs, fd, size > 0 ? (uint64_t)size : 0, &wrong);
	if (memory == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, wrong);
	}
	call->refs[call->n_refs++] = memory->ref.id;
	if (!create_pool(call, memory)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	return WAYLAND_FORWARD;
}

enum wayland_verdict shm_import_create_pool(struct wayland_call *call)
{
	struct memory *memory = memory_get(call->wayland->options.refs, call->refs[0]);
	if (memory == NULL) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref that is not a pool");
	}
	if (!create_pool(call, memory_use(memory))) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	return WAYLAND_FORWARD;
}

/* wl_shm_pool.resize(size) */
enum wayland_verdict shm_export_resize(struct wayland_call *call)
{
	struct pool *pool = (struct pool *)call->object->state;
	int32_t size = (int32_t)call->message.args[0].value;
	if (pool == NULL || size <= 0 || (uint64_t)size <= pool->memory->wanted) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	if (!memory_resize(pool->memory, (uint64_t)size)) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "the larger pool cannot be mapped");
	}
	return WAYLAND_FORWARD;
}

/* ---- buffers ---- */

struct buffer *buffer_ref(struct buffer *buffer)
{
	if (buffer != NULL) {
		buffer->refs++;
	}
	return buffer;
}

void buffer_forget(struct buffer *buffer)
{
	buffer->surface = NULL;
	wl_list_remove(&buffer->surface_link);
	wl_list_init(&buffer->surface_link);
	buffer->stale_all = true;
	pixman_region32_clear(&buffer->stale);
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
	wl_list_remove(&buffer->pool_link);
	wl_list_remove(&buffer->surface_link);
	pixman_region32_fini(&buffer->stale);
	unchanged_finish(&buffer->unchanged);
	pool_unref(buffer->pool);
	free(buffer);
}

static void destroy_buffer_object(struct object_state *state)
{
	struct buffer *buffer = (struct buffer *)state;
	buffer->alive = false;
	buffer_unref(buffer);
}

/* wl_shm_pool.create_buffer(id, offset, width, height, stride, format) */
enum wayland_verdict shm_create_buffer(struct wayland_call *call)
{
	const struct wire_arg *args = call->message.args;
	struct pool *pool = (struct pool *)call->object->state;
	int32_t offset = (int32_t)args[1].value;
	int32_t width = (int32_t)args[2].value, height = (int32_t)args[3].value;
	int32_t stride = (int32_t)args[4].value;
	if (pool == NULL || offset < 0 || width <= 0 || height <= 0 || stride <= 0) {
		return WAYLAND_FORWARD; // for the compositor to reject; there is nothing to send
	}
	struct buffer *buffer = calloc(1, sizeof(*buffer));
	if (buffer == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	buffer->state.destroy = destroy_buffer_object;
	buffer->refs = 1;
	buffer->alive = true;
	buffer->pool = pool;
	pool->refs++;
	wl_list_insert(&pool->buffers, &buffer->pool_link);
	wl_list_init(&buffer->surface_link);
	buffer->offset = (uint64_t)offset;
	buffer->width = width;
	buffer->height = height;
	buffer->stride = stride;
	buffer->format = args[5].value;
	buffer->bytes_per_pixel = format_bytes_per_pixel(buffer->format);
	if ((uint64_t)width * buffer->bytes_per_pixel > (uint64_t)stride) {
		buffer->bytes_per_pixel = 0;
	}
	// Further planes follow the first one; three of its size is the most that a format has.
	buffer->length =
		(uint64_t)stride * (uint64_t)height * (buffer->bytes_per_pixel > 0 ? 1 : 3);
	buffer->stale_all = true;
	pixman_region32_init(&buffer->stale);
	wayland_new_object(call, 0)->state = &buffer->state;
	return WAYLAND_FORWARD;
}

bool buffer_push_all(struct buffer *buffer)
{
	unchanged_forget(&buffer->unchanged);
	if (buffer->bytes_per_pixel > 0) {
		return memory_push(buffer->pool->memory, buffer->offset, (size_t)buffer->stride,
			(size_t)buffer->width * buffer->bytes_per_pixel, (size_t)buffer->height);
	}
	return memory_push(buffer->pool->memory, buffer->offset, buffer->length, buffer->length, 1);
}

bool buffer_push_region(struct buffer *buffer, pixman_region32_t *region)
{
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	bool ok = true;
	for (int i = 0; ok && i < n; i++) {
		const pixman_box32_t *box = &boxes[i];
		uint64_t at = (uint64_t)box->y1 * (uint64_t)buffer->stride +
			(uint64_t)box->x1 * buffer->bytes_per_pixel;
		ok = memory_push(buffer->pool->memory, buffer->offset + at, (size_t)buffer->stride,
			(size_t)(box->x2 - box->x1) * buffer->bytes_per_pixel,
			(size_t)(box->y2 - box->y1));
	}
	return ok;
}

bool buffer_is_whole(const struct buffer *buffer)
{
	uint64_t size = buffer->pool->memory->size;
	return buffer->offset <= size && buffer->length <= size - buffer->offset;
}

bool buffer_push_twin(struct buffer *buffer, struct buffer *twin, pixman_region32_t *region)
{
	unchanged_forget_region(buffer, region);
	if (!buffer_is_whole(buffer) || !buffer_is_whole(twin)) {
		return buffer_push_region(buffer, region); // truncated by its owner
	}
	struct channel_rect rects[CHANNEL_MAX_RECTS];
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	if (n > (int)CHANNEL_MAX_RECTS) {
		boxes = pixman_region32_extents(region);
		n = 1;
		unchanged_forget(&buffer->unchanged);
	}
	for (int i = 0; i < n; i++) {
		rects[i] = (struct channel_rect){
			.x = (uint32_t)boxes[i].x1 * buffer->bytes_per_pixel,
			.y = (uint32_t)boxes[i].y1,
			.width = (uint32_t)(boxes[i].x2 - boxes[i].x1) * buffer->bytes_per_pixel,
			.height = (uint32_t)(boxes[i].y2 - boxes[i].y1),
		};
	}
	struct channel_mem_copy copy = {
		.source = twin->pool->memory->ref.id,
		.stride = (uint32_t)buffer->stride,
		.n_rects = (uint32_t)n,
	};
	channel_put64(copy.source_offset, twin->offset);
	channel_put64(copy.destination_offset, buffer->offset);
	struct memory *memory = buffer->pool->memory;
	return n == 0 ||
		channel_push(memory->ref.refs->channel, CHANNEL_MEM_COPY, memory->ref.id, 0, &copy,
			sizeof(copy), rects, (size_t)n * sizeof(rects[0]));
}

bool buffer_same_layout(const struct buffer *a, const struct buffer *b)
{
	return a->width == b->width && a->height == b->height && a->stride == b->stride &&
		a->format == b->format && a->bytes_per_pixel > 0;
}

bool buffer_overlaps(const struct buffer *a, const struct buffer *b)
{
	return a->pool == b->pool && a->offset < b->offset + b->length &&
		b->offset < a->offset + a->length;
}

bool buffer_check_pool(struct buffer *buffer)
{
	struct memory *memory = buffer->pool->memory;
	uint64_t size = memory->size;
	bool ok = memory_check(memory);
	if (memory->size == size) {
		return ok;
	}
	struct buffer *other;
	wl_list_for_each (other, &buffer->pool->buffers, pool_link) {
		other->stale_all = true;
		unchanged_forget(&other->unchanged);
	}
	return ok;
}

void buffer_spoil_overlapping(struct buffer *buffer)
{
	struct buffer *other;
	wl_list_for_each (other, &buffer->pool->buffers, pool_link) {
		if (other != buffer && buffer_overlaps(buffer, other)) {
			other->stale_all = true;
			unchanged_forget(&other->unchanged);
		}
	}
}

/* What is told of the buffers that a message names without our knowing what for. */
enum wayland_verdict shm_export_buffer_args(struct wayland_call *call)
{
	const struct wire_op *op = call->message.op;
	for (size_t i = 0; i < op->n_args; i++) {
		if (op->args[i].type != WIRE_ARG_OBJECT) {
			continue;
		}
		struct buffer *buffer = (struct buffer *)wayland_arg_state(call, i, "wl_buffer");
		if (buffer == NULL) {
			continue;
		}
		wayland_flush_exports(call->wayland);
		if (!buffer_check_pool(buffer) || !buffer_push_all(buffer)) {
			return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
		}
		buffer_spoil_overlapping(buffer);
	}
	return WAYLAND_FORWARD;
}
