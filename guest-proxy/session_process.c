#include "guest-proxy/session_process.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/log.h"
#include "channel/input.h"
#include "fdpass/pages.h"
#include "fdpass/pinner.h"
#include "fdpass/resolver.h"
#include "fdpass/timeline.h"
#include "fdpass/virtgpu.h"
#include "guest-proxy/connection.h"
#include "guest-proxy/options.h"
#include "guest-proxy/refusal.h"
#include "guest-proxy/render_node.h"
#include "program/worker.h"
#include "relay/handshake.h"
#include "relay/session.h"

// The host is trusted; these are for accidents.
static const struct budget_limits limits = {
	.most =
		{
			[BUDGET_FDS] = GUEST_MAX_FDS,
			[BUDGET_MEMORY] = UINT64_C(2) << 30,
			[BUDGET_UNSENT] = 96 << 20,
			[BUDGET_OBJECTS] = 4 * 65536,
			[BUDGET_STREAMS] = 4096,
			[BUDGET_PENDING] = 1024,
			[BUDGET_POOLS] = 4096,
			[BUDGET_MAPPED] = UINT64_C(1) << 40,
			[BUDGET_FRAMES] = 4 * 65536,
			[BUDGET_FLIGHT] = 256,
		},
};

struct preparation {
	struct guest_options *options;
	struct dmabuf_device device;
	struct resolver *resolver;  // of the host's dma-bufs; NULL: there can be none here
	int node;                   // for timelines; -1: there is none, or nobody wants it
	struct virtgpu *virtgpu;    // NULL: none whose buffers can be named
	struct page_pinner *pinner; // NULL: pools do not go by their pages
};

// Whether the host may share a region. A recording could not have what is written there.
static bool takes_region(const struct guest_options *options, const struct session_options *session)
{
	return options->program.region && options->program.record == NULL &&
		session->service == NULL && options->connect.kind == TRANSPORT_UNIX;
}

static void close_node(struct preparation *preparation)
{
	if (preparation->node >= 0) {
		close(preparation->node);
		preparation->node = -1;
	}
}

// A service has no use for what timelines are made with.
static void hand_over_node(struct preparation *preparation, struct session_options *session)
{
	if (session->service != NULL) {
		close_node(preparation);
	}
	session->timelines = preparation->node >= 0;
	session->node = preparation->node;
}

// Whether the host may find the GPU's buffers by their names. A recording could not have their bytes.
static bool names_buffers(
	const struct preparation *preparation, const struct session_options *session)
{
	return preparation->virtgpu != NULL && session->service == NULL &&
		preparation->options->program.record == NULL;
}

// Only a host that is our VMM's vsock device can have the pages. Nor could a recording have what is in them.
static bool names_pages(const struct guest_options *options)
{
	return options->program.region && options->program.record == NULL &&
		options->connect.kind == TRANSPORT_VSOCK;
}

static struct page_pinner *open_pinner(const struct guest_options *options)
{
	struct page_pinner *pinner = names_pages(options) ? pinner_create() : NULL;
	if (pinner == NULL && names_pages(options)) {
		log_debug("pools do not go by their pages: %s", strerror(errno));
	}
	return pinner;
}

// Beside what every session offers.
static uint32_t features_of(
	const struct preparation *preparation, const struct session_options *session)
{
	bool pages = preparation->pinner != NULL && session->service == NULL;
	bool region = takes_region(preparation->options, session);
	return (region ? CHANNEL_FEATURE_REGION | CHANNEL_FEATURE_REGION_ROWS : 0) |
		(names_buffers(preparation, session) ? CHANNEL_FEATURE_HANDLE : 0) |
		(session->timelines ? CHANNEL_FEATURE_TIMELINE : 0) |
		(pages ? CHANNEL_FEATURE_PAGES : 0);
}

static bool prepare(
	void *data, int client_fd, const struct worker_peer *peer, struct session_options *session)
{
	(void)peer;
	struct preparation *preparation = data;
	const struct guest_options *options = preparation->options;
	struct handshake_text text;
	const char *service = session->service != NULL ? session->service : SERVICE_WAYLAND;
	bool region = takes_region(options, session);
	hand_over_node(preparation, session);
	session->channel_fd = connection_open(options, service, session->contents, session->link,
		features_of(preparation, session), &text);
	if (session->channel_fd < 0) {
		log_error("%s", text.text);
		if (session->service == NULL) {
			refusal_send(client_fd, text.text);
		}
		close(client_fd);
		return false;
	}
	// NULL is an input, too, which has no room for an fd.
	session->channel_input = region ? channel_input_create_with_fd(session->channel_fd) : NULL;
	session->local_fd = client_fd;
	session->device = preparation->device;
	session->resolver = preparation->resolver;
	session->virtgpu = preparation->virtgpu;
	session->pinner = preparation->pinner;
	return true;
}

// What dma-bufs need, while files can be opened.
static void find_devices(struct preparation *preparation)
{
	struct program_options *options = &preparation->options->program;
	int virtgpu = -1;
	if (!options->no_dmabuf) {
		options->no_dmabuf = !render_node_find(&preparation->device, &virtgpu);
	}
	if (virtgpu >= 0 && options->no_dmabuf) {
		close(virtgpu);
	} else if (virtgpu >= 0) {
		preparation->virtgpu = virtgpu_create(virtgpu);
	}
	if (!options->no_dmabuf) {
		preparation->node = timeline_open_node();
		preparation->resolver = resolver_create_copy();
	}
}

int guest_session_run(struct guest_options *options)
{
	struct preparation preparation = {
		.options = options, .node = -1, .pinner = open_pinner(options)};
	find_devices(&preparation);
	const struct worker_config config = {
		.program = "fdferry-guest",
		.options = &options->program,
		.exports = WIRE_REQUEST,
		.limits = &limits,
		.keeps_contents = true,
		.prepare = prepare,
		.data = &preparation,
	};
	int status = worker_run(&config);
	resolver_destroy(preparation.resolver);
	close_node(&preparation);
	virtgpu_destroy(preparation.virtgpu);
	page_pinner_destroy(preparation.pinner);
	return status;
}
