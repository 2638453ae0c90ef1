#include "host-proxy/vsock_connection.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/scm.h"
#include "host-proxy/lender.h"
#include "host-proxy/loan.h"
#include "host-proxy/virtqueue.h"
#include "host-proxy/vsock_sender.h"

#define CONNECT_TIMEOUT_S 5
#define CLOSE_TIMEOUT_S   8
#define PIECES_MAX        64
#define FIRST_READ        2048 // bytes
#define BOTH              (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

#define PENDING(name) (1u << VIRTIO_VSOCK_OP_##name)

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_connection *connection = data;
	connection->may_read = true;
	connection->config.ready(connection->config.data, connection);
}

static void handle_writable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_connection *connection = data;
	connection->may_write = true;
	connection->config.ready(connection->config.data, connection);
}

static void handle_deadline(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_connection *connection = data;
	connection->expired = true;
	connection->config.ready(connection->config.data, connection);
}

// Some of what was lent.
static void handle_returned(void *data)
{
	struct vsock_connection *connection = data;
	connection->may_write = true;
	connection->config.ready(connection->config.data, connection);
}

static void set_deadline(struct vsock_connection *connection, int seconds)
{
	const struct timeval later = {.tv_sec = seconds};
	connection->expired = event_add(connection->deadline, &later) < 0;
}

static bool create_events(struct vsock_connection *connection)
{
	struct event_base *base = connection->config.base;
	int fd = connection->config.fd;
	connection->readable =
		event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, connection);
	connection->writable =
		event_new(base, fd, EV_WRITE | EV_PERSIST, handle_writable, connection);
	connection->deadline = evtimer_new(base, handle_deadline, connection);
	connection->backlog = evbuffer_new();
	return connection->readable != NULL && connection->writable != NULL &&
		connection->deadline != NULL && connection->backlog != NULL;
}

static bool create_lender(struct vsock_connection *connection)
{
	const struct lender_config config = {
		.base = connection->config.base,
		.loans = connection->config.loans,
		.fd = connection->config.fd,
		.pages = connection->config.pages,
		.returned = handle_returned,
		.data = connection,
	};
	if (config.loans != NULL) {
		connection->lender = lender_create(&config);
	}
	return config.loans == NULL || connection->lender != NULL;
}

static uint32_t window(const struct vsock_connection *connection)
{
	return connection->lender != NULL ? VSOCK_LENDING_WINDOW : VSOCK_WINDOW;
}

static void set_room(struct vsock_connection *connection)
{
	int fd = connection->config.fd, size = 0;
	// So that what the guest may send fits. Where the system allows less, the rest is kept here.
	int wanted = (int)window(connection);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted));
	getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &(socklen_t){sizeof(size)});
	connection->little = (uint32_t)size / 4; // as unix_poll has it
}

struct vsock_connection *vsock_connection_create(const struct vsock_connection_config *config)
{
	struct vsock_connection *connection = calloc(1, sizeof(*connection));
	if (connection == NULL) {
		close(config->fd);
		return NULL;
	}
	connection->config = *config;
	wl_list_init(&connection->link);
	wl_list_init(&connection->waiting);
	if (!create_events(connection) || !create_lender(connection)) {
		vsock_connection_destroy(connection);
		errno = ENOMEM;
		return NULL;
	}
	set_room(connection);
	connection->connected = !config->outgoing;
	connection->pending = config->outgoing ? PENDING(REQUEST) : PENDING(RESPONSE);
	if (config->outgoing) {
		set_deadline(connection, CONNECT_TIMEOUT_S);
	}
	return connection;
}

void vsock_connection_destroy(struct vsock_connection *connection)
{
	struct event *const events[] = {
		connection->readable, connection->writable, connection->deadline};
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		if (events[i] != NULL) {
			event_free(events[i]);
		}
	}
	if (connection->backlog != NULL) {
		evbuffer_free(connection->backlog);
	}
	wl_list_remove(&connection->link);
	wl_list_remove(&connection->waiting);
	lender_destroy(connection->lender);
	close(connection->config.fd);
	free(connection);
}

// Nobody reads any more: what else the guest sends has nowhere to go.
static void discard(struct vsock_connection *connection)
{
	connection->discards = true;
	connection->may_read = true; // perhaps there is still something to read, or just the end
	evbuffer_drain(connection->backlog, evbuffer_get_length(connection->backlog));
}

// Bytes that the socket took; -EFAULT.
static ssize_t write_pieces(
	struct vsock_connection *connection, const struct iovec *pieces, size_t n_pieces)
{
	const struct fdlist none = {0};
	ssize_t n = scm_send(connection->config.fd, pieces, n_pieces, &none, 0);
	if (n >= 0 || n == -EFAULT) {
		return n;
	}
	if (n != -EAGAIN) {
		discard(connection);
	}
	return 0;
}

/*
 * As above, for len bytes that are, or begin, in pieces[1] and the following. pieces[0] is for what has
 * to go before them where the other end reads records.
 */
static ssize_t write_bytes(
	struct vsock_connection *connection, struct iovec *pieces, size_t n_pieces, size_t len)
{
	struct loan_record record = {.type = LOAN_BYTES, .length = (uint32_t)len};
	bool begins = connection->lender != NULL && connection->begun == 0;
	pieces[0] = (struct iovec){
		.iov_base = &record,
		.iov_len = begins ? sizeof(record) : 0,
	};
	ssize_t n = write_pieces(connection, pieces, n_pieces);
	if (n <= 0) {
		return n;
	}
	if (begins) {
		assert((size_t)n >= sizeof(record)); // the kernel does not split what is as short
		n -= (ssize_t)sizeof(record);
		connection->begun = len;
	}
	connection->begun -= connection->lender != NULL ? (size_t)n : 0;
	return n;
}

static ssize_t write_backlog(struct vsock_connection *connection)
{
	struct iovec pieces[1 + PIECES_MAX];
	size_t all = evbuffer_get_length(connection->backlog);
	size_t len = connection->begun > 0 ? connection->begun : all;
	size_t rest = len;
	// evbuffer_iovec is struct iovec where there is one (event2/buffer.h).
	int n = evbuffer_peek(connection->backlog, (ev_ssize_t)len, NULL,
		(struct evbuffer_iovec *)pieces + 1, PIECES_MAX);
	size_t n_pieces = 1 + (size_t)(n < PIECES_MAX ? n : PIECES_MAX);
	for (size_t i = 1; i < n_pieces; i++) {
		pieces[i].iov_len = pieces[i].iov_len < rest ? pieces[i].iov_len : rest;
		rest -= pieces[i].iov_len;
	}
	return write_bytes(connection, pieces, n_pieces, len);
}

static void flush_backlog(struct vsock_connection *connection)
{
	while (evbuffer_get_length(connection->backlog) > 0) {
		ssize_t written = write_backlog(connection);
		if (written <= 0) {
			return;
		}
		evbuffer_drain(connection->backlog, (size_t)written);
	}
}

// Keeps what is in the pieces, which are the guest's, from skip on.
static bool keep(struct vsock_connection *connection, const struct iovec *pieces, size_t n_pieces,
	size_t skip)
{
	for (size_t i = 0; i < n_pieces; i++) {
		size_t len = pieces[i].iov_len;
		if (skip >= len) {
			skip -= len;
			continue;
		}
		struct evbuffer_iovec space;
		len -= skip;
		if (evbuffer_reserve_space(connection->backlog, (ev_ssize_t)len, &space, 1) != 1 ||
			!mapping_copy(
				space.iov_base, (const uint8_t *)pieces[i].iov_base + skip, len)) {
			return false;
		}
		space.iov_len = len;
		evbuffer_commit_space(connection->backlog, &space, 1);
		skip = 0;
	}
	return true;
}

// Writes what the socket takes of the len bytes in pieces[1] and the following, and keeps the rest.
static enum vsock_status write_or_keep(
	struct vsock_connection *connection, struct iovec *pieces, size_t n_pieces, size_t len)
{
	ssize_t written = 0;
	if (evbuffer_get_length(connection->backlog) == 0) {
		written = write_bytes(connection, pieces, n_pieces, len);
	}
	if (written < 0) {
		return VSOCK_RESET;
	}
	bool kept =
		connection->discards || keep(connection, pieces + 1, n_pieces - 1, (size_t)written);
	return kept ? VSOCK_OK : VSOCK_RESET;
}

// VSOCK_OK: not lent.
static enum vsock_status lend(struct vsock_connection *connection,
	const struct virtqueue_chain *chain, const struct iovec *pieces, size_t n_pieces)
{
	if (connection->lender == NULL || evbuffer_get_length(connection->backlog) > 0) {
		return VSOCK_OK;
	}
	int lent = lender_lend(connection->lender, chain->head, pieces, n_pieces);
	return lent < 0 ? VSOCK_RESET : lent > 0 ? VSOCK_LENT : VSOCK_OK;
}

static enum vsock_status take_payload(
	struct vsock_connection *connection, const struct virtqueue_chain *chain, uint32_t payload)
{
	struct iovec pieces[1 + VIRTQUEUE_CHAIN_MAX];
	size_t len = payload;
	size_t n = virtqueue_chain_slice(
		chain, false, VSOCK_HEADER, &len, pieces + 1, VIRTQUEUE_CHAIN_MAX);
	connection->received += payload;
	if (len == 0 || connection->discards) {
		return VSOCK_OK;
	}
	enum vsock_status status = lend(connection, chain, pieces + 1, n);
	return status != VSOCK_OK ? status : write_or_keep(connection, pieces, 1 + n, len);
}

bool vsock_connection_lends(const struct vsock_connection *connection)
{
	return connection->lender != NULL && lender_lent(connection->lender) > 0;
}

// Bytes of its window that the guest has used.
static uint32_t used(const struct vsock_connection *connection)
{
	return connection->received - connection->told;
}

// Of its window, what a guest uses: Linux sends no more than it would take itself.
static uint32_t usable(const struct vsock_connection *connection)
{
	uint32_t all = window(connection);
	return connection->guest_room < all ? connection->guest_room : all;
}

static enum vsock_status handle_payload(struct vsock_connection *connection,
	const struct virtio_vsock_hdr *header, const struct virtqueue_chain *chain)
{
	uint32_t len = le32toh(header->len);
	if (!connection->connected ||
		(connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
		return VSOCK_RESET;
	}
	if (len > window(connection) - used(connection)) {
		log_limited(LOG_WARN, "vm cid %u port %u: sends more than its credit allows",
			connection->config.guest_cid, connection->config.guest_port);
		return VSOCK_RESET;
	}
	return take_payload(connection, chain, len);
}

static enum vsock_status handle_response(struct vsock_connection *connection)
{
	if (connection->connected || (connection->pending & PENDING(REQUEST)) != 0) {
		return VSOCK_RESET;
	}
	connection->connected = true;
	event_del(connection->deadline);
	return VSOCK_OK;
}

// False: the guest claims to have had what was never sent.
static bool take_credit(struct vsock_connection *connection, const struct virtio_vsock_hdr *header)
{
	uint32_t forwarded = le32toh(header->fwd_cnt);
	uint32_t under_way = connection->sent - connection->guest_forwarded;
	if (connection->sent - forwarded > under_way) {
		return false;
	}
	connection->guest_forwarded = forwarded;
	connection->guest_room = le32toh(header->buf_alloc);
	return true;
}

enum vsock_status vsock_connection_handle(struct vsock_connection *connection,
	const struct virtio_vsock_hdr *header, const struct virtqueue_chain *chain)
{
	uint16_t operation = le16toh(header->op);
	if (operation == VIRTIO_VSOCK_OP_RST) {
		return VSOCK_GONE;
	}
	if (!take_credit(connection, header)) {
		return VSOCK_RESET;
	}
	switch (operation) {
	case VIRTIO_VSOCK_OP_RESPONSE:
		return handle_response(connection);
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		connection->guest_shutdown |= le32toh(header->flags) & BOTH;
		return VSOCK_OK;
	case VIRTIO_VSOCK_OP_RW:
		return handle_payload(connection, header, chain);
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		return VSOCK_OK;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		connection->pending |= PENDING(CREDIT_UPDATE);
		return VSOCK_OK;
	default: // REQUEST, too: it is connected already
		return VSOCK_RESET;
	}
}

static uint32_t guest_credit(const struct vsock_connection *connection)
{
	uint32_t under_way = connection->sent - connection->guest_forwarded;
	return connection->guest_room > under_way ? connection->guest_room - under_way : 0;
}

// Bytes that were not read yet. The kernel counts what is queued with its own overhead, which errs on
// the right side.
static uint64_t unread(const struct vsock_connection *connection)
{
	int queued = 0;
	if (!connection->discards && ioctl(connection->config.fd, SIOCOUTQ, &queued) < 0) {
		queued = 0;
	}
	// With so little in it, the socket is writable, and will not tell when it is read.
	size_t in_socket = (uint32_t)queued < connection->little ? 0 : (size_t)queued;
	size_t lent = connection->lender != NULL ? lender_lent(connection->lender) : 0;
	return evbuffer_get_length(connection->backlog) + in_socket + lent;
}

// Credit comes back when the bytes are read from the socket, not when they are written to it:
// otherwise a stopped reader would have us keep them.
static void return_credit(struct vsock_connection *connection)
{
	if (used(connection) <= usable(connection) / 2) {
		return;
	}
	uint64_t kept = unread(connection);
	if (kept < connection->received - connection->forwarded) {
		connection->forwarded = connection->received - (uint32_t)kept;
	}
	// A socket that is writable again has not much left, and this is the last we hear of it.
	if (connection->forwarded - connection->told >=
		(connection->may_write ? 1 : usable(connection) / 4)) {
		connection->pending |= PENDING(CREDIT_UPDATE);
	}
}

static struct virtio_vsock_hdr make_header(
	const struct vsock_connection *connection, uint16_t operation)
{
	const struct vsock_connection_config *config = &connection->config;
	bool shutdown = operation == VIRTIO_VSOCK_OP_SHUTDOWN;
	return (struct virtio_vsock_hdr){
		.src_cid = htole64(VSOCK_HOST_CID),
		.dst_cid = htole64(config->guest_cid),
		.src_port = htole32(config->host_port),
		.dst_port = htole32(config->guest_port),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.op = htole16(operation),
		.flags = htole32(shutdown ? connection->host_shutdown : 0),
		.buf_alloc = htole32(window(connection)),
		.fwd_cnt = htole32(connection->forwarded),
	};
}

static bool send_pending(struct vsock_connection *connection)
{
	// REQUEST and RESPONSE are the lowest.
	for (uint16_t operation = 0; connection->pending >> operation != 0; operation++) {
		if ((connection->pending & (1u << operation)) == 0) {
			continue;
		}
		struct virtio_vsock_hdr header = make_header(connection, operation);
		if (!vsock_sender_send(connection->config.sender, &header)) {
			return false;
		}
		connection->pending &= ~(1u << operation);
		connection->told = connection->forwarded;
		if (operation == VIRTIO_VSOCK_OP_SHUTDOWN && connection->host_shutdown == BOTH) {
			set_deadline(connection, CLOSE_TIMEOUT_S);
		}
	}
	return true;
}

static bool hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLHUP) != 0;
}

static void say_shutdown(struct vsock_connection *connection, uint32_t flags)
{
	if ((connection->host_shutdown | flags) != connection->host_shutdown) {
		connection->host_shutdown |= flags;
		connection->pending |= PENDING(SHUTDOWN);
	}
}

static bool can_read(const struct vsock_connection *connection)
{
	return connection->connected && guest_credit(connection) > 0 &&
		(connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0 &&
		(connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

static ssize_t relay_at_most(struct vsock_connection *connection, size_t max)
{
	struct virtio_vsock_hdr header = make_header(connection, VIRTIO_VSOCK_OP_RW);
	ssize_t n =
		vsock_sender_relay(connection->config.sender, connection->config.fd, &header, max);
	if (n > 0) {
		connection->sent += (uint32_t)n;
		connection->told = connection->forwarded;
		connection->much = n > FIRST_READ;
	}
	return n;
}

// Most of what comes alone is short, and to get many of the guest's buffers ready takes longer than to
// fill one.
static ssize_t relay_what_is_there(struct vsock_connection *connection)
{
	size_t credit = guest_credit(connection);
	if (connection->much || credit <= FIRST_READ) {
		return relay_at_most(connection, credit);
	}
	ssize_t n = relay_at_most(connection, FIRST_READ);
	return n == FIRST_READ ? relay_at_most(connection, credit - FIRST_READ) : n;
}

// False: the guest has no room.
static bool relay(struct vsock_connection *connection)
{
	ssize_t n = relay_what_is_there(connection);
	if (n == -ENOBUFS) {
		return false;
	}
	connection->may_read = false;
	if (n <= 0 && n != -EAGAIN) {
		bool closed = n < 0 || connection->discards || hung_up(connection->config.fd);
		say_shutdown(connection, closed ? BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND);
	}
	return true;
}

static void apply_shutdown(struct vsock_connection *connection)
{
	uint32_t flags = connection->guest_shutdown & ~connection->applied;
	if (evbuffer_get_length(connection->backlog) > 0) {
		flags &= ~(uint32_t)VIRTIO_VSOCK_SHUTDOWN_SEND;
	}
	if ((flags & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
		shutdown(connection->config.fd, SHUT_WR);
	}
	if ((flags & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) {
		shutdown(connection->config.fd, SHUT_RD);
	}
	connection->applied |= flags;
}

static bool is_stale(const struct vsock_connection *connection)
{
	return connection->lender != NULL && lender_is_stale(connection->lender);
}

static void set_wanted(struct event *event, short what, bool wanted)
{
	if (wanted == (event_pending(event, what, NULL) != 0)) {
		return;
	}
	if (wanted) {
		event_add(event, NULL);
	} else {
		event_del(event);
	}
}

// Whether the guest waits to hear that the socket was read from. What is lent is heard of by its return.
static bool wants_credit(const struct vsock_connection *connection)
{
	return used(connection) > usable(connection) / 2 && !vsock_connection_lends(connection) &&
		(connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0 &&
		(connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

static void update_events(struct vsock_connection *connection, bool room)
{
	bool backlog = evbuffer_get_length(connection->backlog) > 0 || is_stale(connection);
	set_wanted(connection->readable, EV_READ, room && can_read(connection));
	set_wanted(connection->writable, EV_WRITE,
		!connection->discards && (backlog || (room && wants_credit(connection))));
}

static bool work(struct vsock_connection *connection)
{
	return_credit(connection);
	if (!send_pending(connection)) {
		return false;
	}
	if (!connection->may_read || !can_read(connection)) {
		return true;
	}
	return relay(connection) && send_pending(connection); // what the end of the stream asks for
}

enum vsock_status vsock_connection_work(struct vsock_connection *connection)
{
	if (connection->may_write && hung_up(connection->config.fd)) {
		discard(connection); // or it would look writable for ever
	}
	flush_backlog(connection);
	if (is_stale(connection) && evbuffer_get_length(connection->backlog) == 0) {
		lender_update(connection->lender);
	}
	bool read_all = (connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 ||
		(connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0;
	if (connection->discards && read_all) {
		say_shutdown(connection, BOTH);
	}
	apply_shutdown(connection);
	if ((connection->host_shutdown & connection->applied & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
		say_shutdown(connection, BOTH); // both have said all
	}
	// What is lent is on its way, and the guest keeps it until it is told that we are through.
	bool over = connection->applied == BOTH && !vsock_connection_lends(connection);
	if (connection->expired || over) {
		return VSOCK_RESET;
	}
	bool room = work(connection);
	connection->may_write = false;
	update_events(connection, room);
	return room ? VSOCK_OK : VSOCK_NO_ROOM;
}
