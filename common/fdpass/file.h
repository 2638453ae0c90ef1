#ifndef FDPASS_FILE_H
#define FDPASS_FILE_H

#include "fdpass/fdref.h"

/**
 * Files that are written once before they are passed: keymaps, gamma ramps, ICC profiles, format
 * tables. The contents cross once, the copy has the original's size, access mode, seals and offset;
 * one that its receiver cannot write to is always sealed, unless it was asked for exactly.
 */

#define FILE_MAX (64u * 1024 * 1024) // bytes; a larger one is refused

// Opens a file for fd, which is taken also on failure, and queues its contents unless the other
// side has them. Gives the fdref's id, or 0 with *wrong set.
uint32_t file_export(struct fdrefs *refs, int fd, const char **wrong);
// The same for a service of which nothing is known. The copy has the original's seals and no
// others, and no later session gets it. At most rules.max_file_copy bytes, FILE_MAX where that is 0.
// Contents are read when they are sent: what has vanished from the file by then are zeros, what was
// added is left out.
uint32_t file_export_exact(struct fdrefs *refs, int fd, const char **wrong);
// The size up to which file_export_exact copies: what the rules say, or FILE_MAX.
uint64_t file_copy_max(const struct fdrefs *refs);
// For fdrefs_frame: OPEN of a file.
const char *file_import(struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

#endif
