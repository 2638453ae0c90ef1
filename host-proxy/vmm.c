#include "host-proxy/vmm.h"

#include <assert.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/child.h"
#include "base/closer.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "base/scm.h"
#include "host-proxy/options.h"
#include "program/server.h"
#include "program/worker.h"

#define GRACE_MS         2000
#define RECORDS_PER_WAKE 16

static_assert(sizeof(struct device_record) == sizeof(struct sandbox_violation),
	"records from a device have one size");

struct vmm {
	struct vmm_config config;
	char **argv; // of a device process
	struct acceptor *acceptor;
	struct event *child; // SIGCHLD
	struct event *print; // SIGUSR1; NULL: the device has nothing to say
	struct event *grace;
	const struct transport *addresses[VSOCK_PORTS_MAX]; // that the device serves
	size_t n_addresses;
	int listeners[VSOCK_PORTS_MAX]; // there; -1
	int waiting_fd;                 // of a VMM that came while another was served; -1
	pid_t pid;                      // of the device process; 0: none
	int device_fd;                  // -1
	struct event *readable;         // NULL
	bool violated;                  // the device process its sandbox
	bool stopping;
};

// Nothing else is looked at any further: one that was taken over could let the parent wait for its close.
static bool is_connection(const struct fdlist *fds)
{
	return fds->count == 1 && scm_is_unix(*fdlist_peek(fds));
}

static bool handle_record(void *data, const void *bytes, size_t len, struct fdlist *fds)
{
	struct vmm *vmm = data;
	const struct device_record *record = bytes;
	if (len == sizeof(*record) && record->type == DEVICE_VIOLATION && !vmm->violated) {
		vmm->violated = true; // once of each process
		struct sandbox_violation violation;
		memcpy(&violation, record, sizeof(violation));
		sandbox_log_violation(vmm->pid, &violation);
	} else if (vmm->stopping) {
		log_debug("a connection came too late");
	} else if (len == sizeof(*record) && record->type == DEVICE_CONNECTION &&
		vmm->config.start == DEVICE_START_VSOCK && is_connection(fds)) {
		const struct worker_peer peer = {
			.cid = vmm->config.options->guest_cid,
			.port = record->port,
			.by_device = true,
		};
		server_connected(vmm->config.server, fdlist_take(fds), &peer);
	} else {
		log_limited(LOG_WARN, "a device process sent a record that makes no sense");
	}
	return true;
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vmm *vmm = data;
	if (child_read_records(vmm->device_fd, RECORDS_PER_WAKE, handle_record, vmm) !=
		CHILD_GOES_ON) {
		event_del(vmm->readable); // SIGCHLD follows
	}
}

static void forget_device(struct vmm *vmm)
{
	if (vmm->readable != NULL) {
		event_free(vmm->readable);
		vmm->readable = NULL;
	}
	if (vmm->device_fd >= 0) {
		closer_close_socket(vmm->device_fd);
		vmm->device_fd = -1;
	}
	vmm->pid = 0;
}

// Takes fd, the VMM's.
static bool send_start(struct vmm *vmm, int fd)
{
	struct device_record record = {.type = vmm->config.start};
	struct iovec iov = {.iov_base = &record, .iov_len = sizeof(record)};
	struct fdlist fds;
	fdlist_init(&fds);
	bool ok = fdlist_push(&fds, fd);
	for (size_t i = 0; ok && i < vmm->n_addresses; i++) {
		int listener = fcntl(vmm->listeners[i], F_DUPFD_CLOEXEC, 0);
		ok = listener >= 0 && fdlist_push(&fds, listener);
	}
	ok = ok && scm_send(vmm->device_fd, &iov, 1, &fds, fds.count) > 0;
	closer_close_sent(&fds);
	fdlist_finish(&fds);
	return ok;
}

// Takes fd, the VMM's.
static void start_device(struct vmm *vmm, int fd)
{
	vmm->violated = false;
	vmm->device_fd = child_start(vmm->argv, &vmm->pid);
	if (vmm->device_fd < 0) {
		log_error("cannot start a device process: %s", strerror(-vmm->device_fd));
		vmm->device_fd = -1;
		vmm->pid = 0;
		closer_close_socket(fd);
		return;
	}
	vmm->readable = event_new(
		vmm->config.base, vmm->device_fd, EV_READ | EV_PERSIST, handle_readable, vmm);
	if (!send_start(vmm, fd) || vmm->readable == NULL || event_add(vmm->readable, NULL) < 0) {
		log_error("cannot start a device process");
		kill(vmm->pid, SIGKILL); // SIGCHLD follows
	}
}

static void handle_connected(void *data, int fd)
{
	struct vmm *vmm = data;
	if (!admission_check_user(&vmm->config.options->admission, fd)) {
		closer_close_socket(fd);
		return;
	}
	if (vmm->pid == 0) {
		start_device(vmm, fd);
		return;
	}
	log_limited(LOG_WARN, "a VMM has connected and waits until another one is gone");
	if (vmm->waiting_fd >= 0) {
		closer_close_socket(vmm->waiting_fd);
	}
	vmm->waiting_fd = fd;
}

static void handle_child(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vmm *vmm = data;
	int status;
	if (vmm->pid == 0 || waitpid(vmm->pid, &status, WNOHANG) != vmm->pid) {
		return;
	}
	child_read_last(vmm->device_fd, handle_record, vmm);
	if (WIFSIGNALED(status) && !vmm->stopping) {
		const char *name = sigabbrev_np(WTERMSIG(status));
		log_error("device process %d crashed: SIG%s", (int)vmm->pid,
			name != NULL ? name : "?");
	}
	forget_device(vmm);
	if (vmm->waiting_fd >= 0 && !vmm->stopping) {
		int next = vmm->waiting_fd;
		vmm->waiting_fd = -1;
		start_device(vmm, next);
	}
}

static void handle_grace(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vmm *vmm = data;
	if (vmm->pid != 0) {
		log_warn("the device process did not end in time and was killed");
		kill(vmm->pid, SIGKILL);
	}
}

static void handle_print(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	const struct vmm *vmm = data;
	if (vmm->pid != 0) {
		kill(vmm->pid, SIGUSR1);
	}
}

static void find_addresses(struct vmm *vmm)
{
	const struct host_options *options = vmm->config.options;
	if (vmm->config.start == DEVICE_START_GPU) {
		vmm->addresses[vmm->n_addresses++] = &options->resolver;
		return;
	}
	for (size_t i = 0; i < options->vsock_ports.n_to_guest; i++) {
		vmm->addresses[vmm->n_addresses++] = &options->vsock_ports.to_guest[i].address;
	}
}

static bool open_listeners(struct vmm *vmm)
{
	for (size_t i = 0; i < vmm->n_addresses; i++) {
		vmm->listeners[i] = transport_listen(vmm->addresses[i]);
		if (vmm->listeners[i] < 0) {
			log_error("cannot listen at %s: %s", vmm->addresses[i]->path,
				strerror(-vmm->listeners[i]));
			vmm->listeners[i] = -1;
			return false;
		}
		scm_refuse_fds(vmm->listeners[i]); // a device's process has no thread for them
	}
	return true;
}

static void close_listeners(struct vmm *vmm)
{
	for (size_t i = 0; i < vmm->n_addresses; i++) {
		if (vmm->listeners[i] >= 0) {
			closer_close_socket(vmm->listeners[i]);
			transport_unlink(vmm->addresses[i]);
		}
	}
}

static bool add_events(struct vmm *vmm)
{
	struct event_base *base = vmm->config.base;
	vmm->child = evsignal_new(base, SIGCHLD, handle_child, vmm);
	vmm->grace = evtimer_new(base, handle_grace, vmm);
	bool ok = vmm->grace != NULL && vmm->child != NULL && event_add(vmm->child, NULL) == 0;
	if (ok && vmm->config.start == DEVICE_START_GPU) {
		vmm->print = evsignal_new(base, SIGUSR1, handle_print, vmm);
		ok = vmm->print != NULL && event_add(vmm->print, NULL) == 0;
	}
	return ok;
}

static bool create_parts(struct vmm *vmm)
{
	const struct vmm_config *config = &vmm->config;
	vmm->acceptor = acceptor_create(config->base, config->listen_fd, handle_connected, vmm);
	vmm->argv = child_argv(config->argv, "--device-fd");
	if (vmm->acceptor == NULL || vmm->argv == NULL || !add_events(vmm)) {
		log_error("cannot listen for a VMM: out of memory");
		return false;
	}
	return open_listeners(vmm);
}

struct vmm *vmm_create(const struct vmm_config *config)
{
	struct vmm *vmm = calloc(1, sizeof(*vmm));
	if (vmm == NULL) {
		log_errno("cannot listen for a VMM");
		close(config->listen_fd);
		return NULL;
	}
	vmm->config = *config;
	vmm->waiting_fd = vmm->device_fd = -1;
	for (size_t i = 0; i < VSOCK_PORTS_MAX; i++) {
		vmm->listeners[i] = -1;
	}
	find_addresses(vmm);
	if (!create_parts(vmm)) {
		vmm_destroy(vmm);
		return NULL;
	}
	return vmm;
}

static void end_device(struct vmm *vmm)
{
	const struct timeval grace = {.tv_sec = GRACE_MS / 1000};
	vmm->stopping = true;
	if (vmm->pid == 0) {
		return;
	}
	kill(vmm->pid, SIGTERM);
	if (event_add(vmm->grace, &grace) < 0) {
		kill(vmm->pid, SIGKILL);
	}
	while (vmm->pid != 0) {
		event_base_loop(vmm->config.base, EVLOOP_ONCE);
	}
}

void vmm_destroy(struct vmm *vmm)
{
	if (vmm == NULL) {
		return;
	}
	if (vmm->acceptor != NULL) {
		closer_close_socket(acceptor_take_socket(vmm->acceptor));
	}
	end_device(vmm);
	if (vmm->child != NULL) {
		event_free(vmm->child);
	}
	if (vmm->print != NULL) {
		event_free(vmm->print);
	}
	if (vmm->grace != NULL) {
		event_free(vmm->grace);
	}
	if (vmm->waiting_fd >= 0) {
		closer_close_socket(vmm->waiting_fd);
	}
	close_listeners(vmm);
	free(vmm->argv);
	free(vmm);
}
