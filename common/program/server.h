#ifndef PROGRAM_SERVER_H
#define PROGRAM_SERVER_H

#include <stdbool.h>

struct event_base;
struct program_options;
struct server;

/**
 * The parent process: accepts connections and gives each to a session process. It never reads a
 * byte of a client or of the channel.
 */

struct server_config {
	const char *program;                   // name, for what it prints
	const struct program_options *options; // borrowed
	char *const *argv;                     // borrowed
	struct event_base *base;               // borrowed
	int listen_fd;                         // taken
	bool keeps_contents;                   // sessions get the files that earlier ones stored
	bool waits_for_finish;                 // --oneshot is over with server_finish, not before
	// Tells a connection's peer why it is turned away. fd is borrowed. Must not block.
	void (*refuse)(int fd, const char *text);
};

// NULL on failure, which has been logged.
struct server *server_create(const struct server_config *config);
void server_destroy(struct server *server); // ends its sessions; NULL is fine

// Tells everybody who wants to know that we are listening.
void server_announce(const struct server *server);
// Runs the loop until SIGTERM, SIGINT or server_finish; the exit status.
int server_run(struct server *server);
// Accepts nobody any more; server_run returns status when the last session has ended, but in two
// seconds at the latest.
void server_finish(struct server *server, int status);

#endif
