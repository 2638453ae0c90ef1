#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "fdpass/resolver.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/* A client's device that is late: the kernel's vgem, whose fences signal when they are told to. */

#define SKIPPED     77 // for Meson
#define QUIET_TURNS 50

struct stage {
	struct world *world;
	struct client *client, *other;
	struct resolver *resolver;
	struct dmabuf_screen screen;
	struct vgem_buffer memory;
	struct wl_compositor *compositor;
	struct wl_surface *surface;
	struct wl_buffer *buffer;
	bool released;
};

static void handle_release(void *data, struct wl_buffer *buffer)
{
	(void)buffer;
	((struct stage *)data)->released = true;
}

static void make_buffer(struct stage *stage)
{
	static const struct wl_buffer_listener listener = {.release = handle_release};
	stage->buffer = paint_dmabuf_buffer(
		stage->client, stage->memory.fd, VGEM_WIDTH, VGEM_HEIGHT, stage->memory.stride);
	wl_buffer_add_listener(stage->buffer, &listener, stage);
}

static void begin(struct stage *stage)
{
	*stage = (struct stage){.resolver = udmabuf_resolver_create()};
	const struct pair_options options = {
		.resolver = stage->resolver, .device.implicit_linear = true};
	assert_true(vgem_buffer_init(&stage->memory));
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 3);
	stage->client = client_create(stage->world, &options);
	stage->other = client_create(stage->world, &options);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	make_buffer(stage);
}

static void end(struct stage *stage)
{
	wl_buffer_destroy(stage->buffer);
	wl_surface_destroy(stage->surface);
	wl_compositor_destroy(stage->compositor);
	world_destroy(stage->world);
	resolver_destroy(stage->resolver);
	vgem_buffer_finish(&stage->memory);
}

static void paint(struct stage *stage, int byte)
{
	memset(stage->memory.data, byte, stage->memory.size);
}

static void expect_shown(struct stage *stage, int byte)
{
	assert_non_null(stage->screen.shown);
	uint8_t *data = udmabuf_map(stage->screen.shown->planes[0].fd, stage->memory.size);
	for (size_t i = 0; i < stage->memory.size; i++) {
		assert_int_equal(data[i], byte);
	}
	munmap(data, stage->memory.size);
}

static void a_late_fence_delays_its_commit_and_nothing_before(void **state)
{
	struct stage stage;
	bool before, after;
	(void)state;
	begin(&stage);
	paint(&stage, 'a');
	paint_show(stage.surface, stage.buffer);
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 1);
	expect_shown(&stage, 'a');

	vgem_buffer_attach(&stage.memory);
	client_ask(stage.client, &before);
	paint_show(stage.surface, stage.buffer);
	client_ask(stage.client, &after);
	world_until(stage.world, &before);
	world_turns(stage.world, QUIET_TURNS);
	vgem_buffer_expect_busy(&stage.memory);
	assert_int_equal(stage.screen.commits, 1);
	assert_false(after); // what the client says stays in order
	expect_shown(&stage, 'a');

	paint(&stage, 'b'); // by the device, which is late
	vgem_buffer_signal(&stage.memory);
	world_until(stage.world, &after);
	assert_int_equal(stage.screen.commits, 2);
	expect_shown(&stage, 'b');
	end(&stage);
}

static void events_and_other_clients_do_not_wait_for_it(void **state)
{
	struct stage stage;
	bool after;
	(void)state;
	begin(&stage);
	paint(&stage, 'a');
	paint_show(stage.surface, stage.buffer);
	client_roundtrip(stage.client);
	vgem_buffer_attach(&stage.memory);
	paint_show(stage.surface, stage.buffer);
	client_ask(stage.client, &after);
	world_turns(stage.world, QUIET_TURNS);
	client_roundtrip(stage.other);
	wl_buffer_send_release(stage.screen.shown->resource);
	world_until(stage.world, &stage.released);
	vgem_buffer_expect_busy(&stage.memory);
	assert_false(after);
	assert_int_equal(stage.screen.commits, 1);
	vgem_buffer_signal(&stage.memory);
	world_until(stage.world, &after);
	assert_int_equal(stage.screen.commits, 2);
	end(&stage);
}

static void a_client_may_leave_while_it_waits(void **state)
{
	struct stage stage;
	(void)state;
	begin(&stage);
	paint(&stage, 'a');
	vgem_buffer_attach(&stage.memory);
	paint_show(stage.surface, stage.buffer);
	world_turns(stage.world, QUIET_TURNS);
	vgem_buffer_expect_busy(&stage.memory);
	assert_int_equal(stage.screen.commits, 0);
	wl_buffer_destroy(stage.buffer);
	wl_surface_destroy(stage.surface);
	wl_compositor_destroy(stage.compositor);
	client_disconnect(stage.client);
	world_turns(stage.world, QUIET_TURNS);
	vgem_buffer_signal(&stage.memory);
	client_wait_over(stage.client);
	world_destroy(stage.world);
	resolver_destroy(stage.resolver);
	vgem_buffer_finish(&stage.memory);
}

int main(void)
{
	struct vgem_buffer buffer;
	if (!vgem_buffer_init(&buffer)) {
		fprintf(stderr, "no vgem\n");
		return SKIPPED;
	}
	vgem_buffer_finish(&buffer);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_late_fence_delays_its_commit_and_nothing_before),
		fd_count_test(events_and_other_clients_do_not_wait_for_it),
		fd_count_test(a_client_may_leave_while_it_waits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
