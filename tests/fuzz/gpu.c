#include "tests/fuzz/gpu.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/mapping.h"
#include "base/scm.h"
#include "fdpass/kind.h"
#include "fdpass/resolver.h"
#include "fdpass/sync.h"
#include "fdpass/virtgpu.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/stand_ins.h"
#include "tests/fuzz/things.h"

#define PAGE     4096u
#define RESOURCE 7 // of everything that the guest's GPU has made

/* ---- resolvers ---- */

static int make_buffer(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	(void)resolver;
	*buffer = (struct resolver_buffer){.size = (size + PAGE - 1) / PAGE * PAGE};
	buffer->fd = stand_in_buffer(size);
	buffer->mapping = mapping_create(buffer->fd, buffer->size, true);
	fuzz_check(buffer->mapping != NULL, "a buffer can be mapped");
	return 0;
}

static int find_buffer(
	struct resolver *resolver, uint32_t resource, uint64_t size, struct resolver_buffer *buffer)
{
	if (resource % 2 != 0) {
		return -ENOENT;
	}
	int error = make_buffer(resolver, size, buffer);
	mapping_unref(buffer->mapping);
	buffer->mapping = NULL;
	return error;
}

struct resolver *gpu_resolver(void)
{
	static const struct resolver_interface interface = {
		.name = "fuzz", .make = make_buffer, .find = find_buffer};
	static struct resolver resolver = {&interface};
	return &resolver;
}

/* ---- the guest's ---- */

struct virtgpu {
	struct things *things;
};

struct virtgpu_buffer {
	uint32_t resource;
};

bool __wrap_virtgpu_must_wait(struct virtgpu *gpu, struct fdrefs *refs, int fd);
struct virtgpu_buffer *__wrap_virtgpu_get(struct virtgpu *gpu, int fd);
uint32_t __wrap_virtgpu_buffer_resource(const struct virtgpu_buffer *buffer);
void __wrap_virtgpu_buffer_release(struct virtgpu_buffer *buffer);

struct virtgpu *gpu_of_guest(struct things *things)
{
	static struct virtgpu gpu;
	gpu.things = things;
	return &gpu;
}

bool __wrap_virtgpu_must_wait(struct virtgpu *gpu, struct fdrefs *refs, int fd)
{
	(void)fd;
	int queue = *things_get(gpu->things, THING_QUEUE);
	return !things_ready(queue, POLLIN) && sync_wait_for(refs, queue);
}

struct virtgpu_buffer *__wrap_virtgpu_get(struct virtgpu *gpu, int fd)
{
	(void)gpu;
	if (fd_kind_of(fd) != FD_KIND_DMABUF) {
		return NULL;
	}
	struct virtgpu_buffer *buffer = calloc(1, sizeof(*buffer));
	fuzz_check(buffer != NULL, "there is memory");
	buffer->resource = RESOURCE;
	return buffer;
}

uint32_t __wrap_virtgpu_buffer_resource(const struct virtgpu_buffer *buffer)
{
	return buffer->resource;
}

void __wrap_virtgpu_buffer_release(struct virtgpu_buffer *buffer)
{
	free(buffer);
}

/* ---- a service ---- */

enum answer {
	RIGHT,
	OTHER_FDS,
	INVALID,
	ANYTHING,
	NO_MORE,
	ANSWERS,
};

struct resolver *gpu_create_resolver(int *service)
{
	int pair[2];
	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	struct resolver *resolver = resolver_create_handle(pair[0]);
	fuzz_check(resolver != NULL, "there is memory");
	*service = pair[1];
	return resolver;
}

/* Takes what is in fds. */
static void send_answer(int service, const void *text, size_t len, struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = (void *)text, .iov_len = len};
	scm_send(service, &iov, 1, fds, fds->count);
	fdlist_finish(fds);
}

void gpu_answer(int service, struct things *things, struct fuzz_input *input)
{
	static const char right[] = "{\"Resource\":{\"Buffer\":{\"handle\":0,\"modifier\":0}}}";
	static const char invalid[] = "\"Invalid\"";
	char text[UINT8_MAX];
	struct fdlist fds;
	size_t len;
	fdlist_init(&fds);
	switch ((enum answer)(fuzz_take8(input) % ANSWERS)) {
	case RIGHT:
		fdlist_push(&fds, stand_in_buffer(fuzz_take8(input) * PAGE));
		send_answer(service, right, strlen(right), &fds);
		break;
	case OTHER_FDS:
		things_take(things, input, &fds);
		send_answer(service, right, strlen(right), &fds);
		break;
	case INVALID:
		send_answer(service, invalid, strlen(invalid), &fds);
		break;
	case ANYTHING:
		things_take(things, input, &fds);
		len = fuzz_take8(input);
		len = fuzz_take(input, text, len);
		send_answer(service, text, len, &fds);
		break;
	case NO_MORE:
		shutdown(service, SHUT_WR);
		break;
	case ANSWERS:
		break;
	}
}
