#ifndef CHANNEL_RECORD_H
#define CHANNEL_RECORD_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct iovec;
struct record;

/**
 * Writes a session to a file while it goes on: what crosses the channel, both ways, and when. The
 * format is in protocol/record.md; channel/recording.h reads it.
 */

#define RECORD_MAGIC       "FDFERREC"
#define RECORD_VERSION     1
#define RECORD_SERVICE_MAX 64
#define RECORD_PIECE_MAX   (16u * 1024 * 1024) // bytes of one piece
#define RECORD_MUTATED     0x1                 // flag: the requests are not those of a client

enum record_direction {
	RECORD_TO_HOST = 0,
	RECORD_TO_GUEST = 1,
};

struct record_head {
	uint8_t magic[8];
	uint16_t version;
	uint16_t channel_version;
	uint32_t flags;
	uint16_t side; // enum record_direction of what the recording side sends
	uint16_t service_length;
	uint32_t reserved;
	char service[RECORD_SERVICE_MAX]; // padded with zeros
};
static_assert(sizeof(struct record_head) == 88, "as in the file");

// Followed by its bytes.
struct record_piece {
	uint32_t clock[2]; // CLOCK_MONOTONIC of the recording side in nanoseconds, low half first
	uint32_t length;
	uint16_t direction; // enum record_direction
	uint16_t reserved;
};
static_assert(sizeof(struct record_piece) == 16, "as in the file");

// A new file of mode 0600: path, or the first of path.2, path.3 and so on that does not exist. Its
// fd, and its name in name; -errno on failure.
int record_create_file(const char *path, char *name, size_t size);

// Takes fd, also on failure. NULL with errno if it cannot be written to.
struct record *record_create(
	int fd, enum record_direction side, const char *service, uint32_t flags);
void record_destroy(struct record *record); // NULL is fine

// The first len bytes of the pieces have crossed: sent by this side, or received. Memory that its
// owner has truncated is recorded as zeros. A file that cannot be written to any more keeps what is
// whole and gets nothing else.
void record_sent(struct record *record, const struct iovec *pieces, size_t len);
void record_received(struct record *record, const struct iovec *pieces, size_t len);

// One piece of a direction and time of the caller's own. False: it could not be written.
bool record_add(struct record *record, enum record_direction direction, uint64_t clock,
	const struct iovec *pieces, size_t len);

#endif
