#include <pixman.h>
#include <stdlib.h>
#include <string.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"

/*
 * Rectangles that a compositor adds up, as the host sees them. It takes time for each new one that
 * grows with those that are there already, and it does so in between of everybody's frames. So the
 * rectangles of a region are counted as the compositor's will be, and charged; damage, which is
 * only a hint, becomes the whole surface where there is much of it.
 */

#define REGION_MAX_RECTS  4096
#define RECTS_PER_MESSAGE 128u // of a region: so much work as one message
#define DAMAGE_MAX        128u // requests

/* ---- regions ---- */

struct counted_region {
	struct object_state state;
	pixman_region32_t region; // as the compositor's
	struct charge *charge;
};

static void destroy_region(struct object_state *state)
{
	struct counted_region *region = (struct counted_region *)state;
	pixman_region32_fini(&region->region);
	charge_unref(region->charge);
	free(region);
}

static struct budget *budget_of(const struct wayland_call *call)
{
	return call->wayland->options.refs->budget;
}

/* NULL on ENOMEM. */
static struct counted_region *get_region(struct wayland_call *call)
{
	if (call->object->state != NULL) {
		return (struct counted_region *)call->object->state;
	}
	struct counted_region *region = calloc(1, sizeof(*region));
	struct charge *charge = region != NULL ? charge_create(budget_of(call), 0) : NULL;
	if (charge == NULL) {
		free(region);
		return NULL;
	}
	region->state.destroy = destroy_region;
	region->charge = charge;
	pixman_region32_init(&region->region);
	call->object->state = &region->state;
	return region;
}

static int end_of(int32_t start, int32_t size)
{
	int64_t end = (int64_t)start + size;
	return end < INT32_MAX ? (int)end : INT32_MAX;
}

/* Of (x, y, width, height); empty where there is no such rectangle. */
static void init_operand(pixman_region32_t *operand, const struct wire_arg *args)
{
	int32_t x = (int32_t)args[0].value, y = (int32_t)args[1].value;
	int32_t width = (int32_t)args[2].value, height = (int32_t)args[3].value;
	if (width <= 0 || height <= 0) {
		pixman_region32_init(operand);
		return;
	}
	const pixman_box32_t box = {x, y, end_of(x, width), end_of(y, height)};
	pixman_region32_init_with_extents(operand, &box);
}

static enum wayland_verdict charge_region(struct wayland_call *call, struct counted_region *region)
{
	uint64_t n = (uint64_t)pixman_region32_n_rects(&region->region);
	if (n > REGION_MAX_RECTS) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "more than 4096 rectangles in a region");
	}
	if (!charge_grow(region->charge, n * sizeof(pixman_box32_t))) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "more memory than the session may have");
	}
	if (!budget_messages(budget_of(call), n / RECTS_PER_MESSAGE)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"more to add up than the session may ask for");
	}
	return WAYLAND_FORWARD;
}

static enum wayland_verdict change_region(struct wayland_call *call,
	pixman_bool_t (*change)(
		pixman_region32_t *result, const pixman_region32_t *a, const pixman_region32_t *b))
{
	struct counted_region *region = get_region(call);
	if (region == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	pixman_region32_t operand;
	init_operand(&operand, call->message.args);
	bool ok = change(&region->region, &region->region, &operand);
	pixman_region32_fini(&operand);
	return ok ? charge_region(call, region)
		  : wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
}

/* wl_region.add(x, y, width, height) */
enum wayland_verdict rectangles_import_add(struct wayland_call *call)
{
	return change_region(call, pixman_region32_union);
}

/* wl_region.subtract(x, y, width, height) */
enum wayland_verdict rectangles_import_subtract(struct wayland_call *call)
{
	return change_region(call, pixman_region32_subtract);
}

/* ---- damage ---- */

struct damaged {
	struct object_state state;
	bool adds_up;   // a sub-surface's: over its commits, until its parent's
	bool whole;     // since the last commit
	unsigned int n; // requests that the compositor may have added up
};

static void destroy_damaged(struct object_state *state)
{
	free(state);
}

/* Of a wl_surface. NULL on ENOMEM. */
static struct damaged *get_damaged(struct object *surface)
{
	if (surface->state == NULL) {
		struct damaged *damaged = calloc(1, sizeof(*damaged));
		if (damaged == NULL) {
			return NULL;
		}
		damaged->state.destroy = destroy_damaged;
		surface->state = &damaged->state;
	}
	return (struct damaged *)surface->state;
}

static void make_whole(const struct wire_arg *args)
{
	*args[0].word = *args[1].word = 0;
	*args[2].word = *args[3].word = INT32_MAX;
}

/* wl_surface.damage(x, y, width, height), damage_buffer */
enum wayland_verdict rectangles_import_damage(struct wayland_call *call)
{
	struct damaged *damaged = get_damaged(call->object);
	if (damaged == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	if (damaged->whole) {
		return WAYLAND_DROP;
	}
	if (++damaged->n > DAMAGE_MAX) {
		damaged->whole = true;
		make_whole(call->message.args);
	}
	return WAYLAND_FORWARD;
}

/* wl_surface.commit() */
enum wayland_verdict rectangles_import_commit(struct wayland_call *call)
{
	struct damaged *damaged = (struct damaged *)call->object->state;
	if (damaged != NULL) {
		bool begins_anew = damaged->whole || !damaged->adds_up;
		damaged->n = begins_anew ? 0 : damaged->n;
		damaged->whole = false;
	}
	return WAYLAND_FORWARD;
}

/* wl_subcompositor.get_subsurface(id, surface, parent) */
enum wayland_verdict rectangles_import_subsurface(struct wayland_call *call)
{
	struct wayland *wayland = call->wayland;
	struct object *surface = objects_get(&wayland->objects, call->message.args[1].value);
	bool is_surface = surface != NULL && !surface->destroyed && surface->interface != NULL &&
		strcmp(surface->interface->name, "wl_surface") == 0;
	if (!is_surface) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	struct damaged *damaged = get_damaged(surface);
	if (damaged == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	damaged->adds_up = true;
	return WAYLAND_FORWARD;
}
