#ifndef BASE_WORKERS_H
#define BASE_WORKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/fdlist.h"

struct event_base;
struct workers;

/**
 * One process per session. The parent keeps a spare process started ahead, so that a new connection
 * waits neither for fork nor for exec; each runs this program again (/proc/self/exe with the
 * parent's arguments and "--session-fd N"), so that every session has an address-space layout of
 * its own and no fd but the ones it was sent.
 *
 * Parent and worker talk by records of at most CHILD_RECORD_MAX bytes (base/child.h), each with fds beside
 * it; to the parent with one at most.
 */

struct workers_sender {
	unsigned int number; // that its session was assigned with; 0 as long as it has none
	pid_t pid;
};

struct workers_handler {
	// A worker sent a record. fds, at most one, are the handler's to take; what it leaves is closed
	// without waiting. False: it makes no sense, so the worker is somebody else's by now and is
	// killed.
	bool (*record)(void *data, const struct workers_sender *from, const void *record,
		size_t len, struct fdlist *fds);
	// A worker that had been given a session is gone; status is waitpid's.
	void (*gone)(void *data, const struct workers_sender *from, int status);
};

// argv is the parent's own, borrowed for the life of the workers. NULL with errno on failure.
struct workers *workers_create(struct event_base *base, char *const argv[],
	const struct workers_handler *handler, void *data);
// Ends every worker (SIGTERM, then SIGKILL after grace_ms) and waits for them.
void workers_destroy(struct workers *workers, int grace_ms);

// Gives a worker its session: the spare one, or one started now. 0, and all fds are taken; or
// -errno, and they are still the caller's.
int workers_assign(struct workers *workers, unsigned int number, const void *record, size_t len,
	struct fdlist *fds);
// Sends one more record to the worker that was assigned with number. fd is borrowed, -1 for none.
// Never blocks. 0 or -errno; -ESRCH: it is gone.
int workers_tell(
	struct workers *workers, unsigned int number, const void *record, size_t len, int fd);
// Workers that have a session.
size_t workers_busy(const struct workers *workers);
void workers_signal(struct workers *workers, int signal); // to those that have a session

// In the worker, which has made ready for a session: it is taken before those that have not.
void workers_ready(int session_fd);
// In the worker. Blocks until the parent assigns a session: the record's length, 0 if the parent is
// gone (the worker should exit), -errno.
ssize_t workers_receive(int session_fd, void *record, size_t len, struct fdlist *fds);
// Never blocks. fd is borrowed, -1 for none. 0, or -errno: the record is lost, as one that does not fit.
int workers_report(int session_fd, const void *record, size_t len, int fd);

#endif
