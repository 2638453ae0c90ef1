#ifndef BASE_CHILD_H
#define BASE_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct fdlist;

/**
 * Runs this program again (/proc/self/exe), so that the new process has an address-space layout of
 * its own. It has no fds but the standard ones and one end of a SOCK_SEQPACKET pair, whose number an
 * option of its command line says. Over the pair the two talk by records, each with fds beside it. Of the
 * standard ones, it can read none: a terminal is opened anew for writing.
 */

#define CHILD_RECORD_MAX 1024 // bytes

// argv with "option N" before the caller's own arguments, which may have a "--" in them. To be freed;
// the strings are borrowed. NULL on failure.
char **child_argv(char *const argv[], const char *option);

// argv is child_argv's. Our end of the pair, CLOEXEC, and *pid; or -errno.
int child_start(char *const argv[], pid_t *pid);

// fds, at most one, are the handler's to take; what it leaves is closed without waiting. record is aligned
// for any struct; one that was too long is cut. False: it makes no sense.
typedef bool (*child_record_func)(void *data, const void *record, size_t len, struct fdlist *fds);

enum child_reading {
	CHILD_GOES_ON,
	CHILD_GONE,     // the other end is closed
	CHILD_NONSENSE, // what came makes no sense; nothing after it was read
};

// Hands over at most max records that have come to an end of the pair. One with more than one fd makes no
// sense. One whose fd was lost, because this process has too many or too many wait to be closed, is left out.
enum child_reading child_read_records(
	int fd, unsigned int max, child_record_func handle, void *data);
// The same for a child that has ended: what was sent up to now and no more, since another process may have got
// hold of its end of the pair.
enum child_reading child_read_last(int fd, child_record_func handle, void *data);

#endif
