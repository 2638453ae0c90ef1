#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "channel/input.h"
#include "host-proxy/borrower.h"
#include "host-proxy/lender.h"
#include "host-proxy/loan.h"
#include "host-proxy/page_lender.h"
#include "host-proxy/ram_buffer.h"
#include "host-proxy/vsock_connection.h"
#include "host-proxy/vsock_device.h"
#include "tests/support/fd_count.h"
#include "tests/support/virtual_machine.h"

/*
 * A device that lends, with a guest in front of it and a borrower behind it.
 */

#define GUEST    1022 // ports
#define HOST     7000
#define RX       0 // queues
#define TX       1
#define LARGE    60000
#define TURNS    20
#define SHARE    (MACHINE_RING / 4) // that is lent at most
#define SESSIONS 3
#define WAIT     60000 // ms

#define OP(name) VIRTIO_VSOCK_OP_##name
#define BOTH     (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

struct session {
	int fd; // -1: closed
	struct channel_input *input;
};

struct fixture {
	struct event_base *base;
	struct vsock_device *device;
	struct machine machine;
	struct session sessions[SESSIONS];
	size_t n_sessions;
	unsigned int ended;
	bool no_borrower; // the test reads records itself
	struct ram_buffers buffers;
	uint8_t *sent; // what LARGE bytes of a packet are taken from
	uint8_t *got;
};

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	struct fixture *fixture = data;
	int pair[2];
	(void)host_port;
	(void)guest_port;
	assert_true(fixture->n_sessions < SESSIONS);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	struct session *session = &fixture->sessions[fixture->n_sessions++];
	session->fd = pair[1];
	session->input = fixture->no_borrower ? NULL : borrower_create(pair[1]);
	return pair[0];
}

static bool handle_lends(void *data, uint32_t host_port)
{
	(void)data;
	return host_port == HOST;
}

static void handle_ended(void *data, const char *wrong)
{
	(void)wrong;
	((struct fixture *)data)->ended++;
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

// What has come is handled, and no timer that it has set.
static void turn_once(struct fixture *fixture)
{
	event_base_loop(fixture->base, EVLOOP_NONBLOCK);
}

static void begin_with(struct fixture *fixture, bool shares_pages)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*fixture = (struct fixture){.base = event_base_new(), .buffers.device = -1};
	if (shares_pages) {
		ram_buffers_open(&fixture->buffers);
	}
	fixture->sent = malloc(3 * LARGE);
	fixture->got = malloc(2 * VSOCK_WINDOW);
	for (size_t i = 0; i < 3 * LARGE; i++) {
		fixture->sent[i] = (uint8_t)(i * 13 + i / 251);
	}
	const struct vsock_device_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.guest_cid = MACHINE_CID,
		.open = handle_open,
		.lends = handle_lends,
		.buffers = shares_pages ? &fixture->buffers : NULL,
		.ended = handle_ended,
		.data = fixture,
	};
	fixture->device = vsock_device_create(&config);
	assert_non_null(fixture->device);
	machine_init(&fixture->machine, pair[0],
		MACHINE_VERSION_1 | MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
	machine_boot(&fixture->machine, 32);
	turn(fixture);
}

static void begin(struct fixture *fixture)
{
	begin_with(fixture, false);
}

static void leave(struct fixture *fixture, size_t i)
{
	struct session *session = &fixture->sessions[i];
	channel_input_destroy(session->input);
	session->input = NULL;
	if (session->fd >= 0) {
		close(session->fd);
	}
	session->fd = -1;
}

static void end(struct fixture *fixture)
{
	vsock_device_destroy(fixture->device);
	ram_buffers_close(&fixture->buffers);
	for (size_t i = 0; i < fixture->n_sessions; i++) {
		leave(fixture, i);
	}
	machine_finish(&fixture->machine);
	event_base_free(fixture->base);
	free(fixture->sent);
	free(fixture->got);
}

static void send_op(struct fixture *fixture, uint32_t port, uint16_t operation, uint32_t flags)
{
	struct virtio_vsock_hdr header = machine_header(port, HOST, operation);
	header.flags = flags;
	assert_true(machine_send_packet(&fixture->machine, &header, NULL, 0));
	turn(fixture);
}

static void send_bytes(struct fixture *fixture, uint32_t port, const void *data, size_t len)
{
	struct virtio_vsock_hdr header = machine_header(port, HOST, OP(RW));
	header.len = (uint32_t)len;
	assert_true(machine_send_packet(&fixture->machine, &header, data, len));
	turn(fixture);
}

static struct virtio_vsock_hdr expect(struct fixture *fixture, uint16_t operation)
{
	struct virtio_vsock_hdr header = {0};
	char payload[MACHINE_RX_SIZE];
	turn(fixture);
	assert_true(machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload)));
	assert_int_equal(header.op, operation);
	return header;
}

static void expect_nothing(struct fixture *fixture)
{
	struct virtio_vsock_hdr header;
	char payload[MACHINE_RX_SIZE];
	turn(fixture);
	assert_false(machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload)));
}

static void connect_guest(struct fixture *fixture, uint32_t port)
{
	send_op(fixture, port, OP(REQUEST), 0);
	assert_int_equal(expect(fixture, OP(RESPONSE)).buf_alloc, VSOCK_LENDING_WINDOW);
}

/* How many chains of the guest's the device has. */
static unsigned int chains(struct fixture *fixture)
{
	const struct machine_queue *queue = &fixture->machine.queues[TX];
	turn(fixture);
	return (uint16_t)(queue->avail->idx - queue->used->idx);
}

/* Reads what there is for a session, at most max bytes. */
static size_t take(struct fixture *fixture, size_t i, size_t max)
{
	size_t total = 0;
	ssize_t n = 1;
	turn(fixture);
	while (n > 0 && total < max) {
		const struct iovec piece = {fixture->got + total, max - total};
		n = channel_input_read(fixture->sessions[i].input, &piece, 1);
		assert_true(n != 0);
		total += n > 0 ? (size_t)n : 0;
	}
	assert_true(n > 0 || n == -EAGAIN);
	return total;
}

static void take_all(struct fixture *fixture, size_t i)
{
	assert_int_equal(take(fixture, i, 2 * VSOCK_WINDOW), LARGE);
	assert_memory_equal(fixture->got, fixture->sent, LARGE);
}

static ssize_t read_once(struct fixture *fixture, size_t i)
{
	const struct iovec piece = {fixture->got, VSOCK_WINDOW};
	turn(fixture);
	return channel_input_read(fixture->sessions[i].input, &piece, 1);
}

static void begin_lent(struct fixture *fixture)
{
	begin(fixture);
	connect_guest(fixture, GUEST);
	send_bytes(fixture, GUEST, fixture->sent, LARGE);
	assert_int_equal(chains(fixture), 1);
}

static void a_chain_comes_back_when_it_is_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	assert_int_equal(take(&fixture, 0, 100), 100);
	assert_int_equal(chains(&fixture), 1);
	assert_int_equal(take(&fixture, 0, LARGE), LARGE - 100);
	assert_memory_equal(fixture.got, fixture.sent + 100, LARGE - 100);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

/* The guest wants to be called for the next chain that comes back. */
static void wait_for_call(struct fixture *fixture)
{
	uint64_t count;
	machine_can_send(&fixture->machine);
	while (read(fixture->machine.queues[TX].call_fd, &count, sizeof(count)) > 0) {
	}
}

static bool is_called(struct fixture *fixture)
{
	uint64_t count;
	return read(fixture->machine.queues[TX].call_fd, &count, sizeof(count)) > 0;
}

static void the_guest_is_called_for_it(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	wait_for_call(&fixture);
	take_all(&fixture, 0);
	while (!is_called(&fixture)) {
		event_base_loop(fixture.base, EVLOOP_ONCE);
	}
	end(&fixture);
}

/* Small packets, which are written at once. */
static void send_some(struct fixture *fixture, unsigned int n)
{
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	header.len = 10;
	for (unsigned int i = 0; i < n; i++) {
		assert_true(machine_send_packet(&fixture->machine, &header, "some bytes", 10));
	}
	turn_once(fixture);
}

static void begin_connected(struct fixture *fixture)
{
	begin(fixture);
	connect_guest(fixture, GUEST);
	wait_for_call(fixture);
}

static void the_guest_is_called_with_an_answer(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_connected(&fixture);
	send_some(&fixture, 1);
	is_called(&fixture); // or not yet: that is a matter of milliseconds
	assert_int_equal(send(fixture.sessions[0].fd, "answer", 6, 0), 6);
	turn_once(&fixture);
	assert_true(is_called(&fixture));
	end(&fixture);
}

static void the_guest_is_called_for_many(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_connected(&fixture);
	send_some(&fixture, MACHINE_RING / 32);
	assert_true(is_called(&fixture));
	end(&fixture);
}

static void the_guest_is_called_before_its_ring_stops(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_connected(&fixture);
	send_some(&fixture, 1);
	bool early = is_called(&fixture); // it is a matter of milliseconds
	machine_send_state(&fixture.machine, MACHINE_GET_VRING_BASE, TX, 0);
	turn_once(&fixture);
	assert_true(early || is_called(&fixture));
	end(&fixture);
}

static void the_guest_is_called_at_once_where_nobody_borrows(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST + 1, OP(REQUEST));
	assert_true(machine_send_packet(&fixture.machine, &header, NULL, 0));
	expect(&fixture, OP(RESPONSE));
	wait_for_call(&fixture);
	header.op = OP(RW);
	header.len = 5;
	assert_true(machine_send_packet(&fixture.machine, &header, "bytes", 5));
	turn_once(&fixture);
	assert_true(is_called(&fixture));
	end(&fixture);
}

static void what_is_small_is_not_lent(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture, GUEST);
	send_bytes(&fixture, GUEST, fixture.sent, LENDER_MIN - 1);
	assert_int_equal(chains(&fixture), 0);
	send_bytes(&fixture, GUEST, fixture.sent + LENDER_MIN - 1, LENDER_MIN);
	assert_int_equal(chains(&fixture), 1);
	assert_int_equal(take(&fixture, 0, 2 * LARGE), 2 * LENDER_MIN - 1);
	assert_memory_equal(fixture.got, fixture.sent, 2 * LENDER_MIN - 1);
	end(&fixture);
}

static void sizes_mix_in_order(void **state)
{
	(void)state;
	struct fixture fixture;
	size_t at = 0;
	static const size_t sizes[] = {5, 50000, 1, 1, LENDER_MIN, 9000, LENDER_MIN + 1, 0};
	begin(&fixture);
	connect_guest(&fixture, GUEST);
	for (size_t i = 0; sizes[i] > 0; i++) {
		assert_true(at + sizes[i] <= 3 * LARGE);
		send_bytes(&fixture, GUEST, fixture.sent + at, sizes[i]);
		at += sizes[i];
	}
	assert_int_equal(chains(&fixture), 3);
	for (size_t done = 0; done < at; done += 777) {
		size_t part = at - done < 777 ? at - done : 777;
		assert_int_equal(take(&fixture, 0, part), part);
		assert_memory_equal(fixture.got, fixture.sent + done, part);
	}
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

static void credit_comes_back_with_what_is_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture, GUEST);
	for (int i = 0; i < 4; i++) {
		send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	}
	expect_nothing(&fixture);
	assert_int_equal(take(&fixture, 0, 4 * LARGE), 4 * LARGE);
	assert_int_equal(expect(&fixture, OP(CREDIT_UPDATE)).fwd_cnt, 4 * LARGE);
	expect_nothing(&fixture);
	end(&fixture);
}

static void note(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	*(bool *)data = true;
}

/* The device has nothing to do until the session moves. */
static void a_stopped_session_costs_no_time(void **state)
{
	(void)state;
	struct fixture fixture;
	bool noted = false;
	begin(&fixture);
	connect_guest(&fixture, GUEST);
	for (int i = 0; i < 4; i++) {
		send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	}
	struct event *timer = evtimer_new(fixture.base, note, &noted);
	const struct timeval soon = {.tv_usec = 1000};
	event_add(timer, &soon);
	event_base_loop(fixture.base, EVLOOP_ONCE);
	assert_true(noted); // and nothing was before
	event_free(timer);
	end(&fixture);
}

static void stopped_sessions_leave_most_of_the_ring(void **state)
{
	(void)state;
	enum { EACH = VSOCK_WINDOW / LENDER_MIN };
	struct fixture fixture;
	begin(&fixture);
	for (uint32_t i = 0; i < SESSIONS; i++) {
		connect_guest(&fixture, GUEST + i);
	}
	for (uint32_t i = 0; i < 2 * EACH; i++) {
		send_bytes(&fixture, GUEST + i % 2, fixture.sent + i, LENDER_MIN);
	}
	assert_int_equal(2 * EACH, SHARE);
	assert_int_equal(chains(&fixture), SHARE);
	for (uint32_t i = 0; i < 40; i++) {
		send_bytes(&fixture, GUEST + 2, fixture.sent + i, LENDER_MIN); // is written
		assert_int_equal(take(&fixture, 2, LARGE), LENDER_MIN);
		assert_memory_equal(fixture.got, fixture.sent + i, LENDER_MIN);
		assert_int_equal(chains(&fixture), SHARE);
		struct virtio_vsock_hdr header;
		char payload[MACHINE_RX_SIZE];
		machine_receive_packet(&fixture.machine, &header, payload, sizeof(payload));
	}
	for (size_t i = 0; i < EACH; i++) {
		for (size_t n = 0; n < 2; n++) {
			assert_int_equal(take(&fixture, n, LENDER_MIN), LENDER_MIN);
			assert_memory_equal(fixture.got, fixture.sent + 2 * i + n, LENDER_MIN);
		}
	}
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

/* More than its socket holds, by many small records, and what is lent comes after them. */
static void what_a_socket_has_no_room_for_is_kept(void **state)
{
	(void)state;
	struct fixture fixture;
	uint32_t sent = 0;
	begin(&fixture);
	connect_guest(&fixture, GUEST);
	for (; sent + 100 <= VSOCK_LENDING_WINDOW - LARGE; sent += 100) {
		send_bytes(&fixture, GUEST, fixture.sent + sent % LARGE, 100);
	}
	send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	uint32_t had = 0;
	while (had < sent) {
		size_t n = take(&fixture, 0, 100);
		assert_int_equal(n, 100);
		assert_memory_equal(fixture.got, fixture.sent + had % LARGE, 100);
		had += 100;
	}
	take_all(&fixture, 0);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

static void a_session_that_dies_holds_nothing(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	leave(&fixture, 0);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);

	begin_lent(&fixture);
	assert_int_equal(take(&fixture, 0, 100), 100);
	leave(&fixture, 0);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

static void a_reset_connection_takes_back_what_it_lent(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	assert_int_equal(take(&fixture, 0, 100), 100);
	send_op(&fixture, GUEST, OP(RST), 0);
	assert_int_equal(chains(&fixture), 0);
	assert_int_equal(read_once(&fixture, 0), -ECONNRESET);
	end(&fixture);
}

static void a_guest_that_has_said_all_is_heard(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	send_op(&fixture, GUEST, OP(SHUTDOWN), BOTH);
	expect_nothing(&fixture); // the connection is not over yet
	assert_int_equal(vsock_device_connections(fixture.device), 1);
	assert_int_equal(take(&fixture, 0, LARGE), LARGE);
	assert_memory_equal(fixture.got, fixture.sent, LARGE);
	expect(&fixture, OP(RST));
	assert_int_equal(read_once(&fixture, 0), 0);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

static void a_device_that_is_gone_is_no_lender(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	assert_int_equal(take(&fixture, 0, 100), 100);
	vsock_device_destroy(fixture.device);
	fixture.device = NULL;
	assert_int_equal(read_once(&fixture, 0), -ECONNRESET);
	end(&fixture);
}

static size_t reply_size(struct fixture *fixture)
{
	char bytes[64];
	turn(fixture);
	ssize_t n = recv(fixture->machine.fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_PEEK);
	return n > 0 ? (size_t)n : 0;
}

static uint16_t base_of(struct fixture *fixture)
{
	uint32_t state[2];
	turn(fixture);
	assert_int_equal(
		machine_reply(&fixture->machine, MACHINE_GET_VRING_BASE, state, sizeof(state)), 8);
	return (uint16_t)state[1];
}

static void a_ring_stops_when_all_is_back(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	machine_stop(&fixture.machine);
	turn(&fixture);
	uint16_t rx = base_of(&fixture);
	assert_int_equal(reply_size(&fixture), 0);
	assert_int_equal(take(&fixture, 0, 100), 100);
	assert_int_equal(reply_size(&fixture), 0);
	assert_int_equal(take(&fixture, 0, LARGE), LARGE - 100);
	assert_int_equal(chains(&fixture), 0);
	uint16_t tx = base_of(&fixture);
	assert_int_equal(tx, fixture.machine.queues[TX].avail->idx);

	machine_start_queue(&fixture.machine, RX, rx);
	machine_start_queue(&fixture.machine, TX, tx);
	turn(&fixture);
	assert_int_equal(vsock_device_connections(fixture.device), 1);
	send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	take_all(&fixture, 0);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

static void nothing_is_popped_while_a_ring_stops(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	machine_stop(&fixture.machine);
	turn(&fixture);
	base_of(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	header.len = 3;
	assert_true(machine_send_packet(&fixture.machine, &header, "abc", 3));
	machine_kick(&fixture.machine, TX);
	assert_int_equal(chains(&fixture), 2);
	take_all(&fixture, 0);
	assert_int_equal(chains(&fixture), 1);
	assert_int_equal(base_of(&fixture), (uint16_t)(fixture.machine.queues[TX].avail->idx - 1));
	end(&fixture);
}

/* The guest pauses, or its driver ends, and a session does not move. */
static void a_ring_that_stops_does_not_wait_for_ever(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	machine_stop(&fixture.machine);
	turn(&fixture);
	uint16_t rx = base_of(&fixture);
	struct pollfd replied = {.fd = fixture.machine.fd, .events = POLLIN};
	for (int i = 0; i < WAIT && poll(&replied, 1, 1) == 0; i++) {
		turn(&fixture);
	}
	uint16_t tx = base_of(&fixture);
	assert_int_equal(chains(&fixture), 0);
	assert_int_equal(read_once(&fixture, 0), -ECONNRESET);
	machine_start_queue(&fixture.machine, RX, rx);
	machine_start_queue(&fixture.machine, TX, tx);
	expect(&fixture, OP(RST));
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	end(&fixture);
}

static void a_vmm_may_hang_up_while_a_ring_stops(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	machine_stop(&fixture.machine);
	turn(&fixture);
	base_of(&fixture);
	machine_hang_up(&fixture.machine);
	turn(&fixture);
	assert_int_equal(fixture.ended, 1); // though the session has not moved
	take_all(&fixture, 0);
	turn(&fixture);
	assert_int_equal(fixture.ended, 1);
	end(&fixture);
}

static void a_vmm_that_does_not_wait_is_read_later(void **state)
{
	(void)state;
	struct fixture fixture;
	uint64_t features;
	begin_lent(&fixture);
	machine_stop(&fixture.machine);
	machine_send(&fixture.machine, MACHINE_GET_FEATURES, NULL, 0, NULL, 0);
	base_of(&fixture);
	assert_int_equal(reply_size(&fixture), 0);
	take_all(&fixture, 0);
	base_of(&fixture);
	machine_reply(&fixture.machine, MACHINE_GET_FEATURES, &features, sizeof(features));
	machine_hang_up(&fixture.machine);
	turn(&fixture);
	assert_int_equal(fixture.ended, 1);
	end(&fixture);
}

static void a_driver_that_starts_anew_gets_nothing_back(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	uint16_t used = fixture.machine.queues[TX].used->idx;
	machine_send(&fixture.machine, 4, NULL, 0, NULL, 0); // RESET_OWNER
	turn(&fixture);
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	assert_int_equal(fixture.machine.queues[TX].used->idx, used);
	assert_int_equal(read_once(&fixture, 0), -ECONNRESET);
	machine_boot(&fixture.machine, 32);
	turn(&fixture);
	connect_guest(&fixture, GUEST);
	send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	take_all(&fixture, 1);
	assert_int_equal(chains(&fixture), 0);
	end(&fixture);
}

static void what_is_lent_outlives_the_memory_table(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	assert_int_equal(take(&fixture, 0, 100), 100);
	size_t fds = fd_count();
	machine_send_memory(&fixture.machine);
	turn(&fixture);
	assert_int_equal(take(&fixture, 0, LARGE), LARGE - 100);
	assert_memory_equal(fixture.got, fixture.sent + 100, LARGE - 100);
	assert_int_equal(take(&fixture, 0, 100), 0); // but the new files
	assert_int_equal(chains(&fixture), 0);
	assert_int_equal(fd_count(), fds);
	send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	take_all(&fixture, 0);
	end(&fixture);
}

/* Its rings are gone with the memory. */
static void a_wrong_memory_table_gives_nothing_back(void **state)
{
	(void)state;
	struct fixture fixture;
	const struct {
		uint32_t count, padding;
		uint64_t address, size, user, offset;
	} table = {1, 0, MACHINE_ADDRESS, 2 * MACHINE_MEMORY, MACHINE_USER, 0};
	begin_lent(&fixture);
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table),
		&fixture.machine.memory_fd, 1);
	turn(&fixture);
	assert_int_equal(fixture.ended, 1);
	take_all(&fixture, 0); // it has its own files
	assert_int_equal(chains(&fixture), 1);
	end(&fixture);
}

/* The old files are not kept by sessions that borrow nothing any more. */
static void a_new_memory_table_is_told_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	take_all(&fixture, 0);
	turn(&fixture);
	const struct {
		uint32_t count, padding;
	} none = {0};
	size_t fds = fd_count();
	machine_stop(&fixture.machine);
	turn(&fixture);
	size_t ring_fds = fds - fd_count();
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &none, sizeof(none), NULL, 0);
	turn(&fixture);
	assert_int_equal(take(&fixture, 0, 1), 0);
	assert_int_equal(fd_count(), fds - ring_fds - 2); // the device's and the session's
	end(&fixture);
}

/* Only what is there of it: the session cannot be told of a file that is not in the table. */
static void a_session_that_does_not_read_is_told_later(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_lent(&fixture);
	for (int i = 0; i < 1000; i++) {
		machine_send_memory(&fixture.machine);
		turn(&fixture);
	}
	take_all(&fixture, 0);
	send_bytes(&fixture, GUEST, fixture.sent, LARGE);
	take_all(&fixture, 0);
	assert_int_equal(vsock_device_connections(fixture.device), 1);
	end(&fixture);
}

/* The first lot of fds that a session gets. */
static int receive_pipe(struct fixture *fixture)
{
	uint8_t bytes[4096];
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv(fixture->sessions[0].fd, bytes, sizeof(bytes), &fds);
	assert_int_equal(n, sizeof(struct loan_record));
	assert_int_equal(fds.count, 2);
	int fd = fdlist_take(&fds);
	fdlist_finish(&fds);
	return fd;
}

static void begin_without_borrower(struct fixture *fixture)
{
	begin(fixture);
	fixture->no_borrower = true;
	connect_guest(fixture, GUEST);
	send_bytes(fixture, GUEST, fixture->sent, LARGE);
	assert_int_equal(chains(fixture), 1);
}

/* Reads all that there is for a session without a borrower. How many fds came; *first is the caller's. */
static size_t receive_fds(struct fixture *fixture, int *first)
{
	uint8_t bytes[4096];
	struct fdlist fds;
	fdlist_init(&fds);
	turn(fixture);
	while (scm_recv(fixture->sessions[0].fd, bytes, sizeof(bytes), &fds) > 0) {
	}
	size_t n = fds.count;
	*first = fdlist_take(&fds);
	fdlist_finish(&fds);
	return n;
}

static void change_memory_often(struct fixture *fixture)
{
	for (int i = 0; i < 50; i++) {
		machine_send_memory(&fixture->machine);
		turn(fixture);
	}
}

/* A guest can have its VMM change the table as often as it likes, and each fd that nobody has read is in flight. */
static void files_are_told_of_again_when_they_were_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	const uint32_t taken = 0;
	int returns, file;
	begin_without_borrower(&fixture);
	change_memory_often(&fixture);
	assert_int_equal(receive_fds(&fixture, &returns), 2);
	for (int i = 0; i < 2; i++) {
		change_memory_often(&fixture);
		assert_int_equal(receive_fds(&fixture, &file), 0);
		assert_int_equal(write(returns, &taken, sizeof(taken)), sizeof(taken));
		turn(&fixture);
		change_memory_often(&fixture);
		assert_int_equal(receive_fds(&fixture, &file), 1);
		close(file);
	}
	close(returns);
	end(&fixture);
}

static void more_than_was_lent_cannot_be_returned(void **state)
{
	(void)state;
	static const uint32_t lengths[] = {LARGE + 1, UINT32_MAX};
	for (int i = 0; i < 2; i++) {
		struct fixture fixture;
		begin_without_borrower(&fixture);
		int fd = receive_pipe(&fixture);
		assert_int_equal(write(fd, &lengths[i], 4), 4);
		assert_int_equal(chains(&fixture), 0); // the session is not trusted any more
		assert_int_equal(write(fd, &lengths[i], 4), -1);
		assert_int_equal(errno, EPIPE);
		send_bytes(&fixture, GUEST, fixture.sent, LARGE);
		assert_int_equal(chains(&fixture), 0); // and gets nothing but bytes
		close(fd);
		end(&fixture);
	}
}

static void half_a_return_is_none(void **state)
{
	(void)state;
	struct fixture fixture;
	const uint32_t length = 100;
	begin_without_borrower(&fixture);
	int fd = receive_pipe(&fixture);
	assert_int_equal(write(fd, &length, 3), 3);
	assert_int_equal(chains(&fixture), 0);
	assert_int_equal(write(fd, &length, 4), -1);
	close(fd);
	end(&fixture);
}

static void a_return_of_nothing_is_nothing(void **state)
{
	(void)state;
	struct fixture fixture;
	const uint32_t lengths[] = {0, 0, LARGE - 1, 0, 1, 0};
	begin_without_borrower(&fixture);
	int fd = receive_pipe(&fixture);
	for (size_t i = 0; i < 6; i++) {
		assert_int_equal(chains(&fixture), i < 5);
		assert_int_equal(write(fd, &lengths[i], 4), 4);
	}
	close(fd);
	end(&fixture);
}

static void other_ports_get_bytes(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	fixture.no_borrower = true;
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST + 1, OP(REQUEST));
	assert_true(machine_send_packet(&fixture.machine, &header, NULL, 0));
	expect(&fixture, OP(RESPONSE));
	header = machine_header(GUEST, HOST + 1, OP(RW));
	header.len = LARGE;
	assert_true(machine_send_packet(&fixture.machine, &header, fixture.sent, LARGE));
	assert_int_equal(chains(&fixture), 0);
	assert_int_equal(recv(fixture.sessions[0].fd, fixture.got, 2 * LARGE, MSG_DONTWAIT), LARGE);
	assert_memory_equal(fixture.got, fixture.sent, LARGE);
	end(&fixture);
}

/* Which a record has no room for. */
static void a_chain_of_many_pieces_is_written(void **state)
{
	(void)state;
	enum { PIECES = LOAN_SEGMENTS_MAX + 1, PIECE = 1000 };
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture, GUEST);
	uint8_t *data = fixture.machine.memory + (3u << 20);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	header.len = PIECES * PIECE;
	memcpy(data, &header, sizeof(header));
	memcpy(data + sizeof(header), fixture.sent, PIECES * PIECE);
	struct vring_desc *table = (struct vring_desc *)(data + (64u << 10));
	for (uint16_t i = 0; i <= PIECES; i++) {
		size_t at = i == 0 ? 0 : sizeof(header) + (i - 1u) * PIECE;
		table[i] = (struct vring_desc){
			.addr = machine_address(&fixture.machine, data + at),
			.len = i == 0 ? sizeof(header) : PIECE,
			.flags = i < PIECES ? VRING_DESC_F_NEXT : 0,
			.next = (uint16_t)(i + 1),
		};
	}
	fixture.machine.queues[TX].desc[MACHINE_RING - 2] = (struct vring_desc){
		.addr = machine_address(&fixture.machine, table),
		.len = (PIECES + 1) * sizeof(*table),
		.flags = VRING_DESC_F_INDIRECT,
	};
	machine_offer(&fixture.machine, TX, MACHINE_RING - 2);
	assert_int_equal(chains(&fixture), 0);
	assert_int_equal(take(&fixture, 0, 2 * LARGE), PIECES * PIECE);
	assert_memory_equal(fixture.got, fixture.sent, PIECES * PIECE);
	end(&fixture);
}

/* ---- pages ---- */

// The socket that came before what the guest has sent; -1.
static int take_pages(struct fixture *fixture, uint32_t port)
{
	size_t i = fixture->n_sessions;
	connect_guest(fixture, port);
	send_bytes(fixture, port, "hello", 5);
	assert_int_equal(take(fixture, i, 100), 5);
	assert_memory_equal(fixture->got, "hello", 5);
	return borrower_take_pages(fixture->sessions[i].input);
}

static void begin_sharing(struct fixture *fixture)
{
	begin_with(fixture, true);
	if (fixture->buffers.device < 0) {
		end(fixture);
		print_message("there is no /dev/udmabuf\n");
		skip();
	}
}

static void only_a_guest_that_is_root_names_pages(void **state)
{
	(void)state;
	struct fixture fixture;
	begin_sharing(&fixture);
	int fd = take_pages(&fixture, 1023);
	assert_true(fd >= 0);
	assert_int_equal(take_pages(&fixture, 1024), -1);
	close(fd);
	end(&fixture);
}

static int ask_for(struct fixture *fixture, int fd, const struct ram_range *ranges, size_t n,
	struct page_answer *answer)
{
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(send(fd, ranges, n * sizeof(*ranges), MSG_NOSIGNAL), n * sizeof(*ranges));
	turn(fixture);
	assert_int_equal(scm_recv(fd, answer, sizeof(*answer), &fds), sizeof(*answer));
	int buffer = fdlist_take(&fds);
	fdlist_finish(&fds);
	return buffer;
}

static void the_pages_that_are_named_are_the_guests_own(void **state)
{
	(void)state;
	struct fixture fixture;
	struct page_answer answer;
	begin_sharing(&fixture);
	int fd = take_pages(&fixture, GUEST);
	uint8_t *memory = fixture.machine.memory + MACHINE_MEMORY - 3 * 4096;
	uint64_t address = machine_address(&fixture.machine, memory);
	const struct ram_range ranges[] = {{address + 8192, 4096}, {address, 4096}};
	int buffer = ask_for(&fixture, fd, ranges, 2, &answer);
	assert_string_equal(answer.wrong, "");
	assert_true(buffer >= 0);
	uint8_t *data = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, buffer, 0);
	assert_true(data != MAP_FAILED);
	memset(memory + 8192, 7, 4096);
	memset(data + 4096, 9, 4096);
	assert_int_equal(data[17], 7);
	assert_int_equal(memory[4095], 9);
	assert_int_equal(memory[4096], 0);
	munmap(data, 8192);
	close(buffer);
	const struct ram_range outside = {address, 4 * 4096};
	assert_int_equal(ask_for(&fixture, fd, &outside, 1, &answer), -1);
	assert_string_equal(answer.wrong, "a range outside of the guest's memory");
	close(fd);
	end(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_chain_comes_back_when_it_is_taken),
		fd_count_test(only_a_guest_that_is_root_names_pages),
		fd_count_test(the_pages_that_are_named_are_the_guests_own),
		fd_count_test(the_guest_is_called_for_it),
		fd_count_test(the_guest_is_called_with_an_answer),
		fd_count_test(the_guest_is_called_for_many),
		fd_count_test(the_guest_is_called_before_its_ring_stops),
		fd_count_test(the_guest_is_called_at_once_where_nobody_borrows),
		fd_count_test(what_is_small_is_not_lent),
		fd_count_test(sizes_mix_in_order),
		fd_count_test(credit_comes_back_with_what_is_taken),
		fd_count_test(a_stopped_session_costs_no_time),
		fd_count_test(stopped_sessions_leave_most_of_the_ring),
		fd_count_test(what_a_socket_has_no_room_for_is_kept),
		fd_count_test(a_session_that_dies_holds_nothing),
		fd_count_test(a_reset_connection_takes_back_what_it_lent),
		fd_count_test(a_guest_that_has_said_all_is_heard),
		fd_count_test(a_device_that_is_gone_is_no_lender),
		fd_count_test(a_ring_stops_when_all_is_back),
		fd_count_test(nothing_is_popped_while_a_ring_stops),
		fd_count_test(a_ring_that_stops_does_not_wait_for_ever),
		fd_count_test(a_vmm_may_hang_up_while_a_ring_stops),
		fd_count_test(a_vmm_that_does_not_wait_is_read_later),
		fd_count_test(a_driver_that_starts_anew_gets_nothing_back),
		fd_count_test(what_is_lent_outlives_the_memory_table),
		fd_count_test(a_wrong_memory_table_gives_nothing_back),
		fd_count_test(a_new_memory_table_is_told_at_once),
		fd_count_test(a_session_that_does_not_read_is_told_later),
		fd_count_test(files_are_told_of_again_when_they_were_taken),
		fd_count_test(more_than_was_lent_cannot_be_returned),
		fd_count_test(half_a_return_is_none),
		fd_count_test(a_return_of_nothing_is_nothing),
		fd_count_test(other_ports_get_bytes),
		fd_count_test(a_chain_of_many_pieces_is_written),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
