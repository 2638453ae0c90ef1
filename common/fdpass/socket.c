#include "fdpass/socket.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "fdpass/any.h"
#include "fdpass/shared.h"

// Nothing is read while so much is queued on the channel already.
#define CHANNEL_BUSY (64u * 1024)
#define CREDIT_STEP  (CHANNEL_SOCKET_WINDOW / 4)
#define READ_MAX     (2 * CHANNEL_MAX_STREAM)                  // of a stream, at once
#define FRAMES_MAX   (CHANNEL_MAX_RECORD / CHANNEL_MAX_STREAM) // for what is read at once
#define GATHER_MAX   16u // plain pieces that go in one sendmsg
// Out of what the kernel has for fds that are under way: the next try.
#define RETRY_MS 20

// What is to be written to the local peer: fds go with its first byte. A piece without fds may go
// together with its neighbours unless it is a record.
struct piece {
	struct wl_list link; // socket.pieces
	struct fdlist fds;
	size_t len, sent;
	size_t charged; // to the session
	uint32_t cost;  // of the credit
	uint8_t bytes[];
};

// How far a socket that came from the other side is on its way back.
enum homing {
	HOMING_NOT,
	HOMING_ASKED,  // STREAM_PAUSE was sent
	HOMING_PAUSED, // nothing more comes from the other side
	HOMING_HOME,   // it has been named
};

struct socket {
	struct fdref ref;
	bool ours; // opened here
	bool root; // no local peer has passed it
	bool counted;
	bool named;  // in a message; the same socket sent again is a new one
	bool over;   // in both directions
	bool home;   // the local peer has it again: what becomes of the other copy does not matter
	int type;    // SOCK_STREAM or SOCK_SEQPACKET
	int fd;      // our end; -1 when over
	int given;   // of an import: the local peer's end until it is asked for
	int adopted; // for scm_release
	struct event *read_event, *write_event;
	struct event *hang_up_event; // edge-triggered: the peer may leave after its last byte
	struct event *retry_event;

	// From the local peer to the channel.
	bool reading;
	bool read_over;  // nothing more will be sent
	bool paused;     // the other side asked for it
	bool pause_owed; // and has not been answered
	uint32_t credit;
	uint64_t position;          // bytes that were read, for texts
	struct piece *held;         // read, but one of its fds has to wait
	uint32_t held_ids[SCM_MAX]; // of what is being pushed
	uint32_t n_held_ids;

	// From the channel to the local peer.
	bool write_over; // nothing more will be written
	bool eof;        // after the pieces
	bool eof_closes; // and then the whole socket goes
	uint32_t receivable;
	uint32_t unreported; // cost of what was written since the last CREDIT
	struct wl_list pieces;
	struct piece *partial; // a record of which more is to come; in no list

	enum homing homing;
	bool forsaken; // ASKED, and nobody waits for the answer
};

/* ---- pieces ---- */

static struct piece *piece_create(const void *bytes, size_t len, size_t room)
{
	struct piece *piece = malloc(sizeof(*piece) + room);
	if (piece != NULL) {
		*piece = (struct piece){.len = len};
		fdlist_init(&piece->fds);
		memcpy(piece->bytes, bytes, len);
	}
	return piece;
}

static void piece_destroy(struct piece *piece)
{
	if (piece != NULL) {
		fdlist_finish(&piece->fds);
		free(piece);
	}
}

static uint32_t frame_cost(size_t len, size_t n_fds)
{
	return (uint32_t)(CHANNEL_SOCKET_FRAME_COST + n_fds * CHANNEL_SOCKET_FDREF_COST + len);
}

/* The most that one read can cost. */
static uint32_t read_cost(const struct socket *sock)
{
	size_t len = sock->type == SOCK_STREAM ? READ_MAX : CHANNEL_MAX_RECORD;
	size_t n_frames = len / CHANNEL_MAX_STREAM;
	return (uint32_t)(n_frames * CHANNEL_SOCKET_FRAME_COST +
		SCM_MAX * CHANNEL_SOCKET_FDREF_COST + len);
}

static void dequeue(struct socket *sock, struct piece *piece)
{
	fdrefs_discharge(sock->ref.refs, piece->charged);
	wl_list_remove(&piece->link);
	piece_destroy(piece);
}

static void drop_pieces(struct socket *sock)
{
	struct piece *piece, *next;
	wl_list_for_each_safe (piece, next, &sock->pieces, link) {
		dequeue(sock, piece);
	}
	if (sock->partial != NULL) {
		dequeue(sock, sock->partial);
		sock->partial = NULL;
	}
}

/* ---- the end ---- */

static void push(struct socket *sock, uint16_t type, uint32_t arg)
{
	channel_push(sock->ref.refs->channel, type, sock->ref.id, arg, NULL, 0, NULL, 0);
}

static void hold(struct socket *sock, struct piece *piece)
{
	sock->held = piece;
	sock->ref.refs->waiting++;
}

/* The caller's; NULL if there is none. */
static struct piece *take_held(struct socket *sock)
{
	struct piece *piece = sock->held;
	sock->held = NULL;
	sock->ref.refs->waiting -= piece != NULL;
	return piece;
}

/* Nobody will read it. */
static void drop_held(struct socket *sock)
{
	struct piece *piece = take_held(sock);
	for (size_t i = 0; piece != NULL && i < piece->fds.count; i++) {
		any_forget(sock->ref.refs, fdlist_peek(&piece->fds)[i]);
	}
	piece_destroy(piece);
}

static void free_event(struct event **event)
{
	if (*event != NULL) {
		event_free(*event);
		*event = NULL;
	}
}

static void free_events(struct socket *sock)
{
	free_event(&sock->read_event);
	free_event(&sock->write_event);
	free_event(&sock->hang_up_event);
	free_event(&sock->retry_event);
}

static void destroy_socket(struct fdref *ref)
{
	struct socket *sock = (struct socket *)ref;
	struct fdrefs *refs = ref->refs;
	free_events(sock);
	drop_pieces(sock);
	piece_destroy(take_held(sock));
	if (sock->fd >= 0) {
		close(sock->fd);
	}
	if (sock->given >= 0) {
		close(sock->given);
	}
	bool last = sock->counted && --refs->streams == 0;
	free(sock);
	if (last && refs->streams_over != NULL) {
		refs->streams_over(refs->data);
	}
}

/* Both directions have ended: the fd goes; the fdref itself when its opener has closed it. */
static void check_over(struct socket *sock)
{
	if (sock->over || !sock->read_over || !sock->write_over) {
		return;
	}
	sock->over = true;
	free_events(sock);
	close(sock->fd);
	sock->fd = -1;
	if (sock->ours) {
		fdrefs_close(&sock->ref);
	}
}

/* CLOSE has come, and the socket is over: it may be gone after this. */
static void confirm(struct socket *sock)
{
	if (sock->over && !sock->ours && sock->ref.closing && sock->homing != HOMING_ASKED) {
		fdrefs_confirm_closed(&sock->ref);
	}
}

static bool has_hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLHUP | POLLERR));
}

static void wait_for(struct socket *sock, struct event *event)
{
	if (event_add(event, NULL) < 0) {
		fdrefs_fail(sock->ref.refs, "a socket cannot be waited for: out of memory");
	}
}

static void update_events(struct socket *sock)
{
	if (sock->over) {
		return;
	}
	const struct fdrefs *refs = sock->ref.refs;
	bool reading = !sock->read_over && !sock->paused && sock->held == NULL && !refs->stopped &&
		sock->credit >= read_cost(sock);
	if (reading != sock->reading) {
		sock->reading = reading;
		if (reading) {
			wait_for(sock, sock->read_event);
		} else {
			event_del(sock->read_event);
		}
	}
	bool watching = sock->read_over && !sock->write_over &&
		!event_pending(sock->write_event, EV_WRITE, NULL);
	if (watching) {
		wait_for(sock, sock->hang_up_event);
	} else {
		event_del(sock->hang_up_event);
	}
}

/* ---- source: from the local peer ---- */

static void answer_pause(struct socket *sock)
{
	if (sock->pause_owed && sock->held == NULL) {
		sock->pause_owed = false;
		push(sock, CHANNEL_STREAM_PAUSED, 0);
	}
}

static void end_reading(struct socket *sock)
{
	sock->read_over = true;
	drop_held(sock);
	answer_pause(sock);
	check_over(sock);
}

static void end_writing(struct socket *sock)
{
	sock->write_over = true;
	drop_pieces(sock);
	if (!sock->over) {
		event_del(sock->write_event);
		check_over(sock);
	}
}

/* The local peer has sent its last byte, and perhaps is gone altogether. */
static void push_eof(struct socket *sock)
{
	bool closed = has_hung_up(sock->fd);
	shared_push_changes(sock->ref.refs);
	push(sock, CHANNEL_STREAM_EOF, closed);
	if (closed) {
		end_writing(sock);
	}
	end_reading(sock);
}

static void push_stop(struct socket *sock)
{
	push(sock, CHANNEL_STREAM_STOP, CHANNEL_STOP_READER_GONE);
	end_writing(sock);
}

static void name_all(struct socket *sock)
{
	for (uint32_t i = 0; i < sock->n_held_ids; i++) {
		struct fdref *ref = fdrefs_get(sock->ref.refs, sock->held_ids[i]);
		if (ref != NULL && ref->interface->named != NULL) {
			ref->interface->named(ref);
		}
	}
	sock->n_held_ids = 0;
}

static void trace(const struct socket *sock, bool sent, size_t len, const void *ids, uint32_t n_ids)
{
	const struct fdrefs *refs = sock->ref.refs;
	if (refs->trace != NULL) {
		refs->trace(refs->failed_data, sock->ref.id, sent, len, ids, n_ids);
	}
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
		trace(sock, true, n, sock->held_ids, n_ids);
		sock->credit -= frame_cost(n, n_ids);
		done += n;
	} while (done < len);
	channel_send(refs->channel, pieces, n_pieces);
	refs->counts.stream_sent += len;
	sock->position += len;
	name_all(sock);
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

static void export_held(struct socket *sock)
{
	struct piece *piece = take_held(sock); // it may carry the socket itself
	if (have_to_wait(sock, &piece->fds)) {
		hold(sock, piece);
		return;
	}
	if (export_fds(sock, &piece->fds)) {
		push_data(sock, piece->bytes, piece->len);
		answer_pause(sock);
		update_events(sock);
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

/* Something has happened to it. It may be gone after this. */
static void settle(struct socket *sock)
{
	struct fdrefs *refs = sock->ref.refs;
	update_events(sock);
	if (refs->waiting > 0 && sock->homing != HOMING_NOT) {
		fdrefs_retry(refs);
	}
	confirm(sock);
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct socket *sock = data;
	struct fdrefs *refs = sock->ref.refs;
	if (channel_queued(refs->channel) > CHANNEL_BUSY) {
		sock->reading = false; // what is queued after a flush tells drained
		event_del(sock->read_event);
		return;
	}
	read_some(sock);
	settle(sock);
	channel_flush(refs->channel);
}

/* ---- sink: to the local peer ---- */

static bool is_alone(const struct socket *sock, const struct piece *piece)
{
	return sock->type != SOCK_STREAM || piece->fds.count > 0;
}

/* Sends the first piece, and plain ones that follow a plain one. As scm_send. */
static ssize_t send_front(struct socket *sock)
{
	struct iovec iov[GATHER_MAX];
	size_t n = 0;
	struct piece *first = wl_container_of(sock->pieces.next, first, link);
	struct piece *piece;
	wl_list_for_each (piece, &sock->pieces, link) {
		if (n == GATHER_MAX || (n > 0 && is_alone(sock, piece))) {
			break;
		}
		iov[n++] = (struct iovec){piece->bytes + piece->sent, piece->len - piece->sent};
		if (is_alone(sock, piece)) {
			break;
		}
	}
	return scm_send(sock->fd, iov, n, &first->fds, first->fds.count);
}

static void take_sent(struct socket *sock, size_t sent)
{
	struct piece *piece, *next;
	wl_list_for_each_safe (piece, next, &sock->pieces, link) {
		size_t left = piece->len - piece->sent;
		size_t n = sent < left ? sent : left;
		fdlist_drop(&piece->fds, piece->fds.count);
		piece->sent += n;
		sent -= n;
		if (piece->sent < piece->len) {
			return;
		}
		sock->unreported += piece->cost;
		dequeue(sock, piece);
		if (sent == 0) {
			return;
		}
	}
}

static void report_credit(struct socket *sock)
{
	if (sock->unreported >= CREDIT_STEP && !sock->eof) {
		push(sock, CHANNEL_CREDIT, sock->unreported);
		sock->receivable += sock->unreported;
		sock->unreported = 0;
	}
}

/* All that came has been written, and EOF is next. */
static void deliver_eof(struct socket *sock)
{
	if (sock->eof_closes) {
		end_reading(sock);
	} else {
		shutdown(sock->fd, SHUT_WR);
	}
	end_writing(sock);
}

static bool widen(const struct socket *sock)
{
	int size;
	socklen_t len = sizeof(size);
	getsockopt(sock->fd, SOL_SOCKET, SO_SNDBUF, &size, &len);
	const int wanted = 2 * CHANNEL_MAX_RECORD;
	if (size >= wanted || setsockopt(sock->fd, SOL_SOCKET, SO_SNDBUF, &wanted, len) < 0) {
		return false;
	}
	int before = size;
	getsockopt(sock->fd, SOL_SOCKET, SO_SNDBUF, &size, &len);
	return size > before;
}

static void write_failed(struct socket *sock, int error)
{
	const struct timeval later = {.tv_usec = RETRY_MS * 1000};
	switch (error) {
	case -EAGAIN:
		event_del(sock->hang_up_event);
		wait_for(sock, sock->write_event);
		break;
	case -ETOOMANYREFS:
	case -ENOBUFS:
	case -ENOMEM:
		event_add(sock->retry_event, &later);
		break;
	case -EMSGSIZE:
		fdrefs_fail(sock->ref.refs, "a record is too long for the local peer's socket");
		break;
	default:
		push_stop(sock);
	}
}

static void write_all(struct socket *sock)
{
	while (!wl_list_empty(&sock->pieces)) {
		ssize_t n = send_front(sock);
		if (n == -EMSGSIZE && widen(sock)) {
			continue;
		}
		if (n < 0) {
			write_failed(sock, (int)n);
			break;
		}
		take_sent(sock, (size_t)n);
	}
	if (sock->write_over) {
		return;
	}
	report_credit(sock);
	if (sock->eof && wl_list_empty(&sock->pieces)) {
		deliver_eof(sock);
	}
}

static void handle_writable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct socket *sock = data;
	struct channel *channel = sock->ref.refs->channel;
	write_all(sock);
	settle(sock);
	channel_flush(channel);
}

/* Edge-triggered, after the local peer's last byte: has it left? */
static void handle_hang_up(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct socket *sock = data;
	struct channel *channel = sock->ref.refs->channel;
	if (has_hung_up(fd)) {
		push_stop(sock);
	}
	settle(sock);
	channel_flush(channel);
}

/* The fd of ids[i]; one that is named twice is given twice. -errno. */
static int take_fd(const struct fdrefs *refs, const uint32_t *ids, uint32_t i, struct fdlist *fds)
{
	for (uint32_t before = 0; before < i; before++) {
		if (ids[before] == ids[i]) {
			int fd = fcntl(fdlist_peek(fds)[before], F_DUPFD_CLOEXEC, 0);
			return fd < 0 ? -errno : fd;
		}
	}
	return fdrefs_get_fd(refs, ids[i]);
}

/* Takes the fds that the frame names. NULL, or what is wrong. */
static const char *take_fds(
	struct socket *sock, const uint8_t *payload, uint32_t n, struct fdlist *fds)
{
	uint32_t ids[SCM_MAX];
	memcpy(ids, payload, n * sizeof(uint32_t));
	for (uint32_t i = 0; i < n; i++) {
		int fd = take_fd(sock->ref.refs, ids, i, fds);
		if (fd == -EMFILE || fd == -ENFILE) {
			return "more fds than this side can have";
		}
		if (fd < 0) {
			return "STREAM_DATA with an fdref that is not open or has no fd";
		}
		if (!fdlist_push(fds, fd)) {
			return "out of memory";
		}
	}
	return NULL;
}

/* Pieces are ours to keep, but their amount is the other side's doing. */
static const char *begin_piece(struct socket *sock, size_t room)
{
	size_t charged = sizeof(*sock->partial) + room; // a record may have no bytes
	if (!fdrefs_charge(sock->ref.refs, charged)) {
		return "more memory than the session may have (--max-memory)";
	}
	sock->partial = piece_create("", 0, room);
	if (sock->partial == NULL) {
		fdrefs_discharge(sock->ref.refs, charged);
		return "out of memory";
	}
	wl_list_init(&sock->partial->link);
	sock->partial->charged = charged;
	return NULL;
}

static const char *take_piece(
	struct socket *sock, const uint8_t *ids, uint32_t n_ids, size_t len, bool more)
{
	const char *wrong = NULL;
	bool begins = sock->partial == NULL;
	if (begins) {
		wrong = begin_piece(sock, more ? CHANNEL_MAX_RECORD : len);
	} else if (n_ids > 0) {
		wrong = "STREAM_DATA with fdrefs inside a record";
	} else if (sock->partial->len + len > CHANNEL_MAX_RECORD) {
		wrong = "STREAM_DATA with a record that is too long";
	}
	if (wrong == NULL) {
		wrong = take_fds(sock, ids, n_ids, &sock->partial->fds);
	}
	struct piece *piece = sock->partial;
	if (wrong != NULL) {
		if (begins && piece != NULL) { // with room for this frame only
			dequeue(sock, piece);
			sock->partial = NULL;
		}
		return wrong;
	}
	memcpy(piece->bytes + piece->len, ids + n_ids * sizeof(uint32_t), len);
	piece->len += len;
	piece->cost += frame_cost(len, n_ids);
	if (!more) {
		sock->partial = NULL;
		wl_list_insert(sock->pieces.prev, &piece->link);
	}
	return NULL;
}

/* Bytes without fds need no queue if the peer takes them now. How many it took. */
static size_t write_through(struct socket *sock, const uint8_t *bytes, size_t len)
{
	struct iovec iov = {(void *)bytes, len};
	struct fdlist none;
	fdlist_init(&none);
	ssize_t n = scm_send(sock->fd, &iov, 1, &none, 0);
	return n > 0 ? (size_t)n : 0;
}

static const char *handle_data(struct socket *sock, const struct channel_frame *frame)
{
	uint32_t n_ids = frame->header.arg & ~CHANNEL_SOCKET_MORE;
	bool more = frame->header.arg & CHANNEL_SOCKET_MORE;
	size_t ids_len = n_ids * sizeof(uint32_t);
	if (n_ids > SCM_MAX || frame->header.length < ids_len ||
		frame->header.length - ids_len > CHANNEL_MAX_STREAM) {
		return "STREAM_DATA with a wrong length or number of fdrefs";
	}
	size_t len = frame->header.length - ids_len;
	if (sock->type == SOCK_STREAM && (more || len == 0)) {
		return "STREAM_DATA of a record on a stream, or without bytes";
	}
	uint32_t cost = frame_cost(len, n_ids);
	if (cost > sock->receivable || sock->eof) {
		return "STREAM_DATA beyond its credit or after STREAM_EOF";
	}
	sock->receivable -= cost;
	sock->ref.refs->counts.stream_received += len;
	const uint8_t *ids = frame->payload;
	trace(sock, false, len, ids, n_ids);
	if (sock->write_over) { // STREAM_STOP is on its way; fds still go where they belong: nowhere
		struct fdlist fds;
		fdlist_init(&fds);
		const char *wrong = take_fds(sock, ids, n_ids, &fds);
		fdlist_finish(&fds);
		return wrong;
	}
	bool idle = wl_list_empty(&sock->pieces);
	if (sock->type == SOCK_STREAM && n_ids == 0 && idle) {
		size_t n = write_through(sock, ids, len);
		if (n == len) {
			sock->unreported += cost;
			report_credit(sock);
			return NULL;
		}
		ids += n;
		len -= n;
		sock->unreported += (uint32_t)n;
	}
	const char *wrong = take_piece(sock, ids, n_ids, len, more);
	if (wrong == NULL && idle) {
		write_all(sock);
	}
	return wrong;
}

static const char *handle_eof(struct socket *sock, uint32_t closes)
{
	if (sock->eof || sock->partial != NULL) {
		return "STREAM_EOF twice or inside a record";
	}
	sock->eof = true;
	sock->eof_closes = closes != 0;
	if (sock->write_over) {
		if (sock->eof_closes) {
			end_reading(sock);
		}
	} else if (wl_list_empty(&sock->pieces)) {
		deliver_eof(sock);
	}
	return NULL;
}

static void handle_stop(struct socket *sock)
{
	if (!sock->read_over) {
		if (!sock->home) {
			shutdown(sock->fd, SHUT_RD);
		}
		end_reading(sock);
	}
}

/* ---- coming home ---- */

static const char *handle_pause(struct socket *sock, uint32_t wanted)
{
	if (!sock->ours || sock->pause_owed) {
		return "STREAM_PAUSE for a socket that is not the receiver's, or twice";
	}
	sock->paused = wanted != 0;
	sock->pause_owed = sock->paused;
	answer_pause(sock);
	return NULL;
}

/* It does not go home: the other side may go on. */
static void stay_away(struct socket *sock)
{
	push(sock, CHANNEL_STREAM_PAUSE, 0);
	sock->homing = HOMING_NOT;
}

static const char *handle_paused(struct socket *sock)
{
	if (sock->homing != HOMING_ASKED) {
		return "STREAM_PAUSED without being asked";
	}
	sock->homing = HOMING_PAUSED;
	if (sock->forsaken) {
		stay_away(sock);
	}
	fdrefs_retry(sock->ref.refs);
	return NULL;
}

/* Something can be read at fd, which is one end or the other. Empty records count. */
static bool has_unread(const struct socket *sock, int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	int n = 0;
	if (sock->type != SOCK_STREAM) {
		return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLIN);
	}
	return ioctl(fd, SIOCINQ, &n) == 0 && n > 0;
}

/* All that was written to the end that was given away has gone ahead. */
static bool has_sent_all(const struct socket *sock)
{
	return sock->held == NULL && (sock->read_over || !has_unread(sock, sock->fd));
}

/*
 * The socket that was given away is being sent to where it came from. The other side is asked to be
 * still, and what was written to it goes ahead.
 */
static bool must_wait(struct fdref *ref, int fd)
{
	(void)fd;
	struct socket *sock = (struct socket *)ref;
	if (sock->ours || sock->over) {
		return false;
	}
	if (sock->homing == HOMING_NOT) {
		push(sock, CHANNEL_STREAM_PAUSE, 1);
		sock->homing = HOMING_ASKED;
	}
	sock->forsaken = false;
	return sock->homing == HOMING_ASKED || (sock->reading && !has_sent_all(sock));
}

static void handle_forsaken(struct fdref *ref)
{
	struct socket *sock = (struct socket *)ref;
	sock->forsaken = sock->homing == HOMING_ASKED;
	if (sock->homing == HOMING_PAUSED) {
		stay_away(sock);
	}
}

/* If nothing is on its way to it any more, the original can take its place at home. */
static enum fdref_again again(struct fdref *ref, int fd)
{
	struct socket *sock = (struct socket *)ref;
	if (sock->ours) {
		return sock->named ? FDREF_AGAIN_NEW : FDREF_AGAIN_NAME; // twice in one message
	}
	if (sock->over || sock->homing == HOMING_NOT) {
		return FDREF_AGAIN_NEW;
	}
	if (has_sent_all(sock) && wl_list_empty(&sock->pieces) && sock->partial == NULL &&
		!has_unread(sock, fd)) {
		sock->homing = HOMING_HOME;
		return FDREF_AGAIN_NAME;
	}
	stay_away(sock);
	return FDREF_AGAIN_NEW;
}

static void handle_named(struct fdref *ref)
{
	((struct socket *)ref)->named = true;
}

static void retry(struct fdref *ref)
{
	struct socket *sock = (struct socket *)ref;
	if (sock->held != NULL && !ref->refs->stopped) {
		export_held(sock);
	}
}

/* ---- the fdref ---- */

static const char *handle_type(struct socket *sock, const struct channel_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_STREAM_DATA:
		return handle_data(sock, frame);
	case CHANNEL_STREAM_EOF:
		return handle_eof(sock, frame->header.arg);
	case CHANNEL_STREAM_STOP:
		handle_stop(sock);
		return NULL;
	case CHANNEL_STREAM_PAUSE:
		return handle_pause(sock, frame->header.arg);
	case CHANNEL_STREAM_PAUSED:
		return handle_paused(sock);
	case CHANNEL_CREDIT:
		if (frame->header.arg > CHANNEL_SOCKET_WINDOW - sock->credit) {
			return "CREDIT beyond the window of a socket";
		}
		sock->credit += frame->header.arg;
		return NULL;
	case CHANNEL_CLOSE:
		if (!sock->eof && !sock->over) { // cut off
			end_reading(sock);
			end_writing(sock);
		}
		return NULL;
	default:
		return "frame of the wrong type for a socket";
	}
}

static const char *handle_frame(struct fdref *ref, const struct channel_frame *frame)
{
	struct socket *sock = (struct socket *)ref;
	const char *wrong = handle_type(sock, frame);
	if (wrong == NULL) {
		settle(sock);
	}
	return wrong;
}

static void handle_drained(struct fdref *ref)
{
	update_events((struct socket *)ref);
}

/* In place of one that is over: its peer is gone. */
static int dead_end(int type)
{
	int pair[2];
	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0) {
		return -errno;
	}
	close(pair[1]);
	return pair[0];
}

/* What was passed from here is what the local peer gets. */
static int take_home(struct socket *sock)
{
	sock->ref.refs->counts.homecomings++;
	if (sock->fd < 0) {
		return dead_end(sock->type);
	}
	scm_release(sock->fd, sock->adopted);
	int fd = fcntl(sock->fd, F_DUPFD_CLOEXEC, 0);
	sock->home = fd >= 0;
	return fd < 0 ? -errno : fd;
}

static int get_fd(struct fdref *ref)
{
	struct socket *sock = (struct socket *)ref;
	if (sock->ours) {
		return sock->root ? -EBADF : take_home(sock);
	}
	int fd = sock->given;
	sock->given = -1;
	return fd < 0 ? -EBADF : fd;
}

static const struct fdref_interface sockets = {
	.name = "socket",
	.frame = handle_frame,
	.get_fd = get_fd,
	.named = handle_named,
	.drained = handle_drained,
	.retry = retry,
	.again = again,
	.must_wait = must_wait,
	.forsaken = handle_forsaken,
	.destroy = destroy_socket,
};

/* ---- life ---- */

static int socket_type(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ? 0 : type;
}

/* Takes fd, also on failure (NULL). */
static struct socket *create(struct fdrefs *refs, int fd, int type)
{
	struct socket *sock = calloc(1, sizeof(*sock));
	if (sock == NULL) {
		close(fd);
		return NULL;
	}
	sock->ref.interface = &sockets;
	sock->ref.refs = refs;
	sock->type = type;
	sock->fd = fd;
	sock->given = -1;
	sock->credit = sock->receivable = CHANNEL_SOCKET_WINDOW;
	wl_list_init(&sock->pieces);
	struct event_base *base = refs->base;
	sock->read_event = event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, sock);
	sock->write_event = event_new(base, fd, EV_WRITE, handle_writable, sock);
	sock->hang_up_event =
		event_new(base, fd, EV_READ | EV_ET | EV_PERSIST, handle_hang_up, sock);
	sock->retry_event = event_new(base, -1, 0, handle_writable, sock);
	sock->adopted = scm_adopt(fd);
	if (sock->read_event == NULL || sock->write_event == NULL || sock->hang_up_event == NULL ||
		sock->retry_event == NULL || sock->adopted < 0) {
		destroy_socket(&sock->ref);
		return NULL;
	}
	sock->counted = true;
	refs->streams++;
	return sock;
}

static uint32_t export(struct fdrefs *refs, int fd, bool root, const char **wrong)
{
	int type = socket_type(fd);
	*wrong = NULL;
	if (type != SOCK_STREAM && type != SOCK_SEQPACKET) {
		*wrong = "a socket that is neither a stream nor one of records";
		close(fd);
		return 0;
	}
	const struct channel_open_socket open = {
		.type = (uint32_t)type,
		.nonblocking = (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0,
		.root = root,
	};
	struct stat st;
	bool known = fstat(fd, &st) == 0;
	struct socket *sock = create(refs, fd, type);
	if (sock == NULL) {
		*wrong = "out of memory";
		return 0;
	}
	sock->ours = true;
	sock->root = root;
	if (known) {
		sock->ref.identity = (struct fd_identity){st.st_dev, st.st_ino};
	}
	if (!fdrefs_open(refs, &sock->ref, &sockets, CHANNEL_KIND_SOCKET, &open, sizeof(open))) {
		destroy_socket(&sock->ref);
		*wrong = "too many fds are open in this session";
		return 0;
	}
	refs->counts.sockets += !root;
	update_events(sock);
	return sock->ref.id;
}

uint32_t socket_export(struct fdrefs *refs, int fd, const char **wrong)
{
	return export(refs, fd, false, wrong);
}

uint32_t socket_export_root(struct fdrefs *refs, int fd, const char **wrong)
{
	return export(refs, fd, true, wrong);
}

static const char *join_root(struct fdrefs *refs, int type, struct socket **sock)
{
	if (!refs->has_root) {
		return "OPEN of a second root";
	}
	if (socket_type(refs->root_fd) != type) {
		return type == SOCK_STREAM ? "OPEN of a stream for a service of records"
					   : "OPEN of a socket of records for a service of streams";
	}
	*sock = create(refs, refs->root_fd, type);
	refs->has_root = false;
	return *sock == NULL ? "out of memory" : NULL;
}

static const char *make_pair(
	struct fdrefs *refs, const struct channel_open_socket *open, struct socket **sock)
{
	int pair[2];
	if (socketpair(AF_UNIX, (int)open->type | SOCK_CLOEXEC, 0, pair) < 0) {
		log_errno("cannot make a socket pair");
		return "out of fds for a socket";
	}
	if (open->nonblocking) {
		fcntl(pair[1], F_SETFL, O_NONBLOCK);
	}
	*sock = create(refs, pair[0], (int)open->type);
	if (*sock == NULL) {
		close(pair[1]);
		return "out of memory";
	}
	(*sock)->given = pair[1];
	struct stat st;
	if (fstat(pair[1], &st) == 0) {
		(*sock)->ref.identity = (struct fd_identity){st.st_dev, st.st_ino};
	}
	refs->counts.sockets++;
	return NULL;
}

const char *socket_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_socket open;
	if (frame->header.length != sizeof(open)) {
		return "OPEN of a socket with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	if ((open.type != SOCK_STREAM && open.type != SOCK_SEQPACKET) || open.nonblocking > 1 ||
		open.root > 1) {
		return "OPEN of a socket with a wrong type";
	}
	struct socket *sock = NULL;
	const char *wrong =
		open.root ? join_root(refs, (int)open.type, &sock) : make_pair(refs, &open, &sock);
	if (wrong != NULL) {
		return wrong;
	}
	update_events(sock);
	*ref = &sock->ref;
	return NULL;
}
