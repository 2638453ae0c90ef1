#include <pixman.h>
#include <stdlib.h>
#include <string.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/buffer.h"
#include "relay/hooks.h"

/*
 * Rectangles that a compositor adds up, as the host sees them. It takes time for each new one that
 * grows with those that are there already, and it does so in between of everybody's frames. So the
 * rectangles of a region are counted as the compositor's will be, and charged, also where it copies
 * them; damage, which is only a hint, becomes the whole surface where there is much of it.
 *
 * The same goes for sub-surfaces, which it goes through at each commit of a surface above them. And each
 * surface may be a copy of its picture for the compositor, also where many show the same bytes.
 */

#define REGION_MAX_RECTS  4096
#define RECTS_PER_MESSAGE 128u // of a region: so much work as one message
#define DAMAGE_MAX        128u // requests

#define SUBSURFACES_MAX_DEPTH 64u

#define TEXTURE_PIXEL 4u // bytes

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

/* So many messages' work. */
static enum wayland_verdict charge_work(struct wayland_call *call, uint64_t messages)
{
	return budget_messages(budget_of(call), messages)
		? WAYLAND_FORWARD
		: wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			  "more to add up than the session may ask for");
}

static uint32_t count_rects(const struct counted_region *region)
{
	return (uint32_t)pixman_region32_n_rects((pixman_region32_t *)&region->region);
}

static enum wayland_verdict charge_region(struct wayland_call *call, struct counted_region *region)
{
	uint32_t n = count_rects(region);
	if (n > REGION_MAX_RECTS) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "more than 4096 rectangles in a region");
	}
	if (!charge_grow(region->charge, n * sizeof(pixman_box32_t))) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "more memory than the session may have");
	}
	return charge_work(call, n / RECTS_PER_MESSAGE);
}

static enum wayland_verdict change_region(struct wayland_call *call,
	pixman_bool_t (*change)(
		pixman_region32_t *result, const pixman_region32_t *a, const pixman_region32_t *b))
{
	struct counted_region *region = get_region(call);
	if (region == NULL) {
		return wayland_fail_no_memory(call);
	}
	pixman_region32_t operand;
	init_operand(&operand, call->message.args);
	bool ok = change(&region->region, &region->region, &operand);
	pixman_region32_fini(&operand);
	return ok ? charge_region(call, region) : wayland_fail_no_memory(call);
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

/* Of the region that is argument i; 0: it is none. */
static uint32_t region_arg(struct wayland_call *call, size_t i)
{
	bool is_object = call->message.op->args[i].type == WIRE_ARG_OBJECT;
	const struct counted_region *region =
		is_object ? (struct counted_region *)wayland_arg_state(call, i, "wl_region") : NULL;
	return region != NULL ? count_rects(region) : 0;
}

/* Any other request that names a wl_region: the compositor makes a copy. */
enum wayland_verdict rectangles_import_region_args(struct wayland_call *call)
{
	uint64_t n = 0;
	for (size_t i = 0; i < call->message.op->n_args; i++) {
		n += region_arg(call, i);
	}
	return charge_work(call, n / RECTS_PER_MESSAGE);
}

/* ---- surfaces ---- */

struct counted_surface {
	struct object_state state;
	bool adds_up;            // damage of a sub-surface's: over its commits, until its parent's
	bool whole;              // damage since the last commit
	unsigned int n_damage;   // requests that the compositor may have added up
	uint32_t opaque, input;  // rectangles of the regions that it has
	uint64_t picture;        // bytes of the buffer that it shows: charged to budget
	uint64_t next_picture;   // of what was attached last
	struct budget *budget;   // NULL: nothing was attached yet
	struct charge *fds;      // of the dma-bufs that it shows; NULL: of none
	struct charge *next_fds; // of what was attached last
	struct subsurface *role; // NULL: it is no sub-surface
	struct wl_list children; // subsurface.link
	uint32_t n_below;        // sub-surfaces, of its children, too
	uint32_t height;         // that the tree below it has had at most
};

/* Of a wl_subsurface's object. */
struct subsurface {
	struct object_state state;
	struct wl_list link;                      // parent.children
	struct counted_surface *surface, *parent; // NULL: it has gone
};

/* So many are in the tree above surface now, or are not any more. */
static void count_below(struct counted_surface *surface, uint32_t n, bool more)
{
	while (surface != NULL) {
		surface->n_below = more ? surface->n_below + n : surface->n_below - n;
		surface = surface->role != NULL ? surface->role->parent : NULL;
	}
}

static void leave_parent(struct subsurface *subsurface)
{
	if (subsurface->parent != NULL && subsurface->surface != NULL) {
		count_below(subsurface->parent, 1 + subsurface->surface->n_below, false);
	}
	wl_list_remove(&subsurface->link);
	wl_list_init(&subsurface->link);
	subsurface->parent = NULL;
}

static void destroy_subsurface(struct object_state *state)
{
	struct subsurface *subsurface = (struct subsurface *)state;
	leave_parent(subsurface);
	if (subsurface->surface != NULL) {
		subsurface->surface->role = NULL;
	}
	free(subsurface);
}

static void destroy_surface(struct object_state *state)
{
	struct counted_surface *surface = (struct counted_surface *)state;
	struct subsurface *child, *next;
	wl_list_for_each_safe (child, next, &surface->children, link) {
		leave_parent(child);
	}
	if (surface->role != NULL) {
		leave_parent(surface->role);
		surface->role->surface = NULL;
	}
	if (surface->picture > 0) {
		budget_release(surface->budget, BUDGET_MEMORY, surface->picture);
	}
	charge_unref(surface->fds);
	charge_unref(surface->next_fds);
	free(surface);
}

/* Of a wl_surface. NULL on ENOMEM. */
static struct counted_surface *get_surface(struct object *object)
{
	if (object->state == NULL) {
		struct counted_surface *surface = calloc(1, sizeof(*surface));
		if (surface == NULL) {
			return NULL;
		}
		surface->state.destroy = destroy_surface;
		wl_list_init(&surface->children);
		object->state = &surface->state;
	}
	return (struct counted_surface *)object->state;
}

/* ---- damage ---- */

static void make_whole(const struct wire_arg *args)
{
	*args[0].word = *args[1].word = 0;
	*args[2].word = *args[3].word = INT32_MAX;
}

/* wl_surface.damage(x, y, width, height), damage_buffer */
enum wayland_verdict rectangles_import_damage(struct wayland_call *call)
{
	struct counted_surface *surface = get_surface(call->object);
	if (surface == NULL) {
		return wayland_fail_no_memory(call);
	}
	if (surface->whole) {
		return WAYLAND_DROP;
	}
	if (++surface->n_damage > DAMAGE_MAX) {
		surface->whole = true;
		make_whole(call->message.args);
	}
	return WAYLAND_FORWARD;
}

/* ---- commits ---- */

/* wl_surface.set_opaque_region(region) */
enum wayland_verdict rectangles_import_opaque(struct wayland_call *call)
{
	struct counted_surface *surface = get_surface(call->object);
	if (surface == NULL) {
		return wayland_fail_no_memory(call);
	}
	surface->opaque = region_arg(call, 0);
	return charge_work(call, surface->opaque / RECTS_PER_MESSAGE);
}

/* wl_surface.set_input_region(region) */
enum wayland_verdict rectangles_import_input(struct wayland_call *call)
{
	struct counted_surface *surface = get_surface(call->object);
	if (surface == NULL) {
		return wayland_fail_no_memory(call);
	}
	surface->input = region_arg(call, 0);
	return charge_work(call, surface->input / RECTS_PER_MESSAGE);
}

/*
 * That a compositor keeps of it beside it, at most: a texture, where it is no dma-buf. None of what it rejects,
 * as it does not lie in its pool or has rows that are too short.
 */
static uint64_t copied_bytes(const struct buffer *buffer)
{
	const struct buffer_plane *plane = &buffer->planes[0];
	uint64_t texture = (uint64_t)buffer->width * (uint64_t)buffer->height * TEXTURE_PIXEL;
	uint64_t rows = (uint64_t)plane->stride * (uint64_t)buffer->height;
	bool rejected = rows > plane->pool->charged || plane->stride < (uint32_t)buffer->width;
	if (buffer_is_dmabuf(buffer) || rejected) {
		return 0;
	}
	return rows > texture ? rows : texture;
}

/* wl_surface.attach(buffer, x, y) */
enum wayland_verdict rectangles_import_attach(struct wayland_call *call)
{
	struct counted_surface *surface = get_surface(call->object);
	const struct buffer *buffer =
		(const struct buffer *)wayland_arg_state(call, 0, "wl_buffer");
	if (surface == NULL) {
		return wayland_fail_no_memory(call);
	}
	surface->next_picture = buffer != NULL ? copied_bytes(buffer) : 0;
	surface->budget = budget_of(call);
	charge_unref(surface->next_fds);
	surface->next_fds = buffer != NULL && buffer->fds != NULL ? charge_ref(buffer->fds) : NULL;
	return WAYLAND_FORWARD;
}

static bool charge_picture(struct counted_surface *surface)
{
	uint64_t now = surface->picture, next = surface->next_picture;
	if (next > now && !budget_charge(surface->budget, BUDGET_MEMORY, next - now)) {
		return false;
	}
	if (next < now) {
		budget_release(surface->budget, BUDGET_MEMORY, now - next);
	}
	surface->picture = next;
	charge_unref(surface->fds);
	surface->fds = surface->next_fds != NULL ? charge_ref(surface->next_fds) : NULL;
	return true;
}

/* wl_surface.commit() */
enum wayland_verdict rectangles_import_commit(struct wayland_call *call)
{
	struct counted_surface *surface = (struct counted_surface *)call->object->state;
	if (surface == NULL) {
		return WAYLAND_FORWARD;
	}
	bool begins_anew = surface->whole || !surface->adds_up;
	surface->n_damage = begins_anew ? 0 : surface->n_damage;
	surface->whole = false;
	if (!charge_picture(surface)) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "more memory than the session may have");
	}
	uint64_t rects = (uint64_t)surface->opaque + surface->input;
	return charge_work(call, surface->n_below + rects / RECTS_PER_MESSAGE);
}

/* ---- sub-surfaces ---- */

/* NULL: the argument is no wl_surface, or out of memory. */
static struct counted_surface *surface_arg(struct wayland_call *call, size_t i)
{
	struct object *object = objects_get(&call->wayland->objects, call->message.args[i].value);
	bool is_surface = object != NULL && !object->destroyed && object->interface != NULL &&
		strcmp(object->interface->name, "wl_surface") == 0;
	return is_surface ? get_surface(object) : NULL;
}

/* How many are above surface. other is not to be among them, nor it: UINT32_MAX. */
static uint32_t count_above(
	const struct counted_surface *surface, const struct counted_surface *other)
{
	uint32_t n = 0;
	while (surface != other && surface->role != NULL && surface->role->parent != NULL) {
		surface = surface->role->parent;
		n++;
	}
	return surface != other ? n : UINT32_MAX;
}

/* A tree of height below surface is there. */
static void grow(struct counted_surface *surface, uint32_t height)
{
	while (surface != NULL && surface->height < height) {
		surface->height = height++;
		surface = surface->role != NULL ? surface->role->parent : NULL;
	}
}

/* Its parent has gone, so it may have another one. */
static void forget_role(struct counted_surface *surface)
{
	if (surface->role != NULL && surface->role->parent == NULL) {
		surface->role->surface = NULL;
		surface->role = NULL;
	}
}

/* NULL on ENOMEM. */
static struct subsurface *create_subsurface(
	struct counted_surface *surface, struct counted_surface *parent)
{
	struct subsurface *subsurface = calloc(1, sizeof(*subsurface));
	if (subsurface == NULL) {
		return NULL;
	}
	subsurface->state.destroy = destroy_subsurface;
	subsurface->surface = surface;
	subsurface->parent = parent;
	wl_list_insert(&parent->children, &subsurface->link);
	count_below(parent, 1 + surface->n_below, true);
	grow(parent, 1 + surface->height);
	surface->role = subsurface;
	surface->adds_up = true;
	return subsurface;
}

/* Compositors go down the tree by calling themselves. */
static enum wayland_verdict join(
	struct wayland_call *call, struct counted_surface *surface, struct counted_surface *parent)
{
	uint32_t above = count_above(parent, surface);
	forget_role(surface);
	if (above == UINT32_MAX || surface->role != NULL) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	if (above + 1 + surface->height > SUBSURFACES_MAX_DEPTH) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"sub-surfaces of sub-surfaces, more than 64 deep");
	}
	struct subsurface *subsurface = create_subsurface(surface, parent);
	if (subsurface == NULL) {
		return wayland_fail_no_memory(call);
	}
	wayland_new_object(call, 0)->state = &subsurface->state;
	return WAYLAND_FORWARD;
}

/* wl_subcompositor.get_subsurface(id, surface, parent) */
enum wayland_verdict rectangles_import_subsurface(struct wayland_call *call)
{
	struct counted_surface *surface = surface_arg(call, 1), *parent = surface_arg(call, 2);
	if (surface == NULL || parent == NULL) {
		return WAYLAND_FORWARD; // for the compositor to reject
	}
	return join(call, surface, parent);
}

/* wl_subsurface.place_above(sibling), place_below: it is looked for among all of them. */
enum wayland_verdict rectangles_import_place(struct wayland_call *call)
{
	const struct subsurface *subsurface = (struct subsurface *)call->object->state;
	const struct counted_surface *parent = subsurface != NULL ? subsurface->parent : NULL;
	return charge_work(call, parent != NULL ? parent->n_below : 0);
}

/* wl_subsurface.set_desync(): what was committed while it was synchronized is now. */
enum wayland_verdict rectangles_import_desync(struct wayland_call *call)
{
	const struct subsurface *subsurface = (struct subsurface *)call->object->state;
	const struct counted_surface *surface = subsurface != NULL ? subsurface->surface : NULL;
	return charge_work(call, surface != NULL ? surface->n_below : 0);
}
