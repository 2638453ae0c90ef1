#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include <stddef.h>

/**
 * What a service manager and we tell each other: sd_notify(3) and sd_listen_fds(3), whose protocols
 * are a datagram and three environment variables. Each forgets its variables, so that no child
 * takes them for its own.
 */

// Says READY=1 to $NOTIFY_SOCKET, where there is one.
void notify_ready(void);

#define NOTIFY_NAME_MAX 255

struct notify_listener {
	int fd;
	char name[NOTIFY_NAME_MAX + 1]; // of $LISTEN_FDNAMES; empty if it has none
};

// The listening sockets that we were started with, CLOEXEC and non-blocking: ours from now on. Their
// number, 0 if there are none; -errno, logged, if what was passed are not 1 to max listening
// sockets, AF_UNIX or AF_VSOCK.
int notify_take_listeners(struct notify_listener *listeners, size_t max);
// The same for one: its fd, 0 if there is none; -errno, logged.
int notify_take_listener(void);

#endif
