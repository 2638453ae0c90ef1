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
	return memory->shared || memory_map(memory, size, writable);
}

static bool push_open(struct fdrefs *refs, struct dmabuf *dmabuf, int access)
{
	struct {
		struct channel_open_dmabuf dmabuf;
		struct channel_open_handle handle;
	} open = {.dmabuf = {.access = (uint32_t)access, .plane = CHANNEL_PLANE_COPY}};
	size_t len = sizeof(open.dmabuf);
	channel_put64(open.dmabuf.size, dmabuf->memory.size);
	if (dmabuf->memory.shared) {
		open.dmabuf.plane = CHANNEL_PLANE_HANDLE;
		open.handle.resource = virtgpu_buffer_resource(dmabuf->named);
		len = sizeof(open);
	}
	return fdrefs_open(refs, &dmabuf->memory.ref, &exported, CHANNEL_KIND_DMABUF, &open, len);
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
		destroy_dmabuf(&dmabuf->memory.ref);
		return NULL;
	}
	return &dmabuf->memory;
}

/* ---- the importer ---- */

static void make_buffer(struct fdrefs *refs, struct memory *memory)
{
	struct resolver_buffer buffer;
	struct resolver *resolver = refs->resolver;
	if (resolver != NULL && resolver->interface->make(resolver, memory->size, &buffer) == 0) {
		memory->fd = buffer.fd;
		memory->mapping = buffer.mapping;
	}
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

static void find_buffer(struct fdrefs *refs, struct dmabuf *dmabuf, uint32_t resource)
{
	struct resolver_buffer buffer;
	struct resolver *handles = refs->handles;
	struct memory *memory = &dmabuf->memory;
	memory->shared = true;
	if (handles->interface->find(handles, resource, memory->size, &buffer) < 0) {
		return;
	}
	memory->fd = buffer.fd;
	refs->counts.dmabufs_shared++;
	identify(refs, dmabuf);
}

/* -EBADF also if it could not be made. */
static int get_fd(struct fdref *ref)
{
	return ((struct dmabuf *)ref)->leaving ? -EBADF : memory_get_fd(ref);
}

static const char *check_open(const struct fdrefs *refs, const struct channel_frame *frame,
	struct channel_open_dmabuf *open, struct channel_open_handle *handle)
{
	const size_t len = frame->header.length;
	if (len != sizeof(*open) && len != sizeof(*open) + sizeof(*handle)) {
		return "OPEN of a dma-buf with a wrong length";
	}
	memcpy(open, frame->payload, sizeof(*open));
	memcpy(handle, frame->payload + sizeof(*open), len - sizeof(*open));
	uint64_t size = channel_get64(open->size);
	if (open->access != CHANNEL_ACCESS_READ && open->access != CHANNEL_ACCESS_BOTH) {
		return "OPEN of a dma-buf with a wrong access mode";
	}
	if (size == 0 || size > INT64_MAX) {
		return "OPEN of a dma-buf with a wrong size";
	}
	bool by_handle = open->plane == CHANNEL_PLANE_HANDLE && refs->handles != NULL;
	if (!by_handle && open->plane != CHANNEL_PLANE_COPY) {
		return "OPEN of a dma-buf by an unknown plane";
	}
	return by_handle == (len > sizeof(*open)) ? NULL : "OPEN of a dma-buf with a wrong length";
}

const char *dmabuf_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_dmabuf open;
	struct channel_open_handle handle;
	const char *wrong = check_open(refs, frame, &open, &handle);
	if (wrong != NULL) {
		return wrong;
	}
	const uint64_t size = channel_get64(open.size);
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct charge *charge = charge_create(refs->budget, (size + page - 1) / page * page);
	if (charge == NULL) {
		return "more memory than the session may have";
	}
	struct dmabuf *dmabuf = create_dmabuf(refs, -1);
	if (dmabuf == NULL) {
		charge_unref(charge);
		return "out of memory";
	}
	dmabuf->memory.ref.interface = &imported;
	dmabuf->memory.ref.memory = charge;
	dmabuf->memory.size = dmabuf->memory.wanted = size;
	// Without a buffer the memory is there all the same: who names it is told so by get_fd.
	if (open.plane == CHANNEL_PLANE_HANDLE) {
		find_buffer(refs, dmabuf, handle.resource);
	} else {
		make_buffer(refs, &dmabuf->memory);
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
	default:
		return "frame of the wrong type for a dma-buf";
	}
}

/* ---- both ---- */

static const struct fdref_interface exported = {
	.name = "dma-buf",
	.frame = fdref_expect_close,
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
