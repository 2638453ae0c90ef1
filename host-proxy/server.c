#include "host-proxy/server.h"

#include <errno.h>
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
#include "host-proxy/security_context.h"
#include "host-proxy/vmm.h"
#include "program/server.h"
#include "relay/handshake.h"
#include "wire/schema.h"

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
	char *policy_text; // options point into it; NULL: no policy file
	struct compositor_id without_contexts;
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

// A compositor may start later, but most often it is a mistake if there is none yet. If there is one,
// whether it has security contexts is asked once for all sessions.
static void probe(struct serving *serving, const struct service *wayland)
{
	struct compositor_id id;
	bool identified = compositor_identify(&wayland->address, &id);
	int fd = transport_connect(&wayland->address);
	if (fd < 0) {
		log_warn("cannot connect to the compositor at %s yet: %s", wayland->address.path,
			strerror(-fd));
	} else if (serving->options->security_context != SECURITY_CONTEXT_AUTO) {
		close(fd);
	} else if (security_context_probe(fd) == -EOPNOTSUPP && identified) {
		serving->without_contexts = id;
	}
}

// A rule about an interface that nobody knows is a slip of the pen, which may be a dangerous one.
static void check_rules(const char *option, const struct policy_rule *rules, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char name[256];
		size_t len = rules[i].length < sizeof(name) ? rules[i].length : sizeof(name) - 1;
		memcpy(name, rules[i].interface, len);
		name[len] = '\0';
		if (strcmp(name, "*") != 0 && wire_schema_find(name) == NULL) {
			log_warn("%s %s: no such interface is known", option, name);
		}
	}
}

// For sessions that begin from now on; they go by the policy's text, if there is one, as the options of
// the parent do. Takes text, also on failure: then all is as before.
static bool hand_out(struct serving *serving, char *policy)
{
	char error[512];
	const struct handout handout = {
		.without_contexts = serving->without_contexts, .policy = policy};
	int fd = handout_store(&handout); // reading changes the text
	if (fd < 0) {
		log_error("cannot hand anything out to sessions: %s", strerror(-fd));
		free(policy);
		return false;
	}
	if (policy != NULL &&
		!host_options_apply(serving->options, serving->argc, serving->argv, policy, error,
			sizeof(error))) {
		log_error("%s", error);
		close(fd);
		free(policy);
		return false;
	}
	server_attach(serving->server, fd);
	free(serving->policy_text);
	serving->policy_text = policy;
	return true;
}

// If there is a policy file, reads it.
static bool prepare_sessions(struct serving *serving)
{
	const struct host_options *options = serving->options;
	char error[512];
	char *text = NULL;
	if (options->policy_path != NULL) {
		text = policy_file_load(options->policy_path, error, sizeof(error));
		if (text == NULL) {
			log_error("%s", error);
			return false;
		}
	}
	if (!hand_out(serving, text)) {
		return false;
	}
	check_rules("allow", options->policy.allowed, options->policy.n_allowed);
	check_rules("deny", options->policy.denied, options->policy.n_denied);
	return true;
}

static void handle_reload(void *data)
{
	struct serving *serving = data;
	if (prepare_sessions(serving)) {
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
		.reload = options->policy_path != NULL ? handle_reload : NULL,
		.refuse = refuse,
		.data = serving,
	};
	return server_create(&config);
}

static int serve(struct serving *serving, int listen_fd)
{
	const struct host_options *options = serving->options;
	bool vhost_user = options->listen.kind == TRANSPORT_VHOST_USER;
	struct vmm *vmm = NULL;
	int status = EXIT_FAILURE;
	serving->server = create_server(serving, listen_fd);
	bool ready = serving->server != NULL && prepare_sessions(serving);
	if (vhost_user && ready) {
		vmm = vmm_create(serving->base, options, serving->argv, serving->server, listen_fd);
		ready = vmm != NULL;
	} else if (vhost_user) {
		close(listen_fd);
	}
	if (ready) {
		server_announce(serving->server);
		status = server_run(serving->server);
	}
	server_destroy(serving->server); // what sessions say last goes through the device
	vmm_destroy(vmm);
	return status;
}

int host_server_run(struct host_options *options, int argc, char *argv[])
{
	const struct services *services = &options->program.services;
	const struct service *wayland = services_find(services, SERVICE_WAYLAND);
	// Who names other services only may have no compositor, and need not.
	bool wanted = options->compositor != NULL || services->count == 1;
	struct serving serving = {.options = options, .argc = argc, .argv = argv};
	struct listening listening;
	int status = EXIT_FAILURE;
	if (!open_listener(&listening, options)) {
		return status;
	}
	if (wayland != NULL && wanted) {
		probe(&serving, wayland);
	}
	serving.base = event_base_new();
	if (serving.base == NULL) {
		log_error("cannot create an event loop");
		close(listening.fd);
	} else {
		status = serve(&serving, listening.fd);
		event_base_free(serving.base);
	}
	if (listening.ours) {
		transport_unlink(&options->listen);
	}
	free(serving.policy_text);
	return status;
}
