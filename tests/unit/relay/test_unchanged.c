#include "relay/unchanged.h"

#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/channel.h"
#include "fdpass/fdref.h"
#include "fdpass/memory.h"
#include "relay/buffer.h"
#include "tests/support/channel_pair.h"
#include "tests/support/fd_count.h"

#define WIDTH  1920
#define HEIGHT 64
#define STRIDE (WIDTH * 4)

/* A buffer in a pool of a client's, and the counters of what was pushed of it. */
struct stage {
	struct budget budget;
	struct event_base *base;
	struct channel *channel;
	int far;
	struct fdrefs refs;
	struct pool pool;
	struct buffer buffer;
	uint8_t *pixels;
	int fd;
};

static const char *ignore_frame(void *data, const struct channel_frame *frame)
{
	(void)data;
	(void)frame;
	return NULL;
}

static const struct channel_handler handler = {.frame = ignore_frame};

static void begin(struct stage *stage)
{
	int pair[2];
	*stage = (struct stage){.base = event_base_new()};
	channel_pair_create(pair);
	stage->far = pair[1];
	stage->channel = channel_create(stage->base, pair[0], &handler, stage);
	stage->budget.limits.most[BUDGET_FDS] = 16;
	stage->refs = (struct fdrefs){
		.channel = stage->channel, .base = stage->base, .budget = &stage->budget};
	stage->fd = memfd_create("pool", MFD_CLOEXEC);
	assert_int_equal(ftruncate(stage->fd, STRIDE * HEIGHT), 0);
	stage->pixels =
		mmap(NULL, STRIDE * HEIGHT, PROT_READ | PROT_WRITE, MAP_SHARED, stage->fd, 0);
	assert_ptr_not_equal(stage->pixels, MAP_FAILED);
	const char *wrong;
	stage->pool.memory = memory_export(
		&stage->refs, fcntl(stage->fd, F_DUPFD_CLOEXEC, 0), STRIDE * HEIGHT, &wrong);
	assert_non_null(stage->pool.memory);
	wl_list_init(&stage->pool.planes);
	stage->buffer = (struct buffer){
		.width = WIDTH,
		.height = HEIGHT,
		.n_planes = 1,
		.planes[0] = {.pool = &stage->pool,
			.length = STRIDE * HEIGHT,
			.stride = STRIDE,
			.sample = {4, 1, 1}},
	};
}

static void end(struct stage *stage)
{
	unchanged_finish(&stage->buffer.unchanged);
	fdrefs_finish(&stage->refs);
	channel_destroy(stage->channel);
	event_base_free(stage->base);
	munmap(stage->pixels, STRIDE * HEIGHT);
	close(stage->fd);
	close(stage->far);
}

/* Pushes all or a part, and says how many bytes that were. */
static uint64_t push_box(struct stage *stage, int y, int height)
{
	pixman_region32_t region;
	pixman_region32_init_rect(&region, 0, y, WIDTH, (unsigned int)height);
	uint64_t before = stage->refs.counts.memory_sent;
	assert_true(unchanged_push(&stage->buffer, &region));
	pixman_region32_fini(&region);
	return stage->refs.counts.memory_sent - before;
}

static uint64_t push_all(struct stage *stage)
{
	return push_box(stage, 0, HEIGHT);
}

static void the_first_push_sends_everything(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	assert_int_equal(push_all(&stage), STRIDE * HEIGHT);
	end(&stage);
}

static void what_did_not_change_is_not_sent_again(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	assert_int_equal(push_all(&stage), 0);
	end(&stage);
}

static void one_changed_pixel_costs_one_piece(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	stage.pixels[10 * STRIDE + 5] ^= 1;
	assert_int_equal(push_all(&stage), 4096);
	stage.pixels[10 * STRIDE + STRIDE - 1] ^= 1; // the last piece of a row is shorter
	assert_int_equal(push_all(&stage), STRIDE - 4096);
	assert_int_equal(push_all(&stage), 0);
	end(&stage);
}

static void small_damage_is_sent_as_it_is(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	assert_int_equal(push_box(&stage, 3, 4), 4 * STRIDE);
	// Nothing was learnt of these rows: they go once more.
	assert_int_equal(push_all(&stage), 4 * STRIDE);
	assert_int_equal(push_all(&stage), 0);
	end(&stage);
}

static void what_somebody_else_changed_is_sent(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	unchanged_forget(&stage.buffer.unchanged);
	assert_int_equal(push_all(&stage), STRIDE * HEIGHT);
	pixman_region32_t region;
	pixman_region32_init_rect(&region, 0, 7, WIDTH, 2);
	unchanged_forget_region(&stage.buffer, &region);
	pixman_region32_fini(&region);
	assert_int_equal(push_all(&stage), 2 * STRIDE);
	end(&stage);
}

static void a_buffer_that_changes_all_over_is_not_hashed_for_a_while(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	memset(stage.pixels, 1, STRIDE * HEIGHT);
	assert_int_equal(push_all(&stage), STRIDE * HEIGHT);
	unsigned int pushes = 0;
	while (push_all(&stage) > 0) {
		pushes++;
		assert_in_range(pushes, 1, 100);
	}
	assert_in_range(pushes, 8, 100); // then it has looked again, and found nothing new
	end(&stage);
}

static void a_truncated_pool_is_survived(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	assert_int_equal(ftruncate(stage.fd, 4096), 0);
	pixman_region32_t region;
	pixman_region32_init_rect(&region, 0, 0, WIDTH, HEIGHT);
	assert_true(unchanged_push(&stage.buffer, &region)); // finds out half way
	assert_int_equal(stage.pool.memory->size, 4096);
	assert_true(unchanged_push(&stage.buffer, &region));
	pixman_region32_fini(&region);
	end(&stage);
}

static void a_pool_truncated_to_nothing_ends_the_search(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	push_all(&stage);
	assert_int_equal(ftruncate(stage.fd, 0), 0);
	pixman_region32_t region;
	pixman_region32_init_rect(&region, 0, 0, WIDTH, 30);
	pixman_region32_union_rect(&region, &region, 0, 32, WIDTH, 30);
	assert_int_equal(pixman_region32_n_rects(&region), 2);
	assert_true(unchanged_push(&stage.buffer, &region));
	assert_int_equal(stage.pool.memory->size, 0);
	pixman_region32_fini(&region);
	end(&stage);
}

static void narrow_rows_are_judged_by_their_bytes(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	stage.buffer.width = 400; // rows of 1,600 bytes, in the same places
	pixman_region32_t region;
	pixman_region32_init_rect(&region, 0, 0, 400, HEIGHT);
	assert_true(unchanged_push(&stage.buffer, &region));
	for (int y = 0; y < HEIGHT / 3; y++) {
		stage.pixels[y * STRIDE] ^= 1;
	}
	assert_true(unchanged_push(&stage.buffer, &region)); // a third has changed
	assert_int_equal(stage.buffer.unchanged.pause, 0);
	pixman_region32_fini(&region);
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(the_first_push_sends_everything),
		fd_count_test(what_did_not_change_is_not_sent_again),
		fd_count_test(one_changed_pixel_costs_one_piece),
		fd_count_test(small_damage_is_sent_as_it_is),
		fd_count_test(what_somebody_else_changed_is_sent),
		fd_count_test(a_buffer_that_changes_all_over_is_not_hashed_for_a_while),
		fd_count_test(a_truncated_pool_is_survived),
		fd_count_test(a_pool_truncated_to_nothing_ends_the_search),
		fd_count_test(narrow_rows_are_judged_by_their_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
