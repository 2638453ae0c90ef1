#include "channel/recording.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "channel/channel.h"

#define DIRECTIONS 2

/* The frames of each direction begin and end anywhere in its pieces. */
struct reader {
	FILE *file;
	struct recording *recording;
	struct stream {
		struct channel_header header;
		size_t have; // bytes of header and payload
		struct recorded_frame *frame;
	} streams[DIRECTIONS];
};

void recording_init(struct recording *recording)
{
	*recording = (struct recording){.torn = false};
	wl_list_init(&recording->frames);
}

void recording_finish(struct recording *recording)
{
	struct recorded_frame *frame, *next;
	wl_list_for_each_safe (frame, next, &recording->frames, link) {
		wl_list_remove(&frame->link);
		free(frame);
	}
}

struct recorded_frame *recorded_frame_create(
	uint64_t clock, enum record_direction direction, const struct channel_header *header)
{
	struct recorded_frame *frame = malloc(sizeof(*frame) + header->length);
	if (frame != NULL) {
		*frame = (struct recorded_frame){
			.clock = clock,
			.direction = direction,
			.header = *header,
		};
		wl_list_init(&frame->link);
	}
	return frame;
}

static const char *begin_frame(struct stream *stream)
{
	uint32_t max = stream->header.type == CHANNEL_MEM_WRITE
		? sizeof(struct channel_mem_write) + CHANNEL_MAX_ROWS
		: CHANNEL_MAX_PAYLOAD;
	if (stream->header.length > max) {
		return "a frame that is too long";
	}
	stream->frame = recorded_frame_create(0, RECORD_TO_HOST, &stream->header);
	return stream->frame != NULL ? NULL : "out of memory";
}

/* Where the next bytes of the stream belong, and how many. */
static uint8_t *next_bytes(struct stream *stream, size_t *len)
{
	const size_t head = sizeof(stream->header);
	if (stream->have < head) {
		*len = head - stream->have;
		return (uint8_t *)&stream->header + stream->have;
	}
	*len = head + stream->header.length - stream->have;
	return stream->frame->payload + (stream->have - head);
}

static void end_frame(struct reader *reader, struct stream *stream, uint64_t clock, int direction)
{
	stream->frame->clock = clock;
	stream->frame->direction = (enum record_direction)direction;
	wl_list_insert(reader->recording->frames.prev, &stream->frame->link);
	stream->frame = NULL;
	stream->have = 0;
}

static const char *read_piece(struct reader *reader, const struct record_piece *piece)
{
	struct stream *stream = &reader->streams[piece->direction];
	uint64_t clock = channel_get64(piece->clock);
	size_t left = piece->length;
	while (left > 0) {
		size_t len;
		uint8_t *at = next_bytes(stream, &len);
		len = len < left ? len : left;
		if (fread(at, 1, len, reader->file) != len) {
			reader->recording->torn = true;
			return NULL;
		}
		stream->have += len;
		left -= len;
		if (stream->have == sizeof(stream->header)) {
			const char *wrong = begin_frame(stream);
			if (wrong != NULL) {
				return wrong;
			}
		}
		if (stream->frame != NULL &&
			stream->have == sizeof(stream->header) + stream->header.length) {
			end_frame(reader, stream, clock, piece->direction);
		}
	}
	return NULL;
}

static const char *read_pieces(struct reader *reader)
{
	const char *wrong = NULL;
	while (wrong == NULL && !reader->recording->torn) {
		struct record_piece piece;
		size_t got = fread(&piece, 1, sizeof(piece), reader->file);
		if (got < sizeof(piece)) {
			reader->recording->torn = got > 0;
			break;
		}
		if (piece.direction >= DIRECTIONS) {
			return "a piece of no direction";
		}
		if (piece.length == 0 || piece.length > RECORD_PIECE_MAX) {
			return "a piece of an impossible length";
		}
		wrong = read_piece(reader, &piece);
	}
	return wrong;
}

static const char *read_head(struct reader *reader)
{
	struct record_head head;
	size_t got = fread(&head, 1, sizeof(head), reader->file);
	if (got < sizeof(head.magic) || memcmp(head.magic, RECORD_MAGIC, sizeof(head.magic)) != 0) {
		return "not a recording";
	}
	if (got < offsetof(struct record_head, flags) || head.version != RECORD_VERSION ||
		head.channel_version != CHANNEL_VERSION) {
		return "a recording of another version";
	}
	if (got < sizeof(head)) {
		return "a recording that ends in its head";
	}
	if (head.service_length == 0 || head.service_length > RECORD_SERVICE_MAX ||
		memchr(head.service, '\0', head.service_length) != NULL) {
		return "a recording of a service without a name";
	}
	memcpy(reader->recording->service, head.service, head.service_length);
	reader->recording->flags = head.flags;
	return NULL;
}

static FILE *open_stream(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	FILE *file = copy < 0 ? NULL : fdopen(copy, "re");
	if (file == NULL && copy >= 0) {
		close(copy);
	}
	return file;
}

const char *recording_read(struct recording *recording, int fd)
{
	struct reader reader = {.file = open_stream(fd), .recording = recording};
	if (reader.file == NULL) {
		return "out of memory";
	}
	const char *wrong = read_head(&reader);
	if (wrong == NULL) {
		wrong = read_pieces(&reader);
	}
	if (wrong == NULL && ferror(reader.file)) {
		wrong = "a file that cannot be read";
	}
	for (int i = 0; i < DIRECTIONS; i++) {
		recording->torn = recording->torn || reader.streams[i].have > 0;
		free(reader.streams[i].frame);
	}
	fclose(reader.file);
	return wrong;
}

bool recording_write(const struct recording *recording, int fd)
{
	struct record *record =
		record_create(fd, RECORD_TO_HOST, recording->service, recording->flags);
	bool ok = record != NULL;
	const struct recorded_frame *frame;
	wl_list_for_each (frame, &recording->frames, link) {
		const struct iovec pieces[] = {
			{(void *)&frame->header, sizeof(frame->header)},
			{(void *)frame->payload, frame->header.length},
		};
		ok = ok &&
			record_add(record, frame->direction, frame->clock, pieces,
				sizeof(frame->header) + frame->header.length);
	}
	record_destroy(record);
	return ok;
}
