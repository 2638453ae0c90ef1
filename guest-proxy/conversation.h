#ifndef GUEST_PROXY_CONVERSATION_H
#define GUEST_PROXY_CONVERSATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/budget.h"
#include "relay/objects.h"
#include "wire/message.h"

struct channel_header;

/**
 * What a client and a compositor say to each other in MESSAGES frames, decoded for who only listens.
 * Wrong messages are passed over: they are somebody else's to judge.
 */

struct conversation { // not to be moved: objects has the budget's address
	struct objects objects;
	struct budget budget;
};

// A whole message. message.op is NULL, and its arguments are unset, where it cannot be decoded.
struct conversation_message {
	struct wire_message message;
	const struct wire_interface *interface; // of its object; NULL: unknown
	size_t n_fds;                           // that it takes of the frame's; 0 if it is unknown
};

typedef void (*conversation_func)(void *data, const struct conversation_message *message);

// False on ENOMEM.
bool conversation_init(struct conversation *conversation);
void conversation_finish(struct conversation *conversation);

// The ids in front of a MESSAGES frame, and its messages. False: there cannot be so many.
bool conversation_split(const struct channel_header *header, uint8_t *payload, size_t *n_ids,
	uint8_t **messages, size_t *len);
// Calls func for each message in turn, before its objects are made and ended. Messages may be
// changed in place by func, but not their sizes. Returns the bytes that were whole messages.
size_t conversation_read(struct conversation *conversation, enum wire_direction direction,
	uint8_t *messages, size_t len, conversation_func func, void *data);

// The same without a change of what is known: the messages are still to be read.
size_t conversation_look(struct conversation *conversation, enum wire_direction direction,
	uint8_t *messages, size_t len, conversation_func func, void *data);

// Whether the message is this one.
bool conversation_is(
	const struct conversation_message *message, const char *interface, const char *name);

#endif
