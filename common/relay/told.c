#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/budget.h"
#include "base/log.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "wire/socket.h"

/*
 * What a compositor tells other programs of, as the host sees it: of windows its panels, of a selection who
 * has the keyboard, of a paste or a drop whose it is. It disconnects those whose sockets take no more. So only so much is told, and of what
 * comes faster only the last: each request here says how something is from now on, and waits until the next
 * one, or its turn, comes.
 */

#define SECOND 1000000000u
// Beside its length: the least room in a socket that a message takes, which is sent alone.
#define MESSAGE_COST 1024u
// Of the rate: that there is a new window cannot wait.
#define MESSAGES_PER_WINDOW 16000u

enum told_what {
	TOLD_TITLE,
	TOLD_APP_ID,
	TOLD_PARENT,
	TOLD_MAXIMIZED,
	TOLD_FULLSCREEN,
	TOLD_MINIMIZED,
	TOLD_COUNT,

	// Of other objects:
	TOLD_SELECTION = 0,
	TOLD_ACCEPT = 0,
	TOLD_ACTIONS,
};

struct told_request {
	const struct wire_op *op; // NULL: none waits
	struct wl_array bytes;
	uint64_t cost;
	struct charge *charge; // of bytes
};

/* Of a window, a wl_data_device or a wl_data_offer: what waits. */
struct told {
	struct object_state state;
	struct wayland *wayland;
	struct wl_list link; // wayland.told
	struct told_request requests[TOLD_COUNT];
};

static struct budget *budget_of(const struct wayland *wayland)
{
	return wayland->options.refs->budget;
}

static void forget(struct told_request *request)
{
	wl_array_release(&request->bytes);
	charge_unref(request->charge);
	*request = (struct told_request){.op = NULL};
}

static void destroy_told(struct object_state *state)
{
	struct told *told = (struct told *)state;
	for (size_t i = 0; i < TOLD_COUNT; i++) {
		forget(&told->requests[i]);
	}
	wl_list_remove(&told->link);
	free(told);
}

/* NULL on ENOMEM. */
static struct told *get_told(struct wayland_call *call)
{
	struct told *told = (struct told *)call->object->state;
	if (told == NULL) {
		told = calloc(1, sizeof(*told));
	}
	if (told != NULL && call->object->state == NULL) {
		told->state.destroy = destroy_told;
		told->wayland = call->wayland;
		wl_list_insert(call->wayland->told.prev, &told->link);
		call->object->state = &told->state;
	}
	return told;
}

/* ---- later ---- */

/* Whether it names only what is still there: else the compositor would end the session for it. */
static bool is_valid(const struct wayland *wayland, const struct told_request *request)
{
	struct wire_header header;
	struct wire_message message;
	if (!wire_header_decode(request->bytes.data, request->bytes.size, &header) ||
		wire_message_decode(&message, &header, request->bytes.data, request->op) != NULL) {
		return false;
	}
	for (size_t i = 0; i < request->op->n_args; i++) {
		const uint32_t id = message.args[i].value;
		if (request->op->args[i].type != WIRE_ARG_OBJECT || id == 0) {
			continue;
		}
		const struct object *object = objects_get(&wayland->objects, id);
		if (object == NULL || object->destroyed) {
			return false;
		}
	}
	return true;
}

static void wait_for(struct wayland *wayland, uint64_t nanoseconds)
{
	const struct timeval later = {
		.tv_sec = (time_t)(nanoseconds / SECOND),
		.tv_usec = (suseconds_t)(nanoseconds % SECOND / 1000 + 1),
	};
	if (wayland->told_timer != NULL && !event_pending(wayland->told_timer, EV_TIMEOUT, NULL)) {
		event_add(wayland->told_timer, &later);
	}
}

/* False: it waits on. */
static bool send_late(struct wayland *wayland, struct told_request *request)
{
	uint64_t wait = budget_tell(budget_of(wayland), request->cost);
	if (wait > 0) {
		wait_for(wayland, wait);
		return false;
	}
	if (is_valid(wayland, request)) {
		wayland_send_request(wayland, &request->bytes);
	}
	forget(request);
	return true;
}

/* Those that have waited for a long time come first in the next turn, too. */
static void handle_timer(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct wayland *wayland = data;
	struct told *told;
	bool room = true;
	wl_list_for_each (told, &wayland->told, link) {
		for (size_t i = 0; room && i < TOLD_COUNT; i++) {
			room = told->requests[i].op == NULL ||
				send_late(wayland, &told->requests[i]);
		}
	}
	wire_socket_flush(wayland->options.local);
}

void told_stop(struct wayland *wayland)
{
	if (wayland->told_timer != NULL) {
		event_free(wayland->told_timer);
		wayland->told_timer = NULL;
	}
}

/* ---- requests ---- */

static bool keep(struct wayland_call *call, struct told_request *request, const void *data,
	size_t size, uint64_t cost)
{
	request->charge = charge_create(budget_of(call->wayland), size);
	void *bytes = request->charge != NULL ? wl_array_add(&request->bytes, size) : NULL;
	if (bytes == NULL) {
		forget(request);
		return false;
	}
	memcpy(bytes, data, size);
	request->op = call->message.op;
	request->cost = cost;
	return true;
}

static bool make_timer(struct wayland *wayland)
{
	if (wayland->told_timer == NULL) {
		wayland->told_timer =
			evtimer_new(wayland->options.refs->base, handle_timer, wayland);
	}
	return wayland->told_timer != NULL;
}

/* What verdict would forward, or DROP where it waits. others hear so many bytes beside it. */
static enum wayland_verdict tell(struct wayland_call *call, enum told_what what,
	enum wayland_verdict verdict, uint64_t others)
{
	if (verdict != WAYLAND_FORWARD && verdict != WAYLAND_REPLACE) {
		return verdict;
	}
	if (call->object->state != NULL) {
		forget(&((struct told *)call->object->state)->requests[what]);
	}
	bool replaced = verdict == WAYLAND_REPLACE;
	const void *data = replaced ? call->replacement->data : call->message.data;
	size_t size = replaced ? call->replacement->size : call->message.header.size;
	uint64_t cost = MESSAGE_COST + size + others;
	uint64_t wait = budget_tell(budget_of(call->wayland), cost);
	if (wait == 0) {
		return verdict;
	}
	struct told *told = get_told(call);
	if (told == NULL || !make_timer(call->wayland) ||
		!keep(call, &told->requests[what], data, size, cost)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "no room for what has to wait");
	}
	wait_for(call->wayland, wait);
	return WAYLAND_DROP;
}

/* xdg_toplevel.set_title(title), and the like of other shells */
enum wayland_verdict told_import_title(struct wayland_call *call)
{
	return tell(call, TOLD_TITLE, labels_import_title(call), 0);
}

/* xdg_toplevel.set_app_id(app_id), and the like */
enum wayland_verdict told_import_app_id(struct wayland_call *call)
{
	return tell(call, TOLD_APP_ID, labels_import_app_id(call), 0);
}

/* xdg_toplevel.set_parent(parent) */
enum wayland_verdict told_import_parent(struct wayland_call *call)
{
	return tell(call, TOLD_PARENT, WAYLAND_FORWARD, 0);
}

/* xdg_toplevel.set_maximized(), unset_maximized */
enum wayland_verdict told_import_maximized(struct wayland_call *call)
{
	return tell(call, TOLD_MAXIMIZED, WAYLAND_FORWARD, 0);
}

/* xdg_toplevel.set_fullscreen(output), unset_fullscreen */
enum wayland_verdict told_import_fullscreen(struct wayland_call *call)
{
	return tell(call, TOLD_FULLSCREEN, WAYLAND_FORWARD, 0);
}

/* xdg_toplevel.set_minimized() */
enum wayland_verdict told_import_minimized(struct wayland_call *call)
{
	return tell(call, TOLD_MINIMIZED, WAYLAND_FORWARD, 0);
}

/* wl_data_device.set_selection(source, serial), and the like: who has the keyboard is told of its types. */
enum wayland_verdict told_import_selection(struct wayland_call *call)
{
	const struct wl_interface *interface = call->message.op->args[0].interface;
	const struct object_state *source = wayland_arg_state(call, 0, interface->name);
	return tell(call, TOLD_SELECTION, WAYLAND_FORWARD, offers_bytes(source));
}

/* wl_data_offer.accept(serial, mime_type): whose it is that is being dragged, is told. */
enum wayland_verdict told_import_accept(struct wayland_call *call)
{
	return tell(call, TOLD_ACCEPT, WAYLAND_FORWARD, 0);
}

/* wl_data_offer.set_actions(dnd_actions, preferred_action) */
enum wayland_verdict told_import_actions(struct wayland_call *call)
{
	return tell(call, TOLD_ACTIONS, WAYLAND_FORWARD, 0);
}

/* wl_data_offer.receive(mime_type, fd), and the like. Each one counts: who asks too often reads an end. */
enum wayland_verdict told_import_receive(struct wayland_call *call)
{
	if (budget_tell(budget_of(call->wayland), MESSAGE_COST + call->message.header.size) == 0) {
		return WAYLAND_FORWARD;
	}
	log_limited(LOG_WARN, "%s.receive: left out: pastes too often (--max-told)",
		call->object->interface->name);
	return WAYLAND_DROP;
}

/* xdg_surface.get_toplevel(id), and the like of other shells */
enum wayland_verdict told_import_window(struct wayland_call *call)
{
	struct budget *budget = budget_of(call->wayland);
	return budget_messages(budget, budget_burst(budget, MESSAGES_PER_WINDOW))
		? labels_import_window(call)
		: wayland_fail(
			  call, WAYLAND_ERROR_NO_MEMORY, "more windows than the session may open");
}
