#ifndef GUEST_PROXY_COMMAND_H
#define GUEST_PROXY_COMMAND_H

struct command;
struct event_base;

#define COMMAND_CANNOT_RUN 127 // as in a shell

/**
 * The program that is run as our client.
 */

// Starts argv[0] with WAYLAND_DISPLAY=display and without WAYLAND_SOCKET. exited is called with the
// status that a shell would give. NULL on failure, which has been logged.
struct command *command_create(struct event_base *base, char *const argv[], const char *display,
	void (*exited)(void *data, int status), void *data);
// Ends it (SIGTERM) if it runs still; NULL is fine.
void command_destroy(struct command *command);

#endif
