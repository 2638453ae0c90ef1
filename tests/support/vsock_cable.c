#include "tests/support/vsock_cable.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host-proxy/vsock_device.h"
#include "tests/support/virtual_machine.h"

#define GUEST_PORT 1022
#define HOST_PORT  7000
#define ROOM       65536 // what the guest takes before it is read
#define BUFFERS    48
#define FIRST_FD   3
#define SEND       VIRTIO_VSOCK_SHUTDOWN_SEND
#define BOTH       (VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV)

struct cable {
	struct event_base *base;
	struct machine machine;
	struct vsock_device *device;
	int guest_fd; // the other end is the caller's
	int host_fd;  // likewise, until the device has it
	bool lends;
	struct event *readable, *writable, *called[2];
	struct evbuffer *backlog;              // for the guest's program
	uint32_t sent, credit, host_forwarded; // to the host
	uint32_t received, told;               // from the host; told: what was forwarded of it
	bool connected;
	uint32_t guest_shutdown, host_shutdown;
	uint32_t pending_shutdown; // of the guest's, to be sent
	bool shut;                 // the program has been told of the host's end
};

static pid_t last_process;

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static bool send_packet(
	struct cable *cable, uint16_t operation, uint32_t flags, const void *data, size_t len)
{
	uint32_t forwarded = cable->received - (uint32_t)evbuffer_get_length(cable->backlog);
	struct virtio_vsock_hdr header = machine_header(GUEST_PORT, HOST_PORT, operation);
	header.buf_alloc = ROOM;
	header.fwd_cnt = forwarded;
	header.flags = flags;
	header.len = (uint32_t)len;
	if (!machine_send_packet(&cable->machine, &header, data, len)) {
		return false;
	}
	cable->told = forwarded;
	return true;
}

static uint32_t credit(const struct cable *cable)
{
	uint32_t under_way = cable->sent - cable->host_forwarded;
	return cable->credit > under_way ? cable->credit - under_way : 0;
}

static void want(struct event *event, bool wanted)
{
	if (wanted) {
		event_add(event, NULL);
	} else {
		event_del(event);
	}
}

static void end_guest(struct cable *cable, uint32_t flags)
{
	if ((cable->guest_shutdown | flags) != cable->guest_shutdown) {
		cable->guest_shutdown |= flags;
		cable->pending_shutdown = cable->guest_shutdown;
	}
}

static void update(struct cable *cable)
{
	bool backlog = evbuffer_get_length(cable->backlog) > 0;
	if ((cable->host_shutdown & SEND) != 0 && !backlog && !cable->shut) {
		shutdown(cable->guest_fd, SHUT_WR);
		cable->shut = true;
	}
	if (cable->pending_shutdown != 0 &&
		send_packet(cable, VIRTIO_VSOCK_OP_SHUTDOWN, cable->pending_shutdown, NULL, 0)) {
		cable->pending_shutdown = 0;
	}
	uint32_t forwarded = cable->received - (uint32_t)evbuffer_get_length(cable->backlog);
	if (forwarded - cable->told > ROOM / 4) {
		send_packet(cable, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
	}
	want(cable->writable, backlog);
	want(cable->readable,
		cable->connected && (cable->guest_shutdown & SEND) == 0 && credit(cable) > 0 &&
			machine_can_send(&cable->machine));
}

static bool hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLHUP) != 0;
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	static char bytes[MACHINE_TX_SIZE];
	struct cable *cable = data;
	(void)what;
	size_t max = credit(cable) < sizeof(bytes) ? credit(cable) : sizeof(bytes);
	ssize_t n = recv(fd, bytes, max, MSG_DONTWAIT);
	if (n > 0) {
		check(send_packet(cable, VIRTIO_VSOCK_OP_RW, 0, bytes, (size_t)n), "a packet");
		cable->sent += (uint32_t)n;
	} else if (n == 0 || errno != EAGAIN) {
		end_guest(cable, n < 0 || hung_up(fd) ? BOTH : SEND);
	}
	update(cable);
}

static void handle_writable(evutil_socket_t fd, short what, void *data)
{
	struct cable *cable = data;
	(void)what;
	if (evbuffer_write(cable->backlog, fd) < 0 && errno != EAGAIN) {
		evbuffer_drain(cable->backlog, evbuffer_get_length(cable->backlog));
		end_guest(cable, BOTH);
	}
	update(cable);
}

static void take_packet(
	struct cable *cable, const struct virtio_vsock_hdr *header, const char *payload)
{
	cable->credit = header->buf_alloc;
	cable->host_forwarded = header->fwd_cnt;
	switch (header->op) {
	case VIRTIO_VSOCK_OP_RESPONSE:
		cable->connected = true;
		break;
	case VIRTIO_VSOCK_OP_RW:
		cable->received += header->len;
		evbuffer_add(cable->backlog, payload, header->len);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		cable->host_shutdown |= header->flags;
		end_guest(cable, (header->flags & BOTH) == BOTH ? BOTH : 0);
		break;
	case VIRTIO_VSOCK_OP_RST:
		event_base_loopbreak(cable->base);
		break;
	default:
		break;
	}
}

static void handle_called(evutil_socket_t fd, short what, void *data)
{
	struct cable *cable = data;
	struct virtio_vsock_hdr header;
	char payload[MACHINE_RX_SIZE];
	uint64_t count;
	(void)what;
	check(read(fd, &count, sizeof(count)) == sizeof(count) || errno == EAGAIN, "a call");
	while (machine_receive_packet(&cable->machine, &header, payload, sizeof(payload))) {
		take_packet(cable, &header, payload);
	}
	update(cable);
}

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	struct cable *cable = data;
	(void)host_port;
	(void)guest_port;
	return cable->host_fd;
}

static bool handle_lends(void *data, uint32_t host_port)
{
	(void)host_port;
	return ((struct cable *)data)->lends;
}

static void handle_ended(void *data, const char *wrong)
{
	(void)data;
	fprintf(stderr, "vsock cable: %s\n", wrong);
	abort();
}

static void run(struct cable *cable)
{
	const short persist = EV_READ | EV_PERSIST;
	int pair[2];
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	cable->base = event_base_new();
	cable->backlog = evbuffer_new();
	const struct vsock_device_config config = {
		.base = cable->base,
		.fd = pair[1],
		.guest_cid = MACHINE_CID,
		.open = handle_open,
		.lends = handle_lends,
		.ended = handle_ended,
		.data = cable,
	};
	cable->device = vsock_device_create(&config);
	check(cable->device != NULL, "the device");
	machine_init(&cable->machine, pair[0],
		MACHINE_VERSION_1 | MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
	machine_boot(&cable->machine, BUFFERS);
	cable->readable = event_new(cable->base, cable->guest_fd, persist, handle_readable, cable);
	cable->writable = event_new(
		cable->base, cable->guest_fd, EV_WRITE | EV_PERSIST, handle_writable, cable);
	for (int i = 0; i < 2; i++) {
		cable->called[i] = event_new(cable->base, cable->machine.queues[i].call_fd, persist,
			handle_called, cable);
		event_add(cable->called[i], NULL);
	}
	check(send_packet(cable, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0), "a request");
	event_base_dispatch(cable->base);
}

// Only the two fds are kept, as 3 and 4: the rest of the test's would never see their ends.
static void run_process(int guest_fd, int host_fd, bool lends)
{
	int guest = fcntl(guest_fd, F_DUPFD_CLOEXEC, 1000);
	int host = fcntl(host_fd, F_DUPFD_CLOEXEC, 1000);
	check(guest >= 0 && host >= 0, "fcntl");
	check(dup2(guest, FIRST_FD) >= 0 && dup2(host, FIRST_FD + 1) >= 0, "dup2");
	closefrom(FIRST_FD + 2);
	struct cable cable = {.guest_fd = FIRST_FD, .host_fd = FIRST_FD + 1, .lends = lends};
	signal(SIGPIPE, SIG_IGN);
	run(&cable);
	_exit(EXIT_SUCCESS);
}

static void create(int fds[2], bool lends)
{
	int guest[2], host[2];
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, guest) == 0, "socketpair");
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, host) == 0, "socketpair");
	last_process = fork();
	check(last_process >= 0, "fork");
	if (last_process == 0) {
		run_process(guest[1], host[1], lends);
	}
	close(guest[1]);
	close(host[1]);
	fds[0] = guest[0];
	fds[1] = host[0];
}

void vsock_cable_create(int fds[2])
{
	create(fds, false);
}

void vsock_cable_create_lending(int fds[2])
{
	create(fds, true);
}

bool vsock_cable_wait(void)
{
	int status;
	return waitpid(last_process, &status, 0) == last_process && WIFEXITED(status) &&
		WEXITSTATUS(status) == EXIT_SUCCESS;
}
