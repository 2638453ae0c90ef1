#include "host-proxy/server.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notify.h"
#include "host-proxy/options.h"
#include "host-proxy/vmm.h"
#include "program/server.h"
#include "relay/handshake.h"
#include "wire/schema.h"

struct listening {
	int fd;
	bool ours; // not the service manager's
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

// A compositor may start later, but most often it is a mistake.
static void probe(const struct service *wayland)
{
	int fd = transport_connect(&wayland->address);
	if (fd < 0) {
		log_warn("cannot connect to the compositor at %s yet: %s", wayland->address.path,
			strerror(-fd));
		return;
	}
	close(fd);
}

// A rule about an interface that nobody knows is a slip of the pen, which may be a dangerous one.
static void check_rules(const char *option, const struct policy_rule *rules, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char name[256];
		size_t len = rules[i].length < sizeof(name) ? rules[i].length : sizeof(name) - 1;
		memcpy(name, rules[i].interface, len);
		name[len] = '\0';
		if (wire_schema_find(name) == NULL) {
			log_warn("%s %s: no such interface is known", option, name);
		}
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
	const struct host_options *options = data;
	bool ok = admission_check(&options->admission, fd, peer);
	if (!ok) {
		handshake_refuse(fd, CHANNEL_REFUSE_AUTHENTICATION, "not allowed to connect");
	}
	return ok;
}

static int serve(int listen_fd, struct event_base *base, const struct host_options *options,
	char *const argv[])
{
	bool vhost_user = options->listen.kind == TRANSPORT_VHOST_USER;
	const struct server_listener listener = {.fd = listen_fd};
	const struct server_config config = {
		.program = "fdferry-host",
		.options = &options->program,
		.argv = argv,
		.base = base,
		.listeners = &listener,
		.n_listeners = vhost_user ? 0 : 1,
		.vms = &options->vms,
		.refuse = refuse,
		.admit = admit,
		.data = (void *)options,
	};
	struct server *server = server_create(&config);
	struct vmm *vmm = NULL;
	int status = EXIT_FAILURE;
	if (server == NULL) {
		if (vhost_user) {
			close(listen_fd);
		}
		return status;
	}
	if (vhost_user) {
		vmm = vmm_create(base, options, argv, server, listen_fd);
	}
	if (vmm != NULL || !vhost_user) {
		server_announce(server);
		status = server_run(server);
	}
	server_destroy(server); // what sessions say last goes through the device
	vmm_destroy(vmm);
	return status;
}

int host_server_run(const struct host_options *options, char *const argv[])
{
	const struct services *services = &options->program.services;
	const struct service *wayland = services_find(services, SERVICE_WAYLAND);
	// Who names other services only may have no compositor, and need not.
	bool wanted = options->compositor != NULL || services->count == 1;
	struct listening listening;
	int status = EXIT_FAILURE;
	check_rules("--allow", options->policy.allowed, options->policy.n_allowed);
	check_rules("--deny", options->policy.denied, options->policy.n_denied);
	if (wayland != NULL && wanted) {
		probe(wayland);
	}
	if (!open_listener(&listening, options)) {
		return status;
	}
	struct event_base *base = event_base_new();
	if (base == NULL) {
		log_error("cannot create an event loop");
		close(listening.fd);
	} else {
		status = serve(listening.fd, base, options, argv);
		event_base_free(base);
	}
	if (listening.ours) {
		transport_unlink(&options->listen);
	}
	return status;
}
