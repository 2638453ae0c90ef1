/*
 * A protocol file of --protocol, by somebody who is not trusted, and behind its first NUL a message
 * that is decoded by each request and event of the file.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "wire/message.h"
#include "wire/schema.h"
#include "wire/xml.h"

#define OBJECT 5

struct text {
	const uint8_t *bytes;
	size_t len;
};

// ---- messages ----

static bool is_inside(const struct wire_message *message, const void *at)
{
	const uint8_t *byte = at;
	return byte >= message->data && byte < message->data + message->header.size;
}

static void check_arg(const struct wire_message *message, const struct wire_arg *arg,
	const struct wire_arg_spec *spec)
{
	fuzz_check(spec->type == WIRE_ARG_FD || is_inside(message, arg->word),
		"an argument is part of its message");
	if (arg->string != NULL) {
		fuzz_check(is_inside(message, arg->string), "a string is part of its message");
		fuzz_check(strlen(arg->string) == arg->length, "a string is as long as it says");
	}
}

static void decode(const struct wire_op *op, size_t opcode, const struct text *text)
{
	size_t len = text->len < WIRE_MESSAGE_MAX ? text->len : WIRE_MESSAGE_MAX;
	size_t size = WIRE_HEADER_SIZE + len / 4 * 4;
	uint8_t *data = calloc(1, size);
	fuzz_check(data != NULL, "there is memory");
	memcpy(data + WIRE_HEADER_SIZE, text->bytes, size - WIRE_HEADER_SIZE);
	const uint32_t words[] = {OBJECT, (uint32_t)(size << 16 | opcode)};
	memcpy(data, words, sizeof(words));
	struct wire_header header;
	fuzz_check(wire_header_decode(data, size, &header) && header.size == size,
		"a header is what was written");
	struct wire_message message;
	if (wire_message_decode(&message, &header, data, op) == NULL) {
		for (size_t i = 0; i < op->n_args; i++) {
			check_arg(&message, &message.args[i], &op->args[i]);
		}
	}
	free(data);
}

static void decode_all(const struct wire_interface *interface, const struct text *text)
{
	for (int direction = 0; direction < 2; direction++) {
		const struct wire_ops *ops = &interface->ops[direction];
		for (size_t i = 0; i < ops->count; i++) {
			decode(&ops->ops[i], i, text);
		}
	}
}

// ---- files ----

static void use_file(const char *path, const struct text *message)
{
	char error[256] = "";
	struct wire_xml *xml = wire_xml_load(path, error, sizeof(error));
	bool loaded = wire_schema_load(path, error, sizeof(error));
	fuzz_check(xml != NULL || !loaded, "what is no protocol is not loaded");
	fuzz_check(loaded || (error[0] != '\0' && strchr(error, '\n') == NULL),
		"one line says what is wrong");
	for (size_t i = 0; loaded && i < xml->n_interfaces; i++) {
		const char *name = xml->interfaces[i].interface->name;
		const struct wire_interface *interface = wire_schema_find(name);
		fuzz_check(interface != NULL, "an interface that was loaded is known");
		decode_all(interface, message);
	}
	wire_xml_destroy(xml);
	wire_schema_finish();
}

void fuzz_one(struct fuzz_input *input)
{
	const uint8_t *nul = input->size > 0 ? memchr(input->data, '\0', input->size) : NULL;
	size_t len = nul != NULL ? (size_t)(nul - input->data) : input->size;
	struct text message = {.bytes = input->data + len, .len = input->size - len};
	if (message.len > 0) {
		message.bytes++;
		message.len--;
	}
	int fd = memfd_create("protocol", MFD_CLOEXEC);
	fuzz_check(fd >= 0 && write(fd, input->data, len) == (ssize_t)len, "a file can be written");
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	use_file(path, &message);
	close(fd);
}
