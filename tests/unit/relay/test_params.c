#include "relay/params.h"

#include <drm_fourcc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define WIDTH  64
#define HEIGHT 16

/* A 64x16 picture: one plane of XRGB8888, or three of YUV420 one after the other. */
struct set {
	struct params params;
	struct params_picture picture;
};

static void set_plane(struct set *set, size_t i, uint32_t offset, uint32_t stride, uint64_t size)
{
	set->params.planes[i] = (struct params_plane){
		.set = true,
		.usable = true,
		.size = size,
		.offset = offset,
		.stride = stride,
		.modifier = DRM_FORMAT_MOD_LINEAR,
	};
}

static struct set make_packed(void)
{
	struct set set = {
		.params = {.version = 4, .implicit = true},
		.picture = {.width = WIDTH, .height = HEIGHT, .format = DRM_FORMAT_XRGB8888},
	};
	set_plane(&set, 0, 0, 4 * WIDTH, 4 * WIDTH * HEIGHT);
	return set;
}

static struct set make_planar(void)
{
	struct set set = make_packed();
	set.picture.format = DRM_FORMAT_YUV420;
	const uint64_t size = WIDTH * HEIGHT * 3 / 2;
	set_plane(&set, 0, 0, WIDTH, size);
	set_plane(&set, 1, WIDTH * HEIGHT, WIDTH / 2, size);
	set_plane(&set, 2, WIDTH * HEIGHT * 5 / 4, WIDTH / 2, size);
	return set;
}

static void expect_good(const struct set *set)
{
	struct params_fault fault;
	assert_int_equal(params_check_picture(&set->params, &set->picture, &fault), PARAMS_GOOD);
}

static void expect(const struct set *set, enum params_result result, enum params_error error)
{
	struct params_fault fault = {0};
	assert_int_equal(params_check_picture(&set->params, &set->picture, &fault), result);
	assert_int_equal(fault.error, error);
	assert_non_null(fault.text);
}

static void expect_wrong(const struct set *set, enum params_error error)
{
	expect(set, PARAMS_WRONG, error);
}

static void expect_unsuitable(const struct set *set)
{
	expect(set, PARAMS_UNSUITABLE, PARAMS_INVALID_WL_BUFFER);
}

static void a_picture_that_lies_in_its_planes_is_good(void **state)
{
	(void)state;
	struct set set = make_packed();
	expect_good(&set);
	set = make_planar();
	expect_good(&set);
	set.picture.flags = PARAMS_Y_INVERT;
	expect_good(&set);
}

static void a_plane_is_added_once_and_within_four(void **state)
{
	(void)state;
	struct set set = make_packed();
	struct params_fault fault;
	assert_int_equal(params_check_add(&set.params, 1, &fault), PARAMS_GOOD);
	assert_int_equal(params_check_add(&set.params, 3, &fault), PARAMS_GOOD);
	assert_int_equal(params_check_add(&set.params, 0, &fault), PARAMS_WRONG);
	assert_int_equal(fault.error, PARAMS_PLANE_SET);
	assert_int_equal(params_check_add(&set.params, 4, &fault), PARAMS_WRONG);
	assert_int_equal(fault.error, PARAMS_PLANE_IDX);
	assert_int_equal(params_check_add(&set.params, UINT32_MAX, &fault), PARAMS_WRONG);
	assert_int_equal(fault.error, PARAMS_PLANE_IDX);
}

static void params_are_used_once(void **state)
{
	(void)state;
	struct set set = make_packed();
	struct params_fault fault;
	set.params.used = true;
	expect_wrong(&set, PARAMS_ALREADY_USED);
	assert_int_equal(params_check_add(&set.params, 1, &fault), PARAMS_WRONG);
	assert_int_equal(fault.error, PARAMS_ALREADY_USED);
}

static void every_plane_of_the_format_is_there_and_no_other(void **state)
{
	(void)state;
	struct set set = make_packed();
	set_plane(&set, 1, 0, 4 * WIDTH, 4 * WIDTH * HEIGHT);
	expect_wrong(&set, PARAMS_INCOMPLETE);
	set = make_packed();
	set.params.planes[0].set = false;
	expect_wrong(&set, PARAMS_INCOMPLETE);
	set = make_planar();
	set.params.planes[0].set = false;
	expect_wrong(&set, PARAMS_INCOMPLETE);
	set = make_planar();
	set.params.planes[1].set = false;
	expect_wrong(&set, PARAMS_INCOMPLETE);
	set = make_planar();
	set.params.planes[2].set = false;
	expect_wrong(&set, PARAMS_INCOMPLETE);
	set = make_planar();
	set_plane(&set, 3, 0, WIDTH, WIDTH * HEIGHT);
	expect_wrong(&set, PARAMS_INCOMPLETE);
}

static void formats_and_flags_are_known_ones(void **state)
{
	(void)state;
	struct set set = make_packed();
	set.picture.format = 0;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
	set.picture.format = DRM_FORMAT_YUV420_8BIT;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
	set = make_packed();
	set.picture.flags = 8;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
	set.picture.flags = UINT32_MAX;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
	set.picture.flags = PARAMS_INTERLACED;
	expect_unsuitable(&set);
	set.picture.flags = PARAMS_BOTTOM_FIRST;
	expect_unsuitable(&set);
}

static void nothing_has_no_picture(void **state)
{
	(void)state;
	static const int32_t none[] = {0, -1, INT32_MIN};
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		struct set set = make_packed();
		set.picture.width = none[i];
		expect_wrong(&set, PARAMS_INVALID_DIMENSIONS);
		set = make_packed();
		set.picture.height = none[i];
		expect_wrong(&set, PARAMS_INVALID_DIMENSIONS);
	}
}

static void modifiers_are_those_that_were_offered(void **state)
{
	(void)state;
	struct set set = make_packed();
	set.params.planes[0].modifier = DRM_FORMAT_MOD_INVALID;
	expect_good(&set);
	set.params.implicit = false;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
	set.params.version = 3; // before the protocol said so
	expect_unsuitable(&set);
	set.params.planes[0].modifier = I915_FORMAT_MOD_X_TILED;
	expect_unsuitable(&set);
	set.params.version = 4;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
	set = make_planar();
	set.params.planes[2].modifier = DRM_FORMAT_MOD_INVALID;
	expect_wrong(&set, PARAMS_INVALID_FORMAT);
}

static void without_modifiers_in_the_protocol_they_are_implicit(void **state)
{
	(void)state;
	struct set set = make_packed();
	set.params.version = 2;
	expect_good(&set);
	set.params.implicit = false;
	expect_unsuitable(&set);
}

static void rows_lie_in_their_stride(void **state)
{
	(void)state;
	struct set set = make_packed();
	set.params.planes[0].stride--;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set.params.planes[0].stride = 0;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_planar();
	set.params.planes[1].stride--;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_packed();
	set.picture.width = INT32_MAX;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
}

static void planes_lie_in_their_memory(void **state)
{
	(void)state;
	struct set set = make_packed();
	set.params.planes[0].offset = 1;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_packed();
	set.picture.height++;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_packed();
	set.params.planes[0].size--;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_packed();
	set.params.planes[0].size = 0;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_planar();
	set.params.planes[2].offset++;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
}

static void sums_do_not_overflow(void **state)
{
	(void)state;
	// Modulo 2^32 each of these would lie in the memory.
	struct set set = make_packed();
	set.params.planes[0].offset = UINT32_MAX - 4 * WIDTH * HEIGHT + 1;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set = make_packed();
	set.params.planes[0].stride = UINT32_MAX / HEIGHT + 1;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
	set.picture.height = INT32_MAX;
	set.params.planes[0].stride = set.params.planes[0].offset = UINT32_MAX;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
}

static void the_last_row_of_a_later_plane_needs_no_padding(void **state)
{
	(void)state;
	struct set set = make_planar();
	const uint64_t size = set.params.planes[2].size;
	set.params.planes[2] = set.params.planes[1];
	set.params.planes[2].stride = WIDTH;
	set.params.planes[2].offset = (uint32_t)size;
	set.params.planes[2].size = size + WIDTH * (HEIGHT / 2) - WIDTH / 2;
	expect_good(&set);
	set.params.planes[2].size--;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
}

static void odd_sizes_need_a_sample_for_the_rest(void **state)
{
	(void)state;
	struct set set = make_planar();
	set.picture.width--;
	set.picture.height--;
	expect_good(&set);
	set.picture.width = WIDTH + 1;
	set.params.planes[0].stride = WIDTH + 1;
	expect_wrong(&set, PARAMS_OUT_OF_BOUNDS);
}

static void what_is_no_dma_buf_is_unsuitable(void **state)
{
	(void)state;
	struct set set = make_packed();
	set.params.planes[0].usable = false;
	set.params.planes[0].size = 0;
	expect_unsuitable(&set);
	set.params.planes[0].set = false;
	expect_wrong(&set, PARAMS_INCOMPLETE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_picture_that_lies_in_its_planes_is_good),
		fd_count_test(a_plane_is_added_once_and_within_four),
		fd_count_test(params_are_used_once),
		fd_count_test(every_plane_of_the_format_is_there_and_no_other),
		fd_count_test(formats_and_flags_are_known_ones),
		fd_count_test(nothing_has_no_picture),
		fd_count_test(modifiers_are_those_that_were_offered),
		fd_count_test(without_modifiers_in_the_protocol_they_are_implicit),
		fd_count_test(rows_lie_in_their_stride),
		fd_count_test(planes_lie_in_their_memory),
		fd_count_test(sums_do_not_overflow),
		fd_count_test(the_last_row_of_a_later_plane_needs_no_padding),
		fd_count_test(odd_sizes_need_a_sample_for_the_rest),
		fd_count_test(what_is_no_dma_buf_is_unsuitable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
