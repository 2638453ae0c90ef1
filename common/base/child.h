#ifndef BASE_CHILD_H
#define BASE_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct fdlist;

/**
 * Runs this program again (/proc/self/exe), so that the new process has an address-space layout of
 * its own. It has no fds but the standard ones and one end of a SOCK_SEQPACKET pair, whose number an
 * option of its command line says. Over the pair the two talk by records, each with fds beside it.
 */

#define CHILD_RECORD_MAX 1024 // bytes

// argv with "option N" before the caller's own arguments, which may have a "--" in them. To be freed;
// the strings are borrowed. NULL on failure.
char **child_argv(char *const argv[], const char *option);

// argv is child_argv's. Our end of the pair, CLOEXEC, and *pid; or -errno.
int child_start(char *const argv[], pid_t *pid);

// fds are the handler's to take; the rest is closed. record is aligned for any struct; one that was too
// long is cut.
typedef void (*child_record_func)(void *data, const void *record, size_t len, struct fdlist *fds);

// Hands over at most max records that have come to an end of the pair, each with one fd at most. False: the
// other one is gone.
bool child_read_records(int fd, unsigned int max, child_record_func handle, void *data);

#endif
