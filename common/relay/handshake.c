#include "relay/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "channel/channel.h"
#include "channel/input.h"
#include "relay/token.h"

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

static uint64_t deadline_in(int timeout_ms)
{
	return channel_clock() + (uint64_t)timeout_ms * 1000000;
}

/* True: it is time to try, or something else has interrupted. */
static bool wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd waiting = {.fd = fd, .events = events};
	uint64_t now = channel_clock();
	int left = now < deadline ? (int)((deadline - now) / 1000000) + 1 : 0;
	return poll(&waiting, 1, left) != 0;
}

/* 0, or -errno; -ETIMEDOUT if the other side does not read. Never blocks with a deadline of 0. */
static int send_all(int fd, const void *data, size_t len, uint64_t deadline)
{
	const uint8_t *at = data;
	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			at += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN && !wait_for(fd, POLLOUT, deadline)) {
			return -ETIMEDOUT;
		} else if (errno != EAGAIN && errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

bool handshake_is_local(const struct handshake_hello *hello)
{
	static const uint8_t unknown[16];
	uint8_t ours[16];
	handshake_boot_id(ours);
	return memcmp(ours, unknown, sizeof(ours)) != 0 &&
		memcmp(ours, hello->boot_id, sizeof(ours)) == 0;
}

struct packet {
	struct channel_header header;
	uint8_t payload[sizeof(struct channel_hello) + HANDSHAKE_SERVICE_MAX +
		CHANNEL_MAX_CONTENTS * CONTENT_HASH_SIZE + CHANNEL_MAX_TEXT];
};

static int send_packet(
	int fd, struct packet *packet, uint16_t type, uint32_t arg, size_t len, uint64_t deadline)
{
	packet->header = (struct channel_header){.length = (uint32_t)len, .type = type, .arg = arg};
	return send_all(fd, packet, sizeof(packet->header) + len, deadline);
}

int handshake_open(int fd, struct handshake_hello *hello, int timeout_ms)
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
	token_hash(packet.payload, len, hello->hash);
	return send_packet(fd, &packet, CHANNEL_HELLO, 0, len, deadline_in(timeout_ms));
}

// 0; -ECONNRESET if the connection ends before all has come, -ETIMEDOUT.
static int receive_all(struct channel_input *input, void *data, size_t len, uint64_t deadline)
{
	struct iovec rest = {.iov_base = data, .iov_len = len};
	while (rest.iov_len > 0) {
		ssize_t n = channel_input_read(input, &rest, 1);
		if (n > 0) {
			rest.iov_base = (uint8_t *)rest.iov_base + n;
			rest.iov_len -= (size_t)n;
		} else if (n != -EAGAIN) {
			return -ECONNRESET;
		} else if (!wait_for(input->fd, POLLIN, deadline)) {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

// Receives one frame, of which no byte is known to be true yet. Its length is checked by the caller
// where it matters beyond fitting a packet: -EMSGSIZE if it does not.
static int receive_packet(struct channel_input *input, struct packet *packet, uint64_t deadline)
{
	int error = receive_all(input, &packet->header, sizeof(packet->header), deadline);
	if (error == 0 && packet->header.length > sizeof(packet->payload)) {
		error = -EMSGSIZE;
	}
	return error != 0 ? error
			  : receive_all(input, packet->payload, packet->header.length, deadline);
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
	token_hash(packet->payload, len, hello->hash);
	return NULL;
}

static const char *hello_missing(int error)
{
	return error == -ETIMEDOUT ? "no HELLO came in time" : "the connection ended within HELLO";
}

const char *handshake_read(
	struct channel_input *input, int timeout_ms, struct handshake_hello *hello)
{
	struct packet packet;
	hello->refuse = CHANNEL_REFUSE_PROTOCOL;
	uint64_t deadline = deadline_in(timeout_ms);
	int error = receive_all(input, &packet.header, sizeof(packet.header), deadline);
	if (error != 0) {
		return hello_missing(error);
	}
	if (packet.header.type != CHANNEL_HELLO) {
		return "the first frame is not HELLO";
	}
	if (packet.header.length < sizeof(struct channel_hello) ||
		packet.header.length > sizeof(packet.payload)) {
		return "HELLO with a wrong length";
	}
	error = receive_all(input, packet.payload, packet.header.length, deadline);
	return error != 0 ? hello_missing(error) : decode_hello(&packet, hello);
}

// With the first byte; nothing else waits in the socket, so that is taken.
static int send_with_fd(
	int fd, const struct packet *packet, size_t len, int region_fd, uint64_t deadline)
{
	const struct iovec iov = {.iov_base = (void *)packet, .iov_len = len};
	struct fdlist fds;
	fdlist_init(&fds);
	int copy = fcntl(region_fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0 || !fdlist_push(&fds, copy)) {
		fdlist_finish(&fds);
		return copy < 0 ? -errno : -ENOMEM;
	}
	ssize_t n = scm_send(fd, &iov, 1, &fds, 1);
	fdlist_finish(&fds);
	return n < 0 ? (int)n
		     : send_all(fd, (const uint8_t *)packet + n, len - (size_t)n, deadline);
}

int handshake_welcome(int fd, const struct handshake_hello *hello, uint32_t features, int region_fd,
	int timeout_ms)
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
	uint64_t deadline = deadline_in(timeout_ms);
	if (region_fd < 0) {
		return send_packet(fd, &packet, CHANNEL_WELCOME, 0, sizeof(welcome), deadline);
	}
	packet.header = (struct channel_header){.length = sizeof(welcome), .type = CHANNEL_WELCOME};
	size_t len = sizeof(packet.header) + sizeof(welcome);
	return send_with_fd(fd, &packet, len, region_fd, deadline);
}

void handshake_refuse(int fd, uint32_t code, const char *text)
{
	struct packet packet;
	size_t len = strnlen(text, CHANNEL_MAX_TEXT);
	memcpy(packet.payload, text, len);
	send_packet(fd, &packet, CHANNEL_REFUSE, code, len, 0);
	shutdown(fd, SHUT_WR);
}

/* ---- authentication ---- */

// Whatever does not answer the challenge has not proved anything.
static bool receive_proof(
	struct channel_input *input, struct channel_proof *proof, uint64_t deadline)
{
	struct packet packet;
	int error = receive_packet(input, &packet, deadline);
	if (error != 0 || packet.header.type != CHANNEL_PROOF ||
		packet.header.length != sizeof(*proof)) {
		return false;
	}
	memcpy(proof, packet.payload, sizeof(*proof));
	return true;
}

static int send_proof(int fd, const struct channel_proof *proof, uint64_t deadline)
{
	struct packet packet;
	memcpy(packet.payload, proof, sizeof(*proof));
	return send_packet(fd, &packet, CHANNEL_PROOF, 0, sizeof(*proof), deadline);
}

static int send_challenge(int fd, const struct token_transcript *transcript, uint64_t deadline)
{
	struct packet packet;
	memcpy(packet.payload, transcript->host_nonce, sizeof(struct channel_challenge));
	return send_packet(
		fd, &packet, CHANNEL_CHALLENGE, 0, sizeof(struct channel_challenge), deadline);
}

// The guest goes first: who only connects learns nothing of the token, not even a proof to try
// guesses on.
static bool guest_proves(struct channel_input *input, const struct token *token,
	struct token_transcript *transcript, uint64_t deadline)
{
	struct channel_proof proof;
	token_nonce(transcript->host_nonce);
	if (send_challenge(input->fd, transcript, deadline) < 0 ||
		!receive_proof(input, &proof, deadline)) {
		return false;
	}
	memcpy(transcript->guest_nonce, proof.nonce, sizeof(proof.nonce));
	return token_verify(token, TOKEN_GUEST, transcript, proof.proof);
}

const char *handshake_demand_proof(struct channel_input *input, const struct token *token,
	const struct handshake_hello *hello, int timeout_ms)
{
	struct token_transcript transcript;
	struct channel_proof answer = {0};
	bool offered = (hello->features & CHANNEL_FEATURE_TOKEN) != 0;
	if (token->length == 0) {
		return offered ? "the guest has a token, but the host has none (--token-file)"
			       : NULL;
	}
	if (!offered) {
		return "the host has a token, but the guest has none (--token-file)";
	}
	memcpy(transcript.hello, hello->hash, sizeof(transcript.hello));
	uint64_t deadline = deadline_in(timeout_ms);
	if (!guest_proves(input, token, &transcript, deadline)) {
		return "the guest did not prove that it has the host's token";
	}
	token_prove(token, TOKEN_HOST, &transcript, answer.proof);
	return send_proof(input->fd, &answer, deadline) < 0 ? "the guest is gone" : NULL;
}

static const char unproven[] = "the host did not prove that it has the guest's token";

// A frame of that type and length. NULL, or what the host has said in its place.
static const char *expect(struct channel_input *input, uint16_t type, size_t len,
	struct packet *packet, uint64_t deadline, struct handshake_text *text)
{
	int error = receive_packet(input, packet, deadline);
	size_t have = packet->header.length;
	if (error == 0 && packet->header.type == CHANNEL_REFUSE && have <= CHANNEL_MAX_TEXT) {
		snprintf(text->text, sizeof(text->text), "refused by the host: %.*s", (int)have,
			(const char *)packet->payload);
		return text->text;
	}
	return error == 0 && packet->header.type == type && have == len ? NULL : unproven;
}

static const char *verify_host(const struct packet *packet, const struct token *token,
	const struct token_transcript *transcript)
{
	struct channel_proof theirs;
	memcpy(&theirs, packet->payload, sizeof(theirs));
	return token_verify(token, TOKEN_HOST, transcript, theirs.proof) ? NULL : unproven;
}

const char *handshake_prove(struct channel_input *input, const struct token *token,
	const struct handshake_hello *hello, int timeout_ms, struct handshake_text *text)
{
	struct packet packet;
	struct token_transcript transcript;
	struct channel_proof ours;
	uint64_t deadline = deadline_in(timeout_ms);
	const char *wrong = expect(input, CHANNEL_CHALLENGE, sizeof(struct channel_challenge),
		&packet, deadline, text);
	if (wrong != NULL) {
		return wrong;
	}
	memcpy(transcript.host_nonce, packet.payload, sizeof(transcript.host_nonce));
	memcpy(transcript.hello, hello->hash, sizeof(transcript.hello));
	token_nonce(transcript.guest_nonce);
	memcpy(ours.nonce, transcript.guest_nonce, sizeof(ours.nonce));
	token_prove(token, TOKEN_GUEST, &transcript, ours.proof);
	if (send_proof(input->fd, &ours, deadline) < 0) {
		return "the host is gone";
	}
	wrong = expect(input, CHANNEL_PROOF, sizeof(struct channel_proof), &packet, deadline, text);
	return wrong != NULL ? wrong : verify_host(&packet, token, &transcript);
}
