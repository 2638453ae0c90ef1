#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#include <wayland-util.h>
#include <cmocka.h>

#include "tests/support/carried.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"

/*
 * Programs on both sides do what they like with sockets and fds, as a seed has it. A model knows what
 * must come out of every socket: each byte in its place, and each fd with the byte, or the record,
 * that it was sent with. The same scripts over direct sockets say that the model is right. With an odd
 * seed, one session may stand still for a while.
 *
 *     OPAQUE_SEEDS=A-B        these scripts, short ones up to 999; one alone tells its steps
 *     OPAQUE_STEPS=N          the first N steps; each has random numbers of its own
 *     OPAQUE_OMIT=A-B,C-D...  without the steps from A to B, and so on
 */

#define LONG_SEEDS   1000 // from here on scripts are long
#define SMALL_SEEDS  30
#define SMALL_STEPS  250
#define LARGE_SEEDS  5
#define LARGE_STEPS  2500
#define MAX_LEN      200000
#define MAX_FDS      8
#define MAX_CONTENT  60000 // of a pipe or a file
#define MAX_LINKS    24
#define MAX_HELD     64 // fds other than sockets
#define MAX_STILL    40 // turns
#define HANG_SECONDS 90

enum side { GUEST, HOST };

enum kind { SOCKET, PIPE_READER, PIPE_WRITER, EVENTFD, SEALED, READ_ONLY, DEV_NULL, N_KINDS };

static const char *const kind_names[N_KINDS] = {"socket", "pipe reader", "pipe writer", "eventfd",
	"sealed memfd", "read-only memfd", "null"};

enum place {
	HELD,      // by a program: fd
	UNDER_WAY, // in a message
	CHECKED,   // held, and read or written to
	GONE,
};

struct thing {
	struct wl_list link; // script.things
	unsigned int id;
	enum kind kind;
	enum side side; // of who holds it, or has last
	enum place place;
	int fd;   // -1: not HELD or CHECKED
	int near; // what its maker has kept: a pipe's other end, the same eventfd; -1: nothing

	// of a pipe, an eventfd or a memfd
	size_t total, in, out;
	enum side maker; // of an eventfd: where it is written to

	// of a socket, one of two
	struct thing *peer;
	int type;
	bool is_root;
	bool written;         // nothing more is: closed, or half-closed
	bool ended;           // its end was read
	uint64_t sent;        // bytes
	uint64_t received;    // bytes
	struct wl_list inbox; // message.link, sent by peer
};

struct message {
	struct wl_list link; // thing.inbox
	size_t len, read;
	struct thing *things[MAX_FDS];
	size_t n_things;
};

struct script {
	unsigned int seed, step, n_steps;
	bool direct, verbose;
	struct paint_rng rng;
	struct carried carried;
	struct wl_list things; // thing.link
	unsigned int n_things, n_links;

	enum { BOTH, ONLY_GUEST, ONLY_HOST } running;
	int32_t running_turns; // for so many
	struct paint_rng turns_rng;
};

static __attribute__((noreturn, format(printf, 2, 3))) void broken(
	const struct script *script, const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fail_msg("OPAQUE_SEEDS=%u-%u%s, step %u: %s", script->seed, script->seed,
		script->direct ? " (direct)" : "", script->step, text);
	abort();
}

static __attribute__((format(printf, 2, 3))) void tell(
	const struct script *script, const char *format, ...)
{
	va_list args;
	if (script->verbose) {
		fprintf(stderr, "%u: ", script->step);
		va_start(args, format);
		vfprintf(stderr, format, args);
		va_end(args);
		fputc('\n', stderr);
	}
}

static void choose_running(struct script *script)
{
	if (script->seed % 2 == 1 && script->running_turns-- <= 0) {
		script->running_turns = paint_range(&script->turns_rng, 0, MAX_STILL);
		script->running = paint_range(&script->turns_rng, BOTH, ONLY_HOST);
	}
}

static void turn(struct script *script)
{
	if (script->direct) {
		return;
	}
	choose_running(script);
	if (script->running != ONLY_HOST) {
		carried_turn_guest(&script->carried);
	}
	if (script->running != ONLY_GUEST) {
		carried_turn_host(&script->carried);
	}
	const struct pair *pair = &script->carried.pair;
	if (pair->guest.reason[0] != '\0' || pair->host.reason[0] != '\0') {
		broken(script, "the session has failed: guest: %s, host: %s", pair->guest.reason,
			pair->host.reason);
	}
}

static uint8_t pattern(const struct thing *thing, uint64_t at)
{
	return (uint8_t)(at * 31 + (at >> 8) * 17 + (at >> 16) * 5 + thing->id * 101);
}

static void fill(const struct thing *thing, uint64_t at, uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		bytes[i] = pattern(thing, at + i);
	}
}

static void expect_pattern(const struct script *script, const struct thing *thing, uint64_t at,
	const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] != pattern(thing, at + i)) {
			broken(script, "byte %llu from %s %u is wrong", (unsigned long long)at + i,
				kind_names[thing->kind], thing->id);
		}
	}
}

/* ---- things ---- */

static struct thing *add_thing(struct script *script, enum kind kind, enum side side, int fd)
{
	struct thing *thing = calloc(1, sizeof(*thing));
	thing->id = script->n_things++;
	thing->kind = kind;
	thing->side = side;
	thing->fd = fd;
	thing->near = -1;
	wl_list_init(&thing->inbox);
	wl_list_insert(script->things.prev, &thing->link);
	return thing;
}

static void add_link(struct script *script, int type, enum side a, enum side b, const int fds[2])
{
	struct thing *ends[2] = {
		add_thing(script, SOCKET, a, fds[0]),
		add_thing(script, SOCKET, b, fds[1]),
	};
	for (int i = 0; i < 2; i++) {
		ends[i]->peer = ends[!i];
		ends[i]->type = type;
		ends[i]->is_root = script->n_links == 0;
	}
	script->n_links++;
	tell(script, "%s of sockets %u and %u", type == SOCK_STREAM ? "a stream" : "records",
		ends[0]->id, ends[1]->id);
}

static void feed(struct script *script, struct thing *thing, size_t up_to);

static struct thing *make_pipe(struct script *script, enum kind kind, enum side side)
{
	int ends[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	int away = kind == PIPE_WRITER;
	struct thing *thing = add_thing(script, kind, side, ends[away]);
	thing->near = ends[!away];
	thing->total = (size_t)paint_range(&script->rng, 0, MAX_CONTENT);
	feed(script, thing, thing->total / 3);
	return thing;
}

static struct thing *make_eventfd(struct script *script, enum side side)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(fd >= 0);
	struct thing *thing = add_thing(script, EVENTFD, side, fd);
	thing->near = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	thing->maker = side;
	thing->total = (size_t)paint_range(&script->rng, 2, 1000);
	feed(script, thing, thing->total / 3);
	return thing;
}

static int reopen(int fd, int flags)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int own = open(path, flags | O_CLOEXEC);
	assert_true(own >= 0);
	close(fd);
	return own;
}

#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static struct thing *make_memfd(struct script *script, enum kind kind, enum side side)
{
	static uint8_t bytes[MAX_CONTENT];
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	struct thing *thing = add_thing(script, kind, side, fd);
	thing->total = (size_t)paint_range(&script->rng, 1, MAX_CONTENT);
	fill(thing, 0, bytes, thing->total);
	assert_int_equal(pwrite(fd, bytes, thing->total, 0), thing->total);
	if (kind == SEALED) {
		assert_int_equal(fcntl(fd, F_ADD_SEALS, ALL_SEALS), 0);
	} else {
		thing->fd = reopen(fd, O_RDONLY);
	}
	return thing;
}

static struct thing *make_thing(struct script *script, enum side side)
{
	enum kind kind = (enum kind)paint_range(&script->rng, PIPE_READER, N_KINDS - 1);
	switch (kind) {
	case PIPE_READER:
	case PIPE_WRITER:
		return make_pipe(script, kind, side);
	case EVENTFD:
		return make_eventfd(script, side);
	case DEV_NULL:
		return add_thing(script, DEV_NULL, side, open("/dev/null", O_RDWR | O_CLOEXEC));
	default:
		return make_memfd(script, kind, side);
	}
}

static void lose(struct thing *thing);

static void drop_message(struct message *message)
{
	bool taken = message->read > 0;
	for (size_t i = 0; i < message->n_things && !taken; i++) {
		lose(message->things[i]);
	}
	wl_list_remove(&message->link);
	free(message);
}

/* Nobody has it any more, nor what is on its way to it. */
static void lose(struct thing *thing)
{
	struct message *message, *next;
	carried_close(&thing->fd);
	carried_close(&thing->near);
	thing->place = GONE;
	thing->written = true;
	wl_list_for_each_safe (message, next, &thing->inbox, link) {
		drop_message(message);
	}
}

static bool is_held(const struct thing *thing, bool socket)
{
	return thing->place == HELD && (thing->kind == SOCKET) == socket;
}

static size_t count_held(const struct script *script, bool sockets)
{
	size_t n = 0;
	struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		n += is_held(thing, sockets);
	}
	return n;
}

/* NULL: nobody holds one. */
static struct thing *pick_held(struct script *script, bool socket)
{
	size_t n = count_held(script, socket);
	if (n == 0) {
		return NULL;
	}
	int32_t at = paint_range(&script->rng, 0, (int32_t)n - 1);
	struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (is_held(thing, socket) && at-- == 0) {
			return thing;
		}
	}
	return NULL;
}

/* ---- sending ---- */

static bool is_among(const struct thing *thing, const struct message *message)
{
	for (size_t i = 0; i < message->n_things; i++) {
		if (message->things[i] == thing) {
			return true;
		}
	}
	return false;
}

/* The socket at which thing will come out if it is under way. */
static const struct thing *bearer(const struct script *script, const struct thing *thing)
{
	const struct thing *socket;
	wl_list_for_each (socket, &script->things, link) {
		const struct message *message;
		wl_list_for_each (message, &socket->inbox, link) {
			if (message->read == 0 && is_among(thing, message)) {
				return socket;
			}
		}
	}
	return NULL;
}

/* If socket is sent to where to is, can somebody still get at it? */
static bool stays_reachable(
	const struct script *script, const struct thing *socket, const struct thing *to)
{
	while (to != NULL && to->place == UNDER_WAY && to != socket) {
		to = bearer(script, to);
	}
	return to != NULL && to->place == HELD && to != socket;
}

static bool can_go(
	const struct script *script, const struct thing *thing, const struct thing *through)
{
	if (thing->place != HELD || thing->side != through->side || thing->is_root) {
		return false;
	}
	return thing->kind != SOCKET || stays_reachable(script, thing, through->peer);
}

static void choose_things(
	struct script *script, const struct thing *through, struct message *message)
{
	int32_t n = paint_once_in(&script->rng, 2) ? paint_range(&script->rng, 0, MAX_FDS) : 0;
	for (int32_t i = 0; i < n; i++) {
		bool socket = paint_once_in(&script->rng, 3);
		struct thing *thing = pick_held(script, socket);
		if (thing == NULL || !can_go(script, thing, through) || is_among(thing, message)) {
			bool full = count_held(script, false) > MAX_HELD;
			thing = full ? NULL : make_thing(script, through->side);
		}
		if (thing != NULL) {
			message->things[message->n_things++] = thing;
		}
	}
}

static ssize_t send_message(int fd, const struct message *message, uint8_t *bytes)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = {0};
	struct iovec iov = {bytes, message->len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (message->n_things > 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(message->n_things * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(message->n_things * sizeof(int));
		for (size_t i = 0; i < message->n_things; i++) {
			memcpy(CMSG_DATA(c) + i * sizeof(int), &message->things[i]->fd,
				sizeof(int));
		}
	}
	return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int32_t choose_len(struct script *script, const struct thing *through)
{
	static const int32_t most[] = {16, 5000, 66000, MAX_LEN};
	int32_t least = through->type == SOCK_SEQPACKET ? 0 : 1;
	return paint_range(&script->rng, least, most[paint_range(&script->rng, 0, 3)]);
}

static void post(struct thing *through, struct message *message, size_t len)
{
	message->len = len;
	through->sent += len;
	for (size_t i = 0; i < message->n_things; i++) {
		struct thing *thing = message->things[i];
		carried_close(&thing->fd);
		thing->place = UNDER_WAY;
	}
	wl_list_insert(through->peer->inbox.prev, &message->link);
	if (through->peer->place == GONE) {
		drop_message(message);
	}
}

static void tell_sent(const struct script *script, const struct thing *through,
	const struct message *message, ssize_t n)
{
	tell(script, "send through %u: %zu bytes: %zd %s", through->id, message->len, n,
		n < 0 ? strerror(errno) : "sent");
	for (size_t i = 0; i < message->n_things; i++) {
		const struct thing *thing = message->things[i];
		tell(script, "\twith %s %u", kind_names[thing->kind], thing->id);
	}
}

static void do_send(struct script *script)
{
	static uint8_t bytes[MAX_LEN];
	struct thing *through = pick_held(script, true);
	if (through == NULL || through->written) {
		return;
	}
	struct message *message = calloc(1, sizeof(*message));
	message->len = (size_t)choose_len(script, through);
	choose_things(script, through, message);
	fill(through, through->sent, bytes, message->len);
	ssize_t n = send_message(through->fd, message, bytes);
	int error = n < 0 ? errno : 0;
	tell_sent(script, through, message, n);
	if (n >= 0) {
		post(through, message, (size_t)n);
		return;
	}
	bool left = through->peer->place == GONE && (error == EPIPE || error == ECONNRESET);
	bool too_long = error == EMSGSIZE && through->type == SOCK_SEQPACKET;
	if (error != EAGAIN && error != ETOOMANYREFS && !left && !too_long) {
		broken(script, "socket %u cannot be written to: %s", through->id, strerror(error));
	}
	free(message);
}

/* ---- what came is what was sent ---- */

/* The end of the pipe or the eventfd that is written to. */
static int *input(struct thing *thing)
{
	return thing->kind == PIPE_WRITER ? &thing->fd : &thing->near;
}

static int *output(struct thing *thing)
{
	return thing->kind == PIPE_WRITER ? &thing->near : &thing->fd;
}

/* Until it has taken so many bytes, or counts, in all. */
static void feed(struct script *script, struct thing *thing, size_t up_to)
{
	static uint8_t bytes[MAX_CONTENT];
	if (*input(thing) < 0 || thing->in >= up_to) {
		return;
	}
	size_t left = up_to - thing->in;
	uint64_t count = left;
	fill(thing, thing->in, bytes, left);
	ssize_t n = thing->kind == EVENTFD ? write(*input(thing), &count, sizeof(count))
					   : write(*input(thing), bytes, left);
	if (n < 0 && errno != EAGAIN) {
		broken(script, "%s %u cannot be written to: %s", kind_names[thing->kind], thing->id,
			strerror(errno));
	}
	if (n > 0) {
		thing->in += thing->kind == EVENTFD ? left : (size_t)n;
	}
}

static bool check_pipe(struct script *script, struct thing *thing)
{
	static uint8_t bytes[MAX_CONTENT];
	feed(script, thing, thing->total);
	if (thing->in == thing->total) {
		carried_close(input(thing));
	}
	ssize_t n = read(*output(thing), bytes, sizeof(bytes));
	if (n == 0 && thing->out == thing->total) {
		return true;
	}
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		broken(script, "%s %u ends after %zu of %zu bytes: %s", kind_names[thing->kind],
			thing->id, thing->out, thing->total, n < 0 ? strerror(errno) : "EOF");
	}
	if (n > 0) {
		expect_pattern(script, thing, thing->out, bytes, (size_t)n);
		thing->out += (size_t)n;
	}
	return false;
}

/* Its counts are moved to where it is read, which is not where they came from. */
static bool check_eventfd(struct script *script, struct thing *thing)
{
	uint64_t count;
	if (!script->direct && thing->side == thing->maker) {
		return true;
	}
	feed(script, thing, thing->total);
	if (read(thing->fd, &count, sizeof(count)) == sizeof(count)) {
		thing->out += count;
	} else if (errno != EAGAIN) {
		broken(script, "eventfd %u: %s", thing->id, strerror(errno));
	}
	if (thing->out > thing->total) {
		broken(script, "eventfd %u has %zu of %zu counts", thing->id, thing->out,
			thing->total);
	}
	return thing->out == thing->total;
}

static bool check_memfd(struct script *script, struct thing *thing)
{
	static uint8_t bytes[MAX_CONTENT + 1];
	ssize_t n = pread(thing->fd, bytes, sizeof(bytes), 0);
	if (n != (ssize_t)thing->total) {
		broken(script, "%s %u has %zd of %zu bytes", kind_names[thing->kind], thing->id, n,
			thing->total);
	}
	expect_pattern(script, thing, 0, bytes, thing->total);
	if (thing->kind == SEALED && fcntl(thing->fd, F_GET_SEALS) != ALL_SEALS) {
		broken(script, "memfd %u has other seals", thing->id);
	}
	if (thing->kind == READ_ONLY && (fcntl(thing->fd, F_GETFL) & O_ACCMODE) != O_RDONLY) {
		broken(script, "memfd %u can be written to", thing->id);
	}
	return true;
}

static bool check_null(struct script *script, struct thing *thing)
{
	struct stat st;
	assert_int_equal(fstat(thing->fd, &st), 0);
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3)) {
		broken(script, "/dev/null is something else");
	}
	return true;
}

/* True once it has turned out to be right. */
static bool check_thing(struct script *script, struct thing *thing)
{
	switch (thing->kind) {
	case PIPE_READER:
	case PIPE_WRITER:
		return check_pipe(script, thing);
	case EVENTFD:
		return check_eventfd(script, thing);
	case SEALED:
	case READ_ONLY:
		return check_memfd(script, thing);
	default:
		return check_null(script, thing);
	}
}

static void check_all(struct script *script)
{
	struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (thing->place == CHECKED && check_thing(script, thing)) {
			lose(thing);
		}
	}
}

static mode_t format_of(enum kind kind)
{
	switch (kind) {
	case SOCKET:
		return S_IFSOCK;
	case PIPE_READER:
	case PIPE_WRITER:
		return S_IFIFO;
	case SEALED:
	case READ_ONLY:
		return S_IFREG;
	case DEV_NULL:
		return S_IFCHR;
	default:
		return 0;
	}
}

/* ---- receiving ---- */

struct arrival {
	ssize_t len;
	int fds[2 * MAX_FDS];
	size_t n_fds;
};

static struct arrival receive(int fd, uint8_t *bytes, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * MAX_FDS * sizeof(int))];
	} control;
	struct iovec iov = {bytes, len};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct arrival arrival = {.len = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)};
	struct cmsghdr *c = arrival.len < 0 ? NULL : CMSG_FIRSTHDR(&msg);
	for (; c != NULL; c = CMSG_NXTHDR(&msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		if (c->cmsg_type == SCM_RIGHTS) {
			memcpy(arrival.fds + arrival.n_fds, CMSG_DATA(c), n * sizeof(int));
			arrival.n_fds += n;
		}
	}
	return arrival;
}

static void take_thing(struct script *script, const struct thing *from, struct thing *thing, int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	if ((st.st_mode & S_IFMT) != format_of(thing->kind)) {
		broken(script, "%s %u has become something else", kind_names[thing->kind],
			thing->id);
	}
	thing->fd = fd;
	thing->side = from->side;
	bool keep = thing->kind == SOCKET || paint_once_in(&script->rng, 3);
	thing->place = keep && thing->kind != EVENTFD ? HELD : CHECKED;
}

static void take_things(struct script *script, const struct thing *from,
	const struct message *message, const struct arrival *arrival)
{
	size_t n = message != NULL && message->read == 0 ? message->n_things : 0;
	if (n != arrival->n_fds) {
		broken(script, "socket %u: %zu fds instead of %zu at byte %llu", from->id,
			arrival->n_fds, n, (unsigned long long)from->received);
	}
	for (size_t i = 0; i < n; i++) {
		take_thing(script, from, message->things[i], arrival->fds[i]);
	}
}

static struct message *front(const struct thing *thing)
{
	struct message *message;
	return wl_list_empty(&thing->inbox) ? NULL
					    : wl_container_of(thing->inbox.next, message, link);
}

/* Of a stream: up to the next byte with fds but the first one. */
static size_t plain_len(const struct thing *thing)
{
	size_t len = 0;
	const struct message *message;
	wl_list_for_each (message, &thing->inbox, link) {
		if (len > 0 && message->n_things > 0) {
			break;
		}
		len += message->len - message->read;
	}
	return len;
}

static void take_bytes(struct thing *thing, size_t len)
{
	struct message *message;
	thing->received += len;
	while ((message = front(thing)) != NULL) {
		size_t left = message->len - message->read;
		size_t n = len < left ? len : left;
		message->read += n;
		len -= n;
		if (message->read < message->len) {
			return;
		}
		wl_list_remove(&message->link);
		free(message);
		if (len == 0) {
			return;
		}
	}
}

static void take_end(struct script *script, struct thing *thing)
{
	if (!wl_list_empty(&thing->inbox) || !thing->peer->written) {
		broken(script, "socket %u ends at byte %llu of %llu", thing->id,
			(unsigned long long)thing->received, (unsigned long long)thing->peer->sent);
	}
	thing->ended = true;
}

static void check_arrival(struct script *script, struct thing *thing, const uint8_t *bytes,
	const struct arrival *arrival)
{
	struct message *message = front(thing);
	size_t len = (size_t)arrival->len;
	if (message == NULL) {
		broken(script, "socket %u: %zu bytes that nobody sent", thing->id, len);
	}
	if (thing->type == SOCK_SEQPACKET && len != message->len) {
		broken(script, "socket %u: a record of %zu instead of %zu bytes", thing->id, len,
			message->len);
	}
	expect_pattern(script, thing->peer, thing->received, bytes, len);
	take_things(script, thing, message, arrival);
	take_bytes(thing, len);
}

/* Reads something; false if there is nothing yet, or never will be. */
static bool read_from(struct script *script, struct thing *thing, size_t len)
{
	static uint8_t bytes[MAX_LEN + 1];
	const struct message *message = front(thing);
	struct arrival arrival = receive(thing->fd, bytes, len);
	tell(script, "read from %u: %zd of %zu bytes, %zu fds", thing->id, arrival.len, len,
		arrival.n_fds);
	if (arrival.len < 0) {
		bool reset = errno == ECONNRESET && thing->peer->place == GONE;
		if (errno != EAGAIN && !reset) {
			broken(script, "socket %u cannot be read: %s", thing->id, strerror(errno));
		}
		return reset;
	}
	bool empty = thing->type == SOCK_SEQPACKET && message != NULL && message->len == 0;
	if (arrival.len == 0 && !empty) {
		take_end(script, thing);
		return false;
	}
	check_arrival(script, thing, bytes, &arrival);
	return true;
}

/* The most that can be read at once and be told apart. */
static size_t readable_len(const struct thing *thing)
{
	if (thing->type == SOCK_SEQPACKET || wl_list_empty(&thing->inbox)) {
		return MAX_LEN + 1;
	}
	size_t len = plain_len(thing);
	return len < MAX_LEN ? len : MAX_LEN;
}

static void do_receive(struct script *script)
{
	struct thing *thing = pick_held(script, true);
	if (thing == NULL || thing->ended) {
		return;
	}
	size_t len = readable_len(thing);
	if (thing->type == SOCK_STREAM && paint_once_in(&script->rng, 2)) {
		len = (size_t)paint_range(&script->rng, 1, (int32_t)len);
	}
	while (read_from(script, thing, len) && paint_once_in(&script->rng, 2)) {
		len = readable_len(thing);
	}
}

/* ---- scripts ---- */

static void make_link(struct script *script)
{
	int fds[2];
	struct thing *maker = pick_held(script, true);
	if (script->n_links >= MAX_LINKS || maker == NULL) {
		return;
	}
	int type = paint_once_in(&script->rng, 2) ? SOCK_STREAM : SOCK_SEQPACKET;
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), 0);
	add_link(script, type, maker->side, maker->side, fds);
}

static void close_half(struct script *script)
{
	struct thing *thing = pick_held(script, true);
	if (thing != NULL && !thing->is_root && !thing->written) {
		tell(script, "half-close of %u", thing->id);
		assert_int_equal(shutdown(thing->fd, SHUT_WR), 0);
		thing->written = true;
	}
}

static void close_one(struct script *script)
{
	struct thing *thing = pick_held(script, paint_once_in(&script->rng, 2));
	if (thing != NULL && !thing->is_root) {
		tell(script, "close of %s %u", kind_names[thing->kind], thing->id);
		lose(thing);
	}
}

static void do_step(struct script *script)
{
	script->rng.state = (uint64_t)script->seed << 32 | (script->step + 1);
	paint_next(&script->rng);
	int32_t what = paint_range(&script->rng, 0, 99);
	int32_t turns = paint_range(&script->rng, 0, 2);
	if (what < 45) {
		do_send(script);
	} else if (what < 85) {
		do_receive(script);
	} else if (what < 92) {
		make_link(script);
	} else if (what < 94) {
		close_half(script);
	} else if (what < 96) {
		close_one(script);
	} else {
		check_all(script);
	}
	while (turns-- > 0) {
		turn(script);
	}
}

static bool is_settled(const struct script *script)
{
	const struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (thing->kind == SOCKET ? !wl_list_empty(&thing->inbox) : thing->place != GONE) {
			return false;
		}
	}
	return true;
}

static void settle_some(struct script *script)
{
	struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (is_held(thing, false)) {
			thing->place = CHECKED;
		}
		while (is_held(thing, true) && !wl_list_empty(&thing->inbox) &&
			read_from(script, thing, readable_len(thing))) {
		}
	}
	check_all(script);
}

static void describe_left(const struct script *script)
{
	const struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (thing->place != GONE) {
			fprintf(stderr,
				"%s %u: place %d, side %d, %zu of %zu, %llu read, %d to come\n",
				kind_names[thing->kind], thing->id, thing->place, thing->side,
				thing->out, thing->total, (unsigned long long)thing->received,
				wl_list_length(&thing->inbox));
		}
	}
}

static void wait_until(struct script *script, bool (*done)(const struct script *script),
	void (*advance)(struct script *script), const char *what)
{
	time_t deadline = time(NULL) + HANG_SECONDS;
	for (unsigned int turns = 0; !done(script); turns++) {
		turn(script);
		advance(script);
		if (turns > 500) {
			usleep(500);
		}
		if (time(NULL) > deadline) {
			describe_left(script);
			broken(script, "%s", what);
		}
	}
}

static bool have_ended(const struct script *script)
{
	const struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (is_held(thing, true) && !thing->ended) {
			return false;
		}
	}
	return true;
}

static void read_ends(struct script *script)
{
	struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (is_held(thing, true) && !thing->ended) {
			read_from(script, thing, readable_len(thing));
		}
	}
}

/* One end of each pair is closed; the other one sees it. */
static void close_sockets(struct script *script)
{
	struct thing *thing;
	wl_list_for_each (thing, &script->things, link) {
		if (is_held(thing, true) && thing->peer->place == HELD) {
			lose(thing->peer);
		}
	}
	wait_until(script, have_ended, read_ends, "an end that does not come");
	wl_list_for_each (thing, &script->things, link) {
		lose(thing);
	}
}

static void begin(struct script *script)
{
	wl_list_init(&script->things);
	script->rng.state = script->turns_rng.state = script->seed;
	const struct pair_options options = {
		.service_type = script->seed % 3 == 2 ? SOCK_SEQPACKET : SOCK_STREAM,
		.max_fds = 60000, // eventfds stay until the end
		.channel_buffer = script->seed % 4 == 3 ? 1 : 0,
		.local_buffer = script->seed % 5 == 4 ? 30000 : 0,
	};
	int fds[2];
	if (script->direct) {
		assert_int_equal(
			socketpair(AF_UNIX, options.service_type | SOCK_CLOEXEC, 0, fds), 0);
	} else {
		carried_init(&script->carried, &options);
		fds[GUEST] = script->carried.client;
		fds[HOST] = script->carried.service;
		script->carried.client = script->carried.service = -1;
	}
	add_link(script, options.service_type, GUEST, HOST, fds);
}

static void finish(struct script *script)
{
	if (!script->direct) {
		carried_leave(&script->carried);
		carried_finish(&script->carried);
	}
	struct thing *thing, *next;
	wl_list_for_each_safe (thing, next, &script->things, link) {
		free(thing);
	}
}

static unsigned int number(const char *name, unsigned int otherwise)
{
	const char *value = getenv(name);
	return value == NULL ? otherwise : (unsigned int)strtoul(value, NULL, 10);
}

static bool is_omitted(unsigned int step)
{
	const char *omit = getenv("OPAQUE_OMIT");
	unsigned int first, last;
	while (omit != NULL && sscanf(omit, "%u-%u", &first, &last) == 2) {
		if (step >= first && step <= last) {
			return true;
		}
		omit = strchr(omit, ',');
		omit += omit != NULL;
	}
	return false;
}

static void run_script(unsigned int seed, unsigned int n_steps, bool direct, bool verbose)
{
	struct script script = {
		.seed = seed,
		.n_steps = number("OPAQUE_STEPS", n_steps),
		.direct = direct,
		.verbose = verbose,
	};
	size_t fds = fd_count();
	begin(&script);
	for (script.step = 0; script.step < script.n_steps; script.step++) {
		if (!is_omitted(script.step)) {
			do_step(&script);
		}
	}
	wait_until(&script, is_settled, settle_some, "something does not arrive");
	close_sockets(&script);
	finish(&script);
	if (fd_count() != fds) {
		broken(&script, "%zu fds are open, %zu were before", fd_count(), fds);
	}
}

static void run_scripts(unsigned int first, unsigned int n, unsigned int n_steps, bool direct)
{
	unsigned int last = first + n - 1, least = first, most = first + LONG_SEEDS - 1;
	const char *seeds = getenv("OPAQUE_SEEDS");
	if (seeds != NULL) {
		assert_int_equal(sscanf(seeds, "%u-%u", &first, &last), 2);
		first = first < least ? least : first;
		last = last > most ? most : last;
	}
	for (unsigned int seed = first; seed <= last; seed++) {
		run_script(seed, n_steps, direct, seeds != NULL && first == last);
	}
}

static void the_model_is_what_direct_sockets_do(void **state)
{
	(void)state;
	run_scripts(0, SMALL_SEEDS, SMALL_STEPS, true);
	run_scripts(LONG_SEEDS, LARGE_SEEDS, LARGE_STEPS, true);
}

static void every_byte_and_every_fd_comes_where_it_belongs(void **state)
{
	(void)state;
	run_scripts(0, SMALL_SEEDS, SMALL_STEPS, false);
}

static void so_they_do_in_long_sessions(void **state)
{
	(void)state;
	run_scripts(LONG_SEEDS, LARGE_SEEDS, LARGE_STEPS, false);
}

int main(void)
{
	struct rlimit fds = {0};
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &fds);
	fds.rlim_cur = fds.rlim_max;
	setrlimit(RLIMIT_NOFILE, &fds);
	const struct CMUnitTest tests[] = {
		fd_count_test(the_model_is_what_direct_sockets_do),
		fd_count_test(every_byte_and_every_fd_comes_where_it_belongs),
		fd_count_test(so_they_do_in_long_sessions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
