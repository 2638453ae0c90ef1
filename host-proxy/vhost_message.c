#include "host-proxy/vhost_message.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/scm.h"

#define VERSION      1u
#define VERSION_MASK 3u
#define FLAG_REPLY   4u

static_assert(sizeof(struct vhost_header) == 12, "as on the wire");
static_assert(sizeof(struct vhost_vring_state) == 8, "as on the wire");
static_assert(sizeof(struct vhost_vring_addr) == 40, "as on the wire");
static_assert(sizeof(struct guest_range) == 32, "as on the wire");
static_assert(sizeof(struct vhost_mem_table) == 8 + VHOST_TABLE_MAX * 32, "as on the wire");
static_assert(sizeof(struct vhost_mem_region) == 40, "as on the wire");
static_assert(sizeof(struct vhost_config_space) <= VHOST_BODY_MAX, "fits a message");

void vhost_message_init(struct vhost_message *message)
{
	message->received = 0;
	fdlist_init(&message->fds);
}

void vhost_message_finish(struct vhost_message *message)
{
	fdlist_finish(&message->fds);
}

void vhost_message_clear(struct vhost_message *message)
{
	message->received = 0;
	fdlist_drop(&message->fds, message->fds.count);
}

// How many bytes are to come; 0: the message is complete.
static size_t missing(const struct vhost_message *message)
{
	size_t head = sizeof(struct vhost_header);
	if (message->received < head) {
		return head - message->received;
	}
	return head + message->header.size - message->received;
}

static uint8_t *next_byte(struct vhost_message *message)
{
	size_t head = sizeof(struct vhost_header);
	if (message->received < head) {
		return (uint8_t *)&message->header + message->received;
	}
	return message->body.bytes + (message->received - head);
}

int vhost_message_read(struct vhost_message *message, int fd, const char **wrong)
{
	const struct vhost_header *header = &message->header;
	while (missing(message) > 0) {
		ssize_t n = scm_recv(fd, next_byte(message), missing(message), &message->fds);
		if (n == -EAGAIN) {
			return 0;
		}
		if (n <= 0) {
			*wrong = n == 0 || n == -ECONNRESET ? NULL : strerror((int)-n);
			return -1;
		}
		message->received += (size_t)n;
		if (message->received == sizeof(*header) &&
			(header->size > VHOST_BODY_MAX ||
				(header->flags & VERSION_MASK) != VERSION)) {
			*wrong = "a message of an impossible size or version";
			return -1;
		}
	}
	return 1;
}

const char *vhost_message_reply(struct vhost_message *message, int fd, size_t size)
{
	const struct fdlist none = {0};
	message->header.flags = VERSION | FLAG_REPLY;
	message->header.size = (uint32_t)size;
	struct iovec iov[] = {
		{.iov_base = &message->header, .iov_len = sizeof(message->header)},
		{.iov_base = message->body.bytes, .iov_len = size},
	};
	ssize_t n = scm_send(fd, iov, 2, &none, 0);
	return n == (ssize_t)(sizeof(message->header) + size) ? NULL
							      : "the VMM does not read replies";
}
