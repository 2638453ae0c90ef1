#include "relay/syncobj.h"

#include <stdlib.h>

#include "fdpass/dmabuf.h"
#include "fdpass/timeline.h"
#include "relay/hooks.h"

#define VERSION_MAX 1 // of which all is known

#define TIMELINE_INTERFACE "wp_linux_drm_syncobj_timeline_v1"

// wp_linux_drm_syncobj_manager_v1.error
#define ERROR_INVALID_TIMELINE 1

/* All of this is the guest's. */

struct syncobj_timeline {
	struct object_state state;
	struct timeline *timeline; // a use of it
};

struct syncobj_point {
	struct timeline *timeline; // a use of it; NULL: not set
	uint64_t value;
};

struct syncobj_surface {
	struct object_state state;
	struct syncobj_surface **link;         // the surface's; NULL: it has gone
	struct syncobj_point acquire, release; // of the next commit
};

uint32_t syncobj_version(const struct wayland *wayland, uint32_t version)
{
	const struct fdrefs *refs = wayland->options.refs;
	if (!dmabuf_possible(refs) || !timeline_possible(refs)) {
		return 0;
	}
	return version < VERSION_MAX ? version : VERSION_MAX;
}

/* ---- timelines ---- */

static void destroy_timeline(struct object_state *state)
{
	struct syncobj_timeline *self = (struct syncobj_timeline *)state;
	timeline_release(self->timeline);
	free(self);
}

/* wp_linux_drm_syncobj_manager_v1.import_timeline(id, fd) */
enum wayland_verdict syncobj_import_timeline(struct wayland_call *call)
{
	bool invalid;
	const char *wrong;
	int fd = wayland_take_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	struct timeline *timeline =
		timeline_export(call->wayland->options.refs, fd, &invalid, &wrong);
	if (timeline == NULL) {
		return invalid ? wayland_fail_object(call, ERROR_INVALID_TIMELINE, wrong)
			       : wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, wrong);
	}
	struct syncobj_timeline *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		timeline_release(timeline);
		return wayland_fail_no_memory(call);
	}
	self->state.destroy = destroy_timeline;
	self->timeline = timeline;
	wayland_new_object(call, 0)->state = &self->state;
	call->refs[call->n_refs++] = timeline_id(timeline);
	return WAYLAND_FORWARD;
}

/* ---- surfaces ---- */

static void unset_point(struct syncobj_point *point)
{
	timeline_release(point->timeline);
	*point = (struct syncobj_point){.timeline = NULL};
}

static void destroy_surface(struct object_state *state)
{
	struct syncobj_surface *self = (struct syncobj_surface *)state;
	if (self->link != NULL) {
		*self->link = NULL;
	}
	unset_point(&self->acquire);
	unset_point(&self->release);
	free(self);
}

void syncobj_leave_surface(struct syncobj_surface *self)
{
	if (self != NULL) {
		self->link = NULL;
	}
}

/* wp_linux_drm_syncobj_manager_v1.get_surface(id, surface) */
enum wayland_verdict syncobj_get_surface(struct wayland_call *call)
{
	struct object_state *surface = wayland_arg_state(call, 1, "wl_surface");
	struct syncobj_surface **link = surface != NULL ? surface_syncobj(surface) : NULL;
	if (link == NULL || *link != NULL) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	struct syncobj_surface *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		return wayland_fail_no_memory(call);
	}
	self->state.destroy = destroy_surface;
	self->link = link;
	*link = self;
	wayland_new_object(call, 0)->state = &self->state;
	return WAYLAND_FORWARD;
}

static void set_point(struct wayland_call *call, struct syncobj_point *point)
{
	const struct wire_arg *args = call->message.args;
	const struct syncobj_timeline *timeline =
		(const struct syncobj_timeline *)wayland_arg_state(call, 0, TIMELINE_INTERFACE);
	unset_point(point);
	if (timeline != NULL) {
		point->timeline = timeline_use(timeline->timeline);
		point->value = (uint64_t)args[1].value << 32 | args[2].value;
	}
}

/* wp_linux_drm_syncobj_surface_v1.set_acquire_point(timeline, point_hi, point_lo) */
enum wayland_verdict syncobj_set_acquire_point(struct wayland_call *call)
{
	struct syncobj_surface *self = (struct syncobj_surface *)call->object->state;
	if (self != NULL) {
		set_point(call, &self->acquire);
	}
	return WAYLAND_FORWARD;
}

/* wp_linux_drm_syncobj_surface_v1.set_release_point(timeline, point_hi, point_lo) */
enum wayland_verdict syncobj_set_release_point(struct wayland_call *call)
{
	struct syncobj_surface *self = (struct syncobj_surface *)call->object->state;
	if (self != NULL) {
		set_point(call, &self->release);
	}
	return WAYLAND_FORWARD;
}

/* What the compositor will reject is not waited for. */
static bool is_right(const struct syncobj_surface *self, bool attaches)
{
	const struct syncobj_point *acquire = &self->acquire, *release = &self->release;
	if (!attaches || acquire->timeline == NULL || release->timeline == NULL) {
		return false;
	}
	return acquire->timeline != release->timeline || acquire->value < release->value;
}

enum wayland_verdict syncobj_commit(
	struct syncobj_surface *self, struct wayland_call *call, bool attaches)
{
	if (self == NULL || !is_right(self, attaches)) {
		return WAYLAND_FORWARD;
	}
	if (timeline_must_wait(self->acquire.timeline, self->acquire.value)) {
		return WAYLAND_WAIT;
	}
	if (!timeline_has_signalled(self->acquire.timeline, self->acquire.value)) {
		return wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "its point cannot be waited for");
	}
	timeline_tell(self->acquire.timeline, self->acquire.value);
	if (!timeline_watch(self->release.timeline, self->release.value)) {
		return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"more points that are not released than may be");
	}
	unset_point(&self->acquire);
	unset_point(&self->release);
	return WAYLAND_FORWARD;
}
