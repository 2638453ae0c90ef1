#include "tests/support/gpu_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/virtual_machine.h"

// In machine.memory, where none of it is used otherwise.
#define TABLE        0x30000u
#define COMMAND      0x80000u
#define COMMAND_SIZE 0x180000u
#define RESPONSE     0x300000u
#define PIECE        0x10000u // bytes of a descriptor
#define TRIES        500

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "%s\n", what);
		abort();
	}
}

static uint16_t fill_table(
	struct vring_desc *desc, uint32_t first, size_t len, size_t response_size)
{
	uint16_t n = 0;
	size_t part = first < len ? first : len; // the command's body is elsewhere, as in Linux
	for (size_t at = 0; at < len; at += part, part = len - at < PIECE ? len - at : PIECE) {
		desc[n] = (struct vring_desc){
			.addr = MACHINE_ADDRESS + COMMAND + at,
			.len = (uint32_t)part,
			.flags = VRING_DESC_F_NEXT,
			.next = (uint16_t)(n + 1),
		};
		n++;
	}
	desc[n] = (struct vring_desc){
		.addr = MACHINE_ADDRESS + RESPONSE,
		.len = (uint32_t)response_size,
		.flags = VRING_DESC_F_WRITE,
	};
	if (response_size == 0) {
		desc[n - 1].flags = 0;
		return n;
	}
	return (uint16_t)(n + 1);
}

static void offer(struct machine *machine, size_t len, size_t size)
{
	struct vring_desc *desc = machine->queues[0].desc;
	const uint32_t header = sizeof(struct virtio_gpu_resource_attach_backing);
	if ((machine->features & MACHINE_INDIRECT) != 0) {
		uint8_t *table = machine->memory + TABLE;
		uint16_t n = fill_table((struct vring_desc *)table, header, len, size);
		*desc = (struct vring_desc){
			.addr = machine_address(machine, table),
			.len = n * (uint32_t)sizeof(*desc),
			.flags = VRING_DESC_F_INDIRECT,
		};
	} else {
		fill_table(desc, header, len, size);
	}
	machine_offer(machine, 0, 0);
}

// False: the device has not answered.
static bool take_response(struct gpu_driver *driver)
{
	struct machine_queue *queue = &driver->machine->queues[0];
	if (queue->seen == __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE)) {
		return false;
	}
	struct vring_used_elem used = queue->used->ring[queue->seen++ % MACHINE_RING];
	queue->avail->ring[MACHINE_RING] = queue->seen;
	check(used.id == 0 && used.len <= sizeof(driver->response), "a response that fits");
	driver->response_len = used.len;
	memcpy(driver->response, driver->machine->memory + RESPONSE, used.len);
	return true;
}

uint32_t gpu_driver_run(struct gpu_driver *driver, const void *command, size_t len, size_t size)
{
	uint32_t type = 0;
	check(len > 0 && len <= COMMAND_SIZE, "a command that fits");
	memcpy(driver->machine->memory + COMMAND, command, len);
	offer(driver->machine, len, size);
	bool answered = false;
	for (int i = 0; i < TRIES && !answered; i++) {
		driver->wait(driver->data);
		answered = take_response(driver);
	}
	check(answered, "the device answers");
	memcpy(&type, driver->response,
		driver->response_len < sizeof(type) ? driver->response_len : sizeof(type));
	return type;
}

uint32_t gpu_driver_ask(struct gpu_driver *driver, uint32_t type)
{
	const struct virtio_gpu_ctrl_hdr header = {.type = type};
	return gpu_driver_run(driver, &header, sizeof(header), sizeof(driver->response));
}

uint32_t gpu_driver_create(struct gpu_driver *driver, uint32_t id, uint32_t width, uint32_t height)
{
	const struct virtio_gpu_resource_create_2d command = {
		.hdr.type = VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
		.resource_id = id,
		.format = VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM,
		.width = width,
		.height = height,
	};
	return gpu_driver_run(driver, &command, sizeof(command), sizeof(command.hdr));
}

uint32_t gpu_driver_attach(struct gpu_driver *driver, uint32_t id,
	const struct virtio_gpu_mem_entry *entries, uint32_t n)
{
	struct virtio_gpu_resource_attach_backing command = {
		.hdr.type = VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
		.resource_id = id,
		.nr_entries = n,
	};
	size_t size = n * sizeof(*entries);
	uint8_t *bytes = malloc(sizeof(command) + size);
	check(bytes != NULL, "memory");
	memcpy(bytes, &command, sizeof(command));
	if (size > 0) {
		memcpy(bytes + sizeof(command), entries, size);
	}
	uint32_t response =
		gpu_driver_run(driver, bytes, sizeof(command) + size, sizeof(command.hdr));
	free(bytes);
	return response;
}

uint32_t gpu_driver_detach(struct gpu_driver *driver, uint32_t id)
{
	const struct virtio_gpu_resource_detach_backing command = {
		.hdr.type = VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING,
		.resource_id = id,
	};
	return gpu_driver_run(driver, &command, sizeof(command), sizeof(command.hdr));
}

uint32_t gpu_driver_unref(struct gpu_driver *driver, uint32_t id)
{
	const struct virtio_gpu_resource_unref command = {
		.hdr.type = VIRTIO_GPU_CMD_RESOURCE_UNREF,
		.resource_id = id,
	};
	return gpu_driver_run(driver, &command, sizeof(command), sizeof(command.hdr));
}
