#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "host-proxy/vsock_connection.h"
#include "host-proxy/vsock_device.h"
#include "tests/support/fd_count.h"
#include "tests/support/virtual_machine.h"

#define GUEST   1022 // ports
#define HOST    7000
#define MUCH    180000
#define REFUSED 1 // which the test's host turns down

#define OP(name) VIRTIO_VSOCK_OP_##name
#define SEND     VIRTIO_VSOCK_SHUTDOWN_SEND
#define RCV      VIRTIO_VSOCK_SHUTDOWN_RCV

struct fixture {
	struct event_base *base;
	struct vsock_device *device;
	struct machine machine;
	int host_fd;   // of the last connection that was opened; -1
	int shared_fd; // what is opened instead, again and again; -1
	unsigned int opened, closed, ended;
	char wrong[128];
	unsigned int refills; // packets that the guest still sends while one is handled
	unsigned int refused;
	int other_fd; // readable when OTHER_AT have been refused
	unsigned int seen_by_other;
};

#define OTHER_AT 40

// The guest goes on while its packets are handled.
static void refill(struct fixture *fixture)
{
	struct virtio_vsock_hdr header;
	char payload[MACHINE_RX_SIZE];
	while (machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload))) {
	}
	while (fixture->refills > 0 && machine_can_send(&fixture->machine)) {
		header = machine_header(GUEST + fixture->refills--, REFUSED, OP(REQUEST));
		assert_true(machine_send_packet(&fixture->machine, &header, NULL, 0));
	}
	if (fixture->refused == OTHER_AT && fixture->other_fd > 0) {
		eventfd_write(fixture->other_fd, 1);
	}
}

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	struct fixture *fixture = data;
	int pair[2];
	(void)guest_port;
	if (host_port == REFUSED) {
		fixture->refused++;
		refill(fixture);
		return -ECONNREFUSED;
	}
	fixture->opened++;
	if (fixture->shared_fd >= 0) {
		return fcntl(fixture->shared_fd, F_DUPFD_CLOEXEC, 0);
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	if (fixture->host_fd >= 0) {
		close(fixture->host_fd);
	}
	fixture->host_fd = pair[1];
	return pair[0];
}

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	fixture->ended++;
	strncpy(fixture->wrong, wrong != NULL ? wrong : "", sizeof(fixture->wrong) - 1);
}

static void handle_closed(void *data)
{
	((struct fixture *)data)->closed++;
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < 20; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static void begin_with(struct fixture *fixture, uint64_t features, unsigned int buffers)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*fixture = (struct fixture){.host_fd = -1, .shared_fd = -1};
	fixture->base = event_base_new();
	const struct vsock_device_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.guest_cid = MACHINE_CID,
		.open = handle_open,
		.ended = handle_ended,
		.closed = handle_closed,
		.data = fixture,
	};
	fixture->device = vsock_device_create(&config);
	assert_non_null(fixture->device);
	machine_init(&fixture->machine, pair[0], MACHINE_VERSION_1 | features);
	machine_boot(&fixture->machine, buffers);
	turn(fixture);
}

static void begin(struct fixture *fixture)
{
	begin_with(fixture, MACHINE_INDIRECT | MACHINE_EVENT_INDEX, 32);
}

static void end(struct fixture *fixture)
{
	vsock_device_destroy(fixture->device);
	machine_finish(&fixture->machine);
	event_base_free(fixture->base);
	if (fixture->host_fd >= 0) {
		close(fixture->host_fd);
	}
}

static void send_packet(struct fixture *fixture, const struct virtio_vsock_hdr *header,
	const void *data, size_t len)
{
	assert_true(machine_send_packet(&fixture->machine, header, data, len));
	turn(fixture);
}

static void send_op(struct fixture *fixture, uint16_t operation, uint32_t flags)
{
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, operation);
	header.flags = flags;
	send_packet(fixture, &header, NULL, 0);
}

static void send_bytes(struct fixture *fixture, const void *data, size_t len)
{
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	header.len = (uint32_t)len;
	send_packet(fixture, &header, data, len);
}

static struct virtio_vsock_hdr expect(struct fixture *fixture, uint16_t operation)
{
	struct virtio_vsock_hdr header = {0};
	char payload[MACHINE_RX_SIZE];
	turn(fixture);
	assert_true(machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload)));
	assert_int_equal(header.op, operation);
	assert_int_equal(header.src_cid, 2);
	assert_int_equal(header.dst_cid, MACHINE_CID);
	return header;
}

static void expect_nothing(struct fixture *fixture)
{
	struct virtio_vsock_hdr header;
	char payload[MACHINE_RX_SIZE];
	turn(fixture);
	assert_false(machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload)));
}

static void expect_bytes(struct fixture *fixture, const char *text)
{
	char payload[MACHINE_RX_SIZE];
	struct virtio_vsock_hdr header = {0};
	turn(fixture);
	assert_true(machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload)));
	assert_int_equal(header.op, OP(RW));
	assert_int_equal(header.len, strlen(text));
	assert_memory_equal(payload, text, header.len);
}

static void expect_at_host(struct fixture *fixture, const char *text)
{
	char bytes[256];
	ssize_t n = recv(fixture->host_fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(bytes, text, strlen(text));
}

static void connect_with_room(struct fixture *fixture, uint32_t guest_room)
{
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(REQUEST));
	header.buf_alloc = guest_room;
	send_packet(fixture, &header, NULL, 0);
	expect(fixture, OP(RESPONSE));
}

static void connect_guest(struct fixture *fixture)
{
	send_op(fixture, OP(REQUEST), 0);
	struct virtio_vsock_hdr header = expect(fixture, OP(RESPONSE));
	assert_int_equal(header.src_port, HOST);
	assert_int_equal(header.dst_port, GUEST);
	assert_int_equal(header.buf_alloc, VSOCK_WINDOW);
	assert_int_equal(vsock_device_connections(fixture->device), 1);
}

static void talk(struct fixture *fixture)
{
	connect_guest(fixture);
	send_bytes(fixture, "from the guest", 14);
	expect_at_host(fixture, "from the guest");
	assert_int_equal(send(fixture->host_fd, "from the host", 13, 0), 13);
	expect_bytes(fixture, "from the host");
	send_bytes(fixture, "again", 5);
	expect_at_host(fixture, "again");
}

static void bytes_go_both_ways(void **state)
{
	(void)state;
	const uint64_t features[] = {
		0, MACHINE_INDIRECT, MACHINE_EVENT_INDEX, MACHINE_INDIRECT | MACHINE_EVENT_INDEX};
	for (size_t i = 0; i < 4; i++) {
		struct fixture fixture;
		begin_with(&fixture, features[i], 32);
		talk(&fixture);
		assert_int_equal(fixture.ended, 0);
		end(&fixture);
	}
}

// The guest's next len bytes, which are there.
static void receive(struct fixture *fixture, char *bytes, size_t len)
{
	char payload[MACHINE_RX_SIZE];
	struct virtio_vsock_hdr header;
	for (size_t n = 0; n < len; n += header.len) {
		assert_true(machine_receive_packet(
			&fixture->machine, &header, payload, sizeof(payload)));
		assert_int_equal(header.op, OP(RW));
		assert_true(header.len > 0 && header.len <= len - n);
		memcpy(bytes + n, payload, header.len);
	}
}

static void messages_of_any_length_come_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	const size_t lengths[] = {1, 2047, 2048, 2049, 2048, 8192, 20000, 1, 20000};
	char sent[20000], received[sizeof(sent)];
	begin(&fixture);
	connect_guest(&fixture);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		for (size_t n = 0; n < lengths[i]; n++) {
			sent[n] = (char)(n * 7 + n / 251 + i);
		}
		assert_int_equal(send(fixture.host_fd, sent, lengths[i], 0), lengths[i]);
		event_base_loop(fixture.base, EVLOOP_NONBLOCK);
		receive(&fixture, received, lengths[i]);
		assert_memory_equal(received, sent, lengths[i]);
		expect_nothing(&fixture);
	}
	end(&fixture);
}

static void a_port_that_is_refused_is_reset(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, REFUSED, OP(REQUEST));
	send_packet(&fixture, &header, NULL, 0);
	expect(&fixture, OP(RST));
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	end(&fixture);
}

static void packets_that_belong_to_nothing_are_reset(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	const uint16_t operations[] = {0, OP(RESPONSE), OP(SHUTDOWN), OP(RW), OP(CREDIT_UPDATE),
		OP(CREDIT_REQUEST), 8, 0xffff};
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		send_op(&fixture, operations[i], 0);
		expect(&fixture, OP(RST));
	}
	send_op(&fixture, OP(RST), 0);
	expect_nothing(&fixture);
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

static void an_unknown_operation_ends_its_connection(void **state)
{
	(void)state;
	const uint16_t operations[] = {0, OP(REQUEST), OP(RESPONSE), 8, 0xffff};
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		struct fixture fixture;
		begin(&fixture);
		connect_guest(&fixture);
		send_op(&fixture, operations[i], 0);
		expect(&fixture, OP(RST));
		assert_int_equal(vsock_device_connections(fixture.device), 0);
		assert_int_equal(fixture.ended, 0);
		end(&fixture);
	}
}

static void another_type_is_reset(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(REQUEST));
	header.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	send_packet(&fixture, &header, NULL, 0);
	assert_int_equal(expect(&fixture, OP(RST)).type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	assert_int_equal(fixture.opened, 0);
	end(&fixture);
}

static void only_the_host_can_be_reached(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtio_vsock_hdr answer;
	char payload[MACHINE_RX_SIZE];
	begin(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(REQUEST));
	header.dst_cid = 77;
	send_packet(&fixture, &header, NULL, 0);
	assert_true(machine_receive_packet(&fixture.machine, &answer, payload, sizeof(payload)));
	assert_int_equal(answer.op, OP(RST));
	assert_int_equal(answer.src_cid, 77);
	header.dst_cid = 2;
	header.src_cid = 4; // another guest's
	send_packet(&fixture, &header, NULL, 0);
	expect_nothing(&fixture);
	assert_int_equal(fixture.opened, 0);
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

static void a_packet_shorter_than_it_says_ends_the_device(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	header.len = 6;
	send_packet(&fixture, &header, "hello", 5);
	assert_int_equal(fixture.ended, 1);
	assert_string_equal(fixture.wrong, "a packet that is shorter than it says");
	end(&fixture);
}

static void offer_raw(struct fixture *fixture, unsigned int queue, uint32_t len, uint16_t flags)
{
	struct machine *machine = &fixture->machine;
	machine->queues[queue].desc[60] = (struct vring_desc){
		.addr = machine_address(machine, machine->memory + 0x300000),
		.len = len,
		.flags = flags,
	};
	machine_offer(machine, queue, 60);
	machine_kick(machine, queue);
	turn(fixture);
}

static void a_chain_that_is_no_packet_ends_the_device(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	offer_raw(&fixture, 1, 43, 0);
	assert_string_equal(fixture.wrong, "a packet without a header");
	end(&fixture);
	begin(&fixture);
	offer_raw(&fixture, 1, 100, VRING_DESC_F_WRITE);
	assert_string_equal(fixture.wrong, "a packet without a header");
	end(&fixture);
	begin(&fixture);
	offer_raw(&fixture, 1, 0, 0);
	assert_string_equal(fixture.wrong, "an empty descriptor");
	assert_int_equal(fixture.ended, 1);
	end(&fixture);
}

static void a_receive_buffer_holds_a_packet(void **state)
{
	(void)state;
	const uint16_t flags[] = {VRING_DESC_F_WRITE, 0};
	for (size_t i = 0; i < 2; i++) {
		struct fixture fixture;
		begin_with(&fixture, 0, 0);
		offer_raw(&fixture, 0, i == 0 ? 44 : 1000, flags[i]);
		send_op(&fixture, OP(REQUEST), 0);
		assert_int_equal(fixture.ended, 1);
		assert_string_equal(fixture.wrong, "a receive buffer that holds no packet");
		end(&fixture);
	}
}

static void resets_are_bounded_by_the_guests_buffers(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtio_vsock_hdr header;
	char payload[MACHINE_RX_SIZE];
	unsigned int sent = 0, received = 0;
	begin_with(&fixture, MACHINE_EVENT_INDEX, 0);
	header = machine_header(GUEST, HOST, OP(RW));
	while (sent < 1000 && machine_send_packet(&fixture.machine, &header, NULL, 0)) {
		sent++;
		turn(&fixture);
	}
	assert_true(sent >= 128 && sent < 200); // then the device has stopped reading
	machine_add_buffers(&fixture.machine, 8);
	machine_kick(&fixture.machine, 0);
	for (int i = 0; i < 100; i++) {
		turn(&fixture);
		while (machine_receive_packet(
			&fixture.machine, &header, payload, sizeof(payload))) {
			assert_int_equal(header.op, OP(RST));
			received++;
		}
	}
	assert_int_equal(received, sent); // none is lost
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

static void too_much_for_the_credit_ends_the_connection(void **state)
{
	(void)state;
	struct fixture fixture;
	static const char bytes[MACHINE_TX_SIZE];
	begin(&fixture);
	connect_guest(&fixture);
	for (unsigned int i = 0; i < VSOCK_WINDOW / MACHINE_TX_SIZE; i++) {
		send_bytes(&fixture, bytes, sizeof(bytes));
	}
	assert_int_equal(vsock_device_connections(fixture.device), 1);
	send_bytes(&fixture, bytes, 1);
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	expect(&fixture, OP(RST));
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

// Up to which byte; there must be no other packets.
static uint32_t take_credit(struct fixture *fixture)
{
	char payload[MACHINE_RX_SIZE];
	uint32_t forwarded = 0;
	struct virtio_vsock_hdr header;
	turn(fixture);
	while (machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload))) {
		assert_int_equal(header.op, OP(CREDIT_UPDATE));
		forwarded = header.fwd_cnt;
	}
	return forwarded;
}

static void credit_comes_back_when_the_host_reads(void **state)
{
	(void)state;
	struct fixture fixture;
	static char bytes[MACHINE_TX_SIZE];
	size_t total = 0;
	begin(&fixture);
	connect_guest(&fixture);
	for (unsigned int i = 0; i < VSOCK_WINDOW / MACHINE_TX_SIZE; i++) {
		send_bytes(&fixture, bytes, sizeof(bytes));
	}
	while (total < VSOCK_WINDOW) {
		ssize_t n = recv(fixture.host_fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		assert_true(n > 0);
		total += (size_t)n;
		turn(&fixture);
	}
	assert_true(take_credit(&fixture) >= VSOCK_WINDOW / 2);
	send_op(&fixture, OP(CREDIT_REQUEST), 0);
	expect(&fixture, OP(CREDIT_UPDATE));
	end(&fixture);
}

// Linux sends no more than its own end of the connection may take.
static void a_guest_that_takes_little_does_not_wait_for_credit(void **state)
{
	(void)state;
	struct fixture fixture;
	char bytes[4096] = {0};
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	begin(&fixture);
	connect_with_room(&fixture, sizeof(bytes));
	header.buf_alloc = header.len = sizeof(bytes);
	send_packet(&fixture, &header, bytes, sizeof(bytes));
	assert_int_equal(recv(fixture.host_fd, bytes, sizeof(bytes), MSG_DONTWAIT), sizeof(bytes));
	assert_int_equal(expect(&fixture, OP(CREDIT_UPDATE)).fwd_cnt, sizeof(bytes));
	end(&fixture);
}

// Small packets take more room in a socket than their bytes.
static void what_the_socket_has_no_room_for_is_kept(void **state)
{
	(void)state;
	struct fixture fixture;
	char byte;
	uint8_t expected = 0;
	begin(&fixture);
	connect_guest(&fixture);
	assert_int_equal(
		setsockopt(fixture.host_fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int)), 0);
	for (unsigned int i = 0; i < 3000; i++) {
		byte = (char)i;
		send_bytes(&fixture, &byte, 1);
	}
	for (unsigned int i = 0; i < 3000; i++) {
		if (recv(fixture.host_fd, &byte, 1, MSG_DONTWAIT) != 1) {
			turn(&fixture);
			assert_int_equal(recv(fixture.host_fd, &byte, 1, MSG_DONTWAIT), 1);
		}
		assert_int_equal((uint8_t)byte, expected++);
	}
	end(&fixture);
}

static void the_guests_credit_is_kept(void **state)
{
	(void)state;
	struct fixture fixture;
	static char bytes[100000];
	begin(&fixture);
	connect_with_room(&fixture, 65536);
	assert_int_equal(send(fixture.host_fd, bytes, sizeof(bytes), MSG_DONTWAIT), sizeof(bytes));
	struct virtio_vsock_hdr header;
	size_t total = 0;
	for (int i = 0; i < 10; i++) {
		turn(&fixture);
		while (machine_receive_packet(&fixture.machine, &header, bytes, sizeof(bytes))) {
			total += header.len;
		}
	}
	assert_int_equal(total, 65536);
	header = machine_header(GUEST, HOST, OP(CREDIT_UPDATE));
	header.buf_alloc = header.fwd_cnt = 65536;
	send_packet(&fixture, &header, NULL, 0);
	for (int i = 0; i < 10; i++) {
		turn(&fixture);
		while (machine_receive_packet(&fixture.machine, &header, bytes, sizeof(bytes))) {
			total += header.len;
		}
	}
	assert_int_equal(total, sizeof(bytes));
	end(&fixture);
}

static void forwarding_what_was_never_sent_ends_the_connection(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(CREDIT_UPDATE));
	header.fwd_cnt = 1;
	send_packet(&fixture, &header, NULL, 0);
	expect(&fixture, OP(RST));
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	end(&fixture);
}

static void send_to_nobody(struct fixture *fixture)
{
	const struct virtio_vsock_hdr header = machine_header(GUEST, HOST + 1, OP(RW));
	send_packet(fixture, &header, NULL, 0);
}

/* The connection's last bytes go into its socket before the kick is heard. */
static void packets_are_read_again_when_a_connection_sends_the_resets(void **state)
{
	(void)state;
	static char bytes[65536];
	struct fixture fixture;
	begin_with(&fixture, MACHINE_EVENT_INDEX, 1);
	send_op(&fixture, OP(REQUEST), 0);
	for (int i = 0; i < 2000; i++) { // more than a socket holds
		send_bytes(&fixture, "x", 1);
	}
	send_op(&fixture, OP(SHUTDOWN), SEND | RCV);
	assert_int_equal(fixture.closed, 0);
	while (machine_can_send(&fixture.machine)) {
		send_to_nobody(&fixture);
	}
	assert_true(recv(fixture.host_fd, bytes, sizeof(bytes), 0) > 0);
	machine_add_buffers(&fixture.machine, 16);
	turn(&fixture);
	assert_int_equal(fixture.closed, 1);
	assert_true(machine_can_send(&fixture.machine));
	end(&fixture);
}

static void a_full_eventfd_keeps_nobody_waiting(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	for (int i = 0; i < 2; i++) {
		int call_fd = fixture.machine.queues[i].call_fd;
		assert_int_equal(fcntl(call_fd, F_SETFL, 0), 0);
		assert_int_equal(eventfd_write(call_fd, UINT64_MAX - 1), 0);
	}
	talk(&fixture);
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

static void the_guest_closes_its_half(void **state)
{
	(void)state;
	struct fixture fixture;
	char byte;
	begin(&fixture);
	connect_guest(&fixture);
	send_bytes(&fixture, "last", 4);
	send_op(&fixture, OP(SHUTDOWN), SEND);
	expect_at_host(&fixture, "last");
	assert_int_equal(recv(fixture.host_fd, &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(send(fixture.host_fd, "answer", 6, 0), 6);
	expect_bytes(&fixture, "answer");
	send_bytes(&fixture, "more", 4); // after its end
	expect(&fixture, OP(RST));
	end(&fixture);
}

static void the_host_closes_its_half(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	assert_int_equal(send(fixture.host_fd, "last", 4, 0), 4);
	assert_int_equal(shutdown(fixture.host_fd, SHUT_WR), 0);
	expect_bytes(&fixture, "last");
	assert_int_equal(expect(&fixture, OP(SHUTDOWN)).flags, SEND);
	send_bytes(&fixture, "answer", 6);
	expect_at_host(&fixture, "answer");
	expect_nothing(&fixture);
	end(&fixture);
}

static void both_close_their_halves(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	assert_int_equal(shutdown(fixture.host_fd, SHUT_WR), 0);
	assert_int_equal(expect(&fixture, OP(SHUTDOWN)).flags, SEND);
	send_bytes(&fixture, "last", 4);
	send_op(&fixture, OP(SHUTDOWN), SEND);
	assert_int_equal(expect(&fixture, OP(SHUTDOWN)).flags, SEND | RCV);
	expect_at_host(&fixture, "last");
	send_op(&fixture, OP(RST), 0);
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	end(&fixture);
}

static void the_guest_closes_its_half_first(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	send_op(&fixture, OP(SHUTDOWN), SEND);
	expect_nothing(&fixture);
	assert_int_equal(send(fixture.host_fd, "last", 4, 0), 4);
	assert_int_equal(shutdown(fixture.host_fd, SHUT_WR), 0);
	expect_bytes(&fixture, "last");
	assert_int_equal(expect(&fixture, OP(SHUTDOWN)).flags, SEND | RCV);
	send_op(&fixture, OP(SHUTDOWN), SEND | RCV);
	expect(&fixture, OP(RST));
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	end(&fixture);
}

// More than half of what the guest may send, and nobody reads it.
static void send_much(struct fixture *fixture, uint32_t guest_room)
{
	static const char bytes[MACHINE_TX_SIZE];
	struct virtio_vsock_hdr header = machine_header(GUEST, HOST, OP(RW));
	header.buf_alloc = guest_room;
	header.len = MUCH / 3;
	for (int i = 0; i < 3; i++) {
		send_packet(fixture, &header, bytes, header.len);
	}
}

static void what_nobody_reads_keeps_a_connection_and_no_processor(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	send_much(&fixture, VSOCK_WINDOW);
	send_op(&fixture, OP(SHUTDOWN), SEND);
	assert_int_equal(shutdown(fixture.host_fd, SHUT_WR), 0);
	assert_int_equal(expect(&fixture, OP(SHUTDOWN)).flags, SEND | RCV);
	assert_int_equal(vsock_device_connections(fixture.device), 1);
	end(&fixture);
}

static void a_guest_without_room_gets_credit_for_what_nobody_will_read(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	send_much(&fixture, 0);
	assert_int_equal(shutdown(fixture.host_fd, SHUT_RDWR), 0);
	assert_int_equal(take_credit(&fixture), MUCH);
	end(&fixture);
}

static void the_guest_closes(void **state)
{
	(void)state;
	struct fixture fixture;
	char byte;
	begin(&fixture);
	connect_guest(&fixture);
	send_bytes(&fixture, "last", 4);
	send_op(&fixture, OP(SHUTDOWN), SEND | RCV);
	expect(&fixture, OP(RST));
	expect_at_host(&fixture, "last");
	assert_int_equal(recv(fixture.host_fd, &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(fixture.closed, 1);
	end(&fixture);
}

static void the_host_closes(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	connect_guest(&fixture);
	close(fixture.host_fd);
	fixture.host_fd = -1;
	assert_int_equal(expect(&fixture, OP(SHUTDOWN)).flags, SEND | RCV);
	send_bytes(&fixture, "lost", 4); // on its way
	expect_nothing(&fixture);
	send_op(&fixture, OP(RST), 0);
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	expect_nothing(&fixture);
	end(&fixture);
}

static void the_host_connects(void **state)
{
	(void)state;
	struct fixture fixture;
	int pair[2];
	begin(&fixture);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(send(pair[1], "early", 5, 0), 5);
	assert_int_equal(vsock_device_connect(fixture.device, pair[0], 22), 0);
	struct virtio_vsock_hdr request = expect(&fixture, OP(REQUEST));
	assert_int_equal(request.dst_port, 22);
	expect_nothing(&fixture); // until it is accepted
	struct virtio_vsock_hdr answer = machine_header(22, request.src_port, OP(RESPONSE));
	send_packet(&fixture, &answer, NULL, 0);
	expect_bytes(&fixture, "early");
	close(pair[1]);
	end(&fixture);
}

static void a_guest_that_does_not_listen_closes_the_socket(void **state)
{
	(void)state;
	struct fixture fixture;
	int pair[2];
	char byte;
	begin(&fixture);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(vsock_device_connect(fixture.device, pair[0], 22), 0);
	struct virtio_vsock_hdr request = expect(&fixture, OP(REQUEST));
	struct virtio_vsock_hdr answer = machine_header(22, request.src_port, OP(RST));
	send_packet(&fixture, &answer, NULL, 0);
	assert_int_equal(recv(pair[1], &byte, 1, MSG_DONTWAIT), 0);
	close(pair[1]);
	end(&fixture);
}

static void connections_are_counted(void **state)
{
	(void)state;
	struct fixture fixture;
	int pair[2];
	begin(&fixture);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fixture.shared_fd = pair[0];
	fixture.host_fd = pair[1];
	for (uint32_t i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
		struct virtio_vsock_hdr header = machine_header(i, HOST, OP(REQUEST));
		send_packet(&fixture, &header, NULL, 0);
		expect(&fixture, OP(RESPONSE));
	}
	struct virtio_vsock_hdr header = machine_header(100000, HOST, OP(REQUEST));
	send_packet(&fixture, &header, NULL, 0);
	assert_int_equal(expect(&fixture, OP(RST)).dst_port, 100000);
	assert_int_equal(fixture.opened, VSOCK_CONNECTIONS_MAX);
	close(pair[0]);
	end(&fixture);
}

#define COMES_AND_GOES 500

static size_t count_lines(int file)
{
	size_t n = 0;
	char text[4096];
	ssize_t len;
	for (off_t at = 0; (len = pread(file, text, sizeof(text), at)) > 0; at += len) {
		for (ssize_t i = 0; i < len; i++) {
			n += text[i] == '\n';
		}
	}
	return n;
}

static void connections_that_come_and_go_make_few_lines(void **state)
{
	(void)state;
	struct fixture fixture;
	int file = memfd_create("stderr", MFD_CLOEXEC);
	int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	assert_true(file >= 0 && saved >= 0);
	begin(&fixture);
	log_init("test", LOG_INFO);
	dup2(file, STDERR_FILENO);
	for (size_t i = 0; i < COMES_AND_GOES; i++) {
		send_op(&fixture, OP(REQUEST), 0);
		send_op(&fixture, OP(RST), 0);
		refill(&fixture);
	}
	dup2(saved, STDERR_FILENO);
	log_init("test", LOG_WARN);
	assert_int_equal(fixture.closed, COMES_AND_GOES);
	assert_in_range(
		count_lines(file), 2, COMES_AND_GOES - 1); // else there would be two of each
	end(&fixture);
	close(saved);
	close(file);
}

static void a_reboot_ends_all_connections(void **state)
{
	(void)state;
	struct fixture fixture;
	char byte;
	begin(&fixture);
	talk(&fixture);
	machine_stop(&fixture.machine);
	turn(&fixture);
	assert_int_equal(vsock_device_connections(fixture.device), 1); // it may be a pause
	machine_boot(&fixture.machine, 32);
	turn(&fixture);
	assert_int_equal(vsock_device_connections(fixture.device), 0);
	assert_int_equal(recv(fixture.host_fd, &byte, 1, MSG_DONTWAIT), 0);
	talk(&fixture);
	end(&fixture);
}

static void a_pause_ends_none(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	talk(&fixture);
	machine_stop(&fixture.machine);
	turn(&fixture);
	assert_int_equal(send(fixture.host_fd, "meanwhile", 9, 0), 9);
	turn(&fixture);
	machine_start_queue(&fixture.machine, 0, fixture.machine.queues[0].seen);
	machine_start_queue(&fixture.machine, 1, fixture.machine.queues[1].avail->idx);
	expect_bytes(&fixture, "meanwhile");
	send_bytes(&fixture, "again", 5);
	expect_at_host(&fixture, "again");
	end(&fixture);
}

static void nothing_is_opened_after_a_stop(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	vsock_device_stop(fixture.device);
	send_op(&fixture, OP(REQUEST), 0);
	expect(&fixture, OP(RST));
	assert_int_equal(fixture.opened, 0);
	end(&fixture);
}

static void note_other(evutil_socket_t fd, short what, void *data)
{
	struct fixture *fixture = data;
	eventfd_t count;
	(void)what;
	eventfd_read(fd, &count);
	fixture->seen_by_other = fixture->refused;
}

static void a_guest_that_goes_on_sending_leaves_other_events_their_turn(void **state)
{
	(void)state;
	const unsigned int most = 1000;
	struct fixture fixture;
	begin(&fixture);
	fixture.other_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct event *other = event_new(
		fixture.base, fixture.other_fd, EV_READ | EV_PERSIST, note_other, &fixture);
	event_add(other, NULL);
	fixture.refills = most;
	refill(&fixture);
	for (unsigned int i = 0; i < most && fixture.refused < most; i++) {
		turn(&fixture);
		refill(&fixture);
	}
	assert_int_equal(fixture.refused, most);
	assert_in_range(fixture.seen_by_other, OTHER_AT, 4 * OTHER_AT);
	event_free(other);
	close(fixture.other_fd);
	end(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_guest_that_goes_on_sending_leaves_other_events_their_turn),
		fd_count_test(bytes_go_both_ways),
		fd_count_test(messages_of_any_length_come_at_once),
		fd_count_test(a_port_that_is_refused_is_reset),
		fd_count_test(packets_that_belong_to_nothing_are_reset),
		fd_count_test(an_unknown_operation_ends_its_connection),
		fd_count_test(another_type_is_reset),
		fd_count_test(only_the_host_can_be_reached),
		fd_count_test(a_packet_shorter_than_it_says_ends_the_device),
		fd_count_test(a_chain_that_is_no_packet_ends_the_device),
		fd_count_test(a_receive_buffer_holds_a_packet),
		fd_count_test(resets_are_bounded_by_the_guests_buffers),
		fd_count_test(too_much_for_the_credit_ends_the_connection),
		fd_count_test(credit_comes_back_when_the_host_reads),
		fd_count_test(a_guest_that_takes_little_does_not_wait_for_credit),
		fd_count_test(what_the_socket_has_no_room_for_is_kept),
		fd_count_test(the_guests_credit_is_kept),
		fd_count_test(forwarding_what_was_never_sent_ends_the_connection),
		fd_count_test(packets_are_read_again_when_a_connection_sends_the_resets),
		fd_count_test(a_full_eventfd_keeps_nobody_waiting),
		fd_count_test(the_guest_closes_its_half),
		fd_count_test(the_host_closes_its_half),
		fd_count_test(both_close_their_halves),
		fd_count_test(the_guest_closes_its_half_first),
		fd_count_test(what_nobody_reads_keeps_a_connection_and_no_processor),
		fd_count_test(a_guest_without_room_gets_credit_for_what_nobody_will_read),
		fd_count_test(the_guest_closes),
		fd_count_test(the_host_closes),
		fd_count_test(the_host_connects),
		fd_count_test(a_guest_that_does_not_listen_closes_the_socket),
		fd_count_test(connections_are_counted),
		fd_count_test(connections_that_come_and_go_make_few_lines),
		fd_count_test(a_reboot_ends_all_connections),
		fd_count_test(a_pause_ends_none),
		fd_count_test(nothing_is_opened_after_a_stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
