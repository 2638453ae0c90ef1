#include <stdlib.h>

#include "base/budget.h"
#include "base/log.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"

/*
 * What clients offer to be pasted or dropped, as the host sees it. A compositor keeps the names of all
 * types of a source, and compares each new one with those that are there. When another client gets the
 * keyboard it is told of all of them at once, and is disconnected if that is more than its socket takes. So a
 * source has its limits, which no program that means well comes near; what is beyond them is left out.
 */

#define TYPES_MAX 512
#define BYTES_MAX (64u * 1024) // of the messages: each socket takes so many

struct source {
	struct object_state state;
	unsigned int n_types;
	uint32_t bytes;
	struct charge *charge; // of bytes: the compositor keeps as many, or more
	bool told;             // that something was left out
};

static void destroy_source(struct object_state *state)
{
	charge_unref(((struct source *)state)->charge);
	free(state);
}

/* NULL on ENOMEM. */
static struct source *get_source(struct wayland_call *call)
{
	struct object *object = call->object;
	if (object->state == NULL) {
		struct source *source = calloc(1, sizeof(*source));
		struct charge *charge = charge_create(call->wayland->options.refs->budget, 0);
		if (source == NULL || charge == NULL) {
			charge_unref(charge);
			free(source);
			return NULL;
		}
		source->state.destroy = destroy_source;
		source->charge = charge;
		object->state = &source->state;
	}
	return (struct source *)object->state;
}

static enum wayland_verdict leave_out(const struct wayland_call *call, struct source *source)
{
	if (!source->told) {
		log_limited(LOG_WARN, "%s: types beyond %u, or 64 KiB of them, are left out",
			call->object->interface->name, TYPES_MAX);
	}
	source->told = true;
	return WAYLAND_DROP;
}

/* wl_data_source.offer(mime_type), and the like of other selections */
enum wayland_verdict offers_import_offer(struct wayland_call *call)
{
	struct source *source = get_source(call);
	const uint32_t size = call->message.header.size;
	if (source == NULL) {
		return wayland_fail_no_memory(call);
	}
	if (source->n_types == TYPES_MAX || size > BYTES_MAX - source->bytes) {
		return leave_out(call, source);
	}
	if (!charge_grow(source->charge, source->bytes + size)) {
		return wayland_fail(
			call, WAYLAND_ERROR_NO_MEMORY, "more memory than the session may have");
	}
	source->n_types++;
	source->bytes += size;
	return WAYLAND_FORWARD;
}

uint32_t offers_bytes(const struct object_state *source)
{
	return source != NULL ? ((const struct source *)source)->bytes : 0;
}
