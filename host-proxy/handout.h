#ifndef HOST_PROXY_HANDOUT_H
#define HOST_PROXY_HANDOUT_H

#include "host-proxy/compositor.h"

/**
 * What the parent has found out, for its session processes to read: a sealed memory file.
 */

struct handout {
	struct compositor_id without_contexts; // has no security contexts; zeros: nobody knows
	struct compositor_id with_dmabufs;     // takes dma-bufs of guests; zeros: nobody knows
	char *policy;                          // text of the policy file; NULL: there is none
};

// A CLOEXEC fd; -errno on failure.
int handout_store(const struct handout *handout);
// fd is borrowed, handout->policy the caller's to free. 0 or -errno.
int handout_load(struct handout *handout, int fd);

#endif
