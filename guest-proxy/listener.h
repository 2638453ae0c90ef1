#ifndef GUEST_PROXY_LISTENER_H
#define GUEST_PROXY_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/un.h>

/**
 * The socket of the display that we are. libwayland's rules (wl_display_add_socket): who holds the
 * lock on PATH.lock owns PATH, and may replace what a former owner left there.
 */

#define LISTENER_PATH_MAX sizeof(((struct sockaddr_un *)0)->sun_path)

struct listener {
	int fd;      // non-blocking
	int lock_fd; // -1: nothing of the file system is ours
	char path[LISTENER_PATH_MAX];
	char lock_path[LISTENER_PATH_MAX + 5];
	char display[LISTENER_PATH_MAX]; // for $WAYLAND_DISPLAY
};

void listener_init(struct listener *listener);
// Removes the socket and the lock.
void listener_finish(struct listener *listener);

// name: in $XDG_RUNTIME_DIR, or an absolute path; NULL is the first free wayland-N. False: error
// says why in one line.
bool listener_open(struct listener *listener, const char *name, char *error, size_t error_len);
// Takes a UNIX socket that listens already.
bool listener_adopt(struct listener *listener, int fd, char *error, size_t error_len);
// The socket is the caller's from now on; its files are still ours.
int listener_take_fd(struct listener *listener);

#endif
