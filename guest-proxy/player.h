#ifndef GUEST_PROXY_PLAYER_H
#define GUEST_PROXY_PLAYER_H

#include <stdbool.h>
#include <stddef.h>

struct guest_options;
struct recording;

/**
 * Plays the guest's half of a recorded Wayland session to a host. protocol/record.md, "Replay".
 */

struct player_options {
	const struct guest_options *guest; // where the host is; borrowed
	double speed;                      // 1: as recorded; 0: as fast as the host takes it
	bool hold;                         // do not end the session: wait for SIGINT or SIGTERM
	unsigned int patience_ms;          // how long to wait for what had come in the recording
};

struct player_result {
	bool complete;     // all was sent, or what could be
	bool stopped;      // by a signal
	bool welcomed;     // the host has taken the session
	size_t frames;     // sent
	size_t left_out;   // requests that could not be made of this compositor
	size_t given_up;   // waits
	char reason[2048]; // why it is not complete
};

// Blocks until the session is over.
void player_run(const struct player_options *options, const struct recording *recording,
	struct player_result *result);

#endif
