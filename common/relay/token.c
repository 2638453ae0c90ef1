#include "relay/token.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(CHANNEL_PROOF_SIZE == crypto_auth_hmacsha256_BYTES, "a proof is one HMAC-SHA-256");
static_assert(CHANNEL_PROOF_SIZE == crypto_hash_sha256_BYTES, "HELLO's hash is SHA-256");

static const char *check_file(int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0) {
		return "cannot be read";
	}
	if (!S_ISREG(st.st_mode)) {
		return "is not a regular file";
	}
	if (st.st_uid != geteuid() && st.st_uid != 0) {
		return "belongs to another user";
	}
	if ((st.st_mode & 0177) != 0) {
		return "must have mode 0600: others may not read it";
	}
	return NULL;
}

static const char *read_file(int fd, struct token *token)
{
	uint8_t data[TOKEN_MAX + 2]; // a newline, and one byte that is too many
	size_t len = 0;
	const char *wrong = NULL;
	while (len < sizeof(data)) {
		ssize_t n = read(fd, data + len, sizeof(data) - len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			wrong = "cannot be read";
		}
		if (n <= 0) {
			break;
		}
		len += (size_t)n;
	}
	if (len > 0 && data[len - 1] == '\n') {
		len--;
	}
	if (wrong == NULL && len < TOKEN_MIN) {
		wrong = "is too short for a token (16 bytes at least)";
	} else if (wrong == NULL && len > TOKEN_MAX) {
		wrong = "is too long for a token (1024 bytes at most)";
	}
	if (wrong == NULL) {
		memcpy(token->bytes, data, len);
		token->length = len;
	}
	sodium_memzero(data, sizeof(data));
	return wrong;
}

const char *token_load(struct token *token, const char *path)
{
	*token = (struct token){0};
	// Opening what is no regular file must not wait for anybody.
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0) {
		return errno == ENOENT ? "does not exist" : "cannot be opened";
	}
	const char *wrong = check_file(fd);
	if (wrong == NULL) {
		wrong = read_file(fd, token);
	}
	close(fd);
	return wrong;
}

void token_wipe(struct token *token)
{
	sodium_memzero(token, sizeof(*token));
}

void token_nonce(uint8_t nonce[CHANNEL_NONCE_SIZE])
{
	randombytes_buf(nonce, CHANNEL_NONCE_SIZE);
}

void token_hash(const void *data, size_t len, uint8_t hash[CHANNEL_PROOF_SIZE])
{
	crypto_hash_sha256(hash, data, len);
}

void token_prove(const struct token *token, enum token_role role,
	const struct token_transcript *transcript, uint8_t proof[CHANNEL_PROOF_SIZE])
{
	const char *label = role == TOKEN_GUEST ? "fdferry-guest" : "fdferry-host";
	crypto_auth_hmacsha256_state state;
	crypto_auth_hmacsha256_init(&state, token->bytes, token->length);
	crypto_auth_hmacsha256_update(&state, (const uint8_t *)label, strlen(label));
	crypto_auth_hmacsha256_update(
		&state, transcript->host_nonce, sizeof(transcript->host_nonce));
	crypto_auth_hmacsha256_update(
		&state, transcript->guest_nonce, sizeof(transcript->guest_nonce));
	crypto_auth_hmacsha256_update(&state, transcript->hello, sizeof(transcript->hello));
	crypto_auth_hmacsha256_final(&state, proof);
	sodium_memzero(&state, sizeof(state));
}

bool token_verify(const struct token *token, enum token_role role,
	const struct token_transcript *transcript, const uint8_t proof[CHANNEL_PROOF_SIZE])
{
	uint8_t expected[CHANNEL_PROOF_SIZE];
	token_prove(token, role, transcript, expected);
	bool equal = sodium_memcmp(expected, proof, sizeof(expected)) == 0;
	sodium_memzero(expected, sizeof(expected));
	return equal;
}
