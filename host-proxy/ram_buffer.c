#include "host-proxy/ram_buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/log.h"
#include "host-proxy/guest_memory.h"

// What the kernel begins with, where its parameters cannot be read.
#define DEFAULT_LIST_LIMIT 1024
#define DEFAULT_SIZE_LIMIT 64 // MiB
#define PARAMETERS         "/sys/module/udmabuf/parameters/"

static uint32_t read_parameter(const char *path, uint32_t instead)
{
	FILE *file = fopen(path, "re");
	unsigned int value;
	if (file == NULL) {
		return instead;
	}
	if (fscanf(file, "%u", &value) != 1) {
		value = instead;
	}
	fclose(file);
	return value;
}

int ram_buffers_open(struct ram_buffers *buffers)
{
	*buffers = (struct ram_buffers){
		.device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC),
		.max_pieces = DEFAULT_LIST_LIMIT,
		.max_size = (uint64_t)DEFAULT_SIZE_LIMIT << 20,
	};
	if (buffers->device < 0) {
		return -errno;
	}
	buffers->max_pieces = read_parameter(PARAMETERS "list_limit", DEFAULT_LIST_LIMIT);
	buffers->max_size = (uint64_t)read_parameter(PARAMETERS "size_limit_mb", DEFAULT_SIZE_LIMIT)
		<< 20;
	return 0;
}

void ram_buffers_close(struct ram_buffers *buffers)
{
	if (buffers->device >= 0) {
		close(buffers->device);
		buffers->device = -1;
	}
}

static struct udmabuf_create_item *last_piece(struct wl_array *pieces)
{
	struct udmabuf_create_item *end =
		(struct udmabuf_create_item *)((uint8_t *)pieces->data + pieces->size);
	return pieces->size > 0 ? end - 1 : NULL;
}

static const char *add_piece(const struct ram_buffers *buffers, struct wl_array *pieces,
	const struct udmabuf_create_item *piece)
{
	struct udmabuf_create_item *last = last_piece(pieces);
	if (last != NULL && last->memfd == piece->memfd &&
		last->offset + last->size == piece->offset) {
		last->size += piece->size;
		return NULL;
	}
	if (pieces->size / sizeof(*piece) >= buffers->max_pieces) {
		return "more pieces than udmabuf's list_limit";
	}
	last = wl_array_add(pieces, sizeof(*piece));
	if (last == NULL) {
		return "out of memory";
	}
	*last = *piece;
	return NULL;
}

static const char *find_range(const struct ram_buffers *buffers, const struct guest_memory *memory,
	const struct ram_range *range, struct wl_array *pieces)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t address = range->address, rest = range->size;
	while (rest > 0) {
		const struct guest_region *region = guest_memory_find(memory, address);
		if (region == NULL) {
			return "a range outside of the guest's memory";
		}
		uint64_t distance = address - region->range.address;
		uint64_t part = region->range.size - distance;
		const struct udmabuf_create_item piece = {
			.memfd = (uint32_t)region->fd,
			.offset = region->range.offset + distance,
			.size = part < rest ? part : rest,
		};
		if (region->fd < 0) {
			return "a range whose file cannot be had";
		}
		if (piece.offset % page != 0 || piece.size % page != 0) {
			return "a range that is not of whole pages";
		}
		const char *wrong = add_piece(buffers, pieces, &piece);
		if (wrong != NULL) {
			return wrong;
		}
		address += piece.size;
		rest -= piece.size;
	}
	return NULL;
}

const char *ram_buffer_find(const struct ram_buffers *buffers, const struct guest_memory *memory,
	const struct ram_range *ranges, size_t n, struct wl_array *pieces, uint64_t *size)
{
	*size = 0;
	for (size_t i = 0; i < n; i++) {
		if (ranges[i].size == 0 || ranges[i].size > UINT64_MAX - ranges[i].address) {
			return "a range of an impossible size";
		}
		if (ranges[i].size > buffers->max_size - *size) {
			return "more bytes than udmabuf's size_limit_mb";
		}
		const char *wrong = find_range(buffers, memory, &ranges[i], pieces);
		if (wrong != NULL) {
			return wrong;
		}
		*size += ranges[i].size;
	}
	return n > 0 ? NULL : "no range";
}

static const char *check_file(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0) {
		return "the guest's memory is no memfd";
	}
	return (seals & F_SEAL_SHRINK) != 0 ? NULL
					    : "the guest's memory is not sealed against shrinking";
}

const char *ram_buffers_check(const struct guest_memory *memory)
{
	for (size_t i = 0; i < memory->count; i++) {
		int fd = memory->regions[i].fd;
		const char *wrong = fd >= 0 ? check_file(fd) : "the guest's memory cannot be had";
		if (wrong != NULL) {
			return wrong;
		}
	}
	return NULL;
}

static const char *check_pieces(const struct wl_array *pieces)
{
	const struct udmabuf_create_item *list = pieces->data;
	const char *wrong = NULL;
	for (size_t i = 0; wrong == NULL && i < pieces->size / sizeof(*list); i++) {
		if (i == 0 || list[i].memfd != list[i - 1].memfd) {
			wrong = check_file((int)list[i].memfd);
		}
	}
	return wrong;
}

static int create_list(const struct ram_buffers *buffers, const struct wl_array *pieces)
{
	struct wl_array array;
	wl_array_init(&array);
	struct udmabuf_create_list *list = wl_array_add(&array, sizeof(*list) + pieces->size);
	if (list == NULL) {
		return -1;
	}
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = (uint32_t)(pieces->size / sizeof(list->list[0]));
	memcpy(list->list, pieces->data, pieces->size);
	int fd = ioctl(buffers->device, UDMABUF_CREATE_LIST, list);
	if (fd < 0) {
		log_limited(LOG_ERROR, "udmabuf makes no buffer of %u pieces: %m", list->count);
	}
	wl_array_release(&array);
	return fd;
}

int ram_buffer_create(const struct ram_buffers *buffers, const struct guest_memory *memory,
	const struct ram_range *ranges, size_t n, uint64_t *size, const char **wrong)
{
	struct wl_array pieces;
	int fd = -1;
	wl_array_init(&pieces);
	*wrong = buffers->device < 0 ? "there is no /dev/udmabuf"
				     : ram_buffer_find(buffers, memory, ranges, n, &pieces, size);
	if (*wrong == NULL) {
		*wrong = check_pieces(&pieces);
	}
	if (*wrong == NULL) {
		fd = create_list(buffers, &pieces);
		*wrong = fd < 0 ? "udmabuf does not take it" : NULL;
	}
	wl_array_release(&pieces);
	return fd;
}
