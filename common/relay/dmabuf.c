#include "relay/dmabuf.h"

#include <drm_fourcc.h>
#include <stdlib.h>

#include "base/log.h"
#include "fdpass/dmabuf.h"
#include "fdpass/fdref.h"
#include "relay/buffer.h"
#include "relay/format.h"
#include "relay/hooks.h"
#include "relay/params.h"

// zwp_linux_buffer_params_v1
#define EVENT_FAILED 1

/*
 * Buffers that clients make of dma-bufs. All fds of one dma-buf are one memory, and one pool:
 * its buffers may overlap. What a buffer is made of is known when it is created; a compositor
 * that is asked to answer then (create) makes the object itself, with "created".
 */
struct buffer_params {
	struct object_state state;
	struct params params;
	struct pool *pools[PARAMS_MAX_PLANES]; // NULL: not set, or not usable
	struct charge *fds[PARAMS_MAX_PLANES]; // the host's: that its compositor keeps; else NULL
	struct buffer *buffer;                 // that "created" is to give; NULL: none
};

static void destroy_params(struct object_state *state)
{
	struct buffer_params *self = (struct buffer_params *)state;
	for (size_t i = 0; i < PARAMS_MAX_PLANES; i++) {
		pool_unref(self->pools[i]);
		charge_unref(self->fds[i]);
	}
	buffer_unref(self->buffer);
	free(self);
}

/* zwp_linux_dmabuf_v1.create_params(params_id) */
enum wayland_verdict dmabuf_create_params(struct wayland_call *call)
{
	struct buffer_params *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		return wayland_fail_no_memory(call);
	}
	self->state.destroy = destroy_params;
	self->params.version = call->object->version;
	self->params.implicit =
		dmabuf_offers(call->wayland, DRM_FORMAT_XRGB8888, DRM_FORMAT_MOD_INVALID);
	wayland_new_object(call, 0)->state = &self->state;
	return WAYLAND_FORWARD;
}

/* ---- planes ---- */

struct pool *dmabuf_get_pool(struct wayland *wayland, struct memory *memory)
{
	struct pool *pool;
	wl_list_for_each (pool, &wayland->dmabufs, link) {
		if (pool->memory == memory) {
			memory_release(memory);
			return pool_ref(pool);
		}
	}
	pool = pool_create(memory);
	if (pool != NULL) {
		pool->is_dmabuf = true;
		wl_list_insert(&wayland->dmabufs, &pool->link);
	}
	return pool;
}

/* memory is NULL for what is no dma-buf; one use of it is used up. False: ENOMEM. */
static bool set_plane(struct wayland_call *call, struct memory *memory)
{
	struct buffer_params *self = (struct buffer_params *)call->object->state;
	const struct wire_arg *args = call->message.args;
	uint32_t index = args[1].value;
	self->params.planes[index] = (struct params_plane){
		.set = true,
		.usable = memory != NULL,
		.size = memory != NULL ? memory->size : 0,
		.offset = args[2].value,
		.stride = args[3].value,
		.modifier = (uint64_t)args[4].value << 32 | args[5].value,
	};
	if (memory != NULL) {
		self->pools[index] = dmabuf_get_pool(call->wayland, memory);
	}
	return memory == NULL || self->pools[index] != NULL;
}

static bool may_add(struct wayland_call *call)
{
	const struct buffer_params *self = (struct buffer_params *)call->object->state;
	struct params_fault fault;
	if (params_check_add(&self->params, call->message.args[1].value, &fault) != PARAMS_GOOD) {
		wayland_fail_object(call, fault.error, fault.text);
		return false;
	}
	return true;
}

enum wayland_verdict dmabuf_export_fd(
	struct wayland_call *call, struct memory **memory, const char **wrong)
{
	struct fdrefs *refs = call->wayland->options.refs;
	int fd = wayland_peek_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	if (dmabuf_must_wait_to_open(refs, fd)) {
		return WAYLAND_WAIT;
	}
	*memory = dmabuf_export(refs, wayland_take_fd(call), wrong);
	if (*memory != NULL) {
		call->refs[call->n_refs++] = (*memory)->ref.id;
	}
	return WAYLAND_FORWARD;
}

/* zwp_linux_buffer_params_v1.add(fd, plane_idx, offset, stride, modifier_hi, modifier_lo) */
enum wayland_verdict dmabuf_export_add(struct wayland_call *call)
{
	if (!may_add(call)) {
		return WAYLAND_FAIL;
	}
	struct memory *memory;
	const char *wrong;
	enum wayland_verdict verdict = dmabuf_export_fd(call, &memory, &wrong);
	if (verdict != WAYLAND_FORWARD) {
		return verdict;
	}
	if (memory == NULL) {
		// The client hears of it when it makes the buffer.
		log_limited(LOG_INFO, "a plane that cannot cross: %s", wrong);
		return set_plane(call, NULL) ? WAYLAND_DROP : WAYLAND_FAIL;
	}
	if (!set_plane(call, memory)) {
		return wayland_fail_no_memory(call);
	}
	return WAYLAND_FORWARD;
}

enum wayland_verdict dmabuf_import_add(struct wayland_call *call)
{
	struct memory *memory = dmabuf_get(call->wayland->options.refs, call->refs[0]);
	if (memory == NULL) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref that is not a dma-buf");
	}
	if (!may_add(call)) {
		return WAYLAND_FAIL;
	}
	if (memory->fd < 0) { // it could not be made here
		call->n_refs = 0;
		set_plane(call, NULL);
		return WAYLAND_DROP;
	}
	struct buffer_params *self = (struct buffer_params *)call->object->state;
	struct charge *fd = charge_create_of(memory->ref.refs->budget, BUDGET_PLANES, 1);
	self->fds[call->message.args[1].value] = fd;
	if (fd == NULL || !set_plane(call, memory_use(memory))) {
		return wayland_fail_no_memory(call);
	}
	return WAYLAND_FORWARD;
}

/* ---- buffers ---- */

/* A compositor may keep an fd for each plane of each buffer, also where they are of one dma-buf. */
static bool charge_fds(struct buffer *buffer, size_t n)
{
	const struct fdrefs *refs = buffer->planes[0].pool->memory->ref.refs;
	if (refs->own_bit == CHANNEL_ID_HOST) {
		buffer->fds = charge_create_of(refs->budget, BUDGET_PLANES, n);
	}
	return buffer->fds != NULL || refs->own_bit != CHANNEL_ID_HOST;
}

struct buffer *dmabuf_make_buffer(const struct params *params, const struct params_picture *picture,
	struct pool *const pools[])
{
	static const struct format_plane unknown;
	const struct format *format = format_find(picture->format);
	struct buffer *buffer = buffer_create(picture->width, picture->height, picture->format);
	if (buffer == NULL) {
		return NULL;
	}
	for (size_t i = 0; i < format->n_planes; i++) {
		const struct params_plane *plane = &params->planes[i];
		const struct format_plane *sample = &format->planes[i];
		uint64_t rows = format_rows(sample, picture->height);
		// Where damage is in a picture that stands on its head, depends on the compositor.
		bool upright = (picture->flags & PARAMS_Y_INVERT) == 0;
		buffer_add_plane(buffer, pools[i], upright ? sample : &unknown, plane->offset,
			plane->stride, plane->stride * rows);
	}
	if (!charge_fds(buffer, format->n_planes)) {
		buffer_unref(buffer);
		return NULL;
	}
	return buffer;
}

/* first is the number of the argument that width is. */
static struct params_picture picture_of(const struct wayland_call *call, size_t first)
{
	const struct wire_arg *args = call->message.args + first;
	return (struct params_picture){
		.width = (int32_t)args[0].value,
		.height = (int32_t)args[1].value,
		.format = args[2].value,
		.flags = args[3].value,
	};
}

static enum params_result use_params(struct buffer_params *self,
	const struct params_picture *picture, struct params_fault *fault)
{
	enum params_result result = params_check_picture(&self->params, picture, fault);
	self->params.used = true;
	return result;
}

/* The request is answered here, and goes no further. */
static enum wayland_verdict tell_failed(struct wayland_call *call, const char *why)
{
	struct wl_array event;
	wl_array_init(&event);
	log_limited(LOG_INFO, "a buffer that cannot be made: %s", why);
	bool ok = wire_encode_begin(&event, call->message.header.object, EVENT_FAILED) &&
		wire_encode_end(&event, 0) && wayland_send_event(call->wayland, &event);
	wl_array_release(&event);
	return ok ? WAYLAND_DROP
		  : wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "it cannot be answered");
}

/* zwp_linux_buffer_params_v1.create(width, height, format, flags) */
enum wayland_verdict dmabuf_create(struct wayland_call *call)
{
	struct buffer_params *self = (struct buffer_params *)call->object->state;
	const struct params_picture picture = picture_of(call, 0);
	struct params_fault fault;
	switch (use_params(self, &picture, &fault)) {
	case PARAMS_WRONG:
		return wayland_fail_object(call, fault.error, fault.text);
	case PARAMS_UNSUITABLE:
		return tell_failed(call, fault.text);
	case PARAMS_GOOD:
		break;
	}
	self->buffer = dmabuf_make_buffer(&self->params, &picture, self->pools);
	return self->buffer != NULL ? WAYLAND_FORWARD : wayland_fail_no_memory(call);
}

/* zwp_linux_buffer_params_v1.create_immed(buffer_id, width, height, format, flags) */
enum wayland_verdict dmabuf_create_immed(struct wayland_call *call)
{
	struct buffer_params *self = (struct buffer_params *)call->object->state;
	const struct params_picture picture = picture_of(call, 1);
	struct params_fault fault;
	if (use_params(self, &picture, &fault) != PARAMS_GOOD) {
		return wayland_fail_object(call, fault.error, fault.text);
	}
	struct buffer *buffer = dmabuf_make_buffer(&self->params, &picture, self->pools);
	if (buffer == NULL) {
		return wayland_fail_no_memory(call);
	}
	wayland_new_object(call, 0)->state = &buffer->state;
	return WAYLAND_FORWARD;
}

/* zwp_linux_buffer_params_v1.created(buffer); a client that has destroyed the params ignores it */
enum wayland_verdict dmabuf_created(struct wayland_call *call)
{
	struct buffer_params *self = (struct buffer_params *)call->object->state;
	if (self != NULL && self->buffer != NULL) {
		wayland_new_object(call, 0)->state = &self->buffer->state;
		self->buffer = NULL;
	}
	return WAYLAND_FORWARD;
}

/* zwp_linux_buffer_params_v1.failed() */
enum wayland_verdict dmabuf_failed(struct wayland_call *call)
{
	struct buffer_params *self = (struct buffer_params *)call->object->state;
	if (self != NULL) {
		buffer_unref(self->buffer);
		self->buffer = NULL;
	}
	return WAYLAND_FORWARD;
}

/* wl_buffer.release() */
enum wayland_verdict dmabuf_export_release(struct wayland_call *call)
{
	const struct buffer *buffer = (const struct buffer *)call->object->state;
	return buffer != NULL && buffer_is_in_use(buffer) ? WAYLAND_WAIT : WAYLAND_FORWARD;
}
