#include "guest-proxy/translation.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "protocol/channel.h"

struct known_global {
	uint32_t name, version;
	const struct wire_interface *interface;
};

struct made_object {
	uint32_t id;
	const struct wire_interface *interface;
};

struct known_serial {
	uint32_t serial;
	const struct wire_op *event;
};

struct known_configure {
	uint32_t surface, serial;
};

struct opened_fdref {
	uint32_t id; // 0: closed
	uint32_t kind;
};

enum counted {
	COUNTED_EVENT, // done, release or configure of an object
	COUNTED_DELETE,
	COUNTED_CLOSED, // of an fdref
};

struct counter {
	enum counted what;
	uint32_t id;
	uint32_t counts[TRANSLATION_RUNS];
};

struct serial_place {
	const char *interface, *message;
	size_t arg;
};

static const struct serial_place event_serials[] = {
	{"wl_pointer", "enter", 0},
	{"wl_pointer", "leave", 0},
	{"wl_pointer", "button", 0},
	{"wl_keyboard", "enter", 0},
	{"wl_keyboard", "leave", 0},
	{"wl_keyboard", "key", 0},
	{"wl_keyboard", "modifiers", 0},
	{"wl_touch", "down", 0},
	{"wl_touch", "up", 0},
	{"wl_data_device", "enter", 0},
};

static const struct serial_place request_serials[] = {
	{"wl_pointer", "set_cursor", 0},
	{"wl_data_offer", "accept", 0},
	{"wl_data_device", "start_drag", 3},
	{"wl_data_device", "set_selection", 1},
	{"zwp_primary_selection_device_v1", "set_selection", 1},
	{"wl_shell_surface", "move", 1},
	{"wl_shell_surface", "resize", 1},
	{"xdg_toplevel", "show_window_menu", 1},
	{"xdg_toplevel", "move", 1},
	{"xdg_toplevel", "resize", 1},
	{"xdg_popup", "grab", 1},
	{"wp_cursor_shape_device_v1", "set_shape", 0},
	{"xdg_activation_token_v1", "set_serial", 0},
};

bool translation_init(struct translation *translation, bool lenient)
{
	*translation = (struct translation){.lenient = lenient};
	bool ok = true;
	for (int run = 0; run < TRANSLATION_RUNS; run++) {
		ok = conversation_init(&translation->conversations[run]) && ok;
		wl_array_init(&translation->globals[run]);
		wl_array_init(&translation->made[run]);
		wl_array_init(&translation->serials[run]);
		wl_array_init(&translation->configures[run]);
		wl_array_init(&translation->opened[run]);
	}
	wl_array_init(&translation->counters);
	wl_array_init(&translation->answers);
	wl_array_init(&translation->messages);
	wl_array_init(&translation->fdrefs);
	if (!ok) {
		translation_finish(translation);
	}
	return ok;
}

void translation_finish(struct translation *translation)
{
	for (int run = 0; run < TRANSLATION_RUNS; run++) {
		conversation_finish(&translation->conversations[run]);
		wl_array_release(&translation->globals[run]);
		wl_array_release(&translation->made[run]);
		wl_array_release(&translation->serials[run]);
		wl_array_release(&translation->configures[run]);
		wl_array_release(&translation->opened[run]);
	}
	wl_array_release(&translation->counters);
	wl_array_release(&translation->answers);
	wl_array_release(&translation->messages);
	wl_array_release(&translation->fdrefs);
}

/* What does not fit into memory is not known: its requests are left out. */
static void keep(struct wl_array *array, const void *entry, size_t size)
{
	void *place = wl_array_add(array, size);
	if (place != NULL) {
		memcpy(place, entry, size);
	}
}

static void ignore_message(void *data, const struct conversation_message *message)
{
	(void)data;
	(void)message;
}

/* ---- what is waited for ---- */

static struct counter *counter_of(struct translation *translation, enum counted what, uint32_t id)
{
	struct counter *counter;
	wl_array_for_each (counter, &translation->counters) {
		if (counter->what == what && counter->id == id) {
			return counter;
		}
	}
	counter = wl_array_add(&translation->counters, sizeof(*counter));
	if (counter != NULL) {
		*counter = (struct counter){.what = what, .id = id};
	}
	return counter;
}

static void count(
	struct translation *translation, enum translation_run run, enum counted what, uint32_t id)
{
	struct counter *counter = counter_of(translation, what, id);
	if (counter != NULL) {
		counter->counts[run]++;
	}
}

/* The same about an object: nothing comes of one that was not made this time. */
static void count_object(
	struct translation *translation, enum translation_run run, enum counted what, uint32_t id)
{
	const struct objects *live = &translation->conversations[TRANSLATION_LIVE].objects;
	struct counter *counter = counter_of(translation, what, id);
	if (counter == NULL) {
		return;
	}
	counter->counts[run]++;
	if (counter->counts[TRANSLATION_LIVE] < counter->counts[TRANSLATION_RECORDED] &&
		objects_get(live, id) == NULL) {
		counter->counts[TRANSLATION_LIVE] = counter->counts[TRANSLATION_RECORDED];
	}
}

static bool is_missing(const struct counter *counter)
{
	return counter->counts[TRANSLATION_LIVE] < counter->counts[TRANSLATION_RECORDED];
}

bool translation_caught_up(const struct translation *translation)
{
	const struct counter *counter;
	wl_array_for_each (counter, &translation->counters) {
		if (is_missing(counter)) {
			return false;
		}
	}
	return translation->sync == 0;
}

static bool misses_only_delete_id(const struct translation *translation)
{
	bool any = false;
	const struct counter *counter;
	wl_array_for_each (counter, &translation->counters) {
		if (is_missing(counter) && counter->what != COUNTED_DELETE) {
			return false;
		}
		any = any || is_missing(counter);
	}
	return any;
}

/* wl_display.sync(callback) */
void translation_ask(struct translation *translation)
{
	struct conversation *live = &translation->conversations[TRANSLATION_LIVE];
	if (translation->sync != 0 || translation->lenient || !misses_only_delete_id(translation)) {
		return;
	}
	uint32_t id = 2;
	while (objects_get(&live->objects, id) != NULL) {
		id++;
	}
	uint32_t words[] = {1, 12u << 16, id};
	conversation_read(
		live, WIRE_REQUEST, (uint8_t *)words, sizeof(words), ignore_message, NULL);
	keep(&translation->answers, words, sizeof(words));
	translation->sync = id;
}

void translation_give_up(struct translation *translation)
{
	static const char *const names[] = {
		[COUNTED_EVENT] = "an event for object",
		[COUNTED_DELETE] = "delete_id of",
		[COUNTED_CLOSED] = "CLOSED of fdref",
	};
	struct counter *counter;
	wl_array_for_each (counter, &translation->counters) {
		if (is_missing(counter)) {
			log_info("does not wait for %s %u any more", names[counter->what],
				counter->id);
			counter->counts[TRANSLATION_LIVE] = counter->counts[TRANSLATION_RECORDED];
		}
	}
	translation->sync = 0;
}

/* ---- what comes to the guest ---- */

static const struct serial_place *find_place(
	const struct serial_place *places, size_t n, const struct conversation_message *message)
{
	for (size_t i = 0; i < n; i++) {
		if (conversation_is(message, places[i].interface, places[i].message)) {
			return &places[i];
		}
	}
	return NULL;
}

static void keep_global(struct wl_array *globals, const struct wire_arg *args)
{
	struct known_global *global;
	wl_array_for_each (global, globals) {
		if (global->name == args[0].value) {
			return; // of a second wl_registry
		}
	}
	const struct known_global new = {
		.name = args[0].value,
		.version = args[2].value,
		.interface = wire_schema_find(args[1].string),
	};
	keep(globals, &new, sizeof(new));
}

static void keep_made(struct wl_array *made, const struct conversation_message *message)
{
	const struct wire_op *op = message->message.op;
	for (size_t i = 0; i < op->n_args; i++) {
		const struct wl_interface *source = op->args[i].interface;
		if (op->args[i].type == WIRE_ARG_NEW_ID && source != NULL) {
			const struct made_object object = {
				.id = message->message.args[i].value,
				.interface = wire_schema_get(source),
			};
			keep(made, &object, sizeof(object));
		}
	}
}

/* xdg_wm_base.pong(serial) */
static void answer_ping(struct translation *translation, const struct wire_message *ping)
{
	const uint32_t words[] = {ping->header.object, 12u << 16 | 3, ping->args[0].value};
	keep(&translation->answers, words, sizeof(words));
}

struct hearing {
	struct translation *translation;
	enum translation_run run;
};

static void hear_object(struct hearing *hearing, const struct conversation_message *message)
{
	struct translation *translation = hearing->translation;
	const struct wire_message *event = &message->message;
	uint32_t object = event->header.object;
	if (conversation_is(message, "xdg_surface", "configure")) {
		const struct known_configure configure = {object, event->args[0].value};
		keep(&translation->configures[hearing->run], &configure, sizeof(configure));
		count_object(translation, hearing->run, COUNTED_EVENT, object);
	} else if (conversation_is(message, "wl_callback", "done") ||
		conversation_is(message, "wl_buffer", "release")) {
		count_object(translation, hearing->run, COUNTED_EVENT, object);
	} else if (conversation_is(message, "xdg_wm_base", "ping") &&
		hearing->run == TRANSLATION_LIVE) {
		answer_ping(translation, event);
	}
}

/* The answer to translation_ask is nobody else's. */
static bool hear_sync(struct hearing *hearing, const struct conversation_message *message)
{
	struct translation *translation = hearing->translation;
	uint32_t sync = translation->sync;
	if (hearing->run != TRANSLATION_LIVE || sync == 0) {
		return false;
	}
	bool deleted = conversation_is(message, "wl_display", "delete_id") &&
		message->message.args[0].value == sync;
	if (deleted) {
		translation->sync = 0;
	}
	return deleted || message->message.header.object == sync;
}

static void hear_event(void *data, const struct conversation_message *message)
{
	struct hearing *hearing = data;
	struct translation *translation = hearing->translation;
	const struct wire_arg *args = message->message.args;
	if (message->message.op == NULL || hear_sync(hearing, message)) {
		return;
	}
	keep_made(&translation->made[hearing->run], message);
	const struct serial_place *place = find_place(
		event_serials, sizeof(event_serials) / sizeof(event_serials[0]), message);
	if (place != NULL) {
		const struct known_serial serial = {args[place->arg].value, message->message.op};
		keep(&translation->serials[hearing->run], &serial, sizeof(serial));
	}
	if (conversation_is(message, "wl_registry", "global")) {
		keep_global(&translation->globals[hearing->run], args);
	} else if (conversation_is(message, "wl_display", "delete_id")) {
		count_object(translation, hearing->run, COUNTED_DELETE, args[0].value);
	} else if (conversation_is(message, "wl_display", "error") &&
		hearing->run == TRANSLATION_LIVE) {
		snprintf(translation->error, sizeof(translation->error), "object %u: %s",
			args[0].value, args[2].string);
	} else {
		hear_object(hearing, message);
	}
}

static void forget_fdref(struct wl_array *opened, uint32_t id)
{
	struct opened_fdref *fdref;
	wl_array_for_each (fdref, opened) {
		if (fdref->id == id) {
			fdref->id = 0;
		}
	}
}

void translation_hear(struct translation *translation, enum translation_run run,
	const struct channel_header *header, uint8_t *payload)
{
	struct hearing hearing = {translation, run};
	size_t n_ids, len;
	uint8_t *messages;
	const struct opened_fdref fdref = {header->id, header->arg};
	switch (header->type) {
	case CHANNEL_MESSAGES:
		if (conversation_split(header, payload, &n_ids, &messages, &len)) {
			conversation_read(&translation->conversations[run], WIRE_EVENT, messages,
				len, hear_event, &hearing);
		}
		break;
	case CHANNEL_OPEN:
		keep(&translation->opened[run], &fdref, sizeof(fdref));
		break;
	case CHANNEL_CLOSE:
		forget_fdref(&translation->opened[run], header->id);
		break;
	case CHANNEL_CLOSED:
		count(translation, run, COUNTED_CLOSED, header->id);
		break;
	default:
		break;
	}
}

/* ---- what goes to the host ---- */

static const struct known_global *find_global(const struct wl_array *globals, uint32_t name)
{
	const struct known_global *global;
	wl_array_for_each (global, globals) {
		if (global->name == name) {
			return global;
		}
	}
	return NULL;
}

/* How many of its interface came before it. */
static size_t rank_of_global(const struct wl_array *globals, const struct known_global *of)
{
	size_t rank = 0;
	const struct known_global *global;
	wl_array_for_each (global, globals) {
		if (global == of) {
			break;
		}
		rank += global->interface == of->interface;
	}
	return rank;
}

static const struct known_global *translate_global(
	const struct translation *translation, uint32_t name)
{
	const struct wl_array *globals = translation->globals;
	const struct known_global *recorded = find_global(&globals[TRANSLATION_RECORDED], name);
	if (recorded == NULL) {
		return NULL;
	}
	size_t rank = rank_of_global(&globals[TRANSLATION_RECORDED], recorded);
	const struct known_global *global;
	wl_array_for_each (global, &globals[TRANSLATION_LIVE]) {
		if (global->interface == recorded->interface && rank-- == 0) {
			return global;
		}
	}
	return NULL;
}

/* The last of the recorded objects by that id, and the live one of its interface and rank; or 0. */
static uint32_t translate_made(const struct translation *translation, uint32_t id)
{
	const struct made_object *recorded = translation->made[TRANSLATION_RECORDED].data;
	size_t n = translation->made[TRANSLATION_RECORDED].size / sizeof(*recorded);
	while (n > 0 && recorded[n - 1].id != id) {
		n--;
	}
	if (n == 0) {
		return 0;
	}
	size_t rank = 0;
	for (size_t i = 0; i + 1 < n; i++) {
		rank += recorded[i].interface == recorded[n - 1].interface;
	}
	const struct made_object *live;
	wl_array_for_each (live, &translation->made[TRANSLATION_LIVE]) {
		if (live->interface == recorded[n - 1].interface && rank-- == 0) {
			return live->id;
		}
	}
	return 0;
}

static bool translate_made_word(const struct translation *translation, uint32_t *word)
{
	uint32_t id = *word < WIRE_SERVER_ID_MIN ? *word : translate_made(translation, *word);
	bool known = id != 0 || *word == 0;
	*word = known ? id : *word;
	return known;
}

static bool translate_objects(
	const struct translation *translation, const struct conversation_message *message)
{
	const struct wire_message *request = &message->message;
	bool known = translate_made_word(translation, (uint32_t *)(void *)request->data);
	for (size_t i = 0; i < request->op->n_args; i++) {
		if (request->op->args[i].type == WIRE_ARG_OBJECT) {
			known = translate_made_word(translation, request->args[i].word) && known;
		}
	}
	return known;
}

static void translate_serial(
	const struct translation *translation, const struct conversation_message *message)
{
	const struct serial_place *place = find_place(
		request_serials, sizeof(request_serials) / sizeof(request_serials[0]), message);
	if (place == NULL) {
		return;
	}
	uint32_t *word = message->message.args[place->arg].word;
	const struct wire_op *event = NULL;
	const struct known_serial *serial;
	wl_array_for_each (serial, &translation->serials[TRANSLATION_RECORDED]) {
		event = serial->serial == *word ? serial->event : event;
	}
	wl_array_for_each (serial, &translation->serials[TRANSLATION_LIVE]) {
		*word = serial->event == event ? serial->serial : *word;
	}
}

/* The oldest configure of the surface; false: there is none. */
static bool take_configure(struct wl_array *configures, uint32_t surface, uint32_t *serial)
{
	struct known_configure *all = configures->data;
	size_t n = configures->size / sizeof(*all);
	for (size_t i = 0; i < n; i++) {
		if (all[i].surface == surface) {
			*serial = all[i].serial;
			memmove(&all[i], &all[i + 1], (n - i - 1) * sizeof(*all));
			configures->size -= sizeof(*all);
			return true;
		}
	}
	return false;
}

static bool translate_configure(
	struct translation *translation, const struct conversation_message *message)
{
	uint32_t surface = message->message.header.object;
	uint32_t *word = message->message.args[0].word;
	uint32_t wanted = *word, recorded = ~wanted;
	bool any = false;
	while (recorded != wanted &&
		take_configure(
			&translation->configures[TRANSLATION_RECORDED], surface, &recorded)) {
		any = take_configure(&translation->configures[TRANSLATION_LIVE], surface, word) ||
			any;
	}
	return any;
}

/* False: the request cannot be made. */
static bool translate_request(
	struct translation *translation, const struct conversation_message *message)
{
	if (!translate_objects(translation, message)) {
		return translation->lenient;
	}
	if (conversation_is(message, "xdg_surface", "ack_configure")) {
		return translate_configure(translation, message) || translation->lenient;
	}
	if (conversation_is(message, "wl_registry", "bind")) {
		const struct wire_arg *args = message->message.args;
		const struct known_global *global = translate_global(translation, args[0].value);
		*args[0].word = global != NULL ? global->name : args[0].value;
	}
	translate_serial(translation, message);
	return !conversation_is(message, "xdg_wm_base", "pong");
}

struct speech {
	struct translation *translation;
	const uint8_t *ids;
	size_t n_ids;
};

static void speak(void *data, const struct conversation_message *message)
{
	struct speech *speech = data;
	struct translation *translation = speech->translation;
	bool known = message->message.op != NULL;
	bool said = !known || translate_request(translation, message);
	size_t n = message->n_fds < speech->n_ids ? message->n_fds : speech->n_ids;
	if (said) {
		keep(&translation->messages, message->message.data, message->message.header.size);
		keep(&translation->fdrefs, speech->ids, n * sizeof(uint32_t));
	} else if (!conversation_is(message, "xdg_wm_base", "pong")) {
		translation->left_out++;
	}
	speech->ids += n * sizeof(uint32_t);
	speech->n_ids -= n;
}

/* A global that is bound, and that is not there as it must be. */
static void look_for_global(void *data, const struct conversation_message *message)
{
	struct translation *translation = data;
	const struct wire_arg *args = message->message.args;
	if (!conversation_is(message, "wl_registry", "bind")) {
		return;
	}
	const struct known_global *global = translate_global(translation, args[0].value);
	if (global == NULL) {
		snprintf(translation->missing, sizeof(translation->missing),
			"the compositor has no %.100s", args[1].string);
	} else if (global->version < args[1].version) {
		snprintf(translation->missing, sizeof(translation->missing),
			"the compositor has %.100s in version %u, and the client used %u",
			args[1].string, global->version, args[1].version);
	}
}

enum translation_verdict translation_messages(
	struct translation *translation, const struct channel_header *header, uint8_t *payload)
{
	struct speech speech = {.translation = translation, .ids = payload};
	uint8_t *messages;
	size_t len;
	if (!conversation_split(header, payload, &speech.n_ids, &messages, &len)) {
		return TRANSLATION_SKIP;
	}
	struct conversation *conversations = translation->conversations;
	translation->missing[0] = '\0';
	conversation_look(&conversations[TRANSLATION_RECORDED], WIRE_REQUEST, messages, len,
		look_for_global, translation);
	if (translation->missing[0] != '\0' && !translation->lenient) {
		return TRANSLATION_WAIT;
	}
	translation->messages.size = translation->fdrefs.size = 0;
	size_t done = conversation_read(
		&conversations[TRANSLATION_RECORDED], WIRE_REQUEST, messages, len, speak, &speech);
	// What is no message, and ids that no known message takes, is only in mutated recordings.
	keep(&translation->messages, messages + done, len - done);
	keep(&translation->fdrefs, speech.ids, speech.n_ids * sizeof(uint32_t));
	conversation_read(&conversations[TRANSLATION_LIVE], WIRE_REQUEST,
		translation->messages.data, translation->messages.size, ignore_message, NULL);
	bool any = translation->messages.size > 0 || translation->fdrefs.size > 0;
	return any ? TRANSLATION_SEND : TRANSLATION_SKIP;
}

enum translation_verdict translation_fdref(
	const struct translation *translation, struct channel_header *header)
{
	if ((header->id & CHANNEL_ID_HOST) == 0) {
		return TRANSLATION_SEND;
	}
	const struct opened_fdref *fdref, *recorded = NULL;
	wl_array_for_each (fdref, &translation->opened[TRANSLATION_RECORDED]) {
		recorded = fdref->id == header->id ? fdref : recorded;
	}
	if (recorded == NULL) {
		return TRANSLATION_SKIP;
	}
	size_t rank = 0;
	wl_array_for_each (fdref, &translation->opened[TRANSLATION_RECORDED]) {
		rank += fdref < recorded && fdref->kind == recorded->kind;
	}
	wl_array_for_each (fdref, &translation->opened[TRANSLATION_LIVE]) {
		if (fdref->kind == recorded->kind && rank-- == 0) {
			header->id = fdref->id;
			return fdref->id != 0 ? TRANSLATION_SEND : TRANSLATION_SKIP;
		}
	}
	return TRANSLATION_SKIP;
}
