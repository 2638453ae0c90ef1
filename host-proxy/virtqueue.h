#ifndef HOST_PROXY_VIRTQUEUE_H
#define HOST_PROXY_VIRTQUEUE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct guest_memory;

/**
 * The device's end of a split virtqueue (virtio 1.2, section 2.7), with indirect descriptors and event
 * indexes. The ring is the guest's, which may write anything into it at any time: each value is
 * read once, and checked before it is used. Of a chain that is kept beyond the call that popped it,
 * only its head is remembered here, so the memory table may change between calls.
 */

#define VIRTQUEUE_SIZE_MAX  32768
#define VIRTQUEUE_CHAIN_MAX 256 // pieces

// Where the three parts are, by the VMM's own addresses.
struct virtqueue_addresses {
	uint64_t desc, avail, used;
};

struct virtqueue {
	struct vring ring; // num 0: not mapped
	bool indirect;     // negotiated
	bool event_index;  // negotiated
	uint16_t next_avail;
	uint16_t next_used;
	uint16_t called;   // next_used when we last decided whether to call the guest
	const char *wrong; // with the ring, for good; NULL
};

enum virtqueue_status {
	VIRTQUEUE_EMPTY,
	VIRTQUEUE_CHAIN,
	VIRTQUEUE_BROKEN, // virtqueue.wrong says why
};

// One chain of descriptors: what the guest wrote, then what it left to be written to.
struct virtqueue_chain {
	uint16_t head;
	size_t n_readable, n_writable; // pieces
	size_t readable, writable;     // bytes, less than 2^32 together
	struct iovec pieces[VIRTQUEUE_CHAIN_MAX];
};

// NULL, or what is wrong with the addresses. next_avail and the features have to be set; what was used
// so far is read from the ring.
const char *virtqueue_map(struct virtqueue *queue, const struct guest_memory *memory,
	const struct virtqueue_addresses *addresses, unsigned int size);
void virtqueue_unmap(struct virtqueue *queue);

enum virtqueue_status virtqueue_pop(
	struct virtqueue *queue, const struct guest_memory *memory, struct virtqueue_chain *chain);
// Puts back the n chains that were popped last.
void virtqueue_unpop(struct virtqueue *queue, unsigned int n);
// Gives a chain back to the guest, with len bytes written.
void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, size_t len);
// The same for one that has been kept, and had nothing to be written. Chains may come back in any order.
void virtqueue_push_head(struct virtqueue *queue, uint16_t head);

// Asks for a kick when the next chain is there. True: it is there already, and no kick may follow.
bool virtqueue_want_kick(struct virtqueue *queue);
void virtqueue_refuse_kick(struct virtqueue *queue);
// Whether the guest wants to be called because of what was pushed since this was asked last.
bool virtqueue_wants_call(struct virtqueue *queue);
// How many were.
unsigned int virtqueue_uncalled(const struct virtqueue *queue);

// Up to len bytes of the readable (or writable) pieces from offset on, as at most max pieces of their
// own. Their number; *len becomes how many bytes they are.
size_t virtqueue_chain_slice(const struct virtqueue_chain *chain, bool writable, size_t offset,
	size_t *len, struct iovec *pieces, size_t max);
// len readable bytes from offset on, which must be there.
void virtqueue_chain_read(
	const struct virtqueue_chain *chain, size_t offset, void *data, size_t len);
// The first len bytes, which must be there.
void virtqueue_chain_write(const struct virtqueue_chain *chain, const void *data, size_t len);

#endif
