/*
 * Hostile sessions, of a guest that means well: what they return of the payload that a vsock device has
 * lent them, what they ask of the guest's pages, and what they say in its name.
 *
 * They get the guest's memory only to read, and buffers only of its pages; none of them ends the device. When
 * they are gone, the guest has all its chains again.
 */

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "host-proxy/loan.h"
#include "host-proxy/page_lender.h"
#include "host-proxy/ram_buffer.h"
#include "host-proxy/vsock_device.h"
#include "protocol/channel.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/stand_ins.h"
#include "tests/fuzz/things.h"
#include "tests/support/virtual_machine.h"

#define SESSIONS   4
#define ROOT_PORT  1000 // of the guest's; the first session's
#define USER_PORT  2000
#define HOST_PORT  7000
#define TX         1
#define RANGES_MAX 8
#define TURNS      4
#define ROUNDS_MAX 2000
#define NO_TURN    0x80 // of an operation: the device sees it together with the next one

enum operation {
	CONNECT,
	SEND,
	RECEIVE,
	GUEST_SHUTS,
	GUEST_RESETS,
	NEW_TABLE,
	READ,
	RETURN,
	RETURN_ANYTHING,
	ASK,
	ASK_ANYTHING,
	HEAR,
	SAY,
	SHUT,
	CLOSE,
	OPERATIONS,
};

enum end {
	STREAM,
	RETURNS, // a pipe
	PAGES,   // a socket
	ENDS,
};

struct session {
	uint32_t port;  // the guest's; 0: it was never opened
	int ends[ENDS]; // -1: not given, or closed
	uint32_t lent;  // bytes of the last packet
};

struct fixture {
	struct event_base *base;
	struct ram_buffers buffers;
	struct machine machine;
	struct vsock_device *device;
	struct things things;
	struct session sessions[SESSIONS];
	size_t n_sessions;
	bool ended;
};

/* ---- udmabuf ---- */

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int make_list(const struct udmabuf_create_list *list)
{
	uint64_t size = 0;
	fuzz_check(list->count > 0 && list->count <= CHANNEL_MAX_RANGES, "a buffer has pieces");
	for (uint32_t i = 0; i < list->count; i++) {
		const struct udmabuf_create_item *item = &list->list[i];
		struct stat st;
		fuzz_check(fstat((int)item->memfd, &st) == 0 && st.st_size == MACHINE_MEMORY,
			"a piece is of the guest's memory");
		fuzz_check(item->size > 0 && item->size % CHANNEL_PAGE == 0 &&
				item->offset % CHANNEL_PAGE == 0 &&
				item->offset <= MACHINE_MEMORY &&
				item->size <= MACHINE_MEMORY - item->offset,
			"and lies in it, in whole pages");
		size += item->size;
	}
	fuzz_check(size <= CHANNEL_MAX_PAGES, "a buffer is not larger than it may be");
	return stand_in_buffer(CHANNEL_PAGE);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	va_start(args, request);
	void *arg = va_arg(args, void *);
	va_end(args);
	return request == UDMABUF_CREATE_LIST ? make_list(arg) : __real_ioctl(fd, request, arg);
}

/* ---- the device ---- */

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static int handle_open(void *data, uint32_t host_port, uint32_t guest_port)
{
	struct fixture *fixture = data;
	int pair[2];
	(void)host_port;
	if (fixture->n_sessions == SESSIONS) {
		return -EMFILE;
	}
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	fixture->sessions[fixture->n_sessions++] =
		(struct session){.port = guest_port, .ends = {pair[1], -1, -1}};
	return pair[0];
}

static bool handle_lends(void *data, uint32_t host_port)
{
	(void)data;
	(void)host_port;
	return true;
}

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	(void)wrong;
	fuzz_check(!fixture->ended, "a device ends once");
	fixture->ended = true;
}

static void begin(struct fixture *fixture)
{
	int pair[2];
	*fixture = (struct fixture){.base = event_base_new()};
	fixture->buffers = (struct ram_buffers){
		.device = open("/dev/null", O_RDWR | O_CLOEXEC),
		.max_pieces = CHANNEL_MAX_RANGES,
		.max_size = CHANNEL_MAX_PAGES,
	};
	things_init(&fixture->things);
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	const struct vsock_device_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.guest_cid = MACHINE_CID,
		.open = handle_open,
		.lends = handle_lends,
		.buffers = &fixture->buffers,
		.ended = handle_ended,
		.data = fixture,
	};
	fixture->device = vsock_device_create(&config);
	fuzz_check(fixture->device != NULL, "a device can be made");
	machine_init(&fixture->machine, pair[0],
		MACHINE_VERSION_1 | MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
	machine_boot(&fixture->machine, 32);
	turn(fixture);
}

static void receive_packets(struct fixture *fixture)
{
	static uint8_t payload[MACHINE_RX_SIZE];
	struct virtio_vsock_hdr header;
	while (machine_receive_packet(&fixture->machine, &header, payload, sizeof(payload))) {
	}
}

static void close_sessions(struct fixture *fixture)
{
	for (size_t i = 0; i < fixture->n_sessions; i++) {
		for (int which = 0; which < ENDS; which++) {
			things_close(&fixture->sessions[i].ends[which]);
		}
	}
}

/* All sessions are gone, or go when the guest's requests have been seen. */
static void check_chains(struct fixture *fixture)
{
	const struct machine_queue *queue = &fixture->machine.queues[TX];
	for (int i = 0; i < ROUNDS_MAX && queue->used->idx != queue->avail->idx; i++) {
		receive_packets(fixture);
		turn(fixture);
		close_sessions(fixture);
		usleep(10); // libevent's clock has ticks of some milliseconds
	}
	fuzz_check(queue->used->idx == queue->avail->idx, "the guest has its chains again");
	fuzz_check(!fixture->ended, "sessions do not end a device");
}

static void end(struct fixture *fixture)
{
	close_sessions(fixture);
	turn(fixture);
	close_sessions(fixture);
	check_chains(fixture);
	machine_finish(&fixture->machine);
	turn(fixture);
	vsock_device_destroy(fixture->device);
	ram_buffers_close(&fixture->buffers);
	things_finish(&fixture->things);
	event_base_free(fixture->base);
}

/* ---- the guest ---- */

static bool send_packet(
	struct fixture *fixture, uint32_t port, uint16_t operation, uint32_t flags, uint32_t len)
{
	static const uint8_t payload[MACHINE_TX_SIZE];
	struct virtio_vsock_hdr header = machine_header(port, HOST_PORT, operation);
	header.len = len;
	header.flags = flags;
	return machine_send_packet(&fixture->machine, &header, payload, len);
}

static void do_connect(struct fixture *fixture, struct fuzz_input *input)
{
	uint32_t first = fuzz_take8(input) % 4 == 0 ? USER_PORT : ROOT_PORT;
	send_packet(fixture, first + (uint32_t)fixture->n_sessions, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
}

/* As much as its window allows is not known to it: what is too much ends the connection. */
static void do_send(struct fixture *fixture, struct session *session, struct fuzz_input *input)
{
	uint32_t len = fuzz_take16(input);
	if (send_packet(fixture, session->port, VIRTIO_VSOCK_OP_RW, 0, len)) {
		session->lent = len;
	}
}

/* ---- a session ---- */

/* One that the device has given: known by what it is. */
static void keep_end(struct session *session, int fd)
{
	struct stat st;
	fuzz_check(fstat(fd, &st) == 0, "what is given is an fd");
	if (S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode)) {
		int *end = &session->ends[S_ISSOCK(st.st_mode) ? PAGES : RETURNS];
		fuzz_check(*end < 0, "a session has one of each end");
		*end = fd;
		return;
	}
	fuzz_check((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY, "memory is given to be read");
	close(fd);
}

static void do_read(struct session *session, struct fuzz_input *input)
{
	static uint8_t bytes[UINT16_MAX + 1];
	struct fdlist fds;
	size_t len = fuzz_take16(input) + 1u;
	fdlist_init(&fds);
	if (session->ends[STREAM] >= 0) {
		scm_recv(session->ends[STREAM], bytes, len, &fds);
	}
	while (fds.count > 0) {
		keep_end(session, fdlist_take(&fds));
	}
	fdlist_finish(&fds);
}

static void write_returns(const struct session *session, const void *data, size_t len)
{
	if (session->ends[RETURNS] >= 0 && things_ready(session->ends[RETURNS], POLLOUT)) {
		(void)!write(session->ends[RETURNS], data, len);
	}
}

static void do_return(const struct session *session, struct fuzz_input *input)
{
	struct loan_return record = {.length = session->lent};
	uint8_t shape = fuzz_take8(input);
	if ((shape & 1) != 0) {
		record.length = fuzz_take32(input);
	}
	for (int n = shape >> 1; n >= 0; n--) {
		write_returns(session, &record, sizeof(record));
	}
}

static void do_return_anything(const struct session *session, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX];
	size_t len = fuzz_take8(input);
	write_returns(session, bytes, fuzz_take(input, bytes, len));
}

/* Takes what is in fds. */
/* Mostly of pages that there are. */
static struct ram_range take_range(struct fuzz_input *input)
{
	uint8_t shape = fuzz_take8(input);
	uint64_t address = fuzz_take16(input), size = fuzz_take8(input);
	struct ram_range range = {
		.address = MACHINE_ADDRESS + address % 1025 * CHANNEL_PAGE,
		.size = size * CHANNEL_PAGE,
	};
	if ((shape & 1) != 0) {
		range.address = address << (shape >> 2);
	}
	if ((shape & 2) != 0) {
		range.size = (uint64_t)fuzz_take32(input) << (shape >> 2);
	}
	return range;
}

/* More than there may be, by asking for the last one again. */
static void do_ask(const struct session *session, struct fuzz_input *input)
{
	static struct ram_range ranges[CHANNEL_MAX_RANGES + 2];
	struct fdlist none;
	size_t n = fuzz_take8(input) % RANGES_MAX + 1u;
	size_t again = fuzz_take16(input) % (CHANNEL_MAX_RANGES + 2);
	for (size_t i = 0; i < n; i++) {
		ranges[i] = take_range(input);
	}
	for (; n < again; n++) {
		ranges[n] = ranges[n - 1];
	}
	fdlist_init(&none);
	things_send(session->ends[PAGES], ranges, n * sizeof(ranges[0]), &none);
}

static void do_hear(const struct session *session)
{
	struct page_answer answer;
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = -EAGAIN;
	if (session->ends[PAGES] >= 0) {
		n = scm_recv(session->ends[PAGES], &answer, sizeof(answer), &fds);
	}
	if (n > 0) {
		fuzz_check(n == sizeof(answer) && memchr(answer.wrong, '\0', PAGE_ANSWER_MAX),
			"an answer is one");
		fuzz_check(fds.count == (answer.wrong[0] == '\0'), "and has what it says");
	}
	fdlist_finish(&fds);
}

/* ---- all ---- */

static void do_with_session(struct fixture *fixture, struct session *session,
	struct fuzz_input *input, enum operation operation)
{
	switch (operation) {
	case SEND:
		do_send(fixture, session, input);
		break;
	case GUEST_SHUTS:
		send_packet(
			fixture, session->port, VIRTIO_VSOCK_OP_SHUTDOWN, fuzz_take8(input) % 4, 0);
		break;
	case GUEST_RESETS:
		send_packet(fixture, session->port, VIRTIO_VSOCK_OP_RST, 0, 0);
		break;
	case READ:
		do_read(session, input);
		break;
	case RETURN:
		do_return(session, input);
		break;
	case RETURN_ANYTHING:
		do_return_anything(session, input);
		break;
	case ASK:
		do_ask(session, input);
		break;
	case ASK_ANYTHING:
		things_send_bytes(&fixture->things, session->ends[PAGES], input);
		break;
	case HEAR:
		do_hear(session);
		break;
	case SAY:
		things_send_bytes(&fixture->things, session->ends[STREAM], input);
		break;
	case SHUT:
		shutdown(session->ends[fuzz_take8(input) % ENDS], fuzz_take8(input) % 3);
		break;
	case CLOSE:
		things_close(&session->ends[fuzz_take8(input) % ENDS]);
		break;
	default:
		break;
	}
}

static void do_operation(struct fixture *fixture, struct fuzz_input *input, uint8_t number)
{
	enum operation operation = number % OPERATIONS;
	if (operation == CONNECT) {
		do_connect(fixture, input);
	} else if (operation == RECEIVE) {
		receive_packets(fixture);
	} else if (operation == NEW_TABLE) {
		machine_send_memory(&fixture->machine);
		turn(fixture); // the socket holds only so many
	} else if (fixture->n_sessions > 0) {
		size_t i = fuzz_take8(input) % fixture->n_sessions;
		do_with_session(fixture, &fixture->sessions[i], input, operation);
	}
}

void fuzz_one(struct fuzz_input *input)
{
	struct fixture fixture;
	begin(&fixture);
	while (input->size > 0) {
		uint8_t number = fuzz_take8(input);
		do_operation(&fixture, input, number & (uint8_t)~NO_TURN);
		if ((number & NO_TURN) == 0) {
			turn(&fixture);
		}
		fuzz_check(!fixture.ended, "sessions do not end a device");
	}
	end(&fixture);
}
