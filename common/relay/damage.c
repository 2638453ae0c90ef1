#include "relay/damage.h"

#include <math.h>

static int32_t clamp(int64_t value)
{
	return value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : (int32_t)value;
}

static bool contains(const pixman_box32_t *outer, const pixman_box32_t *inner)
{
	return outer->x1 <= inner->x1 && outer->y1 <= inner->y1 && outer->x2 >= inner->x2 &&
		outer->y2 >= inner->y2;
}

static void extend(pixman_box32_t *box, const pixman_box32_t *other)
{
	box->x1 = box->x1 < other->x1 ? box->x1 : other->x1;
	box->y1 = box->y1 < other->y1 ? box->y1 : other->y1;
	box->x2 = box->x2 > other->x2 ? box->x2 : other->x2;
	box->y2 = box->y2 > other->y2 ? box->y2 : other->y2;
}

void damage_add(struct damage *damage, int32_t x, int32_t y, int32_t width, int32_t height)
{
	if (width <= 0 || height <= 0) {
		return;
	}
	pixman_box32_t box = {
		.x1 = x,
		.y1 = y,
		.x2 = clamp((int64_t)x + width),
		.y2 = clamp((int64_t)y + height),
	};
	if (damage->count > 0 && contains(&damage->boxes[damage->count - 1], &box)) {
		return;
	}
	if (damage->count < DAMAGE_MAX_BOXES) {
		damage->boxes[damage->count++] = box;
		return;
	}
	for (int i = 1; i < damage->count; i++) {
		extend(&damage->boxes[0], &damage->boxes[i]);
	}
	extend(&damage->boxes[0], &box);
	damage->count = 1;
}

/* A rectangle with corners between pixels. */
struct rect {
	double x1, y1, x2, y2;
};

static void add_clipped(
	const struct rect *rect, const struct damage_geometry *geometry, pixman_region32_t *region)
{
	double x1 = fmax(floor(rect->x1), 0), y1 = fmax(floor(rect->y1), 0);
	double x2 = fmin(ceil(rect->x2), geometry->width);
	double y2 = fmin(ceil(rect->y2), geometry->height);
	if (x1 < x2 && y1 < y2) {
		pixman_region32_union_rect(region, region, (int)x1, (int)y1,
			(unsigned int)(x2 - x1), (unsigned int)(y2 - y1));
	}
}

void damage_map_buffer(const struct damage *damage, const struct damage_geometry *geometry,
	pixman_region32_t *region)
{
	for (int i = 0; i < damage->count; i++) {
		const pixman_box32_t *box = &damage->boxes[i];
		struct rect rect = {box->x1, box->y1, box->x2, box->y2};
		add_clipped(&rect, geometry, region);
	}
}

static bool turned(int32_t transform)
{
	return (transform & 1) != 0; // 90 and 270 degrees, flipped or not
}

/*
 * From the surface's orientation to the buffer's. width and height are the surface's, in buffer
 * pixels. The protocol: the content of the buffer has been transformed, anticlockwise, after
 * flipping around the vertical axis.
 */
static struct rect untransform(const struct rect *r, int32_t transform, double width, double height)
{
	switch (transform) {
	case 1: // 90
		return (struct rect){r->y1, width - r->x2, r->y2, width - r->x1};
	case 2: // 180
		return (struct rect){width - r->x2, height - r->y2, width - r->x1, height - r->y1};
	case 3: // 270
		return (struct rect){height - r->y2, r->x1, height - r->y1, r->x2};
	case 4: // flipped
		return (struct rect){width - r->x2, r->y1, width - r->x1, r->y2};
	case 5: // flipped, 90
		return (struct rect){r->y1, r->x1, r->y2, r->x2};
	case 6: // flipped, 180
		return (struct rect){r->x1, height - r->y2, r->x2, height - r->y1};
	case 7: // flipped, 270
		return (struct rect){height - r->y2, width - r->x2, height - r->y1, width - r->x1};
	default:
		return *r;
	}
}

void damage_map_surface(const struct damage *damage, const struct damage_geometry *geometry,
	pixman_region32_t *region)
{
	bool turn = turned(geometry->transform);
	// The buffer as the surface has it, in buffer pixels.
	double width = turn ? geometry->height : geometry->width;
	double height = turn ? geometry->width : geometry->height;
	// What of it is shown, and how large, in surface coordinates.
	struct rect source = {0, 0, width / geometry->scale, height / geometry->scale};
	if (geometry->has_source) {
		source.x1 = geometry->source_x / 256.0;
		source.y1 = geometry->source_y / 256.0;
		source.x2 = source.x1 + geometry->source_width / 256.0;
		source.y2 = source.y1 + geometry->source_height / 256.0;
	}
	double shown_width = source.x2 - source.x1, shown_height = source.y2 - source.y1;
	double ratio_x = 1, ratio_y = 1;
	if (geometry->has_destination) {
		ratio_x = shown_width / geometry->destination_width;
		ratio_y = shown_height / geometry->destination_height;
	}
	// A scaled surface pixel may show its neighbours' buffer pixels, too.
	double margin = geometry->has_source || geometry->has_destination ? 1 : 0;
	for (int i = 0; i < damage->count; i++) {
		const pixman_box32_t *box = &damage->boxes[i];
		struct rect rect = {
			.x1 = (source.x1 + (box->x1 - margin) * ratio_x) * geometry->scale - margin,
			.y1 = (source.y1 + (box->y1 - margin) * ratio_y) * geometry->scale - margin,
			.x2 = (source.x1 + (box->x2 + margin) * ratio_x) * geometry->scale + margin,
			.y2 = (source.y1 + (box->y2 + margin) * ratio_y) * geometry->scale + margin,
		};
		struct rect in_buffer = untransform(&rect, geometry->transform, width, height);
		add_clipped(&in_buffer, geometry, region);
	}
}
