#include "examples/mojo/flow.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE (64 * 1024)

struct flow_reader {
	size_t wanted;
	flow_read_done done;
	void *data;
	struct event *readable;
	struct evbuffer *bytes;
};

struct flow_writer {
	flow_write_done done;
	void *data;
	struct event *writable;
	struct evbuffer *bytes;
};

/* Only when fd is readable: a pipe then has something for us. */
static ssize_t read_once(int fd, void *data, size_t size)
{
	ssize_t n = recv(fd, data, size, MSG_DONTWAIT);
	if (n < 0 && errno == ENOTSOCK) {
		n = read(fd, data, size);
	}
	return n < 0 ? -errno : n;
}

/* Only when fd is writable: a pipe then has room for PIPE_BUF bytes. */
static ssize_t write_once(int fd, const void *data, size_t size)
{
	ssize_t n = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno == ENOTSOCK) {
		n = write(fd, data, size < PIPE_BUF ? size : PIPE_BUF);
	}
	return n < 0 ? -errno : n;
}

static void finish_reading(struct flow_reader *reader, int error)
{
	event_del(reader->readable);
	reader->done(reader->data, reader->bytes, error);
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct flow_reader *reader = data;
	uint8_t bytes[READ_SIZE];
	size_t left = reader->wanted - evbuffer_get_length(reader->bytes);
	ssize_t n = read_once(fd, bytes, left < sizeof(bytes) ? left : sizeof(bytes));
	if (n == -EAGAIN || n == -EINTR) {
		return;
	}
	if (n > 0 && evbuffer_add(reader->bytes, bytes, (size_t)n) < 0) {
		n = -ENOMEM;
	}
	if (n <= 0 || (size_t)n == left) {
		finish_reading(reader, n < 0 ? (int)n : 0);
	}
}

struct flow_reader *flow_reader_create(
	struct event_base *base, int fd, size_t wanted, flow_read_done done, void *data)
{
	struct flow_reader *reader = calloc(1, sizeof(*reader));
	if (reader == NULL) {
		return NULL;
	}
	reader->wanted = wanted;
	reader->done = done;
	reader->data = data;
	reader->bytes = evbuffer_new();
	reader->readable = event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, reader);
	if (reader->bytes == NULL || reader->readable == NULL ||
		event_add(reader->readable, NULL) < 0) {
		flow_reader_destroy(reader);
		return NULL;
	}
	return reader;
}

void flow_reader_destroy(struct flow_reader *reader)
{
	if (reader == NULL) {
		return;
	}
	if (reader->readable != NULL) {
		event_free(reader->readable);
	}
	if (reader->bytes != NULL) {
		evbuffer_free(reader->bytes);
	}
	free(reader);
}

static void finish_writing(struct flow_writer *writer, int error)
{
	event_del(writer->writable);
	if (writer->done != NULL) {
		writer->done(writer->data, error);
	}
}

static void handle_writable(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	struct flow_writer *writer = data;
	struct evbuffer_iovec piece;
	if (evbuffer_peek(writer->bytes, -1, NULL, &piece, 1) < 1) {
		finish_writing(writer, 0);
		return;
	}
	ssize_t n = write_once(fd, piece.iov_base, piece.iov_len);
	if (n == -EAGAIN || n == -EINTR) {
		return;
	}
	if (n < 0) {
		finish_writing(writer, (int)n);
		return;
	}
	evbuffer_drain(writer->bytes, (size_t)n);
	if (evbuffer_get_length(writer->bytes) == 0) {
		finish_writing(writer, 0);
	}
}

struct flow_writer *flow_writer_create(
	struct event_base *base, int fd, struct evbuffer *bytes, flow_write_done done, void *data)
{
	struct flow_writer *writer = calloc(1, sizeof(*writer));
	if (writer == NULL) {
		evbuffer_free(bytes);
		return NULL;
	}
	writer->bytes = bytes;
	writer->done = done;
	writer->data = data;
	writer->writable = event_new(base, fd, EV_WRITE | EV_PERSIST, handle_writable, writer);
	if (writer->writable == NULL || event_add(writer->writable, NULL) < 0) {
		flow_writer_destroy(writer);
		return NULL;
	}
	return writer;
}

void flow_writer_destroy(struct flow_writer *writer)
{
	if (writer == NULL) {
		return;
	}
	if (writer->writable != NULL) {
		event_free(writer->writable);
	}
	evbuffer_free(writer->bytes);
	free(writer);
}

size_t flow_writer_left(const struct flow_writer *writer)
{
	return evbuffer_get_length(writer->bytes);
}
