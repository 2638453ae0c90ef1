#ifndef FDPASS_KIND_H
#define FDPASS_KIND_H

#include <stdbool.h>
#include <stdint.h>

/**
 * What is behind an fd, told without side effects: fstat, fstatfs and the /proc/self/fd link, never
 * a read, a seek or an ioctl on something unknown.
 */
enum fd_kind {
	FD_KIND_FILE, // regular file or memfd
	FD_KIND_PIPE, // pipe or FIFO
	FD_KIND_UNIX_SOCKET,
	FD_KIND_OTHER_SOCKET,
	FD_KIND_DMABUF,
	FD_KIND_EVENTFD,
	FD_KIND_SYNC_FILE,
	FD_KIND_CHARACTER_DEVICE,
	FD_KIND_BLOCK_DEVICE,
	FD_KIND_DIRECTORY,
	FD_KIND_UNKNOWN,
};

// Two fds with the same identity are of the same thing: st_dev and st_ino, or an eventfd's id.
struct fd_identity {
	uint64_t device;
	uint64_t number;
};

bool fd_identity_equal(const struct fd_identity *a, const struct fd_identity *b);

enum fd_kind fd_kind_of(int fd);
const char *fd_kind_name(enum fd_kind kind);

// The seals of a memfd, CHANNEL_NO_SEALS where there can be none.
uint32_t fd_seals(int fd);

#endif
