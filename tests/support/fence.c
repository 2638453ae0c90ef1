#include "tests/support/fence.h"

#include <fcntl.h>
#include <linux/dma-buf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <xf86drm.h>
#include <cmocka.h>

bool fences_are_real(void)
{
	static enum { UNKNOWN, REAL, STAND_INS } answer;
	if (answer == UNKNOWN) {
		int card = dmabufs_open_card("vgem");
		answer = card >= 0 ? REAL : STAND_INS;
		if (card >= 0) {
			close(card);
		}
	}
	return answer == REAL;
}

void fence_init(struct fence *fence)
{
	if (!fences_are_real()) {
		fence->fd = eventfd(0, EFD_CLOEXEC);
		assert_true(fence->fd >= 0);
		return;
	}
	struct dma_buf_export_sync_file export = {.flags = DMA_BUF_SYNC_READ, .fd = -1};
	assert_true(vgem_buffer_init(&fence->buffer));
	vgem_buffer_attach(&fence->buffer);
	assert_int_equal(drmIoctl(fence->buffer.fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &export), 0);
	assert_int_equal(fcntl(export.fd, F_SETFD, FD_CLOEXEC), 0);
	fence->fd = export.fd;
}

void fence_signal(struct fence *fence)
{
	if (fences_are_real()) {
		vgem_buffer_signal(&fence->buffer);
	} else {
		assert_int_equal(eventfd_write(fence->fd, 1), 0);
	}
}

void fence_expect_pending(const struct fence *fence)
{
	if (fences_are_real()) {
		vgem_buffer_expect_busy(&fence->buffer);
	}
}

void fence_finish(struct fence *fence)
{
	close(fence->fd);
	if (fences_are_real()) {
		vgem_buffer_finish(&fence->buffer);
	}
}
