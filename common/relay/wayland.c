#include "relay/wayland.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/flight.h"
#include "base/log.h"
#include "channel/channel.h"
#include "fdpass/fdref.h"
#include "fdpass/file.h"
#include "fdpass/kind.h"
#include "fdpass/stream.h"
#include "relay/hooks.h"
#include "wire/socket.h"
#include "wire/trace.h"

// Messages wait in the local socket while so much is queued on the channel.
#define CHANNEL_FULL (1024u * 1024)
// No message is exported unless the largest one fits into the credit.
#define CREDIT_MIN  (2 * CHANNEL_MAX_MESSAGES)
#define CREDIT_STEP (CHANNEL_MESSAGE_WINDOW / 4)
// Bytes and fdrefs of one run of messages.
#define RUN_BYTES    (CHANNEL_MAX_MESSAGES - 1)
#define MAX_IMPORTED 1024

bool wayland_init(struct wayland *wayland, const struct wayland_options *options)
{
	*wayland = (struct wayland){
		.options = *options,
		.export_credit = CHANNEL_MESSAGE_WINDOW,
		.import_credit = CHANNEL_MESSAGE_WINDOW,
		.host_clock = CLOCK_MONOTONIC,
		.error_object = WIRE_DISPLAY_ID,
	};
	hooks_init();
	wl_array_init(&wayland->globals);
	wl_array_init(&wayland->pending);
	wl_list_init(&wayland->dmabufs);
	wl_list_init(&wayland->told);
	wayland->imported = calloc(MAX_IMPORTED, sizeof(*wayland->imported));
	if (wayland->imported == NULL || !objects_init(&wayland->objects, options->refs->budget)) {
		wayland_finish(wayland);
		return false;
	}
	wayland->objects.reuses = options->refs->page_buffers != NULL; // pools that grow (shm.c)
	return true;
}

void wayland_finish(struct wayland *wayland)
{
	told_stop(wayland);
	objects_finish(&wayland->objects);
	if (wayland->n_imported > 0) {
		budget_release(wayland->options.refs->budget, BUDGET_PENDING, wayland->n_imported);
		wayland->n_imported = 0;
	}
	wl_array_release(&wayland->globals);
	wl_array_init(&wayland->globals);
	wl_array_release(&wayland->pending);
	wl_array_init(&wayland->pending);
	free(wayland->imported);
	wayland->imported = NULL;
}

static enum wire_direction imports(const struct wayland *wayland)
{
	return wayland->options.exports == WIRE_REQUEST ? WIRE_EVENT : WIRE_REQUEST;
}

static void fail(struct wayland *wayland, uint32_t code, const char *text)
{
	if (!wayland->failed) {
		wayland->failed = true;
		wayland->options.failed(wayland->options.data, code, text);
	}
}

static const char *interface_name(const struct object *object)
{
	return object->interface != NULL ? object->interface->name : "unknown interface";
}

enum wayland_verdict wayland_fail(struct wayland_call *call, uint32_t code, const char *wrong)
{
	char text[512];
	snprintf(text, sizeof(text), "%s#%u.%s: %s", interface_name(call->object),
		call->message.header.object, call->message.op->name, wrong);
	fail(call->wayland, code, text);
	return WAYLAND_FAIL;
}

enum wayland_verdict wayland_fail_no_memory(struct wayland_call *call)
{
	return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
}

/* The guest tells its client by itself; on the host, END could not name the object. */
enum wayland_verdict wayland_fail_for(
	struct wayland_call *call, uint32_t object, uint32_t code, const char *wrong)
{
	struct wayland *wayland = call->wayland;
	if (wayland->options.exports == WIRE_EVENT && !wayland->error_seen) {
		struct wl_array error;
		wl_array_init(&error);
		wayland->error_seen = wire_encode_error(&error, object, code, wrong) &&
			wayland_send_event(wayland, &error);
		wl_array_release(&error);
	}
	wayland->error_object = object;
	return wayland_fail(call, code, wrong);
}

enum wayland_verdict wayland_fail_object(
	struct wayland_call *call, uint32_t code, const char *wrong)
{
	return wayland_fail_for(call, call->message.header.object, code, wrong);
}

int wayland_peek_fd(struct wayland_call *call)
{
	const struct fdlist *fds = wire_socket_fds(call->wayland->options.local);
	if (fds->count == 0) {
		wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"the fd of the message did not come with it");
		return -1;
	}
	return fdlist_peek(fds)[0];
}

int wayland_take_fd(struct wayland_call *call)
{
	int fd = wayland_peek_fd(call);
	return fd < 0 ? fd : fdlist_take(wire_socket_fds(call->wayland->options.local));
}

struct object *wayland_new_object(struct wayland_call *call, size_t arg)
{
	return objects_get(&call->wayland->objects, call->message.args[arg].value);
}

struct object_state *wayland_arg_state(struct wayland_call *call, size_t arg, const char *interface)
{
	struct object *object = objects_get(&call->wayland->objects, call->message.args[arg].value);
	bool match = object != NULL && object->interface != NULL &&
		strcmp(object->interface->name, interface) == 0;
	return match ? object->state : NULL;
}

/* ---- one message, either way ---- */

/* Finds what the message is, or fails. */
static bool identify(struct wayland *wayland, enum wire_direction direction,
	const struct wire_header *header, struct wayland_call *call)
{
	char text[160];
	struct object *object = objects_get(&wayland->objects, header->object);
	if (object == NULL || (direction == WIRE_REQUEST && object->destroyed)) {
		snprintf(text, sizeof(text), "invalid object %u", header->object);
		fail(wayland, WAYLAND_ERROR_INVALID_OBJECT, text);
		return false;
	}
	if (object->interface == NULL) {
		snprintf(text, sizeof(text), "message for object %u of an unknown interface",
			header->object);
		fail(wayland, WAYLAND_ERROR_IMPLEMENTATION, text);
		return false;
	}
	const struct wire_ops *ops = &object->interface->ops[direction];
	if (header->opcode >= ops->count) {
		snprintf(text, sizeof(text), "invalid method %u, object %s#%u", header->opcode,
			object->interface->name, header->object);
		fail(wayland, WAYLAND_ERROR_INVALID_METHOD, text);
		return false;
	}
	call->wayland = wayland;
	call->direction = direction;
	call->object = object;
	call->message.op = &ops->ops[header->opcode];
	call->n_refs = 0;
	return true;
}

/* Nothing to do but to see that the size is right. */
static bool is_plain(const struct wire_op *op, wayland_hook_func hook)
{
	return op->fixed_size != 0 && !op->makes_object && op->n_fds == 0 && hook == NULL &&
		!op->is_destructor;
}

static const char *make_objects(struct wayland_call *call)
{
	const struct wire_op *op = call->message.op;
	const uint32_t inherited = call->object->version; // an insertion may move the object
	for (size_t i = 0; i < op->n_args; i++) {
		const struct wire_arg *arg = &call->message.args[i];
		const struct wire_interface *interface;
		uint32_t version = inherited;
		if (op->args[i].type == WIRE_ARG_NEW_ID) {
			const struct wl_interface *source = op->args[i].interface;
			interface = source != NULL ? wire_schema_get(source) : NULL;
		} else if (op->args[i].type == WIRE_ARG_ANY_NEW_ID) {
			interface = wire_schema_find(arg->string);
			version = arg->version;
		} else {
			continue;
		}
		bool by_server = arg->value >= WIRE_SERVER_ID_MIN;
		if (by_server != (call->direction == WIRE_EVENT)) {
			return "a new id from the other side's range";
		}
		const char *wrong =
			objects_insert(&call->wayland->objects, arg->value, interface, version);
		if (wrong != NULL) {
			return wrong;
		}
	}
	// The table may have moved.
	call->object = objects_get(&call->wayland->objects, call->message.header.object);
	return NULL;
}

/* What has to wait comes again, and makes its objects then. */
static void unmake_objects(struct wayland_call *call)
{
	const struct wire_op *op = call->message.op;
	for (size_t i = 0; op->makes_object && i < op->n_args; i++) {
		enum wire_arg_type type = op->args[i].type;
		if (type == WIRE_ARG_NEW_ID || type == WIRE_ARG_ANY_NEW_ID) {
			objects_remove(&call->wayland->objects, call->message.args[i].value);
		}
	}
}

static void trace(struct wayland_call *call, const char *const *fd_names)
{
	wire_trace(call->wayland->options.trace, call->direction, call->object->interface->name,
		&call->message, fd_names);
}

static wayland_hook_func hook_of(const struct wire_op *op, bool exporting)
{
	const struct wayland_hook *hook = op->hook;
	if (hook == NULL) {
		return NULL;
	}
	return exporting ? hook->on_export : hook->on_import;
}

static wayland_hook_func import_hook(const struct wayland *wayland, const struct wire_op *op)
{
	wayland_hook_func denied = denied_find(wayland, op);
	return denied != NULL ? denied : hook_of(op, false);
}

static bool decode(struct wayland_call *call, const struct wire_header *header, uint8_t *data)
{
	const char *wrong = wire_message_decode(&call->message, header, data, call->message.op);
	if (wrong != NULL) {
		wayland_fail(call, WAYLAND_ERROR_INVALID_METHOD, wrong);
	}
	return wrong == NULL;
}

static bool register_objects(struct wayland_call *call)
{
	const char *wrong = call->message.op->makes_object ? make_objects(call) : NULL;
	if (wrong != NULL) {
		wayland_fail(call, WAYLAND_ERROR_INVALID_OBJECT, wrong);
	}
	return wrong == NULL;
}

/* What is dropped is not counted, nor what has to wait. */
static enum wayland_verdict run_hook(struct wayland_call *call, wayland_hook_func hook)
{
	enum wayland_verdict verdict = hook != NULL ? hook(call) : WAYLAND_FORWARD;
	call->wayland->messages[call->direction] +=
		verdict != WAYLAND_DROP && verdict != WAYLAND_WAIT;
	return verdict;
}

/* The destroy request and the like: what the hooks keep goes once the message is forwarded. */
static void end_object(struct wayland_call *call)
{
	if (call->direction == WIRE_REQUEST && call->message.op->is_destructor) {
		struct object *object =
			objects_get(&call->wayland->objects, call->message.header.object);
		if (object != NULL && object->state != NULL && call->wayland->run != NULL) {
			// A CLOSE of what the state held comes after the message that made use of it.
			wayland_flush_exports(call->wayland);
		}
		if (object != NULL) {
			objects_mark_destroyed(object);
		}
	}
}

/* ---- export ---- */

static void trace_export(struct wayland_call *call)
{
	const char *names[WIRE_MAX_ARGS];
	char texts[WIRE_MAX_ARGS][FD_DESCRIPTION_MAX];
	const struct fdlist *fds = wire_socket_fds(call->wayland->options.local);
	for (size_t i = 0; i < call->message.op->n_fds; i++) {
		names[i] = i < fds->count ? fd_describe(fdlist_peek(fds)[i], texts[i])
					  : "that did not come";
	}
	trace(call, names);
}

static uint32_t export_fd(struct wayland_call *call, int fd, const char **wrong)
{
	struct fdrefs *refs = call->wayland->options.refs;
	const struct wire_op *op = call->message.op;
	enum fd_kind kind = fd_kind_of(fd);
	if (op->fd_kind_known && op->fd_kind == PROTOCOL_FD_FILE) {
		return file_export(refs, fd, wrong);
	}
	if (op->fd_kind_known && op->fd_kind == PROTOCOL_FD_STREAM) {
		return stream_export(refs, fd, true, wrong);
	}
	if (!op->fd_kind_known && kind == FD_KIND_PIPE) {
		return stream_export(refs, fd, true, wrong);
	}
	if (!op->fd_kind_known && kind == FD_KIND_FILE) {
		return file_export(refs, fd, wrong);
	}
	*wrong = fd_kind_name(kind);
	close(fd);
	return 0;
}

/*
 * An fd that a compositor has from another of its clients, which may be of another VM: its session must not
 * be what ends this one, nor take all that it may have. Who has sent it sees that nobody has it.
 */
static bool is_passed_on(const struct wayland_call *call)
{
	const struct wire_op *op = call->message.op;
	return call->wayland->options.exports == WIRE_EVENT && op->n_fds == 1 &&
		op->fd_kind_known && op->fd_kind == PROTOCOL_FD_STREAM && !op->makes_object;
}

static bool has_room_for_passed_on(const struct fdrefs *refs)
{
	const struct budget *budget = refs->budget;
	return budget->used[BUDGET_STREAMS] < budget->limits.most[BUDGET_STREAMS] / 4 &&
		budget->used[BUDGET_FDS] < budget->limits.most[BUDGET_FDS] / 2;
}

static enum wayland_verdict leave_out(struct wayland_call *call, const char *why)
{
	struct fdrefs *refs = call->wayland->options.refs;
	budget_forget(refs->budget); // which is not what ends the session
	refs->counts.unsupported++;
	log_limited(LOG_WARN, "%s.%s: left out: %s", call->object->interface->name,
		call->message.op->name, why);
	return WAYLAND_DROP;
}

/* FORWARD, DROP or FAIL. */
static enum wayland_verdict export_next_fd(struct wayland_call *call)
{
	int fd = wayland_take_fd(call);
	if (fd < 0) {
		return WAYLAND_FAIL;
	}
	if (is_passed_on(call) && !has_room_for_passed_on(call->wayland->options.refs)) {
		close(fd);
		return leave_out(call, "too many pipes of others are open");
	}
	const char *wrong = NULL;
	uint32_t id = export_fd(call, fd, &wrong);
	if (id != 0) {
		call->refs[call->n_refs++] = id;
		return WAYLAND_FORWARD;
	}
	if (is_passed_on(call)) {
		return leave_out(call, wrong);
	}
	char text[160];
	snprintf(text, sizeof(text), "its fd cannot cross: %s", wrong);
	return wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, text);
}

static enum wayland_verdict export_fds(struct wayland_call *call)
{
	enum wayland_verdict verdict = WAYLAND_FORWARD;
	while (verdict == WAYLAND_FORWARD && call->n_refs < call->message.op->n_fds) {
		verdict = export_next_fd(call);
	}
	return verdict;
}

/* The fdrefs of the run were pushed with it. */
static void name_refs(struct wayland *wayland)
{
	const uint32_t *ids = wayland->pending.data;
	size_t n = wayland->pending.size / sizeof(*ids);
	fdrefs_named(wayland->options.refs, ids, n);
	wayland->pending.size = 0;
}

static void push_messages(struct wayland *wayland, const uint8_t *data, size_t len)
{
	struct wl_array *pending = &wayland->pending;
	channel_push(wayland->options.channel, CHANNEL_MESSAGES, 0,
		(uint32_t)(pending->size / sizeof(uint32_t)), pending->data, pending->size, data,
		len);
	name_refs(wayland);
	wayland->message_bytes[wayland->options.exports] += len;
	wayland->export_credit -= (uint32_t)len;
}

static void flush_run(struct wayland *wayland, struct wayland_run *run)
{
	if (run->end > run->start) {
		push_messages(wayland, run->start, (size_t)(run->end - run->start));
		run->start = run->end;
	}
}

void wayland_flush_exports(struct wayland *wayland)
{
	flush_run(wayland, wayland->run);
}

/* fdrefs go with the run that their message is in. */
static bool add_refs(
	struct wayland *wayland, struct wayland_run *run, const struct wayland_call *call)
{
	size_t size = call->n_refs * sizeof(uint32_t);
	if (size == 0) {
		return true;
	}
	if (wayland->pending.size + size > CHANNEL_MAX_FDREFS * sizeof(uint32_t)) {
		flush_run(wayland, run);
	}
	uint32_t *refs = wl_array_add(&wayland->pending, size);
	if (refs == NULL) {
		fail(wayland, WAYLAND_ERROR_NO_MEMORY, "out of memory");
		return false;
	}
	memcpy(refs, call->refs, size);
	return true;
}

/* What was said of it already is not said again. */
static void trace_first(struct wayland_call *call)
{
	if (call->wayland->options.trace != NULL && !call->wayland->retried) {
		trace_export(call);
	}
	call->wayland->retried = false;
}

/* A message that is more than plain. data[0 .. header->size) lies at the end of the run. */
static bool export_message(struct wayland *wayland, struct wayland_call *call,
	const struct wire_header *header, uint8_t *data, struct wayland_run *run)
{
	if (!decode(call, header, data)) {
		return false;
	}
	trace_first(call);
	if (!register_objects(call)) {
		return false;
	}
	struct wl_array replacement;
	wl_array_init(&replacement);
	call->replacement = &replacement;
	enum wayland_verdict verdict = run_hook(call, hook_of(call->message.op, true));
	if (verdict == WAYLAND_WAIT) {
		unmake_objects(call);
		wayland->waiting = true;
		wl_array_release(&replacement);
		return true;
	}
	if (verdict == WAYLAND_FORWARD) {
		verdict = export_fds(call);
	}
	bool ok = verdict != WAYLAND_FAIL;
	if (ok && verdict == WAYLAND_FORWARD) {
		ok = add_refs(wayland, run, call);
		run->end = data + header->size;
	} else if (ok) {
		flush_run(wayland, run);
		run->start = run->end = data + header->size;
		if (verdict == WAYLAND_REPLACE) {
			ok = add_refs(wayland, run, call);
			push_messages(wayland, replacement.data, replacement.size);
		}
	}
	wl_array_release(&replacement);
	if (ok) {
		end_object(call);
	}
	return ok;
}

static bool export_one(struct wayland *wayland, uint8_t *data, const struct wire_header *header,
	struct wayland_run *run)
{
	enum wire_direction direction = wayland->options.exports;
	struct wayland_call call;
	if (!identify(wayland, direction, header, &call)) {
		return false;
	}
	if ((size_t)(run->end - run->start) + header->size > RUN_BYTES) {
		flush_run(wayland, run);
	}
	const struct wire_op *op = call.message.op;
	if (is_plain(op, hook_of(op, true)) && wayland->options.trace == NULL &&
		header->size == op->fixed_size) {
		wayland->messages[direction]++;
		run->end = data + header->size;
		return true;
	}
	return export_message(wayland, &call, header, data, run);
}

static bool can_export(const struct wayland *wayland)
{
	return !wayland->waiting && wayland->export_credit >= CREDIT_MIN &&
		channel_queued(wayland->options.channel) < CHANNEL_FULL;
}

void wayland_export(struct wayland *wayland)
{
	size_t len;
	uint8_t *data = wire_socket_data(wayland->options.local, &len);
	size_t done = 0;
	struct wayland_run run = {.start = data, .end = data};
	wayland->run = &run;
	bool ok = !wayland->failed;
	bool room = can_export(wayland);
	while (ok && room) {
		struct wire_header header;
		if (!wire_header_decode(data + done, len - done, &header)) {
			break;
		}
		if (header.size < WIRE_HEADER_SIZE || (header.size & 3) != 0) {
			fail(wayland, WAYLAND_ERROR_INVALID_METHOD, "a message with a wrong size");
			break;
		}
		if (header.size > len - done) {
			break;
		}
		ok = export_one(wayland, data + done, &header, &run);
		if (wayland->waiting) {
			break;
		}
		done += header.size;
		room = can_export(wayland) &&
			wayland->export_credit - (uint32_t)(run.end - run.start) >= CREDIT_MIN;
	}
	if (ok) {
		flush_run(wayland, &run);
	}
	wayland->run = NULL;
	wire_socket_consume(wayland->options.local, done);
	wire_socket_set_reading(wayland->options.local, can_export(wayland));
	channel_flush(wayland->options.channel);
	// If all went out at once, nothing else will tell that there is room again.
	wire_socket_set_reading(wayland->options.local, can_export(wayland));
}

void wayland_retry(struct wayland *wayland)
{
	wayland->retried = wayland->retried || wayland->waiting;
	wayland->waiting = false;
	wayland_export(wayland);
}

const char *wayland_credit(struct wayland *wayland, uint32_t bytes)
{
	if (bytes > CHANNEL_MESSAGE_WINDOW - wayland->export_credit) {
		return "CREDIT beyond the window of messages";
	}
	wayland->export_credit += bytes;
	return NULL;
}

/* ---- import ---- */

static void trace_import(struct wayland_call *call)
{
	const char *names[WIRE_MAX_ARGS];
	const struct wayland *wayland = call->wayland;
	for (size_t i = 0; i < call->message.op->n_fds; i++) {
		const struct fdref *ref = i < wayland->n_imported
			? fdrefs_get(wayland->options.refs, wayland->imported[i])
			: NULL;
		names[i] = ref != NULL ? ref->interface->name : "that did not come";
	}
	trace(call, names);
}

static bool import_refs(struct wayland_call *call)
{
	struct wayland *wayland = call->wayland;
	size_t n = call->message.op->n_fds;
	if (n > wayland->n_imported) {
		wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "its fd did not come by the channel");
		return false;
	}
	memcpy(call->refs, wayland->imported, n * sizeof(*call->refs));
	wayland->n_imported -= n;
	if (n > 0) {
		budget_release(wayland->options.refs->budget, BUDGET_PENDING, n);
	}
	memmove(wayland->imported, wayland->imported + n,
		wayland->n_imported * sizeof(*wayland->imported));
	call->n_refs = n;
	return true;
}

/* Else the compositor would write into a pool, which has no limit, what it takes for a pipe. */
static bool is_expected(const struct wire_op *op, const struct fdref *ref)
{
	static const enum channel_kind kinds[] = {
		[PROTOCOL_FD_POOL] = CHANNEL_KIND_POOL,
		[PROTOCOL_FD_FILE] = CHANNEL_KIND_FILE,
		[PROTOCOL_FD_STREAM] = CHANNEL_KIND_PIPE,
		[PROTOCOL_FD_DMABUF] = CHANNEL_KIND_DMABUF,
		[PROTOCOL_FD_PLANE] = CHANNEL_KIND_DMABUF,
		[PROTOCOL_FD_SYNCOBJ] = CHANNEL_KIND_TIMELINE,
	};
	if (!op->fd_kind_known) { // as export_fd
		return ref->kind == CHANNEL_KIND_FILE || ref->kind == CHANNEL_KIND_PIPE;
	}
	return op->fd_kind < sizeof(kinds) / sizeof(kinds[0]) && kinds[op->fd_kind] == ref->kind;
}

static bool import_fd(
	struct wayland_call *call, uint32_t id, struct fdlist *fds, struct parcel *parcel)
{
	struct fdref *ref = fdrefs_get(call->wayland->options.refs, id);
	if (ref == NULL || ref->interface->get_fd == NULL) {
		wayland_fail(
			call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref that is not open for it");
		return false;
	}
	if (!is_expected(call->message.op, ref)) {
		wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, "an fdref of another kind");
		return false;
	}
	if (!parcel_add(parcel, ref->memory)) {
		wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION,
			"more fds than the session may let wait");
		return false;
	}
	int fd = ref->interface->get_fd(ref);
	if (fd < 0 || !fdlist_push(fds, fd)) {
		log_error("cannot make the fd of %s: %s", call->message.op->name,
			fd < 0 ? strerror(-fd) : "out of memory");
		wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, "its fd cannot be made here");
		return false;
	}
	return true;
}

/* What is charged for the fds while they wait for the local peer; NULL: it has failed. */
static struct parcel *import_fds(struct wayland_call *call, struct fdlist *fds)
{
	struct parcel *parcel = parcel_create(call->wayland->options.refs->budget);
	if (parcel == NULL) {
		fail(call->wayland, WAYLAND_ERROR_NO_MEMORY, "out of memory");
		return NULL;
	}
	for (size_t i = 0; i < call->n_refs; i++) {
		if (!import_fd(call, call->refs[i], fds, parcel)) {
			parcel_destroy(parcel);
			return NULL;
		}
	}
	return parcel;
}

/* Takes parcel. */
static bool push_local(struct wayland *wayland, const void *data, size_t len, struct fdlist *fds,
	struct parcel *parcel)
{
	if (!wire_socket_push(wayland->options.local, data, len, fds, parcel)) {
		fail(wayland, WAYLAND_ERROR_NO_MEMORY, "out of memory");
		return false;
	}
	return true;
}

bool wayland_send_event(struct wayland *wayland, const struct wl_array *event)
{
	if (wayland->options.exports == WIRE_REQUEST) {
		bool ok = push_local(wayland, event->data, event->size, NULL, NULL);
		wire_socket_flush(wayland->options.local);
		return ok;
	}
	if (wayland->export_credit < event->size) {
		fail(wayland, WAYLAND_ERROR_IMPLEMENTATION, "answers that nobody takes");
		return false;
	}
	push_messages(wayland, event->data, event->size);
	return true;
}

bool wayland_send_request(struct wayland *wayland, const struct wl_array *request)
{
	wayland->messages[WIRE_REQUEST]++;
	return push_local(wayland, request->data, request->size, NULL, NULL);
}

static bool flush_local(struct wayland *wayland, struct wayland_run *run)
{
	uint8_t *start = run->start;
	run->start = run->end;
	return run->end == start ||
		push_local(wayland, start, (size_t)(run->end - start), NULL, NULL);
}

static bool forward_import(struct wayland *wayland, struct wayland_call *call,
	enum wayland_verdict verdict, struct wayland_run *run)
{
	const struct wire_message *message = &call->message;
	uint8_t *next = message->data + message->header.size;
	if (verdict == WAYLAND_FORWARD && call->n_refs == 0) {
		run->end = next;
		return true;
	}
	struct fdlist fds;
	fdlist_init(&fds);
	struct parcel *parcel = flush_local(wayland, run) ? import_fds(call, &fds) : NULL;
	bool ok = parcel != NULL;
	if (ok && verdict == WAYLAND_FORWARD) {
		ok = push_local(wayland, message->data, message->header.size, &fds, parcel);
	} else if (ok && verdict == WAYLAND_REPLACE) {
		const struct wl_array *data = call->replacement;
		ok = push_local(wayland, data->data, data->size, &fds, parcel);
	} else {
		parcel_destroy(parcel);
	}
	fdlist_finish(&fds);
	run->start = run->end = next;
	return ok;
}

static bool import_message(struct wayland *wayland, struct wayland_call *call,
	const struct wire_header *header, uint8_t *data, struct wayland_run *run)
{
	if (!decode(call, header, data)) {
		return false;
	}
	if (wayland->options.trace != NULL) {
		trace_import(call);
	}
	if (!import_refs(call)) {
		return false;
	}
	if (!register_objects(call)) {
		return false;
	}
	struct wl_array replacement;
	wl_array_init(&replacement);
	call->replacement = &replacement;
	enum wayland_verdict verdict = run_hook(call, import_hook(wayland, call->message.op));
	bool ok = verdict != WAYLAND_FAIL && forward_import(wayland, call, verdict, run);
	wl_array_release(&replacement);
	if (ok) {
		end_object(call);
	}
	return ok;
}

static bool import_one(struct wayland *wayland, uint8_t *data, const struct wire_header *header,
	struct wayland_run *run)
{
	enum wire_direction direction = imports(wayland);
	struct wayland_call call;
	if (!identify(wayland, direction, header, &call)) {
		return false;
	}
	const struct wire_op *op = call.message.op;
	if (is_plain(op, import_hook(wayland, op)) && wayland->options.trace == NULL &&
		header->size == op->fixed_size) {
		wayland->messages[direction]++;
		run->end = data + header->size;
		return true;
	}
	return import_message(wayland, &call, header, data, run);
}

static const char *queue_refs(struct wayland *wayland, const struct channel_frame *frame)
{
	uint32_t n = frame->header.arg;
	if (n > CHANNEL_MAX_FDREFS || n * sizeof(uint32_t) > frame->header.length) {
		return "MESSAGES with a wrong number of fdrefs";
	}
	if (n > MAX_IMPORTED - wayland->n_imported) {
		return "more fdrefs than messages take";
	}
	if (!budget_charge(wayland->options.refs->budget, BUDGET_PENDING, n)) {
		return "more fdrefs than may wait for their message";
	}
	memcpy(wayland->imported + wayland->n_imported, frame->payload, n * sizeof(uint32_t));
	wayland->n_imported += n;
	return NULL;
}

const char *wayland_import(struct wayland *wayland, const struct channel_frame *frame)
{
	const char *wrong = queue_refs(wayland, frame);
	if (wrong != NULL || wayland->failed) {
		return wrong;
	}
	fdrefs_settle(wayland->options.refs);
	size_t head = frame->header.arg * sizeof(uint32_t);
	uint8_t *data = frame->payload + head;
	size_t len = frame->header.length - head;
	if (len > CHANNEL_MAX_MESSAGES || len > wayland->import_credit) {
		return "MESSAGES beyond their credit";
	}
	wayland->import_credit -= (uint32_t)len;
	wayland->message_bytes[imports(wayland)] += len;
	struct wayland_run run = {.start = data, .end = data};
	size_t done = 0, n = 0;
	while (done < len) {
		struct wire_header header;
		if (!wire_header_decode(data + done, len - done, &header) ||
			header.size < WIRE_HEADER_SIZE || (header.size & 3) != 0 ||
			header.size > len - done) {
			return "MESSAGES that do not end with a whole message";
		}
		if (!import_one(wayland, data + done, &header, &run)) {
			return NULL; // has failed by itself
		}
		done += header.size;
		n++;
	}
	if (!budget_messages(wayland->options.refs->budget, n > 0 ? n : 1)) {
		return "more messages than the session may send";
	}
	flush_local(wayland, &run);
	wayland->unreported += (uint32_t)len;
	return NULL;
}

void wayland_report_credit(struct wayland *wayland)
{
	// What is still queued is not reported yet. A replaced message may be longer than what came.
	size_t queued = wire_socket_queued(wayland->options.local);
	if (wayland->unreported < CREDIT_STEP || queued > wayland->unreported - CREDIT_STEP) {
		return;
	}
	uint32_t bytes = wayland->unreported - (uint32_t)queued;
	channel_push(wayland->options.channel, CHANNEL_CREDIT, 0, bytes, NULL, 0, NULL, 0);
	channel_flush(wayland->options.channel);
	wayland->import_credit += bytes;
	wayland->unreported -= bytes;
}
