#include "fdpass/socket_impl.h"

#include <assert.h>
#include <event2/event.h>
#include <stdio.h>
#include <sys/socket.h>

#include "fdpass/any.h"
#include "fdpass/shared.h"

#define READ_MAX   (2 * CHANNEL_MAX_STREAM)                  // of a stream, at once
#define FRAMES_MAX (CHANNEL_MAX_RECORD / CHANNEL_MAX_STREAM) // for what is read at once

static void hold(struct socket *sock, struct piece *piece)
{
	sock->held = piece;
	sock->ref.refs->waiting++;
}

/* The caller's; NULL if there is none. */
struct piece *socket_take_held(struct socket *sock)
{
	struct piece *piece = sock->held;
	sock->held = NULL;
	sock->ref.refs->waiting -= piece != NULL;
	return piece;
}

/* Nobody will read it. */
void socket_drop_held(struct socket *sock)
{
	struct piece *piece = socket_take_held(sock);
	for (size_t i = 0; piece != NULL && i < piece->fds.count; i++) {
		any_forget(sock->ref.refs, fdlist_peek(&piece->fds)[i]);
	}
	piece_destroy(piece);
}

/* The most that one read can cost. */
uint32_t socket_read_cost(const struct socket *sock)
{
	size_t len = sock->type == SOCK_STREAM ? READ_MAX : CHANNEL_MAX_RECORD;
	size_t n_frames = len / CHANNEL_MAX_STREAM;
	return (uint32_t)(n_frames * CHANNEL_SOCKET_FRAME_COST +
		SCM_MAX * CHANNEL_SOCKET_FDREF_COST + len);
}

void socket_answer_pause(struct socket *sock)
{
	if (sock->pause_owed && sock->held == NULL) {
		sock->pause_owed = false;
		bool behind = !wl_list_empty(&sock->pieces) || sock->partial != NULL;
		socket_push(sock, CHANNEL_STREAM_PAUSED, behind);
	}
}

/* The local peer has sent its last byte, and perhaps is gone altogether. */
static void push_eof(struct socket *sock)
{
	bool closed = socket_has_hung_up(sock->fd);
	shared_push_changes(sock->ref.refs);
	socket_push(sock, CHANNEL_STREAM_EOF, closed);
	if (closed) {
		socket_end_writing(sock);
	}
	socket_end_reading(sock);
}

/* Bytes go with the fdrefs that are held, in as many frames as they need. */
static void push_data(struct socket *sock, const uint8_t *bytes, size_t len)
{
	struct fdrefs *refs = sock->ref.refs;
	struct channel_header headers[FRAMES_MAX];
	struct iovec pieces[1 + 2 * FRAMES_MAX];
	size_t n_frames = 0, n_pieces = 0, done = 0;
	shared_push_changes(refs);
	do {
		size_t n = len - done < CHANNEL_MAX_STREAM ? len - done : CHANNEL_MAX_STREAM;
		uint32_t n_ids = done == 0 ? sock->n_held_ids : 0;
		size_t ids_len = n_ids * sizeof(uint32_t);
		bool more = sock->type != SOCK_STREAM && done + n < len;
		assert(n_frames < FRAMES_MAX);
		struct channel_header *header = &headers[n_frames++];
		*header = (struct channel_header){
			.length = (uint32_t)(ids_len + n),
			.type = CHANNEL_STREAM_DATA,
			.id = sock->ref.id,
			.arg = n_ids | (more ? CHANNEL_SOCKET_MORE : 0),
		};
		pieces[n_pieces++] = (struct iovec){header, sizeof(*header)};
		if (n_ids > 0) {
			pieces[n_pieces++] = (struct iovec){sock->held_ids, ids_len};
		}
		pieces[n_pieces++] = (struct iovec){(void *)(bytes + done), n};
		socket_trace(sock, true, n, sock->held_ids, n_ids);
		sock->credit -= socket_frame_cost(n, n_ids);
		done += n;
	} while (done < len);
	channel_send(refs->channel, pieces, n_pieces);
	refs->counts.stream_sent += len;
	sock->position += len;
	fdrefs_named(refs, sock->held_ids, sock->n_held_ids);
	sock->n_held_ids = 0;
}

static void refuse(struct socket *sock, const char *wrong)
{
	char text[256];
	snprintf(text, sizeof(text), "%s: fd %u of those with byte %llu of socket %x", wrong,
		sock->n_held_ids + 1, (unsigned long long)sock->position, sock->ref.id);
	fdrefs_fail(sock->ref.refs, text);
}

static bool have_to_wait(struct socket *sock, const struct fdlist *fds)
{
	bool wait = false;
	for (size_t i = 0; i < fds->count; i++) {
		wait = any_must_wait(sock->ref.refs, fdlist_peek(fds)[i]) || wait;
	}
	return wait;
}

/* Takes the fds. False: the session has failed. */
static bool export_fds(struct socket *sock, struct fdlist *fds)
{
	while (fds->count > 0) {
		uint32_t id;
		char wrong[ANY_WRONG_MAX];
		switch (any_export(sock->ref.refs, fdlist_take(fds), &id, wrong)) {
		case ANY_OPENED:
			sock->held_ids[sock->n_held_ids++] = id;
			break;
		case ANY_DROPPED:
			break;
		case ANY_REFUSED:
			refuse(sock, wrong);
			return false;
		}
	}
	return true;
}

void socket_export_held(struct socket *sock)
{
	struct piece *piece = socket_take_held(sock); // it may carry the socket itself
	if (have_to_wait(sock, &piece->fds)) {
		hold(sock, piece);
		return;
	}
	if (export_fds(sock, &piece->fds)) {
		push_data(sock, piece->bytes, piece->len);
		socket_answer_pause(sock);
		socket_update(sock);
	}
	piece_destroy(piece);
}

static void hold_back(struct socket *sock, const uint8_t *bytes, size_t len, struct fdlist *fds)
{
	struct piece *piece = piece_create(bytes, len, len);
	if (piece == NULL || !fdlist_move(&piece->fds, fds, fds->count)) {
		piece_destroy(piece);
		fdrefs_fail(sock->ref.refs, "out of memory");
		return;
	}
	hold(sock, piece);
}

/* Takes fds. */
static void export_piece(struct socket *sock, const uint8_t *bytes, size_t len, struct fdlist *fds)
{
	if (have_to_wait(sock, fds)) {
		hold_back(sock, bytes, len, fds);
	} else if (export_fds(sock, fds)) {
		push_data(sock, bytes, len);
	}
}

static void read_some(struct socket *sock)
{
	uint8_t bytes[CHANNEL_MAX_RECORD];
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n;
	if (sock->type == SOCK_STREAM) {
		n = scm_recv_piece(sock->fd, bytes, READ_MAX, &fds);
		n = n == 0 ? SCM_END : n;
	} else {
		n = scm_recv_record(sock->fd, bytes, sizeof(bytes), &fds);
	}
	if (n >= 0) {
		export_piece(sock, bytes, (size_t)n, &fds);
	} else if (n == -EPROTO) {
		fdrefs_fail(sock->ref.refs, "fds of the local peer were lost: too many are open");
	} else if (n == -EMSGSIZE) {
		fdrefs_fail(sock->ref.refs, "a record of the local peer is too long to cross");
	} else if (n != -EAGAIN) {
		push_eof(sock);
	}
	fdlist_finish(&fds);
}

void socket_handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct socket *sock = data;
	struct fdrefs *refs = sock->ref.refs;
	if (refs->stopped || channel_queued(refs->channel) > FDREFS_BUSY) {
		sock->reading = false; // what is queued after a flush tells drained
		event_del(sock->read_event);
		return;
	}
	read_some(sock);
	socket_settle(sock);
	channel_flush(refs->channel);
}
