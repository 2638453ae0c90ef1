#include "relay/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/fdlist.h"
#include "fdpass/fdref.h"
#include "relay/hooks.h"
#include "relay/session.h"
#include "relay/wayland.h"
#include "wire/message.h"
#include "wire/socket.h"

struct wayland_peer {
	struct peer peer;
	struct wire_socket *local; // NULL once closed
	struct wayland wayland;
	bool ending;
};

static bool is_client(const struct wayland_peer *self)
{
	return self->peer.context.options->exports == WIRE_REQUEST;
}

/* ---- the local socket ---- */

static void handle_readable(void *data)
{
	struct wayland_peer *self = data;
	if (!self->ending) {
		wayland_export(&self->wayland);
		return;
	}
	size_t len;
	wire_socket_data(self->local, &len);
	wire_socket_consume(self->local, len);
	struct fdlist *fds = wire_socket_fds(self->local);
	fdlist_drop(fds, fds->count);
}

static void handle_local_drained(void *data)
{
	struct wayland_peer *self = data;
	if (!self->ending) {
		wayland_report_credit(&self->wayland);
	}
}

static void close_local(struct peer *peer)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	wire_socket_destroy(self->local);
	self->local = NULL;
}

static void handle_ended(void *data, int error)
{
	struct wayland_peer *self = data;
	const struct peer_context *context = &self->peer.context;
	if (error == -EPROTO && !self->ending) {
		context->failed(context->data, WAYLAND_ERROR_IMPLEMENTATION,
			"fds of the local peer were lost");
	}
	// A client may leave without a word, a compositor may not.
	bool orderly = is_client(self) || self->wayland.error_seen;
	close_local(&self->peer);
	context->left(context->data, orderly ? NULL : "the compositor closed the connection");
}

static const struct wire_socket_handler socket_handler = {
	.readable = handle_readable,
	.ended = handle_ended,
	.drained = handle_local_drained,
};

/* ---- the session ---- */

static const char *messages(struct peer *peer, const struct channel_frame *frame)
{
	return wayland_import(&((struct wayland_peer *)peer)->wayland, frame);
}

static const char *credit(struct peer *peer, uint32_t bytes)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	const char *wrong = wayland_credit(&self->wayland, bytes);
	if (wrong == NULL && !self->ending) {
		wayland_export(&self->wayland);
	}
	return wrong;
}

static void settled(struct peer *peer)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	if (self->local == NULL) {
		return;
	}
	wire_socket_flush(self->local);
	if (!self->ending) {
		wayland_report_credit(&self->wayland);
	}
}

static void drained(struct peer *peer)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	if (!self->ending) {
		wayland_export(&self->wayland);
	}
}

static void streams_over(struct peer *peer)
{
	(void)peer;
}

static void retried(struct peer *peer)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	if (!self->ending) {
		wayland_retry(&self->wayland);
	}
}

/* A client is told as by its compositor. */
static void tell(struct peer *peer, uint32_t code, const char *text)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	if (!is_client(self) || self->local == NULL || self->wayland.error_seen) {
		return;
	}
	struct wl_array error;
	wl_array_init(&error);
	if (wire_encode_error(&error, self->wayland.error_object, code, text)) {
		wire_socket_push(self->local, error.data, error.size, NULL, NULL);
		wire_socket_flush(self->local);
	}
	wl_array_release(&error);
}

/*
 * What is queued for the peer still goes out; the connection is closed when the peer has closed its
 * end, for it would lose what it has not read yet otherwise: libwayland's server looks at a hang-up
 * before it looks at data.
 */
static void end(struct peer *peer)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	self->ending = true;
	told_stop(&self->wayland);
	if (self->local != NULL) {
		wire_socket_shutdown(self->local);
		wire_socket_set_reading(self->local, true);
	}
}

static bool is_open(const struct peer *peer)
{
	return ((const struct wayland_peer *)peer)->local != NULL;
}

static void release(struct peer *peer)
{
	wayland_finish(&((struct wayland_peer *)peer)->wayland);
}

static void count(const struct peer *peer, struct stats *stats)
{
	const struct wayland_peer *self = (const struct wayland_peer *)peer;
	for (int i = WIRE_REQUEST; i <= WIRE_EVENT; i++) {
		stats->messages[i] = self->wayland.messages[i];
		stats->message_bytes[i] = self->wayland.message_bytes[i];
	}
}

static void destroy(struct peer *peer)
{
	struct wayland_peer *self = (struct wayland_peer *)peer;
	wire_socket_destroy(self->local);
	wayland_finish(&self->wayland);
	free(self);
}

static struct peer *create(const struct peer_context *context)
{
	const struct session_options *options = context->options;
	struct wayland_peer *self = calloc(1, sizeof(*self));
	if (self == NULL) {
		close(options->local_fd);
		return NULL;
	}
	self->peer.interface = &wayland_peer;
	self->peer.context = *context;
	self->local = wire_socket_create(options->base, options->local_fd,
		fdrefs_flights(context->refs), &socket_handler, self);
	const struct wayland_options wayland = {
		.exports = options->exports,
		.local = self->local,
		.channel = context->channel,
		.refs = context->refs,
		.clock = context->clock,
		.offer_global = options->offer_global,
		.policy_data = options->data,
		.denied = options->denied,
		.n_denied = options->n_denied,
		.app_id_prefix = options->app_id_prefix,
		.title_prefix = options->title_prefix,
		.device = options->device,
		.trace = options->trace,
		.failed = context->failed,
		.data = context->data,
	};
	if (self->local == NULL || !wayland_init(&self->wayland, &wayland)) {
		destroy(&self->peer);
		errno = ENOMEM;
		return NULL;
	}
	return &self->peer;
}

const struct peer_interface wayland_peer = {
	.create = create,
	.destroy = destroy,
	.messages = messages,
	.credit = credit,
	.settled = settled,
	.drained = drained,
	.streams_over = streams_over,
	.retried = retried,
	.tell = tell,
	.end = end,
	.close = close_local,
	.is_open = is_open,
	.release = release,
	.count = count,
};
