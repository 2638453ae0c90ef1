#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/closer.h"
#include "base/fdlist.h"
#include "base/scm.h"
#include "host-proxy/options.h"
#include "host-proxy/vmm.h"
#include "program/server.h"
#include "program/worker.h"
#include "tests/support/fd_count.h"
#include "tests/support/lingering.h"

#define CID        7
#define PORT       1234
#define WRONG_PORT 1 // of what is no connection

// What the parent has heard of the guest.
static struct {
	unsigned int connections;
	struct worker_peer peer; // of the last
} heard;

void server_connected(struct server *server, int fd, const struct worker_peer *peer)
{
	assert_null(server);
	heard.connections++;
	heard.peer = *peer;
	closer_close(fd);
}

// fd: -1 for none.
static bool say(int parent, uint32_t port, int fd)
{
	const struct device_record record = {.type = DEVICE_CONNECTION, .port = port};
	const struct iovec iov = {.iov_base = (void *)&record, .iov_len = sizeof(record)};
	const struct fdlist fds = {.fds = &fd, .count = fd >= 0};
	return scm_send(parent, &iov, 1, &fds, fds.count) == sizeof(record);
}

// A device's process that was taken over.
static int device_main(int parent)
{
	struct device_record start;
	int pair[2], peer, slow = lingering_create(&peer);
	bool ok = recv(parent, &start, sizeof(start), 0) == sizeof(start) &&
		socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && say(parent, WRONG_PORT, -1) &&
		(slow < 0 || say(parent, WRONG_PORT, slow)) && say(parent, PORT, pair[0]);
	return ok && recv(parent, &start, sizeof(start), 0) == 0 ? 0 : 1; // or by SIGTERM
}

// Where a VMM connects; *vmm is the end of one that has.
static int listen_for(int *vmm)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(address);
	int type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	int listener = socket(AF_UNIX, type, 0);
	*vmm = socket(AF_UNIX, type, 0);
	assert_true(listener >= 0 && *vmm >= 0);
	// The kernel finds a name for it.
	assert_int_equal(
		bind(listener, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path)),
		0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	assert_int_equal(connect(*vmm, (struct sockaddr *)&address, len), 0);
	return listener;
}

static void only_a_connection_is_taken_for_one(void **state)
{
	(void)state;
	static char program[] = "test-vmm";
	char *const argv[] = {program, NULL};
	const struct host_options options = {.guest_cid = CID};
	int connected;
	const struct vmm_config config = {
		.base = event_base_new(),
		.options = &options,
		.argv = argv,
		.start = DEVICE_START_VSOCK,
		.listen_fd = listen_for(&connected),
	};
	struct vmm *vmm = vmm_create(&config);
	assert_non_null(vmm);
	while (heard.connections == 0) {
		assert_int_equal(event_base_loop(config.base, EVLOOP_ONCE), 0);
	}
	assert_int_equal(heard.connections, 1);
	assert_int_equal(heard.peer.port, PORT);
	assert_int_equal(heard.peer.cid, CID);
	assert_true(heard.peer.by_device);
	close(connected);
	vmm_destroy(vmm);
	event_base_free(config.base);
}

int main(int argc, char *argv[])
{
	if (argc == 3 && strcmp(argv[1], "--device-fd") == 0) {
		return device_main(atoi(argv[2]));
	}
	const struct CMUnitTest tests[] = {
		fd_count_test(only_a_connection_is_taken_for_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
