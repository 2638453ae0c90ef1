#ifndef HOST_PROXY_VMM_H
#define HOST_PROXY_VMM_H

#include "host-proxy/device_process.h"

struct event_base;
struct host_options;
struct server;
struct vmm;

/**
 * What the parent knows of a virtual machine one of whose devices we are: it listens for the VMM, starts
 * a device process for each of its connections, one at a time, and gives the server the guest's
 * connections, where the device is vsock.
 */

struct vmm_config {
	struct event_base *base; // borrowed, as what follows
	const struct host_options
		*options; // name the sockets of this machine that the device serves
	char *const *argv;
	struct server *server;
	enum device_record_type start; // DEVICE_START_VSOCK or DEVICE_START_GPU
	int listen_fd;                 // for the VMM; taken, also on failure
};

// NULL on failure, which has been logged.
struct vmm *vmm_create(const struct vmm_config *config);
// Ends the device process, once what it has is with the guest; waits for it. NULL is fine.
void vmm_destroy(struct vmm *vmm);

#endif
