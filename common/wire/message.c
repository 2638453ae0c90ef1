#include "wire/message.h"

#include <string.h>

// libwayland before 1.23 receives into 4096 bytes, and a client must be able to read its error.
#define ERROR_MESSAGE_MAX 4096

#define DISPLAY_ERROR_EVENT 0

static uint32_t read_word(const uint8_t *data)
{
	uint32_t word;
	memcpy(&word, data, sizeof(word));
	return word;
}

static uint64_t round_up(uint32_t len)
{
	return ((uint64_t)len + 3) & ~(uint64_t)3;
}

// The arguments that were not decoded yet.
struct cursor {
	uint8_t *data;
	size_t len;
};

static bool take_word(struct cursor *cursor, struct wire_arg *arg, uint32_t *value)
{
	if (cursor->len < sizeof(uint32_t)) {
		return false;
	}
	if (arg->word == NULL) {
		arg->word = (uint32_t *)(void *)cursor->data;
	}
	*value = read_word(cursor->data);
	cursor->data += sizeof(uint32_t);
	cursor->len -= sizeof(uint32_t);
	return true;
}

// The len bytes of a string or an array, with their padding.
static const uint8_t *take_bytes(struct cursor *cursor, uint32_t len)
{
	uint64_t padded = round_up(len);
	if (cursor->len < padded) {
		return NULL;
	}
	const uint8_t *bytes = cursor->data;
	cursor->data += padded;
	cursor->len -= padded;
	return bytes;
}

static const char too_short[] = "message too short for its arguments";

static const char *decode_string(struct cursor *cursor, struct wire_arg *arg, bool nullable)
{
	uint32_t size; // with the NUL
	if (!take_word(cursor, arg, &size)) {
		return too_short;
	}
	if (size == 0) {
		return nullable ? NULL : "null string where none is allowed";
	}
	const uint8_t *bytes = take_bytes(cursor, size);
	if (bytes == NULL) {
		return "string longer than its message";
	}
	if (bytes[size - 1] != '\0') {
		return "string without its NUL";
	}
	if (memchr(bytes, '\0', size - 1) != NULL) {
		return "string with an embedded NUL";
	}
	arg->string = (const char *)bytes;
	arg->length = size - 1;
	return NULL;
}

static const char *decode_array(struct cursor *cursor, struct wire_arg *arg)
{
	if (!take_word(cursor, arg, &arg->length)) {
		return too_short;
	}
	return take_bytes(cursor, arg->length) != NULL ? NULL : "array longer than its message";
}

static const char *decode_new_id(struct cursor *cursor, struct wire_arg *arg)
{
	if (!take_word(cursor, arg, &arg->value)) {
		return too_short;
	}
	return arg->value != 0 ? NULL : "null new id";
}

static const char *decode_any_new_id(struct cursor *cursor, struct wire_arg *arg)
{
	const char *error = decode_string(cursor, arg, false);
	if (error != NULL) {
		return error;
	}
	if (!take_word(cursor, arg, &arg->version)) {
		return too_short;
	}
	return decode_new_id(cursor, arg);
}

static const char *decode_object(struct cursor *cursor, struct wire_arg *arg, bool nullable)
{
	if (!take_word(cursor, arg, &arg->value)) {
		return too_short;
	}
	return arg->value != 0 || nullable ? NULL : "null object where none is allowed";
}

static const char *decode_arg(
	struct cursor *cursor, struct wire_arg *arg, const struct wire_arg_spec *spec)
{
	*arg = (struct wire_arg){0};
	switch (spec->type) {
	case WIRE_ARG_INT:
	case WIRE_ARG_UINT:
	case WIRE_ARG_FIXED:
		return take_word(cursor, arg, &arg->value) ? NULL : too_short;
	case WIRE_ARG_STRING:
		return decode_string(cursor, arg, spec->nullable);
	case WIRE_ARG_OBJECT:
		return decode_object(cursor, arg, spec->nullable);
	case WIRE_ARG_NEW_ID:
		return decode_new_id(cursor, arg);
	case WIRE_ARG_ANY_NEW_ID:
		return decode_any_new_id(cursor, arg);
	case WIRE_ARG_ARRAY:
		return decode_array(cursor, arg);
	case WIRE_ARG_FD:
		return NULL;
	}
	return "argument of no known type";
}

// The quick way for most messages; what is not of a word's type stays unset.
static void decode_words(struct wire_message *message, uint8_t *data)
{
	for (size_t i = 0; i < message->op->n_args; i++) {
		struct wire_arg *arg = &message->args[i];
		arg->word = (uint32_t *)(data + i * sizeof(uint32_t));
		memcpy(&arg->value, arg->word, sizeof(arg->value));
	}
}

const char *wire_message_decode(struct wire_message *message, const struct wire_header *header,
	uint8_t *data, const struct wire_op *op)
{
	if (header->size < WIRE_HEADER_SIZE || header->size % sizeof(uint32_t) != 0 ||
		header->size > WIRE_MESSAGE_MAX) {
		return "message of an impossible size";
	}
	message->header = *header;
	message->data = data;
	message->op = op;
	if (op->only_words && header->size == op->fixed_size) {
		decode_words(message, data + WIRE_HEADER_SIZE);
		return NULL;
	}
	struct cursor cursor = {
		.data = data + WIRE_HEADER_SIZE,
		.len = header->size - WIRE_HEADER_SIZE,
	};
	for (size_t i = 0; i < op->n_args; i++) {
		const char *error = decode_arg(&cursor, &message->args[i], &op->args[i]);
		if (error != NULL) {
			return error;
		}
	}
	return cursor.len == 0 ? NULL : "message too long for its arguments";
}

bool wire_encode_uint(struct wl_array *out, uint32_t value)
{
	uint32_t *word = wl_array_add(out, sizeof(*word));
	if (word == NULL) {
		return false;
	}
	memcpy(word, &value, sizeof(value));
	return true;
}

bool wire_encode_begin(struct wl_array *out, uint32_t object, uint32_t opcode)
{
	return wire_encode_uint(out, object) && wire_encode_uint(out, opcode & 0xffff);
}

// size bytes, of which the first len are given and the others are zeros.
static bool encode_bytes(struct wl_array *out, const void *data, size_t len, size_t size)
{
	if (size > WIRE_MESSAGE_MAX || !wire_encode_uint(out, (uint32_t)size)) {
		return false;
	}
	uint64_t padded = round_up((uint32_t)size);
	uint8_t *bytes = wl_array_add(out, padded);
	if (bytes == NULL) {
		return false;
	}
	if (len > 0) {
		memcpy(bytes, data, len);
	}
	memset(bytes + len, 0, padded - len);
	return true;
}

static bool encode_text(struct wl_array *out, const char *text, size_t len)
{
	return encode_bytes(out, text, len, len + 1);
}

bool wire_encode_array(struct wl_array *out, const void *data, size_t size)
{
	return encode_bytes(out, data, size, size);
}

bool wire_encode_string(struct wl_array *out, const char *string)
{
	if (string == NULL) {
		return wire_encode_uint(out, 0);
	}
	return encode_text(out, string, strlen(string));
}

bool wire_encode_end(struct wl_array *out, size_t start)
{
	size_t size = out->size - start;
	if (size > WIRE_MESSAGE_MAX) {
		return false;
	}
	uint8_t *word = (uint8_t *)out->data + start + 4;
	uint32_t value = (uint32_t)size << 16 | read_word(word);
	memcpy(word, &value, sizeof(value));
	return true;
}

// The length of text's longest start of at most max bytes that ends with a whole UTF-8 character.
static size_t cut_text(const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);
	if (len <= max) {
		return len;
	}
	len = max;
	while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80) {
		len--;
	}
	return len;
}

bool wire_encode_error(struct wl_array *out, uint32_t object, uint32_t code, const char *text)
{
	// Header, object, code, length of the text; the text has its NUL.
	size_t room = ERROR_MESSAGE_MAX - WIRE_HEADER_SIZE - 3 * sizeof(uint32_t) - 1;
	size_t start = out->size;
	if (wire_encode_begin(out, WIRE_DISPLAY_ID, DISPLAY_ERROR_EVENT) &&
		wire_encode_uint(out, object) && wire_encode_uint(out, code) &&
		encode_text(out, text, cut_text(text, room)) && wire_encode_end(out, start)) {
		return true;
	}
	out->size = start;
	return false;
}
