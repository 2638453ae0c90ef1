#include "fdpass/shared.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mapping.h"
#include "fdpass/kind.h"
#include "fdpass/words.h"

#define SIZE_MAX_SHARED (INT64_MAX / 4)

static const struct fdref_interface exported;
static const struct fdref_interface imported;
static const struct fdref_interface exported_fd;
static const struct fdref_interface imported_fd;

struct shared {
	struct fdref ref;
	int fd;          // opened here: the local peer's; opened there: of the copy
	uint32_t access; // of fd
	struct fd_identity identity;
	struct words words;
	uint64_t charged;   // for words; for the copy itself there is ref.memory
	unsigned int users; // fds of it whose message is on its way
	bool unused;        // opened there: nobody here has an fd or a mapping, and that was said
	bool resized, conflicted; // logged
};

struct shared_fd {
	struct fdref ref;
	uint32_t memory; // its id
	uint32_t access;
	uint64_t offset;
};

static const char too_much[] = "more memory than the session may have";

/* ---- the memory ---- */

static struct shared *shared_get(const struct fdrefs *refs, uint32_t id)
{
	struct fdref *ref = fdrefs_get(refs, id);
	bool is_shared =
		ref != NULL && (ref->interface == &exported || ref->interface == &imported);
	return is_shared ? (struct shared *)ref : NULL;
}

/* Gives back everything but the id. */
static void let_go(struct shared *shared)
{
	words_finish(&shared->words);
	if (shared->fd >= 0) {
		close(shared->fd);
		shared->fd = -1;
	}
	charge_unref(shared->ref.memory);
	shared->ref.memory = NULL;
	fdrefs_discharge(shared->ref.refs, shared->charged);
	shared->ref.refs->words_memory -= shared->charged;
	shared->charged = 0;
	shared->identity = (struct fd_identity){0};
}

static void destroy_shared(struct fdref *ref)
{
	ref->refs->shared--;
	let_go((struct shared *)ref);
	free(ref);
}

/* With the words of a memory of size, charged for them. */
static struct shared *create_shared(
	struct fdrefs *refs, uint64_t size, bool opener, const char **wrong)
{
	if (size > SIZE_MAX_SHARED || !fdrefs_charge(refs, words_cost(size))) {
		*wrong = too_much;
		return NULL;
	}
	struct shared *shared = calloc(1, sizeof(*shared));
	if (shared == NULL || !words_init(&shared->words, size, opener)) {
		*wrong = "out of memory";
		fdrefs_discharge(refs, words_cost(size));
		free(shared);
		return NULL;
	}
	shared->charged = words_cost(size);
	refs->words_memory += shared->charged;
	shared->ref.refs = refs;
	shared->fd = -1;
	refs->shared++;
	return shared;
}

static bool map(struct shared *shared, bool writable)
{
	if (shared->words.size == 0) {
		return true;
	}
	struct mapping *mapping = mapping_create(shared->fd, shared->words.size, writable);
	if (mapping == NULL) {
		return false;
	}
	mapping_unref(shared->words.mapping);
	shared->words.mapping = mapping;
	return true;
}

/* How much of the memory is there: its holders may truncate it. */
static uint64_t end_of(struct shared *shared)
{
	struct stat st;
	uint64_t size = shared->words.size;
	uint64_t there = fstat(shared->fd, &st) < 0 || st.st_size < 0 ? 0 : (uint64_t)st.st_size;
	if (there != size && !shared->resized) {
		shared->resized = true;
		log_limited(LOG_WARN,
			"shared memory was resized from %llu to %llu bytes, which does not cross",
			(unsigned long long)size, (unsigned long long)there);
	}
	return there < size ? there : size;
}

/* ---- changes ---- */

static bool push_changes(struct shared *shared)
{
	struct fdrefs *refs = shared->ref.refs;
	if (shared->words.mapping == NULL || shared->ref.closing || shared->unused) {
		return true;
	}
	uint64_t end = end_of(shared), at = 0;
	while (at < end) {
		uint8_t runs[WORDS_MAX];
		size_t len = words_encode(&shared->words, &at, end, runs);
		if (len > 0 &&
			!channel_push(refs->channel, CHANNEL_MEM_WORDS, shared->ref.id, 0, runs,
				len, NULL, 0)) {
			return false;
		}
		refs->counts.memory_sent += len;
	}
	return true;
}

static void count_conflicts(struct shared *shared, uint64_t conflicts)
{
	shared->ref.refs->counts.shared_conflicts += conflicts;
	if (conflicts > 0 && !shared->conflicted) {
		shared->conflicted = true;
		log_limited(LOG_WARN,
			"both sides write to the same words of shared memory at a time, which "
			"--shm-mode=diff cannot carry");
	}
}

static const char *take_changes(struct shared *shared, const struct channel_frame *frame)
{
	struct fdrefs *refs = shared->ref.refs;
	size_t len = frame->header.length;
	const char *wrong = words_check(&shared->words, frame->payload, len);
	if (wrong != NULL || shared->ref.closing) {
		return wrong;
	}
	count_conflicts(shared, words_apply(&shared->words, end_of(shared), frame->payload, len));
	refs->counts.memory_received += len;
	if (!channel_push(refs->channel, CHANNEL_CREDIT, shared->ref.id, 1, NULL, 0, NULL, 0)) {
		return "more than there is memory for";
	}
	return NULL;
}

static const char *handle_both(struct shared *shared, const struct channel_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_MEM_WORDS:
		return take_changes(shared, frame);
	case CHANNEL_CREDIT:
		return words_handled(&shared->words, frame->header.arg)
			? NULL
			: "CREDIT for more MEM_WORDS than were sent";
	default:
		return "frame of the wrong type for shared memory";
	}
}

/* ---- the opener's side ---- */

/* Nobody there uses it, and nothing on its way brings it there again. */
static const char *handle_unused(struct shared *shared)
{
	if (shared->users == 0 && !shared->ref.closing) {
		let_go(shared);
		fdrefs_close(&shared->ref);
	}
	return NULL;
}

static const char *handle_exported(struct fdref *ref, const struct channel_frame *frame)
{
	struct shared *shared = (struct shared *)ref;
	return frame->header.type == CHANNEL_MEM_UNUSED ? handle_unused(shared)
							: handle_both(shared, frame);
}

static const struct fdref_interface exported = {
	.name = "shared memory",
	.frame = handle_exported,
	.destroy = destroy_shared,
};

static struct shared *open_shared(
	struct fdrefs *refs, int fd, uint64_t size, uint32_t seals, const char **wrong)
{
	struct shared *shared = create_shared(refs, size, true, wrong);
	if (shared == NULL) {
		return NULL;
	}
	shared->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	shared->access = (uint32_t)(fcntl(fd, F_GETFL) & O_ACCMODE);
	fd_identity_of(fd, &shared->identity);
	bool writable = shared->access == CHANNEL_ACCESS_BOTH;
	struct channel_open_shared open = {.seals = seals};
	channel_put64(open.size, size);
	if (shared->fd < 0 || (!(writable && map(shared, true)) && !map(shared, false))) {
		*wrong = "shared memory that cannot be mapped";
	} else if (!fdrefs_open(refs, &shared->ref, &exported, CHANNEL_KIND_SHARED, &open,
			   sizeof(open))) {
		*wrong = "too many fds are open in this session";
	} else {
		return shared;
	}
	destroy_shared(&shared->ref);
	return NULL;
}

static struct shared *export_memory(struct fdrefs *refs, int fd, const char **wrong)
{
	struct stat st;
	uint32_t seals = fd_seals(fd);
	if (fd_kind_of(fd) != FD_KIND_FILE || fstat(fd, &st) < 0 || st.st_size < 0) {
		*wrong = "shared memory that is not a memory";
		return NULL;
	}
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
		*wrong = "shared memory that cannot be read";
		return NULL;
	}
	if (seals != CHANNEL_NO_SEALS && (seals & F_SEAL_WRITE)) {
		*wrong = "shared memory that is sealed against writing";
		return NULL;
	}
	return open_shared(refs, fd, (uint64_t)st.st_size, seals, wrong);
}

/* What was known by an fd that could only be read is written through one that can do both. */
static void widen(struct shared *shared, int fd)
{
	bool both = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
	if (shared->ref.interface != &exported || shared->access == CHANNEL_ACCESS_BOTH || !both) {
		return;
	}
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own >= 0) {
		close(shared->fd);
		shared->fd = own;
		shared->access = CHANNEL_ACCESS_BOTH;
		map(shared, true); // or it stays as it is: sealed against new writers
	}
}

/* ---- the other side ---- */

static const char *handle_imported(struct fdref *ref, const struct channel_frame *frame)
{
	struct shared *shared = (struct shared *)ref;
	if (frame->header.type != CHANNEL_CLOSE) {
		return handle_both(shared, frame);
	}
	shared->identity = (struct fd_identity){0};
	if (shared->users == 0) { // else by shared_collect
		fdrefs_confirm_closed(ref);
	}
	return NULL;
}

static const struct fdref_interface imported = {
	.name = "shared memory",
	.frame = handle_imported,
	.destroy = destroy_shared,
};

/*
 * The description that memfd_create gives is not among those that a lease counts; the one that stays
 * is.
 */
static int create_copy(uint64_t size, uint32_t seals)
{
	int made = fd_new_memory(FD_MEMORY_NAMES "shared", seals != CHANNEL_NO_SEALS ? seals : 0);
	if (made < 0) {
		return -1;
	}
	int fd = ftruncate(made, (off_t)size) < 0 ? -1 : fd_open_again(made, O_RDWR);
	close(made);
	return fd;
}

/* Ours is mapped by now, so that F_SEAL_FUTURE_WRITE keeps all others from writing. */
static bool add_seals(int fd, uint32_t seals)
{
	const uint32_t carried = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE;
	if (seals == CHANNEL_NO_SEALS) {
		return true;
	}
	return (seals & carried) == 0 || fcntl(fd, F_ADD_SEALS, (int)(seals & carried)) == 0;
}

static const char *import_memory(
	struct fdrefs *refs, const struct channel_open_shared *open, struct fdref **ref)
{
	const char *wrong = NULL;
	uint64_t size = channel_get64(open->size);
	if (size > INT64_MAX || (open->seals != CHANNEL_NO_SEALS && (open->seals & F_SEAL_WRITE))) {
		return "OPEN of shared memory with a wrong size or seal";
	}
	struct shared *shared = create_shared(refs, size, false, &wrong);
	if (shared == NULL) {
		return wrong;
	}
	shared->ref.memory = charge_create(refs->budget, size);
	if (shared->ref.memory == NULL) {
		destroy_shared(&shared->ref);
		return too_much;
	}
	shared->ref.interface = &imported;
	shared->access = CHANNEL_ACCESS_BOTH;
	shared->fd = create_copy(size, open->seals);
	if (shared->fd < 0 || !map(shared, true) || !add_seals(shared->fd, open->seals)) {
		log_errno("cannot make shared memory of %llu bytes", (unsigned long long)size);
		destroy_shared(&shared->ref);
		return "out of memory for shared memory";
	}
	fd_identity_of(shared->fd, &shared->identity);
	*ref = &shared->ref;
	return NULL;
}

/*
 * No other description and no mapping of one is left, which is when the kernel grants a lease for
 * writing. Who opens the file while it is held makes the kernel send a signal: one that is ignored.
 */
static bool is_used(const struct shared *shared)
{
	if (fcntl(shared->fd, F_SETSIG, SIGURG) < 0 || fcntl(shared->fd, F_SETLEASE, F_WRLCK) < 0) {
		return true;
	}
	fcntl(shared->fd, F_SETLEASE, F_UNLCK);
	return false;
}

/* ---- fds ---- */

static void destroy_fd(struct fdref *ref)
{
	struct shared *shared = shared_get(ref->refs, ((struct shared_fd *)ref)->memory);
	charge_unref(ref->memory);
	if (shared != NULL) { // else the whole table goes
		assert(shared->users > 0);
		shared->users--;
	}
	free(ref);
}

static const struct fdref_interface exported_fd = {
	.name = "fd of shared memory",
	.frame = fdref_expect_close,
	.named = fdrefs_close,
	.destroy = destroy_fd,
};

static uint32_t export_fd(struct fdrefs *refs, struct shared *shared, int fd, const char **wrong)
{
	struct shared_fd *handle = calloc(1, sizeof(*handle));
	if (handle == NULL) {
		*wrong = "out of memory";
		return 0;
	}
	off_t offset = lseek(fd, 0, SEEK_CUR); // moves nothing
	struct channel_open_shared open = {
		.memory = shared->ref.id,
		.access = (uint32_t)(fcntl(fd, F_GETFL) & O_ACCMODE),
	};
	channel_put64(open.offset, offset < 0 ? 0 : (uint64_t)offset);
	handle->memory = shared->ref.id;
	if (!fdrefs_open(
		    refs, &handle->ref, &exported_fd, CHANNEL_KIND_SHARED, &open, sizeof(open))) {
		*wrong = "too many fds are open in this session";
		free(handle);
		return 0;
	}
	shared->users++;
	refs->counts.shared++;
	return handle->ref.id;
}

static int get_fd(struct fdref *ref)
{
	struct shared_fd *handle = (struct shared_fd *)ref;
	struct shared *shared = shared_get(ref->refs, handle->memory);
	assert(shared != NULL); // users keeps it
	bool home = shared->ref.interface == &exported;
	if (home && handle->access == shared->access) {
		int fd = fcntl(shared->fd, F_DUPFD_CLOEXEC, 0);
		return fd < 0 ? -errno : fd;
	}
	if (home && shared->access != CHANNEL_ACCESS_BOTH) {
		return -EACCES; // more than came from here
	}
	int fd = fd_open_again(shared->fd, (int)handle->access);
	if (fd < 0) {
		return -errno;
	}
	lseek(fd, (off_t)handle->offset, SEEK_SET);
	return fd;
}

static const struct fdref_interface imported_fd = {
	.name = "fd of shared memory",
	.frame = fdref_expect_close,
	.get_fd = get_fd,
	.destroy = destroy_fd,
};

static const char *import_fd(
	struct fdrefs *refs, const struct channel_open_shared *open, struct fdref **ref)
{
	struct shared *shared = shared_get(refs, open->memory);
	if (shared == NULL || shared->ref.closing) {
		return "OPEN of an fd of what is no shared memory";
	}
	uint64_t offset = channel_get64(open->offset);
	if (open->access > CHANNEL_ACCESS_BOTH || offset > INT64_MAX) {
		return "OPEN of an fd of shared memory with a wrong access mode or offset";
	}
	struct shared_fd *handle = calloc(1, sizeof(*handle));
	if (handle == NULL) {
		return "out of memory";
	}
	handle->ref.interface = &imported_fd;
	handle->memory = open->memory;
	handle->access = open->access;
	handle->offset = offset;
	if (shared->ref.memory != NULL) {
		handle->ref.memory = charge_ref(shared->ref.memory);
	}
	shared->users++;
	shared->unused = false;
	refs->counts.shared++;
	*ref = &handle->ref;
	return NULL;
}

/* ---- both ---- */

static struct shared *find_in(const struct fdrefs *refs, const struct fdref_table *table,
	const struct fd_identity *identity)
{
	for (size_t i = 0; i < table->size; i++) {
		struct shared *shared =
			table->refs[i] == NULL ? NULL : shared_get(refs, table->refs[i]->id);
		if (shared != NULL && fd_identity_equal(&shared->identity, identity)) {
			return shared;
		}
	}
	return NULL;
}

static struct shared *find(const struct fdrefs *refs, int fd)
{
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	if (refs->shared == 0 || identity.number == 0) {
		return NULL;
	}
	struct shared *shared = find_in(refs, &refs->theirs, &identity);
	return shared != NULL ? shared : find_in(refs, &refs->ours, &identity);
}

bool shared_knows(const struct fdrefs *refs, int fd)
{
	return find(refs, fd) != NULL;
}

uint32_t shared_export(struct fdrefs *refs, int fd, const char **wrong)
{
	uint32_t id = 0;
	*wrong = NULL;
	struct shared *shared = find(refs, fd);
	if (shared != NULL) {
		widen(shared, fd);
	} else {
		shared = export_memory(refs, fd, wrong);
	}
	if (shared != NULL && push_changes(shared)) {
		id = export_fd(refs, shared, fd, wrong);
	} else if (shared != NULL) {
		*wrong = "out of memory";
	}
	close(fd);
	return id;
}

const char *shared_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_shared open;
	if (frame->header.length != sizeof(open)) {
		return "OPEN of shared memory with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	if (refs->rules.shared != FDREF_SHARED_DIFF) {
		return "OPEN of memory that both sides may write to, which is not allowed here "
		       "(--shm-mode)";
	}
	if (open.memory != 0) {
		return import_fd(refs, &open, ref);
	}
	shared_collect(refs);
	return import_memory(refs, &open, ref);
}

static bool push_table(struct fdrefs *refs, const struct fdref_table *table)
{
	for (size_t i = 0; i < table->size; i++) {
		struct shared *shared =
			table->refs[i] == NULL ? NULL : shared_get(refs, table->refs[i]->id);
		if (shared != NULL && !push_changes(shared)) {
			return false;
		}
	}
	return true;
}

bool shared_push_changes(struct fdrefs *refs)
{
	return refs->shared == 0 ||
		(push_table(refs, &refs->ours) && push_table(refs, &refs->theirs));
}

static void collect(struct shared *shared)
{
	if (shared->users > 0 || shared->unused) {
		return;
	}
	if (shared->ref.closing) {
		fdrefs_confirm_closed(&shared->ref);
	} else if (!is_used(shared) && push_changes(shared)) {
		shared->unused = true;
		channel_push(shared->ref.refs->channel, CHANNEL_MEM_UNUSED, shared->ref.id, 0, NULL,
			0, NULL, 0);
	}
}

void shared_collect(struct fdrefs *refs)
{
	struct fdref_table *table = &refs->theirs;
	for (size_t i = 0; refs->shared > 0 && i < table->size; i++) {
		if (table->refs[i] != NULL && table->refs[i]->interface == &imported) {
			collect((struct shared *)table->refs[i]);
		}
	}
}
