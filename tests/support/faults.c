/*
 * Preloaded into a program, makes one of its calls fail. Which one is said by bytes that the
 * process receives: "fault NAME N", where NAME is one of those below, has the N-th call from then
 * on fail. A process does so once; whether it has is told on stderr.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT(name) next(#name)
#define MAX_BYTES  64 // that are searched for the trigger

enum fault { FAULT_NONE, FAULT_MEMORY, FAULT_FDS, FAULT_TABLE, FAULT_FLIGHT, FAULT_BUFFERS };

static const struct {
	const char *name;
	int error;
} faults[] = {
	[FAULT_MEMORY] = {"memory", ENOMEM},       // allocations, mappings, what epoll needs
	[FAULT_FDS] = {"fds", EMFILE},             // whatever makes a new fd
	[FAULT_TABLE] = {"table", ENFILE},         // the same
	[FAULT_FLIGHT] = {"flight", ETOOMANYREFS}, // sendmsg with fds
	[FAULT_BUFFERS] = {"buffers", ENOBUFS},    // sendmsg
};

static enum fault armed;
static unsigned int left;

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static bool is(enum fault fault, const char *call)
{
	char text[64];
	if (fault != armed || left == 0 || --left > 0) {
		return false;
	}
	int len = snprintf(text, sizeof(text), "fault: %s failed\n", call);
	if (write(STDERR_FILENO, text, (size_t)len) < 0) {
		_exit(1); // the test would take it for a call that was not made
	}
	errno = faults[fault].error;
	return true;
}

static bool is_fd_fault(const char *call)
{
	return is(FAULT_FDS, call) || is(FAULT_TABLE, call);
}

static void look_for_trigger(const char *bytes, size_t len)
{
	char text[MAX_BYTES + 1], name[16];
	const char *found = memmem(bytes, len, "fault ", 6);
	if (found == NULL || armed != FAULT_NONE) {
		return;
	}
	size_t rest = len - (size_t)(found - bytes);
	snprintf(text, sizeof(text), "%.*s", rest < MAX_BYTES ? (int)rest : MAX_BYTES, found);
	unsigned int number;
	if (sscanf(text, "fault %15s %u", name, &number) != 2) {
		return;
	}
	for (size_t i = 1; i < sizeof(faults) / sizeof(faults[0]); i++) {
		if (strcmp(faults[i].name, name) == 0) {
			armed = (enum fault)i;
			left = number;
		}
	}
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	ssize_t (*call)(int, struct msghdr *, int) = NEXT(recvmsg);
	ssize_t n = call(fd, message, flags);
	// A parent looks at what a session's connection still holds: those bytes are not for it.
	if (n > 0 && message->msg_iovlen > 0 && (flags & MSG_PEEK) == 0) {
		size_t len = message->msg_iov[0].iov_len;
		look_for_trigger(message->msg_iov[0].iov_base, (size_t)n < len ? (size_t)n : len);
	}
	return n;
}

ssize_t recv(int fd, void *bytes, size_t len, int flags)
{
	ssize_t (*call)(int, void *, size_t, int) = NEXT(recv);
	ssize_t n = call(fd, bytes, len, flags);
	if (n > 0) {
		look_for_trigger(bytes, (size_t)n);
	}
	return n;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	ssize_t (*call)(int, const struct msghdr *, int) = NEXT(sendmsg);
	bool fails = (message->msg_controllen > 0 && is(FAULT_FLIGHT, __func__)) ||
		is(FAULT_BUFFERS, __func__);
	return fails ? -1 : call(fd, message, flags);
}

/* ---- memory ---- */

void *malloc(size_t size)
{
	void *(*call)(size_t) = NEXT(malloc);
	return is(FAULT_MEMORY, __func__) ? NULL : call(size);
}

void *calloc(size_t n, size_t size)
{
	void *(*call)(size_t, size_t) = NEXT(calloc);
	return is(FAULT_MEMORY, __func__) ? NULL : call(n, size);
}

void *realloc(void *old, size_t size)
{
	void *(*call)(void *, size_t) = NEXT(realloc);
	return is(FAULT_MEMORY, __func__) ? NULL : call(old, size);
}

void *reallocarray(void *old, size_t n, size_t size)
{
	void *(*call)(void *, size_t, size_t) = NEXT(reallocarray);
	return is(FAULT_MEMORY, __func__) ? NULL : call(old, n, size);
}

void *mmap64(void *address, size_t len, int protection, int flags, int fd, off64_t offset)
{
	void *(*call)(void *, size_t, int, int, int, off64_t) = NEXT(mmap64);
	return is(FAULT_MEMORY, __func__) ? MAP_FAILED
					  : call(address, len, protection, flags, fd, offset);
}

int ftruncate64(int fd, off64_t len)
{
	int (*call)(int, off64_t) = NEXT(ftruncate64);
	return is(FAULT_MEMORY, __func__) ? -1 : call(fd, len);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	int (*call)(int, int, int, struct epoll_event *) = NEXT(epoll_ctl);
	return is(FAULT_MEMORY, __func__) ? -1 : call(epoll, operation, fd, event);
}

/* ---- fds ---- */

int socketpair(int domain, int type, int protocol, int pair[2])
{
	int (*call)(int, int, int, int[2]) = NEXT(socketpair);
	return is_fd_fault(__func__) ? -1 : call(domain, type, protocol, pair);
}

int pipe2(int ends[2], int flags)
{
	int (*call)(int[2], int) = NEXT(pipe2);
	return is_fd_fault(__func__) ? -1 : call(ends, flags);
}

int eventfd(unsigned int count, int flags)
{
	int (*call)(unsigned int, int) = NEXT(eventfd);
	return is_fd_fault(__func__) ? -1 : call(count, flags);
}

int memfd_create(const char *name, unsigned int flags)
{
	int (*call)(const char *, unsigned int) = NEXT(memfd_create);
	return is_fd_fault(__func__) ? -1 : call(name, flags);
}

int open64(const char *path, int flags, ...)
{
	int (*call)(const char *, int, ...) = NEXT(open64);
	return is_fd_fault(__func__) ? -1 : call(path, flags); // nothing is created
}

int fcntl64(int fd, int command, ...)
{
	int (*call)(int, int, ...) = NEXT(fcntl64);
	va_list arguments;
	va_start(arguments, command);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	bool makes = command == F_DUPFD_CLOEXEC;
	return makes && is_fd_fault(__func__) ? -1 : call(fd, command, argument);
}
