#include "host-proxy/vsock_process.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/workers.h"
#include "host-proxy/device_process.h"
#include "host-proxy/device_sandbox.h"
#include "host-proxy/options.h"
#include "host-proxy/ram_buffer.h"
#include "host-proxy/vsock_connection.h"
#include "host-proxy/vsock_device.h"

#define DRAIN_MS 1000

struct vsock_process;

struct entrance {
	struct vsock_process *process;
	struct acceptor *acceptor;
	uint32_t port; // of the guest
};

struct vsock_process {
	const struct host_options *options;
	struct event_base *base;
	struct event *terminate; // SIGTERM
	struct event *drained;   // the longest that it takes
	struct vsock_device *device;
	struct ram_buffers buffers;
	struct entrance entrances[VSOCK_PORTS_MAX];
	bool stopping;
	bool failed;
};

// One end is the parent's, which starts a session for it.
static int open_channel(struct vsock_process *process, uint32_t guest_port)
{
	const struct device_record record = {.type = DEVICE_CONNECTION, .port = guest_port};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		int error = -errno;
		log_limited(LOG_ERROR, "vm cid %u port %u: cannot be connected: %m",
			process->options->guest_cid, guest_port);
		return error;
	}
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &(int){VSOCK_WINDOW}, sizeof(int));
	int error = workers_report(process->options->device_fd, &record, sizeof(record), pair[1]);
	close(pair[1]);
	if (error < 0) {
		log_limited(LOG_ERROR, "vm cid %u port %u: no session can be had: %s",
			process->options->guest_cid, guest_port, strerror(-error));
		close(pair[0]);
		return error;
	}
	return pair[0];
}

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_process *process = data;
	const struct vsock_port *port =
		vsock_ports_find_from_guest(&process->options->vsock_ports, host_port);
	if (port == NULL) {
		return open_channel(process, guest_port);
	}
	int fd = transport_connect_now(&port->address);
	if (fd < 0) {
		log_limited(LOG_WARN, "vm cid %u port %u: cannot connect to %s: %s",
			process->options->guest_cid, guest_port, port->address.path, strerror(-fd));
	}
	return fd;
}

// Its own end is a session's, then (session_process.c).
static bool handle_lends(void *data, uint32_t host_port)
{
	const struct vsock_process *process = data;
	return vsock_ports_find_from_guest(&process->options->vsock_ports, host_port) == NULL;
}

static void handle_ended(void *data, const char *wrong)
{
	struct vsock_process *process = data;
	uint32_t cid = process->options->guest_cid;
	if (wrong != NULL) {
		log_error("vm cid %u: the vsock device has failed: %s", cid, wrong);
	} else {
		log_info("vm cid %u: the VMM has hung up", cid);
	}
	process->failed = wrong != NULL;
	event_base_loopbreak(process->base);
}

static void handle_closed(void *data)
{
	struct vsock_process *process = data;
	if (process->stopping && vsock_device_connections(process->device) == 0) {
		event_active(process->drained, EV_TIMEOUT, 0);
	}
}

// Sessions have ended by now; what they said last still goes to the guest.
static void handle_terminate(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	struct vsock_process *process = data;
	const struct timeval longest = {.tv_sec = DRAIN_MS / 1000};
	process->stopping = true;
	vsock_device_stop(process->device);
	event_add(process->drained, &longest);
	handle_closed(process);
}

static void handle_drained(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_process *process = data;
	event_base_loopbreak(process->base);
}

static void handle_connected(void *data, int fd)
{
	struct entrance *entrance = data;
	struct vsock_process *process = entrance->process;
	int error = vsock_device_connect(process->device, fd, entrance->port);
	if (error < 0) {
		log_limited(LOG_WARN, "vm cid %u port %u: cannot be reached: %s",
			process->options->guest_cid, entrance->port, strerror(-error));
	}
}

static bool add_events(struct vsock_process *process)
{
	process->base = event_base_new();
	if (process->base == NULL) {
		return false;
	}
	process->terminate = evsignal_new(process->base, SIGTERM, handle_terminate, process);
	process->drained = evtimer_new(process->base, handle_drained, process);
	return process->terminate != NULL && process->drained != NULL &&
		event_add(process->terminate, NULL) == 0;
}

static bool listen_for_guest(struct vsock_process *process, struct fdlist *fds)
{
	const struct vsock_ports *ports = &process->options->vsock_ports;
	for (size_t i = 0; i < ports->n_to_guest; i++) {
		struct entrance *entrance = &process->entrances[i];
		*entrance = (struct entrance){
			.process = process,
			.port = ports->to_guest[i].port,
		};
		entrance->acceptor = acceptor_create(
			process->base, fdlist_take(fds), handle_connected, entrance);
		if (entrance->acceptor == NULL) {
			return false;
		}
	}
	return true;
}

// A recording could not have what is in them.
static bool lends_pages(const struct host_options *options)
{
	return options->program.region && options->program.record == NULL;
}

static void open_buffers(struct vsock_process *process)
{
	int error = lends_pages(process->options) ? ram_buffers_open(&process->buffers) : 0;
	if (error < 0) {
		log_info("the guest's pages are not shared: cannot open /dev/udmabuf: %s",
			strerror(-error));
	}
}

static bool create_device(struct vsock_process *process, struct fdlist *fds)
{
	const struct vsock_device_config config = {
		.base = process->base,
		.fd = fdlist_take(fds),
		.guest_cid = process->options->guest_cid,
		.open = handle_open,
		.lends = handle_lends,
		.buffers = lends_pages(process->options) ? &process->buffers : NULL,
		.ended = handle_ended,
		.closed = handle_closed,
		.data = process,
	};
	process->device = vsock_device_create(&config);
	return process->device != NULL && listen_for_guest(process, fds);
}

static void finish(struct vsock_process *process)
{
	for (size_t i = 0; i < VSOCK_PORTS_MAX; i++) {
		acceptor_destroy(process->entrances[i].acceptor);
	}
	vsock_device_destroy(process->device);
	ram_buffers_close(&process->buffers);
	if (process->terminate != NULL) {
		event_free(process->terminate);
	}
	if (process->drained != NULL) {
		event_free(process->drained);
	}
	if (process->base != NULL) {
		event_base_free(process->base);
	}
}

bool vsock_process_run(const struct host_options *options, struct fdlist *fds)
{
	struct vsock_process process = {.options = options, .failed = true, .buffers.device = -1};
	open_buffers(&process);
	prctl(PR_SET_NAME, "fdferry-vsock");
	if (!add_events(&process) || !create_device(&process, fds)) {
		log_errno("the vsock device cannot be started");
	} else if (device_sandbox_enter_vsock(options) == 0) {
		process.failed = false;
		log_info("vm cid %u: a VMM has connected", options->guest_cid);
		event_base_dispatch(process.base);
	}
	finish(&process);
	return !process.failed;
}
