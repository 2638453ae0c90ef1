#ifndef TESTS_SUPPORT_LINGERING_H
#define TESTS_SUPPORT_LINGERING_H

/**
 * A socket whose last close(2) waits for an hour, or until its peer is closed.
 */

// CLOEXEC and the caller's, as *peer, which is to be closed after it. -1: this machine has no network, not
// even its own.
int lingering_create(int *peer);

#endif
