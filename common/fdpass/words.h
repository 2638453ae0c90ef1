#ifndef FDPASS_WORDS_H
#define FDPASS_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mapping;

/**
 * Keeps one memory and its copy on the other side the same by words of 8 bytes. A twin of both shows
 * what they had in common last: words that differ from it were changed here and go to the other
 * side, words that come and differ from it were changed there.
 *
 * A word that both sides have changed is a conflict. The opener's value stays and the other side's
 * is lost, so that both have the same in the end. Two changes may also cross on their way: each word
 * remembers in which frame it went, and each side how many of its frames the other one has handled.
 */

// Bytes that one call of words_encode gives at most.
#define WORDS_MAX (64u * 1024)

struct words {
	struct mapping *mapping; // of the memory; NULL: of no bytes, or given up
	uint64_t size;           // the last word may be shorter than 8
	bool opener;
	uint8_t *twin;
	uint32_t *frames;         // by word: the last of our frames that it went in
	uint32_t pushed, handled; // our frames; the difference is on its way
};

// Bytes that words_init allocates for a memory of size, which is at most INT64_MAX / 4.
uint64_t words_cost(uint64_t size);
// The twin shows zeros; the mapping is to be set. False on ENOMEM: nothing is left behind.
bool words_init(struct words *words, uint64_t size, bool opener);
// Gives up twin and mapping; of no further use. May be called twice.
void words_finish(struct words *words);

// Fills runs (WORDS_MAX bytes) with the words that have changed, from *at on and below end, in the
// form of MEM_WORDS. *at moves to what was not looked at yet: call again until it is end. What is
// given must be pushed as one frame, and is what the twin shows now. 0: nothing has changed.
size_t words_encode(struct words *words, uint64_t *at, uint64_t end, uint8_t *runs);

// What is wrong with the payload of a MEM_WORDS frame, or NULL.
const char *words_check(const struct words *words, const uint8_t *runs, size_t len);
// Takes over the words of a frame that was checked; those from end on are forgotten. Gives the
// number of conflicts.
uint64_t words_apply(struct words *words, uint64_t end, const uint8_t *runs, size_t len);
// The other side has handled n more of our frames. False: not so many are on their way.
bool words_handled(struct words *words, uint32_t n);

#endif
