#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/hooks.h"

/* Puts a prefix before the one string of a request. */
static enum wayland_verdict prefix(struct wayland_call *call, const char *prefix)
{
	const struct wire_message *message = &call->message;
	if (prefix == NULL || message->args[0].string == NULL) {
		return WAYLAND_FORWARD;
	}
	size_t len = strlen(prefix) + message->args[0].length;
	char *text = malloc(len + 1);
	if (text == NULL) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "out of memory");
	}
	snprintf(text, len + 1, "%s%s", prefix, message->args[0].string);
	bool ok = wire_encode_begin(
			  call->replacement, message->header.object, message->header.opcode) &&
		wire_encode_string(call->replacement, text) &&
		wire_encode_end(call->replacement, 0);
	free(text);
	return ok ? WAYLAND_REPLACE
		  : wayland_fail(call, WAYLAND_ERROR_IMPLEMENTATION, "a text that is too long");
}

/* xdg_toplevel.set_title(title) */
enum wayland_verdict labels_import_title(struct wayland_call *call)
{
	return prefix(call, call->wayland->options.title_prefix);
}

/* xdg_toplevel.set_app_id(app_id) */
enum wayland_verdict labels_import_app_id(struct wayland_call *call)
{
	return prefix(call, call->wayland->options.app_id_prefix);
}
