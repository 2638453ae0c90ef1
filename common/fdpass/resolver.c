#include "fdpass/resolver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mapping.h"

struct copy_resolver {
	struct resolver base;
	int udmabuf, heap; // the devices; -1: there is none
};

static void copy_destroy(struct resolver *resolver)
{
	struct copy_resolver *copy = (struct copy_resolver *)resolver;
	if (copy->udmabuf >= 0) {
		close(copy->udmabuf);
	}
	if (copy->heap >= 0) {
		close(copy->heap);
	}
	free(copy);
}

/* Pages that udmabuf takes: they may not go away. The caller's, or -1 with errno. */
static int make_pages(uint64_t size)
{
	int fd = memfd_create("fdferry-dmabuf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		return -1;
	}
	if (ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

static int copy_wrap(struct resolver *resolver, int memory, uint64_t offset, uint64_t size,
	struct resolver_buffer *buffer)
{
	const struct udmabuf_create create = {
		.memfd = (uint32_t)memory,
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.offset = offset,
		.size = size,
	};
	const int udmabuf = ((const struct copy_resolver *)resolver)->udmabuf;
	if (udmabuf < 0) {
		return -ENODEV;
	}
	*buffer = (struct resolver_buffer){.size = size};
	buffer->fd = ioctl(udmabuf, UDMABUF_CREATE, &create);
	return buffer->fd < 0 ? -errno : 0;
}

/* A mapping of the pages shows the same bytes as one of the dma-buf, and can be read by any system call. */
static int make_of_pages(struct resolver *resolver, int pages, struct resolver_buffer *buffer)
{
	struct mapping *mapping = mapping_create(pages, buffer->size, true);
	if (mapping == NULL) {
		return -errno;
	}
	int error = copy_wrap(resolver, pages, 0, buffer->size, buffer);
	if (error < 0) {
		mapping_unref(mapping);
		return error;
	}
	buffer->mapping = mapping;
	return 0;
}

static int make_udmabuf(struct resolver *resolver, struct resolver_buffer *buffer)
{
	if (((const struct copy_resolver *)resolver)->udmabuf < 0) {
		return -ENODEV;
	}
	int pages = make_pages(buffer->size);
	if (pages < 0) {
		return -errno;
	}
	int error = make_of_pages(resolver, pages, buffer);
	close(pages); // the mapping and the dma-buf keep what is in it
	return error;
}

static int make_from_heap(int heap, struct resolver_buffer *buffer)
{
	struct dma_heap_allocation_data allocation = {
		.len = buffer->size,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	if (heap < 0) {
		return -ENODEV;
	}
	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &allocation) < 0) {
		return -errno;
	}
	buffer->fd = (int)allocation.fd;
	buffer->mapping = mapping_create(buffer->fd, buffer->size, true);
	if (buffer->mapping == NULL) {
		int error = -errno;
		close(buffer->fd);
		return error;
	}
	return 0;
}

/* What udmabuf cannot make (its parameter size_limit_mb), a heap may. */
static int copy_make(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	const struct copy_resolver *copy = (const struct copy_resolver *)resolver;
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	*buffer = (struct resolver_buffer){.fd = -1, .size = (size + page - 1) / page * page};
	int error = make_udmabuf(resolver, buffer);
	if (error < 0 && copy->heap >= 0) {
		error = make_from_heap(copy->heap, buffer);
	}
	if (error < 0) {
		log_limited(LOG_ERROR, "cannot make a dma-buf of %" PRIu64 " bytes: %s",
			buffer->size, strerror(-error));
	}
	return error;
}

static const struct resolver_interface copy_interface = {
	.name = "copy",
	.make = copy_make,
	.wrap = copy_wrap,
	.destroy = copy_destroy,
};

struct resolver *resolver_create_copy(void)
{
	struct copy_resolver *copy = calloc(1, sizeof(*copy));
	if (copy == NULL) {
		return NULL;
	}
	copy->base.interface = &copy_interface;
	copy->heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	copy->udmabuf = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (copy->udmabuf < 0 && copy->heap < 0) {
		int saved = errno; // of the one that is better known
		free(copy);
		errno = saved;
		return NULL;
	}
	return &copy->base;
}

void resolver_destroy(struct resolver *resolver)
{
	if (resolver != NULL) {
		resolver->interface->destroy(resolver);
	}
}
