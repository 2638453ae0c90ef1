#ifndef TESTS_SUPPORT_TCP_PAIR_H
#define TESTS_SUPPORT_TCP_PAIR_H

/**
 * Two connected sockets over which the kernel sends without copying (MSG_ZEROCOPY), as over AF_VSOCK in a
 * virtual machine, and as not over AF_UNIX.
 */

// CLOEXEC; the first one has SO_ZEROCOPY. Fails the test where there are none.
void tcp_pair(int pair[2]);

#endif
