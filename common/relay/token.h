#ifndef RELAY_TOKEN_H
#define RELAY_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/channel.h"

/**
 * A secret that both programs have been given in a file, and proofs that a side has it: HMAC-SHA-256
 * over what the two have said (protocol/channel.md, "Authentication"). The secret itself never
 * leaves the process.
 */

#define TOKEN_MIN 16 // bytes
#define TOKEN_MAX 1024

struct token {
	uint8_t bytes[TOKEN_MAX];
	size_t length;
};

// Whose proof it is: one side's is never the other's.
enum token_role {
	TOKEN_GUEST,
	TOKEN_HOST,
};

// What a proof is about: both sides' nonces, and the HELLO before them.
struct token_transcript {
	uint8_t host_nonce[CHANNEL_NONCE_SIZE];
	uint8_t guest_nonce[CHANNEL_NONCE_SIZE];
	uint8_t hello[CHANNEL_PROOF_SIZE]; // token_hash of its payload
};

// Reads a file, less one newline at its end. It has to be regular, to belong to this user or root,
// and to be of no use to others (0600 or 0400). NULL, or in one static phrase what is wrong.
const char *token_load(struct token *token, const char *path);
void token_wipe(struct token *token);

void token_nonce(uint8_t nonce[CHANNEL_NONCE_SIZE]);
void token_hash(const void *data, size_t len, uint8_t hash[CHANNEL_PROOF_SIZE]);
void token_prove(const struct token *token, enum token_role role,
	const struct token_transcript *transcript, uint8_t proof[CHANNEL_PROOF_SIZE]);
// In a time that does not depend on where the proof is wrong.
bool token_verify(const struct token *token, enum token_role role,
	const struct token_transcript *transcript, const uint8_t proof[CHANNEL_PROOF_SIZE]);

#endif
