#include "host-proxy/vsock_process.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/workers.h"
#include "host-proxy/device_process.h"
#include "host-proxy/device_sandbox.h"
#include "host-proxy/options.h"
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
	struct device_process process;
	struct event *drained; // the longest that it takes
	struct vsock_device *device;
	struct entrance entrances[VSOCK_PORTS_MAX];
	bool stopping;
};

// One end is the parent's, which starts a session for it.
static int open_channel(struct vsock_process *self, uint32_t guest_port)
{
	const struct device_record record = {.type = DEVICE_CONNECTION, .port = guest_port};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		int error = -errno;
		log_limited(LOG_ERROR, "vm cid %u port %u: cannot be connected: %m",
			self->process.options->guest_cid, guest_port);
		return error;
	}
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &(int){VSOCK_WINDOW}, sizeof(int));
	int error =
		workers_report(self->process.options->device_fd, &record, sizeof(record), pair[1]);
	close(pair[1]);
	if (error < 0) {
		log_limited(LOG_ERROR, "vm cid %u port %u: no session can be had: %s",
			self->process.options->guest_cid, guest_port, strerror(-error));
		close(pair[0]);
		return error;
	}
	return pair[0];
}

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_process *self = data;
	const struct vsock_port *port =
		vsock_ports_find_from_guest(&self->process.options->vsock_ports, host_port);
	if (port == NULL) {
		return open_channel(self, guest_port);
	}
	int fd = transport_connect_now(&port->address);
	if (fd < 0) {
		log_limited(LOG_WARN, "vm cid %u port %u: cannot connect to %s: %s",
			self->process.options->guest_cid, guest_port, port->address.path,
			strerror(-fd));
	}
	return fd;
}

// Its own end is a session's, then (session_process.c).
static bool handle_lends(void *data, uint32_t host_port)
{
	const struct vsock_process *self = data;
	return vsock_ports_find_from_guest(&self->process.options->vsock_ports, host_port) == NULL;
}

static void handle_closed(void *data)
{
	struct vsock_process *self = data;
	if (self->stopping && vsock_device_connections(self->device) == 0) {
		event_active(self->drained, EV_TIMEOUT, 0);
	}
}

// Sessions have ended by now; what they said last still goes to the guest.
static void terminate(struct device_process *process)
{
	struct vsock_process *self = (struct vsock_process *)process;
	const struct timeval longest = {.tv_sec = DRAIN_MS / 1000};
	self->stopping = true;
	vsock_device_stop(self->device);
	event_add(self->drained, &longest);
	handle_closed(self);
}

static void handle_drained(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_process *self = data;
	event_base_loopbreak(self->process.base);
}

static void handle_connected(void *data, int fd)
{
	struct entrance *entrance = data;
	struct vsock_process *self = entrance->process;
	int error = vsock_device_connect(self->device, fd, entrance->port);
	if (error < 0) {
		log_limited(LOG_WARN, "vm cid %u port %u: cannot be reached: %s",
			self->process.options->guest_cid, entrance->port, strerror(-error));
	}
}

static bool listen_for_guest(struct vsock_process *self, struct fdlist *fds)
{
	const struct vsock_ports *ports = &self->process.options->vsock_ports;
	for (size_t i = 0; i < ports->n_to_guest; i++) {
		struct entrance *entrance = &self->entrances[i];
		*entrance = (struct entrance){
			.process = self,
			.port = ports->to_guest[i].port,
		};
		entrance->acceptor = acceptor_create(
			self->process.base, fdlist_take(fds), handle_connected, entrance);
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

static void open_buffers(struct device_process *process)
{
	int error = lends_pages(process->options) ? ram_buffers_open(&process->buffers) : 0;
	if (error < 0) {
		log_info("the guest's pages are not shared: cannot open /dev/udmabuf: %s",
			strerror(-error));
	}
}

static bool start(struct device_process *process, struct fdlist *fds)
{
	struct vsock_process *self = (struct vsock_process *)process;
	open_buffers(process);
	const struct vsock_device_config config = {
		.base = process->base,
		.fd = fdlist_take(fds),
		.guest_cid = process->options->guest_cid,
		.open = handle_open,
		.lends = handle_lends,
		.buffers = lends_pages(process->options) ? &process->buffers : NULL,
		.ended = device_process_handle_ended,
		.closed = handle_closed,
		.data = self,
	};
	self->device = vsock_device_create(&config);
	self->drained = evtimer_new(process->base, handle_drained, self);
	return self->device != NULL && self->drained != NULL && listen_for_guest(self, fds);
}

static void finish(struct device_process *process)
{
	struct vsock_process *self = (struct vsock_process *)process;
	for (size_t i = 0; i < VSOCK_PORTS_MAX; i++) {
		acceptor_destroy(self->entrances[i].acceptor);
	}
	vsock_device_destroy(self->device);
	if (self->drained != NULL) {
		event_free(self->drained);
	}
}

static const struct device_process_device vsock = {
	.name = "fdferry-vsock",
	.start = start,
	.enter_sandbox = device_sandbox_enter_vsock,
	.terminate = terminate,
	.finish = finish,
};

bool vsock_process_run(const struct host_options *options, struct fdlist *fds)
{
	struct vsock_process self = {
		.process = {.device = &vsock, .options = options, .buffers.device = -1},
	};
	snprintf(self.process.label, sizeof(self.process.label), "vm cid %u", options->guest_cid);
	return device_process_serve(&self.process, fds);
}
