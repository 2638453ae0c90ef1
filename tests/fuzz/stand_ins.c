#include "tests/fuzz/stand_ins.h"

#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fdpass/kind.h"
#include "tests/fuzz/fuzz.h"

#define PAGE        4096u
#define BUFFER_NAME "stands-for-a-dma-buf"
#define FENCE_MARK  SIGURG // F_SETSIG of an eventfd, which nobody else asks for

static uint64_t buffer_count;

int stand_in_buffer(uint64_t size)
{
	int fd = memfd_create(BUFFER_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size = (size + PAGE - 1) / PAGE * PAGE;
	fuzz_check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "a buffer can be made");
	return fd;
}

int stand_in_fence(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fuzz_check(fd >= 0 && fcntl(fd, F_SETSIG, FENCE_MARK) == 0, "a fence can be made");
	return fd;
}

void stand_in_count(uint64_t count)
{
	buffer_count = count;
}

/* ---- fds ---- */

enum fd_kind __real_fd_kind_of(int fd);
enum fd_kind __wrap_fd_kind_of(int fd);
void __real_fd_facts_of(int fd, struct fd_facts *facts);
void __wrap_fd_facts_of(int fd, struct fd_facts *facts);
bool __real_fd_info_number(int info, const char *name, int base, uint64_t *number);
bool __wrap_fd_info_number(int info, const char *name, int base, uint64_t *number);

static bool is_buffer(int fd)
{
	char path[64], name[128] = "";
	const char *wanted = "/memfd:" BUFFER_NAME;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, name, sizeof(name) - 1) > 0 &&
		strncmp(name, wanted, strlen(wanted)) == 0;
}

static bool is_fence(int fd)
{
	return fcntl(fd, F_GETSIG) == FENCE_MARK;
}

enum fd_kind __wrap_fd_kind_of(int fd)
{
	enum fd_kind kind = __real_fd_kind_of(fd);
	if (kind == FD_KIND_EVENTFD && is_fence(fd)) {
		return FD_KIND_SYNC_FILE;
	}
	return kind == FD_KIND_FILE && is_buffer(fd) ? FD_KIND_DMABUF : kind;
}

void __wrap_fd_facts_of(int fd, struct fd_facts *facts)
{
	__real_fd_facts_of(fd, facts);
	if (facts->kind == FD_KIND_EVENTFD && is_fence(fd)) {
		*facts = (struct fd_facts){.kind = FD_KIND_SYNC_FILE, .name = "a sync_file"};
	}
}

bool __wrap_fd_info_number(int info, const char *name, int base, uint64_t *number)
{
	if (buffer_count == 0 || strcmp(name, "count") != 0) {
		return __real_fd_info_number(info, name, base, number);
	}
	*number = buffer_count;
	return true;
}

/* ---- time ---- */

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __real_event_add(struct event *event, const struct timeval *timeout);
int __wrap_event_add(struct event *event, const struct timeval *timeout);

int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	(void)timeout;
	return __real_poll(fds, n, 0);
}

int __wrap_event_add(struct event *event, const struct timeval *timeout)
{
	static const struct timeval soon = {.tv_usec = 1};
	bool is_short = timeout != NULL && timeout->tv_sec == 0;
	return __real_event_add(event, is_short ? &soon : timeout);
}
