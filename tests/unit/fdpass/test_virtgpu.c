#include "fdpass/virtgpu.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"

#define PAGE 4096u

struct fixture {
	struct virtgpu *gpu;
	int client; // another opener of the render node
	int node;   // gpu's, as it has the same GEM handles
	struct gpu_buffer buffer;
};

static void begin(struct fixture *fixture)
{
	int node = dmabufs_open_gpu();
	if (node < 0) {
		print_message("no virtio-gpu\n");
		skip();
	}
	fixture->client = dmabufs_open_gpu();
	fixture->node = fcntl(node, F_DUPFD_CLOEXEC, 0);
	fixture->gpu = virtgpu_create(node);
	assert_non_null(fixture->gpu);
	gpu_buffer_init(&fixture->buffer, fixture->client);
}

static void end(struct fixture *fixture)
{
	assert_int_equal(gpu_next_handle(fixture->node, &fixture->buffer), 1);
	gpu_buffer_finish(&fixture->buffer);
	virtgpu_destroy(fixture->gpu);
	close(fixture->node);
	close(fixture->client);
}

static void a_buffer_has_the_resource_that_its_maker_knows(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	struct virtgpu_buffer *buffer = virtgpu_get(fixture.gpu, fixture.buffer.fd);
	assert_non_null(buffer);
	assert_int_equal(virtgpu_buffer_resource(buffer), fixture.buffer.resource);
	virtgpu_buffer_release(buffer);
	end(&fixture);
}

/* Two buffers, one of them twice: the third handle is free until the last use of the second is over. */
static void a_buffer_is_there_until_its_last_use_is_over(void **state)
{
	struct fixture fixture;
	struct gpu_buffer other, probe;
	(void)state;
	begin(&fixture);
	gpu_buffer_init(&other, fixture.client);
	gpu_buffer_init(&probe, fixture.client);
	struct virtgpu_buffer *first = virtgpu_get(fixture.gpu, fixture.buffer.fd);
	struct virtgpu_buffer *second = virtgpu_get(fixture.gpu, other.fd);
	assert_ptr_equal(virtgpu_get(fixture.gpu, other.fd), second);
	assert_int_equal(gpu_next_handle(fixture.node, &probe), 3);
	virtgpu_buffer_release(second);
	assert_int_equal(gpu_next_handle(fixture.node, &probe), 3);
	assert_int_equal(virtgpu_buffer_resource(second), other.resource);
	virtgpu_buffer_release(second);
	assert_int_equal(gpu_next_handle(fixture.node, &probe), 2);
	virtgpu_buffer_release(first);
	gpu_buffer_finish(&other);
	gpu_buffer_finish(&probe);
	end(&fixture);
}

static void what_others_have_made_is_not_its(void **state)
{
	struct fixture fixture;
	struct vgem_buffer vgem;
	int memory;
	(void)state;
	begin(&fixture);
	if (dmabufs_have_udmabuf()) {
		int fd = dmabufs_new(PAGE, &memory);
		assert_null(virtgpu_get(fixture.gpu, fd));
		assert_false(virtgpu_must_wait(fixture.gpu, NULL, fd));
		close(fd);
		close(memory);
	}
	if (vgem_buffer_init(&vgem)) {
		assert_null(virtgpu_get(fixture.gpu, vgem.fd));
		vgem_buffer_finish(&vgem);
	}
	assert_null(virtgpu_get(fixture.gpu, fixture.node));
	end(&fixture);
}

static unsigned int retries;

static void count_retry(void *data)
{
	(void)data;
	retries++;
}

static void a_new_one_waits_for_the_device(void **state)
{
	struct fixture fixture;
	struct ends ends;
	(void)state;
	begin(&fixture);
	ends_init_wayland(&ends);
	struct fdrefs *refs = &ends.guest.refs;
	refs->retried = count_retry;
	for (int i = 0; i < 20; i++) {
		struct gpu_buffer buffer;
		gpu_buffer_init(&buffer, fixture.client);
		while (virtgpu_must_wait(fixture.gpu, refs, buffer.fd)) {
			unsigned int before = retries;
			while (retries == before) {
				event_base_loop(ends.base, EVLOOP_ONCE);
			}
		}
		assert_false(virtgpu_must_wait(fixture.gpu, refs, buffer.fd));
		gpu_buffer_finish(&buffer);
	}
	ends_finish(&ends);
	end(&fixture);
}

static void who_waits_may_leave(void **state)
{
	struct fixture fixture;
	struct ends ends;
	struct gpu_buffer other;
	(void)state;
	begin(&fixture);
	ends_init_wayland(&ends);
	gpu_buffer_init(&other, fixture.client);
	virtgpu_must_wait(fixture.gpu, &ends.guest.refs, fixture.buffer.fd);
	virtgpu_must_wait(fixture.gpu, &ends.guest.refs, other.fd);
	gpu_buffer_finish(&other);
	ends_finish(&ends);
	end(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_buffer_has_the_resource_that_its_maker_knows),
		fd_count_test(a_buffer_is_there_until_its_last_use_is_over),
		fd_count_test(what_others_have_made_is_not_its),
		fd_count_test(a_new_one_waits_for_the_device),
		fd_count_test(who_waits_may_leave),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
