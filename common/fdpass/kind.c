#include "fdpass/kind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/scm.h"
#include "protocol/channel.h"

#ifndef DMA_BUF_MAGIC
#define DMA_BUF_MAGIC 0x444d4142 // linux/magic.h since 5.15
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u // linux/memfd.h since 6.3
#endif
#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446 // linux/magic.h since 6.9
#endif
// These are in no header of the kernel's that programs may use.
#define MQUEUE_MAGIC   0x19800202 // ipc/mqueue.c
#define CONFIGFS_MAGIC 0x62656570 // fs/configfs/mount.c

static const char *const names[] = {
	[FD_KIND_FILE] = "file",
	[FD_KIND_PIPE] = "pipe",
	[FD_KIND_UNIX_SOCKET] = "UNIX socket",
	[FD_KIND_OTHER_SOCKET] = "network socket",
	[FD_KIND_DMABUF] = "dma-buf",
	[FD_KIND_EVENTFD] = "eventfd",
	[FD_KIND_SYNC_FILE] = "sync_file",
	[FD_KIND_CHARACTER_DEVICE] = "character device",
	[FD_KIND_BLOCK_DEVICE] = "block device",
	[FD_KIND_DIRECTORY] = "directory",
	[FD_KIND_UNKNOWN] = "fd of an unknown kind",
};

const char *fd_kind_name(enum fd_kind kind)
{
	return names[kind];
}

/* The text of the link in /proc/self/fd; it is the kernel's where the inode is anonymous. */
static void read_link(int fd, char *link, size_t len)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, link, len - 1);
	link[n > 0 ? n : 0] = '\0';
}

static_assert(O_RDONLY == CHANNEL_ACCESS_READ && O_WRONLY == CHANNEL_ACCESS_WRITE &&
		O_RDWR == CHANNEL_ACCESS_BOTH,
	"access modes are those of O_ACCMODE");

int fd_open_again(int fd, int flags)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

int fd_info_open(int fd)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

#define INFO_MAX 1024

/* What follows "name:" up to the end of text; NULL: there is no such line. */
static const char *find_info(int info, const char *name, char text[INFO_MAX])
{
	ssize_t n = pread(info, text, INFO_MAX - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	size_t len = strlen(name);
	const char *line = text;
	while (strncmp(line, name, len) != 0 || line[len] != ':') {
		line = strchr(line, '\n');
		if (line == NULL) {
			return NULL;
		}
		line++;
	}
	return line + len + 1;
}

bool fd_info_number(int info, const char *name, int base, uint64_t *number)
{
	char text[INFO_MAX];
	const char *value = find_info(info, name, text);
	if (value == NULL) {
		return false;
	}
	char *end;
	*number = strtoull(value, &end, base);
	return end != value;
}

static enum fd_kind socket_kind(int fd)
{
	return scm_is_unix(fd) ? FD_KIND_UNIX_SOCKET : FD_KIND_OTHER_SOCKET;
}

static uint32_t file_system_of(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 ? (uint32_t)fs.f_type : 0;
}

/* Anonymous inodes have no type bits: the file system or the link tells them apart. */
static const struct {
	const char *link; // begins so
	enum fd_kind kind;
	const char *name;
} anonymous[] = {
	{"anon_inode:[eventfd]", FD_KIND_EVENTFD, "an eventfd"},
	{"anon_inode:sync_file", FD_KIND_SYNC_FILE, "a sync_file"},
	{"anon_inode:syncobj_file", FD_KIND_UNKNOWN, "a DRM syncobj"},
	{"anon_inode:[eventpoll]", FD_KIND_UNKNOWN, "an epoll instance"},
	{"anon_inode:[timerfd]", FD_KIND_UNKNOWN, "a timerfd"},
	{"anon_inode:[signalfd]", FD_KIND_UNKNOWN, "a signalfd"},
	{"anon_inode:inotify", FD_KIND_UNKNOWN, "an inotify instance"},
	{"anon_inode:[fanotify]", FD_KIND_UNKNOWN, "a fanotify group"},
	{"anon_inode:[userfaultfd]", FD_KIND_UNKNOWN, "a userfaultfd"},
	{"anon_inode:[io_uring]", FD_KIND_UNKNOWN, "an io_uring"},
	{"anon_inode:bpf", FD_KIND_UNKNOWN, "a bpf object"},
	{"anon_inode:btf", FD_KIND_UNKNOWN, "a bpf object"},
	{"anon_inode:[perf_event]", FD_KIND_UNKNOWN, "a perf event"},
	{"anon_inode:[pidfd]", FD_KIND_UNKNOWN, "a pidfd"},
	{"pidfd:", FD_KIND_UNKNOWN, "a pidfd"},
	{"anon_inode:[landlock", FD_KIND_UNKNOWN, "a Landlock ruleset"},
	{"anon_inode:seccomp notify", FD_KIND_UNKNOWN, "a seccomp listener"},
	{"anon_inode:[fscontext]", FD_KIND_UNKNOWN, "a file system context"},
	{"anon_inode:kvm", FD_KIND_UNKNOWN, "a part of a virtual machine"},
};

static enum fd_kind anonymous_kind(int fd, const char **name)
{
	char link[64];
	if (file_system_of(fd) == DMA_BUF_MAGIC) {
		*name = "a dma-buf";
		return FD_KIND_DMABUF;
	}
	read_link(fd, link, sizeof(link));
	for (size_t i = 0; i < sizeof(anonymous) / sizeof(anonymous[0]); i++) {
		if (strncmp(link, anonymous[i].link, strlen(anonymous[i].link)) == 0) {
			*name = anonymous[i].name;
			return anonymous[i].kind;
		}
	}
	*name = "an anonymous fd of an unknown kind";
	return FD_KIND_UNKNOWN;
}

/* By what is known already: whoever asks for more (fstatfs, read) waits for another session. */
static bool is_served(const struct statx *stx)
{
	const uint64_t mask = ~UINT64_C(0) << 32;
	return stx->stx_dev_major == 0 && (stx->stx_ino & mask) == FD_SERVED_NUMBERS &&
		stx->stx_mode == (S_IFREG | 0444);
}

static enum fd_kind regular_kind(const struct statx *stx, const char **name)
{
	bool served = is_served(stx);
	*name = served ? "a file that another session serves on demand" : "a file";
	return served ? FD_KIND_UNKNOWN : FD_KIND_FILE;
}

static enum fd_kind kind_of_statx(int fd, const struct statx *stx, const char **name)
{
	switch (stx->stx_mode & S_IFMT) {
	case S_IFREG:
		return regular_kind(stx, name);
	case S_IFIFO:
		*name = "a pipe";
		return FD_KIND_PIPE;
	case S_IFSOCK:
		*name = "a socket";
		return socket_kind(fd);
	case S_IFCHR:
		*name = "a character device";
		return FD_KIND_CHARACTER_DEVICE;
	case S_IFBLK:
		*name = "a block device";
		return FD_KIND_BLOCK_DEVICE;
	case S_IFDIR:
		*name = "a directory";
		return FD_KIND_DIRECTORY;
	case 0:
		return anonymous_kind(fd, name);
	default:
		*name = "an fd of an unknown kind";
		return FD_KIND_UNKNOWN;
	}
}

/* What is known already is enough: a file's server is not asked. */
static bool look(int fd, struct statx *stx)
{
	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
		       STATX_TYPE | STATX_MODE | STATX_INO, stx) == 0;
}

enum fd_kind fd_kind_of(int fd)
{
	struct statx stx;
	const char *name;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & O_PATH) || !look(fd, &stx)) {
		return FD_KIND_UNKNOWN;
	}
	return kind_of_statx(fd, &stx, &name);
}

bool fd_dmabuf_exporter(int fd, char name[FD_DESCRIPTION_MAX])
{
	char text[INFO_MAX];
	int info = fd_info_open(fd);
	if (info < 0) {
		return false;
	}
	const char *exporter = find_info(info, "exp_name", text);
	if (exporter != NULL) {
		exporter += strspn(exporter, " \t");
		snprintf(name, FD_DESCRIPTION_MAX, "%.*s", (int)strcspn(exporter, "\n"), exporter);
	}
	close(info);
	return exporter != NULL;
}

static void describe_dmabuf(int fd, char description[FD_DESCRIPTION_MAX])
{
	char exporter[FD_DESCRIPTION_MAX];
	if (fd_dmabuf_exporter(fd, exporter)) {
		snprintf(description, FD_DESCRIPTION_MAX, "dma-buf of %.40s", exporter);
	}
}

const char *fd_describe(int fd, char text[FD_DESCRIPTION_MAX])
{
	enum fd_kind kind = fd_kind_of(fd);
	snprintf(text, FD_DESCRIPTION_MAX, "%s", fd_kind_name(kind));
	if (kind == FD_KIND_DMABUF) {
		describe_dmabuf(fd, text);
	}
	return text;
}

bool fd_identity_equal(const struct fd_identity *a, const struct fd_identity *b)
{
	return a->device == b->device && a->number == b->number;
}

uint32_t fd_seals(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	return seals < 0 ? CHANNEL_NO_SEALS : (uint32_t)seals;
}

int fd_new_memory(const char *name, uint32_t seals)
{
	bool sealable = seals != CHANNEL_NO_SEALS;
	unsigned int flags = sealable ? MFD_CLOEXEC | MFD_ALLOW_SEALING : MFD_CLOEXEC;
	int fd = -1;
	errno = EINVAL;
	if (sealable && (seals & F_SEAL_EXEC)) {
		fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	}
	return fd < 0 && errno == EINVAL ? memfd_create(name, flags) : fd;
}

/* ---- everything that can be told ---- */

#define SEALS_IMMUTABLE (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

/* What looks like a file, by its file system. */
static const struct {
	uint32_t magic;
	enum fd_kind kind;
	const char *name;
} special_files[] = {
	{NSFS_MAGIC, FD_KIND_UNKNOWN, "a namespace"},
	{MQUEUE_MAGIC, FD_KIND_UNKNOWN, "a message queue"},
	{SECRETMEM_MAGIC, FD_KIND_UNKNOWN, "secret memory"},
	{PID_FS_MAGIC, FD_KIND_UNKNOWN, "a pidfd"},
	{BPF_FS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{CGROUP_SUPER_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{CGROUP2_SUPER_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{CONFIGFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{DEBUGFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{EFIVARFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{PROC_SUPER_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{PSTOREFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{RDTGROUP_SUPER_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{SECURITYFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{SELINUX_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{SMACK_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{SYSFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
	{TRACEFS_MAGIC, FD_KIND_FILE, "a file of the kernel's"},
};

/* By the name: who gives a memory of its own one of ours is told what he would be told of ours. */
static bool is_copied_memory(int fd)
{
	static const char ours[] = "/memfd:" FD_MEMORY_NAMES;
	char link[sizeof(ours)];
	read_link(fd, link, sizeof(link));
	return strcmp(link, ours) == 0;
}

static void learn_memory(int fd, struct fd_facts *facts)
{
	facts->memory = true;
	facts->of_session = is_copied_memory(fd);
	facts->seals = fd_seals(fd);
	facts->immutable = facts->seals != CHANNEL_NO_SEALS &&
		(facts->seals & SEALS_IMMUTABLE) == SEALS_IMMUTABLE;
	facts->name = facts->immutable ? "sealed memory" : "shared memory";
}

static void learn_file(int fd, struct fd_facts *facts)
{
	uint32_t magic = file_system_of(fd);
	for (size_t i = 0; i < sizeof(special_files) / sizeof(special_files[0]); i++) {
		if (special_files[i].magic == magic) {
			facts->kind = special_files[i].kind;
			facts->name = special_files[i].name;
			return;
		}
	}
	struct stat st;
	facts->readable_file = fstat(fd, &st) == 0 && st.st_size >= 0;
	facts->size = facts->readable_file ? (uint64_t)st.st_size : 0;
	if (magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC) {
		learn_memory(fd, facts);
	}
}

static int socket_option(int fd, int option)
{
	int value;
	socklen_t len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, option, &value, &len) == 0 ? value : -1;
}

static void learn_unix_socket(int fd, struct fd_facts *facts)
{
	struct sockaddr_un address;
	socklen_t len = sizeof(address);
	facts->socket_type = socket_option(fd, SO_TYPE);
	facts->listening = socket_option(fd, SO_ACCEPTCONN) == 1;
	facts->connected = getpeername(fd, (struct sockaddr *)&address, &len) == 0;
	if (facts->listening) {
		facts->name = "a listening socket";
	} else if (facts->socket_type == SOCK_DGRAM) {
		facts->name = "a datagram socket";
	} else {
		facts->name = facts->connected ? "a UNIX socket" : "an unconnected socket";
	}
}

static const char *other_socket_name(int fd)
{
	switch (socket_option(fd, SO_DOMAIN)) {
	case AF_INET:
	case AF_INET6:
		return "a network socket";
	case AF_NETLINK:
		return "a netlink socket";
	case AF_VSOCK:
		return "a vsock socket";
	case AF_PACKET:
		return "a packet socket";
	default:
		return "a socket of an unknown family";
	}
}

static bool is_terminal(unsigned int number)
{
	return number == TTY_MAJOR || number == TTYAUX_MAJOR ||
		(number >= UNIX98_PTY_MASTER_MAJOR &&
			number < UNIX98_PTY_SLAVE_MAJOR + UNIX98_PTY_MAJOR_COUNT);
}

/* By its number, which the kernel's list of devices has fixed; no ioctl could be as harmless. */
static void learn_device(const struct statx *stx, struct fd_facts *facts)
{
	static const int same[] = {
		[3] = CHANNEL_DEVICE_NULL + 1,
		[5] = CHANNEL_DEVICE_ZERO + 1,
		[7] = CHANNEL_DEVICE_FULL + 1,
		[8] = CHANNEL_DEVICE_RANDOM + 1,
		[9] = CHANNEL_DEVICE_URANDOM + 1,
	};
	if (is_terminal(stx->stx_rdev_major)) {
		facts->name = "a terminal";
	} else if (stx->stx_rdev_major == MEM_MAJOR &&
		stx->stx_rdev_minor < sizeof(same) / sizeof(same[0])) {
		facts->device = same[stx->stx_rdev_minor] - 1;
	}
}

static void identify_eventfd(int fd, struct fd_identity *identity)
{
	uint64_t id;
	int info = fd_info_open(fd);
	if (info < 0) {
		return;
	}
	if (fd_info_number(info, "eventfd-id", 10, &id)) {
		*identity = (struct fd_identity){.device = FD_DEVICE_EVENTFD, .number = id};
	}
	close(info);
}

static void identify(int fd, const struct statx *stx, struct fd_identity *identity)
{
	*identity = (struct fd_identity){0};
	if ((stx->stx_mode & S_IFMT) == 0 && file_system_of(fd) != DMA_BUF_MAGIC) {
		identify_eventfd(fd, identity);
	} else {
		identity->device = makedev(stx->stx_dev_major, stx->stx_dev_minor);
		identity->number = stx->stx_ino;
	}
}

void fd_identity_of(int fd, struct fd_identity *identity)
{
	struct statx stx;
	if (look(fd, &stx)) {
		identify(fd, &stx, identity);
	} else {
		*identity = (struct fd_identity){0};
	}
}

static void learn_kind(int fd, const struct statx *stx, struct fd_facts *facts)
{
	facts->kind = kind_of_statx(fd, stx, &facts->name);
	identify(fd, stx, &facts->identity);
	facts->of_session = is_served(stx);
	switch (facts->kind) {
	case FD_KIND_FILE:
		learn_file(fd, facts);
		break;
	case FD_KIND_UNIX_SOCKET:
		learn_unix_socket(fd, facts);
		break;
	case FD_KIND_OTHER_SOCKET:
		facts->name = other_socket_name(fd);
		break;
	case FD_KIND_CHARACTER_DEVICE:
		learn_device(stx, facts);
		break;
	default:
		break;
	}
}

void fd_facts_of(int fd, struct fd_facts *facts)
{
	struct statx stx;
	*facts = (struct fd_facts){
		.kind = FD_KIND_UNKNOWN,
		.seals = CHANNEL_NO_SEALS,
		.device = -1,
		.name = "an fd that is not open",
	};
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || !look(fd, &stx)) {
		return;
	}
	facts->access = flags & O_ACCMODE;
	facts->nonblocking = (flags & O_NONBLOCK) != 0;
	facts->path_only = (flags & O_PATH) != 0;
	if (facts->path_only) {
		facts->name = "an fd that only names a file (O_PATH)";
		identify(fd, &stx, &facts->identity);
	} else {
		learn_kind(fd, &stx, facts);
	}
}
