#include "relay/format.h"

#include <drm_fourcc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

static const struct format *find(uint32_t fourcc, size_t n_planes)
{
	const struct format *format = format_find(fourcc);
	assert_non_null(format);
	assert_int_equal(format->n_planes, n_planes);
	return format;
}

/* Bytes of all planes of a picture without padding. */
static uint64_t picture_bytes(uint32_t fourcc, size_t n_planes, int32_t width, int32_t height)
{
	const struct format *format = find(fourcc, n_planes);
	uint64_t bytes = 0;
	for (size_t i = 0; i < n_planes; i++) {
		const struct format_plane *plane = &format->planes[i];
		bytes += format_row_bytes(plane, width) * format_rows(plane, height);
	}
	return bytes;
}

static void a_picture_has_as_many_bytes_as_its_format_says(void **state)
{
	(void)state;
	assert_int_equal(picture_bytes(DRM_FORMAT_XRGB8888, 1, 6, 4), 96);
	assert_int_equal(picture_bytes(DRM_FORMAT_ARGB2101010, 1, 6, 4), 96);
	assert_int_equal(picture_bytes(DRM_FORMAT_BGR888, 1, 6, 4), 72);
	assert_int_equal(picture_bytes(DRM_FORMAT_RGB565, 1, 6, 4), 48);
	assert_int_equal(picture_bytes(DRM_FORMAT_R8, 1, 6, 4), 24);
	assert_int_equal(picture_bytes(DRM_FORMAT_GR88, 1, 6, 4), 48);
	assert_int_equal(picture_bytes(DRM_FORMAT_ABGR16161616F, 1, 6, 4), 192);
	assert_int_equal(picture_bytes(DRM_FORMAT_YUYV, 1, 6, 4), 48);
	assert_int_equal(picture_bytes(DRM_FORMAT_NV12, 2, 6, 4), 36);
	assert_int_equal(picture_bytes(DRM_FORMAT_P010, 2, 6, 4), 72);
	assert_int_equal(picture_bytes(DRM_FORMAT_YVU420, 3, 6, 4), 36);
}

static void what_a_sample_covers_in_part_counts(void **state)
{
	(void)state;
	assert_int_equal(picture_bytes(DRM_FORMAT_YUYV, 1, 5, 3), 36);
	assert_int_equal(picture_bytes(DRM_FORMAT_NV12, 2, 5, 3), 15 + 12);
	assert_int_equal(picture_bytes(DRM_FORMAT_YUV420, 3, 1, 1), 3);
}

static void the_largest_picture_does_not_overflow(void **state)
{
	(void)state;
	const struct format *format = find(DRM_FORMAT_XRGB16161616, 1);
	assert_int_equal(format_row_bytes(&format->planes[0], INT32_MAX), 8ull * INT32_MAX);
	format = find(DRM_FORMAT_NV12, 2);
	assert_int_equal(format_row_bytes(&format->planes[1], INT32_MAX), 1ull << 31);
	assert_int_equal(format_rows(&format->planes[1], INT32_MAX), 1u << 30);
}

static void expect_span(
	const struct format_plane *plane, uint64_t x, uint32_t y, uint64_t width, uint32_t height)
{
	const pixman_box32_t box = {.x1 = 3, .y1 = 5, .x2 = 8, .y2 = 6};
	struct format_span span = format_span(plane, &box);
	assert_int_equal(span.x, x);
	assert_int_equal(span.y, y);
	assert_int_equal(span.width, width);
	assert_int_equal(span.height, height);
}

static void a_box_is_all_samples_that_it_touches(void **state)
{
	(void)state;
	expect_span(&find(DRM_FORMAT_XRGB8888, 1)->planes[0], 12, 5, 20, 1);
	expect_span(&find(DRM_FORMAT_BGR888, 1)->planes[0], 9, 5, 15, 1);
	expect_span(&find(DRM_FORMAT_UYVY, 1)->planes[0], 4, 5, 12, 1);
	expect_span(&find(DRM_FORMAT_NV21, 2)->planes[0], 3, 5, 5, 1);
	expect_span(&find(DRM_FORMAT_NV21, 2)->planes[1], 2, 2, 6, 1);
	expect_span(&find(DRM_FORMAT_P010, 2)->planes[1], 4, 2, 12, 1);
	expect_span(&find(DRM_FORMAT_YUV420, 3)->planes[2], 1, 2, 3, 1);
}

static void what_is_no_linear_picture_is_not_known(void **state)
{
	(void)state;
	assert_null(format_find(0));
	assert_null(format_find(DRM_FORMAT_YUV420_8BIT)); // only with a modifier
	assert_null(format_find(DRM_FORMAT_XRGB8888 | DRM_FORMAT_BIG_ENDIAN));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_picture_has_as_many_bytes_as_its_format_says),
		fd_count_test(what_a_sample_covers_in_part_counts),
		fd_count_test(the_largest_picture_does_not_overflow),
		fd_count_test(a_box_is_all_samples_that_it_touches),
		fd_count_test(what_is_no_linear_picture_is_not_known),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
