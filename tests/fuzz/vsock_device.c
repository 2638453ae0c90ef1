/*
 * A hostile guest: packets with any header, and rings in which it writes whatever it likes, in front
 * of a device whose VMM means well and whose connections are read and written meanwhile.
 *
 * A guest that only sends strange packets, by rings that are right, is served: the device takes all of
 * them. Whatever a guest has done, once it has rebooted it can connect.
 */

#include <errno.h>
#include <event2/event.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "channel/input.h"
#include "host-proxy/borrower.h"
#include "host-proxy/vsock_device.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/virtual_machine.h"

#define RX          0
#define TX          1
#define HEADER_SIZE sizeof(struct virtio_vsock_hdr)

// Behind the rings.
#define TABLES      0x30000u // of indirect descriptors
#define TABLE_SIZE  0x100u
#define RX_BUFFERS  0x40000u
#define RX_STRIDE   0x1000u
#define TX_BUFFERS  0x100000u
#define TX_STRIDE   0x20000u
#define TX_SLOTS    16u
#define TX_PIECES   4u // descriptors of a packet
#define RX_LEN_MAX  3776u
#define PAYLOAD_MAX 70000u
#define PORTS       4u
#define LENT_PORT   3u // whose programs borrow what the guest sends
#define REPLIES     40 // bytes of those to two GET_VRING_BASE

#define HOSTS_MAX   6
#define TURNS       4
#define ROUNDS_MAX  2000
#define PACKETS_MAX 4096 // that a guest looks through for an answer
#define NO_TURN     0x80 // of an operation: the device sees it together with the next one

enum operation {
	PACKET,
	RX_ROOM,
	RECEIVE,
	HOST_SENDS,
	HOST_RECEIVES,
	HOST_SHUTS,
	HOST_CLOSES,
	HOST_CONNECTS,
	PAUSE,
	NEW_TABLE,
	NO_CALLS,
	TAMPER,
	DESCRIPTOR,
	OFFER,
	LIE,
	STOP,
	OPERATIONS,
};

struct fixture {
	struct event_base *base;
	struct machine machine;
	struct vsock_device *device;
	int hosts[HOSTS_MAX];                    // the programs' ends of connections; -1: closed
	struct channel_input *inputs[HOSTS_MAX]; // of those that borrow; NULL
	size_t n_hosts;
	bool stopped;
	bool tampered; // with the rings
	bool ended;
	bool answered; // the guest's last request
	uint32_t asked_from;
};

// ---- the host ----

static int add_host(struct fixture *fixture, bool borrows)
{
	int pair[2];
	if (fixture->n_hosts == HOSTS_MAX) {
		return -1;
	}
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	fixture->inputs[fixture->n_hosts] = borrows ? borrower_create(pair[0]) : NULL;
	fixture->hosts[fixture->n_hosts++] = pair[0];
	return pair[1];
}

static void close_host(struct fixture *fixture, size_t i)
{
	channel_input_destroy(fixture->inputs[i]);
	fixture->inputs[i] = NULL;
	if (fixture->hosts[i] >= 0) {
		close(fixture->hosts[i]);
	}
	fixture->hosts[i] = -1;
}

static void close_hosts(struct fixture *fixture)
{
	for (size_t i = 0; i < fixture->n_hosts; i++) {
		close_host(fixture, i);
	}
	fixture->n_hosts = 0;
}

static ssize_t receive_at_host(struct fixture *fixture, size_t i)
{
	static char bytes[PAYLOAD_MAX];
	const struct iovec piece = {bytes, sizeof(bytes)};
	return fixture->inputs[i] != NULL
		? channel_input_read(fixture->inputs[i], &piece, 1)
		: recv(fixture->hosts[i], bytes, sizeof(bytes), MSG_DONTWAIT);
}

// All of it, so that the guest gets its chains back.
static void return_loans(struct fixture *fixture)
{
	for (size_t i = 0; i < fixture->n_hosts; i++) {
		ssize_t n = 1;
		while (fixture->inputs[i] != NULL && n > 0) {
			n = receive_at_host(fixture, i);
			fuzz_check(n != -EPROTO, "a device lends what makes sense");
		}
	}
}

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	(void)guest_port;
	return add_host(data, host_port == LENT_PORT);
}

static bool handle_lends(void *data, uint32_t host_port)
{
	(void)data;
	return host_port == LENT_PORT;
}

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	(void)wrong;
	fuzz_check(!fixture->ended, "a device ends once");
	fixture->ended = true;
}

// ---- the guest's driver, which never trusts what is in its own memory ----

static uint16_t used_index(const struct machine_queue *queue)
{
	return __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE);
}

static void offer_room(struct fixture *fixture, uint8_t n, uint32_t len)
{
	struct machine *machine = &fixture->machine;
	struct machine_queue *queue = &machine->queues[RX];
	for (; n > 0 && (uint16_t)(queue->avail->idx - queue->seen) < MACHINE_RING; n--) {
		uint16_t slot = queue->avail->idx % MACHINE_RING;
		queue->desc[slot] = (struct vring_desc){
			.addr = MACHINE_ADDRESS + RX_BUFFERS + slot * RX_STRIDE,
			.len = len,
			.flags = VRING_DESC_F_WRITE,
		};
		machine_offer(machine, RX, slot);
	}
}

static void see_packet(struct fixture *fixture, const uint8_t *data, size_t len)
{
	struct virtio_vsock_hdr header;
	if (!fixture->tampered) {
		fuzz_check(len >= HEADER_SIZE, "a packet has a header");
	}
	memcpy(&header, data, HEADER_SIZE);
	if (!fixture->tampered) {
		fuzz_check(header.len == len - HEADER_SIZE, "a packet is as long as it says");
	}
	if (header.dst_port == fixture->asked_from) {
		fixture->answered = true;
	}
}

static void receive_packets(struct fixture *fixture, unsigned int n)
{
	struct machine *machine = &fixture->machine;
	struct machine_queue *queue = &machine->queues[RX];
	for (; n > 0 && queue->seen != used_index(queue); n--) {
		struct vring_used_elem used = queue->used->ring[queue->seen++ % MACHINE_RING];
		queue->avail->ring[MACHINE_RING] = queue->seen;
		uint32_t slot = used.id % MACHINE_RING;
		see_packet(fixture, machine->memory + RX_BUFFERS + slot * RX_STRIDE, used.len);
	}
}

// Splits a packet into descriptors at the given places. Their number.
static uint16_t fill_descriptors(
	struct vring_desc *desc, uint16_t first, uint64_t address, uint32_t len, uint8_t splits)
{
	uint16_t n = 0;
	while (len > 0) {
		bool last = n + 1u == TX_PIECES || (splits >> n & 1) == 0;
		uint32_t part = last ? len : 1 + len / 2;
		part = part < len ? part : len;
		desc[n] = (struct vring_desc){
			.addr = address,
			.len = part,
			.flags = part < len ? VRING_DESC_F_NEXT : 0,
			.next = (uint16_t)(first + n + 1),
		};
		address += part;
		len -= part;
		n++;
	}
	return n;
}

// False: no slot is free.
static bool send_packet(struct fixture *fixture, const struct virtio_vsock_hdr *header,
	uint32_t len, uint8_t splits)
{
	struct machine *machine = &fixture->machine;
	struct machine_queue *queue = &machine->queues[TX];
	if ((uint16_t)(queue->avail->idx - used_index(queue)) >= TX_SLOTS) {
		return false;
	}
	uint16_t slot = queue->avail->idx % TX_SLOTS, head = (uint16_t)(slot * TX_PIECES);
	uint32_t at = TX_BUFFERS + slot * TX_STRIDE, size = (uint32_t)HEADER_SIZE + len;
	memcpy(machine->memory + at, header, HEADER_SIZE);
	struct vring_desc *desc = &queue->desc[head];
	if ((machine->features & MACHINE_INDIRECT) != 0) {
		uint32_t table = TABLES + slot * TABLE_SIZE;
		uint16_t n = fill_descriptors((struct vring_desc *)(machine->memory + table), 0,
			MACHINE_ADDRESS + at, size, splits);
		*desc = (struct vring_desc){
			.addr = MACHINE_ADDRESS + table,
			.len = n * (uint32_t)sizeof(*desc),
			.flags = VRING_DESC_F_INDIRECT,
		};
	} else {
		fill_descriptors(desc, head, MACHINE_ADDRESS + at, size, splits);
	}
	queue->avail->ring[MACHINE_RING] = used_index(queue);
	machine_offer(machine, TX, head);
	return true;
}

// ---- what it does ----

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static void begin(struct fixture *fixture, uint64_t features)
{
	int pair[2];
	*fixture = (struct fixture){.base = event_base_new()};
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	const struct vsock_device_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.guest_cid = MACHINE_CID,
		.open = handle_open,
		.lends = handle_lends,
		.ended = handle_ended,
		.data = fixture,
	};
	fixture->device = vsock_device_create(&config);
	fuzz_check(fixture->device != NULL, "a device can be made");
	machine_init(&fixture->machine, pair[0], MACHINE_VERSION_1 | features);
	machine_boot(&fixture->machine, 0);
	turn(fixture);
}

static void end(struct fixture *fixture)
{
	machine_finish(&fixture->machine);
	turn(fixture);
	fuzz_check(fixture->ended, "the device sees that the VMM is gone");
	vsock_device_destroy(fixture->device);
	close_hosts(fixture);
	event_base_free(fixture->base);
}

static void do_packet(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t shape = fuzz_take8(input); // splits; then what is unusual
	uint8_t ports = fuzz_take8(input);
	struct virtio_vsock_hdr header =
		machine_header(ports % PORTS, ports / PORTS % PORTS, fuzz_take8(input) % 12);
	header.flags = ports >> 4;
	header.buf_alloc = fuzz_take16(input) * 4u;
	header.fwd_cnt = fuzz_take16(input);
	uint32_t len = (shape & 0x10) != 0 ? fuzz_take16(input) * 2u : fuzz_take8(input);
	len = len < PAYLOAD_MAX ? len : PAYLOAD_MAX;
	header.len = len;
	if ((shape & 0x20) != 0) {
		header.type = fuzz_take16(input);
		header.src_cid = fuzz_take8(input);
		header.dst_cid = fuzz_take8(input);
	}
	if ((shape & 0x40) != 0) {
		header.len = fuzz_take32(input);
		fixture->tampered = fixture->tampered || header.len > len;
	}
	if ((shape & 0x80) != 0) {
		header.src_port |= 0x40000000;
		header.dst_port |= 0x40000000; // where the device's own begin
	}
	send_packet(fixture, &header, len, shape & 7);
}

// -1: none.
static int find_host(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t number = fuzz_take8(input);
	if (fixture->n_hosts == 0) {
		return -1;
	}
	int i = number % (int)fixture->n_hosts;
	return fixture->hosts[i] >= 0 ? i : -1;
}

static void do_host_sends(struct fixture *fixture, struct fuzz_input *input)
{
	static const char bytes[PAYLOAD_MAX];
	int host = find_host(fixture, input);
	size_t len = fuzz_take16(input);
	if (host >= 0) {
		send(fixture->hosts[host], bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

static void do_host_receives(struct fixture *fixture, struct fuzz_input *input)
{
	int host = find_host(fixture, input);
	if (host >= 0) {
		receive_at_host(fixture, (size_t)host);
	}
}

static void do_host_shuts(struct fixture *fixture, struct fuzz_input *input)
{
	int host = find_host(fixture, input);
	if (host >= 0) {
		shutdown(fixture->hosts[host], fuzz_take8(input) % 3);
	}
}

static void do_host_closes(struct fixture *fixture, struct fuzz_input *input)
{
	int host = find_host(fixture, input);
	if (host >= 0) {
		close_host(fixture, (size_t)host);
	}
}

static void do_host_connects(struct fixture *fixture, struct fuzz_input *input)
{
	int fd = add_host(fixture, false);
	uint32_t port = fuzz_take8(input) % PORTS;
	if (fd >= 0) {
		vsock_device_connect(fixture->device, fd, port);
	}
}

static bool has_replied(const struct fixture *fixture)
{
	char bytes[REPLIES];
	return recv(fixture->machine.fd, bytes, REPLIES, MSG_PEEK | MSG_DONTWAIT) == REPLIES;
}

// The VMM stops both queues. False: the device has ended.
static bool stop_queues(struct fixture *fixture, uint16_t bases[2])
{
	turn(fixture);
	if (fixture->ended) {
		return false;
	}
	machine_stop(&fixture->machine);
	for (int i = 0; i < ROUNDS_MAX && !fixture->ended && !has_replied(fixture); i++) {
		turn(fixture);
		return_loans(fixture);
	}
	for (int i = 0; i < 2 && !fixture->ended; i++) {
		uint32_t state[2];
		machine_reply(&fixture->machine, MACHINE_GET_VRING_BASE, state, sizeof(state));
		bases[i] = (uint16_t)state[1];
	}
	return !fixture->ended;
}

static void do_pause(struct fixture *fixture)
{
	uint16_t bases[2];
	if (stop_queues(fixture, bases)) {
		machine_start_queue(&fixture->machine, RX, bases[RX]);
		machine_start_queue(&fixture->machine, TX, bases[TX]);
	}
}

// Into a ring or a table; the guest's own counts are in them, too.
static void do_tamper(struct fixture *fixture, struct fuzz_input *input)
{
	const struct machine_queue *queue = &fixture->machine.queues[fuzz_take8(input) % 2];
	uint8_t *const places[] = {(uint8_t *)queue->desc, (uint8_t *)queue->avail,
		(uint8_t *)queue->used, fixture->machine.memory + TABLES,
		fixture->machine.memory + TX_BUFFERS};
	uint8_t *place = places[fuzz_take8(input) % (sizeof(places) / sizeof(places[0]))];
	uint16_t offset = fuzz_take16(input) % 0x1000;
	fuzz_take(input, place + offset, 1 + fuzz_take8(input) % 16);
	fixture->tampered = true;
}

static void do_descriptor(struct fixture *fixture, struct fuzz_input *input)
{
	struct machine *machine = &fixture->machine;
	struct machine_queue *queue = &machine->queues[fuzz_take8(input) % 2];
	uint8_t slot = fuzz_take8(input);
	struct vring_desc *desc = slot < 128
		? &queue->desc[slot % MACHINE_RING]
		: (struct vring_desc *)(machine->memory + TABLES) + slot;
	desc->addr = MACHINE_ADDRESS + fuzz_take32(input) % (MACHINE_MEMORY + 0x1000);
	desc->len = fuzz_take32(input);
	desc->len >>= fuzz_take8(input) % 32;
	desc->flags = fuzz_take8(input) & 7;
	desc->next = fuzz_take8(input);
	fixture->tampered = true;
}

static void do_offer(struct fixture *fixture, struct fuzz_input *input)
{
	unsigned int index = fuzz_take8(input) % 2;
	machine_offer(&fixture->machine, index, fuzz_take8(input));
	fixture->tampered = true;
}

// About how far a ring is.
static void do_lie(struct fixture *fixture, struct fuzz_input *input)
{
	unsigned int index = fuzz_take8(input) % 2;
	struct machine_queue *queue = &fixture->machine.queues[index];
	queue->avail->idx = (uint16_t)(queue->avail->idx + (int8_t)fuzz_take8(input));
	queue->avail->ring[MACHINE_RING] = fuzz_take16(input);
	machine_kick(&fixture->machine, index);
	fixture->tampered = true;
}

static void do_operation(
	struct fixture *fixture, struct fuzz_input *input, enum operation operation)
{
	uint8_t n;
	switch (operation) {
	case PACKET:
		do_packet(fixture, input);
		break;
	case RX_ROOM:
		n = fuzz_take8(input);
		offer_room(fixture, n % MACHINE_RING,
			n >= 0x80 ? RX_LEN_MAX : (uint32_t)HEADER_SIZE + 1 + n);
		break;
	case RECEIVE:
		receive_packets(fixture, fuzz_take8(input));
		break;
	case HOST_SENDS:
		do_host_sends(fixture, input);
		break;
	case HOST_RECEIVES:
		do_host_receives(fixture, input);
		break;
	case HOST_SHUTS:
		do_host_shuts(fixture, input);
		break;
	case HOST_CLOSES:
		do_host_closes(fixture, input);
		break;
	case HOST_CONNECTS:
		do_host_connects(fixture, input);
		break;
	case PAUSE:
		do_pause(fixture);
		break;
	case NEW_TABLE:
		machine_send_memory(&fixture->machine);
		turn(fixture);
		break;
	case NO_CALLS:
		fixture->machine.queues[TX].avail->flags ^= VRING_AVAIL_F_NO_INTERRUPT;
		break;
	case TAMPER:
		do_tamper(fixture, input);
		break;
	case DESCRIPTOR:
		do_descriptor(fixture, input);
		break;
	case OFFER:
		do_offer(fixture, input);
		break;
	case LIE:
		do_lie(fixture, input);
		break;
	case STOP:
		vsock_device_stop(fixture->device);
		fixture->stopped = true;
		break;
	case OPERATIONS:
		break;
	}
}

// ---- what must be true ----

static void check_service(struct fixture *fixture)
{
	const struct machine_queue *queue = &fixture->machine.queues[TX];
	fuzz_check(!fixture->ended, "packets alone do not end a device");
	for (int i = 0; i < ROUNDS_MAX && used_index(queue) != queue->avail->idx; i++) {
		return_loans(fixture);
		receive_packets(fixture, MACHINE_RING);
		offer_room(fixture, MACHINE_RING, RX_LEN_MAX);
		turn(fixture);
	}
	fuzz_check(used_index(queue) == queue->avail->idx, "the device takes every packet");
	fuzz_check(!fixture->ended, "packets alone do not end a device");
}

static void check_reboot(struct fixture *fixture)
{
	uint16_t bases[2];
	if (!stop_queues(fixture, bases)) {
		return;
	}
	close_hosts(fixture);
	fixture->tampered = false;
	machine_boot(&fixture->machine, 0);
	turn(fixture);
	fixture->asked_from = 77;
	fixture->answered = false;
	const struct virtio_vsock_hdr header =
		machine_header(fixture->asked_from, 1, VIRTIO_VSOCK_OP_REQUEST);
	fuzz_check(send_packet(fixture, &header, 0, 0), "a new ring has room");
	for (int i = 0; i < ROUNDS_MAX && !fixture->answered; i++) {
		offer_room(fixture, MACHINE_RING, RX_LEN_MAX);
		turn(fixture);
		receive_packets(fixture, MACHINE_RING);
	}
	fuzz_check(!fixture->ended, "a guest that reboots does not end its device");
	fuzz_check(fixture->answered, "a guest that has rebooted is answered");
	fuzz_check(fixture->stopped || fixture->n_hosts == 1, "and connected");
}

void fuzz_one(struct fuzz_input *input)
{
	struct fixture fixture;
	uint8_t features = fuzz_take8(input);
	begin(&fixture,
		((features & 1) != 0 ? MACHINE_INDIRECT : 0) |
			((features & 2) != 0 ? MACHINE_EVENT_INDEX : 0));
	offer_room(&fixture, features >> 2, RX_LEN_MAX);
	while (input->size > 0 && !fixture.ended) {
		uint8_t byte = fuzz_take8(input);
		do_operation(&fixture, input, (byte & ~NO_TURN) % OPERATIONS);
		if ((byte & NO_TURN) == 0) {
			turn(&fixture);
		}
	}
	turn(&fixture);
	if (!fixture.tampered) {
		check_service(&fixture);
	}
	check_reboot(&fixture);
	end(&fixture);
}
