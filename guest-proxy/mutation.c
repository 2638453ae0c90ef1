#include "guest-proxy/mutation.h"

#include <stdlib.h>
#include <string.h>
#include <wayland-util.h>

#include "channel/recording.h"
#include "guest-proxy/conversation.h"

#define ONE_IN       64 // messages that are changed
#define STRING_MAX   4000
#define NEAR         8
#define OBJECT_TRIES 16

struct mutator {
	uint64_t state;
	bool idle; // nothing is changed
	size_t count;
	bool failed; // out of memory
	struct recording *recording;
	struct conversation conversation;
	const struct recorded_frame *source; // that is being split
	const uint8_t *ids;                  // of source, not yet given to a message
	size_t n_ids;
	struct recorded_frame *last; // that was made of a message
};

/* SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t next_random(struct mutator *mutator)
{
	uint64_t z = mutator->state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static uint32_t below(struct mutator *mutator, uint32_t limit)
{
	return (uint32_t)(next_random(mutator) % limit);
}

/* ---- one argument ---- */

static uint32_t mutate_number(struct mutator *mutator, uint32_t value)
{
	static const uint32_t edges[] = {
		0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe, 0x10000, 0xffff, 0x40000000};
	switch (below(mutator, 4)) {
	case 0:
		return edges[below(mutator, sizeof(edges) / sizeof(edges[0]))];
	case 1: // as the neighbours of an enum's value
		return value + below(mutator, 2 * NEAR + 1) - NEAR;
	case 2:
		return value ^ UINT32_C(1) << below(mutator, 32);
	default:
		return (uint32_t)next_random(mutator);
	}
}

/* An object that exists, most often of the interface that is asked for; or none. */
static uint32_t mutate_object(struct mutator *mutator, const struct wl_interface *wanted)
{
	const struct objects *objects = &mutator->conversation.objects;
	bool any = below(mutator, 4) == 0;
	for (int i = 0; i < OBJECT_TRIES; i++) {
		uint32_t id = below(mutator, (uint32_t)objects->client.count);
		const struct object *object = objects_get(objects, id);
		if (object != NULL &&
			(any || wanted == NULL ||
				(object->interface != NULL &&
					strcmp(object->interface->name, wanted->name) == 0))) {
			return id;
		}
	}
	return 0;
}

/* Appends the new bytes of a string (its NUL counts) or an array, with length and padding. */
static bool put_bytes(struct wl_array *out, const uint8_t *bytes, uint32_t len, uint8_t fill)
{
	size_t padded = ((size_t)len + 3) & ~(size_t)3;
	uint8_t *at = wl_array_add(out, sizeof(len) + padded);
	if (at == NULL) {
		return false;
	}
	memset(at, 0, sizeof(len) + padded);
	memcpy(at, &len, sizeof(len));
	if (bytes != NULL) {
		memcpy(at + sizeof(len), bytes, len);
	} else {
		memset(at + sizeof(len), fill, len);
	}
	return true;
}

static bool put_string(struct mutator *mutator, struct wl_array *out)
{
	static const char *const texts[] = {"", "%s%n", "\xff\xfe", "\xc3", "../../etc", "\n\r\t"};
	size_t start = out->size;
	bool ok;
	if (below(mutator, 3) == 0) {
		ok = put_bytes(out, NULL, 2 + below(mutator, STRING_MAX), 'A');
	} else {
		const char *text = texts[below(mutator, sizeof(texts) / sizeof(texts[0]))];
		ok = put_bytes(out, (const uint8_t *)text, (uint32_t)strlen(text) + 1, 0);
	}
	if (ok) { // the NUL of what is only filled
		uint32_t len;
		memcpy(&len, (uint8_t *)out->data + start, sizeof(len));
		((uint8_t *)out->data)[start + sizeof(len) + len - 1] = '\0';
	}
	return ok;
}

static bool put_array(struct mutator *mutator, struct wl_array *out)
{
	static const uint32_t lengths[] = {0, 1, 3, 4, 5, 4096};
	uint32_t len = lengths[below(mutator, sizeof(lengths) / sizeof(lengths[0]))];
	return put_bytes(out, NULL, len, (uint8_t)next_random(mutator));
}

/* The bytes of the i-th argument as they are. */
static const uint8_t *arg_bytes(const struct wire_message *message, size_t i, size_t *len)
{
	const uint8_t *start = (const uint8_t *)message->args[i].word;
	const uint8_t *end = message->data + message->header.size;
	for (size_t next = i + 1; next < message->op->n_args; next++) {
		if (message->args[next].word != NULL) {
			end = (const uint8_t *)message->args[next].word;
			break;
		}
	}
	*len = start != NULL ? (size_t)(end - start) : 0;
	return start;
}

static bool put_mutated(
	struct mutator *mutator, struct wl_array *out, const struct wire_message *message, size_t i)
{
	const struct wire_arg_spec *spec = &message->op->args[i];
	uint32_t value = message->args[i].value;
	if (spec->type == WIRE_ARG_STRING || spec->type == WIRE_ARG_ANY_NEW_ID) {
		return put_string(mutator, out);
	}
	if (spec->type == WIRE_ARG_ARRAY) {
		return put_array(mutator, out);
	}
	value = spec->type == WIRE_ARG_OBJECT ? mutate_object(mutator, spec->interface)
					      : mutate_number(mutator, value);
	uint32_t *word = wl_array_add(out, sizeof(*word));
	if (word != NULL) {
		*word = value;
	}
	return word != NULL;
}

static bool copy_bytes(struct wl_array *out, const void *bytes, size_t len)
{
	void *at = wl_array_add(out, len);
	if (at != NULL && len > 0) {
		memcpy(at, bytes, len);
	}
	return at != NULL || len == 0;
}

/* bind's interface and version stay in front of the id, which alone is changed. */
static bool is_mutable(const struct wire_arg_spec *spec)
{
	return spec->type != WIRE_ARG_FD && spec->type != WIRE_ARG_NEW_ID &&
		spec->type != WIRE_ARG_ANY_NEW_ID;
}

static bool put_with_other_argument(
	struct mutator *mutator, struct wl_array *out, const struct wire_message *message)
{
	const struct wire_op *op = message->op;
	size_t chosen = below(mutator, (uint32_t)op->n_args);
	bool ok = copy_bytes(out, message->data, WIRE_HEADER_SIZE);
	for (size_t i = 0; ok && i < op->n_args; i++) {
		size_t len;
		const uint8_t *bytes = arg_bytes(message, i, &len);
		ok = i == chosen && is_mutable(&op->args[i]) ? put_mutated(mutator, out, message, i)
							     : copy_bytes(out, bytes, len);
	}
	if (ok) {
		uint32_t *words = out->data;
		words[1] = (uint32_t)out->size << 16 | message->header.opcode;
	}
	return ok;
}

/* ---- one message ---- */

static void put_message(struct mutator *mutator, const void *bytes, size_t len, size_t n_ids)
{
	size_t ids_len = n_ids * sizeof(uint32_t);
	const struct channel_header header = {
		.length = (uint32_t)(ids_len + len),
		.type = CHANNEL_MESSAGES,
		.arg = (uint32_t)n_ids,
	};
	struct recorded_frame *frame =
		recorded_frame_create(mutator->source->clock, RECORD_TO_HOST, &header);
	if (frame == NULL) {
		mutator->failed = true;
		return;
	}
	if (ids_len > 0) {
		memcpy(frame->payload, mutator->ids, ids_len);
	}
	memcpy(frame->payload + ids_len, bytes, len);
	wl_list_insert(mutator->source->link.prev, &frame->link);
	mutator->last = frame;
}

/* The message as a whole is changed. Its ids are not used twice. */
static void mutate_message(
	struct mutator *mutator, const struct conversation_message *message, size_t n_ids)
{
	uint8_t *data = message->message.data;
	uint32_t size = message->message.header.size, words[2];
	memcpy(words, data, sizeof(words));
	struct recorded_frame *previous = mutator->last;
	switch (below(mutator, 8)) {
	case 0: // left out
		return;
	case 1:
	case 2: // twice
		put_message(mutator, data, size, n_ids);
		put_message(mutator, data, size, 0);
		return;
	case 3:
	case 4: // before the one in front of it
		put_message(mutator, data, size, n_ids);
		if (previous != NULL && mutator->last != NULL && n_ids == 0) {
			wl_list_remove(&mutator->last->link);
			wl_list_insert(previous->link.prev, &mutator->last->link);
		}
		return;
	case 5:
		words[1] = (words[1] & 0xffff0000) | below(mutator, 16);
		break;
	case 6:
		words[0] = mutate_object(mutator, NULL);
		break;
	default:
		words[1] = (size - (below(mutator, 4) + 1)) << 16 | (words[1] & 0xffff);
		size = below(mutator, 2) == 0 ? size : words[1] >> 16;
		break;
	}
	memcpy(data, words, sizeof(words));
	put_message(mutator, data, size, n_ids);
}

static void mutate_argument(
	struct mutator *mutator, const struct conversation_message *message, size_t n_ids)
{
	struct wl_array out;
	wl_array_init(&out);
	if (!put_with_other_argument(mutator, &out, &message->message)) {
		mutator->failed = true;
	} else if (out.size <= WIRE_MESSAGE_MAX) {
		put_message(mutator, out.data, out.size, n_ids);
	} else {
		put_message(mutator, message->message.data, message->message.header.size, n_ids);
	}
	wl_array_release(&out);
}

static void take_message(void *data, const struct conversation_message *message)
{
	struct mutator *mutator = data;
	size_t n_ids = message->n_fds < mutator->n_ids ? message->n_fds : mutator->n_ids;
	const struct wire_op *op = message->message.op;
	if (mutator->idle || below(mutator, ONE_IN) != 0) {
		put_message(mutator, message->message.data, message->message.header.size, n_ids);
	} else if (op == NULL || op->n_args == 0 || below(mutator, 4) == 0) {
		mutator->count++;
		mutate_message(mutator, message, n_ids);
	} else {
		mutator->count++;
		mutate_argument(mutator, message, n_ids);
	}
	mutator->ids += n_ids * sizeof(uint32_t);
	mutator->n_ids -= n_ids;
}

/* ---- the recording ---- */

/* The objects are those that the client thought of. */
static void listen(void *data, const struct conversation_message *message)
{
	(void)data;
	(void)message;
}

static void take_frame(struct mutator *mutator, struct recorded_frame *frame)
{
	uint8_t *messages;
	size_t len;
	if (frame->header.type != CHANNEL_MESSAGES ||
		!conversation_split(
			&frame->header, frame->payload, &mutator->n_ids, &messages, &len)) {
		return;
	}
	if (frame->direction == RECORD_TO_GUEST) {
		conversation_read(&mutator->conversation, WIRE_EVENT, messages, len, listen, NULL);
		return;
	}
	mutator->source = frame;
	mutator->ids = frame->payload;
	mutator->last = NULL;
	conversation_read(
		&mutator->conversation, WIRE_REQUEST, messages, len, take_message, mutator);
	wl_list_remove(&frame->link);
	free(frame);
}

static bool run(struct mutator *mutator)
{
	struct recording *recording = mutator->recording;
	if (!conversation_init(&mutator->conversation)) {
		return false;
	}
	struct recorded_frame *frame, *next;
	wl_list_for_each_safe (frame, next, &recording->frames, link) {
		take_frame(mutator, frame);
	}
	recording->flags |= RECORD_MUTATED;
	conversation_finish(&mutator->conversation);
	return !mutator->failed;
}

bool mutation_apply(struct recording *recording, uint64_t seed, size_t *n_mutations)
{
	struct mutator mutator = {.state = seed, .recording = recording};
	bool ok = run(&mutator);
	*n_mutations = mutator.count;
	return ok;
}

bool mutation_split(struct recording *recording)
{
	struct mutator mutator = {.idle = true, .recording = recording};
	return run(&mutator);
}
