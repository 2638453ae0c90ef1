#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "tests/support/carried.h"
#include "tests/support/fd_count.h"

#define MIB       (1024u * 1024)
#define PLENTY    (64u * MIB) // more than may ever wait on the way
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static void begin(struct carried *carried)
{
	carried_init(carried, NULL);
}

static void end(struct carried *carried)
{
	carried_leave(carried);
	carried_finish(carried);
}

/* ---- messages ---- */

/* The fds are taken. */
static void say(int fd, const char *text, const int *passed, size_t n)
{
	struct fdlist fds;
	struct iovec iov = {(void *)text, strlen(text)};
	fdlist_init(&fds);
	for (size_t i = 0; i < n; i++) {
		assert_true(passed[i] >= 0);
		assert_true(fdlist_push(&fds, passed[i]));
	}
	assert_int_equal(scm_send(fd, &iov, 1, &fds, n), strlen(text));
	fdlist_finish(&fds);
}

static bool is_readable(void *data)
{
	struct pollfd poll_fd = {.fd = *(int *)data, .events = POLLIN};
	return poll(&poll_fd, 1, 0) == 1;
}

/* Waits for text, which comes with n fds. */
static void expect(struct carried *carried, int fd, const char *text, int *passed, size_t n)
{
	char bytes[256];
	struct fdlist fds;
	fdlist_init(&fds);
	carried_wait(carried, is_readable, &fd);
	ssize_t len = scm_recv_piece(fd, bytes, sizeof(bytes), &fds);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(bytes, text, strlen(text));
	assert_int_equal(fds.count, n);
	for (size_t i = 0; i < n; i++) {
		passed[i] = fdlist_take(&fds);
	}
	fdlist_finish(&fds);
}

static void expect_end(struct carried *carried, int fd)
{
	char byte;
	carried_wait(carried, is_readable, &fd);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

/* fd goes from one program to the other: what this one gets. */
static int hand_over(struct carried *carried, bool to_client, int fd)
{
	int got;
	say(to_client ? carried->service : carried->client, "take", &fd, 1);
	expect(carried, to_client ? carried->client : carried->service, "take", &got, 1);
	return got;
}

static void make_pair(int type, int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static bool same_file(int a, int b)
{
	struct stat one, other;
	assert_int_equal(fstat(a, &one), 0);
	assert_int_equal(fstat(b, &other), 0);
	return one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

/* ---- bytes ---- */

static void a_half_close_ends_one_direction(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct carried carried;
		begin(&carried);
		int near = i == 0 ? carried.client : carried.service;
		int far = i == 0 ? carried.service : carried.client;
		say(near, "last", NULL, 0);
		assert_int_equal(shutdown(near, SHUT_WR), 0);
		expect(&carried, far, "last", NULL, 0);
		expect_end(&carried, far);
		say(far, "still", NULL, 0);
		expect(&carried, near, "still", NULL, 0);
		end(&carried);
	}
}

struct flow {
	struct carried *carried;
	int from, to;
	size_t sent, received;
	int error; // of the sender
};

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 7 + at / 251);
}

static void send_some(struct flow *flow, size_t most)
{
	uint8_t bytes[8192];
	size_t len = most - flow->sent < sizeof(bytes) ? most - flow->sent : sizeof(bytes);
	for (size_t i = 0; i < len; i++) {
		bytes[i] = pattern(flow->sent + i);
	}
	ssize_t n = send(flow->from, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	flow->error = n < 0 ? errno : 0;
	flow->sent += n > 0 ? (size_t)n : 0;
}

/* Until the sender has to stop. */
static void fill(struct flow *flow)
{
	do {
		while (send_some(flow, PLENTY), flow->error == 0 && flow->sent < PLENTY) {
		}
		carried_settle(flow->carried);
		send_some(flow, PLENTY);
	} while (flow->error == 0 && flow->sent < PLENTY);
	assert_int_equal(flow->error, EAGAIN);
}

static bool has_drained(void *data)
{
	struct flow *flow = data;
	uint8_t bytes[8192];
	ssize_t n;
	while ((n = recv(flow->to, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			assert_int_equal(bytes[i], pattern(flow->received + (size_t)i));
		}
		flow->received += (size_t)n;
	}
	return flow->received == flow->sent;
}

static void a_sender_stops_when_its_reader_does_not_read(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct carried carried;
		begin(&carried);
		struct flow flow = {
			.carried = &carried,
			.from = i == 0 ? carried.client : carried.service,
			.to = i == 0 ? carried.service : carried.client,
		};
		fill(&flow);
		assert_true(flow.sent < 8 * MIB);
		carried_wait(&carried, has_drained, &flow);
		send_some(&flow, PLENTY);
		assert_int_equal(flow.error, 0);
		carried_wait(&carried, has_drained, &flow);
		end(&carried);
	}
}

static void who_does_not_read_holds_up_only_itself(void **state)
{
	(void)state;
	struct carried carried;
	int stuck[2], other[2], got[2];
	begin(&carried);
	make_pair(SOCK_STREAM, stuck);
	make_pair(SOCK_STREAM, other);
	say(carried.client, "both", (int[]){stuck[1], other[1]}, 2);
	expect(&carried, carried.service, "both", got, 2);
	struct flow flow = {.carried = &carried, .from = stuck[0], .to = got[0]};
	fill(&flow);
	say(carried.client, "parent", NULL, 0);
	expect(&carried, carried.service, "parent", NULL, 0);
	say(other[0], "other", NULL, 0);
	expect(&carried, got[1], "other", NULL, 0);
	say(got[0], "the other way", NULL, 0);
	expect(&carried, stuck[0], "the other way", NULL, 0);
	carried_wait(&carried, has_drained, &flow);
	for (int i = 0; i < 2; i++) {
		close(got[i]);
	}
	close(stuck[0]);
	close(other[0]);
	end(&carried);
}

static bool cannot_send(void *data)
{
	return send(*(int *)data, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN;
}

static void a_writer_learns_that_its_reader_is_gone(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct carried carried;
		begin(&carried);
		carried_close(i == 0 ? &carried.service : &carried.client);
		int left = i == 0 ? carried.client : carried.service;
		expect_end(&carried, left);
		carried_wait(&carried, cannot_send, &left);
		assert_int_equal(errno, EPIPE);
		end(&carried);
	}
}

static void services_of_records_keep_their_boundaries(void **state)
{
	(void)state;
	struct carried carried;
	carried_init(&carried, &(struct pair_options){.service_type = SOCK_SEQPACKET});
	static uint8_t record[150000];
	const size_t lengths[] = {3, sizeof(record), 1, 65536};
	for (size_t i = 0; i < 8; i++) {
		int from = i % 2 ? carried.client : carried.service;
		int to = i % 2 ? carried.service : carried.client;
		record[0] = (uint8_t)i;
		assert_int_equal(send(from, record, lengths[i / 2], 0), lengths[i / 2]);
		carried_wait(&carried, is_readable, &to);
		record[0] = 0xff;
		ssize_t len = recv(to, record, sizeof(record), MSG_DONTWAIT);
		assert_int_equal(len, lengths[i / 2]);
		assert_int_equal(record[0], i);
	}
	end(&carried);
}

/* ---- the end ---- */

static void a_channel_that_is_cut_ends_everything(void **state)
{
	(void)state;
	struct carried carried;
	int pair[2];
	begin(&carried);
	make_pair(SOCK_STREAM, pair);
	int far = hand_over(&carried, false, pair[1]);
	say(pair[0], "on its way", NULL, 0);
	shutdown(carried.pair.guest_channel, SHUT_RDWR);
	carried_wait_over(&carried);
	const char *text = "the connection between guest and host was lost";
	assert_non_null(strstr(carried.pair.guest.reason, text));
	assert_non_null(strstr(carried.pair.host.reason, text));
	int ends[] = {carried.client, carried.service, pair[0], far};
	for (size_t i = 0; i < 4; i++) {
		struct pollfd poll_fd = {.fd = ends[i]};
		assert_int_equal(poll(&poll_fd, 1, 0), 1);
		assert_true(poll_fd.revents & POLLHUP);
	}
	close(far);
	close(pair[0]);
	carried_finish(&carried);
}

static void a_session_lasts_as_long_as_one_of_its_sockets(void **state)
{
	(void)state;
	struct carried carried;
	int pair[2];
	begin(&carried);
	make_pair(SOCK_STREAM, pair);
	int far = hand_over(&carried, true, pair[1]);
	carried_close(&carried.client);
	carried_close(&carried.service);
	carried_settle(&carried);
	assert_false(carried.pair.guest.over || carried.pair.host.over);
	say(far, "without a parent", NULL, 0);
	expect(&carried, pair[0], "without a parent", NULL, 0);
	int pipe_ends[2], writer;
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	say(pair[0], "a pipe", &pipe_ends[1], 1);
	expect(&carried, far, "a pipe", &writer, 1);
	close(far);
	expect_end(&carried, pair[0]);
	close(pair[0]);
	carried_settle(&carried);
	assert_false(carried.pair.guest.over || carried.pair.host.over); // the pipe
	assert_int_equal(write(writer, "x", 1), 1);
	close(writer);
	carried_wait_over(&carried);
	char bytes[2];
	assert_int_equal(read(pipe_ends[0], bytes, sizeof(bytes)), 1);
	close(pipe_ends[0]);
	end(&carried);
}

static void what_cannot_cross_ends_the_session_with_a_text(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct carried carried;
		begin(&carried);
		int from = i == 0 ? carried.client : carried.service;
		int to = i == 0 ? carried.service : carried.client;
		say(from, "0123456789", NULL, 0);
		expect(&carried, to, "0123456789", NULL, 0);
		int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		say(from, "x", &directory, 1);
		expect_end(&carried, to);
		carried_close(&carried.client);
		carried_close(&carried.service);
		carried_wait_over(&carried);
		const char *reasons[] = {carried.pair.guest.reason, carried.pair.host.reason};
		for (int side = 0; side < 2; side++) {
			assert_non_null(strstr(reasons[side], "a directory"));
			assert_non_null(strstr(reasons[side], "service test"));
			assert_non_null(strstr(reasons[side], "byte 10"));
		}
		carried_finish(&carried);
	}
}

/* A socket's bytes have one reader, also when the socket goes to and fro. */
static void a_socket_goes_to_and_fro_but_not_twice(void **state)
{
	(void)state;
	struct carried carried;
	int pair[2];
	begin(&carried);
	make_pair(SOCK_STREAM, pair);
	int socket = pair[1];
	for (int i = 0; i < 10; i++) {
		say(carried.client, "go", &socket, 1);
		expect(&carried, carried.service, "go", &socket, 1);
		say(carried.service, "come", &socket, 1);
		expect(&carried, carried.client, "come", &socket, 1);
		say(pair[0], "here", NULL, 0);
		expect(&carried, socket, "here", NULL, 0);
	}
	int kept = dup(socket), there;
	say(carried.client, "go", &socket, 1);
	expect(&carried, carried.service, "go", &there, 1);
	say(carried.client, "again", &kept, 1);
	expect_end(&carried, carried.service);
	carried_close(&carried.client);
	carried_close(&carried.service);
	carried_wait_over(&carried);
	assert_non_null(strstr(carried.pair.host.reason, "passed before"));
	carried_finish(&carried);
	close(there);
	close(pair[0]);
}

/* ---- kinds ---- */

static int reopen(int fd, int flags)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int own = open(path, flags | O_CLOEXEC);
	assert_true(own >= 0);
	close(fd);
	return own;
}

static int make_memfd(const char *text)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

static void expect_content(int fd, const char *text)
{
	char bytes[64];
	assert_int_equal(pread(fd, bytes, sizeof(bytes), 0), strlen(text));
	assert_memory_equal(bytes, text, strlen(text));
}

static void carry_memory(struct carried *carried, bool to_client)
{
	int sealed = make_memfd("sealed");
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, ALL_SEALS), 0);
	int got = hand_over(carried, to_client, sealed);
	expect_content(got, "sealed");
	assert_int_equal(fcntl(got, F_GET_SEALS), ALL_SEALS);
	close(got);
	int reader = reopen(make_memfd("read-only"), O_RDONLY);
	assert_int_equal(lseek(reader, 5, SEEK_SET), 5);
	got = hand_over(carried, to_client, reader);
	expect_content(got, "read-only");
	assert_int_equal(fcntl(got, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(lseek(got, 0, SEEK_CUR), 5);
	close(got);
}

static void carry_pipes(struct carried *carried, bool to_client)
{
	for (int writer = 0; writer < 2; writer++) {
		int ends[2];
		char bytes[8];
		assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
		int got = hand_over(carried, to_client, ends[writer]);
		assert_true(fcntl(got, F_GETFL) & O_NONBLOCK);
		int in = writer ? got : ends[1], out = writer ? ends[0] : got;
		assert_int_equal(write(in, "through", 7), 7);
		close(in);
		carried_wait(carried, is_readable, &out);
		assert_int_equal(read(out, bytes, sizeof(bytes)), 7);
		assert_memory_equal(bytes, "through", 7);
		carried_wait(carried, is_readable, &out);
		assert_int_equal(read(out, bytes, sizeof(bytes)), 0);
		close(out);
	}
}

static void carry_sockets(struct carried *carried, bool to_client)
{
	const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (int i = 0; i < 2; i++) {
		int pair[2];
		char bytes[8];
		make_pair(types[i], pair);
		int got = hand_over(carried, to_client, pair[1]);
		say(pair[0], "down", NULL, 0);
		say(got, "up", NULL, 0);
		carried_wait(carried, is_readable, &got);
		assert_int_equal(recv(got, bytes, sizeof(bytes), MSG_DONTWAIT), 4);
		carried_wait(carried, is_readable, &pair[0]);
		assert_int_equal(recv(pair[0], bytes, sizeof(bytes), MSG_DONTWAIT), 2);
		close(pair[0]);
		expect_end(carried, got);
		close(got);
	}
}

static void expect_count(struct carried *carried, int fd, uint64_t expected)
{
	uint64_t count;
	carried_wait(carried, is_readable, &fd);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, expected);
}

static void carry_eventfds(struct carried *carried, bool to_client)
{
	int near = eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK);
	int far = hand_over(carried, to_client, fcntl(near, F_DUPFD_CLOEXEC, 0));
	expect_count(carried, far, 3);
	assert_int_equal(eventfd_write(near, 4), 0);
	expect_count(carried, far, 4);
	close(near);
	close(far);
	near = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	far = hand_over(carried, to_client, fcntl(near, F_DUPFD_CLOEXEC, 0));
	assert_int_equal(eventfd_write(far, 2), 0);
	expect_count(carried, near, 1);
	expect_count(carried, near, 1);
	close(near);
	close(far);
}

static void carry_devices(struct carried *carried, bool to_client)
{
	char byte = 1;
	int got = hand_over(carried, to_client, open("/dev/zero", O_RDONLY | O_CLOEXEC));
	assert_int_equal(read(got, &byte, 1), 1);
	assert_int_equal(byte, 0);
	close(got);
}

static void every_kind_crosses_both_ways(void **state)
{
	(void)state;
	struct carried carried;
	begin(&carried);
	for (int to_client = 0; to_client < 2; to_client++) {
		carry_memory(&carried, to_client);
		carry_pipes(&carried, to_client);
		carry_sockets(&carried, to_client);
		carry_eventfds(&carried, to_client);
		carry_devices(&carried, to_client);
	}
	end(&carried);
}

static void an_eventfd_that_is_sent_twice_is_one(void **state)
{
	(void)state;
	struct carried carried;
	uint64_t count;
	begin(&carried);
	int near = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int first = hand_over(&carried, false, fcntl(near, F_DUPFD_CLOEXEC, 0));
	int second = hand_over(&carried, false, fcntl(near, F_DUPFD_CLOEXEC, 0));
	assert_int_equal(eventfd_write(near, 5), 0);
	expect_count(&carried, second, 5);
	assert_int_equal(read(first, &count, sizeof(count)), -1);
	assert_int_equal(eventfd_write(near, 6), 0);
	expect_count(&carried, first, 6);
	close(near);
	close(first);
	close(second);
	end(&carried);
}

static void what_comes_home_is_what_it_was(void **state)
{
	(void)state;
	struct carried carried;
	int pair[2], pipe_ends[2], event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	begin(&carried);
	make_pair(SOCK_STREAM, pair);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	const int originals[] = {pair[1], pipe_ends[0], pipe_ends[1], event};
	int away[4], home[4];
	for (int i = 0; i < 4; i++) {
		away[i] = hand_over(&carried, false, fcntl(originals[i], F_DUPFD_CLOEXEC, 0));
	}
	say(carried.service, "home", away, 4);
	expect(&carried, carried.client, "home", home, 4);
	carried_settle(&carried);
	for (int i = 0; i < 3; i++) {
		assert_true(same_file(home[i], originals[i]));
	}
	say(pair[0], "direct", NULL, 0);
	expect(&carried, home[0], "direct", NULL, 0);
	assert_int_equal(write(home[2], "x", 1), 1);
	char byte;
	assert_int_equal(read(pipe_ends[0], &byte, 1), 1);
	for (int i = 0; i < 4; i++) {
		close(home[i]);
		close(originals[i]);
	}
	close(pair[0]);
	end(&carried);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		fd_count_test(a_half_close_ends_one_direction),
		fd_count_test(a_sender_stops_when_its_reader_does_not_read),
		fd_count_test(who_does_not_read_holds_up_only_itself),
		fd_count_test(a_writer_learns_that_its_reader_is_gone),
		fd_count_test(services_of_records_keep_their_boundaries),
		fd_count_test(a_channel_that_is_cut_ends_everything),
		fd_count_test(a_session_lasts_as_long_as_one_of_its_sockets),
		fd_count_test(what_cannot_cross_ends_the_session_with_a_text),
		fd_count_test(a_socket_goes_to_and_fro_but_not_twice),
		fd_count_test(every_kind_crosses_both_ways),
		fd_count_test(an_eventfd_that_is_sent_twice_is_one),
		fd_count_test(what_comes_home_is_what_it_was),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
