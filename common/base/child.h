#ifndef BASE_CHILD_H
#define BASE_CHILD_H

#include <sys/types.h>

/**
 * Runs this program again (/proc/self/exe), so that the new process has an address-space layout of
 * its own. It has no fds but the standard ones and one end of a SOCK_SEQPACKET pair, whose number an
 * option of its command line says.
 */

// argv with "option N" before the caller's own arguments, which may have a "--" in them. To be freed;
// the strings are borrowed. NULL on failure.
char **child_argv(char *const argv[], const char *option);

// argv is child_argv's. Our end of the pair, CLOEXEC, and *pid; or -errno.
int child_start(char *const argv[], pid_t *pid);

#endif
