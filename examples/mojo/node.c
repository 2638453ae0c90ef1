#include "examples/mojo/node.h"

#include <assert.h>
#include <dirent.h>
#include <endian.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "examples/mojo/pattern.h"
#include "examples/mojo/scenario.h"

#define NAME_SIZE   32
#define RESULT_SIZE 512

enum {
	INVITATION = 1, // with the main channel's socket; NAME_SIZE bytes, so that it has a size
	RUN,            // struct run_request; by the client
	RESULT,         // number: whether it failed; a text without NUL; by the service
	END,            // by the client: everything may be put away
	ENDED,          // number: by how much the count of fds has changed; by the service
	JOIN,           // by a client that wants to be introduced
	INTRODUCED,     // number: whether a client started it; with a socket; by the service
};

struct run_request {
	char name[NAME_SIZE]; // of the scenario, filled up with NUL
	uint64_t seed;
	uint32_t pause_ms;
	uint32_t from_client;
};
static_assert(sizeof(struct run_request) == 48, "run request");

struct node {
	struct wl_list link; // node_group.nodes
	struct node_group *group;
	bool is_client, joined;
	struct mojo_channel *first, *main;
	struct run run; // scenario NULL: none
	char ours[RESULT_SIZE], theirs[RESULT_SIZE];
	bool have_theirs;
	bool ending; // END was sent
};

long node_open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	if (dir == NULL) {
		return -1;
	}
	long n = -3; // itself and the two names of directories
	while (readdir(dir) != NULL) {
		n++;
	}
	closedir(dir);
	return n;
}

static void report_wrong(struct node *node, const char *text)
{
	log_error("%s", text);
	node->group->failures++;
}

/* The last thing that is done with the node. */
static void end(struct node *node, const char *wrong)
{
	if (wrong != NULL) {
		report_wrong(node, wrong);
	} else if (node->run.scenario != NULL) {
		report_wrong(node, "the connection ended inside a case");
	}
	node->group->handler->ended(node->group->data, node, wrong);
}

/* What has come early for a later message is not the run's. */
static long count_fds(const struct node *node)
{
	return node_open_fds() - (long)mojo_channel_waiting_handles(node->main);
}

static void begin_run(struct node *node, const struct scenario *scenario, bool from_client,
	uint64_t seed, uint32_t pause_ms)
{
	node->have_theirs = false;
	node->ending = false;
	node->theirs[0] = '\0';
	node->run = (struct run){
		.scenario = scenario,
		.node = node,
		.base = node->group->base,
		.from_client = from_client,
		.starts = from_client == node->is_client,
		.seed = seed,
		.pause_ms = pause_ms,
		.fds = count_fds(node),
	};
	scenario->begin(&node->run);
}

/* Returns by how much the number of open fds has changed. */
static long end_run(struct node *node)
{
	node->run.scenario->end(&node->run);
	long change = count_fds(node) - node->run.fds;
	if (change != 0) {
		log_error("%s: %ld more fds open than before", node->run.scenario->name, change);
		node->group->failures++;
	}
	return change;
}

static void finish_if_over(struct node *node)
{
	bool over = node->have_theirs || node->run.failed;
	if (node->is_client && node->run.over && over && !node->ending) {
		node->ending = true;
		mojo_channel_send(node->main, END, 0, NULL, 0, NULL);
	}
}

static void tell(struct run *run, bool failed, const char *fmt, va_list args)
{
	struct node *node = run->node;
	if (run->over) {
		return;
	}
	run->over = true;
	run->failed = failed;
	int prefix = snprintf(node->ours, sizeof(node->ours), "%s", failed ? "FAILED: " : "");
	vsnprintf(node->ours + prefix, sizeof(node->ours) - (size_t)prefix, fmt, args);
	if (failed) {
		log_error("%s: %s", run->scenario->name, node->ours);
		node->group->failures++;
	}
	if (!node->is_client) {
		mojo_channel_send(node->main, RESULT, failed, node->ours, strlen(node->ours), NULL);
	}
	finish_if_over(node);
}

void run_done(struct run *run, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	tell(run, false, fmt, args);
	va_end(args);
}

void run_fail(struct run *run, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	tell(run, true, fmt, args);
	va_end(args);
}

void run_send(struct run *run, uint32_t kind, uint32_t number, int fd)
{
	bool ok = fd >= 0 ? mojo_channel_send_fd(run->node->main, kind, number, fd)
			  : mojo_channel_send(run->node->main, kind, number, NULL, 0, NULL);
	if (!ok) {
		run_fail(run, "a message cannot be sent");
	}
}

enum mojo_format run_format(const struct run *run)
{
	return mojo_channel_format(run->node->main);
}

static void handle_run(struct node *node, const struct mojo_message *message)
{
	struct run_request request;
	if (message->size != sizeof(request) || node->run.scenario != NULL) {
		report_wrong(node, "a request that is not one");
		return;
	}
	memcpy(&request, message->data, sizeof(request));
	request.name[NAME_SIZE - 1] = '\0';
	const struct scenario *scenario = scenario_find(request.name);
	if (scenario == NULL) {
		report_wrong(node, "a request for an unknown case");
		return;
	}
	begin_run(node, scenario, request.from_client != 0, le64toh(request.seed),
		le32toh(request.pause_ms));
}

static void handle_result(struct node *node, const struct mojo_message *message)
{
	size_t size = message->size < RESULT_SIZE ? message->size : RESULT_SIZE - 1;
	memcpy(node->theirs, message->data, size);
	node->theirs[size] = '\0';
	node->have_theirs = true;
	node->group->failures += message->number;
	if (message->number != 0) { // perhaps ours waits for what will never come
		run_fail(&node->run, "the service has failed");
	}
	finish_if_over(node);
}

static void handle_end(struct node *node)
{
	long change = end_run(node);
	node->run.scenario = NULL;
	mojo_channel_send(node->main, ENDED, (uint32_t)change, NULL, 0, NULL);
}

static void handle_ended_run(struct node *node, const struct mojo_message *message)
{
	node->run.fds_theirs = (int32_t)message->number;
	node->run.fds_ours = end_run(node);
	node->group->failures += message->number != 0;
	const struct run run = node->run;
	node->run.scenario = NULL;
	node->group->handler->run_over(node->group->data, &run, node->ours, node->theirs);
}

static void tell_group(struct node_group *group)
{
	struct node *node, *next;
	wl_list_for_each_safe (node, next, &group->nodes, link) {
		if (node->run.scenario != NULL && node->run.scenario->nodes_changed != NULL) {
			node->run.scenario->nodes_changed(&node->run);
		}
	}
}

static void handle_introduced(struct node *node, struct mojo_message *message)
{
	int fd = fdlist_take(&message->handles);
	if (fd < 0) {
		report_wrong(node, "an introduction without a socket");
		return;
	}
	node->group->handler->introduced(node->group->data, message->number != 0, fd);
}

static void handle_service_message(struct node *node, struct mojo_message *message)
{
	switch (message->kind) {
	case RUN:
		handle_run(node, message);
		break;
	case END:
		if (node->run.scenario != NULL) {
			handle_end(node);
		}
		break;
	case JOIN:
		node->joined = true;
		tell_group(node->group);
		break;
	default:
		report_wrong(node, "a message of an unknown kind");
		break;
	}
}

static void handle_client_message(struct node *node, struct mojo_message *message)
{
	if (message->kind == INTRODUCED && node->group->handler->introduced != NULL) {
		handle_introduced(node, message);
	} else if (message->kind == RESULT && node->run.scenario != NULL) {
		handle_result(node, message);
	} else if (message->kind == ENDED && node->run.scenario != NULL) {
		handle_ended_run(node, message);
	} else {
		report_wrong(node, "a message of an unknown kind");
	}
}

static void handle_main_message(void *data, struct mojo_message *message)
{
	struct node *node = data;
	if (message->kind >= SCENARIO_KINDS && node->run.scenario != NULL) {
		node->run.scenario->message(&node->run, message);
	} else if (node->is_client) {
		handle_client_message(node, message);
	} else {
		handle_service_message(node, message);
	}
}

static void handle_ended(void *data, const char *wrong)
{
	end(data, wrong);
}

static const struct mojo_channel_handler main_handler = {
	.message = handle_main_message,
	.ended = handle_ended,
};

/* Service. */
static void handle_invitation(void *data, struct mojo_message *message)
{
	struct node *node = data;
	if (message->kind != INVITATION || message->handles.count != 1 || node->main != NULL) {
		report_wrong(node, "a first message that is no invitation");
		return;
	}
	node->main = mojo_channel_create(node->group->base, fdlist_take(&message->handles),
		mojo_channel_format(node->first), &main_handler, node);
	if (node->main == NULL) {
		report_wrong(node, "there is no main channel");
	}
}

static const struct mojo_channel_handler first_handler = {
	.message = handle_invitation,
	.ended = handle_ended,
};

void node_group_init(struct node_group *group, struct event_base *base,
	const struct node_handler *handler, void *data)
{
	*group = (struct node_group){.base = base, .handler = handler, .data = data};
	wl_list_init(&group->nodes);
}

void node_group_finish(struct node_group *group)
{
	struct node *node, *next;
	wl_list_for_each_safe (node, next, &group->nodes, link) {
		node_destroy(node);
	}
}

static struct node *create(struct node_group *group, bool is_client)
{
	struct node *node = calloc(1, sizeof(*node));
	if (node != NULL) {
		node->group = group;
		node->is_client = is_client;
		wl_list_insert(&group->nodes, &node->link);
	}
	return node;
}

/* Sends one end of a pair on the first socket, and talks on the other. */
static bool invite(struct node *node)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		return false;
	}
	node->main = mojo_channel_create(
		node->group->base, pair[0], mojo_channel_format(node->first), &main_handler, node);
	struct fdlist handles;
	fdlist_init(&handles);
	const char filler[NAME_SIZE] = "mojo";
	bool ok = fdlist_push(&handles, pair[1]) && node->main != NULL &&
		mojo_channel_send(node->first, INVITATION, 0, filler, sizeof(filler), &handles);
	fdlist_finish(&handles);
	return ok;
}

struct node *node_create_client(struct node_group *group, int fd, enum mojo_format format)
{
	struct node *node = create(group, true);
	if (node == NULL) {
		close(fd);
		return NULL;
	}
	node->first = mojo_channel_create(group->base, fd, format, &first_handler, node);
	if (node->first == NULL || !invite(node)) {
		node_destroy(node);
		return NULL;
	}
	return node;
}

struct node *node_create_service(struct node_group *group, int fd)
{
	struct node *node = create(group, false);
	if (node == NULL) {
		close(fd);
		return NULL;
	}
	node->first = mojo_channel_create_detecting(group->base, fd, &first_handler, node);
	if (node->first == NULL) {
		node_destroy(node);
		return NULL;
	}
	return node;
}

void node_destroy(struct node *node)
{
	if (node->run.scenario != NULL) {
		node->run.over = true; // nobody is left to be told
		node->run.scenario->end(&node->run);
	}
	wl_list_remove(&node->link);
	tell_group(node->group);
	mojo_channel_destroy(node->main);
	mojo_channel_destroy(node->first);
	free(node);
}

void node_run(struct node *node, const struct scenario *scenario, bool from_client, uint64_t seed,
	uint32_t pause_ms)
{
	struct run_request request = {
		.seed = htole64(seed),
		.pause_ms = htole32(pause_ms),
		.from_client = from_client,
	};
	snprintf(request.name, sizeof(request.name), "%s", scenario->name);
	mojo_channel_send(node->main, RUN, 0, &request, sizeof(request), NULL);
	begin_run(node, scenario, from_client, seed, pause_ms);
}

void node_join(struct node *node)
{
	mojo_channel_send(node->main, JOIN, 0, NULL, 0, NULL);
}

void node_introduce(struct node *node, bool from_client, int fd)
{
	mojo_channel_send_fd(node->main, INTRODUCED, from_client, fd);
}

struct node *node_group_joined(struct node_group *group)
{
	struct node *node;
	wl_list_for_each (node, &group->nodes, link) {
		if (node->joined) {
			return node;
		}
	}
	return NULL;
}

struct node_group *node_group_of(const struct node *node)
{
	return node->group;
}

uint64_t node_run_seed(uint64_t seed, const struct scenario *scenario, bool from_client)
{
	return pattern_number(pattern_named(seed, scenario->name), from_client);
}
