#ifndef PROGRAM_EVENTFDS_H
#define PROGRAM_EVENTFDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "program/records.h"

/**
 * The eventfds that sessions have passed: which name each has on its link, an fd of it, and which
 * sessions hand it out. Of those, one moves its counts, on both sides; which, is decided where the
 * name was given: the first. The next one begins on each side when the first has ended there, and
 * is told how far that one has come. What no session hands out any more is forgotten.
 *
 * Sessions of different links share nothing. A link is what the guest program has made up, and told
 * to nobody but the host, together with the virtual machine that it speaks from.
 */

#define EVENTFDS_PER_LINK 1024
#define EVENTFDS_MAX      8192 // in all; and no more than a quarter of our fds

struct eventfds {
	struct wl_list list; // eventfd.link
	size_t count, max;
	size_t max_per_vm; // a quarter of max, so that one leaves room for the others
	size_t max_per_session;
	uint64_t side; // in the names that are given here: CHANNEL_EVENT_HOST or 0
	uint64_t last; // name that was given
	bool untold;   // a session could not be told that it is its turn
	// Sends a session a note. fd is borrowed, -1 for none. False: it has gone, or reads too slowly.
	bool (*tell)(void *data, unsigned int session, const struct event_note *note, int fd);
	void *data;
};

// Who has sent a record: what is known of it without believing it.
struct eventfds_asker {
	unsigned int session; // its number
	uint32_t cid;         // of the other side; 0: no virtual machine's
};

// The fields without a default (max_per_session, side, tell, data) are the caller's to set after it.
void eventfds_init(struct eventfds *eventfds);
void eventfds_finish(struct eventfds *eventfds);

// Takes fd, -1 for none. A question is answered by tell, from within. False: the record makes no
// sense.
bool eventfds_handle(struct eventfds *eventfds, const struct eventfds_asker *asker,
	const struct record_event *record, int fd);
// The session has ended, and all that it has sent was handled. Where it has moved counts, another one is
// told to.
void eventfds_forget(struct eventfds *eventfds, unsigned int session);

#endif
