#include "tests/support/virtual_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"

#define RX          0
#define TX          1
#define RING_SPACE  0x10000
#define AVAIL       0x4000
#define USED        0x8000
#define TABLES      0xc000 // of indirect descriptors, for the slots of TX
#define TABLE_SIZE  64     // bytes
#define RX_BUFFERS  0x40000
#define RX_STRIDE   0x1000
#define TX_BUFFERS  0x100000
#define TX_STRIDE   0x20000
#define VERSION     1u
#define HEADER_SIZE sizeof(struct virtio_vsock_hdr)

struct message_header {
	uint32_t request, flags, size;
};

static void check(bool ok, const char *what)
{
	if (!ok) {
		perror(what);
		abort();
	}
}

static void init_queue(struct machine *machine, unsigned int index)
{
	uint8_t *ring = machine->memory + index * RING_SPACE;
	struct machine_queue *queue = &machine->queues[index];
	*queue = (struct machine_queue){
		.desc = (void *)ring,
		.avail = (void *)(ring + AVAIL),
		.used = (void *)(ring + USED),
		.kick_fd = eventfd(0, EFD_CLOEXEC),
		.call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	};
	check(queue->kick_fd >= 0 && queue->call_fd >= 0, "eventfd");
}

void machine_init(struct machine *machine, int fd, uint64_t features)
{
	*machine = (struct machine){.fd = fd, .features = features};
	machine->memory_fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	check(machine->memory_fd >= 0, "memfd_create");
	check(ftruncate(machine->memory_fd, MACHINE_MEMORY) == 0, "ftruncate");
	check(fcntl(machine->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0, "a seal");
	machine->memory = mmap(
		NULL, MACHINE_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, machine->memory_fd, 0);
	check(machine->memory != MAP_FAILED, "mmap");
	machine->tx_free = (1u << MACHINE_TX_MAX) - 1;
	init_queue(machine, RX);
	init_queue(machine, TX);
}

void machine_hang_up(struct machine *machine)
{
	if (machine->fd >= 0) {
		close(machine->fd);
		machine->fd = -1;
	}
}

void machine_finish(struct machine *machine)
{
	machine_hang_up(machine);
	for (int i = 0; i < 2; i++) {
		close(machine->queues[i].kick_fd);
		close(machine->queues[i].call_fd);
	}
	munmap(machine->memory, MACHINE_MEMORY);
	close(machine->memory_fd);
}

void machine_send(struct machine *machine, uint32_t request, const void *body, size_t len,
	const int *fds, size_t n_fds)
{
	struct message_header header = {
		.request = request,
		.flags = VERSION,
		.size = (uint32_t)len,
	};
	const struct iovec iov[] = {
		{.iov_base = &header, .iov_len = sizeof(header)},
		{.iov_base = (void *)body, .iov_len = len},
	};
	const struct fdlist list = {.fds = (int *)fds, .count = n_fds};
	ssize_t n = scm_send(machine->fd, iov, 2, &list, n_fds);
	check(n == (ssize_t)(sizeof(header) + len) || n == -EPIPE, "a message to the device");
}

void machine_send_number(struct machine *machine, uint32_t request, uint64_t number)
{
	machine_send(machine, request, &number, sizeof(number), NULL, 0);
}

void machine_send_state(struct machine *machine, uint32_t request, uint32_t index, uint32_t number)
{
	const uint32_t state[] = {index, number};
	machine_send(machine, request, state, sizeof(state), NULL, 0);
}

size_t machine_reply(struct machine *machine, uint32_t request, void *body, size_t size)
{
	struct message_header header;
	ssize_t n = recv(machine->fd, &header, sizeof(header), MSG_DONTWAIT);
	check(n == sizeof(header) && header.request == request && header.size <= size, "a reply");
	n = header.size > 0 ? recv(machine->fd, body, header.size, MSG_DONTWAIT) : 0;
	check(n == (ssize_t)header.size, "a reply's body");
	return (size_t)n;
}

bool machine_is_cut_off(struct machine *machine)
{
	char bytes[256];
	ssize_t n;
	do {
		n = recv(machine->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	} while (n > 0);
	return n == 0 || errno == ECONNRESET;
}

void machine_send_memory(struct machine *machine)
{
	const struct {
		uint32_t count, padding;
		uint64_t address, size, user, offset;
	} table = {1, 0, MACHINE_ADDRESS, MACHINE_MEMORY, MACHINE_USER, 0};
	machine_send(machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table), &machine->memory_fd, 1);
}

static uint64_t user_address(const struct machine *machine, const void *data)
{
	return MACHINE_USER + (uint64_t)((const uint8_t *)data - machine->memory);
}

uint64_t machine_address(const struct machine *machine, const void *data)
{
	return MACHINE_ADDRESS + (uint64_t)((const uint8_t *)data - machine->memory);
}

void machine_start_queue(struct machine *machine, unsigned int index, uint16_t base)
{
	const struct machine_queue *queue = &machine->queues[index];
	const struct {
		uint32_t index, flags;
		uint64_t desc, used, avail, log;
	} addr = {
		.index = index,
		.desc = user_address(machine, queue->desc),
		.used = user_address(machine, queue->used),
		.avail = user_address(machine, queue->avail),
	};
	const uint64_t number = index;
	machine_send_state(machine, MACHINE_SET_VRING_NUM, index, MACHINE_RING);
	machine_send_state(machine, MACHINE_SET_VRING_BASE, index, base);
	machine_send(machine, MACHINE_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
	machine_send(machine, MACHINE_SET_VRING_KICK, &number, sizeof(number), &queue->kick_fd, 1);
	machine_send(machine, MACHINE_SET_VRING_CALL, &number, sizeof(number), &queue->call_fd, 1);
	machine_send_state(machine, MACHINE_SET_VRING_ENABLE, index, 1);
}

static void clear_queue(struct machine_queue *queue)
{
	memset(queue->avail, 0, AVAIL);
	memset(queue->used, 0, AVAIL);
	queue->seen = 0;
}

void machine_boot(struct machine *machine, unsigned int n)
{
	clear_queue(&machine->queues[RX]);
	clear_queue(&machine->queues[TX]);
	machine->tx_free = (1u << MACHINE_TX_MAX) - 1;
	machine_send(machine, MACHINE_SET_OWNER, NULL, 0, NULL, 0);
	machine_send_number(machine, MACHINE_SET_FEATURES, machine->features | MACHINE_PROTOCOL);
	machine_send_memory(machine);
	machine_start_queue(machine, RX, 0);
	machine_start_queue(machine, TX, 0);
	machine_add_buffers(machine, n);
}

void machine_stop(struct machine *machine)
{
	machine_send_state(machine, MACHINE_GET_VRING_BASE, RX, 0);
	machine_send_state(machine, MACHINE_GET_VRING_BASE, TX, 0);
}

void machine_kick(struct machine *machine, unsigned int index)
{
	check(eventfd_write(machine->queues[index].kick_fd, 1) == 0, "a kick");
}

static bool wants_kick(const struct machine *machine, const struct machine_queue *queue)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if ((machine->features & MACHINE_EVENT_INDEX) != 0) {
		uint16_t event;
		memcpy(&event, &queue->used->ring[MACHINE_RING], sizeof(event));
		return (uint16_t)(queue->avail->idx - event - 1) < 1;
	}
	return (queue->used->flags & VRING_USED_F_NO_NOTIFY) == 0;
}

void machine_offer(struct machine *machine, unsigned int index, uint16_t head)
{
	struct machine_queue *queue = &machine->queues[index];
	queue->avail->ring[queue->avail->idx % MACHINE_RING] = head;
	__atomic_store_n(&queue->avail->idx, (uint16_t)(queue->avail->idx + 1), __ATOMIC_RELEASE);
	if (wants_kick(machine, queue)) {
		machine_kick(machine, index);
	}
}

static void add_buffer(struct machine *machine, uint16_t slot)
{
	machine->queues[RX].desc[slot] = (struct vring_desc){
		.addr = MACHINE_ADDRESS + RX_BUFFERS + slot * RX_STRIDE,
		.len = MACHINE_RX_SIZE,
		.flags = VRING_DESC_F_WRITE,
	};
	machine_offer(machine, RX, slot);
}

void machine_add_buffers(struct machine *machine, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		add_buffer(machine, machine->queues[RX].avail->idx % MACHINE_RING);
	}
}

static void take_used(struct machine *machine)
{
	struct machine_queue *queue = &machine->queues[TX];
	while (queue->seen != __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE)) {
		uint32_t head = queue->used->ring[queue->seen++ % MACHINE_RING].id;
		machine->tx_free |= 1u << head / 2;
	}
	queue->avail->ring[MACHINE_RING] = queue->seen;
}

static void fill_table(struct machine *machine, struct vring_desc *desc, uint16_t first,
	unsigned int slot, size_t len)
{
	uint64_t address = MACHINE_ADDRESS + TX_BUFFERS + slot * TX_STRIDE;
	(void)machine;
	desc[0] = (struct vring_desc){
		.addr = address,
		.len = HEADER_SIZE,
		.flags = len > 0 ? VRING_DESC_F_NEXT : 0,
		.next = (uint16_t)(first + 1),
	};
	desc[1] = (struct vring_desc){.addr = address + HEADER_SIZE, .len = (uint32_t)len};
}

bool machine_can_send(struct machine *machine)
{
	take_used(machine);
	return machine->tx_free != 0;
}

bool machine_send_packet(struct machine *machine, const struct virtio_vsock_hdr *header,
	const void *payload, size_t len)
{
	if (!machine_can_send(machine)) {
		return false;
	}
	check(len <= MACHINE_TX_SIZE, "a packet that fits");
	unsigned int slot = (unsigned int)__builtin_ctz(machine->tx_free);
	uint16_t head = (uint16_t)(2 * slot);
	machine->tx_free &= ~(1u << slot);
	uint8_t *data = machine->memory + TX_BUFFERS + slot * TX_STRIDE;
	memcpy(data, header, HEADER_SIZE);
	if (len > 0) {
		memcpy(data + HEADER_SIZE, payload, len);
	}
	if ((machine->features & MACHINE_INDIRECT) != 0) {
		uint8_t *table = machine->memory + TABLES + slot * TABLE_SIZE;
		fill_table(machine, (struct vring_desc *)table, 0, slot, len);
		machine->queues[TX].desc[head] = (struct vring_desc){
			.addr = machine_address(machine, table),
			.len = (len > 0 ? 2 : 1) * sizeof(struct vring_desc),
			.flags = VRING_DESC_F_INDIRECT,
		};
	} else {
		fill_table(machine, &machine->queues[TX].desc[head], head, slot, len);
	}
	machine_offer(machine, TX, head);
	return true;
}

bool machine_receive_packet(
	struct machine *machine, struct virtio_vsock_hdr *header, void *payload, size_t size)
{
	struct machine_queue *queue = &machine->queues[RX];
	if (queue->seen == __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE)) {
		return false;
	}
	struct vring_used_elem used = queue->used->ring[queue->seen++ % MACHINE_RING];
	queue->avail->ring[MACHINE_RING] = queue->seen;
	check(used.id < MACHINE_RING && used.len >= HEADER_SIZE, "a buffer that was used");
	const uint8_t *data = machine->memory + RX_BUFFERS + used.id * RX_STRIDE;
	memcpy(header, data, HEADER_SIZE);
	check(header->len == used.len - HEADER_SIZE && header->len <= size, "a packet's length");
	if (header->len > 0) {
		memcpy(payload, data + HEADER_SIZE, header->len);
	}
	add_buffer(machine, (uint16_t)used.id);
	return true;
}

struct virtio_vsock_hdr machine_header(uint32_t guest_port, uint32_t host_port, uint16_t operation)
{
	return (struct virtio_vsock_hdr){
		.src_cid = MACHINE_CID,
		.dst_cid = 2,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = operation,
		.buf_alloc = 262144, // as Linux has it
	};
}
