#include <stdlib.h>

#include "relay/buffer.h"
#include "relay/damage.h"
#include "relay/hooks.h"
#include "relay/synchronization.h"
#include "relay/syncobj.h"

/*
 * What a commit means for the copies of the buffers on the other side:
 *
 * Damage says where the new buffer differs from what the surface showed before. So a buffer's copy
 * lacks the damage of every commit since the buffer's own last one on this surface. The damage of
 * this commit is sent; the rest is what the surface showed already, and the other side copies it
 * from the copy of the buffer that showed it. Where that reasoning has a gap (a first commit, a
 * changed size, scale, transform or viewport, an offset, a buffer that another surface or another
 * buffer's bytes have changed), the whole buffer is sent.
 */

struct viewport;

struct surface {
	struct object_state state;
	struct viewport *viewport;
	struct synchronization *synchronization;
	struct syncobj_surface *syncobj;
	struct buffer_shown buffer; // none also for one that has no memory here
	bool known;                 // it shows what the buffers' stale parts are about
	struct damage_geometry shown;
	struct wl_list buffers; // buffer.surface_link

	struct {
		bool attached, moved;
		bool something; // was attached: a buffer, of which nothing may be known
		struct buffer *buffer;
		struct damage surface_damage, buffer_damage;
		struct damage_geometry geometry; // without the buffer's size
	} pending;
};

struct viewport {
	struct object_state state;
	struct surface *surface; // NULL when it is gone
};

/* NULL for a surface that came from something else than wl_compositor. */
static struct surface *surface_of(struct wayland_call *call)
{
	return (struct surface *)call->object->state;
}

static void forget_buffers(struct surface *surface)
{
	struct buffer *buffer, *next;
	wl_list_for_each_safe (buffer, next, &surface->buffers, surface_link) {
		buffer_forget(buffer);
	}
}

static void destroy_surface(struct object_state *state)
{
	struct surface *surface = (struct surface *)state;
	forget_buffers(surface);
	if (surface->viewport != NULL) {
		surface->viewport->surface = NULL;
	}
	synchronization_leave_surface(surface->synchronization);
	syncobj_leave_surface(surface->syncobj);
	buffer_unref(surface->pending.buffer);
	buffer_shown_set(&surface->buffer, NULL);
	free(surface);
}

/* wl_compositor.create_surface(id) */
enum wayland_verdict surface_create(struct wayland_call *call)
{
	struct surface *surface = calloc(1, sizeof(*surface));
	if (surface == NULL) {
		return wayland_fail_no_memory(call);
	}
	surface->state.destroy = destroy_surface;
	surface->pending.geometry.scale = 1;
	wl_list_init(&surface->buffers);
	buffer_shown_init(&surface->buffer);
	wayland_new_object(call, 0)->state = &surface->state;
	return WAYLAND_FORWARD;
}

struct synchronization **surface_synchronization(struct object_state *surface)
{
	return &((struct surface *)surface)->synchronization;
}

struct syncobj_surface **surface_syncobj(struct object_state *surface)
{
	return &((struct surface *)surface)->syncobj;
}

/* wl_surface.attach(buffer, x, y) */
enum wayland_verdict surface_attach(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	const struct wire_arg *args = call->message.args;
	if (surface == NULL) {
		return WAYLAND_FORWARD;
	}
	struct buffer *buffer = (struct buffer *)wayland_arg_state(call, 0, "wl_buffer");
	buffer_ref(buffer);
	buffer_unref(surface->pending.buffer);
	surface->pending.buffer = buffer;
	surface->pending.attached = true;
	surface->pending.something = args[0].value != 0;
	surface->pending.moved = surface->pending.moved || args[1].value != 0 || args[2].value != 0;
	return WAYLAND_FORWARD;
}

/* wl_surface.offset(x, y) */
enum wayland_verdict surface_offset(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	const struct wire_arg *args = call->message.args;
	if (surface != NULL && (args[0].value != 0 || args[1].value != 0)) {
		surface->pending.moved = true;
	}
	return WAYLAND_FORWARD;
}

static void add_damage(struct damage *damage, const struct wire_arg *args)
{
	damage_add(damage, (int32_t)args[0].value, (int32_t)args[1].value, (int32_t)args[2].value,
		(int32_t)args[3].value);
}

/* wl_surface.damage(x, y, width, height) */
enum wayland_verdict surface_damage(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	if (surface != NULL) {
		add_damage(&surface->pending.surface_damage, call->message.args);
	}
	return WAYLAND_FORWARD;
}

/* wl_surface.damage_buffer(x, y, width, height) */
enum wayland_verdict surface_damage_buffer(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	if (surface != NULL) {
		add_damage(&surface->pending.buffer_damage, call->message.args);
	}
	return WAYLAND_FORWARD;
}

/* wl_surface.set_buffer_scale(scale); the compositor rejects what is not positive */
enum wayland_verdict surface_set_scale(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	int32_t scale = (int32_t)call->message.args[0].value;
	if (surface != NULL && scale > 0) {
		surface->pending.geometry.scale = scale;
	}
	return WAYLAND_FORWARD;
}

/* wl_surface.set_buffer_transform(transform) */
enum wayland_verdict surface_set_transform(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	uint32_t transform = call->message.args[0].value;
	if (surface != NULL && transform < 8) {
		surface->pending.geometry.transform = (int32_t)transform;
	}
	return WAYLAND_FORWARD;
}

/* ---- wp_viewporter ---- */

static void unset_source(struct damage_geometry *geometry)
{
	geometry->has_source = false;
	geometry->source_x = geometry->source_y = 0;
	geometry->source_width = geometry->source_height = 0;
}

static void unset_destination(struct damage_geometry *geometry)
{
	geometry->has_destination = false;
	geometry->destination_width = geometry->destination_height = 0;
}

static void destroy_viewport(struct object_state *state)
{
	struct viewport *viewport = (struct viewport *)state;
	if (viewport->surface != NULL) {
		unset_source(&viewport->surface->pending.geometry);
		unset_destination(&viewport->surface->pending.geometry);
		viewport->surface->viewport = NULL;
	}
	free(viewport);
}

/* wp_viewporter.get_viewport(id, surface) */
enum wayland_verdict surface_get_viewport(struct wayland_call *call)
{
	struct surface *surface = (struct surface *)wayland_arg_state(call, 1, "wl_surface");
	if (surface == NULL || surface->viewport != NULL) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	struct viewport *viewport = calloc(1, sizeof(*viewport));
	if (viewport == NULL) {
		return wayland_fail_no_memory(call);
	}
	viewport->state.destroy = destroy_viewport;
	viewport->surface = surface;
	surface->viewport = viewport;
	wayland_new_object(call, 0)->state = &viewport->state;
	return WAYLAND_FORWARD;
}

static struct damage_geometry *viewport_geometry(struct wayland_call *call)
{
	struct viewport *viewport = (struct viewport *)call->object->state;
	bool known = viewport != NULL && viewport->surface != NULL;
	return known ? &viewport->surface->pending.geometry : NULL;
}

/* wp_viewport.set_source(x, y, width, height), all 24.8; -1 everywhere unsets it */
enum wayland_verdict viewport_set_source(struct wayland_call *call)
{
	struct damage_geometry *geometry = viewport_geometry(call);
	const struct wire_arg *args = call->message.args;
	if (geometry == NULL) {
		return WAYLAND_FORWARD;
	}
	unset_source(geometry);
	if ((int32_t)args[2].value > 0 && (int32_t)args[3].value > 0) {
		geometry->has_source = true;
		geometry->source_x = (int32_t)args[0].value;
		geometry->source_y = (int32_t)args[1].value;
		geometry->source_width = (int32_t)args[2].value;
		geometry->source_height = (int32_t)args[3].value;
	}
	return WAYLAND_FORWARD;
}

/* wp_viewport.set_destination(width, height); -1 unsets it */
enum wayland_verdict viewport_set_destination(struct wayland_call *call)
{
	struct damage_geometry *geometry = viewport_geometry(call);
	const struct wire_arg *args = call->message.args;
	if (geometry == NULL) {
		return WAYLAND_FORWARD;
	}
	unset_destination(geometry);
	if ((int32_t)args[0].value > 0 && (int32_t)args[1].value > 0) {
		geometry->has_destination = true;
		geometry->destination_width = (int32_t)args[0].value;
		geometry->destination_height = (int32_t)args[1].value;
	}
	return WAYLAND_FORWARD;
}

/* ---- commit ---- */

/* Whether the surface's copy of its own last picture can be copied from. */
static bool is_twin(const struct surface *surface, const struct buffer *buffer)
{
	const struct buffer *twin = surface->buffer.buffer;
	return twin != NULL && twin != buffer && twin->surface == surface && !twin->stale_all &&
		!pixman_region32_not_empty((pixman_region32_t *)&twin->stale) &&
		buffer_same_layout(twin, buffer) && !buffer_overlaps(twin, buffer);
}

/* Sends what is fresh, and brings the copy up to date where it is stale. */
static bool send_parts(struct surface *surface, struct buffer *buffer, pixman_region32_t *fresh)
{
	pixman_region32_t rest;
	pixman_region32_init(&rest);
	pixman_region32_subtract(&rest, &buffer->stale, fresh);
	// The twin comes first: where there are many rectangles, it also gives what lies between.
	bool ok = is_twin(surface, buffer) ? buffer_push_twin(buffer, surface->buffer.buffer, &rest)
					   : unchanged_push(buffer, &rest);
	ok = ok && unchanged_push(buffer, fresh);
	pixman_region32_fini(&rest);
	return ok;
}

/* The other buffers of the surface lack what this commit has changed. */
static void make_others_stale(
	struct surface *surface, struct buffer *buffer, bool all, pixman_region32_t *fresh)
{
	struct buffer *other;
	wl_list_for_each (other, &surface->buffers, surface_link) {
		if (other == buffer) {
			continue;
		}
		if (all) {
			other->stale_all = true;
		} else {
			pixman_region32_union(&other->stale, &other->stale, fresh);
		}
	}
}

static bool send_buffer(struct wayland *wayland, struct surface *surface, struct buffer *buffer,
	const struct damage_geometry *geometry, bool changed)
{
	pixman_region32_t fresh;
	pixman_region32_init(&fresh);
	damage_map_surface(&surface->pending.surface_damage, geometry, &fresh);
	damage_map_buffer(&surface->pending.buffer_damage, geometry, &fresh);

	bool all = changed || buffer->stale_all || buffer->surface != surface;
	bool some = pixman_region32_not_empty(&fresh) || pixman_region32_not_empty(&buffer->stale);
	bool ok = true;
	if (all || some) {
		wayland_flush_exports(wayland);
		ok = buffer_check_pools(buffer);
		all = all || buffer->stale_all;
	}
	if (ok && (all || (some && !buffer_has_rows(buffer)))) {
		ok = buffer_push_all(buffer);
	} else if (ok && some) {
		ok = send_parts(surface, buffer, &fresh);
	}
	if (all || some) {
		buffer_spoil_overlapping(buffer);
	}
	make_others_stale(surface, buffer, changed, &fresh);
	buffer_forget(buffer);
	buffer->surface = surface;
	buffer->stale_all = false;
	wl_list_insert(&surface->buffers, &buffer->surface_link);
	pixman_region32_fini(&fresh);
	return ok;
}

/* What the next commit shows, of a buffer that may be gone. */
static struct damage_geometry next_geometry(
	const struct surface *surface, const struct buffer *buffer)
{
	struct damage_geometry geometry = surface->pending.geometry;
	geometry.width = buffer != NULL ? buffer->width : surface->shown.width;
	geometry.height = buffer != NULL ? buffer->height : surface->shown.height;
	return geometry;
}

static bool same_geometry(const struct damage_geometry *a, const struct damage_geometry *b)
{
	return a->width == b->width && a->height == b->height && a->scale == b->scale &&
		a->transform == b->transform && a->has_source == b->has_source &&
		a->has_destination == b->has_destination && a->source_x == b->source_x &&
		a->source_y == b->source_y && a->source_width == b->source_width &&
		a->source_height == b->source_height &&
		a->destination_width == b->destination_width &&
		a->destination_height == b->destination_height;
}

/* What is shown from now on may differ from what was. */
static bool is_updated(const struct surface *surface, bool changed)
{
	return surface->pending.attached || changed || surface->pending.surface_damage.count > 0 ||
		surface->pending.buffer_damage.count > 0;
}

/* Waits for what the client wants to be waited for. */
static enum wayland_verdict acquire(
	struct wayland_call *call, struct surface *surface, const struct buffer *buffer)
{
	bool attaches = surface->pending.something;
	enum wayland_verdict verdict =
		synchronization_commit(surface->synchronization, call, attaches, buffer);
	return verdict == WAYLAND_FORWARD ? syncobj_commit(surface->syncobj, call, attaches)
					  : verdict;
}

/* wl_surface.commit() */
enum wayland_verdict surface_commit(struct wayland_call *call)
{
	struct surface *surface = surface_of(call);
	if (surface == NULL) {
		return WAYLAND_FORWARD;
	}
	struct buffer *buffer =
		surface->pending.attached ? surface->pending.buffer : surface->buffer.buffer;
	enum wayland_verdict verdict = acquire(call, surface, buffer);
	if (verdict != WAYLAND_FORWARD) {
		return verdict;
	}
	struct damage_geometry geometry = next_geometry(surface, buffer);
	bool changed = surface->pending.moved || !surface->known ||
		!same_geometry(&geometry, &surface->shown);
	bool updated = is_updated(surface, changed);
	bool ok = true;
	if (updated && buffer != NULL) {
		if (buffer_must_wait(buffer)) {
			return WAYLAND_WAIT;
		}
		ok = send_buffer(call->wayland, surface, buffer, &geometry, changed);
	} else if (updated) {
		forget_buffers(surface);
	}
	surface->known = buffer != NULL || !updated;
	surface->shown = geometry;
	if (surface->pending.attached) {
		buffer_shown_set(&surface->buffer, buffer);
		buffer_unref(buffer);
		surface->pending.buffer = NULL;
	}
	surface->pending.attached = surface->pending.moved = surface->pending.something = false;
	surface->pending.surface_damage.count = surface->pending.buffer_damage.count = 0;
	return ok ? WAYLAND_FORWARD : wayland_fail_no_memory(call);
}
