#ifndef RELAY_CROSSING_H
#define RELAY_CROSSING_H

#include <stdbool.h>

struct wire_interface;

// Whether all fds that an object of this interface, and every object made by its messages, may
// carry are of kinds that can cross. A global for which this is false is hidden.
bool crossing_possible(const struct wire_interface *interface);

#endif
