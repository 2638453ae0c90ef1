#include "fdpass/departure.h"

#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "fdpass/dmabuf.h"
#include "fdpass/resolver.h"
#include "tests/support/fd_count.h"
#include "tests/support/pages.h"

#define PAGE 4096u
#define ID   7u

/* ---- what the kernel says of a dma-buf ---- */

static uint64_t references;

bool __real_fd_info_number(int info, const char *name, int base, uint64_t *number);
bool __wrap_fd_info_number(int info, const char *name, int base, uint64_t *number);

bool __wrap_fd_info_number(int info, const char *name, int base, uint64_t *number)
{
	if (strcmp(name, "count") != 0) {
		return __real_fd_info_number(info, name, base, number);
	}
	*number = references;
	return true;
}

/* ---- a GPU's buffer ---- */

struct gpu {
	struct resolver resolver;
	int buffer;
};

static int find(
	struct resolver *resolver, uint32_t resource, uint64_t size, struct resolver_buffer *buffer)
{
	(void)resource;
	const struct gpu *gpu = (const struct gpu *)resolver;
	*buffer = (struct resolver_buffer){
		.fd = fcntl(gpu->buffer, F_DUPFD_CLOEXEC, 0),
		.size = size,
	};
	return 0;
}

static const struct resolver_interface interface = {.name = "test", .find = find};

struct fixture {
	struct ends ends;
	struct end *host;
	struct gpu gpu;
};

static void init(struct fixture *fixture)
{
	ends_init_wayland(&fixture->ends);
	fixture->host = &fixture->ends.host;
	fixture->gpu = (struct gpu){.resolver.interface = &interface, .buffer = new_memfd(PAGE)};
	fixture->host->refs.dmabufs = true;
	fixture->host->refs.handles = &fixture->gpu.resolver;
}

static void finish(struct fixture *fixture)
{
	assert_null(fixture->host->wrong);
	ends_finish(&fixture->ends);
	close(fixture->gpu.buffer);
}

static void open_buffer(struct fixture *fixture, uint32_t id)
{
	struct {
		struct channel_open_dmabuf dmabuf;
		struct channel_open_handle handle;
	} open = {.dmabuf = {.access = CHANNEL_ACCESS_BOTH, .plane = CHANNEL_PLANE_HANDLE}};
	channel_put64(open.dmabuf.size, PAGE);
	assert_null(end_frame(
		fixture->host, CHANNEL_OPEN, id, CHANNEL_KIND_DMABUF, &open, sizeof(open)));
}

static void close_buffer(struct fixture *fixture, uint32_t id)
{
	assert_null(end_frame(fixture->host, CHANNEL_CLOSE, id, 0, NULL, 0));
}

static void expect_charged(const struct fixture *fixture, uint64_t buffers)
{
	assert_int_equal(fixture->host->budget.used[BUDGET_MEMORY], buffers * PAGE);
	assert_int_equal(fixture->host->budget.used[BUDGET_FDS], buffers);
}

static void run_until_nothing_is_charged(struct fixture *fixture)
{
	while (fixture->host->budget.used[BUDGET_MEMORY] > 0) {
		event_base_loop(fixture->ends.base, EVLOOP_ONCE);
	}
	expect_charged(fixture, 0);
}

static void what_nobody_has_any_more_is_not_charged(void **state)
{
	struct fixture fixture;
	(void)state;
	init(&fixture);
	references = 2;
	open_buffer(&fixture, ID);
	expect_charged(&fixture, 1);
	references = 1;
	close_buffer(&fixture, ID);
	expect_charged(&fixture, 0);
	finish(&fixture);
}

// The guest's GPU forgets its buffer, and the compositor has it.
static void what_others_had_stays_charged_while_anybody_has_it(void **state)
{
	struct fixture fixture;
	(void)state;
	init(&fixture);
	references = 2; // with the GPU's
	open_buffer(&fixture, ID);
	close_buffer(&fixture, ID);
	assert_null(fdrefs_get(&fixture.host->refs, ID));
	expect_charged(&fixture, 1);
	references = 1;
	run_until_nothing_is_charged(&fixture);
	finish(&fixture);
}

static void one_buffer_stays_charged_once(void **state)
{
	struct fixture fixture;
	(void)state;
	init(&fixture);
	references = 2;
	for (int i = 0; i < 3; i++) {
		open_buffer(&fixture, ID);
		close_buffer(&fixture, ID);
		expect_charged(&fixture, 1);
	}
	references = 1;
	run_until_nothing_is_charged(&fixture);
	finish(&fixture);
}

static void what_is_opened_again_is_charged_for_that(void **state)
{
	struct fixture fixture;
	(void)state;
	init(&fixture);
	references = 2;
	open_buffer(&fixture, ID);
	close_buffer(&fixture, ID);
	open_buffer(&fixture, ID);
	while (fixture.host->budget.used[BUDGET_FDS] > 1) {
		event_base_loop(fixture.ends.base, EVLOOP_ONCE);
	}
	expect_charged(&fixture, 1);
	assert_non_null(dmabuf_get(&fixture.host->refs, ID));
	finish(&fixture);
}

static void a_session_can_end_before(void **state)
{
	struct fixture fixture;
	(void)state;
	init(&fixture);
	references = 2;
	open_buffer(&fixture, ID);
	close_buffer(&fixture, ID);
	open_buffer(&fixture, ID + 1);
	finish(&fixture);
}

/* ---- pools ---- */

static void nobody_begins_to_use_a_pool_that_leaves(void **state)
{
	struct fixture fixture;
	struct page_world pages;
	const char *wrong;
	(void)state;
	init(&fixture);
	page_world_init(&pages);
	struct fdrefs *guest = &fixture.ends.guest.refs;
	guest->pinner = &pages.pinner;
	fixture.host->refs.page_buffers = &pages.buffers;
	struct memory *pool = memory_export(guest, new_memfd(PAGE), PAGE, &wrong);
	assert_non_null(pool);
	uint32_t id = pool->ref.id;
	references = 2; // the compositor's
	memory_release(pool);
	ends_run(&fixture.ends);
	assert_int_equal(pages.pinned, 1);
	assert_non_null(fdrefs_get(&fixture.host->refs, id));
	assert_null(memory_get(&fixture.host->refs, id));
	references = 1;
	run_until_nothing_is_charged(&fixture);
	ends_run(&fixture.ends);
	assert_int_equal(pages.pinned, 0);
	finish(&fixture);
	page_world_finish(&pages);
}

/* Whoever has made its buffer keeps it for us. */
static void a_pool_is_gone_when_only_its_makers_reference_is_left(void **state)
{
	struct fixture fixture;
	struct page_world pages;
	const char *wrong;
	(void)state;
	init(&fixture);
	page_world_init(&pages);
	pages.buffers.kept = 1;
	fixture.ends.guest.refs.pinner = &pages.pinner;
	fixture.host->refs.page_buffers = &pages.buffers;
	struct memory *pool =
		memory_export(&fixture.ends.guest.refs, new_memfd(PAGE), PAGE, &wrong);
	assert_non_null(pool);
	references = 3;
	memory_release(pool);
	ends_run(&fixture.ends);
	assert_int_equal(pages.pinned, 1);
	references = 2;
	run_until_nothing_is_charged(&fixture);
	ends_run(&fixture.ends);
	assert_int_equal(pages.pinned, 0);
	finish(&fixture);
	page_world_finish(&pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_nobody_has_any_more_is_not_charged),
		fd_count_test(what_others_had_stays_charged_while_anybody_has_it),
		fd_count_test(one_buffer_stays_charged_once),
		fd_count_test(what_is_opened_again_is_charged_for_that),
		fd_count_test(a_session_can_end_before),
		fd_count_test(nobody_begins_to_use_a_pool_that_leaves),
		fd_count_test(a_pool_is_gone_when_only_its_makers_reference_is_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
