#include "host-proxy/vhost_user.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "host-proxy/guest_memory.h"

#define BODY_MAX          4096
#define CONFIG_MAX        256
#define TABLE_MAX         8 // regions of SET_MEM_TABLE
#define MESSAGES_PER_WAKE 16
#define VERSION           1u
#define VERSION_MASK      3u
#define FLAG_REPLY        4u
#define FLAG_NEED_REPLY   8u
#define NO_FD             0x100u // instead of an eventfd

#define BIT(n)               (UINT64_C(1) << (n))
#define F_PROTOCOL_FEATURES  30
#define PROTOCOL_F_REPLY_ACK 3
#define PROTOCOL_F_CONFIG    9
#define PROTOCOL_F_MEM_SLOTS 15

#define FEATURES \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
		BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(F_PROTOCOL_FEATURES))
#define PROTOCOL_FEATURES \
	(BIT(PROTOCOL_F_REPLY_ACK) | BIT(PROTOCOL_F_CONFIG) | BIT(PROTOCOL_F_MEM_SLOTS))

enum request {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	RESET_OWNER = 4,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	SET_VRING_ERR = 14,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
	SET_CONFIG = 25,
	GET_MAX_MEM_SLOTS = 36,
	ADD_MEM_REG = 37,
	REM_MEM_REG = 38,
};

// All in the byte order of the machine.
struct header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; // of what follows
};

struct vring_state {
	uint32_t index;
	uint32_t number;
};

struct vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc, used, avail, log;
};

struct mem_table {
	uint32_t count;
	uint32_t padding;
	struct guest_range ranges[TABLE_MAX];
};

struct mem_region {
	uint64_t padding;
	struct guest_range range;
};

struct config_space {
	uint32_t offset, size, flags;
	uint8_t bytes[CONFIG_MAX];
};

static_assert(sizeof(struct header) == 12, "as on the wire");
static_assert(sizeof(struct vring_state) == 8, "as on the wire");
static_assert(sizeof(struct vring_addr) == 40, "as on the wire");
static_assert(sizeof(struct guest_range) == 32, "as on the wire");
static_assert(sizeof(struct mem_table) == 8 + TABLE_MAX * 32, "as on the wire");
static_assert(sizeof(struct mem_region) == 40, "as on the wire");
static_assert(sizeof(struct config_space) <= BODY_MAX, "fits a message");

struct message {
	struct header header;
	union {
		uint8_t bytes[BODY_MAX];
		uint64_t number;
		struct vring_state state;
		struct vring_addr addr;
		struct mem_table table;
		struct mem_region region;
		struct config_space config;
	} body;
};

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
	struct message message; // so far
	size_t received;        // of it, bytes
	struct fdlist fds;      // that came with it
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

// Answers with the message as it is, and size bytes of its body.
static const char *reply(struct vhost_user *vhost, size_t size)
{
	struct message *message = &vhost->message;
	const struct fdlist none = {0};
	message->header.flags = VERSION | FLAG_REPLY;
	message->header.size = (uint32_t)size;
	struct iovec iov[] = {
		{.iov_base = &message->header, .iov_len = sizeof(message->header)},
		{.iov_base = message->body.bytes, .iov_len = size},
	};
	ssize_t n = scm_send(vhost->config.fd, iov, 2, &none, 0);
	return n == (ssize_t)(sizeof(message->header) + size) ? NULL
							      : "the VMM does not read replies";
}

static const char *reply_number(struct vhost_user *vhost, uint64_t number)
{
	vhost->message.body.number = number;
	return reply(vhost, sizeof(number));
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

static unsigned int number_of(const struct queue *queue)
{
	return (unsigned int)(queue - queue->vhost->queues);
}

// It may be no eventfd, and its flags are shared with the VMM.
static bool take_kick(int fd)
{
	uint64_t count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};
	ssize_t n;
	do {
		n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	} while (n < 0 && errno == EINTR);
	return n == sizeof(count) || (n < 0 && errno == EAGAIN);
}

static void handle_kick(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct queue *queue = data;
	struct vhost_user *vhost = queue->vhost;
	if (!take_kick(fd)) {
		end(vhost, "a kick that is no eventfd");
	} else if (queue->running && queue->enabled) {
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

// The memory table has changed under the rings.
static const char *map_again(struct vhost_user *vhost)
{
	for (size_t i = 0; i < VHOST_USER_QUEUES_MAX; i++) {
		struct queue *queue = &vhost->queues[i];
		const char *wrong = queue->running ? map_queue(queue) : NULL;
		if (wrong != NULL) {
			return wrong;
		}
	}
	return NULL;
}

static const char *handle_get_features(struct vhost_user *vhost)
{
	return reply_number(vhost, FEATURES);
}

static const char *handle_set_features(struct vhost_user *vhost)
{
	uint64_t features = vhost->message.body.number;
	if ((features & ~FEATURES) != 0) {
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
	return reply_number(vhost, VHOST_USER_QUEUES_MAX);
}

static const char *handle_set_mem_table(struct vhost_user *vhost)
{
	const struct mem_table *table = &vhost->message.body.table;
	size_t size = vhost->message.header.size;
	if (size < offsetof(struct mem_table, ranges) || table->count > TABLE_MAX ||
		size < offsetof(struct mem_table, ranges) +
				table->count * sizeof(struct guest_range)) {
		return "a memory table of the wrong size";
	}
	if (vhost->fds.count != table->count) {
		return "a memory table without its files";
	}
	guest_memory_finish(&vhost->memory);
	for (size_t i = 0; i < table->count; i++) {
		const char *wrong = guest_memory_add(
			&vhost->memory, &table->ranges[i], fdlist_take(&vhost->fds));
		if (wrong != NULL) {
			return wrong;
		}
	}
	return map_again(vhost);
}

static const char *handle_get_max_mem_slots(struct vhost_user *vhost)
{
	return reply_number(vhost, GUEST_MEMORY_MAX);
}

static const char *handle_add_mem_reg(struct vhost_user *vhost)
{
	if (vhost->fds.count != 1) {
		return "a memory region without its file";
	}
	return guest_memory_add(
		&vhost->memory, &vhost->message.body.region.range, fdlist_take(&vhost->fds));
}

static const char *handle_rem_mem_reg(struct vhost_user *vhost)
{
	const char *wrong = guest_memory_remove(&vhost->memory, &vhost->message.body.region.range);
	return wrong != NULL ? wrong : map_again(vhost);
}

// NULL: no such queue, or a running one that must not be changed.
static struct queue *queue_to_set(struct vhost_user *vhost, uint32_t index)
{
	if (index >= VHOST_USER_QUEUES_MAX || vhost->queues[index].running) {
		return NULL;
	}
	return &vhost->queues[index];
}

#define NO_QUEUE "a queue that is not there, or runs"

static const char *handle_set_vring_num(struct vhost_user *vhost)
{
	const struct vring_state *state = &vhost->message.body.state;
	struct queue *queue = queue_to_set(vhost, state->index);
	if (queue == NULL) {
		return NO_QUEUE;
	}
	queue->size = state->number;
	return NULL;
}

static const char *handle_set_vring_addr(struct vhost_user *vhost)
{
	const struct vring_addr *addr = &vhost->message.body.addr;
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
	const struct vring_state *state = &vhost->message.body.state;
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

static const char *handle_get_vring_base(struct vhost_user *vhost)
{
	struct vring_state *state = &vhost->message.body.state;
	if (state->index >= VHOST_USER_QUEUES_MAX) {
		return NO_QUEUE;
	}
	struct queue *queue = &vhost->queues[state->index];
	stop_queue(queue);
	state->number = queue->stopped_at;
	return reply(vhost, sizeof(*state));
}

// The eventfd of a message, -1 for none. NULL, or what is wrong.
static const char *take_eventfd(struct vhost_user *vhost, struct queue **queue, int *fd)
{
	uint64_t number = vhost->message.body.number;
	uint64_t index = number & (NO_FD - 1);
	if (index >= VHOST_USER_QUEUES_MAX) {
		return NO_QUEUE;
	}
	if (vhost->fds.count != ((number & NO_FD) != 0 ? 0 : 1)) {
		return "an eventfd that did not come";
	}
	*queue = &vhost->queues[index];
	*fd = fdlist_take(&vhost->fds);
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
	queue->kick = event_new(vhost->config.base, fd, EV_READ | EV_PERSIST, handle_kick, queue);
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
	if (wrong == NULL) {
		close_call(queue);
		queue->call_fd = fd;
	}
	return wrong;
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
	const struct vring_state *state = &vhost->message.body.state;
	if ((vhost->features & BIT(F_PROTOCOL_FEATURES)) == 0) {
		return "SET_VRING_ENABLE, which was not negotiated";
	}
	if (state->index >= VHOST_USER_QUEUES_MAX || state->number > 1) {
		return NO_QUEUE;
	}
	struct queue *queue = &vhost->queues[state->index];
	queue->enabled = state->number == 1;
	return queue->enabled ? start_queue(queue) : NULL;
}

static const char *handle_get_config(struct vhost_user *vhost)
{
	struct config_space *space = &vhost->message.body.config;
	const size_t head = offsetof(struct config_space, bytes);
	uint32_t size = vhost->config.device_size;
	if (vhost->message.header.size < head) {
		return "GET_CONFIG of the wrong size";
	}
	if (space->offset > size || space->size > size - space->offset) {
		return reply(vhost, 0); // by which it is refused
	}
	memcpy(space->bytes, (const uint8_t *)vhost->config.device + space->offset, space->size);
	return reply(vhost, head + space->size);
}

static const char *handle_set_config(struct vhost_user *vhost)
{
	(void)vhost;
	return "SET_CONFIG, and nothing can be set";
}

struct message_type {
	const char *name;
	uint32_t size;  // of the body, at least
	uint64_t needs; // protocol feature's bit; 0: none
	bool has_reply; // of its own
	bool takes_fds; // else any are an error
	const char *(*handle)(struct vhost_user *vhost);
};

#define STATE  sizeof(struct vring_state)
#define NUMBER sizeof(uint64_t)
#define REGION sizeof(struct mem_region)
#define SLOTS  BIT(PROTOCOL_F_MEM_SLOTS)
#define CONFIG BIT(PROTOCOL_F_CONFIG)

// clang-format off
static const struct message_type types[] = {
	[GET_FEATURES] = {"GET_FEATURES", 0, 0, true, false, handle_get_features},
	[SET_FEATURES] = {"SET_FEATURES", NUMBER, 0, false, false, handle_set_features},
	[SET_OWNER] = {"SET_OWNER", 0, 0, false, false, handle_set_owner},
	[RESET_OWNER] = {"RESET_OWNER", 0, 0, false, false, handle_reset_owner},
	[SET_MEM_TABLE] = {"SET_MEM_TABLE", 8, 0, false, true, handle_set_mem_table},
	[SET_VRING_NUM] = {"SET_VRING_NUM", STATE, 0, false, false, handle_set_vring_num},
	[SET_VRING_ADDR] = {"SET_VRING_ADDR", sizeof(struct vring_addr), 0, false, false,
		handle_set_vring_addr},
	[SET_VRING_BASE] = {"SET_VRING_BASE", STATE, 0, false, false, handle_set_vring_base},
	[GET_VRING_BASE] = {"GET_VRING_BASE", STATE, 0, true, false, handle_get_vring_base},
	[SET_VRING_KICK] = {"SET_VRING_KICK", NUMBER, 0, false, true, handle_set_vring_kick},
	[SET_VRING_CALL] = {"SET_VRING_CALL", NUMBER, 0, false, true, handle_set_vring_call},
	[SET_VRING_ERR] = {"SET_VRING_ERR", NUMBER, 0, false, true, handle_set_vring_err},
	[GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", 0, 0, true, false,
		handle_get_protocol_features},
	[SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", NUMBER, 0, false, false,
		handle_set_protocol_features},
	[GET_QUEUE_NUM] = {"GET_QUEUE_NUM", 0, 0, true, false, handle_get_queue_num},
	[SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, 0, false, false, handle_set_vring_enable},
	[GET_CONFIG] = {"GET_CONFIG", 12, CONFIG, true, false, handle_get_config},
	[SET_CONFIG] = {"SET_CONFIG", 12, CONFIG, false, false, handle_set_config},
	[GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", 0, SLOTS, true, false, handle_get_max_mem_slots},
	[ADD_MEM_REG] = {"ADD_MEM_REG", REGION, SLOTS, false, true, handle_add_mem_reg},
	[REM_MEM_REG] = {"REM_MEM_REG", REGION, SLOTS, false, true, handle_rem_mem_reg},
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
	const struct header header = vhost->message.header;
	const struct message_type *type = find_type(header.request);
	if (type == NULL || (type->needs & ~vhost->protocol_features) != 0) {
		log_error("vhost-user message %u was not negotiated", header.request);
		return "a message that was not negotiated";
	}
	log_debug("vhost-user: %s, %u bytes, %zu fds", type->name, header.size, vhost->fds.count);
	if (header.size < type->size) {
		return "a message that is too short";
	}
	if (vhost->fds.count > 0 && !type->takes_fds) {
		return "fds where none may be";
	}
	bool acks = (vhost->protocol_features & BIT(PROTOCOL_F_REPLY_ACK)) != 0;
	const char *wrong = type->handle(vhost);
	if (wrong != NULL) {
		log_error("vhost-user: %s: %s", type->name, wrong);
	} else if (acks && !type->has_reply && (header.flags & FLAG_NEED_REPLY) != 0) {
		wrong = reply_number(vhost, 0);
	}
	return wrong;
}

// How many bytes are to come; 0: the message is complete.
static size_t missing(const struct vhost_user *vhost)
{
	size_t head = sizeof(struct header);
	if (vhost->received < head) {
		return head - vhost->received;
	}
	return head + vhost->message.header.size - vhost->received;
}

static uint8_t *next_byte(struct vhost_user *vhost)
{
	size_t head = sizeof(struct header);
	if (vhost->received < head) {
		return (uint8_t *)&vhost->message.header + vhost->received;
	}
	return vhost->message.body.bytes + (vhost->received - head);
}

// 1: the message is complete; 0: there is no more to read now; *wrong: the end, NULL if it is orderly.
static int read_message(struct vhost_user *vhost, const char **wrong)
{
	const struct header *header = &vhost->message.header;
	while (missing(vhost) > 0) {
		ssize_t n =
			scm_recv(vhost->config.fd, next_byte(vhost), missing(vhost), &vhost->fds);
		if (n == -EAGAIN) {
			return 0;
		}
		if (n <= 0) {
			*wrong = n == 0 || n == -ECONNRESET ? NULL : strerror((int)-n);
			return -1;
		}
		vhost->received += (size_t)n;
		if (vhost->received == sizeof(*header) &&
			(header->size > BODY_MAX || (header->flags & VERSION_MASK) != VERSION)) {
			*wrong = "a message of an impossible size or version";
			return -1;
		}
	}
	return 1;
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vhost_user *vhost = data;
	for (int i = 0; i < MESSAGES_PER_WAKE && !vhost->ended; i++) {
		const char *wrong = NULL;
		int status = read_message(vhost, &wrong);
		if (status == 0) {
			return;
		}
		if (status > 0) {
			wrong = dispatch(vhost);
			vhost->received = 0;
			fdlist_drop(&vhost->fds, vhost->fds.count);
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
	assert(config->device_size <= CONFIG_MAX);
	vhost->config = *config;
	guest_memory_init(&vhost->memory);
	fdlist_init(&vhost->fds);
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
	fdlist_finish(&vhost->fds);
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

void vhost_user_call(struct vhost_user *vhost, unsigned int index)
{
	struct virtqueue *ring = vhost_user_queue(vhost, index);
	const uint64_t one = 1;
	if (ring == NULL || !virtqueue_wants_call(ring) || vhost->queues[index].call_fd < 0) {
		return;
	}
	if (write(vhost->queues[index].call_fd, &one, sizeof(one)) < 0) {
		log_debug("cannot call the guest: %s", strerror(errno));
	}
}
