#include "tests/support/pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel/channel.h"
#include "channel/input.h"
#include "fdpass/region.h"
#include "relay/session.h"
#include "tests/support/channel_pair.h"

#define HELLO_MS    10000
#define PLENTY      (1ull << 30) // of memory
#define MAX_OBJECTS 65536
#define MAX_FDS     4096

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static void make_socketpair(int fds[2], int type, int buffer)
{
	type = type != 0 ? type : SOCK_STREAM;
	check(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
	for (int i = 0; buffer != 0 && i < 2; i++) {
		check(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)) == 0,
			"SO_SNDBUF");
	}
}

static void handle_ended(void *data, const char *reason)
{
	struct pair_side *side = data;
	check(!side->over, "a session that ended twice");
	side->over = true;
	snprintf(side->reason, sizeof(side->reason), "%s", reason != NULL ? reason : "");
}

static struct region *make_region(const struct pair_options *options)
{
	if (!options->region) {
		return NULL;
	}
	uint64_t size = options->region_size;
	struct region *region = region_create(size != 0 ? size : CHANNEL_MAX_REGION);
	check(region != NULL, "a region");
	if (!options->no_region_rows) {
		region_agree(region);
	}
	return region;
}

/* node is what one side has timelines of; 0: none. */
static uint32_t features_of(const struct pair_options *options, int node)
{
	return (options->resolver != NULL ? CHANNEL_FEATURE_DMABUF : 0) |
		(options->handles != NULL ? CHANNEL_FEATURE_HANDLE : 0) |
		(options->page_buffers != NULL ? CHANNEL_FEATURE_PAGES : 0) |
		(options->no_region_rows ? 0 : CHANNEL_FEATURE_REGION_ROWS) |
		(node != 0 ? CHANNEL_FEATURE_TIMELINE : 0);
}

/* WELCOME of another kernel, whose clock is ahead. */
static void send_welcome(int fd, const struct handshake_hello *hello,
	const struct pair_options *options, const struct region *region)
{
	uint32_t features = features_of(options, options->host_node);
	if (options->clock == 0) {
		int region_fd = region != NULL ? region->fd : -1;
		check(handshake_welcome(fd, hello, features, region_fd, 0) == 0, "WELCOME");
		return;
	}
	struct {
		struct channel_header header;
		struct channel_welcome welcome;
	} frame = {
		.header = {.length = sizeof(frame.welcome), .type = CHANNEL_WELCOME},
		.welcome = {.magic = CHANNEL_MAGIC, .version = CHANNEL_VERSION, .boot_id = "other"},
	};
	uint64_t now = channel_clock() + (uint64_t)options->clock;
	channel_put64(frame.welcome.hello_clock, hello->clock);
	channel_put64(frame.welcome.received_clock, now);
	channel_put64(frame.welcome.sent_clock, now);
	check(send(fd, &frame, sizeof(frame), MSG_NOSIGNAL) == sizeof(frame), "WELCOME");
}

static void set_limits(struct budget *budget, const struct pair_options *options)
{
	uint64_t *most = budget->limits.most;
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		most[i] = PLENTY;
	}
	most[BUDGET_MEMORY] = options->max_memory != 0 ? options->max_memory : PLENTY;
	most[BUDGET_OBJECTS] = options->max_objects != 0 ? options->max_objects : MAX_OBJECTS;
	most[BUDGET_FDS] = options->max_fds != 0 ? options->max_fds : MAX_FDS;
}

static struct session_options session_options(const struct pair_options *options)
{
	return (struct session_options){
		.service = options->service,
		.rules = options->rules,
		.dmabufs = options->resolver != NULL,
		.ended = handle_ended,
	};
}

static void create_guest(struct pair *pair, struct event_base *base,
	const struct pair_options *options, int local_fd, int channel_fd)
{
	struct session_options guest = session_options(options);
	guest.base = base;
	set_limits(&pair->guest.budget, options);
	guest.budget = &pair->guest.budget;
	guest.exports = WIRE_REQUEST;
	guest.local_fd = local_fd;
	guest.channel_fd = channel_fd;
	bool fd = options->region && !options->loses_region;
	guest.channel_input = fd ? channel_input_create_with_fd(channel_fd) : NULL;
	guest.contents = options->contents;
	guest.device = options->device;
	guest.resolver = options->guest_resolver;
	guest.timelines = options->guest_node != 0;
	guest.node = options->guest_node;
	guest.virtgpu = options->virtgpu;
	guest.pinner = options->pinner;
	guest.data = &pair->guest;
	pair->guest.session = session_create(&guest);
	check(pair->guest.session != NULL, "the guest's session");
}

static void create_host(struct pair *pair, struct event_base *base,
	const struct pair_options *options, int local_fd, int channel_fd,
	struct channel_input *input, struct region *region)
{
	struct session_options host = session_options(options);
	host.base = options->host_base != NULL ? options->host_base : base;
	set_limits(&pair->host.budget, options);
	host.budget = &pair->host.budget;
	host.exports = WIRE_EVENT;
	host.local_fd = local_fd;
	host.channel_fd = channel_fd;
	host.channel_input = input;
	host.region = region;
	host.peer_contents = pair->hello.contents;
	host.n_peer_contents = pair->hello.n_contents;
	host.offer_global = options->offer_global;
	host.resolver = options->resolver;
	host.timelines = options->host_node != 0 &&
		(options->no_guest || (pair->hello.features & CHANNEL_FEATURE_TIMELINE) != 0);
	host.node = options->host_node;
	host.handles = options->handles;
	host.page_buffers = options->page_buffers;
	host.denied = options->denied;
	host.n_denied = options->n_denied;
	host.app_id_prefix = options->app_id_prefix;
	host.title_prefix = options->title_prefix;
	host.data = &pair->host;
	pair->host.session = session_create(&host);
	check(pair->host.session != NULL, "the host's session");
}

void pair_init(struct pair *pair, struct event_base *base, const struct pair_options *options)
{
	static const struct pair_options plain;
	options = options != NULL ? options : &plain;
	*pair = (struct pair){
		.client_fd = -1,
		.compositor_fd = -1,
		.guest_channel = -1,
		.host_channel = -1,
		.channel_fd = -1,
	};
	int channel[2], client[2], compositor[2];
	struct channel_input *input = NULL;
	struct region *region = NULL;
	if (options->make_channel != NULL) {
		options->make_channel(channel);
	} else {
		channel_pair_create(channel);
	}
	if (options->no_guest) {
		pair->channel_fd = channel[0];
	} else {
		struct handshake_hello hello = {.service = "wayland"};
		hello.features = features_of(options, options->guest_node);
		if (options->service != NULL) {
			snprintf(hello.service, sizeof(hello.service), "%s", options->service);
		}
		for (size_t i = 0; options->contents != NULL && i < options->contents->count; i++) {
			hello.contents[hello.n_contents++] = options->contents->entries[i].hash;
		}
		check(handshake_open(channel[0], &hello, 0) == 0, "HELLO");
	}
	struct handshake_hello *hello = &pair->hello;
	if (!options->no_host) {
		input = options->make_input != NULL ? options->make_input(channel[1])
						    : channel_input_create(channel[1]);
		check(input != NULL, "the host's input");
	}
	if (options->no_host) {
		pair->channel_fd = channel[1];
	} else if (!options->no_guest) {
		check(handshake_read(input, HELLO_MS, hello) == NULL, "HELLO");
		region = make_region(options);
		send_welcome(channel[1], hello, options, region);
	}
	if (options->channel_buffer != 0) {
		channel_pair_limit(channel, options->channel_buffer);
	}
	if (!options->no_guest) {
		make_socketpair(client, options->service_type, options->local_buffer);
		pair->client_fd = client[0];
		pair->guest_channel = channel[0];
		create_guest(pair, base, options, client[1], channel[0]);
	}
	if (!options->no_host) {
		make_socketpair(compositor, options->service_type, options->local_buffer);
		pair->compositor_fd = compositor[0];
		pair->host_channel = channel[1];
		create_host(pair, base, options, compositor[1], channel[1], input, region);
	}
}

static void close_left(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}

// What was charged has been given back.
static void check_budget(const struct budget *budget)
{
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		check(budget->used[i] == 0, "a budget that is not released");
	}
}

void pair_finish(struct pair *pair)
{
	session_destroy(pair->guest.session);
	session_destroy(pair->host.session);
	check_budget(&pair->guest.budget);
	check_budget(&pair->host.budget);
	close_left(&pair->client_fd);
	close_left(&pair->compositor_fd);
	close_left(&pair->channel_fd);
}

static int take(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

int pair_take_client(struct pair *pair)
{
	return take(&pair->client_fd);
}

int pair_take_compositor(struct pair *pair)
{
	return take(&pair->compositor_fd);
}
