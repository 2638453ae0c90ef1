#include "relay/params.h"

#include <drm_fourcc.h>

#include "relay/format.h"

#define ALL_FLAGS        (PARAMS_Y_INVERT | PARAMS_INTERLACED | PARAMS_BOTTOM_FIRST)
#define INTERLACED_FLAGS (PARAMS_INTERLACED | PARAMS_BOTTOM_FIRST)

// Before these versions of the protocol, clients named no modifiers, and were not told that only
// those that they were offered are allowed.
#define MODIFIERS_SINCE 3
#define OFFERS_SINCE    4

static enum params_result wrong(
	struct params_fault *fault, enum params_error error, const char *text)
{
	*fault = (struct params_fault){.error = error, .text = text};
	return PARAMS_WRONG;
}

static enum params_result unsuitable(struct params_fault *fault, const char *text)
{
	*fault = (struct params_fault){.error = PARAMS_INVALID_WL_BUFFER, .text = text};
	return PARAMS_UNSUITABLE;
}

enum params_result params_check_add(
	const struct params *params, uint32_t index, struct params_fault *fault)
{
	if (params->used) {
		return wrong(fault, PARAMS_ALREADY_USED, "a plane for params that were used");
	}
	if (index >= PARAMS_MAX_PLANES) {
		return wrong(fault, PARAMS_PLANE_IDX, "a plane that no format has");
	}
	if (params->planes[index].set) {
		return wrong(fault, PARAMS_PLANE_SET, "a plane that was added before");
	}
	return PARAMS_GOOD;
}

/* PARAMS_MAX_PLANES + 1 if there are gaps. */
static size_t count_planes(const struct params *params)
{
	size_t n = 0;
	while (n < PARAMS_MAX_PLANES && params->planes[n].set) {
		n++;
	}
	for (size_t i = n; i < PARAMS_MAX_PLANES; i++) {
		if (params->planes[i].set) {
			return PARAMS_MAX_PLANES + 1;
		}
	}
	return n;
}

static enum params_result check_modifiers(
	const struct params *params, size_t n_planes, struct params_fault *fault)
{
	uint64_t modifier = params->planes[0].modifier;
	bool implicit = modifier == DRM_FORMAT_MOD_INVALID || params->version < MODIFIERS_SINCE;
	for (size_t i = 1; i < n_planes; i++) {
		if (params->planes[i].modifier != modifier) {
			return wrong(
				fault, PARAMS_INVALID_FORMAT, "planes with different modifiers");
		}
	}
	if (implicit ? params->implicit : modifier == DRM_FORMAT_MOD_LINEAR) {
		return PARAMS_GOOD;
	}
	const char *text = "a modifier that was not offered";
	return params->version < OFFERS_SINCE ? unsuitable(fault, text)
					      : wrong(fault, PARAMS_INVALID_FORMAT, text);
}

static bool plane_fits(const struct params_plane *plane, const struct format_plane *sample,
	const struct params_picture *picture, bool first)
{
	uint64_t row_bytes = format_row_bytes(sample, picture->width);
	uint64_t rows = format_rows(sample, picture->height);
	if (row_bytes > plane->stride) {
		return false;
	}
	// The protocol wants the padding of the last row, too; but who puts several planes in one
	// dma-buf may have left out that of the later ones.
	uint64_t last = first ? plane->stride : row_bytes;
	return plane->offset + plane->stride * (rows - 1) + last <= plane->size;
}

static enum params_result check_bounds(const struct params *params, const struct format *format,
	const struct params_picture *picture, struct params_fault *fault)
{
	for (size_t i = 0; i < format->n_planes; i++) {
		if (!params->planes[i].usable) {
			return unsuitable(fault, "a plane that is no usable dma-buf");
		}
	}
	for (size_t i = 0; i < format->n_planes; i++) {
		if (!plane_fits(&params->planes[i], &format->planes[i], picture, i == 0)) {
			return wrong(fault, PARAMS_OUT_OF_BOUNDS,
				"a plane that does not lie in its dma-buf, or in its stride");
		}
	}
	return PARAMS_GOOD;
}

enum params_result params_check_picture(const struct params *params,
	const struct params_picture *picture, struct params_fault *fault)
{
	if (params->used) {
		return wrong(fault, PARAMS_ALREADY_USED, "params that were used before");
	}
	const struct format *format = format_find(picture->format);
	size_t n_planes = count_planes(params);
	if (n_planes == 0 || n_planes > PARAMS_MAX_PLANES) {
		return wrong(fault, PARAMS_INCOMPLETE, "a plane is missing");
	}
	if (format == NULL) {
		return wrong(fault, PARAMS_INVALID_FORMAT, "a format that was not offered");
	}
	if (n_planes != format->n_planes) {
		return wrong(
			fault, PARAMS_INCOMPLETE, "as many planes as the format does not have");
	}
	if ((picture->flags & ~(uint32_t)ALL_FLAGS) != 0) {
		return wrong(fault, PARAMS_INVALID_FORMAT, "flags that nobody knows");
	}
	if (picture->width <= 0 || picture->height <= 0) {
		return wrong(fault, PARAMS_INVALID_DIMENSIONS, "a width or height of nothing");
	}
	enum params_result result = check_modifiers(params, n_planes, fault);
	if (result == PARAMS_GOOD) {
		result = check_bounds(params, format, picture, fault);
	}
	if (result == PARAMS_GOOD && (picture->flags & INTERLACED_FLAGS) != 0) {
		return unsuitable(fault, "pictures that are interlaced");
	}
	return result;
}
