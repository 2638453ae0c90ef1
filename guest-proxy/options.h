#ifndef GUEST_PROXY_OPTIONS_H
#define GUEST_PROXY_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "channel/transport.h"
#include "program/options.h"

// fdrefs of a session: the host is trusted, this is for accidents.
#define GUEST_MAX_FDS 4096

// --replay and what only it can be told.
struct replay_options {
	const char *path; // NULL: none
	double speed;     // 1: as recorded; 0: as fast as possible
	bool speed_given;
	bool mutate;
	uint64_t seed;
	bool hold;
	const char *restart_command; // NULL: none
};

struct guest_options {
	struct program_options program; // first
	struct transport connect;
	const char *connect_text; // as it was given; NULL until then
	const char *display;      // NULL: the first free one, if any (guest_options_serve_wayland)
	char **command;           // NULL: none
	struct replay_options replay;
};

// OPTIONS_STATUS_RUN, or the status to exit with at once. What is kept points into argv.
int guest_options_parse(struct guest_options *options, int argc, char *argv[]);

// Whether we are to be a display: not if all that is asked for is other services.
bool guest_options_serve_wayland(const struct guest_options *options);

#endif
