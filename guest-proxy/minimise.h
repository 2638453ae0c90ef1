#ifndef GUEST_PROXY_MINIMISE_H
#define GUEST_PROXY_MINIMISE_H

#include <stdbool.h>
#include <stddef.h>

struct guest_options;
struct recording;

/**
 * Finds which requests of a recording it takes to make a compositor go away.
 */

struct minimise_options {
	const struct guest_options *guest; // where the host is; borrowed
	const char *restart_command;       // of the shell; returns when the compositor was started
	size_t max_runs;
};

// Whether the compositor behind the host answers a wl_display.sync.
bool minimise_probe(const struct guest_options *guest);

// Leaves out of the recording what is not needed, chunk by chunk. *n_runs is how often it was
// played. False: the compositor does not go away again.
bool minimise_run(
	const struct minimise_options *options, struct recording *recording, size_t *n_runs);

#endif
