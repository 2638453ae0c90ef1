#ifndef BASE_GUARD_H
#define BASE_GUARD_H

#include <stdbool.h>

/**
 * Reads memory that its owner may truncate meanwhile. Where a system call can do the reading, that
 * is better: it says EFAULT.
 */

// Calls func, and returns false if SIGBUS ended it half way. func must hold nothing that needs to be
// released. Not to be nested.
bool guard_run(void (*func)(void *data), void *data);

#endif
