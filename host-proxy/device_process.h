#ifndef HOST_PROXY_DEVICE_PROCESS_H
#define HOST_PROXY_DEVICE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "host-proxy/ram_buffer.h"

struct event_base;
struct fdlist;
struct host_options;
struct device_process;

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

// What is one device's own.
struct device_process_device {
	const char *name; // of the process: 15 bytes at most
	// Makes the device of the fds that its record came with, which it takes. False with errno.
	bool (*start)(struct device_process *process, struct fdlist *fds);
	int (*enter_sandbox)(const struct host_options *options); // device_sandbox.h
	void (*terminate)(struct device_process *process);        // SIGTERM; NULL: it ends at once
	void (*finish)(struct device_process *process); // also what start has left half done
};

// What they have in common. A device embeds it, with the first three set and buffers.device -1.
struct device_process {
	const struct device_process_device *device;
	const struct host_options *options;
	char label[24]; // for what is logged
	struct event_base *base;
	struct ram_buffers buffers; // for start to open
	bool failed;
};

// Returns when the VMM has hung up or the parent asks; false if something went wrong, which has been logged.
bool device_process_serve(struct device_process *process, struct fdlist *fds);
// For a device whose data begins with a struct device_process: the VMM has hung up, or wrong has happened.
void device_process_handle_ended(void *data, const char *wrong);

// With --device-fd; the exit status.
int device_process_run(const struct host_options *options);

#endif
