#include "tests/support/udmabuf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mapping.h"
#include "fdpass/kind.h"
#include "fdpass/resolver.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fence.h"

#define MEMORY_NAME "stands-for-a-dma-buf"

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static size_t whole_pages(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return (size + page - 1) / page * page;
}

int udmabuf_make(size_t size)
{
	int memory, fd = -1;
	size = whole_pages(size);
	if (dmabufs_have_udmabuf()) {
		fd = dmabufs_new(size, &memory);
		close(memory);
		return fd;
	}
	fd = memfd_create(MEMORY_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd");
	return fd;
}

uint8_t *udmabuf_map(int fd, size_t size)
{
	void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(data != MAP_FAILED, "mmap");
	return data;
}

/* ---- what stands for one is one ---- */

enum fd_kind __real_fd_kind_of(int fd);
enum fd_kind __wrap_fd_kind_of(int fd);

enum fd_kind __wrap_fd_kind_of(int fd)
{
	char path[64], name[128] = "";
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	bool stands = readlink(path, name, sizeof(name) - 1) > 0 &&
		strncmp(name, "/memfd:" MEMORY_NAME, strlen("/memfd:" MEMORY_NAME)) == 0;
	enum fd_kind kind = stands ? FD_KIND_DMABUF : __real_fd_kind_of(fd);
	return kind == FD_KIND_EVENTFD && !fences_are_real() ? FD_KIND_SYNC_FILE : kind;
}

/* ---- resolvers ---- */

static int make(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	(void)resolver;
	*buffer = (struct resolver_buffer){
		.fd = udmabuf_make((size_t)size),
		.size = whole_pages((size_t)size),
	};
	buffer->mapping = mapping_create(buffer->fd, (size_t)buffer->size, true);
	check(buffer->mapping != NULL, "mapping");
	return 0;
}

static int make_none(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	(void)resolver;
	(void)size;
	(void)buffer;
	return -ENOMEM;
}

static void destroy(struct resolver *resolver)
{
	free(resolver);
}

static struct resolver *create(const struct resolver_interface *interface)
{
	struct resolver *resolver = calloc(1, sizeof(*resolver));
	check(resolver != NULL, "resolver");
	resolver->interface = interface;
	return resolver;
}

struct resolver *udmabuf_resolver_create(void)
{
	static const struct resolver_interface interface = {
		.name = "stand-in", .make = make, .destroy = destroy};
	return dmabufs_have_udmabuf() ? resolver_create_copy() : create(&interface);
}

struct resolver *udmabuf_no_resolver_create(void)
{
	static const struct resolver_interface interface = {
		.name = "none", .make = make_none, .destroy = destroy};
	return create(&interface);
}
