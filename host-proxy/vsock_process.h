#ifndef HOST_PROXY_VSOCK_PROCESS_H
#define HOST_PROXY_VSOCK_PROCESS_H

#include <stdbool.h>

struct fdlist;
struct host_options;

/**
 * The device process that is a VM's vsock device. It hands connections to the parent, and those that
 * --vsock-port names to sockets of this machine.
 */

// As device_process_serve; fds are those of DEVICE_START_VSOCK.
bool vsock_process_run(const struct host_options *options, struct fdlist *fds);

#endif
