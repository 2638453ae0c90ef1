#ifndef RELAY_WAYLAND_H
#define RELAY_WAYLAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <wayland-util.h>

#include "relay/clock.h"
#include "relay/dmabuf.h"
#include "relay/objects.h"
#include "wire/message.h"

struct channel;
struct event;
struct channel_frame;
struct denied_request;
struct fdrefs;
struct wayland_hook;
struct wire_socket;

/**
 * The Wayland engine of one session. Messages are forwarded as the bytes that came; only what makes
 * or ends objects, carries fds or has a hook is looked into.
 *
 * Export takes messages from the local socket and puts them on the channel, import takes them from
 * the channel and puts them on the local socket. Both run the same checks.
 */

// wl_display.error codes (wayland.xml).
enum wayland_error {
	WAYLAND_ERROR_INVALID_OBJECT = 0,
	WAYLAND_ERROR_INVALID_METHOD = 1,
	WAYLAND_ERROR_NO_MEMORY = 2,
	WAYLAND_ERROR_IMPLEMENTATION = 3,
};

struct wayland_options {
	enum wire_direction exports;
	struct wire_socket *local; // borrowed, as all here
	struct channel *channel;
	struct fdrefs *refs;
	struct relay_clock *clock;
	// See struct session_options; may be NULL.
	uint32_t (*offer_global)(void *policy_data, const char *interface, uint32_t version);
	void *policy_data;
	const struct denied_request *denied; // of requests that are imported
	size_t n_denied;
	const char *app_id_prefix, *title_prefix; // or NULL
	struct dmabuf_device device;
	FILE *trace; // or NULL
	// The session cannot go on. code is a wl_display.error one.
	void (*failed)(void *data, uint32_t code, const char *text);
	void *data;
};

// Messages in a row that are forwarded together: [start, end) is not forwarded yet.
struct wayland_run {
	uint8_t *start, *end;
};

struct wayland {
	struct wayland_options options;
	struct wayland_run *run; // of the export under way; else NULL
	struct objects objects;
	struct wl_array globals; // struct registry_global
	struct wl_list dmabufs;  // pool.link
	struct wl_array pending; // uint32_t: fdrefs of the run that is being collected
	uint32_t *imported;      // fdrefs that came and that no message has taken yet
	size_t n_imported;
	uint32_t export_credit; // bytes of messages that the other side takes now
	uint32_t unreported;    // bytes of messages written to the local peer since the last CREDIT
	uint32_t import_credit; // bytes of messages that may still come
	unsigned int n_popups;  // the host's: that are open
	struct wl_list told;    // the host's: told.link; see told.c
	struct event *told_timer;
	int host_clock;  // clockid_t of presentation times as the compositor gives them
	bool error_seen; // the compositor has sent wl_display.error
	uint32_t
		error_object; // what the client's error is about: wl_display, or the object at fault
	bool failed;
	bool waiting; // the first message that was not exported has to (WAYLAND_WAIT)
	bool retried; // it had to
	uint64_t messages[2], message_bytes[2]; // by enum wire_direction
};

// A message in a hook's hands.
struct wayland_call {
	struct wayland *wayland;
	enum wire_direction direction;
	struct object *object; // that it is sent to
	struct wire_message message;
	// Its fds by argument: fdrefs. An export hook may fill in those that it exports itself.
	uint32_t refs[WIRE_MAX_ARGS];
	size_t n_refs;
	struct wl_array *replacement; // of WAYLAND_REPLACE
};

// Where the hook of an export replaces or drops a message, it has taken the message's fds.
enum wayland_verdict {
	WAYLAND_FORWARD, // perhaps changed in place
	WAYLAND_REPLACE, // call->replacement instead
	WAYLAND_DROP,
	// On export, before anything was done for the message, which makes no objects: it stays where it is,
	// and everything behind it, until fdrefs_retry. Then its hook is called once more.
	WAYLAND_WAIT,
	WAYLAND_FAIL, // wayland_fail has been called
};

typedef enum wayland_verdict (*wayland_hook_func)(struct wayland_call *call);

// What is done with one message beside forwarding it. Either may be NULL.
struct wayland_hook {
	const char *interface;
	const char *message;
	wayland_hook_func on_export;
	wayland_hook_func on_import;
};

bool wayland_init(struct wayland *wayland, const struct wayland_options *options);
void wayland_finish(struct wayland *wayland);

// Exports what is whole of the local socket's bytes, as far as the channel takes it.
void wayland_export(struct wayland *wayland);
// The same when what a message has waited for may have come.
void wayland_retry(struct wayland *wayland);
// Imports a MESSAGES frame; the local socket is to be flushed then. NULL, or what is wrong with the
// frame itself.
const char *wayland_import(struct wayland *wayland, const struct channel_frame *frame);
// A CREDIT frame for messages.
const char *wayland_credit(struct wayland *wayland, uint32_t bytes);
// The local socket has taken bytes: tells the other side.
void wayland_report_credit(struct wayland *wayland);

/* For hooks. */

// Ends the session with a text that names the message and what is wrong.
enum wayland_verdict wayland_fail(struct wayland_call *call, uint32_t code, const char *wrong);
enum wayland_verdict wayland_fail_no_memory(struct wayland_call *call);
// The same with an error of the interface of the request's object, as a compositor would send it.
enum wayland_verdict wayland_fail_object(
	struct wayland_call *call, uint32_t code, const char *wrong);
// The same with an error of another object, which the request is about.
enum wayland_verdict wayland_fail_for(
	struct wayland_call *call, uint32_t object, uint32_t code, const char *wrong);
// The first of the fds that the message, which is exported, still has: borrowed, or the caller's. -1: it
// did not come, and wayland_fail has been called.
int wayland_peek_fd(struct wayland_call *call);
int wayland_take_fd(struct wayland_call *call);
// Sends the client an event that no compositor has sent, after all that it was sent before. Not
// while events are exported. False: the session cannot go on.
bool wayland_send_event(struct wayland *wayland, const struct wl_array *event);
// Gives the compositor a request that came earlier, after all that came since. False: as above.
bool wayland_send_request(struct wayland *wayland, const struct wl_array *request);
// Everything that was exported so far goes to the channel: what is pushed next comes after it.
void wayland_flush_exports(struct wayland *wayland);
// The object that was made by the message's new_id argument.
struct object *wayland_new_object(struct wayland_call *call, size_t arg);
// The state of the object named by an argument if it is of that interface, else NULL.
struct object_state *wayland_arg_state(
	struct wayland_call *call, size_t arg, const char *interface);

#endif
