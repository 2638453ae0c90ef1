#include "wire/socket.h"

#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/flight.h"
#include "base/scm.h"

#define READ_MAX       (64 * 1024) // per recvmsg; a message always fits beside the rest of a read
#define INPUT_SIZE     (2 * READ_MAX)
#define READS_MAX      4    // per wake-up
#define PIECES_MAX     64   // per sendmsg
#define UNTAKEN_MAX    1024 // received fds
#define FDS_MAX        28   // per sendmsg: libwayland's receivers have room for no more
#define SLICE_MAX      4 // bytes between the parts of a set of fds that is too large to go at once
#define FIRST_CAPACITY 16
// Out of what the kernel has for bytes or fds that are under way: the next try.
#define RETRY_MS 20

// The oldest n_fds of output_fds go with the byte at position.
struct fd_mark {
	uint64_t position; // counted from the first byte ever pushed
	size_t n_fds;
	size_t slice;          // where the next fds go if there are more than FDS_MAX
	struct parcel *parcel; // of the fds; may be NULL
};

// The queue is marks[first .. first + count).
struct fd_marks {
	struct fd_mark *marks;
	size_t first;
	size_t count;
	size_t capacity;
};

struct wire_socket {
	int fd;
	const struct wire_socket_handler *handler;
	void *data;

	struct event *read_event;
	bool reading;   // what the owner wants
	bool left_over; // there may be whole messages in input that readable did not take
	uint8_t *input; // INPUT_SIZE bytes, of which [input_first .. input_first + input_len) are
			// used
	size_t input_first;
	size_t input_len;
	struct fdlist input_fds;
	bool ended; // told already

	struct flight *flight;     // of fd
	struct event *write_event; // pending since the peer did not take everything
	struct event *retry_event; // pending since the kernel did not
	struct evbuffer *output;
	uint64_t output_position; // of output's first byte
	struct fdlist output_fds;
	struct fd_marks marks;
	int broken;   // -errno: nothing can be written any more
	bool closing; // for writing, once output is empty

	bool in_callback;
	bool destroyed; // in a callback: to be freed after it
};

static bool push_mark(struct fd_marks *queue, struct fd_mark mark)
{
	if (queue->first + queue->count == queue->capacity) {
		if (queue->first > queue->count) {
			memmove(queue->marks, queue->marks + queue->first,
				queue->count * sizeof(*queue->marks));
			queue->first = 0;
		} else {
			size_t capacity =
				queue->capacity == 0 ? FIRST_CAPACITY : queue->capacity * 2;
			struct fd_mark *marks = realloc(queue->marks, capacity * sizeof(*marks));
			if (marks == NULL) {
				return false;
			}
			queue->marks = marks;
			queue->capacity = capacity;
		}
	}
	queue->marks[queue->first + queue->count++] = mark;
	return true;
}

static void pop_mark(struct fd_marks *queue)
{
	queue->first++;
	queue->count--;
	if (queue->count == 0) {
		queue->first = 0;
	}
}

static void drop_marks(struct fd_marks *queue)
{
	for (; queue->count > 0; pop_mark(queue)) {
		parcel_destroy(queue->marks[queue->first].parcel);
	}
}

static void free_socket(struct wire_socket *sock)
{
	if (sock->read_event != NULL) {
		event_free(sock->read_event);
	}
	if (sock->write_event != NULL) {
		event_free(sock->write_event);
	}
	if (sock->retry_event != NULL) {
		event_free(sock->retry_event);
	}
	if (sock->output != NULL) {
		evbuffer_free(sock->output);
	}
	fdlist_finish(&sock->input_fds);
	fdlist_finish(&sock->output_fds);
	drop_marks(&sock->marks);
	free(sock->marks.marks);
	if (sock->flight != NULL) {
		flight_close(sock->flight, true);
	} else {
		close(sock->fd);
	}
	free(sock->input);
	free(sock);
}

// Calls one of the handler's functions. False: it has destroyed the socket.
static bool call(struct wire_socket *sock, void (*func)(void *data))
{
	sock->in_callback = true;
	func(sock->data);
	sock->in_callback = false;
	if (sock->destroyed) {
		free_socket(sock);
		return false;
	}
	return true;
}

static void update_read_event(struct wire_socket *sock)
{
	if (sock->reading && !sock->ended && sock->input_len < INPUT_SIZE) {
		event_add(sock->read_event, NULL);
	} else {
		event_del(sock->read_event);
	}
	if (sock->broken != 0 && !sock->ended) {
		// Come back until the peer's last words are read, or there are none.
		event_active(sock->read_event, EV_READ, 0);
	}
}

static void end(struct wire_socket *sock, int error)
{
	sock->ended = true;
	update_read_event(sock);
	sock->in_callback = true;
	sock->handler->ended(sock->data, error);
	sock->in_callback = false;
	if (sock->destroyed) {
		free_socket(sock);
	}
}

static bool is_hang_up(int error)
{
	return error == -EPIPE || error == -ECONNRESET;
}

// Room for up to READ_MAX bytes after the unconsumed ones.
static size_t make_room(struct wire_socket *sock)
{
	if (INPUT_SIZE - sock->input_first - sock->input_len < READ_MAX && sock->input_first > 0) {
		memmove(sock->input, sock->input + sock->input_first, sock->input_len);
		sock->input_first = 0;
	}
	size_t room = INPUT_SIZE - sock->input_first - sock->input_len;
	return room < READ_MAX ? room : READ_MAX;
}

// Reads once and hands it on. False: stop reading for now; the socket may be gone.
static bool read_once(struct wire_socket *sock)
{
	size_t room = make_room(sock);
	if (room == 0) {
		update_read_event(sock);
		return false;
	}
	uint8_t *tail = sock->input + sock->input_first + sock->input_len;
	ssize_t n = scm_recv(sock->fd, tail, room, &sock->input_fds);
	if (n == -EAGAIN) {
		if (sock->broken != 0) {
			end(sock, sock->broken); // no last words
		}
		return false;
	}
	if (n <= 0) {
		// A peer that closes before it has read everything causes ECONNRESET.
		end(sock, n == -ECONNRESET ? 0 : (int)n);
		return false;
	}
	sock->input_len += n;
	if (!call(sock, sock->handler->readable)) {
		return false;
	}
	if (sock->input_fds.count > UNTAKEN_MAX) {
		end(sock, -EPROTO);
		return false;
	}
	return (size_t)n == room;
}

static void handle_read(int fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct wire_socket *sock = data;
	if (sock->ended) {
		return;
	}
	if (sock->broken != 0 && !is_hang_up(sock->broken)) {
		end(sock, sock->broken);
		return;
	}
	if (!sock->reading) {
		return;
	}
	if (sock->broken != 0) {
		update_read_event(sock);
	}
	if (sock->left_over) {
		sock->left_over = false;
		if (sock->input_len > 0 && !call(sock, sock->handler->readable)) {
			return;
		}
	}
	for (size_t i = 0; i < READS_MAX && sock->reading; i++) {
		if (!read_once(sock)) {
			return;
		}
	}
}

// The output can go no further: what is queued is lost, the owner learns it from the loop.
static void break_output(struct wire_socket *sock, int error)
{
	sock->broken = error;
	evbuffer_drain(sock->output, evbuffer_get_length(sock->output));
	fdlist_drop(&sock->output_fds, sock->output_fds.count);
	drop_marks(&sock->marks);
	event_del(sock->write_event);
	event_del(sock->retry_event);
	if (sock->ended) {
		event_active(sock->write_event, EV_WRITE, 0); // drained is all that can be told
	} else {
		update_read_event(sock);
	}
}

// How many bytes may go with the next sendmsg, and how many fds must go with the first of them.
static size_t next_run(const struct wire_socket *sock, size_t queued, size_t *n_fds)
{
	*n_fds = 0;
	if (sock->marks.count == 0) {
		return queued;
	}
	const struct fd_mark *mark = &sock->marks.marks[sock->marks.first];
	if (mark->position > sock->output_position) {
		return mark->position - sock->output_position;
	}
	if (mark->n_fds > FDS_MAX) {
		*n_fds = FDS_MAX;
		return mark->slice;
	}
	*n_fds = mark->n_fds;
	return sock->marks.count > 1 ? mark[1].position - sock->output_position : queued;
}

static void drop_sent_fds(struct wire_socket *sock, size_t n_fds)
{
	struct fd_mark *mark = &sock->marks.marks[sock->marks.first];
	fdlist_drop(&sock->output_fds, n_fds);
	mark->n_fds -= n_fds;
	mark->position += mark->slice;
	if (mark->n_fds == 0) {
		flight_add(sock->flight, mark->parcel);
		pop_mark(&sock->marks);
	}
}

static ssize_t write_once(struct wire_socket *sock, size_t queued)
{
	size_t n_fds;
	size_t run = next_run(sock, queued, &n_fds);
	struct evbuffer_iovec pieces[PIECES_MAX];
	int n_needed = evbuffer_peek(sock->output, (ssize_t)run, NULL, pieces, PIECES_MAX);
	struct iovec iov[PIECES_MAX];
	size_t n_iov = 0;
	while (n_iov < PIECES_MAX && n_iov < (size_t)n_needed && run > 0) {
		size_t len = pieces[n_iov].iov_len < run ? pieces[n_iov].iov_len : run;
		iov[n_iov] = (struct iovec){.iov_base = pieces[n_iov].iov_base, .iov_len = len};
		n_iov++;
		run -= len;
	}
	ssize_t n = flight_send(sock->flight, iov, n_iov, &sock->output_fds, n_fds);
	if (n <= 0) {
		return n == 0 ? -EAGAIN : n;
	}
	if (n_fds > 0) {
		drop_sent_fds(sock, n_fds);
	}
	evbuffer_drain(sock->output, n);
	sock->output_position += n;
	return n;
}

// Nothing more goes out now.
static void write_failed(struct wire_socket *sock, int error)
{
	const struct timeval later = {.tv_usec = RETRY_MS * 1000};
	switch (error) {
	case -EAGAIN:
		event_add(sock->write_event, NULL);
		break;
	case -ETOOMANYREFS:
	case -ENOBUFS:
	case -ENOMEM:
		event_del(sock->write_event); // the peer has room
		event_add(sock->retry_event, &later);
		break;
	default:
		break_output(sock, error);
	}
}

// Writes until the peer takes no more.
static void write_all(struct wire_socket *sock)
{
	size_t queued;
	while ((queued = evbuffer_get_length(sock->output)) > 0) {
		ssize_t n = write_once(sock, queued);
		if (n < 0) {
			write_failed(sock, (int)n);
			return;
		}
	}
	if (sock->closing) {
		sock->closing = false;
		shutdown(sock->fd, SHUT_WR);
	}
}

static void handle_write(int fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct wire_socket *sock = data;
	write_all(sock);
	if ((sock->broken != 0 && !sock->ended) ||
		event_pending(sock->retry_event, EV_TIMEOUT, NULL)) {
		return;
	}
	if (evbuffer_get_length(sock->output) == 0) {
		event_del(sock->write_event);
	}
	call(sock, sock->handler->drained);
}

struct wire_socket *wire_socket_create(struct event_base *base, int fd, struct flights *flights,
	const struct wire_socket_handler *handler, void *data)
{
	struct wire_socket *sock = calloc(1, sizeof(*sock));
	if (sock == NULL) {
		close(fd);
		errno = ENOMEM;
		return NULL;
	}
	sock->fd = fd;
	sock->handler = handler;
	sock->data = data;
	sock->reading = true;
	fdlist_init(&sock->input_fds);
	fdlist_init(&sock->output_fds);
	sock->input = malloc(INPUT_SIZE);
	sock->output = evbuffer_new();
	sock->read_event = event_new(base, fd, EV_READ | EV_PERSIST, handle_read, sock);
	sock->write_event = event_new(base, fd, EV_WRITE | EV_PERSIST, handle_write, sock);
	sock->retry_event = evtimer_new(base, handle_write, sock);
	sock->flight = flight_create(flights, fd, NULL);
	if (sock->input == NULL || sock->output == NULL || sock->read_event == NULL ||
		sock->write_event == NULL || sock->retry_event == NULL || sock->flight == NULL ||
		event_add(sock->read_event, NULL) < 0) {
		free_socket(sock);
		errno = ENOMEM;
		return NULL;
	}
	return sock;
}

void wire_socket_destroy(struct wire_socket *sock)
{
	if (sock == NULL) {
		return;
	}
	if (sock->in_callback) {
		sock->destroyed = true;
		return;
	}
	free_socket(sock);
}

uint8_t *wire_socket_data(struct wire_socket *sock, size_t *len)
{
	*len = sock->input_len;
	return sock->input + sock->input_first;
}

void wire_socket_consume(struct wire_socket *sock, size_t len)
{
	assert(len <= sock->input_len);
	bool was_full = sock->input_len == INPUT_SIZE;
	sock->input_len -= len;
	sock->input_first = sock->input_len == 0 ? 0 : sock->input_first + len;
	if (was_full && len > 0) {
		update_read_event(sock);
	}
}

struct fdlist *wire_socket_fds(struct wire_socket *sock)
{
	return &sock->input_fds;
}

void wire_socket_set_reading(struct wire_socket *sock, bool reading)
{
	if (sock->reading == reading) {
		return;
	}
	sock->reading = reading;
	update_read_event(sock);
	if (reading && !sock->ended && sock->input_len > 0) {
		sock->left_over = true;
		event_active(sock->read_event, EV_READ, 0);
	}
}

// How far apart the parts of n_fds fds go in a message of len bytes; 0: they do not all fit.
static size_t slice_size(size_t n_fds, size_t len)
{
	size_t n_parts = (n_fds + FDS_MAX - 1) / FDS_MAX;
	if (n_parts <= len / SLICE_MAX) {
		return SLICE_MAX;
	}
	return n_parts <= len ? 1 : 0;
}

// Takes parcel.
static bool push_fds(
	struct wire_socket *sock, size_t len, struct fdlist *fds, struct parcel *parcel)
{
	size_t n_fds = fds->count;
	struct fd_mark mark = {
		.position = sock->output_position + evbuffer_get_length(sock->output),
		.n_fds = n_fds,
		.slice = slice_size(n_fds, len),
		.parcel = parcel,
	};
	if (mark.slice == 0 || !fdlist_move(&sock->output_fds, fds, n_fds) ||
		!push_mark(&sock->marks, mark)) {
		fdlist_drop(fds, fds->count);
		parcel_destroy(parcel);
		return false;
	}
	return true;
}

bool wire_socket_push(struct wire_socket *sock, const void *bytes, size_t len, struct fdlist *fds,
	struct parcel *parcel)
{
	bool has_fds = fds != NULL && fds->count > 0;
	if (sock->broken != 0 || !has_fds) {
		parcel_destroy(parcel);
	}
	if (sock->broken != 0) {
		if (has_fds) {
			fdlist_drop(fds, fds->count);
		}
		return true; // the owner learns it, or has learnt it, by ended
	}
	if ((has_fds && !push_fds(sock, len, fds, parcel)) ||
		evbuffer_add(sock->output, bytes, len) < 0) {
		break_output(sock, -ENOMEM);
		return false;
	}
	return true;
}

void wire_socket_flush(struct wire_socket *sock)
{
	// A write event that is pending stays so, even if nothing is left: it tells drained.
	write_all(sock);
}

void wire_socket_shutdown(struct wire_socket *sock)
{
	sock->closing = true;
	write_all(sock);
}

size_t wire_socket_queued(const struct wire_socket *sock)
{
	return evbuffer_get_length(sock->output);
}
