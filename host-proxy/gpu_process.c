#include "host-proxy/gpu_process.h"

#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "host-proxy/device_process.h"
#include "host-proxy/device_sandbox.h"
#include "host-proxy/gpu_device.h"
#include "host-proxy/options.h"
#include "host-proxy/resolver_service.h"

struct gpu_process {
	struct device_process process;
	struct event *print; // SIGUSR1
	struct gpu_device *device;
	struct resolver_service *service;
};

static void handle_print(evutil_socket_t signal, short what, void *data)
{
	(void)signal;
	(void)what;
	const struct gpu_process *self = data;
	const struct gpu_resources *counts = gpu_device_resources(self->device);
	log_info("gpu: %zu resources, %zu ranges, %" PRIu64
		 " bytes of the guest; %zu buffers, %" PRIu64 " bytes",
		counts->count, counts->n_ranges, counts->backed, counts->n_buffers,
		counts->buffer_bytes);
}

static const char *get_buffer(void *data, uint32_t id, struct gpu_buffer *buffer)
{
	const struct gpu_process *self = data;
	return gpu_device_get_buffer(self->device, id, buffer);
}

static bool add_print(struct gpu_process *self)
{
	sigset_t print;
	sigemptyset(&print);
	sigaddset(&print, SIGUSR1);
	self->print = evsignal_new(self->process.base, SIGUSR1, handle_print, self);
	return self->print != NULL && event_add(self->print, NULL) == 0 &&
		sigprocmask(SIG_UNBLOCK, &print, NULL) == 0; // from when there was no handler
}

static void open_buffers(struct gpu_process *self)
{
	int error = ram_buffers_open(&self->process.buffers);
	if (error < 0) {
		log_error("gpu: no buffer can be had: cannot open /dev/udmabuf: %s",
			strerror(-error));
	}
}

static bool start(struct device_process *process, struct fdlist *fds)
{
	struct gpu_process *self = (struct gpu_process *)process;
	open_buffers(self);
	const struct gpu_device_config device = {
		.base = process->base,
		.fd = fdlist_take(fds),
		.buffers = &process->buffers,
		.ended = device_process_handle_ended,
		.data = self,
	};
	self->device = gpu_device_create(&device);
	const struct resolver_service_config service = {
		.base = process->base,
		.listen_fd = fdlist_take(fds),
		.admission = &process->options->admission,
		.get_buffer = get_buffer,
		.data = self,
	};
	self->service = resolver_service_create(&service);
	return self->device != NULL && self->service != NULL && add_print(self);
}

static void finish(struct device_process *process)
{
	struct gpu_process *self = (struct gpu_process *)process;
	resolver_service_destroy(self->service);
	gpu_device_destroy(self->device);
	if (self->print != NULL) {
		event_free(self->print);
	}
}

static const struct device_process_device gpu = {
	.name = "fdferry-gpu",
	.start = start,
	.enter_sandbox = device_sandbox_enter_gpu,
	.finish = finish,
};

bool gpu_process_run(const struct host_options *options, struct fdlist *fds)
{
	struct gpu_process self = {
		.process = {.device = &gpu,
			.options = options,
			.label = "gpu",
			.buffers.device = -1},
	};
	return device_process_serve(&self.process, fds);
}
