#include "relay/crossing.h"

#include <stddef.h>

#include "wire/schema.h"

// Deeper chains of "this object makes that one" are not known, and would be refused.
#define MAX_INTERFACES 64

// What was found out stays with the interface: every client is told of every global.
enum {
	NOTE_NONE,
	NOTE_POSSIBLE,
	NOTE_IMPOSSIBLE,
};

struct walk {
	const struct wire_interface *seen[MAX_INTERFACES];
	size_t count;
};

static bool kind_crosses(const struct wire_op *op)
{
	if (op->n_fds == 0 || !op->fd_kind_known) {
		return true; // told by the fd itself when it comes
	}
	switch (op->fd_kind) {
	case PROTOCOL_FD_POOL:
	case PROTOCOL_FD_FILE:
	case PROTOCOL_FD_STREAM:
	case PROTOCOL_FD_PLANE:
	case PROTOCOL_FD_SYNC_FILE:
	case PROTOCOL_FD_SYNCOBJ:
		return true;
	default:
		return false;
	}
}

static bool add(struct walk *walk, const struct wire_interface *interface)
{
	for (size_t i = 0; i < walk->count; i++) {
		if (walk->seen[i] == interface) {
			return true;
		}
	}
	if (walk->count == MAX_INTERFACES) {
		return false;
	}
	walk->seen[walk->count++] = interface;
	return true;
}

static bool ops_cross(struct walk *walk, const struct wire_ops *ops)
{
	for (size_t i = 0; i < ops->count; i++) {
		const struct wire_op *op = &ops->ops[i];
		if (!kind_crosses(op)) {
			return false;
		}
		for (size_t arg = 0; arg < op->n_args; arg++) {
			if (op->args[arg].type != WIRE_ARG_NEW_ID ||
				op->args[arg].interface == NULL) {
				continue;
			}
			const struct wire_interface *made =
				wire_schema_get(op->args[arg].interface);
			if (made == NULL || !add(walk, made)) {
				return false;
			}
		}
	}
	return true;
}

static bool walk_crosses(const struct wire_interface *interface)
{
	struct walk walk = {.count = 0};
	add(&walk, interface);
	for (size_t i = 0; i < walk.count; i++) {
		if (!ops_cross(&walk, &walk.seen[i]->ops[WIRE_REQUEST]) ||
			!ops_cross(&walk, &walk.seen[i]->ops[WIRE_EVENT])) {
			return false;
		}
	}
	return true;
}

bool crossing_possible(const struct wire_interface *interface)
{
	struct wire_interface *noted = (struct wire_interface *)interface;
	if (noted->note == NOTE_NONE) {
		noted->note = walk_crosses(interface) ? NOTE_POSSIBLE : NOTE_IMPOSSIBLE;
	}
	return noted->note == NOTE_POSSIBLE;
}

enum crossing crossing_of_global(const char *name, uint32_t *version)
{
	const struct wire_interface *interface = wire_schema_find(name);
	if (interface == NULL) {
		return CROSSING_UNKNOWN;
	}
	if (*version > interface->version) {
		*version = interface->version;
	}
	return crossing_possible(interface) ? CROSSING_POSSIBLE : CROSSING_IMPOSSIBLE;
}
