#include "host-proxy/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/kind.h"

void guest_memory_init(struct guest_memory *memory)
{
	memory->count = 0;
	memory->version = 1;
}

static void change_version(struct guest_memory *memory)
{
	memory->version = memory->version == UINT32_MAX ? 1 : memory->version + 1;
}

static void finish_region(struct guest_region *region)
{
	munmap(region->map, region->map_size);
	if (region->fd >= 0) {
		close(region->fd);
	}
}

void guest_memory_finish(struct guest_memory *memory)
{
	for (size_t i = 0; i < memory->count; i++) {
		finish_region(&memory->regions[i]);
	}
	memory->count = 0;
	change_version(memory);
}

static bool wraps(uint64_t start, uint64_t size)
{
	return size > UINT64_MAX - start;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

static const char *check_range(const struct guest_memory *memory, const struct guest_range *range)
{
	if (memory->count == GUEST_MEMORY_MAX) {
		return "too many memory regions";
	}
	if (range->size == 0 || wraps(range->address, range->size) ||
		wraps(range->user_address, range->size) || wraps(range->offset, range->size)) {
		return "a memory region with an impossible size";
	}
	for (size_t i = 0; i < memory->count; i++) {
		const struct guest_range *other = &memory->regions[i].range;
		if (overlap(range->address, range->size, other->address, other->size) ||
			overlap(range->user_address, range->size, other->user_address,
				other->size)) {
			return "memory regions that overlap";
		}
	}
	return NULL;
}

static const char *map(struct guest_region *region, int fd)
{
	const struct guest_range *range = &region->range;
	uint64_t before = range->offset % (uint64_t)sysconf(_SC_PAGESIZE);
	struct stat st;
	if (fstat(fd, &st) < 0 || st.st_size < 0 ||
		range->offset + range->size > (uint64_t)st.st_size) {
		return "a memory region beyond the end of its file";
	}
	region->map_size = (size_t)(range->size + before);
	region->map = mmap(NULL, region->map_size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_NORESERVE, fd, (off_t)(range->offset - before));
	if (region->map == MAP_FAILED) {
		log_errno("the guest's memory");
		return "a memory region that cannot be mapped";
	}
	region->data = (uint8_t *)region->map + before;
	return NULL;
}

// A memfd can be opened again by who has it, as it allows: by default, for writing. Only its own user can change
// that. Nobody opens a file with a name again who is in a sandbox.
static void forbid_writing(int fd)
{
	struct stat st;
	if (fstat(fd, &st) == 0 && st.st_nlink == 0 && fchmod(fd, GUEST_MEMORY_MODE) < 0) {
		log_info("who takes over a session can write to the guest's memory: %s",
			strerror(errno));
	}
}

// By what it returns nobody can write: fd can be the VMM's very own one.
static int open_read_only(int fd)
{
	int own = fd_open_again(fd, O_RDONLY);
	if (own < 0) {
		log_info("the guest's memory is not shared with sessions: %s", strerror(errno));
	} else {
		forbid_writing(own);
	}
	return own;
}

const char *guest_memory_add(struct guest_memory *memory, const struct guest_range *range, int fd)
{
	const char *wrong = check_range(memory, range);
	if (wrong == NULL) {
		struct guest_region *region = &memory->regions[memory->count];
		region->range = *range;
		wrong = map(region, fd);
	}
	if (wrong == NULL) {
		memory->regions[memory->count++].fd = open_read_only(fd);
		change_version(memory);
	}
	close(fd);
	return wrong;
}

const char *guest_memory_remove(struct guest_memory *memory, const struct guest_range *range)
{
	for (size_t i = 0; i < memory->count; i++) {
		struct guest_region *region = &memory->regions[i];
		if (region->range.address == range->address && region->range.size == range->size &&
			region->range.user_address == range->user_address) {
			finish_region(region);
			*region = memory->regions[--memory->count];
			change_version(memory);
			return NULL;
		}
	}
	return "a memory region to be removed that was never added";
}

uint64_t guest_memory_size(const struct guest_memory *memory)
{
	uint64_t size = 0;
	for (size_t i = 0; i < memory->count; i++) {
		size += memory->regions[i].range.size;
	}
	return size;
}

const struct guest_region *guest_memory_find(const struct guest_memory *memory, uint64_t address)
{
	for (size_t i = 0; i < memory->count; i++) {
		const struct guest_range *range = &memory->regions[i].range;
		if (address >= range->address && address - range->address < range->size) {
			return &memory->regions[i];
		}
	}
	return NULL;
}

uint8_t *guest_memory_at(const struct guest_memory *memory, uint64_t address, size_t *len)
{
	const struct guest_region *region = guest_memory_find(memory, address);
	if (region == NULL) {
		return NULL;
	}
	uint64_t offset = address - region->range.address;
	uint64_t rest = region->range.size - offset;
	*len = *len < rest ? *len : (size_t)rest;
	return region->data + offset;
}

bool guest_memory_locate(
	const struct guest_memory *memory, const void *data, uint32_t *file, uint64_t *offset)
{
	*file = 0;
	for (size_t i = 0; i < memory->count; i++) {
		const struct guest_region *region = &memory->regions[i];
		uintptr_t distance = (uintptr_t)data - (uintptr_t)region->data;
		if ((uintptr_t)data >= (uintptr_t)region->data && distance < region->range.size) {
			*offset = region->range.offset + distance;
			return region->fd >= 0;
		}
		*file += region->fd >= 0;
	}
	return false;
}

uint8_t *guest_memory_at_user(const struct guest_memory *memory, uint64_t user_address, size_t len)
{
	for (size_t i = 0; i < memory->count; i++) {
		const struct guest_region *region = &memory->regions[i];
		uint64_t offset = user_address - region->range.user_address;
		if (user_address >= region->range.user_address && offset < region->range.size &&
			len <= region->range.size - offset) {
			return region->data + offset;
		}
	}
	return NULL;
}
