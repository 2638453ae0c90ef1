#include <stdlib.h>

#include "relay/buffer.h"
#include "relay/hooks.h"

/*
 * Buffers that the compositor writes: zwlr_screencopy_v1, ext_image_copy_capture_v1 and the like.
 * What it wrote goes back to the client's memory before the client is told that it is ready.
 */
struct capture_frame {
	struct object_state state;
	struct buffer *buffer; // to be written; NULL: none yet
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

/* A request that names the buffer: copy, attach_buffer, take_shot and so on */
enum wayland_verdict capture_attach(struct wayland_call *call)
{
	struct buffer *buffer = NULL;
	for (size_t i = 0; buffer == NULL && i < call->message.op->n_args; i++) {
		if (call->message.op->args[i].type == WIRE_ARG_OBJECT) {
			buffer = (struct buffer *)wayland_arg_state(call, i, "wl_buffer");
		}
	}
	struct capture_frame *frame = make_frame(call->object);
	if (frame == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
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
	return WAYLAND_FORWARD;
}

enum wayland_verdict capture_export_ready(struct wayland_call *call)
{
	struct capture_frame *frame = (struct capture_frame *)call->object->state;
	if (frame != NULL && frame->buffer != NULL && frame->buffer->alive) {
		wayland_flush_exports(call->wayland);
		if (!buffer_push_all(frame->buffer)) {
			return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
		}
	}
	return WAYLAND_FORWARD;
}

/* An offer of dma-bufs, which the client has no way to make. */
enum wayland_verdict capture_drop(struct wayland_call *call)
{
	(void)call;
	return WAYLAND_DROP;
}

enum wayland_verdict capture_export_ready_time(struct wayland_call *call)
{
	enum wayland_verdict verdict = times_export(call);
	return verdict == WAYLAND_FORWARD ? capture_export_ready(call) : verdict;
}
