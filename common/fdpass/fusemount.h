#ifndef FDPASS_FUSEMOUNT_H
#define FDPASS_FUSEMOUNT_H

#include <stdint.h>
#include <sys/types.h>

#include "fdpass/kind.h"

/**
 * A FUSE file system that is attached to no directory (fsmount(2)). A process beside this one holds
 * it and opens its files: whoever opens one waits for who answers FUSE's requests, which is this
 * process. Nobody else can reach the files, and nothing is left of them when both processes are gone.
 *
 * Root's may be read by everybody who is given an fd. Without root the mount is made in a user
 * namespace, and only processes of the same user can use its files.
 */
struct fusemount {
	pid_t pid;
	int socket; // -1: none; readable when an answer is there
};

struct fusemount_answer {
	uint64_t number;
	struct fd_identity identity; // of the opened file
	int32_t error;               // errno, or 0
	uint32_t reserved;
};

// Starts the other process, which waits. 0 or -errno.
int fusemount_create(struct fusemount *mount);
// Gives the fd of /dev/fuse, the caller's and non-blocking, or -errno, which has been logged. While it
// is open the file system lives; when it is closed all reads fail. Waits for the other process, at
// most a second.
int fusemount_start(struct fusemount *mount);
// Waits for the end of the other process, which comes when what fusemount_start gave is closed.
void fusemount_finish(struct fusemount *mount);

// Has the file of that name (in decimal) opened for reading and its offset set. 0 or -errno.
int fusemount_ask(struct fusemount *mount, uint64_t number, uint64_t offset);
// The next answer: the fd, which is the caller's; or -errno. -EAGAIN: there is none yet.
int fusemount_receive(struct fusemount *mount, struct fusemount_answer *answer);

#endif
