#include "guest-proxy/conversation.h"

#include <string.h>

#include "protocol/channel.h"

#define MAX_OBJECTS (4 * 65536)

bool conversation_init(struct conversation *conversation)
{
	conversation->budget = (struct budget){.limits.most[BUDGET_OBJECTS] = MAX_OBJECTS};
	return objects_init(&conversation->objects, &conversation->budget);
}

void conversation_finish(struct conversation *conversation)
{
	objects_finish(&conversation->objects);
}

bool conversation_split(const struct channel_header *header, uint8_t *payload, size_t *n_ids,
	uint8_t **messages, size_t *len)
{
	if (header->arg > CHANNEL_MAX_FDREFS || header->arg * sizeof(uint32_t) > header->length) {
		return false;
	}
	*n_ids = header->arg;
	*messages = payload + *n_ids * sizeof(uint32_t);
	*len = header->length - *n_ids * sizeof(uint32_t);
	return true;
}

bool conversation_is(
	const struct conversation_message *message, const char *interface, const char *name)
{
	return message->message.op != NULL && strcmp(message->interface->name, interface) == 0 &&
		strcmp(message->message.op->name, name) == 0;
}

static void decode(struct conversation *conversation, enum wire_direction direction,
	const struct wire_header *header, uint8_t *data, struct conversation_message *message)
{
	const struct object *object = objects_get(&conversation->objects, header->object);
	*message = (struct conversation_message){
		.message = {.header = *header, .data = data},
		.interface = object != NULL ? object->interface : NULL,
	};
	if (message->interface == NULL) {
		return;
	}
	const struct wire_ops *ops = &message->interface->ops[direction];
	if (header->opcode < ops->count &&
		wire_message_decode(&message->message, header, data, &ops->ops[header->opcode]) ==
			NULL) {
		message->n_fds = message->message.op->n_fds;
	} else {
		message->message.op = NULL;
	}
}

static void make_objects(
	struct conversation *conversation, const struct conversation_message *message)
{
	const struct wire_op *op = message->message.op;
	const struct object *object =
		objects_get(&conversation->objects, message->message.header.object);
	uint32_t inherited = object->version;
	for (size_t i = 0; i < op->n_args; i++) {
		const struct wire_arg *arg = &message->message.args[i];
		const struct wl_interface *source = op->args[i].interface;
		if (op->args[i].type == WIRE_ARG_NEW_ID) {
			objects_insert(&conversation->objects, arg->value,
				source != NULL ? wire_schema_get(source) : NULL, inherited);
		} else if (op->args[i].type == WIRE_ARG_ANY_NEW_ID) {
			objects_insert(&conversation->objects, arg->value,
				wire_schema_find(arg->string), arg->version);
		}
	}
}

static void follow(struct conversation *conversation, const struct conversation_message *message)
{
	if (message->message.op != NULL && message->message.op->makes_object) {
		make_objects(conversation, message);
	}
	if (conversation_is(message, "wl_display", "delete_id")) {
		objects_remove(&conversation->objects, message->message.args[0].value);
	}
}

/* The size of the message at data, 0 if it is not whole. */
static size_t next_message(const uint8_t *data, size_t len, struct wire_header *header)
{
	bool whole = wire_header_decode(data, len, header) && header->size >= WIRE_HEADER_SIZE &&
		(header->size & 3) == 0 && header->size <= len;
	return whole ? header->size : 0;
}

size_t conversation_look(struct conversation *conversation, enum wire_direction direction,
	uint8_t *messages, size_t len, conversation_func func, void *data)
{
	struct wire_header header;
	size_t done = 0, size;
	while ((size = next_message(messages + done, len - done, &header)) > 0) {
		struct conversation_message message;
		decode(conversation, direction, &header, messages + done, &message);
		func(data, &message);
		done += size;
	}
	return done;
}

struct reading {
	struct conversation *conversation;
	conversation_func func;
	void *data;
};

static void read_message(void *data, const struct conversation_message *message)
{
	const struct reading *reading = data;
	reading->func(reading->data, message);
	follow(reading->conversation, message);
}

size_t conversation_read(struct conversation *conversation, enum wire_direction direction,
	uint8_t *messages, size_t len, conversation_func func, void *data)
{
	struct reading reading = {conversation, func, data};
	return conversation_look(conversation, direction, messages, len, read_message, &reading);
}
