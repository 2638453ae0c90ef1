#ifndef CHANNEL_TRANSPORT_H
#define CHANNEL_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/**
 * Where a channel is reached: "unix:PATH", "vsock:[CID:]PORT", "vhost-user:PATH"; or where a service is, on its own
 * machine: "unix:PATH", "seqpacket:PATH"; or where a resolver is: "unix:PATH". Listening: CID defaults to VMADDR_CID_ANY; connecting: to
 * VMADDR_CID_HOST.
 */
enum transport_kind {
	TRANSPORT_UNIX,
	TRANSPORT_SEQPACKET, // UNIX, with records
	TRANSPORT_VSOCK,
	TRANSPORT_VHOST_USER, // a UNIX socket at which a VMM connects
};

struct transport {
	enum transport_kind kind;
	char path[108]; // of all but VSOCK, NUL-terminated; "@name" is an abstract address
	uint32_t cid;   // of VSOCK; UINT32_MAX (VMADDR_CID_ANY) if none was given
	uint32_t port;
};

// Of a channel: UNIX, VSOCK or VHOST_USER. NULL, or in one static phrase what is wrong with the text.
const char *transport_parse(const char *text, struct transport *transport);
// Of a service: UNIX or SEQPACKET.
const char *transport_parse_service(const char *text, struct transport *transport);
// Of a resolver (protocol/resolver.md), which has records: SEQPACKET, also where the text has unix:.
const char *transport_parse_resolver(const char *text, struct transport *transport);

// A CLOEXEC, non-blocking listening socket; -errno on failure (-EADDRINUSE: somebody is
// listening there). A dead UNIX socket is replaced. vsock buffers are raised to 1 MiB
// (SO_VM_SOCKETS_BUFFER_MAX_SIZE, then _SIZE; vm_sockets.h).
int transport_listen(const struct transport *transport);
// Removes the socket file of a UNIX listener.
void transport_unlink(const struct transport *transport);
// A CLOEXEC, blocking connected socket, over vsock from a port below 1024 if this process may use
// one; -errno on failure (-EPROTOTYPE: the listener is of the other
// kind, UNIX or SEQPACKET; -ETIMEDOUT: it has had too many connections to accept for some seconds).
int transport_connect(const struct transport *transport);
// To a UNIX socket, without waiting for a listener that has too many connections to accept (-EAGAIN).
// The socket is non-blocking.
int transport_connect_now(const struct transport *transport);

// Who has connected.
struct transport_peer {
	bool vsock;
	uint32_t cid, port; // of vsock
	uid_t uid; // of a UNIX socket: of the process, as its namespace's are seen from here
};
// 0, or -errno.
int transport_peer_of(int fd, struct transport_peer *peer);
// "unix", "vsock cid 3 port 1022" and so on of a connected peer, for logs.
void transport_peer_name(int fd, char *text, size_t len);

#endif
