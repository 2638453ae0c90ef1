#include "wire/schema.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/wayland/protocol.h"
#include "wire/xml.h"

struct entry {
	struct protocol_interface known;
	struct wire_interface *compiled; // NULL until it is looked up
};

struct file {
	struct wire_xml *xml;
	struct file *next;
};

// A direct-mapped cache in front of the search by name.
#define CACHE_SIZE 256
struct cache_line {
	const struct wl_interface *source;
	const struct wire_interface *compiled;
};

static struct {
	struct entry *entries; // sorted by name; NULL until the first look-up
	size_t n_entries;
	struct file *files;
	wire_schema_hook_func hooks;
	struct cache_line cache[CACHE_SIZE];
} schema;

static bool make_entries(void)
{
	if (schema.entries != NULL) {
		return true;
	}
	struct entry *entries = calloc(protocol_interfaces_len, sizeof(*entries));
	if (entries == NULL) {
		return false;
	}
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		entries[i].known = protocol_interfaces[i];
	}
	schema.entries = entries;
	schema.n_entries = protocol_interfaces_len;
	return true;
}

// The index of the entry, or the one where it belongs.
static size_t search(const char *name, bool *found)
{
	size_t low = 0, high = schema.n_entries;
	*found = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(name, schema.entries[middle].known.interface->name);
		if (order == 0) {
			*found = true;
			return middle;
		}
		if (order < 0) {
			high = middle;
		} else {
			low = middle + 1;
		}
	}
	return low;
}

static enum wire_arg_type arg_type(char letter)
{
	switch (letter) {
	case 'i':
		return WIRE_ARG_INT;
	case 'u':
		return WIRE_ARG_UINT;
	case 'f':
		return WIRE_ARG_FIXED;
	case 's':
		return WIRE_ARG_STRING;
	case 'o':
		return WIRE_ARG_OBJECT;
	case 'n':
		return WIRE_ARG_NEW_ID;
	case 'a':
		return WIRE_ARG_ARRAY;
	case 'h':
		return WIRE_ARG_FD;
	}
	assert(!"unknown letter in a signature");
	return WIRE_ARG_INT;
}

// Splits a wl_message's signature into specs (room for WIRE_MAX_ARGS) and sets op's since.
static size_t compile_args(
	const struct wl_message *message, struct wire_op *op, struct wire_arg_spec *specs)
{
	char *letter;
	op->since = strtoul(message->signature, &letter, 10);
	if (op->since == 0) {
		op->since = 1;
	}
	size_t n = 0, n_types = 0;
	bool nullable = false;
	for (; *letter != '\0'; letter++) {
		if (*letter == '?') {
			nullable = true;
			continue;
		}
		assert(n_types < WIRE_MAX_ARGS);
		const struct wl_interface *interface =
			message->types != NULL ? message->types[n_types] : NULL;
		n_types++;
		specs[n++] = (struct wire_arg_spec){
			.type = arg_type(*letter),
			.nullable = nullable,
			.interface = interface,
		};
		nullable = false;
		// wayland-scanner writes a new_id of no given interface as "sun".
		if (*letter == 'n' && interface == NULL) {
			assert(n >= 3 && specs[n - 3].type == WIRE_ARG_STRING &&
				specs[n - 2].type == WIRE_ARG_UINT);
			n -= 2;
			specs[n - 1] = (struct wire_arg_spec){.type = WIRE_ARG_ANY_NEW_ID};
		}
	}
	return n;
}

// What follows from the arguments.
static void summarize_args(struct wire_op *op)
{
	bool varies = false, words = true;
	uint32_t size = 8;
	for (size_t i = 0; i < op->n_args; i++) {
		enum wire_arg_type type = op->args[i].type;
		bool is_word = type == WIRE_ARG_INT || type == WIRE_ARG_UINT ||
			type == WIRE_ARG_FIXED || (type == WIRE_ARG_OBJECT && op->args[i].nullable);
		words = words && is_word;
		if (type == WIRE_ARG_FD) {
			op->n_fds++;
			continue;
		}
		if (type == WIRE_ARG_NEW_ID || type == WIRE_ARG_ANY_NEW_ID) {
			op->makes_object = true;
		}
		if (type == WIRE_ARG_STRING || type == WIRE_ARG_ARRAY ||
			type == WIRE_ARG_ANY_NEW_ID) {
			varies = true;
		}
		size += 4;
	}
	op->fixed_size = varies ? 0 : size;
	op->only_words = words;
}

static bool compile_op(struct wire_op *op, const char *interface, const struct wl_message *message)
{
	struct wire_arg_spec specs[WIRE_MAX_ARGS];
	op->name = message->name;
	op->n_args = compile_args(message, op, specs);
	if (op->n_args > 0) {
		struct wire_arg_spec *args = malloc(op->n_args * sizeof(*args));
		if (args == NULL) {
			return false;
		}
		memcpy(args, specs, op->n_args * sizeof(*args));
		op->args = args;
	}
	summarize_args(op);
	if (op->n_fds > 0) {
		const struct protocol_fd *fd = protocol_fd_find(interface, op->name);
		if (fd != NULL) {
			op->fd_kind = fd->kind;
			op->fd_kind_known = true;
		}
	}
	return true;
}

static bool compile_ops(struct wire_ops *ops, const char *interface,
	const struct wl_message *messages, size_t count, uint64_t destructors)
{
	if (count == 0) {
		return true;
	}
	ops->ops = calloc(count, sizeof(*ops->ops));
	if (ops->ops == NULL) {
		return false;
	}
	ops->count = count;
	for (size_t i = 0; i < count; i++) {
		if (!compile_op(&ops->ops[i], interface, &messages[i])) {
			return false;
		}
		ops->ops[i].is_destructor = i < 64 && (destructors >> i & 1) != 0;
	}
	return true;
}

static void destroy_compiled(struct wire_interface *compiled)
{
	if (compiled == NULL) {
		return;
	}
	for (size_t direction = 0; direction < 2; direction++) {
		struct wire_ops *ops = &compiled->ops[direction];
		for (size_t i = 0; i < ops->count; i++) {
			free((void *)ops->ops[i].args);
		}
		free(ops->ops);
	}
	free(compiled);
}

static void set_hooks(struct wire_interface *compiled)
{
	if (schema.hooks == NULL) {
		return;
	}
	for (size_t direction = 0; direction < 2; direction++) {
		struct wire_ops *ops = &compiled->ops[direction];
		for (size_t i = 0; i < ops->count; i++) {
			ops->ops[i].hook = schema.hooks(
				compiled, (enum wire_direction)direction, &ops->ops[i]);
		}
	}
}

static struct wire_interface *compile(const struct protocol_interface *known)
{
	const struct wl_interface *source = known->interface;
	struct wire_interface *compiled = calloc(1, sizeof(*compiled));
	if (compiled == NULL) {
		return NULL;
	}
	compiled->name = source->name;
	compiled->version = source->version;
	compiled->source = source;
	if (!compile_ops(&compiled->ops[WIRE_REQUEST], source->name, source->methods,
		    source->method_count, known->request_destructors) ||
		!compile_ops(&compiled->ops[WIRE_EVENT], source->name, source->events,
			source->event_count, known->event_destructors)) {
		destroy_compiled(compiled);
		return NULL;
	}
	set_hooks(compiled);
	return compiled;
}

const struct wire_interface *wire_schema_find(const char *name)
{
	if (!make_entries()) {
		return NULL;
	}
	bool found;
	size_t i = search(name, &found);
	if (!found) {
		return NULL;
	}
	struct entry *entry = &schema.entries[i];
	if (entry->compiled == NULL) {
		entry->compiled = compile(&entry->known);
	}
	return entry->compiled;
}

const struct wire_interface *wire_schema_get(const struct wl_interface *interface)
{
	struct cache_line *line =
		&schema.cache[(uintptr_t)interface / sizeof(*interface) % CACHE_SIZE];
	if (line->source == interface && line->compiled != NULL) {
		return line->compiled;
	}
	const struct wire_interface *compiled = wire_schema_find(interface->name);
	if (compiled != NULL) {
		*line = (struct cache_line){.source = interface, .compiled = compiled};
	}
	return compiled;
}

void wire_schema_set_hooks(wire_schema_hook_func hooks)
{
	schema.hooks = hooks;
}

// There is room for one more entry.
static void add_interface(const struct protocol_interface *interface)
{
	bool found;
	size_t i = search(interface->interface->name, &found);
	struct entry *entry = &schema.entries[i];
	if (!found) {
		memmove(entry + 1, entry, (schema.n_entries - i) * sizeof(*entry));
		schema.n_entries++;
		*entry = (struct entry){.known = *interface};
		return;
	}
	if (entry->compiled == NULL &&
		entry->known.interface->version < interface->interface->version) {
		entry->known = *interface;
	}
}

bool wire_schema_load(const char *path, char *error, size_t error_len)
{
	struct wire_xml *xml = wire_xml_load(path, error, error_len);
	if (xml == NULL) {
		return false;
	}
	struct file *file = malloc(sizeof(*file));
	if (file == NULL || !make_entries()) {
		goto err_xml;
	}
	struct entry *entries =
		realloc(schema.entries, (schema.n_entries + xml->n_interfaces) * sizeof(*entries));
	if (entries == NULL) {
		goto err_xml;
	}
	schema.entries = entries;
	*file = (struct file){.xml = xml, .next = schema.files};
	schema.files = file;
	for (size_t i = 0; i < xml->n_interfaces; i++) {
		add_interface(&xml->interfaces[i]);
	}
	return true;

err_xml:
	snprintf(error, error_len, "%s: out of memory", path);
	free(file);
	wire_xml_destroy(xml);
	return false;
}

void wire_schema_finish(void)
{
	for (size_t i = 0; i < schema.n_entries; i++) {
		destroy_compiled(schema.entries[i].compiled);
	}
	free(schema.entries);
	while (schema.files != NULL) {
		struct file *file = schema.files;
		schema.files = file->next;
		wire_xml_destroy(file->xml);
		free(file);
	}
	memset(&schema, 0, sizeof(schema));
}
