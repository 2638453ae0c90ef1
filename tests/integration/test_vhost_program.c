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
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "channel/transport.h"
#include "protocol/channel.h"
#include "tests/support/fd_count.h"
#include "tests/support/virtual_machine.h"

/*
 * The program itself, whose path is the first argument, with a VMM that is the test.
 */

#define TRIES   500 // of 20 ms
#define BRIDGED 1022
#define CHANNEL 7000
#define LISTENS 22 // port of the guest

static char *program;

struct stage {
	char directory[32];
	struct transport vmm, service, entrance;
	int service_fd;
	pid_t pid;
	struct machine machine;
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

static void start_program(struct stage *stage)
{
	char listen[160], out[160], in[160], service[160];
	snprintf(listen, sizeof(listen), "vhost-user:%s", stage->vmm.path);
	snprintf(out, sizeof(out), "%d=unix:%s", BRIDGED, stage->service.path);
	snprintf(in, sizeof(in), "unix:%s=%d", stage->entrance.path, LISTENS);
	snprintf(service, sizeof(service), "echo=unix:%s", stage->service.path);
	char *argv[] = {program, "--listen", listen, "--vsock-port", out, "--vsock-port", in,
		"--service", service, NULL};
	assert_int_equal(posix_spawn(&stage->pid, program, NULL, NULL, argv, environ), 0);
}

static void begin(struct stage *stage)
{
	strcpy(stage->directory, "/tmp/fdferry-test-XXXXXX");
	assert_non_null(mkdtemp(stage->directory));
	name(stage, &stage->vmm, "vmm");
	name(stage, &stage->service, "service");
	name(stage, &stage->entrance, "entrance");
	stage->service_fd = transport_listen(&stage->service);
	start_program(stage);
	machine_init(&stage->machine, connect_to(&stage->vmm), MACHINE_VERSION_1);
	machine_boot(&stage->machine, 32);
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

static void send_packet(struct stage *stage, uint32_t port, uint16_t operation, const char *text)
{
	struct virtio_vsock_hdr header = machine_header(40000, port, operation);
	header.len = (uint32_t)strlen(text);
	assert_true(machine_send_packet(&stage->machine, &header, text, strlen(text)));
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

int main(int argc, char *argv[])
{
	if (argc != 2) {
		fprintf(stderr, "Usage: %s FDFERRY-HOST\n", argv[0]);
		return 2;
	}
	program = argv[1];
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_port_leads_to_a_socket),
		fd_count_test(a_socket_leads_to_a_port),
		fd_count_test(any_other_port_is_a_channel),
		fd_count_test(the_vmm_may_come_again),
		fd_count_test(a_broken_ring_ends_the_device_and_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
