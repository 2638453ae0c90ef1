#ifndef RELAY_DAMAGE_H
#define RELAY_DAMAGE_H

#include <pixman.h>
#include <stdbool.h>
#include <stdint.h>

/**
 * Damage as clients give it, and where it lies in a buffer. Everything is rounded outwards: more
 * than what changed may be named, never less.
 */

#define DAMAGE_MAX_BOXES 64

// Rectangles as they came; too many become their bounding box.
struct damage {
	int count;
	pixman_box32_t boxes[DAMAGE_MAX_BOXES];
};

void damage_add(struct damage *damage, int32_t x, int32_t y, int32_t width, int32_t height);

// How a surface shows its buffer. Compared by memcmp: zero it first.
struct damage_geometry {
	int32_t width, height; // of the buffer, pixels
	int32_t scale;         // wl_surface.set_buffer_scale, at least 1
	int32_t transform;     // enum wl_output.transform, 0 to 7
	bool has_source, has_destination;
	int32_t source_x, source_y, source_width, source_height; // wp_viewport, 24.8 fixed
	int32_t destination_width, destination_height;
};

// Adds to region, which is clipped to the buffer, what damage in surface coordinates covers of it.
void damage_map_surface(const struct damage *damage, const struct damage_geometry *geometry,
	pixman_region32_t *region);
// Likewise for damage in buffer coordinates.
void damage_map_buffer(const struct damage *damage, const struct damage_geometry *geometry,
	pixman_region32_t *region);

#endif
