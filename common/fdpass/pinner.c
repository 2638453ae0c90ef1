#include "fdpass/pinner.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <wayland-util.h>

#include "channel/channel.h"
#include "fdpass/pages.h"

#define MAX_PINNED 4096 // pools of a session
#define AT_ONCE    512  // entries of pagemap that are read

// Documentation/admin-guide/mm/pagemap.rst
#define PAGE_PRESENT (UINT64_C(1) << 63)
#define PAGE_FRAME   ((UINT64_C(1) << 55) - 1)

/* A mapping of its own, which only the kernel fills: at once, and not again. */
struct pinned {
	uint8_t *data; // NULL: the place is free
	size_t size;
};

struct pinner {
	struct page_pinner base;
	int ring, pagemap;
	uint64_t page; // bytes
	struct pinned places[MAX_PINNED];
};

/* ---- where pages are ---- */

/* 0 or -errno; an entry is 0 for a page that is not there, or that we may not know of. */
static int read_frames(
	const struct pinner *pinner, const uint8_t *data, size_t n, uint64_t frames[AT_ONCE])
{
	size_t size = n * sizeof(frames[0]);
	off_t at = (off_t)((uintptr_t)data / pinner->page * sizeof(frames[0]));
	ssize_t got;
	do {
		got = pread(pinner->pagemap, frames, size, at);
	} while (got < 0 && errno == EINTR);
	if (got != (ssize_t)size) {
		return got < 0 ? -errno : -EIO;
	}
	for (size_t i = 0; i < n; i++) {
		frames[i] = (frames[i] & PAGE_PRESENT) != 0 ? frames[i] & PAGE_FRAME : 0;
	}
	return 0;
}

/* What follows the last range in memory makes that longer. before: bytes of ranges that are not ours. */
static int add_page(struct wl_array *ranges, size_t before, uint64_t address, uint64_t page)
{
	size_t n = (ranges->size - before) / sizeof(struct channel_page_range);
	struct channel_page_range *first =
		(struct channel_page_range *)((uint8_t *)ranges->data + before);
	if (n > 0 && channel_get64(first[n - 1].address) + first[n - 1].length == address) {
		first[n - 1].length += (uint32_t)page; // at most CHANNEL_MAX_PAGES in all
		return 0;
	}
	if (n == CHANNEL_MAX_RANGES) {
		return -E2BIG;
	}
	struct channel_page_range *range = wl_array_add(ranges, sizeof(*range));
	if (range == NULL) {
		return -ENOMEM;
	}
	range->length = (uint32_t)page;
	channel_put64(range->address, address);
	return 0;
}

/* With ranges, they get all pages; without, it is only looked whether all are there. */
static int find_pages(
	const struct pinner *pinner, const struct pinned *pinned, struct wl_array *ranges)
{
	uint64_t frames[AT_ONCE];
	size_t n = (pinned->size + pinner->page - 1) / pinner->page;
	size_t before = ranges != NULL ? ranges->size : 0;
	int error = 0;
	for (size_t done = 0; error == 0 && done < n; done += AT_ONCE) {
		size_t part = n - done < AT_ONCE ? n - done : AT_ONCE;
		error = read_frames(pinner, pinned->data + done * pinner->page, part, frames);
		for (size_t i = 0; error == 0 && i < part; i++) {
			if (frames[i] == 0) {
				error = -ENODATA;
			} else if (ranges != NULL) {
				error = add_page(
					ranges, before, frames[i] * pinner->page, pinner->page);
			}
		}
	}
	return error;
}

/* ---- pinning ---- */

static int register_with(
	const struct pinner *pinner, unsigned int operation, const void *arg, unsigned int size)
{
	return syscall(SYS_io_uring_register, pinner->ring, operation, arg, size) < 0 ? -errno : 0;
}

/* All pages of data are in the place then, and no others; with NULL none. */
static int put(const struct pinner *pinner, int place, uint8_t *data, size_t size)
{
	const struct iovec buffer = {.iov_base = data, .iov_len = size};
	const uint64_t tag = 0;
	const struct io_uring_rsrc_update2 update = {
		.offset = (uint32_t)place,
		.data = (uintptr_t)&buffer,
		.tags = (uintptr_t)&tag,
		.nr = 1,
	};
	return register_with(pinner, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update));
}

static int find_place(const struct pinner *pinner)
{
	int place = 0;
	while (place < MAX_PINNED && pinner->places[place].data != NULL) {
		place++;
	}
	return place;
}

static void unmap(struct pinned *pinned)
{
	munmap(pinned->data, pinned->size);
	*pinned = (struct pinned){0};
}

static void unpin(struct page_pinner *base, int place)
{
	struct pinner *pinner = (struct pinner *)base;
	put(pinner, place, NULL, 0);
	unmap(&pinner->places[place]);
}

static bool holds(struct page_pinner *base, int place)
{
	const struct pinner *pinner = (struct pinner *)base;
	return find_pages(pinner, &pinner->places[place], NULL) == 0;
}

static int pin(struct page_pinner *base, int fd, uint64_t size, struct wl_array *ranges)
{
	struct pinner *pinner = (struct pinner *)base;
	int place = find_place(pinner);
	if (place == MAX_PINNED) {
		return -EMFILE;
	}
	uint8_t *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (data == MAP_FAILED) {
		return -errno;
	}
	madvise(data, size, MADV_NOHUGEPAGE); // khugepaged would fill it again
	struct pinned *pinned = &pinner->places[place];
	*pinned = (struct pinned){.data = data, .size = size};
	int error = put(pinner, place, data, size);
	if (error < 0) {
		unmap(pinned);
		return error;
	}
	error = find_pages(pinner, pinned, ranges);
	if (error < 0) {
		unpin(base, place);
	}
	return error < 0 ? error : place;
}

static void destroy(struct page_pinner *base)
{
	struct pinner *pinner = (struct pinner *)base;
	for (size_t place = 0; place < MAX_PINNED; place++) {
		if (pinner->places[place].data != NULL) {
			unmap(&pinner->places[place]);
		}
	}
	if (pinner->ring >= 0) {
		close(pinner->ring);
	}
	if (pinner->pagemap >= 0) {
		close(pinner->pagemap);
	}
	free(pinner);
}

/* ---- making one ---- */

/* Whether pagemap tells more than that pages are there. */
static int check_pagemap(const struct pinner *pinner)
{
	uint64_t frames[AT_ONCE];
	uint8_t *data = mmap(NULL, pinner->page, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (data == MAP_FAILED) {
		return -errno;
	}
	*data = 1;
	int error = read_frames(pinner, data, 1, frames);
	munmap(data, pinner->page);
	return error < 0 ? error : frames[0] == 0 ? -EPERM : 0;
}

/* Only its registered buffers are of use: nothing is ever submitted. */
static int open_ring(struct pinner *pinner)
{
	struct io_uring_params params = {0};
	const struct io_uring_rsrc_register places = {
		.nr = MAX_PINNED,
		.flags = IORING_RSRC_REGISTER_SPARSE,
	};
	pinner->ring = (int)syscall(SYS_io_uring_setup, 1, &params);
	if (pinner->ring < 0) {
		return -errno;
	}
	return register_with(pinner, IORING_REGISTER_BUFFERS2, &places, sizeof(places));
}

static int open_all(struct pinner *pinner)
{
	pinner->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pinner->pagemap < 0) {
		return -errno;
	}
	int error = check_pagemap(pinner);
	return error < 0 ? error : open_ring(pinner);
}

static const struct page_pinner_interface interface = {
	.pin = pin,
	.unpin = unpin,
	.holds = holds,
	.destroy = destroy,
};

struct page_pinner *pinner_create(void)
{
	struct pinner *pinner = calloc(1, sizeof(*pinner));
	if (pinner == NULL) {
		return NULL;
	}
	pinner->base.interface = &interface;
	pinner->ring = pinner->pagemap = -1;
	pinner->page = (uint64_t)sysconf(_SC_PAGESIZE);
	int error = open_all(pinner);
	if (error < 0) {
		destroy(&pinner->base);
		errno = -error;
		return NULL;
	}
	return &pinner->base;
}
