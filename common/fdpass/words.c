#include "fdpass/words.h"

#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "base/mapping.h"
#include "channel/channel.h"

#define WORD  8u
#define BLOCK 4096u
// All of them, with a run for every second word.
#define BLOCK_RUNS_MAX (BLOCK + BLOCK / (2 * WORD) * sizeof(struct channel_run))

static uint64_t count_words(uint64_t size)
{
	return size / WORD + (size % WORD > 0);
}

uint64_t words_cost(uint64_t size)
{
	return size + count_words(size) * sizeof(uint32_t);
}

bool words_init(struct words *words, uint64_t size, bool opener)
{
	*words = (struct words){.size = size, .opener = opener};
	words->twin = calloc(1, size > 0 ? size : 1);
	words->frames = calloc(count_words(size) + 1, sizeof(*words->frames));
	if (words->twin == NULL || words->frames == NULL) {
		words_finish(words);
		return false;
	}
	return true;
}

void words_finish(struct words *words)
{
	mapping_unref(words->mapping);
	words->mapping = NULL;
	free(words->twin);
	words->twin = NULL;
	free(words->frames);
	words->frames = NULL;
}

/* ---- what has changed here ---- */

struct scan {
	const struct words *words;
	uint64_t at, end;
	size_t n; // bytes of block
	uint64_t block[BLOCK / WORD];
};

/* Whole words in one access each: their writers may be at it. */
static void read_block(struct scan *scan, const uint8_t *memory)
{
	const uint64_t *from = (const uint64_t *)memory;
	size_t whole = scan->n / WORD;
	for (size_t i = 0; i < whole; i++) {
		scan->block[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	}
	memcpy(&scan->block[whole], memory + whole * WORD, scan->n % WORD);
}

/* Moves scan->at to the next block that differs from the twin, or to the end; runs guarded. */
static void find_changed_block(void *data)
{
	struct scan *scan = data;
	const struct words *words = scan->words;
	for (; scan->at < scan->end; scan->at += scan->n) {
		const uint8_t *memory = words->mapping->data + scan->at;
		scan->n = scan->end - scan->at < BLOCK ? scan->end - scan->at : BLOCK;
		if (memcmp(memory, words->twin + scan->at, scan->n) != 0) {
			read_block(scan, memory);
			return;
		}
	}
}

static size_t put_run(uint8_t *runs, uint64_t offset, const uint8_t *data, size_t len)
{
	struct channel_run run = {.length = (uint32_t)len};
	channel_put64(run.offset, offset);
	memcpy(runs, &run, sizeof(run));
	memcpy(runs + sizeof(run), data, len);
	return sizeof(run) + len;
}

static size_t encode_block(struct words *words, const struct scan *scan, uint8_t *runs)
{
	const uint8_t *block = (const uint8_t *)scan->block;
	uint8_t *twin = words->twin + scan->at;
	size_t len = 0, start = 0;
	bool in_run = false;
	for (size_t i = 0; i < scan->n; i += WORD) {
		size_t n = scan->n - i < WORD ? scan->n - i : WORD;
		bool changed = memcmp(twin + i, block + i, n) != 0;
		if (changed) {
			memcpy(twin + i, block + i, n);
			words->frames[(scan->at + i) / WORD] = words->pushed + 1;
		}
		if (in_run && !changed) {
			len += put_run(runs + len, scan->at + start, block + start, i - start);
		} else if (!in_run) {
			start = i;
		}
		in_run = changed;
	}
	if (in_run) {
		len += put_run(runs + len, scan->at + start, block + start, scan->n - start);
	}
	return len;
}

/* A word of which only a part is there is left alone. */
static uint64_t round_end(const struct words *words, uint64_t end)
{
	return end >= words->size ? words->size : end - end % WORD;
}

size_t words_encode(struct words *words, uint64_t *at, uint64_t end, uint8_t *runs)
{
	size_t len = 0;
	struct scan scan = {
		.words = words,
		.at = *at,
		.end = words->mapping == NULL ? 0 : round_end(words, end),
	};
	while (scan.at < scan.end && WORDS_MAX - len >= BLOCK_RUNS_MAX) {
		if (!guard_run(find_changed_block, &scan)) {
			scan.at = end; // truncated at this moment
		} else if (scan.at < scan.end) {
			len += encode_block(words, &scan, runs + len);
			scan.at += scan.n;
		}
	}
	*at = scan.at < scan.end ? scan.at : end;
	words->pushed += len > 0;
	return len;
}

/* ---- what has changed there ---- */

const char *words_check(const struct words *words, const uint8_t *runs, size_t len)
{
	while (len > 0) {
		struct channel_run run;
		if (len < sizeof(run)) {
			return "MEM_WORDS with a run that is cut off";
		}
		memcpy(&run, runs, sizeof(run));
		uint64_t offset = channel_get64(run.offset);
		if (run.length == 0 || run.length > len - sizeof(run)) {
			return "MEM_WORDS with a run of a wrong length";
		}
		if (offset > words->size || run.length > words->size - offset) {
			return "MEM_WORDS past the end of its memory";
		}
		bool last = offset + run.length == words->size;
		if (offset % WORD != 0 || (run.length % WORD != 0 && !last)) {
			return "MEM_WORDS with a part of a word";
		}
		runs += sizeof(run) + run.length;
		len -= sizeof(run) + run.length;
	}
	return NULL;
}

struct arrival {
	struct words *words;
	uint64_t end;
	const uint8_t *runs;
	size_t len;
	volatile uint64_t conflicts;
};

/* The word went out, and what has come was sent before it was handled. */
static bool crosses(const struct words *words, uint64_t offset)
{
	uint32_t behind = words->frames[offset / WORD] - words->handled - 1;
	return behind < words->pushed - words->handled;
}

/* Stores value if the memory still has what it is expected to have. */
static bool replace(uint8_t *memory, const uint8_t *expected, const uint8_t *value, size_t n)
{
	if (n < WORD) {
		bool same = memcmp(memory, expected, n) == 0;
		if (same) {
			memcpy(memory, value, n);
		}
		return same;
	}
	uint64_t old, new;
	memcpy(&old, expected, WORD);
	memcpy(&new, value, WORD);
	return __atomic_compare_exchange_n(
		(uint64_t *)memory, &old, new, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static void overwrite(uint8_t *memory, const uint8_t *value, size_t n)
{
	if (n < WORD) {
		memcpy(memory, value, n);
		return;
	}
	uint64_t new;
	memcpy(&new, value, WORD);
	__atomic_store_n((uint64_t *)memory, new, __ATOMIC_RELEASE);
}

/* One word for the side that opened the memory, whose own changes stay. True: a conflict. */
static bool apply_to_original(struct words *words, uint64_t offset, const uint8_t *value, size_t n)
{
	uint8_t *memory = words->mapping->data + offset;
	uint8_t *twin = words->twin + offset;
	if (crosses(words, offset)) {
		return memcmp(twin, value, n) != 0; // the other side takes ours when it comes
	}
	bool taken = words->mapping->writable && replace(memory, twin, value, n);
	memcpy(twin, value, n); // if it was not taken, ours differs and goes out
	return !taken && memcmp(memory, value, n) != 0;
}

/* One word for the other side. True: a conflict, and the change from here is lost. */
static bool apply_to_copy(struct words *words, uint64_t offset, const uint8_t *value, size_t n)
{
	uint8_t *memory = words->mapping->data + offset;
	uint8_t *twin = words->twin + offset;
	bool crossed = crosses(words, offset) && memcmp(twin, value, n) != 0;
	bool taken = replace(memory, twin, value, n);
	bool lost = !taken && memcmp(memory, value, n) != 0;
	if (lost) {
		overwrite(memory, value, n);
	}
	memcpy(twin, value, n);
	words->frames[offset / WORD] = words->handled; // what went out is void
	return crossed || lost;
}

static void apply_run(struct arrival *arrival, uint64_t offset, const uint8_t *data, size_t len)
{
	struct words *words = arrival->words;
	for (size_t i = 0; i < len && offset + i < arrival->end; i += WORD) {
		size_t n = len - i < WORD ? len - i : WORD;
		bool conflict = words->opener ? apply_to_original(words, offset + i, data + i, n)
					      : apply_to_copy(words, offset + i, data + i, n);
		if (conflict) {
			arrival->conflicts = arrival->conflicts + 1;
		}
	}
}

static void apply_runs(void *data)
{
	struct arrival *arrival = data;
	for (size_t at = 0; at < arrival->len;) {
		struct channel_run run;
		memcpy(&run, arrival->runs + at, sizeof(run));
		at += sizeof(run);
		apply_run(arrival, channel_get64(run.offset), arrival->runs + at, run.length);
		at += run.length;
	}
}

uint64_t words_apply(struct words *words, uint64_t end, const uint8_t *runs, size_t len)
{
	struct arrival arrival = {
		.words = words,
		.end = words->mapping == NULL ? 0 : round_end(words, end),
		.runs = runs,
		.len = len,
	};
	if (arrival.end > 0) {
		guard_run(apply_runs, &arrival);
	}
	return arrival.conflicts;
}

bool words_handled(struct words *words, uint32_t n)
{
	if (n > words->pushed - words->handled) {
		return false;
	}
	words->handled += n;
	return true;
}
