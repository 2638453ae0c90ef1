#include "channel/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "channel/channel.h"

#define MAX_FILES  100000
#define IOV_PIECES 64
#define PAGE       4096

struct record {
	int fd; // -1: it could not be written to any more
	enum record_direction side;
	off_t whole; // bytes of the file that end with a piece
};

/* What of the pieces is still to be written. */
struct rest {
	const struct iovec *pieces;
	size_t skip; // bytes of the first one that are done
	size_t len;
};

int record_create_file(const char *path, char *name, size_t size)
{
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = -1, number = 1;
	snprintf(name, size, "%s", path);
	do {
		if (number > 1) {
			snprintf(name, size, "%s.%d", path, number);
		}
		fd = open(name, flags, 0600);
		number++;
	} while (fd < 0 && (errno == EINTR || errno == EEXIST) && number < MAX_FILES);
	return fd < 0 ? -errno : fd;
}

static int write_all(int fd, const void *data, size_t len)
{
	const uint8_t *at = data;
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return n < 0 ? -errno : -EIO;
		}
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static void advance(struct rest *rest, size_t n)
{
	rest->len -= n;
	rest->skip += n;
	while (rest->len > 0 && rest->skip >= rest->pieces->iov_len) {
		rest->skip -= rest->pieces->iov_len;
		rest->pieces++;
	}
}

static size_t fill_iov(const struct rest *rest, struct iovec *iov)
{
	size_t n = 0, left = rest->len, skip = rest->skip;
	for (const struct iovec *piece = rest->pieces; left > 0 && n < IOV_PIECES; piece++) {
		size_t len = piece->iov_len - skip;
		len = len < left ? len : left;
		iov[n++] = (struct iovec){
			.iov_base = (uint8_t *)piece->iov_base + skip,
			.iov_len = len,
		};
		left -= len;
		skip = 0;
	}
	return n;
}

/* The page at the front of the rest is gone. */
static int write_hole(int fd, struct rest *rest)
{
	static const uint8_t zeros[PAGE];
	uintptr_t at = (uintptr_t)rest->pieces->iov_base + rest->skip;
	size_t len = PAGE - (at & (PAGE - 1));
	size_t left = rest->pieces->iov_len - rest->skip;
	len = len < left ? len : left;
	len = len < rest->len ? len : rest->len;
	int error = write_all(fd, zeros, len);
	advance(rest, len);
	return error;
}

static int write_pieces(int fd, struct rest rest)
{
	advance(&rest, 0);
	while (rest.len > 0) {
		struct iovec iov[IOV_PIECES];
		size_t n = fill_iov(&rest, iov);
		ssize_t written = writev(fd, iov, (int)n);
		if (written < 0 && errno == EFAULT) {
			// The first page alone tells whether it is the one that vanished.
			written = write(fd, iov[0].iov_base, 1);
		}
		if (written < 0 && errno == EFAULT) {
			int error = write_hole(fd, &rest);
			if (error < 0) {
				return error;
			}
			continue;
		}
		if (written < 0 && errno == EINTR) {
			continue;
		}
		if (written <= 0) {
			return written < 0 ? -errno : -EIO;
		}
		advance(&rest, (size_t)written);
	}
	return 0;
}

/* The session goes on without being recorded. */
static void give_up(struct record *record, int error)
{
	log_warn("the recording ends here: %s", strerror(-error));
	if (ftruncate(record->fd, record->whole) < 0) {
		log_debug("the recording ends with half a piece: %m");
	}
	close(record->fd);
	record->fd = -1;
}

bool record_add(struct record *record, enum record_direction direction, uint64_t clock,
	const struct iovec *pieces, size_t len)
{
	if (record->fd < 0 || len == 0) {
		return len == 0;
	}
	struct record_piece piece = {
		.length = (uint32_t)len,
		.direction = (uint16_t)direction,
	};
	channel_put64(piece.clock, clock);
	int error = write_all(record->fd, &piece, sizeof(piece));
	if (error == 0) {
		error = write_pieces(record->fd, (struct rest){.pieces = pieces, .len = len});
	}
	if (error < 0) {
		give_up(record, error);
		return false;
	}
	record->whole += (off_t)(sizeof(piece) + len);
	return true;
}

void record_sent(struct record *record, const struct iovec *pieces, size_t len)
{
	record_add(record, record->side, channel_clock(), pieces, len);
}

void record_received(struct record *record, const struct iovec *pieces, size_t len)
{
	enum record_direction direction =
		record->side == RECORD_TO_HOST ? RECORD_TO_GUEST : RECORD_TO_HOST;
	record_add(record, direction, channel_clock(), pieces, len);
}

struct record *record_create(
	int fd, enum record_direction side, const char *service, uint32_t flags)
{
	struct record_head head = {
		.magic = RECORD_MAGIC,
		.version = RECORD_VERSION,
		.channel_version = CHANNEL_VERSION,
		.flags = flags,
		.side = (uint16_t)side,
		.service_length = (uint16_t)strlen(service),
	};
	assert(head.service_length > 0 && head.service_length <= RECORD_SERVICE_MAX);
	memcpy(head.service, service, head.service_length);
	int error = write_all(fd, &head, sizeof(head));
	struct record *record = error < 0 ? NULL : calloc(1, sizeof(*record));
	if (record == NULL) {
		close(fd);
		errno = error < 0 ? -error : ENOMEM;
		return NULL;
	}
	*record = (struct record){.fd = fd, .side = side, .whole = sizeof(head)};
	return record;
}

void record_destroy(struct record *record)
{
	if (record == NULL) {
		return;
	}
	if (record->fd >= 0) {
		close(record->fd);
	}
	free(record);
}
