#include "relay/buffer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

static struct buffer make_buffer(struct pool *pool, uint64_t offset)
{
	return (struct buffer){
		.width = 10,
		.height = 4,
		.format = 0,
		.n_planes = 1,
		.planes[0] = {.pool = pool,
			.offset = offset,
			.length = 160,
			.stride = 40,
			.sample = {4, 1, 1}},
	};
}

static void buffers_of_one_size_and_format_have_one_layout(void **state)
{
	(void)state;
	struct pool pool = {0};
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	assert_true(buffer_same_layout(&a, &b));
	b.planes[0].stride = 44;
	assert_false(buffer_same_layout(&a, &b));
}

static void equal_pixels_of_another_format_are_other_bytes(void **state)
{
	(void)state;
	struct pool pool = {0};
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	b.format = 1; // xrgb8888 has as many bytes per pixel
	assert_false(buffer_same_layout(&a, &b));
}

static void rows_of_an_unknown_format_are_never_copied_from_a_twin(void **state)
{
	(void)state;
	struct pool pool = {0};
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	a.planes[0].sample.bytes = b.planes[0].sample.bytes = 0;
	assert_false(buffer_same_layout(&a, &b));
}

static void a_buffer_in_a_device_s_memory_has_no_twin_in_a_pool(void **state)
{
	(void)state;
	struct pool pool = {0}, dmabuf = {.is_dmabuf = true};
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&dmabuf, 0);
	assert_false(buffer_same_layout(&a, &b));
	a.planes[0].pool = &dmabuf;
	assert_true(buffer_same_layout(&a, &b));
}

static void every_plane_counts(void **state)
{
	(void)state;
	struct pool pool = {0}, other = {0};
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&other, 0);
	a.n_planes = b.n_planes = 2;
	a.planes[1] = b.planes[1] = a.planes[0];
	assert_true(buffer_same_layout(&a, &b));
	assert_true(buffer_overlaps(&a, &b));
	b.planes[1].offset = 160;
	b.planes[1].stride = 20;
	assert_false(buffer_same_layout(&a, &b));
	assert_false(buffer_overlaps(&a, &b));
}

static void buffers_overlap_where_they_share_bytes_of_one_pool(void **state)
{
	(void)state;
	struct pool pool = {0}, other = {0};
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	assert_false(buffer_overlaps(&a, &b));
	b.planes[0].offset = 159;
	assert_true(buffer_overlaps(&a, &b));
	b.planes[0].pool = &other;
	assert_false(buffer_overlaps(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(buffers_of_one_size_and_format_have_one_layout),
		fd_count_test(equal_pixels_of_another_format_are_other_bytes),
		fd_count_test(rows_of_an_unknown_format_are_never_copied_from_a_twin),
		fd_count_test(a_buffer_in_a_device_s_memory_has_no_twin_in_a_pool),
		fd_count_test(every_plane_counts),
		fd_count_test(buffers_overlap_where_they_share_bytes_of_one_pool),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
