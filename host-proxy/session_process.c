#include "host-proxy/session_process.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scm.h"
#include "base/workers.h"
#include "channel/input.h"
#include "channel/transport.h"
#include "fdpass/pages.h"
#include "fdpass/region.h"
#include "fdpass/resolver.h"
#include "fdpass/timeline.h"
#include "host-proxy/borrower.h"
#include "host-proxy/handout.h"
#include "host-proxy/options.h"
#include "host-proxy/page_client.h"
#include "host-proxy/security_context.h"
#include "program/records.h"
#include "program/worker.h"
#include "relay/denied.h"
#include "relay/handshake.h"
#include "relay/session.h"
#include "relay/token.h"

#define HELLO_TIMEOUT_MS   10000
#define PROOF_TIMEOUT_MS   10000
#define WELCOME_TIMEOUT_MS 10000

struct preparation {
	struct host_options *options;
	int argc;
	char **argv;
	struct handout handout; // options point into its text
	bool has_policy;
	struct denied_request denied[POLICY_MAX_REQUESTS];
	struct channel_input *input;
	struct resolver *resolver; // NULL: no dma-bufs
	struct resolver *handles;  // finds those of the VM's GPU; NULL: they are copied
	int node;                  // for their timelines; -1: there is none, or nobody wants it
	struct page_buffers *page_buffers; // NULL: pools do not go by their pages
	int context_fd; // is open as long as the compositor is to know the context; or -1
	struct handshake_hello hello; // the session borrows its contents
};

// Many processes could write many lines of it, so the parent logs it, if there still is one.
static void report(const struct preparation *preparation, const char *text)
{
	struct record_denied record = {.type = RECORD_DENIED};
	snprintf(record.text, sizeof(record.text), "%.*s", (int)sizeof(record.text) - 1, text);
	int fd = preparation->options->program.session_fd;
	if (workers_report(fd, &record, sizeof(record), -1) < 0) {
		log_limited(LOG_WARN, "the guest was turned away: %s", text);
	}
}

static void refuse(
	const struct preparation *preparation, int channel_fd, uint32_t code, const char *text)
{
	report(preparation, text);
	handshake_refuse(channel_fd, code, text);
}

static bool read_hello(struct preparation *preparation)
{
	struct channel_input *input = preparation->input;
	struct handshake_hello *hello = &preparation->hello;
	const char *wrong = handshake_read(input, HELLO_TIMEOUT_MS, hello);
	if (wrong != NULL) {
		refuse(preparation, input->fd, hello->refuse, wrong);
	}
	return wrong == NULL;
}

static bool authenticate(const struct preparation *preparation, int channel_fd)
{
	struct token token;
	const char *wrong = "the host cannot read its token";
	if (program_options_token(&preparation->options->program, &token)) {
		wrong = handshake_demand_proof(
			preparation->input, &token, &preparation->hello, PROOF_TIMEOUT_MS);
	}
	token_wipe(&token);
	if (wrong != NULL) {
		refuse(preparation, channel_fd, CHANNEL_REFUSE_AUTHENTICATION, wrong);
	}
	return wrong == NULL;
}

// NULL: the guest has been told so.
static const struct service *find_service(
	const struct preparation *preparation, int channel_fd, const char *name)
{
	const struct services *services = &preparation->options->program.services;
	const struct service *service = services_find(services, name);
	if (service == NULL) {
		char text[128];
		// What is no name could forge lines of the log.
		snprintf(text, sizeof(text), "no such service here: %s",
			service_name_is_valid(name) ? name : "(not a name)");
		refuse(preparation, channel_fd, CHANNEL_REFUSE_SERVICE, text);
	}
	return service;
}

// Where the service is, and why it is not reached, is for the host's log only.
static void refuse_unreachable(const struct preparation *preparation, int channel_fd,
	const struct service *service, const char *what, int error)
{
	char text[320];
	const char *name = service_is_wayland(service) ? "the compositor" : service->name;
	snprintf(text, sizeof(text), "%s %s at %s: %s", what, name, service->address.path,
		strerror(-error));
	report(preparation, text);
	snprintf(text, sizeof(text), "%s %s", what, name);
	handshake_refuse(channel_fd, CHANNEL_REFUSE_UNREACHABLE, text);
}

// -1: the guest has been told why.
static int connect_service(
	const struct preparation *preparation, int channel_fd, const struct service *service)
{
	int fd = transport_connect(&service->address);
	if (fd < 0) {
		refuse_unreachable(preparation, channel_fd, service, "cannot connect to", fd);
		return -1;
	}
	return fd;
}

static void refuse_context(const struct preparation *preparation, int channel_fd,
	const struct service *compositor, int error)
{
	if (error == -EOPNOTSUPP) {
		refuse(preparation, channel_fd, CHANNEL_REFUSE_UNREACHABLE,
			"the compositor has no security contexts, which the host requires");
	} else if (error == -ETIMEDOUT) {
		refuse_unreachable(preparation, channel_fd, compositor, "no answer from", error);
	} else {
		refuse_unreachable(preparation, channel_fd, compositor,
			"cannot make a security context of", error);
	}
}

// If it is not known, it takes a connection to find out.
static bool may_have_contexts(
	const struct preparation *preparation, const struct service *compositor)
{
	struct compositor_id id;
	switch (preparation->options->security_context) {
	case SECURITY_CONTEXT_NEVER:
		return false;
	case SECURITY_CONTEXT_REQUIRE:
		return true;
	case SECURITY_CONTEXT_AUTO:
		break;
	}
	return !compositor_identify(&compositor->address, &id) ||
		!compositor_id_equal(&id, &preparation->handout.without_contexts);
}

// The same, within a security context where there is to be one.
static int connect_compositor(
	struct preparation *preparation, int channel_fd, const struct service *compositor)
{
	const struct host_options *options = preparation->options;
	char name[HOST_VM_NAME_SIZE], instance[16];
	const struct security_context context = {
		.app_id = host_options_vm_name(options, name) ? name : NULL,
		.instance_id = instance,
	};
	snprintf(instance, sizeof(instance), "%d", (int)getpid());
	bool ask = may_have_contexts(preparation, compositor); // this one, not a later one
	int fd = connect_service(preparation, channel_fd, compositor);
	if (fd < 0 || !ask) {
		return fd;
	}
	fd = security_context_connect(&context, fd, &preparation->context_fd);
	if (fd == -EOPNOTSUPP && options->security_context == SECURITY_CONTEXT_AUTO) {
		return connect_service(preparation, channel_fd, compositor);
	}
	if (fd < 0) {
		refuse_context(preparation, channel_fd, compositor, fd);
	}
	return fd;
}

static void fill_session(const struct preparation *preparation, const struct service *service,
	struct session_options *session)
{
	const struct host_options *options = preparation->options;
	session->service = service_is_wayland(service) ? NULL : service->name;
	session->peer_contents = preparation->hello.contents;
	session->n_peer_contents = preparation->hello.n_contents;
	session->denied = preparation->denied;
	session->n_denied = options->policy.n_requests;
	memcpy(session->link, preparation->hello.link, sizeof(session->link));
	session->app_id_prefix = options->app_id_prefix;
	session->title_prefix = options->title_prefix;
}

static void log_connection(int channel_fd, const struct worker_peer *peer)
{
	char name[64];
	if (peer->by_device) {
		snprintf(name, sizeof(name), "vm cid %u port %u", peer->cid, peer->port);
	} else {
		transport_peer_name(channel_fd, name, sizeof(name));
	}
	log_info("connection from %s", name);
}

static bool apply_policy(struct preparation *preparation)
{
	struct host_options *options = preparation->options;
	char error[512] = "the policy file has not been read";
	bool ok = options->policy_path == NULL;
	if (preparation->handout.policy != NULL) {
		ok = host_options_apply(options, preparation->argc, preparation->argv,
			preparation->handout.policy, error, sizeof(error));
	}
	ok = ok &&
		policy_resolve_requests(&options->policy, options->policy_path, preparation->denied,
			error, sizeof(error));
	if (!ok) {
		log_error("%s", error);
	}
	return ok;
}

// Takes fd.
static void handle_attached(void *data, int fd)
{
	struct preparation *preparation = data;
	int error = handout_load(&preparation->handout, fd);
	close(fd);
	if (error < 0) {
		log_error("cannot read what the parent has handed out: %s", strerror(-error));
		return;
	}
	// The parent has done so with the same text: there is nothing to go wrong but memory.
	preparation->has_policy = apply_policy(preparation);
}

// A connection to the service that the guest wants; -1: the guest has been told why there is none.
static int open_service(
	struct preparation *preparation, int channel_fd, struct session_options *session)
{
	if (!preparation->has_policy) {
		refuse(preparation, channel_fd, CHANNEL_REFUSE_BUSY,
			"the host cannot read its policy");
		return -1;
	}
	if (!read_hello(preparation) || !authenticate(preparation, channel_fd)) {
		return -1;
	}
	const struct service *service =
		find_service(preparation, channel_fd, preparation->hello.service);
	if (service == NULL) {
		return -1;
	}
	fill_session(preparation, service, session);
	return service_is_wayland(service) ? connect_compositor(preparation, channel_fd, service)
					   : connect_service(preparation, channel_fd, service);
}

// Our own vsock device lends what it has of the guest's bytes.
static struct channel_input *create_input(int channel_fd, const struct worker_peer *peer)
{
	struct channel_input *input =
		peer->by_device ? borrower_create(channel_fd) : channel_input_create(channel_fd);
	if (input == NULL) {
		log_errno("the connection cannot be read");
	}
	return input;
}

// Of the compositor that the parent has asked, not of another one.
static bool takes_dmabufs(const struct preparation *preparation)
{
	const struct services *services = &preparation->options->program.services;
	const struct service *compositor = services_find(services, SERVICE_WAYLAND);
	struct compositor_id id;
	return compositor_identify(&compositor->address, &id) &&
		compositor_id_equal(&id, &preparation->handout.with_dmabufs);
}

// What makes dma-bufs, if the guest knows what they are: it is opened now, as nothing is in the sandbox.
static void open_resolver(struct preparation *preparation, struct session_options *session)
{
	bool offered = (preparation->hello.features & CHANNEL_FEATURE_DMABUF) != 0;
	if (session->dmabufs && session->service == NULL && offered && takes_dmabufs(preparation)) {
		preparation->resolver = resolver_create_copy();
		if (preparation->resolver == NULL) {
			log_info("no dma-bufs: cannot open /dev/udmabuf or a dma-heap: %m");
		}
	}
	session->dmabufs = preparation->resolver != NULL;
	session->resolver = preparation->resolver;
}

// Whether the guest is of the one VM whose GPU the resolver knows: it must not name another's buffers.
static bool is_resolved(const struct host_options *options, const struct worker_peer *peer)
{
	bool one_vm = peer->cid == 0 || peer->by_device || options->admission.n_cids == 1;
	return options->resolver_text != NULL && one_vm;
}

// The service that knows the buffers of the VM's GPU. It may not run yet, or not any more. A recording could
// not have their bytes.
static void connect_resolver(struct preparation *preparation, const struct worker_peer *peer,
	struct session_options *session)
{
	const struct host_options *options = preparation->options;
	bool offered = (preparation->hello.features & CHANNEL_FEATURE_HANDLE) != 0;
	if (!session->dmabufs || !offered || !is_resolved(options, peer) ||
		options->program.record != NULL) {
		return;
	}
	int fd = transport_connect_now(&options->resolver);
	if (fd < 0) {
		log_warn("dma-bufs are copied: cannot connect to the resolver at %s: %s",
			options->resolver_text, strerror(-fd));
		return;
	}
	preparation->handles = resolver_create_handle(fd);
	session->handles = preparation->handles;
}

// Of the guest's memory, if our own vsock device lends it, and the guest can tell where pages are.
static void open_pages(struct preparation *preparation, const struct worker_peer *peer,
	struct session_options *session)
{
	const struct program_options *program = &preparation->options->program;
	bool offered = (preparation->hello.features & CHANNEL_FEATURE_PAGES) != 0;
	if (!peer->by_device || !offered || session->service != NULL || !program->region ||
		program->record != NULL) {
		return;
	}
	int fd = borrower_take_pages(preparation->input);
	preparation->page_buffers = fd >= 0 ? page_client_create(fd) : NULL;
	session->page_buffers = preparation->page_buffers;
}

// A quarter is ours, and new pools get half of the rest at most. What they keep for good must leave room for pools that
// go by the channel; what grows should find that there is too little memory before it finds no room.
static uint64_t region_size(const struct budget_limits *limits)
{
	uint64_t memory = limits->most[BUDGET_MEMORY];
	return memory < CHANNEL_MAX_REGION / 2 ? 2 * memory : CHANNEL_MAX_REGION;
}

// What timelines are made with, if the guest has that, too: it is opened now, as nothing is in the sandbox.
static void open_node(struct preparation *preparation, struct session_options *session)
{
	bool offered = (preparation->hello.features & CHANNEL_FEATURE_TIMELINE) != 0;
	if (session->dmabufs && offered) {
		preparation->node = timeline_open_node();
	}
	session->timelines = preparation->node >= 0;
	session->node = preparation->node;
}

// What the guest is to share with us; NULL: all goes by the channel. A recording could not have what
// is written there.
static struct region *create_region(const struct preparation *preparation, int channel_fd,
	const struct worker_peer *peer, const struct session_options *session)
{
	const struct program_options *program = &preparation->options->program;
	const struct handshake_hello *hello = &preparation->hello;
	if (!program->region || program->record != NULL || session->service != NULL ||
		(hello->features & CHANNEL_FEATURE_REGION) == 0 || !handshake_is_local(hello) ||
		peer->by_device || !scm_is_unix(channel_fd)) {
		return NULL;
	}
	struct region *region = region_create(region_size(&preparation->options->limits));
	if (region == NULL) {
		log_warn("no region: %m");
		return NULL;
	}
	if ((hello->features & CHANNEL_FEATURE_REGION_ROWS) != 0) {
		region_agree(region);
	}
	return region;
}

static int send_welcome(const struct preparation *preparation, int channel_fd,
	const struct session_options *session)
{
	const struct region *region = session->region;
	uint32_t features = CHANNEL_FEATURE_TOKEN |
		(session->dmabufs ? CHANNEL_FEATURE_DMABUF : 0) |
		(session->handles != NULL ? CHANNEL_FEATURE_HANDLE : 0) |
		(session->timelines ? CHANNEL_FEATURE_TIMELINE : 0) |
		(session->page_buffers != NULL ? CHANNEL_FEATURE_PAGES : 0) |
		(region != NULL ? CHANNEL_FEATURE_REGION | CHANNEL_FEATURE_REGION_ROWS : 0);
	return handshake_welcome(channel_fd, &preparation->hello, features,
		region != NULL ? region->fd : -1, WELCOME_TIMEOUT_MS);
}

// The service's end, for which the guest has been welcomed; -1.
static int welcome(struct preparation *preparation, int channel_fd, const struct worker_peer *peer,
	struct session_options *session)
{
	int local_fd = open_service(preparation, channel_fd, session);
	if (local_fd < 0) {
		return -1;
	}
	open_resolver(preparation, session);
	connect_resolver(preparation, peer, session);
	open_node(preparation, session);
	open_pages(preparation, peer, session);
	session->region = create_region(preparation, channel_fd, peer, session);
	int error = send_welcome(preparation, channel_fd, session);
	if (error < 0) {
		region_destroy(session->region);
		log_info("the guest is gone: %s", strerror(-error));
		close(local_fd);
		return -1;
	}
	return local_fd;
}

static bool prepare(
	void *data, int channel_fd, const struct worker_peer *peer, struct session_options *session)
{
	struct preparation *preparation = data;
	log_connection(channel_fd, peer);
	preparation->input = create_input(channel_fd, peer);
	int local_fd =
		preparation->input != NULL ? welcome(preparation, channel_fd, peer, session) : -1;
	if (local_fd < 0) {
		channel_input_destroy(preparation->input);
		close(channel_fd);
		return false;
	}
	session->local_fd = local_fd;
	session->channel_fd = channel_fd;
	session->channel_input = preparation->input;
	return true;
}

static uint32_t offer_global(void *data, const char *interface, uint32_t version)
{
	const struct preparation *preparation = data;
	return policy_offer(&preparation->options->policy, interface, version);
}

int host_session_run(struct host_options *options, int argc, char *argv[])
{
	struct preparation preparation = {
		.options = options, .argc = argc, .argv = argv, .context_fd = -1, .node = -1};
	const struct worker_config config = {
		.program = "fdferry-host",
		.options = &options->program,
		.exports = WIRE_EVENT,
		.limits = &options->limits,
		.attached = handle_attached,
		.strict_sandbox = true,
		.prepare = prepare,
		.offer_global = offer_global,
		.data = &preparation,
	};
	int status = worker_run(&config);
	if (preparation.context_fd >= 0) {
		close(preparation.context_fd);
	}
	resolver_destroy(preparation.resolver);
	resolver_destroy(preparation.handles);
	if (preparation.node >= 0) {
		close(preparation.node);
	}
	page_buffers_destroy(preparation.page_buffers);
	free(preparation.handout.policy);
	return status;
}
