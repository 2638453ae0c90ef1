#include "guest-proxy/session_process.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/log.h"
#include "channel/input.h"
#include "channel/transport.h"
#include "guest-proxy/options.h"
#include "guest-proxy/refusal.h"
#include "program/worker.h"
#include "relay/handshake.h"
#include "relay/session.h"
#include "relay/token.h"

// The host is trusted; these are for accidents.
static const struct budget_limits limits = {
	.most =
		{
			[BUDGET_FDS] = GUEST_MAX_FDS,
			[BUDGET_MEMORY] = UINT64_C(2) << 30,
			[BUDGET_UNSENT] = 96 << 20,
			[BUDGET_OBJECTS] = 4 * 65536,
			[BUDGET_STREAMS] = 4096,
			[BUDGET_PENDING] = 1024,
			[BUDGET_FRAMES] = 4 * 65536,
		},
};

// The host answers as soon as it has a process for us.
#define PROOF_TIMEOUT_MS 30000

static_assert(CONTENT_STORE_MAX <= CHANNEL_MAX_CONTENTS, "HELLO names every file that we have");

static struct handshake_hello new_hello(
	const struct session_options *session, const struct token *token)
{
	const char *service = session->service != NULL ? session->service : SERVICE_WAYLAND;
	struct handshake_hello hello = {
		.features = token->length > 0 ? CHANNEL_FEATURE_TOKEN : 0,
		.n_contents = session->contents->count,
	};
	snprintf(hello.service, sizeof(hello.service), "%s", service);
	memcpy(hello.link, session->link, sizeof(hello.link));
	for (size_t i = 0; i < hello.n_contents; i++) {
		hello.contents[i] = session->contents->entries[i].hash;
	}
	return hello;
}

static const char *prove(int channel_fd, const struct token *token,
	const struct handshake_hello *hello, struct handshake_text *text)
{
	struct channel_input *input = channel_input_create(channel_fd);
	if (input == NULL) {
		return strerror(errno);
	}
	const char *wrong = handshake_prove(input, token, hello, PROOF_TIMEOUT_MS, text);
	channel_input_destroy(input);
	return wrong;
}

// NULL, or why there can be no session on the channel.
static const char *shake_hands(int channel_fd, const struct session_options *session,
	const struct token *token, struct handshake_text *text)
{
	struct handshake_hello hello = new_hello(session, token);
	int error = handshake_open(channel_fd, &hello);
	// A host that has closed already has said why: that is read next.
	if (error < 0 && error != -EPIPE && error != -ECONNRESET) {
		return strerror(-error);
	}
	return token->length == 0 ? NULL : prove(channel_fd, token, &hello, text);
}

// A channel on which HELLO has been written, and the token been proved where there is one. -1: why
// not is in text.
static int open_channel(const struct guest_options *options, const struct session_options *session,
	struct handshake_text *text)
{
	struct token token;
	if (!program_options_token(&options->program, &token)) {
		snprintf(text->text, sizeof(text->text), "the token cannot be read");
		return -1;
	}
	int fd = transport_connect(&options->connect);
	const char *wrong = fd < 0 ? strerror(-fd) : shake_hands(fd, session, &token, text);
	token_wipe(&token);
	if (wrong == NULL) {
		return fd;
	}
	if (wrong != text->text) {
		snprintf(text->text, sizeof(text->text), "cannot reach %s: %s",
			options->connect_text, wrong);
	}
	if (fd >= 0) {
		close(fd);
	}
	return -1;
}

static bool prepare(
	void *data, int client_fd, const struct worker_peer *peer, struct session_options *session)
{
	(void)peer;
	const struct guest_options *options = data;
	struct handshake_text text;
	session->channel_fd = open_channel(options, session, &text);
	if (session->channel_fd < 0) {
		log_error("%s", text.text);
		if (session->service == NULL) {
			refusal_send(client_fd, text.text);
		}
		close(client_fd);
		return false;
	}
	session->local_fd = client_fd;
	return true;
}

int guest_session_run(struct guest_options *options)
{
	const struct worker_config config = {
		.program = "fdferry-guest",
		.options = &options->program,
		.exports = WIRE_REQUEST,
		.limits = &limits,
		.keeps_contents = true,
		.prepare = prepare,
		.data = options,
	};
	return worker_run(&config);
}
