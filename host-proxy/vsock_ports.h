#ifndef HOST_PROXY_VSOCK_PORTS_H
#define HOST_PROXY_VSOCK_PORTS_H

#include <stddef.h>
#include <stdint.h>

#include "channel/transport.h"

/**
 * Which ports of a virtual machine whose vsock device is ours are bridged to UNIX sockets. All others
 * of the host are fdferry's.
 */

#define VSOCK_PORTS_MAX 32 // in each direction

struct vsock_port {
	uint32_t port;
	struct transport address;
};

struct vsock_ports {
	size_t n_from_guest, n_to_guest;
	struct vsock_port from_guest[VSOCK_PORTS_MAX]; // the guest connects to a port of the host
	struct vsock_port
		to_guest[VSOCK_PORTS_MAX]; // clients of a socket reach a port of the guest
};

// "N=unix:PATH": what connects to port N of the host gets to PATH. "unix:PATH=N": what connects to
// PATH gets to port N of the guest. NULL, or what is wrong with it.
const char *vsock_ports_parse(struct vsock_ports *ports, const char *text);
// NULL: not bridged.
const struct vsock_port *vsock_ports_find_from_guest(
	const struct vsock_ports *ports, uint32_t port);

#endif
