#include "guest-proxy/session_process.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "channel/transport.h"
#include "guest-proxy/options.h"
#include "guest-proxy/refusal.h"
#include "program/worker.h"
#include "relay/handshake.h"
#include "relay/session.h"

// The host is trusted; these are for accidents.
#define MAX_MEMORY  (UINT64_C(2) << 30)
#define MAX_OBJECTS (4 * 65536)

static_assert(CONTENT_STORE_MAX <= CHANNEL_MAX_CONTENTS, "HELLO names every file that we have");

static int say_hello(int channel_fd, const struct session_options *session)
{
	const char *service = session->service != NULL ? session->service : SERVICE_WAYLAND;
	struct handshake_hello hello = {.n_contents = session->contents->count};
	snprintf(hello.service, sizeof(hello.service), "%s", service);
	memcpy(hello.link, session->link, sizeof(hello.link));
	for (size_t i = 0; i < hello.n_contents; i++) {
		hello.contents[i] = session->contents->entries[i].hash;
	}
	return handshake_open(channel_fd, &hello);
}

// A channel on which HELLO has been written, or -errno.
static int open_channel(const struct guest_options *options, const struct session_options *session)
{
	int fd = transport_connect(&options->connect);
	if (fd < 0) {
		return fd;
	}
	int error = say_hello(fd, session);
	// A host that has closed already has said why: the session reads that.
	if (error < 0 && error != -EPIPE && error != -ECONNRESET) {
		close(fd);
		return error;
	}
	return fd;
}

static bool prepare(
	void *data, int client_fd, const struct worker_peer *peer, struct session_options *session)
{
	(void)peer;
	const struct guest_options *options = data;
	session->channel_fd = open_channel(options, session);
	if (session->channel_fd < 0) {
		char text[256];
		snprintf(text, sizeof(text), "cannot reach %s: %s", options->connect_text,
			strerror(-session->channel_fd));
		log_error("%s", text);
		if (session->service == NULL) {
			refusal_send(client_fd, text);
		}
		close(client_fd);
		return false;
	}
	session->local_fd = client_fd;
	session->max_memory = MAX_MEMORY;
	session->max_objects = MAX_OBJECTS;
	session->max_fds = GUEST_MAX_FDS;
	return true;
}

int guest_session_run(struct guest_options *options)
{
	const struct worker_config config = {
		.program = "fdferry-guest",
		.options = &options->program,
		.exports = WIRE_REQUEST,
		.keeps_contents = true,
		.prepare = prepare,
		.data = options,
	};
	return worker_run(&config);
}
