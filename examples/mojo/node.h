#ifndef EXAMPLES_MOJO_NODE_H
#define EXAMPLES_MOJO_NODE_H

#include <stdbool.h>
#include <stdint.h>
#include <wayland-util.h>

#include "examples/mojo/channel.h"

struct event_base;
struct node;
struct run;
struct scenario;

/**
 * One end of a connection between a client and the service: the first socket, which carries nothing
 * but an invitation with the main channel's socket, the main channel, and the scenario that is being
 * run.
 */
struct node_handler {
	// Client: both sides have told what they saw, and have put everything away. The texts are
	// borrowed.
	void (*run_over)(void *data, const struct run *run, const char *ours, const char *theirs);
	// A joined client: it is introduced to somebody. Takes fd.
	void (*introduced)(void *data, bool from_client, int fd);
	// The connection is gone, whatever the reason (NULL: an orderly end). May destroy the node.
	void (*ended)(void *data, struct node *node, const char *wrong);
};

/* The connections of this process. */
struct node_group {
	struct event_base *base;
	struct wl_list nodes; // node.link
	const struct node_handler *handler;
	void *data;
	char *const *second_client; // argv of a client that joins; NULL at the service
	unsigned int failures;      // what was wrong, so far
};

// base, handler, data and second_client are borrowed.
void node_group_init(struct node_group *group, struct event_base *base,
	const struct node_handler *handler, void *data);
void node_group_finish(struct node_group *group); // destroys its nodes

// Both take fd, a connected socket, also on failure. NULL on failure.
struct node *node_create_client(struct node_group *group, int fd, enum mojo_format format);
struct node *node_create_service(struct node_group *group, int fd);
void node_destroy(struct node *node);

// Client: both sides run it. One at a time.
void node_run(struct node *node, const struct scenario *scenario, bool from_client, uint64_t seed,
	uint32_t pause_ms);
// Client: waits to be introduced to another client.
void node_join(struct node *node);
// Service: introduces its client to who has the other end of fd. Takes fd.
void node_introduce(struct node *node, bool from_client, int fd);
// The node of the group whose client has joined; NULL: none.
struct node *node_group_joined(struct node_group *group);
struct node_group *node_group_of(const struct node *node);

// The seed of one run, the same on both sides and in a second client.
uint64_t node_run_seed(uint64_t seed, const struct scenario *scenario, bool from_client);

// Fds that this process has open.
long node_open_fds(void);

#endif
