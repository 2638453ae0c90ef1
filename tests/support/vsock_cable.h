#ifndef TESTS_SUPPORT_VSOCK_CABLE_H
#define TESTS_SUPPORT_VSOCK_CABLE_H

#include <stdbool.h>

/**
 * A connection between a guest and its host through the vsock device: a process of its own plays the
 * virtual machine, in which a program has connected to the host, and the device.
 */

// fds[0] is the guest's end, fds[1] the host's: blocking, CLOEXEC and the caller's. The process ends
// when both are closed. Aborts on failure.
void vsock_cable_create(int fds[2]);
// The same, where the device lends what the guest sends (host-proxy/loan.h): the host's end is for a
// borrower.
void vsock_cable_create_lending(int fds[2]);
// Waits for the process of the last one, whose ends are closed. False: something went wrong in it.
bool vsock_cable_wait(void);

#endif
