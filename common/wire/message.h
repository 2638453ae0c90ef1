#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "wire/schema.h"

/**
 * The Wayland wire format (wayland-book "Wire protocol", libwayland's connection.c): a message is
 * object id, then size << 16 | opcode, then the arguments, all 32-bit words in the machine's byte
 * order. Nothing here does I/O or owns memory: a decoded message points into the bytes given.
 */

#define WIRE_HEADER_SIZE 8
#define WIRE_MESSAGE_MAX 65532 // the size field has 16 bits and sizes are whole words

#define WIRE_DISPLAY_ID    1u
#define WIRE_SERVER_ID_MIN 0xff000000u

struct wire_header {
	uint32_t object;
	uint32_t size; // with the header
	uint32_t opcode;
};

// One argument. word points at its first word in the message, so that a handler may rewrite it.
struct wire_arg {
	uint32_t *word;     // NULL for an fd
	const char *string; // STRING, and the interface name of ANY_NEW_ID; NULL if null
	uint32_t length;    // of STRING without its NUL, of ARRAY in bytes
	uint32_t version;   // of ANY_NEW_ID
	uint32_t value;     // INT, UINT, FIXED, OBJECT and both NEW_IDs
};

struct wire_message {
	struct wire_header header;
	uint8_t *data; // the whole message, header included
	const struct wire_op *op;
	struct wire_arg args[WIRE_MAX_ARGS];
};

// False if fewer than WIRE_HEADER_SIZE bytes are given. Does not judge the values.
static inline bool wire_header_decode(const uint8_t *data, size_t len, struct wire_header *header)
{
	uint32_t words[2];
	if (len < sizeof(words)) {
		return false;
	}
	memcpy(words, data, sizeof(words));
	*header = (struct wire_header){
		.object = words[0],
		.size = words[1] >> 16,
		.opcode = words[1] & 0xffff,
	};
	return true;
}

// Splits a whole message (header->size bytes at data, 4-byte aligned) by its op. Returns NULL, or
// in one static phrase what is wrong with it: a size that does not fit the signature, a string
// without its NUL or with an embedded one, null where it is not allowed, nonzero ids missing.
const char *wire_message_decode(struct wire_message *message, const struct wire_header *header,
	uint8_t *data, const struct wire_op *op);

/**
 * Encoding, for the few messages that are made or changed here. The buffer grows by wl_array.
 */
struct wl_array;
bool wire_encode_begin(struct wl_array *out, uint32_t object, uint32_t opcode);
bool wire_encode_uint(struct wl_array *out, uint32_t value);
bool wire_encode_string(struct wl_array *out, const char *string); // may be NULL
bool wire_encode_array(struct wl_array *out, const void *data, size_t size);
// Writes the size of the message that began at offset start of out. False: too long.
bool wire_encode_end(struct wl_array *out, size_t start);

// wl_display.error for the display object's client: object_id, code, text (cut to fit a message).
bool wire_encode_error(struct wl_array *out, uint32_t object, uint32_t code, const char *text);

#endif
