#ifndef PROGRAM_WORKER_H
#define PROGRAM_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/schema.h"

struct budget_limits;
struct program_options;
struct session_options;

/**
 * A session process: waits for its parent to give it a connection, runs one session, reports, ends.
 */

// Who a connection is from.
struct worker_peer {
	uint32_t cid; // of a virtual machine; 0: by UNIX socket
	uint32_t port;
	bool by_device; // our own vsock device's, which lends (host-proxy/loan.h)
};

struct worker_config {
	const char *program;                   // name, for what it prints
	const struct program_options *options; // borrowed; session_fd is the parent's
	enum wire_direction exports;           // of the sessions
	const struct budget_limits *limits;    // of a session; borrowed
	bool keeps_contents;                   // what the session stores is reported
	// What server_attach was given when the session began; takes fd. Called before prepare; may
	// be NULL.
	void (*attached)(void *data, int fd);
	bool strict_sandbox; // no session without one, or with less than all of it
	// Makes of a connection what the session needs: local_fd, channel_fd and what else
	// the program decides. session->service is that of the listener. Takes fd. False: no session is to be; why has been logged, and the
	// peer told.
	bool (*prepare)(void *data, int fd, const struct worker_peer *peer,
		struct session_options *session);
	// As in session_options; may be NULL.
	uint32_t (*offer_global)(void *data, const char *interface, uint32_t version);
	void *data;
};

// The exit status.
int worker_run(const struct worker_config *config);

#endif
