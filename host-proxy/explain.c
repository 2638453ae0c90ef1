#include "host-proxy/explain.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wayland-client-protocol.h>

#include "base/log.h"
#include "channel/transport.h"
#include "fdpass/resolver.h"
#include "fdpass/timeline.h"
#include "host-proxy/options.h"
#include "host-proxy/policy_file.h"
#include "host-proxy/probe.h"
#include "host-proxy/security_context.h"
#include "host-proxy/side_client.h"
#include "relay/crossing.h"
#include "relay/dmabuf.h"
#include "relay/synchronization.h"
#include "relay/syncobj.h"

#define TIMEOUT_MS 10000

struct global {
	uint32_t name, version;
	char *interface;
};

struct globals {
	struct wl_array list; // struct global
	bool failed;
};

/* ---- what the compositor has ---- */

static void handle_global(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version)
{
	struct globals *globals = data;
	(void)registry;
	char *copy = strdup(interface);
	struct global *global = copy != NULL ? wl_array_add(&globals->list, sizeof(*global)) : NULL;
	if (global == NULL) {
		free(copy);
		globals->failed = true;
		return;
	}
	*global = (struct global){.name = name, .version = version, .interface = copy};
}

static void globals_finish(struct globals *globals)
{
	struct global *global;
	wl_array_for_each (global, &globals->list) {
		free(global->interface);
	}
	wl_array_release(&globals->list);
}

// Takes fd. 0 or -errno; globals is to be finished either way.
static int globals_init(struct globals *globals, int fd)
{
	*globals = (struct globals){0};
	wl_array_init(&globals->list);
	struct wl_display *display = side_client_create(fd);
	if (display == NULL) {
		return -errno;
	}
	int error = side_client_list_globals(display, TIMEOUT_MS, handle_global, globals);
	wl_display_disconnect(display);
	return error == 0 && globals->failed ? -ENOMEM : error;
}

static bool globals_have(const struct globals *globals, uint32_t name)
{
	const struct global *global;
	wl_array_for_each (global, &globals->list) {
		if (global->name == name) {
			return true;
		}
	}
	return false;
}

/* ---- what is made of it ---- */

struct explanation {
	const struct host_options *options;
	struct globals all;    // as a client on the host sees them
	struct globals within; // the security context, if there is one
	bool has_context;
	const char *no_dmabufs; // why there are none; NULL: there are some
	bool no_timelines;
};

static void describe_rule(const struct explanation *explanation, const char *key, unsigned int line,
	char *text, size_t len)
{
	if (line == 0) {
		snprintf(text, len, "--%s", key);
	} else {
		snprintf(text, len, "%s (%s:%u)", key, explanation->options->policy_path, line);
	}
}

static void describe_verdict(const struct explanation *explanation,
	const struct policy_verdict *verdict, char *text, size_t len)
{
	switch (verdict->reason) {
	case POLICY_ORDINARY:
		snprintf(text, len, "default");
		break;
	case POLICY_PRIVILEGED:
		snprintf(text, len, "default: privileged");
		break;
	case POLICY_ALLOWED:
		describe_rule(explanation, "allow", verdict->rule->line, text, len);
		break;
	case POLICY_DENIED:
		describe_rule(explanation, "deny", verdict->rule->line, text, len);
		break;
	}
}

static bool needs_dmabufs(const char *interface)
{
	return strcmp(interface, DMABUF_GLOBAL) == 0 || strcmp(interface, DRM_GLOBAL) == 0 ||
		strcmp(interface, SCANOUT_GLOBAL) == 0 ||
		strcmp(interface, SYNCHRONIZATION_GLOBAL) == 0 ||
		strcmp(interface, SYNCOBJ_GLOBAL) == 0;
}

// Why the host has not what a global needs; NULL: it has.
static const char *find_lack(const struct explanation *explanation, const char *interface)
{
	if (explanation->no_dmabufs != NULL && needs_dmabufs(interface)) {
		return explanation->no_dmabufs;
	}
	bool is_syncobj = strcmp(interface, SYNCOBJ_GLOBAL) == 0;
	return is_syncobj && explanation->no_timelines ? "no DRM device has timelines" : NULL;
}

// The version that a client would see, 0 for none, and why.
static uint32_t judge(
	const struct explanation *explanation, const struct global *global, char *why, size_t len)
{
	uint32_t version = global->version;
	enum crossing crossing = crossing_of_global(global->interface, &version);
	if (crossing != CROSSING_POSSIBLE) {
		snprintf(why, len, "%s",
			crossing == CROSSING_UNKNOWN ? "no protocol file describes it (--protocol)"
						     : "its fds cannot cross");
		return 0;
	}
	const char *lack = find_lack(explanation, global->interface);
	if (lack != NULL) {
		snprintf(why, len, "%s", lack);
		return 0;
	}
	const struct policy_verdict verdict =
		policy_judge(&explanation->options->policy, global->interface, version);
	describe_verdict(explanation, &verdict, why, len);
	if (verdict.version > 0 && explanation->has_context &&
		!globals_have(&explanation->within, global->name)) {
		snprintf(why, len, "the compositor hides it from security contexts");
		return 0;
	}
	if (verdict.version == version && version < global->version) {
		size_t end = strlen(why);
		snprintf(why + end, len - end, "; no later version is known");
	}
	return verdict.version;
}

static void print_globals(const struct explanation *explanation)
{
	const struct global *global;
	printf("%-44s %10s %6s  WHY\n", "GLOBAL", "COMPOSITOR", "CLIENT");
	wl_array_for_each (global, &explanation->all.list) {
		char why[512], version[16] = "hidden";
		uint32_t offered = judge(explanation, global, why, sizeof(why));
		if (offered > 0) {
			snprintf(version, sizeof(version), "%u", offered);
		}
		printf("%-44s %10u %6s  %s\n", global->interface, global->version, version, why);
	}
}

static void print_requests(const struct explanation *explanation)
{
	const struct policy *policy = &explanation->options->policy;
	if (policy->n_requests > 0) {
		printf("\n%-44s %-17s  WHY\n", "REQUEST", "WHAT IT DOES");
	}
	for (size_t i = 0; i < policy->n_requests; i++) {
		const struct policy_request *request = &policy->requests[i];
		char why[512];
		describe_rule(explanation, request->ignored ? "ignore-request" : "deny-request",
			request->line, why, sizeof(why));
		printf("%-44s %-17s  %s\n", request->name,
			request->ignored ? "is left out" : "ends the session", why);
	}
}

static void print_context(const struct explanation *explanation)
{
	const struct host_options *options = explanation->options;
	char name[HOST_VM_NAME_SIZE];
	if (explanation->has_context) {
		printf("security context: engine %s, app id %s\n\n", SECURITY_CONTEXT_ENGINE,
			host_options_vm_name(options, name) ? name : "(none)");
		return;
	}
	switch (options->security_context) {
	case SECURITY_CONTEXT_AUTO:
		puts("security context: none, the compositor does not have them\n");
		break;
	case SECURITY_CONTEXT_REQUIRE:
		puts("security context: required, but the compositor does not have them: every "
		     "client is refused\n");
		break;
	case SECURITY_CONTEXT_NEVER:
		puts("security context: none, by --no-security-context\n");
		break;
	}
}

// What is within the context, if there can be one. 0 or -errno.
static int ask_within(struct explanation *explanation, const struct transport *address)
{
	char name[HOST_VM_NAME_SIZE];
	const struct security_context context = {
		.app_id = host_options_vm_name(explanation->options, name) ? name : NULL,
		.instance_id = "explain-policy",
	};
	if (explanation->options->security_context == SECURITY_CONTEXT_NEVER) {
		return 0;
	}
	int close_fd;
	int fd = transport_connect(address);
	if (fd >= 0) {
		fd = security_context_connect(&context, fd, &close_fd);
	}
	if (fd < 0) {
		return fd == -EOPNOTSUPP ? 0 : fd;
	}
	explanation->has_context = true;
	int error = globals_init(&explanation->within, fd);
	close(close_fd);
	return error;
}

// NULL, or why sessions carry no dma-bufs.
static const char *find_no_dmabufs(
	const struct host_options *options, const struct transport *address)
{
	if (options->program.no_dmabuf) {
		return "--no-dmabuf";
	}
	struct resolver *resolver = resolver_create_copy();
	if (resolver == NULL) {
		return "cannot open /dev/udmabuf or a dma-heap";
	}
	resolver_destroy(resolver);
	struct probe probe;
	int fd = transport_connect(address);
	bool takes = fd >= 0 && probe_compositor(fd, &probe) == 0 && probe.takes_dmabufs;
	return takes ? NULL : "the compositor takes no linear dma-bufs";
}

static bool has_timelines(void)
{
	int node = timeline_open_node();
	if (node >= 0) {
		close(node);
	}
	return node >= 0;
}

static int explain(struct explanation *explanation)
{
	const struct services *services = &explanation->options->program.services;
	const struct transport *address = &services_find(services, SERVICE_WAYLAND)->address;
	int fd = transport_connect(address);
	int error = fd < 0 ? fd : globals_init(&explanation->all, fd);
	if (error == 0) {
		error = ask_within(explanation, address);
	}
	if (error < 0) {
		log_error("cannot ask the compositor at %s: %s", address->path, strerror(-error));
		return EXIT_FAILURE;
	}
	explanation->no_dmabufs = find_no_dmabufs(explanation->options, address);
	explanation->no_timelines = !has_timelines();
	printf("compositor: %s\n", address->path);
	print_context(explanation);
	print_globals(explanation);
	print_requests(explanation);
	return fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int explain_run(struct host_options *options, int argc, char *argv[])
{
	char error[512];
	char *text = NULL;
	if (options->policy_path != NULL) {
		text = policy_file_load(options->policy_path, error, sizeof(error));
		if (text == NULL) {
			log_error("the policy %s", error);
			return EXIT_FAILURE;
		}
		if (!host_options_apply(options, argc, argv, text, error, sizeof(error))) {
			log_error("%s", error);
			free(text);
			return EXIT_FAILURE;
		}
	}
	policy_check_names(&options->policy, options->policy_path);
	struct explanation explanation = {.options = options};
	wl_array_init(&explanation.all.list);
	wl_array_init(&explanation.within.list);
	int status = explain(&explanation);
	globals_finish(&explanation.all);
	globals_finish(&explanation.within);
	free(text);
	return status;
}
