#include <drm_fourcc.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#include "fdpass/fdref.h"
#include "fdpass/memory.h"
#include "fdpass/pages.h"
#include "fdpass/region.h"
#include "relay/buffer.h"
#include "relay/hooks.h"

// Opcodes, of wl_shm and wl_shm_pool.
#define REQUEST_CREATE_POOL 0
#define REQUEST_DESTROY     1

/* wl_shm has numbers of its own for two of drm_fourcc.h's formats. */
static uint32_t fourcc_of(uint32_t format)
{
	switch (format) {
	case 0:
		return DRM_FORMAT_ARGB8888;
	case 1:
		return DRM_FORMAT_XRGB8888;
	default:
		return format;
	}
}

/* ---- pools ---- */

static void destroy_pool_object(struct object_state *state)
{
	pool_unref((struct pool *)state);
}

/* Uses up one use of memory, also on failure. */
static struct pool *create_pool(struct wayland_call *call, struct memory *memory)
{
	struct pool *pool = pool_create(memory);
	if (pool != NULL) {
		pool->state.destroy = destroy_pool_object;
		wayland_new_object(call, 0)->state = &pool->state;
	}
	return pool;
}

/* However many pools there are of one memory, the compositor maps each of them, as it is told now. */
static enum wayland_verdict charge_mapping(
	struct wayland_call *call, struct pool *pool, size_t size_arg)
{
	int32_t size = (int32_t)*call->message.args[size_arg].word;
	struct budget *budget = call->wayland->options.refs->budget;
	return pool_charge(pool, budget, size > 0 ? (uint64_t)size : 0)
		? WAYLAND_FORWARD
		: wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			  "more pools than the session may have mapped");
}

/* wl_shm.create_pool(id, fd, size) */
enum wayland_verdict shm_export_create_pool(struct wayland_call *call)
{
	int32_t size = (int32_t)call->message.args[2].value;
	int fd = wayland_take_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	const char *wrong;
	// A size that is not positive is for the compositor to reject.
	struct memory *memory = memory_export(
		call->wayland->options.refs, fd, size > 0 ? (uint64_t)size : 0, &wrong);
	if (memory == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, wrong);
	}
	call->refs[call->n_refs++] = memory->ref.id;
	struct pool *pool = create_pool(call, memory);
	if (pool == NULL) {
		return wayland_fail_no_memory(call);
	}
	pool->shm = call->message.header.object;
	return WAYLAND_FORWARD;
}

/*
 * The compositor maps the region up to the end of the pool's range. Where the pool was before it was
 * moved, buffers may be left.
 */
static void set_size(struct wayland_call *call, size_t arg, struct pool *pool)
{
	const struct region_range *range = pool->memory->range;
	uint64_t end = range->offset + range->length;
	pool->memory->wanted = call->message.args[arg].value;
	pool->mapped = end > pool->mapped ? end : pool->mapped;
	*call->message.args[arg].word = (uint32_t)pool->mapped;
}

enum wayland_verdict shm_import_create_pool(struct wayland_call *call)
{
	struct memory *memory = memory_get(call->wayland->options.refs, call->refs[0]);
	if (memory == NULL) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref that is not a pool");
	}
	struct pool *pool = create_pool(call, memory_use(memory));
	if (pool == NULL) {
		return wayland_fail_no_memory(call);
	}
	int32_t size = (int32_t)call->message.args[2].value;
	if (memory->range != NULL && size > 0) {
		// A size that is not positive is for the compositor to reject.
		set_size(call, 2, pool);
	}
	return charge_mapping(call, pool, 2);
}

static bool is_shm(const struct object *object)
{
	return object != NULL && !object->destroyed && object->interface != NULL &&
		strcmp(object->interface->name, "wl_shm") == 0;
}

/* wl_shm_pool.destroy(), wl_shm.create_pool(id, fd, size) */
static bool encode_replacement(struct wl_array *out, uint32_t shm, uint32_t id, uint32_t size)
{
	if (!wire_encode_begin(out, id, REQUEST_DESTROY) || !wire_encode_end(out, 0)) {
		return false;
	}
	size_t start = out->size;
	return wire_encode_begin(out, shm, REQUEST_CREATE_POOL) && wire_encode_uint(out, id) &&
		wire_encode_uint(out, size) && wire_encode_end(out, start);
}

/* Another pool of the same file gets the id; the buffers of this one stay what they are. */
static enum wayland_verdict replace_with(
	struct wayland_call *call, struct memory *memory, uint32_t size)
{
	struct pool *former = (struct pool *)call->object->state;
	struct pool *pool = pool_create(memory);
	if (pool == NULL ||
		!encode_replacement(
			call->replacement, former->shm, call->message.header.object, size)) {
		pool_unref(pool);
		return wayland_fail_no_memory(call);
	}
	pool->state.destroy = destroy_pool_object;
	pool->shm = former->shm;
	call->object->state = &pool->state;
	call->object->former++;
	call->refs[call->n_refs++] = memory->ref.id;
	pool_unref(former);
	return WAYLAND_REPLACE;
}

/* A pool that both sides share: the compositor's fd is of those pages and no others. */
static enum wayland_verdict replace_pool(struct wayland_call *call, uint32_t size,
	struct memory *(*export)(struct fdrefs *, int, uint64_t, const char **))
{
	struct pool *pool = (struct pool *)call->object->state;
	if (!is_shm(objects_get(&call->wayland->objects, pool->shm))) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"a pool that both sides share cannot change without its wl_shm");
	}
	const char *wrong = "out of fds";
	int fd = fcntl(pool->memory->fd, F_DUPFD_CLOEXEC, 0);
	wayland_flush_exports(call->wayland); // what names the pool's fdref comes before its CLOSE
	struct memory *memory =
		fd < 0 ? NULL : export(call->wayland->options.refs, fd, size, &wrong);
	if (memory == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, wrong);
	}
	return replace_with(call, memory, size);
}

/* wl_shm_pool.resize(size) */
enum wayland_verdict shm_export_resize(struct wayland_call *call)
{
	struct pool *pool = (struct pool *)call->object->state;
	int32_t size = (int32_t)call->message.args[0].value;
	if (pool == NULL || size <= 0 || (uint64_t)size <= pool->memory->wanted) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	if (pool->memory->shared) {
		return replace_pool(call, (uint32_t)size, memory_export);
	}
	if (pool->memory->range != NULL) {
		wayland_flush_exports(call->wayland); // what was made of the pool stays where it is
	}
	if (!memory_resize(pool->memory, (uint64_t)size)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"the larger pool cannot be mapped, or the region has no room for it");
	}
	return WAYLAND_FORWARD;
}

enum wayland_verdict shm_import_resize(struct wayland_call *call)
{
	struct pool *pool = (struct pool *)call->object->state;
	int32_t size = (int32_t)call->message.args[0].value;
	if (pool == NULL || size <= 0) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	if (pool->memory->range != NULL && (uint64_t)size >= pool->memory->wanted) {
		set_size(call, 0, pool);
	}
	return charge_mapping(call, pool, 0);
}

/* ---- buffers ---- */

/* Further planes follow the first one; three of its size is the most that a format has. */
static void add_plane(struct buffer *buffer, struct pool *pool, uint64_t offset, uint32_t stride)
{
	static const struct format_plane unknown;
	const struct format *format = format_find(fourcc_of(buffer->format));
	uint64_t length = (uint64_t)stride * (uint64_t)buffer->height;
	if (format == NULL || format->n_planes > 1 ||
		format_row_bytes(&format->planes[0], buffer->width) > stride) {
		buffer_add_plane(buffer, pool, &unknown, offset, stride, 3 * length);
	} else {
		buffer_add_plane(buffer, pool, &format->planes[0], offset, stride, length);
	}
}

/* wl_shm_pool.create_buffer(id, offset, width, height, stride, format) */
static enum wayland_verdict create_buffer(struct wayland_call *call)
{
	const struct wire_arg *args = call->message.args;
	struct pool *pool = (struct pool *)call->object->state;
	int32_t offset = (int32_t)args[1].value;
	int32_t width = (int32_t)args[2].value, height = (int32_t)args[3].value;
	int32_t stride = (int32_t)args[4].value;
	if (pool == NULL || offset < 0 || width <= 0 || height <= 0 || stride <= 0) {
		return WAYLAND_FORWARD; // for the compositor to reject; there is nothing to send
	}
	struct buffer *buffer = buffer_create(width, height, args[5].value);
	if (buffer == NULL) {
		return wayland_fail_no_memory(call);
	}
	buffer->id = args[0].value;
	add_plane(buffer, pool, (uint64_t)offset, (uint32_t)stride);
	wayland_new_object(call, 0)->state = &buffer->state;
	return WAYLAND_FORWARD;
}

/* The same, where the file has other pages than the compositor: there the pool is another one first. */
enum wayland_verdict shm_export_create_buffer(struct wayland_call *call)
{
	const struct wire_message *message = &call->message;
	struct pool *pool = (struct pool *)call->object->state;
	if (pool == NULL || !pool->memory->shared || !pages_are_exchanged(pool->memory)) {
		return create_buffer(call);
	}
	uint32_t size = (uint32_t)pool->memory->wanted;
	if (replace_pool(call, size, memory_export_changing) == WAYLAND_FAIL ||
		create_buffer(call) == WAYLAND_FAIL) {
		return WAYLAND_FAIL;
	}
	void *data = wl_array_add(call->replacement, message->header.size);
	if (data == NULL) {
		return wayland_fail_no_memory(call);
	}
	memcpy(data, message->data, message->header.size);
	return WAYLAND_REPLACE;
}

/* Where length bytes of the pool are in the region; INT32_MAX if they leave the pool or its range. */
static uint32_t place_in_region(const struct memory *memory, uint64_t offset, int64_t length)
{
	const struct region_range *range = memory->range;
	uint64_t size = memory->wanted < range->length ? memory->wanted : range->length;
	bool fits = length + (int64_t)offset <= (int64_t)size;
	return fits ? (uint32_t)(range->offset + offset) : INT32_MAX;
}

/* The same, where the pool is in the region: there the buffer begins somewhere else. */
enum wayland_verdict shm_import_create_buffer(struct wayland_call *call)
{
	const struct wire_arg *args = call->message.args;
	struct pool *pool = (struct pool *)call->object->state;
	int32_t offset = (int32_t)args[1].value;
	if (pool != NULL && pool->memory->range != NULL && offset >= 0) {
		int64_t length = (int64_t)(int32_t)args[4].value * (int32_t)args[3].value;
		// What leaves its pool is for the compositor to reject, also where the region goes on.
		*args[1].word = place_in_region(pool->memory, (uint64_t)offset, length);
	}
	return create_buffer(call);
}

/* The buffer that is argument i; NULL. */
static struct buffer *buffer_arg(struct wayland_call *call, size_t i)
{
	bool is_object = call->message.op->args[i].type == WIRE_ARG_OBJECT;
	return is_object ? (struct buffer *)wayland_arg_state(call, i, "wl_buffer") : NULL;
}

static bool must_wait(struct wayland_call *call)
{
	bool wait = false;
	for (size_t i = 0; !wait && i < call->message.op->n_args; i++) {
		struct buffer *buffer = buffer_arg(call, i);
		wait = buffer != NULL && buffer_must_wait(buffer);
	}
	return wait;
}

/* What is told of the buffers that a message names without our knowing what for. */
enum wayland_verdict shm_export_buffer_args(struct wayland_call *call)
{
	const struct wire_op *op = call->message.op;
	if (must_wait(call)) {
		return WAYLAND_WAIT;
	}
	for (size_t i = 0; i < op->n_args; i++) {
		struct buffer *buffer = buffer_arg(call, i);
		if (buffer == NULL) {
			continue;
		}
		wayland_flush_exports(call->wayland);
		if (!buffer_check_pools(buffer) || !buffer_push_all(buffer)) {
			return wayland_fail_no_memory(call);
		}
		buffer_spoil_overlapping(buffer);
		buffer_hold(buffer);
	}
	return WAYLAND_FORWARD;
}
