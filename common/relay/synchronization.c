#include "relay/synchronization.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/budget.h"
#include "fdpass/dmabuf.h"
#include "fdpass/fdref.h"
#include "fdpass/kind.h"
#include "fdpass/sync.h"
#include "relay/buffer.h"
#include "relay/hooks.h"

#define VERSION_MAX 2 // of which all is known

// zwp_linux_buffer_release_v1
#define EVENT_IMMEDIATE_RELEASE 1

// zwp_linux_surface_synchronization_v1.error
enum synchronization_error {
	ERROR_INVALID_FENCE = 0,
	ERROR_DUPLICATE_FENCE = 1,
	ERROR_NO_SURFACE = 3,
	ERROR_UNSUPPORTED_BUFFER = 4,
	ERROR_NO_BUFFER = 5,
};

/* The guest's: the fence is that of the next commit. */
struct synchronization {
	struct object_state state;
	struct fdrefs *refs;
	uint32_t id;                   // of its object
	struct synchronization **link; // the surface's; NULL: it has gone
	int fence;                     // ours, and charged; -1: none
};

uint32_t synchronization_version(const struct wayland *wayland, uint32_t version)
{
	if (!dmabuf_possible(wayland->options.refs)) {
		return 0;
	}
	return version < VERSION_MAX ? version : VERSION_MAX;
}

/* ---- the client's fences ---- */

static void drop_fence(struct synchronization *self)
{
	if (self->fence >= 0) {
		sync_forget(self->refs, self->fence);
		close(self->fence);
		self->fence = -1;
		budget_release(self->refs->budget, BUDGET_FDS, 1);
	}
}

static void destroy_synchronization(struct object_state *state)
{
	struct synchronization *self = (struct synchronization *)state;
	if (self->link != NULL) {
		*self->link = NULL;
	}
	drop_fence(self);
	free(self);
}

void synchronization_leave_surface(struct synchronization *self)
{
	if (self != NULL) {
		self->link = NULL;
	}
}

/* zwp_linux_explicit_synchronization_v1.get_synchronization(id, surface) */
enum wayland_verdict synchronization_create(struct wayland_call *call)
{
	struct object_state *surface = wayland_arg_state(call, 1, "wl_surface");
	struct synchronization **link = surface != NULL ? surface_synchronization(surface) : NULL;
	if (link == NULL || *link != NULL) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	struct synchronization *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		return wayland_fail_no_memory(call);
	}
	self->state.destroy = destroy_synchronization;
	self->refs = call->wayland->options.refs;
	self->id = call->message.args[0].value;
	self->fence = -1;
	self->link = link;
	*link = self;
	wayland_new_object(call, 0)->state = &self->state;
	return WAYLAND_FORWARD;
}

/* Takes fd. */
static enum wayland_verdict set_fence(
	struct synchronization *self, struct wayland_call *call, int fd)
{
	if (self->link == NULL) {
		close(fd);
		return wayland_fail_object(
			call, ERROR_NO_SURFACE, "a fence for a surface that was destroyed");
	}
	if (self->fence >= 0) {
		close(fd);
		return wayland_fail_object(
			call, ERROR_DUPLICATE_FENCE, "a second fence for one commit");
	}
	if (fd_kind_of(fd) != FD_KIND_SYNC_FILE) {
		close(fd);
		return wayland_fail_object(
			call, ERROR_INVALID_FENCE, "a fence that is no sync_file");
	}
	if (!budget_charge(self->refs->budget, BUDGET_FDS, 1)) {
		close(fd);
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"too many fds are open in this session");
	}
	self->fence = fd;
	return WAYLAND_DROP;
}

/* zwp_linux_surface_synchronization_v1.set_acquire_fence(fd) */
enum wayland_verdict synchronization_export_fence(struct wayland_call *call)
{
	struct synchronization *self = (struct synchronization *)call->object->state;
	int fd = wayland_take_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	if (self == NULL) {
		close(fd); // the compositor has rejected its object, or will
		return WAYLAND_DROP;
	}
	return set_fence(self, call, fd);
}

enum wayland_verdict synchronization_commit(struct synchronization *self, struct wayland_call *call,
	bool attaches, const struct buffer *buffer)
{
	if (self == NULL || self->fence < 0) {
		return WAYLAND_FORWARD;
	}
	if (!attaches) {
		return wayland_fail_for(
			call, self->id, ERROR_NO_BUFFER, "a fence and no buffer for it");
	}
	if (buffer == NULL || !buffer_is_dmabuf(buffer)) {
		return wayland_fail_for(call, self->id, ERROR_UNSUPPORTED_BUFFER,
			"a fence for a buffer that is no dma-buf");
	}
	if (sync_must_wait(self->refs, self->fence)) {
		return WAYLAND_WAIT;
	}
	if (!sync_has_signalled(self->fence)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"out of memory or fds to wait for its fence");
	}
	drop_fence(self);
	return WAYLAND_FORWARD;
}

/* ---- the compositor's ---- */

/* zwp_linux_buffer_release_v1.fenced_release(fence): ends its object as immediate_release does */
enum wayland_verdict synchronization_export_release(struct wayland_call *call)
{
	struct fdrefs *refs = call->wayland->options.refs;
	struct wl_array *out = call->replacement;
	int fence = wayland_peek_fd(call);
	if (fence < 0) {
		return WAYLAND_FAIL;
	}
	if (fd_kind_of(fence) != FD_KIND_SYNC_FILE) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "a fence that is no sync_file");
	}
	if (sync_must_wait(refs, fence)) {
		return WAYLAND_WAIT;
	}
	if (!sync_has_signalled(fence)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"out of memory or fds to wait for its fence");
	}
	close(wayland_take_fd(call));
	bool encoded =
		wire_encode_begin(out, call->message.header.object, EVENT_IMMEDIATE_RELEASE) &&
		wire_encode_end(out, 0);
	return encoded ? WAYLAND_REPLACE : wayland_fail_no_memory(call);
}
