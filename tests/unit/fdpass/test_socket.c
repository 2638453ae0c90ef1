#include "fdpass/socket.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "ends.h"
#include "tests/support/fd_count.h"

#define LARGE (3 * 1024 * 1024 + 5)

// A socket pair of the guest, one end of which has crossed to the host.
struct crossing {
	struct ends ends;
	int near, far; // what the programs in the guest and on the host hold
	uint32_t id;
	char failure[256]; // of the guest's session
	void *count;       // of fds, before
};

static void handle_failed(void *data, const char *text)
{
	struct crossing *crossing = data;
	snprintf(crossing->failure, sizeof(crossing->failure), "%s", text);
}

static void make_pair(int type, int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static void cross(struct crossing *crossing, int type)
{
	int pair[2];
	const char *wrong;
	make_pair(type, pair);
	crossing->near = pair[0];
	crossing->id = socket_export(&crossing->ends.guest.refs, pair[1], &wrong);
	assert_null(wrong);
	ends_run(&crossing->ends);
	crossing->far = end_take(&crossing->ends.host);
	assert_true(crossing->far >= 0);
}

static int setup(void **state)
{
	void *count = NULL;
	assert_int_equal(fd_count_setup(&count), 0);
	struct crossing *crossing = calloc(1, sizeof(*crossing));
	crossing->count = count;
	ends_init(&crossing->ends);
	crossing->ends.guest.refs.failed = handle_failed;
	crossing->ends.guest.refs.failed_data = crossing;
	crossing->near = crossing->far = -1;
	*state = crossing;
	return 0;
}

static void close_end(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
		*fd = -1;
	}
}

static int teardown(void **state)
{
	struct crossing *crossing = *state;
	close_end(&crossing->near);
	close_end(&crossing->far);
	ends_finish(&crossing->ends);
	void *count = crossing->count;
	free(crossing);
	return fd_count_teardown(&count);
}

static void run(struct crossing *crossing)
{
	ends_run(&crossing->ends);
	assert_null(crossing->ends.guest.wrong);
	assert_null(crossing->ends.host.wrong);
}

// Sends text with n fds, which are taken.
static void say(int fd, const char *text, const int *passed, size_t n)
{
	struct fdlist fds;
	struct iovec iov = {(void *)text, strlen(text)};
	fdlist_init(&fds);
	for (size_t i = 0; i < n; i++) {
		assert_true(fdlist_push(&fds, passed[i]));
	}
	assert_int_equal(scm_send(fd, &iov, 1, &fds, n), strlen(text));
	fdlist_finish(&fds);
}

// Reads a piece of what came: its text, and its fds, of which there must be n.
static void expect(int fd, const char *text, int *passed, size_t n)
{
	char bytes[4096];
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t len = scm_recv_piece(fd, bytes, sizeof(bytes) - 1, &fds);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(bytes, text, strlen(text));
	assert_int_equal(fds.count, n);
	for (size_t i = 0; i < n; i++) {
		passed[i] = fdlist_take(&fds);
	}
	fdlist_finish(&fds);
}

static void expect_end(int fd)
{
	char byte;
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

static void assert_hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd};
	assert_int_equal(poll(&poll_fd, 1, 0), 1);
	assert_true(poll_fd.revents & POLLHUP);
}

static bool same_file(int a, int b)
{
	struct stat one, other;
	assert_int_equal(fstat(a, &one), 0);
	assert_int_equal(fstat(b, &other), 0);
	return one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

static void bytes_go_both_ways(void **state)
{
	struct crossing *crossing = *state;
	cross(crossing, SOCK_STREAM);
	say(crossing->near, "there", NULL, 0);
	say(crossing->far, "and back", NULL, 0);
	run(crossing);
	expect(crossing->far, "there", NULL, 0);
	expect(crossing->near, "and back", NULL, 0);
}

static void fds_stay_with_their_bytes(void **state)
{
	struct crossing *crossing = *state;
	int pipes[2][2], got[2];
	cross(crossing, SOCK_STREAM);
	assert_int_equal(pipe2(pipes[0], O_CLOEXEC), 0);
	assert_int_equal(pipe2(pipes[1], O_CLOEXEC), 0);
	say(crossing->near, "plain", NULL, 0);
	say(crossing->near, "first", (int[]){pipes[0][0]}, 1);
	say(crossing->near, "between", NULL, 0);
	say(crossing->near, "second", (int[]){pipes[1][0]}, 1);
	run(crossing);
	expect(crossing->far, "plain", NULL, 0);
	expect(crossing->far, "first", &got[0], 1);
	expect(crossing->far, "between", NULL, 0);
	expect(crossing->far, "second", &got[1], 1);
	for (int i = 0; i < 2; i++) {
		char byte = (char)('a' + i);
		assert_int_equal(write(pipes[i][1], &byte, 1), 1);
		run(crossing);
		assert_int_equal(read(got[i], &byte, 1), 1);
		assert_int_equal(byte, 'a' + i);
		close(pipes[i][1]);
		close(got[i]);
	}
}

static void records_keep_their_boundaries(void **state)
{
	struct crossing *crossing = *state;
	char *large = malloc(CHANNEL_MAX_RECORD);
	cross(crossing, SOCK_SEQPACKET);
	const size_t lengths[] = {1, 0, 200000, 0, 5, 65536, 65537};
	const size_t n = sizeof(lengths) / sizeof(lengths[0]);
	memset(large, 'x', CHANNEL_MAX_RECORD);
	for (size_t i = 0; i < n; i++) {
		large[0] = (char)('0' + i);
		assert_int_equal(send(crossing->near, large, lengths[i], 0), lengths[i]);
		run(crossing);
		ssize_t len = recv(crossing->far, large, CHANNEL_MAX_RECORD, MSG_DONTWAIT);
		assert_int_equal(len, lengths[i]);
		assert_true(len == 0 || large[0] == (char)('0' + i));
		errno = 0;
		assert_int_equal(recv(crossing->far, large, 1, MSG_DONTWAIT), -1);
		assert_int_equal(errno, EAGAIN);
	}
	close_end(&crossing->near);
	run(crossing);
	expect_end(crossing->far);
	free(large);
}

static void an_empty_record_can_have_fds(void **state)
{
	struct crossing *crossing = *state;
	struct fdlist fds;
	struct iovec iov = {"", 0};
	char bytes[16];
	cross(crossing, SOCK_SEQPACKET);
	int adopted = scm_adopt(crossing->far);
	fdlist_init(&fds);
	int pair[2];
	make_pair(SOCK_STREAM, pair);
	assert_true(fdlist_push(&fds, pair[0]));
	assert_int_equal(scm_send(crossing->near, &iov, 1, &fds, 1), 0);
	fdlist_drop(&fds, 1);
	run(crossing);
	assert_int_equal(scm_recv_record(crossing->far, bytes, sizeof(bytes), &fds), 0);
	assert_int_equal(fds.count, 1);
	close(pair[1]);
	scm_release(crossing->far, adopted);
	fdlist_finish(&fds);
}

static void a_half_close_ends_one_direction(void **state)
{
	struct crossing *crossing = *state;
	cross(crossing, SOCK_STREAM);
	say(crossing->near, "last", NULL, 0);
	assert_int_equal(shutdown(crossing->near, SHUT_WR), 0);
	run(crossing);
	expect(crossing->far, "last", NULL, 0);
	expect_end(crossing->far);
	say(crossing->far, "still", NULL, 0);
	run(crossing);
	expect(crossing->near, "still", NULL, 0);
	close_end(&crossing->near);
	run(crossing);
	assert_hung_up(crossing->far);
	assert_int_equal(crossing->ends.guest.refs.streams, 0);
	assert_int_equal(crossing->ends.host.refs.streams, 0);
}

static void a_reader_that_leaves_is_told_to_the_writer(void **state)
{
	struct crossing *crossing = *state;
	cross(crossing, SOCK_STREAM);
	close_end(&crossing->far);
	run(crossing);
	assert_int_equal(send(crossing->near, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(crossing->ends.guest.refs.streams, 0);
}

static void a_long_stream_waits_for_its_reader(void **state)
{
	struct crossing *crossing = *state;
	size_t sent = 0, got = 0;
	uint8_t bytes[8192];
	cross(crossing, SOCK_STREAM);
	const uint64_t before = crossing->ends.host.budget.used[BUDGET_MEMORY];
	while (got < LARGE) {
		for (size_t i = 0; i < sizeof(bytes); i++) {
			bytes[i] = pattern(sent + i);
		}
		size_t left = LARGE - sent < sizeof(bytes) ? LARGE - sent : sizeof(bytes);
		ssize_t n = left == 0 ? 0 : send(crossing->near, bytes, left, 0);
		if (n > 0) {
			sent += (size_t)n;
			continue;
		}
		run(crossing);
		assert_true(crossing->ends.host.budget.used[BUDGET_MEMORY] <=
			before + CHANNEL_SOCKET_WINDOW);
		n = recv(crossing->far, bytes, sizeof(bytes), MSG_DONTWAIT);
		for (ssize_t i = 0; i < n; i++) {
			assert_int_equal(bytes[i], pattern(got + (size_t)i));
		}
		got += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(crossing->ends.host.budget.used[BUDGET_MEMORY], before);
}

static void one_read_of_a_stream_may_go_in_several_frames(void **state)
{
	struct crossing *crossing = *state;
	const size_t size = 2 * CHANNEL_MAX_STREAM;
	uint8_t *bytes = malloc(size);
	cross(crossing, SOCK_STREAM);
	for (size_t i = 0; i < size; i++) {
		bytes[i] = pattern(i);
	}
	assert_int_equal(send(crossing->near, bytes, size, 0), size);
	run(crossing);
	assert_int_equal(crossing->ends.host.frames[CHANNEL_STREAM_DATA], 2);
	memset(bytes, 0, size);
	assert_int_equal(recv(crossing->far, bytes, size, MSG_DONTWAIT), size);
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(bytes[i], pattern(i));
	}
	free(bytes);
}

static void sockets_go_through_sockets(void **state)
{
	struct crossing *crossing = *state;
	enum { DEPTH = 6 };
	int near[DEPTH + 1], far[DEPTH + 1];
	cross(crossing, SOCK_STREAM);
	near[0] = crossing->near;
	far[0] = crossing->far;
	for (int i = 0; i < DEPTH; i++) {
		int pair[2];
		make_pair(i % 2 ? SOCK_SEQPACKET : SOCK_STREAM, pair);
		near[i + 1] = pair[0];
		bool from_guest = i % 3 != 1;
		say(from_guest ? near[i] : far[i], "take", &pair[1], 1);
		run(crossing);
		expect(from_guest ? far[i] : near[i], "take", &far[i + 1], 1);
		if (!from_guest) {
			int swap = near[i + 1];
			near[i + 1] = far[i + 1];
			far[i + 1] = swap;
		}
	}
	say(near[DEPTH], "deep", NULL, 0);
	run(crossing);
	char bytes[8] = "";
	assert_int_equal(recv(far[DEPTH], bytes, sizeof(bytes), MSG_DONTWAIT), 4);
	for (int i = 1; i <= DEPTH; i++) {
		close(near[i]);
		close(far[i]);
	}
	run(crossing);
	assert_int_equal(crossing->ends.guest.refs.streams, 1);
	assert_int_equal(crossing->ends.host.refs.streams, 1);
}

static void one_that_is_passed_twice_in_a_message_is_one(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], got[2];
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	say(crossing->near, "both", (int[]){pair[1], dup(pair[1])}, 2);
	run(crossing);
	expect(crossing->far, "both", got, 2);
	assert_true(same_file(got[0], got[1]));
	say(pair[0], "x", NULL, 0);
	run(crossing);
	expect(got[1], "x", NULL, 0);
	close(pair[0]);
	close(got[0]);
	close(got[1]);
}

// The host's program gets one end of a pair of the guest's.
static void send_away(struct crossing *crossing, int pair[2], int *visitor)
{
	say(crossing->near, "go", (int[]){dup(pair[1])}, 1);
	run(crossing);
	expect(crossing->far, "go", visitor, 1);
}

static void a_socket_that_comes_home_is_what_it_was(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	say(visitor, "greetings", NULL, 0);
	say(crossing->far, "home", &visitor, 1);
	run(crossing);
	expect(crossing->near, "home", &home, 1);
	assert_true(same_file(home, pair[1]));
	expect(pair[0], "greetings", NULL, 0);
	// nobody is between the two ends any more
	say(pair[0], "direct", NULL, 0);
	expect(home, "direct", NULL, 0);
	run(crossing);
	assert_int_equal(crossing->ends.guest.refs.streams, 1);
	assert_int_equal(crossing->ends.guest.refs.counts.homecomings, 1);
	close(pair[0]);
	close(pair[1]);
	close(home);
}

static void one_that_is_used_there_does_not_cross_again(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	say(crossing->near, "again", &pair[1], 1);
	run(crossing);
	assert_non_null(strstr(crossing->failure, "passed before"));
	close(pair[0]);
	close(visitor);
}

/* A service on the host may only pass on what two other sessions have given it. */
static void on_the_host_it_is_replaced(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, got;
	struct stat st;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	say(crossing->far, "go", (int[]){dup(pair[1])}, 1);
	run(crossing);
	expect(crossing->near, "go", &visitor, 1);
	say(crossing->far, "again", &pair[1], 1);
	run(crossing);
	expect(crossing->near, "again", &got, 1);
	assert_int_equal(fstat(got, &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(crossing->ends.host.refs.counts.unsupported, 1);
	say(pair[0], "x", NULL, 0);
	run(crossing);
	expect(visitor, "x", NULL, 0);
	close(got);
	close(pair[0]);
	close(visitor);
}

static void left_out_it_disturbs_nobody(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor;
	crossing->ends.guest.refs.rules.unsupported = FDREF_UNSUPPORTED_DROP;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	say(crossing->near, "again", &pair[1], 1);
	run(crossing);
	expect(crossing->far, "again", NULL, 0);
	for (int i = 0; i < 20; i++) {
		say(pair[0], "x", NULL, 0);
		run(crossing);
		expect(visitor, "x", NULL, 0);
	}
	close(pair[0]);
	close(visitor);
}

static void one_that_was_closed_there_may_cross_again(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor;
	cross(crossing, SOCK_SEQPACKET);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	close(visitor);
	run(crossing);
	say(crossing->near, "again", &pair[1], 1);
	run(crossing);
	assert_string_equal(crossing->failure, "");
	struct fdlist fds;
	fdlist_init(&fds);
	char bytes[16];
	assert_int_equal(scm_recv(crossing->far, bytes, sizeof(bytes), &fds), 5);
	assert_int_equal(fds.count, 1);
	fdlist_finish(&fds);
	close(pair[0]);
}

/* As another session does, in a process of its own. */
static bool crosses_elsewhere(int fd)
{
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct ends ends;
		const char *wrong;
		ends_init(&ends);
		_exit(socket_export(&ends.guest.refs, dup(fd), &wrong) == 0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status) == 0;
}

static void one_that_came_home_may_cross_again(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, kept, home;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	close(pair[1]);
	kept = dup(visitor); // the first one goes on, for what is written to it
	say(crossing->far, "home", &visitor, 1);
	run(crossing);
	expect(crossing->near, "home", &home, 1);
	int away = dup(home);
	say(crossing->near, "again", &home, 1);
	run(crossing);
	expect(crossing->far, "again", &visitor, 1);
	assert_string_equal(crossing->failure, "");
	for (int i = 0; i < 20; i++) {
		say(pair[0], "x", NULL, 0);
		run(crossing);
		expect(visitor, "x", NULL, 0);
	}
	say(kept, "y", NULL, 0);
	run(crossing);
	expect(pair[0], "y", NULL, 0);
	close(kept);
	run(crossing);
	assert_int_equal(crossing->ends.guest.refs.streams, 2); // the first one is over
	assert_false(crosses_elsewhere(away));
	close(away);
	close(visitor);
	close(pair[0]);
}

static void one_that_is_used_there_does_not_cross_in_another_session(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, home;
	crossing->ends.guest.refs.rules.unsupported = FDREF_UNSUPPORTED_DROP;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	assert_true(crosses_elsewhere(pair[1]));
	say(crossing->near, "go", (int[]){dup(pair[1]), dup(pair[1])}, 2);
	run(crossing);
	int got[2];
	expect(crossing->far, "go", got, 2);
	visitor = got[0];
	close(got[1]);
	assert_false(crosses_elsewhere(pair[1]));
	say(crossing->near, "again", (int[]){dup(pair[1])}, 1);
	run(crossing);
	expect(crossing->far, "again", NULL, 0);
	assert_false(crosses_elsewhere(pair[1]));
	assert_true(crosses_elsewhere(pair[0]));
	say(crossing->far, "home", &visitor, 1);
	run(crossing);
	expect(crossing->near, "home", &home, 1);
	assert_true(crosses_elsewhere(home));
	close(home);
	close(pair[0]);
	close(pair[1]);
}

static void one_whose_reading_has_ended_may_cross_in_another_session(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	assert_false(crosses_elsewhere(pair[1]));
	shutdown(pair[0], SHUT_WR);
	run(crossing);
	expect_end(visitor);
	assert_true(crosses_elsewhere(pair[1]));
	close(visitor);
	close(pair[0]);
	close(pair[1]);
}

static void a_detour_that_is_passed_twice_in_a_message_is_one(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, got[2];
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	close(pair[1]);
	say(pair[0], "unread", NULL, 0);
	run(crossing);
	say(crossing->far, "home", (int[]){visitor, dup(visitor)}, 2);
	run(crossing);
	expect(crossing->near, "home", got, 2);
	assert_true(same_file(got[0], got[1]));
	run(crossing);
	expect(got[1], "unread", NULL, 0);
	close(got[0]);
	close(got[1]);
	close(pair[0]);
}

static void what_was_not_read_comes_home_too(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	close(pair[1]);
	say(pair[0], "unread", NULL, 0);
	run(crossing);
	say(crossing->far, "home", &visitor, 1);
	run(crossing);
	expect(crossing->near, "home", &home, 1);
	run(crossing);
	expect(home, "unread", NULL, 0);
	say(home, "back", NULL, 0);
	run(crossing);
	expect(pair[0], "back", NULL, 0);
	close(pair[0]);
	run(crossing);
	assert_hung_up(home);
	close(home);
	run(crossing);
	assert_int_equal(crossing->ends.guest.refs.streams, 1);
}

static void pass(struct crossing *crossing, bool home, int fd, int *got)
{
	say(home ? crossing->far : crossing->near, "x", &fd, 1);
	run(crossing);
	expect(home ? crossing->near : crossing->far, "x", got, 1);
}

static void assert_reads(int fd, const char *text)
{
	char bytes[64] = "";
	assert_int_equal(read(fd, bytes, sizeof(bytes) - 1), strlen(text));
	assert_string_equal(bytes, text);
}

static void a_pipe_that_comes_home_is_what_it_was(void **state)
{
	struct crossing *crossing = *state;
	int pipe_ends[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	for (int writes = 0; writes < 2; writes++) {
		assert_int_equal(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
		pass(crossing, false, dup(pipe_ends[writes]), &visitor);
		if (writes) {
			assert_int_equal(write(visitor, "away", 4), 4);
		}
		pass(crossing, true, visitor, &home);
		run(crossing);
		assert_true(same_file(home, pipe_ends[writes]));
		const int seen = O_ACCMODE | O_NONBLOCK;
		assert_int_equal(
			fcntl(home, F_GETFL) & seen, fcntl(pipe_ends[writes], F_GETFL) & seen);
		assert_int_equal(write(pipe_ends[1], "home", 4), 4);
		assert_reads(pipe_ends[0], writes ? "awayhome" : "home");
		assert_int_equal(crossing->ends.guest.refs.streams, 1);
		close(pipe_ends[0]);
		close(pipe_ends[1]);
		close(home);
	}
}

static void a_pipe_comes_home_with_what_is_in_it(void **state)
{
	struct crossing *crossing = *state;
	int pipe_ends[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	pass(crossing, false, pipe_ends[0], &visitor);
	assert_int_equal(write(pipe_ends[1], "unread", 6), 6);
	run(crossing);
	pass(crossing, true, visitor, &home);
	assert_int_equal(write(pipe_ends[1], " and more", 9), 9);
	run(crossing);
	assert_reads(home, "unread and more");
	close(pipe_ends[1]);
	run(crossing);
	char byte;
	assert_int_equal(read(home, &byte, 1), 0);
	close(home);
	run(crossing);
	assert_int_equal(crossing->ends.guest.refs.streams, 1);
}

// Without the flush of all that ends_run does.
static void turn(struct crossing *crossing, int times)
{
	for (int i = 0; i < times; i++) {
		event_base_loop(crossing->ends.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	}
}

static void a_message_that_had_to_wait_leaves_at_once(void **state)
{
	struct crossing *crossing = *state;
	int pipe_ends[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
	pass(crossing, false, pipe_ends[1], &visitor);
	int writer = dup(visitor);
	say(crossing->far, "x", &visitor, 1);
	assert_int_equal(write(writer, "ahead", 5), 5);
	turn(crossing, 20);
	expect(crossing->near, "x", &home, 1);
	assert_reads(pipe_ends[0], "ahead");
	close(pipe_ends[0]);
	close(writer);
	close(home);
}

static void what_is_over_before_its_message_is_not_lost(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], left[2], visitor, got[2];
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	make_pair(SOCK_STREAM, left);
	send_away(crossing, pair, &visitor);
	say(left[0], "last words", NULL, 0);
	close(left[0]);
	say(crossing->far, "both", (int[]){left[1], visitor}, 2); // the second has to wait
	run(crossing);
	expect(crossing->near, "both", got, 2);
	expect(got[0], "last words", NULL, 0);
	expect_end(got[0]);
	assert_true(same_file(got[1], pair[1]));
	close(got[0]);
	close(got[1]);
	close(pair[0]);
	close(pair[1]);
}

static void who_stays_away_goes_on(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], pipe_ends[2], visitor, reader;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
	pass(crossing, false, pipe_ends[0], &reader);
	say(crossing->far, "home", (int[]){dup(visitor), dup(reader)}, 2);
	turn(crossing, 1); // both are asked for, and nobody has answered
	struct end *host = &crossing->ends.host;
	assert_null(end_frame(host, CHANNEL_STREAM_STOP, crossing->id, 1, NULL, 0));
	run(crossing);
	say(pair[0], "still here?", NULL, 0);
	assert_int_equal(write(pipe_ends[1], "you?", 4), 4);
	run(crossing);
	expect(visitor, "still here?", NULL, 0);
	assert_reads(reader, "you?");
	close(pair[0]);
	close(pair[1]);
	close(pipe_ends[1]);
	close(visitor);
	close(reader);
}

static void a_half_closed_one_that_comes_home_can_be_read(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	assert_int_equal(shutdown(visitor, SHUT_WR), 0);
	run(crossing);
	expect_end(pair[0]);
	say(crossing->far, "home", &visitor, 1);
	run(crossing);
	expect(crossing->near, "home", &home, 1);
	run(crossing);
	say(pair[0], "direct", NULL, 0);
	expect(home, "direct", NULL, 0);
	close(pair[0]);
	close(pair[1]);
	close(home);
}

// Two visitors: the message of one waits for the other.
static void what_waits_in_a_socket_is_not_overtaken_by_it(void **state)
{
	struct crossing *crossing = *state;
	int pairs[2][2], visitors[2], home, carried;
	cross(crossing, SOCK_STREAM);
	for (int i = 0; i < 2; i++) {
		make_pair(SOCK_STREAM, pairs[i]);
		send_away(crossing, pairs[i], &visitors[i]);
	}
	say(crossing->far, "home", (int[]){dup(visitors[0])}, 1);
	say(visitors[0], "first", &visitors[1], 1);
	run(crossing);
	expect(crossing->near, "home", &home, 1);
	say(home, "second", NULL, 0);
	run(crossing);
	expect(pairs[0][0], "first", &carried, 1);
	expect(pairs[0][0], "second", NULL, 0);
	assert_int_equal(crossing->ends.guest.refs.counts.homecomings, 1); // only the one carried
	for (int i = 0; i < 2; i++) {
		close(pairs[i][0]);
		close(pairs[i][1]);
	}
	close(visitors[0]);
	close(home);
	close(carried);
}

static void a_pipe_that_is_sent_again_is_the_same(void **state)
{
	struct crossing *crossing = *state;
	int pipe_ends[2], first, second;
	cross(crossing, SOCK_STREAM);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	pass(crossing, false, dup(pipe_ends[0]), &first);
	pass(crossing, false, pipe_ends[0], &second);
	assert_true(same_file(first, second));
	assert_int_equal(write(pipe_ends[1], "one", 3), 3);
	run(crossing);
	assert_reads(second, "one");
	close(pipe_ends[1]);
	close(first);
	close(second);
}

static void a_write_end_that_was_closed_there_can_be_sent_again(void **state)
{
	struct crossing *crossing = *state;
	int pipe_ends[2], visitor;
	cross(crossing, SOCK_STREAM);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	pass(crossing, false, dup(pipe_ends[1]), &visitor);
	close(visitor); // nobody here knows yet
	pass(crossing, false, dup(pipe_ends[1]), &visitor);
	assert_int_equal(write(visitor, "again", 5), 5);
	run(crossing);
	assert_reads(pipe_ends[0], "again");
	close(visitor);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
}

static void an_empty_record_comes_home_too(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_SEQPACKET, pair);
	send_away(crossing, pair, &visitor);
	assert_int_equal(send(pair[0], "", 0, 0), 0);
	run(crossing);
	pass(crossing, true, visitor, &home);
	run(crossing);
	assert_int_equal(send(pair[0], "x", 1, 0), 1);
	run(crossing);
	char byte;
	assert_int_equal(recv(home, &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(recv(home, &byte, 1, MSG_DONTWAIT), 1);
	close(pair[0]);
	close(pair[1]);
	close(home);
}

// Bytes that say where they are, all of which leave the writer's side.
static void write_away(struct crossing *crossing, int fd, size_t size)
{
	uint8_t bytes[4096];
	for (size_t sent = 0; sent < size;) {
		size_t len = size - sent < sizeof(bytes) ? size - sent : sizeof(bytes);
		for (size_t i = 0; i < len; i++) {
			bytes[i] = pattern(sent + i);
		}
		ssize_t n = write(fd, bytes, len);
		sent += n > 0 ? (size_t)n : 0;
		run(crossing);
	}
}

// Those, and then one that was written at home as soon as there was room.
static void expect_in_order(struct crossing *crossing, int out, int home, size_t size)
{
	uint8_t bytes[4096];
	const uint8_t last = 'z';
	bool added = false;
	for (size_t got = 0; got < size + 1;) {
		ssize_t n = read(out, bytes, sizeof(bytes));
		for (ssize_t i = 0; i < n; i++, got++) {
			assert_int_equal(bytes[i], got < size ? pattern(got) : last);
		}
		added = added || write(home, &last, 1) == 1;
		if (n <= 0) {
			run(crossing);
		}
	}
}

static void what_was_written_away_is_not_overtaken_from_home(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	close(pair[1]);
	write_away(crossing, visitor, 600000);
	pass(crossing, true, visitor, &home);
	expect_in_order(crossing, pair[0], home, 600000);
	close(pair[0]);
	close(home);
}

static void nor_is_what_was_written_to_a_pipe(void **state)
{
	struct crossing *crossing = *state;
	int pipe_ends[2], visitor, home;
	cross(crossing, SOCK_STREAM);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
	pass(crossing, false, pipe_ends[1], &visitor);
	write_away(crossing, visitor, 200000);
	pass(crossing, true, visitor, &home);
	expect_in_order(crossing, pipe_ends[0], home, 200000);
	close(pipe_ends[0]);
	close(home);
}

static void one_that_carries_itself_is_reclaimed(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], visitor;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	send_away(crossing, pair, &visitor);
	close(pair[1]);
	say(visitor, "me", (int[]){dup(visitor)}, 1);
	close(visitor);
	run(crossing);
	close(pair[0]);
	run(crossing);
	assert_int_equal(crossing->ends.guest.refs.streams, 1);
	assert_int_equal(crossing->ends.host.refs.streams, 1);
}

/* Until neither the programs nor the proxies take more. */
static void fill(struct crossing *crossing, int fd)
{
	static const char bytes[60000];
	while (send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) > 0) {
		run(crossing);
	}
	assert_int_equal(errno, EAGAIN);
}

static void one_that_is_in_its_own_way_is_reclaimed(void **state)
{
	struct crossing *crossing = *state;
	const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (int i = 0; i < 2; i++) {
		cross(crossing, types[i]);
		fill(crossing, crossing->near);
		fill(crossing, crossing->far);
		const int more = 1 << 20;
		setsockopt(crossing->near, SOL_SOCKET, SO_SNDBUF, &more, sizeof(more));
		say(crossing->near, "me", (int[]){dup(crossing->near)}, 1);
		close_end(&crossing->near);
		run(crossing);
		assert_int_equal(crossing->ends.guest.refs.streams, 1);
		close_end(&crossing->far);
		run(crossing);
		assert_int_equal(crossing->ends.guest.refs.streams, 0);
		assert_int_equal(crossing->ends.host.refs.streams, 0);
	}
}

static void fds_of_a_message_that_nobody_reads_are_closed(void **state)
{
	struct crossing *crossing = *state;
	int pair[2];
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	say(crossing->near, "unread", &pair[1], 1);
	run(crossing);
	close_end(&crossing->far);
	run(crossing);
	assert_hung_up(pair[0]);
	close(pair[0]);
	assert_int_equal(crossing->ends.guest.refs.streams, 0);
}

static void what_cannot_cross_ends_the_session(void **state)
{
	struct crossing *crossing = *state;
	cross(crossing, SOCK_STREAM);
	say(crossing->near, "0123456789", NULL, 0);
	run(crossing);
	int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	say(crossing->near, "x", &directory, 1);
	run(crossing);
	assert_non_null(strstr(crossing->failure, "a directory"));
	assert_non_null(strstr(crossing->failure, "byte 10"));
}

static void the_channel_itself_cannot_cross(void **state)
{
	struct crossing *crossing = *state;
	int pair[2];
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	fd_identity_of(pair[0], &crossing->ends.guest.refs.channel_identity);
	say(crossing->near, "x", pair, 1);
	run(crossing);
	assert_non_null(strstr(crossing->failure, "between guest and host"));
	close(pair[1]);
}

static void what_cannot_cross_can_be_left_out(void **state)
{
	struct crossing *crossing = *state;
	int pair[2], got;
	crossing->ends.guest.refs.rules.unsupported = FDREF_UNSUPPORTED_DROP;
	cross(crossing, SOCK_STREAM);
	make_pair(SOCK_STREAM, pair);
	int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	say(crossing->near, "x", (int[]){directory, pair[1]}, 2);
	run(crossing);
	expect(crossing->far, "x", &got, 1);
	assert_string_equal(crossing->failure, "");
	assert_int_equal(crossing->ends.guest.refs.counts.unsupported, 1);
	close(got);
	close(pair[0]);
}

static void what_can_be_neither_read_nor_written_can_be_left_out(void **state)
{
	struct crossing *crossing = *state;
	int got;
	cross(crossing, SOCK_STREAM);
	for (int devnull = 0; devnull < 2; devnull++) {
		crossing->ends.guest.refs.rules.unsupported =
			devnull ? FDREF_UNSUPPORTED_DEVNULL : FDREF_UNSUPPORTED_DROP;
		int fd = open("/dev/null", O_ACCMODE | O_CLOEXEC); // for ioctl(2) only
		assert_true(fd >= 0);
		say(crossing->near, "x", &fd, 1);
		run(crossing);
		expect(crossing->far, "x", &got, (size_t)devnull);
	}
	close(got);
}

static void what_is_too_large_can_be_replaced(void **state)
{
	struct crossing *crossing = *state;
	int got, fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat st;
	crossing->ends.guest.refs.rules.unsupported = FDREF_UNSUPPORTED_DEVNULL;
	crossing->ends.guest.refs.rules.max_file_copy = 4096;
	cross(crossing, SOCK_STREAM);
	assert_int_equal(ftruncate(fd, 8192), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
	say(crossing->near, "x", &fd, 1);
	run(crossing);
	assert_string_equal(crossing->failure, "");
	expect(crossing->far, "x", &got, 1);
	assert_int_equal(fstat(got, &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	close(got);
}

/* ---- what a hostile peer may send ---- */

static const char *data_frame(struct crossing *crossing, uint32_t arg, size_t len)
{
	uint8_t *bytes = calloc(1, len + 1);
	const char *wrong =
		end_frame(&crossing->ends.host, CHANNEL_STREAM_DATA, crossing->id, arg, bytes, len);
	free(bytes);
	return wrong;
}

static void wrong_data_frames_are_refused(void **state)
{
	struct crossing *crossing = *state;
	cross(crossing, SOCK_STREAM);
	assert_non_null(data_frame(crossing, 0, 0));
	assert_non_null(data_frame(crossing, 1, 3));
	assert_non_null(data_frame(crossing, 1, 5)); // fdref 0
	assert_non_null(data_frame(crossing, 254, 254 * 4 + 1));
	assert_non_null(data_frame(crossing, 0x7fffffff, 8));
	assert_non_null(data_frame(crossing, CHANNEL_SOCKET_MORE, 5));
	assert_non_null(data_frame(crossing, 0, CHANNEL_MAX_STREAM + 1));
	assert_null(data_frame(crossing, 0, CHANNEL_MAX_STREAM));
}

static void a_refused_record_leaves_nothing(void **state)
{
	struct crossing *crossing = *state;
	cross(crossing, SOCK_SEQPACKET);
	const uint64_t before = crossing->ends.host.budget.used[BUDGET_MEMORY];
	assert_non_null(data_frame(crossing, 1, 4)); // fdref 0
	assert_int_equal(crossing->ends.host.budget.used[BUDGET_MEMORY], before);
	assert_null(data_frame(crossing, 0, 1000));
	assert_int_equal(recv(crossing->far, (char[1001]){0}, 1001, MSG_DONTWAIT), 1000);
}

static void data_beyond_its_credit_is_refused(void **state)
{
	struct crossing *crossing = *state;
	const char *wrong = NULL;
	size_t taken = 0;
	cross(crossing, SOCK_STREAM);
	while (wrong == NULL && taken <= 4 * CHANNEL_SOCKET_WINDOW) {
		wrong = data_frame(crossing, 0, CHANNEL_MAX_STREAM);
		taken += CHANNEL_MAX_STREAM;
	}
	assert_non_null(strstr(wrong, "credit"));
}

static void records_without_bytes_are_charged(void **state)
{
	struct crossing *crossing = *state;
	const size_t n = 10000, taken = 1000; // at most so many by the kernel
	cross(crossing, SOCK_SEQPACKET);
	for (size_t i = 0; i < n; i++) {
		assert_null(data_frame(crossing, 0, 0));
	}
	assert_true(crossing->ends.host.budget.used[BUDGET_MEMORY] >
		(n - taken) * CHANNEL_SOCKET_FRAME_COST);
}

// Opens a file of so many bytes, all of which come.
static void open_file(struct end *end, uint32_t id, uint64_t size)
{
	struct channel_open_memory open = {.seals = CHANNEL_NO_SEALS, .exact = 1};
	struct channel_mem_write write = {
		.stride = (uint32_t)size, .row_bytes = (uint32_t)size, .rows = 1};
	struct channel_rows rows;
	channel_put64(open.size, size);
	assert_null(end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_FILE, &open, sizeof(open)));
	assert_null(end_write(end, id, &write, &rows));
}

// A byte with n times the fd of id.
static const char *name_fd(struct end *end, uint32_t socket, uint32_t id, uint32_t n)
{
	uint32_t payload[SCM_MAX + 1];
	for (uint32_t i = 0; i < n; i++) {
		payload[i] = id;
	}
	payload[n] = 0;
	return end_frame(end, CHANNEL_STREAM_DATA, socket, n, payload, n * sizeof(uint32_t) + 1);
}

static void wait_for_used(struct crossing *crossing, enum budget_kind kind, uint64_t used)
{
	while (crossing->ends.host.budget.used[kind] != used) {
		event_base_loop(crossing->ends.base, EVLOOP_ONCE);
	}
}

static void take_message(int fd, size_t n_fds)
{
	uint8_t byte;
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_recv(fd, &byte, 1, &fds), 1);
	assert_int_equal(fds.count, n_fds);
	fdlist_finish(&fds);
}

static uint64_t socket_room(int fd)
{
	int size = 0;
	socklen_t len = sizeof(size);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &len), 0);
	return (uint64_t)size;
}

// The guest's client passes n fds of a file and needs it no more.
static void pass_file(struct crossing *crossing, size_t size, size_t n)
{
	int fds[SCM_MAX];
	fds[0] = new_memfd(size);
	assert_int_equal(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	for (size_t i = 1; i < n; i++) {
		fds[i] = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
	}
	say(crossing->near, "x", fds, n);
	run(crossing);
	assert_string_equal(crossing->failure, "");
}

static void a_file_stays_charged_until_the_local_peer_has_it(void **state)
{
	struct crossing *crossing = *state;
	const struct budget *budget = &crossing->ends.host.budget;
	const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (size_t i = 0; i < 2; i++) {
		cross(crossing, types[i]);
		const uint64_t memory = budget->used[BUDGET_MEMORY];
		const uint64_t fds = budget->used[BUDGET_FDS];
		pass_file(crossing, 50000, 1);
		pass_file(crossing, 300, 2);
		assert_int_equal(budget->used[BUDGET_MEMORY], memory + 50000 + 2 * 300);
		assert_int_equal(budget->used[BUDGET_FDS], fds + 3);
		take_message(crossing->far, 1);
		wait_for_used(crossing, BUDGET_MEMORY, memory + 2 * 300);
		take_message(crossing->far, 2);
		wait_for_used(crossing, BUDGET_MEMORY, memory);
		assert_int_equal(budget->used[BUDGET_FDS], fds);
		close_end(&crossing->far);
		close_end(&crossing->near);
		run(crossing);
	}
}

static void it_does_so_when_the_socket_is_closed_behind_it(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	cross(crossing, SOCK_STREAM);
	const uint64_t before = host->budget.used[BUDGET_MEMORY];
	pass_file(crossing, 50000, 1);
	close_end(&crossing->near);
	run(crossing);
	assert_int_equal(host->refs.streams, 0);
	assert_int_equal(host->budget.used[BUDGET_MEMORY], before + 50000);
	assert_hung_up(crossing->far);
	take_message(crossing->far, 1);
	expect_end(crossing->far);
	wait_for_used(crossing, BUDGET_MEMORY, 0);
	assert_int_equal(host->budget.used[BUDGET_FDS], 0);
}

static void what_the_kernel_keeps_of_a_socket_is_charged_for(void **state)
{
	struct crossing *crossing = *state;
	struct budget *budget = &crossing->ends.host.budget;
	const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (size_t i = 0; i < 2; i++) {
		cross(crossing, types[i]);
		const uint64_t room = budget->used[BUDGET_MEMORY];
		assert_int_equal(room, socket_room(crossing->far));
		say(crossing->near, "last words", NULL, 0);
		close_end(&crossing->near);
		run(crossing);
		assert_int_equal(crossing->ends.host.refs.streams, 0);
		assert_int_equal(budget->used[BUDGET_MEMORY], room);
		assert_hung_up(crossing->far);
		char bytes[20];
		assert_int_equal(recv(crossing->far, bytes, sizeof(bytes), MSG_DONTWAIT), 10);
		wait_for_used(crossing, BUDGET_MEMORY, 0);
		expect_end(crossing->far);
		close_end(&crossing->far);
	}
}

static void a_socket_that_is_widened_for_a_record_is_charged_for_more(void **state)
{
	struct crossing *crossing = *state;
	struct budget *budget = &crossing->ends.host.budget;
	char *large = calloc(1, CHANNEL_MAX_RECORD);
	const int more = 4 * CHANNEL_MAX_RECORD;
	cross(crossing, SOCK_SEQPACKET);
	const uint64_t room = budget->used[BUDGET_MEMORY];
	setsockopt(crossing->near, SOL_SOCKET, SO_SNDBUF, &more, sizeof(more));
	assert_int_equal(send(crossing->near, large, CHANNEL_MAX_RECORD, 0), CHANNEL_MAX_RECORD);
	run(crossing);
	assert_int_equal(
		recv(crossing->far, large, CHANNEL_MAX_RECORD, MSG_DONTWAIT), CHANNEL_MAX_RECORD);
	assert_true(budget->used[BUDGET_MEMORY] > room);
	free(large);
}

static void shared_memory_stays_charged_until_the_local_peer_has_it(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	struct channel_open_shared memory = {.seals = CHANNEL_NO_SEALS, .size = {50000}};
	struct channel_open_shared fd = {.memory = 100, .access = CHANNEL_ACCESS_BOTH};
	const uint32_t kind = CHANNEL_KIND_SHARED;
	cross(crossing, SOCK_STREAM);
	const uint64_t before = host->budget.used[BUDGET_MEMORY];
	assert_null(end_frame(host, CHANNEL_OPEN, 100, kind, &memory, sizeof(memory)));
	assert_null(end_frame(host, CHANNEL_OPEN, 101, kind, &fd, sizeof(fd)));
	assert_null(name_fd(host, crossing->id, 101, 5));
	assert_null(end_frame(host, CHANNEL_CLOSE, 101, 0, NULL, 0));
	assert_null(end_frame(host, CHANNEL_CLOSE, 100, 0, NULL, 0));
	assert_null(fdrefs_get(&host->refs, 100)); // its twin is gone
	assert_int_equal(host->budget.used[BUDGET_MEMORY], before + 50000);
	take_message(crossing->far, 5);
	wait_for_used(crossing, BUDGET_MEMORY, before);
}

static void fds_that_nobody_reads_are_limited(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	const struct channel_open_device null = {.access = CHANNEL_ACCESS_BOTH};
	const char *wrong = NULL;
	cross(crossing, SOCK_STREAM);
	host->budget.limits.most[BUDGET_FDS] = 600;
	for (uint32_t n = 0; wrong == NULL && n < 10; n++) {
		assert_null(end_frame(
			host, CHANNEL_OPEN, 100, CHANNEL_KIND_DEVICE, &null, sizeof(null)));
		wrong = name_fd(host, crossing->id, 100, 100);
		assert_null(end_frame(host, CHANNEL_CLOSE, 100, 0, NULL, 0));
		assert_true(n < 6);
	}
	assert_string_equal(wrong, "more fds than the session may let wait");
	assert_string_equal(budget_exceeded(&host->budget),
		"over the session's budget of fds: 600 (--max-fds)");
	for (uint32_t n = 0; n < 5; n++) {
		take_message(crossing->far, 100);
	}
	open_file(host, 101, 10);
	assert_null(name_fd(host, crossing->id, 101, SCM_MAX)); // there is room again
	take_message(crossing->far, SCM_MAX);
}

static bool has_message(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

static void fds_wait_until_others_were_read(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	cross(crossing, SOCK_STREAM);
	host->budget.limits.most[BUDGET_FLIGHT] = SCM_MAX;
	open_file(host, 100, 10);
	assert_null(name_fd(host, crossing->id, 100, SCM_MAX - 1));
	assert_null(name_fd(host, crossing->id, 100, 2));
	assert_null(name_fd(host, crossing->id, 100, SCM_MAX));
	take_message(crossing->far, SCM_MAX - 1);
	const size_t others[] = {2, SCM_MAX};
	for (size_t i = 0; i < 2; i++) {
		assert_false(has_message(crossing->far)); // before the loop has run
		while (!has_message(crossing->far)) {
			event_base_loop(crossing->ends.base, EVLOOP_ONCE);
		}
		take_message(crossing->far, others[i]);
	}
	assert_null(host->wrong);
}

static void frames_out_of_place_are_refused(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	cross(crossing, SOCK_SEQPACKET);
	uint32_t id = crossing->id;
	assert_non_null(end_frame(host, CHANNEL_STREAM_PAUSE, id, 1, NULL, 0));
	assert_non_null(end_frame(host, CHANNEL_STREAM_PAUSED, id, 0, NULL, 0));
	assert_non_null(end_frame(host, CHANNEL_CREDIT, id, 1, NULL, 0));
	assert_non_null(end_frame(host, CHANNEL_CREDIT, id, UINT32_MAX, NULL, 0));
	assert_non_null(end_frame(host, CHANNEL_MEM_RESIZE, id, 0, "12345678", 8));
	assert_null(data_frame(crossing, CHANNEL_SOCKET_MORE, 4));
	assert_non_null(data_frame(crossing, 1, 8)); // fdrefs inside a record
	for (int i = 0; i < 3; i++) {
		assert_null(data_frame(crossing, CHANNEL_SOCKET_MORE, CHANNEL_MAX_STREAM));
	}
	assert_non_null(data_frame(crossing, 0, CHANNEL_MAX_STREAM)); // too long in all
	assert_non_null(end_frame(host, CHANNEL_STREAM_EOF, id, 0, NULL, 0));
}

static void a_second_eof_or_data_after_it_is_refused(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	cross(crossing, SOCK_STREAM);
	assert_null(end_frame(host, CHANNEL_STREAM_EOF, crossing->id, 0, NULL, 0));
	assert_non_null(end_frame(host, CHANNEL_STREAM_EOF, crossing->id, 0, NULL, 0));
	assert_non_null(data_frame(crossing, 0, 1));
}

static void opens_that_are_wrong_are_refused(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	const struct channel_open_socket good = {.type = SOCK_STREAM};
	struct channel_open_socket open = good;
	const uint32_t kind = CHANNEL_KIND_SOCKET;
	assert_non_null(end_frame(host, CHANNEL_OPEN, 5, kind, &open, sizeof(open) - 1));
	open.type = SOCK_DGRAM;
	assert_non_null(end_frame(host, CHANNEL_OPEN, 5, kind, &open, sizeof(open)));
	open = good;
	open.nonblocking = 2;
	assert_non_null(end_frame(host, CHANNEL_OPEN, 5, kind, &open, sizeof(open)));
	open = good;
	open.root = 1; // nothing to join it to
	assert_non_null(end_frame(host, CHANNEL_OPEN, 5, kind, &open, sizeof(open)));
	assert_null(end_frame(host, CHANNEL_OPEN, 5, kind, &good, sizeof(good)));
	assert_null(end_frame(host, CHANNEL_CLOSE, 5, 0, NULL, 0)); // without EOF: cut off
	assert_int_equal(host->refs.streams, 0);
}

static void a_root_is_joined_once_and_to_its_like(void **state)
{
	struct crossing *crossing = *state;
	struct end *host = &crossing->ends.host;
	struct channel_open_socket open = {.type = SOCK_SEQPACKET, .root = 1};
	int pair[2];
	make_pair(SOCK_STREAM, pair);
	host->refs.has_root = true;
	host->refs.root_fd = pair[0];
	assert_non_null(end_frame(host, CHANNEL_OPEN, 5, CHANNEL_KIND_SOCKET, &open, sizeof(open)));
	open.type = SOCK_STREAM;
	assert_null(end_frame(host, CHANNEL_OPEN, 5, CHANNEL_KIND_SOCKET, &open, sizeof(open)));
	assert_non_null(end_frame(host, CHANNEL_OPEN, 6, CHANNEL_KIND_SOCKET, &open, sizeof(open)));
	assert_null(end_frame(host, CHANNEL_STREAM_DATA, 5, 0, "hello", 5));
	expect(pair[1], "hello", NULL, 0);
	close(pair[1]);
}

static void a_root_never_comes_home(void **state)
{
	struct crossing *crossing = *state;
	struct fdrefs *refs = &crossing->ends.guest.refs;
	const char *wrong;
	int pair[2];
	make_pair(SOCK_STREAM, pair);
	uint32_t id = socket_export_root(refs, pair[0], &wrong);
	assert_null(wrong);
	assert_int_equal(fdrefs_get_fd(refs, id), -EBADF);
	close(pair[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		TEST(bytes_go_both_ways),
		TEST(fds_stay_with_their_bytes),
		TEST(records_keep_their_boundaries),
		TEST(an_empty_record_can_have_fds),
		TEST(a_half_close_ends_one_direction),
		TEST(a_reader_that_leaves_is_told_to_the_writer),
		TEST(a_long_stream_waits_for_its_reader),
		TEST(one_read_of_a_stream_may_go_in_several_frames),
		TEST(sockets_go_through_sockets),
		TEST(one_that_is_passed_twice_in_a_message_is_one),
		TEST(a_socket_that_comes_home_is_what_it_was),
		TEST(one_that_is_used_there_does_not_cross_again),
		TEST(on_the_host_it_is_replaced),
		TEST(left_out_it_disturbs_nobody),
		TEST(one_that_was_closed_there_may_cross_again),
		TEST(one_that_came_home_may_cross_again),
		TEST(one_that_is_used_there_does_not_cross_in_another_session),
		TEST(one_whose_reading_has_ended_may_cross_in_another_session),
		TEST(a_detour_that_is_passed_twice_in_a_message_is_one),
		TEST(what_was_not_read_comes_home_too),
		TEST(a_pipe_that_comes_home_is_what_it_was),
		TEST(a_pipe_comes_home_with_what_is_in_it),
		TEST(a_message_that_had_to_wait_leaves_at_once),
		TEST(what_is_over_before_its_message_is_not_lost),
		TEST(who_stays_away_goes_on),
		TEST(a_half_closed_one_that_comes_home_can_be_read),
		TEST(what_waits_in_a_socket_is_not_overtaken_by_it),
		TEST(a_pipe_that_is_sent_again_is_the_same),
		TEST(a_write_end_that_was_closed_there_can_be_sent_again),
		TEST(an_empty_record_comes_home_too),
		TEST(what_was_written_away_is_not_overtaken_from_home),
		TEST(nor_is_what_was_written_to_a_pipe),
		TEST(one_that_carries_itself_is_reclaimed),
		TEST(one_that_is_in_its_own_way_is_reclaimed),
		TEST(fds_of_a_message_that_nobody_reads_are_closed),
		TEST(what_cannot_cross_ends_the_session),
		TEST(the_channel_itself_cannot_cross),
		TEST(what_cannot_cross_can_be_left_out),
		TEST(what_can_be_neither_read_nor_written_can_be_left_out),
		TEST(what_is_too_large_can_be_replaced),
		TEST(wrong_data_frames_are_refused),
		TEST(a_refused_record_leaves_nothing),
		TEST(data_beyond_its_credit_is_refused),
		TEST(records_without_bytes_are_charged),
		TEST(a_file_stays_charged_until_the_local_peer_has_it),
		TEST(it_does_so_when_the_socket_is_closed_behind_it),
		TEST(what_the_kernel_keeps_of_a_socket_is_charged_for),
		TEST(a_socket_that_is_widened_for_a_record_is_charged_for_more),
		TEST(shared_memory_stays_charged_until_the_local_peer_has_it),
		TEST(fds_that_nobody_reads_are_limited),
		TEST(fds_wait_until_others_were_read),
		TEST(frames_out_of_place_are_refused),
		TEST(a_second_eof_or_data_after_it_is_refused),
		TEST(opens_that_are_wrong_are_refused),
		TEST(a_root_is_joined_once_and_to_its_like),
		TEST(a_root_never_comes_home),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
