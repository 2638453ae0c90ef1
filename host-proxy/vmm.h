#ifndef HOST_PROXY_VMM_H
#define HOST_PROXY_VMM_H

struct event_base;
struct host_options;
struct server;
struct vmm;

/**
 * What the parent knows of a virtual machine whose vsock device we are: it listens for the VMM, starts
 * a device process for each of its connections, one at a time, and gives the server the guest's
 * connections.
 */

// listen_fd is taken, also on failure; the rest is borrowed. NULL on failure, which has been logged.
struct vmm *vmm_create(struct event_base *base, const struct host_options *options,
	char *const argv[], struct server *server, int listen_fd);
// Ends the device process, once what it has is with the guest; waits for it. NULL is fine.
void vmm_destroy(struct vmm *vmm);

#endif
