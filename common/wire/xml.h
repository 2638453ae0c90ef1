#ifndef WIRE_XML_H
#define WIRE_XML_H

#include <stddef.h>

#include "protocol/wayland/protocol.h"

/**
 * Reads a protocol XML file into the tables that wayland-scanner would have made of it. An argument
 * of an interface that the file does not define points at a stub, of which only the name is set:
 * resolve by name.
 */

#define WIRE_XML_SIZE_MAX       (4u << 20) // bytes of a file
#define WIRE_XML_INTERFACES_MAX 256        // in a file
#define WIRE_XML_MESSAGES_MAX   64         // of an interface in one direction: bits of a mask

struct wire_xml_chunk;

struct wire_xml {
	struct protocol_interface *interfaces; // in the order of the file
	size_t n_interfaces;
	struct wire_xml_chunk *chunks; // all memory of the tables
};

// NULL on failure; error then says in one line the file, the line and what is wrong.
struct wire_xml *wire_xml_load(const char *path, char *error, size_t error_len);
void wire_xml_destroy(struct wire_xml *xml); // NULL is fine

#endif
