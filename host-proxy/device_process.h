#ifndef HOST_PROXY_DEVICE_PROCESS_H
#define HOST_PROXY_DEVICE_PROCESS_H

#include <stdint.h>

struct host_options;

/**
 * A process that is a device of one virtual machine, for one connection of its VMM. It parses what a
 * guest writes into its memory, so it is not the parent, and can do little (device_sandbox.h).
 */

enum device_record_type {
	// To a vsock device. Fds: the VMM's connection, then a listening socket for each of to_guest.
	DEVICE_START_VSOCK = 1,
	// To a GPU. Fds: the VMM's connection, and a listening socket of --resolver.
	DEVICE_START_GPU,
	// From a vsock device. Fd: the connection of a guest's port.
	DEVICE_CONNECTION,
	// From the device, which is about to die of it: a struct sandbox_violation.
	DEVICE_VIOLATION,
};

struct device_record {
	uint32_t type;
	uint32_t port; // of DEVICE_CONNECTION
};

// With --device-fd; the exit status.
int device_process_run(const struct host_options *options);

#endif
