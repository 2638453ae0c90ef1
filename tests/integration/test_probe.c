#include <drm_fourcc.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wayland-server-core.h>
#include <cmocka.h>

#include "host-proxy/probe.h"
#include "tests/support/compositor.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/fd_count.h"

/* What the host finds out of a compositor, which is another process. */

static const struct dmabuf_pair tiled = {DRM_FORMAT_XRGB8888, 0, I915_FORMAT_MOD_X_TILED};
static const struct dmabuf_pair linear = {DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_LINEAR};
static const struct dmabuf_pair implicit = {DRM_FORMAT_XRGB8888, 0, DRM_FORMAT_MOD_INVALID};
static const struct dmabuf_pair unknown = {
	fourcc_code('?', '?', '?', '?'), 0, DRM_FORMAT_MOD_LINEAR};

struct offer {
	int version; // of linux-dmabuf; 0: it has none
	const struct dmabuf_pair *pair;
	int drm_version; // of wl_drm; 0: it has none
	uint32_t drm_capabilities;
};

static void offer_drm(struct dmabuf_screen *screen, const struct offer *offer)
{
	if (offer->drm_version > 0) {
		dmabuf_screen_add_drm(screen, "/dev/dri/card0", offer->drm_version);
		screen->drm_capabilities = offer->drm_capabilities;
	}
}

/* Until its client is gone. */
static void serve(int fd, const struct offer *offer)
{
	static const uint16_t index = 0;
	const struct dmabuf_tranche tranche = {.indices = &index, .n_indices = 1};
	struct dmabuf_screen screen;
	struct compositor *compositor = compositor_create();
	screen = (struct dmabuf_screen){.compositor = compositor};
	wl_list_init(&screen.buffers);
	if (offer->version > 0) {
		dmabuf_screen_init(&screen, compositor, offer->version);
	}
	screen.pairs = offer->pair;
	screen.n_pairs = offer->pair != NULL;
	screen.tranches = &tranche;
	screen.n_tranches = 1;
	offer_drm(&screen, offer);
	struct wl_list *clients = wl_display_get_client_list(compositor_display(compositor));
	wl_client_create(compositor_display(compositor), fd);
	while (!wl_list_empty(clients)) {
		struct pollfd events = {
			.fd = wl_event_loop_get_fd(
				wl_display_get_event_loop(compositor_display(compositor))),
			.events = POLLIN,
		};
		poll(&events, 1, -1);
		compositor_turn(compositor);
	}
	_exit(0);
}

/* Whether it takes dma-bufs. */
static bool takes_offer(const struct offer *offer)
{
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(fds[0]);
		serve(fds[1], offer);
	}
	close(fds[1]);
	struct probe probe;
	assert_int_equal(probe_compositor(fds[0], &probe), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_false(probe.has_contexts);
	return probe.takes_dmabufs;
}

static bool takes(int version, const struct dmabuf_pair *pair)
{
	return takes_offer(&(struct offer){.version = version, .pair = pair});
}

static bool takes_by_drm(int version, uint32_t capabilities, const struct dmabuf_pair *pair)
{
	return takes_offer(&(struct offer){
		.pair = pair, .drm_version = version, .drm_capabilities = capabilities});
}

static void linear_and_implicit_buffers_are_taken(void **state)
{
	(void)state;
	for (int version = 3; version <= 4; version++) {
		assert_true(takes(version, &linear));
		assert_true(takes(version, &implicit));
	}
}

static void others_are_not(void **state)
{
	(void)state;
	for (int version = 3; version <= 4; version++) {
		assert_false(takes(version, &tiled));
		assert_false(takes(version, &unknown));
	}
}

static void without_modifiers_nothing_is_known(void **state)
{
	(void)state;
	assert_false(takes(2, &linear));
	assert_false(takes(0, NULL));
}

static void what_has_wl_drm_only_may_take_them_too(void **state)
{
	(void)state;
	assert_true(takes_by_drm(2, 1, &linear));
	assert_false(takes_by_drm(2, 0, &linear));
	assert_false(takes_by_drm(1, 1, &linear));
	assert_false(takes_by_drm(2, 1, &unknown));
	assert_true(takes_offer(&(struct offer){
		.version = 4, .pair = &linear, .drm_version = 2, .drm_capabilities = 0}));
}

static void nobody_there_is_an_error(void **state)
{
	(void)state;
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	close(fds[1]);
	struct probe probe;
	assert_true(probe_compositor(fds[0], &probe) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(linear_and_implicit_buffers_are_taken),
		fd_count_test(others_are_not),
		fd_count_test(without_modifiers_nothing_is_known),
		fd_count_test(what_has_wl_drm_only_may_take_them_too),
		fd_count_test(nobody_there_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
