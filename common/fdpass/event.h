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
 * Nobody can see that the last user of an eventfd is gone, so each stays until its session ends;
 * max_refs bounds them. They do not count in refs->streams.
 */

#define EVENT_GRACE_MS 100

// Opens an eventfd for fd, which is taken also on failure; one that was sent before is found by its
// identity (fdrefs_find), not here. Gives the fdref's id, or 0 with *wrong set.
uint32_t event_export(struct fdrefs *refs, int fd, const char **wrong);
// For fdrefs_frame: OPEN of an eventfd.
const char *event_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

#endif
