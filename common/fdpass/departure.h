#ifndef FDPASS_DEPARTURE_H
#define FDPASS_DEPARTURE_H

#include <stdbool.h>
#include <stdint.h>

struct event;
struct fdrefs;
struct memory;

/**
 * The end of an importer's memory that is a dma-buf. The local peer says that it needs it no more, and
 * lets go of it when it has read that, and when its GPU is done. Nobody tells of the latter but the
 * kernel's count of references, which is looked at again and again: soon at first, then less often.
 *
 * Where several fdrefs are of one dma-buf (fdref.identity), what is held is the last one's to wait for.
 *
 * One that others had before the local peer stays charged after that, while anybody has it.
 */
struct departure {
	struct memory *memory; // NULL: it has not begun
	int info;              // where the count of references is read; -1: none
	struct event *look;
	uint64_t others; // references that were there before the local peer had any, beside ours
	uint64_t kept;   // that stay as long as ours does, beside it
	unsigned int next_ms, waited_ms;
	bool told;              // that it is held for long
	bool confirmed;         // it is only charged any more
	struct departure *next; // of those: fdrefs.departures
};

void departure_init(struct departure *departure);
// In fds and mappings, ours included, of a dma-buf. 0: it cannot be told.
uint64_t departure_count_references(int fd);
// For one that somebody has given us and may keep: fd, which is borrowed, is our only reference, and the
// local peer has none yet.
void departure_count_others(struct departure *departure, int fd);
void departure_finish(struct departure *departure);
// The opener has closed memory, nobody here uses it, and its fd, if it has one, is our only reference:
// confirms that it is closed, perhaps at once, when nobody else has one. Then the memory is gone, and
// departure, which is a part of it.
void departure_begin(struct departure *departure, struct memory *memory);
// For fdrefs_finish: nothing stays charged any more.
void departures_finish(struct fdrefs *refs);

#endif
