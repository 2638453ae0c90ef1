#include "tests/support/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "channel/channel.h"
#include "fdpass/kind.h"

#define FIRST_ADDRESS (UINT64_C(7) << 32)

struct pinned_file {
	struct wl_list link;
	int fd;
	int number;
	uint64_t address; // of the first range
	uint8_t *data;    // touched once, so that it has the pages of that moment
	size_t size;
};

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static void add_range(struct wl_array *ranges, uint64_t address, uint64_t length)
{
	struct channel_page_range *range = wl_array_add(ranges, sizeof(*range));
	check(range != NULL, "a range");
	channel_put64(range->address, address);
	range->length = (uint32_t)length;
}

static int pin(struct page_pinner *pinner, int fd, uint64_t size, struct wl_array *ranges)
{
	struct page_world *world = wl_container_of(pinner, world, pinner);
	static int number;
	if (world->refuses) {
		return -EPERM;
	}
	void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED) {
		return -errno; // sealed
	}
	struct pinned_file *file = calloc(1, sizeof(*file));
	check(file != NULL, "a file");
	file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	check(file->fd >= 0, "dup");
	file->data = data;
	file->size = size;
	file->address = world->next;
	file->number = number++;
	uint64_t left = (size + CHANNEL_PAGE - 1) / CHANNEL_PAGE * CHANNEL_PAGE;
	for (size_t n = world->ranges; n > 1 && left > CHANNEL_PAGE; n--) {
		add_range(ranges, world->next, CHANNEL_PAGE);
		world->next += 2 * CHANNEL_PAGE;
		left -= CHANNEL_PAGE;
	}
	add_range(ranges, world->next, left);
	world->next += left;
	world->pinned++;
	wl_list_insert(&world->files, &file->link);
	return file->number;
}

static struct pinned_file *find_file(const struct page_world *world, int pinned)
{
	struct pinned_file *file, *found = NULL;
	wl_list_for_each (file, &world->files, link) {
		if (file->number == pinned) {
			found = file;
		}
	}
	check(found != NULL, "what is asked for was pinned");
	return found;
}

static void unpin(struct page_pinner *pinner, int pinned)
{
	struct page_world *world = wl_container_of(pinner, world, pinner);
	struct pinned_file *file = find_file(world, pinned);
	wl_list_remove(&file->link);
	munmap(file->data, file->size);
	close(file->fd);
	free(file);
	world->pinned--;
}

/* By pagemap, which tells everybody of the own pages whether they are there. */
static bool holds(struct page_pinner *pinner, int pinned)
{
	struct page_world *world = wl_container_of(pinner, world, pinner);
	const struct pinned_file *file = find_file(world, pinned);
	bool all = true;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	check(pagemap >= 0, "pagemap");
	for (size_t at = 0; at < file->size; at += CHANNEL_PAGE) {
		uint64_t entry;
		off_t place = (off_t)(((uintptr_t)file->data + at) / CHANNEL_PAGE * sizeof(entry));
		check(pread(pagemap, &entry, sizeof(entry), place) == sizeof(entry), "pread");
		all = all && entry >> 63 != 0;
	}
	close(pagemap);
	return all;
}

static int make(struct page_buffers *buffers, const struct channel_page_range *ranges, size_t n,
	const char **wrong)
{
	struct page_world *world = wl_container_of(buffers, world, buffers);
	struct pinned_file *file;
	*wrong = "a range that is not the guest's memory";
	wl_list_for_each (file, &world->files, link) {
		if (n > 0 && file->address == channel_get64(ranges[0].address) && !world->fails) {
			world->made++;
			return fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
		}
	}
	return -1;
}

static void let_go(struct page_buffers *buffers, const struct fd_identity *identity)
{
	struct page_world *world = wl_container_of(buffers, world, buffers);
	check(identity->number != 0, "which one is let go");
	world->let_go++;
}

static void destroy_pinner(struct page_pinner *pinner)
{
	(void)pinner;
}

static void destroy_buffers(struct page_buffers *buffers)
{
	(void)buffers;
}

static const struct page_pinner_interface pinner_interface = {
	.pin = pin,
	.unpin = unpin,
	.holds = holds,
	.destroy = destroy_pinner,
};

static const struct page_buffers_interface buffers_interface = {
	.make = make,
	.let_go = let_go,
	.destroy = destroy_buffers,
};

void page_world_init(struct page_world *world)
{
	*world = (struct page_world){
		.pinner = {.interface = &pinner_interface},
		.buffers = {.interface = &buffers_interface},
		.next = FIRST_ADDRESS,
	};
	wl_list_init(&world->files);
}

void page_world_finish(struct page_world *world)
{
	check(wl_list_empty(&world->files), "nothing is pinned");
	check(world->let_go == world->made, "nothing that was made is kept");
}
