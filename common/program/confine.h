#ifndef PROGRAM_CONFINE_H
#define PROGRAM_CONFINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/sandbox.h"

/**
 * The sandbox of a session process (base/sandbox.h): it goes on with the fds that it has, those that it
 * is sent, and memory, pipes and sockets that it makes.
 */

struct confine_options {
	// The session is of a service that is not Wayland: fds of any kind cross, so devices that are the
	// same everywhere, render nodes and what /proc says of eventfds can be opened.
	bool any_kind;
	bool strict;         // as in struct sandbox_profile; and with the limits below
	uint64_t max_memory; // as in struct session_options
	uint64_t max_fds;
	bool maps_guest; // a guest's memory, of whatever size, so that there is no limit of mappings
	int session_fd;  // borrowed: RECORD_VIOLATION goes there
};

// Of a session of Wayland, and of one of another service. Zeros: not made yet.
struct confine_filters {
	struct sandbox_filter filters[2];
};

// Makes them, for a process that does not have its session yet. Calling it is up to the caller.
void confine_prepare(struct confine_filters *filters, bool strict);
void confine_finish(struct confine_filters *filters);

// 0, or -errno, which has been logged.
int confine_session(struct confine_filters *filters, const struct confine_options *options);

#endif
