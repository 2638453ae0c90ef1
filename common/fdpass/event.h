#ifndef FDPASS_EVENT_H
#define FDPASS_EVENT_H

#include "fdpass/fdref.h"

/**
 * eventfds. The opener keeps the original, the importer has a replica; each hands its own out as
 * often as it is asked for.
 *
 * One side writes, the other reads, but an eventfd does not say which: the side where a count first
 * appears is the writer's. From there counts are moved (read) and are added on the other side. That
 * is exact: no count is lost and none comes twice, but what the writer's side reads of its own it
 * takes from the other side's readers. Counts that are there when the eventfd is passed go with it.
 *
 * The direction turns round when a count appears on the reader's side that nobody there takes in
 * EVENT_GRACE_MS. A reader that signals itself so keeps what it does take. If both sides write at
 * once, it is the opener's that is the writer's.
 *
 * EFD_SEMAPHORE is kept where the kernel shows it (Linux 6.5), O_NONBLOCK as it was when the eventfd
 * was first passed. A count that does not fit any more waits. Nothing here blocks unless a local
 * process fills the counter up to 2^64-2 between two system calls of ours.
 *
 * Nobody can see that the last user of an eventfd is gone, so each stays until its session ends.
 * Those that were opened here and have no name take at most one part in EVENT_SHARE of the budget of
 * fds: beyond that, the one that was not used for longest is closed. They do not count in
 * refs->streams.
 *
 * One that several sessions of a link pass is one object, too. Who looks after it on each side
 * (refs->ask) has an fd of it and knows its name: an importer asks for the fd of a name, an opener
 * for the name of an fd, and gives it to its local peer's message only when the other side is
 * ready. One session moves the counts, the others hand it out. When that one has ended, another
 * one is told to. On each side it begins when the first has ended there, and goes on from where that
 * one was: what has come for the readers stays theirs, what was written leaves.
 */

#define COUNT_MAX      (UINT64_MAX - 1) // that an eventfd holds
#define EVENT_GRACE_MS 100
#define EVENT_SHARE    4

// What a session and who looks after the eventfds of its link tell each other.
struct event_note {
	uint64_t name; // as in channel_open_event
	// Of a question, and of its answer. 0: neither.
	//   A question brings an fd. With a name: is there an fd of that name already? This one is it, if
	//   not. Without: what is the fd's name?
	//   The answer to the first has an fd, or not; to the second, the name: 0, it has none.
	//   What is neither tells who moves the counts: the one who says so, or the one who is told.
	uint32_t number;
	// enum channel_event_role. In an answer, MOVES: no other session has it. In a question for a
	// name, and in what is neither, the asker's own; one that does not move the counts yet asks for
	// its turn so. OTHER: it ends before its turn came, and has added placed.
	uint32_t role;
	// Of what is neither: as in struct counter, or COUNT_MAX, where that is not known.
	uint64_t placed;
};

// Opens an eventfd for fd, which is taken also on failure; one that was sent before is found by its
// identity (fdrefs_find), not here. Gives the fdref's id, or 0 with *wrong set.
uint32_t event_export(struct fdrefs *refs, int fd, const char **wrong);
// Whether fd, which is borrowed, has no name yet, or one that the other side is not ready for: then
// fdrefs_retry follows, and fdrefs_find finds it.
bool event_must_wait(struct fdrefs *refs, int fd);

// What refs->ask brings. Takes fd, -1 for none.
void event_answer(struct fdrefs *refs, const struct event_note *note, int fd);
// Nobody answers any more: those who wait, and all later ones, are known to this session only.
void event_forsake(struct fdrefs *refs);

// For fdrefs_frame: OPEN of an eventfd.
const char *event_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

#endif
