#ifndef FDPASS_KIND_H
#define FDPASS_KIND_H

#include <stdbool.h>
#include <stdint.h>

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020 // linux/fcntl.h since 6.3
#endif

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

#define FD_DEVICE_EVENTFD UINT64_MAX

// The numbers of files that a session serves by FUSE (fdpass/fileserver.h) begin with these 32 bits, so
// that every other session can tell without asking the file's server anything, which it may never answer.
#define FD_SERVED_NUMBERS (UINT64_C(0x66647276) << 32)

// The names of memfds that sessions make for their local peers begin so.
#define FD_MEMORY_NAMES "fdferry-"

bool fd_identity_equal(const struct fd_identity *a, const struct fd_identity *b);

// Waits for nobody. A file that a session serves, this one or another, is FD_KIND_UNKNOWN here and for
// fd_facts_of: nothing may be done with it but what fdpass/fileserver.h allows.
enum fd_kind fd_kind_of(int fd);
const char *fd_kind_name(enum fd_kind kind);
// The same for people, with what else is known: "dma-buf of udmabuf".
#define FD_DESCRIPTION_MAX 64
const char *fd_describe(int fd, char text[FD_DESCRIPTION_MAX]);

// Who has made a dma-buf: a driver's name, as its fdinfo has it. False: it is not known (Linux 5.3).
bool fd_dmabuf_exporter(int fd, char name[FD_DESCRIPTION_MAX]);

// A description of its own of what is behind fd, with flags as for open(2), CLOEXEC: neither its offset nor
// its flags are shared with anybody. The caller's; -1 with errno.
int fd_open_again(int fd, int flags);

// The seals of a memfd, CHANNEL_NO_SEALS where there can be none.
uint32_t fd_seals(int fd);

// An empty memfd, CLOEXEC, on its way to these seals, which are the caller's to add in the end: it can be
// sealed unless they are CHANNEL_NO_SEALS, and has F_SEAL_EXEC already if they do (and the kernel knows it,
// Linux 6.3). The caller's; -1 with errno.
int fd_new_memory(const char *name, uint32_t seals);

// Everything that can be told of an fd. A field that does not apply to its kind is 0.
struct fd_facts {
	enum fd_kind kind;
	int access; // O_RDONLY, O_WRONLY, O_RDWR
	bool nonblocking;
	bool path_only; // O_PATH: nothing can be done with it
	bool memory;    // FILE that several may map and share: memfd, tmpfs, hugetlbfs
	bool immutable; // ... and that is sealed against WRITE, SHRINK and GROW
	bool of_session; // that a session has made of another side's: served on demand, or a copied memory
	bool readable_file; // FILE whose length can be trusted: not procfs, sysfs and the like
	uint32_t seals;     // CHANNEL_NO_SEALS where there are none
	uint64_t size;      // of a FILE
	int socket_type;    // SOCK_* of a UNIX socket
	bool listening, connected;
	int device; // enum channel_device of one that is the same everywhere, or -1
	struct fd_identity identity;
	const char *name; // what people call it: "a directory", "an epoll instance"
};

// What has no bytes of its own although it looks like a file (a namespace, a message queue, secret
// memory) is FD_KIND_UNKNOWN here.
//
// The length and the file system of a file on FUSE or on a network are its server's to tell: this
// waits for it, as reading the file would. It does not wait for what sessions serve.
void fd_facts_of(int fd, struct fd_facts *facts);

// Waits for nobody. Zeros where it is not known: all anonymous inodes but a few are one.
void fd_identity_of(int fd, struct fd_identity *identity);

// What /proc/self/fdinfo says of fd, as it is whenever it is read. The caller's; -1 with errno.
int fd_info_open(int fd);
// The number behind "name:", in that base; false if there is none.
bool fd_info_number(int info, const char *name, int base, uint64_t *number);

#endif
