#include "relay/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "channel/channel.h"
#include "channel/input.h"

static void read_boot_id(uint8_t boot_id[16])
{
	// "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	char text[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		return;
	}
	ssize_t len = read(fd, text, sizeof(text) - 1);
	close(fd);
	size_t digits = 0;
	for (ssize_t i = 0; i < len && digits < 32; i++) {
		static const char hex[] = "0123456789abcdef";
		const char *digit = text[i] == '\0' ? NULL : strchr(hex, text[i]);
		if (digit != NULL) {
			boot_id[digits / 2] = (uint8_t)(boot_id[digits / 2] << 4 | (digit - hex));
			digits++;
		}
	}
}

void handshake_boot_id(uint8_t boot_id[16])
{
	static uint8_t ours[16];
	static bool known;
	if (!known) {
		read_boot_id(ours);
		known = true;
	}
	memcpy(boot_id, ours, sizeof(ours));
}

/* The other side reads at once, so a blocking write of a few hundred bytes is no risk. */
static int send_all(int fd, const void *data, size_t len, int flags)
{
	const uint8_t *at = data;
	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL | flags);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return -errno;
		}
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

struct packet {
	struct channel_header header;
	uint8_t payload[sizeof(struct channel_hello) + HANDSHAKE_SERVICE_MAX +
		CHANNEL_MAX_CONTENTS * CONTENT_HASH_SIZE + CHANNEL_MAX_TEXT];
};

static int send_packet(
	int fd, struct packet *packet, uint16_t type, uint32_t arg, size_t len, int flags)
{
	packet->header = (struct channel_header){.length = (uint32_t)len, .type = type, .arg = arg};
	return send_all(fd, packet, sizeof(packet->header) + len, flags);
}

int handshake_open(int fd, struct handshake_hello *hello)
{
	struct packet packet;
	handshake_boot_id(hello->boot_id);
	hello->clock = channel_clock();
	size_t name = strlen(hello->service);
	struct channel_hello head = {
		.magic = CHANNEL_MAGIC,
		.version_min = CHANNEL_VERSION,
		.version_max = CHANNEL_VERSION,
		.features = hello->features,
		.service_length = (uint16_t)name,
		.n_contents = (uint16_t)hello->n_contents,
	};
	memcpy(head.boot_id, hello->boot_id, sizeof(head.boot_id));
	memcpy(head.link, hello->link, sizeof(head.link));
	channel_put64(head.clock, hello->clock);

	uint8_t *at = packet.payload;
	memcpy(at, &head, sizeof(head));
	memcpy(at + sizeof(head), hello->service, name);
	memcpy(at + sizeof(head) + name, hello->contents, hello->n_contents * CONTENT_HASH_SIZE);
	size_t len = sizeof(head) + name + hello->n_contents * CONTENT_HASH_SIZE;
	return send_packet(fd, &packet, CHANNEL_HELLO, 0, len, 0);
}

static bool wait_readable(int fd, uint64_t deadline)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	uint64_t now = channel_clock();
	int left = now < deadline ? (int)((deadline - now) / 1000000) + 1 : 0;
	return poll(&readable, 1, left) != 0; // when interrupted, too
}

static const char *receive_all(
	struct channel_input *input, void *data, size_t len, uint64_t deadline)
{
	struct iovec rest = {.iov_base = data, .iov_len = len};
	while (rest.iov_len > 0) {
		ssize_t n = channel_input_read(input, &rest, 1);
		if (n > 0) {
			rest.iov_base = (uint8_t *)rest.iov_base + n;
			rest.iov_len -= (size_t)n;
		} else if (n != -EAGAIN) {
			return "the connection ended within HELLO";
		} else if (!wait_readable(input->fd, deadline)) {
			return "no HELLO came in time";
		}
	}
	return NULL;
}

static const char *decode_hello(const struct packet *packet, struct handshake_hello *hello)
{
	struct channel_hello head;
	size_t len = packet->header.length;
	memcpy(&head, packet->payload, sizeof(head));
	if (head.magic != CHANNEL_MAGIC) {
		return "the first frame is not fdferry's HELLO";
	}
	if (head.version_min > CHANNEL_VERSION || head.version_max < CHANNEL_VERSION) {
		hello->refuse = CHANNEL_REFUSE_VERSION;
		return "no channel version in common";
	}
	if (head.service_length == 0 || head.service_length > HANDSHAKE_SERVICE_MAX ||
		head.n_contents > CHANNEL_MAX_CONTENTS ||
		len != sizeof(head) + head.service_length + head.n_contents * CONTENT_HASH_SIZE) {
		return "HELLO with a wrong length";
	}
	const uint8_t *at = packet->payload + sizeof(head);
	if (memchr(at, '\0', head.service_length) != NULL) {
		return "HELLO with a NUL in the service name";
	}
	*hello = (struct handshake_hello){
		.features = head.features,
		.clock = channel_get64(head.clock),
		.received = channel_clock(),
		.n_contents = head.n_contents,
	};
	memcpy(hello->service, at, head.service_length);
	memcpy(hello->contents, at + head.service_length, head.n_contents * CONTENT_HASH_SIZE);
	memcpy(hello->boot_id, head.boot_id, sizeof(head.boot_id));
	memcpy(hello->link, head.link, sizeof(head.link));
	return NULL;
}

const char *handshake_read(
	struct channel_input *input, int timeout_ms, struct handshake_hello *hello)
{
	struct packet packet;
	hello->refuse = CHANNEL_REFUSE_PROTOCOL;
	uint64_t deadline = channel_clock() + (uint64_t)timeout_ms * 1000000;
	const char *wrong = receive_all(input, &packet.header, sizeof(packet.header), deadline);
	if (wrong != NULL) {
		return wrong;
	}
	if (packet.header.type != CHANNEL_HELLO) {
		return "the first frame is not HELLO";
	}
	if (packet.header.length < sizeof(struct channel_hello) ||
		packet.header.length > sizeof(packet.payload)) {
		return "HELLO with a wrong length";
	}
	wrong = receive_all(input, packet.payload, packet.header.length, deadline);
	return wrong != NULL ? wrong : decode_hello(&packet, hello);
}

int handshake_welcome(int fd, const struct handshake_hello *hello, uint32_t features)
{
	struct packet packet;
	struct channel_welcome welcome = {
		.magic = CHANNEL_MAGIC,
		.version = CHANNEL_VERSION,
		.features = hello->features & features,
	};
	uint64_t now = channel_clock();
	handshake_boot_id(welcome.boot_id);
	channel_put64(welcome.hello_clock, hello->clock);
	channel_put64(welcome.received_clock, hello->received);
	channel_put64(welcome.sent_clock, now);
	memcpy(packet.payload, &welcome, sizeof(welcome));
	return send_packet(fd, &packet, CHANNEL_WELCOME, 0, sizeof(welcome), 0);
}

void handshake_refuse(int fd, uint32_t code, const char *text)
{
	struct packet packet;
	size_t len = strnlen(text, CHANNEL_MAX_TEXT);
	memcpy(packet.payload, text, len);
	send_packet(fd, &packet, CHANNEL_REFUSE, code, len, MSG_DONTWAIT);
	shutdown(fd, SHUT_WR);
}
