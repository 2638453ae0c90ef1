#ifndef TESTS_SUPPORT_GPU_DRIVER_H
#define TESTS_SUPPORT_GPU_DRIVER_H

#include <linux/virtio_gpu.h>
#include <stddef.h>
#include <stdint.h>

struct machine;

/**
 * A guest's virtio-gpu driver on a virtual machine without a machine (virtual_machine.h), whose first
 * queue is the control queue then. One command is under way at a time.
 */

// Where a guest's buffers may be, in machine.memory.
#define GPU_DRIVER_PAGES      0x200000u
#define GPU_DRIVER_PAGES_SIZE 0x100000u

struct gpu_driver {
	struct machine *machine;  // booted; borrowed
	void (*wait)(void *data); // lets the device work for a while
	void *data;
	uint8_t response[512]; // the last one
	size_t response_len;
};

// Any bytes as a command, with room for size bytes of a response (0: none). They return the response's
// type, 0 if it has none; that there is none at all ends the test.
uint32_t gpu_driver_run(struct gpu_driver *driver, const void *command, size_t len, size_t size);
// The same for one without a body.
uint32_t gpu_driver_ask(struct gpu_driver *driver, uint32_t type);

uint32_t gpu_driver_create(struct gpu_driver *driver, uint32_t id, uint32_t width, uint32_t height);
uint32_t gpu_driver_attach(struct gpu_driver *driver, uint32_t id,
	const struct virtio_gpu_mem_entry *entries, uint32_t n);
uint32_t gpu_driver_detach(struct gpu_driver *driver, uint32_t id);
uint32_t gpu_driver_unref(struct gpu_driver *driver, uint32_t id);

#endif
