#include "fdpass/kind.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "protocol/channel.h"

#ifndef DMA_BUF_MAGIC
#define DMA_BUF_MAGIC 0x444d4142 // linux/magic.h since 5.15
#endif

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

static enum fd_kind socket_kind(int fd)
{
	int domain;
	socklen_t len = sizeof(domain);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX) {
		return FD_KIND_UNIX_SOCKET;
	}
	return FD_KIND_OTHER_SOCKET;
}

/* Anonymous inodes have no type bits: the file system or the link tells them apart. */
static enum fd_kind anonymous_kind(int fd)
{
	struct statfs fs;
	if (fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == DMA_BUF_MAGIC) {
		return FD_KIND_DMABUF;
	}
	char path[32], link[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, link, sizeof(link) - 1);
	link[n > 0 ? n : 0] = '\0';
	if (strcmp(link, "anon_inode:[eventfd]") == 0) {
		return FD_KIND_EVENTFD;
	}
	if (strcmp(link, "anon_inode:sync_file") == 0) {
		return FD_KIND_SYNC_FILE;
	}
	return FD_KIND_UNKNOWN;
}

enum fd_kind fd_kind_of(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & O_PATH) || fstat(fd, &st) < 0) {
		return FD_KIND_UNKNOWN;
	}
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return FD_KIND_FILE;
	case S_IFIFO:
		return FD_KIND_PIPE;
	case S_IFSOCK:
		return socket_kind(fd);
	case S_IFCHR:
		return FD_KIND_CHARACTER_DEVICE;
	case S_IFBLK:
		return FD_KIND_BLOCK_DEVICE;
	case S_IFDIR:
		return FD_KIND_DIRECTORY;
	case 0:
		return anonymous_kind(fd);
	default:
		return FD_KIND_UNKNOWN;
	}
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
