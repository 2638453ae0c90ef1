#ifndef FDPASS_SYNC_H
#define FDPASS_SYNC_H

#include "fdpass/fdref.h"

/**
 * sync_files: fences of a GPU. One is waited for where it is; what crosses is that it has signalled.
 * The importer makes one that has, by a DRM render node with sync objects; where there is none the
 * session ends.
 */

// The first DRM render node that suits: the caller's, CLOEXEC; -1: there is none.
int sync_open_node(bool (*suits)(int node));

// Whether fd, a sync_file that is borrowed, has signalled, with an error or without.
bool sync_has_signalled(int fd);
// Whether fd, a sync_file that is borrowed, has not signalled; fdrefs_retry is called when to ask again.
bool sync_must_wait(struct fdrefs *refs, int fd);
// Takes fd. The fdref's id, or 0: *wrong says what is wrong, such as that it has not signalled.
uint32_t sync_export(struct fdrefs *refs, int fd, const char **wrong);
// For fdrefs_frame: OPEN of a sync_file.
const char *sync_import(struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref);

// Has fdrefs_retry called once fd, which is borrowed, is readable. Asking twice is asking once.
bool sync_wait_for(struct fdrefs *refs, int fd);
// The same once it is writable. One fd is waited for in one of these ways at a time.
bool sync_wait_to_write(struct fdrefs *refs, int fd);
// What was asked for fd is of no interest any more.
void sync_forget(struct fdrefs *refs, int fd);
// For fdrefs_finish: nothing is waited for any more.
void sync_finish(struct fdrefs *refs);

#endif
