#include <drm_fourcc.h>
#include <stdlib.h>
#include <string.h>

#include "fdpass/dmabuf.h"
#include "fdpass/fdref.h"
#include "relay/buffer.h"
#include "relay/dmabuf.h"
#include "relay/hooks.h"

// ext_image_copy_capture_frame_v1.failure_reason
#define REASON_BUFFER_CONSTRAINTS 1

/*
 * Buffers that the compositor writes: zwlr_screencopy_v1, ext_image_copy_capture_v1 and the like.
 * What it wrote goes back to the client's memory before the client is told that it is ready. Where
 * that cannot be written to, which only the guest knows, the capture fails.
 */
struct capture_frame {
	struct object_state state;
	struct buffer *buffer; // to be written; NULL: none yet
	bool refused;          // the last one cannot be
};

static void destroy_frame(struct object_state *state)
{
	struct capture_frame *frame = (struct capture_frame *)state;
	buffer_unref(frame->buffer);
	free(frame);
}

static struct capture_frame *make_frame(struct object *object)
{
	if (object->state == NULL) {
		struct capture_frame *frame = calloc(1, sizeof(*frame));
		if (frame != NULL) {
			frame->state.destroy = destroy_frame;
			object->state = &frame->state;
		}
	}
	return (struct capture_frame *)object->state;
}

/* ---- the buffer ---- */

static struct buffer *find_buffer(struct wayland_call *call)
{
	struct buffer *buffer = NULL;
	for (size_t i = 0; buffer == NULL && i < call->message.op->n_args; i++) {
		if (call->message.op->args[i].type == WIRE_ARG_OBJECT) {
			buffer = (struct buffer *)wayland_arg_state(call, i, "wl_buffer");
		}
	}
	return buffer;
}

static void set_buffer(struct capture_frame *frame, struct buffer *buffer)
{
	buffer_ref(buffer);
	buffer_unref(frame->buffer);
	frame->buffer = buffer;
	if (buffer != NULL) {
		// Where it is shown, it is not what was sent any more; nor are those that overlap it.
		buffer_forget(buffer);
		buffer_hold(buffer);
		unchanged_forget(&buffer->unchanged);
		buffer_spoil_overlapping(buffer);
	}
}

/* A request that names the buffer which a later one has written: attach_buffer */
enum wayland_verdict capture_attach(struct wayland_call *call)
{
	struct buffer *buffer = find_buffer(call);
	struct capture_frame *frame = make_frame(call->object);
	if (frame == NULL) {
		return wayland_fail_no_memory(call);
	}
	frame->refused = call->direction == call->wayland->options.exports && buffer != NULL &&
		!buffer_can_come_back(buffer);
	set_buffer(frame, frame->refused ? NULL : buffer);
	return frame->refused ? WAYLAND_DROP : WAYLAND_FORWARD;
}

/* The opcode of an event of the object that its protocol calls "failed"; its number of arguments. */
static bool find_failed(const struct object *object, uint32_t *opcode, size_t *n_args)
{
	const struct wire_ops *events = &object->interface->ops[WIRE_EVENT];
	for (size_t i = 0; i < events->count; i++) {
		const struct wire_op *event = &events->ops[i];
		bool fits = event->n_args == 0 ||
			(event->n_args == 1 && event->args[0].type == WIRE_ARG_UINT);
		if (strcmp(event->name, "failed") == 0 && fits) {
			*opcode = (uint32_t)i;
			*n_args = event->n_args;
			return true;
		}
	}
	return false;
}

/* The request is answered here, and goes no further. */
static enum wayland_verdict tell_failed(struct wayland_call *call)
{
	struct wl_array event;
	uint32_t opcode;
	size_t n_args;
	if (!find_failed(call->object, &opcode, &n_args)) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"a dma-buf that can only be read is to be written");
	}
	wl_array_init(&event);
	bool ok = wire_encode_begin(&event, call->message.header.object, opcode) &&
		(n_args == 0 || wire_encode_uint(&event, REASON_BUFFER_CONSTRAINTS)) &&
		wire_encode_end(&event, 0) && wayland_send_event(call->wayland, &event);
	wl_array_release(&event);
	return ok ? WAYLAND_DROP
		  : wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "it cannot be answered");
}

/* A request that has the buffer written that was named before: capture */
enum wayland_verdict capture_export_begin(struct wayland_call *call)
{
	const struct capture_frame *frame = (struct capture_frame *)call->object->state;
	return frame != NULL && frame->refused ? tell_failed(call) : WAYLAND_FORWARD;
}

/* A request that does both: copy, take_shot and so on */
enum wayland_verdict capture_copy(struct wayland_call *call)
{
	enum wayland_verdict verdict = capture_attach(call);
	return verdict == WAYLAND_DROP ? tell_failed(call) : verdict;
}

/* ---- what was written ---- */

/* The buffer that has to come back before this event; NULL: there is none. */
static struct buffer *written_buffer(const struct wayland_call *call)
{
	const struct capture_frame *frame = (struct capture_frame *)call->object->state;
	bool comes = frame != NULL && frame->buffer != NULL && frame->buffer->alive;
	return comes ? frame->buffer : NULL;
}

static enum wayland_verdict push(struct wayland_call *call, struct buffer *buffer)
{
	wayland_flush_exports(call->wayland);
	bool ok = !buffer_is_dmabuf(buffer) || buffer_check_pools(buffer);
	return ok && buffer_push_all(buffer) ? WAYLAND_FORWARD : wayland_fail_no_memory(call);
}

enum wayland_verdict capture_export_ready(struct wayland_call *call)
{
	struct buffer *buffer = written_buffer(call);
	if (buffer == NULL) {
		return WAYLAND_FORWARD;
	}
	return buffer_must_wait(buffer) ? WAYLAND_WAIT : push(call, buffer);
}

enum wayland_verdict capture_export_ready_time(struct wayland_call *call)
{
	enum wayland_verdict verdict = capture_export_ready(call);
	return verdict == WAYLAND_FORWARD ? times_export(call) : verdict;
}

/* ---- offers of dma-bufs ---- */

/* Of what a client here can make; how it is written is the compositor's affair. */
static bool may_offer(const struct wayland *wayland)
{
	bool is_host = wayland->options.exports == WIRE_EVENT;
	return dmabuf_possible(wayland->options.refs) &&
		(is_host || wayland->options.device.number != 0);
}

/* linux_dmabuf(format, width, height) */
enum wayland_verdict capture_linux_dmabuf(struct wayland_call *call)
{
	const struct wayland *wayland = call->wayland;
	uint32_t format = call->message.args[0].value;
	bool told = may_offer(wayland) && dmabuf_offers(wayland, format, DRM_FORMAT_MOD_LINEAR);
	return told ? WAYLAND_FORWARD : WAYLAND_DROP;
}

/* ext_image_copy_capture_session_v1.dmabuf_device(device) */
enum wayland_verdict capture_dmabuf_device(struct wayland_call *call)
{
	return may_offer(call->wayland) ? feedback_device(call) : WAYLAND_DROP;
}

/* Those of the modifiers that go on. False: ENOMEM. */
static bool reduce_modifiers(
	const struct wayland_call *call, uint32_t format, struct wl_array *modifiers)
{
	const struct wire_arg *arg = &call->message.args[1];
	const uint8_t *bytes = (const uint8_t *)(arg->word + 1);
	for (size_t at = 0; at + sizeof(uint64_t) <= arg->length; at += sizeof(uint64_t)) {
		uint64_t modifier;
		memcpy(&modifier, bytes + at, sizeof(modifier));
		if (!dmabuf_offers(call->wayland, format, modifier)) {
			continue;
		}
		uint64_t *added = wl_array_add(modifiers, sizeof(*added));
		if (added == NULL) {
			return false;
		}
		*added = modifier;
	}
	return true;
}

static bool encode_format(
	struct wayland_call *call, uint32_t format, const struct wl_array *modifiers)
{
	const struct wire_header *header = &call->message.header;
	struct wl_array *out = call->replacement;
	return wire_encode_begin(out, header->object, header->opcode) &&
		wire_encode_uint(out, format) &&
		wire_encode_array(out, modifiers->data, modifiers->size) && wire_encode_end(out, 0);
}

/* ext_image_copy_capture_session_v1.dmabuf_format(format, modifiers) */
enum wayland_verdict capture_dmabuf_format(struct wayland_call *call)
{
	uint32_t format = call->message.args[0].value;
	enum wayland_verdict verdict = WAYLAND_DROP;
	struct wl_array modifiers;
	wl_array_init(&modifiers);
	bool ok = reduce_modifiers(call, format, &modifiers);
	if (ok && may_offer(call->wayland) && modifiers.size > 0) {
		verdict = WAYLAND_REPLACE;
		ok = encode_format(call, format, &modifiers);
	}
	wl_array_release(&modifiers);
	return ok ? verdict : wayland_fail_no_memory(call);
}
