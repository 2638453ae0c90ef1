#include "relay/handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/input.h"
#include "relay/token.h"
#include "tests/support/channel_pair.h"
#include "tests/support/fd_count.h"

#define PATIENCE_MS 60000

static const char unproven_guest[] = "the guest did not prove that it has the host's token";
static const char unproven_host[] = "the host did not prove that it has the guest's token";

struct challenge_frame {
	struct channel_header header;
	struct channel_challenge challenge;
};

struct proof_frame {
	struct channel_header header;
	struct channel_proof proof;
};

static struct token new_token(const char *text)
{
	struct token token = {.length = strlen(text)};
	memcpy(token.bytes, text, token.length);
	return token;
}

static void receive(int fd, void *data, size_t len)
{
	assert_int_equal(recv(fd, data, len, MSG_WAITALL), (ssize_t)len);
}

static void send_frame(int fd, const void *frame, size_t len)
{
	assert_int_equal(send(fd, frame, len, MSG_NOSIGNAL), (ssize_t)len);
}

static const char *read_hello(int fd, struct handshake_hello *hello)
{
	struct channel_input *input = channel_input_create(fd);
	assert_non_null(input);
	const char *wrong = handshake_read(input, PATIENCE_MS, hello);
	channel_input_destroy(input);
	return wrong;
}

static const char *demand_proof(
	int fd, const struct token *token, const struct handshake_hello *hello)
{
	struct channel_input *input = channel_input_create(fd);
	assert_non_null(input);
	const char *wrong = handshake_demand_proof(input, token, hello, PATIENCE_MS);
	channel_input_destroy(input);
	return wrong;
}

static const char *prove(int fd, const struct token *token, const struct handshake_hello *hello,
	struct handshake_text *text)
{
	struct channel_input *input = channel_input_create(fd);
	assert_non_null(input);
	const char *wrong = handshake_prove(input, token, hello, PATIENCE_MS, text);
	channel_input_destroy(input);
	return wrong;
}

// What is wrong from the guest's point of view: 0 nothing, 1 the host's proof, 2 the host refused.
static int guest_status(int fd, const struct token *token, uint32_t features)
{
	struct handshake_hello hello = {.service = "wayland", .features = features};
	struct handshake_text text;
	if (handshake_open(fd, &hello, PATIENCE_MS) < 0) {
		return 3;
	}
	const char *wrong = prove(fd, token, &hello, &text);
	if (wrong == NULL) {
		return 0;
	}
	return wrong == text.text ? 2 : strcmp(wrong, unproven_host) == 0 ? 1 : 4;
}

// In a process of its own, since both sides wait for each other.
static pid_t start_guest(const int ends[2], const struct token *token, uint32_t features)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(ends[1]);
		_exit(guest_status(ends[0], token, features));
	}
	close(ends[0]);
	return pid;
}

static int finish_guest(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

// What the host says of a guest; *guest is what that says.
static const char *introduce(
	const struct token *ours, const struct token *theirs, uint32_t features, int *guest)
{
	int ends[2];
	struct handshake_hello hello;
	channel_pair_create(ends);
	pid_t pid = start_guest(ends, theirs, features);
	assert_null(read_hello(ends[1], &hello));
	assert_int_equal(hello.features, features);
	const char *wrong = demand_proof(ends[1], ours, &hello);
	if (wrong != NULL) {
		handshake_refuse(ends[1], CHANNEL_REFUSE_AUTHENTICATION, wrong);
	}
	*guest = finish_guest(pid);
	close(ends[1]);
	return wrong;
}

static void who_has_the_same_token_is_believed(void **state)
{
	(void)state;
	struct token token = new_token("0123456789abcdef"), other = new_token("0123456789abcdeg");
	struct token none = {0};
	int guest;
	assert_null(introduce(&token, &token, CHANNEL_FEATURE_TOKEN, &guest));
	assert_int_equal(guest, 0);
	assert_string_equal(
		introduce(&token, &other, CHANNEL_FEATURE_TOKEN, &guest), unproven_guest);
	assert_int_equal(guest, 2);
	assert_non_null(introduce(&none, &token, CHANNEL_FEATURE_TOKEN, &guest));
	assert_int_equal(guest, 2);
}

static void a_side_without_a_token_is_refused_and_two_are_not(void **state)
{
	(void)state;
	struct token token = new_token("0123456789abcdef"), none = {0};
	struct handshake_hello plain = {0}, offers = {.features = CHANNEL_FEATURE_TOKEN};
	int ends[2];
	char byte;
	channel_pair_create(ends);
	assert_null(demand_proof(ends[1], &none, &plain));
	assert_non_null(demand_proof(ends[1], &none, &offers));
	assert_non_null(demand_proof(ends[1], &token, &plain));
	// nor does the host say anything by which a token could be guessed
	assert_int_equal(recv(ends[0], &byte, 1, MSG_DONTWAIT), -1);
	close(ends[0]);
	close(ends[1]);
}

// A host that says data, and then nothing more.
static const char *host_says(const void *data, size_t len)
{
	struct token token = new_token("0123456789abcdef");
	struct handshake_hello hello = {.service = "wayland", .features = CHANNEL_FEATURE_TOKEN};
	struct handshake_text text;
	int ends[2];
	channel_pair_create(ends);
	assert_int_equal(handshake_open(ends[0], &hello, PATIENCE_MS), 0);
	send_frame(ends[1], data, len);
	shutdown(ends[1], SHUT_WR);
	const char *wrong = prove(ends[0], &token, &hello, &text);
	close(ends[0]);
	close(ends[1]);
	return wrong == unproven_host || wrong == NULL || strcmp(wrong, unproven_host) == 0
		? wrong
		: "something else";
}

static void a_host_that_proves_nothing_is_not_believed(void **state)
{
	(void)state;
	struct {
		struct challenge_frame challenge;
		struct proof_frame proof;
	} said = {
		.challenge.header = {.type = CHANNEL_CHALLENGE, .length = 32},
		.proof.header = {.type = CHANNEL_PROOF, .length = 64},
	};
	for (size_t len = 0; len <= sizeof(said); len++) {
		assert_string_equal(host_says(&said, len), unproven_host);
	}
	struct {
		struct channel_header header;
		struct channel_welcome welcome;
	} welcome = {.header = {.type = CHANNEL_WELCOME, .length = sizeof(welcome.welcome)}};
	assert_string_equal(host_says(&welcome, sizeof(welcome)), unproven_host);
	static const uint32_t lengths[] = {0, 31, 33, 64, 2000, UINT32_MAX};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		said.challenge.header.length = lengths[i];
		assert_string_equal(host_says(&said, sizeof(said)), unproven_host);
	}
}

// What the host says of a guest that answers its challenge with the first len bytes of answer.
static const char *guest_says(const void *answer, size_t len)
{
	struct token token = new_token("0123456789abcdef");
	struct handshake_hello hello = {.features = CHANNEL_FEATURE_TOKEN};
	struct challenge_frame challenge;
	int ends[2];
	char byte;
	channel_pair_create(ends);
	send_frame(ends[0], answer, len);
	shutdown(ends[0], SHUT_WR);
	const char *wrong = demand_proof(ends[1], &token, &hello);
	receive(ends[0], &challenge, sizeof(challenge));
	assert_int_equal(challenge.header.type, CHANNEL_CHALLENGE);
	assert_int_equal(recv(ends[0], &byte, 1, MSG_DONTWAIT), -1); // no proof for nothing
	close(ends[0]);
	close(ends[1]);
	return wrong;
}

static void a_guest_that_proves_nothing_is_not_believed(void **state)
{
	(void)state;
	struct proof_frame proof = {.header = {.type = CHANNEL_PROOF, .length = 64}};
	for (size_t len = 0; len <= sizeof(proof); len++) {
		assert_string_equal(guest_says(&proof, len), unproven_guest);
	}
	static const uint32_t lengths[] = {0, 32, 63, 65, 2000, UINT32_MAX};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		proof.header.length = lengths[i];
		assert_string_equal(guest_says(&proof, sizeof(proof)), unproven_guest);
	}
	proof.header = (struct channel_header){.type = CHANNEL_MESSAGES, .length = 64};
	assert_string_equal(guest_says(&proof, sizeof(proof)), unproven_guest);
}

// Plays the host for a guest that has the token, as far as its proof. The guest is left waiting.
static struct proof_frame overhear(
	const struct token *token, const struct challenge_frame *challenge, int *fd, pid_t *pid)
{
	struct proof_frame proof;
	struct handshake_hello hello;
	int ends[2];
	channel_pair_create(ends);
	*pid = start_guest(ends, token, CHANNEL_FEATURE_TOKEN);
	*fd = ends[1];
	assert_null(read_hello(*fd, &hello));
	send_frame(*fd, challenge, sizeof(*challenge));
	receive(*fd, &proof, sizeof(proof));
	assert_int_equal(proof.header.type, CHANNEL_PROOF);
	return proof;
}

static void a_proof_that_was_overheard_proves_nothing(void **state)
{
	(void)state;
	struct token token = new_token("0123456789abcdef");
	const struct challenge_frame challenge = {
		.header = {.type = CHANNEL_CHALLENGE, .length = 32}};
	int fd;
	pid_t pid;
	struct proof_frame proof = overhear(&token, &challenge, &fd, &pid);
	assert_string_equal(guest_says(&proof, sizeof(proof)), unproven_guest);
	close(fd);
	assert_int_equal(finish_guest(pid), 1);
}

static void a_guests_own_proof_does_not_prove_a_host(void **state)
{
	(void)state;
	struct token token = new_token("0123456789abcdef");
	const struct challenge_frame challenge = {
		.header = {.type = CHANNEL_CHALLENGE, .length = 32}};
	int fd;
	pid_t pid;
	struct proof_frame proof = overhear(&token, &challenge, &fd, &pid);
	send_frame(fd, &proof, sizeof(proof));
	assert_int_equal(finish_guest(pid), 1);
	close(fd);
}

static void who_does_not_read_is_not_waited_for(void **state)
{
	(void)state;
	static const uint8_t bytes[1024];
	struct token token = new_token("0123456789abcdef");
	const struct handshake_hello hello = {.features = CHANNEL_FEATURE_TOKEN};
	int ends[2];
	channel_pair_create(ends);
	for (size_t len = sizeof(bytes); len > 0; len /= 2) {
		while (send(ends[1], bytes, len, MSG_DONTWAIT) > 0) {
		}
	}
	struct channel_input *input = channel_input_create(ends[1]);
	assert_non_null(input);
	assert_string_equal(handshake_demand_proof(input, &token, &hello, 1), unproven_guest);
	channel_input_destroy(input);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(who_does_not_read_is_not_waited_for),
		fd_count_test(who_has_the_same_token_is_believed),
		fd_count_test(a_side_without_a_token_is_refused_and_two_are_not),
		fd_count_test(a_host_that_proves_nothing_is_not_believed),
		fd_count_test(a_guest_that_proves_nothing_is_not_believed),
		fd_count_test(a_proof_that_was_overheard_proves_nothing),
		fd_count_test(a_guests_own_proof_does_not_prove_a_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
