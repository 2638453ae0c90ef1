#ifndef HOST_PROXY_PROBE_H
#define HOST_PROXY_PROBE_H

#include <stdbool.h>

/**
 * What a compositor has that cannot be seen of its globals in time: asked by a client of our own.
 */

struct probe {
	bool has_contexts; // wp_security_context_manager_v1
	// It takes dma-bufs that clients of a guest could make: linear ones, of a format that is
	// known.
	bool takes_dmabufs;
};

// compositor_fd is taken. 0, -ETIMEDOUT if it does not answer, or other -errno.
int probe_compositor(int compositor_fd, struct probe *probe);

#endif
