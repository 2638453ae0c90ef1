#include "guest-proxy/connection.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "channel/input.h"
#include "channel/transport.h"
#include "guest-proxy/options.h"
#include "relay/handshake.h"
#include "relay/token.h"

#define HELLO_TIMEOUT_MS 30000
// The host answers as soon as it has a process for us.
#define PROOF_TIMEOUT_MS 30000

static_assert(CONTENT_STORE_MAX <= CHANNEL_MAX_CONTENTS, "HELLO names every file that we have");

static uint32_t features_of(
	const struct guest_options *options, const char *service, const struct token *token)
{
	bool dmabufs = strcmp(service, SERVICE_WAYLAND) == 0 && !options->program.no_dmabuf;
	return (token->length > 0 ? CHANNEL_FEATURE_TOKEN : 0) |
		(dmabufs ? CHANNEL_FEATURE_DMABUF : 0);
}

static struct handshake_hello new_hello(const char *service, const struct content_store *contents,
	const uint8_t link[16], uint32_t features)
{
	struct handshake_hello hello = {
		.features = features,
		.n_contents = contents != NULL ? contents->count : 0,
	};
	snprintf(hello.service, sizeof(hello.service), "%s", service);
	if (link != NULL) {
		memcpy(hello.link, link, sizeof(hello.link));
	}
	for (size_t i = 0; i < hello.n_contents; i++) {
		hello.contents[i] = contents->entries[i].hash;
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
static const char *shake_hands(int channel_fd, struct handshake_hello *hello,
	const struct token *token, struct handshake_text *text)
{
	int error = handshake_open(channel_fd, hello, HELLO_TIMEOUT_MS);
	// A host that has closed already has said why: that is read next.
	if (error < 0 && error != -EPIPE && error != -ECONNRESET) {
		return strerror(-error);
	}
	return token->length == 0 ? NULL : prove(channel_fd, token, hello, text);
}

int connection_open(const struct guest_options *options, const char *service,
	const struct content_store *contents, const uint8_t link[16], uint32_t features,
	struct handshake_text *text)
{
	struct token token;
	if (!program_options_token(&options->program, &token)) {
		snprintf(text->text, sizeof(text->text), "the token cannot be read");
		return -1;
	}
	struct handshake_hello hello = new_hello(
		service, contents, link, features | features_of(options, service, &token));
	int fd = transport_connect(&options->connect);
	const char *wrong = fd < 0 ? strerror(-fd) : shake_hands(fd, &hello, &token, text);
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
