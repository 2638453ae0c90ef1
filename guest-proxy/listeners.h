#ifndef GUEST_PROXY_LISTENERS_H
#define GUEST_PROXY_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>

#include "guest-proxy/listener.h"
#include "program/server.h"

struct guest_options;

/**
 * All that we listen at: the display, and a socket for each other service. The service manager may
 * have made some of them: a socket that has the name of a service (FileDescriptorName=) is that
 * service's, any other one is the display's.
 */

struct listeners {
	const struct guest_options *options; // borrowed
	struct listener display;
	bool bound[SERVICES_MAX]; // the service's socket is of our making
	size_t count;
	struct server_listener list[SERVER_MAX_LISTENERS];
};

void listeners_init(struct listeners *listeners, const struct guest_options *options);
// Closes what is in the list, and removes the files of all sockets that we made.
void listeners_finish(struct listeners *listeners);
// False: why has been logged in one line.
bool listeners_open(struct listeners *listeners);

#endif
