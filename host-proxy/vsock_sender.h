#ifndef HOST_PROXY_VSOCK_SENDER_H
#define HOST_PROXY_VSOCK_SENDER_H

#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <sys/types.h>

#include "host-proxy/virtqueue.h"

struct vhost_user;

/**
 * The packets of a virtio-vsock device to its guest (virtio 1.2, section 5.10): into the buffers that
 * the guest has put into its receive queue. A ring that is wrong ends the VMM's connection, and looks
 * from here like one without room.
 */

#define VSOCK_RX     0u // queues
#define VSOCK_TX     1u
#define VSOCK_EVENT  2u
#define VSOCK_QUEUES 3u

#define VSOCK_HOST_CID     2
#define VSOCK_HEADER       sizeof(struct virtio_vsock_hdr)
#define VSOCK_SENDER_BATCH 32 // buffers of the guest that are filled at once

struct vsock_sender {
	struct vhost_user *vhost; // borrowed
	struct virtqueue_chain chains[VSOCK_SENDER_BATCH];
};

// A packet without payload. False: there is no room; the queue has asked for a kick.
bool vsock_sender_send(struct vsock_sender *sender, const struct virtio_vsock_hdr *header);

// Reads up to max bytes (> 0) from a socket straight into the guest's buffers, with header (its len is
// set here) in front of each part. Returns their number, 0 at the end of the stream, -ENOBUFS if there
// is no room, -EAGAIN if there is nothing to read, or another -errno of recvmsg(2).
ssize_t vsock_sender_relay(
	struct vsock_sender *sender, int fd, struct virtio_vsock_hdr *header, size_t max);

#endif
