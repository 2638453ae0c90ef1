/*
 * Both ends of one session, with somebody between them who reads, changes and adds frames, and with
 * local peers that send any bytes and fds: a client and a compositor, or those of a service of
 * unknown protocol.
 */

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/fdlist.h"
#include "base/mapping.h"
#include "base/scm.h"
#include "channel/input.h"
#include "fdpass/region.h"
#include "fdpass/resolver.h"
#include "protocol/channel.h"
#include "relay/handshake.h"
#include "relay/session.h"
#include "tests/fuzz/fuzz.h"

#define PAGE        4096u
#define REGION_SIZE (1u << 20)
#define MAX_MEMORY  (16u << 20)
#define MAX_FDS     64
#define MAX_IDS     1000
#define BYTES_MAX   65536
#define BODY_MAX    600
#define WORDS_MAX   12
#define HELD_MAX    8 // fds that were received
#define SENT_MAX    4 // at once
#define TURNS       2
#define LAST_TURNS  20
#define NO_TURN     0x80 // of an operation: the sessions see it together with the next one

enum { GUEST, HOST };

static const struct budget_limits limits = {
	.most =
		{
			[BUDGET_MEMORY] = MAX_MEMORY,
			[BUDGET_UNSENT] = 96u << 20,
			[BUDGET_OBJECTS] = MAX_IDS,
			[BUDGET_FDS] = MAX_FDS,
			[BUDGET_STREAMS] = MAX_FDS,
			[BUDGET_POOLS] = MAX_FDS,
			[BUDGET_MAPPED] = UINT64_C(1) << 40,
			[BUDGET_PENDING] = 1024,
			[BUDGET_FLIGHT] = 256,
			[BUDGET_FRAMES] = 1u << 16,
		},
};

enum thing {
	MEMORY,
	SEALED_MEMORY,
	FILE_TO_READ,
	PIPE_READ,
	PIPE_WRITE,
	STREAM_A,
	STREAM_B,
	RECORDS_A,
	RECORDS_B,
	EVENT,
	SEMAPHORE,
	NULL_DEVICE,
	DIRECTORY,
	THINGS,
};

enum operation {
	CARRY,
	CARRY_SOME,
	CARRY_CHANGED,
	FRAME,
	SAY,
	MESSAGE,
	LISTEN,
	WRITE,
	READ,
	RESIZE,
	SHUT,
	CLOSE,
	LEAVE,
	CUT,
	OPERATIONS,
};

struct side {
	struct budget budget;
	struct session *session;
	int channel, local; // the far ends of the session's two sockets; -1: closed
	unsigned int ends;
};

struct fixture {
	struct event_base *base;
	struct side sides[2];
	int things[THINGS]; // -1: not made, or closed
	int held[HELD_MAX]; // likewise
	size_t next_held;
};

// ---- fds ----

static void close_if_open(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}

static int make_memory(unsigned int seals)
{
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fuzz_check(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0, "a memfd can be made");
	fuzz_check(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0, "a memfd can be sealed");
	return fd;
}

static int make_file(void)
{
	int fd = make_memory(0);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reopened = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	return reopened;
}

static void make_pair(struct fixture *fixture, enum thing first, int type)
{
	int pair[2];
	int status = type == 0 ? pipe2(pair, O_CLOEXEC | O_NONBLOCK)
			       : socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
	fuzz_check(status == 0, "a pair can be made");
	close_if_open(&fixture->things[first]);
	close_if_open(&fixture->things[first + 1]);
	fixture->things[first] = pair[0];
	fixture->things[first + 1] = pair[1];
}

static void make_thing(struct fixture *fixture, enum thing thing)
{
	int *fd = &fixture->things[thing];
	switch (thing) {
	case MEMORY:
		*fd = make_memory(0);
		break;
	case SEALED_MEMORY:
		*fd = make_memory(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
		break;
	case FILE_TO_READ:
		*fd = make_file();
		break;
	case PIPE_READ:
	case PIPE_WRITE:
		make_pair(fixture, PIPE_READ, 0);
		break;
	case STREAM_A:
	case STREAM_B:
		make_pair(fixture, STREAM_A, SOCK_STREAM);
		break;
	case RECORDS_A:
	case RECORDS_B:
		make_pair(fixture, RECORDS_A, SOCK_SEQPACKET);
		break;
	case EVENT:
		*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		break;
	case SEMAPHORE:
		*fd = eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
		break;
	case NULL_DEVICE:
		*fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		break;
	case DIRECTORY:
		*fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		break;
	case THINGS:
		break;
	}
	fuzz_check(*fd >= 0, "an fd can be made");
}

// One that was received, or a thing, which is made at need.
static int *get_fd(struct fixture *fixture, uint8_t number)
{
	if (number >= 0x80) {
		return &fixture->held[number % HELD_MAX];
	}
	enum thing thing = number % THINGS;
	if (fixture->things[thing] < 0) {
		make_thing(fixture, thing);
	}
	return &fixture->things[thing];
}

static void take_fds(struct fixture *fixture, struct fuzz_input *input, struct fdlist *fds)
{
	fdlist_init(fds);
	for (uint8_t n = fuzz_take8(input) % (SENT_MAX + 1); n > 0; n--) {
		int fd = *get_fd(fixture, fuzz_take8(input));
		if (fd >= 0) {
			fdlist_push(fds, fcntl(fd, F_DUPFD_CLOEXEC, 0));
		}
	}
}

// ---- dma-bufs ----

// Memory stands for them: what is done with the bytes is the same, what is told by ioctl(2) fails.
static int make_buffer(struct resolver *resolver, uint64_t size, struct resolver_buffer *buffer)
{
	(void)resolver;
	*buffer = (struct resolver_buffer){.size = (size + PAGE - 1) / PAGE * PAGE};
	buffer->fd = memfd_create("buffer", MFD_CLOEXEC);
	fuzz_check(buffer->fd >= 0 && ftruncate(buffer->fd, (off_t)buffer->size) == 0,
		"a buffer can be made");
	buffer->mapping = mapping_create(buffer->fd, buffer->size, true);
	fuzz_check(buffer->mapping != NULL, "a buffer can be mapped");
	return 0;
}

// Of two resources the GPU has one.
static int find_buffer(
	struct resolver *resolver, uint32_t resource, uint64_t size, struct resolver_buffer *buffer)
{
	if (resource % 2 != 0) {
		return -ENOENT;
	}
	int error = make_buffer(resolver, size, buffer);
	mapping_unref(buffer->mapping);
	buffer->mapping = NULL;
	return error;
}

static struct resolver *get_resolver(void)
{
	static const struct resolver_interface interface = {
		.name = "fuzz", .make = make_buffer, .find = find_buffer};
	static struct resolver resolver = {&interface};
	return &resolver;
}

// ---- the sessions ----

static void handle_ended(void *data, const char *reason)
{
	struct side *side = data;
	(void)reason;
	side->ends++;
}

static void create_side(
	struct fixture *fixture, int which, const struct session_options *common, int local_type)
{
	struct side *side = &fixture->sides[which];
	int channel[2], local[2];
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0 &&
			socketpair(AF_UNIX, local_type | SOCK_CLOEXEC, 0, local) == 0,
		"a connection can be made");
	*side = (struct side){.channel = channel[0], .local = local[0]};
	struct session_options options = *common;
	options.base = fixture->base;
	options.exports = which == GUEST ? WIRE_REQUEST : WIRE_EVENT;
	options.channel_fd = channel[1];
	options.local_fd = local[1];
	options.data = side;
	options.budget = &side->budget;
	side->budget.limits = limits;
	int region_fd = options.region != NULL ? options.region->fd : -1;
	if (which == GUEST) {
		const struct handshake_hello hello = {
			.service = "wayland",
			.features = common->dmabufs
				? CHANNEL_FEATURE_DMABUF | CHANNEL_FEATURE_HANDLE
				: 0,
		};
		fuzz_check(
			handshake_welcome(side->channel, &hello, hello.features, region_fd, 0) == 0,
			"WELCOME is sent");
		options.channel_input = channel_input_create_with_fd(options.channel_fd);
		region_destroy(options.region);
		options.region = NULL;
	}
	side->session = session_create(&options);
	fuzz_check(side->session != NULL, "a session can be made");
}

static void begin(struct fixture *fixture, uint8_t mode, uint8_t rules)
{
	*fixture = (struct fixture){.base = event_base_new()};
	memset(fixture->things, -1, sizeof(fixture->things));
	memset(fixture->held, -1, sizeof(fixture->held));
	struct session_options options = {
		.service = (mode & 1) != 0 ? "service" : NULL,
		.rules = {.shared = rules % 3, .unsupported = rules / 3 % 3},
		.dmabufs = (mode & 5) == 4,
		.resolver = get_resolver(),
		.handles = get_resolver(),
		.ended = handle_ended,
	};
	int type = (mode & 3) == 3 ? SOCK_SEQPACKET : SOCK_STREAM;
	for (int which = GUEST; which <= HOST; which++) {
		bool shares = options.service == NULL && (mode & 4) != 0;
		options.region = shares ? region_create(REGION_SIZE) : NULL;
		create_side(fixture, which, &options, type);
	}
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
	for (int i = 0; i < 2; i++) {
		fuzz_check(fixture->sides[i].ends <= 1, "a session ends once");
	}
}

static void check_budget(const struct budget *budget)
{
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		fuzz_check(budget->used[i] == 0, "a budget is released");
	}
}

static void end(struct fixture *fixture)
{
	for (int i = 0; i < 2; i++) {
		close_if_open(&fixture->sides[i].local);
		close_if_open(&fixture->sides[i].channel);
	}
	for (int i = 0; i < LAST_TURNS; i++) {
		turn(fixture);
	}
	for (int i = 0; i < 2; i++) {
		session_destroy(fixture->sides[i].session);
		check_budget(&fixture->sides[i].budget);
	}
	for (int i = 0; i < THINGS; i++) {
		close_if_open(&fixture->things[i]);
	}
	for (int i = 0; i < HELD_MAX; i++) {
		close_if_open(&fixture->held[i]);
	}
	event_base_free(fixture->base);
}

// ---- what is done ----

// The next of these bytes go to the other side; one of them is changed first if change is not 0.
static void carry(struct fixture *fixture, int from, size_t max, uint16_t at, uint8_t change)
{
	static uint8_t bytes[BYTES_MAX];
	int in = fixture->sides[from].channel, out = fixture->sides[1 - from].channel;
	if (in < 0 || out < 0) {
		return;
	}
	ssize_t n = recv(in, bytes, max < BYTES_MAX ? max : BYTES_MAX, MSG_DONTWAIT);
	if (n > 0) {
		bytes[at % (size_t)n] ^= change;
		send(out, bytes, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	} else if (n == 0) {
		shutdown(out, SHUT_WR);
	}
}

static void do_frame(struct side *side, struct fuzz_input *input)
{
	uint8_t body[BODY_MAX];
	struct channel_header header = {.type = fuzz_take8(input)};
	uint8_t id = fuzz_take8(input);
	header.id = (id & 0x7fu) | ((id & 0x80) != 0 ? CHANNEL_ID_HOST : 0);
	uint8_t arg = fuzz_take8(input);
	header.arg = arg == UINT8_MAX ? fuzz_take32(input) : arg;
	size_t len = fuzz_take16(input) % (BODY_MAX + 1);
	header.length = (uint32_t)len + fuzz_take8(input);
	len = fuzz_take(input, body, len);
	const struct fdlist none = {0};
	const struct iovec iov[] = {
		{.iov_base = &header, .iov_len = sizeof(header)},
		{.iov_base = body, .iov_len = len},
	};
	if (side->channel >= 0) {
		scm_send(side->channel, iov, 2, &none, 0);
	}
}

static void send_local(struct side *side, void *data, size_t len, struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = data, .iov_len = len};
	if (side->local >= 0) {
		scm_send(side->local, &iov, 1, fds, fds->count);
	}
	fdlist_finish(fds);
}

static void do_say(struct fixture *fixture, struct side *side, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX];
	struct fdlist fds;
	take_fds(fixture, input, &fds);
	size_t len = fuzz_take(input, bytes, fuzz_take8(input));
	send_local(side, bytes, len, &fds);
}

// Of Wayland, with a length that is right.
static void do_message(struct fixture *fixture, struct side *side, struct fuzz_input *input)
{
	uint32_t words[2 + WORDS_MAX];
	struct fdlist fds;
	take_fds(fixture, input, &fds);
	words[0] = fuzz_take8(input);
	uint8_t opcode = fuzz_take8(input);
	uint32_t n = fuzz_take8(input) % (WORDS_MAX + 1);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t word = fuzz_take8(input);
		words[2 + i] = word == UINT8_MAX ? fuzz_take32(input) : word;
	}
	uint32_t len = (2 + n) * (uint32_t)sizeof(words[0]);
	words[1] = len << 16 | opcode;
	send_local(side, words, len, &fds);
}

static void do_listen(struct fixture *fixture, struct side *side)
{
	static uint8_t bytes[BYTES_MAX];
	struct fdlist fds;
	fdlist_init(&fds);
	if (side->local >= 0) {
		scm_recv(side->local, bytes, sizeof(bytes), &fds);
	}
	while (fds.count > 0) {
		int *held = &fixture->held[fixture->next_held++ % HELD_MAX];
		close_if_open(held);
		*held = fdlist_take(&fds);
	}
	fdlist_finish(&fds);
}

static bool is_ready(int fd, short what)
{
	struct pollfd poll_fd = {.fd = fd, .events = what};
	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & what) != 0;
}

static void do_write(struct fixture *fixture, struct fuzz_input *input)
{
	uint8_t bytes[UINT8_MAX + 1] = {1}; // at least one count of an eventfd
	int fd = *get_fd(fixture, fuzz_take8(input));
	size_t len = fuzz_take8(input);
	if (fd >= 0 && is_ready(fd, POLLOUT)) {
		(void)!write(fd, bytes, len);
	}
}

static void do_read(struct fixture *fixture, struct fuzz_input *input)
{
	static uint8_t bytes[BYTES_MAX];
	int fd = *get_fd(fixture, fuzz_take8(input));
	if (fd >= 0 && is_ready(fd, POLLIN)) {
		(void)!read(fd, bytes, sizeof(bytes));
	}
}

static void do_resize(struct fixture *fixture, struct fuzz_input *input)
{
	int fd = *get_fd(fixture, fuzz_take8(input));
	uint16_t size = fuzz_take16(input);
	if (fd >= 0) {
		(void)!ftruncate(fd, size);
	}
}

static void do_shut(struct fixture *fixture, struct fuzz_input *input)
{
	int fd = *get_fd(fixture, fuzz_take8(input));
	shutdown(fd, fuzz_take8(input) % 3);
}

static void do_operation(struct fixture *fixture, struct fuzz_input *input, uint8_t number)
{
	int which = number / OPERATIONS % 2;
	struct side *side = &fixture->sides[which];
	uint16_t at;
	switch ((enum operation)(number % OPERATIONS)) {
	case CARRY:
		carry(fixture, which, BYTES_MAX, 0, 0);
		break;
	case CARRY_SOME:
		carry(fixture, which, fuzz_take8(input) + 1u, 0, 0);
		break;
	case CARRY_CHANGED:
		at = fuzz_take16(input);
		carry(fixture, which, BYTES_MAX, at, fuzz_take8(input));
		break;
	case FRAME:
		do_frame(side, input);
		break;
	case SAY:
		do_say(fixture, side, input);
		break;
	case MESSAGE:
		do_message(fixture, side, input);
		break;
	case LISTEN:
		do_listen(fixture, side);
		break;
	case WRITE:
		do_write(fixture, input);
		break;
	case READ:
		do_read(fixture, input);
		break;
	case RESIZE:
		do_resize(fixture, input);
		break;
	case SHUT:
		do_shut(fixture, input);
		break;
	case CLOSE:
		close_if_open(get_fd(fixture, fuzz_take8(input)));
		break;
	case LEAVE:
		close_if_open(&side->local);
		break;
	case CUT:
		close_if_open(&side->channel);
		break;
	case OPERATIONS:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .size = size};
	struct fixture fixture;
	fuzz_begin();
	uint8_t mode = fuzz_take8(&input);
	begin(&fixture, mode, fuzz_take8(&input));
	while (input.size > 0) {
		uint8_t number = fuzz_take8(&input);
		do_operation(&fixture, &input, number & (uint8_t)~NO_TURN);
		if ((number & NO_TURN) == 0) {
			turn(&fixture);
		}
	}
	end(&fixture);
	fuzz_end();
	return 0;
}
