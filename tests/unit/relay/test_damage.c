#include "relay/damage.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

typedef void (*map_func)(const struct damage *damage, const struct damage_geometry *geometry,
	pixman_region32_t *region);

static void expect_region(map_func map, const struct damage *damage,
	const struct damage_geometry *geometry, const pixman_box32_t *expected)
{
	pixman_region32_t region;
	pixman_region32_init(&region);
	map(damage, geometry, &region);
	if (expected == NULL) {
		assert_false(pixman_region32_not_empty(&region));
	} else {
		int n;
		const pixman_box32_t *box = pixman_region32_rectangles(&region, &n);
		assert_int_equal(n, 1);
		assert_int_equal(box->x1, expected->x1);
		assert_int_equal(box->y1, expected->y1);
		assert_int_equal(box->x2, expected->x2);
		assert_int_equal(box->y2, expected->y2);
	}
	pixman_region32_fini(&region);
}

static struct damage one(int32_t x, int32_t y, int32_t width, int32_t height)
{
	struct damage damage = {0};
	damage_add(&damage, x, y, width, height);
	return damage;
}

/* ---- collecting ---- */

static void rectangles_without_area_are_left_out(void **state)
{
	(void)state;
	static const int32_t sizes[] = {0, -1, INT32_MIN};
	struct damage damage = {0};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		damage_add(&damage, 5, 5, sizes[i], 10);
		damage_add(&damage, 5, 5, 10, sizes[i]);
	}
	assert_int_equal(damage.count, 0);
}

static void corners_beyond_the_plane_are_clamped(void **state)
{
	(void)state;
	struct damage damage = one(10, INT32_MIN, INT32_MAX, INT32_MAX);
	assert_int_equal(damage.boxes[0].x1, 10);
	assert_int_equal(damage.boxes[0].x2, INT32_MAX);
	assert_int_equal(damage.boxes[0].y1, INT32_MIN);
	assert_int_equal(damage.boxes[0].y2, -1);
}

static void a_rectangle_in_the_last_one_says_nothing_new(void **state)
{
	(void)state;
	struct damage damage = one(0, 0, 10, 10);
	damage_add(&damage, 0, 0, 10, 10);
	damage_add(&damage, 3, 3, 7, 7);
	assert_int_equal(damage.count, 1);
	damage_add(&damage, 3, 3, 8, 7);
	assert_int_equal(damage.count, 2);
}

static void too_many_rectangles_become_one_that_holds_them_all(void **state)
{
	(void)state;
	struct damage damage = {0};
	for (int32_t i = 0; i < DAMAGE_MAX_BOXES; i++) {
		damage_add(&damage, i * 10, -i, 5, 5);
	}
	assert_int_equal(damage.count, DAMAGE_MAX_BOXES);
	damage_add(&damage, 300, 1000, 5, 5);
	assert_int_equal(damage.count, 1);
	assert_int_equal(damage.boxes[0].x1, 0);
	assert_int_equal(damage.boxes[0].y1, -63);
	assert_int_equal(damage.boxes[0].x2, 635);
	assert_int_equal(damage.boxes[0].y2, 1005);
	for (int32_t i = 0; i < 10 * DAMAGE_MAX_BOXES; i++) {
		damage_add(&damage, i * 7, 2000 + i % 2, 1, 1);
	}
	assert_in_range(damage.count, 1, DAMAGE_MAX_BOXES);
}

/* ---- mapping, by hand ---- */

static void each_transform_maps_where_the_protocol_says(void **state)
{
	(void)state;
	// Columns 0 and 1 of row 1 of the surface, in a buffer of 8 x 4.
	static const pixman_box32_t expected[] = {
		{0, 1, 2, 2}, // normal
		{1, 2, 2, 4}, // 90
		{6, 2, 8, 3}, // 180
		{6, 0, 7, 2}, // 270
		{6, 1, 8, 2}, // flipped
		{1, 0, 2, 2}, // flipped, 90
		{0, 2, 2, 3}, // flipped, 180
		{6, 2, 7, 4}, // flipped, 270
	};
	struct damage damage = one(0, 1, 2, 1);
	for (int32_t transform = 0; transform < 8; transform++) {
		struct damage_geometry geometry = {
			.width = 8, .height = 4, .scale = 1, .transform = transform};
		expect_region(damage_map_surface, &damage, &geometry, &expected[transform]);
	}
}

static void a_scale_enlarges_before_the_transform(void **state)
{
	(void)state;
	struct damage damage = one(1, 0, 2, 1);
	struct damage_geometry geometry = {.width = 12, .height = 6, .scale = 3};
	expect_region(damage_map_surface, &damage, &geometry, &(pixman_box32_t){3, 0, 9, 3});
	// the surface is 2 x 4 then: only one of the columns is on it
	geometry.transform = 1;
	expect_region(damage_map_surface, &damage, &geometry, &(pixman_box32_t){0, 0, 3, 3});
}

static void damage_in_buffer_coordinates_is_only_clipped(void **state)
{
	(void)state;
	struct damage_geometry geometry = {.width = 20, .height = 10, .scale = 2, .transform = 1};
	struct damage damage = one(-5, 3, 10, 100);
	expect_region(damage_map_buffer, &damage, &geometry, &(pixman_box32_t){0, 3, 5, 10});
	damage = one(20, 0, 5, 5);
	expect_region(damage_map_buffer, &damage, &geometry, NULL);
	damage = one(-5, -5, 5, 5);
	expect_region(damage_map_buffer, &damage, &geometry, NULL);
}

static void a_viewport_scales_what_it_shows(void **state)
{
	(void)state;
	// 10 x 10 from (20, 20), shown as 20 x 20; a pixel more on each side for filtering
	struct damage_geometry geometry = {
		.width = 100,
		.height = 100,
		.scale = 1,
		.has_source = true,
		.source_x = 20 * 256,
		.source_y = 20 * 256,
		.source_width = 10 * 256,
		.source_height = 10 * 256,
		.has_destination = true,
		.destination_width = 20,
		.destination_height = 20,
	};
	struct damage damage = one(4, 8, 2, 2);
	// (4 - 1) / 2 + 20 - 1 = 20.5, (6 + 1) / 2 + 20 + 1 = 24.5
	expect_region(damage_map_surface, &damage, &geometry, &(pixman_box32_t){20, 22, 25, 27});
}

static void everything_is_the_whole_buffer(void **state)
{
	(void)state;
	static const int32_t from[] = {0, -1, INT32_MIN, INT32_MIN / 2};
	for (int32_t i = 0; i < 8 * 3 * 2 * 4; i++) {
		struct damage_geometry geometry = {
			.width = 30,
			.height = 18,
			.transform = i % 8,
			.scale = 1 + i / 8 % 3,
			.has_destination = i / 24 % 2 != 0,
			.destination_width = 7,
			.destination_height = 1000,
		};
		int32_t start = from[i / 48];
		struct damage damage = one(start, start, INT32_MAX, INT32_MAX);
		if (start <= INT32_MIN / 2) {
			damage_add(&damage, -1, -1, INT32_MAX, INT32_MAX);
		}
		expect_region(
			damage_map_surface, &damage, &geometry, &(pixman_box32_t){0, 0, 30, 18});
		expect_region(
			damage_map_buffer, &damage, &geometry, &(pixman_box32_t){0, 0, 30, 18});
	}
}

static void extreme_geometry_names_too_much_rather_than_too_little(void **state)
{
	(void)state;
	struct damage damage = one(0, 0, 1, 1);
	struct damage_geometry geometry = {
		.width = 100,
		.height = 100,
		.scale = 1,
		.has_destination = true,
		.destination_width = INT32_MAX,
		.destination_height = INT32_MAX,
	};
	expect_region(damage_map_surface, &damage, &geometry, &(pixman_box32_t){0, 0, 2, 2});
	geometry.has_source = true;
	geometry.source_x = geometry.source_y = INT32_MAX;
	geometry.source_width = geometry.source_height = INT32_MAX;
	expect_region(damage_map_surface, &damage, &geometry, NULL); // shows nothing of it
	geometry = (struct damage_geometry){.width = 100, .height = 100, .scale = INT32_MAX};
	expect_region(damage_map_surface, &damage, &geometry, &(pixman_box32_t){0, 0, 100, 100});
	geometry = (struct damage_geometry){
		.width = INT32_MAX, .height = INT32_MAX, .scale = INT32_MAX, .transform = 7};
	expect_region(damage_map_surface, &damage, &geometry,
		&(pixman_box32_t){0, 0, INT32_MAX, INT32_MAX});
}

static void what_is_in_the_region_already_stays(void **state)
{
	(void)state;
	pixman_region32_t region;
	pixman_region32_init_rect(&region, 50, 50, 10, 10);
	struct damage_geometry geometry = {.width = 100, .height = 100, .scale = 1};
	struct damage damage = one(0, 0, 10, 10);
	damage_map_surface(&damage, &geometry, &region);
	damage_map_buffer(&damage, &geometry, &region);
	assert_true(pixman_region32_contains_point(&region, 55, 55, NULL));
	assert_true(pixman_region32_contains_point(&region, 5, 5, NULL));
	pixman_region32_fini(&region);
}

/* ---- mapping, against a model that looks at one pixel at a time ---- */

static uint64_t seed = 0x9e3779b97f4a7c15;

static int32_t random_in(int32_t from, int32_t to)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return from + (int32_t)(seed % (uint64_t)(to - from + 1));
}

/*
 * wl_output.transform: an initial flip around the vertical axis, then turns of 90 degrees
 * anticlockwise. Here are its steps, one by one, from the surface's picture to the buffer's.
 */
static void to_buffer(int32_t transform, int32_t width, int32_t height, int32_t *x, int32_t *y)
{
	if (transform >= 4) {
		*x = width - 1 - *x;
	}
	for (int32_t i = 0; i < transform % 4; i++) {
		int32_t old_x = *x, old_width = width;
		*x = *y;
		*y = old_width - 1 - old_x;
		width = height;
		height = old_width;
	}
}

// Whether the pixel (x, y) of the upright buffer shows in one of the boxes.
static bool shows(const struct damage *damage, const struct damage_geometry *geometry, double width,
	double height, int32_t x, int32_t y)
{
	double scale = geometry->scale;
	double left = x / scale, top = y / scale, right = (x + 1) / scale, bottom = (y + 1) / scale;
	double source_x = 0, source_y = 0;
	double source_width = width / scale, source_height = height / scale;
	if (geometry->has_source) {
		source_x = geometry->source_x / 256.0;
		source_y = geometry->source_y / 256.0;
		source_width = geometry->source_width / 256.0;
		source_height = geometry->source_height / 256.0;
	}
	double zoom_x = 1, zoom_y = 1;
	if (geometry->has_destination) {
		zoom_x = geometry->destination_width / source_width;
		zoom_y = geometry->destination_height / source_height;
	}
	left = (left - source_x) * zoom_x;
	right = (right - source_x) * zoom_x;
	top = (top - source_y) * zoom_y;
	bottom = (bottom - source_y) * zoom_y;
	for (int i = 0; i < damage->count; i++) {
		const pixman_box32_t *box = &damage->boxes[i];
		if (left < box->x2 && right > box->x1 && top < box->y2 && bottom > box->y1) {
			return true;
		}
	}
	return false;
}

static void check_against_model(const struct damage *damage, const struct damage_geometry *geometry)
{
	bool turned = geometry->transform % 2 != 0;
	int32_t width = turned ? geometry->height : geometry->width;
	int32_t height = turned ? geometry->width : geometry->height;
	bool exact = !geometry->has_source && !geometry->has_destination;
	pixman_region32_t region;
	pixman_region32_init(&region);
	damage_map_surface(damage, geometry, &region);
	for (int32_t y = 0; y < height; y++) {
		for (int32_t x = 0; x < width; x++) {
			int32_t bx = x, by = y;
			to_buffer(geometry->transform, width, height, &bx, &by);
			bool named = pixman_region32_contains_point(&region, bx, by, NULL) != 0;
			bool shown = shows(damage, geometry, width, height, x, y);
			if ((shown && !named) || (exact && named && !shown)) {
				fail_msg("pixel %d, %d of %d x %d, scale %d, transform %d", bx, by,
					geometry->width, geometry->height, geometry->scale,
					geometry->transform);
			}
		}
	}
	pixman_region32_fini(&region);
}

static void what_shows_is_always_named(void **state)
{
	(void)state;
	for (int round = 0; round < 4000; round++) {
		int32_t scale = random_in(1, 4);
		struct damage_geometry geometry = {
			.width = scale * random_in(1, 8),
			.height = scale * random_in(1, 8),
			.scale = scale,
			.transform = random_in(0, 7),
			.has_source = random_in(0, 3) == 0,
			.has_destination = random_in(0, 3) == 0,
			.source_x = random_in(0, 4 * 256),
			.source_y = random_in(0, 4 * 256),
			.source_width = random_in(1, 8 * 256),
			.source_height = random_in(1, 8 * 256),
			.destination_width = random_in(1, 40),
			.destination_height = random_in(1, 40),
		};
		struct damage damage = {0};
		for (int32_t n = random_in(0, 4); n > 0; n--) {
			damage_add(&damage, random_in(-5, 40), random_in(-5, 40), random_in(-2, 12),
				random_in(-2, 12));
		}
		check_against_model(&damage, &geometry);
	}
}

static void any_number_of_rectangles_is_held_by_what_is_collected(void **state)
{
	(void)state;
	for (int round = 0; round < 100; round++) {
		struct damage damage = {0};
		pixman_region32_t all, collected;
		pixman_region32_init(&all);
		pixman_region32_init(&collected);
		for (int32_t n = random_in(1, 300); n > 0; n--) {
			int32_t x = random_in(-50, 50), y = random_in(-50, 50);
			int32_t width = random_in(1, 30), height = random_in(1, 30);
			damage_add(&damage, x, y, width, height);
			pixman_region32_union_rect(
				&all, &all, x, y, (unsigned int)width, (unsigned int)height);
		}
		assert_in_range(damage.count, 1, DAMAGE_MAX_BOXES);
		for (int i = 0; i < damage.count; i++) {
			const pixman_box32_t *box = &damage.boxes[i];
			pixman_region32_union_rect(&collected, &collected, box->x1, box->y1,
				(unsigned int)(box->x2 - box->x1),
				(unsigned int)(box->y2 - box->y1));
		}
		pixman_region32_subtract(&all, &all, &collected);
		assert_false(pixman_region32_not_empty(&all));
		pixman_region32_fini(&all);
		pixman_region32_fini(&collected);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(rectangles_without_area_are_left_out),
		fd_count_test(corners_beyond_the_plane_are_clamped),
		fd_count_test(a_rectangle_in_the_last_one_says_nothing_new),
		fd_count_test(too_many_rectangles_become_one_that_holds_them_all),
		fd_count_test(each_transform_maps_where_the_protocol_says),
		fd_count_test(a_scale_enlarges_before_the_transform),
		fd_count_test(damage_in_buffer_coordinates_is_only_clipped),
		fd_count_test(a_viewport_scales_what_it_shows),
		fd_count_test(everything_is_the_whole_buffer),
		fd_count_test(extreme_geometry_names_too_much_rather_than_too_little),
		fd_count_test(what_is_in_the_region_already_stays),
		fd_count_test(what_shows_is_always_named),
		fd_count_test(any_number_of_rectangles_is_held_by_what_is_collected),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
