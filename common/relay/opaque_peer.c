#include "relay/peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/scm.h"
#include "fdpass/socket.h"
#include "relay/session.h"
#include "relay/wayland.h"
#include "wire/trace.h"

/*
 * A protocol of which nothing is known is a socket like any other that crosses: fdpass/socket.c has
 * all of it. This is what makes a session of the first one.
 */
struct opaque_peer {
	struct peer peer;
};

static void handle_failed(void *data, const char *text)
{
	const struct peer_context *context = &((struct opaque_peer *)data)->peer.context;
	char line[512];
	snprintf(line, sizeof(line), "service %s: %s", context->options->service, text);
	context->failed(context->data, WAYLAND_ERROR_IMPLEMENTATION, line);
}

static const char *messages(struct peer *peer, const struct channel_frame *frame)
{
	(void)peer;
	(void)frame;
	return "MESSAGES in a session that is not Wayland's";
}

static const char *credit(struct peer *peer, uint32_t bytes)
{
	(void)peer;
	(void)bytes;
	return "CREDIT for messages in a session that is not Wayland's";
}

static void trace(
	void *data, uint32_t socket, bool sent, size_t len, const void *ids, uint32_t n_ids)
{
	const struct peer_context *context = &((struct opaque_peer *)data)->peer.context;
	const struct session_options *options = context->options;
	const char *names[SCM_MAX];
	for (uint32_t i = 0; i < n_ids; i++) {
		uint32_t id;
		memcpy(&id, (const uint8_t *)ids + i * sizeof(id), sizeof(id));
		const struct fdref *ref = fdrefs_get(context->refs, id);
		names[i] = ref != NULL ? ref->interface->name : "unknown";
	}
	enum wire_direction other = options->exports == WIRE_REQUEST ? WIRE_EVENT : WIRE_REQUEST;
	wire_trace_bytes(options->trace, sent ? options->exports : other, options->service, socket,
		len, names, n_ids);
}

/* Sockets do all that by themselves. */
static void nothing(struct peer *peer)
{
	(void)peer;
}

/* The last of all sockets and pipes is closed: who has opened the first one says so. */
static void streams_over(struct peer *peer)
{
	const struct peer_context *context = &peer->context;
	if (context->options->exports == WIRE_REQUEST) {
		context->left(context->data, NULL);
	}
}

/* Its messages are kept by its sockets, which are fdrefs. */
static void retried(struct peer *peer)
{
	(void)peer;
}

/* There is no way to tell a client anything in a language that it knows. */
static void tell(struct peer *peer, uint32_t code, const char *text)
{
	(void)peer;
	(void)code;
	(void)text;
}

static bool is_open(const struct peer *peer)
{
	(void)peer;
	return false; // apart from what the fdrefs are
}

static void count(const struct peer *peer, struct stats *stats)
{
	(void)peer;
	(void)stats;
}

static void destroy(struct peer *peer)
{
	free(peer);
}

static struct peer *create(const struct peer_context *context)
{
	struct opaque_peer *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		close(context->options->local_fd);
		return NULL;
	}
	self->peer.interface = &opaque_peer;
	self->peer.context = *context;
	const char *wrong = NULL;
	context->refs->any_kind = true;
	if (context->options->exports == WIRE_REQUEST) {
		socket_export_root(context->refs, context->options->local_fd, &wrong);
		channel_flush(context->channel);
	} else {
		context->refs->root_fd = context->options->local_fd;
		context->refs->has_root = true;
	}
	if (wrong != NULL) {
		free(self);
		errno = EINVAL;
		return NULL;
	}
	context->refs->failed = handle_failed;
	context->refs->failed_data = self;
	context->refs->trace = context->options->trace != NULL ? trace : NULL;
	return &self->peer;
}

const struct peer_interface opaque_peer = {
	.create = create,
	.destroy = destroy,
	.messages = messages,
	.credit = credit,
	.settled = nothing,
	.drained = nothing,
	.streams_over = streams_over,
	.retried = retried,
	.tell = tell,
	.end = nothing,
	.close = nothing,
	.is_open = is_open,
	.release = nothing,
	.count = count,
};
