#include "host-proxy/vsock_device.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/log.h"
#include "host-proxy/admission.h"
#include "host-proxy/lender.h"
#include "host-proxy/vhost_user.h"
#include "host-proxy/vsock_connection.h"
#include "host-proxy/vsock_sender.h"

#define BUCKETS          64
#define PACKETS_PER_WAKE 32
#define RESETS_MAX       128 // that wait for room: more packets are not read meanwhile
#define FIRST_PORT       UINT32_C(0x40000000) // of ours, as clients
#define DRAIN_MS         2000 // that a stopped session may keep its VM from stopping
#define LATE_SHARE       32   // of the ring: more is not given back without a call
#define LATE_MS          2    // nor longer

struct vsock_device {
	struct vsock_device_config config;
	struct virtio_vsock_config space;
	struct vhost_user *vhost;
	struct vsock_sender *sender;
	struct event *more;              // timer: what one wake-up left
	struct event *late;              // timer: a call that was put off
	bool hurry;                      // the next one is not
	struct wl_list buckets[BUCKETS]; // vsock_connection.link
	struct wl_list waiting;          // vsock_connection.waiting: for room
	struct evbuffer *resets;         // headers, likewise
	size_t n_connections;
	uint32_t next_port;
	bool stopping;
	struct loans loans;
	bool draining;                // the guest's queue is to stop
	struct event *drained;        // the longest that it takes
	struct virtqueue_chain chain; // of the packet at hand
};

static struct wl_list *find_bucket(struct vsock_device *device, uint32_t guest_port)
{
	return &device->buckets[guest_port % BUCKETS];
}

static struct vsock_connection *find_connection(
	struct vsock_device *device, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_connection *connection;
	wl_list_for_each (connection, find_bucket(device, guest_port), link) {
		if (connection->config.guest_port == guest_port &&
			connection->config.host_port == host_port) {
			return connection;
		}
	}
	return NULL;
}

static void close_connection(struct vsock_device *device, struct vsock_connection *connection)
{
	log_limited(LOG_INFO, "vm cid %u port %u: disconnected from port %u",
		device->config.guest_cid, connection->config.guest_port,
		connection->config.host_port);
	vsock_connection_destroy(connection);
	device->n_connections--;
	if (device->config.closed != NULL) {
		device->config.closed(device->config.data);
	}
}

static void close_all(struct vsock_device *device)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct vsock_connection *connection, *next;
		wl_list_for_each_safe (connection, next, &device->buckets[i], link) {
			close_connection(device, connection);
		}
	}
	evbuffer_drain(device->resets, evbuffer_get_length(device->resets));
}

// When all others have had their turn: libevent would run an event that is made active again before it
// looks at any fd.
static void handle_more_later(struct vsock_device *device)
{
	static const struct timeval now = {0};
	event_add(device->more, &now);
}

static bool may_send_more_resets(const struct vsock_device *device)
{
	return evbuffer_get_length(device->resets) < RESETS_MAX * VSOCK_HEADER;
}

// False: no room. Packets are read again once fewer wait.
static bool send_resets(struct vsock_device *device)
{
	struct virtio_vsock_hdr header;
	bool had_many = !may_send_more_resets(device), room = true;
	while (room && evbuffer_copyout(device->resets, &header, sizeof(header)) > 0) {
		room = vsock_sender_send(device->sender, &header);
		evbuffer_drain(device->resets, room ? sizeof(header) : 0);
	}
	if (had_many && may_send_more_resets(device)) {
		handle_more_later(device);
	}
	return room;
}

static void send_reset(struct vsock_device *device, const struct virtio_vsock_hdr *header)
{
	if (evbuffer_add(device->resets, header, sizeof(*header)) < 0) {
		log_limited(LOG_ERROR, "vm cid %u: out of memory", device->config.guest_cid);
	}
	send_resets(device);
}

static void reset_connection(struct vsock_device *device, struct vsock_connection *connection)
{
	const struct virtio_vsock_hdr header = {
		.src_cid = htole64(VSOCK_HOST_CID),
		.dst_cid = htole64(device->config.guest_cid),
		.src_port = htole32(connection->config.host_port),
		.dst_port = htole32(connection->config.guest_port),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.op = htole16(VIRTIO_VSOCK_OP_RST),
	};
	close_connection(device, connection);
	send_reset(device, &header);
}

// The answer to a packet that belongs to nothing.
static void reject(struct vsock_device *device, const struct virtio_vsock_hdr *header)
{
	const struct virtio_vsock_hdr answer = {
		.src_cid = header->dst_cid,
		.dst_cid = header->src_cid,
		.src_port = header->dst_port,
		.dst_port = header->src_port,
		.type = header->type,
		.op = htole16(VIRTIO_VSOCK_OP_RST),
	};
	if (le16toh(header->op) != VIRTIO_VSOCK_OP_RST) {
		send_reset(device, &answer);
	}
}

// Does what the status of a connection asks for. False: the guest has no room.
static bool settle(
	struct vsock_device *device, struct vsock_connection *connection, enum vsock_status status)
{
	switch (status) {
	case VSOCK_OK:
	case VSOCK_LENT:
		break;
	case VSOCK_NO_ROOM:
		wl_list_insert(device->waiting.prev, &connection->waiting);
		return false;
	case VSOCK_RESET:
		reset_connection(device, connection);
		break;
	case VSOCK_GONE:
		close_connection(device, connection);
		break;
	}
	return true;
}

static void reset_lending(struct vsock_device *device)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct vsock_connection *connection, *next;
		wl_list_for_each_safe (connection, next, &device->buckets[i], link) {
			if (vsock_connection_lends(connection)) {
				log_limited(LOG_WARN,
					"vm cid %u port %u: its session did not take what it sent",
					device->config.guest_cid, connection->config.guest_port);
				reset_connection(device, connection);
			}
		}
	}
}

static bool work(struct vsock_device *device, struct vsock_connection *connection)
{
	wl_list_remove(&connection->waiting);
	wl_list_init(&connection->waiting);
	return settle(device, connection, vsock_connection_work(connection));
}

static void handle_late(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_device *device = data;
	vhost_user_call(device->vhost, VSOCK_TX);
}

// A guest that hears that its packets were taken does no more than free them, but is interrupted for it.
static bool put_off(struct vsock_device *device)
{
	static const struct timeval later = {.tv_usec = LATE_MS * 1000};
	const struct virtqueue *queue = vhost_user_queue(device->vhost, VSOCK_TX);
	unsigned int n = queue != NULL ? virtqueue_uncalled(queue) : 0;
	if (n == 0 || n >= queue->ring.num / LATE_SHARE || device->hurry) {
		return false;
	}
	return event_pending(device->late, EV_TIMEOUT, NULL) != 0 ||
		event_add(device->late, &later) == 0;
}

static void call_guest(struct vsock_device *device)
{
	bool called = vhost_user_call(device->vhost, VSOCK_RX);
	if (called || !put_off(device)) {
		vhost_user_call(device->vhost, VSOCK_TX);
		device->hurry = false;
	}
}

static void check_drained(struct vsock_device *device)
{
	if (device->draining && device->loans.count == 0) {
		device->draining = false;
		event_del(device->drained);
		vhost_user_drained(device->vhost);
	}
}

static void handle_ready(void *data, struct vsock_connection *connection)
{
	struct vsock_device *device = data;
	work(device, connection);
	call_guest(device);
	check_drained(device);
}

// Takes fd.
static struct vsock_connection *add_connection(
	struct vsock_device *device, int fd, uint32_t guest_port, uint32_t host_port, bool outgoing)
{
	const struct vsock_device_config *own = &device->config;
	bool lends = !outgoing && own->lends != NULL && own->lends(own->data, host_port);
	const struct vsock_connection_config config = {
		.base = device->config.base,
		.sender = device->sender,
		.guest_cid = device->config.guest_cid,
		.guest_port = guest_port,
		.host_port = host_port,
		.fd = fd,
		.loans = lends ? &device->loans : NULL,
		// Else any program in the guest could have the host write where it may not.
		.pages = guest_port <= LAST_PRIVILEGED_PORT,
		.outgoing = outgoing,
		.ready = handle_ready,
		.data = device,
	};
	struct vsock_connection *connection = vsock_connection_create(&config);
	if (connection == NULL) {
		log_limited(LOG_ERROR, "vm cid %u port %u: out of memory", device->config.guest_cid,
			guest_port);
		return NULL;
	}
	wl_list_insert(find_bucket(device, guest_port), &connection->link);
	device->n_connections++;
	return connection;
}

static bool is_full(const struct vsock_device *device)
{
	if (device->n_connections < VSOCK_CONNECTIONS_MAX) {
		return false;
	}
	log_limited(LOG_WARN, "vm cid %u: too many connections (%d)", device->config.guest_cid,
		VSOCK_CONNECTIONS_MAX);
	return true;
}

static void handle_request(struct vsock_device *device, const struct virtio_vsock_hdr *header)
{
	uint32_t guest_port = le32toh(header->src_port), host_port = le32toh(header->dst_port);
	struct vsock_connection *connection = NULL;
	if (!device->stopping && !is_full(device)) {
		int fd = device->config.open(device->config.data, host_port, guest_port);
		connection =
			fd < 0 ? NULL : add_connection(device, fd, guest_port, host_port, false);
	}
	if (connection == NULL) {
		reject(device, header);
		return;
	}
	log_limited(LOG_INFO, "vm cid %u port %u: connected to port %u", device->config.guest_cid,
		guest_port, host_port);
	connection->guest_room = le32toh(header->buf_alloc);
	work(device, connection);
}

// False: its chain is lent.
static bool handle_of_connection(struct vsock_device *device, struct vsock_connection *connection,
	const struct virtio_vsock_hdr *header)
{
	// What is no session of ours may answer so soon that the call for this one wakes the guest for that.
	device->hurry |= connection->lender == NULL;
	enum vsock_status status = vsock_connection_handle(connection, header, &device->chain);
	if (status == VSOCK_OK || status == VSOCK_LENT) {
		work(device, connection);
	} else {
		settle(device, connection, status);
	}
	return status != VSOCK_LENT;
}

// As above.
static bool handle_packet(struct vsock_device *device, const struct virtio_vsock_hdr *header)
{
	if (le64toh(header->src_cid) != device->config.guest_cid) {
		log_limited(LOG_WARN, "vm cid %u: a packet in the name of cid %llu",
			device->config.guest_cid, (unsigned long long)le64toh(header->src_cid));
		return true;
	}
	if (le64toh(header->dst_cid) != VSOCK_HOST_CID ||
		le16toh(header->type) != VIRTIO_VSOCK_TYPE_STREAM) {
		reject(device, header); // any program of the guest can try those
		return true;
	}
	struct vsock_connection *connection =
		find_connection(device, le32toh(header->src_port), le32toh(header->dst_port));
	if (connection != NULL) {
		return handle_of_connection(device, connection, header);
	}
	if (le16toh(header->op) == VIRTIO_VSOCK_OP_REQUEST) {
		handle_request(device, header);
	} else {
		reject(device, header);
	}
	return true;
}

// NULL, or what is wrong with what the guest has put into its queue.
static const char *read_packet(struct vsock_device *device, struct virtio_vsock_hdr *header)
{
	const struct virtqueue_chain *chain = &device->chain;
	if (chain->writable > 0 || chain->readable < VSOCK_HEADER) {
		return "a packet without a header";
	}
	virtqueue_chain_read(chain, 0, header, VSOCK_HEADER);
	if (le32toh(header->len) > chain->readable - VSOCK_HEADER) {
		return "a packet that is shorter than it says";
	}
	return NULL;
}

// False: nothing is there, or nothing more may be read.
static bool handle_chain(struct vsock_device *device)
{
	struct virtqueue *queue = vhost_user_queue(device->vhost, VSOCK_TX);
	if (queue == NULL || !may_send_more_resets(device)) {
		return false;
	}
	struct virtio_vsock_hdr header;
	const char *wrong;
	switch (virtqueue_pop(queue, vhost_user_memory(device->vhost), &device->chain)) {
	case VIRTQUEUE_CHAIN:
		wrong = read_packet(device, &header);
		break;
	case VIRTQUEUE_BROKEN:
		wrong = queue->wrong;
		break;
	default:
		return virtqueue_want_kick(queue);
	}
	if (wrong != NULL) {
		vhost_user_fail(device->vhost, wrong);
		return false;
	}
	uint16_t head = device->chain.head;
	if (handle_packet(device, &header)) {
		vhost_user_give_back(device->vhost, VSOCK_TX, head);
	}
	return true;
}

static void handle_packets(struct vsock_device *device)
{
	struct virtqueue *queue = vhost_user_queue(device->vhost, VSOCK_TX);
	if (queue != NULL) {
		virtqueue_refuse_kick(queue);
	}
	int n = 0;
	while (n < PACKETS_PER_WAKE && handle_chain(device)) {
		n++;
	}
	if (n == PACKETS_PER_WAKE) {
		handle_more_later(device);
	}
}

// The guest has made room.
static void send_waiting(struct vsock_device *device)
{
	bool room = send_resets(device);
	while (room && !wl_list_empty(&device->waiting)) {
		struct vsock_connection *connection =
			wl_container_of(device->waiting.next, connection, waiting);
		room = work(device, connection);
	}
}

static void handle_more(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_device *device = data;
	handle_packets(device);
	call_guest(device);
}

static void handle_kicked(void *data, unsigned int queue)
{
	struct vsock_device *device = data;
	if (queue == VSOCK_TX) {
		handle_packets(device);
	} else if (queue == VSOCK_RX) {
		struct virtqueue *ring = vhost_user_queue(device->vhost, VSOCK_RX);
		virtqueue_refuse_kick(ring);
		send_waiting(device);
	}
	call_guest(device);
}

static bool handle_drain(void *data, unsigned int queue)
{
	struct vsock_device *device = data;
	const struct timeval longest = {.tv_sec = DRAIN_MS / 1000};
	vhost_user_call(device->vhost, queue);
	device->draining = queue == VSOCK_TX && device->loans.count > 0;
	if (device->draining && event_add(device->drained, &longest) < 0) {
		reset_lending(device);
		device->draining = false;
	}
	return !device->draining;
}

// Some session does not move, and the VMM waits.
static void handle_drained(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct vsock_device *device = data;
	reset_lending(device);
	call_guest(device);
	check_drained(device);
}

static void handle_memory_changed(void *data)
{
	struct vsock_device *device = data;
	for (size_t i = 0; i < BUCKETS; i++) {
		struct vsock_connection *connection, *next;
		wl_list_for_each_safe (connection, next, &device->buckets[i], link) {
			work(device, connection);
		}
	}
	call_guest(device);
}

static void handle_reset(void *data)
{
	close_all(data);
}

static void handle_ended(void *data, const char *wrong)
{
	struct vsock_device *device = data;
	device->config.ended(device->config.data, wrong);
}

static const struct vhost_user_handler handler = {
	.started = handle_kicked,
	.kicked = handle_kicked,
	.drain = handle_drain,
	.memory_changed = handle_memory_changed,
	.reset = handle_reset,
	.ended = handle_ended,
};

static bool create_parts(struct vsock_device *device)
{
	const struct vhost_user_config config = {
		.base = device->config.base,
		.fd = device->config.fd,
		.device = &device->space,
		.device_size = sizeof(device->space),
		.n_queues = VSOCK_QUEUES,
		.handler = &handler,
		.data = device,
	};
	device->config.fd = -1;
	device->vhost = vhost_user_create(&config);
	if (device->vhost == NULL) {
		return false;
	}
	device->sender = calloc(1, sizeof(*device->sender));
	device->resets = evbuffer_new();
	device->more = evtimer_new(device->config.base, handle_more, device);
	device->late = evtimer_new(device->config.base, handle_late, device);
	device->drained = evtimer_new(device->config.base, handle_drained, device);
	if (device->sender == NULL || device->resets == NULL || device->more == NULL ||
		device->late == NULL || device->drained == NULL) {
		errno = ENOMEM;
		return false;
	}
	device->sender->vhost = device->loans.vhost = device->vhost;
	return true;
}

struct vsock_device *vsock_device_create(const struct vsock_device_config *config)
{
	struct vsock_device *device = calloc(1, sizeof(*device));
	if (device == NULL) {
		close(config->fd);
		return NULL;
	}
	device->config = *config;
	page_loans_init(&device->loans.pages, config->buffers);
	device->space.guest_cid = htole64(config->guest_cid);
	device->next_port = FIRST_PORT;
	wl_list_init(&device->waiting);
	for (size_t i = 0; i < BUCKETS; i++) {
		wl_list_init(&device->buckets[i]);
	}
	if (!create_parts(device)) {
		int saved = errno;
		vsock_device_destroy(device);
		errno = saved;
		return NULL;
	}
	return device;
}

void vsock_device_destroy(struct vsock_device *device)
{
	if (device == NULL) {
		return;
	}
	device->config.closed = NULL;
	if (device->resets != NULL) {
		close_all(device);
		evbuffer_free(device->resets);
	}
	if (device->more != NULL) {
		event_free(device->more);
	}
	if (device->late != NULL) {
		event_free(device->late);
	}
	if (device->drained != NULL) {
		event_free(device->drained);
	}
	page_loans_finish(&device->loans.pages);
	vhost_user_destroy(device->vhost);
	free(device->sender);
	free(device);
}

static uint32_t choose_port(struct vsock_device *device, uint32_t guest_port)
{
	uint32_t port;
	do {
		port = device->next_port++;
		device->next_port = device->next_port == 0 ? FIRST_PORT : device->next_port;
	} while (find_connection(device, guest_port, port) != NULL);
	return port;
}

int vsock_device_connect(struct vsock_device *device, int fd, uint32_t guest_port)
{
	if (device->stopping || is_full(device)) {
		close(fd);
		return -ECONNREFUSED;
	}
	uint32_t host_port = choose_port(device, guest_port);
	struct vsock_connection *connection =
		add_connection(device, fd, guest_port, host_port, true);
	if (connection == NULL) {
		return -ENOMEM;
	}
	log_limited(LOG_INFO, "vm cid %u port %u: being connected from port %u",
		device->config.guest_cid, guest_port, host_port);
	work(device, connection);
	call_guest(device);
	return 0;
}

void vsock_device_stop(struct vsock_device *device)
{
	device->stopping = true;
}

size_t vsock_device_connections(const struct vsock_device *device)
{
	return device->n_connections;
}
