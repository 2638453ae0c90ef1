#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

/**
 * What a service manager and we tell each other: sd_notify(3) and sd_listen_fds(3), whose protocols
 * are a datagram and three environment variables. Each forgets its variables, so that no child
 * takes them for its own.
 */

// Says READY=1 to $NOTIFY_SOCKET, where there is one.
void notify_ready(void);

// The listening socket that we were started with, CLOEXEC and non-blocking: ours from now on. 0 if
// there is none; -errno, logged, if what was passed is not one listening socket.
int notify_take_listener(void);

#endif
