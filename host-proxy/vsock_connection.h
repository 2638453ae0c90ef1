#ifndef HOST_PROXY_VSOCK_CONNECTION_H
#define HOST_PROXY_VSOCK_CONNECTION_H

#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

struct evbuffer;
struct event;
struct event_base;
struct lender;
struct loans;
struct virtqueue_chain;
struct vsock_connection;
struct vsock_sender;

/**
 * One stream between a port of the guest and a UNIX socket of this machine. Payload goes from the
 * guest's memory into the socket and back without a buffer in between, or is lent to who is there; only
 * what the socket has no room for is kept, which the guest's credit bounds.
 */

// Bytes that the guest may send before they are read here; more where they can stay in its memory.
#define VSOCK_WINDOW         (256u << 10)
#define VSOCK_LENDING_WINDOW (1024u << 10)

struct vsock_connection_config {
	struct event_base *base;     // borrowed
	struct vsock_sender *sender; // borrowed
	uint32_t guest_cid, guest_port, host_port;
	int fd;              // taken, also on failure
	struct loans *loans; // borrowed: the other end of fd is a borrower's; NULL: anybody's
	bool pages;          // the borrower may have some of the guest's pages
	bool outgoing;       // we ask the guest to accept it; else the guest has asked us
	// The socket or a deadline has something to do: vsock_connection_work.
	void (*ready)(void *data, struct vsock_connection *connection);
	void *data;
};

struct vsock_connection {
	struct wl_list link;    // vsock_device.buckets
	struct wl_list waiting; // vsock_device.waiting; else empty
	struct vsock_connection_config config;
	struct event *readable, *writable, *deadline;
	bool connected; // the guest has said so, or asked for it
	bool may_read;  // the socket has something, or its end
	bool much;      // it had more than a little when it was read last
	bool may_write; // the socket has become writable
	bool discards;  // nobody reads from the socket any more
	bool expired;
	uint32_t pending;        // packets to send: 1 << operation
	uint32_t guest_shutdown; // VIRTIO_VSOCK_SHUTDOWN_*, as the guest said
	uint32_t host_shutdown;  // as we say
	uint32_t applied;        // of guest_shutdown, to the socket
	// Counts of bytes, modulo 2^32.
	uint32_t received, forwarded, told; // from the guest; told: forwarded as it knows
	uint32_t sent, guest_forwarded, guest_room;
	uint32_t little;          // bytes: with less in it, the socket is writable
	struct evbuffer *backlog; // for the socket, which has no room
	size_t begun;             // bytes at its front whose record is in the socket already
	struct lender *lender;    // NULL: bytes go into the socket as they are
};

enum vsock_status {
	VSOCK_OK,
	VSOCK_LENT,    // likewise, and the chain will be given back later
	VSOCK_NO_ROOM, // work again when the guest has made room
	VSOCK_RESET,   // over; the guest has to be told by RST
	VSOCK_GONE,    // over; the guest knows
};

// NULL with errno on failure.
struct vsock_connection *vsock_connection_create(const struct vsock_connection_config *config);
void vsock_connection_destroy(struct vsock_connection *connection);

// A packet of the guest's, whose len is that of the payload in the chain. Then there is work.
enum vsock_status vsock_connection_handle(struct vsock_connection *connection,
	const struct virtio_vsock_hdr *header, const struct virtqueue_chain *chain);
// Whether some of the guest's chains are lent.
bool vsock_connection_lends(const struct vsock_connection *connection);
// Does what can be done without waiting, at most one batch of payload, and waits for the rest.
enum vsock_status vsock_connection_work(struct vsock_connection *connection);

#endif
