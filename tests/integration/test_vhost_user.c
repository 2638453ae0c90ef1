#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>

#include "channel/input.h"
#include "host-proxy/borrower.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/vsock_cable.h"
#include "tests/support/world.h"

/*
 * Whole sessions, from HELLO to END, through the vsock device of a virtual machine.
 */

#define WIDTH  1024
#define HEIGHT 768
#define STRIDE (WIDTH * 4)
#define SIZE   (STRIDE * HEIGHT)

#define PATIENCE_MS 60000

struct stage {
	struct world *world;
	struct client *client;
	struct wl_compositor *compositor;
	struct wl_shm *shm;
	struct wl_surface *surface;
	struct paint_pool pool;
	struct paint_rng rng;
};

static void begin_with(struct stage *stage, const struct pair_options *options)
{
	*stage = (struct stage){.rng = {.state = 11}};
	stage->world = world_create();
	stage->client = client_create(stage->world, options);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->shm = client_bind(stage->client, &wl_shm_interface, 1);
	stage->surface = wl_compositor_create_surface(stage->compositor);
	paint_pool_init(&stage->pool, stage->shm, SIZE);
}

static void begin(struct stage *stage)
{
	const struct pair_options options = {.make_channel = vsock_cable_create};
	begin_with(stage, &options);
}

static void begin_lending(struct stage *stage)
{
	const struct pair_options options = {
		.make_channel = vsock_cable_create_lending,
		.make_input = borrower_create,
	};
	begin_with(stage, &options);
}

static void end(struct stage *stage)
{
	paint_pool_finish(&stage->pool);
	wl_surface_destroy(stage->surface);
	wl_shm_destroy(stage->shm);
	wl_compositor_destroy(stage->compositor);
	client_disconnect(stage->client);
	client_wait_over(stage->client);
	assert_string_equal(stage->client->pair.guest.reason, "");
	assert_string_equal(stage->client->pair.host.reason, "");
	world_destroy(stage->world);
	assert_true(vsock_cable_wait());
}

static void show_frames(struct stage *stage)
{
	struct wl_buffer *buffer = wl_shm_pool_create_buffer(
		stage->pool.pool, 0, WIDTH, HEIGHT, STRIDE, WL_SHM_FORMAT_ARGB8888);
	for (int i = 0; i < 5; i++) {
		paint_noise(&stage->rng, stage->pool.data, SIZE);
		paint_show(stage->surface, buffer);
		client_roundtrip(stage->client);
		const struct screen_surface *far = client_shown(stage->client, stage->surface);
		assert_true(far->picture_size >= SIZE);
		assert_memory_equal(far->picture, stage->pool.data, SIZE);
	}
	wl_buffer_destroy(buffer);
}

static void send_many_messages(struct stage *stage)
{
	for (int i = 0; i < 200; i++) {
		struct wl_surface *surface = wl_compositor_create_surface(stage->compositor);
		wl_surface_damage(surface, i, i, 1, 1);
		wl_surface_commit(surface);
		client_roundtrip(stage->client);
		wl_surface_destroy(surface);
	}
}

static void a_session_goes_through_the_device(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	show_frames(&stage);
	end(&stage);
}

static void a_session_borrows_from_the_device(void **state)
{
	(void)state;
	struct stage stage;
	begin_lending(&stage);
	show_frames(&stage);
	send_many_messages(&stage);
	show_frames(&stage);
	end(&stage);
}

static void many_messages_go_through_the_device(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	send_many_messages(&stage);
	end(&stage);
}

/* More than both sockets and the device hold, with a reader that lets it wait, and both ways. */
static void bytes_arrive_in_order(void **state)
{
	(void)state;
	enum { TOTAL = 8 << 20, PART = 50000 };
	int fds[2];
	uint8_t *sent = malloc(TOTAL), *received = malloc(TOTAL);
	struct paint_rng rng = {.state = 5};
	paint_noise(&rng, sent, TOTAL);
	for (int direction = 0; direction < 2; direction++) {
		vsock_cable_create(fds);
		size_t out = 0, in = 0;
		while (in < TOTAL) {
			size_t part = TOTAL - out < PART ? TOTAL - out : PART;
			ssize_t n = send(fds[direction], sent + out, part, MSG_DONTWAIT);
			out += n > 0 ? (size_t)n : 0;
			if (n < 0 || out == TOTAL) {
				n = recv(fds[1 - direction], received + in, TOTAL - in, 0);
				assert_true(n > 0);
				in += (size_t)n;
			}
		}
		assert_memory_equal(sent, received, TOTAL);
		assert_int_equal(shutdown(fds[direction], SHUT_WR), 0);
		assert_int_equal(recv(fds[1 - direction], received, 1, 0), 0);
		close(fds[0]);
		close(fds[1]);
		assert_true(vsock_cable_wait());
	}
	free(sent);
	free(received);
}

struct ends {
	int fds[2]; // the guest's, the host's; -1: closed
	bool shut[2];
	struct channel_input *input; // of the host's; NULL: its socket
};

static void receive_something(struct ends *ends, int end, void *bytes, size_t len)
{
	const struct iovec piece = {bytes, len};
	if (end == 1 && ends->input != NULL) {
		channel_input_read(ends->input, &piece, 1);
	} else {
		recv(ends->fds[end], bytes, len, MSG_DONTWAIT);
	}
}

static void close_end(struct ends *ends, int end)
{
	if (end == 1) {
		channel_input_destroy(ends->input);
		ends->input = NULL;
	}
	close(ends->fds[end]);
	ends->fds[end] = -1;
}

static void do_something(struct ends *ends, struct paint_rng *rng, int end)
{
	static char bytes[100000];
	int fd = ends->fds[end];
	size_t len = (size_t)paint_range(rng, 1, paint_once_in(rng, 2) ? 100 : sizeof(bytes));
	switch (paint_range(rng, 0, 7)) {
	case 0:
	case 1:
	case 2:
		if (!ends->shut[end]) {
			send(fd, bytes, len, MSG_DONTWAIT);
		}
		break;
	case 3:
	case 4:
		receive_something(ends, end, bytes, sizeof(bytes));
		break;
	case 5:
		shutdown(fd, SHUT_WR);
		ends->shut[end] = true;
		break;
	case 6:
		close_end(ends, end);
		break;
	case 7:
		usleep((useconds_t)paint_range(rng, 0, paint_once_in(rng, 2) ? 50 : 2000));
		break;
	}
}

/* Whoever says its end first, and whatever is still under way then, nothing is left of it. */
static void connections_end_in_any_order(void **state)
{
	(void)state;
	struct paint_rng rng = {.state = 7};
	for (int i = 0; i < 200; i++) {
		struct ends ends = {0};
		if (i % 2 == 0) {
			vsock_cable_create(ends.fds);
		} else {
			vsock_cable_create_lending(ends.fds);
			ends.input = borrower_create(ends.fds[1]);
		}
		while (ends.fds[0] >= 0 || ends.fds[1] >= 0) {
			int end = paint_range(&rng, 0, 1);
			do_something(&ends, &rng, ends.fds[end] >= 0 ? end : 1 - end);
		}
		assert_true(vsock_cable_wait());
	}
}

static void borrowed_bytes_arrive_in_order(void **state)
{
	(void)state;
	enum { TOTAL = 8 << 20, PART = 50000 };
	int fds[2];
	uint8_t *sent = malloc(TOTAL), *received = malloc(TOTAL);
	struct paint_rng rng = {.state = 5};
	paint_noise(&rng, sent, TOTAL);
	vsock_cable_create_lending(fds);
	struct channel_input *input = borrower_create(fds[1]);
	size_t out = 0, in = 0;
	while (in < TOTAL) {
		size_t part = TOTAL - out < PART ? TOTAL - out : PART;
		part = paint_once_in(&rng, 3) ? (part + 99) / 100 : part;
		ssize_t n = send(fds[0], sent + out, part, MSG_DONTWAIT);
		out += n > 0 ? (size_t)n : 0;
		if (n < 0 || out == TOTAL) {
			struct pollfd arrived = {.fd = fds[1], .events = POLLIN};
			const struct iovec piece = {received + in, TOTAL - in};
			n = channel_input_read(input, &piece, 1);
			assert_true(n > 0 || n == -EAGAIN);
			in += n > 0 ? (size_t)n : 0;
			assert_true(n > 0 || poll(&arrived, 1, PATIENCE_MS) == 1);
		}
	}
	assert_memory_equal(received, sent, TOTAL);
	channel_input_destroy(input);
	close(fds[0]);
	close(fds[1]);
	assert_true(vsock_cable_wait());
	free(sent);
	free(received);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_session_goes_through_the_device),
		fd_count_test(a_session_borrows_from_the_device),
		fd_count_test(many_messages_go_through_the_device),
		fd_count_test(bytes_arrive_in_order),
		fd_count_test(connections_end_in_any_order),
		fd_count_test(borrowed_bytes_arrive_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
