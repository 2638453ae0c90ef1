#ifndef TESTS_SUPPORT_CARRIED_H
#define TESTS_SUPPORT_CARRIED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/pair.h"

struct event_base;
struct fdlist;

/**
 * A service of unknown protocol and its client, with both sessions between them. They are the test:
 * its two sockets, and whatever fds these carry.
 */

struct carried {
	struct event_base *base, *host_base;
	struct pair pair;
	int client, service; // -1: closed
};

// options may be NULL; its service is set.
void carried_init(struct carried *carried, const struct pair_options *options);
void carried_finish(struct carried *carried);

// Both sessions, or one of them, do what they can do at once.
void carried_turn(struct carried *carried);
void carried_turn_guest(struct carried *carried);
void carried_turn_host(struct carried *carried);
// Until they have nothing to do.
void carried_settle(struct carried *carried);
// Until it is true; fails the test after a long time.
void carried_wait(struct carried *carried, bool (*done)(void *data), void *data);
// Until both sessions are over.
void carried_wait_over(struct carried *carried);
// Closes both ends, and then both sessions end as they should.
void carried_leave(struct carried *carried);

// Closes *fd unless it is -1, which it is then.
void carried_close(int *fd);

#endif
