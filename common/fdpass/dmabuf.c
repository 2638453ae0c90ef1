#include "fdpass/dmabuf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mapping.h"
#include "fdpass/departure.h"
#include "fdpass/kind.h"
#include "fdpass/memory_impl.h"
#include "fdpass/region.h"
#include "fdpass/resolver.h"
#include "fdpass/sync.h"
#include "fdpass/virtgpu.h"

struct dmabuf {
	struct memory memory;
	bool reading, writing; // between the beginning and the end of DMA_BUF_IOCTL_SYNC
	struct virtgpu_buffer
		*named; // at an opener that shares it: until CLOSED, so that its pages stay
	bool leaving;   // nobody here uses it: it waits for the local peer to let it go
	struct departure departure;
};

static const struct fdref_interface exported;
static const struct fdref_interface imported;

static const char too_much[] = "more memory than the session may have";

static void destroy_dmabuf(struct fdref *ref)
{
	struct dmabuf *dmabuf = (struct dmabuf *)ref;
	dmabuf_settle(ref);
	departure_finish(&dmabuf->departure);
	sync_forget(ref->refs, dmabuf->memory.fd);
	virtgpu_buffer_release(dmabuf->named);
	memory_finish(&dmabuf->memory);
	free(dmabuf);
}

static struct dmabuf *create_dmabuf(struct fdrefs *refs, int fd)
{
	struct dmabuf *dmabuf = calloc(1, sizeof(*dmabuf));
	if (dmabuf == NULL) {
		return NULL;
	}
	dmabuf->memory.ref.refs = refs;
	dmabuf->memory.fd = fd;
	dmabuf->memory.is_dmabuf = true;
	dmabuf->memory.lasting = true;
	departure_init(&dmabuf->departure);
	return dmabuf;
}

/* ---- access ---- */

static void sync_access(const struct memory *memory, uint64_t flags)
{
	const struct dma_buf_sync sync = {.flags = flags};
	int error;
	do {
		error = ioctl(memory->fd, DMA_BUF_IOCTL_SYNC, &sync);
	} while (error < 0 && (errno == EINTR || errno == EAGAIN));
	if (error < 0) {
		log_limited(LOG_WARN, "a dma-buf may show old bytes: DMA_BUF_IOCTL_SYNC: %m");
	}
}

static void begin(struct dmabuf *dmabuf, bool *doing, uint64_t direction)
{
	if (dmabuf->memory.fd < 0 || *doing) {
		return;
	}
	dmabuf->memory.ref.refs->accessed += !dmabuf->reading && !dmabuf->writing;
	*doing = true;
	sync_access(&dmabuf->memory, DMA_BUF_SYNC_START | direction);
}

static void end(struct dmabuf *dmabuf, bool *doing, uint64_t direction)
{
	if (!*doing) {
		return;
	}
	*doing = false;
	dmabuf->memory.ref.refs->accessed -= !dmabuf->reading && !dmabuf->writing;
	sync_access(&dmabuf->memory, DMA_BUF_SYNC_END | direction);
}

void dmabuf_begin_reading(struct memory *memory, bool anew)
{
	struct dmabuf *dmabuf = (struct dmabuf *)memory;
	if (anew) {
		end(dmabuf, &dmabuf->reading, DMA_BUF_SYNC_READ);
	}
	begin(dmabuf, &dmabuf->reading, DMA_BUF_SYNC_READ);
}

void dmabuf_begin_writing(struct memory *memory)
{
	struct dmabuf *dmabuf = (struct dmabuf *)memory;
	begin(dmabuf, &dmabuf->writing, DMA_BUF_SYNC_WRITE);
}

void dmabuf_settle(struct fdref *ref)
{
	struct dmabuf *dmabuf = (struct dmabuf *)ref;
	end(dmabuf, &dmabuf->writing, DMA_BUF_SYNC_WRITE);
	end(dmabuf, &dmabuf->reading, DMA_BUF_SYNC_READ);
}

bool dmabuf_must_wait(struct memory *memory)
{
	struct pollfd written = {.fd = memory->fd, .events = POLLIN};
	if (poll(&written, 1, 0) != 0) {
		return false;
	}
	if (sync_wait_for(memory->ref.refs, memory->fd)) {
		return true;
	}
	// Where there is no memory or no fd for that, the kernel waits, when reading begins.
	if (memory->shared) {
		sync_access(memory, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
		sync_access(memory, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	}
	return false;
}

bool dmabuf_is_in_use(struct memory *memory)
{
	struct pollfd used = {.fd = memory->fd, .events = POLLOUT};
	return poll(&used, 1, 0) == 0 && sync_wait_to_write(memory->ref.refs, memory->fd);
}

bool dmabuf_possible(const struct fdrefs *refs)
{
	return refs->dmabufs;
}

/* ---- the opener ---- */

/* A dma-buf is the only file whose offset can be moved without the sender's seeing it: it has none. */
static uint64_t size_of(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	return size < 0 ? 0 : (uint64_t)size;
}

/* Either the host can find it, or its bytes are read here. */
static bool get_bytes(struct fdrefs *refs, struct dmabuf *dmabuf, uint64_t size, bool writable)
{
	struct memory *memory = &dmabuf->memory;
	if (refs->virtgpu != NULL) {
		dmabuf->named = virtgpu_get(refs->virtgpu, memory->fd);
	}
	memory->shared = dmabuf->named != NULL;
	memory->size = memory->wanted = size;
	if (memory->shared) {
		return true;
	}
	memory->range = region_allocate_for_dmabuf(refs, size);
	return memory_map(memory, size, writable);
}

struct dmabuf_open {
	struct channel_open_dmabuf head;
	union {
		struct channel_open_handle handle;
		struct channel_region_range range;
	} plane;
};

static size_t open_length(const struct channel_open_dmabuf *head)
{
	switch (head->plane) {
	case CHANNEL_PLANE_HANDLE:
		return sizeof(*head) + sizeof(struct channel_open_handle);
	case CHANNEL_PLANE_REGION:
		return sizeof(*head) + sizeof(struct channel_region_range);
	default:
		return sizeof(*head);
	}
}

static bool push_open(struct fdrefs *refs, struct dmabuf *dmabuf, int access)
{
	struct dmabuf_open open = {
		.head = {.access = (uint32_t)access, .plane = CHANNEL_PLANE_COPY},
	};
	struct memory *memory = &dmabuf->memory;
	channel_put64(open.head.size, memory->size);
	if (memory->shared) {
		open.head.plane = CHANNEL_PLANE_HANDLE;
		open.plane.handle.resource = virtgpu_buffer_resource(dmabuf->named);
	} else if (memory->range != NULL) {
		open.head.plane = CHANNEL_PLANE_REGION;
		region_range_describe(memory->range, &open.plane.range);
	}
	return fdrefs_open(
		refs, &memory->ref, &exported, CHANNEL_KIND_DMABUF, &open, open_length(&open.head));
}

static const char *open_dmabuf(struct fdrefs *refs, struct dmabuf *dmabuf)
{
	struct memory *memory = &dmabuf->memory;
	int access = fcntl(memory->fd, F_GETFL) & O_ACCMODE;
	uint64_t size = size_of(memory->fd);
	if (size == 0 || access == O_WRONLY || access == O_ACCMODE ||
		!get_bytes(refs, dmabuf, size, access == O_RDWR)) {
		return "a dma-buf that cannot be mapped";
	}
	memory->users = 1;
	if (!push_open(refs, dmabuf, access)) {
		return "too many fds are open in this session";
	}
	struct fd_identity identity;
	fd_identity_of(memory->fd, &identity);
	fdref_identify(&memory->ref, &identity);
	refs->counts.dmabufs++;
	refs->counts.dmabufs_shared += memory->shared;
	return NULL;
}

/* One that is open already; NULL: there is none. */
static struct memory *find_exported(const struct fdrefs *refs, int fd)
{
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	struct fdref *ref = identity.number != 0 ? fdrefs_find(refs, &identity) : NULL;
	return ref != NULL && ref->interface == &exported ? (struct memory *)ref : NULL;
}

bool dmabuf_must_wait_to_open(struct fdrefs *refs, int fd)
{
	return refs->virtgpu != NULL && fd_kind_of(fd) == FD_KIND_DMABUF &&
		find_exported(refs, fd) == NULL && virtgpu_must_wait(refs->virtgpu, refs, fd);
}

struct memory *dmabuf_export(struct fdrefs *refs, int fd, const char **wrong)
{
	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_DMABUF) {
		*wrong = "an fd that should be a dma-buf is not one";
		close(fd);
		return NULL;
	}
	struct memory *open = find_exported(refs, fd);
	if (open != NULL) {
		close(fd);
		return memory_use(open);
	}
	struct dmabuf *dmabuf = create_dmabuf(refs, fd);
	if (dmabuf == NULL) {
		*wrong = "out of memory";
		close(fd);
		return NULL;
	}
	*wrong = open_dmabuf(refs, dmabuf);
	if (*wrong != NULL) {
		region_forget(dmabuf->memory.range);
		dmabuf->memory.range = NULL;
		destroy_dmabuf(&dmabuf->memory.ref);
		return NULL;
	}
	return &dmabuf->memory;
}

/* None come to what the host's compositor has given away, as in memory_place_in_original. */
static const char *handle_exported(struct fdref *ref, const struct channel_frame *frame)
{
	return frame->header.type == CHANNEL_REGION_ROWS && ref->refs->own_bit != CHANNEL_ID_HOST
		? memory_copy_from_region((struct memory *)ref, frame)
		: "frame of the wrong type for a dma-buf";
}

/* ---- the importer ---- */

static uint64_t whole_pages(uint64_t size)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	return (size + page - 1) / page * page;
}

/* NULL, also if it could not be made. */
static const char *make_buffer(struct fdrefs *refs, struct memory *memory)
{
	struct resolver_buffer buffer;
	struct resolver *resolver = refs->resolver;
	if (!charge_grow(memory->ref.memory, whole_pages(memory->size))) {
		return too_much;
	}
	if (resolver != NULL && resolver->interface->make(resolver, memory->size, &buffer) == 0) {
		memory->fd = buffer.fd;
		memory->mapping = buffer.mapping;
	}
	return NULL;
}

/* The range is the buffer, where a dma-buf can be made of it; else what is told to be there is copied. */
static const char *make_of_region(
	struct fdrefs *refs, struct memory *memory, const struct channel_region_range *described)
{
	const char *wrong;
	struct resolver_buffer buffer;
	struct resolver *resolver = refs->resolver;
	struct region_range *range = region_map_for_dmabuf(refs, memory->size, described, &wrong);
	if (range == NULL) {
		return wrong;
	}
	memory->range = range;
	if (resolver == NULL || resolver->interface->wrap == NULL ||
		resolver->interface->wrap(resolver, refs->region->fd, range->offset,
			whole_pages(memory->size), &buffer) < 0) {
		return make_buffer(refs, memory);
	}
	memory->fd = buffer.fd;
	memory->mapping = mapping_ref(range->mapping);
	return NULL;
}

/* The local peer may have it already, by another fdref: that one knows how many others have it. */
static void identify(struct fdrefs *refs, struct dmabuf *dmabuf)
{
	struct fdref *ref = &dmabuf->memory.ref;
	fd_identity_of(dmabuf->memory.fd, &ref->identity);
	const struct fdref *same = fdrefs_find(refs, &ref->identity);
	if (same != NULL && same->interface == &imported) {
		dmabuf->departure.others = ((const struct dmabuf *)same)->departure.others;
	} else {
		departure_count_others(&dmabuf->departure, dmabuf->memory.fd);
	}
}

/* NULL, also if there is none. */
static const char *find_buffer(struct fdrefs *refs, struct dmabuf *dmabuf, uint32_t resource)
{
	struct resolver_buffer buffer;
	struct resolver *handles = refs->handles;
	struct memory *memory = &dmabuf->memory;
	memory->shared = true;
	if (!charge_grow(memory->ref.memory, whole_pages(memory->size))) {
		return too_much;
	}
	if (handles->interface->find(handles, resource, memory->size, &buffer) < 0) {
		return NULL;
	}
	memory->fd = buffer.fd;
	if (!charge_grow(memory->ref.memory, buffer.size)) { // the guest may have said less
		return too_much;
	}
	refs->counts.dmabufs_shared++;
	identify(refs, dmabuf);
	return NULL;
}

/* -EBADF also if it could not be made. */
static int get_fd(struct fdref *ref)
{
	return ((struct dmabuf *)ref)->leaving ? -EBADF : memory_get_fd(ref);
}

static const char *check_open(
	const struct fdrefs *refs, const struct channel_frame *frame, struct dmabuf_open *decoded)
{
	const size_t len = frame->header.length;
	const struct channel_open_dmabuf *open = &decoded->head;
	if (len < sizeof(*open) || len > sizeof(*decoded)) {
		return "OPEN of a dma-buf with a wrong length";
	}
	memcpy(decoded, frame->payload, len);
	uint64_t size = channel_get64(open->size);
	if (open->access != CHANNEL_ACCESS_READ && open->access != CHANNEL_ACCESS_BOTH) {
		return "OPEN of a dma-buf with a wrong access mode";
	}
	if (size == 0 || size > INT64_MAX) {
		return "OPEN of a dma-buf with a wrong size";
	}
	if (open->plane > CHANNEL_PLANE_REGION ||
		(open->plane == CHANNEL_PLANE_HANDLE && refs->handles == NULL)) {
		return "OPEN of a dma-buf by an unknown plane";
	}
	return len == open_length(open) ? NULL : "OPEN of a dma-buf with a wrong length";
}

/* Without a buffer the memory is there all the same: who names it is told so by get_fd. */
static const char *get_buffer(
	struct fdrefs *refs, struct dmabuf *dmabuf, const struct dmabuf_open *open)
{
	switch (open->head.plane) {
	case CHANNEL_PLANE_HANDLE:
		return find_buffer(refs, dmabuf, open->plane.handle.resource);
	case CHANNEL_PLANE_REGION:
		return make_of_region(refs, &dmabuf->memory, &open->plane.range);
	default:
		return make_buffer(refs, &dmabuf->memory);
	}
}

const char *dmabuf_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct dmabuf_open open;
	const char *wrong = check_open(refs, frame, &open);
	if (wrong != NULL) {
		return wrong;
	}
	struct charge *charge = charge_create(refs->budget, 0);
	if (charge == NULL) {
		return "out of memory";
	}
	struct dmabuf *dmabuf = create_dmabuf(refs, -1);
	if (dmabuf == NULL) {
		charge_unref(charge);
		return "out of memory";
	}
	dmabuf->memory.ref.interface = &imported;
	dmabuf->memory.ref.memory = charge;
	dmabuf->memory.size = dmabuf->memory.wanted = channel_get64(open.head.size);
	wrong = get_buffer(refs, dmabuf, &open);
	if (wrong != NULL) {
		region_forget(dmabuf->memory.range);
		dmabuf->memory.range = NULL;
		destroy_dmabuf(&dmabuf->memory.ref);
		return wrong;
	}
	refs->counts.dmabufs++;
	*ref = &dmabuf->memory.ref;
	return NULL;
}

/* ---- its end ---- */

void dmabuf_let_go(struct memory *memory)
{
	struct dmabuf *dmabuf = (struct dmabuf *)memory;
	dmabuf->leaving = true;
	dmabuf_settle(&memory->ref);
	mapping_unref(memory->mapping); // which may be a reference, too
	memory->mapping = NULL;
	departure_begin(&dmabuf->departure, memory);
}

static const char *handle_imported(struct fdref *ref, const struct channel_frame *frame)
{
	struct memory *memory = (struct memory *)ref;
	switch (frame->header.type) {
	case CHANNEL_CLOSE:
		if (memory->users == 0) {
			dmabuf_let_go(memory);
		}
		return NULL;
	case CHANNEL_MEM_COPY:
		return memory_copy_from_twin(memory, frame);
	case CHANNEL_REGION_ROWS:
		return memory_copy_from_region(memory, frame);
	default:
		return "frame of the wrong type for a dma-buf";
	}
}

/* ---- both ---- */

static const struct fdref_interface exported = {
	.name = "dma-buf",
	.frame = handle_exported,
	.place = memory_place_in_original,
	.settle = dmabuf_settle,
	.destroy = destroy_dmabuf,
};

static const struct fdref_interface imported = {
	.name = "dma-buf",
	.frame = handle_imported,
	.place = memory_place_in_replica,
	.get_fd = get_fd,
	.settle = dmabuf_settle,
	.destroy = destroy_dmabuf,
};

struct memory *dmabuf_get(const struct fdrefs *refs, uint32_t id)
{
	struct fdref *ref = fdrefs_get(refs, id);
	bool is_dmabuf =
		ref != NULL && (ref->interface == &exported || ref->interface == &imported);
	return is_dmabuf && !((struct dmabuf *)ref)->leaving ? (struct memory *)ref : NULL;
}
