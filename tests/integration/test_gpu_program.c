#include <fcntl.h>
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
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"
#include "tests/support/gpu_driver.h"
#include "tests/support/virtual_machine.h"

/*
 * The program itself, whose path is the first argument, as the GPU of a machine that is the test. Who
 * resolves is the test, too.
 */

#define TRIES   3000 // of 20 ms
#define PAGE    4096u
#define OK      VIRTIO_GPU_RESP_OK_NODATA
#define INVALID "\"Invalid\""

static char *program;

struct stage {
	char directory[32];
	struct transport vmm, resolver, channel;
	int log_fd; // what the program says
	pid_t pid;
	struct machine machine;
	struct gpu_driver driver;
};

static void name(struct stage *stage, struct transport *transport, enum transport_kind kind,
	const char *file)
{
	*transport = (struct transport){.kind = kind};
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

static void wait_a_little(void *data)
{
	(void)data;
	usleep(20000);
}

static void start_program(struct stage *stage)
{
	char listen[160], resolver[160], service[160];
	int ends[2];
	snprintf(listen, sizeof(listen), "unix:%s", stage->channel.path);
	snprintf(resolver, sizeof(resolver), "vhost-user:%s", stage->vmm.path);
	snprintf(service, sizeof(service), "echo=unix:%s/nobody", stage->directory);
	char *argv[] = {program, "--listen", listen, "--resolver", resolver, "--service", service,
		"--log-level", "info", NULL};
	posix_spawn_file_actions_t actions;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
	assert_int_equal(posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO), 0);
	assert_int_equal(posix_spawn(&stage->pid, program, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	stage->log_fd = ends[0];
}

static void connect_vmm(struct stage *stage)
{
	machine_init(&stage->machine, connect_to(&stage->vmm),
		MACHINE_VERSION_1 | MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
	machine_boot(&stage->machine, 0);
	stage->driver = (struct gpu_driver){.machine = &stage->machine, .wait = wait_a_little};
}

static void begin(struct stage *stage)
{
	strcpy(stage->directory, "/tmp/fdferry-test-XXXXXX");
	assert_non_null(mkdtemp(stage->directory));
	name(stage, &stage->vmm, TRANSPORT_VHOST_USER, "gpu");
	name(stage, &stage->resolver, TRANSPORT_SEQPACKET, "gpu.resolver");
	name(stage, &stage->channel, TRANSPORT_UNIX, "channel");
	start_program(stage);
	connect_vmm(stage);
}

static void end(struct stage *stage)
{
	int status;
	kill(stage->pid, SIGTERM);
	assert_int_equal(waitpid(stage->pid, &status, 0), stage->pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	machine_finish(&stage->machine);
	close(stage->log_fd);
	assert_int_equal(rmdir(stage->directory), 0); // the sockets are gone
}

// Reads what the program says until this is in it. The rest of the line is for the caller.
static void wait_for_words(struct stage *stage, const char *words)
{
	char said[8192] = "";
	size_t len = 0;
	while (strstr(said, words) == NULL) {
		struct pollfd ready = {.fd = stage->log_fd, .events = POLLIN};
		if (poll(&ready, 1, TRIES * 20) != 1 || len == sizeof(said) - 1) {
			fail_msg("the program does not say \"%s\" but: %s", words, said);
		}
		ssize_t n = read(stage->log_fd, said + len, sizeof(said) - 1 - len);
		assert_true(n > 0);
		len += (size_t)n;
		said[len] = '\0';
	}
}

// The buffer of a resource; -1: it is invalid.
static int ask(int resolver, uint32_t id)
{
	char request[64], reply[512];
	struct fdlist fds;
	struct pollfd ready = {.fd = resolver, .events = POLLIN};
	int n = snprintf(request, sizeof(request), "{\"GetBuffer\":{\"id\":%u}}", id);
	fdlist_init(&fds);
	assert_int_equal(send(resolver, request, (size_t)n, MSG_NOSIGNAL), n);
	assert_int_equal(poll(&ready, 1, TRIES * 20), 1);
	ssize_t len = scm_recv(resolver, reply, sizeof(reply), &fds);
	assert_true(len > 0);
	bool invalid = strncmp(reply, INVALID, (size_t)len) == 0;
	assert_int_equal(fds.count, invalid ? 0 : 1);
	int fd = fdlist_take(&fds);
	fdlist_finish(&fds);
	return fd;
}

// Two pages that are not neighbours, in the wrong order.
static void make_resource(struct stage *stage, uint32_t id)
{
	const uint64_t pages = MACHINE_ADDRESS + GPU_DRIVER_PAGES;
	const struct virtio_gpu_mem_entry entries[] = {
		{.addr = pages + 5 * PAGE, .length = PAGE},
		{.addr = pages, .length = PAGE},
	};
	assert_int_equal(gpu_driver_create(&stage->driver, id, 64, 32), OK);
	assert_int_equal(gpu_driver_attach(&stage->driver, id, entries, 2), OK);
}

static void check_same_bytes(const struct stage *stage, int buffer)
{
	uint8_t *pages = stage->machine.memory + GPU_DRIVER_PAGES;
	uint8_t *data = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, buffer, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	memset(pages + 5 * PAGE, 1, PAGE);
	memset(pages, 2, PAGE);
	for (size_t i = 0; i < 2 * PAGE; i++) {
		assert_int_equal(data[i], i < PAGE ? 1 : 2);
	}
	data[PAGE] = 3;
	assert_int_equal(pages[0], 3);
	munmap(data, 2 * PAGE);
}

static void a_resource_is_resolved_while_it_is_there(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	int resolver = connect_to(&stage.resolver);
	assert_int_equal(ask(resolver, 7), -1);
	make_resource(&stage, 7);
	int buffer = ask(resolver, 7);
	if (dmabufs_have_udmabuf()) {
		check_same_bytes(&stage, buffer);
		close(buffer);
	} else {
		assert_int_equal(buffer, -1);
		wait_for_words(&stage, "resource 7: there is no /dev/udmabuf");
	}
	assert_int_equal(ask(resolver, 8), -1);
	assert_int_equal(gpu_driver_unref(&stage.driver, 7), OK);
	assert_int_equal(ask(resolver, 7), -1);
	close(resolver);
	end(&stage);
}

static void the_program_says_what_it_remembers(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	make_resource(&stage, 1);
	make_resource(&stage, 2);
	kill(stage.pid, SIGUSR1);
	wait_for_words(&stage, "gpu: 2 resources, 4 ranges, 16384 bytes of the guest; 0 buffers");
	end(&stage);
}

static void another_machine_knows_nothing_of_the_last_one(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	make_resource(&stage, 7);
	machine_finish(&stage.machine);
	wait_for_words(&stage, "the VMM has hung up");
	connect_vmm(&stage);
	int resolver = connect_to(&stage.resolver);
	assert_int_equal(ask(resolver, 7), -1);
	wait_for_words(&stage, "resource 7: there is no such resource");
	close(resolver);
	end(&stage);
}

static void a_broken_ring_ends_the_device_and_nothing_else(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	machine_offer(&stage.machine, 0, MACHINE_RING);
	wait_for_words(&stage, "a chain that begins outside of the ring");
	machine_finish(&stage.machine);
	connect_vmm(&stage);
	make_resource(&stage, 7);
	end(&stage);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_resource_is_resolved_while_it_is_there),
		fd_count_test(the_program_says_what_it_remembers),
		fd_count_test(another_machine_knows_nothing_of_the_last_one),
		fd_count_test(a_broken_ring_ends_the_device_and_nothing_else),
	};
	if (argc < 2) {
		fprintf(stderr, "usage: %s FDFERRY-HOST\n", argv[0]);
		return EXIT_FAILURE;
	}
	program = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
