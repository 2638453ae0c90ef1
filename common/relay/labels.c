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

/* False: the window's interface has no such request, or the memory is out. */
static bool encode_first(struct wl_array *out, const struct object *window, uint32_t id,
	const char *request, const char *text)
{
	const struct wire_ops *ops = &window->interface->ops[WIRE_REQUEST];
	size_t start = out->size;
	uint32_t opcode = 0;
	while (opcode < ops->count && strcmp(ops->ops[opcode].name, request) != 0) {
		opcode++;
	}
	return opcode < ops->count && wire_encode_begin(out, id, opcode) &&
		wire_encode_string(out, text) && wire_encode_end(out, start);
}

/* The request that makes a window: it is told from others even before it has a title. */
enum wayland_verdict labels_import_window(struct wayland_call *call)
{
	const struct wayland_options *options = &call->wayland->options;
	const struct wire_message *message = &call->message;
	const struct object *window = wayland_new_object(call, 0);
	const char *title = options->title_prefix, *app_id = options->app_id_prefix;
	uint32_t id = message->args[0].value;
	struct wl_array *out = call->replacement;
	if (title == NULL && app_id == NULL) {
		return WAYLAND_FORWARD;
	}
	bool ok = append(out, message->data, message->header.size) &&
		(title == NULL || encode_first(out, window, id, "set_title", title)) &&
		(app_id == NULL || encode_first(out, window, id, "set_app_id", app_id) ||
			encode_first(out, window, id, "set_class", app_id));
	return ok ? WAYLAND_REPLACE
		  : wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "no room for a window's prefixes");
}
