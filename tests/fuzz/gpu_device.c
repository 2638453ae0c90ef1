/*
 * A hostile guest: GPU commands of any content and length, backings at any address, and rings in which it
 * writes whatever it likes, in front of a GPU whose VMM means well, and whose buffers are asked for meanwhile.
 *
 * A guest whose rings are right has every command answered. Whatever a guest has done, once it has rebooted
 * none of it is left.
 */

#include <event2/event.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host-proxy/gpu_device.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/gpu_driver.h"
#include "tests/support/virtual_machine.h"

#define TABLE       0x30000u // of indirect descriptors (gpu_driver.c)
#define PAGE        0x1000u
#define IDS         8u
#define ENTRIES_MAX 16u
#define COMMAND_MAX 256u
#define TURNS       4
#define NO_TURN     0x80 // of an operation: the device sees it together with the next one

enum operation {
	COMMAND,
	CREATE,
	ATTACH,
	DETACH,
	UNREF,
	ASK,
	CURSOR,
	PAUSE,
	NEW_TABLE,
	REBOOT,
	TAMPER,
	DESCRIPTOR,
	OFFER,
	LIE,
	OPERATIONS,
};

struct fixture {
	struct event_base *base;
	struct ram_buffers buffers;
	struct machine machine;
	struct gpu_driver driver;
	struct gpu_device *device;
	bool tampered; // with the rings
	bool ended;
};

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	(void)wrong;
	fuzz_check(!fixture->ended, "a device ends once");
	fixture->ended = true;
}

static void turn(void *data)
{
	struct fixture *fixture = data;
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static void begin(struct fixture *fixture, uint64_t features)
{
	int pair[2];
	*fixture = (struct fixture){.base = event_base_new()};
	// All but the system call is done.
	fixture->buffers = (struct ram_buffers){
		.device = open("/dev/null", O_RDWR | O_CLOEXEC),
		.max_pieces = 8,
		.max_size = MACHINE_MEMORY,
	};
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	const struct gpu_device_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.buffers = &fixture->buffers,
		.ended = handle_ended,
		.data = fixture,
	};
	fixture->device = gpu_device_create(&config);
	fuzz_check(fixture->device != NULL, "a device can be made");
	machine_init(&fixture->machine, pair[0], MACHINE_VERSION_1 | features);
	machine_boot(&fixture->machine, 0);
	fixture->driver = (struct gpu_driver){
		.machine = &fixture->machine,
		.wait = turn,
		.data = fixture,
	};
	turn(fixture);
}

static void end(struct fixture *fixture)
{
	machine_finish(&fixture->machine);
	turn(fixture);
	fuzz_check(fixture->ended, "the device sees that the VMM is gone");
	gpu_device_destroy(fixture->device);
	ram_buffers_close(&fixture->buffers);
	event_base_free(fixture->base);
}

/* ---- what a guest does whose rings are right ---- */

static void check_response(const struct fixture *fixture, uint32_t type)
{
	bool ok = type == VIRTIO_GPU_RESP_OK_NODATA || type == VIRTIO_GPU_RESP_OK_DISPLAY_INFO;
	bool error =
		type >= VIRTIO_GPU_RESP_ERR_UNSPEC && type <= VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
	fuzz_check(ok || error, "a response is one of those that there are");
	fuzz_check(!fixture->ended, "commands alone do not end a device");
}

static void do_command(struct fixture *fixture, struct fuzz_input *input)
{
	static const uint32_t groups[] = {VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
		VIRTIO_GPU_CMD_CTX_CREATE, VIRTIO_GPU_CMD_UPDATE_CURSOR, 0};
	union {
		struct virtio_gpu_ctrl_hdr header;
		uint8_t bytes[sizeof(struct virtio_gpu_ctrl_hdr) + COMMAND_MAX];
	} command = {0};
	uint8_t type = fuzz_take8(input);
	command.header.type = groups[type >> 4 & 3] + (type & 0xf);
	command.header.flags = type >> 6;
	size_t len = 1 + fuzz_take8(input);
	fuzz_take(input, command.bytes + sizeof(command.header), len);
	uint8_t room = fuzz_take8(input);
	uint32_t response = gpu_driver_run(&fixture->driver, command.bytes, len, room);
	if (room >= sizeof(response)) {
		check_response(fixture, response);
	}
}

static void do_create(struct fixture *fixture, struct fuzz_input *input)
{
	uint32_t id = fuzz_take8(input) % IDS, width = fuzz_take16(input);
	uint32_t height = fuzz_take16(input);
	check_response(fixture, gpu_driver_create(&fixture->driver, id, width, height));
}

// Mostly where memory is.
static void take_entry(struct fuzz_input *input, struct virtio_gpu_mem_entry *entry)
{
	uint8_t shape = fuzz_take8(input);
	uint32_t address = fuzz_take16(input), length = fuzz_take8(input);
	entry->addr = MACHINE_ADDRESS + (uint64_t)address * PAGE;
	entry->length = length * PAGE;
	if ((shape & 1) != 0) {
		entry->addr = (uint64_t)address << (shape >> 2);
	}
	if ((shape & 2) != 0) {
		entry->length = fuzz_take32(input);
	}
}

static void do_attach(struct fixture *fixture, struct fuzz_input *input)
{
	struct virtio_gpu_mem_entry entries[ENTRIES_MAX] = {0};
	uint32_t id = fuzz_take8(input) % IDS, n = fuzz_take8(input) % (ENTRIES_MAX + 1);
	for (uint32_t i = 0; i < n; i++) {
		take_entry(input, &entries[i]);
	}
	check_response(fixture, gpu_driver_attach(&fixture->driver, id, entries, n));
}

// With rings that are right.
static void do_rightly(struct fixture *fixture, struct fuzz_input *input, enum operation operation)
{
	if (operation == COMMAND) {
		do_command(fixture, input);
	} else if (operation == CREATE) {
		do_create(fixture, input);
	} else if (operation == ATTACH) {
		do_attach(fixture, input);
	} else if (operation == DETACH) {
		uint32_t id = fuzz_take8(input) % IDS;
		check_response(fixture, gpu_driver_detach(&fixture->driver, id));
	} else {
		uint32_t id = fuzz_take8(input) % IDS;
		check_response(fixture, gpu_driver_unref(&fixture->driver, id));
	}
}

static void do_ask(struct fixture *fixture, struct fuzz_input *input)
{
	struct gpu_buffer buffer;
	uint32_t id = fuzz_take8(input) % IDS;
	const char *wrong = gpu_device_get_buffer(fixture->device, id, &buffer);
	fuzz_check(wrong != NULL, "no buffer is made without udmabuf");
}

/* ---- the VMM ---- */

// False: the device has ended.
static bool stop_queues(struct fixture *fixture, uint16_t bases[2])
{
	turn(fixture);
	for (uint32_t i = 0; i < 2 && !fixture->ended; i++) {
		uint32_t state[2];
		machine_send_state(&fixture->machine, MACHINE_GET_VRING_BASE, i, 0);
		turn(fixture);
		if (!fixture->ended) {
			machine_reply(
				&fixture->machine, MACHINE_GET_VRING_BASE, state, sizeof(state));
			bases[i] = (uint16_t)state[1];
		}
	}
	return !fixture->ended;
}

static void do_pause(struct fixture *fixture)
{
	uint16_t bases[2];
	if (stop_queues(fixture, bases)) {
		machine_start_queue(&fixture->machine, 0, bases[0]);
		machine_start_queue(&fixture->machine, 1, bases[1]);
	}
}

static void do_reboot(struct fixture *fixture)
{
	uint16_t bases[2];
	if (!stop_queues(fixture, bases)) {
		return;
	}
	machine_boot(&fixture->machine, 0);
	turn(fixture);
	fixture->tampered = false;
	fuzz_check(!fixture->ended, "a guest that reboots does not end its device");
	if (bases[0] != 0) { // else it has not begun
		fuzz_check(gpu_device_resources(fixture->device)->count == 0,
			"a guest that reboots has no resources");
	}
}

/* ---- what a guest does to its rings ---- */

static void do_tamper(struct fixture *fixture, struct fuzz_input *input)
{
	const struct machine_queue *queue = &fixture->machine.queues[fuzz_take8(input) % 2];
	uint8_t *const places[] = {(uint8_t *)queue->desc, (uint8_t *)queue->avail,
		(uint8_t *)queue->used, fixture->machine.memory + TABLE};
	uint8_t *place = places[fuzz_take8(input) % (sizeof(places) / sizeof(places[0]))];
	uint16_t offset = fuzz_take16(input) % 0x1000;
	fuzz_take(input, place + offset, 1 + fuzz_take8(input) % 16);
}

static void do_descriptor(struct fixture *fixture, struct fuzz_input *input)
{
	struct machine *machine = &fixture->machine;
	struct machine_queue *queue = &machine->queues[fuzz_take8(input) % 2];
	uint8_t slot = fuzz_take8(input);
	struct vring_desc *desc = slot < 128
		? &queue->desc[slot % MACHINE_RING]
		: (struct vring_desc *)(machine->memory + TABLE) + slot % 64;
	desc->addr = MACHINE_ADDRESS + fuzz_take32(input) % (MACHINE_MEMORY + 0x1000);
	desc->len = fuzz_take32(input);
	desc->len >>= fuzz_take8(input) % 32;
	desc->flags = fuzz_take8(input) & 7;
	desc->next = fuzz_take8(input);
}

// About how far a ring is.
static void do_lie(struct fixture *fixture, struct fuzz_input *input)
{
	unsigned int index = fuzz_take8(input) % 2;
	struct machine_queue *queue = &fixture->machine.queues[index];
	queue->avail->idx = (uint16_t)(queue->avail->idx + (int8_t)fuzz_take8(input));
	queue->avail->ring[MACHINE_RING] = fuzz_take16(input);
	machine_kick(&fixture->machine, index);
}

static void do_offer(struct fixture *fixture, struct fuzz_input *input)
{
	unsigned int index = fuzz_take8(input) % 2;
	machine_offer(&fixture->machine, index, fuzz_take8(input));
}

static void do_cursor(struct fixture *fixture)
{
	struct machine_queue *queue = &fixture->machine.queues[1];
	if ((uint16_t)(queue->avail->idx - queue->used->idx) >= MACHINE_RING) {
		return; // it is full
	}
	queue->desc[0] = (struct vring_desc){
		.addr = MACHINE_ADDRESS + GPU_DRIVER_PAGES,
		.len = sizeof(struct virtio_gpu_update_cursor),
	};
	machine_offer(&fixture->machine, 1, 0);
}

static void do_wrongly(struct fixture *fixture, struct fuzz_input *input, enum operation operation)
{
	fixture->tampered = true;
	if (operation == TAMPER) {
		do_tamper(fixture, input);
	} else if (operation == DESCRIPTOR) {
		do_descriptor(fixture, input);
	} else if (operation == OFFER) {
		do_offer(fixture, input);
	} else {
		do_lie(fixture, input);
	}
}

static void do_operation(
	struct fixture *fixture, struct fuzz_input *input, enum operation operation)
{
	if (operation <= UNREF && !fixture->tampered) {
		do_rightly(fixture, input, operation);
	} else if (operation == ASK) {
		do_ask(fixture, input);
	} else if (operation == CURSOR) {
		do_cursor(fixture);
	} else if (operation == PAUSE) {
		do_pause(fixture);
	} else if (operation == NEW_TABLE) {
		machine_send_memory(&fixture->machine);
		turn(fixture); // the socket holds only so many
	} else if (operation == REBOOT) {
		do_reboot(fixture);
	} else if (operation >= TAMPER) {
		do_wrongly(fixture, input, operation);
	}
}

static void check_counts(const struct fixture *fixture)
{
	const struct gpu_resources *counts = gpu_device_resources(fixture->device);
	fuzz_check(counts->count <= GPU_RESOURCES_MAX && counts->n_ranges <= GPU_RANGES_MAX,
		"what is remembered is bounded");
	fuzz_check(counts->n_buffers == 0 && counts->buffer_bytes == 0, "and counted rightly");
}

void fuzz_one(struct fuzz_input *input)
{
	struct fixture fixture;
	uint8_t features = fuzz_take8(input);
	begin(&fixture,
		((features & 1) != 0 ? MACHINE_INDIRECT : 0) |
			((features & 2) != 0 ? MACHINE_EVENT_INDEX : 0));
	while (input->size > 0 && !fixture.ended) {
		uint8_t byte = fuzz_take8(input);
		do_operation(&fixture, input, (byte & ~NO_TURN) % OPERATIONS);
		check_counts(&fixture);
		if ((byte & NO_TURN) == 0) {
			turn(&fixture);
		}
	}
	do_reboot(&fixture);
	if (!fixture.ended) {
		fuzz_check(gpu_driver_unref(&fixture.driver, 1) != 0, "and it is served");
	}
	end(&fixture);
}
