#include "host-proxy/gpu_device.h"

#include <endian.h>
#include <errno.h>
#include <event2/event.h>
#include <linux/virtio_gpu.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/log.h"
#include "host-proxy/vhost_user.h"

#define CONTROL           0u // queues
#define CURSOR            1u
#define QUEUES            2u
#define SCANOUTS          1u
#define COMMANDS_PER_WAKE 32
#define ENTRIES_AT_ONCE   256

struct gpu_device {
	struct gpu_device_config config;
	struct virtio_gpu_config space;
	struct vhost_user *vhost;
	struct event *more; // timer: what one wake-up left
	int display;        // the VMM's, which hears nothing of us; -1
	struct gpu_resources resources;
	struct virtqueue_chain chain; // of the command at hand
};

union command {
	struct virtio_gpu_ctrl_hdr header;
	struct virtio_gpu_resource_create_2d create;
	struct virtio_gpu_resource_unref unref;
	struct virtio_gpu_set_scanout scanout;
	struct virtio_gpu_resource_flush flush;
	struct virtio_gpu_transfer_to_host_2d transfer;
	struct virtio_gpu_resource_attach_backing attach;
	struct virtio_gpu_resource_detach_backing detach;
};

union response {
	struct virtio_gpu_ctrl_hdr header;
	struct virtio_gpu_resp_display_info display;
};

/* ---- commands ---- */

// No display is connected: all of them are zeros.
static uint32_t handle_get_display_info(struct gpu_device *device, const union command *command)
{
	(void)device;
	(void)command;
	return VIRTIO_GPU_RESP_OK_DISPLAY_INFO;
}

static uint32_t handle_create(struct gpu_device *device, const union command *command)
{
	return gpu_resources_create(&device->resources, le32toh(command->create.resource_id),
		le32toh(command->create.width), le32toh(command->create.height));
}

static uint32_t handle_unref(struct gpu_device *device, const union command *command)
{
	return gpu_resources_unref(&device->resources, le32toh(command->unref.resource_id));
}

static uint32_t handle_set_scanout(struct gpu_device *device, const union command *command)
{
	uint32_t id = le32toh(command->scanout.resource_id); // 0 switches it off
	if (le32toh(command->scanout.scanout_id) >= SCANOUTS) {
		return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
	}
	return id == 0 ? VIRTIO_GPU_RESP_OK_NODATA : gpu_resources_find(&device->resources, id);
}

static uint32_t handle_flush(struct gpu_device *device, const union command *command)
{
	return gpu_resources_find(&device->resources, le32toh(command->flush.resource_id));
}

static uint32_t handle_transfer(struct gpu_device *device, const union command *command)
{
	return gpu_resources_find(&device->resources, le32toh(command->transfer.resource_id));
}

static uint32_t handle_detach(struct gpu_device *device, const union command *command)
{
	return gpu_resources_detach(&device->resources, le32toh(command->detach.resource_id));
}

// The entries follow the command.
static uint32_t read_ranges(
	const struct virtqueue_chain *chain, uint32_t n_entries, struct wl_array *ranges)
{
	size_t offset = sizeof(struct virtio_gpu_resource_attach_backing);
	uint32_t response = VIRTIO_GPU_RESP_OK_NODATA;
	while (n_entries > 0 && response == VIRTIO_GPU_RESP_OK_NODATA) {
		struct virtio_gpu_mem_entry entries[ENTRIES_AT_ONCE];
		uint32_t n = n_entries < ENTRIES_AT_ONCE ? n_entries : ENTRIES_AT_ONCE;
		virtqueue_chain_read(chain, offset, entries, n * sizeof(entries[0]));
		for (uint32_t i = 0; i < n && response == VIRTIO_GPU_RESP_OK_NODATA; i++) {
			response = gpu_backing_add(
				ranges, le64toh(entries[i].addr), le32toh(entries[i].length));
		}
		offset += n * sizeof(entries[0]);
		n_entries -= n;
	}
	return response;
}

static uint32_t handle_attach(struct gpu_device *device, const union command *command)
{
	const struct virtqueue_chain *chain = &device->chain;
	uint32_t n_entries = le32toh(command->attach.nr_entries);
	size_t room = chain->readable - sizeof(command->attach);
	if (n_entries > GPU_ENTRIES_MAX || n_entries > room / sizeof(struct virtio_gpu_mem_entry)) {
		return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
	}
	struct wl_array ranges;
	wl_array_init(&ranges);
	uint32_t response = read_ranges(chain, n_entries, &ranges);
	if (response == VIRTIO_GPU_RESP_OK_NODATA) {
		response = gpu_resources_attach(
			&device->resources, le32toh(command->attach.resource_id), &ranges);
	}
	wl_array_release(&ranges);
	return response;
}

struct command_type {
	const char *name;
	size_t size;
	uint32_t (*handle)(struct gpu_device *device, const union command *command);
};

#define FIRST   VIRTIO_GPU_CMD_GET_DISPLAY_INFO
#define AT(cmd) [VIRTIO_GPU_CMD_##cmd - FIRST]

// clang-format off
static const struct command_type types[] = {
	AT(GET_DISPLAY_INFO) = {"GET_DISPLAY_INFO", sizeof(struct virtio_gpu_ctrl_hdr), handle_get_display_info},
	AT(RESOURCE_CREATE_2D) = {"RESOURCE_CREATE_2D", sizeof(struct virtio_gpu_resource_create_2d), handle_create},
	AT(RESOURCE_UNREF) = {"RESOURCE_UNREF", sizeof(struct virtio_gpu_resource_unref), handle_unref},
	AT(SET_SCANOUT) = {"SET_SCANOUT", sizeof(struct virtio_gpu_set_scanout), handle_set_scanout},
	AT(RESOURCE_FLUSH) = {"RESOURCE_FLUSH", sizeof(struct virtio_gpu_resource_flush), handle_flush},
	AT(TRANSFER_TO_HOST_2D) = {"TRANSFER_TO_HOST_2D", sizeof(struct virtio_gpu_transfer_to_host_2d), handle_transfer},
	AT(RESOURCE_ATTACH_BACKING) = {"RESOURCE_ATTACH_BACKING", sizeof(struct virtio_gpu_resource_attach_backing), handle_attach},
	AT(RESOURCE_DETACH_BACKING) = {"RESOURCE_DETACH_BACKING", sizeof(struct virtio_gpu_resource_detach_backing), handle_detach},
};
// clang-format on

static uint32_t handle_command(struct gpu_device *device, union command *command)
{
	const struct virtqueue_chain *chain = &device->chain;
	size_t len = chain->readable < sizeof(*command) ? chain->readable : sizeof(*command);
	virtqueue_chain_read(chain, 0, command, len);
	if (len < sizeof(command->header)) {
		return VIRTIO_GPU_RESP_ERR_UNSPEC;
	}
	uint32_t index = le32toh(command->header.type) - FIRST;
	if (index >= sizeof(types) / sizeof(types[0])) {
		log_limited(LOG_DEBUG, "gpu: command %#x is not known", FIRST + index);
		return VIRTIO_GPU_RESP_ERR_UNSPEC;
	}
	const struct command_type *type = &types[index];
	uint32_t response =
		len < type->size ? VIRTIO_GPU_RESP_ERR_UNSPEC : type->handle(device, command);
	if (response >= VIRTIO_GPU_RESP_ERR_UNSPEC) {
		log_limited(LOG_WARN, "gpu: %s fails: error %#x", type->name, response);
	}
	return response;
}

// Nothing is done later than at once, so each fence is reached with its command.
static size_t write_response(
	struct gpu_device *device, const struct virtio_gpu_ctrl_hdr *command, uint32_t type)
{
	union response response = {.header.type = htole32(type)};
	size_t size = type == VIRTIO_GPU_RESP_OK_DISPLAY_INFO ? sizeof(response.display)
							      : sizeof(response.header);
	if ((le32toh(command->flags) & VIRTIO_GPU_FLAG_FENCE) != 0) {
		response.header.flags = htole32(VIRTIO_GPU_FLAG_FENCE);
		response.header.fence_id = command->fence_id;
		response.header.ctx_id = command->ctx_id;
	}
	size = size < device->chain.writable ? size : device->chain.writable;
	virtqueue_chain_write(&device->chain, &response, size);
	return size;
}

/* ---- queues ---- */

// False: nothing is there.
static bool handle_chain(struct gpu_device *device, unsigned int index)
{
	struct virtqueue *queue = vhost_user_queue(device->vhost, index);
	if (queue == NULL) {
		return false;
	}
	union command command = {0};
	size_t len = 0;
	switch (virtqueue_pop(queue, vhost_user_memory(device->vhost), &device->chain)) {
	case VIRTQUEUE_CHAIN:
		break;
	case VIRTQUEUE_BROKEN:
		vhost_user_fail(device->vhost, queue->wrong);
		return false;
	default:
		return virtqueue_want_kick(queue);
	}
	if (index == CONTROL) {
		uint32_t response = handle_command(device, &command);
		len = write_response(device, &command.header, response);
	}
	virtqueue_push(queue, &device->chain, len);
	return true;
}

// False: some are left.
static bool handle_queue(struct gpu_device *device, unsigned int index)
{
	struct virtqueue *queue = vhost_user_queue(device->vhost, index);
	if (queue == NULL) {
		return true;
	}
	virtqueue_refuse_kick(queue);
	int n = 0;
	while (n < COMMANDS_PER_WAKE && handle_chain(device, index)) {
		n++;
	}
	vhost_user_call(device->vhost, index);
	return n < COMMANDS_PER_WAKE;
}

static void handle_queues(struct gpu_device *device)
{
	static const struct timeval now = {0}; // when all others have had their turn
	bool done = true;
	for (unsigned int i = 0; i < QUEUES; i++) {
		done &= handle_queue(device, i);
	}
	if (!done) {
		event_add(device->more, &now);
	}
}

static void handle_more(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	handle_queues(data);
}

static void handle_kicked(void *data, unsigned int queue)
{
	(void)queue;
	handle_queues(data);
}

static void handle_memory_changed(void *data)
{
	const struct gpu_device *device = data;
	const char *wrong = ram_buffers_check(vhost_user_memory(device->vhost));
	if (wrong != NULL) {
		log_limited(LOG_ERROR,
			"gpu: no buffer can be had: %s; QEMU needs -object "
			"memory-backend-memfd,share=on,seal=on for it, and -machine "
			"memory-backend=…",
			wrong);
	}
}

static void handle_reset(void *data)
{
	struct gpu_device *device = data;
	gpu_resources_clear(&device->resources);
}

static void handle_display(void *data, int fd)
{
	struct gpu_device *device = data;
	if (device->display >= 0) {
		close(device->display);
	}
	device->display = fd;
}

static void handle_ended(void *data, const char *wrong)
{
	struct gpu_device *device = data;
	device->config.ended(device->config.data, wrong);
}

static const struct vhost_user_handler handler = {
	.started = handle_kicked,
	.kicked = handle_kicked,
	.memory_changed = handle_memory_changed,
	.reset = handle_reset,
	.display = handle_display,
	.ended = handle_ended,
};

static bool create_parts(struct gpu_device *device)
{
	const struct vhost_user_config config = {
		.base = device->config.base,
		.fd = device->config.fd,
		.device = &device->space,
		.device_size = sizeof(device->space),
		.may_set = true, // which events it has seen
		.n_queues = QUEUES,
		.handler = &handler,
		.data = device,
	};
	device->vhost = vhost_user_create(&config);
	device->more = evtimer_new(device->config.base, handle_more, device);
	return device->vhost != NULL && device->more != NULL;
}

struct gpu_device *gpu_device_create(const struct gpu_device_config *config)
{
	struct gpu_device *device = calloc(1, sizeof(*device));
	if (device == NULL) {
		close(config->fd);
		return NULL;
	}
	device->config = *config;
	device->space.num_scanouts = htole32(SCANOUTS);
	device->display = -1;
	gpu_resources_init(&device->resources);
	if (!create_parts(device)) {
		gpu_device_destroy(device);
		errno = ENOMEM;
		return NULL;
	}
	return device;
}

void gpu_device_destroy(struct gpu_device *device)
{
	if (device == NULL) {
		return;
	}
	if (device->more != NULL) {
		event_free(device->more);
	}
	vhost_user_destroy(device->vhost);
	gpu_resources_clear(&device->resources);
	if (device->display >= 0) {
		close(device->display);
	}
	free(device);
}

const char *gpu_device_get_buffer(struct gpu_device *device, uint32_t id, struct gpu_buffer *buffer)
{
	return gpu_resources_get_buffer(&device->resources, id, device->config.buffers,
		vhost_user_memory(device->vhost), buffer);
}

const struct gpu_resources *gpu_device_resources(const struct gpu_device *device)
{
	return &device->resources;
}
