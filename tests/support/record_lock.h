#ifndef TESTS_SUPPORT_RECORD_LOCK_H
#define TESTS_SUPPORT_RECORD_LOCK_H

#include <stdbool.h>

/**
 * Whether this process has closed an fd of a file, by whatever number: close(2) gives up the process's record
 * locks on the file. It is also what asks a FUSE file's server, and waits for it. What the kernel drops
 * before it has a number does neither.
 */

// Of the whole file.
void record_lock_take(int fd);
bool record_lock_is_held(int fd);

#endif
