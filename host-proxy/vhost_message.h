#ifndef HOST_PROXY_VHOST_MESSAGE_H
#define HOST_PROXY_VHOST_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/fdlist.h"
#include "host-proxy/guest_memory.h"

/**
 * The messages of vhost-user (QEMU, docs/interop/vhost-user.rst): a header, a body and fds. All numbers
 * are in the byte order of the machine.
 */

#define VHOST_BODY_MAX        4096
#define VHOST_CONFIG_MAX      256 // bytes of a device's configuration space
#define VHOST_TABLE_MAX       8   // regions of SET_MEM_TABLE
#define VHOST_FLAG_NEED_REPLY 8u

enum vhost_request {
	VHOST_GET_FEATURES = 1,
	VHOST_SET_FEATURES = 2,
	VHOST_SET_OWNER = 3,
	VHOST_RESET_OWNER = 4,
	VHOST_SET_MEM_TABLE = 5,
	VHOST_SET_VRING_NUM = 8,
	VHOST_SET_VRING_ADDR = 9,
	VHOST_SET_VRING_BASE = 10,
	VHOST_GET_VRING_BASE = 11,
	VHOST_SET_VRING_KICK = 12,
	VHOST_SET_VRING_CALL = 13,
	VHOST_SET_VRING_ERR = 14,
	VHOST_GET_PROTOCOL_FEATURES = 15,
	VHOST_SET_PROTOCOL_FEATURES = 16,
	VHOST_GET_QUEUE_NUM = 17,
	VHOST_SET_VRING_ENABLE = 18,
	VHOST_GET_CONFIG = 24,
	VHOST_SET_CONFIG = 25,
	VHOST_GPU_SET_SOCKET = 33,
	VHOST_GET_MAX_MEM_SLOTS = 36,
	VHOST_ADD_MEM_REG = 37,
	VHOST_REM_MEM_REG = 38,
};

struct vhost_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; // of what follows
};

struct vhost_vring_state {
	uint32_t index;
	uint32_t number;
};

struct vhost_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc, used, avail, log;
};

struct vhost_mem_table {
	uint32_t count;
	uint32_t padding;
	struct guest_range ranges[VHOST_TABLE_MAX];
};

struct vhost_mem_region {
	uint64_t padding;
	struct guest_range range;
};

struct vhost_config_space {
	uint32_t offset, size, flags;
	uint8_t bytes[VHOST_CONFIG_MAX];
};

// One message of the VMM's, read as its bytes come.
struct vhost_message {
	struct vhost_header header;
	union {
		uint8_t bytes[VHOST_BODY_MAX];
		uint64_t number;
		struct vhost_vring_state state;
		struct vhost_vring_addr addr;
		struct vhost_mem_table table;
		struct vhost_mem_region region;
		struct vhost_config_space config;
	} body;
	size_t received; // bytes
	struct fdlist fds;
};

void vhost_message_init(struct vhost_message *message);
void vhost_message_finish(struct vhost_message *message);
// Makes room for the next one.
void vhost_message_clear(struct vhost_message *message);

// 1: the message is complete; 0: there is no more to read now; -1: the end, and *wrong says why, NULL if
// the VMM hung up.
int vhost_message_read(struct vhost_message *message, int fd, const char **wrong);
// Answers with the message as it is now, and size bytes of its body. NULL, or what is wrong.
const char *vhost_message_reply(struct vhost_message *message, int fd, size_t size);

#endif
