#include "host-proxy/vhost_user.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/vhost_message.h"

#define MESSAGES_PER_WAKE 16
#define NO_FD             0x100u // instead of an eventfd

#define BIT(n)               (UINT64_C(1) << (n))
#define F_PROTOCOL_FEATURES  30
#define PROTOCOL_F_REPLY_ACK 3
#define PROTOCOL_F_CONFIG    9
#define PROTOCOL_F_MEM_SLOTS 15

#define FEATURES \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
		BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(F_PROTOCOL_FEATURES))
// What a VMM does by itself, and QEMU's GPU negotiates without asking us.
#define FEATURES_OF_VMM BIT(VIRTIO_F_RING_RESET)
#define PROTOCOL_FEATURES \
	(BIT(PROTOCOL_F_REPLY_ACK) | BIT(PROTOCOL_F_CONFIG) | BIT(PROTOCOL_F_MEM_SLOTS))

struct queue {
	struct vhost_user *vhost;
	struct virtqueue ring;
	unsigned int size;
	struct virtqueue_addresses addresses;
	bool has_addresses;
	bool enabled;
	bool running;
	int call_fd; // -1: the guest polls
	int kick_fd; // -1: not set
	struct event *kick;
	uint16_t stopped_at; // next_avail then
};

struct vhost_user {
	struct vhost_user_config config;
	struct event *readable;
	struct guest_memory memory;
	struct queue queues[VHOST_USER_QUEUES_MAX];
	uint64_t features, protocol_features; // negotiated
	bool has_features;
	bool ended;
	struct queue *draining;       // which the VMM wants to stop, and waits; NULL
	struct vhost_message message; // at hand
};

static void end(struct vhost_user *vhost, const char *wrong)
{
	if (vhost->ended) {
		return;
	}
	vhost->ended = true;
	event_del(vhost->readable);
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		vhost->queues[i].running = false;
		if (vhost->queues[i].kick != NULL) {
			event_del(vhost->queues[i].kick);
		}
	}
	vhost->config.handler->ended(vhost->config.data, wrong);
}

void vhost_user_fail(struct vhost_user *vhost, const char *wrong)
{
	end(vhost, wrong);
}

static const char *reply_number(struct vhost_user *vhost, uint64_t number)
{
	vhost->message.body.number = number;
	return vhost_message_reply(&vhost->message, vhost->config.fd, sizeof(number));
}

static void close_kick(struct queue *queue)
{
	if (queue->kick != NULL) {
		event_free(queue->kick);
		queue->kick = NULL;
	}
	if (queue->kick_fd >= 0) {
		close(queue->kick_fd);
		queue->kick_fd = -1;
	}
}

static void close_call(struct queue *queue)
{
	if (queue->call_fd >= 0) {
		close(queue->call_fd);
		queue->call_fd = -1;
	}
}

// It may block, and be full: then the guest has been called already.
static bool is_full(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
	return poll(&poll_fd, 1, 0) != 1;
}

static void signal_call(const struct queue *queue)
{
	const uint64_t one = 1;
	if (queue->call_fd < 0 || is_full(queue->call_fd)) {
		return;
	}
	if (write(queue->call_fd, &one, sizeof(one)) < 0) {
		log_debug("cannot call the guest: %s", strerror(errno));
	}
}

static unsigned int number_of(const struct queue *queue)
{
	return (unsigned int)(queue - queue->vhost->queues);
}

// It is edge-triggered: each kick wakes us, though nobody takes the count of those before.
static void handle_kick(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct queue *queue = data;
	struct vhost_user *vhost = queue->vhost;
	if (queue->running && queue->enabled) {
		vhost->config.handler->kicked(vhost->config.data, number_of(queue));
	}
}

static const char *map_queue(struct queue *queue)
{
	struct vhost_user *vhost = queue->vhost;
	queue->ring.indirect = (vhost->features & BIT(VIRTIO_RING_F_INDIRECT_DESC)) != 0;
	queue->ring.event_index = (vhost->features & BIT(VIRTIO_RING_F_EVENT_IDX)) != 0;
	return virtqueue_map(&queue->ring, &vhost->memory, &queue->addresses, queue->size);
}

// A queue that has all it needs runs; one that is enabled, too, is the handler's.
static const char *start_queue(struct queue *queue)
{
	struct vhost_user *vhost = queue->vhost;
	if (!queue->running) {
		if (queue->kick_fd < 0 || !queue->has_addresses || queue->size == 0 ||
			!vhost->has_features) {
			return NULL;
		}
		const char *wrong = map_queue(queue);
		if (wrong != NULL) {
			return wrong;
		}
		queue->running = true;
	}
	if (queue->enabled) {
		vhost->config.handler->started(vhost->config.data, number_of(queue));
	}
	return NULL;
}

static void stop_queue(struct queue *queue)
{
	queue->stopped_at = queue->ring.next_avail;
	queue->running = false;
	virtqueue_unmap(&queue->ring);
	close_kick(queue);
	close_call(queue);
}

static void tell_memory(struct vhost_user *vhost)
{
	if (vhost->config.handler->memory_changed != NULL) {
		vhost->config.handler->memory_changed(vhost->config.data);
	}
}

// The memory table has changed under the rings.
static const char *change_memory(struct vhost_user *vhost)
{
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		struct queue *queue = &vhost->queues[i];
		const char *wrong = queue->running ? map_queue(queue) : NULL;
		if (wrong != NULL) {
			return wrong;
		}
	}
	tell_memory(vhost);
	return NULL;
}

static const char *handle_get_features(struct vhost_user *vhost)
{
	return reply_number(vhost, FEATURES);
}

static const char *handle_set_features(struct vhost_user *vhost)
{
	uint64_t features = vhost->message.body.number;
	if ((features & ~(FEATURES | FEATURES_OF_VMM)) != 0) {
		return "features that were not offered";
	}
	vhost->features = features;
	vhost->has_features = true;
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		// Without SET_VRING_ENABLE, queues are always enabled.
		if ((features & BIT(F_PROTOCOL_FEATURES)) == 0) {
			vhost->queues[i].enabled = true;
		}
	}
	return NULL;
}

static const char *handle_get_protocol_features(struct vhost_user *vhost)
{
	return reply_number(vhost, PROTOCOL_FEATURES);
}

static const char *handle_set_protocol_features(struct vhost_user *vhost)
{
	uint64_t features = vhost->message.body.number;
	if ((features & ~PROTOCOL_FEATURES) != 0) {
		return "protocol features that were not offered";
	}
	vhost->protocol_features = features;
	return NULL;
}

static const char *handle_set_owner(struct vhost_user *vhost)
{
	(void)vhost;
	return NULL;
}

static const char *handle_reset_owner(struct vhost_user *vhost)
{
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		stop_queue(&vhost->queues[i]);
	}
	vhost->config.handler->reset(vhost->config.data);
	return NULL;
}

static const char *handle_get_queue_num(struct vhost_user *vhost)
{
	return reply_number(vhost, vhost->config.n_queues);
}

static const char *handle_set_mem_table(struct vhost_user *vhost)
{
	const struct vhost_mem_table *table = &vhost->message.body.table;
	size_t size = vhost->message.header.size;
	if (size < offsetof(struct vhost_mem_table, ranges) || table->count > VHOST_TABLE_MAX ||
		size < offsetof(struct vhost_mem_table, ranges) +
				table->count * sizeof(struct guest_range)) {
		return "a memory table of the wrong size";
	}
	if (vhost->message.fds.count != table->count) {
		return "a memory table without its files";
	}
	guest_memory_finish(&vhost->memory);
	for (size_t i = 0; i < table->count; i++) {
		const char *wrong = guest_memory_add(
			&vhost->memory, &table->ranges[i], fdlist_take(&vhost->message.fds));
		if (wrong != NULL) {
			return wrong;
		}
	}
	return change_memory(vhost);
}

static const char *handle_get_max_mem_slots(struct vhost_user *vhost)
{
	return reply_number(vhost, GUEST_MEMORY_MAX);
}

static const char *handle_add_mem_reg(struct vhost_user *vhost)
{
	if (vhost->message.fds.count != 1) {
		return "a memory region without its file";
	}
	const char *wrong = guest_memory_add(&vhost->memory, &vhost->message.body.region.range,
		fdlist_take(&vhost->message.fds));
	if (wrong == NULL) {
		tell_memory(vhost);
	}
	return wrong;
}

static const char *handle_rem_mem_reg(struct vhost_user *vhost)
{
	const char *wrong = guest_memory_remove(&vhost->memory, &vhost->message.body.region.range);
	return wrong != NULL ? wrong : change_memory(vhost);
}

// NULL: no such queue, or a running one that must not be changed.
static struct queue *queue_to_set(struct vhost_user *vhost, uint32_t index)
{
	if (index >= vhost->config.n_queues || vhost->queues[index].running) {
		return NULL;
	}
	return &vhost->queues[index];
}

#define NO_QUEUE "a queue that is not there, or runs"

static const char *handle_set_vring_num(struct vhost_user *vhost)
{
	const struct vhost_vring_state *state = &vhost->message.body.state;
	struct queue *queue = queue_to_set(vhost, state->index);
	if (queue == NULL) {
		return NO_QUEUE;
	}
	queue->size = state->number;
	return NULL;
}

static const char *handle_set_vring_addr(struct vhost_user *vhost)
{
	const struct vhost_vring_addr *addr = &vhost->message.body.addr;
	struct queue *queue = queue_to_set(vhost, addr->index);
	if (queue == NULL) {
		return NO_QUEUE;
	}
	queue->addresses = (struct virtqueue_addresses){
		.desc = addr->desc,
		.avail = addr->avail,
		.used = addr->used,
	};
	queue->has_addresses = true;
	return start_queue(queue);
}

static const char *handle_set_vring_base(struct vhost_user *vhost)
{
	const struct vhost_vring_state *state = &vhost->message.body.state;
	struct queue *queue = queue_to_set(vhost, state->index);
	if (queue == NULL || state->number > UINT16_MAX) {
		return NO_QUEUE;
	}
	// A VM that goes on after a pause begins where it stopped.
	if (queue->stopped_at != state->number) {
		vhost->config.handler->reset(vhost->config.data);
	}
	queue->ring.next_avail = queue->stopped_at = (uint16_t)state->number;
	return NULL;
}

static const char *reply_base(struct vhost_user *vhost, struct queue *queue)
{
	struct vhost_vring_state *state = &vhost->message.body.state;
	stop_queue(queue);
	state->number = queue->stopped_at;
	return vhost_message_reply(&vhost->message, vhost->config.fd, sizeof(*state));
}

static const char *handle_get_vring_base(struct vhost_user *vhost)
{
	uint32_t index = vhost->message.body.state.index;
	if (index >= vhost->config.n_queues) {
		return NO_QUEUE;
	}
	const struct vhost_user_handler *handler = vhost->config.handler;
	struct queue *queue = &vhost->queues[index];
	queue->running = false;
	if (handler->drain != NULL && !handler->drain(vhost->config.data, index)) {
		vhost->draining = queue;
		return NULL;
	}
	return reply_base(vhost, queue);
}

void vhost_user_drained(struct vhost_user *vhost)
{
	struct queue *queue = vhost->draining;
	if (queue == NULL || vhost->ended) {
		return;
	}
	vhost->draining = NULL;
	const char *wrong = reply_base(vhost, queue);
	if (wrong == NULL && event_add(vhost->readable, NULL) < 0) {
		wrong = "no memory";
	}
	if (wrong != NULL) {
		end(vhost, wrong);
	}
}

// The eventfd of a message, -1 for none. NULL, or what is wrong.
static const char *take_eventfd(struct vhost_user *vhost, struct queue **queue, int *fd)
{
	uint64_t number = vhost->message.body.number;
	uint64_t index = number & (NO_FD - 1);
	if (index >= vhost->config.n_queues) {
		return NO_QUEUE;
	}
	if (vhost->message.fds.count != ((number & NO_FD) != 0 ? 0 : 1)) {
		return "an eventfd that did not come";
	}
	*queue = &vhost->queues[index];
	*fd = fdlist_take(&vhost->message.fds);
	return NULL;
}

static const char *handle_set_vring_kick(struct vhost_user *vhost)
{
	struct queue *queue;
	int fd;
	const char *wrong = take_eventfd(vhost, &queue, &fd);
	if (wrong != NULL) {
		return wrong;
	}
	close_kick(queue);
	queue->kick_fd = fd;
	if (fd < 0) {
		return "a queue that wants to be polled";
	}
	queue->kick =
		event_new(vhost->config.base, fd, EV_READ | EV_PERSIST | EV_ET, handle_kick, queue);
	if (queue->kick == NULL || event_add(queue->kick, NULL) < 0) {
		return "a kick that cannot be waited for";
	}
	return start_queue(queue);
}

static const char *handle_set_vring_call(struct vhost_user *vhost)
{
	struct queue *queue;
	int fd;
	const char *wrong = take_eventfd(vhost, &queue, &fd);
	if (wrong != NULL) {
		return wrong;
	}
	close_call(queue);
	queue->call_fd = fd;
	if (queue->running && queue->enabled) {
		// The VMM does not wait until we have it: our last call may have gone to the one
		// before, which nobody reads any more. One too many does no harm.
		signal_call(queue);
	}
	return NULL;
}

// The VMM hears of errors by the end of its connection.
static const char *handle_set_vring_err(struct vhost_user *vhost)
{
	struct queue *queue;
	int fd;
	const char *wrong = take_eventfd(vhost, &queue, &fd);
	if (wrong == NULL && fd >= 0) {
		close(fd);
	}
	return wrong;
}

static const char *handle_set_vring_enable(struct vhost_user *vhost)
{
	const struct vhost_vring_state *state = &vhost->message.body.state;
	if ((vhost->features & BIT(F_PROTOCOL_FEATURES)) == 0) {
		return "SET_VRING_ENABLE, which was not negotiated";
	}
	if (state->index >= vhost->config.n_queues || state->number > 1) {
		return NO_QUEUE;
	}
	struct queue *queue = &vhost->queues[state->index];
	queue->enabled = state->number == 1;
	return queue->enabled ? start_queue(queue) : NULL;
}

static const char *handle_get_config(struct vhost_user *vhost)
{
	struct vhost_config_space *space = &vhost->message.body.config;
	const size_t head = offsetof(struct vhost_config_space, bytes);
	uint32_t size = vhost->config.device_size;
	if (vhost->message.header.size < head) {
		return "GET_CONFIG of the wrong size";
	}
	if (space->offset > size || space->size > size - space->offset) {
		return vhost_message_reply(
			&vhost->message, vhost->config.fd, 0); // by which it is refused
	}
	memcpy(space->bytes, (const uint8_t *)vhost->config.device + space->offset, space->size);
	return vhost_message_reply(&vhost->message, vhost->config.fd, head + space->size);
}

static const char *handle_set_config(struct vhost_user *vhost)
{
	return vhost->config.may_set ? NULL : "SET_CONFIG, and nothing can be set";
}

static const char *handle_gpu_set_socket(struct vhost_user *vhost)
{
	const struct vhost_user_handler *handler = vhost->config.handler;
	if (handler->display == NULL) {
		return "a socket for a display, and there is none";
	}
	if (vhost->message.fds.count != 1) {
		return "a socket that did not come";
	}
	handler->display(vhost->config.data, fdlist_take(&vhost->message.fds));
	return NULL;
}

struct message_type {
	const char *name;
	uint32_t size;  // of the body, at least
	uint64_t needs; // protocol feature's bit; 0: none
	bool has_reply; // of its own
	bool takes_fds; // else any are an error
	const char *(*handle)(struct vhost_user *vhost);
};

#define STATE  sizeof(struct vhost_vring_state)
#define NUMBER sizeof(uint64_t)
#define REGION sizeof(struct vhost_mem_region)
#define SLOTS  BIT(PROTOCOL_F_MEM_SLOTS)
#define CONFIG BIT(PROTOCOL_F_CONFIG)

// clang-format off
static const struct message_type types[] = {
	[VHOST_GET_FEATURES] = {"GET_FEATURES", 0, 0, true, false, handle_get_features},
	[VHOST_SET_FEATURES] = {"SET_FEATURES", NUMBER, 0, false, false, handle_set_features},
	[VHOST_SET_OWNER] = {"SET_OWNER", 0, 0, false, false, handle_set_owner},
	[VHOST_RESET_OWNER] = {"RESET_OWNER", 0, 0, false, false, handle_reset_owner},
	[VHOST_SET_MEM_TABLE] = {"SET_MEM_TABLE", 8, 0, false, true, handle_set_mem_table},
	[VHOST_SET_VRING_NUM] = {"SET_VRING_NUM", STATE, 0, false, false, handle_set_vring_num},
	[VHOST_SET_VRING_ADDR] = {"SET_VRING_ADDR", sizeof(struct vhost_vring_addr), 0, false, false,
		handle_set_vring_addr},
	[VHOST_SET_VRING_BASE] = {"SET_VRING_BASE", STATE, 0, false, false, handle_set_vring_base},
	[VHOST_GET_VRING_BASE] = {"GET_VRING_BASE", STATE, 0, true, false, handle_get_vring_base},
	[VHOST_SET_VRING_KICK] = {"SET_VRING_KICK", NUMBER, 0, false, true, handle_set_vring_kick},
	[VHOST_SET_VRING_CALL] = {"SET_VRING_CALL", NUMBER, 0, false, true, handle_set_vring_call},
	[VHOST_SET_VRING_ERR] = {"SET_VRING_ERR", NUMBER, 0, false, true, handle_set_vring_err},
	[VHOST_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", 0, 0, true, false,
		handle_get_protocol_features},
	[VHOST_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", NUMBER, 0, false, false,
		handle_set_protocol_features},
	[VHOST_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", 0, 0, true, false, handle_get_queue_num},
	[VHOST_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, 0, false, false, handle_set_vring_enable},
	[VHOST_GET_CONFIG] = {"GET_CONFIG", 12, CONFIG, true, false, handle_get_config},
	[VHOST_SET_CONFIG] = {"SET_CONFIG", 12, CONFIG, false, false, handle_set_config},
	[VHOST_GPU_SET_SOCKET] = {"GPU_SET_SOCKET", 0, 0, false, true, handle_gpu_set_socket},
	[VHOST_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", 0, SLOTS, true, false, handle_get_max_mem_slots},
	[VHOST_ADD_MEM_REG] = {"ADD_MEM_REG", REGION, SLOTS, false, true, handle_add_mem_reg},
	[VHOST_REM_MEM_REG] = {"REM_MEM_REG", REGION, SLOTS, false, true, handle_rem_mem_reg},
};
// clang-format on

static const struct message_type *find_type(uint32_t request)
{
	if (request >= sizeof(types) / sizeof(types[0]) || types[request].handle == NULL) {
		return NULL;
	}
	return &types[request];
}

static const char *dispatch(struct vhost_user *vhost)
{
	const struct vhost_header header = vhost->message.header;
	const struct message_type *type = find_type(header.request);
	if (type == NULL || (type->needs & ~vhost->protocol_features) != 0) {
		log_error("vhost-user message %u was not negotiated", header.request);
		return "a message that was not negotiated";
	}
	log_debug("vhost-user: %s, %u bytes, %zu fds", type->name, header.size,
		vhost->message.fds.count);
	if (header.size < type->size) {
		return "a message that is too short";
	}
	if (vhost->message.fds.count > 0 && !type->takes_fds) {
		return "fds where none may be";
	}
	bool acks = (vhost->protocol_features & BIT(PROTOCOL_F_REPLY_ACK)) != 0;
	const char *wrong = type->handle(vhost);
	if (wrong != NULL) {
		log_error("vhost-user: %s: %s", type->name, wrong);
	} else if (acks && !type->has_reply && (header.flags & VHOST_FLAG_NEED_REPLY) != 0) {
		wrong = reply_number(vhost, 0);
	}
	return wrong;
}

// The VMM waits for a reply: it can only hang up. What else it says is read after that.
static void watch_while_draining(struct vhost_user *vhost)
{
	char byte;
	if (recv(vhost->config.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
		end(vhost, NULL);
	} else {
		event_del(vhost->readable);
	}
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct vhost_user *vhost = data;
	if (vhost->draining != NULL) {
		watch_while_draining(vhost);
		return;
	}
	for (int i = 0; i < MESSAGES_PER_WAKE && !vhost->ended && vhost->draining == NULL; i++) {
		const char *wrong = NULL;
		int status = vhost_message_read(&vhost->message, fd, &wrong);
		if (status == 0) {
			return;
		}
		if (status > 0) {
			wrong = dispatch(vhost);
			vhost_message_clear(&vhost->message);
		}
		if (status < 0 || wrong != NULL) {
			end(vhost, wrong);
		}
	}
}

struct vhost_user *vhost_user_create(const struct vhost_user_config *config)
{
	struct vhost_user *vhost = calloc(1, sizeof(*vhost));
	if (vhost == NULL) {
		close(config->fd);
		return NULL;
	}
	assert(config->device_size <= VHOST_CONFIG_MAX);
	assert(config->n_queues <= VHOST_USER_QUEUES_MAX);
	vhost->config = *config;
	guest_memory_init(&vhost->memory);
	vhost_message_init(&vhost->message);
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		vhost->queues[i] = (struct queue){.vhost = vhost, .call_fd = -1, .kick_fd = -1};
	}
	vhost->readable =
		event_new(config->base, config->fd, EV_READ | EV_PERSIST, handle_readable, vhost);
	if (vhost->readable == NULL || event_add(vhost->readable, NULL) < 0) {
		vhost_user_destroy(vhost);
		errno = ENOMEM;
		return NULL;
	}
	return vhost;
}

void vhost_user_destroy(struct vhost_user *vhost)
{
	if (vhost == NULL) {
		return;
	}
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		stop_queue(&vhost->queues[i]);
	}
	if (vhost->readable != NULL) {
		event_free(vhost->readable);
	}
	guest_memory_finish(&vhost->memory);
	vhost_message_finish(&vhost->message);
	close(vhost->config.fd);
	free(vhost);
}

struct virtqueue *vhost_user_queue(struct vhost_user *vhost, unsigned int index)
{
	assert(index < VHOST_USER_QUEUES_MAX);
	struct queue *queue = &vhost->queues[index];
	return queue->running && queue->enabled ? &queue->ring : NULL;
}

const struct guest_memory *vhost_user_memory(const struct vhost_user *vhost)
{
	return &vhost->memory;
}

// Also while it is drained. After the end, the memory that it is in may be gone.
static bool has_ring(const struct queue *queue)
{
	return !queue->vhost->ended && queue->ring.ring.num > 0;
}

void vhost_user_give_back(struct vhost_user *vhost, unsigned int index, uint16_t head)
{
	assert(index < VHOST_USER_QUEUES_MAX);
	struct queue *queue = &vhost->queues[index];
	if (has_ring(queue)) {
		virtqueue_push_head(&queue->ring, head);
	}
}

bool vhost_user_call(struct vhost_user *vhost, unsigned int index)
{
	assert(index < VHOST_USER_QUEUES_MAX);
	struct queue *queue = &vhost->queues[index];
	bool wanted = has_ring(queue) && virtqueue_wants_call(&queue->ring);
	if (wanted) {
		signal_call(queue);
	}
	return wanted;
}
