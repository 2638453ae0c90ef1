#include "host-proxy/gpu_process.h"

#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "host-proxy/device_sandbox.h"
#include "host-proxy/gpu_device.h"
#include "host-proxy/options.h"
#include "host-proxy/resolver_service.h"

struct gpu_process {
	struct event_base *base;
	struct event *terminate; // SIGTERM
	struct event *print;     // SIGUSR1
	struct ram_buffers buffers;
	struct gpu_device *device;
	struct resolver_service *service;
	bool failed;
};

static void handle_ended(void *data, const char *wrong)
{
	struct gpu_process *process = data;
	if (wrong != NULL) {
		log_error("gpu: the device has failed: %s", wrong);
	} else {
		log_info("gpu: the VMM has hung up");
	}
	process->failed = wrong != NULL;
	event_base_loopbreak(process->base);
}

static void handle_terminate(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	const struct gpu_process *process = data;
	event_base_loopbreak(process->base);
}

static void handle_print(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	const struct gpu_process *process = data;
	const struct gpu_resources *counts = gpu_device_resources(process->device);
	log_info("gpu: %zu resources, %zu ranges, %" PRIu64
		 " bytes of the guest; %zu buffers, %" PRIu64 " bytes",
		counts->count, counts->n_ranges, counts->backed, counts->n_buffers,
		counts->buffer_bytes);
}

static const char *get_buffer(void *data, uint32_t id, struct gpu_buffer *buffer)
{
	const struct gpu_process *process = data;
	return gpu_device_get_buffer(process->device, id, buffer);
}

static bool add_events(struct gpu_process *process)
{
	sigset_t print;
	sigemptyset(&print);
	sigaddset(&print, SIGUSR1);
	process->base = event_base_new();
	if (process->base == NULL) {
		return false;
	}
	process->terminate = evsignal_new(process->base, SIGTERM, handle_terminate, process);
	process->print = evsignal_new(process->base, SIGUSR1, handle_print, process);
	return process->terminate != NULL && process->print != NULL &&
		event_add(process->terminate, NULL) == 0 && event_add(process->print, NULL) == 0 &&
		sigprocmask(SIG_UNBLOCK, &print, NULL) == 0; // from when there was no handler
}

static void open_buffers(struct gpu_process *process)
{
	int error = ram_buffers_open(&process->buffers);
	if (error < 0) {
		log_error("gpu: no buffer can be had: cannot open /dev/udmabuf: %s",
			strerror(-error));
	}
}

static bool create_device(
	struct gpu_process *process, const struct host_options *options, struct fdlist *fds)
{
	const struct gpu_device_config device = {
		.base = process->base,
		.fd = fdlist_take(fds),
		.buffers = &process->buffers,
		.ended = handle_ended,
		.data = process,
	};
	process->device = gpu_device_create(&device);
	const struct resolver_service_config service = {
		.base = process->base,
		.listen_fd = fdlist_take(fds),
		.admission = &options->admission,
		.get_buffer = get_buffer,
		.data = process,
	};
	process->service = resolver_service_create(&service);
	return process->device != NULL && process->service != NULL;
}

static void finish(struct gpu_process *process)
{
	resolver_service_destroy(process->service);
	gpu_device_destroy(process->device);
	ram_buffers_close(&process->buffers);
	if (process->terminate != NULL) {
		event_free(process->terminate);
	}
	if (process->print != NULL) {
		event_free(process->print);
	}
	if (process->base != NULL) {
		event_base_free(process->base);
	}
}

bool gpu_process_run(const struct host_options *options, struct fdlist *fds)
{
	struct gpu_process process = {.buffers.device = -1, .failed = true};
	prctl(PR_SET_NAME, "fdferry-gpu");
	open_buffers(&process);
	if (!add_events(&process) || !create_device(&process, options, fds)) {
		log_errno("the GPU cannot be started");
	} else if (device_sandbox_enter_gpu(options) == 0) {
		process.failed = false;
		log_info("gpu: a VMM has connected");
		event_base_dispatch(process.base);
	}
	finish(&process);
	return !process.failed;
}
