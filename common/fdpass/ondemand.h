#ifndef FDPASS_ONDEMAND_H
#define FDPASS_ONDEMAND_H

#include "fdpass/fdref.h"

/**
 * Files that are too large to be copied: the bytes cross when somebody reads them. What the other
 * side's local peer gets is a file of our own file system (fdpass/fileserver.h), whose size is fixed
 * at OPEN, and whose reads become MEM_READ frames. Who opened answers them with pread(2), which may
 * wait for a disk. A file that was truncated ends early.
 */

#define ONDEMAND_QUESTIONS 16    // open per file
#define ONDEMAND_READ_MS   30000 // then a read fails with EIO

// Opens a file for fd, which is taken also on failure: a regular file that can be read and not
// written. Gives the fdref's id, or 0 with *wrong set.
uint32_t ondemand_export(struct fdrefs *refs, int fd, const char **wrong);
// Starts what imports need and a sandbox does not let be started: a process beside this one, which
// fdrefs_finish ends. Where that cannot be, no import can. Done once.
void ondemand_prepare(struct fdrefs *refs);
// For file_import: OPEN of a file with cached 2. The fdref's identity is that of the fds that get_fd
// has given, which must not be read nor asked for their file system here (fdpass/fileserver.h).
const char *ondemand_import(
	struct fdrefs *refs, const struct channel_open_memory *open, struct fdref **ref);

#endif
