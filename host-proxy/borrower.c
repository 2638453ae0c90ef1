#include "host-proxy/borrower.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/scm.h"
#include "channel/input.h"
#include "host-proxy/loan.h"

// Enough to see a frame's head, which says where the rest belongs.
#define READ_AHEAD  4096
#define BUFFER_SIZE 8192
#define PIECES_MAX  64

struct file {
	int fd;
	struct mapping *mapping; // NULL: it cannot be had
};

struct borrower {
	struct channel_input input;
	struct fdlist fds; // that have come before their record
	int returns;       // pipe; -1
	int pages;         // socket to a page_lender; -1
	bool begun;        // a record has come
	size_t n_files;
	struct file files[LOAN_FILES_MAX];

	uint8_t buffer[BUFFER_SIZE]; // the unread records are buffer[start .. end)
	size_t start, end;
	size_t bytes; // of LOAN_BYTES, still to come
	struct loan_segment segments[LOAN_SEGMENTS_MAX];
	size_t segment, n_segments; // those before segment are done
	size_t borrowed;            // bytes of this record that have been copied
	size_t owed;                // of those before it that were not given back yet
	int error;                  // -EPROTO, for good; 0
};

static_assert(
	sizeof(struct loan_record) + sizeof(struct loan_segment) * LOAN_SEGMENTS_MAX <= BUFFER_SIZE,
	"the buffer holds a record");

/* Where bytes go next. */
struct target {
	const struct iovec *piece;
	size_t n_pieces; // with this one
	size_t done;     // bytes of this one
};

static struct iovec target_piece(const struct target *target)
{
	return (struct iovec){
		.iov_base = (uint8_t *)target->piece->iov_base + target->done,
		.iov_len = target->piece->iov_len - target->done,
	};
}

static void target_advance(struct target *target, size_t len)
{
	target->done += len;
	if (target->done == target->piece->iov_len) {
		target->piece++;
		target->n_pieces--;
		target->done = 0;
	}
}

struct copy {
	struct target target;
	const uint8_t *from;
	size_t len;
};

static void run_copy(void *data)
{
	struct copy *copy = data;
	while (copy->len > 0 && copy->target.n_pieces > 0) {
		struct iovec piece = target_piece(&copy->target);
		size_t n = piece.iov_len < copy->len ? piece.iov_len : copy->len;
		memcpy(piece.iov_base, copy->from, n);
		target_advance(&copy->target, n);
		copy->from += n;
		copy->len -= n;
	}
}

/* Copies up to len bytes. False: either place has vanished; target is as it was. */
static bool copy_guarded(struct target *target, const uint8_t *from, size_t *len)
{
	struct copy copy = {.target = *target, .from = from, .len = *len};
	if (!guard_run(run_copy, &copy)) {
		return false;
	}
	*target = copy.target;
	*len -= copy.len;
	return true;
}

/* By the kernel, which says what is wrong, at most to the end of a piece. */
static ssize_t copy_carefully(
	struct target *target, const struct file *file, uint64_t offset, size_t len)
{
	struct iovec piece = target_piece(target);
	size_t part = piece.iov_len < len ? piece.iov_len : len;
	ssize_t n;
	do {
		n = pread(file->fd, piece.iov_base, part, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	if (n <= 0) {
		return n == 0 ? -ENODATA : -errno; // cut off
	}
	target_advance(target, (size_t)n);
	return n;
}

static ssize_t copy_from_file(
	struct target *target, const struct file *file, uint64_t offset, size_t len)
{
	const struct mapping *mapping = file->mapping;
	size_t copied = len;
	if (mapping != NULL && offset <= mapping->size && len <= mapping->size - offset &&
		copy_guarded(target, mapping->data + offset, &copied)) {
		return (ssize_t)copied;
	}
	return copy_carefully(target, file, offset, len);
}

static bool has_segments(const struct borrower *borrower)
{
	return borrower->segment < borrower->n_segments;
}

/* How many bytes it has copied; -errno. */
static ssize_t copy_segment(struct borrower *borrower, struct target *target)
{
	struct loan_segment *segment = &borrower->segments[borrower->segment];
	ssize_t n = copy_from_file(
		target, &borrower->files[segment->file], segment->offset, segment->length);
	if (n <= 0) {
		return n;
	}
	segment->offset += (uint64_t)n;
	segment->length -= (uint32_t)n;
	borrower->segment += segment->length == 0;
	borrower->borrowed += (size_t)n;
	if (!has_segments(borrower)) {
		borrower->owed += borrower->borrowed;
		borrower->borrowed = 0;
	}
	return n;
}

/* What is in the buffer of bytes that were not lent. */
static ssize_t copy_bytes(struct borrower *borrower, struct target *target)
{
	size_t len = borrower->end - borrower->start;
	len = len < borrower->bytes ? len : borrower->bytes;
	struct copy copy = {
		.target = *target,
		.from = borrower->buffer + borrower->start,
		.len = len,
	};
	if (target->n_pieces == 1) { // which is the caller's own
		run_copy(&copy);
		*target = copy.target;
		len -= copy.len;
	} else if (!copy_guarded(target, copy.from, &len)) {
		return -EFAULT;
	}
	borrower->start += len;
	borrower->bytes -= len;
	return (ssize_t)len;
}

static void drop_files(struct borrower *borrower)
{
	for (size_t i = 0; i < borrower->n_files; i++) {
		mapping_unref(borrower->files[i].mapping);
		close(borrower->files[i].fd);
	}
	borrower->n_files = 0;
}

/* Takes fd. */
static bool add_file(struct borrower *borrower, int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return false;
	}
	struct mapping *mapping = NULL;
	if (st.st_size > 0) {
		mapping = mapping_create(fd, (size_t)st.st_size, false);
	}
	borrower->files[borrower->n_files++] = (struct file){.fd = fd, .mapping = mapping};
	return true;
}

/* False: nothing can be returned any more. */
static bool return_bytes(struct borrower *borrower, size_t len)
{
	const struct loan_return record = {.length = (uint32_t)len};
	ssize_t n;
	do {
		n = write(borrower->returns, &record, sizeof(record));
	} while (n < 0 && errno == EINTR);
	return n == sizeof(record);
}

static bool take_files(struct borrower *borrower, uint32_t count)
{
	size_t n_fds = (size_t)count + (borrower->returns < 0);
	if (count > LOAN_FILES_MAX || borrower->fds.count < n_fds) {
		return false;
	}
	if (borrower->returns < 0) {
		borrower->returns = fdlist_take(&borrower->fds);
	}
	drop_files(borrower);
	for (uint32_t i = 0; i < count; i++) {
		if (!add_file(borrower, fdlist_take(&borrower->fds))) {
			return false;
		}
	}
	return_bytes(borrower, 0); // a device that does not want to know lends nothing any more
	return true;
}

static bool check_segments(const struct borrower *borrower)
{
	for (size_t i = 0; i < borrower->n_segments; i++) {
		const struct loan_segment *segment = &borrower->segments[i];
		if (segment->length == 0 || segment->file >= borrower->n_files ||
			segment->offset > (uint64_t)INT64_MAX - segment->length) {
			return false;
		}
	}
	return borrower->returns >= 0;
}

static bool take_segments(struct borrower *borrower, const uint8_t *at, uint32_t count)
{
	if (count == 0 || count > LOAN_SEGMENTS_MAX) {
		return false;
	}
	memcpy(borrower->segments, at, count * sizeof(borrower->segments[0]));
	borrower->segment = 0;
	borrower->n_segments = count;
	return check_segments(borrower);
}

static bool take_pages(struct borrower *borrower, uint32_t length)
{
	borrower->pages = fdlist_take(&borrower->fds);
	return length == 0 && borrower->pages >= 0;
}

/* How long the record at the front of the buffer is, with all that belongs to it but bytes; 0: it is
 * not all there. */
static size_t record_size(const struct borrower *borrower)
{
	struct loan_record record;
	size_t have = borrower->end - borrower->start;
	size_t size = sizeof(record);
	if (have < size) {
		return 0;
	}
	memcpy(&record, borrower->buffer + borrower->start, sizeof(record));
	if (record.type == LOAN_SEGMENTS && record.length <= LOAN_SEGMENTS_MAX) {
		size += record.length * sizeof(struct loan_segment);
	}
	return have < size ? 0 : size;
}

/* False: it is wrong. */
static bool take_record(struct borrower *borrower, size_t size)
{
	struct loan_record record;
	const uint8_t *at = borrower->buffer + borrower->start;
	memcpy(&record, at, sizeof(record));
	borrower->start += size;
	bool first = !borrower->begun;
	borrower->begun = true;
	switch (record.type) {
	case LOAN_BYTES:
		borrower->bytes = record.length;
		return record.length > 0;
	case LOAN_FILES:
		return take_files(borrower, record.length);
	case LOAN_SEGMENTS:
		return take_segments(borrower, at + sizeof(record), record.length);
	case LOAN_PAGES:
		return first && take_pages(borrower, record.length);
	default:
		return false;
	}
}

/* 1: a record was taken; 0: none is complete; -EPROTO. */
static int take_next(struct borrower *borrower)
{
	size_t size = record_size(borrower);
	if (size == 0) {
		return 0;
	}
	if (!take_record(borrower, size)) {
		log_error("the vsock device lends what makes no sense");
		borrower->error = -EPROTO;
		return -EPROTO;
	}
	return 1;
}

/* Bytes that have come; 0 at the end; -errno. */
static ssize_t fill_buffer(struct borrower *borrower)
{
	size_t have = borrower->end - borrower->start;
	memmove(borrower->buffer, borrower->buffer + borrower->start, have);
	borrower->start = 0;
	borrower->end = have;
	ssize_t n = scm_recv(
		borrower->input.fd, borrower->buffer + have, BUFFER_SIZE - have, &borrower->fds);
	if (n == 0 && (have > 0 || borrower->bytes > 0)) {
		return -ECONNRESET;
	}
	if (n > 0) {
		borrower->end += (size_t)n;
	}
	if (borrower->fds.count > LOAN_FILES_MAX + 2) {
		borrower->error = -EPROTO;
	}
	return borrower->error != 0 ? borrower->error : n;
}

/* Of bytes that were not lent, what the buffer would only hold up. As above. */
static ssize_t receive_bytes(struct borrower *borrower, const struct target *target)
{
	struct iovec pieces[PIECES_MAX];
	struct target rest = *target;
	struct msghdr msg = {.msg_iov = pieces};
	size_t left = borrower->bytes;
	while (left > 0 && rest.n_pieces > 0 && msg.msg_iovlen < PIECES_MAX) {
		struct iovec piece = target_piece(&rest);
		piece.iov_len = piece.iov_len < left ? piece.iov_len : left;
		pieces[msg.msg_iovlen++] = piece;
		target_advance(&rest, piece.iov_len);
		left -= piece.iov_len;
	}
	ssize_t n;
	do {
		n = recvmsg(borrower->input.fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	borrower->bytes -= n > 0 ? (size_t)n : 0;
	return n > 0 ? n : n == 0 ? -ECONNRESET : -errno;
}

/* Copies what has been told of. How many bytes; -errno where the first cannot be had. */
static ssize_t copy_known(struct borrower *borrower, struct target *target, bool *borrowed)
{
	size_t total = 0;
	ssize_t n = borrower->error == 0 ? 1 : borrower->error;
	while (n > 0 && target->n_pieces > 0) {
		if (has_segments(borrower)) {
			n = copy_segment(borrower, target);
			*borrowed = true;
			total += n > 0 ? (size_t)n : 0;
		} else if (borrower->bytes > 0) {
			n = copy_bytes(borrower, target); // 0: the buffer is empty
			total += n > 0 ? (size_t)n : 0;
		} else {
			n = take_next(borrower);
		}
	}
	return total > 0 ? (ssize_t)total : n;
}

static bool give_back(struct borrower *borrower)
{
	size_t len = borrower->owed;
	borrower->owed = 0;
	return return_bytes(borrower, len);
}

static bool is_lent(const struct borrower *borrower)
{
	struct pollfd returns = {.fd = borrower->returns};
	return poll(&returns, 1, 0) == 0;
}

/* Whether what was copied may be used: else the guest has had its memory back meanwhile. What is
 * copied in part is not given back, as that would only wake the device. */
static bool settle(struct borrower *borrower)
{
	return borrower->owed > 0 ? give_back(borrower) : is_lent(borrower);
}

static ssize_t borrower_read(
	struct channel_input *input, const struct iovec *pieces, size_t n_pieces)
{
	struct borrower *borrower = (struct borrower *)input;
	struct target target = {.piece = pieces, .n_pieces = n_pieces};
	bool borrowed = false;
	ssize_t n;
	while ((n = copy_known(borrower, &target, &borrowed)) == 0) {
		if (borrower->bytes > 0) {
			return receive_bytes(borrower, &target);
		}
		n = fill_buffer(borrower);
		if (n <= 0) {
			return n;
		}
	}
	if (borrowed && !settle(borrower)) {
		return -ECONNRESET;
	}
	return n;
}

static bool borrower_has_more(const struct channel_input *input)
{
	const struct borrower *borrower = (const struct borrower *)input;
	if (borrower->error != 0 || has_segments(borrower)) {
		return true;
	}
	return borrower->bytes > 0 ? borrower->start < borrower->end : record_size(borrower) > 0;
}

static void borrower_destroy(struct channel_input *input)
{
	struct borrower *borrower = (struct borrower *)input;
	drop_files(borrower);
	fdlist_finish(&borrower->fds);
	if (borrower->returns >= 0) {
		close(borrower->returns);
	}
	if (borrower->pages >= 0) {
		close(borrower->pages);
	}
	free(borrower);
}

static const struct channel_input_interface interface = {
	.read = borrower_read,
	.has_more = borrower_has_more,
	.destroy = borrower_destroy,
};

struct channel_input *borrower_create(int fd)
{
	struct borrower *borrower = calloc(1, sizeof(*borrower));
	if (borrower == NULL) {
		return NULL;
	}
	borrower->input = (struct channel_input){
		.interface = &interface,
		.fd = fd,
		.read_ahead = READ_AHEAD,
	};
	borrower->returns = borrower->pages = -1;
	fdlist_init(&borrower->fds);
	return &borrower->input;
}

int borrower_take_pages(struct channel_input *input)
{
	struct borrower *borrower = (struct borrower *)input;
	int fd = borrower->pages;
	borrower->pages = -1;
	return fd;
}
