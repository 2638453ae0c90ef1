#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/budget.h"
#include "base/log.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "wire/socket.h"

/*
 * What a compositor tells other programs of, as the host sees it: of windows its panels, of a selection who
 * has the keyboard, of a paste or a drop whose it is. It disconnects those whose sockets take no more. So
 * only so much is told, and of what comes faster only the last: each request here says how something is from
 * now on, and waits in a queue, in which the next one takes its place. What is said again is not told again.
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
	TOLD_SELECTION,
	TOLD_ACCEPT,
	TOLD_ACTIONS,
	TOLD_COUNT,
};

// What nobody but the client changes: said again, it is no news.
static const bool stays[TOLD_COUNT] = {
	[TOLD_TITLE] = true,
	[TOLD_APP_ID] = true,
	[TOLD_ACCEPT] = true,
	[TOLD_ACTIONS] = true,
};

struct told_request {
	struct wl_list link;      // wayland.told, while it waits
	const struct wire_op *op; // NULL: none waits
	struct wl_array bytes;
	uint64_t cost;
	struct charge *charge; // of bytes
	uint64_t last;         // hash of what was said last, where it stays; 0: nothing was
};

/* Of a window, a wl_data_device or a wl_data_offer. */
struct told {
	struct object_state state;
	struct told_request requests[TOLD_COUNT];
};

static struct budget *budget_of(const struct wayland *wayland)
{
	return wayland->options.refs->budget;
}

static void empty(struct told_request *request)
{
	wl_array_release(&request->bytes);
	charge_unref(request->charge);
}

static void forget(struct told_request *request)
{
	if (request->op != NULL) {
		wl_list_remove(&request->link);
		empty(request);
		request->op = NULL;
	}
}

static void destroy_told(struct object_state *state)
{
	struct told *told = (struct told *)state;
	for (size_t i = 0; i < TOLD_COUNT; i++) {
		forget(&told->requests[i]);
	}
	free(told);
}

/* NULL on ENOMEM. */
static struct told *get_told(struct object *object)
{
	if (object->state == NULL) {
		struct told *told = calloc(1, sizeof(*told));
		if (told == NULL) {
			return NULL;
		}
		told->state.destroy = destroy_told;
		object->state = &told->state;
	}
	return (struct told *)object->state;
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
	uint64_t wait = budget_tell(budget_of(wayland), BUDGET_PANELS, request->cost);
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

static void handle_timer(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct wayland *wayland = data;
	struct told_request *request, *next;
	wl_list_for_each_safe (request, next, &wayland->told, link) {
		if (!send_late(wayland, request)) {
			break;
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

/* What is said, as it goes to the compositor. */
struct saying {
	const void *bytes;
	size_t size;
	uint64_t cost;
};

static bool append(struct wl_array *out, const void *bytes, size_t size)
{
	void *copy = wl_array_add(out, size);
	if (copy != NULL) {
		memcpy(copy, bytes, size);
	}
	return copy != NULL;
}

/* In place of the one that waits, or behind all that wait. */
static bool keep(
	struct wayland_call *call, struct told_request *request, const struct saying *saying)
{
	struct charge *charge = charge_create(budget_of(call->wayland), saying->size);
	struct wl_array bytes;
	wl_array_init(&bytes);
	if (charge == NULL || !append(&bytes, saying->bytes, saying->size)) {
		charge_unref(charge);
		return false;
	}
	if (request->op != NULL) {
		empty(request);
	} else {
		wl_list_insert(call->wayland->told.prev, &request->link);
	}
	request->op = call->message.op;
	request->bytes = bytes;
	request->cost = saying->cost;
	request->charge = charge;
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

/* Whether it is what was said last. */
static bool is_repeated(struct told_request *request, const struct saying *saying)
{
	uint64_t hash = XXH3_64bits(saying->bytes, saying->size);
	bool repeated = request->last == hash;
	request->last = hash;
	return repeated;
}

/* Whether it may be told now, without overtaking any. *wait: 0, or when the first of those that wait may be. */
static bool has_turn(struct wayland *wayland, uint64_t cost, uint64_t *wait)
{
	*wait = 0;
	if (wl_list_empty(&wayland->told)) {
		*wait = budget_tell(budget_of(wayland), BUDGET_PANELS, cost);
		return *wait == 0;
	}
	return false;
}

static enum wayland_verdict tell_later(
	struct wayland_call *call, enum told_what what, const struct saying *saying, uint64_t wait)
{
	struct told *told = get_told(call->object);
	if (told == NULL || !make_timer(call->wayland) ||
		!keep(call, &told->requests[what], saying)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "no room for what has to wait");
	}
	if (wait > 0) {
		wait_for(call->wayland, wait);
	}
	return WAYLAND_DROP;
}

/* What verdict would forward, or DROP where it waits. others hear so many bytes beside it. */
static enum wayland_verdict tell(struct wayland_call *call, enum told_what what,
	enum wayland_verdict verdict, uint64_t others)
{
	if (verdict != WAYLAND_FORWARD && verdict != WAYLAND_REPLACE) {
		return verdict;
	}
	bool replaced = verdict == WAYLAND_REPLACE;
	size_t size = replaced ? call->replacement->size : call->message.header.size;
	const struct saying saying = {
		.bytes = replaced ? call->replacement->data : call->message.data,
		.size = size,
		.cost = MESSAGE_COST + size + others,
	};
	if (stays[what]) {
		struct told *told = get_told(call->object);
		if (told == NULL) {
			return wayland_fail_no_memory(call);
		}
		if (is_repeated(&told->requests[what], &saying)) {
			return WAYLAND_DROP;
		}
	}
	uint64_t wait;
	return has_turn(call->wayland, saying.cost, &wait) ? verdict
							   : tell_later(call, what, &saying, wait);
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

/* wl_data_offer.finish(): a compositor that does not know of an action yet would end the session for it. */
enum wayland_verdict told_import_finish(struct wayland_call *call)
{
	struct told *told = (struct told *)call->object->state;
	struct wl_array *out = call->replacement;
	bool ok = true;
	for (size_t i = 0; told != NULL && i < TOLD_COUNT; i++) {
		struct told_request *request = &told->requests[i];
		if (request->op != NULL) {
			ok = append(out, request->bytes.data, request->bytes.size) && ok;
			forget(request);
		}
	}
	if (ok && out->size == 0) {
		return WAYLAND_FORWARD;
	}
	ok = ok && append(out, call->message.data, call->message.header.size);
	return ok ? WAYLAND_REPLACE : wayland_fail_no_memory(call);
}

/* wl_data_offer.receive(mime_type, fd), and the like. Each one counts: who asks too often reads an end. */
enum wayland_verdict told_import_receive(struct wayland_call *call)
{
	if (budget_tell(budget_of(call->wayland), BUDGET_SOURCES,
		    MESSAGE_COST + call->message.header.size) == 0) {
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
