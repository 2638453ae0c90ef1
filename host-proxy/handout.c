#include "host-proxy/handout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "host-proxy/policy_file.h"

// The text follows, without a NUL.
struct head {
	struct compositor_id without_contexts, with_dmabufs;
	uint64_t has_policy;
};

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

int handout_store(const struct handout *handout)
{
	struct head head = {
		.without_contexts = handout->without_contexts,
		.with_dmabufs = handout->with_dmabufs,
		.has_policy = handout->policy != NULL,
	};
	const size_t len = handout->policy != NULL ? strlen(handout->policy) : 0;
	const struct iovec iov[] = {
		{.iov_base = &head, .iov_len = sizeof(head)},
		{.iov_base = handout->policy, .iov_len = len},
	};
	int fd = memfd_create("fdferry-handout", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		return -errno;
	}
	ssize_t n = writev(fd, iov, 2);
	if (n == (ssize_t)(sizeof(head) + len) && fcntl(fd, F_ADD_SEALS, SEALS) == 0) {
		return fd;
	}
	int error = n < 0 ? -errno : -ENOSPC;
	close(fd);
	return error;
}

// The offset, which all who have the file share, stays.
static int read_at(int fd, void *data, size_t len, off_t offset)
{
	ssize_t n = pread(fd, data, len, offset);
	if (n < 0) {
		return -errno;
	}
	return (size_t)n == len ? 0 : -EBADMSG;
}

int handout_load(struct handout *handout, int fd)
{
	struct head head;
	struct stat st;
	int error = fstat(fd, &st) < 0 ? -errno : read_at(fd, &head, sizeof(head), 0);
	if (error < 0) {
		return error;
	}
	*handout = (struct handout){
		.without_contexts = head.without_contexts,
		.with_dmabufs = head.with_dmabufs,
	};
	if (head.has_policy == 0) {
		return 0;
	}
	size_t len = (size_t)st.st_size - sizeof(head);
	handout->policy = len <= POLICY_FILE_MAX ? malloc(len + 1) : NULL;
	if (handout->policy == NULL) {
		return -ENOMEM;
	}
	handout->policy[len] = '\0';
	error = read_at(fd, handout->policy, len, sizeof(head));
	if (error < 0) {
		free(handout->policy);
		handout->policy = NULL;
	}
	return error;
}
