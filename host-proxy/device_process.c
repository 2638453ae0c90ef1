#include "host-proxy/device_process.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/rlimit.h"
#include "base/workers.h"
#include "host-proxy/gpu_process.h"
#include "host-proxy/options.h"
#include "host-proxy/vsock_process.h"

/* ---- what every device's process does ---- */

void device_process_handle_ended(void *data, const char *wrong)
{
	struct device_process *process = data;
	if (wrong != NULL) {
		log_error("%s: the device has failed: %s", process->label, wrong);
	} else {
		log_info("%s: the VMM has hung up", process->label);
	}
	process->failed = wrong != NULL;
	event_base_loopbreak(process->base);
}

static void handle_terminate(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	struct device_process *process = data;
	if (process->device->terminate != NULL) {
		process->device->terminate(process);
	} else {
		event_base_loopbreak(process->base);
	}
}

bool device_process_serve(struct device_process *process, struct fdlist *fds)
{
	process->failed = true;
	process->base = event_base_new();
	if (process->base == NULL) {
		log_errno("%s: the device cannot be started", process->label);
		return false;
	}
	prctl(PR_SET_NAME, process->device->name);
	struct event *terminate = evsignal_new(process->base, SIGTERM, handle_terminate, process);
	if (terminate == NULL || event_add(terminate, NULL) < 0 ||
		!process->device->start(process, fds)) {
		log_errno("%s: the device cannot be started", process->label);
	} else if (process->device->enter_sandbox(process->options) == 0) {
		process->failed = false;
		log_info("%s: a VMM has connected", process->label);
		event_base_dispatch(process->base);
	}
	process->device->finish(process);
	ram_buffers_close(&process->buffers);
	if (terminate != NULL) {
		event_free(terminate);
	}
	event_base_free(process->base);
	return !process->failed;
}

/* ---- which device ---- */

// The guest's memory is a file of the VMM's, which has been cut off under a ring.
static void handle_sigbus(int signal_number)
{
	static const char text[] = "fdferry-host: the guest's memory is gone\n";
	(void)signal_number;
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
		_exit(EXIT_FAILURE); // nobody listens
	}
	_exit(EXIT_FAILURE);
}

// Which device this is to be; 0: none.
static uint32_t receive_start(const struct host_options *options, struct fdlist *fds)
{
	struct device_record record;
	ssize_t n = workers_receive(options->device_fd, &record, sizeof(record), fds);
	if (n == sizeof(record)) {
		size_t n_ports = options->vsock_ports.n_to_guest;
		size_t listeners = record.type == DEVICE_START_GPU ? 1 : n_ports;
		if (fds->count == 1 + listeners) {
			return record.type;
		}
	}
	if (n != 0) {
		log_error("--device-fd is for our own use");
	}
	return 0;
}

static bool run(const struct host_options *options, struct fdlist *fds)
{
	switch (receive_start(options, fds)) {
	case DEVICE_START_VSOCK:
		return vsock_process_run(options, fds);
	case DEVICE_START_GPU:
		return gpu_process_run(options, fds);
	default:
		return false;
	}
}

int device_process_run(const struct host_options *options)
{
	struct fdlist fds;
	fdlist_init(&fds);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN); // of a terminal: the parent decides
	signal(SIGHUP, SIG_IGN); // as well
	signal(SIGBUS, handle_sigbus);
	rlimit_raise_files();
	bool ok = run(options, &fds);
	fdlist_finish(&fds);
	return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
