#include "host-proxy/vsock_ports.h"

#include <stdbool.h>
#include <string.h>

#include "program/options.h"

static const char *parse_port(const char *text, uint32_t *port)
{
	unsigned long number;
	const char *wrong = options_number(text, 0, UINT32_MAX - 1, &number);
	*port = wrong == NULL ? (uint32_t)number : 0;
	return wrong == NULL ? NULL : "the port is not a number up to 4294967294";
}

static const char *parse_socket(const char *text, struct transport *address)
{
	const char *wrong = transport_parse(text, address);
	if (wrong != NULL || address->kind != TRANSPORT_UNIX) {
		return "must be N=unix:PATH or unix:PATH=N";
	}
	return NULL;
}

// The parts around the equals sign that separates them; false if there is none.
static bool split(const char *text, const char *equals, char *left, size_t size)
{
	if (equals == NULL || (size_t)(equals - text) >= size) {
		return false;
	}
	memcpy(left, text, (size_t)(equals - text));
	left[equals - text] = '\0';
	return true;
}

static const char *add(struct vsock_port *list, size_t *n, const struct vsock_port *port)
{
	if (*n == VSOCK_PORTS_MAX) {
		return "too many ports";
	}
	list[(*n)++] = *port;
	return NULL;
}

static const char *add_to_guest(struct vsock_ports *ports, const struct vsock_port *port)
{
	for (size_t i = 0; i < ports->n_to_guest; i++) {
		if (strcmp(ports->to_guest[i].address.path, port->address.path) == 0) {
			return "the socket is named already";
		}
	}
	return add(ports->to_guest, &ports->n_to_guest, port);
}

static const char *add_from_guest(struct vsock_ports *ports, const struct vsock_port *port)
{
	if (vsock_ports_find_from_guest(ports, port->port) != NULL) {
		return "the port is named already";
	}
	return add(ports->from_guest, &ports->n_from_guest, port);
}

const char *vsock_ports_parse(struct vsock_ports *ports, const char *text)
{
	char left[sizeof(((struct transport *)0)->path) + 8];
	struct vsock_port port;
	bool to_guest = strncmp(text, "unix:", 5) == 0;
	const char *equals = to_guest ? strrchr(text, '=') : strchr(text, '=');
	if (!split(text, equals, left, sizeof(left))) {
		return "must be N=unix:PATH or unix:PATH=N";
	}
	const char *wrong = parse_socket(to_guest ? left : equals + 1, &port.address);
	if (wrong == NULL) {
		wrong = parse_port(to_guest ? equals + 1 : left, &port.port);
	}
	if (wrong != NULL) {
		return wrong;
	}
	return to_guest ? add_to_guest(ports, &port) : add_from_guest(ports, &port);
}

const struct vsock_port *vsock_ports_find_from_guest(const struct vsock_ports *ports, uint32_t port)
{
	for (size_t i = 0; i < ports->n_from_guest; i++) {
		if (ports->from_guest[i].port == port) {
			return &ports->from_guest[i];
		}
	}
	return NULL;
}
