#ifndef TESTS_SUPPORT_CHANNEL_PAIR_H
#define TESTS_SUPPORT_CHANNEL_PAIR_H

/**
 * Two connected sockets that carry a channel: a UNIX socket pair, or AF_VSOCK over the loopback
 * device where the environment says FDFERRY_TEST_CHANNEL=vsock.
 */

// Both are blocking, CLOEXEC and the caller's. Aborts on failure.
void channel_pair_create(int fds[2]);
// How much each of the two holds that the other has not read, in bytes; at least what the kernel
// allows.
void channel_pair_limit(const int fds[2], int size);

#endif
