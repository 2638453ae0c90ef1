#ifndef PROTOCOL_WAYLAND_PROTOCOL_H
#define PROTOCOL_WAYLAND_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

// Every interface known at build time. The tables are wayland-scanner's private code; libwayland's
// wl_interface says nothing of destructors, which the XML marks, so they are kept beside it.

struct protocol_interface {
	const struct wl_interface *interface;
	uint64_t request_destructors; // bit n: request n ends its object's life
	uint64_t event_destructors;   // likewise for events
};

extern const struct protocol_interface protocol_interfaces[]; // sorted by interface->name, strcmp
extern const size_t protocol_interfaces_len;

#endif
