#ifndef RELAY_OBJECTS_H
#define RELAY_OBJECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

struct budget;
struct wire_interface;

/**
 * What is behind each Wayland object id. An object keeps its type until delete_id, also after its
 * destroy request: events for it may still be under way. Ids from the server's range keep it until
 * they are given out again.
 */

// What an interface's hooks keep with an object; the first member of their struct.
struct object_state {
	void (*destroy)(struct object_state *state);
};

struct object {
	const struct wire_interface *interface; // NULL: no such object, or of an unknown type
	struct object_state *state;             // NULL: none
	uint32_t version;
	bool used;
	bool destroyed;  // by its client
	uint32_t former; // objects that had this id and whose delete_id is still to come
};

struct objects {
	struct object_range {
		struct object *objects;
		size_t count; // ids given out so far: [0, count)
		size_t capacity;
	} client, server;
	struct budget *budget; // borrowed
	// A client's id may be given out again as soon as its object has been destroyed, to one of the same
	// interface, if that has no events.
	bool reuses;
};

// Knows wl_display as object 1 then. False on ENOMEM, or if the budget has no room for that.
bool objects_init(struct objects *objects, struct budget *budget);
void objects_finish(struct objects *objects);

// NULL if there is none. Valid until the next insert.
static inline struct object *objects_get(const struct objects *objects, uint32_t id)
{
	const struct object_range *range = &objects->client;
	if (id >= WIRE_SERVER_ID_MIN) {
		range = &objects->server;
		id -= WIRE_SERVER_ID_MIN;
	}
	return id < range->count && range->objects[id].used ? &range->objects[id] : NULL;
}
// NULL, or in one phrase why id cannot be given to a new object. Ids are given out densely, as
// libwayland does it (wl_map): a client's must be the next one or a free one.
const char *objects_insert(struct objects *objects, uint32_t id,
	const struct wire_interface *interface, uint32_t version);
void objects_remove(struct objects *objects, uint32_t id); // delete_id
// delete_id, too. False: id is that of no former object.
bool objects_remove_former(struct objects *objects, uint32_t id);
// The client has destroyed it: its state goes, its type stays.
void objects_mark_destroyed(struct object *object);

#endif
