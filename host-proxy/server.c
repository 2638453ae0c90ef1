#include "host-proxy/server.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notify.h"
#include "host-proxy/compositor.h"
#include "host-proxy/handout.h"
#include "host-proxy/options.h"
#include "host-proxy/policy_file.h"
#include "host-proxy/probe.h"
#include "host-proxy/vmm.h"
#include "program/server.h"
#include "relay/handshake.h"

struct listening {
	int fd;
	bool ours; // not the service manager's
};

struct serving {
	struct host_options *options;
	int argc;
	char **argv;
	struct event_base *base;
	struct server *server;
	const struct service *wayland; // NULL: there is no compositor
	struct compositor_id asked;    // what it has
	char *policy_text;             // options point into it; NULL: no policy file
	struct handout handout;
	struct vmm *vmm; // of the vsock device that is ours; NULL
	struct vmm *gpu; // of the GPU that is ours; NULL
};

static bool open_listener(struct listening *listening, const struct host_options *options)
{
	int fd = notify_take_listener();
	if (fd < 0) {
		return false;
	}
	if (fd > 0 && options->listen_text != NULL) {
		log_error("--listen %s: the service manager has passed a socket already",
			options->listen_text);
		close(fd);
		return false;
	}
	if (fd == 0 && options->listen_text == NULL) {
		log_error("--listen is missing, and the service manager has passed no socket");
		return false;
	}
	*listening = (struct listening){.fd = fd, .ours = fd == 0};
	if (listening->ours) {
		listening->fd = transport_listen(&options->listen);
	}
	if (listening->fd < 0) {
		log_error(
			"cannot listen at %s: %s", options->listen_text, strerror(-listening->fd));
	}
	return listening->fd >= 0;
}

static bool hand_out(struct serving *serving)
{
	int fd = handout_store(&serving->handout);
	if (fd < 0) {
		log_error("cannot hand anything out to sessions: %s", strerror(-fd));
		return false;
	}
	server_attach(serving->server, fd);
	return true;
}

static void take_answer(struct serving *serving, const struct probe *probe)
{
	const char *path = serving->wayland->address.path;
	if (!probe->has_contexts) {
		serving->handout.without_contexts = serving->asked;
		log_info("the compositor at %s has no security contexts", path);
	}
	if (probe->takes_dmabufs) {
		serving->handout.with_dmabufs = serving->asked;
	} else {
		log_debug("the compositor at %s takes no linear dma-bufs", path);
	}
}

// Asks, once for all sessions, what the compositor has.
static void ask_compositor(struct serving *serving)
{
	const struct transport *address = &serving->wayland->address;
	compositor_identify(address, &serving->asked);
	int fd = transport_connect(address);
	if (fd < 0) {
		log_warn("cannot connect to the compositor at %s yet: %s", address->path,
			strerror(-fd));
		return;
	}
	struct probe probe;
	int error = probe_compositor(fd, &probe);
	if (error == 0) {
		take_answer(serving, &probe);
	} else {
		log_warn("the compositor at %s does not tell its globals: %s", address->path,
			strerror(-error));
	}
}

// A compositor may start later, or again.
static void handle_prepare(void *data)
{
	struct serving *serving = data;
	struct compositor_id id;
	if (serving->wayland != NULL && compositor_identify(&serving->wayland->address, &id) &&
		!compositor_id_equal(&id, &serving->asked)) {
		ask_compositor(serving);
		hand_out(serving);
	}
}

// Makes the options go by the text, which is taken, also on failure: then all is as before.
static bool use_policy(struct serving *serving, char *text)
{
	struct host_options *options = serving->options;
	char error[512] = "out of memory";
	char *copy = strdup(text); // reading changes it
	if (copy == NULL ||
		!host_options_apply(
			options, serving->argc, serving->argv, copy, error, sizeof(error))) {
		log_error("%s", error);
		free(copy);
		free(text);
		return false;
	}
	free(serving->policy_text);
	free(serving->handout.policy);
	serving->policy_text = copy;
	serving->handout.policy = text;
	return true;
}

// True also if there is none.
static bool load_policy(struct serving *serving)
{
	const struct host_options *options = serving->options;
	char error[512];
	if (options->policy_path != NULL) {
		char *text = policy_file_load(options->policy_path, error, sizeof(error));
		if (text == NULL) {
			log_error("the policy %s", error);
			return false;
		}
		if (!use_policy(serving, text)) {
			return false;
		}
	}
	policy_check_names(&options->policy, options->policy_path);
	return true;
}

static void handle_reload(void *data)
{
	struct serving *serving = data;
	if (load_policy(serving) && hand_out(serving)) {
		server_set_vms(serving->server, &serving->options->vms);
		log_info("new sessions go by what %s says now", serving->options->policy_path);
	} else {
		log_error("new sessions go by the old policy");
	}
}

static void refuse(int fd, uint32_t service, const char *text)
{
	(void)service;
	handshake_refuse(fd, CHANNEL_REFUSE_BUSY, text);
}

// Nobody who is turned away is told more than that.
static bool admit(void *data, int fd, struct worker_peer *peer)
{
	const struct serving *serving = data;
	bool ok = admission_check(&serving->options->admission, fd, peer);
	if (!ok) {
		handshake_refuse(fd, CHANNEL_REFUSE_AUTHENTICATION, "not allowed to connect");
	}
	return ok;
}

static struct server *create_server(struct serving *serving, int listen_fd)
{
	const struct host_options *options = serving->options;
	const struct server_listener listener = {.fd = listen_fd};
	const struct server_config config = {
		.program = "fdferry-host",
		.options = &options->program,
		.argv = serving->argv,
		.base = serving->base,
		.listeners = &listener,
		.n_listeners = options->listen.kind == TRANSPORT_VHOST_USER ? 0 : 1,
		.strict_sandbox = true,
		.reload = options->policy_path != NULL ? handle_reload : NULL,
		.prepare = handle_prepare,
		.is_host = true,
		.max_events = options->limits.most[BUDGET_FDS],
		.vms = &options->vms,
		.refuse = refuse,
		.admit = admit,
		.data = serving,
	};
	return server_create(&config);
}

// Takes listen_fd.
static struct vmm *create_vmm(struct serving *serving, enum device_record_type start, int listen_fd)
{
	const struct vmm_config config = {
		.base = serving->base,
		.options = serving->options,
		.argv = serving->argv,
		.server = serving->server,
		.start = start,
		.listen_fd = listen_fd,
	};
	return vmm_create(&config);
}

// True also if there is none.
static bool create_gpu(struct serving *serving)
{
	const struct host_options *options = serving->options;
	if (options->gpu.path[0] == '\0') {
		return true;
	}
	int fd = transport_listen(&options->gpu);
	if (fd < 0) {
		log_error("cannot listen at %s: %s", options->gpu.path, strerror(-fd));
		return false;
	}
	serving->gpu = create_vmm(serving, DEVICE_START_GPU, fd);
	if (serving->gpu == NULL) {
		transport_unlink(&options->gpu);
	}
	return serving->gpu != NULL;
}

static void destroy_gpu(struct serving *serving)
{
	if (serving->gpu != NULL) {
		vmm_destroy(serving->gpu);
		transport_unlink(&serving->options->gpu);
	}
}

// Takes listen_fd, which a server without a vsock device has taken already. True also if there is none.
static bool create_vsock(struct serving *serving, int listen_fd)
{
	if (serving->options->listen.kind != TRANSPORT_VHOST_USER) {
		return true;
	}
	if (serving->server == NULL) {
		close(listen_fd);
		return false;
	}
	serving->vmm = create_vmm(serving, DEVICE_START_VSOCK, listen_fd);
	return serving->vmm != NULL;
}

static int serve(struct serving *serving, int listen_fd)
{
	int status = EXIT_FAILURE;
	serving->server = create_server(serving, listen_fd);
	if (create_vsock(serving, listen_fd) && serving->server != NULL && hand_out(serving) &&
		create_gpu(serving)) {
		server_announce(serving->server);
		status = server_run(serving->server);
	}
	server_destroy(serving->server); // what sessions say last goes through the device
	vmm_destroy(serving->vmm);
	destroy_gpu(serving);
	return status;
}

static int listen_and_serve(struct serving *serving)
{
	struct listening listening;
	int status = EXIT_FAILURE;
	if (!open_listener(&listening, serving->options)) {
		return status;
	}
	if (serving->wayland != NULL) {
		ask_compositor(serving);
	}
	serving->base = event_base_new();
	if (serving->base == NULL) {
		log_error("cannot create an event loop");
		close(listening.fd);
	} else {
		status = serve(serving, listening.fd);
		event_base_free(serving->base);
	}
	if (listening.ours) {
		transport_unlink(&serving->options->listen);
	}
	return status;
}

int host_server_run(struct host_options *options, int argc, char *argv[])
{
	const struct services *services = &options->program.services;
	struct serving serving = {.options = options, .argc = argc, .argv = argv};
	// Who names other services only may have no compositor, and need not.
	if (options->compositor != NULL || services->count == 1) {
		serving.wayland = services_find(services, SERVICE_WAYLAND);
	}
	int status = load_policy(&serving) ? listen_and_serve(&serving) : EXIT_FAILURE;
	free(serving.policy_text);
	free(serving.handout.policy);
	return status;
}
