#include "fdpass/socket.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/flight.h"
#include "base/log.h"
#include "fdpass/socket_impl.h"

struct piece *piece_create(const void *bytes, size_t len, size_t room)
{
	struct piece *piece = malloc(sizeof(*piece) + room);
	if (piece != NULL) {
		*piece = (struct piece){.len = len};
		fdlist_init(&piece->fds);
		memcpy(piece->bytes, bytes, len);
	}
	return piece;
}

void piece_destroy(struct piece *piece)
{
	if (piece != NULL) {
		fdlist_finish(&piece->fds);
		parcel_destroy(piece->parcel);
		free(piece);
	}
}

size_t socket_buffer_size(int fd)
{
	int size = 0;
	socklen_t len = sizeof(size);
	getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &len);
	return (size_t)size;
}

uint32_t socket_frame_cost(size_t len, size_t n_fds)
{
	return (uint32_t)(CHANNEL_SOCKET_FRAME_COST + n_fds * CHANNEL_SOCKET_FDREF_COST + len);
}

void socket_push(struct socket *sock, uint16_t type, uint32_t arg)
{
	channel_push(sock->ref.refs->channel, type, sock->ref.id, arg, NULL, 0, NULL, 0);
}

void socket_trace(const struct socket *sock, bool sent, size_t len, const void *ids, uint32_t n_ids)
{
	const struct fdrefs *refs = sock->ref.refs;
	if (refs->trace != NULL) {
		refs->trace(refs->failed_data, sock->ref.id, sent, len, ids, n_ids);
	}
}

bool socket_has_hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLHUP | POLLERR));
}

void socket_wait_for(struct socket *sock, struct event *event)
{
	if (event_add(event, NULL) < 0) {
		fdrefs_fail(sock->ref.refs, "a socket cannot be waited for: out of memory");
	}
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

/* What was written stays charged until it was read. An end that came from here others may have, too. */
static void close_fd(struct socket *sock)
{
	if (sock->flight != NULL) {
		flight_close(sock->flight, !sock->ours || sock->root);
	} else if (sock->fd >= 0) {
		close(sock->fd);
	}
	sock->flight = NULL;
	sock->fd = -1;
}

static void destroy_socket(struct fdref *ref)
{
	struct socket *sock = (struct socket *)ref;
	struct fdrefs *refs = ref->refs;
	free_events(sock);
	socket_drop_pieces(sock);
	piece_destroy(socket_take_held(sock));
	close_fd(sock);
	charge_unref(ref->memory);
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
	close_fd(sock);
	if (sock->home) {
		socket_claim_again(
			sock->ref.refs, &sock->ref.identity); // it may have been passed anew
	}
	if (sock->ours) {
		fdrefs_close(&sock->ref);
	}
}

void socket_end_reading(struct socket *sock)
{
	socket_give_up_claim(sock);
	sock->read_over = true;
	socket_drop_held(sock);
	socket_answer_pause(sock);
	check_over(sock);
}

/*
 * Nobody there reads any more. What the local peer has written goes now: among it may be the local
 * peer's own end, which would keep itself alive.
 */
void socket_stop_reading(struct socket *sock)
{
	if (sock->read_over) {
		return;
	}
	if (!sock->home) {
		scm_discard(sock->fd, sock->type);
	}
	socket_end_reading(sock);
}

void socket_end_writing(struct socket *sock)
{
	sock->write_over = true;
	socket_drop_pieces(sock);
	if (!sock->over) {
		event_del(sock->write_event);
		check_over(sock);
	}
}

/* CLOSE has come, and the socket is over: it may be gone after this. */
static void confirm(struct socket *sock)
{
	if (sock->over && !sock->ours && sock->ref.closing && sock->homing != HOMING_ASKED) {
		fdrefs_confirm_closed(&sock->ref);
	}
}

void socket_update(struct socket *sock)
{
	if (sock->over) {
		return;
	}
	const struct fdrefs *refs = sock->ref.refs;
	bool reading = !sock->read_over && !sock->paused && sock->held == NULL && !refs->stopped &&
		sock->credit >= socket_read_cost(sock);
	if (reading != sock->reading) {
		sock->reading = reading;
		if (reading) {
			socket_wait_for(sock, sock->read_event);
		} else {
			event_del(sock->read_event);
		}
	}
	if (!sock->read_over) {
		return; // a read tells when the peer leaves
	}
	bool watching = !sock->write_over && !event_pending(sock->write_event, EV_WRITE, NULL);
	if (watching) {
		socket_wait_for(sock, sock->hang_up_event);
	} else {
		event_del(sock->hang_up_event);
	}
}

/* Something has happened to it. It may be gone after this. */
void socket_settle(struct socket *sock)
{
	struct fdrefs *refs = sock->ref.refs;
	socket_update(sock);
	if (refs->waiting > 0 && sock->homing != HOMING_NOT) {
		fdrefs_retry(refs);
	}
	confirm(sock);
}

/* ---- coming home ---- */

static const char *handle_pause(struct socket *sock, uint32_t wanted)
{
	if (!sock->ours || sock->pause_owed) {
		return "STREAM_PAUSE for a socket that is not the receiver's, or twice";
	}
	sock->paused = wanted != 0;
	sock->pause_owed = sock->paused;
	socket_answer_pause(sock);
	return NULL;
}

/* It does not go home: the other side may go on. */
static void stay_away(struct socket *sock)
{
	socket_push(sock, CHANNEL_STREAM_PAUSE, 0);
	sock->homing = HOMING_NOT;
}

static const char *handle_paused(struct socket *sock, uint32_t behind)
{
	if (sock->homing != HOMING_ASKED) {
		return "STREAM_PAUSED without being asked";
	}
	sock->homing = HOMING_PAUSED;
	sock->behind = behind != 0;
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
 * The socket that was given away is being sent to where it came from. What was written to it goes
 * ahead; then the other side is asked to be still, and whether it has written all that.
 */
static bool must_wait(struct fdref *ref, int fd)
{
	(void)fd;
	struct socket *sock = (struct socket *)ref;
	if (sock->ours || sock->over) {
		return false;
	}
	if (sock->homing <= HOMING_SENDING && !has_sent_all(sock)) {
		sock->homing = sock->reading ? HOMING_SENDING : HOMING_NOT;
		return sock->reading;
	}
	if (sock->homing <= HOMING_SENDING) {
		socket_push(sock, CHANNEL_STREAM_PAUSE, 1);
		sock->homing = HOMING_ASKED;
	}
	sock->forsaken = false;
	return sock->homing == HOMING_ASKED;
}

static void handle_forsaken(struct fdref *ref)
{
	struct socket *sock = (struct socket *)ref;
	sock->forsaken = sock->homing == HOMING_ASKED;
	if (sock->homing == HOMING_PAUSED) {
		stay_away(sock);
	} else if (sock->homing == HOMING_SENDING) {
		sock->homing = HOMING_NOT;
	}
}

/* If nothing is on its way to it any more, the original can take its place at home. */
static enum fdref_again again(struct fdref *ref, int fd)
{
	struct socket *sock = (struct socket *)ref;
	if (sock->ours) {
		return FDREF_AGAIN_NEW; // or not: export knows
	}
	if (sock->over || sock->homing == HOMING_NOT) {
		return FDREF_AGAIN_NEW;
	}
	if (!sock->behind && has_sent_all(sock) && wl_list_empty(&sock->pieces) &&
		sock->partial == NULL && !has_unread(sock, fd)) {
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
		socket_export_held(sock);
	}
}

/* ---- the fdref ---- */

static const char *handle_type(struct socket *sock, const struct channel_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_STREAM_DATA:
		return socket_handle_data(sock, frame);
	case CHANNEL_STREAM_EOF:
		return socket_handle_eof(sock, frame->header.arg);
	case CHANNEL_STREAM_STOP:
		socket_stop_reading(sock);
		return NULL;
	case CHANNEL_STREAM_PAUSE:
		return handle_pause(sock, frame->header.arg);
	case CHANNEL_STREAM_PAUSED:
		return handle_paused(sock, frame->header.arg);
	case CHANNEL_CREDIT:
		if (frame->header.arg > CHANNEL_SOCKET_WINDOW - sock->credit) {
			return "CREDIT beyond the window of a socket";
		}
		sock->credit += frame->header.arg;
		return NULL;
	case CHANNEL_CLOSE:
		if (!sock->eof && !sock->over) { // cut off
			socket_end_reading(sock);
			socket_end_writing(sock);
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
		socket_settle(sock);
	}
	return wrong;
}

static void handle_drained(struct fdref *ref)
{
	socket_update((struct socket *)ref);
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
	if (fd < 0) {
		return -errno;
	}
	socket_give_up_claim(sock);
	sock->home = true;
	return fd;
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
	sock->read_event = event_new(base, fd, EV_READ | EV_PERSIST, socket_handle_readable, sock);
	sock->write_event = event_new(base, fd, EV_WRITE, socket_handle_writable, sock);
	sock->hang_up_event =
		event_new(base, fd, EV_READ | EV_ET | EV_PERSIST, socket_handle_hang_up, sock);
	sock->retry_event = event_new(base, -1, 0, socket_handle_writable, sock);
	sock->adopted = scm_adopt(fd);
	sock->ref.memory = charge_create(refs->budget, socket_buffer_size(fd));
	sock->flight = flight_create(fdrefs_flights(refs), fd, sock->ref.memory);
	if (sock->read_event == NULL || sock->write_event == NULL || sock->hang_up_event == NULL ||
		sock->retry_event == NULL || sock->adopted < 0 || sock->ref.memory == NULL ||
		sock->flight == NULL) {
		destroy_socket(&sock->ref);
		return NULL;
	}
	sock->counted = true;
	refs->streams++;
	return sock;
}

/* Takes fd, which is sock's once more. */
static uint32_t export_again(struct socket *sock, int fd, const char **wrong)
{
	close(fd);
	socket_claim_again(sock->ref.refs, &sock->ref.identity);
	if (!sock->named) {
		return sock->ref.id;
	}
	*wrong = "it was passed before, and is used there";
	return 0;
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
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	struct socket *sock = socket_find_reader(refs, &identity);
	if (sock != NULL) {
		return export_again(sock, fd, wrong);
	}
	if (!root && !socket_claim(fd)) {
		*wrong = "it was passed in another session, and is used there";
		close(fd);
		return 0;
	}
	sock = create(refs, fd, type);
	if (sock == NULL) {
		*wrong = "out of memory";
		return 0;
	}
	sock->ours = true;
	sock->root = sock->named = root;
	sock->ref.identity = identity;
	if (!fdrefs_open(refs, &sock->ref, &sockets, CHANNEL_KIND_SOCKET, &open, sizeof(open))) {
		destroy_socket(&sock->ref);
		*wrong = "too many fds are open in this session";
		return 0;
	}
	refs->counts.sockets += !root;
	socket_update(sock);
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
	socket_update(sock);
	*ref = &sock->ref;
	return NULL;
}
