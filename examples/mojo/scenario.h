#ifndef EXAMPLES_MOJO_SCENARIO_H
#define EXAMPLES_MOJO_SCENARIO_H

#include <stdbool.h>
#include <stdint.h>

#include "examples/mojo/channel.h"

struct node;
struct run;

/**
 * What two nodes do with each other, and what each has to see. One of them starts; which one, is the
 * client's choice.
 */
struct scenario {
	const char *name;
	const char *text; // for --list
	// Called on both sides. The state is the scenario's own.
	void (*begin)(struct run *run);
	// A message on the main channel that is no business of the node's.
	void (*message)(struct run *run, struct mojo_message *message);
	// Another node of this process has joined or is gone. May be NULL.
	void (*nodes_changed)(struct run *run);
	// Both sides have told their results. Frees the state.
	void (*end)(struct run *run);
};

extern const struct scenario bootstrap_scenario;
extern const struct scenario nested_scenario;
extern const struct scenario round_trip_scenario;
extern const struct scenario introduce_scenario;
extern const struct scenario regions_scenario;
extern const struct scenario burst_scenario;
extern const struct scenario half_dead_scenario;
extern const struct scenario transfers_scenario;

// All of them, in the order in which they are run; NULL at the end.
extern const struct scenario *const scenarios[];
// NULL if there is none of that name.
const struct scenario *scenario_find(const char *name);

// Kinds of messages on the main channel: below are the node's own, above TRAFFIC_KINDS traffic's.
#define SCENARIO_KINDS 0x100u

/* One run of a scenario on one of the two sides. */
struct run {
	const struct scenario *scenario;
	struct node *node;
	struct event_base *base;
	bool from_client; // the client's side starts
	bool starts;      // this side starts
	uint64_t seed;    // the same on both sides
	uint32_t pause_ms;
	void *state;
	bool over, failed;
	long fds;                  // open before it began
	long fds_ours, fds_theirs; // by how much that had changed after the end
};

// A socket pair. A failure ends the run.
bool run_pair(struct run *run, int pair[2]);
// On the main channel. A failure ends the run. Takes fd, which may be -1.
void run_send(struct run *run, uint32_t kind, uint32_t number, int fd);
bool run_is_client(const struct run *run); // which side this is
enum mojo_format run_format(const struct run *run);

// What this side has seen, which must follow from the seed; the run is over here.
void run_done(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// What is wrong. Likewise, and the programs' status will tell. Only the first of the two counts.
void run_fail(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
