#include "examples/mojo/channel.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/scm.h"

#define READ_MIN       4096
#define READ_MAX       (256 * 1024)
#define READS_PER_TURN 8

struct outgoing {
	struct wl_list link; // mojo_channel.out
	struct fdlist handles;
	size_t size;
	size_t sent;
	uint8_t bytes[];
};

struct mojo_channel {
	int fd;
	bool detecting;
	enum mojo_format format;
	const struct mojo_channel_handler *handler;
	void *data;
	struct event *readable;
	struct event *writable;
	struct evbuffer *in;
	struct fdlist handles; // that came, oldest first
	struct wl_list out;    // outgoing.link
	size_t queued;         // bytes
	bool broken;           // nothing can be sent any more
};

static void outgoing_destroy(struct outgoing *outgoing)
{
	wl_list_remove(&outgoing->link);
	fdlist_finish(&outgoing->handles);
	free(outgoing);
}

static void drop_queue(struct mojo_channel *channel)
{
	struct outgoing *outgoing, *next;
	wl_list_for_each_safe (outgoing, next, &channel->out, link) {
		outgoing_destroy(outgoing);
	}
	channel->queued = 0;
}

/* 0 when all of it went out, else -errno. */
static int send_outgoing(struct mojo_channel *channel, struct outgoing *outgoing)
{
	while (outgoing->sent < outgoing->size) {
		struct iovec rest = {
			.iov_base = outgoing->bytes + outgoing->sent,
			.iov_len = outgoing->size - outgoing->sent,
		};
		size_t n_handles = outgoing->handles.count;
		ssize_t n = scm_send(channel->fd, &rest, 1, &outgoing->handles, n_handles);
		if (n < 0) {
			return (int)n;
		}
		fdlist_drop(&outgoing->handles, n_handles);
		outgoing->sent += (size_t)n;
		channel->queued -= (size_t)n;
	}
	return 0;
}

/* A peer that is gone may have left bytes to read, so that only the reading tells of its end. */
static void flush(struct mojo_channel *channel)
{
	struct outgoing *outgoing, *next;
	wl_list_for_each_safe (outgoing, next, &channel->out, link) {
		int ret = send_outgoing(channel, outgoing);
		if (ret == -EAGAIN) {
			event_add(channel->writable, NULL);
			return;
		}
		if (ret < 0) {
			channel->broken = true;
			drop_queue(channel);
			break;
		}
		outgoing_destroy(outgoing);
	}
	event_del(channel->writable);
}

static void handle_writable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct mojo_channel *channel = data;
	flush(channel);
	if (channel->handler->drained != NULL) {
		channel->handler->drained(channel->data);
	}
}

static void end(struct mojo_channel *channel, const char *wrong)
{
	event_del(channel->readable);
	event_del(channel->writable);
	channel->handler->ended(channel->data, wrong);
}

/* bytes: the payload. NULL, or what is wrong. */
static const char *deliver(
	struct mojo_channel *channel, const uint8_t *bytes, const struct mojo_header *header)
{
	if (header->payload < MOJO_NOTE_SIZE) {
		return "a message without kind and number";
	}
	uint32_t note[2];
	memcpy(note, bytes, sizeof(note));
	struct mojo_message message = {
		.kind = le32toh(note[0]),
		.number = le32toh(note[1]),
		.data = bytes + MOJO_NOTE_SIZE,
		.size = header->payload - MOJO_NOTE_SIZE,
	};
	fdlist_init(&message.handles);
	if (!fdlist_move(&message.handles, &channel->handles, header->handles)) {
		return "out of memory";
	}
	channel->handler->message(channel->data, &message);
	fdlist_finish(&message.handles);
	return NULL;
}

/* The head of the next message, if all of it is there. */
static bool peek_header(
	struct mojo_channel *channel, struct mojo_header *header, const char **wrong)
{
	uint8_t bytes[MOJO_HEADER_MAX];
	ev_ssize_t len = evbuffer_copyout(channel->in, bytes, sizeof(bytes));
	if (len < MOJO_HEADER_MIN) {
		return false;
	}
	if (channel->detecting) {
		channel->format = mojo_format_detect(bytes);
		channel->detecting = false;
	}
	return mojo_header_decode(channel->format, bytes, (size_t)len, header, wrong);
}

/* Hands on what is whole. NULL, or what is wrong. */
static const char *deliver_whole(struct mojo_channel *channel)
{
	struct mojo_header header;
	const char *wrong = NULL;
	while (peek_header(channel, &header, &wrong)) {
		if (wrong != NULL) {
			return wrong;
		}
		size_t total = header.size + header.payload;
		if (evbuffer_get_length(channel->in) < total ||
			channel->handles.count < header.handles) {
			return NULL;
		}
		const uint8_t *bytes = evbuffer_pullup(channel->in, (ev_ssize_t)total);
		wrong = bytes != NULL ? deliver(channel, bytes + header.size, &header)
				      : "out of memory";
		if (wrong != NULL) {
			return wrong;
		}
		evbuffer_drain(channel->in, total);
	}
	return NULL;
}

/* As much as the message that has begun still lacks, within bounds. */
static size_t read_size(struct mojo_channel *channel)
{
	struct mojo_header header;
	const char *wrong = NULL;
	size_t have = evbuffer_get_length(channel->in);
	if (!peek_header(channel, &header, &wrong) || header.size + header.payload <= have) {
		return READ_MIN;
	}
	size_t lacking = header.size + header.payload - have;
	if (lacking < READ_MIN) {
		return READ_MIN;
	}
	return lacking < READ_MAX ? lacking : READ_MAX;
}

/* Bytes, 0 at the end, or -errno. */
static ssize_t read_some(struct mojo_channel *channel)
{
	size_t size = read_size(channel);
	struct evbuffer_iovec space;
	if (evbuffer_reserve_space(channel->in, (ev_ssize_t)size, &space, 1) != 1) {
		return -ENOMEM;
	}
	ssize_t n = scm_recv(channel->fd, space.iov_base, size, &channel->handles);
	space.iov_len = n > 0 ? (size_t)n : 0;
	evbuffer_commit_space(channel->in, &space, 1);
	return n;
}

static const char *end_reason(const struct mojo_channel *channel, ssize_t error)
{
	if (error == -EPROTO) {
		return "handles were lost";
	}
	if (error != 0 && error != -ECONNRESET) {
		return strerror((int)-error);
	}
	bool clean = evbuffer_get_length(channel->in) == 0 && channel->handles.count == 0;
	return clean ? NULL : "the channel ended inside a message";
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct mojo_channel *channel = data;
	for (int i = 0; i < READS_PER_TURN; i++) {
		ssize_t n = read_some(channel);
		if (n == -EAGAIN) {
			return;
		}
		if (n <= 0) {
			end(channel, end_reason(channel, n));
			return;
		}
		const char *wrong = deliver_whole(channel);
		if (wrong != NULL) {
			end(channel, wrong);
			return;
		}
	}
}

struct mojo_channel *mojo_channel_create(struct event_base *base, int fd, enum mojo_format format,
	const struct mojo_channel_handler *handler, void *data)
{
	struct mojo_channel *channel = calloc(1, sizeof(*channel));
	if (channel == NULL) {
		close(fd);
		errno = ENOMEM;
		return NULL;
	}
	channel->fd = fd;
	channel->format = format;
	channel->handler = handler;
	channel->data = data;
	wl_list_init(&channel->out);
	fdlist_init(&channel->handles);
	channel->in = evbuffer_new();
	channel->readable = event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, channel);
	channel->writable = event_new(base, fd, EV_WRITE | EV_PERSIST, handle_writable, channel);
	if (channel->in == NULL || channel->readable == NULL || channel->writable == NULL ||
		event_add(channel->readable, NULL) < 0) {
		mojo_channel_destroy(channel);
		errno = ENOMEM;
		return NULL;
	}
	return channel;
}

struct mojo_channel *mojo_channel_create_detecting(
	struct event_base *base, int fd, const struct mojo_channel_handler *handler, void *data)
{
	struct mojo_channel *channel = mojo_channel_create(base, fd, MOJO_LEGACY, handler, data);
	if (channel != NULL) {
		channel->detecting = true;
	}
	return channel;
}

void mojo_channel_destroy(struct mojo_channel *channel)
{
	if (channel == NULL) {
		return;
	}
	if (channel->readable != NULL) {
		event_free(channel->readable);
	}
	if (channel->writable != NULL) {
		event_free(channel->writable);
	}
	if (channel->in != NULL) {
		evbuffer_free(channel->in);
	}
	drop_queue(channel);
	fdlist_finish(&channel->handles);
	close(channel->fd);
	free(channel);
}

enum mojo_format mojo_channel_format(const struct mojo_channel *channel)
{
	return channel->format;
}

size_t mojo_channel_queued(const struct mojo_channel *channel)
{
	return channel->queued;
}

size_t mojo_channel_waiting_handles(const struct mojo_channel *channel)
{
	return channel->handles.count;
}

/* NULL: out of memory. */
static struct outgoing *outgoing_create(enum mojo_format format, const uint32_t note[2],
	const void *data, size_t size, size_t handles)
{
	struct mojo_header header = {.payload = MOJO_NOTE_SIZE + size, .handles = handles};
	struct outgoing *outgoing =
		malloc(sizeof(*outgoing) + MOJO_HEADER_MAX + MOJO_NOTE_SIZE + size);
	if (outgoing == NULL) {
		return NULL;
	}
	wl_list_init(&outgoing->link);
	fdlist_init(&outgoing->handles);
	mojo_header_encode(format, &header, outgoing->bytes);
	memcpy(outgoing->bytes + header.size, note, MOJO_NOTE_SIZE);
	if (size > 0) {
		memcpy(outgoing->bytes + header.size + MOJO_NOTE_SIZE, data, size);
	}
	outgoing->size = header.size + header.payload;
	outgoing->sent = 0;
	return outgoing;
}

bool mojo_channel_send(struct mojo_channel *channel, uint32_t kind, uint32_t number,
	const void *data, size_t size, struct fdlist *handles)
{
	size_t n_handles = handles != NULL ? handles->count : 0;
	assert(n_handles <= MOJO_MAX_HANDLES && size < MOJO_MESSAGE_MAX / 2 && !channel->detecting);
	uint32_t note[2] = {htole32(kind), htole32(number)};
	struct outgoing *outgoing = NULL;
	if (!channel->broken) {
		outgoing = outgoing_create(channel->format, note, data, size, n_handles);
	}
	if (outgoing == NULL) {
		if (handles != NULL) {
			fdlist_drop(handles, n_handles);
		}
		return false;
	}
	if (n_handles > 0 && !fdlist_move(&outgoing->handles, handles, n_handles)) {
		outgoing_destroy(outgoing);
		return false;
	}
	bool idle = wl_list_empty(&channel->out);
	wl_list_insert(channel->out.prev, &outgoing->link);
	channel->queued += outgoing->size;
	if (idle) {
		flush(channel);
	}
	return true;
}

bool mojo_channel_send_fd(struct mojo_channel *channel, uint32_t kind, uint32_t number, int fd)
{
	struct fdlist handles;
	fdlist_init(&handles);
	bool ok = fdlist_push(&handles, fd) &&
		mojo_channel_send(channel, kind, number, NULL, 0, &handles);
	fdlist_finish(&handles);
	return ok;
}
