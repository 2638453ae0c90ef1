#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

#define MIB       (1024u * 1024)
#define TRANSFERS 8

/* One transfer: somebody writes into in, somebody reads from out. */
struct transfer {
	int in, out; // -1: not there yet, or closed
	uint8_t *data, *got;
	size_t size, sent, received;
	bool reads, closes_when_sent;
	bool broken; // EPIPE
	bool eof;
};

struct stage {
	struct world *world;
	struct client *client;
	struct wl_data_device_manager *manager;
	struct wl_seat *seat;
	struct wl_data_device *device;
	struct wl_data_offer *offer;
	struct wl_data_source *source;
	struct wl_resource *far_source;
	struct transfer transfers[TRANSFERS];
	size_t n_given; // transfers whose far end has come
};

/* ---- the clipboard ---- */

static void take_receive(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct stage *stage = data;
	assert_string_equal(args[0].s, "text/plain");
	assert_true(fcntl(args[1].h, F_SETFL, O_NONBLOCK) == 0);
	stage->transfers[stage->n_given++].in = args[1].h;
}

static void offer_selection(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	struct stage *stage = data;
	struct wl_resource *device = compositor_made(resource, &args[0]);
	struct wl_resource *offer =
		compositor_make(stage->world->compositor, device, &wl_data_offer_interface);
	wl_data_device_send_data_offer(device, offer);
	wl_data_offer_send_offer(offer, "text/plain");
	wl_data_device_send_selection(device, offer);
}

static void take_source(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct stage *stage = data;
	stage->far_source = compositor_object(&args[0]);
}

static void handle_offer(void *data, struct wl_data_device *device, struct wl_data_offer *offer)
{
	(void)device;
	((struct stage *)data)->offer = offer;
}

static void handle_selection(void *data, struct wl_data_device *device, struct wl_data_offer *offer)
{
	(void)device;
	assert_ptr_equal(((struct stage *)data)->offer, offer);
}

static const struct wl_data_device_listener device_listener = {
	.data_offer = handle_offer,
	.selection = handle_selection,
};

static void handle_send(void *data, struct wl_data_source *source, const char *mime, int32_t fd)
{
	(void)source;
	struct stage *stage = data;
	assert_string_equal(mime, "text/plain");
	assert_true(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
	stage->transfers[stage->n_given++].in = fd;
}

static const struct wl_data_source_listener source_listener = {.send = handle_send};

static void begin_with(struct stage *stage, const struct pair_options *options)
{
	*stage = (struct stage){0};
	for (size_t i = 0; i < TRANSFERS; i++) {
		stage->transfers[i].in = stage->transfers[i].out = -1;
	}
	stage->world = world_create();
	struct compositor *compositor = stage->world->compositor;
	compositor_add_global(compositor, &wl_seat_interface, 5);
	compositor_add_global(compositor, &wl_data_device_manager_interface, 3);
	compositor_hook(
		compositor, "wl_data_device_manager", "get_data_device", offer_selection, stage);
	compositor_hook(compositor, "wl_data_offer", "receive", take_receive, stage);
	compositor_hook(compositor, "wl_data_device", "set_selection", take_source, stage);
	stage->client = client_create(stage->world, options);
	stage->manager = client_bind(stage->client, &wl_data_device_manager_interface, 3);
	stage->seat = client_bind(stage->client, &wl_seat_interface, 5);
	stage->device = wl_data_device_manager_get_data_device(stage->manager, stage->seat);
	wl_data_device_add_listener(stage->device, &device_listener, stage);
	stage->source = wl_data_device_manager_create_data_source(stage->manager);
	wl_data_source_add_listener(stage->source, &source_listener, stage);
	wl_data_source_offer(stage->source, "text/plain");
	wl_data_device_set_selection(stage->device, stage->source, 0);
	client_roundtrip(stage->client);
	assert_non_null(stage->offer);
	assert_non_null(stage->far_source);
}

static void begin(struct stage *stage)
{
	begin_with(stage, NULL);
}

static void close_end(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}

static void drop_objects(struct stage *stage)
{
	if (stage->offer == NULL) {
		return;
	}
	wl_data_offer_destroy(stage->offer);
	wl_data_source_destroy(stage->source);
	wl_data_device_destroy(stage->device);
	wl_seat_destroy(stage->seat);
	wl_data_device_manager_destroy(stage->manager);
	stage->offer = NULL;
}

static void leave(struct stage *stage)
{
	drop_objects(stage);
	client_disconnect(stage->client);
}

static void end(struct stage *stage)
{
	for (size_t i = 0; i < TRANSFERS; i++) {
		struct transfer *transfer = &stage->transfers[i];
		close_end(&transfer->in);
		close_end(&transfer->out);
		free(transfer->data);
		free(transfer->got);
	}
	drop_objects(stage);
	world_destroy(stage->world);
}

/* ---- transfers ---- */

static struct transfer *begin_transfer(struct stage *stage, size_t i, size_t size, int *given)
{
	struct transfer *transfer = &stage->transfers[i];
	struct paint_rng rng = {.state = i + 100};
	int ends[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(fcntl(ends[1], F_SETFL, 0), 0); // as clients make it
	*transfer = (struct transfer){
		.in = -1,
		.out = ends[0],
		.data = malloc(size + 1),
		.got = malloc(size + 1),
		.size = size,
		.reads = true,
		.closes_when_sent = true,
	};
	paint_noise(&rng, transfer->data, size);
	*given = ends[1];
	return transfer;
}

/* The client asks for the selection, the test's compositor writes it. */
static struct transfer *paste(struct stage *stage, size_t i, size_t size)
{
	int given;
	struct transfer *transfer = begin_transfer(stage, i, size, &given);
	wl_data_offer_receive(stage->offer, "text/plain", given);
	close(given);
	return transfer;
}

/* The test's compositor asks for the client's selection. */
static struct transfer *copy(struct stage *stage, size_t i, size_t size)
{
	int given;
	struct transfer *transfer = begin_transfer(stage, i, size, &given);
	wl_data_source_send_send(stage->far_source, "text/plain", given);
	close(given);
	return transfer;
}

static void write_some(struct transfer *transfer)
{
	while (transfer->in >= 0 && transfer->sent < transfer->size) {
		ssize_t n = write(transfer->in, transfer->data + transfer->sent,
			transfer->size - transfer->sent);
		if (n < 0) {
			transfer->broken = errno == EPIPE;
			assert_true(transfer->broken || errno == EAGAIN);
			break;
		}
		transfer->sent += (size_t)n;
	}
	if (transfer->sent == transfer->size && transfer->closes_when_sent) {
		close_end(&transfer->in);
	}
}

static void read_some(struct transfer *transfer)
{
	while (transfer->out >= 0 && transfer->reads && !transfer->eof) {
		ssize_t n = read(transfer->out, transfer->got + transfer->received,
			transfer->size + 1 - transfer->received);
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
		transfer->received += (size_t)n;
		transfer->eof = n == 0;
		assert_true(transfer->received <= transfer->size);
	}
}

static void turn(struct stage *stage)
{
	for (size_t i = 0; i < TRANSFERS; i++) {
		write_some(&stage->transfers[i]);
		read_some(&stage->transfers[i]);
	}
}

static bool has_arrived(void *data)
{
	struct stage *stage = data;
	turn(stage);
	for (size_t i = 0; i < TRANSFERS; i++) {
		const struct transfer *transfer = &stage->transfers[i];
		if (transfer->out >= 0 && transfer->reads && !transfer->eof) {
			return false;
		}
	}
	return true;
}

static void wait_arrived(struct stage *stage)
{
	world_wait(stage->world, has_arrived, stage);
}

static void expect_equal(const struct transfer *transfer)
{
	assert_int_equal(transfer->received, transfer->size);
	assert_memory_equal(transfer->got, transfer->data, transfer->size);
}

typedef struct transfer *(*begin_func)(struct stage *stage, size_t i, size_t size);

/* ---- tests ---- */

static void carry_all(begin_func func, const struct pair_options *options)
{
	struct stage stage;
	begin_with(&stage, options);
	for (size_t i = 0; i < TRANSFERS; i++) {
		func(&stage, i, MIB - i * 777);
	}
	wait_arrived(&stage);
	for (size_t i = 0; i < TRANSFERS; i++) {
		expect_equal(&stage.transfers[i]);
	}
	client_roundtrip(stage.client);
	end(&stage);
}

static void eight_pastes_at_once_arrive_whole(void **state)
{
	(void)state;
	carry_all(paste, NULL);
}

static void eight_copies_at_once_arrive_whole(void **state)
{
	(void)state;
	carry_all(copy, NULL);
}

static void they_do_over_a_channel_that_takes_little(void **state)
{
	(void)state;
	const struct pair_options options = {.channel_buffer = 1, .local_buffer = 1};
	carry_all(paste, &options);
	carry_all(copy, &options);
}

static void transfer_nothing(begin_func func)
{
	struct stage stage;
	begin(&stage);
	func(&stage, 0, 0);
	wait_arrived(&stage);
	assert_true(stage.transfers[0].eof);
	assert_int_equal(stage.transfers[0].received, 0);
	end(&stage);
}

static void a_writer_that_closes_at_once_gives_eof(void **state)
{
	(void)state;
	transfer_nothing(paste);
	transfer_nothing(copy);
}

static bool is_broken(void *data)
{
	struct stage *stage = data;
	turn(stage);
	return stage->transfers[0].broken;
}

static void break_reader(begin_func func, size_t after)
{
	struct stage stage;
	begin(&stage);
	struct transfer *transfer = func(&stage, 0, 8 * MIB);
	transfer->closes_when_sent = false;
	while (transfer->received < after) {
		world_turn(stage.world);
		turn(&stage);
	}
	close_end(&transfer->out);
	world_wait(stage.world, is_broken, &stage);
	client_roundtrip(stage.client);
	end(&stage);
}

static void a_reader_that_closes_early_breaks_the_writers_pipe(void **state)
{
	(void)state;
	break_reader(paste, 0);
	break_reader(copy, 0);
	break_reader(paste, 100000);
	break_reader(copy, 100000);
}

static bool has_writer(void *data)
{
	return ((struct stage *)data)->n_given > 0;
}

static bool is_told(void *data)
{
	struct pollfd writer = {.fd = ((struct stage *)data)->transfers[0].in};
	return poll(&writer, 1, 0) == 1 && (writer.revents & POLLERR);
}

static void break_idle(begin_func func)
{
	struct stage stage;
	begin(&stage);
	struct transfer *transfer = func(&stage, 0, 1);
	world_wait(stage.world, has_writer, &stage);
	close_end(&transfer->out);
	world_wait(stage.world, is_told, &stage);
	world_wait(stage.world, is_broken, &stage);
	end(&stage);
}

static void a_writer_that_has_written_nothing_yet_learns_that_nobody_reads(void **state)
{
	(void)state;
	break_idle(paste);
	break_idle(copy);
}

static void get_stuck(begin_func func)
{
	struct stage stage;
	begin(&stage);
	func(&stage, 0, 4 * MIB)->reads = false;
	for (size_t i = 1; i < TRANSFERS; i++) {
		func(&stage, i, MIB);
	}
	for (size_t i = 0; i < 50; i++) {
		client_roundtrip(stage.client);
		turn(&stage);
	}
	wait_arrived(&stage);
	for (size_t i = 1; i < TRANSFERS; i++) {
		expect_equal(&stage.transfers[i]);
	}
	assert_true(stage.transfers[0].sent < 4 * MIB); // somebody holds the writer back
	stage.transfers[0].reads = true;
	wait_arrived(&stage);
	expect_equal(&stage.transfers[0]);
	end(&stage);
}

static void a_reader_that_reads_nothing_holds_up_only_itself(void **state)
{
	(void)state;
	get_stuck(paste);
	get_stuck(copy);
}

static bool is_sent(void *data)
{
	struct stage *stage = data;
	turn(stage);
	return stage->transfers[0].sent == stage->transfers[0].size;
}

static void data_that_is_under_way_arrives_though_the_client_has_left(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct transfer *transfer = copy(&stage, 0, 300000);
	transfer->reads = false;
	world_wait(stage.world, is_sent, &stage);
	leave(&stage);
	world_turns(stage.world, 50);
	transfer->reads = true;
	wait_arrived(&stage);
	expect_equal(transfer);
	client_wait_over(stage.client);
	assert_string_equal(stage.client->pair.guest.reason, "");
	assert_string_equal(stage.client->pair.host.reason, "");
	end(&stage);
}

/* As a child of the client does, which has the fd and no connection. */
static void go_on_after_leaving(begin_func func)
{
	struct stage stage;
	begin(&stage);
	struct transfer *transfer = func(&stage, 0, 2 * MIB);
	transfer->reads = false;
	world_wait(stage.world, has_writer, &stage);
	leave(&stage);
	world_turns(stage.world, 50);
	transfer->reads = true;
	wait_arrived(&stage);
	expect_equal(transfer);
	client_wait_over(stage.client);
	end(&stage);
}

static void a_transfer_goes_on_when_its_client_has_left(void **state)
{
	(void)state;
	go_on_after_leaving(copy);
	go_on_after_leaving(paste);
}

static void pipes_leave_nothing_behind_in_a_long_session(void **state)
{
	(void)state;
	struct stage stage;
	const struct pair_options options = {.max_fds = 32};
	begin_with(&stage, &options);
	for (size_t i = 0; i < 300; i++) {
		stage.n_given = 0;
		struct transfer *transfer = i & 1 ? copy(&stage, 0, 5000) : paste(&stage, 0, 5000);
		wait_arrived(&stage);
		expect_equal(transfer);
		close_end(&transfer->out);
		free(transfer->data);
		free(transfer->got);
		transfer->data = transfer->got = NULL;
	}
	end(&stage);
}

// The compositor passes on what another client asks with. Takes fd.
static void ask_with(struct stage *stage, int fd)
{
	wl_data_source_send_send(stage->far_source, "text/plain", fd);
	close(fd);
}

static void what_others_ask_with_that_cannot_cross_ends_nobodys_session(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	ask_with(&stage, open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	ask_with(&stage, open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_given, 0);
	struct transfer *transfer = copy(&stage, 0, 5000);
	wait_arrived(&stage);
	expect_equal(transfer);
	end(&stage);
}

static void others_do_not_take_all_that_a_session_may_have(void **state)
{
	(void)state;
	struct stage stage;
	const struct pair_options options = {.max_fds = TRANSFERS};
	int readers[TRANSFERS];
	char byte;
	begin_with(&stage, &options);
	for (size_t i = 0; i < TRANSFERS; i++) {
		int ends[2];
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		readers[i] = ends[0];
		ask_with(&stage, ends[1]);
	}
	client_roundtrip(stage.client);
	assert_int_equal(stage.n_given, TRANSFERS / 2);
	assert_int_equal(read(readers[TRANSFERS - 1], &byte, 1), 0); // nobody writes
	for (size_t i = 0; i < TRANSFERS; i++) {
		close_end(&stage.transfers[i].in);
		close(readers[i]);
	}
	end(&stage);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		fd_count_test(eight_pastes_at_once_arrive_whole),
		fd_count_test(eight_copies_at_once_arrive_whole),
		fd_count_test(they_do_over_a_channel_that_takes_little),
		fd_count_test(a_writer_that_closes_at_once_gives_eof),
		fd_count_test(a_reader_that_closes_early_breaks_the_writers_pipe),
		fd_count_test(a_writer_that_has_written_nothing_yet_learns_that_nobody_reads),
		fd_count_test(a_reader_that_reads_nothing_holds_up_only_itself),
		fd_count_test(data_that_is_under_way_arrives_though_the_client_has_left),
		fd_count_test(a_transfer_goes_on_when_its_client_has_left),
		fd_count_test(pipes_leave_nothing_behind_in_a_long_session),
		fd_count_test(what_others_ask_with_that_cannot_cross_ends_nobodys_session),
		fd_count_test(others_do_not_take_all_that_a_session_may_have),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
