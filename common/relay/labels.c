#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "relay/hooks.h"

/* The first string of the request; NULL if there is none. */
static const struct wire_arg *find_label(const struct wire_message *message)
{
	for (size_t i = 0; i < message->op->n_args; i++) {
		if (message->op->args[i].type == WIRE_ARG_STRING) {
			return message->args[i].string != NULL ? &message->args[i] : NULL;
		}
	}
	return NULL;
}

static bool append(struct wl_array *out, const void *data, size_t len)
{
	void *end = len > 0 ? wl_array_add(out, len) : NULL;
	if (end != NULL) {
		memcpy(end, data, len);
	}
	return end != NULL || len == 0;
}

static bool encode_prefixed(struct wl_array *out, const char *prefix, const struct wire_arg *label)
{
	size_t len = strlen(prefix);
	char *text = malloc(len + label->length + 1);
	if (text == NULL) {
		return false;
	}
	memcpy(text, prefix, len);
	memcpy(text + len, label->string, label->length + 1);
	bool ok = wire_encode_string(out, text);
	free(text);
	return ok;
}

/* Puts a prefix before the label of a request, and leaves all else as it is. */
static enum wayland_verdict prefix(struct wayland_call *call, const char *prefix)
{
	const struct wire_message *message = &call->message;
	const struct wire_arg *label = find_label(message);
	if (prefix == NULL || label == NULL) {
		return WAYLAND_FORWARD;
	}
	const uint8_t *end = message->data + message->header.size;
	const uint8_t *next = (const uint8_t *)(label->word + 1) + label->length / 4 * 4 + 4;
	struct wl_array *out = call->replacement;
	uint32_t head[] = {message->header.object, message->header.opcode};
	const uint8_t *args = message->data + sizeof(head);
	bool ok = append(out, head, sizeof(head)) &&
		append(out, args, (size_t)((const uint8_t *)label->word - args)) &&
		encode_prefixed(out, prefix, label) && append(out, next, (size_t)(end - next)) &&
		wire_encode_end(out, 0);
	return ok ? WAYLAND_REPLACE
		  : wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, "a text that is too long");
}

/* Compositors look for what has a name in directories of the host. */
static bool is_path(const struct wayland_call *call)
{
	const struct wire_arg *label = find_label(&call->message);
	bool path =
		label != NULL && (label->string[0] == '/' || strstr(label->string, "../") != NULL);
	if (path) {
		log_limited(LOG_WARN, "%s.%s: a path is not forwarded",
			call->object->interface->name, call->message.op->name);
	}
	return path;
}

/* Its first string is shown to people. */
enum wayland_verdict labels_import_title(struct wayland_call *call)
{
	return prefix(call, call->wayland->options.title_prefix);
}

/* Its first string tells which program's window it is. */
enum wayland_verdict labels_import_app_id(struct wayland_call *call)
{
	return is_path(call) ? WAYLAND_DROP : prefix(call, call->wayland->options.app_id_prefix);
}

/* xdg_toplevel_icon_v1.set_name(icon_name) */
enum wayland_verdict labels_import_icon(struct wayland_call *call)
{
	return is_path(call) ? WAYLAND_DROP : WAYLAND_FORWARD;
}

/* ---- windows that say nothing ---- */

/* NULL: the window's interface has no such request. */
static const struct wire_op *find_request(const struct object *window, const char *name)
{
	const struct wire_ops *ops = &window->interface->ops[WIRE_REQUEST];
	for (size_t i = 0; i < ops->count; i++) {
		if (strcmp(ops->ops[i].name, name) == 0) {
			return &ops->ops[i];
		}
	}
	return NULL;
}

/* What is denied is not said for the client either. text may be NULL. */
static bool encode_first(struct wayland_call *call, const char *request, const char *text)
{
	const struct object *window = wayland_new_object(call, 0);
	const struct wire_op *op = find_request(window, request);
	if (text == NULL || op == NULL || denied_find(call->wayland, op) != NULL) {
		return true;
	}
	struct wl_array *out = call->replacement;
	size_t start = out->size;
	uint32_t opcode = (uint32_t)(op - window->interface->ops[WIRE_REQUEST].ops);
	return wire_encode_begin(out, call->message.args[0].value, opcode) &&
		wire_encode_string(out, text) && wire_encode_end(out, start);
}

/* The request that makes a window: it is told from others even before it has a title. */
enum wayland_verdict labels_import_window(struct wayland_call *call)
{
	const struct wayland_options *options = &call->wayland->options;
	const struct wire_message *message = &call->message;
	if (options->title_prefix == NULL && options->app_id_prefix == NULL) {
		return WAYLAND_FORWARD;
	}
	bool ok = append(call->replacement, message->data, message->header.size) &&
		encode_first(call, "set_title", options->title_prefix) &&
		encode_first(call, "set_app_id", options->app_id_prefix) &&
		encode_first(call, "set_class", options->app_id_prefix);
	return ok ? WAYLAND_REPLACE
		  : wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "no room for a window's prefixes");
}
