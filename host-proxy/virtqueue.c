#include "host-proxy/virtqueue.h"

#include <assert.h>
#include <string.h>

#include "host-proxy/guest_memory.h"

static uint16_t load16(const __virtio16 *value)
{
	return __atomic_load_n((const uint16_t *)value, __ATOMIC_RELAXED);
}

static void store16(__virtio16 *value, uint16_t to)
{
	__atomic_store_n((uint16_t *)value, to, __ATOMIC_RELAXED);
}

// The guest may change it while we look: a copy is what we check and use.
static struct vring_desc load_desc(const struct vring_desc *desc)
{
	const volatile struct vring_desc *source = desc;
	return (struct vring_desc){
		.addr = source->addr,
		.len = source->len,
		.flags = source->flags,
		.next = source->next,
	};
}

static bool is_aligned(const void *pointer, size_t to)
{
	return (uintptr_t)pointer % to == 0;
}

const char *virtqueue_map(struct virtqueue *queue, const struct guest_memory *memory,
	const struct virtqueue_addresses *addresses, unsigned int size)
{
	virtqueue_unmap(queue);
	if (size == 0 || size > VIRTQUEUE_SIZE_MAX || (size & (size - 1)) != 0) {
		return "a ring whose size is no power of two";
	}
	const size_t event = sizeof(uint16_t); // of the other side, behind each ring
	struct vring ring = {
		.num = size,
		.desc = (void *)guest_memory_at_user(
			memory, addresses->desc, size * sizeof(struct vring_desc)),
		.avail = (void *)guest_memory_at_user(memory, addresses->avail,
			sizeof(struct vring_avail) + size * sizeof(uint16_t) + event),
		.used = (void *)guest_memory_at_user(memory, addresses->used,
			sizeof(struct vring_used) + size * sizeof(struct vring_used_elem) + event),
	};
	if (ring.desc == NULL || ring.avail == NULL || ring.used == NULL) {
		return "a ring outside of the guest's memory";
	}
	if (!is_aligned(ring.desc, VRING_DESC_ALIGN_SIZE) ||
		!is_aligned(ring.avail, VRING_AVAIL_ALIGN_SIZE) ||
		!is_aligned(ring.used, VRING_USED_ALIGN_SIZE)) {
		return "a ring that is not aligned";
	}
	queue->ring = ring;
	queue->next_used = queue->called = load16(&ring.used->idx);
	return NULL;
}

void virtqueue_unmap(struct virtqueue *queue)
{
	queue->ring = (struct vring){0};
}

static enum virtqueue_status broken(struct virtqueue *queue, const char *wrong)
{
	queue->wrong = wrong;
	return VIRTQUEUE_BROKEN;
}

// Adds what a descriptor names, in as many pieces as it lies in regions.
static const char *add_buffer(struct virtqueue_chain *chain, const struct guest_memory *memory,
	const struct vring_desc *desc)
{
	bool writable = (desc->flags & VRING_DESC_F_WRITE) != 0;
	uint64_t address = desc->addr;
	size_t rest = desc->len;
	if (rest == 0) {
		return "an empty descriptor";
	}
	if (!writable && chain->n_writable > 0) {
		return "a descriptor to be read behind one to be written";
	}
	if (rest > UINT64_MAX - address || rest > UINT32_MAX - chain->readable - chain->writable) {
		return "a descriptor of an impossible length";
	}
	while (rest > 0) {
		size_t n = chain->n_readable + chain->n_writable;
		size_t len = rest;
		uint8_t *data = guest_memory_at(memory, address, &len);
		if (data == NULL) {
			return "a descriptor outside of the guest's memory";
		}
		if (n == VIRTQUEUE_CHAIN_MAX) {
			return "a chain of too many descriptors";
		}
		chain->pieces[n] = (struct iovec){.iov_base = data, .iov_len = len};
		*(writable ? &chain->n_writable : &chain->n_readable) += 1;
		*(writable ? &chain->writable : &chain->readable) += len;
		address += len;
		rest -= len;
	}
	return NULL;
}

struct table {
	const struct vring_desc *desc;
	unsigned int size;
};

static const char *open_indirect(const struct virtqueue *queue, const struct guest_memory *memory,
	const struct vring_desc *desc, struct table *table)
{
	size_t len = desc->len;
	if (!queue->indirect || (desc->flags & VRING_DESC_F_NEXT) != 0) {
		return "an indirect descriptor where none may be";
	}
	if (len == 0 || len % sizeof(struct vring_desc) != 0 ||
		len / sizeof(struct vring_desc) > VIRTQUEUE_SIZE_MAX) {
		return "an indirect table of an impossible length";
	}
	uint8_t *data = guest_memory_at(memory, desc->addr, &len);
	if (data == NULL || len < desc->len) {
		return "an indirect table outside of the guest's memory";
	}
	if (!is_aligned(data, _Alignof(struct vring_desc))) {
		return "an indirect table that is not aligned";
	}
	*table = (struct table){
		.desc = (const struct vring_desc *)data,
		.size = (unsigned int)(len / sizeof(struct vring_desc)),
	};
	return NULL;
}

// Follows the chain from index on through one table.
static const char *add_table(struct virtqueue_chain *chain, const struct guest_memory *memory,
	const struct table *table, unsigned int index)
{
	for (unsigned int n = 0; n < table->size; n++) {
		struct vring_desc desc = load_desc(&table->desc[index]);
		if ((desc.flags & VRING_DESC_F_INDIRECT) != 0) {
			return "an indirect descriptor where none may be";
		}
		const char *wrong = add_buffer(chain, memory, &desc);
		if (wrong != NULL || (desc.flags & VRING_DESC_F_NEXT) == 0) {
			return wrong;
		}
		index = desc.next;
		if (index >= table->size) {
			return "a chain that leaves its table";
		}
	}
	return "a chain that is a loop";
}

static const char *read_chain(
	struct virtqueue *queue, const struct guest_memory *memory, struct virtqueue_chain *chain)
{
	struct table table = {.desc = queue->ring.desc, .size = queue->ring.num};
	unsigned int index = chain->head;
	if (index >= table.size) {
		return "a chain that begins outside of the ring";
	}
	struct vring_desc first = load_desc(&table.desc[index]);
	if ((first.flags & VRING_DESC_F_INDIRECT) != 0) {
		const char *wrong = open_indirect(queue, memory, &first, &table);
		if (wrong != NULL) {
			return wrong;
		}
		index = 0;
	}
	return add_table(chain, memory, &table, index);
}

// How many chains wait; more than the ring has room for if its index is wrong.
static uint16_t count_available(const struct virtqueue *queue)
{
	uint16_t index = load16(&queue->ring.avail->idx);
	__atomic_thread_fence(__ATOMIC_ACQUIRE); // before what the index publishes
	return (uint16_t)(index - queue->next_avail);
}

enum virtqueue_status virtqueue_pop(
	struct virtqueue *queue, const struct guest_memory *memory, struct virtqueue_chain *chain)
{
	if (queue->wrong != NULL) {
		return VIRTQUEUE_BROKEN;
	}
	uint16_t available = queue->ring.num > 0 ? count_available(queue) : 0;
	if (available == 0) {
		return VIRTQUEUE_EMPTY;
	}
	if (available > queue->ring.num) {
		return broken(queue, "an index that has jumped");
	}
	uint16_t slot = queue->next_avail & (uint16_t)(queue->ring.num - 1);
	chain->head = load16(&queue->ring.avail->ring[slot]);
	chain->n_readable = chain->n_writable = 0;
	chain->readable = chain->writable = 0;
	const char *wrong = read_chain(queue, memory, chain);
	if (wrong != NULL) {
		return broken(queue, wrong);
	}
	queue->next_avail++;
	return VIRTQUEUE_CHAIN;
}

void virtqueue_unpop(struct virtqueue *queue, unsigned int n)
{
	queue->next_avail -= (uint16_t)n;
}

static void push(struct virtqueue *queue, uint16_t head, size_t len)
{
	struct vring_used *used = queue->ring.used;
	assert(used != NULL);
	used->ring[queue->next_used & (queue->ring.num - 1)] = (struct vring_used_elem){
		.id = head,
		.len = (uint32_t)len,
	};
	queue->next_used++;
	__atomic_thread_fence(__ATOMIC_RELEASE); // what the index publishes goes first
	store16(&used->idx, queue->next_used);
}

void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, size_t len)
{
	assert(len <= chain->writable);
	push(queue, chain->head, len);
}

void virtqueue_push_head(struct virtqueue *queue, uint16_t head)
{
	push(queue, head, 0);
}

bool virtqueue_want_kick(struct virtqueue *queue)
{
	struct vring *ring = &queue->ring;
	if (ring->num == 0) {
		return false;
	}
	if (queue->event_index) {
		store16((__virtio16 *)&ring->used->ring[ring->num], queue->next_avail);
	} else {
		store16(&ring->used->flags, 0);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST); // the guest sees this, or we see its chain
	return count_available(queue) > 0;
}

void virtqueue_refuse_kick(struct virtqueue *queue)
{
	// With event indexes, the one that was asked for is in the past after its kick.
	if (queue->ring.num > 0 && !queue->event_index) {
		store16(&queue->ring.used->flags, VRING_USED_F_NO_NOTIFY);
	}
}

bool virtqueue_wants_call(struct virtqueue *queue)
{
	const struct vring *ring = &queue->ring;
	uint16_t before = queue->called;
	if (ring->num == 0 || before == queue->next_used) {
		return false;
	}
	queue->called = queue->next_used;
	__atomic_thread_fence(__ATOMIC_SEQ_CST); // the index is out before we ask
	if (queue->event_index) {
		uint16_t event = load16(&ring->avail->ring[ring->num]);
		return vring_need_event(event, queue->next_used, before);
	}
	return (load16(&ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
}

unsigned int virtqueue_uncalled(const struct virtqueue *queue)
{
	return (uint16_t)(queue->next_used - queue->called);
}

size_t virtqueue_chain_slice(const struct virtqueue_chain *chain, bool writable, size_t offset,
	size_t *len, struct iovec *pieces, size_t max)
{
	const struct iovec *from = chain->pieces + (writable ? chain->n_readable : 0);
	size_t n_from = writable ? chain->n_writable : chain->n_readable;
	size_t n = 0, rest = *len;
	for (size_t i = 0; i < n_from && n < max && rest > 0; i++) {
		if (offset >= from[i].iov_len) {
			offset -= from[i].iov_len;
			continue;
		}
		size_t part = from[i].iov_len - offset;
		part = part < rest ? part : rest;
		pieces[n++] = (struct iovec){
			.iov_base = (uint8_t *)from[i].iov_base + offset,
			.iov_len = part,
		};
		rest -= part;
		offset = 0;
	}
	*len -= rest;
	return n;
}

void virtqueue_chain_read(
	const struct virtqueue_chain *chain, size_t offset, void *data, size_t len)
{
	assert(offset <= chain->readable && len <= chain->readable - offset);
	const struct iovec *piece = chain->pieces;
	for (; len > 0 && offset >= piece->iov_len; piece++) {
		offset -= piece->iov_len;
	}
	for (; len > 0; piece++, offset = 0) {
		size_t part = piece->iov_len - offset;
		part = part < len ? part : len;
		memcpy(data, (const uint8_t *)piece->iov_base + offset, part);
		data = (uint8_t *)data + part;
		len -= part;
	}
}

void virtqueue_chain_write(const struct virtqueue_chain *chain, const void *data, size_t len)
{
	assert(len <= chain->writable);
	for (const struct iovec *piece = chain->pieces + chain->n_readable; len > 0; piece++) {
		size_t part = piece->iov_len < len ? piece->iov_len : len;
		memcpy(piece->iov_base, data, part);
		data = (const uint8_t *)data + part;
		len -= part;
	}
}
