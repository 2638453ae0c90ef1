// What it costs to move a guest's bytes from its vsock ring to where a session wants them: through the
// socket between the device's process and the session's, or lent by the one to the other. The guest's
// driver is a third process, whose cost does not count.

#include <err.h>
#include <event2/event.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "channel/channel.h"
#include "channel/input.h"
#include "host-proxy/borrower.h"
#include "host-proxy/vsock_device.h"
#include "tests/support/virtual_machine.h"

#define GUEST_PORT 1022
#define HOST_PORT  7000
#define REPLICA    (8u << 20) // bytes
#define PACKET     MACHINE_TX_SIZE
#define BUFFERS    48
#define ROUNDS     20000
#define BURST      400000
#define SMALL      64 // bytes of a frame

struct workload {
	const char *name;
	void (*drive)(struct machine *machine, uint64_t bytes);
	uint64_t bytes;
	const char *unit;
	double units; // that the CPU's time is divided by
};

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu_of(pid_t pid)
{
	struct rusage usage;
	int status;
	if (wait4(pid, &status, 0, &usage) != pid || status != 0) {
		errx(1, "a process has failed");
	}
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* The device. */

struct device {
	struct event_base *base;
	int host_fd;
	bool lends;
};

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	(void)host_port;
	(void)guest_port;
	return ((struct device *)data)->host_fd;
}

static bool handle_lends(void *data, uint32_t host_port)
{
	(void)host_port;
	return ((struct device *)data)->lends;
}

static void handle_ended(void *data, const char *wrong)
{
	if (wrong != NULL) {
		errx(1, "the device: %s", wrong);
	}
	event_base_loopbreak(((struct device *)data)->base);
}

static void run_device(int vmm_fd, int host_fd, bool lends)
{
	struct device own = {.base = event_base_new(), .host_fd = host_fd, .lends = lends};
	const struct vsock_device_config config = {
		.base = own.base,
		.fd = vmm_fd,
		.guest_cid = MACHINE_CID,
		.open = handle_open,
		.lends = handle_lends,
		.ended = handle_ended,
		.data = &own,
	};
	struct vsock_device *device = vsock_device_create(&config);
	if (device == NULL) {
		err(1, "the device");
	}
	event_base_dispatch(own.base);
	vsock_device_destroy(device);
}

/* The session. */

struct session {
	struct event_base *base;
	struct channel *channel;
	uint8_t *replica;
	size_t at;
};

static const char *handle_frame(void *data, const struct channel_frame *frame)
{
	struct session *session = data;
	if (frame->header.arg == 1) { // wants an answer
		channel_push(session->channel, CHANNEL_MESSAGES, 0, 0, NULL, 0, frame->payload,
			frame->header.length);
	}
	return NULL;
}

static const char *handle_place(
	void *data, uint32_t id, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct session *session = data;
	(void)id;
	if (session->at + write->row_bytes > REPLICA) {
		session->at = 0;
	}
	rows->base = session->replica + session->at;
	rows->lasting = true; // as in a replica
	session->at += write->row_bytes;
	return NULL;
}

static void handle_written(void *data, uint32_t id)
{
	(void)data;
	(void)id;
}

static void handle_over(void *data, int error, const char *reason)
{
	if (error != 0) {
		errx(1, "the session: %s", reason != NULL ? reason : strerror(-error));
	}
	event_base_loopbreak(((struct session *)data)->base);
}

static void handle_drained(void *data)
{
	(void)data;
}

static void handle_settled(void *data)
{
	channel_flush(((struct session *)data)->channel);
}

static const struct channel_handler handler = {
	.frame = handle_frame,
	.place = handle_place,
	.written = handle_written,
	.ended = handle_over,
	.drained = handle_drained,
	.settled = handle_settled,
};

static void run_session(int fd, bool lends)
{
	struct session session = {.base = event_base_new()};
	int replica = memfd_create("replica", MFD_CLOEXEC);
	if (replica < 0 || ftruncate(replica, REPLICA) < 0) {
		err(1, "the replica");
	}
	session.replica = mmap(NULL, REPLICA, PROT_READ | PROT_WRITE, MAP_SHARED, replica, 0);
	if (session.replica == MAP_FAILED) {
		err(1, "the replica");
	}
	memset(session.replica, 1, REPLICA);
	struct channel_input *input = lends ? borrower_create(fd) : channel_input_create(fd);
	session.channel = channel_create_with_input(session.base, fd, input, &handler, &session);
	if (session.channel == NULL) {
		err(1, "the channel");
	}
	event_base_dispatch(session.base);
	channel_destroy(session.channel);
}

/* The guest. */

struct guest {
	struct machine *machine;
	uint32_t sent, forwarded, room;
	uint32_t received;
	bool over;
};

static void take_packets(struct guest *guest)
{
	struct virtio_vsock_hdr header;
	char payload[MACHINE_RX_SIZE];
	uint64_t count;
	for (int i = 0; i < 2; i++) {
		if (read(guest->machine->queues[i].call_fd, &count, sizeof(count)) < 0) {
			continue; // it has not called
		}
	}
	while (machine_receive_packet(guest->machine, &header, payload, sizeof(payload))) {
		guest->room = header.buf_alloc;
		guest->forwarded = header.fwd_cnt;
		guest->received += header.len;
		guest->over = guest->over || header.op == VIRTIO_VSOCK_OP_RST;
	}
}

static void wait_for_call(struct guest *guest)
{
	struct pollfd polled[] = {
		{.fd = guest->machine->queues[0].call_fd, .events = POLLIN},
		{.fd = guest->machine->queues[1].call_fd, .events = POLLIN},
	};
	if (poll(polled, 2, 60000) <= 0) {
		errx(1, "the device does not call");
	}
	take_packets(guest);
}

static void send_packet(
	struct guest *guest, uint16_t operation, uint32_t flags, const void *data, size_t len)
{
	struct virtio_vsock_hdr header = machine_header(GUEST_PORT, HOST_PORT, operation);
	header.len = (uint32_t)len;
	header.flags = flags;
	header.fwd_cnt = guest->received;
	while (len > guest->room - (guest->sent - guest->forwarded) ||
		!machine_send_packet(guest->machine, &header, data, len)) {
		wait_for_call(guest);
	}
	guest->sent += (uint32_t)len;
}

static struct guest connect_guest(struct machine *machine)
{
	struct guest guest = {.machine = machine};
	send_packet(&guest, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	while (guest.room == 0) {
		wait_for_call(&guest);
	}
	return guest;
}

static void leave(struct guest *guest)
{
	send_packet(guest, VIRTIO_VSOCK_OP_SHUTDOWN,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV, NULL, 0);
	while (!guest->over) {
		wait_for_call(guest);
	}
}

/* Frames of rows that fill four packets each. */
static void drive_rows(struct machine *machine, uint64_t bytes)
{
	static uint8_t frame[4 * PACKET];
	struct channel_header header = {.type = CHANNEL_MEM_WRITE, .id = 1};
	struct channel_mem_write rows = {.rows = 1};
	rows.row_bytes = rows.stride = sizeof(frame) - sizeof(header) - sizeof(rows);
	header.length = (uint32_t)(sizeof(frame) - sizeof(header));
	memcpy(frame, &header, sizeof(header));
	memcpy(frame + sizeof(header), &rows, sizeof(rows));
	struct guest guest = connect_guest(machine);
	for (uint64_t at = 0; at < bytes; at += PACKET) {
		send_packet(&guest, VIRTIO_VSOCK_OP_RW, 0, frame + at % sizeof(frame), PACKET);
	}
	leave(&guest);
}

/* Frames that are handed over whole, one in each packet. */
static void drive_frames(struct machine *machine, uint64_t bytes)
{
	static uint8_t frame[PACKET];
	const struct channel_header header = {
		.type = CHANNEL_MESSAGES, .length = PACKET - sizeof(header)};
	memcpy(frame, &header, sizeof(header));
	struct guest guest = connect_guest(machine);
	for (uint64_t at = 0; at < bytes; at += PACKET) {
		send_packet(&guest, VIRTIO_VSOCK_OP_RW, 0, frame, PACKET);
	}
	leave(&guest);
}

static void send_small(struct guest *guest, uint32_t wants_answer)
{
	uint8_t frame[SMALL] = {0};
	const struct channel_header header = {
		.type = CHANNEL_MESSAGES, .length = SMALL - sizeof(header), .arg = wants_answer};
	memcpy(frame, &header, sizeof(header));
	send_packet(guest, VIRTIO_VSOCK_OP_RW, 0, frame, sizeof(frame));
}

static void drive_round_trips(struct machine *machine, uint64_t bytes)
{
	struct guest guest = connect_guest(machine);
	for (uint64_t at = 0; at < bytes; at += SMALL) {
		uint32_t before = guest.received;
		send_small(&guest, 1);
		while (guest.received - before < SMALL) {
			wait_for_call(&guest);
		}
	}
	leave(&guest);
}

static void drive_burst(struct machine *machine, uint64_t bytes)
{
	struct guest guest = connect_guest(machine);
	for (uint64_t at = 0; at < bytes; at += SMALL) {
		send_small(&guest, 0);
	}
	leave(&guest);
}

static const struct workload workloads[] = {
	{"rows", drive_rows, UINT64_C(2) << 30, "GB", 2.147},
	{"frames", drive_frames, UINT64_C(2) << 30, "GB", 2.147},
	{"round trips", drive_round_trips, (uint64_t)ROUNDS *SMALL, "1000", ROUNDS / 1000.},
	{"burst", drive_burst, (uint64_t)BURST *SMALL, "1000", BURST / 1000.},
};

static void measure(const struct workload *workload, bool lends)
{
	int vmm[2], host[2];
	struct machine machine;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, vmm) < 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, host) < 0) {
		err(1, "socketpair");
	}
	pid_t device = fork();
	if (device == 0) {
		close(vmm[0]);
		close(host[1]);
		run_device(vmm[1], host[0], lends);
		exit(0);
	}
	pid_t session = fork();
	if (session == 0) {
		close(vmm[0]);
		close(vmm[1]);
		close(host[0]);
		run_session(host[1], lends);
		exit(0);
	}
	close(vmm[1]);
	close(host[0]);
	close(host[1]);
	machine_init(&machine, vmm[0], MACHINE_VERSION_1 | MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
	machine_boot(&machine, BUFFERS);
	double start = now();
	workload->drive(&machine, workload->bytes);
	double elapsed = now() - start;
	machine_finish(&machine);
	double of_session = cpu_of(session), of_device = cpu_of(device);
	printf("%-12s %-7s %8.2f ms/%s  CPU: device %6.2f  session %6.2f\n", workload->name,
		lends ? "lent" : "socket", elapsed * 1e3 / workload->units, workload->unit,
		of_device * 1e3 / workload->units, of_session * 1e3 / workload->units);
	fflush(stdout);
}

int main(int argc, char *argv[])
{
	int times = argc > 1 ? atoi(argv[1]) : 3;
	const char *only = argc > 2 ? argv[2] : NULL;
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
		bool wanted = only == NULL || strcmp(only, workloads[i].name) == 0;
		for (int n = 0; wanted && n < 2 * times; n++) {
			measure(&workloads[i], n % 2 == 1);
		}
	}
	return 0;
}
