#ifndef RELAY_HANDSHAKE_H
#define RELAY_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fdpass/content.h"
#include "protocol/channel.h"

/**
 * The first frames of a channel connection. The guest writes HELLO and may go on at once; the host
 * reads it before it decides which service to connect to, then answers with WELCOME or REFUSE.
 */

struct channel_input;

#define HANDSHAKE_SERVICE_MAX 64

struct handshake_hello {
	char service[HANDSHAKE_SERVICE_MAX + 1];
	uint32_t features;   // of the sender: CHANNEL_FEATURE_*
	uint8_t boot_id[16]; // of the sender's kernel; zeros if it has none
	uint8_t link[16];    // the same in all sessions of one guest program; zeros: none
	uint64_t clock;      // CLOCK_MONOTONIC of the sender, nanoseconds
	uint64_t received;   // and of the receiver, when it came
	uint32_t refuse;     // CHANNEL_REFUSE_* that fits if it could not be read
	size_t n_contents;   // files that the sender has and need not be sent
	struct content_hash contents[CHANNEL_MAX_CONTENTS];
	uint8_t hash[CHANNEL_PROOF_SIZE]; // of all that HELLO said: filled in, for the proofs
};

struct token;

// What a host says to a guest that it refuses.
struct handshake_text {
	char text[CHANNEL_MAX_TEXT + 32];
};

// Fills in boot_id, clock and hash, and writes HELLO. 0 or -errno; -ETIMEDOUT: the other side has not
// taken it within timeout_ms.
int handshake_open(int fd, struct handshake_hello *hello, int timeout_ms);

// Reads HELLO, waiting at most timeout_ms. NULL, or in one static phrase what is wrong: the caller
// refuses with it.
const char *handshake_read(
	struct channel_input *input, int timeout_ms, struct handshake_hello *hello);
// The host, after handshake_read: where either side has a token (length 0: none), both have to prove
// that they have the same one. Waits at most timeout_ms. NULL, or in one static phrase why not, which
// tells nobody anything of the token: the caller refuses with it.
const char *handshake_demand_proof(struct channel_input *input, const struct token *token,
	const struct handshake_hello *hello, int timeout_ms);
// The guest that has a token, after handshake_open with CHANNEL_FEATURE_TOKEN. NULL, or why the host
// is not to be trusted with a session: one phrase, which may be in text.
const char *handshake_prove(struct channel_input *input, const struct token *token,
	const struct handshake_hello *hello, int timeout_ms, struct handshake_text *text);
// Writes WELCOME, with the fd of a region (borrowed) where there is one: -1 for none. 0 or -errno, as
// handshake_open.
int handshake_welcome(int fd, const struct handshake_hello *hello, uint32_t features, int region_fd,
	int timeout_ms);
// Writes REFUSE with a code of protocol/channel.h and a text for people. Never blocks; errors are
// of no interest: the connection is closed anyway.
void handshake_refuse(int fd, uint32_t code, const char *text);

// Whether who has sent HELLO runs on this kernel, as far as it can be known.
bool handshake_is_local(const struct handshake_hello *hello);
// This kernel's boot id; zeros if it has none.
void handshake_boot_id(uint8_t boot_id[16]);

#endif
