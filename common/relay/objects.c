#include "relay/objects.h"

#include <stdlib.h>

#include "base/budget.h"
#include "wire/message.h"
#include "wire/schema.h"

static struct object_range *range_of(struct objects *objects, uint32_t id, size_t *index)
{
	if (id >= WIRE_SERVER_ID_MIN) {
		*index = id - WIRE_SERVER_ID_MIN;
		return &objects->server;
	}
	*index = id;
	return &objects->client;
}

static bool make_room(struct object_range *range)
{
	if (range->count < range->capacity) {
		return true;
	}
	size_t capacity = range->capacity == 0 ? 64 : range->capacity * 2;
	struct object *grown = reallocarray(range->objects, capacity, sizeof(*grown));
	if (grown == NULL) {
		return false;
	}
	range->objects = grown;
	range->capacity = capacity;
	return true;
}

bool objects_init(struct objects *objects, struct budget *budget)
{
	*objects = (struct objects){.budget = budget};
	if (!make_room(&objects->client)) {
		return false;
	}
	objects->client.objects[0] = (struct object){0}; // 0 is null
	objects->client.count = 1;
	return objects_insert(objects, 1, wire_schema_find("wl_display"), 1) == NULL;
}

static void clear(struct object *object)
{
	if (object->state != NULL) {
		struct object_state *state = object->state;
		object->state = NULL;
		state->destroy(state);
	}
	*object = (struct object){0};
}

static void finish_range(struct objects *objects, struct object_range *range)
{
	// An id is charged when it is first given out; 0 of the client's is none.
	size_t charged =
		range == &objects->client && range->count > 0 ? range->count - 1 : range->count;
	if (charged > 0) {
		budget_release(objects->budget, BUDGET_OBJECTS, charged);
	}
	for (size_t i = 0; i < range->count; i++) {
		clear(&range->objects[i]);
	}
	free(range->objects);
	*range = (struct object_range){0};
}

void objects_finish(struct objects *objects)
{
	finish_range(objects, &objects->client);
	finish_range(objects, &objects->server);
}

/* There is nothing that could still come for the one before it. */
static bool can_follow(const struct object *former, const struct wire_interface *interface)
{
	return former->destroyed && interface != NULL && former->interface == interface &&
		interface->ops[WIRE_EVENT].count == 0;
}

const char *objects_insert(struct objects *objects, uint32_t id,
	const struct wire_interface *interface, uint32_t version)
{
	size_t index;
	struct object_range *range = range_of(objects, id, &index);
	if (index > range->count || id == 0) {
		return "a new id that skips others";
	}
	if (index == range->count) {
		if (!budget_charge(objects->budget, BUDGET_OBJECTS, 1)) {
			return "more objects than the session may have";
		}
		if (!make_room(range)) {
			budget_release(objects->budget, BUDGET_OBJECTS, 1);
			return "out of memory";
		}
		range->objects[range->count++] = (struct object){0};
	}
	struct object *object = &range->objects[index];
	uint32_t former = object->former;
	if (object->used && range == &objects->client) {
		if (!objects->reuses || !can_follow(object, interface)) {
			return "a new id that is in use";
		}
		former++;
	}
	clear(object);
	object->former = former;
	object->interface = interface;
	object->version = version;
	object->used = true;
	return NULL;
}

void objects_remove(struct objects *objects, uint32_t id)
{
	struct object *object = objects_get(objects, id);
	if (object != NULL && id != 1) {
		clear(object);
	}
}

bool objects_remove_former(struct objects *objects, uint32_t id)
{
	struct object *object = objects_get(objects, id);
	bool is_former = object != NULL && object->former > 0;
	if (is_former) {
		object->former--;
	}
	return is_former;
}

void objects_mark_destroyed(struct object *object)
{
	object->destroyed = true;
	if (object->state != NULL) {
		struct object_state *state = object->state;
		object->state = NULL;
		state->destroy(state);
	}
}
