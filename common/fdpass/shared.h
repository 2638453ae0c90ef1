#ifndef FDPASS_SHARED_H
#define FDPASS_SHARED_H

#include <stdbool.h>
#include <stdint.h>

#include "fdpass/fdref.h"

/**
 * Memory that both sides may write to. Each has a copy of its own; what one has changed goes to the
 * other before anything by which the other could learn of it. So it is right for who takes turns;
 * words that both change at a time are counted as conflicts (fdpass/words.h).
 *
 * The memory is one fdref, opened by the side that it came from. Each fd of it that goes into a
 * message, either way and whatever its access mode, is another one that lives until the message was
 * handled.
 */

// The id of fd, which is taken also on failure: 0 with *wrong set. An fd of a memory that has an
// fdref already, whoever opened it, is an fd of that memory. One that is sealed against writing
// belongs to file_export.
uint32_t shared_export(struct fdrefs *refs, int fd, const char **wrong);
// For fdrefs_frame: OPEN of a shared memory, or of an fd of one.
const char *shared_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

// Whether fd is of a memory that has an fdref: one that comes home, or goes again.
bool shared_knows(const struct fdrefs *refs, int fd);

// Sends what the local peers have changed. To be called before anything goes to the other side that
// may tell of it: bytes, counts, the end of a stream. Costs a look at all that is shared. False on
// ENOMEM: the channel is of no more use.
bool shared_push_changes(struct fdrefs *refs);

// Looks which of the other side's memories nobody here uses any more, and tells it. To be called
// now and then.
void shared_collect(struct fdrefs *refs);

#endif
