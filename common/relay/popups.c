#include <stdlib.h>

#include "relay/hooks.h"

/*
 * Menus and the like, as the host sees them: whoever opens one has it placed among all that are open. No
 * program has many of them at a time.
 */

#define POPUPS_MAX 64

struct popup {
	struct object_state state;
	struct wayland *wayland;
};

static void destroy_popup(struct object_state *state)
{
	struct popup *popup = (struct popup *)state;
	popup->wayland->n_popups--;
	free(popup);
}

/* xdg_surface.get_popup(id, parent, positioner), and that of its predecessor */
enum wayland_verdict popups_import_create(struct wayland_call *call)
{
	struct wayland *wayland = call->wayland;
	if (wayland->n_popups == POPUPS_MAX) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY, "more than 64 popups at a time");
	}
	struct popup *popup = calloc(1, sizeof(*popup));
	if (popup == NULL) {
		return wayland_fail_no_memory(call);
	}
	popup->state.destroy = destroy_popup;
	popup->wayland = wayland;
	wayland->n_popups++;
	wayland_new_object(call, 0)->state = &popup->state;
	return WAYLAND_FORWARD;
}
