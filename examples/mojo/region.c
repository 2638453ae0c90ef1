#include "examples/mojo/region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "examples/mojo/pattern.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U // linux/memfd.h, Linux 6.3
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020 // linux/fcntl.h
#endif

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)

static int set_bytes(int fd, size_t size, uint64_t seed)
{
	if (ftruncate(fd, (off_t)size) < 0) {
		return -errno;
	}
	void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED) {
		return -errno;
	}
	pattern_fill(seed, bytes, size);
	munmap(bytes, size);
	return 0;
}

static int reopen_readonly(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int create_memfd(size_t size, uint64_t seed)
{
	int fd = memfd_create("mojo", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) { // an older kernel
		fd = memfd_create("mojo", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	}
	if (fd < 0) {
		return -errno;
	}
	int ret = set_bytes(fd, size, seed);
	if (ret == 0 && fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
		ret = -errno;
	}
	if (ret == 0) {
		char path[32];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ret = reopen_readonly(path);
	}
	close(fd);
	return ret;
}

static int create_shm(size_t size, uint64_t seed)
{
	char path[] = "/dev/shm/mojo.XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		return -errno;
	}
	int ret = set_bytes(fd, size, seed);
	if (ret == 0) {
		ret = reopen_readonly(path);
	}
	unlink(path);
	close(fd);
	return ret;
}

int region_create(enum region_flavour flavour, size_t size, uint64_t seed)
{
	return flavour == REGION_MEMFD ? create_memfd(size, seed) : create_shm(size, seed);
}

static const char *check_bytes(int fd, size_t size, uint64_t seed, uint64_t *hash)
{
	void *bytes = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED) {
		return "a region that cannot be mapped";
	}
	bool matches = pattern_matches(seed, bytes, size);
	*hash = pattern_hash(*hash, bytes, size);
	munmap(bytes, size);
	return matches ? NULL : "a region with other bytes";
}

const char *region_check(
	int fd, enum region_flavour flavour, size_t size, uint64_t seed, uint64_t *hash)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY) {
		return "a region that is not O_RDONLY";
	}
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t)size) {
		return "a region of another size";
	}
	if (flavour == REGION_MEMFD && (fcntl(fd, F_GET_SEALS) & ~F_SEAL_EXEC) != SEALS) {
		return "a region with other seals";
	}
	void *writable = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (writable != MAP_FAILED) {
		munmap(writable, size);
		return "a region that can be written to";
	}
	return check_bytes(fd, size, seed, hash);
}
