#ifndef PROGRAM_RECORDS_H
#define PROGRAM_RECORDS_H

#include <stdint.h>

#include "base/budget.h"
#include "fdpass/content.h"
#include "fdpass/event.h"
#include "program/worker.h"
#include "relay/stats.h"

/**
 * What parent and session processes tell each other (base/workers.h). Both are the same program, so
 * these are plain structs; but a session process may have been taken over by its peer, so the
 * parent checks what it gets.
 */

enum record_type {
	RECORD_SESSION = 1,
	RECORD_STORED,
	RECORD_STATS,
	RECORD_VIOLATION, // struct sandbox_violation, from a worker that is about to die of it
	RECORD_DENIED,
	RECORD_EVENT,
	RECORD_LEFT,
};

// To the worker. Fds: the connection, what the parent has attached, the VM's page, then n_contents files.
struct record_session {
	uint32_t type;
	uint32_t number;
	uint32_t service; // server_listener.service
	struct worker_peer peer;
	uint32_t attached; // 1 or 0 fds
	uint8_t link[16];  // of the guest's sessions
	// 1: the fd of its VM's page comes, too, and slot is the session's place there
	uint32_t of_vm;
	uint32_t slot;
	uint32_t n_contents;
	struct content_hash contents[CONTENT_STORE_MAX];
};

// From the worker: a file that is worth keeping for later sessions. Fd: the file.
struct record_stored {
	uint32_t type;
	struct content_hash hash;
};

// From the worker: who connected was turned away. Many processes could write many lines of it, so the
// parent logs it.
struct record_denied {
	uint32_t type;
	char text[316]; // with a NUL
};

// Either way, about an eventfd that several sessions may pass. Fd: one, or none.
struct record_event {
	uint32_t type;
	uint8_t link[16]; // of HELLO; not on the way to the worker
	struct event_note note;
};

// From the worker at its end: what it was charged for and nobody has read. Fd: the socket in which it is.
struct record_left {
	uint32_t type;
	uint64_t amounts[BUDGET_COUNT];
};

// From the worker, once, at its end.
struct record_stats {
	uint32_t type;
	struct stats stats;
};

#endif
