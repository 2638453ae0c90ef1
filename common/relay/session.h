#ifndef RELAY_SESSION_H
#define RELAY_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "fdpass/content.h"
#include "fdpass/fdref.h"
#include "relay/dmabuf.h"
#include "relay/stats.h"
#include "wire/schema.h"

struct budget;
struct channel_input;
struct denied_request;
struct event_base;
struct event_note;
struct page_buffers;
struct page_pinner;
struct record;
struct region;
struct resolver;
struct session;
struct virtgpu;

/**
 * One client's connection end to end, as seen from one side: a local UNIX socket (the client's in
 * the guest, the compositor's on the host) and the channel. What the local peer sends is exported;
 * what comes by the channel is imported.
 */

struct session_options {
	struct event_base *base;     // borrowed
	enum wire_direction exports; // what the local peer sends: WIRE_REQUEST in the guest
	int local_fd;                // taken
	int channel_fd;              // taken; HELLO has been written or read already
	// What comes by channel_fd, where it is not just the bytes; taken; NULL.
	struct channel_input *channel_input;
	// The host's: what was shared with the guest by WELCOME; taken. NULL: nothing.
	struct region *region;
	// NULL: Wayland. Else the name of a service, borrowed, of whose protocol nothing is known:
	// fds go by rules.
	const char *service;
	struct fdref_rules rules;
	// A service's: files are read on demand. A process is started for them, as none can be later in a
	// sandbox.
	bool serves_files;
	uint8_t link[16]; // of HELLO; zeros: it shares nothing with other sessions
	// dma-bufs may cross, of Wayland's sessions. In the guest: HELLO has offered it, and WELCOME decides.
	// On the host: HELLO has, WELCOME does, and resolver, which is borrowed, makes them. In the guest
	// it makes copies of the host's, or is NULL if there can be none.
	bool dmabufs;
	struct resolver *resolver;
	// On the host: finds the buffers of the guest's GPU, borrowed. NULL: WELCOME has not said HANDLE.
	struct resolver *handles;
	// With dma-bufs, their timelines may cross, too, by node: a DRM device, borrowed (fdpass/timeline.h).
	bool timelines;
	int node;
	struct dmabuf_device device; // of the guest; zeros on the host
	// Of the guest: names the buffers of its GPU if WELCOME says HANDLE, which HELLO has offered; borrowed.
	// NULL: it does not.
	struct virtgpu *virtgpu;
	// Pools may go by their pages (fdpass/pages.h), of Wayland's sessions. In the guest: HELLO has offered it,
	// and WELCOME decides. On the host: WELCOME has agreed. Borrowed; NULL: they do not.
	struct page_pinner *pinner;
	struct page_buffers *page_buffers;
	// Files that need not be sent (from the peer's HELLO), and those that we have. Borrowed; what
	// the session receives is added to contents and told by stored (fd borrowed).
	const struct content_hash *peer_contents;
	size_t n_peer_contents;
	struct content_store *contents; // not looked at on the host, which trusts no guest's hashes

	// The version to offer a global at, at most version; 0 hides it. NULL offers all that can cross.
	uint32_t (*offer_global)(void *data, const char *interface, uint32_t version);
	// Requests that go no further. Of two about the same one, the later counts. Borrowed.
	const struct denied_request *denied;
	size_t n_denied;
	const char *app_id_prefix; // for xdg_toplevel.set_app_id; NULL or borrowed
	const char *title_prefix;

	struct budget *budget;      // what the other side may make us keep and do; borrowed
	unsigned int ping_interval; // seconds between PINGs; 0: none
	unsigned int ping_timeout;  // seconds of silence that end the session; 0: any may last
	FILE *trace;                // NULL, or where messages are printed; borrowed
	struct record *record;      // of what crosses the channel; borrowed; NULL: none

	// The session is over: reason is NULL for an orderly end. Destroy it later, not from here.
	void (*ended)(void *data, const char *reason);
	void (*stored)(void *data, const struct content_hash *hash, int fd); // may be NULL
	// Of the eventfds that several sessions of a link pass; as in struct fdrefs. NULL: it is alone.
	bool (*ask)(void *data, const struct event_note *note, int fd);
	void *data;
};

// Makes ready what every session needs, so that none has to wait for it: for a process that does not
// have its session yet. Calling it is up to the caller.
void session_prepare(enum wire_direction exports);

// NULL with errno on failure; the fds are taken also then.
struct session *session_create(const struct session_options *options);
void session_destroy(struct session *session); // NULL is fine

// Ends the session from outside: the client gets reason as a wl_display.error, both peers are told,
// ended follows.
void session_stop(struct session *session, const char *reason);

// What ask brings; fd is taken, -1 for none. (event.h)
void session_answer(struct session *session, const struct event_note *note, int fd);
void session_forsake(struct session *session); // nobody answers any more

const struct stats *session_stats(const struct session *session);

#endif
