#include "channel/channel.h"

#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/mapping.h"
#include "base/scm.h"
#include "channel/input.h"
#include "channel/record.h"

// The buffer holds one whole frame and what one read brings. While rows are read into their place,
// only the tail of a read goes through it.
#define READ_SIZE      (132 * 1024)
#define READ_TAIL      (4 * 1024)
#define BUFFER_SIZE    (sizeof(struct channel_header) + CHANNEL_MAX_PAYLOAD + READ_SIZE)
#define READS_PER_TURN 8
#define SEND_PER_TURN  (1024 * 1024)
#define SHORT_LEN      1024 // bytes
#define IOV_PIECES     256
#define PAGE           4096

struct channel {
	int fd;
	struct channel_input *input;
	const struct channel_handler *handler;
	void *data;
	struct event *read_event;
	struct event *write_event;
	struct event *more_event; // timer: reading goes on
	uint64_t pause;           // nanoseconds that nothing is read from now on

	uint8_t *in; // the unread bytes are in[in_start .. in_end)
	size_t in_start, in_end;

	struct channel_rows rows; // base NULL: taken and forgotten
	uint32_t rows_id;
	size_t rows_done, rows_total; // bytes; equal when no rows are expected

	struct evbuffer *out;
	size_t referenced; // bytes of out that are in mappings
	bool blocked;      // write_event is pending
	bool closing;      // shut down once out is empty
	int error;         // of sending; out is of no more use

	struct record *record; // NULL: not recorded
	uint64_t bytes_sent, bytes_received;
	bool dispatching, destroyed, over;
};

uint64_t channel_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void free_channel(struct channel *channel)
{
	if (channel->read_event != NULL) {
		event_free(channel->read_event);
	}
	if (channel->write_event != NULL) {
		event_free(channel->write_event);
	}
	if (channel->more_event != NULL) {
		event_free(channel->more_event);
	}
	if (channel->out != NULL) {
		evbuffer_free(channel->out);
	}
	mapping_unref(channel->rows.mapping);
	channel_input_destroy(channel->input);
	close(channel->fd);
	free(channel->in);
	free(channel);
}

static void finish(struct channel *channel, int error, const char *reason)
{
	if (channel->over || channel->destroyed) {
		return;
	}
	channel->over = true;
	event_del(channel->read_event);
	event_del(channel->write_event);
	event_del(channel->more_event);
	channel->handler->ended(channel->data, error, reason);
}

/* The pieces of the rows that are still to come, at most n. */
static size_t rows_pieces(const struct channel *channel, struct iovec *iov, size_t n)
{
	const struct channel_rows *rows = &channel->rows;
	size_t row = channel->rows_done / rows->row_bytes;
	size_t column = channel->rows_done % rows->row_bytes;
	if (rows->stride == rows->row_bytes) {
		iov[0].iov_base = rows->base + channel->rows_done;
		iov[0].iov_len = channel->rows_total - channel->rows_done;
		return 1;
	}
	size_t used = 0;
	while (used < n && row < rows->rows) {
		iov[used].iov_base = rows->base + row * rows->stride + column;
		iov[used].iov_len = rows->row_bytes - column;
		used++;
		row++;
		column = 0;
	}
	return used;
}

/* Into memory of our own. */
static void rows_copy_lasting(struct channel *channel, const uint8_t *data, size_t len)
{
	const struct channel_rows *rows = &channel->rows;
	while (len > 0) {
		size_t row = channel->rows_done / rows->row_bytes;
		size_t column = channel->rows_done % rows->row_bytes;
		size_t n = rows->row_bytes - column < len ? rows->row_bytes - column : len;
		memcpy(rows->base + row * rows->stride + column, data, n);
		channel->rows_done += n;
		data += n;
		len -= n;
	}
}

/*
 * Copies buffered bytes to their rows. The kernel does it where the memory's owner may truncate it:
 * that gives an error instead of SIGBUS.
 */
static void rows_copy(struct channel *channel, const uint8_t *data, size_t len)
{
	if (channel->rows.base != NULL && channel->rows.lasting) {
		rows_copy_lasting(channel, data, len);
		return;
	}
	while (len > 0 && channel->rows.base != NULL) {
		struct iovec to[IOV_PIECES];
		struct iovec from = {.iov_base = (void *)data, .iov_len = len};
		size_t n = rows_pieces(channel, to, IOV_PIECES);
		ssize_t copied = process_vm_writev(getpid(), &from, 1, to, n, 0);
		if (copied <= 0) {
			channel->rows.base = NULL;
			break;
		}
		data += copied;
		len -= (size_t)copied;
		channel->rows_done += (size_t)copied;
	}
	channel->rows_done += len;
}

static const char *begin_rows(struct channel *channel, const struct channel_header *header,
	const struct channel_mem_write *write)
{
	uint64_t total = (uint64_t)write->row_bytes * write->rows;
	if (total != header->length - sizeof(*write) || total > CHANNEL_MAX_ROWS) {
		return "MEM_WRITE whose rows do not fill its payload";
	}
	if (write->stride < write->row_bytes) {
		return "MEM_WRITE whose rows overlap";
	}
	channel->rows = (struct channel_rows){
		.stride = write->stride,
		.row_bytes = write->row_bytes,
		.rows = write->rows,
	};
	const char *wrong =
		channel->handler->place(channel->data, header->id, write, &channel->rows);
	if (wrong != NULL || total == 0) {
		channel->rows.mapping = NULL;
		return wrong;
	}
	if (channel->rows.mapping != NULL) {
		mapping_ref(channel->rows.mapping);
	}
	channel->rows_id = header->id;
	channel->rows_done = 0;
	channel->rows_total = total;
	return NULL;
}

static void finish_rows(struct channel *channel)
{
	mapping_unref(channel->rows.mapping);
	channel->rows.mapping = NULL;
	channel->handler->written(channel->data, channel->rows_id);
}

static void take_rows(struct channel *channel)
{
	size_t n = channel->rows_total - channel->rows_done;
	if (n > channel->in_end - channel->in_start) {
		n = channel->in_end - channel->in_start;
	}
	rows_copy(channel, channel->in + channel->in_start, n);
	channel->in_start += n;
	if (channel->rows_done == channel->rows_total) {
		finish_rows(channel);
	}
}

/*
 * Takes one frame, or the head of a MEM_WRITE, from the buffer. False: it is not whole yet.
 */
static bool take_frame(struct channel *channel, const char **wrong)
{
	uint8_t *data = channel->in + channel->in_start;
	size_t have = channel->in_end - channel->in_start;
	struct channel_header header;
	if (have < sizeof(header)) {
		return false;
	}
	memcpy(&header, data, sizeof(header));
	if (header.type == CHANNEL_MEM_WRITE) {
		struct channel_mem_write write;
		if (header.length < sizeof(write)) {
			*wrong = "MEM_WRITE that is too short";
			return false;
		}
		if (have < sizeof(header) + sizeof(write)) {
			return false;
		}
		memcpy(&write, data + sizeof(header), sizeof(write));
		channel->in_start += sizeof(header) + sizeof(write);
		*wrong = begin_rows(channel, &header, &write);
		return *wrong == NULL;
	}
	if (header.length > CHANNEL_MAX_PAYLOAD) {
		*wrong = "frame that is too long";
		return false;
	}
	if (have < sizeof(header) + header.length) {
		return false;
	}
	uint8_t *payload = data + sizeof(header);
	size_t off = (size_t)(payload - channel->in) & 3;
	if (off > 0) { // after a frame of odd length; over its own header, which is copied
		memmove(payload - off, payload, header.length);
	}
	struct channel_frame frame = {.header = header, .payload = payload - off};
	channel->in_start += sizeof(header) + header.length;
	*wrong = channel->handler->frame(channel->data, &frame);
	return *wrong == NULL;
}

static void take_all(struct channel *channel)
{
	const char *wrong = NULL;
	bool more = true;
	while (more && !channel->destroyed && !channel->over) {
		if (channel->rows_done < channel->rows_total) {
			more = channel->in_start < channel->in_end;
			take_rows(channel);
		} else {
			more = take_frame(channel, &wrong);
		}
	}
	if (wrong != NULL) {
		finish(channel, -EPROTO, wrong);
	}
}

static void make_room(struct channel *channel)
{
	size_t have = channel->in_end - channel->in_start;
	if (have == 0) {
		channel->in_start = channel->in_end = 0;
	} else if (BUFFER_SIZE - channel->in_end < READ_SIZE || (channel->in_start & 3) != 0) {
		memmove(channel->in, channel->in + channel->in_start, have);
		channel->in_start = 0;
		channel->in_end = have;
	}
}

/* How much to read while nothing says yet where it belongs: at least the rest of a frame. */
static size_t room_ahead(const struct channel *channel)
{
	struct channel_header header = {0};
	size_t have = channel->in_end - channel->in_start;
	size_t room = channel->input->read_ahead;
	if (have >= sizeof(header)) {
		memcpy(&header, channel->in + channel->in_start, sizeof(header));
	}
	if (header.type != CHANNEL_MEM_WRITE && header.length > room) {
		room = header.length;
	}
	return room < READ_SIZE ? room : READ_SIZE;
}

/* Bytes in pieces have crossed: into the counts, and the record. */
static void note_received(struct channel *channel, const struct iovec *pieces, size_t len)
{
	channel->bytes_received += (uint64_t)len;
	if (channel->record != NULL && len > 0) {
		record_received(channel->record, pieces, len);
	}
}

static void note_sent(struct channel *channel, const struct iovec *pieces, size_t len)
{
	channel->bytes_sent += (uint64_t)len;
	if (channel->record != NULL && len > 0) {
		record_sent(channel->record, pieces, len);
	}
}

/* One read. The number of bytes wanted is given back, to tell a short read from a full one. */
static ssize_t read_once(struct channel *channel, size_t *wanted)
{
	struct iovec iov[IOV_PIECES + 1];
	size_t n = 0, in_rows = 0;

	make_room(channel);
	if (channel->rows_done < channel->rows_total && channel->rows.base != NULL) {
		n = rows_pieces(channel, iov, IOV_PIECES);
	}
	for (size_t i = 0; i < n; i++) {
		in_rows += iov[i].iov_len;
	}
	iov[n].iov_base = channel->in + channel->in_end;
	iov[n].iov_len = n > 0 ? READ_TAIL : room_ahead(channel);
	*wanted = in_rows + iov[n].iov_len;
	n++;

	ssize_t got = channel_input_read(channel->input, iov, n);
	if (got == -EFAULT && in_rows > 0) {
		channel->rows.base = NULL; // its owner has truncated it: forget the rest
		return read_once(channel, wanted);
	}
	if (got < 0) {
		return got;
	}
	note_received(channel, iov, (size_t)got);
	size_t to_rows = (size_t)got < in_rows ? (size_t)got : in_rows;
	channel->rows_done += to_rows;
	channel->in_end += (size_t)got - to_rows;
	if (to_rows > 0 && channel->rows_done == channel->rows_total) {
		finish_rows(channel);
	}
	return got;
}

/*
 * What is left of a turn comes in the next one, though the socket may be silent. All others have their
 * turn before: libevent would run an event that is made active again before it looks at any fd.
 */
static void read_on(struct channel *channel)
{
	static const struct timeval now = {0};
	if (!channel->destroyed && !channel->over && channel->pause > 0) {
		const struct timeval later = {
			.tv_sec = (time_t)(channel->pause / 1000000000u),
			.tv_usec = (suseconds_t)(channel->pause % 1000000000u / 1000 + 1),
		};
		event_del(channel->read_event);
		event_add(channel->more_event, &later);
	} else if (!channel->destroyed && !channel->over &&
		channel_input_has_more(channel->input)) {
		event_add(channel->more_event, &now);
	}
}

static bool pause_after(struct channel *channel, size_t got)
{
	if (!channel->destroyed && !channel->over && channel->handler->came != NULL) {
		channel->pause = channel->handler->came(channel->data, got);
	}
	return channel->pause > 0;
}

/* The pause that the last one has made is over. */
static void end_pause(struct channel *channel)
{
	if (channel->pause > 0 && !channel->over) {
		channel->pause = 0;
		event_add(channel->read_event, NULL);
	}
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct channel *channel = data;

	channel->dispatching = true;
	end_pause(channel);
	for (int i = 0; i < READS_PER_TURN && !channel->destroyed && !channel->over; i++) {
		size_t wanted;
		ssize_t got = read_once(channel, &wanted);
		if (got == -EAGAIN) {
			if (channel->error != 0) {
				finish(channel, channel->error, NULL);
			}
			break;
		}
		if (got <= 0) {
			bool torn = channel->in_start < channel->in_end ||
				channel->rows_done < channel->rows_total;
			finish(channel, got == 0 && torn ? -ECONNRESET : (int)got, NULL);
			break;
		}
		take_all(channel);
		if (!channel->destroyed && !channel->over) {
			channel->handler->settled(channel->data);
		}
		if (pause_after(channel, (size_t)got)) {
			break;
		}
		if ((size_t)got < wanted && channel->error == 0 &&
			!channel_input_has_more(channel->input)) {
			break;
		}
	}
	read_on(channel);
	channel->dispatching = false;
	if (channel->destroyed) {
		free_channel(channel);
	}
}

static void write_out(struct channel *channel);

static void handle_writable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct channel *channel = data;

	channel->dispatching = true;
	write_out(channel);
	if (!channel->over) {
		channel->handler->drained(channel->data);
	}
	channel->dispatching = false;
	if (channel->destroyed) {
		free_channel(channel);
	}
}

struct channel *channel_create(
	struct event_base *base, int fd, const struct channel_handler *handler, void *data)
{
	return channel_create_with_input(base, fd, channel_input_create(fd), handler, data);
}

struct channel *channel_create_with_input(struct event_base *base, int fd,
	struct channel_input *input, const struct channel_handler *handler, void *data)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	if (channel == NULL) {
		channel_input_destroy(input);
		close(fd);
		return NULL;
	}
	channel->fd = fd;
	channel->input = input;
	channel->handler = handler;
	channel->data = data;
	channel->in = malloc(BUFFER_SIZE);
	channel->out = evbuffer_new();
	channel->read_event = event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, channel);
	channel->write_event = event_new(base, fd, EV_WRITE | EV_PERSIST, handle_writable, channel);
	channel->more_event = evtimer_new(base, handle_readable, channel);
	if (input == NULL || channel->in == NULL || channel->out == NULL ||
		channel->read_event == NULL || channel->write_event == NULL ||
		channel->more_event == NULL || event_add(channel->read_event, NULL) < 0) {
		free_channel(channel);
		errno = ENOMEM;
		return NULL;
	}
	return channel;
}

void channel_set_record(struct channel *channel, struct record *record)
{
	channel->record = record;
}

void channel_destroy(struct channel *channel)
{
	if (channel == NULL) {
		return;
	}
	channel->destroyed = true;
	event_del(channel->read_event);
	event_del(channel->write_event);
	event_del(channel->more_event);
	if (!channel->dispatching) {
		free_channel(channel);
	}
}

static void set_blocked(struct channel *channel, bool blocked)
{
	if (channel->blocked == blocked) {
		return;
	}
	channel->blocked = blocked;
	if (blocked) {
		event_add(channel->write_event, NULL);
	} else {
		event_del(channel->write_event);
	}
}

/* The peer may have said why before it went: its last frames are read before this is told. */
static void fail_sending(struct channel *channel, int error)
{
	if (channel->error != 0 || channel->over || channel->destroyed) {
		return;
	}
	channel->error = error;
	set_blocked(channel, false);
	evbuffer_drain(channel->out, evbuffer_get_length(channel->out));
	event_active(channel->read_event, EV_READ, 0);
}

/* A frame that is missing, or is there in part, leaves nothing that could be said any more. */
static bool check_pushed(struct channel *channel, bool pushed)
{
	if (!pushed) {
		fail_sending(channel, -ENOMEM);
	}
	return pushed;
}

bool channel_push(struct channel *channel, uint16_t type, uint32_t id, uint32_t arg,
	const void *head, size_t head_len, const void *body, size_t body_len)
{
	assert(head_len + body_len <= CHANNEL_MAX_PAYLOAD);
	struct channel_header header = {
		.length = (uint32_t)(head_len + body_len),
		.type = type,
		.id = id,
		.arg = arg,
	};
	return check_pushed(channel,
		evbuffer_expand(channel->out, sizeof(header) + head_len + body_len) == 0 &&
			evbuffer_add(channel->out, &header, sizeof(header)) == 0 &&
			evbuffer_add(channel->out, head, head_len) == 0 &&
			evbuffer_add(channel->out, body, body_len) == 0);
}

/* Bytes of a mapping that wait in out. */
struct reference {
	struct channel *channel;
	struct mapping *mapping;
	size_t len;
};

static void drop_reference(const void *bytes, size_t len, void *data)
{
	(void)bytes;
	(void)len;
	struct reference *reference = data;
	reference->channel->referenced -= reference->len;
	mapping_unref(reference->mapping);
	free(reference);
}

static bool push_reference(
	struct channel *channel, struct mapping *mapping, const uint8_t *data, size_t len)
{
	struct reference *reference = malloc(sizeof(*reference));
	if (reference == NULL) {
		return false;
	}
	*reference = (struct reference){
		.channel = channel,
		.mapping = mapping_ref(mapping),
		.len = len,
	};
	channel->referenced += len;
	if (evbuffer_add_reference(channel->out, data, len, drop_reference, reference) < 0) {
		drop_reference(data, len, reference);
		return false;
	}
	return true;
}

/* One MEM_WRITE frame of at most CHANNEL_MAX_ROWS bytes. */
static bool push_chunk(struct channel *channel, uint32_t id, uint64_t offset,
	struct mapping *mapping, const struct channel_rows *rows)
{
	struct channel_mem_write write = {
		.stride = (uint32_t)rows->stride,
		.row_bytes = (uint32_t)rows->row_bytes,
		.rows = (uint32_t)rows->rows,
	};
	channel_put64(write.offset, offset);
	struct channel_header header = {
		.length = (uint32_t)(sizeof(write) + rows->row_bytes * rows->rows),
		.type = CHANNEL_MEM_WRITE,
		.id = id,
	};
	// Without the hint, libevent makes the new piece as large as the one before: that of the rows.
	bool ok = evbuffer_expand(channel->out, sizeof(header) + sizeof(write)) == 0 &&
		evbuffer_add(channel->out, &header, sizeof(header)) == 0 &&
		evbuffer_add(channel->out, &write, sizeof(write)) == 0;
	if (rows->stride == rows->row_bytes) {
		return ok &&
			push_reference(channel, mapping, rows->base, rows->row_bytes * rows->rows);
	}
	for (size_t i = 0; ok && i < rows->rows; i++) {
		ok = push_reference(
			channel, mapping, rows->base + i * rows->stride, rows->row_bytes);
	}
	return ok;
}

/* A row that is longer than a frame may be goes in pieces. */
static bool push_long_row(struct channel *channel, uint32_t id, uint64_t offset,
	struct mapping *mapping, uint8_t *base, size_t len)
{
	while (len > 0) {
		size_t n = len < CHANNEL_MAX_ROWS ? len : CHANNEL_MAX_ROWS;
		struct channel_rows piece = {.base = base, .stride = n, .row_bytes = n, .rows = 1};
		if (!push_chunk(channel, id, offset, mapping, &piece)) {
			return false;
		}
		base += n;
		offset += n;
		len -= n;
	}
	return true;
}

bool channel_push_rows(struct channel *channel, uint32_t id, uint64_t offset,
	struct mapping *mapping, const struct channel_rows *rows)
{
	if (rows->row_bytes == 0) {
		return true;
	}
	size_t at_once = CHANNEL_MAX_ROWS / rows->row_bytes;
	size_t step = at_once > 0 ? at_once : 1;
	for (size_t row = 0; row < rows->rows; row += step) {
		struct channel_rows chunk = *rows;
		chunk.base += row * rows->stride;
		chunk.rows = rows->rows - row < step ? rows->rows - row : step;
		uint64_t at = offset + row * rows->stride;
		bool ok = at_once > 0
			? push_chunk(channel, id, at, mapping, &chunk)
			: push_long_row(channel, id, at, mapping, chunk.base, chunk.row_bytes);
		if (!check_pushed(channel, ok)) {
			return false;
		}
	}
	return true;
}

/*
 * The kernel could not read the front of the queue: its owner has truncated it. One page of it is
 * tried alone, and zeros go out in its place if it is really gone.
 */
static ssize_t send_page(struct channel *channel)
{
	static const uint8_t zeros[PAGE];
	struct evbuffer_iovec front;
	evbuffer_peek(channel->out, 1, NULL, &front, 1);
	size_t len = PAGE - ((uintptr_t)front.iov_base & (PAGE - 1));
	struct iovec iov = {
		.iov_base = front.iov_base,
		.iov_len = len < front.iov_len ? len : front.iov_len,
	};
	ssize_t sent = scm_send(channel->fd, &iov, 1, NULL, 0);
	if (sent == -EFAULT) {
		iov.iov_base = (void *)zeros;
		sent = scm_send(channel->fd, &iov, 1, NULL, 0);
	}
	if (sent > 0) {
		note_sent(channel, &iov, (size_t)sent);
	}
	return sent;
}

/* full says whether the peer took less than it was given: the next try would be in vain. */
static ssize_t send_some(struct channel *channel, bool *full)
{
	struct evbuffer_iovec pieces[IOV_PIECES];
	int n = evbuffer_peek(channel->out, CHANNEL_MAX_ROWS, NULL, pieces, IOV_PIECES);
	size_t count = n < IOV_PIECES ? (size_t)n : IOV_PIECES;
	size_t len = 0;
	for (size_t i = 0; i < count; i++) {
		len += pieces[i].iov_len;
	}
	// evbuffer_iovec is struct iovec where there is one (event2/buffer.h).
	ssize_t sent = scm_send(channel->fd, (const struct iovec *)pieces, count, NULL, 0);
	if (sent == -EFAULT) {
		*full = false;
		return send_page(channel);
	}
	*full = sent >= 0 && (size_t)sent < len;
	if (sent > 0) {
		note_sent(channel, (const struct iovec *)pieces, (size_t)sent);
	}
	return sent;
}

static void write_out(struct channel *channel)
{
	if (channel->destroyed || channel->error != 0) {
		return;
	}
	size_t budget = SEND_PER_TURN;
	bool full = false;
	while (evbuffer_get_length(channel->out) > 0 && budget > 0 && !full) {
		ssize_t sent = send_some(channel, &full);
		if (sent == -EAGAIN) {
			break;
		}
		if (sent < 0) {
			fail_sending(channel, (int)sent);
			return;
		}
		evbuffer_drain(channel->out, (size_t)sent);
		budget -= (size_t)sent < budget ? (size_t)sent : budget;
	}
	set_blocked(channel, evbuffer_get_length(channel->out) > 0);
	if (channel->closing && !channel->blocked) {
		channel->closing = false;
		shutdown(channel->fd, SHUT_WR);
	}
}

/* Queues a copy of the pieces without their first sent bytes. */
static bool queue_rest(
	struct channel *channel, const struct iovec *pieces, size_t n_pieces, size_t sent)
{
	for (size_t i = 0; i < n_pieces; i++) {
		const uint8_t *bytes = pieces[i].iov_base;
		size_t len = pieces[i].iov_len;
		size_t skip = sent < len ? sent : len;
		if (skip < len && evbuffer_add(channel->out, bytes + skip, len - skip) < 0) {
			return false;
		}
		sent -= skip;
	}
	return true;
}

/* What is short is sent faster in one piece. False: it is not short. */
static bool join(const struct iovec *pieces, size_t n_pieces, struct iovec *joined, size_t room)
{
	joined->iov_len = 0;
	for (size_t i = 0; i < n_pieces; i++) {
		if (pieces[i].iov_len > room - joined->iov_len) {
			return false;
		}
		memcpy((uint8_t *)joined->iov_base + joined->iov_len, pieces[i].iov_base,
			pieces[i].iov_len);
		joined->iov_len += pieces[i].iov_len;
	}
	return true;
}

bool channel_send(struct channel *channel, const struct iovec *pieces, size_t n_pieces)
{
	if (evbuffer_get_length(channel->out) > 0 || channel->error != 0) {
		bool ok = check_pushed(channel, queue_rest(channel, pieces, n_pieces, 0));
		channel_flush(channel);
		return ok;
	}
	uint8_t bytes[SHORT_LEN];
	struct iovec joined = {.iov_base = bytes};
	if (join(pieces, n_pieces, &joined, sizeof(bytes))) {
		pieces = &joined;
		n_pieces = 1;
	}
	ssize_t sent = scm_send(channel->fd, pieces, n_pieces, NULL, 0);
	if (sent < 0 && sent != -EAGAIN) {
		fail_sending(channel, (int)sent);
		return true;
	}
	size_t taken = sent > 0 ? (size_t)sent : 0;
	note_sent(channel, pieces, taken);
	if (!check_pushed(channel, queue_rest(channel, pieces, n_pieces, taken))) {
		return false;
	}
	set_blocked(channel, evbuffer_get_length(channel->out) > 0);
	return true;
}

void channel_flush(struct channel *channel)
{
	if (!channel->blocked) { // else the loop says when it is worth trying
		write_out(channel);
	}
}

size_t channel_queued(const struct channel *channel)
{
	return evbuffer_get_length(channel->out);
}

size_t channel_kept(const struct channel *channel)
{
	size_t queued = evbuffer_get_length(channel->out);
	// A reference that is sent in part still counts as a whole.
	return queued > channel->referenced ? queued - channel->referenced : 0;
}

void channel_shutdown(struct channel *channel)
{
	channel->closing = true;
	channel_flush(channel);
}

uint64_t channel_bytes_sent(const struct channel *channel)
{
	return channel->bytes_sent;
}

uint64_t channel_bytes_received(const struct channel *channel)
{
	return channel->bytes_received;
}
