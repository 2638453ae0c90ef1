#include <drm_fourcc.h>

#include "fdpass/dmabuf.h"
#include "fdpass/fdref.h"
#include "fdpass/memory.h"
#include "relay/buffer.h"
#include "relay/dmabuf.h"
#include "relay/format.h"
#include "relay/hooks.h"
#include "relay/params.h"

/*
 * wl_drm: Mesa's own protocol, which linux-dmabuf has replaced. It names a device by its path, its
 * buffers have no modifier, and all their planes lie in one dma-buf. What is named by a number that
 * is valid for one device only (GEM names) cannot cross.
 */

#define PRIME_VERSION    2 // buffers can be made of dma-bufs
#define CAPABILITY_PRIME 1

enum drm_answer {
	EVENT_DEVICE = 0,
	EVENT_AUTHENTICATED = 2,
};

// wl_drm.error
enum drm_error {
	ERROR_INVALID_FORMAT = 1,
	ERROR_INVALID_NAME = 2,
};

static bool is_host(const struct wayland *wayland)
{
	return wayland->options.exports == WIRE_EVENT;
}

uint32_t drm_version(const struct wayland *wayland, uint32_t version)
{
	bool has_device = is_host(wayland) || wayland->options.device.path[0] != '\0';
	bool possible = version >= PRIME_VERSION && has_device &&
		dmabuf_possible(wayland->options.refs) &&
		dmabuf_offers(wayland, DRM_FORMAT_XRGB8888, DRM_FORMAT_MOD_INVALID);
	return possible ? version : 0;
}

/* ---- what it offers ---- */

/* wl_drm.device(name): on the channel there is no name. */
enum wayland_verdict drm_device(struct wayland_call *call)
{
	struct wl_array *out = call->replacement;
	const char *path = is_host(call->wayland) ? "" : call->wayland->options.device.path;
	size_t start = out->size;
	bool ok = wire_encode_begin(out, call->message.header.object, EVENT_DEVICE) &&
		wire_encode_string(out, path) && wire_encode_end(out, start);
	return ok ? WAYLAND_REPLACE : wayland_fail_no_memory(call);
}

/* wl_drm.format(format) */
enum wayland_verdict drm_format(struct wayland_call *call)
{
	uint32_t format = call->message.args[0].value;
	return dmabuf_offers(call->wayland, format, DRM_FORMAT_MOD_INVALID) ? WAYLAND_FORWARD
									    : WAYLAND_DROP;
}

/* wl_drm.capabilities(value) */
enum wayland_verdict drm_capabilities(struct wayland_call *call)
{
	*call->message.args[0].word &= CAPABILITY_PRIME;
	return WAYLAND_FORWARD;
}

/*
 * wl_drm.authenticate(id): a client's number for a device of the guest's, which means another client on
 * the host. A render node, which clients here are told of, needs none.
 */
enum wayland_verdict drm_authenticate(struct wayland_call *call)
{
	struct wl_array event;
	wl_array_init(&event);
	bool ok = wire_encode_begin(&event, call->message.header.object, EVENT_AUTHENTICATED) &&
		wire_encode_end(&event, 0) && wayland_send_event(call->wayland, &event);
	wl_array_release(&event);
	return ok ? WAYLAND_DROP
		  : wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "it cannot be answered");
}

/* ---- buffers ---- */

/* wl_drm.create_buffer, create_planar_buffer */
enum wayland_verdict drm_create_named_buffer(struct wayland_call *call)
{
	return wayland_fail_object(
		call, ERROR_INVALID_NAME, "GEM names cannot cross: use create_prime_buffer");
}

/* create_prime_buffer(id, fd, width, height, format, offset0, stride0, offset1, ...) */
static struct params_picture picture_of(const struct wayland_call *call)
{
	const struct wire_arg *args = call->message.args;
	return (struct params_picture){
		.width = (int32_t)args[2].value,
		.height = (int32_t)args[3].value,
		.format = args[4].value,
	};
}

/* What is said of planes that the format does not have is not looked at. */
static struct params params_of(
	const struct wayland_call *call, const struct format *format, const struct memory *memory)
{
	const struct wire_arg *args = call->message.args + 5;
	struct params params = {.version = call->object->version, .implicit = true};
	for (size_t i = 0; i < format->n_planes; i++) {
		const uint32_t offset = args[2 * i].value, stride = args[2 * i + 1].value;
		params.planes[i] = (struct params_plane){
			.set = true,
			.usable = offset <= INT32_MAX && stride <= INT32_MAX, // both are signed
			.size = memory->size,
			.offset = offset,
			.stride = stride,
			.modifier = DRM_FORMAT_MOD_INVALID,
		};
	}
	return params;
}

/* The buffer that the request describes, in pool. */
static enum wayland_verdict make_buffer(struct wayland_call *call, struct pool *pool)
{
	struct pool *const pools[FORMAT_MAX_PLANES] = {pool, pool, pool};
	const struct params_picture picture = picture_of(call);
	const struct format *format = format_find(picture.format);
	struct params_fault fault;
	if (format == NULL) {
		return wayland_fail_object(
			call, ERROR_INVALID_FORMAT, "a format that was not offered");
	}
	const struct params params = params_of(call, format, pool->memory);
	if (params_check_picture(&params, &picture, &fault) != PARAMS_GOOD) {
		return wayland_fail_object(call, ERROR_INVALID_NAME, fault.text);
	}
	struct buffer *buffer = dmabuf_make_buffer(&params, &picture, pools);
	if (buffer == NULL) {
		return wayland_fail_no_memory(call);
	}
	wayland_new_object(call, 0)->state = &buffer->state;
	return WAYLAND_FORWARD;
}

/* Uses up one use of memory. */
static enum wayland_verdict make_buffer_in(struct wayland_call *call, struct memory *memory)
{
	struct pool *pool = dmabuf_get_pool(call->wayland, memory);
	if (pool == NULL) {
		return wayland_fail_no_memory(call);
	}
	enum wayland_verdict verdict = make_buffer(call, pool);
	pool_unref(pool);
	return verdict;
}

enum wayland_verdict drm_export_create_prime_buffer(struct wayland_call *call)
{
	struct memory *memory;
	const char *wrong;
	enum wayland_verdict verdict = dmabuf_export_fd(call, &memory, &wrong);
	if (verdict != WAYLAND_FORWARD) {
		return verdict;
	}
	if (memory == NULL) {
		return wayland_fail_object(call, ERROR_INVALID_NAME, wrong);
	}
	return make_buffer_in(call, memory);
}

enum wayland_verdict drm_import_create_prime_buffer(struct wayland_call *call)
{
	struct memory *memory = dmabuf_get(call->wayland->options.refs, call->refs[0]);
	if (memory == NULL) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref that is not a dma-buf");
	}
	if (memory->fd < 0) {
		return wayland_fail_object(
			call, ERROR_INVALID_NAME, "a dma-buf that the host cannot make");
	}
	return make_buffer_in(call, memory_use(memory));
}
