#ifndef PROGRAM_LEFTOVERS_H
#define PROGRAM_LEFTOVERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "base/budget.h"

/**
 * Sockets of sessions that have ended whose readers have not taken what was written to them, fds among it.
 * The kernel keeps that for them, so it stays charged to the VM: else sessions that come and go could
 * fill a service that reads nothing again and again.
 */

// Sockets. A VM that has so many begins no more sessions until some are read;
#define LEFTOVERS_FULL 256
// what those that run leave beyond this is not charged.
#define LEFTOVERS_MAX 1024

// Embedded in a VM.
struct leftovers {
	struct wl_list list; // struct leftover
	size_t count;
	uint64_t charged[BUDGET_COUNT];
};

void leftovers_init(struct leftovers *leftovers);
void leftovers_finish(struct leftovers *leftovers);

// Takes fd, which a session has sent: nothing but a UNIX socket has to be looked at, and is; false for others.
bool leftovers_add(struct leftovers *leftovers, int fd, const uint64_t amounts[BUDGET_COUNT]);
// Lets go of those that were read. False: none are left.
bool leftovers_look(struct leftovers *leftovers);

#endif
