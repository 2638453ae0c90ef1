#include "fdpass/socket_impl.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "base/flight.h"

#define CREDIT_STEP (CHANNEL_SOCKET_WINDOW / 4)
#define GATHER_MAX  16u // plain pieces that go in one sendmsg
// Out of what the kernel has for fds that are under way: the next try.
#define RETRY_MS 20

/* Pieces are ours to keep, but their amount is the other side's doing. */
static const char *charge_piece(struct fdrefs *refs, size_t bytes)
{
	if (!fdrefs_charge(refs, bytes)) {
		return "more memory than the session may have";
	}
	if (!budget_charge(refs->budget, BUDGET_FRAMES, 1)) {
		fdrefs_discharge(refs, bytes);
		return "more frames than the session may let wait";
	}
	return NULL;
}

static void discharge_piece(struct fdrefs *refs, size_t bytes)
{
	fdrefs_discharge(refs, bytes);
	budget_release(refs->budget, BUDGET_FRAMES, 1);
}

static void dequeue(struct socket *sock, struct piece *piece)
{
	discharge_piece(sock->ref.refs, piece->charged);
	wl_list_remove(&piece->link);
	piece_destroy(piece);
}

void socket_drop_pieces(struct socket *sock)
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

static void push_stop(struct socket *sock)
{
	socket_push(sock, CHANNEL_STREAM_STOP, CHANNEL_STOP_READER_GONE);
	socket_end_writing(sock);
}

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
	return flight_send(sock->flight, iov, n, &first->fds, first->fds.count);
}

static void take_sent(struct socket *sock, size_t sent)
{
	struct piece *piece, *next;
	wl_list_for_each_safe (piece, next, &sock->pieces, link) {
		size_t left = piece->len - piece->sent;
		size_t n = sent < left ? sent : left;
		fdlist_drop(&piece->fds, piece->fds.count);
		flight_add(sock->flight, piece->parcel);
		piece->parcel = NULL;
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
		socket_push(sock, CHANNEL_CREDIT, sock->unreported);
		sock->receivable += sock->unreported;
		sock->unreported = 0;
	}
}

/* All that came has been written, and EOF is next. */
static void deliver_eof(struct socket *sock)
{
	if (!sock->eof_closes) {
		shutdown(sock->fd, SHUT_WR);
	}
	socket_end_writing(sock);
}

static bool widen(const struct socket *sock)
{
	const int wanted = 2 * CHANNEL_MAX_RECORD;
	size_t before = socket_buffer_size(sock->fd);
	if (before >= wanted ||
		setsockopt(sock->fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted)) < 0) {
		return false;
	}
	size_t size = socket_buffer_size(sock->fd);
	return size > before && charge_grow(sock->ref.memory, size);
}

static void write_failed(struct socket *sock, int error)
{
	const struct timeval later = {.tv_usec = RETRY_MS * 1000};
	switch (error) {
	case -EAGAIN:
		event_del(sock->hang_up_event);
		socket_wait_for(sock, sock->write_event);
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

void socket_handle_writable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct socket *sock = data;
	struct channel *channel = sock->ref.refs->channel;
	write_all(sock);
	socket_settle(sock);
	channel_flush(channel);
}

/* Edge-triggered, after the local peer's last byte: has it left? */
void socket_handle_hang_up(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct socket *sock = data;
	struct channel *channel = sock->ref.refs->channel;
	if (socket_has_hung_up(fd)) {
		push_stop(sock);
	}
	socket_settle(sock);
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

static bool add_to_parcel(const struct fdrefs *refs, uint32_t id, struct parcel *parcel)
{
	const struct fdref *ref = fdrefs_get(refs, id);
	return parcel_add(parcel, ref != NULL ? ref->memory : NULL);
}

/* Takes the fds that the frame names, charged in parcel if they are to wait. NULL, or what is wrong. */
static const char *take_fds(struct socket *sock, const uint8_t *payload, uint32_t n,
	struct fdlist *fds, struct parcel *parcel)
{
	uint32_t ids[SCM_MAX];
	memcpy(ids, payload, n * sizeof(uint32_t));
	for (uint32_t i = 0; i < n; i++) {
		if (parcel != NULL && !add_to_parcel(sock->ref.refs, ids[i], parcel)) {
			return "more fds than the session may let wait";
		}
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

static const char *begin_piece(struct socket *sock, size_t room)
{
	size_t charged = sizeof(*sock->partial) + room; // a record may have no bytes
	const char *wrong = charge_piece(sock->ref.refs, charged);
	if (wrong != NULL) {
		return wrong;
	}
	sock->partial = piece_create("", 0, room);
	if (sock->partial == NULL) {
		discharge_piece(sock->ref.refs, charged);
		return "out of memory";
	}
	wl_list_init(&sock->partial->link);
	sock->partial->charged = charged;
	return NULL;
}

static const char *take_fds_of_piece(
	struct socket *sock, struct piece *piece, const uint8_t *ids, uint32_t n_ids)
{
	if (n_ids == 0) {
		return NULL;
	}
	piece->parcel = parcel_create(sock->ref.refs->budget);
	if (piece->parcel == NULL) {
		return "out of memory";
	}
	return take_fds(sock, ids, n_ids, &piece->fds, piece->parcel);
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
		wrong = take_fds_of_piece(sock, sock->partial, ids, n_ids);
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
	piece->cost += socket_frame_cost(len, n_ids);
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
	ssize_t n = flight_send(sock->flight, &iov, 1, &none, 0);
	return n > 0 ? (size_t)n : 0;
}

const char *socket_handle_data(struct socket *sock, const struct channel_frame *frame)
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
	uint32_t cost = socket_frame_cost(len, n_ids);
	if (cost > sock->receivable || sock->eof) {
		return "STREAM_DATA beyond its credit or after STREAM_EOF";
	}
	sock->receivable -= cost;
	sock->ref.refs->counts.stream_received += len;
	const uint8_t *ids = frame->payload;
	socket_trace(sock, false, len, ids, n_ids);
	if (sock->write_over) { // STREAM_STOP is on its way; fds still go where they belong: nowhere
		struct fdlist fds;
		fdlist_init(&fds);
		const char *wrong = take_fds(sock, ids, n_ids, &fds, NULL);
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

const char *socket_handle_eof(struct socket *sock, uint32_t closes)
{
	if (sock->eof || sock->partial != NULL) {
		return "STREAM_EOF twice or inside a record";
	}
	sock->eof = true;
	sock->eof_closes = closes != 0;
	if (sock->eof_closes) {
		socket_stop_reading(sock);
	}
	if (!sock->write_over && wl_list_empty(&sock->pieces)) {
		deliver_eof(sock);
	}
	return NULL;
}
