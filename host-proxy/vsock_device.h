#ifndef HOST_PROXY_VSOCK_DEVICE_H
#define HOST_PROXY_VSOCK_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct ram_buffers;
struct vsock_device;

/**
 * The virtio-vsock device of one virtual machine (virtio 1.2, section 5.10), by vhost-user: streams
 * between ports of the guest and UNIX sockets here.
 */

#define VSOCK_CONNECTIONS_MAX 512 // each keeps at most its window of bytes

struct vsock_device_config {
	struct event_base *base; // borrowed
	int fd;                  // the VMM's connection; taken, also on failure
	uint32_t guest_cid;
	// The guest connects to a port of the host: a connected UNIX stream socket for it, or -errno,
	// which has been logged.
	int (*open)(void *data, uint32_t host_port, uint32_t guest_port);
	// Whether the other end of what is opened for a port is a borrower (borrower.h); NULL: none is.
	bool (*lends)(void *data, uint32_t host_port);
	// What dma-bufs of the guest's pages are made by, for borrowers whose guest is root; borrowed; NULL: none
	// are.
	const struct ram_buffers *buffers;
	// The VMM's connection is over. NULL: the VMM hung up. Must not destroy the device.
	void (*ended)(void *data, const char *wrong);
	// A connection is over; may be NULL.
	void (*closed)(void *data);
	void *data;
};

// NULL with errno on failure.
struct vsock_device *vsock_device_create(const struct vsock_device_config *config);
void vsock_device_destroy(struct vsock_device *device); // NULL is fine

// Connects a UNIX stream socket to a port of the guest's, where somebody listens; else it is closed.
// Takes fd, also on failure: -errno.
int vsock_device_connect(struct vsock_device *device, int fd, uint32_t guest_port);
// From now on the guest's requests are turned down.
void vsock_device_stop(struct vsock_device *device);
size_t vsock_device_connections(const struct vsock_device *device);

#endif
