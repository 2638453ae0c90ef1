#include "host-proxy/page_lender.h"

#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "channel/channel.h"
#include "fdpass/kind.h"
#include "fdpass/pages.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/page_client.h"
#include "host-proxy/ram_buffer.h"
#include "tests/support/fd_count.h"
#include "tests/support/record_lock.h"

#define PAGE    4096u
#define PAGES   16u
#define ADDRESS UINT64_C(0x100000)

/* The memory of a guest, of which one session may have pages. */
struct fixture {
	struct event_base *base;
	struct ram_buffers buffers;
	struct page_loans loans;
	struct guest_memory memory;
	struct page_lender *lender;
	int fd; // the session's end
};

static void add_memory(struct guest_memory *memory, uint64_t address, int seals)
{
	const struct guest_range range = {address, PAGES * PAGE, address, 0};
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	assert_null(guest_memory_add(memory, &range, fd));
}

static void init(struct fixture *fixture)
{
	*fixture = (struct fixture){.base = event_base_new(), .fd = -1};
	ram_buffers_open(&fixture->buffers);
	page_loans_init(&fixture->loans, &fixture->buffers);
	guest_memory_init(&fixture->memory);
	add_memory(&fixture->memory, ADDRESS, F_SEAL_SHRINK);
	fixture->lender =
		page_lender_create(fixture->base, &fixture->loans, &fixture->memory, &fixture->fd);
	assert_non_null(fixture->lender);
}

static void finish(struct fixture *fixture)
{
	page_lender_destroy(fixture->lender);
	if (fixture->fd >= 0) {
		close(fixture->fd);
	}
	page_loans_finish(&fixture->loans);
	guest_memory_finish(&fixture->memory);
	ram_buffers_close(&fixture->buffers);
	event_base_free(fixture->base);
}

static void init_with_udmabuf(struct fixture *fixture)
{
	init(fixture);
	if (fixture->buffers.device < 0) {
		finish(fixture);
		print_message("there is no /dev/udmabuf\n");
		skip();
	}
}

static void send_to_lender(struct fixture *fixture, const void *data, size_t len)
{
	assert_int_equal(send(fixture->fd, data, len, MSG_NOSIGNAL), len);
	event_base_loop(fixture->base, EVLOOP_NONBLOCK);
}

static void expect_answer(struct fixture *fixture, const char *wrong)
{
	struct page_answer answer;
	assert_int_equal(recv(fixture->fd, &answer, sizeof(answer), MSG_DONTWAIT), sizeof(answer));
	assert_string_equal(answer.wrong, wrong);
}

/* ---- the device ---- */

static void what_is_wrong_is_said(void **state)
{
	(void)state;
	static const struct {
		struct ram_range range;
		const char *wrong;
	} cases[] = {
		{{ADDRESS - PAGE, PAGE}, "a range outside of the guest's memory"},
		{{ADDRESS + (PAGES - 1) * PAGE, 2 * PAGE}, "a range outside of the guest's memory"},
		{{UINT64_MAX - 2 * PAGE + 1, PAGE}, "a range outside of the guest's memory"},
		{{ADDRESS, 0}, "a range of an impossible size"},
		{{ADDRESS, UINT64_MAX}, "a range of an impossible size"},
		{{ADDRESS + 1, PAGE}, "a range that is not of whole pages"},
	};
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		send_to_lender(&fixture, &cases[i].range, sizeof(cases[i].range));
		expect_answer(&fixture, cases[i].wrong);
	}
	finish(&fixture);
}

static void without_udmabuf_it_says_so(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	ram_buffers_close(&fixture.buffers);
	send_to_lender(&fixture, &(struct ram_range){ADDRESS, PAGE}, sizeof(struct ram_range));
	expect_answer(&fixture, "there is no /dev/udmabuf");
	finish(&fixture);
}

static void a_session_that_asks_nonsense_is_heard_no_more(void **state)
{
	(void)state;
	static uint8_t nonsense[(CHANNEL_MAX_RANGES + 2) * sizeof(struct ram_range)];
	static const size_t sizes[] = {
		1, sizeof(struct ram_range) - 1, sizeof(struct ram_range) + 8};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct fixture fixture;
		init(&fixture);
		send_to_lender(&fixture, nonsense, sizes[i]);
		assert_int_equal(recv(fixture.fd, nonsense, 1, MSG_DONTWAIT), 0);
		finish(&fixture);
	}
}

// Its close could wait for the session.
static void an_fd_of_a_session_is_not_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	struct ram_range range = {ADDRESS, PAGE};
	struct iovec iov = {.iov_base = &range, .iov_len = sizeof(range)};
	int fd = memfd_create("sent", MFD_CLOEXEC);
	const struct fdlist fds = {.fds = &fd, .count = 1};
	init(&fixture);
	record_lock_take(fd);
	assert_int_equal(scm_send(fixture.fd, &iov, 1, &fds, 1), sizeof(range));
	event_base_loop(fixture.base, EVLOOP_NONBLOCK);
	assert_true(record_lock_is_held(fd));
	assert_int_equal(recv(fixture.fd, &range, sizeof(range), MSG_DONTWAIT), 0);
	finish(&fixture);
	close(fd);
}

static void a_session_that_is_gone_is_forgotten(void **state)
{
	(void)state;
	struct fixture fixture;
	init(&fixture);
	close(fixture.fd);
	fixture.fd = -1;
	event_base_loop(fixture.base, EVLOOP_NONBLOCK);
	assert_int_equal(event_base_get_num_events(fixture.base, EVENT_BASE_COUNT_ADDED), 0);
	finish(&fixture);
}

static void all_that_may_be_asked_for_must_be_possible(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	struct ram_buffers buffers = fixture.buffers;
	assert_true(page_lender_possible(&buffers, &fixture.memory));
	buffers.max_pieces = CHANNEL_MAX_RANGES - 1;
	assert_false(page_lender_possible(&buffers, &fixture.memory));
	buffers = fixture.buffers;
	buffers.max_size = CHANNEL_MAX_PAGES - 1;
	assert_false(page_lender_possible(&buffers, &fixture.memory));
	buffers = fixture.buffers;
	buffers.device = -1;
	assert_false(page_lender_possible(&buffers, &fixture.memory));
	struct guest_memory none;
	guest_memory_init(&none);
	assert_false(page_lender_possible(&fixture.buffers, &none));
	add_memory(&fixture.memory, 2 * ADDRESS, F_SEAL_GROW); // without F_SEAL_SHRINK
	assert_false(page_lender_possible(&fixture.buffers, &fixture.memory));
	finish(&fixture);
}

/* The fd of the answer: the caller's. */
static int take_answer(struct fixture *fixture, const char *wrong)
{
	struct page_answer answer;
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_recv(fixture->fd, &answer, sizeof(answer), &fds), sizeof(answer));
	assert_string_equal(answer.wrong, wrong);
	int fd = fdlist_take(&fds);
	fdlist_finish(&fds);
	return fd;
}

static int borrow_all(struct fixture *fixture, const char *wrong)
{
	const struct ram_range all = {ADDRESS, PAGES * PAGE};
	send_to_lender(fixture, &all, sizeof(all));
	return take_answer(fixture, wrong);
}

/* All but one of what may be. */
static void borrow_some(struct fixture *fixture, int fds[PAGE_LOANS_TIMES - 1])
{
	for (size_t i = 0; i < PAGE_LOANS_TIMES - 1; i++) {
		fds[i] = borrow_all(fixture, "");
		assert_true(fds[i] >= 0);
	}
}

static void close_some(const int fds[PAGE_LOANS_TIMES - 1])
{
	for (size_t i = 0; i < PAGE_LOANS_TIMES - 1; i++) {
		close(fds[i]);
	}
}

static const char too_many[] = "more pages than its virtual machine may have shared";

static void no_page_is_lent_many_times(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	int fds[PAGE_LOANS_TIMES - 1];
	borrow_some(&fixture, fds);
	int fd = borrow_all(&fixture, "");
	assert_true(fd >= 0);
	assert_int_equal(borrow_all(&fixture, too_many), -1);
	int other = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	uint8_t *data = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(data != MAP_FAILED);
	close(fd);
	assert_int_equal(borrow_all(&fixture, too_many), -1);
	close(other);
	assert_int_equal(borrow_all(&fixture, too_many), -1);
	munmap(data, PAGE);
	fd = borrow_all(&fixture, "");
	assert_true(fd >= 0);
	close(fd);
	close_some(fds);
	finish(&fixture);
}

/* Of whichever session of the machine: what it has left behind is still somebody's. */
static void what_a_session_leaves_behind_still_counts(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	int fds[PAGE_LOANS_TIMES - 1];
	borrow_some(&fixture, fds);
	int fd = borrow_all(&fixture, "");
	page_lender_destroy(fixture.lender);
	close(fixture.fd);
	fixture.lender =
		page_lender_create(fixture.base, &fixture.loans, &fixture.memory, &fixture.fd);
	assert_non_null(fixture.lender);
	assert_int_equal(fixture.loans.count, PAGE_LOANS_TIMES);
	assert_int_equal(borrow_all(&fixture, too_many), -1);
	close(fd);
	close_some(fds);
	for (size_t i = 0; i < PAGE_LOANS_TIMES; i++) {
		fd = borrow_all(&fixture, "");
		assert_true(fd >= 0);
		close(fd);
	}
	page_lender_destroy(fixture.lender);
	fixture.lender = NULL;
	assert_int_equal(fixture.loans.count, 0);
	assert_int_equal(fixture.loans.bytes, 0);
	finish(&fixture);
}

static void what_comes_back_is_noticed_without_need(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	const struct ram_range page = {ADDRESS, PAGE};
	for (int i = 0; i < 1000; i++) {
		send_to_lender(&fixture, &page, sizeof(page));
		int fd = take_answer(&fixture, "");
		assert_true(fd >= 0);
		close(fd);
		assert_true(fixture.loans.count <= 2);
	}
	finish(&fixture);
}

static void let_go(struct fixture *fixture, uint64_t number)
{
	send_to_lender(fixture, &number, sizeof(number));
}

// Also where nothing else is asked for.
static void what_a_session_lets_go_is_not_kept(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	struct fd_identity one, other;
	int fd = borrow_all(&fixture, ""), kept = borrow_all(&fixture, "");
	fd_identity_of(fd, &one);
	fd_identity_of(kept, &other);
	let_go(&fixture, one.number);
	assert_int_equal(fixture.loans.count, 2); // somebody has it
	close(fd);
	let_go(&fixture, other.number);
	let_go(&fixture, 0);
	assert_int_equal(fixture.loans.count, 2);
	let_go(&fixture, one.number);
	assert_int_equal(fixture.loans.count, 1);
	let_go(&fixture, one.number);
	close(kept);
	let_go(&fixture, other.number);
	assert_int_equal(fixture.loans.count, 0);
	finish(&fixture);
}

// Each look is three system calls, and a guest may have thousands.
static void room_is_looked_for_until_there_is_some(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	int fds[PAGE_LOANS_TIMES - 1];
	borrow_some(&fixture, fds);
	int fd = borrow_all(&fixture, "");
	assert_true(fd >= 0);
	// The first and the third are looked at next in any case.
	close(fds[1]);
	close(fd);
	fds[1] = borrow_all(&fixture, "");
	assert_true(fds[1] >= 0);
	assert_int_equal(fixture.loans.count, PAGE_LOANS_TIMES);
	close_some(fds);
	finish(&fixture);
}

// Any number of connections can come and go.
static void who_has_borrowed_nothing_is_not_looked_after(void **state)
{
	(void)state;
	struct fixture fixture;
	int their_end;
	init_with_udmabuf(&fixture);
	close(borrow_all(&fixture, ""));
	struct page_lender *other =
		page_lender_create(fixture.base, &fixture.loans, &fixture.memory, &their_end);
	assert_non_null(other);
	page_lender_destroy(other);
	close(their_end);
	assert_int_equal(fixture.loans.count, 1);
	page_lender_destroy(fixture.lender);
	fixture.lender = NULL;
	assert_int_equal(fixture.loans.count, 0);
	finish(&fixture);
}

/* ---- the session ---- */

struct asker {
	struct page_buffers *buffers;
	int fd; // the device's end
};

static void begin_asking(struct asker *asker)
{
	int ends[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	asker->buffers = page_client_create(ends[0]);
	assert_non_null(asker->buffers);
	asker->fd = ends[1];
}

static void end_asking(struct asker *asker)
{
	page_buffers_destroy(asker->buffers);
	if (asker->fd >= 0) {
		close(asker->fd);
	}
}

static int ask(struct asker *asker, uint64_t address, uint32_t length, const char **wrong)
{
	struct channel_page_range range = {.length = length};
	channel_put64(range.address, address);
	return asker->buffers->interface->make(asker->buffers, &range, 1, wrong);
}

/* Before it is asked. */
static void answer_with(struct asker *asker, const void *data, size_t len, int fd)
{
	const struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
	const struct fdlist fds = {.fds = &fd, .count = fd >= 0};
	assert_int_equal(scm_send(asker->fd, &iov, 1, &fds, fds.count), len);
}

static void expect_refused(struct asker *asker, const char *expected)
{
	const char *wrong;
	assert_int_equal(ask(asker, ADDRESS, PAGE, &wrong), -1);
	assert_string_equal(wrong, expected);
	end_asking(asker);
}

static void answers_that_make_no_sense_are_refused(void **state)
{
	(void)state;
	static const char no_buffer[] = "a pool's pages, for which the vsock device has no dma-buf";
	static const char gone[] = "a pool's pages, which the vsock device does not lend any more";
	const struct page_answer good = {0};
	struct asker asker;
	begin_asking(&asker);
	answer_with(&asker, &good, sizeof(good), -1);
	expect_refused(&asker, no_buffer);

	int file = memfd_create("no dma-buf", MFD_CLOEXEC);
	assert_int_equal(ftruncate(file, PAGE), 0);
	begin_asking(&asker);
	answer_with(&asker, &good, sizeof(good), file);
	expect_refused(&asker, no_buffer);
	close(file);

	begin_asking(&asker);
	answer_with(&asker, &good, sizeof(good) - 1, -1);
	expect_refused(&asker, gone);

	begin_asking(&asker);
	shutdown(asker.fd, SHUT_WR);
	expect_refused(&asker, gone);
}

static void a_text_without_an_end_is_cut(void **state)
{
	(void)state;
	struct page_answer answer;
	char expected[PAGE_ANSWER_MAX] = "";
	memset(answer.wrong, 'x', sizeof(answer.wrong));
	memset(expected, 'x', sizeof(expected) - 1);
	struct asker asker;
	begin_asking(&asker);
	answer_with(&asker, &answer, sizeof(answer), -1);
	expect_refused(&asker, expected);
}

static void a_device_that_is_gone_does_not_answer(void **state)
{
	(void)state;
	struct asker asker;
	begin_asking(&asker);
	close(asker.fd);
	asker.fd = -1;
	expect_refused(&asker, "a pool's pages, for which the vsock device does not answer");
}

/* Both, the device as a process of its own. */
static pid_t start_device(struct fixture *fixture)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(fixture->fd);
		event_reinit(fixture->base);
		event_base_dispatch(fixture->base); // until the session is gone
		_exit(0);
	}
	return pid;
}

static void a_buffer_shows_the_guests_pages(void **state)
{
	(void)state;
	struct fixture fixture;
	init_with_udmabuf(&fixture);
	uint8_t *memory = fixture.memory.regions[0].data;
	pid_t pid = start_device(&fixture);
	struct asker asker = {.buffers = page_client_create(fixture.fd), .fd = -1};
	fixture.fd = -1;
	const char *wrong;
	int fd = ask(&asker, ADDRESS + 2 * PAGE, 3 * PAGE, &wrong);
	assert_true(fd >= 0);
	uint8_t *data = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(data != MAP_FAILED);
	for (size_t i = 0; i < 3 * PAGE; i++) {
		memory[2 * PAGE + i] = (uint8_t)(i / 7);
		assert_int_equal(data[i], (uint8_t)(i / 7));
	}
	data[5] = 99;
	assert_int_equal(memory[2 * PAGE + 5], 99);
	munmap(data, 3 * PAGE);
	close(fd);
	assert_int_equal(ask(&asker, 0, PAGE, &wrong), -1);
	assert_string_equal(wrong, "a range outside of the guest's memory");
	page_lender_destroy(fixture.lender); // of this process
	fixture.lender = NULL;
	end_asking(&asker);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	finish(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_wrong_is_said),
		fd_count_test(without_udmabuf_it_says_so),
		fd_count_test(a_session_that_asks_nonsense_is_heard_no_more),
		fd_count_test(an_fd_of_a_session_is_not_taken),
		fd_count_test(a_session_that_is_gone_is_forgotten),
		fd_count_test(all_that_may_be_asked_for_must_be_possible),
		fd_count_test(no_page_is_lent_many_times),
		fd_count_test(what_a_session_leaves_behind_still_counts),
		fd_count_test(what_comes_back_is_noticed_without_need),
		fd_count_test(what_a_session_lets_go_is_not_kept),
		fd_count_test(room_is_looked_for_until_there_is_some),
		fd_count_test(who_has_borrowed_nothing_is_not_looked_after),
		fd_count_test(answers_that_make_no_sense_are_refused),
		fd_count_test(a_text_without_an_end_is_cut),
		fd_count_test(a_device_that_is_gone_does_not_answer),
		fd_count_test(a_buffer_shows_the_guests_pages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
