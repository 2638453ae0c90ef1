#ifndef CHANNEL_ZEROCOPY_H
#define CHANNEL_ZEROCOPY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct zerocopy;

/**
 * Sends from memory of ours that the kernel reads when it needs it, instead of a copy that it makes
 * (MSG_ZEROCOPY; Documentation/networking/msg_zerocopy.rst). There are some rooms, used in turn. One is free
 * again when the kernel has said so, which also wakes whoever waits for the socket, with EPOLLERR.
 */

// Bytes of a room: what virtio-vsock sends as one packet, and says to be sent as one.
#define ZEROCOPY_ROOM (64u * 1024)

// fd is borrowed. NULL with errno: EOPNOTSUPP where SO_ZEROCOPY is not set.
struct zerocopy *zerocopy_create(int fd);
// What the kernel still sends stays as it is. NULL is fine.
void zerocopy_destroy(struct zerocopy *zerocopy);

// The room that is sent from next; NULL: the kernel has not done with it.
uint8_t *zerocopy_room(struct zerocopy *zerocopy);
// Sends the first len bytes of that room. How many the peer took, or -errno. Where it took less, the rest is
// the caller's to send in another way, before it asks for a room again.
ssize_t zerocopy_send(struct zerocopy *zerocopy, size_t len);
// Takes what the kernel has said. Until then the socket is ready.
void zerocopy_reap(struct zerocopy *zerocopy);

#endif
