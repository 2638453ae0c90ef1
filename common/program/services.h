#ifndef PROGRAM_SERVICES_H
#define PROGRAM_SERVICES_H

#include <stdbool.h>
#include <stddef.h>

#include "channel/transport.h"
#include "relay/handshake.h"

/**
 * What is carried: each service has a name, on which both sides agree, and an address on this side.
 * "wayland" is the one whose protocol is known; of all others nothing is.
 */

#define SERVICES_MAX    32
#define SERVICE_WAYLAND "wayland"

struct service {
	char name[HANDSHAKE_SERVICE_MAX + 1]; // of A-Z a-z 0-9 . _ -
	struct transport address;
};

struct services {
	size_t count;
	struct service list[SERVICES_MAX];
};

// NULL, or in one static phrase why not: a name that is none or there already, too many.
const char *services_add(
	struct services *services, const char *name, const struct transport *address);
// "NAME=unix:PATH" or "NAME=seqpacket:PATH". NULL, or what is wrong with it.
const char *services_parse(struct services *services, const char *text);

bool service_name_is_valid(const char *name);
// NULL if there is none such.
const struct service *services_find(const struct services *services, const char *name);
// Whether two of them are at the same address.
bool services_collide(const struct services *services);

bool service_is_wayland(const struct service *service);
// Whether text is "wayland=...". *path is that of "wayland=unix:/PATH", in text, NULL if what follows
// is something else.
bool service_parse_wayland(const char *text, const char **path);

#endif
