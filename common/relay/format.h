#ifndef RELAY_FORMAT_H
#define RELAY_FORMAT_H

#include <pixman.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Where the pixels of a linear buffer are, by its format (drm_fourcc.h). A plane is rows of
 * samples, each of which stands for one pixel or, where it is subsampled or packs neighbours,
 * for several.
 */

#define FORMAT_MAX_PLANES 3

struct format_plane {
	uint8_t bytes;         // of a sample; 0: where pixels are is not known
	uint8_t width, height; // of a sample, pixels
};

struct format {
	uint32_t fourcc;
	size_t n_planes;
	struct format_plane planes[FORMAT_MAX_PLANES];
};

// NULL: not known.
const struct format *format_find(uint32_t fourcc);

// What a plane of a buffer of that many pixels has: bytes in a row without padding, and rows.
// width and height are positive.
uint64_t format_row_bytes(const struct format_plane *plane, int32_t width);
uint32_t format_rows(const struct format_plane *plane, int32_t height);

// The samples that a box of pixels touches: x and width in bytes of the row, y and height in rows.
// The box has no negative corner.
struct format_span {
	uint64_t x, width;
	uint32_t y, height;
};
struct format_span format_span(const struct format_plane *plane, const pixman_box32_t *box);

#endif
