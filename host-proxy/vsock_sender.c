#include "host-proxy/vsock_sender.h"

#include <endian.h>
#include <errno.h>
#include <sys/socket.h>

#include "host-proxy/vhost_user.h"

#define PIECES_MAX 256

struct batch {
	unsigned int count; // of chains
	size_t rooms[VSOCK_SENDER_BATCH];
	size_t room; // their sum
	size_t n_pieces;
	struct iovec pieces[PIECES_MAX];
};

static bool pop(struct vsock_sender *sender, struct virtqueue_chain *chain)
{
	struct virtqueue *queue = vhost_user_queue(sender->vhost, VSOCK_RX);
	if (queue == NULL) {
		return false;
	}
	switch (virtqueue_pop(queue, vhost_user_memory(sender->vhost), chain)) {
	case VIRTQUEUE_EMPTY:
		return false;
	case VIRTQUEUE_BROKEN:
		vhost_user_fail(sender->vhost, queue->wrong);
		return false;
	case VIRTQUEUE_CHAIN:
		break;
	}
	if (chain->readable > 0 || chain->writable <= VSOCK_HEADER) {
		vhost_user_fail(sender->vhost, "a receive buffer that holds no packet");
		return false;
	}
	return true;
}

// As pop, but asks for a kick where there is nothing.
static bool pop_or_wait(struct vsock_sender *sender, struct virtqueue_chain *chain)
{
	for (;;) {
		if (pop(sender, chain)) {
			return true;
		}
		struct virtqueue *queue = vhost_user_queue(sender->vhost, VSOCK_RX);
		if (queue == NULL || !virtqueue_want_kick(queue)) {
			return false;
		}
		virtqueue_refuse_kick(queue);
	}
}

static void push(struct vsock_sender *sender, const struct virtqueue_chain *chain,
	const struct virtio_vsock_hdr *header)
{
	virtqueue_chain_write(chain, header, VSOCK_HEADER);
	virtqueue_push(vhost_user_queue(sender->vhost, VSOCK_RX), chain,
		VSOCK_HEADER + le32toh(header->len));
}

bool vsock_sender_send(struct vsock_sender *sender, const struct virtio_vsock_hdr *header)
{
	if (!pop_or_wait(sender, &sender->chains[0])) {
		return false;
	}
	push(sender, &sender->chains[0], header);
	return true;
}

// Adds a chain's room, as far as max allows.
static void add_room(struct batch *batch, const struct virtqueue_chain *chain, size_t max)
{
	size_t room = max - batch->room;
	batch->n_pieces += virtqueue_chain_slice(chain, true, VSOCK_HEADER, &room,
		batch->pieces + batch->n_pieces, PIECES_MAX - batch->n_pieces);
	batch->rooms[batch->count++] = room;
	batch->room += room;
}

static void pop_batch(struct vsock_sender *sender, struct batch *batch, size_t max)
{
	batch->count = 0;
	batch->room = batch->n_pieces = 0;
	if (!pop_or_wait(sender, &sender->chains[0])) {
		return;
	}
	add_room(batch, &sender->chains[0], max);
	while (batch->count < VSOCK_SENDER_BATCH && batch->room < max &&
		batch->n_pieces < PIECES_MAX && pop(sender, &sender->chains[batch->count])) {
		add_room(batch, &sender->chains[batch->count], max);
	}
}

static ssize_t receive(int fd, struct batch *batch)
{
	struct msghdr msg = {.msg_iov = batch->pieces, .msg_iovlen = batch->n_pieces};
	ssize_t n;
	do {
		n = recvmsg(fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

// Gives the guest the chains that got something; the rest is put back.
static void push_batch(struct vsock_sender *sender, const struct batch *batch,
	struct virtio_vsock_hdr *header, size_t len)
{
	unsigned int used = 0;
	while (len > 0) {
		size_t part = batch->rooms[used] < len ? batch->rooms[used] : len;
		header->len = htole32((uint32_t)part);
		push(sender, &sender->chains[used++], header);
		len -= part;
	}
	virtqueue_unpop(vhost_user_queue(sender->vhost, VSOCK_RX), batch->count - used);
}

ssize_t vsock_sender_relay(
	struct vsock_sender *sender, int fd, struct virtio_vsock_hdr *header, size_t max)
{
	struct batch batch;
	pop_batch(sender, &batch, max);
	if (batch.count == 0 || vhost_user_queue(sender->vhost, VSOCK_RX) == NULL) {
		return -ENOBUFS;
	}
	ssize_t n = receive(fd, &batch);
	push_batch(sender, &batch, header, n > 0 ? (size_t)n : 0);
	if (n == -EFAULT) {
		vhost_user_fail(sender->vhost, "the guest's memory is gone");
	}
	return n;
}
