#include "relay/format.h"

#include <drm_fourcc.h>

#define PACKED(fourcc, bytes) \
	{ \
		fourcc, 1, \
		{ \
			{ \
				bytes, 1, 1 \
			} \
		} \
	}
#define PAIRED(fourcc) \
	{ \
		fourcc, 1, \
		{ \
			{ \
				4, 2, 1 \
			} \
		} \
	} // two pixels, which share their colour
#define NV(fourcc, bytes) \
	{ \
		fourcc, 2, \
		{ \
			{bytes, 1, 1}, \
			{ \
				2 * (bytes), 2, 2 \
			} \
		} \
	}
#define YUV_420(fourcc) \
	{ \
		fourcc, 3, \
		{ \
			{1, 1, 1}, {1, 2, 2}, \
			{ \
				1, 2, 2 \
			} \
		} \
	}

/* What compositors offer. A format with another arrangement of bits is another format. */
static const struct format formats[] = {
	PACKED(DRM_FORMAT_ARGB8888, 4),
	PACKED(DRM_FORMAT_XRGB8888, 4),
	PACKED(DRM_FORMAT_ABGR8888, 4),
	PACKED(DRM_FORMAT_XBGR8888, 4),
	PACKED(DRM_FORMAT_RGBA8888, 4),
	PACKED(DRM_FORMAT_RGBX8888, 4),
	PACKED(DRM_FORMAT_BGRA8888, 4),
	PACKED(DRM_FORMAT_BGRX8888, 4),
	PACKED(DRM_FORMAT_ARGB2101010, 4),
	PACKED(DRM_FORMAT_XRGB2101010, 4),
	PACKED(DRM_FORMAT_ABGR2101010, 4),
	PACKED(DRM_FORMAT_XBGR2101010, 4),
	PACKED(DRM_FORMAT_RGBA1010102, 4),
	PACKED(DRM_FORMAT_RGBX1010102, 4),
	PACKED(DRM_FORMAT_BGRA1010102, 4),
	PACKED(DRM_FORMAT_BGRX1010102, 4),
	PACKED(DRM_FORMAT_RGB888, 3),
	PACKED(DRM_FORMAT_BGR888, 3),
	PACKED(DRM_FORMAT_RGB565, 2),
	PACKED(DRM_FORMAT_BGR565, 2),
	PACKED(DRM_FORMAT_ARGB4444, 2),
	PACKED(DRM_FORMAT_XRGB4444, 2),
	PACKED(DRM_FORMAT_ABGR4444, 2),
	PACKED(DRM_FORMAT_XBGR4444, 2),
	PACKED(DRM_FORMAT_RGBA4444, 2),
	PACKED(DRM_FORMAT_RGBX4444, 2),
	PACKED(DRM_FORMAT_BGRA4444, 2),
	PACKED(DRM_FORMAT_BGRX4444, 2),
	PACKED(DRM_FORMAT_ARGB1555, 2),
	PACKED(DRM_FORMAT_XRGB1555, 2),
	PACKED(DRM_FORMAT_ABGR1555, 2),
	PACKED(DRM_FORMAT_XBGR1555, 2),
	PACKED(DRM_FORMAT_RGBA5551, 2),
	PACKED(DRM_FORMAT_RGBX5551, 2),
	PACKED(DRM_FORMAT_BGRA5551, 2),
	PACKED(DRM_FORMAT_BGRX5551, 2),
	PACKED(DRM_FORMAT_R8, 1),
	PACKED(DRM_FORMAT_C8, 1),
	PACKED(DRM_FORMAT_GR88, 2),
	PACKED(DRM_FORMAT_RG88, 2),
	PACKED(DRM_FORMAT_R16, 2),
	PACKED(DRM_FORMAT_GR1616, 4),
	PACKED(DRM_FORMAT_RG1616, 4),
	PACKED(DRM_FORMAT_ARGB16161616, 8),
	PACKED(DRM_FORMAT_XRGB16161616, 8),
	PACKED(DRM_FORMAT_ABGR16161616, 8),
	PACKED(DRM_FORMAT_XBGR16161616, 8),
	PACKED(DRM_FORMAT_ARGB16161616F, 8),
	PACKED(DRM_FORMAT_XRGB16161616F, 8),
	PACKED(DRM_FORMAT_ABGR16161616F, 8),
	PACKED(DRM_FORMAT_XBGR16161616F, 8),
	PAIRED(DRM_FORMAT_YUYV),
	PAIRED(DRM_FORMAT_YVYU),
	PAIRED(DRM_FORMAT_UYVY),
	PAIRED(DRM_FORMAT_VYUY),
	NV(DRM_FORMAT_NV12, 1),
	NV(DRM_FORMAT_NV21, 1),
	NV(DRM_FORMAT_P010, 2),
	YUV_420(DRM_FORMAT_YUV420),
	YUV_420(DRM_FORMAT_YVU420),
};

const struct format *format_find(uint32_t fourcc)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (formats[i].fourcc == fourcc) {
			return &formats[i];
		}
	}
	return NULL;
}

static uint32_t divide_up(int32_t value, uint8_t by)
{
	return ((uint32_t)value + by - 1) / by;
}

uint64_t format_row_bytes(const struct format_plane *plane, int32_t width)
{
	return (uint64_t)divide_up(width, plane->width) * plane->bytes;
}

uint32_t format_rows(const struct format_plane *plane, int32_t height)
{
	return divide_up(height, plane->height);
}

struct format_span format_span(const struct format_plane *plane, const pixman_box32_t *box)
{
	uint64_t x = (uint64_t)((uint32_t)box->x1 / plane->width) * plane->bytes;
	uint32_t y = (uint32_t)box->y1 / plane->height;
	return (struct format_span){
		.x = x,
		.width = format_row_bytes(plane, box->x2) - x,
		.y = y,
		.height = format_rows(plane, box->y2) - y,
	};
}
