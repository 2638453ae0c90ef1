#include <drm_fourcc.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xf86drm.h>
#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "fdpass/resolver.h"
#include "fdpass/virtgpu.h"
#include "linux-dmabuf-client.h"
#include "relay/session.h"
#include "tests/support/dmabuf_screen.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"
#include "tests/support/udmabuf.h"
#include "tests/support/world.h"

/*
 * Buffers of virtio-gpu that are named, not copied. In one machine guest and host are the same, so the resolver
 * is a thread that gives back what the client has made.
 */

#define SKIPPED     77 // for Meson
#define QUIET_TURNS 50
#define MAX_KNOWN   4
#define CYCLES      10000
#define AGAIN       50

struct service {
	pthread_t thread;
	pthread_mutex_t lock;
	int socket;
	const struct gpu_buffer *known[MAX_KNOWN]; // NULL: none
	unsigned int asked;
};

static int known_fd(struct service *service, uint32_t resource)
{
	int fd = -1;
	pthread_mutex_lock(&service->lock);
	service->asked++;
	for (size_t i = 0; i < MAX_KNOWN; i++) {
		if (service->known[i] != NULL && service->known[i]->resource == resource) {
			fd = fcntl(service->known[i]->fd, F_DUPFD_CLOEXEC, 0);
		}
	}
	pthread_mutex_unlock(&service->lock);
	return fd;
}

static bool answer(const struct service *service, int fd)
{
	const char *text = fd < 0 ? "\"Invalid\""
				  : "{\"Resource\":{\"Buffer\":{\"handle\":0,\"planes\":[],"
				    "\"modifier\":0}}}";
	struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	struct fdlist fds;
	fdlist_init(&fds);
	bool ok = fd < 0 || fdlist_push(&fds, fd);
	ok = ok && scm_send(service->socket, &iov, 1, &fds, fds.count) > 0;
	fdlist_finish(&fds);
	return ok;
}

static void *serve(void *data)
{
	struct service *service = data;
	char text[256];
	ssize_t n;
	bool ok = true;
	while (ok && (n = recv(service->socket, text, sizeof(text) - 1, 0)) > 0) {
		uint32_t resource;
		text[n] = '\0';
		ok = sscanf(text, "{\"GetBuffer\":{\"id\":%u}}", &resource) == 1 &&
			answer(service, known_fd(service, resource));
	}
	return NULL;
}

static struct resolver *service_start(struct service *service)
{
	int fds[2];
	*service = (struct service){.lock = PTHREAD_MUTEX_INITIALIZER};
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	service->socket = fds[1];
	assert_int_equal(pthread_create(&service->thread, NULL, serve, service), 0);
	return resolver_create_handle(fds[0]);
}

/* The resolver has been destroyed. */
static void service_stop(struct service *service)
{
	assert_int_equal(pthread_join(service->thread, NULL), 0);
	close(service->socket);
}

static void know(struct service *service, size_t i, const struct gpu_buffer *buffer)
{
	pthread_mutex_lock(&service->lock);
	service->known[i] = buffer;
	pthread_mutex_unlock(&service->lock);
}

/* ---- */

struct stage {
	struct world *world;
	struct client *client;
	struct service service;
	struct resolver *copies, *handles;
	struct virtgpu *virtgpu;
	int guest_node;  // virtgpu's, as it has the same GEM handles
	int client_node; // of the client
	struct dmabuf_screen screen;
	struct zwp_linux_dmabuf_v1 *dmabuf;
	struct wl_compositor *compositor;
	struct wl_surface *surface;
};

static void begin(struct stage *stage)
{
	int node = dmabufs_open_gpu();
	*stage = (struct stage){.copies = udmabuf_resolver_create()};
	stage->handles = service_start(&stage->service);
	stage->guest_node = fcntl(node, F_DUPFD_CLOEXEC, 0);
	stage->client_node = dmabufs_open_gpu();
	stage->virtgpu = virtgpu_create(node);
	const struct pair_options options = {
		.resolver = stage->copies,
		.handles = stage->handles,
		.virtgpu = stage->virtgpu,
		.device.implicit_linear = true,
	};
	stage->world = world_create();
	dmabuf_screen_init(&stage->screen, stage->world->compositor, 3);
	stage->client = client_create(stage->world, &options);
	stage->dmabuf = client_bind(stage->client, &zwp_linux_dmabuf_v1_interface, 3);
	stage->compositor = client_bind(stage->client, &wl_compositor_interface, 4);
	stage->surface = wl_compositor_create_surface(stage->compositor);
}

static void end(struct stage *stage)
{
	wl_surface_destroy(stage->surface);
	wl_compositor_destroy(stage->compositor);
	zwp_linux_dmabuf_v1_destroy(stage->dmabuf);
	world_destroy(stage->world);
	virtgpu_destroy(stage->virtgpu);
	resolver_destroy(stage->handles);
	resolver_destroy(stage->copies);
	service_stop(&stage->service);
	close(stage->client_node);
	close(stage->guest_node);
}

static struct zwp_linux_buffer_params_v1 *make_params(struct stage *stage, int fd)
{
	struct zwp_linux_buffer_params_v1 *params =
		zwp_linux_dmabuf_v1_create_params(stage->dmabuf);
	zwp_linux_buffer_params_v1_add(params, fd, 0, 0, GPU_WIDTH * 4, 0, 0);
	return params;
}

static struct wl_buffer *make_buffer(struct stage *stage, int fd)
{
	struct zwp_linux_buffer_params_v1 *params = make_params(stage, fd);
	struct wl_buffer *buffer = zwp_linux_buffer_params_v1_create_immed(
		params, GPU_WIDTH, GPU_HEIGHT, DRM_FORMAT_XRGB8888, 0);
	zwp_linux_buffer_params_v1_destroy(params);
	return buffer;
}

static void commit(struct stage *stage, struct wl_buffer *buffer, int32_t width)
{
	wl_surface_attach(stage->surface, buffer, 0, 0);
	wl_surface_damage_buffer(stage->surface, 0, 0, width, INT32_MAX);
	wl_surface_commit(stage->surface);
}

static void expect_shown(struct stage *stage, size_t size, int byte)
{
	assert_non_null(stage->screen.shown);
	uint8_t *data = udmabuf_map(stage->screen.shown->planes[0].fd, size);
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(data[i], byte);
	}
	munmap(data, size);
}

static const struct stats *guest_stats(const struct stage *stage)
{
	return session_stats(stage->client->pair.guest.session);
}

static const struct stats *host_stats(const struct stage *stage)
{
	return session_stats(stage->client->pair.host.session);
}

/* ---- */

static void a_buffer_of_the_gpu_is_shown_without_a_copy(void **state)
{
	struct stage stage;
	struct gpu_buffer memory;
	(void)state;
	begin(&stage);
	gpu_buffer_init(&memory, stage.client_node);
	know(&stage.service, 0, &memory);
	memset(memory.data, 'a', memory.size);
	struct wl_buffer *buffer = make_buffer(&stage, memory.fd);
	commit(&stage, buffer, INT32_MAX);
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 1);
	expect_shown(&stage, memory.size, 'a');
	memset(memory.data, 'b', memory.size); // which nobody is told
	expect_shown(&stage, memory.size, 'b');
	assert_int_equal(guest_stats(&stage)->fds[STATS_FD_DMABUF], 1);
	assert_int_equal(guest_stats(&stage)->dmabufs_shared, 1);
	assert_int_equal(guest_stats(&stage)->memory_bytes_sent, 0);
	assert_int_equal(guest_stats(&stage)->memory_bytes_saved, memory.size);
	assert_int_equal(host_stats(&stage)->dmabufs_shared, 1);
	assert_int_equal(host_stats(&stage)->memory_bytes_received, 0);
	wl_buffer_destroy(buffer);
	gpu_buffer_finish(&memory);
	end(&stage);
}

static void two_buffers_of_a_surface_need_no_copy_either(void **state)
{
	struct stage stage;
	struct gpu_buffer memories[2];
	struct wl_buffer *buffers[2];
	(void)state;
	begin(&stage);
	for (size_t i = 0; i < 2; i++) {
		gpu_buffer_init(&memories[i], stage.client_node);
		know(&stage.service, i, &memories[i]);
		buffers[i] = make_buffer(&stage, memories[i].fd);
	}
	for (unsigned int i = 0; i < 8; i++) {
		memset(memories[i % 2].data, 'a' + (int)i, memories[i % 2].size);
		commit(&stage, buffers[i % 2], i < 2 ? INT32_MAX : 8);
		client_roundtrip(stage.client);
		assert_int_equal(stage.screen.commits, i + 1);
		expect_shown(&stage, memories[i % 2].size, 'a' + (int)i);
	}
	assert_int_equal(guest_stats(&stage)->memory_bytes_sent, 0);
	assert_int_equal(host_stats(&stage)->memory_bytes_twinned, 0);
	for (size_t i = 0; i < 2; i++) {
		wl_buffer_destroy(buffers[i]);
		gpu_buffer_finish(&memories[i]);
	}
	end(&stage);
}

static void what_others_have_made_is_copied(void **state)
{
	struct stage stage;
	int memory;
	(void)state;
	if (!dmabufs_have_udmabuf()) {
		skip();
	}
	begin(&stage);
	const size_t size = GPU_WIDTH * GPU_HEIGHT * 4;
	int fd = dmabufs_new(size, &memory);
	uint8_t *data = udmabuf_map(fd, size);
	memset(data, 'c', size);
	struct wl_buffer *buffer = make_buffer(&stage, fd);
	commit(&stage, buffer, INT32_MAX);
	client_roundtrip(stage.client);
	expect_shown(&stage, size, 'c');
	assert_int_equal(stage.service.asked, 0);
	assert_int_equal(guest_stats(&stage)->dmabufs_shared, 0);
	assert_int_equal(guest_stats(&stage)->memory_bytes_sent, size);
	wl_buffer_destroy(buffer);
	end(&stage);
	munmap(data, size);
	close(fd);
	close(memory);
}

struct answer {
	bool came;
	struct wl_buffer *buffer; // NULL: failed
};

static void handle_created(
	void *data, struct zwp_linux_buffer_params_v1 *params, struct wl_buffer *buffer)
{
	(void)params;
	*(struct answer *)data = (struct answer){.came = true, .buffer = buffer};
}

static void handle_failed(void *data, struct zwp_linux_buffer_params_v1 *params)
{
	(void)params;
	*(struct answer *)data = (struct answer){.came = true};
}

static struct wl_buffer *create(struct stage *stage, int fd)
{
	static const struct zwp_linux_buffer_params_v1_listener listener = {
		.created = handle_created, .failed = handle_failed};
	struct answer got = {0};
	struct zwp_linux_buffer_params_v1 *params = make_params(stage, fd);
	zwp_linux_buffer_params_v1_add_listener(params, &listener, &got);
	zwp_linux_buffer_params_v1_create(params, GPU_WIDTH, GPU_HEIGHT, DRM_FORMAT_XRGB8888, 0);
	world_until(stage->world, &got.came);
	zwp_linux_buffer_params_v1_destroy(params);
	return got.buffer;
}

static void what_the_resolver_does_not_know_fails(void **state)
{
	struct stage stage;
	struct gpu_buffer memory;
	(void)state;
	begin(&stage);
	gpu_buffer_init(&memory, stage.client_node);
	assert_null(create(&stage, memory.fd));
	assert_true(stage.service.asked > 0);
	know(&stage.service, 0, &memory);
	struct wl_buffer *buffer = create(&stage, memory.fd); // it knows by now
	assert_non_null(buffer);
	wl_buffer_destroy(buffer);
	client_roundtrip(stage.client);
	gpu_buffer_finish(&memory);
	end(&stage);
}

static bool all_closed(void *data)
{
	const struct stage *stage = data;
	return stage->client->pair.host.budget.used[BUDGET_FDS] == 0;
}

static void ten_thousand_come_and_go(void **state)
{
	struct stage stage;
	struct gpu_buffer probe;
	(void)state;
	begin(&stage);
	gpu_buffer_init(&probe, stage.client_node);
	client_roundtrip(stage.client);
	size_t fds = fd_count();
	for (int i = 0; i < CYCLES; i++) {
		struct gpu_buffer memory;
		gpu_buffer_init(&memory, stage.client_node);
		know(&stage.service, 0, &memory);
		struct wl_buffer *buffer = make_buffer(&stage, memory.fd);
		client_roundtrip(stage.client);
		wl_buffer_destroy(buffer);
		know(&stage.service, 0, NULL);
		gpu_buffer_finish(&memory);
	}
	world_wait(stage.world, all_closed, &stage);
	client_roundtrip(stage.client); // after all CLOSED
	assert_int_equal(fd_count(), fds);
	assert_int_equal(gpu_next_handle(stage.guest_node, &probe), 1);
	assert_int_equal(guest_stats(&stage)->dmabufs_shared, CYCLES);
	assert_int_equal(host_stats(&stage)->dmabufs_shared, CYCLES);
	assert_int_equal(host_stats(&stage)->dmabufs_held, 0);
	gpu_buffer_finish(&probe);
	end(&stage);
}

static bool one_is_left(void *data)
{
	const struct stage *stage = data;
	return stage->client->pair.host.budget.used[BUDGET_FDS] == 1;
}

/* Each fdref of it keeps the count of references up for the others. */
static void one_that_is_made_anew_again_and_again_is_there_once(void **state)
{
	struct stage stage;
	struct gpu_buffer memory;
	struct wl_buffer *buffer = NULL;
	(void)state;
	begin(&stage);
	gpu_buffer_init(&memory, stage.client_node);
	know(&stage.service, 0, &memory);
	for (int i = 0; i < AGAIN; i++) {
		if (buffer != NULL) {
			wl_buffer_destroy(buffer);
			client_roundtrip(stage.client);
		}
		buffer = make_buffer(&stage, memory.fd);
		client_roundtrip(stage.client);
	}
	world_wait(stage.world, one_is_left, &stage);
	assert_int_equal(host_stats(&stage)->dmabufs_shared, AGAIN);
	assert_int_equal(host_stats(&stage)->dmabufs_held, 0);
	wl_buffer_destroy(buffer);
	client_roundtrip(stage.client);
	assert_true(one_is_left(&stage)); // charged as long as anybody has it
	know(&stage.service, 0, NULL);
	gpu_buffer_finish(&memory);
	world_wait(stage.world, all_closed, &stage);
	assert_int_equal(host_stats(&stage)->dmabufs_held, 0);
	end(&stage);
}

/* vgem can put a fence on anybody's buffer. */
static void a_late_fence_delays_its_commit(void **state)
{
	struct stage stage;
	struct gpu_buffer memory;
	struct vgem_buffer fence = {.card = dmabufs_open_card("vgem")};
	(void)state;
	if (fence.card < 0) {
		print_message("no vgem\n");
		skip();
	}
	begin(&stage);
	gpu_buffer_init(&memory, stage.client_node);
	fence.fd = memory.fd;
	know(&stage.service, 0, &memory);
	assert_int_equal(drmPrimeFDToHandle(fence.card, memory.fd, &fence.handle), 0);
	struct wl_buffer *buffer = make_buffer(&stage, memory.fd);
	commit(&stage, buffer, INT32_MAX);
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 1);
	vgem_buffer_attach(&fence);
	commit(&stage, buffer, INT32_MAX);
	world_turns(stage.world, QUIET_TURNS);
	vgem_buffer_expect_busy(&fence);
	assert_int_equal(stage.screen.commits, 1);
	vgem_buffer_signal(&fence);
	client_roundtrip(stage.client);
	assert_int_equal(stage.screen.commits, 2);
	wl_buffer_destroy(buffer);
	gpu_buffer_finish(&memory);
	end(&stage);
	close(fence.card);
}

int main(void)
{
	int node = dmabufs_open_gpu();
	if (node < 0) {
		fprintf(stderr, "no virtio-gpu\n");
		return SKIPPED;
	}
	close(node);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_buffer_of_the_gpu_is_shown_without_a_copy),
		fd_count_test(two_buffers_of_a_surface_need_no_copy_either),
		fd_count_test(what_others_have_made_is_copied),
		fd_count_test(what_the_resolver_does_not_know_fails),
		fd_count_test(ten_thousand_come_and_go),
		fd_count_test(one_that_is_made_anew_again_and_again_is_there_once),
		fd_count_test(a_late_fence_delays_its_commit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
