#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "channel/transport.h"
#include "protocol/channel.h"
#include "relay/handshake.h"
#include "tests/support/fd_count.h"
#include "tests/support/virtual_machine.h"

/*
 * The program itself, whose path is the first argument, with a VMM that is the test.
 */

#define PATIENCE_MS 60000
#define TRIES       3000 // of 20 ms
#define BRIDGED     1022
#define CHANNEL     7000
#define LISTENS     22    // port of the guest
#define PART        60000 // bytes of a frame

static char *program;

struct stage {
	char directory[32];
	struct transport vmm, service, entrance;
	int service_fd;
	pid_t pid;
	struct machine machine;
	uint32_t sent, received; // bytes of a session's connection
};

static void name(struct stage *stage, struct transport *transport, const char *file)
{
	*transport = (struct transport){.kind = TRANSPORT_UNIX};
	snprintf(transport->path, sizeof(transport->path), "%s/%s", stage->directory, file);
}

static int connect_to(const struct transport *transport)
{
	int fd = -1;
	for (int i = 0; fd < 0 && i < TRIES; i++) {
		fd = transport_connect(transport);
		usleep(fd < 0 ? 20000 : 0);
	}
	assert_true(fd >= 0);
	return fd;
}

#define MORE 4 // options that a test may add

static void start_program(struct stage *stage, char *const more[MORE])
{
	char listen[160], out[160], in[160], service[160];
	snprintf(listen, sizeof(listen), "vhost-user:%s", stage->vmm.path);
	snprintf(out, sizeof(out), "%d=unix:%s", BRIDGED, stage->service.path);
	snprintf(in, sizeof(in), "unix:%s=%d", stage->entrance.path, LISTENS);
	snprintf(service, sizeof(service), "echo=unix:%s", stage->service.path);
	char *argv[] = {program, "--listen", listen, "--vsock-port", out, "--vsock-port", in,
		"--service", service, more[0], more[1], more[2], more[3], NULL};
	assert_int_equal(posix_spawn(&stage->pid, program, NULL, NULL, argv, environ), 0);
}

// The VMM is not there yet.
static void begin_listening(struct stage *stage)
{
	strcpy(stage->directory, "/tmp/fdferry-test-XXXXXX");
	assert_non_null(mkdtemp(stage->directory));
	name(stage, &stage->vmm, "vmm");
	name(stage, &stage->service, "service");
	name(stage, &stage->entrance, "entrance");
	stage->service_fd = transport_listen(&stage->service);
}

static void connect_machine(struct stage *stage)
{
	machine_init(&stage->machine, connect_to(&stage->vmm), MACHINE_VERSION_1);
	machine_boot(&stage->machine, 32);
}

// With an option more, which may be NULL, and its value.
static void begin_with(struct stage *stage, char *rule, char *value)
{
	begin_listening(stage);
	start_program(stage, (char *[MORE]){rule, value});
	connect_machine(stage);
}

static void begin(struct stage *stage)
{
	begin_with(stage, NULL, NULL);
}

static void end(struct stage *stage)
{
	int status;
	kill(stage->pid, SIGTERM);
	assert_int_equal(waitpid(stage->pid, &status, 0), stage->pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	machine_finish(&stage->machine);
	close(stage->service_fd);
	transport_unlink(&stage->service);
	assert_int_equal(rmdir(stage->directory), 0); // the other sockets are gone
}

static struct virtio_vsock_hdr receive(struct stage *stage, void *payload)
{
	struct virtio_vsock_hdr header = {0};
	for (int i = 0; i < TRIES; i++) {
		if (machine_receive_packet(&stage->machine, &header, payload, MACHINE_RX_SIZE)) {
			return header;
		}
		usleep(20000);
	}
	fail_msg("the device sends nothing");
	return header;
}

static void send_packet_from(
	struct stage *stage, uint32_t from, uint32_t port, uint16_t operation, const char *text)
{
	struct virtio_vsock_hdr header = machine_header(from, port, operation);
	header.len = (uint32_t)strlen(text);
	assert_true(machine_send_packet(&stage->machine, &header, text, strlen(text)));
}

static void send_packet(struct stage *stage, uint32_t port, uint16_t operation, const char *text)
{
	send_packet_from(stage, 40000, port, operation, text);
}

static int accept_at_service(struct stage *stage)
{
	struct pollfd poll_fd = {.fd = stage->service_fd, .events = POLLIN};
	assert_int_equal(poll(&poll_fd, 1, TRIES * 20), 1);
	int fd = accept4(stage->service_fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void a_port_leads_to_a_socket(void **state)
{
	(void)state;
	struct stage stage;
	char payload[MACHINE_RX_SIZE];
	begin(&stage);
	send_packet(&stage, BRIDGED, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(&stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	int fd = accept_at_service(&stage);
	send_packet(&stage, BRIDGED, VIRTIO_VSOCK_OP_RW, "question");
	assert_int_equal(recv(fd, payload, sizeof(payload), 0), 8);
	assert_int_equal(send(fd, "answer", 6, MSG_NOSIGNAL), 6);
	assert_int_equal(receive(&stage, payload).op, VIRTIO_VSOCK_OP_RW);
	assert_memory_equal(payload, "answer", 6);
	close(fd);
	end(&stage);
}

static void a_socket_leads_to_a_port(void **state)
{
	(void)state;
	struct stage stage;
	char payload[MACHINE_RX_SIZE];
	begin(&stage);
	int fd = connect_to(&stage.entrance);
	struct virtio_vsock_hdr request = receive(&stage, payload);
	assert_int_equal(request.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(request.dst_port, LISTENS);
	close(fd);
	end(&stage);
}

/* A session process answers, and it does not like what it hears. */
static void any_other_port_is_a_channel(void **state)
{
	(void)state;
	struct stage stage;
	char payload[MACHINE_RX_SIZE];
	struct channel_header frame;
	begin(&stage);
	send_packet(&stage, CHANNEL, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(&stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	send_packet(&stage, CHANNEL, VIRTIO_VSOCK_OP_RW, "this is no HELLO, but it is long enough");
	assert_int_equal(receive(&stage, payload).op, VIRTIO_VSOCK_OP_RW);
	memcpy(&frame, payload, sizeof(frame));
	assert_int_equal(frame.type, CHANNEL_REFUSE);
	end(&stage);
}

// Connects from a port, says something that is no HELLO, and returns for which reason it is refused.
static uint32_t refusal(struct stage *stage, uint32_t from)
{
	char payload[MACHINE_RX_SIZE];
	struct channel_header frame;
	send_packet_from(stage, from, CHANNEL, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	send_packet_from(stage, from, CHANNEL, VIRTIO_VSOCK_OP_RW,
		"this is no HELLO, but it is long enough");
	while (receive(stage, payload).op != VIRTIO_VSOCK_OP_RW) {
	}
	memcpy(&frame, payload, sizeof(frame));
	assert_int_equal(frame.type, CHANNEL_REFUSE);
	return frame.arg;
}

static void the_machines_cid_and_port_are_those_of_its_device(void **state)
{
	(void)state;
	struct stage stage;
	begin_with(&stage, "--allow-cid", "3");
	assert_int_equal(refusal(&stage, 40000), CHANNEL_REFUSE_PROTOCOL);
	end(&stage);
	begin_with(&stage, "--allow-cid", "4");
	assert_int_equal(refusal(&stage, 40000), CHANNEL_REFUSE_AUTHENTICATION);
	end(&stage);
	begin_with(&stage, "--require-privileged-port", NULL);
	assert_int_equal(refusal(&stage, 1024), CHANNEL_REFUSE_AUTHENTICATION);
	end(&stage);
	begin_with(&stage, "--require-privileged-port", NULL);
	assert_int_equal(refusal(&stage, 1023), CHANNEL_REFUSE_PROTOCOL);
	end(&stage);
}

static void the_vmm_may_come_again(void **state)
{
	(void)state;
	struct stage stage;
	char payload[MACHINE_RX_SIZE];
	begin(&stage);
	machine_finish(&stage.machine);
	machine_init(&stage.machine, connect_to(&stage.vmm), MACHINE_VERSION_1);
	machine_boot(&stage.machine, 32);
	send_packet(&stage, BRIDGED, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(&stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	end(&stage);
}

static void a_broken_ring_ends_the_device_and_nothing_else(void **state)
{
	(void)state;
	struct stage stage;
	char payload[MACHINE_RX_SIZE];
	begin(&stage);
	machine_offer(&stage.machine, 1, MACHINE_RING);
	for (int i = 0; i < TRIES && !machine_is_cut_off(&stage.machine); i++) {
		usleep(20000);
	}
	assert_true(machine_is_cut_off(&stage.machine));
	machine_finish(&stage.machine);
	machine_init(&stage.machine, connect_to(&stage.vmm), MACHINE_VERSION_1);
	machine_boot(&stage.machine, 32);
	send_packet(&stage, BRIDGED, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(&stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	end(&stage);
}

/* ---- what is lent to a session ---- */

static void send_bytes(struct stage *stage, const void *data, size_t len)
{
	struct virtio_vsock_hdr header = machine_header(40000, CHANNEL, VIRTIO_VSOCK_OP_RW);
	header.len = (uint32_t)len;
	header.fwd_cnt = stage->received;
	for (int i = 0; i < TRIES && !machine_can_send(&stage->machine); i++) {
		usleep(20000);
	}
	assert_true(machine_send_packet(&stage->machine, &header, data, len));
	stage->sent += (uint32_t)len;
}

static void send_hello(struct stage *stage)
{
	struct handshake_hello hello = {.service = "echo"};
	uint8_t bytes[4096];
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(handshake_open(pair[0], &hello, PATIENCE_MS), 0);
	ssize_t n = recv(pair[1], bytes, sizeof(bytes), 0);
	send_bytes(stage, bytes, (size_t)n);
	close(pair[0]);
	close(pair[1]);
}

static void send_frame(
	struct stage *stage, uint16_t type, uint32_t arg, const void *data, size_t len)
{
	static uint8_t bytes[CHANNEL_MAX_PAYLOAD];
	const struct channel_header header = {
		.length = (uint32_t)len, .type = type, .id = 1, .arg = arg};
	memcpy(bytes, &header, sizeof(header));
	memcpy(bytes + sizeof(header), data, len);
	send_bytes(stage, bytes, sizeof(header) + len);
}

/* A session, whose service is the test. */
static int open_session(struct stage *stage)
{
	char payload[MACHINE_RX_SIZE];
	const struct channel_open_socket root = {.type = SOCK_STREAM, .root = 1};
	stage->sent = stage->received = 0;
	send_packet(stage, CHANNEL, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	send_hello(stage);
	send_frame(stage, CHANNEL_OPEN, CHANNEL_KIND_SOCKET, &root, sizeof(root));
	int fd = accept_at_service(stage);
	struct virtio_vsock_hdr welcome = receive(stage, payload);
	assert_int_equal(welcome.op, VIRTIO_VSOCK_OP_RW);
	stage->received += welcome.len;
	return fd;
}

static void close_session(struct stage *stage, int fd)
{
	struct virtio_vsock_hdr header = machine_header(40000, CHANNEL, VIRTIO_VSOCK_OP_SHUTDOWN);
	header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
	assert_true(machine_send_packet(&stage->machine, &header, NULL, 0));
	char payload[MACHINE_RX_SIZE];
	while (receive(stage, payload).op != VIRTIO_VSOCK_OP_RST) {
	}
	close(fd);
}

static unsigned int chains(struct stage *stage)
{
	const struct machine_queue *queue = &stage->machine.queues[1];
	return (uint16_t)(queue->avail->idx - __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE));
}

static void wait_for_chains(struct stage *stage, unsigned int n)
{
	for (int i = 0; i < TRIES && chains(stage) != n; i++) {
		usleep(20000);
	}
	assert_int_equal(chains(stage), n);
}

static void fill(uint8_t *data, size_t len, unsigned int seed)
{
	for (size_t i = 0; i < len; i++) {
		data[i] = (uint8_t)(i * 7 + i / 256 + seed);
	}
}

static void receive_all(int fd, uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = recv(fd, data, len, 0);
		assert_true(n > 0);
		data += n;
		len -= (size_t)n;
	}
}

static void payload_reaches_a_service(void **state)
{
	(void)state;
	static uint8_t sent[PART], received[PART];
	struct stage stage;
	begin(&stage);
	int fd = open_session(&stage);
	for (unsigned int i = 0; i < 40; i++) {
		fill(sent, PART, i);
		send_frame(&stage, CHANNEL_STREAM_DATA, 0, sent, PART);
		receive_all(fd, received, PART);
		assert_memory_equal(received, sent, PART);
	}
	wait_for_chains(&stage, 0);
	close_session(&stage, fd);
	end(&stage);
}

/* What a child of the program was started for: its first argument. */
static bool is_for(pid_t pid, const char *option)
{
	char path[32], arguments[256] = "";
	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	FILE *file = fopen(path, "re");
	size_t n = file != NULL ? fread(arguments, 1, sizeof(arguments) - 1, file) : 0;
	if (file != NULL) {
		fclose(file);
	}
	size_t first = strlen(arguments) + 1;
	return first < n && strcmp(arguments + first, option) == 0;
}

static void signal_children(struct stage *stage, const char *option, int number)
{
	char path[64];
	int pid, found = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)stage->pid, (int)stage->pid);
	FILE *file = fopen(path, "re");
	assert_non_null(file);
	while (fscanf(file, "%d", &pid) == 1) {
		if (is_for(pid, option)) {
			found++;
			kill(pid, number);
		}
	}
	fclose(file);
	assert_true(found > 0);
}

/* A session that has been lent two packets, and does not move. */
static int begin_lent(struct stage *stage)
{
	static uint8_t sent[PART];
	begin(stage);
	int fd = open_session(stage);
	wait_for_chains(stage, 0);
	signal_children(stage, "--session-fd", SIGSTOP);
	fill(sent, PART, 1);
	send_frame(stage, CHANNEL_STREAM_DATA, 0, sent, PART);
	send_frame(stage, CHANNEL_STREAM_DATA, 0, sent, PART);
	return fd;
}

static void expect_another_session(struct stage *stage)
{
	machine_init(&stage->machine, connect_to(&stage->vmm), MACHINE_VERSION_1);
	machine_boot(&stage->machine, 32);
	int fd = open_session(stage);
	static uint8_t sent[PART], received[PART];
	fill(sent, sizeof(sent), 3);
	send_frame(stage, CHANNEL_STREAM_DATA, 0, sent, sizeof(sent));
	receive_all(fd, received, sizeof(received));
	assert_memory_equal(received, sent, sizeof(sent));
	close_session(stage, fd);
}

static void a_session_that_goes_on_takes_what_it_was_lent(void **state)
{
	(void)state;
	static uint8_t sent[PART], received[2 * PART];
	struct stage stage;
	int fd = begin_lent(&stage);
	assert_int_equal(chains(&stage), 2);
	signal_children(&stage, "--session-fd", SIGCONT);
	receive_all(fd, received, sizeof(received));
	fill(sent, PART, 1);
	assert_memory_equal(received, sent, PART);
	assert_memory_equal(received + PART, sent, PART);
	wait_for_chains(&stage, 0);
	close_session(&stage, fd);
	end(&stage);
}

static void a_session_that_is_killed_gives_back_what_it_was_lent(void **state)
{
	(void)state;
	struct stage stage;
	int fd = begin_lent(&stage);
	assert_int_equal(chains(&stage), 2);
	signal_children(&stage, "--session-fd", SIGKILL);
	wait_for_chains(&stage, 0);
	close(fd);
	machine_finish(&stage.machine);
	expect_another_session(&stage);
	end(&stage);
}

static void a_device_that_is_killed_ends_the_session_that_it_lends_to(void **state)
{
	(void)state;
	char byte;
	struct stage stage;
	int fd = begin_lent(&stage);
	signal_children(&stage, "--device-fd", SIGKILL);
	while (!machine_is_cut_off(&stage.machine)) {
		usleep(20000);
	}
	signal_children(&stage, "--session-fd", SIGCONT);
	assert_int_equal(recv(fd, &byte, 1, 0), 0); // nothing that the guest could have changed
	close(fd);
	machine_finish(&stage.machine);
	expect_another_session(&stage);
	end(&stage);
}

static void a_guest_restarts_though_a_session_does_not_move(void **state)
{
	(void)state;
	struct stage stage;
	int fd = begin_lent(&stage);
	machine_stop(&stage.machine);
	wait_for_chains(&stage, 0);
	machine_finish(&stage.machine);
	signal_children(&stage, "--session-fd", SIGCONT);
	close(fd);
	expect_another_session(&stage);
	end(&stage);
}

/* ---- pages ---- */

#define ROOT_PORT 1022
#define POOL_SIZE (2 * 4096 + 100)

static void send_as_root(struct stage *stage, const void *data, size_t len)
{
	struct virtio_vsock_hdr header = machine_header(ROOT_PORT, CHANNEL, VIRTIO_VSOCK_OP_RW);
	header.len = (uint32_t)len;
	header.fwd_cnt = stage->received;
	assert_true(machine_send_packet(&stage->machine, &header, data, len));
}

static void send_root_frame(
	struct stage *stage, uint16_t type, uint32_t id, uint32_t arg, const void *data, size_t len)
{
	uint8_t bytes[512];
	const struct channel_header header = {
		.length = (uint32_t)len, .type = type, .id = id, .arg = arg};
	assert_true(sizeof(header) + len <= sizeof(bytes));
	memcpy(bytes, &header, sizeof(header));
	memcpy(bytes + sizeof(header), data, len);
	send_as_root(stage, bytes, sizeof(header) + len);
}

/* The next bytes that the guest gets. */
static size_t receive_bytes(struct stage *stage, char payload[MACHINE_RX_SIZE])
{
	struct virtio_vsock_hdr header;
	do {
		header = receive(stage, payload);
	} while (header.op != VIRTIO_VSOCK_OP_RW);
	stage->received += header.len;
	return header.len;
}

static void say_hello_as_root(struct stage *stage)
{
	struct handshake_hello hello = {.service = "wayland", .features = CHANNEL_FEATURE_PAGES};
	uint8_t bytes[4096];
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(handshake_open(pair[0], &hello, PATIENCE_MS), 0);
	ssize_t n = recv(pair[1], bytes, sizeof(bytes), 0);
	send_as_root(stage, bytes, (size_t)n);
	close(pair[0]);
	close(pair[1]);
}

/* What the host agrees to. */
static uint32_t welcome(struct stage *stage)
{
	char payload[MACHINE_RX_SIZE];
	struct channel_header header;
	struct channel_welcome welcome;
	assert_true(receive_bytes(stage, payload) >= sizeof(header) + sizeof(welcome));
	memcpy(&header, payload, sizeof(header));
	memcpy(&welcome, payload + sizeof(header), sizeof(welcome));
	assert_int_equal(header.type, CHANNEL_WELCOME);
	return welcome.features;
}

/* A Wayland session of the guest's root, whose compositor is the test; its fd. */
static int open_wayland(struct stage *stage)
{
	char payload[MACHINE_RX_SIZE];
	if (access("/dev/udmabuf", R_OK | W_OK) < 0) {
		print_message("there is no /dev/udmabuf\n");
		skip();
	}
	begin_listening(stage);
	start_program(stage,
		(char *[MORE]){"--compositor", stage->service.path, "--no-security-context",
			"--no-dmabuf"});
	close(accept_at_service(stage)); // the program itself, which asks for globals
	connect_machine(stage);
	stage->received = 0;
	send_packet_from(stage, ROOT_PORT, CHANNEL, VIRTIO_VSOCK_OP_REQUEST, "");
	assert_int_equal(receive(stage, payload).op, VIRTIO_VSOCK_OP_RESPONSE);
	say_hello_as_root(stage);
	return accept_at_service(stage);
}

/* Until the guest could create pools. */
static void bind_shm(struct stage *stage, int compositor)
{
	static const struct {
		uint32_t head[4];
		char name[8];
		uint32_t version;
	} global = {{2, 28u << 16, 1, 7}, "wl_shm", 1};
	static const uint32_t get_registry[] = {1, 12u << 16 | 1, 2};
	static const struct {
		uint32_t head[4];
		char name[8];
		uint32_t version, id;
	} bind = {{2, 32u << 16, 1, 7}, "wl_shm", 1, 3};
	char payload[MACHINE_RX_SIZE];
	send_root_frame(stage, CHANNEL_MESSAGES, 0, 0, get_registry, sizeof(get_registry));
	assert_int_equal(recv(compositor, payload, sizeof(payload), 0), sizeof(get_registry));
	assert_int_equal(send(compositor, &global, sizeof(global), MSG_NOSIGNAL), sizeof(global));
	receive_bytes(stage, payload); // the global
	send_root_frame(stage, CHANNEL_MESSAGES, 0, 0, &bind, sizeof(bind));
	assert_int_equal(recv(compositor, payload, sizeof(payload), 0), sizeof(bind));
}

static void create_pool(struct stage *stage, uint64_t address)
{
	struct {
		struct channel_open_memory open;
		struct channel_page_range ranges[2];
	} open = {
		.open = {.access = CHANNEL_ACCESS_BOTH, .size = {POOL_SIZE}},
		.ranges = {{.length = 4096}, {.length = 2 * 4096}},
	};
	static const uint32_t message[] = {1, 3, 16u << 16, 4, POOL_SIZE}; // behind the fdref
	memcpy(open.ranges[0].address, &(uint64_t){address + 3 * 4096}, sizeof(address));
	memcpy(open.ranges[1].address, &address, sizeof(address));
	send_root_frame(stage, CHANNEL_OPEN, 1, CHANNEL_KIND_POOL, &open, sizeof(open));
	send_root_frame(stage, CHANNEL_MESSAGES, 0, 1, message, sizeof(message));
}

static void end_wayland(struct stage *stage, int compositor)
{
	close(compositor);
	end(stage);
}

static void wait_readable(int fd)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&readable, 1, TRIES * 20), 1);
}

static void a_pool_is_the_guests_own_pages(void **state)
{
	(void)state;
	struct stage stage;
	struct fdlist fds;
	uint32_t message[4];
	int compositor = open_wayland(&stage);
	assert_int_equal(welcome(&stage) & CHANNEL_FEATURE_PAGES, CHANNEL_FEATURE_PAGES);
	bind_shm(&stage, compositor);
	uint8_t *pages = stage.machine.memory + MACHINE_MEMORY - 8 * 4096;
	create_pool(&stage, machine_address(&stage.machine, pages));
	fdlist_init(&fds);
	wait_readable(compositor);
	assert_int_equal(scm_recv(compositor, message, sizeof(message), &fds), sizeof(message));
	assert_int_equal(message[3], POOL_SIZE);
	int fd = fdlist_take(&fds);
	assert_true(fd >= 0);
	uint8_t *data = mmap(NULL, POOL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(data != MAP_FAILED);
	memset(pages + 3 * 4096, 11, 4096);
	memset(pages, 22, 2 * 4096);
	assert_int_equal(data[4095], 11);
	assert_int_equal(data[4096], 22);
	data[0] = 33;
	assert_int_equal(pages[3 * 4096], 33);
	munmap(data, POOL_SIZE);
	close(fd);
	fdlist_finish(&fds);
	end_wayland(&stage, compositor);
}

static void pages_that_are_not_the_guests_end_its_session(void **state)
{
	(void)state;
	struct stage stage;
	char payload[MACHINE_RX_SIZE];
	int compositor = open_wayland(&stage);
	welcome(&stage);
	bind_shm(&stage, compositor);
	create_pool(&stage, MACHINE_ADDRESS + MACHINE_MEMORY - 2 * 4096);
	size_t len = receive_bytes(&stage, payload);
	assert_non_null(memmem(payload, len, "a range outside of the guest's memory", 37));
	end_wayland(&stage, compositor);
}

int main(int argc, char *argv[])
{
	if (argc < 2) {
		fprintf(stderr, "Usage: %s FDFERRY-HOST [TESTS]\n", argv[0]);
		return 2;
	}
	if (argc > 2) {
		cmocka_set_test_filter(argv[2]); // "*pages*"
	}
	program = argv[1];
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_port_leads_to_a_socket),
		fd_count_test(a_socket_leads_to_a_port),
		fd_count_test(any_other_port_is_a_channel),
		fd_count_test(the_machines_cid_and_port_are_those_of_its_device),
		fd_count_test(the_vmm_may_come_again),
		fd_count_test(a_broken_ring_ends_the_device_and_nothing_else),
		fd_count_test(payload_reaches_a_service),
		fd_count_test(a_session_that_goes_on_takes_what_it_was_lent),
		fd_count_test(a_session_that_is_killed_gives_back_what_it_was_lent),
		fd_count_test(a_device_that_is_killed_ends_the_session_that_it_lends_to),
		fd_count_test(a_guest_restarts_though_a_session_does_not_move),
		fd_count_test(a_pool_is_the_guests_own_pages),
		fd_count_test(pages_that_are_not_the_guests_end_its_session),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
