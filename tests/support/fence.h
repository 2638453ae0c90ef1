#ifndef TESTS_SUPPORT_FENCE_H
#define TESTS_SUPPORT_FENCE_H

#include <stdbool.h>

#include "tests/support/dmabufs.h"

/**
 * sync_files for tests: of the kernel's vgem where there is one, and else eventfds, which are readable
 * when they have been signalled, too; see udmabuf.h.
 */

struct fence {
	struct vgem_buffer buffer; // of a real one
	int fd;                    // the sync_file: the test's
};

bool fences_are_real(void);
// One that has not signalled.
void fence_init(struct fence *fence);
void fence_signal(struct fence *fence);
// It still has not: see vgem_buffer_expect_busy.
void fence_expect_pending(const struct fence *fence);
void fence_finish(struct fence *fence);

#endif
