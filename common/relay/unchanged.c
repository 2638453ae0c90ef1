#include "relay/unchanged.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/guard.h"
#include "base/mapping.h"
#include "fdpass/memory.h"
#include "relay/buffer.h"

#define PIECE         4096u        // bytes of a row that share a hash
#define WORTH_HASHING (64u * 1024) // bytes; less is sent as it is
#define PAUSE_MIN     16           // pushes
#define PAUSE_MAX     256

/* A client must not be able to make two pieces that look the same. */
static const uint8_t *secret(void)
{
	static uint8_t bytes[XXH3_SECRET_SIZE_MIN];
	static bool made;
	if (!made) {
		if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
			return NULL;
		}
		made = true;
	}
	return bytes;
}

void unchanged_finish(struct unchanged *unchanged)
{
	free(unchanged->hashes);
	*unchanged = (struct unchanged){0};
}

void unchanged_forget(struct unchanged *unchanged)
{
	unchanged->known = false;
}

/* Only buffers of one plane are hashed, in which a sample is a pixel. */
static uint32_t bytes_per_pixel(const struct buffer *buffer)
{
	return buffer->planes[0].sample.bytes;
}

/* The pieces that a box touches. */
struct pieces {
	uint32_t first, end; // columns
	uint32_t y1, y2;
};

static struct pieces pieces_of(const struct buffer *buffer, const pixman_box32_t *box)
{
	return (struct pieces){
		.first = (uint32_t)box->x1 * bytes_per_pixel(buffer) / PIECE,
		.end = ((uint32_t)box->x2 * bytes_per_pixel(buffer) + PIECE - 1) / PIECE,
		.y1 = (uint32_t)box->y1,
		.y2 = (uint32_t)box->y2,
	};
}

void unchanged_forget_region(struct buffer *buffer, pixman_region32_t *region)
{
	struct unchanged *unchanged = &buffer->unchanged;
	if (!unchanged->known) {
		return;
	}
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	for (int i = 0; i < n; i++) {
		struct pieces pieces = pieces_of(buffer, &boxes[i]);
		for (uint32_t y = pieces.y1; y < pieces.y2; y++) {
			memset(unchanged->hashes[(size_t)y * unchanged->columns + pieces.first], 0,
				(pieces.end - pieces.first) * sizeof(*unchanged->hashes));
		}
	}
}

/* ---- pushing ---- */

struct search {
	struct buffer *buffer;
	const uint8_t *secret;
	struct pieces pieces;
	uint32_t (*changed)[2]; // for each row of the box: columns from, up to; equal if none
	uint64_t changed_bytes, searched_bytes;
};

static uint32_t row_bytes(const struct buffer *buffer)
{
	return (uint32_t)buffer->width * bytes_per_pixel(buffer);
}

/* Hashes the pieces of the box, and notes in which columns of each row they differ. */
static void search_box(void *data)
{
	struct search *search = data;
	const struct buffer *buffer = search->buffer;
	const struct unchanged *unchanged = &buffer->unchanged;
	const struct buffer_plane *plane = &buffer->planes[0];
	const uint8_t *start = plane->pool->memory->mapping->data + plane->offset;
	uint32_t len = row_bytes(buffer);
	for (uint32_t y = search->pieces.y1; y < search->pieces.y2; y++) {
		uint32_t *span = search->changed[y - search->pieces.y1];
		span[0] = span[1] = 0;
		const uint8_t *row = start + (size_t)y * plane->stride;
		for (uint32_t column = search->pieces.first; column < search->pieces.end;
			column++) {
			uint32_t at = column * PIECE;
			uint32_t n = len - at < PIECE ? len - at : PIECE;
			XXH128_hash_t hash = XXH3_128bits_withSecret(
				row + at, n, search->secret, XXH3_SECRET_SIZE_MIN);
			search->searched_bytes += n;
			uint64_t *known =
				unchanged->hashes[(size_t)y * unchanged->columns + column];
			if (known[0] == hash.low64 && known[1] == hash.high64) {
				continue;
			}
			known[0] = hash.low64;
			known[1] = hash.high64;
			span[0] = span[1] == 0 ? column : span[0];
			span[1] = column + 1;
			search->changed_bytes += n;
		}
	}
}

/* Rows in a row that have changed in the same columns go together. */
static bool push_spans(const struct search *search)
{
	const struct buffer *buffer = search->buffer;
	const struct buffer_plane *plane = &buffer->planes[0];
	uint32_t len = row_bytes(buffer);
	uint32_t n_rows = search->pieces.y2 - search->pieces.y1;
	bool ok = true;
	for (uint32_t row = 0, next; ok && row < n_rows; row = next) {
		const uint32_t *span = search->changed[row];
		next = row + 1;
		while (next < n_rows &&
			memcmp(search->changed[next], span, 2 * sizeof(*span)) == 0) {
			next++;
		}
		if (span[0] == span[1]) {
			continue;
		}
		uint64_t from = (uint64_t)span[0] * PIECE;
		uint64_t to = (uint64_t)span[1] * PIECE < len ? (uint64_t)span[1] * PIECE : len;
		uint64_t y = search->pieces.y1 + row;
		ok = memory_push(plane->pool->memory, plane->range,
			plane->offset + y * plane->stride + from, plane->stride, to - from,
			next - row);
	}
	return ok;
}

static bool push_box(struct search *search, const pixman_box32_t *box)
{
	search->pieces = pieces_of(search->buffer, box);
	if (!guard_run(search_box, search)) {
		// Truncated by its owner: all that can be had of it is sent, and the search is over.
		unchanged_forget(&search->buffer->unchanged);
		return buffer_check_pools(search->buffer) && buffer_push_all(search->buffer);
	}
	return push_spans(search);
}

/* The memory of a device may be slow to read. */
static bool can_be_hashed(const struct buffer *buffer)
{
	const struct format_plane *sample = &buffer->planes[0].sample;
	return buffer->n_planes == 1 && sample->width == 1 && sample->height == 1 &&
		!buffer_is_dmabuf(buffer) && !buffer->planes[0].pool->memory->shared &&
		buffer_is_whole(buffer);
}

static bool make_ready(struct buffer *buffer)
{
	struct unchanged *unchanged = &buffer->unchanged;
	if (unchanged->hashes == NULL) {
		unchanged->columns = (row_bytes(buffer) + PIECE - 1) / PIECE;
		unchanged->hashes = calloc(
			(size_t)buffer->height * unchanged->columns, sizeof(*unchanged->hashes));
	} else if (!unchanged->known) {
		memset(unchanged->hashes, 0,
			(size_t)buffer->height * unchanged->columns * sizeof(*unchanged->hashes));
	}
	return unchanged->hashes != NULL;
}

static uint64_t region_bytes(const struct buffer *buffer, pixman_region32_t *region)
{
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	uint64_t pixels = 0;
	for (int i = 0; i < n; i++) {
		pixels += (uint64_t)(boxes[i].x2 - boxes[i].x1) *
			(uint64_t)(boxes[i].y2 - boxes[i].y1);
	}
	return pixels * bytes_per_pixel(buffer);
}

/* After a search in which nothing could be found, as all was unknown, comes one that tells. */
static void judge(struct unchanged *unchanged, bool told, const struct search *search)
{
	if (!told) {
		return;
	}
	if (search->changed_bytes * 2 <= search->searched_bytes) {
		unchanged->last_pause = 0;
		return;
	}
	uint32_t pause = unchanged->last_pause * 2;
	pause = pause < PAUSE_MIN ? PAUSE_MIN : pause > PAUSE_MAX ? PAUSE_MAX : pause;
	unchanged->pause = unchanged->last_pause = pause;
	unchanged->known = false;
}

bool unchanged_push(struct buffer *buffer, pixman_region32_t *region)
{
	struct unchanged *unchanged = &buffer->unchanged;
	uint64_t bytes = region_bytes(buffer, region);
	if (bytes < WORTH_HASHING || unchanged->pause > 0 || !can_be_hashed(buffer) ||
		secret() == NULL || !make_ready(buffer)) {
		unchanged->pause -= unchanged->pause > 0 && bytes >= WORTH_HASHING;
		unchanged_forget_region(buffer, region);
		return buffer_push_region(buffer, region);
	}
	int n;
	const pixman_box32_t *boxes = pixman_region32_rectangles(region, &n);
	struct search search = {
		.buffer = buffer,
		.secret = secret(),
		.changed = calloc((size_t)buffer->height, sizeof(*search.changed)),
	};
	if (search.changed == NULL) {
		return false;
	}
	bool told = unchanged->known;
	unchanged->known = true;
	bool ok = true;
	for (int i = 0; ok && unchanged->known && i < n; i++) {
		ok = push_box(&search, &boxes[i]);
	}
	free(search.changed);
	if (unchanged->known) {
		judge(unchanged, told, &search);
	}
	return ok;
}
