#include <stdlib.h>

#include "relay/hooks.h"
#include "relay/shm.h"

/*
 * Buffers that the compositor writes (zwlr_screencopy_v1, ext_image_copy_capture_v1): what it wrote
 * goes back to the client's memory before the client is told that it is ready.
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

/* A request whose first argument makes the frame */
enum wayland_verdict capture_create_frame(struct wayland_call *call)
{
	struct capture_frame *frame = calloc(1, sizeof(*frame));
	if (frame == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	frame->state.destroy = destroy_frame;
	wayland_new_object(call, 0)->state = &frame->state;
	return WAYLAND_FORWARD;
}

/* copy(buffer), copy_with_damage(buffer), attach_buffer(buffer) */
enum wayland_verdict capture_attach(struct wayland_call *call)
{
	struct capture_frame *frame = (struct capture_frame *)call->object->state;
	struct buffer *buffer = (struct buffer *)wayland_arg_state(call, 0, "wl_buffer");
	if (frame == NULL) {
		return WAYLAND_FORWARD;
	}
	buffer_ref(buffer);
	buffer_unref(frame->buffer);
	frame->buffer = buffer;
	if (buffer != NULL) {
		buffer_forget(buffer); // shown somewhere, it is not what was sent any more
		unchanged_forget(&buffer->unchanged);
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
