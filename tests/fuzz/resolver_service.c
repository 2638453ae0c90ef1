/*
 * Hostile sessions of a GPU's device: what they ask, in any text and with any fds, how many of them, and that
 * they read nothing of what they have asked for.
 *
 * Each answer has a buffer or says that there is none; nobody gets a buffer without an answer. Whatever
 * sessions have done, the next one is served.
 */

#include <event2/event.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "host-proxy/admission.h"
#include "host-proxy/gpu_resources.h"
#include "host-proxy/resolver_service.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/stand_ins.h"
#include "tests/fuzz/things.h"

#define SESSIONS  8
#define KNOWN     7 // and what else is odd
#define TEXT_MAX  1100
#define REPLY_MAX 512
#define TURNS     4
#define MANY      64 // times that one asks the same
#define NO_TURN   0x80

enum operation {
	CONNECT,
	ASK,
	ASK_MANY,
	SAY,
	LONG,
	HEAR,
	SHUT,
	CLOSE,
	OPERATIONS,
};

struct fixture {
	struct event_base *base;
	struct resolver_service *service;
	struct admission admission;
	struct sockaddr_un address;
	socklen_t address_len;
	struct things things;
	int buffer;
	int sessions[SESSIONS]; // -1: none
};

static const char *get_buffer(void *data, uint32_t id, struct gpu_buffer *buffer)
{
	const struct fixture *fixture = data;
	*buffer = (struct gpu_buffer){.fd = fixture->buffer, .stride = id};
	return id % 2 == KNOWN % 2 ? NULL : "there is no such resource";
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < TURNS; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

/* At an abstract name that the kernel chooses. */
static int start_listening(struct fixture *fixture)
{
	struct sockaddr *address = (struct sockaddr *)&fixture->address;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	fixture->address.sun_family = AF_UNIX;
	fixture->address_len = sizeof(fixture->address);
	fuzz_check(fd >= 0 && bind(fd, address, sizeof(sa_family_t)) == 0 &&
			getsockname(fd, address, &fixture->address_len) == 0 &&
			listen(fd, SOMAXCONN) == 0,
		"it can be listened");
	return fd;
}

static void begin(struct fixture *fixture)
{
	*fixture = (struct fixture){.base = event_base_new(), .buffer = stand_in_buffer(1)};
	memset(fixture->sessions, -1, sizeof(fixture->sessions));
	things_init(&fixture->things);
	const struct resolver_service_config config = {
		.base = fixture->base,
		.listen_fd = start_listening(fixture),
		.admission = &fixture->admission,
		.get_buffer = get_buffer,
		.data = fixture,
	};
	fixture->service = resolver_service_create(&config);
	fuzz_check(fixture->service != NULL, "there is memory");
}

static void end(struct fixture *fixture)
{
	for (int i = 0; i < SESSIONS; i++) {
		things_close(&fixture->sessions[i]);
	}
	resolver_service_destroy(fixture->service);
	close(fixture->buffer);
	things_finish(&fixture->things);
	event_base_free(fixture->base);
}

static void do_connect(struct fixture *fixture, int *session)
{
	things_close(session);
	*session = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const struct sockaddr *address = (const struct sockaddr *)&fixture->address;
	fuzz_check(connect(*session, address, fixture->address_len) == 0, "there is somebody");
}

/* Takes what is in fds. */
static void send_text(int session, const char *text, size_t len, struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = (void *)text, .iov_len = len};
	if (session >= 0) {
		scm_send(session, &iov, 1, fds, fds->count);
	}
	fdlist_finish(fds);
}

static void ask(int session, uint32_t id)
{
	char text[64];
	struct fdlist none;
	fdlist_init(&none);
	int len = snprintf(text, sizeof(text), "{\"GetBuffer\":{\"id\":%u}}", id);
	send_text(session, text, (size_t)len, &none);
}

/* An answer that has come; false: there is none. */
static bool hear(int session, bool *has_buffer)
{
	char text[REPLY_MAX + 1] = "";
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv(session, text, REPLY_MAX, &fds);
	size_t count = fds.count;
	fdlist_finish(&fds);
	*has_buffer = count == 1;
	if (n <= 0) {
		fuzz_check(count == 0, "nobody gets a buffer without an answer");
		return false;
	}
	fuzz_check(strcmp(text, "\"Invalid\"") == 0 ? count == 0 : count == 1,
		"an answer has a buffer or says that there is none");
	return true;
}

static void do_say(struct fixture *fixture, int session, size_t repeat, struct fuzz_input *input)
{
	static char text[TEXT_MAX];
	struct fdlist fds;
	things_take(&fixture->things, input, &fds);
	size_t len = fuzz_take8(input);
	len = fuzz_take(input, text, len);
	size_t all = len;
	while (len > 0 && repeat > 0 && all + len <= TEXT_MAX) {
		memcpy(text + all, text, len);
		all += len;
		repeat--;
	}
	send_text(session, text, all, &fds);
}

static void do_operation(struct fixture *fixture, struct fuzz_input *input, uint8_t number)
{
	int *session = &fixture->sessions[fuzz_take8(input) % SESSIONS];
	bool has_buffer;
	uint32_t id;
	switch ((enum operation)(number % OPERATIONS)) {
	case CONNECT:
		do_connect(fixture, session);
		break;
	case ASK:
		ask(*session, fuzz_take8(input));
		break;
	case ASK_MANY:
		id = fuzz_take8(input);
		for (int i = 0; i < MANY; i++) {
			ask(*session, id);
		}
		break;
	case SAY:
		do_say(fixture, *session, 0, input);
		break;
	case LONG:
		do_say(fixture, *session, TEXT_MAX, input);
		break;
	case HEAR:
		if (*session >= 0) {
			hear(*session, &has_buffer);
		}
		break;
	case SHUT:
		shutdown(*session, fuzz_take8(input) % 3);
		break;
	case CLOSE:
		things_close(session);
		break;
	case OPERATIONS:
		break;
	}
}

static void check_service(struct fixture *fixture)
{
	bool has_buffer;
	turn(fixture);
	do_connect(fixture, &fixture->sessions[0]);
	ask(fixture->sessions[0], KNOWN);
	turn(fixture);
	fuzz_check(hear(fixture->sessions[0], &has_buffer) && has_buffer, "the next one is served");
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
	}
	check_service(&fixture);
	end(&fixture);
}
