#include "fdpass/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mapping.h"
#include "fdpass/kind.h"
#include "fdpass/ondemand.h"

#define CHUNK (64u * 1024)

struct file {
	struct fdref ref;
	int fd; // of the copy; -1 where the original was
	struct mapping *mapping;
	struct channel_open_memory open;
	uint64_t size;
	uint64_t received;
	bool finished;
};

static void destroy_file(struct fdref *ref)
{
	struct file *file = (struct file *)ref;
	mapping_unref(file->mapping);
	if (file->fd >= 0) {
		close(file->fd);
	}
	charge_unref(ref->memory);
	free(file);
}

/* ---- export ---- */

static const struct fdref_interface exported = {
	.name = "file",
	.frame = fdref_expect_close,
	.named = fdrefs_close, // the other side has all it needs
	.destroy = destroy_file,
};

/* Reads a whole file without touching its offset. */
static uint8_t *read_file(int fd, uint64_t size)
{
	uint8_t *data = malloc(size > 0 ? size : 1);
	uint64_t done = 0;
	while (data != NULL && done < size) {
		ssize_t n = pread(fd, data + done, size - done, (off_t)done);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			break;
		}
		done += (uint64_t)n;
	}
	if (done < size) {
		free(data);
		data = NULL;
	}
	return data;
}

static bool peer_has(const struct fdrefs *refs, const uint8_t hash[CONTENT_HASH_SIZE])
{
	for (size_t i = 0; i < refs->n_peer_contents; i++) {
		if (memcmp(refs->peer_contents[i].bytes, hash, CONTENT_HASH_SIZE) == 0) {
			return true;
		}
	}
	return false;
}

static bool push_contents(struct fdrefs *refs, uint32_t id, const uint8_t *data, uint64_t size)
{
	bool ok = true;
	for (uint64_t at = 0; ok && at < size; at += CHUNK) {
		uint32_t n = size - at < CHUNK ? (uint32_t)(size - at) : CHUNK;
		struct channel_mem_write write = {.stride = n, .row_bytes = n, .rows = 1};
		channel_put64(write.offset, at);
		ok = channel_push(refs->channel, CHANNEL_MEM_WRITE, id, 0, &write, sizeof(write),
			data + at, n);
	}
	refs->counts.memory_sent += size;
	return ok;
}

static void describe(struct channel_open_memory *open, int fd, uint64_t size)
{
	off_t offset = lseek(fd, 0, SEEK_CUR); // moves nothing
	open->access = (uint32_t)(fcntl(fd, F_GETFL) & O_ACCMODE);
	open->seals = fd_seals(fd);
	channel_put64(open->size, size);
	channel_put64(open->offset, offset < 0 ? 0 : (uint64_t)offset);
}

uint32_t file_export(struct fdrefs *refs, int fd, const char **wrong)
{
	struct file *file = NULL;
	uint8_t *data = NULL;
	uint32_t id = 0;
	struct stat st;

	*wrong = NULL;
	if (fd_kind_of(fd) != FD_KIND_FILE || fstat(fd, &st) < 0) {
		*wrong = "an fd that should be a file is not one";
		goto out;
	}
	if (st.st_size < 0 || (uint64_t)st.st_size > FILE_MAX) {
		*wrong = "a file is larger than 64 MiB";
		goto out;
	}
	uint64_t size = (uint64_t)st.st_size;
	data = read_file(fd, size);
	file = calloc(1, sizeof(*file));
	if (data == NULL || file == NULL) {
		*wrong = "a file cannot be read whole";
		goto out;
	}
	file->fd = -1;
	describe(&file->open, fd, size);
	struct content_hash hash;
	content_hash_bytes(&hash, data, size);
	memcpy(file->open.hash, hash.bytes, sizeof(file->open.hash));
	file->open.cached = peer_has(refs, file->open.hash);
	if (!fdrefs_open(refs, &file->ref, &exported, CHANNEL_KIND_FILE, &file->open,
		    sizeof(file->open))) {
		*wrong = "too many fds are open in this session";
		goto out;
	}
	id = file->ref.id;
	refs->counts.files++;
	if (file->open.cached) {
		refs->counts.files_cached++;
	} else if (!push_contents(refs, id, data, size)) {
		*wrong = "out of memory";
		id = 0;
	}
	file = NULL; // the table's
out:
	free(file);
	free(data);
	close(fd);
	return id;
}

uint64_t file_copy_max(const struct fdrefs *refs)
{
	return refs->rules.max_file_copy > 0 ? refs->rules.max_file_copy : FILE_MAX;
}

/* NULL: a file that can be copied exactly. */
static const char *check_exact(const struct fdrefs *refs, int fd, uint64_t *size)
{
	struct stat st;
	uint64_t max = file_copy_max(refs);
	if (fd_kind_of(fd) != FD_KIND_FILE || fstat(fd, &st) < 0) {
		return "an fd that should be a file is not one";
	}
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
		return "a file that can only be written to";
	}
	if (st.st_size < 0 || (uint64_t)st.st_size > max) {
		return "a file larger than may be copied (--max-file-copy)";
	}
	*size = (uint64_t)st.st_size;
	return NULL;
}

/* The rows keep the mapping for as long as they wait to be sent. */
static bool push_mapping(struct fdrefs *refs, uint32_t id, struct mapping *mapping, uint64_t size)
{
	struct channel_rows rows = {
		.base = mapping->data, .stride = size, .row_bytes = size, .rows = 1};
	refs->counts.memory_sent += size;
	return channel_push_rows(refs->channel, id, 0, mapping, &rows);
}

uint32_t file_export_exact(struct fdrefs *refs, int fd, const char **wrong)
{
	struct file *file = calloc(1, sizeof(*file));
	struct mapping *mapping = NULL;
	uint64_t size = 0;
	uint32_t id = 0;

	*wrong = file == NULL ? "out of memory" : check_exact(refs, fd, &size);
	if (*wrong != NULL) {
		goto out;
	}
	if (size > 0) {
		mapping = mapping_create_private(fd, size);
		if (mapping == NULL) {
			*wrong = "a file that cannot be mapped";
			goto out;
		}
	}
	file->fd = -1;
	file->open.exact = 1;
	describe(&file->open, fd, size);
	if (!fdrefs_open(refs, &file->ref, &exported, CHANNEL_KIND_FILE, &file->open,
		    sizeof(file->open))) {
		*wrong = "too many fds are open in this session";
		goto out;
	}
	id = file->ref.id;
	file = NULL; // the table's
	refs->counts.files++;
	if (mapping != NULL && !push_mapping(refs, id, mapping, size)) {
		*wrong = "out of memory";
		id = 0;
	}
out:
	mapping_unref(mapping);
	free(file);
	close(fd);
	return id;
}

/* ---- import ---- */

#define SHARED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/*
 * The receiver of such a file cannot write to it: its copy is sealed, whether the original was or
 * not, so that several may have the same one.
 */
static bool can_be_shared(const struct channel_open_memory *open)
{
	if (open->exact) {
		return false;
	}
	return open->access == CHANNEL_ACCESS_READ ||
		(open->seals != CHANNEL_NO_SEALS && (open->seals & F_SEAL_WRITE));
}

static const char *place_rows(
	struct fdref *ref, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct file *file = (struct file *)ref;
	uint64_t len = (uint64_t)write->row_bytes * write->rows;
	if (file->finished || file->open.cached) {
		return "MEM_WRITE to a file that is complete";
	}
	if (write->rows != 1 || channel_get64(write->offset) != file->received ||
		len > file->size - file->received) {
		return "MEM_WRITE to a file out of order or past its end";
	}
	if (len == 0) {
		return NULL; // a file of no bytes has no mapping
	}
	rows->base = file->mapping->data + file->received;
	rows->lasting = true;
	rows->mapping = file->mapping;
	file->received += len;
	ref->refs->counts.memory_received += len;
	return NULL;
}

static bool add_seals(int fd, uint32_t seals)
{
	seals &= ~(uint32_t)F_SEAL_EXEC; // has been there from the beginning
	return seals == 0 || fcntl(fd, F_ADD_SEALS, (int)seals) == 0;
}

static uint32_t seals_of_copy(const struct channel_open_memory *open)
{
	const uint32_t known = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	const uint32_t known_exactly = known | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC;
	uint32_t seals = open->seals == CHANNEL_NO_SEALS ? 0 : open->seals;
	seals &= open->exact ? known_exactly : known;
	return can_be_shared(open) ? seals | SHARED_SEALS : seals;
}

/* The copy is whole. No writable mapping may be left when it is sealed. */
static bool finish_copy(struct file *file)
{
	mapping_unref(file->mapping);
	file->mapping = NULL;
	file->finished = true;
	return add_seals(file->fd, seals_of_copy(&file->open));
}

/* Keeps a copy that was just made for later sessions. */
static void store(struct file *file)
{
	struct fdrefs *refs = file->ref.refs;
	struct content_hash hash;
	if (refs->contents == NULL || file->open.cached || !can_be_shared(&file->open) ||
		file->size == 0 || file->size > CONTENT_FILE_MAX) {
		return;
	}
	memcpy(hash.bytes, file->open.hash, sizeof(hash.bytes));
	int fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
	// What HELLO has announced stays: the other side counts on it.
	if (fd >= 0 && refs->contents->count < CONTENT_STORE_MAX) {
		content_store_put(refs->contents, &hash, fd);
	} else if (fd >= 0) {
		close(fd);
	}
	if (refs->stored != NULL) {
		refs->stored(refs->data, &hash, file->fd);
	}
}

static int get_fd(struct fdref *ref)
{
	struct file *file = (struct file *)ref;
	if (file->received < file->size && !file->open.cached) {
		return -EPROTO;
	}
	if (!file->finished) {
		if (!finish_copy(file)) {
			return -errno;
		}
		store(file);
	}
	int fd = fd_open_again(file->fd, (int)file->open.access);
	if (fd < 0) {
		return -errno;
	}
	lseek(fd, (off_t)channel_get64(file->open.offset), SEEK_SET);
	return fd;
}

static const struct fdref_interface imported = {
	.name = "file",
	.frame = fdref_expect_close,
	.place = place_rows,
	.get_fd = get_fd,
	.destroy = destroy_file,
};

static const char *make_empty(struct file *file)
{
	file->fd = fd_new_memory(FD_MEMORY_NAMES "file", file->open.exact ? file->open.seals : 0);
	if (file->fd < 0 || ftruncate(file->fd, (off_t)file->size) < 0) {
		log_errno("cannot make a file of %llu bytes", (unsigned long long)file->size);
		return "out of memory for a file";
	}
	if (file->size > 0) {
		file->mapping = mapping_create(file->fd, file->size, true);
		if (file->mapping == NULL) {
			return "out of memory for a file";
		}
	}
	return NULL;
}

/* A file that we said we have: the same one, or a copy for who may write to it. */
static const char *make_from_store(struct fdrefs *refs, struct file *file)
{
	struct content_hash hash;
	memcpy(hash.bytes, file->open.hash, sizeof(hash.bytes));
	int fd = refs->contents == NULL ? -1 : content_store_get(refs->contents, &hash);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size != file->size) {
		return "OPEN of a file that we never said we have";
	}
	refs->counts.files_cached++;
	if (can_be_shared(&file->open)) {
		file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		file->finished = true;
		return file->fd < 0 ? "out of fds" : NULL;
	}
	const char *wrong = make_empty(file);
	if (wrong == NULL && pread(fd, file->mapping->data, file->size, 0) != (ssize_t)file->size) {
		wrong = "a file that we have cannot be read";
	}
	return wrong;
}

static const char *check_open(const struct fdrefs *refs, const struct channel_open_memory *open)
{
	bool on_demand = open->cached == CHANNEL_CACHED_ON_DEMAND;
	uint64_t max = FILE_MAX;
	if (refs->any_kind && (open->exact || on_demand)) {
		max = INT64_MAX; // --max-memory is the limit of copies
	}
	if (open->access > CHANNEL_ACCESS_BOTH || channel_get64(open->size) > max) {
		return "OPEN of a file with a wrong access mode or size";
	}
	if (open->exact > 1 || open->cached > CHANNEL_CACHED_ON_DEMAND ||
		(open->exact && open->cached) ||
		(on_demand && open->access != CHANNEL_ACCESS_READ)) {
		return "OPEN of a file with contradictory fields";
	}
	if (on_demand && !refs->any_kind) { // who reads it would wait for the other side
		return "OPEN of a file on demand for a service that does not expect it";
	}
	return NULL;
}

static const char *import_copy(
	struct fdrefs *refs, const struct channel_open_memory *open, struct fdref **ref)
{
	struct file *file = calloc(1, sizeof(*file));
	if (file == NULL) {
		return "out of memory";
	}
	file->fd = -1;
	file->ref.interface = &imported;
	file->ref.refs = refs;
	file->open = *open;
	file->size = channel_get64(open->size);
	file->ref.memory = charge_create(refs->budget, file->size);
	const char *wrong = "more memory than the session may have";
	if (file->ref.memory != NULL) {
		wrong = open->cached ? make_from_store(refs, file) : make_empty(file);
	}
	if (wrong != NULL) {
		destroy_file(&file->ref);
		return wrong;
	}
	refs->counts.files++;
	*ref = &file->ref;
	return NULL;
}

const char *file_import(struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_memory open;
	if (frame->header.length != sizeof(open)) {
		return "OPEN of a file with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	const char *wrong = check_open(refs, &open);
	if (wrong != NULL) {
		return wrong;
	}
	return open.cached == CHANNEL_CACHED_ON_DEMAND ? ondemand_import(refs, &open, ref)
						       : import_copy(refs, &open, ref);
}
