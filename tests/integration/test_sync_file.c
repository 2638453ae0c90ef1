#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xf86drm.h>
#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "fdpass/sync.h"
#include "tests/support/carried.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"

/*
 * Fences of a device: the kernel's vgem, whose fences are signalled by who has made them. The other
 * side's fences need a device with sync objects, such as virtio_gpu. Without both, this is skipped.
 */

#define SKIPPED 77 // for Meson

static bool has_objects(int node)
{
	uint64_t has = 0;
	return drmGetCap(node, DRM_CAP_SYNCOBJ, &has) == 0 && has != 0;
}

static bool can_make_fences(void)
{
	int node = sync_open_node(has_objects);
	if (node >= 0) {
		close(node);
	}
	return node >= 0;
}

/* A fence of vgem's: it signals when it is told to, or after ten seconds. */
struct fence {
	struct vgem_buffer buffer;
	int sync_file;
};

static void make_fence(struct fence *fence)
{
	assert_true(vgem_buffer_init(&fence->buffer));
	vgem_buffer_attach(&fence->buffer);
	struct dma_buf_export_sync_file export = {.flags = DMA_BUF_SYNC_READ, .fd = -1};
	assert_int_equal(drmIoctl(fence->buffer.fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &export), 0);
	assert_int_equal(fcntl(export.fd, F_SETFD, FD_CLOEXEC), 0);
	fence->sync_file = export.fd;
}

static bool is_readable(void *data)
{
	struct pollfd poll_fd = {.fd = *(int *)data, .events = POLLIN};
	return poll(&poll_fd, 1, 0) == 1;
}

static void send_with(int sock, const char *text, int fd)
{
	struct iovec iov = {(void *)text, strlen(text)};
	struct fdlist fds;
	fdlist_init(&fds);
	if (fd >= 0) {
		assert_true(fdlist_push(&fds, fd));
	}
	assert_int_equal(scm_send(sock, &iov, 1, &fds, fds.count), strlen(text));
	fdlist_finish(&fds);
}

/* A socket of the two programs beside their first one. */
static void make_other(struct carried *carried, int other[2])
{
	struct fdlist fds;
	char byte;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
	send_with(carried->client, "s", other[1]);
	carried_wait(carried, is_readable, &carried->service);
	fdlist_init(&fds);
	assert_int_equal(scm_recv(carried->service, &byte, 1, &fds), 1);
	other[1] = fdlist_take(&fds);
	fdlist_finish(&fds);
}

static void expect_signalled(int fd)
{
	struct sync_file_info info = {0};
	assert_true(is_readable(&fd));
	assert_int_equal(ioctl(fd, SYNC_IOC_FILE_INFO, &info), 0);
	assert_int_equal(info.status, 1);
}

static void a_message_waits_for_its_fence_and_nothing_else_does(void **state)
{
	(void)state;
	struct carried carried;
	struct fence fence;
	int other[2];
	char bytes[16];
	carried_init(&carried, NULL);
	make_other(&carried, other);
	make_fence(&fence);
	send_with(carried.client, "fence", fence.sync_file);
	carried_settle(&carried);
	send_with(other[0], "meanwhile", -1);
	carried_wait(&carried, is_readable, &other[1]);
	assert_int_equal(recv(other[1], bytes, sizeof(bytes), 0), strlen("meanwhile"));
	bool early = is_readable(&carried.service);
	vgem_buffer_expect_busy(&fence.buffer);
	assert_false(early);

	vgem_buffer_signal(&fence.buffer);
	carried_wait(&carried, is_readable, &carried.service);
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_recv(carried.service, bytes, sizeof(bytes), &fds), strlen("fence"));
	assert_memory_equal(bytes, "fence", strlen("fence"));
	assert_int_equal(fds.count, 1);
	int fd = fdlist_take(&fds);
	fdlist_finish(&fds);
	expect_signalled(fd);
	close(fd);
	vgem_buffer_finish(&fence.buffer);
	close(other[0]);
	close(other[1]);
	carried_leave(&carried);
	carried_finish(&carried);
}

int main(void)
{
	int card = dmabufs_open_card("vgem");
	if (card < 0 || !can_make_fences()) {
		fprintf(stderr, "no vgem, or no DRM device with sync objects\n");
		return SKIPPED;
	}
	close(card);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_message_waits_for_its_fence_and_nothing_else_does),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
