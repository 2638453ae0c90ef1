#ifndef FDPASS_STREAM_H
#define FDPASS_STREAM_H

#include "fdpass/fdref.h"

/**
 * Pipes. The side that holds a read end sends what it reads, the other side writes it to the write
 * end that it holds; credit bounds what is under way. EOF follows the last byte; a reader that goes
 * away is told to the writer's side, which closes its end so that the writer gets EPIPE. Nothing
 * here blocks, and nothing changes the flags of an fd that came from outside.
 */

// Of a VM's streams. The pipes that are made for more have the smallest buffer that there is: all that the
// pipes of a user may have together is 64 MiB (pipe-user-pages-soft), then new ones of any program have little.
#define STREAM_FULL_PIPES 256

// Opens a stream for fd, which is taken also on failure. writer says what an fd that can be both
// read and written is for: true if the far side is to write into it. Gives the id, or 0 with *wrong
// set.
uint32_t stream_export(struct fdrefs *refs, int fd, bool writer, const char **wrong);
// For fdrefs_frame: OPEN of a pipe.
const char *stream_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

#endif
