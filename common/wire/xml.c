#include "wire/xml.h"

#include <errno.h>
#include <expat.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wire/schema.h"

#define NAME_MAX_LEN 128

// Memory is only ever freed as a whole.
struct wire_xml_chunk {
	struct wire_xml_chunk *next;
	_Alignas(max_align_t) unsigned char bytes[];
};

// What was read of a message and an interface, before the tables are built.
struct draft_message {
	const char *name;
	const char *signature;
	bool destructor;
	size_t n_types;
	const char *types[WIRE_MAX_ARGS]; // interface names; NULL where there is none
};

struct draft_interface {
	const char *name;
	int version;
	size_t n_messages[2]; // by enum wire_direction
	struct draft_message *messages[2][WIRE_XML_MESSAGES_MAX];
};

struct loader {
	const char *path;
	XML_Parser parser;
	char *error;
	size_t error_len;
	bool failed;

	struct wire_xml *xml;
	struct wire_xml_chunk *drafts;
	size_t depth; // of the open elements
	size_t n_interfaces;
	struct draft_interface *interfaces[WIRE_XML_INTERFACES_MAX];
	struct draft_interface *interface; // open ones, or NULL
	struct draft_message *message;
	unsigned long since; // of message
	char signature[3 * WIRE_MAX_ARGS + 16];

	struct wl_interface *stubs[WIRE_XML_INTERFACES_MAX];
	size_t n_stubs;
};

static void __attribute__((format(printf, 2, 3))) fail(struct loader *loader, const char *fmt, ...)
{
	if (loader->failed) {
		return;
	}
	loader->failed = true;
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	for (char *c = text; *c != '\0'; c++) {
		*c = (unsigned char)*c < ' ' || *c == 0x7f ? '?'
							   : *c; // one line, whatever is quoted
	}
	unsigned long line = XML_GetCurrentLineNumber(loader->parser);
	snprintf(loader->error, loader->error_len, "%s:%lu: %s", loader->path, line, text);
	XML_StopParser(loader->parser, XML_FALSE);
}

// Zeroed. NULL and failed on ENOMEM.
static void *take_memory(struct loader *loader, struct wire_xml_chunk **chunks, size_t size)
{
	struct wire_xml_chunk *chunk = calloc(1, sizeof(*chunk) + size);
	if (chunk == NULL) {
		fail(loader, "out of memory");
		return NULL;
	}
	chunk->next = *chunks;
	*chunks = chunk;
	return chunk->bytes;
}

static void free_chunks(struct wire_xml_chunk *chunk)
{
	while (chunk != NULL) {
		struct wire_xml_chunk *next = chunk->next;
		free(chunk);
		chunk = next;
	}
}

// Strings go into the tables' own memory.
static const char *copy_string(struct loader *loader, const char *string)
{
	size_t size = strlen(string) + 1;
	char *copy = take_memory(loader, &loader->xml->chunks, size);
	return copy != NULL ? memcpy(copy, string, size) : NULL;
}

static const char *find_attribute(const char **attributes, const char *name)
{
	for (size_t i = 0; attributes[i] != NULL; i += 2) {
		if (strcmp(attributes[i], name) == 0) {
			return attributes[i + 1];
		}
	}
	return NULL;
}

static bool is_name(const char *name)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
	size_t len = strnlen(name, NAME_MAX_LEN + 1);
	return len > 0 && len <= NAME_MAX_LEN && strspn(name, letters) == len;
}

// The name attribute; NULL and failed if it is missing or no name.
static const char *read_name(struct loader *loader, const char *element, const char **attributes)
{
	const char *name = find_attribute(attributes, "name");
	if (name == NULL) {
		fail(loader, "<%s> without a name", element);
		return NULL;
	}
	if (!is_name(name)) {
		fail(loader, "\"%.64s\" cannot be the name of <%s>", name, element);
		return NULL;
	}
	return name;
}

// A number from 1 to INT_MAX. 0 and failed if it is none.
static unsigned long read_version(struct loader *loader, const char *what, const char *text)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long value = 0;
	if (digits > 0 && digits <= 10 && text[digits] == '\0') {
		value = strtoul(text, NULL, 10);
	}
	if (value == 0 || value > INT_MAX) {
		fail(loader, "%s \"%.64s\" is not a number from 1", what, text);
		return 0;
	}
	return value;
}

static void start_interface(struct loader *loader, const char **attributes)
{
	const char *name = read_name(loader, "interface", attributes);
	if (name == NULL) {
		return;
	}
	const char *version = find_attribute(attributes, "version");
	if (version == NULL) {
		fail(loader, "interface %s without a version", name);
		return;
	}
	unsigned long number = read_version(loader, "version", version);
	if (number == 0) {
		return;
	}
	for (size_t i = 0; i < loader->n_interfaces; i++) {
		if (strcmp(loader->interfaces[i]->name, name) == 0) {
			fail(loader, "interface %s is defined twice", name);
			return;
		}
	}
	if (loader->n_interfaces == WIRE_XML_INTERFACES_MAX) {
		fail(loader, "more than %d interfaces", WIRE_XML_INTERFACES_MAX);
		return;
	}
	struct draft_interface *interface =
		take_memory(loader, &loader->drafts, sizeof(*interface));
	if (interface == NULL) {
		return;
	}
	interface->name = copy_string(loader, name);
	interface->version = (int)number;
	loader->interfaces[loader->n_interfaces++] = interface;
	loader->interface = interface;
}

static const char *const element_names[] = {
	[WIRE_REQUEST] = "request",
	[WIRE_EVENT] = "event",
};

static void start_message(
	struct loader *loader, enum wire_direction direction, const char **attributes)
{
	struct draft_interface *interface = loader->interface;
	const char *element = element_names[direction];
	const char *name = read_name(loader, element, attributes);
	if (name == NULL) {
		return;
	}
	size_t n = interface->n_messages[direction];
	for (size_t i = 0; i < n; i++) {
		if (strcmp(interface->messages[direction][i]->name, name) == 0) {
			fail(loader, "%s %s.%s is defined twice", element, interface->name, name);
			return;
		}
	}
	if (n == WIRE_XML_MESSAGES_MAX) {
		fail(loader, "more than %d %ss in %s", WIRE_XML_MESSAGES_MAX, element,
			interface->name);
		return;
	}
	const char *since = find_attribute(attributes, "since");
	loader->since = since != NULL ? read_version(loader, "since", since) : 1;
	if (loader->since > (unsigned long)interface->version) {
		fail(loader, "%s.%s is newer than its interface: %lu > %d", interface->name, name,
			loader->since, interface->version);
	}
	const char *type = find_attribute(attributes, "type");
	if (type != NULL && strcmp(type, "destructor") != 0) {
		fail(loader, "%s of unknown type \"%.64s\"", element, type);
	}
	if (loader->failed) {
		return;
	}
	struct draft_message *message = take_memory(loader, &loader->drafts, sizeof(*message));
	if (message == NULL) {
		return;
	}
	message->name = copy_string(loader, name);
	message->destructor = type != NULL;
	loader->signature[0] = '\0';
	if (loader->since > 1) {
		snprintf(loader->signature, sizeof(loader->signature), "%lu", loader->since);
	}
	interface->messages[direction][n] = message;
	interface->n_messages[direction]++;
	loader->message = message;
}

static char type_letter(const char *type)
{
	static const struct {
		const char *name;
		char letter;
	} types[] = {
		{"int", 'i'},
		{"uint", 'u'},
		{"fixed", 'f'},
		{"string", 's'},
		{"object", 'o'},
		{"new_id", 'n'},
		{"array", 'a'},
		{"fd", 'h'},
	};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if (strcmp(types[i].name, type) == 0) {
			return types[i].letter;
		}
	}
	return '\0';
}

// The letters of one argument, all but the last of which have no interface.
static void add_letters(
	struct loader *loader, const char *letters, bool nullable, const char *interface)
{
	struct draft_message *message = loader->message;
	size_t n = strlen(letters);
	if (message->n_types + n > WIRE_MAX_ARGS) {
		fail(loader, "%s.%s has more than %d arguments", loader->interface->name,
			message->name, WIRE_MAX_ARGS);
		return;
	}
	message->n_types += n;
	message->types[message->n_types - 1] = interface;
	size_t len = strlen(loader->signature);
	snprintf(loader->signature + len, sizeof(loader->signature) - len, "%s%s",
		nullable ? "?" : "", letters);
}

static void start_arg(struct loader *loader, const char **attributes)
{
	const char *name = read_name(loader, "arg", attributes);
	if (name == NULL) {
		return;
	}
	const char *type = find_attribute(attributes, "type");
	if (type == NULL) {
		fail(loader, "argument %s without a type", name);
		return;
	}
	char letter = type_letter(type);
	if (letter == '\0') {
		fail(loader, "argument %s of unknown type \"%.64s\"", name, type);
		return;
	}
	const char *interface = find_attribute(attributes, "interface");
	if (interface != NULL) {
		if (letter != 'o' && letter != 'n') {
			fail(loader, "argument %s of type %s with an interface", name, type);
			return;
		}
		if (!is_name(interface)) {
			fail(loader, "\"%.64s\" cannot be the name of an interface", interface);
			return;
		}
		interface = copy_string(loader, interface);
		if (interface == NULL) {
			return;
		}
	}
	const char *allow_null = find_attribute(attributes, "allow-null");
	bool nullable = allow_null != NULL && strcmp(allow_null, "true") == 0;
	if (allow_null != NULL && !nullable && strcmp(allow_null, "false") != 0) {
		fail(loader, "allow-null is neither true nor false: \"%.64s\"", allow_null);
		return;
	}
	if (nullable && strchr("soa", letter) == NULL) {
		fail(loader, "argument %s of type %s cannot be null", name, type);
		return;
	}
	if (letter == 'n' && interface == NULL) {
		add_letters(loader, "sun", false, NULL);
	} else {
		add_letters(loader, (char[]){letter, '\0'}, nullable, interface);
	}
}

// Elements are known by their place: only the depth of what encloses them has to be right.
enum element_depth {
	DEPTH_PROTOCOL,
	DEPTH_INTERFACE,
	DEPTH_MESSAGE,
	DEPTH_ARG,
};

static void XMLCALL handle_start(void *data, const XML_Char *element, const XML_Char **attributes)
{
	struct loader *loader = data;
	if (loader->failed) {
		return;
	}
	size_t depth = loader->depth++;
	if (depth == DEPTH_PROTOCOL) {
		if (strcmp(element, "protocol") != 0) {
			fail(loader, "not a protocol: it begins with <%.64s>", element);
		}
		return;
	}
	if (strcmp(element, "interface") == 0) {
		if (depth != DEPTH_INTERFACE) {
			fail(loader, "<interface> out of its place");
			return;
		}
		start_interface(loader, attributes);
		return;
	}
	for (size_t i = 0; i < 2; i++) {
		if (strcmp(element, element_names[i]) != 0) {
			continue;
		}
		if (depth != DEPTH_MESSAGE || loader->interface == NULL) {
			fail(loader, "<%s> outside an interface", element);
			return;
		}
		start_message(loader, (enum wire_direction)i, attributes);
		return;
	}
	if (strcmp(element, "arg") == 0) {
		if (depth != DEPTH_ARG || loader->message == NULL) {
			fail(loader, "<arg> outside a request or an event");
			return;
		}
		start_arg(loader, attributes);
	}
}

static void XMLCALL handle_end(void *data, const XML_Char *element)
{
	(void)element;
	struct loader *loader = data;
	if (loader->failed) {
		return;
	}
	loader->depth--;
	if (loader->depth == DEPTH_MESSAGE && loader->message != NULL) {
		loader->message->signature = copy_string(loader, loader->signature);
		loader->message = NULL;
	}
	if (loader->depth == DEPTH_INTERFACE) {
		loader->interface = NULL;
	}
}

// Without one there are no entities to expand either.
static void XMLCALL handle_doctype(void *data, const XML_Char *name, const XML_Char *system_id,
	const XML_Char *public_id, int has_internal_subset)
{
	(void)name;
	(void)system_id;
	(void)public_id;
	(void)has_internal_subset;
	fail(data, "document type declarations are not accepted");
}

static void parse(struct loader *loader, int fd)
{
	char data[16384];
	size_t total = 0;
	bool more = true;
	while (more && !loader->failed) {
		ssize_t n = read(fd, data, sizeof(data));
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			fail(loader, "%s", strerror(errno));
			return;
		}
		more = n > 0;
		total += n;
		if (total > WIRE_XML_SIZE_MAX) {
			fail(loader, "file larger than %u bytes", WIRE_XML_SIZE_MAX);
			return;
		}
		if (XML_Parse(loader->parser, data, (int)n, !more) != XML_STATUS_OK) {
			fail(loader, "%s", XML_ErrorString(XML_GetErrorCode(loader->parser)));
		}
	}
	if (!loader->failed && loader->n_interfaces == 0) {
		fail(loader, "no interface in it");
	}
}

// The interface of that name in the file, or else a stub.
static const struct wl_interface *resolve(struct loader *loader, const char *name)
{
	for (size_t i = 0; i < loader->n_interfaces; i++) {
		if (strcmp(loader->interfaces[i]->name, name) == 0) {
			return loader->xml->interfaces[i].interface;
		}
	}
	for (size_t i = 0; i < loader->n_stubs; i++) {
		if (strcmp(loader->stubs[i]->name, name) == 0) {
			return loader->stubs[i];
		}
	}
	if (loader->n_stubs == WIRE_XML_INTERFACES_MAX) {
		fail(loader, "more than %d interfaces of other files", WIRE_XML_INTERFACES_MAX);
		return NULL;
	}
	struct wl_interface *stub = take_memory(loader, &loader->xml->chunks, sizeof(*stub));
	if (stub != NULL) {
		stub->name = name;
		loader->stubs[loader->n_stubs++] = stub;
	}
	return stub;
}

// Returns the mask of destructors.
static uint64_t build_messages(struct loader *loader, struct draft_message *const *drafts,
	size_t count, const struct wl_message **result)
{
	uint64_t destructors = 0;
	if (count == 0) {
		return 0;
	}
	struct wl_message *messages =
		take_memory(loader, &loader->xml->chunks, count * sizeof(*messages));
	for (size_t i = 0; i < count && !loader->failed; i++) {
		const struct draft_message *draft = drafts[i];
		const struct wl_interface **types = take_memory(loader, &loader->xml->chunks,
			(draft->n_types + 1) * sizeof(const struct wl_interface *));
		for (size_t j = 0; j < draft->n_types && !loader->failed; j++) {
			if (draft->types[j] != NULL) {
				types[j] = resolve(loader, draft->types[j]);
			}
		}
		messages[i] = (struct wl_message){
			.name = draft->name,
			.signature = draft->signature,
			.types = types,
		};
		destructors |= (uint64_t)draft->destructor << i;
	}
	*result = messages;
	return destructors;
}

static void build(struct loader *loader)
{
	struct wire_xml *xml = loader->xml;
	size_t n = loader->n_interfaces;
	struct wl_interface *interfaces =
		take_memory(loader, &xml->chunks, n * sizeof(*interfaces));
	xml->interfaces = take_memory(loader, &xml->chunks, n * sizeof(*xml->interfaces));
	if (loader->failed) {
		return;
	}
	xml->n_interfaces = n;
	for (size_t i = 0; i < n; i++) {
		interfaces[i].name = loader->interfaces[i]->name;
		interfaces[i].version = loader->interfaces[i]->version;
		xml->interfaces[i].interface = &interfaces[i];
	}
	for (size_t i = 0; i < n && !loader->failed; i++) {
		struct draft_interface *draft = loader->interfaces[i];
		interfaces[i].method_count = (int)draft->n_messages[WIRE_REQUEST];
		interfaces[i].event_count = (int)draft->n_messages[WIRE_EVENT];
		xml->interfaces[i].request_destructors =
			build_messages(loader, draft->messages[WIRE_REQUEST],
				draft->n_messages[WIRE_REQUEST], &interfaces[i].methods);
		xml->interfaces[i].event_destructors =
			build_messages(loader, draft->messages[WIRE_EVENT],
				draft->n_messages[WIRE_EVENT], &interfaces[i].events);
	}
}

static bool load(struct loader *loader, int fd)
{
	loader->parser = XML_ParserCreate(NULL);
	if (loader->parser == NULL) {
		snprintf(loader->error, loader->error_len, "%s: out of memory", loader->path);
		return false;
	}
	XML_SetUserData(loader->parser, loader);
	XML_SetElementHandler(loader->parser, handle_start, handle_end);
	XML_SetStartDoctypeDeclHandler(loader->parser, handle_doctype);
	parse(loader, fd);
	if (!loader->failed) {
		build(loader);
	}
	XML_ParserFree(loader->parser);
	free_chunks(loader->drafts);
	return !loader->failed;
}

struct wire_xml *wire_xml_load(const char *path, char *error, size_t error_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0) {
		snprintf(error, error_len, "%s: %s", path, strerror(errno));
		return NULL;
	}
	struct wire_xml *xml = calloc(1, sizeof(*xml));
	struct loader *loader = calloc(1, sizeof(*loader));
	bool ok = false;
	if (xml == NULL || loader == NULL) {
		snprintf(error, error_len, "%s: out of memory", path);
	} else {
		*loader = (struct loader){
			.path = path, .error = error, .error_len = error_len, .xml = xml};
		ok = load(loader, fd);
	}
	close(fd);
	free(loader);
	if (!ok) {
		wire_xml_destroy(xml);
		return NULL;
	}
	return xml;
}

void wire_xml_destroy(struct wire_xml *xml)
{
	if (xml == NULL) {
		return;
	}
	free_chunks(xml->chunks);
	free(xml);
}
