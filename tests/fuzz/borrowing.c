/*
 * A hostile vsock device, which a guest has taken over, in front of a session: what it lends, of which files,
 * and what it answers when it is asked for the guest's pages.
 *
 * The session reads no more than it has room for, takes nothing for pages but a dma-buf that is as long as
 * what it has asked for, and goes on or says what is wrong.
 */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "channel/channel.h"
#include "channel/input.h"
#include "fdpass/kind.h"
#include "fdpass/pages.h"
#include "host-proxy/borrower.h"
#include "host-proxy/loan.h"
#include "host-proxy/page_client.h"
#include "host-proxy/page_lender.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/stand_ins.h"
#include "tests/fuzz/things.h"

#define PIECES   3
#define ROOM     (64u * 1024) // bytes of all pieces
#define SEGMENTS 4

enum operation {
	RECORD,
	LEND,
	BYTES,
	READ,
	RETURNS,
	ASK,
	ANSWER,
	ANSWER_ANYTHING,
	RESIZE,
	SHUT,
	OPERATIONS,
};

struct fixture {
	struct things things;
	int device; // its end of the stream
	int stream; // the session's
	struct channel_input *input;
	int lender;                 // the end of the one that lends pages
	struct page_buffers *pages; // the session's
};

static void begin(struct fixture *fixture)
{
	int stream[2], pages[2];
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream) == 0 &&
			socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pages) == 0,
		"a connection can be made");
	*fixture = (struct fixture){
		.device = stream[0],
		.stream = stream[1],
		.input = borrower_create(stream[1]),
		.lender = pages[0],
		.pages = page_client_create(pages[1]),
	};
	things_init(&fixture->things);
	fuzz_check(fixture->input != NULL && fixture->pages != NULL, "there is memory");
}

static void end(struct fixture *fixture)
{
	int pages = borrower_take_pages(fixture->input);
	things_close(&pages);
	channel_input_destroy(fixture->input);
	page_buffers_destroy(fixture->pages);
	close(fixture->device);
	close(fixture->stream);
	close(fixture->lender);
	things_finish(&fixture->things);
}

/* ---- the device ---- */

/* Takes what is in fds. */
/* Its first fd, the first time, should be a pipe's. */
static void do_record(struct fixture *fixture, struct fuzz_input *input)
{
	struct loan_record record;
	struct fdlist fds;
	things_take(&fixture->things, input, &fds);
	record.type = fuzz_take8(input);
	record.length = fuzz_take8(input);
	if (record.length == UINT8_MAX) {
		record.length = fuzz_take32(input);
	}
	things_send(fixture->device, &record, sizeof(record), &fds);
}

static void do_lend(struct fixture *fixture, struct fuzz_input *input)
{
	struct {
		struct loan_record record;
		struct loan_segment segments[SEGMENTS];
	} lent = {.record = {.type = LOAN_SEGMENTS}};
	struct fdlist none;
	uint32_t n = fuzz_take8(input) % SEGMENTS + 1u;
	lent.record.length = n;
	for (uint32_t i = 0; i < n; i++) {
		uint8_t shape = fuzz_take8(input);
		lent.segments[i].file = shape & 3;
		lent.segments[i].offset = (uint64_t)fuzz_take16(input) << (shape >> 2);
		lent.segments[i].length = fuzz_take16(input);
	}
	fdlist_init(&none);
	things_send(
		fixture->device, &lent, sizeof(lent.record) + n * sizeof(lent.segments[0]), &none);
}

static void do_answer(struct fixture *fixture, struct fuzz_input *input)
{
	struct page_answer answer = {0};
	struct fdlist fds;
	uint8_t pages = fuzz_take8(input);
	if (pages == UINT8_MAX) {
		memset(answer.wrong, 'x', sizeof(answer.wrong));
	}
	things_take(&fixture->things, input, &fds);
	if (pages < UINT8_MAX) {
		fdlist_push(&fds, stand_in_buffer((uint64_t)pages * CHANNEL_PAGE));
	}
	things_send(fixture->lender, &answer, sizeof(answer), &fds);
}

static void do_resize(struct fixture *fixture, struct fuzz_input *input)
{
	int fd = *things_get(&fixture->things, fuzz_take8(input));
	uint16_t size = fuzz_take16(input);
	if (fd >= 0) {
		(void)!ftruncate(fd, size);
	}
}

/* ---- the session ---- */

static void do_read(struct fixture *fixture, struct fuzz_input *input)
{
	static uint8_t room[ROOM + 1];
	size_t n = fuzz_take8(input) % PIECES + 1u, len = 0;
	struct iovec pieces[PIECES];
	for (size_t i = 0; i < n; i++) {
		pieces[i].iov_base = room + len;
		pieces[i].iov_len = 1 + fuzz_take16(input) % (ROOM / PIECES);
		len += pieces[i].iov_len;
	}
	room[len] = 0x5a;
	ssize_t got = channel_input_read(fixture->input, pieces, n);
	fuzz_check(got <= (ssize_t)len && room[len] == 0x5a, "no more is read than there is room");
	fuzz_check(got != -EFAULT, "the session's own memory is there");
	channel_input_has_more(fixture->input);
}

/* By who writes: nothing else is read from them. */
static void drain_returns(struct fixture *fixture)
{
	static uint8_t bytes[ROOM];
	int fd = *things_get(&fixture->things, THING_PIPE_READ);
	if (fd >= 0 && things_ready(fd, POLLIN)) {
		(void)!read(fd, bytes, sizeof(bytes));
	}
}

static void do_ask(struct fixture *fixture, struct fuzz_input *input)
{
	struct channel_page_range range;
	const char *wrong = NULL;
	uint32_t pages = fuzz_take8(input);
	channel_put64(range.address, (uint64_t)fuzz_take16(input) * CHANNEL_PAGE);
	range.length = (1 + pages) * CHANNEL_PAGE;
	int fd = fixture->pages->interface->make(fixture->pages, &range, 1, &wrong);
	fuzz_check((fd < 0) == (wrong != NULL), "either there is a buffer, or something is wrong");
	if (fd < 0) {
		fuzz_check(strlen(wrong) < 2 * PAGE_ANSWER_MAX, "which is a text");
		return;
	}
	fuzz_check(
		fd_kind_of(fd) == FD_KIND_DMABUF && lseek(fd, 0, SEEK_END) == (off_t)range.length,
		"pages are a dma-buf, as long as they are");
	close(fd);
}

static void do_operation(struct fixture *fixture, struct fuzz_input *input)
{
	switch ((enum operation)(fuzz_take8(input) % OPERATIONS)) {
	case RECORD:
		do_record(fixture, input);
		break;
	case LEND:
		do_lend(fixture, input);
		break;
	case BYTES:
		things_send_bytes(&fixture->things, fixture->device, input);
		break;
	case READ:
		do_read(fixture, input);
		break;
	case RETURNS:
		drain_returns(fixture);
		break;
	case ASK:
		do_ask(fixture, input);
		break;
	case ANSWER:
		do_answer(fixture, input);
		break;
	case ANSWER_ANYTHING:
		things_send_bytes(&fixture->things, fixture->lender, input);
		break;
	case RESIZE:
		do_resize(fixture, input);
		break;
	case SHUT:
		shutdown(fuzz_take8(input) % 2 == 0 ? fixture->device : fixture->lender, SHUT_WR);
		break;
	case OPERATIONS:
		break;
	}
}

void fuzz_one(struct fuzz_input *input)
{
	struct fixture fixture;
	begin(&fixture);
	while (input->size > 0) {
		do_operation(&fixture, input);
	}
	end(&fixture);
}
