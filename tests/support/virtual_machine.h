#ifndef TESTS_SUPPORT_VIRTUAL_MACHINE_H
#define TESTS_SUPPORT_VIRTUAL_MACHINE_H

#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * A VMM and its guest's vsock driver, without a machine: memory in a memfd that is sealed against
 * shrinking, two rings in it, and the vhost-user messages that hand them to a device. Nothing here waits: the
 * test runs the device's loop. Another device has other drivers (gpu_driver.h).
 */

#define MACHINE_MEMORY  (4u << 20)             // bytes
#define MACHINE_ADDRESS UINT64_C(0x100000)     // guest-physical, of the first byte
#define MACHINE_USER    UINT64_C(0x7f00000000) // the VMM's own
#define MACHINE_CID     3
#define MACHINE_RING    64 // entries
#define MACHINE_RX_SIZE 3776
#define MACHINE_TX_SIZE 65536 // bytes of payload
#define MACHINE_TX_MAX  24    // packets under way

enum machine_request {
	MACHINE_GET_FEATURES = 1,
	MACHINE_SET_FEATURES = 2,
	MACHINE_SET_OWNER = 3,
	MACHINE_SET_MEM_TABLE = 5,
	MACHINE_SET_VRING_NUM = 8,
	MACHINE_SET_VRING_ADDR = 9,
	MACHINE_SET_VRING_BASE = 10,
	MACHINE_GET_VRING_BASE = 11,
	MACHINE_SET_VRING_KICK = 12,
	MACHINE_SET_VRING_CALL = 13,
	MACHINE_GET_PROTOCOL_FEATURES = 15,
	MACHINE_SET_PROTOCOL_FEATURES = 16,
	MACHINE_SET_VRING_ENABLE = 18,
	MACHINE_GET_CONFIG = 24,
	MACHINE_SET_CONFIG = 25,
	MACHINE_GPU_SET_SOCKET = 33,
	MACHINE_ADD_MEM_REG = 37,
	MACHINE_REM_MEM_REG = 38,
};

#define MACHINE_VERSION_1   (UINT64_C(1) << 32)
#define MACHINE_PROTOCOL    (UINT64_C(1) << 30)
#define MACHINE_EVENT_INDEX (UINT64_C(1) << 29)
#define MACHINE_INDIRECT    (UINT64_C(1) << 28)

struct machine_queue {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t seen; // of used->idx
	int kick_fd, call_fd;
};

struct machine {
	int fd; // to the device; -1: hung up
	int memory_fd;
	uint8_t *memory;
	uint64_t features;
	struct machine_queue queues[2]; // of vsock: what the guest receives, what it sends
	unsigned int tx_free;           // slots, a bit each
};

// Aborts on failure, as all of these. fd is taken.
void machine_init(struct machine *machine, int fd, uint64_t features);
void machine_finish(struct machine *machine);
void machine_hang_up(struct machine *machine);

// A message; fds are borrowed.
void machine_send(struct machine *machine, uint32_t request, const void *body, size_t len,
	const int *fds, size_t n_fds);
void machine_send_number(struct machine *machine, uint32_t request, uint64_t number);
void machine_send_state(struct machine *machine, uint32_t request, uint32_t index, uint32_t number);
// A reply that has come, to this request. Its length.
size_t machine_reply(struct machine *machine, uint32_t request, void *body, size_t size);
// Whether the device has closed the connection; what it has sent is lost.
bool machine_is_cut_off(struct machine *machine);

void machine_send_memory(struct machine *machine);
// Everything until queue is set up and enabled, from the given base on.
void machine_start_queue(struct machine *machine, unsigned int queue, uint16_t base);
// All of it, for a guest that has just booted; with n buffers to receive into.
void machine_boot(struct machine *machine, unsigned int n);
void machine_stop(struct machine *machine);

uint64_t machine_address(const struct machine *machine, const void *data); // guest-physical
// Makes a descriptor's chain available; kicks.
void machine_offer(struct machine *machine, unsigned int queue, uint16_t head);
void machine_kick(struct machine *machine, unsigned int queue);
// Gives the device n buffers more to fill.
void machine_add_buffers(struct machine *machine, unsigned int n);

// Whether there is room for a packet of the guest's.
bool machine_can_send(struct machine *machine);
// A packet of the guest's, by an indirect table where that was negotiated. False: too many are under
// way.
bool machine_send_packet(struct machine *machine, const struct virtio_vsock_hdr *header,
	const void *payload, size_t len);
// The next packet for the guest, whose buffer is given back at once. False: there is none.
bool machine_receive_packet(
	struct machine *machine, struct virtio_vsock_hdr *header, void *payload, size_t size);

// A header from a port of the guest's to one of the host's.
struct virtio_vsock_hdr machine_header(uint32_t guest_port, uint32_t host_port, uint16_t operation);

#endif
