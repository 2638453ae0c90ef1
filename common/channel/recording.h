#ifndef CHANNEL_RECORDING_H
#define CHANNEL_RECORDING_H

#include <stdbool.h>
#include <stdint.h>
#include <wayland-util.h>

#include "channel/record.h"
#include "protocol/channel.h"

/**
 * A session that was written by channel/record.h, as frames in the order of their last bytes.
 */

struct recorded_frame {
	struct wl_list link; // recording.frames
	uint64_t clock;      // nanoseconds, as in record_piece
	enum record_direction direction;
	struct channel_header header;
	uint8_t payload[]; // header.length bytes, 4-byte aligned
};

struct recording {
	char service[RECORD_SERVICE_MAX + 1];
	uint32_t flags;        // RECORD_*
	bool torn;             // the file ends within a frame, which is left out
	struct wl_list frames; // recorded_frame.link, owned
};

void recording_init(struct recording *recording);
void recording_finish(struct recording *recording);

// Reads a whole file; fd is borrowed. NULL, or in one static phrase what is wrong with it. What was
// read until then is in recording.
const char *recording_read(struct recording *recording, int fd);
// Writes all frames to a new file, a piece for each. Takes fd. False: it could not be written.
bool recording_write(const struct recording *recording, int fd);

// A frame without contents that is in no list yet; NULL on ENOMEM. The payload is the caller's to
// fill in. Freed by free.
struct recorded_frame *recorded_frame_create(
	uint64_t clock, enum record_direction direction, const struct channel_header *header);

#endif
