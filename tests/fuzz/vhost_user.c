/*
 * A hostile VMM: any vhost-user message with any fds, whole or in parts, and memory that it writes to
 * while a device works on the rings in it.
 */

#include <event2/event.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/vhost_message.h"
#include "host-proxy/vhost_user.h"
#include "host-proxy/virtqueue.h"
#include "tests/fuzz/fuzz.h"

#define PAGE        4096u
#define MEMORY_SIZE (16 * PAGE)
#define BODY_MAX    320
#define FDS_MAX     10
#define CHAINS_MAX  64 // that the device takes at once
#define PEEK_MAX    64 // bytes that it reads and writes of each
#define TURNS       3
#define LAST_TURNS  1000 // to read whatever was sent
#define NO_TURN     0x80 // of an operation: the device sees it together with the next one

enum thing {
	MEMORY,
	PAGE_OF_MEMORY,
	ODD_MEMORY,
	EMPTY_MEMORY,
	READ_ONLY_MEMORY,
	SEALED_MEMORY,
	EVENT_0,
	EVENT_1,
	EVENT_2,
	FULL_EVENT,
	ENDED_PIPE,
	BROKEN_PIPE,
	FULL_PIPE,
	SOCKET,
	DIRECTORY,
	THINGS,
};

enum operation {
	MESSAGE,
	TABLE,
	RING,
	WRITE_MEMORY,
	KICK,
	READ_REPLIES,
	BYTES,
	HANG_UP,
	OPERATIONS,
};

struct fixture {
	struct event_base *base;
	struct vhost_user *vhost;
	int fd;             // the VMM's end; -1: hung up
	int things[THINGS]; // -1: not made
	unsigned int ends;
	uint64_t space;
};

// ---- things ----

static int make_memory(size_t size, unsigned int seals)
{
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fuzz_check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "a memfd can be made");
	fuzz_check(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0, "a memfd can be sealed");
	return fd;
}

static int make_read_only_memory(void)
{
	int fd = make_memory(PAGE, 0);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reopened = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	return reopened;
}

static int make_full_event(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	fuzz_check(fd >= 0 && eventfd_write(fd, UINT64_MAX - 1) == 0, "an eventfd can be made");
	return fd;
}

static int make_pipe(int end)
{
	int fds[2];
	fuzz_check(pipe2(fds, O_CLOEXEC) == 0, "a pipe can be made");
	close(fds[1 - end]);
	return fds[end];
}

// A write to it would wait for ever.
static int make_full_pipe(void)
{
	int fds[2];
	fuzz_check(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe can be made");
	char bytes[PAGE] = {0};
	while (write(fds[1], bytes, sizeof(bytes)) > 0) {
	}
	fcntl(fds[1], F_SETFL, 0);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[1]);
	int both = open(path, O_RDWR | O_CLOEXEC); // never without a reader
	close(fds[0]);
	close(fds[1]);
	return both;
}

static int make_socket(void)
{
	int fds[2];
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0,
		"a socket can be made");
	send(fds[1], "bytes", 5, MSG_NOSIGNAL);
	close(fds[1]);
	return fds[0];
}

static int make_thing(enum thing thing)
{
	switch (thing) {
	case MEMORY:
		return make_memory(MEMORY_SIZE, 0);
	case PAGE_OF_MEMORY:
		return make_memory(PAGE, 0);
	case ODD_MEMORY:
		return make_memory(PAGE + 100, 0);
	case EMPTY_MEMORY:
		return make_memory(0, 0);
	case READ_ONLY_MEMORY:
		return make_read_only_memory();
	case SEALED_MEMORY:
		return make_memory(PAGE, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	case EVENT_0:
	case EVENT_1:
	case EVENT_2:
		return eventfd(0, EFD_CLOEXEC);
	case FULL_EVENT:
		return make_full_event();
	case ENDED_PIPE:
		return make_pipe(0);
	case BROKEN_PIPE:
		return make_pipe(1);
	case FULL_PIPE:
		return make_full_pipe();
	case SOCKET:
		return make_socket();
	case DIRECTORY:
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case THINGS:
		break;
	}
	return -1;
}

static int get_thing(struct fixture *fixture, uint8_t number)
{
	enum thing thing = number % THINGS;
	if (fixture->things[thing] < 0) {
		fixture->things[thing] = make_thing(thing);
		fuzz_check(fixture->things[thing] >= 0, "an fd can be made");
	}
	return fixture->things[thing];
}

// ---- the device ----

static void use_chain(struct virtqueue *queue, const struct virtqueue_chain *chain)
{
	uint8_t bytes[PEEK_MAX] = {0};
	size_t readable = chain->readable < PEEK_MAX ? chain->readable : PEEK_MAX;
	size_t writable = chain->writable < PEEK_MAX ? chain->writable : PEEK_MAX;
	virtqueue_chain_read(chain, 0, bytes, readable);
	virtqueue_chain_write(chain, bytes, writable);
	virtqueue_push(queue, chain, writable);
}

static void use_queue(void *data, unsigned int index)
{
	struct fixture *fixture = data;
	struct virtqueue *queue = vhost_user_queue(fixture->vhost, index);
	struct virtqueue_chain chain;
	fuzz_check(queue != NULL, "a queue that is told of may be used");
	for (int i = 0; i < CHAINS_MAX; i++) {
		switch (virtqueue_pop(queue, vhost_user_memory(fixture->vhost), &chain)) {
		case VIRTQUEUE_EMPTY:
			virtqueue_want_kick(queue);
			vhost_user_call(fixture->vhost, index);
			return;
		case VIRTQUEUE_BROKEN:
			vhost_user_fail(fixture->vhost, queue->wrong);
			return;
		case VIRTQUEUE_CHAIN:
			use_chain(queue, &chain);
			break;
		}
	}
	vhost_user_call(fixture->vhost, index);
}

static void handle_reset(void *data)
{
	(void)data;
}

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	(void)wrong;
	fixture->ends++;
}

static const struct vhost_user_handler handler = {
	.started = use_queue,
	.kicked = use_queue,
	.reset = handle_reset,
	.ended = handle_ended,
};

static void begin(struct fixture *fixture)
{
	int pair[2];
	*fixture = (struct fixture){.space = 3};
	memset(fixture->things, -1, sizeof(fixture->things));
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
		"a connection can be made");
	fixture->base = event_base_new();
	fixture->fd = pair[0];
	const struct vhost_user_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.device = &fixture->space,
		.device_size = sizeof(fixture->space),
		.n_queues = VHOST_USER_QUEUES_MAX,
		.handler = &handler,
		.data = fixture,
	};
	fixture->vhost = vhost_user_create(&config);
	fuzz_check(fixture->vhost != NULL, "a device can be made");
}

static void close_if_open(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
	fuzz_check(fixture->ends <= 1, "a connection ends once");
	for (unsigned int i = 0; fixture->ends > 0 && i < VHOST_USER_QUEUES_MAX; i++) {
		fuzz_check(vhost_user_queue(fixture->vhost, i) == NULL,
			"no queue outlives the connection");
	}
}

static void end(struct fixture *fixture)
{
	close_if_open(&fixture->fd);
	for (int i = 0; i < LAST_TURNS && fixture->ends == 0; i++) {
		turn(fixture);
	}
	fuzz_check(fixture->ends == 1, "the device sees that the VMM is gone");
	vhost_user_destroy(fixture->vhost);
	event_base_free(fixture->base);
	for (int i = 0; i < THINGS; i++) {
		close_if_open(&fixture->things[i]);
	}
}

// ---- what the VMM does ----

static void send_message(struct fixture *fixture, const struct vhost_header *header,
	const void *body, size_t len, const struct fdlist *fds)
{
	const struct iovec iov[] = {
		{.iov_base = (void *)header, .iov_len = sizeof(*header)},
		{.iov_base = (void *)body, .iov_len = len},
	};
	if (fixture->fd >= 0) {
		scm_send(fixture->fd, iov, 2, fds, fds->count);
	}
}

static void send_request(struct fixture *fixture, uint32_t request, const void *body, size_t len,
	const struct fdlist *fds)
{
	const struct fdlist none = {0};
	const struct vhost_header header = {
		.request = request,
		.flags = 1,
		.size = (uint32_t)len,
	};
	send_message(fixture, &header, body, len, fds != NULL ? fds : &none);
}

// Anything: request, flags, how long it is and says it is, fds.
static void do_message(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t body[BODY_MAX];
	int numbers[FDS_MAX];
	struct fdlist fds = {.fds = numbers};
	struct vhost_header header = {.request = fuzz_take8(input)};
	header.flags = fuzz_take8(input) ^ 1u; // 0 is right
	size_t n_fds = fuzz_take8(input) % (FDS_MAX + 1);
	for (size_t i = 0; i < n_fds; i++) {
		numbers[fds.count++] = get_thing(fixture, fuzz_take8(input));
	}
	size_t len = fuzz_take16(input) % (BODY_MAX + 1);
	header.size = (uint32_t)len + fuzz_take8(input);
	len = fuzz_take(input, body, len);
	send_message(fixture, &header, body, len, &fds);
}

// A memory table that makes sense more often than not.
static void do_table(struct fixture *fixture, struct fuzz_input *input)
{
	struct vhost_mem_table table = {.count = fuzz_take8(input) % (VHOST_TABLE_MAX + 1)};
	int numbers[VHOST_TABLE_MAX];
	struct fdlist fds = {.fds = numbers};
	for (uint32_t i = 0; i < table.count; i++) {
		struct guest_range *range = &table.ranges[i];
		range->address = fuzz_take8(input) * (uint64_t)PAGE;
		range->size = fuzz_take8(input) * (uint64_t)PAGE / 4;
		range->user_address = fuzz_take8(input) * (uint64_t)PAGE;
		range->offset = fuzz_take8(input) * (uint64_t)PAGE / 4;
		numbers[fds.count++] = get_thing(fixture, fuzz_take8(input));
	}
	size_t len =
		offsetof(struct vhost_mem_table, ranges) + table.count * sizeof(struct guest_range);
	send_request(fixture, VHOST_SET_MEM_TABLE, &table, len, &fds);
}

static void send_state(struct fixture *fixture, uint32_t request, uint32_t index, uint32_t number)
{
	const struct vhost_vring_state state = {.index = index, .number = number};
	send_request(fixture, request, &state, sizeof(state), NULL);
}

static void send_event(struct fixture *fixture, uint32_t request, uint64_t index, uint8_t thing)
{
	int fd = get_thing(fixture, thing);
	const struct fdlist fds = {.fds = &fd, .count = 1};
	send_request(fixture, request, &index, sizeof(index), &fds);
}

// All that a queue needs, in pieces of 16 bytes.
static void do_ring(struct fixture *fixture, struct fuzz_input *input)
{
	uint32_t index = fuzz_take8(input) % VHOST_USER_QUEUES_MAX;
	send_state(fixture, VHOST_SET_VRING_NUM, index, 1u << fuzz_take8(input) % 17);
	send_state(fixture, VHOST_SET_VRING_BASE, index, fuzz_take16(input));
	struct vhost_vring_addr addr = {.index = index};
	addr.desc = fuzz_take16(input) * UINT64_C(16);
	addr.avail = fuzz_take16(input) * UINT64_C(16);
	addr.used = fuzz_take16(input) * UINT64_C(16);
	send_request(fixture, VHOST_SET_VRING_ADDR, &addr, sizeof(addr), NULL);
	send_event(fixture, VHOST_SET_VRING_CALL, index, fuzz_take8(input));
	send_event(fixture, VHOST_SET_VRING_KICK, index, fuzz_take8(input));
	send_state(fixture, VHOST_SET_VRING_ENABLE, index, 1);
}

static void do_write_memory(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX];
	off_t offset = fuzz_take16(input) % MEMORY_SIZE;
	size_t len = fuzz_take(input, bytes, fuzz_take8(input));
	if ((size_t)offset + len <= MEMORY_SIZE) {
		fuzz_check(pwrite(get_thing(fixture, MEMORY), bytes, len, offset) == (ssize_t)len,
			"memory can be written to");
	}
}

static void do_kick(struct fixture *fixture, struct fuzz_input *input)
{
	eventfd_write(get_thing(fixture, EVENT_0 + fuzz_take8(input) % 3), 1);
}

static void do_read_replies(struct fixture *fixture)
{
	char bytes[PAGE];
	while (fixture->fd >= 0 && recv(fixture->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
	}
}

// Part of a message, or none.
static void do_bytes(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX];
	size_t len = fuzz_take(input, bytes, fuzz_take8(input));
	if (fixture->fd >= 0) {
		send(fixture->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

static void do_operation(
	struct fixture *fixture, struct fuzz_input *input, enum operation operation)
{
	switch (operation) {
	case MESSAGE:
		do_message(fixture, input);
		break;
	case TABLE:
		do_table(fixture, input);
		break;
	case RING:
		do_ring(fixture, input);
		break;
	case WRITE_MEMORY:
		do_write_memory(fixture, input);
		break;
	case KICK:
		do_kick(fixture, input);
		break;
	case READ_REPLIES:
		do_read_replies(fixture);
		break;
	case BYTES:
		do_bytes(fixture, input);
		break;
	case HANG_UP:
		close_if_open(&fixture->fd);
		break;
	case OPERATIONS:
		break;
	}
}

void fuzz_one(struct fuzz_input *input)
{
	struct fixture fixture;
	begin(&fixture);
	while (input->size > 0 && fixture.ends == 0) {
		uint8_t byte = fuzz_take8(input);
		do_operation(&fixture, input, (byte & ~NO_TURN) % OPERATIONS);
		if ((byte & NO_TURN) == 0) {
			turn(&fixture);
		}
	}
	end(&fixture);
}
