#include "fdpass/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mapping.h"
#include "fdpass/kind.h"
#include "fdpass/memory_impl.h"
#include "fdpass/pages.h"
#include "fdpass/region.h"

// What MEM_COPY asks for takes of the rate: so much as one message.
#define COPY_BYTES_PER_MESSAGE (64u * 1024)
#define COPY_ROWS_PER_MESSAGE  64u

// A smaller pool that grows gets twice what it needs.
#define GROWS_TWOFOLD (32u << 20) // bytes

static const struct fdref_interface exported;
static const struct fdref_interface imported;

/* Maps what is there of the file now; rows that wait to be sent keep the old mapping. */
bool memory_map(struct memory *memory, uint64_t size, bool writable)
{
	mapping_unref(memory->mapping);
	memory->mapping = NULL;
	memory->size = size;
	if (size == 0) {
		return true;
	}
	memory->mapping = mapping_create(memory->fd, size, writable);
	if (memory->mapping == NULL && writable) {
		memory->mapping = mapping_create(memory->fd, size, false);
	}
	return memory->mapping != NULL;
}

void memory_finish(struct memory *memory)
{
	mapping_unref(memory->mapping);
	region_range_release(memory->range);
	pages_unpin(memory);
	charge_unref(memory->ref.memory);
	if (memory->fd >= 0) {
		close(memory->fd);
	}
}

static void destroy_memory(struct fdref *ref)
{
	struct memory *memory = (struct memory *)ref;
	memory_finish(memory);
	free(memory);
}

static bool rows_fit(const struct memory *memory, const struct channel_mem_write *write)
{
	uint64_t offset = channel_get64(write->offset);
	uint64_t span = write->rows == 0
		? 0
		: (uint64_t)write->stride * (write->rows - 1) + write->row_bytes;
	return offset <= memory->size && span <= memory->size - offset;
}

static void place_at(
	struct memory *memory, const struct channel_mem_write *write, struct channel_rows *rows)
{
	if (memory->mapping != NULL && memory->mapping->writable) {
		rows->base = memory->mapping->data + channel_get64(write->offset);
		rows->mapping = memory->mapping;
		rows->lasting = memory->lasting;
		if (memory->is_dmabuf) {
			dmabuf_begin_writing(memory);
		}
	}
	memory->ref.refs->counts.memory_received += (uint64_t)write->row_bytes * write->rows;
}

/* ---- the opener ---- */

static uint64_t file_size(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 || st.st_size < 0 ? 0 : (uint64_t)st.st_size;
}

/*
 * Chooses how the bytes go: the pages themselves, a range of the region, or rows. open has struct
 * channel_open_memory in it, and gets what follows.
 */
static const char *choose_plane(struct fdrefs *refs, struct memory *memory, uint64_t size,
	bool by_pages, struct wl_array *open)
{
	uint64_t there = file_size(memory->fd);
	uint64_t shared = there < size ? there : size;
	int access = fcntl(memory->fd, F_GETFL) & O_ACCMODE;
	bool pinned = by_pages && there >= size && access == O_RDWR &&
		pages_pin(refs, memory, size, open);
	if (!pinned && !memory_map(memory, shared, access == O_RDWR)) {
		return "a pool's fd cannot be mapped";
	}
	struct channel_open_memory *head = open->data;
	*head = (struct channel_open_memory){
		.access = (uint32_t)access,
		.seals = fd_seals(memory->fd),
	};
	if (shared < there && head->seals != CHANNEL_NO_SEALS) {
		head->seals &= ~(uint32_t)F_SEAL_GROW; // the pool may still grow within its file
	}
	memory->range = pinned ? NULL : region_allocate(refs, size, false);
	channel_put64(head->size, memory->range != NULL ? 0 : shared);
	return NULL;
}

static const char *open_pool(
	struct fdrefs *refs, struct memory *memory, uint64_t size, bool by_pages)
{
	struct wl_array open;
	wl_array_init(&open);
	const char *wrong = wl_array_add(&open, sizeof(struct channel_open_memory)) != NULL
		? choose_plane(refs, memory, size, by_pages, &open)
		: "out of memory";
	if (wrong == NULL &&
		!fdrefs_open(
			refs, &memory->ref, &exported, CHANNEL_KIND_POOL, open.data, open.size)) {
		wrong = "too many fds are open in this session";
	}
	wl_array_release(&open);
	return wrong;
}

static struct memory *export_pool(
	struct fdrefs *refs, int fd, uint64_t size, bool by_pages, const char **wrong)
{
	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_FILE) {
		*wrong = "a pool's fd is not shared memory";
		close(fd);
		return NULL;
	}
	struct memory *memory = calloc(1, sizeof(*memory));
	if (memory == NULL) {
		*wrong = "out of memory";
		close(fd);
		return NULL;
	}
	memory->fd = fd;
	memory->wanted = size;
	memory->users = 1;
	*wrong = open_pool(refs, memory, size, by_pages);
	if (*wrong != NULL) {
		region_forget(memory->range);
		memory->range = NULL;
		memory_finish(memory);
		free(memory);
		return NULL;
	}
	if (memory->range != NULL) {
		region_push_map(memory->range, memory->ref.id);
	}
	refs->counts.pools++;
	return memory;
}

struct memory *memory_export(struct fdrefs *refs, int fd, uint64_t size, const char **wrong)
{
	return export_pool(refs, fd, size, true, wrong);
}

struct memory *memory_export_changing(
	struct fdrefs *refs, int fd, uint64_t size, const char **wrong)
{
	return export_pool(refs, fd, size, false, wrong);
}

/*
 * Rows that come back for a file which is closed or truncated by now are forgotten. None come back to what
 * the host's compositor has given away, which it may go on showing.
 */
const char *memory_place_in_original(
	struct fdref *ref, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct memory *memory = (struct memory *)ref;
	if (ref->refs->own_bit == CHANNEL_ID_HOST) {
		return "MEM_WRITE to a memory that the host has opened";
	}
	if (rows_fit(memory, write) && !memory->shared) {
		place_at(memory, write, rows);
	}
	return NULL;
}

/*
 * What of the rows, from offset on with this stride, is within size bytes. False: nothing.
 */
static bool cut_rows(uint64_t size, uint64_t offset, size_t stride, size_t *row_bytes, size_t *rows)
{
	if (*row_bytes == 0 || *rows == 0 || offset >= size) {
		return false;
	}
	uint64_t left = size - offset;
	if (*row_bytes > left) {
		*row_bytes = left;
		*rows = 1;
	}
	if (*rows > 1 && (uint64_t)stride * (*rows - 1) > left - *row_bytes) {
		*rows = (left - *row_bytes) / stride + 1;
	}
	return true;
}

static const char *handle_exported(struct fdref *ref, const struct channel_frame *frame)
{
	return frame->header.type == CHANNEL_REGION_ROWS
		? memory_copy_from_region((struct memory *)ref, frame)
		: "frame of the wrong type for a pool";
}

/*
 * The range is too short. Twice as much saves small pools the next move; what is not in the file yet
 * may never be. False: there is no room for what is there.
 */
static bool move(struct memory *memory, uint64_t size, uint64_t there)
{
	const uint64_t sizes[] = {size < GROWS_TWOFOLD ? 2 * size : size, size, there};
	struct region_range *range = NULL;
	for (size_t i = 0; range == NULL && i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bool longer = sizes[i] > memory->range->length;
		range = longer ? region_allocate(memory->ref.refs, sizes[i], true) : NULL;
	}
	if (range == NULL) {
		return there <= memory->range->length;
	}
	region_range_release(memory->range);
	memory->range = range;
	return region_push_map(range, memory->ref.id);
}

bool memory_resize(struct memory *memory, uint64_t size)
{
	uint64_t there = file_size(memory->fd);
	uint64_t shared = there < size ? there : size;
	if (memory->range != NULL && size > memory->range->length && size != memory->wanted &&
		!move(memory, size, there)) {
		return false;
	}
	memory->wanted = size;
	if (shared == memory->size) {
		return true;
	}
	bool writable = memory->mapping == NULL || memory->mapping->writable;
	if (memory->range != NULL) {
		return memory_map(memory, shared, writable);
	}
	struct channel_mem_resize resize;
	channel_put64(resize.size, shared);
	return memory_map(memory, shared, writable) &&
		channel_push(memory->ref.refs->channel, CHANNEL_MEM_RESIZE, memory->ref.id, 0,
			&resize, sizeof(resize), NULL, 0);
}

bool memory_check(struct memory *memory)
{
	if (memory->shared) {
		return true; // nobody reads it here, or for us
	}
	if (memory->is_dmabuf) {
		dmabuf_begin_reading(memory, true); // also what the other side reads for us
		return true;
	}
	return memory_resize(memory, memory->wanted);
}

/* ---- the importer ---- */

/* A memfd takes its seals when it has its size; F_SEAL_WRITE would keep rows out of it. */
static bool add_seals(struct memory *memory, uint32_t seals)
{
	if (seals == CHANNEL_NO_SEALS) {
		return true;
	}
	seals &= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	memory->lasting = (seals & F_SEAL_SHRINK) != 0;
	return seals == 0 || fcntl(memory->fd, F_ADD_SEALS, (int)seals) == 0;
}

const char *memory_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_memory open;
	if (frame->header.length < sizeof(open)) {
		return "OPEN of a pool with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	if (frame->header.length > sizeof(open)) {
		return pages_import(refs, frame, &open, ref);
	}
	uint64_t size = channel_get64(open.size);
	if (open.access > CHANNEL_ACCESS_BOTH || size > INT64_MAX) {
		return "OPEN of a pool with a wrong access mode or size";
	}
	struct charge *charge = charge_create(refs->budget, size);
	if (charge == NULL) {
		return "more memory than the session may have";
	}
	struct memory *memory = calloc(1, sizeof(*memory));
	if (memory == NULL) {
		charge_unref(charge);
		return "out of memory";
	}
	memory->ref.interface = &imported;
	memory->ref.refs = refs;
	memory->ref.memory = charge;
	memory->fd = memfd_create("fdferry-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memory->fd < 0 || ftruncate(memory->fd, (off_t)size) < 0 ||
		!memory_map(memory, size, true) || !add_seals(memory, open.seals)) {
		log_errno("cannot make a pool of %llu bytes", (unsigned long long)size);
		destroy_memory(&memory->ref);
		return "out of memory for a pool";
	}
	refs->counts.pools++;
	*ref = &memory->ref;
	return NULL;
}

const char *memory_place_in_replica(
	struct fdref *ref, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct memory *memory = (struct memory *)ref;
	if (memory->shared || memory->range != NULL) {
		return "MEM_WRITE to a memory that both sides share";
	}
	if (!rows_fit(memory, write)) {
		return "MEM_WRITE past the end of its memory";
	}
	place_at(memory, write, rows);
	return NULL;
}

int memory_get_fd(struct fdref *ref)
{
	int fd = fcntl(((struct memory *)ref)->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static const char *move_to_region(struct memory *memory, const struct channel_frame *frame)
{
	const char *wrong;
	if (memory->range == NULL && (memory->size > 0 || memory->users > 0)) {
		return "REGION_MAP of a pool that has a place already";
	}
	struct region_range *range = region_map(memory->ref.refs, frame, &wrong);
	if (range == NULL) {
		return wrong;
	}
	if (memory->range == NULL) {
		close(memory->fd);
		memory->fd = fcntl(memory->ref.refs->region->fd, F_DUPFD_CLOEXEC, 0);
	}
	region_range_release(memory->range);
	memory->range = range;
	return memory->fd >= 0 ? NULL : "out of fds for a pool";
}

static const char *resize_replica(struct memory *memory, const struct channel_frame *frame)
{
	struct channel_mem_resize resize;
	if (memory->range != NULL) {
		return "MEM_RESIZE of a pool in the region";
	}
	if (frame->header.length != sizeof(resize)) {
		return "MEM_RESIZE with a wrong length";
	}
	memcpy(&resize, frame->payload, sizeof(resize));
	uint64_t size = channel_get64(resize.size);
	if (size > INT64_MAX) {
		return "MEM_RESIZE to a wrong size";
	}
	if (!charge_grow(memory->ref.memory, size)) {
		return "more memory than the session may have";
	}
	if (ftruncate(memory->fd, (off_t)size) < 0 || !memory_map(memory, size, true)) {
		log_errno("cannot make a pool %llu bytes long", (unsigned long long)size);
		return "MEM_RESIZE that cannot be followed";
	}
	return NULL;
}

/* Rectangles of a layout; false if one leaves it or the layout leaves the memory. */
static bool rect_fits(const struct channel_rect *rect, uint32_t stride, uint64_t offset,
	const struct memory *memory)
{
	if (rect->width == 0 || rect->height == 0 || (uint64_t)rect->x + rect->width > stride) {
		return false;
	}
	uint64_t last = (uint64_t)rect->y + rect->height - 1;
	if (last > UINT32_MAX) {
		return false; // the next line would overflow
	}
	uint64_t end = last * stride + rect->x + rect->width;
	return offset <= memory->size && end <= memory->size - offset;
}

/* One frame can ask for as much work as many others. */
static const char *check_work(struct memory *memory, uint64_t bytes, uint64_t rows)
{
	if (bytes > memory->size) {
		return "MEM_COPY of more than its memory";
	}
	uint64_t messages = bytes / COPY_BYTES_PER_MESSAGE + rows / COPY_ROWS_PER_MESSAGE;
	return budget_messages(memory->ref.refs->budget, messages)
		? NULL
		: "more to copy than the session may ask for";
}

/* NULL: all of copy can be done. */
static const char *check_rects(struct memory *memory, const struct memory *source,
	const struct channel_mem_copy *copy, const struct channel_rect *rects)
{
	uint64_t bytes = 0, rows = 0;
	for (uint32_t i = 0; i < copy->n_rects; i++) {
		if (!rect_fits(
			    &rects[i], copy->stride, channel_get64(copy->source_offset), source) ||
			!rect_fits(&rects[i], copy->stride, channel_get64(copy->destination_offset),
				memory)) {
			return "MEM_COPY past the end of its memory";
		}
		bytes += (uint64_t)rects[i].width * rects[i].height; // at most memory->size each
		rows += rects[i].height;
		if (bytes > memory->size) {
			break; // before the sum overflows
		}
	}
	return check_work(memory, bytes, rows);
}

static void copy_rect(struct memory *memory, uint64_t to, const struct memory *source,
	uint64_t from, uint32_t stride, const struct channel_rect *rect)
{
	bool lasting = memory->lasting && source->lasting;
	for (uint32_t row = 0; row < rect->height; row++) {
		uint64_t at = (uint64_t)(rect->y + row) * stride + rect->x;
		uint8_t *there = memory->mapping->data + to + at;
		const uint8_t *here = source->mapping->data + from + at;
		if (lasting) {
			memmove(there, here, rect->width);
		} else {
			mapping_copy(there, here, rect->width);
		}
	}
	memory->ref.refs->counts.memory_twinned += (uint64_t)rect->width * rect->height;
}

/* False: there is nothing to copy, as a dma-buf could not be made. */
static bool begin_copy(struct memory *memory, struct memory *source)
{
	if (memory->mapping == NULL || source->mapping == NULL) {
		return false;
	}
	if (source->is_dmabuf) {
		dmabuf_begin_reading(source, false);
	}
	if (memory->is_dmabuf) {
		dmabuf_begin_writing(memory);
	}
	return true;
}

/* NULL: no memory, or one of ours. */
static struct memory *get_replica(const struct fdrefs *refs, uint32_t id)
{
	struct fdref *ref = fdrefs_get(refs, id);
	bool is_replica = ref != NULL && ref->interface->place == memory_place_in_replica;
	return is_replica ? (struct memory *)ref : NULL;
}

const char *memory_copy_from_twin(struct memory *memory, const struct channel_frame *frame)
{
	struct channel_mem_copy copy;
	struct channel_rect rects[CHANNEL_MAX_RECTS];
	if (frame->header.length < sizeof(copy)) {
		return "MEM_COPY that is too short";
	}
	memcpy(&copy, frame->payload, sizeof(copy));
	size_t len = copy.n_rects * sizeof(rects[0]);
	if (copy.n_rects > CHANNEL_MAX_RECTS || frame->header.length != sizeof(copy) + len) {
		return "MEM_COPY with a wrong number of rectangles";
	}
	memcpy(rects, frame->payload + sizeof(copy), len);
	struct memory *source = get_replica(memory->ref.refs, copy.source);
	if (source == NULL) {
		return "MEM_COPY from an fdref that is not a pool";
	}
	if (memory->shared || source->shared || memory->range != NULL || source->range != NULL) {
		return "MEM_COPY of a memory that both sides share";
	}
	const char *wrong = check_rects(memory, source, &copy, rects);
	if (wrong != NULL || !begin_copy(memory, source)) {
		return wrong;
	}
	uint64_t from = channel_get64(copy.source_offset);
	uint64_t to = channel_get64(copy.destination_offset);
	for (uint32_t i = 0; i < copy.n_rects; i++) {
		copy_rect(memory, to, source, from, copy.stride, &rects[i]);
	}
	return NULL;
}

const char *memory_copy_from_region(struct memory *memory, const struct channel_frame *frame)
{
	uint64_t offset;
	struct channel_rows rows;
	struct fdrefs *refs = memory->ref.refs;
	const struct region_range *range = memory->is_dmabuf ? memory->range : NULL;
	if (memory->is_dmabuf && range == NULL) {
		return "REGION_ROWS of a dma-buf that has no range";
	}
	const char *wrong = region_find_rows(refs, frame, range, &offset, &rows);
	if (wrong != NULL) {
		return wrong;
	}
	bool writable = memory->mapping != NULL && memory->mapping->writable;
	if (!writable || rows.base == NULL ||
		!cut_rows(memory->size, offset, rows.stride, &rows.row_bytes, &rows.rows)) {
		return NULL;
	}
	if (memory->is_dmabuf) {
		dmabuf_begin_writing(memory);
	}
	uint8_t *to = memory->mapping->data + offset;
	if (to == rows.base) {
		return NULL; // they are there
	}
	wrong = check_work(memory, rows.row_bytes * rows.rows, rows.rows);
	if (wrong == NULL) {
		region_copy_rows(to, &rows);
		refs->counts.memory_shared += rows.row_bytes * rows.rows;
	}
	return wrong;
}

static const char *handle_imported(struct fdref *ref, const struct channel_frame *frame)
{
	struct memory *memory = (struct memory *)ref;
	switch (frame->header.type) {
	case CHANNEL_CLOSE:
		if (memory->users == 0) {
			fdrefs_confirm_closed(ref);
		}
		return NULL;
	case CHANNEL_MEM_RESIZE:
		return resize_replica(memory, frame);
	case CHANNEL_MEM_COPY:
		return memory_copy_from_twin(memory, frame);
	case CHANNEL_REGION_MAP:
		return move_to_region(memory, frame);
	default:
		return "frame of the wrong type for a pool";
	}
}

/* ---- both ---- */

static const struct fdref_interface exported = {
	.name = "pool",
	.frame = handle_exported,
	.place = memory_place_in_original,
	.destroy = destroy_memory,
};

static const struct fdref_interface imported = {
	.name = "pool",
	.frame = handle_imported,
	.place = memory_place_in_replica,
	.get_fd = memory_get_fd,
	.destroy = destroy_memory,
};

struct memory *memory_get(const struct fdrefs *refs, uint32_t id)
{
	struct fdref *ref = fdrefs_get(refs, id);
	if (ref == NULL || ref->kind != CHANNEL_KIND_POOL) {
		return NULL;
	}
	struct memory *memory = (struct memory *)ref;
	return ref->closing && memory->users == 0 ? NULL : memory;
}

struct memory *memory_use(struct memory *memory)
{
	memory->users++;
	return memory;
}

/* The file is not looked at any more; the id waits for CLOSED. */
static void close_original(struct memory *memory)
{
	static const struct fd_identity unknown;
	if (memory->is_dmabuf) {
		dmabuf_settle(&memory->ref);
	}
	mapping_unref(memory->mapping);
	memory->mapping = NULL;
	memory->size = 0;
	if (!memory->is_dmabuf) { // whose range is there until CLOSED
		region_range_release(memory->range);
		memory->range = NULL;
	}
	fdref_identify(&memory->ref, &unknown);
	close(memory->fd);
	memory->fd = -1;
	fdrefs_close(&memory->ref);
}

void memory_release(struct memory *memory)
{
	assert(memory->users > 0);
	if (--memory->users > 0) {
		return;
	}
	if (memory->ref.interface->place == memory_place_in_original) {
		close_original(memory);
	} else if (memory->ref.closing && memory->is_dmabuf) {
		dmabuf_let_go(memory);
	} else if (memory->ref.closing && memory->shared) {
		pages_let_go(memory);
	} else if (memory->ref.closing) {
		fdrefs_confirm_closed(&memory->ref);
	}
}

bool memory_must_wait(struct memory *memory)
{
	return memory->is_dmabuf && memory->fd >= 0 && dmabuf_must_wait(memory);
}

bool memory_is_in_use(struct memory *memory)
{
	bool same = memory->shared || memory->range != NULL;
	return memory->is_dmabuf && same && memory->fd >= 0 && dmabuf_is_in_use(memory);
}

/* What of the memory is there to be pushed, in bytes from its start. */
static struct mapping *pushed_from(
	const struct memory *memory, const struct region_range *range, uint64_t *size)
{
	uint64_t length = range != NULL ? range->length : UINT64_MAX;
	if (range != NULL && memory->ref.interface == &imported) {
		*size = memory->wanted < length ? memory->wanted : length;
		return range->mapping;
	}
	*size = memory->size < length ? memory->size : length;
	return memory->mapping;
}

/*
 * Copies the rows there, if they are elsewhere. The other side is told, but where it is a pool's: nothing
 * lies between the range and who looks there.
 */
static bool push_by_region(struct memory *memory, struct region_range *range, uint64_t offset,
	const struct mapping *mapping, const struct channel_rows *rows)
{
	struct fdref_counts *counts = &memory->ref.refs->counts;
	bool is_there = mapping == range->mapping;
	if (!is_there) {
		region_range_write(range, offset, rows);
		counts->memory_shared += rows->row_bytes * rows->rows;
	}
	return (!is_there && !memory->is_dmabuf) ||
		region_push_rows(range, memory->ref.id, offset, rows);
}

bool memory_push(struct memory *memory, struct region_range *range, uint64_t offset, size_t stride,
	size_t row_bytes, size_t rows)
{
	uint64_t size;
	range = memory->is_dmabuf ? memory->range : range;
	if (memory->shared) {
		memory->ref.refs->counts.memory_saved += row_bytes * rows;
		return true;
	}
	struct mapping *mapping = pushed_from(memory, range, &size);
	if (mapping == NULL || !cut_rows(size, offset, stride, &row_bytes, &rows)) {
		return true;
	}
	struct channel_rows layout = {
		.base = mapping->data + offset,
		.stride = rows > 1 ? stride : row_bytes,
		.row_bytes = row_bytes,
		.rows = rows,
	};
	struct fdrefs *refs = memory->ref.refs;
	if (memory->is_dmabuf) {
		dmabuf_begin_reading(memory, false);
	}
	if (range != NULL && (refs->region->names_rows || mapping != range->mapping)) {
		return push_by_region(memory, range, offset, mapping, &layout);
	}
	refs->counts.memory_sent += row_bytes * rows;
	return channel_push_rows(refs->channel, memory->ref.id, offset, mapping, &layout);
}
