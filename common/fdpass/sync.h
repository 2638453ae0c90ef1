#ifndef FDPASS_SYNC_H
#define FDPASS_SYNC_H

#include "fdpass/fdref.h"

/**
 * sync_files: fences of a GPU. One is waited for where it is; what crosses is that it has signalled.
 * The importer makes one that has, by a DRM render node with sync objects; where there is none the
 * session ends.
 */

enum sync_result {
	SYNC_OPENED,
	SYNC_WAIT,   // it has not signalled; fdrefs_retry is called when to ask again
	SYNC_FAILED, // *wrong says why
};

// fd is taken unless the result is SYNC_WAIT.
enum sync_result sync_export(struct fdrefs *refs, int fd, uint32_t *id, const char **wrong);
// For fdrefs_frame: OPEN of a sync_file.
const char *sync_import(struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

// Has fdrefs_retry called once fd, which is borrowed, is readable. Asking twice is asking once.
bool sync_wait_for(struct fdrefs *refs, int fd);
// For fdrefs_finish: nothing is waited for any more.
void sync_finish(struct fdrefs *refs);

#endif
