#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "relay/session.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"
#include "viewporter-client.h"

/*
 * After every commit, whatever a client did that the protocol allows, the compositor finds in the
 * buffer what the client has put there.
 *
 * The client keeps a picture for each surface. A step changes some of it, brings a buffer of its
 * choice up to date, tells damage that covers at least the change, and commits.
 */

#define SEEDS        24
#define STEPS        250
#define MAX_SURFACES 4
#define MAX_CHAIN    4
#define MAX_BOXES    120
#define POOL_SIZE    (256u * 1024)

struct box {
	int32_t x1, y1, x2, y2;
};

struct slot {
	struct wl_buffer *buffer; // NULL: none
	size_t pool;
	uint32_t offset;
};

struct geometry {
	int32_t scale, transform;
	bool has_source, has_destination;
	wl_fixed_t x, y, width, height;
	int32_t to_width, to_height;
};

struct actor {
	struct wl_surface *surface;
	struct wp_viewport *viewport;
	struct geometry geometry;
	int32_t width, height, stride, bytes; // of every buffer of the chain
	uint32_t format;
	struct slot chain[MAX_CHAIN];
	int n_chain;
	int shown;        // in the chain; -1: none
	bool known;       // picture was shown with this geometry
	uint8_t *picture; // height * width * bytes, without padding
};

#define MAX_POOLS 3

struct stage {
	struct world *world;
	struct client *client;
	struct paint_rng rng;
	struct wl_compositor *compositor;
	struct wl_shm *shm;
	struct wp_viewporter *viewporter;
	struct paint_pool pools[MAX_POOLS];
	uint32_t used[MAX_POOLS]; // bytes given to buffers
	struct actor actors[MAX_SURFACES];
	int n_actors;
	bool large; // buffers, and damage that is told where little has changed
	unsigned int seed, step;
};

static const struct {
	uint32_t format;
	int32_t bytes;
} formats[] = {
	{WL_SHM_FORMAT_ARGB8888, 4}, {WL_SHM_FORMAT_XRGB8888, 4}, {WL_SHM_FORMAT_RGB565, 2},
	{WL_SHM_FORMAT_BGR888, 3}, {WL_SHM_FORMAT_R8, 1}, {WL_SHM_FORMAT_ABGR16161616F, 8},
	{0x3f3f3f3f, 4}, // nobody knows it
};

static int32_t pick(struct stage *stage, int32_t low, int32_t high)
{
	return paint_range(&stage->rng, low, high);
}

static bool once_in(struct stage *stage, int32_t n)
{
	return paint_once_in(&stage->rng, n);
}

/* ---- buffers ---- */

static void drop_chain(struct actor *actor)
{
	for (int i = 0; i < actor->n_chain; i++) {
		if (actor->chain[i].buffer != NULL) {
			wl_buffer_destroy(actor->chain[i].buffer);
		}
	}
	actor->n_chain = 0;
	actor->shown = -1;
	free(actor->picture);
	actor->picture = NULL;
	actor->known = false;
}

static bool nobody_uses(const struct stage *stage, size_t pool)
{
	for (int i = 0; i < stage->n_actors; i++) {
		const struct actor *actor = &stage->actors[i];
		for (int j = 0; j < actor->n_chain; j++) {
			if (actor->chain[j].buffer != NULL && actor->chain[j].pool == pool) {
				return false;
			}
		}
	}
	return true;
}

/* A place in some pool; pools without buffers begin anew, sometimes as another pool. */
static void place_slot(struct stage *stage, struct slot *slot, uint32_t size)
{
	slot->pool = (size_t)pick(stage, 0, MAX_POOLS - 1);
	struct paint_pool *pool = &stage->pools[slot->pool];
	uint32_t *used = &stage->used[slot->pool];
	if (nobody_uses(stage, slot->pool) || pool->pool == NULL) {
		*used = 0;
		if (pool->pool == NULL || once_in(stage, 3)) {
			paint_pool_finish(pool);
			paint_pool_init(pool, stage->shm, POOL_SIZE);
		}
	}
	if (*used > 0 && once_in(stage, 6)) {
		*used -= (uint32_t)pick(stage, 0, (int32_t)*used / 2) &
			~3u; // overlaps the last ones
	}
	slot->offset = *used;
	*used += size;
	if (*used > pool->size) {
		paint_pool_resize(pool, *used + (uint32_t)pick(stage, 0, 5000));
	}
}

static void new_chain(struct stage *stage, struct actor *actor)
{
	drop_chain(actor);
	size_t format = once_in(stage, 3)
		? (size_t)pick(stage, 0, sizeof(formats) / sizeof(formats[0]) - 1)
		: 0;
	actor->format = formats[format].format;
	actor->bytes = formats[format].bytes;
	actor->width = once_in(stage, 8) ? 1 : pick(stage, 1, 90);
	actor->height = once_in(stage, 8) ? 1 : pick(stage, 1, 90);
	if (stage->large) {
		actor->width += 1000;
		actor->height += 50;
	}
	actor->stride = actor->width * actor->bytes;
	if (once_in(stage, 2)) {
		actor->stride += 4 * pick(stage, 0, 9);
	}
	actor->n_chain = pick(stage, 1, MAX_CHAIN);
	uint32_t size = (uint32_t)(actor->stride * actor->height);
	for (int i = 0; i < actor->n_chain; i++) {
		struct slot *slot = &actor->chain[i];
		slot->buffer = NULL;
		place_slot(stage, slot, size);
		slot->buffer = wl_shm_pool_create_buffer(stage->pools[slot->pool].pool,
			(int32_t)slot->offset, actor->width, actor->height, actor->stride,
			actor->format);
	}
	size_t picture = (size_t)(actor->width * actor->height * actor->bytes);
	actor->picture = malloc(picture);
	paint_noise(&stage->rng, actor->picture, picture);
}

static uint8_t *slot_row(
	struct stage *stage, const struct actor *actor, const struct slot *slot, int32_t y)
{
	return stage->pools[slot->pool].data + slot->offset + (size_t)(y * actor->stride);
}

static uint8_t *picture_row(const struct actor *actor, int32_t y)
{
	return actor->picture + (size_t)(y * actor->width * actor->bytes);
}

/* The whole buffer is made to hold the picture, however old it is. */
static void draw(struct stage *stage, struct actor *actor, const struct slot *slot)
{
	for (int32_t y = 0; y < actor->height; y++) {
		memcpy(slot_row(stage, actor, slot, y), picture_row(actor, y),
			(size_t)(actor->width * actor->bytes));
	}
}

/* ---- changes ---- */

static struct box random_box(struct stage *stage, const struct actor *actor, int32_t most)
{
	struct box box = {
		.x1 = pick(stage, 0, actor->width - 1), .y1 = pick(stage, 0, actor->height - 1)};
	box.x2 = box.x1 + pick(stage, 1, most);
	box.y2 = box.y1 + pick(stage, 1, most);
	box.x2 = box.x2 < actor->width ? box.x2 : actor->width;
	box.y2 = box.y2 < actor->height ? box.y2 : actor->height;
	return box;
}

static void change_picture(struct stage *stage, struct actor *actor, const struct box *box)
{
	bool sparse = once_in(stage, 4);
	for (int32_t y = box->y1; y < box->y2; y++) {
		for (int32_t x = box->x1; x < box->x2; x++) {
			if (!sparse || once_in(stage, 4)) {
				paint_noise(&stage->rng,
					picture_row(actor, y) + (size_t)(x * actor->bytes),
					(size_t)actor->bytes);
			}
		}
	}
}

/* Whole rows become one of few pictures, so that what was there before comes again. */
static struct box change_band(struct stage *stage, struct actor *actor)
{
	struct box band = random_box(stage, actor, 4);
	uint32_t which = (uint32_t)pick(stage, 1, 3);
	band.x1 = 0;
	band.x2 = actor->width;
	for (int32_t y = band.y1; y < band.y2; y++) {
		struct paint_rng rng = {.state = which * 1000 + (uint32_t)y};
		paint_noise(&rng, picture_row(actor, y), (size_t)(actor->width * actor->bytes));
	}
	return band;
}

/* Of random number and size; gives the boxes outside of which nothing changed. */
static int change(struct stage *stage, struct actor *actor, struct box *boxes)
{
	bool many = once_in(stage, stage->large ? 40 : 6);
	int n = many ? pick(stage, 30, MAX_BOXES) : pick(stage, 0, stage->large ? 2 : 4);
	for (int i = 0; i < n; i++) {
		if (stage->large && !many && !once_in(stage, 8)) {
			boxes[i] = change_band(stage, actor);
			continue;
		}
		boxes[i] = random_box(stage, actor, many ? 3 : once_in(stage, 4) ? 90 : 15);
		change_picture(stage, actor, &boxes[i]);
	}
	return n;
}

/* ---- damage, with a geometry of this file's own ---- */

struct point {
	double x, y;
};

/*
 * wl_output.transform flips around a vertical axis, then turns anticlockwise; the buffer has been
 * transformed. Here each turn is taken back by a clockwise one, then the flip.
 */
static struct point to_upright(struct point p, int32_t transform, double width, double height)
{
	for (int turns = transform & 3; turns > 0; turns--) {
		p = (struct point){height - p.y, p.x};
		double was = width;
		width = height;
		height = was;
	}
	if (transform & 4) {
		p.x = width - p.x;
	}
	return p;
}

static struct point to_surface(const struct actor *actor, double x, double y)
{
	const struct geometry *geometry = &actor->geometry;
	struct point p =
		to_upright((struct point){x, y}, geometry->transform, actor->width, actor->height);
	p.x /= geometry->scale;
	p.y /= geometry->scale;
	double width =
		(geometry->transform & 1 ? actor->height : actor->width) / (double)geometry->scale;
	double height =
		(geometry->transform & 1 ? actor->width : actor->height) / (double)geometry->scale;
	if (geometry->has_source) {
		p.x -= wl_fixed_to_double(geometry->x);
		p.y -= wl_fixed_to_double(geometry->y);
		width = wl_fixed_to_double(geometry->width);
		height = wl_fixed_to_double(geometry->height);
	}
	if (geometry->has_destination) {
		p.x *= geometry->to_width / width;
		p.y *= geometry->to_height / height;
	}
	return p;
}

static int32_t down(double v)
{
	int32_t i = (int32_t)v;
	return i > v ? i - 1 : i;
}

static int32_t up(double v)
{
	return -down(-v);
}

/* The pixels of the surface that a box of the buffer lies in. */
static struct box box_on_surface(const struct actor *actor, const struct box *box)
{
	struct point a = to_surface(actor, box->x1, box->y1),
		     b = to_surface(actor, box->x2, box->y2);
	const double slack = 1e-9; // of the sums above
	return (struct box){
		.x1 = down((a.x < b.x ? a.x : b.x) + slack),
		.y1 = down((a.y < b.y ? a.y : b.y) + slack),
		.x2 = up((a.x < b.x ? b.x : a.x) - slack),
		.y2 = up((a.y < b.y ? b.y : a.y) - slack),
	};
}

static void grow_box(struct stage *stage, struct box *box)
{
	int32_t most = stage->large ? 60 : 6;
	if (stage->large || once_in(stage, 3)) {
		box->x1 -= pick(stage, 0, most);
		box->y1 -= pick(stage, 0, most);
		box->x2 += pick(stage, 0, most);
		box->y2 += pick(stage, 0, most);
	}
}

static void tell_box(struct stage *stage, struct actor *actor, struct box box)
{
	if (once_in(stage, 2)) {
		grow_box(stage, &box);
		wl_surface_damage_buffer(
			actor->surface, box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1);
	} else {
		box = box_on_surface(actor, &box);
		grow_box(stage, &box);
		wl_surface_damage(actor->surface, box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1);
	}
}

static void tell_damage(struct stage *stage, struct actor *actor, const struct box *boxes, int n)
{
	int32_t seldom = stage->large ? 3 : 15;
	if (n > 0 && once_in(stage, seldom)) {
		wl_surface_damage(actor->surface, 0, 0, INT32_MAX, INT32_MAX);
		return;
	}
	if (n > 0 && once_in(stage, seldom)) {
		wl_surface_damage_buffer(
			actor->surface, INT32_MIN / 2, INT32_MIN / 2, INT32_MAX, INT32_MAX);
		return;
	}
	for (int i = 0; i < n; i++) {
		tell_box(stage, actor, boxes[i]);
	}
	if (once_in(stage, 5)) { // more than there is
		tell_box(stage, actor, random_box(stage, actor, 20));
	}
}

/* ---- geometry ---- */

static void unset_viewport(struct geometry *geometry)
{
	geometry->has_source = geometry->has_destination = false;
	geometry->x = geometry->y = geometry->width = geometry->height = 0;
	geometry->to_width = geometry->to_height = 0;
}

static void set_viewport(struct stage *stage, struct actor *actor)
{
	struct geometry *geometry = &actor->geometry;
	int32_t width =
		(geometry->transform & 1 ? actor->height : actor->width) * 256 / geometry->scale;
	int32_t height =
		(geometry->transform & 1 ? actor->width : actor->height) * 256 / geometry->scale;
	unset_viewport(geometry);
	geometry->has_source = once_in(stage, 2);
	geometry->has_destination = geometry->has_source || once_in(stage, 2);
	if (geometry->has_source) {
		geometry->x = pick(stage, 0, width - 1);
		geometry->y = pick(stage, 0, height - 1);
		geometry->width = pick(stage, 1, width - geometry->x);
		geometry->height = pick(stage, 1, height - geometry->y);
		wp_viewport_set_source(actor->viewport, geometry->x, geometry->y, geometry->width,
			geometry->height);
	} else {
		wp_viewport_set_source(actor->viewport, -256, -256, -256, -256);
	}
	if (geometry->has_destination) {
		geometry->to_width = pick(stage, 1, 120);
		geometry->to_height = pick(stage, 1, 120);
		wp_viewport_set_destination(
			actor->viewport, geometry->to_width, geometry->to_height);
	} else {
		wp_viewport_set_destination(actor->viewport, -1, -1);
	}
}

static void drop_viewport(struct actor *actor)
{
	if (actor->viewport != NULL) {
		wp_viewport_destroy(actor->viewport);
		actor->viewport = NULL;
	}
	unset_viewport(&actor->geometry);
}

static void new_geometry(struct stage *stage, struct actor *actor)
{
	struct geometry *geometry = &actor->geometry;
	const struct geometry before =
		*geometry; // the whole struct: there is no padding that varies
	if (once_in(stage, 2)) {
		geometry->scale = pick(stage, 1, 3);
		wl_surface_set_buffer_scale(actor->surface, geometry->scale);
	}
	if (once_in(stage, 2)) {
		geometry->transform = pick(stage, 0, 7);
		wl_surface_set_buffer_transform(actor->surface, geometry->transform);
	}
	// A source must lie in the buffer.
	if (once_in(stage, 2)) {
		drop_viewport(actor);
	} else {
		if (actor->viewport == NULL) {
			actor->viewport =
				wp_viewporter_get_viewport(stage->viewporter, actor->surface);
		}
		set_viewport(stage, actor);
	}
	if (memcmp(&before, geometry, sizeof(before)) != 0) {
		actor->known = false;
	}
}

/* ---- what came of it ---- */

/* What of the buffer can be seen at all. */
static bool is_visible(const struct actor *actor, int32_t x, int32_t y)
{
	const struct geometry *geometry = &actor->geometry;
	if (!geometry->has_source) {
		return true;
	}
	struct point a =
		to_upright((struct point){x, y}, geometry->transform, actor->width, actor->height);
	struct point b = to_upright(
		(struct point){x + 1, y + 1}, geometry->transform, actor->width, actor->height);
	double x1 = wl_fixed_to_double(geometry->x) * geometry->scale;
	double y1 = wl_fixed_to_double(geometry->y) * geometry->scale;
	double x2 = x1 + wl_fixed_to_double(geometry->width) * geometry->scale;
	double y2 = y1 + wl_fixed_to_double(geometry->height) * geometry->scale;
	return (a.x < b.x ? a.x : b.x) < x2 && (a.x < b.x ? b.x : a.x) > x1 &&
		(a.y < b.y ? a.y : b.y) < y2 && (a.y < b.y ? b.y : a.y) > y1;
}

static void complain(const struct stage *stage, const struct actor *actor, int32_t x, int32_t y)
{
	const struct geometry *geometry = &actor->geometry;
	fail_msg("seed %u, step %u, surface %td: pixel %d,%d of %dx%d differs (scale %d, "
		 "transform %d, source %d, destination %d, %d bytes a pixel, chain of %d)",
		stage->seed, stage->step, actor - stage->actors, x, y, actor->width, actor->height,
		geometry->scale, geometry->transform, geometry->has_source,
		geometry->has_destination, actor->bytes, actor->n_chain);
}

static void compare(struct stage *stage, struct actor *actor)
{
	const struct screen_surface *surface = client_shown(stage->client, actor->surface);
	assert_non_null(surface->picture);
	assert_int_equal(surface->shown.width, actor->width);
	assert_int_equal(surface->shown.height, actor->height);
	size_t bytes = (size_t)actor->bytes;
	for (int32_t y = 0; y < actor->height; y++) {
		const uint8_t *there = surface->picture + (size_t)(y * actor->stride);
		const uint8_t *here = picture_row(actor, y);
		if (memcmp(there, here, (size_t)actor->width * bytes) == 0) {
			continue;
		}
		for (int32_t x = 0; x < actor->width; x++) {
			if (is_visible(actor, x, y) &&
				memcmp(there + (size_t)x * bytes, here + (size_t)x * bytes,
					bytes) != 0) {
				complain(stage, actor, x, y);
			}
		}
	}
}

/* ---- steps ---- */

static void hide(struct actor *actor)
{
	wl_surface_attach(actor->surface, NULL, 0, 0);
	wl_surface_commit(actor->surface);
	actor->shown = -1;
	actor->known = false;
}

static void replace_actor(struct stage *stage, struct actor *actor)
{
	drop_viewport(actor);
	wl_surface_destroy(actor->surface);
	drop_chain(actor);
	*actor = (struct actor){.geometry.scale = 1, .shown = -1};
	actor->surface = wl_compositor_create_surface(stage->compositor);
}

static void destroy_a_buffer(struct actor *actor)
{
	if (actor->n_chain < 2) {
		return;
	}
	int last = actor->n_chain - 1;
	wl_buffer_destroy(actor->chain[last].buffer);
	actor->chain[last].buffer = NULL;
	actor->n_chain--;
	if (actor->shown == last) {
		actor->shown = -1; // its picture stays the surface's, but cannot be drawn upon
	}
}

static void destroy_a_pool(struct stage *stage)
{
	struct paint_pool *pool = &stage->pools[pick(stage, 0, MAX_POOLS - 1)];
	if (pool->pool != NULL) {
		wl_shm_pool_destroy(pool->pool);
		pool->pool = NULL;
	}
}

/* No buffer can be made of a pool that is destroyed while buffers are left in it. */
static bool pools_are_there(const struct stage *stage)
{
	for (size_t i = 0; i < MAX_POOLS; i++) {
		if (stage->pools[i].pool == NULL && !nobody_uses(stage, i)) {
			return false;
		}
	}
	return true;
}

static void show_picture(struct stage *stage, struct actor *actor)
{
	struct box boxes[MAX_BOXES];
	if (actor->n_chain == 0 ||
		(once_in(stage, stage->large ? 60 : 12) && pools_are_there(stage))) {
		if (!pools_are_there(stage)) {
			return;
		}
		drop_viewport(actor);
		new_chain(stage, actor);
	}
	int n = change(stage, actor, boxes);
	// A commit without a buffer and without damage shows nothing new.
	bool attach = actor->shown < 0 || !actor->known || n == 0 || !once_in(stage, 5);
	int next = attach ? pick(stage, 0, actor->n_chain - 1) : actor->shown;
	bool early = once_in(stage, 2); // damage before or after the rest
	if (once_in(stage, stage->large ? 60 : 15)) {
		new_geometry(stage, actor);
	}
	// What nobody knows yet needs no damage.
	n = actor->known || once_in(stage, 2) ? n : 0;
	if (early) {
		tell_damage(stage, actor, boxes, n);
	}
	draw(stage, actor, &actor->chain[next]);
	if (attach) {
		bool moves = once_in(stage, 25);
		wl_surface_attach(actor->surface, actor->chain[next].buffer, moves ? 3 : 0, 0);
	}
	if (!early) {
		tell_damage(stage, actor, boxes, n);
	}
	wl_surface_commit(actor->surface);
	actor->shown = next;
	actor->known = true;
	client_roundtrip(stage->client);
	compare(stage, actor);
}

static void step(struct stage *stage)
{
	struct actor *actor = &stage->actors[pick(stage, 0, stage->n_actors - 1)];
	switch (pick(stage, 0, 40)) {
	case 0:
		hide(actor);
		break;
	case 1:
		wl_surface_commit(actor->surface);
		break;
	case 2:
		destroy_a_buffer(actor);
		break;
	case 3:
		destroy_a_pool(stage);
		break;
	case 4:
		if (once_in(stage, 4)) {
			replace_actor(stage, actor);
		}
		break;
	default:
		show_picture(stage, actor);
	}
}

static void run_seed(unsigned int seed, bool large, const struct pair_options *options)
{
	struct stage stage = {.seed = seed, .rng = {.state = seed}, .large = large};
	stage.world = world_create();
	stage.client = client_create(stage.world, options);
	stage.compositor = client_bind(stage.client, &wl_compositor_interface, 5);
	stage.shm = client_bind(stage.client, &wl_shm_interface, 1);
	stage.viewporter = client_bind(stage.client, &wp_viewporter_interface, 1);
	for (size_t i = 0; i < MAX_POOLS; i++) {
		paint_pool_init(&stage.pools[i], stage.shm, POOL_SIZE);
	}
	stage.n_actors = pick(&stage, 1, large ? 2 : MAX_SURFACES);
	for (int i = 0; i < stage.n_actors; i++) {
		stage.actors[i].surface = wl_compositor_create_surface(stage.compositor);
		stage.actors[i].geometry.scale = 1;
		stage.actors[i].shown = -1;
	}
	for (stage.step = 0; stage.step < STEPS; stage.step++) {
		step(&stage);
	}
	for (int i = 0; i < stage.n_actors; i++) {
		drop_viewport(&stage.actors[i]);
		drop_chain(&stage.actors[i]);
		wl_surface_destroy(stage.actors[i].surface);
	}
	for (size_t i = 0; i < MAX_POOLS; i++) {
		paint_pool_finish(&stage.pools[i]);
	}
	if (options != NULL && options->region) {
		// else the region was not tried at all
		assert_true(
			session_stats(stage.client->pair.guest.session)->memory_bytes_shared > 0);
	}
	wp_viewporter_destroy(stage.viewporter);
	wl_shm_destroy(stage.shm);
	wl_compositor_destroy(stage.compositor);
	world_destroy(stage.world);
}

static void the_compositor_sees_what_the_client_drew_after_every_commit(void **state)
{
	(void)state;
	for (unsigned int seed = 1; seed <= SEEDS; seed++) {
		run_seed(seed, false, NULL);
	}
}

static void so_it_does_in_large_buffers_with_much_idle_damage(void **state)
{
	(void)state;
	for (unsigned int seed = 201; seed <= 206; seed++) {
		run_seed(seed, true, NULL);
	}
}

static void the_same_over_a_channel_that_takes_little_at_a_time(void **state)
{
	(void)state;
	struct pair_options options = {.channel_buffer = 1, .local_buffer = 1};
	for (unsigned int seed = 101; seed <= 104; seed++) {
		run_seed(seed, false, &options);
	}
}

// A region is passed by a UNIX socket only.
static void make_channel(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void the_same_in_a_region(void **state)
{
	(void)state;
	struct pair_options options = {.region = true, .make_channel = make_channel};
	for (unsigned int seed = 301; seed <= 316; seed++) {
		run_seed(seed, false, &options);
	}
	for (unsigned int seed = 401; seed <= 403; seed++) {
		run_seed(seed, true, &options);
	}
}

static void the_same_where_some_pools_find_no_room_in_the_region(void **state)
{
	(void)state;
	struct pair_options options = {
		.region = true,
		.region_size = 6 * POOL_SIZE,
		.make_channel = make_channel,
	};
	for (unsigned int seed = 501; seed <= 508; seed++) {
		run_seed(seed, false, &options);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(the_same_in_a_region),
		fd_count_test(the_same_where_some_pools_find_no_room_in_the_region),
		fd_count_test(the_compositor_sees_what_the_client_drew_after_every_commit),
		fd_count_test(so_it_does_in_large_buffers_with_much_idle_damage),
		fd_count_test(the_same_over_a_channel_that_takes_little_at_a_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
