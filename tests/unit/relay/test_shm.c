#include "relay/shm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

static struct buffer make_buffer(struct pool *pool, uint64_t offset)
{
	return (struct buffer){
		.pool = pool,
		.offset = offset,
		.width = 10,
		.height = 4,
		.stride = 40,
		.format = 0,
		.bytes_per_pixel = 4,
		.length = 160,
	};
}

static void buffers_of_one_size_and_format_have_one_layout(void **state)
{
	(void)state;
	struct pool pool;
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	assert_true(buffer_same_layout(&a, &b));
	b.stride = 44;
	assert_false(buffer_same_layout(&a, &b));
}

static void equal_pixels_of_another_format_are_other_bytes(void **state)
{
	(void)state;
	struct pool pool;
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	b.format = 1; // xrgb8888 has as many bytes per pixel
	assert_false(buffer_same_layout(&a, &b));
}

static void rows_of_an_unknown_format_are_never_copied_from_a_twin(void **state)
{
	(void)state;
	struct pool pool;
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	a.bytes_per_pixel = b.bytes_per_pixel = 0;
	assert_false(buffer_same_layout(&a, &b));
}

static void buffers_overlap_where_they_share_bytes_of_one_pool(void **state)
{
	(void)state;
	struct pool pool, other;
	struct buffer a = make_buffer(&pool, 0), b = make_buffer(&pool, 160);
	assert_false(buffer_overlaps(&a, &b));
	b.offset = 159;
	assert_true(buffer_overlaps(&a, &b));
	b.pool = &other;
	assert_false(buffer_overlaps(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(buffers_of_one_size_and_format_have_one_layout),
		fd_count_test(equal_pixels_of_another_format_are_other_bytes),
		fd_count_test(rows_of_an_unknown_format_are_never_copied_from_a_twin),
		fd_count_test(buffers_overlap_where_they_share_bytes_of_one_pool),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
