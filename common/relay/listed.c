#include <stdlib.h>

#include "base/budget.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"

/*
 * Objects that a compositor has in one list for all of its clients, as the host sees them, which it goes
 * through for each new one. No program has many of them; and each new one takes of the rate as there are
 * others of its machine's.
 */

#define LISTED_PER_MESSAGE 16u

struct listed {
	struct object_state state;
	struct budget *budget;
};

static void destroy_listed(struct object_state *state)
{
	struct listed *listed = (struct listed *)state;
	budget_release(listed->budget, BUDGET_LISTED, 1);
	free(listed);
}

/* lock_pointer(id, ...), inhibit_shortcuts(id, ...), export_toplevel(id, ...) */
enum wayland_verdict listed_import_create(struct wayland_call *call)
{
	struct budget *budget = call->wayland->options.refs->budget;
	if (!budget_charge(budget, BUDGET_LISTED, 1)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"more of what its compositor lists than the session may have");
	}
	struct listed *listed = calloc(1, sizeof(*listed));
	if (listed == NULL) {
		budget_release(budget, BUDGET_LISTED, 1);
		return wayland_fail_no_memory(call);
	}
	listed->state.destroy = destroy_listed;
	listed->budget = budget;
	wayland_new_object(call, 0)->state = &listed->state;
	if (!budget_messages(budget, budget_total(budget, BUDGET_LISTED) / LISTED_PER_MESSAGE)) {
		return wayland_fail(call, WAYLAND_ERROR_NO_MEMORY,
			"more to go through than the session may ask for");
	}
	return rectangles_import_region_args(call);
}
