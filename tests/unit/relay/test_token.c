#include "relay/token.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

static char path[64];

static void write_token(const void *data, size_t len, mode_t mode)
{
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static const char *load(struct token *token, const char *text)
{
	write_token(text, strlen(text), 0600);
	return token_load(token, path);
}

static int make_path(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/fdferry-token.XXXXXX");
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
	(void)state;
	return unlink(path);
}

static void one_newline_at_the_end_does_not_count(void **state)
{
	(void)state;
	struct token plain, line, two;
	assert_null(load(&plain, "0123456789abcdef"));
	assert_null(load(&line, "0123456789abcdef\n"));
	assert_null(load(&two, "0123456789abcdef\n\n"));
	assert_int_equal(plain.length, 16);
	assert_int_equal(line.length, 16);
	assert_memory_equal(plain.bytes, line.bytes, 16);
	assert_int_equal(two.length, 17);
}

static void a_token_that_is_too_short_or_too_long_is_refused(void **state)
{
	(void)state;
	struct token token;
	char data[TOKEN_MAX + 2];
	memset(data, 'x', sizeof(data));
	assert_non_null(load(&token, ""));
	assert_non_null(load(&token, "\n"));
	assert_non_null(load(&token, "0123456789abcde\n"));
	write_token(data, TOKEN_MAX, 0600);
	assert_null(token_load(&token, path));
	assert_int_equal(token.length, TOKEN_MAX);
	data[TOKEN_MAX] = '\n';
	write_token(data, TOKEN_MAX + 1, 0600);
	assert_null(token_load(&token, path));
	write_token(data, TOKEN_MAX + 2, 0600);
	assert_non_null(token_load(&token, path));
	assert_int_equal(token.length, 0);
}

static void a_file_that_others_may_use_is_refused(void **state)
{
	(void)state;
	struct token token;
	const char *text = "0123456789abcdef";
	for (mode_t bit = 01; bit < 0600; bit <<= 1) {
		bool harmless = (bit & 0177) == 0;
		write_token(text, strlen(text), 0400 | bit);
		assert_true((token_load(&token, path) == NULL) == harmless);
	}
	write_token(text, strlen(text), 0400);
	assert_null(token_load(&token, path));
}

static void a_file_of_another_user_is_refused(void **state)
{
	(void)state;
	struct token token;
	assert_null(load(&token, "0123456789abcdef"));
	if (chown(path, 12345, (gid_t)-1) < 0) {
		skip(); // not root
	}
	assert_string_equal(token_load(&token, path), "belongs to another user");
}

static void what_is_no_file_is_refused_without_waiting(void **state)
{
	(void)state;
	struct token token;
	unlink(path);
	assert_non_null(token_load(&token, path));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_string_equal(token_load(&token, path), "is not a regular file");
	assert_non_null(token_load(&token, "/tmp"));
	assert_non_null(token_load(&token, "/dev/null"));
}

// HMAC-SHA-256 with key "0123456789abcdef" of "fdferry-guest" or "fdferry-host", 32 bytes 1, 32
// bytes 2, 32 bytes 3, as another implementation gives it (Python's hmac).
static void a_proof_is_what_the_specification_says(void **state)
{
	(void)state;
	static const uint8_t guest[] = {
		0x8f,
		0xcb,
		0x5f,
		0x41,
		0xbc,
		0xc6,
		0x82,
		0xa1,
		0xd1,
		0xc7,
		0x91,
		0x2b,
		0xbb,
		0x5b,
		0x0d,
		0x40,
		0xa0,
		0x57,
		0x17,
		0x64,
		0x49,
		0x77,
		0xa9,
		0x9e,
		0x0d,
		0x1e,
		0x28,
		0x69,
		0xad,
		0x9f,
		0xb7,
		0xcc,
	};
	static const uint8_t host[] = {
		0xc8,
		0x07,
		0x56,
		0xb0,
		0xd9,
		0xc3,
		0x0c,
		0x7f,
		0xaa,
		0xc7,
		0x88,
		0xa0,
		0xb8,
		0x02,
		0x18,
		0x29,
		0x2a,
		0x5a,
		0x67,
		0xa5,
		0xd7,
		0x84,
		0x77,
		0x48,
		0x58,
		0xf1,
		0x4d,
		0x4e,
		0xc4,
		0xa3,
		0x38,
		0x1f,
	};
	struct token token;
	struct token_transcript transcript;
	uint8_t proof[CHANNEL_PROOF_SIZE];
	assert_null(load(&token, "0123456789abcdef"));
	memset(transcript.host_nonce, 1, sizeof(transcript.host_nonce));
	memset(transcript.guest_nonce, 2, sizeof(transcript.guest_nonce));
	memset(transcript.hello, 3, sizeof(transcript.hello));
	token_prove(&token, TOKEN_GUEST, &transcript, proof);
	assert_memory_equal(proof, guest, sizeof(guest));
	token_prove(&token, TOKEN_HOST, &transcript, proof);
	assert_memory_equal(proof, host, sizeof(host));
}

static void each_bit_of_what_was_said_counts(void **state)
{
	(void)state;
	struct token token;
	struct token_transcript transcript;
	uint8_t proof[CHANNEL_PROOF_SIZE], *said = (uint8_t *)&transcript;
	assert_null(load(&token, "0123456789abcdef"));
	memset(&transcript, 0, sizeof(transcript));
	token_prove(&token, TOKEN_GUEST, &transcript, proof);
	assert_true(token_verify(&token, TOKEN_GUEST, &transcript, proof));
	assert_false(token_verify(&token, TOKEN_HOST, &transcript, proof));
	for (size_t i = 0; i < sizeof(transcript) * 8; i++) {
		said[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(token_verify(&token, TOKEN_GUEST, &transcript, proof));
		said[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t i = 0; i < sizeof(proof) * 8; i++) {
		proof[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(token_verify(&token, TOKEN_GUEST, &transcript, proof));
		proof[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	token.bytes[15] ^= 1;
	assert_false(token_verify(&token, TOKEN_GUEST, &transcript, proof));
}

static void nonces_differ_and_a_wiped_token_is_gone(void **state)
{
	(void)state;
	struct token token, none = {0};
	uint8_t a[CHANNEL_NONCE_SIZE], b[CHANNEL_NONCE_SIZE];
	token_nonce(a);
	token_nonce(b);
	assert_memory_not_equal(a, b, sizeof(a));
	assert_null(load(&token, "0123456789abcdef"));
	token_wipe(&token);
	assert_memory_equal(&token, &none, sizeof(token));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(one_newline_at_the_end_does_not_count),
		fd_count_test(a_token_that_is_too_short_or_too_long_is_refused),
		fd_count_test(a_file_that_others_may_use_is_refused),
		fd_count_test(a_file_of_another_user_is_refused),
		fd_count_test(what_is_no_file_is_refused_without_waiting),
		fd_count_test(a_proof_is_what_the_specification_says),
		fd_count_test(each_bit_of_what_was_said_counts),
		fd_count_test(nonces_differ_and_a_wiped_token_is_gone),
	};
	return cmocka_run_group_tests(tests, make_path, remove_path);
}
