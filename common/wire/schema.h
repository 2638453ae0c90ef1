#ifndef WIRE_SCHEMA_H
#define WIRE_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "protocol/wayland/fds.h"

/**
 * What is known about Wayland interfaces: libwayland's wl_interface tables, made at build time from
 * XML, and those that wire_schema_load adds at run time. An interface is turned into quick-to-use
 * wire_op tables when it is first looked up.
 */

// The field's own direction: a request goes from the client to the compositor, an event back.
enum wire_direction {
	WIRE_REQUEST,
	WIRE_EVENT,
};

#define WIRE_MAX_ARGS 20 // libwayland's WL_CLOSURE_MAX_ARGS

enum wire_arg_type {
	WIRE_ARG_INT,
	WIRE_ARG_UINT,
	WIRE_ARG_FIXED,
	WIRE_ARG_STRING,
	WIRE_ARG_OBJECT,
	WIRE_ARG_NEW_ID,     // of the interface that the table names
	WIRE_ARG_ANY_NEW_ID, // "interface, version, id" on the wire: wl_registry.bind
	WIRE_ARG_ARRAY,
	WIRE_ARG_FD, // nothing on the wire
};

struct wire_arg_spec {
	enum wire_arg_type type;
	bool nullable;
	const struct wl_interface *interface; // of OBJECT and NEW_ID; may be NULL
};

// One message of one interface.
struct wire_op {
	const char *name;
	uint32_t since;
	size_t n_args;
	const struct wire_arg_spec *args;
	size_t n_fds;
	uint32_t fixed_size; // in bytes with the header; 0 if a string or array makes it vary
	bool only_words;     // fixed_size, and any words are valid arguments
	bool makes_object;   // has a new_id of either form
	bool is_destructor;
	enum protocol_fd_kind fd_kind; // of all its fds
	bool fd_kind_known;            // false: tell by the fd itself
	const void *hook;              // for the user of the table; NULL at first
};

struct wire_ops {
	size_t count;
	struct wire_op *ops;
};

struct wire_interface {
	const char *name;
	uint32_t version;       // the highest that is known
	struct wire_ops ops[2]; // by enum wire_direction
	const struct wl_interface *source;
	int note; // for the user of the table, who may change it; 0 at first
};

// NULL: unknown. The same name always gives the same pointer, valid until wire_schema_finish.
// ENOMEM gives NULL, too.
const struct wire_interface *wire_schema_find(const char *name);
// The same by the name of interface, which must live until wire_schema_finish; quicker.
const struct wire_interface *wire_schema_get(const struct wl_interface *interface);

// Called once for each op of every interface when it is first looked up, and returns the op's hook.
typedef const void *(*wire_schema_hook_func)(const struct wire_interface *interface,
	enum wire_direction direction, const struct wire_op *op);
// Must be set before the first wire_schema_find.
void wire_schema_set_hooks(wire_schema_hook_func hooks);

// Adds the interfaces of a protocol XML file; one that is known already with the same or a higher
// version is left as it is. On failure nothing was added, and error says why in one line.
bool wire_schema_load(const char *path, char *error, size_t error_len);

// Forgets compiled tables and loaded files.
void wire_schema_finish(void);

#endif
