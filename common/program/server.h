#ifndef PROGRAM_SERVER_H
#define PROGRAM_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "program/services.h"

struct event_base;
struct program_options;
struct server;
struct vms_options;
struct worker_peer;

/**
 * The parent process: accepts connections and gives each to a session process. It never reads a
 * byte of a client or of the channel.
 */

#define SERVER_MAX_LISTENERS (SERVICES_MAX + 1)

struct server_listener {
	int fd; // listening, non-blocking
	// What those who connect there want: 1 + its place among the services of the options. 0:
	// Wayland, or what they have yet to say.
	uint32_t service;
};

struct server_config {
	const char *program;                   // name, for what it prints
	const struct program_options *options; // borrowed
	char *const *argv;                     // borrowed
	struct event_base *base;               // borrowed
	// Up to SERVER_MAX_LISTENERS. Their fds are taken; the array is not needed later.
	const struct server_listener *listeners;
	size_t n_listeners;
	bool is_host;
	size_t max_events;             // eventfds that a session may share with others of its link
	bool strict_sandbox;           // no session without one, or with less than all of it
	const struct vms_options *vms; // of sessions by their VM; NULL: they are of none. Copied
	bool keeps_contents;           // sessions get the files that earlier ones stored
	bool waits_for_finish;         // --oneshot is over with server_finish, not before
	void (*reload)(void *data);    // SIGHUP; NULL: it is as SIGTERM
	void (*prepare)(void *data);   // a session is about to begin; may be NULL
	// Tells a connection's peer why it is turned away. fd is borrowed. Must not block.
	void (*refuse)(int fd, uint32_t service, const char *text);
	// Whether a connection may have a session; fills in who it is from, where that is known. fd is
	// borrowed. False: the peer has been told, and the log. NULL: all may.
	bool (*admit)(void *data, int fd, struct worker_peer *peer);
	void *data;
};

// NULL on failure, which has been logged.
struct server *server_create(const struct server_config *config);
void server_destroy(struct server *server); // ends its sessions; NULL is fine

// Starts a session for a connection that came by another way than a listener, unless there are too
// many or the server is finishing. Takes fd.
void server_connected(struct server *server, int fd, const struct worker_peer *peer);

// Gives a copy of fd to each session that begins from now on, in place of the one before. Takes fd.
void server_attach(struct server *server, int fd);

// Of sessions that begin from now on; server_config.vms was not NULL. Copied.
void server_set_vms(struct server *server, const struct vms_options *vms);

// Tells everybody who wants to know that we are listening.
void server_announce(const struct server *server);
// Runs the loop until SIGTERM, SIGINT, a SIGHUP that is not for reload, or server_finish; the exit status.
int server_run(struct server *server);
// Accepts nobody any more; server_run returns status when the last session has ended, but in two
// seconds at the latest.
void server_finish(struct server *server, int status);

#endif
