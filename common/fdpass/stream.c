#include "fdpass/stream.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/kind.h"
#include "fdpass/shared.h"

#define CREDIT_STEP (CHANNEL_STREAM_WINDOW / 4)
#define PIPE_SIZE   (64u * 1024) // that the kernel keeps for the reader

// How far an end that came from the other side is on its way back.
enum homing {
	HOMING_NOT,
	HOMING_SENDING, // of a write end: what was written to it goes ahead
	HOMING_ASKED,   // STREAM_PAUSE was sent
	HOMING_PAUSED,  // it was answered: nothing more comes from the other side
};

struct stream {
	struct fdref ref;
	const struct stream_role *role;
	bool ours;  // opened here
	bool over;  // the data has ended, one way or the other
	bool stale; // ours: the other side may have closed it already; sent again, it is a new one
	bool counted;
	int access; // of the end that crosses
	bool nonblocking;
	bool paused; // source: the other side asked for it
	enum homing homing;
	bool behind;   // PAUSED, but the other side has not written all that came
	bool forsaken; // ASKED, and nobody waits for the answer
	int fd;        // our end; -1 when over
	int given;     // of an import: the end for the local peer, until it is asked for
	enum fd_kind kind;
	bool cautious; // fd may block in spite of poll: small pieces only
	struct event *event;
	bool always_ready; // a file or device that epoll does not take

	uint32_t credit; // source: bytes that we may send; sink: bytes that may still come
	// of a sink:
	struct evbuffer *pending;
	uint32_t unreported; // written since the last CREDIT
	bool eof;            // after pending
};

struct stream_role {
	const char *(*frame)(struct stream *stream, const struct channel_frame *frame);
	void (*ready)(struct stream *stream);
	short events;
};

static void push(struct stream *stream, uint16_t type, uint32_t arg)
{
	channel_push(stream->ref.refs->channel, type, stream->ref.id, arg, NULL, 0, NULL, 0);
}

static void drain(struct stream *stream, size_t len)
{
	evbuffer_drain(stream->pending, len);
	fdrefs_discharge(stream->ref.refs, len);
}

/* The data has ended: our end is closed. The fdref itself goes when its opener has closed it. */
static void end(struct stream *stream)
{
	if (stream->over) {
		return;
	}
	stream->over = true;
	if (stream->event != NULL) {
		event_free(stream->event);
		stream->event = NULL;
	}
	close(stream->fd);
	stream->fd = -1;
	if (stream->ours) {
		fdrefs_close(&stream->ref);
	}
	if (stream->homing == HOMING_SENDING) {
		stream->homing = HOMING_NOT;
		fdrefs_retry(stream->ref.refs);
	}
}

static void destroy_stream(struct fdref *ref)
{
	struct stream *stream = (struct stream *)ref;
	if (stream->event != NULL) {
		event_free(stream->event);
	}
	if (stream->pending != NULL) {
		drain(stream, evbuffer_get_length(stream->pending));
		evbuffer_free(stream->pending);
	}
	if (stream->fd >= 0) {
		close(stream->fd);
	}
	if (stream->given >= 0) {
		close(stream->given);
	}
	charge_unref(ref->memory);
	struct fdrefs *refs = ref->refs;
	bool last = stream->counted && --refs->streams == 0;
	free(stream);
	if (last && refs->streams_over != NULL) {
		refs->streams_over(refs->data);
	}
}

/* epoll does not take files (EPERM), and may be out of memory for anything else. */
static void wait_in_vain(struct stream *stream)
{
	if (stream->kind == FD_KIND_FILE || stream->kind == FD_KIND_CHARACTER_DEVICE) {
		stream->always_ready = true;
		event_active(stream->event, stream->role->events, 0);
	} else {
		fdrefs_fail(stream->ref.refs, "a pipe cannot be waited for: out of memory");
	}
}

static void set_waiting(struct stream *stream, bool waiting)
{
	if (!waiting) {
		event_del(stream->event);
	} else if (stream->always_ready) {
		event_active(stream->event, stream->role->events, 0);
	} else if (event_add(stream->event, NULL) < 0) {
		wait_in_vain(stream);
	}
}

/* It does not go home: the other side may go on. */
static void stay_away(struct stream *stream)
{
	push(stream, CHANNEL_STREAM_PAUSE, 0);
	stream->homing = HOMING_NOT;
}

static const char *handle_paused(struct stream *stream, uint32_t behind)
{
	if (stream->homing != HOMING_ASKED) {
		return "STREAM_PAUSED without being asked";
	}
	stream->homing = HOMING_PAUSED;
	stream->behind = behind != 0;
	if (stream->forsaken) {
		stay_away(stream);
	}
	fdrefs_retry(stream->ref.refs);
	return NULL;
}

/* ---- source: our end is read ---- */

static ssize_t read_some(const struct stream *stream, void *data, size_t len)
{
	if (stream->kind == FD_KIND_UNIX_SOCKET || stream->kind == FD_KIND_OTHER_SOCKET) {
		return recv(stream->fd, data, len, MSG_DONTWAIT);
	}
	if (stream->cautious) {
		struct pollfd poll_fd = {.fd = stream->fd, .events = POLLIN};
		if (poll(&poll_fd, 1, 0) == 0) {
			errno = EAGAIN;
			return -1;
		}
	}
	return read(stream->fd, data, len);
}

static void source_ready(struct stream *stream)
{
	uint8_t data[CHANNEL_MAX_STREAM];
	struct channel *channel = stream->ref.refs->channel;

	if (stream->credit == 0 || stream->paused || stream->ref.refs->stopped ||
		channel_queued(channel) > FDREFS_BUSY) {
		set_waiting(stream, false); // CREDIT, drained or STREAM_PAUSE goes on
		return;
	}
	size_t len = stream->credit < sizeof(data) ? stream->credit : sizeof(data);
	ssize_t n = read_some(stream, data, len);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		set_waiting(stream, true); // somebody else has read what was there
		return;
	}
	shared_push_changes(stream->ref.refs);
	if (n <= 0) {
		push(stream, CHANNEL_STREAM_EOF, 0);
		channel_flush(channel);
		end(stream);
		return;
	}
	stream->credit -= (uint32_t)n;
	stream->ref.refs->counts.stream_sent += (uint64_t)n;
	channel_push(channel, CHANNEL_STREAM_DATA, stream->ref.id, 0, data, (size_t)n, NULL, 0);
	channel_flush(channel);
	set_waiting(stream, true);
}

static const char *source_frame(struct stream *stream, const struct channel_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_CREDIT:
		if (frame->header.arg > CHANNEL_STREAM_WINDOW - stream->credit) {
			return "CREDIT beyond the window of a stream";
		}
		stream->credit += frame->header.arg;
		if (!stream->over) {
			set_waiting(stream, true);
		}
		return NULL;
	case CHANNEL_STREAM_STOP:
		end(stream);
		return NULL;
	case CHANNEL_STREAM_PAUSE:
		stream->paused = frame->header.arg != 0;
		if (stream->paused) {
			push(stream, CHANNEL_STREAM_PAUSED, 0);
		} else if (!stream->over) {
			set_waiting(stream, true);
		}
		return NULL;
	case CHANNEL_STREAM_PAUSED:
		return handle_paused(stream, frame->header.arg);
	default:
		return "frame of the wrong type for a stream's source";
	}
}

static const struct stream_role source = {
	.frame = source_frame,
	.ready = source_ready,
	.events = EV_READ,
};

/* ---- sink: our end is written ---- */

static ssize_t write_some(const struct stream *stream, const void *data, size_t len)
{
	if (stream->kind == FD_KIND_UNIX_SOCKET || stream->kind == FD_KIND_OTHER_SOCKET) {
		return send(stream->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	if (stream->cautious) {
		struct pollfd poll_fd = {.fd = stream->fd, .events = POLLOUT};
		if (poll(&poll_fd, 1, 0) == 0) {
			errno = EAGAIN;
			return -1;
		}
		len = len < PIPE_BUF ? len : PIPE_BUF; // a writable pipe has room for so much
	}
	return write(stream->fd, data, len);
}

static void stop(struct stream *stream, enum channel_stop why)
{
	push(stream, CHANNEL_STREAM_STOP, why);
	drain(stream, evbuffer_get_length(stream->pending));
	end(stream);
}

/*
 * A pipe's write end is also watched while there is nothing to write: it is reported as readable
 * once its reader is gone.
 */
static void watch_sink(struct stream *stream)
{
	bool pending = evbuffer_get_length(stream->pending) > 0;
	short events = pending ? EV_WRITE : EV_READ;
	if (!pending && stream->kind != FD_KIND_PIPE) {
		set_waiting(stream, false);
		return;
	}
	if (event_get_events(stream->event) != events && !stream->always_ready) {
		event_del(stream->event);
		event_assign(stream->event, event_get_base(stream->event), stream->fd, events,
			event_get_callback(stream->event), stream);
	}
	set_waiting(stream, true);
}

static void sink_ready(struct stream *stream)
{
	size_t left = evbuffer_get_length(stream->pending);
	if (left == 0 && !stream->eof) {
		struct pollfd poll_fd = {.fd = stream->fd};
		if (poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLERR)) {
			stop(stream, CHANNEL_STOP_READER_GONE);
			channel_flush(stream->ref.refs->channel);
			return;
		}
	}
	while (left > 0) {
		struct evbuffer_iovec piece;
		evbuffer_peek(stream->pending, -1, NULL, &piece, 1);
		ssize_t n = write_some(stream, piece.iov_base, piece.iov_len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0 && errno == EAGAIN) {
			break;
		}
		if (n < 0) {
			stop(stream,
				errno == EPIPE || errno == ECONNRESET ? CHANNEL_STOP_READER_GONE
								      : CHANNEL_STOP_ERROR);
			channel_flush(stream->ref.refs->channel);
			return;
		}
		drain(stream, (size_t)n);
		left -= (size_t)n;
		stream->unreported += (uint32_t)n;
	}
	if (left == 0 && stream->eof) {
		end(stream);
		return;
	}
	if (stream->unreported >= CREDIT_STEP && !stream->eof) {
		push(stream, CHANNEL_CREDIT, stream->unreported);
		stream->credit += stream->unreported;
		stream->unreported = 0;
		channel_flush(stream->ref.refs->channel);
	}
	watch_sink(stream);
}

static const char *sink_frame(struct stream *stream, const struct channel_frame *frame)
{
	switch (frame->header.type) {
	case CHANNEL_STREAM_DATA:
		if (stream->eof) {
			return "STREAM_DATA after STREAM_EOF";
		}
		if (frame->header.length > CHANNEL_MAX_STREAM ||
			frame->header.length > stream->credit) {
			return "STREAM_DATA beyond its credit";
		}
		stream->credit -= frame->header.length;
		stream->ref.refs->counts.stream_received += frame->header.length;
		if (stream->over) {
			return NULL; // the reader is gone; STREAM_STOP is on its way
		}
		if (!fdrefs_charge(stream->ref.refs, frame->header.length)) {
			return "more memory than the session may have";
		}
		if (evbuffer_add(stream->pending, frame->payload, frame->header.length) < 0) {
			fdrefs_discharge(stream->ref.refs, frame->header.length);
			return "out of memory";
		}
		sink_ready(stream);
		return NULL;
	case CHANNEL_STREAM_EOF:
		if (stream->eof) {
			return "STREAM_EOF twice";
		}
		stream->eof = true;
		if (!stream->over) {
			sink_ready(stream);
		}
		return NULL;
	case CHANNEL_STREAM_PAUSE:
		if (!stream->ours) {
			return "STREAM_PAUSE for a write end that the sender has opened";
		}
		if (frame->header.arg != 0) {
			bool behind = evbuffer_get_length(stream->pending) > 0;
			push(stream, CHANNEL_STREAM_PAUSED, behind);
		}
		return NULL;
	case CHANNEL_STREAM_PAUSED:
		return handle_paused(stream, frame->header.arg);
	default:
		return "frame of the wrong type for a stream's sink";
	}
}

static const struct stream_role sink = {
	.frame = sink_frame,
	.ready = sink_ready,
	.events = EV_WRITE,
};

/* ---- both ---- */

/* CLOSE has come, and the data is over: the stream may be gone after this. */
static void confirm(struct stream *stream)
{
	if (stream->over && stream->ref.closing && !stream->ours &&
		stream->homing != HOMING_ASKED) {
		fdrefs_confirm_closed(&stream->ref);
	}
}

static void handle_event(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct stream *stream = data;
	struct channel *channel = stream->ref.refs->channel;
	struct fdrefs *refs = stream->ref.refs;
	stream->role->ready(stream);
	if (refs->waiting > 0 && stream->homing != HOMING_NOT) {
		fdrefs_retry(refs);
	}
	confirm(stream);
	channel_flush(channel);
}

static const char *handle_frame(struct fdref *ref, const struct channel_frame *frame)
{
	struct stream *stream = (struct stream *)ref;
	const char *wrong = NULL;
	if (frame->header.type != CHANNEL_CLOSE) {
		wrong = stream->role->frame(stream, frame);
	} else if (stream->role == &source || (!stream->eof && !stream->over)) {
		end(stream); // nothing more can come or be wanted
	}
	if (wrong == NULL) {
		confirm(stream);
	}
	return wrong;
}

static void handle_drained(struct fdref *ref)
{
	struct stream *stream = (struct stream *)ref;
	if (stream->role == &source && !stream->over && stream->credit > 0) {
		set_waiting(stream, true);
	}
}

/* The pipe that fd is an end of, without waiting for anybody, as a named FIFO would. */
static int reopen(int fd, int access, bool nonblocking)
{
	int own = fd_open_again(fd, access | O_NONBLOCK | O_NOCTTY);
	if (own >= 0 && !nonblocking) {
		fcntl(own, F_SETFL, 0);
	}
	return own < 0 ? -errno : own;
}

/* In place of one that is over: nobody is at its other end. */
static int dead_end(int access)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0) {
		return -errno;
	}
	close(ends[access == O_RDONLY]);
	return ends[access != O_RDONLY];
}

/* What crosses is the same end on both sides: home it is the original, elsewhere our pipe's. */
static int get_fd(struct fdref *ref)
{
	struct stream *stream = (struct stream *)ref;
	int fd = stream->given;
	stream->given = -1;
	ref->refs->counts.homecomings += stream->ours;
	stream->stale = stream->ours;
	if (fd >= 0) {
		return fd;
	}
	if (stream->fd < 0) {
		return dead_end(stream->access);
	}
	if (stream->kind == FD_KIND_PIPE) {
		return reopen(stream->fd, stream->access, stream->nonblocking);
	}
	fd = fcntl(stream->fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static int unread(int fd)
{
	int n = 0;
	return ioctl(fd, FIONREAD, &n) < 0 ? 0 : n;
}

/* The end that crossed, and not the other one of the same pipe. */
static bool is_same_end(const struct stream *stream, int fd)
{
	return !stream->over && (fcntl(fd, F_GETFL) & O_ACCMODE) == stream->access;
}

/*
 * One that was given away is being sent back. The other side is asked to be still for that, or
 * whether it has written all that was written here.
 */
static bool must_ask(struct stream *stream)
{
	if (stream->homing <= HOMING_SENDING) {
		push(stream, CHANNEL_STREAM_PAUSE, 1);
		stream->homing = HOMING_ASKED;
	}
	stream->forsaken = false;
	return stream->homing == HOMING_ASKED;
}

/* What was written to it goes ahead. */
static bool writer_must_wait(struct stream *stream)
{
	if (stream->homing > HOMING_SENDING || unread(stream->fd) == 0) {
		return must_ask(stream);
	}
	bool waits = event_pending(stream->event, EV_READ, NULL);
	stream->homing = waits ? HOMING_SENDING : HOMING_NOT;
	return waits;
}

static bool must_wait(struct fdref *ref, int fd)
{
	struct stream *stream = (struct stream *)ref;
	if (stream->ours || !is_same_end(stream, fd)) {
		return false;
	}
	return stream->role == &sink ? must_ask(stream) : writer_must_wait(stream);
}

static void handle_forsaken(struct fdref *ref)
{
	struct stream *stream = (struct stream *)ref;
	stream->forsaken = stream->homing == HOMING_ASKED;
	if (stream->homing == HOMING_PAUSED) {
		stay_away(stream);
	} else if (stream->homing == HOMING_SENDING) {
		stream->homing = HOMING_NOT;
	}
}

/* A read end goes back if nothing is on its way to it. */
static enum fdref_again reader_again(struct stream *stream, int fd)
{
	if (stream->homing == HOMING_NOT) {
		return FDREF_AGAIN_NEW;
	}
	if (evbuffer_get_length(stream->pending) == 0 && unread(fd) == 0) {
		return FDREF_AGAIN_NAME;
	}
	stay_away(stream);
	return FDREF_AGAIN_NEW;
}

/* A write end goes back if all that was written to it has. What comes later has to be asked about. */
static enum fdref_again writer_again(struct stream *stream)
{
	bool sent = stream->homing == HOMING_PAUSED && !stream->behind && unread(stream->fd) == 0;
	stream->homing = HOMING_NOT;
	return sent ? FDREF_AGAIN_NAME : FDREF_AGAIN_NEW;
}

static enum fdref_again again(struct fdref *ref, int fd)
{
	struct stream *stream = (struct stream *)ref;
	if (!is_same_end(stream, fd)) {
		return FDREF_AGAIN_NEW;
	}
	if (stream->ours) {
		return stream->stale ? FDREF_AGAIN_NEW : FDREF_AGAIN_NAME;
	}
	if (stream->role == &sink) {
		return reader_again(stream, fd);
	}
	return writer_again(stream);
}

/*
 * Two copies of a read end would take each other's bytes: there is one as long as the other side has
 * it. Two of a write end do no harm.
 */
static void handle_named(struct fdref *ref)
{
	struct stream *stream = (struct stream *)ref;
	stream->stale = stream->stale || stream->access == O_WRONLY;
}

static const struct fdref_interface streams = {
	.name = "pipe",
	.frame = handle_frame,
	.get_fd = get_fd,
	.named = handle_named,
	.again = again,
	.must_wait = must_wait,
	.forsaken = handle_forsaken,
	.drained = handle_drained,
	.destroy = destroy_stream,
};

/* Takes fd, also on failure (NULL). */
static struct stream *create(struct fdrefs *refs, int fd, const struct stream_role *role)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	if (stream == NULL) {
		close(fd);
		return NULL;
	}
	stream->ref.interface = &streams;
	stream->ref.refs = refs;
	stream->role = role;
	stream->fd = fd;
	stream->given = -1;
	stream->kind = fd_kind_of(fd);
	fd_identity_of(fd, &stream->ref.identity);
	stream->cautious = (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0;
	stream->credit = CHANNEL_STREAM_WINDOW;
	stream->ref.memory = charge_create(refs->budget, role == &sink ? PIPE_SIZE : 0);
	stream->pending = evbuffer_new();
	if (stream->pending != NULL && stream->ref.memory != NULL) {
		stream->event = event_new(refs->base, fd, role->events, handle_event, stream);
	}
	if (stream->event == NULL) {
		destroy_stream(&stream->ref);
		return NULL;
	}
	stream->counted = true;
	refs->streams++;
	return stream;
}

/*
 * A description of our own of the same pipe, so that O_NONBLOCK does not show at the sender's. It
 * cannot be had for a write end without a reader; that one is used as it is and gives EPIPE.
 */
static int open_nonblocking(int fd, int access)
{
	int own = reopen(fd, access, true);
	if (own < 0) {
		return fd;
	}
	close(fd);
	return own;
}

/* What is only read of a file is its content, which has a kind of its own: as a stream it could go on for ever. */
static const char *why_no_stream(enum fd_kind kind, int access)
{
	switch (kind) {
	case FD_KIND_FILE:
		return access == O_WRONLY ? NULL : "a file that is to be read is not a pipe";
	case FD_KIND_PIPE:
	case FD_KIND_UNIX_SOCKET:
	case FD_KIND_CHARACTER_DEVICE:
		return NULL;
	default:
		return "an fd that should be a pipe is not one";
	}
}

uint32_t stream_export(struct fdrefs *refs, int fd, bool writer, const char **wrong)
{
	int flags = fcntl(fd, F_GETFL);
	enum fd_kind kind = fd_kind_of(fd);
	int access = flags & O_ACCMODE;
	if (access == O_RDWR) {
		access = writer ? O_WRONLY : O_RDONLY;
	}
	*wrong = why_no_stream(kind, access);
	if (*wrong != NULL) {
		close(fd);
		return 0;
	}
	if (kind == FD_KIND_PIPE) {
		fd = open_nonblocking(fd, access);
	}
	struct stream *stream = create(refs, fd, access == O_WRONLY ? &sink : &source);
	if (stream == NULL) {
		*wrong = "out of memory";
		return 0;
	}
	stream->ours = true;
	stream->access = access;
	stream->nonblocking = flags & O_NONBLOCK;
	struct channel_open_pipe open = {
		.access = (uint32_t)access,
		.nonblocking = (flags & O_NONBLOCK) != 0,
	};
	if (!fdrefs_open(refs, &stream->ref, &streams, CHANNEL_KIND_PIPE, &open, sizeof(open))) {
		destroy_stream(&stream->ref);
		*wrong = "too many fds are open in this session";
		return 0;
	}
	refs->counts.pipes++;
	if (stream->role == &source) {
		set_waiting(stream, true);
	} else {
		watch_sink(stream);
	}
	return stream->ref.id;
}

static void shrink_if_many(const struct fdrefs *refs, int fd)
{
	if (budget_total(refs->budget, BUDGET_STREAMS) > STREAM_FULL_PIPES) {
		fcntl(fd, F_SETPIPE_SZ, 1); // a page
	}
}

const char *stream_import(
	struct fdrefs *refs, const struct channel_frame *frame, struct fdref **ref)
{
	struct channel_open_pipe open;
	if (frame->header.length != sizeof(open)) {
		return "OPEN of a pipe with a wrong length";
	}
	memcpy(&open, frame->payload, sizeof(open));
	if (open.access > CHANNEL_ACCESS_WRITE || open.nonblocking > 1) {
		return "OPEN of a pipe with a wrong access mode";
	}
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0) {
		log_errno("cannot make a pipe");
		return "out of fds for a pipe";
	}
	shrink_if_many(refs, ends[1]);
	// The opener's access mode is that of the end which our local peer gets.
	int given = ends[open.access == CHANNEL_ACCESS_WRITE];
	int own = ends[open.access != CHANNEL_ACCESS_WRITE];
	fcntl(own, F_SETFL, O_NONBLOCK);
	if (open.nonblocking) {
		fcntl(given, F_SETFL, O_NONBLOCK);
	}
	struct stream *stream =
		create(refs, own, open.access == CHANNEL_ACCESS_WRITE ? &source : &sink);
	if (stream == NULL) {
		close(given);
		return "out of memory";
	}
	stream->given = given;
	stream->access = (int)open.access;
	stream->nonblocking = open.nonblocking;
	refs->counts.pipes++;
	if (stream->role == &source) {
		set_waiting(stream, true);
	} else {
		watch_sink(stream);
	}
	*ref = &stream->ref;
	return NULL;
}
