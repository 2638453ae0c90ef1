#ifndef RELAY_CROSSING_H
#define RELAY_CROSSING_H

#include <stdbool.h>
#include <stdint.h>

struct wire_interface;

// Whether all fds that an object of this interface, and every object made by its messages, may
// carry are of kinds that can cross. A global for which this is false is hidden. The answer is kept: it
// is not for protocol files that are loaded later.
bool crossing_possible(const struct wire_interface *interface);

enum crossing {
	CROSSING_POSSIBLE,
	CROSSING_UNKNOWN, // no protocol file describes the interface
	CROSSING_IMPOSSIBLE,
};

// The same for a global of that name. *version is lowered to what is known of the interface.
enum crossing crossing_of_global(const char *interface, uint32_t *version);

#endif
