#include <drm_fourcc.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/dmabuf.h"
#include "fdpass/fdref.h"
#include "relay/buffer.h"
#include "relay/dmabuf.h"
#include "relay/hooks.h"
#include "relay/params.h"

/*
 * zwlr_export_dmabuf_v1: the compositor gives away what it shows on an output, in dma-bufs of its own.
 * Clients get copies, which hold the picture when it is "ready". What is not rows cannot be copied,
 * and a screen of a real GPU seldom is: such a frame is cancelled.
 */

#define MODIFIERS_ARE_TOLD 4 // as by that version of linux-dmabuf

#define EVENT_CANCEL 3

// zwlr_export_dmabuf_frame_v1.cancel_reason
enum cancel_reason {
	CANCEL_TEMPORARY = 0,
	CANCEL_PERMANENT = 1,
};

struct scanout {
	struct object_state state;
	bool given_up; // "ready" becomes "cancel"
	// Of the exporter:
	bool described;
	uint64_t modifier;
	struct params_picture picture;
	struct params params;
	struct pool *pools[PARAMS_MAX_PLANES];
	struct buffer *buffer; // NULL: not all of it has been told
};

bool scanout_possible(const struct wayland *wayland)
{
	const struct fdrefs *refs = wayland->options.refs;
	bool makes = wayland->options.exports == WIRE_EVENT || refs->resolver != NULL;
	return dmabuf_possible(refs) && makes;
}

static void destroy_scanout(struct object_state *state)
{
	struct scanout *scanout = (struct scanout *)state;
	for (size_t i = 0; i < PARAMS_MAX_PLANES; i++) {
		pool_unref(scanout->pools[i]);
	}
	buffer_unref(scanout->buffer);
	free(scanout);
}

/* zwlr_export_dmabuf_manager_v1.capture_output(frame, overlay_cursor, output) */
enum wayland_verdict scanout_create(struct wayland_call *call)
{
	struct scanout *scanout = calloc(1, sizeof(*scanout));
	if (scanout == NULL) {
		return wayland_fail_no_memory(call);
	}
	scanout->state.destroy = destroy_scanout;
	wayland_new_object(call, 0)->state = &scanout->state;
	return WAYLAND_FORWARD;
}

static void give_up(struct scanout *scanout, const char *why)
{
	log_limited(LOG_INFO, "a screen's buffer that cannot cross: %s", why);
	scanout->given_up = true;
}

/* In place of "ready". */
static enum wayland_verdict cancel(struct wayland_call *call, enum cancel_reason reason)
{
	struct wl_array *out = call->replacement;
	bool ok = wire_encode_begin(out, call->message.header.object, EVENT_CANCEL) &&
		wire_encode_uint(out, reason) && wire_encode_end(out, 0);
	return ok ? WAYLAND_REPLACE : wayland_fail_no_memory(call);
}

/* ---- export ---- */

/*
 * zwlr_export_dmabuf_frame_v1.frame(width, height, offset_x, offset_y, buffer_flags, flags, format,
 * mod_high, mod_low, num_objects). A client that has destroyed the object looks at none of its events.
 */
enum wayland_verdict scanout_export_frame(struct wayland_call *call)
{
	struct scanout *scanout = (struct scanout *)call->object->state;
	const struct wire_arg *args = call->message.args;
	if (scanout == NULL || scanout->described) {
		return WAYLAND_DROP;
	}
	scanout->described = true;
	scanout->modifier = (uint64_t)args[7].value << 32 | args[8].value;
	scanout->params.version = MODIFIERS_ARE_TOLD;
	scanout->picture = (struct params_picture){
		.width = (int32_t)args[0].value,
		.height = (int32_t)args[1].value,
		.format = args[6].value,
		.flags = args[4].value,
	};
	if (scanout->modifier != DRM_FORMAT_MOD_LINEAR ||
		!dmabuf_offers(call->wayland, scanout->picture.format, scanout->modifier)) {
		give_up(scanout, "it is not known where its rows are");
		return WAYLAND_DROP;
	}
	return WAYLAND_FORWARD;
}

/* Takes fd. NULL, also when it has given up; *failed: out of memory. */
static struct memory *add_plane(struct wayland_call *call, int fd, bool *failed)
{
	struct scanout *scanout = (struct scanout *)call->object->state;
	const struct wire_arg *args = call->message.args;
	const uint32_t index = args[5].value;
	struct params_fault fault;
	if (params_check_add(&scanout->params, index, &fault) != PARAMS_GOOD) {
		give_up(scanout, fault.text);
		close(fd);
		return NULL;
	}
	const char *wrong;
	struct memory *memory = dmabuf_export(call->wayland->options.refs, fd, &wrong);
	if (memory == NULL) {
		give_up(scanout, wrong);
		return NULL;
	}
	scanout->params.planes[index] = (struct params_plane){
		.set = true,
		.usable = true,
		.size = memory->size,
		.offset = args[3].value,
		.stride = args[4].value,
		.modifier = scanout->modifier,
	};
	scanout->pools[index] = dmabuf_get_pool(call->wayland, memory);
	*failed = scanout->pools[index] == NULL;
	return *failed ? NULL : memory;
}

/* zwlr_export_dmabuf_frame_v1.object(index, fd, size, offset, stride, plane_index) */
enum wayland_verdict scanout_export_object(struct wayland_call *call)
{
	const struct scanout *scanout = (struct scanout *)call->object->state;
	bool failed = false;
	int fd = wayland_take_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	if (scanout == NULL || scanout->given_up) {
		close(fd);
		return WAYLAND_DROP;
	}
	const struct memory *memory = add_plane(call, fd, &failed);
	if (failed) {
		return wayland_fail_no_memory(call);
	}
	if (memory == NULL) {
		return WAYLAND_DROP;
	}
	call->refs[call->n_refs++] = memory->ref.id;
	return WAYLAND_FORWARD;
}

/* All has been told of it. False: out of memory. */
static bool make_buffer(struct scanout *scanout)
{
	struct params_fault fault;
	if (scanout->given_up || scanout->buffer != NULL) {
		return true;
	}
	if (params_check_picture(&scanout->params, &scanout->picture, &fault) != PARAMS_GOOD) {
		give_up(scanout, fault.text);
		return true;
	}
	scanout->buffer = dmabuf_make_buffer(&scanout->params, &scanout->picture, scanout->pools);
	return scanout->buffer != NULL;
}

/* zwlr_export_dmabuf_frame_v1.ready(tv_sec_hi, tv_sec_lo, tv_nsec) */
enum wayland_verdict scanout_export_ready(struct wayland_call *call)
{
	struct scanout *scanout = (struct scanout *)call->object->state;
	if (scanout == NULL) {
		return times_export(call);
	}
	bool ok = make_buffer(scanout);
	if (ok && scanout->given_up) {
		return cancel(call, CANCEL_PERMANENT);
	}
	if (ok && buffer_must_wait(scanout->buffer)) {
		return WAYLAND_WAIT;
	}
	wayland_flush_exports(call->wayland);
	if (!ok || !buffer_check_pools(scanout->buffer) || !buffer_push_all(scanout->buffer)) {
		return wayland_fail_no_memory(call);
	}
	return times_export(call);
}

/* ---- import ---- */

enum wayland_verdict scanout_import_object(struct wayland_call *call)
{
	struct scanout *scanout = (struct scanout *)call->object->state;
	const struct memory *memory = dmabuf_get(call->wayland->options.refs, call->refs[0]);
	if (memory == NULL) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref that is not a dma-buf");
	}
	if (memory->fd >= 0) {
		return WAYLAND_FORWARD;
	}
	if (scanout != NULL) {
		give_up(scanout, "there is no memory for a copy");
	}
	call->n_refs = 0;
	return WAYLAND_DROP;
}

enum wayland_verdict scanout_import_ready(struct wayland_call *call)
{
	const struct scanout *scanout = (struct scanout *)call->object->state;
	return scanout != NULL && scanout->given_up ? cancel(call, CANCEL_TEMPORARY)
						    : times_import(call);
}
