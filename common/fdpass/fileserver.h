#ifndef FDPASS_FILESERVER_H
#define FDPASS_FILESERVER_H

#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "fdpass/kind.h"

struct event_base;
struct fileserver;
struct fuse_req;

/**
 * Files whose bytes come from somewhere else when a local peer reads them: a FUSE file system that
 * this process answers for, in its event loop. It must not do anything with the fds of such a file that
 * asks FUSE (open, read, fstatfs): it would wait for itself. fstat, fcntl, dup, sending and closing are
 * fine.
 */

struct served_file;

struct served_file_interface {
	// size bytes from offset are wanted. Answer req by fileserver_answer or fileserver_fail, now or
	// later, but before the file is removed.
	void (*read)(
		struct served_file *file, struct fuse_req *req, uint64_t offset, uint32_t size);
	// No local peer has the file open any more. It may be removed from here.
	void (*released)(struct served_file *file);
};

// Embedded by who knows the bytes.
struct served_file {
	const struct served_file_interface *interface;
	struct fileserver *server;
	struct wl_list link; // fileserver.files
	uint64_t number;     // st_ino: of FD_SERVED_NUMBERS
	uint64_t size;
	unsigned int opens;
	struct fd_identity identity; // of its fds; zeros before the first fileserver_open
};

// Starts the process that opens files, which a sandbox would not let happen later. NULL where there
// cannot be any. base is borrowed.
struct fileserver *fileserver_create(struct event_base *base);
// Mounts the file system, unless it is there. NULL, or a phrase that says what is missing.
const char *fileserver_start(struct fileserver *server);
// All files have been removed. NULL is fine.
void fileserver_destroy(struct fileserver *server);

void fileserver_add(struct fileserver *server, struct served_file *file,
	const struct served_file_interface *interface, uint64_t size);
void fileserver_remove(struct served_file *file);

// A new fd of the file, read-only, with that file offset: the caller's, CLOEXEC. -errno; waits at
// most a second, in which requests are answered: the interface's functions may be called.
int fileserver_open(struct served_file *file, uint64_t offset);

// Fewer bytes than were asked for: the file ends there.
void fileserver_answer(struct fuse_req *req, const void *data, size_t len);
void fileserver_fail(struct fuse_req *req, int error); // errno

#endif
