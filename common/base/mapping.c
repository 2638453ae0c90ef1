#include "base/mapping.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static struct mapping *create(int fd, uint64_t offset, size_t size, int protection, int flags)
{
	struct mapping *mapping = calloc(1, sizeof(*mapping));
	if (mapping == NULL) {
		return NULL;
	}
	void *data = mmap(NULL, size, protection, flags, fd, (off_t)offset);
	if (data == MAP_FAILED) {
		free(mapping);
		return NULL;
	}
	mapping->refs = 1;
	mapping->writable = (protection & PROT_WRITE) != 0;
	mapping->data = data;
	mapping->size = size;
	return mapping;
}

struct mapping *mapping_create(int fd, size_t size, bool writable)
{
	int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
	return create(fd, 0, size, protection, MAP_SHARED);
}

struct mapping *mapping_create_range(int fd, uint64_t offset, size_t size)
{
	return create(fd, offset, size, PROT_READ | PROT_WRITE, MAP_SHARED);
}

struct mapping *mapping_create_private(int fd, size_t size)
{
	return create(fd, 0, size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE);
}

struct mapping *mapping_ref(struct mapping *mapping)
{
	mapping->refs++;
	return mapping;
}

void mapping_unref(struct mapping *mapping)
{
	if (mapping == NULL) {
		return;
	}
	assert(mapping->refs > 0);
	if (--mapping->refs == 0) {
		munmap(mapping->data, mapping->size);
		free(mapping);
	}
}

bool mapping_copy(void *to, const void *from, size_t len)
{
	// The kernel copies, and says EFAULT where a memcpy would raise SIGBUS.
	while (len > 0) {
		struct iovec source = {.iov_base = (void *)from, .iov_len = len};
		struct iovec target = {.iov_base = to, .iov_len = len};
		ssize_t n = process_vm_writev(getpid(), &source, 1, &target, 1, 0);
		if (n <= 0) {
			return false;
		}
		from = (const uint8_t *)from + n;
		to = (uint8_t *)to + n;
		len -= (size_t)n;
	}
	return true;
}
