#include "base/scm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fdlist.h"
#include "tests/support/fd_count.h"

static int pair[2];

static int setup(void **state)
{
	fd_count_setup(state);
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
}

static int setup_exact(void **state)
{
	scm_use_bytewise(false);
	return setup(state);
}

static int setup_bytewise(void **state)
{
	scm_use_bytewise(true);
	return setup(state);
}

static int setup_records(void **state)
{
	fd_count_setup(state);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		return -1;
	}
	return scm_adopt(pair[1]) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		if (pair[i] >= 0) {
			close(pair[i]);
		}
	}
	return fd_count_teardown(state);
}

static void close_end(size_t i)
{
	close(pair[i]);
	pair[i] = -1;
}

static void add_fds(struct fdlist *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int fd = open("/dev/null", O_RDONLY); // without CLOEXEC
		assert_true(fd >= 0);
		assert_true(fdlist_push(list, fd));
	}
}

static void send_text(const char *text, struct fdlist *fds, size_t n_fds)
{
	struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	assert_int_equal(scm_send(pair[0], &iov, 1, fds, n_fds), (ssize_t)strlen(text));
}

static void bytes_cross_from_several_pieces(void **state)
{
	(void)state;
	struct iovec iov[] = {
		{.iov_base = "abc", .iov_len = 3},
		{.iov_base = "", .iov_len = 0},
		{.iov_base = "defg", .iov_len = 4},
	};
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_send(pair[0], iov, 3, &fds, 0), 7);
	char bytes[16];
	assert_int_equal(scm_recv(pair[1], bytes, sizeof(bytes), &fds), 7);
	assert_memory_equal(bytes, "abcdefg", 7);
	assert_int_equal(fds.count, 0);
	fdlist_finish(&fds);
}

static void the_oldest_fds_cross_and_are_cloexec(void **state)
{
	(void)state;
	struct fdlist sent, received;
	fdlist_init(&sent);
	fdlist_init(&received);
	add_fds(&sent, SCM_MAX + 2);
	send_text("x", &sent, SCM_MAX);
	assert_int_equal(sent.count, SCM_MAX + 2); // still the sender's
	fdlist_drop(&sent, SCM_MAX);
	send_text("y", &sent, 2);

	char bytes[16];
	assert_int_equal(scm_recv(pair[1], bytes, sizeof(bytes), &received), 1);
	assert_int_equal(received.count, SCM_MAX);
	assert_int_equal(scm_recv(pair[1], bytes, sizeof(bytes), &received), 1);
	assert_int_equal(received.count, SCM_MAX + 2);
	struct stat null, got;
	assert_int_equal(stat("/dev/null", &null), 0);
	for (size_t i = 0; i < received.count; i++) {
		int fd = fdlist_peek(&received)[i];
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fstat(fd, &got), 0);
		assert_int_equal(got.st_rdev, null.st_rdev);
	}
	fdlist_finish(&sent);
	fdlist_finish(&received);
}

// Sends 10 fds to a process that may have four more.
static void expect_lost_fds(
	ssize_t (*receive)(int sock, void *data, size_t len, struct fdlist *fds), size_t n_kept)
{
	struct fdlist sent, received;
	fdlist_init(&sent);
	fdlist_init(&received);
	add_fds(&sent, 10);
	send_text("x", &sent, 10);
	struct rlimit old, low;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	int next = dup(0);
	close(next);
	low = old;
	low.rlim_cur = (rlim_t)next + 4;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	char byte;
	ssize_t n = receive(pair[1], &byte, 1, &received);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(n, -EPROTO);
	assert_int_equal(received.count, n_kept);
	fdlist_finish(&received);
	fdlist_finish(&sent);
}

static void dropped_fds_are_an_error_and_none_leaks(void **state)
{
	(void)state;
	expect_lost_fds(scm_recv, 4);
}

static void nothing_to_read_does_not_block(void **state)
{
	(void)state;
	struct fdlist fds;
	fdlist_init(&fds);
	char byte;
	assert_int_equal(scm_recv(pair[1], &byte, 1, &fds), -EAGAIN);
	fdlist_finish(&fds);
}

static void a_full_socket_does_not_block_and_keeps_the_fds(void **state)
{
	(void)state;
	struct fdlist fds;
	fdlist_init(&fds);
	static char bytes[65536];
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	ssize_t n;
	do {
		n = scm_send(pair[0], &iov, 1, &fds, 0);
	} while (n > 0);
	assert_int_equal(n, -EAGAIN);
	add_fds(&fds, 2);
	assert_int_equal(scm_send(pair[0], &iov, 1, &fds, 2), -EAGAIN);
	assert_int_equal(fds.count, 2);
	fdlist_finish(&fds);
}

static void the_end_is_zero_when_read_and_epipe_when_written(void **state)
{
	(void)state;
	struct fdlist fds;
	fdlist_init(&fds);
	send_text("x", &fds, 0);
	close_end(0);
	char byte;
	assert_int_equal(scm_recv(pair[1], &byte, 1, &fds), 1);
	assert_int_equal(scm_recv(pair[1], &byte, 1, &fds), 0);
	struct iovec iov = {.iov_base = "x", .iov_len = 1};
	assert_int_equal(scm_send(pair[1], &iov, 1, &fds, 0), -EPIPE); // and no SIGPIPE
	fdlist_finish(&fds);
}

// Sends "aa|*b|*c" as three pieces, those with a star with an fd.
static void send_layout(const char *layout)
{
	struct fdlist fds;
	fdlist_init(&fds);
	char *copy = strdup(layout), *next = copy;
	assert_non_null(copy);
	for (char *text; (text = strsep(&next, "|")) != NULL;) {
		bool star = *text == '*';
		add_fds(&fds, star);
		send_text(text + star, &fds, star);
		fdlist_drop(&fds, fds.count);
	}
	fdlist_finish(&fds);
	free(copy);
}

// Reads all that is there into a layout. Returns what the last read returned.
static ssize_t read_layout(size_t len, char layout[256])
{
	struct fdlist fds;
	fdlist_init(&fds);
	char *end = layout;
	char bytes[64];
	ssize_t n;
	while ((n = scm_recv_piece(pair[1], bytes, len, &fds)) > 0) {
		const char *bar = end == layout ? "" : "|", *star = fds.count > 0 ? "*" : "";
		assert_true(fds.count <= 1);
		end += sprintf(end, "%s%s%.*s", bar, star, (int)n, bytes);
		fdlist_drop(&fds, fds.count);
	}
	*end = '\0';
	fdlist_finish(&fds);
	return n;
}

static void remove_bars(char *layout)
{
	char *to = layout;
	for (const char *from = layout; *from != '\0'; from++) {
		if (*from != '|') {
			*to++ = *from;
		}
	}
	*to = '\0';
}

static const struct {
	const char *sent;
	size_t len;
	const char *received;
} layouts[] = {
	{"aaa|bbb", 64, "aaabbb"},
	{"*aaa|bbb", 64, "*aaa|bbb"},
	{"aaa|*bbb|ccc|*ddd|*eee", 64, "aaa|*bbb|ccc|*ddd|*eee"},
	{"aaa|bbb|*ccc|ddd|eee", 64, "aaabbb|*ccc|dddeee"},
	{"*a|*b|*c|d|*e", 64, "*a|*b|*c|d|*e"},
	{"*abcdefgh|ij|k", 5, "*abcde|fghij|k"},
	{"*abcdefgh|*ij|k", 5, "*abcde|fgh|*ij|k"},
	{"abcdefgh|ij|*kl", 5, "abcde|fgh|ij|*kl"},
	{"ab|cd|ef|gh|*ij", 5, "abcd|efgh|*ij"},
	{"ab|*cd|*ef|gh", 1, "a|b|*c|d|*e|f|g|h"},
};

static void expect_layouts(bool exact)
{
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
		char received[256], expected[256];
		strcpy(expected, layouts[i].received);
		send_layout(layouts[i].sent);
		assert_int_equal(read_layout(layouts[i].len, received), -EAGAIN);
		if (!exact) {
			remove_bars(received);
			remove_bars(expected);
		}
		assert_string_equal(received, expected);
	}
}

static void this_kernel_tells_positions(void **state)
{
	(void)state; // before anybody has called scm_use_bytewise
	expect_layouts(true);
}

static void fds_stay_with_their_bytes(void **state)
{
	(void)state;
	expect_layouts(true);
}

static void fds_stay_with_their_bytes_if_read_bytewise(void **state)
{
	(void)state;
	expect_layouts(false);
}

static void long_pieces_are_found(void **state)
{
	(void)state;
	static char bytes[65536];
	struct fdlist fds, received;
	fdlist_init(&fds);
	fdlist_init(&received);
	add_fds(&fds, 2);
	struct iovec iov = {.iov_base = bytes, .iov_len = 5000};
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(scm_send(pair[0], &iov, 1, &fds, i == 2 ? 2 : 0), 5000);
	}
	static const struct {
		ssize_t len;
		size_t n_fds;
	} expected[] = {{10000, 0}, {5000, 2}, {10000, 0}, {-EAGAIN, 0}};
	for (size_t i = 0; i < 4; i++) {
		ssize_t n = scm_recv_piece(pair[1], bytes, sizeof(bytes), &received);
		assert_int_equal(n, expected[i].len);
		assert_int_equal(received.count, expected[i].n_fds);
		fdlist_drop(&received, received.count);
	}
	fdlist_finish(&fds);
	fdlist_finish(&received);
}

// A conversation of random sends and reads. Bytes tell their position, fds by their size, too.
struct chat {
	size_t sent, received; // bytes
	size_t fds_sent, fds_received;
	struct fdlist fds;
};

static uint8_t byte_at(size_t position)
{
	return (uint8_t)(position * 167 + (position >> 8));
}

static void add_tagged_fds(struct fdlist *fds, size_t n, size_t tag)
{
	for (size_t i = 0; i < n; i++) {
		int fd = memfd_create("tag", MFD_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, (off_t)tag), 0);
		assert_true(fdlist_push(fds, fd));
	}
}

// Returns as scm_send.
static ssize_t say_something(struct chat *chat, size_t total)
{
	static const size_t sizes[] = {1, 2, 3, 7, 60, 500, 1000, 4095, 4096, 4097, 10000, 50000};
	static uint8_t bytes[50000];
	size_t len = sizes[(size_t)rand() % (sizeof(sizes) / sizeof(sizes[0]))];
	size_t n_fds = rand() % 3 == 0 ? 1 + (size_t)rand() % 3 : 0;
	len = len < total - chat->sent ? len : total - chat->sent;
	for (size_t i = 0; i < len; i++) {
		bytes[i] = byte_at(chat->sent + i);
	}
	add_tagged_fds(&chat->fds, n_fds, chat->sent);
	struct iovec iov = {.iov_base = bytes, .iov_len = len};
	ssize_t n = len == 0 ? -EAGAIN : scm_send(pair[0], &iov, 1, &chat->fds, n_fds);
	fdlist_drop(&chat->fds, n_fds);
	if (n > 0) {
		chat->sent += (size_t)n;
		chat->fds_sent += n_fds;
	}
	return n;
}

static bool hear_something(struct chat *chat, size_t len)
{
	static uint8_t bytes[65536];
	ssize_t n = scm_recv_piece(pair[1], bytes, len, &chat->fds);
	if (n < 0) {
		assert_int_equal(n, -EAGAIN);
		return false;
	}
	assert_true(n > 0 && (size_t)n <= len);
	for (size_t i = 0; i < (size_t)n; i++) {
		assert_int_equal(bytes[i], byte_at(chat->received + i));
	}
	chat->fds_received += chat->fds.count;
	for (size_t i = 0; i < chat->fds.count; i++) {
		struct stat tag;
		assert_int_equal(fstat(fdlist_peek(&chat->fds)[i], &tag), 0);
		assert_int_equal(tag.st_size, chat->received);
	}
	fdlist_drop(&chat->fds, chat->fds.count);
	chat->received += (size_t)n;
	return true;
}

static void expect_exact_chat(size_t len, size_t total)
{
	struct chat chat = {0};
	fdlist_init(&chat.fds);
	while (chat.received < total) {
		for (int i = rand() % 30; i > 0 && say_something(&chat, total) > 0; i--) {
		}
		for (int i = rand() % 60; i > 0 && hear_something(&chat, len); i--) {
		}
	}
	assert_int_equal(chat.received, chat.sent);
	assert_int_equal(chat.fds_received, chat.fds_sent);
	assert_true(chat.fds_sent > 0);
	fdlist_finish(&chat.fds);
}

static void random_bytes_and_fds_arrive_as_sent(void **state)
{
	(void)state;
	srand(1);
	expect_exact_chat(1, 30000);
	expect_exact_chat(7, 100000);
	expect_exact_chat(4096, 5000000);
	expect_exact_chat(65536, 20000000);
}

static void random_bytes_and_fds_arrive_as_sent_if_read_bytewise(void **state)
{
	(void)state;
	srand(2);
	expect_exact_chat(1, 30000);
	expect_exact_chat(7, 30000);
	expect_exact_chat(4096, 100000);
	expect_exact_chat(65536, 100000);
}

// Says total bytes, with pauses in which the queue runs empty. Does not return.
static void chatter(struct chat *chat, size_t total)
{
	close_end(1);
	srand(3);
	while (chat->sent < total) {
		ssize_t n = say_something(chat, total);
		if (n < 0 && n != -EAGAIN) {
			_exit(EXIT_FAILURE);
		}
		if (n < 0 || rand() % 8 == 0) {
			usleep(100);
		}
	}
	_exit(EXIT_SUCCESS);
}

static void fds_that_are_sent_during_the_look_stay_with_their_bytes(void **state)
{
	(void)state;
	const size_t total = 10000000;
	struct chat *sender = mmap(
		NULL, sizeof(*sender), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(sender != MAP_FAILED);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		chatter(sender, total);
	}
	close_end(0);
	struct chat chat = {0};
	fdlist_init(&chat.fds);
	while (chat.received < total) {
		if (!hear_something(&chat, 65536)) {
			poll(&(struct pollfd){.fd = pair[1], .events = POLLIN}, 1, -1);
		}
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(chat.fds_received, sender->fds_sent);
	fdlist_finish(&chat.fds);
	munmap(sender, sizeof(*sender));
}

static int get_option(int name)
{
	int value = -1;
	getsockopt(pair[1], SOL_SOCKET, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void set_option(int name, int value)
{
	assert_int_equal(setsockopt(pair[1], SOL_SOCKET, name, &value, sizeof(value)), 0);
}

static void credentials_do_not_disturb(void **state)
{
	(void)state;
	set_option(SO_PASSCRED, 1);
	expect_layouts(false);
	random_bytes_and_fds_arrive_as_sent_if_read_bytewise(state);
}

static void credentials_and_offsets_are_switched_off_and_on_again(void **state)
{
	(void)state;
	set_option(SO_PASSCRED, 1);
	set_option(SO_PEEK_OFF, 2);
	int adopted = scm_adopt(pair[1]);
	assert_true(adopted > 0);
	assert_int_equal(get_option(SO_PASSCRED), 0);
	expect_layouts(true);
	scm_release(pair[1], adopted);
	assert_int_equal(get_option(SO_PASSCRED), 1);
}

static void what_needs_no_change_stays_when_released(void **state)
{
	(void)state;
	int adopted = scm_adopt(pair[1]);
	assert_int_equal(adopted, 0);
	scm_release(pair[1], adopted);
	assert_int_equal(get_option(SO_PASSCRED), 0);
	assert_int_equal(scm_adopt(-1), -EBADF);
}

static void pidfds_that_nobody_wants_are_closed(void **state)
{
	(void)state;
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
	int on = 1;
	if (setsockopt(pair[1], SOL_SOCKET, SO_PASSPIDFD, &on, sizeof(on)) < 0) {
		skip();
	}
	expect_layouts(false);
}

static void bytes_out_of_band_are_left_out(void **state)
{
	(void)state;
	send_layout("ab");
	if (send(pair[0], "!", 1, MSG_OOB) < 0) {
		skip();
	}
	send_layout("*cd");
	char layout[256];
	assert_int_equal(read_layout(64, layout), -EAGAIN);
	remove_bars(layout);
	assert_string_equal(layout, "ab*cd");
	assert_int_equal(send(pair[0], "!", 1, MSG_OOB), 1);
	assert_int_equal(read_layout(64, layout), -EAGAIN);
	assert_string_equal(layout, "");
	struct pollfd poll_fd = {.fd = pair[1], .events = POLLIN};
	assert_int_equal(poll(&poll_fd, 1, 0), 0); // an event loop would spin
}

static void pieces_end_with_a_stream_that_was_not_read_to_the_end(void **state)
{
	(void)state;
	char layout[256];
	send_layout("aa|*b");
	assert_int_equal(send(pair[1], "unread", 6, 0), 6);
	close_end(0);
	assert_int_equal(read_layout(64, layout), 0);
	assert_string_equal(layout, "aa|*b");
	assert_int_equal(read_layout(64, layout), 0);
}

static void a_half_closed_stream_ends_too(void **state)
{
	(void)state;
	char layout[256];
	send_layout("aa");
	shutdown(pair[0], SHUT_WR);
	assert_int_equal(read_layout(64, layout), 0);
	assert_string_equal(layout, "aa");
}

static void fds_can_be_refused(void **state)
{
	(void)state;
	const struct iovec iov = {.iov_base = "x", .iov_len = 1};
	const int fd = STDIN_FILENO;
	const struct fdlist fds = {.fds = (int *)&fd, .count = 1};
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	scm_refuse_fds(pair[0]);
	ssize_t n = scm_send(pair[1], &iov, 1, &fds, 1);
	assert_int_equal(scm_send(pair[0], &iov, 1, &fds, 1), 1);
	close(pair[0]);
	close(pair[1]);
	if (n == 1) {
		skip(); // the kernel does not know how
	}
	assert_int_equal(n, -EPERM);
}

static void dropped_fds_of_a_piece_are_an_error(void **state)
{
	(void)state;
	expect_lost_fds(scm_recv_piece, 4);
}

static void send_record(const char *text, size_t n_fds)
{
	struct fdlist fds;
	fdlist_init(&fds);
	add_fds(&fds, n_fds);
	send_text(text, &fds, n_fds);
	fdlist_finish(&fds);
}

// len: what scm_recv_record is expected to return for a buffer of 8 bytes.
static void expect_record(ssize_t len, const char *text, size_t n_fds)
{
	char bytes[8];
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(scm_recv_record(pair[1], bytes, sizeof(bytes), &fds), len);
	assert_int_equal(fds.count, n_fds);
	if (len > 0) {
		assert_memory_equal(bytes, text, len);
	}
	fdlist_finish(&fds);
}

static void records_are_not_joined(void **state)
{
	(void)state;
	send_record("ab", 0);
	send_record("cde", 1);
	send_record("f", 0);
	send_record("12345678", SCM_MAX);
	expect_record(2, "ab", 0);
	expect_record(3, "cde", 1);
	expect_record(1, "f", 0);
	expect_record(8, "12345678", SCM_MAX);
	expect_record(-EAGAIN, NULL, 0);
}

static void an_empty_record_is_not_the_end(void **state)
{
	(void)state;
	send_record("", 0);
	expect_record(0, NULL, 0);
	expect_record(-EAGAIN, NULL, 0);
	send_record("", 0);
	send_record("", 2);
	send_record("a", 0);
	send_record("", 0);
	close_end(0);
	expect_record(0, NULL, 0);
	expect_record(0, NULL, 2);
	expect_record(1, "a", 0);
	expect_record(0, NULL, 0);
	expect_record(SCM_END, NULL, 0);
	expect_record(SCM_END, NULL, 0);
}

static void records_sent_before_the_adoption_are_told_from_the_end(void **state)
{
	(void)state;
	scm_release(pair[1], scm_adopt(pair[1]));
	set_option(SO_TIMESTAMP, 0);
	send_record("", 0);
	shutdown(pair[0], SHUT_WR);
	assert_true(scm_adopt(pair[1]) > 0);
	expect_record(0, NULL, 0);
	expect_record(SCM_END, NULL, 0);
}

static void fds_are_seen_wherever_they_are_queued(void **state)
{
	(void)state;
	static const char many[4097];
	struct fdlist fds;
	fdlist_init(&fds);
	add_fds(&fds, 1);
	assert_false(scm_may_hold_fds(pair[1]));
	send_text("none", &fds, 0);
	send_text("none", &fds, 0);
	assert_false(scm_may_hold_fds(pair[1]));
	send_text("one", &fds, 1);
	assert_true(scm_may_hold_fds(pair[1]));
	// what is long is not looked at
	assert_int_equal(send(pair[1], many, sizeof(many), 0), sizeof(many));
	assert_true(scm_may_hold_fds(pair[0]));
	fdlist_finish(&fds);
}

static void a_socket_holds_none_when_empty_records_are_read_too(void **state)
{
	(void)state;
	assert_false(scm_may_hold_fds(pair[1]));
	send_record("", 1);
	assert_true(scm_may_hold_fds(pair[1]));
	assert_int_equal(send(pair[1], "unread", 6, 0), 6);
	close_end(0);
	assert_true(scm_may_hold_fds(pair[1]));
	expect_record(0, NULL, 1);
	assert_false(scm_may_hold_fds(pair[1]));
}

static void records_survive_that_the_peer_has_not_read_all(void **state)
{
	(void)state;
	send_record("a", 1);
	send_record("", 0);
	assert_int_equal(send(pair[1], "unread", 6, 0), 6);
	close_end(0);
	expect_record(1, "a", 1);
	expect_record(0, NULL, 0);
	expect_record(SCM_END, NULL, 0);
}

static void a_record_that_is_too_long_is_lost_with_its_fds(void **state)
{
	(void)state;
	send_record("123456789", 3);
	send_record("ab", 1);
	expect_record(-EMSGSIZE, NULL, 0);
	expect_record(2, "ab", 1);
}

static void dropped_fds_of_a_record_are_an_error(void **state)
{
	(void)state;
	expect_lost_fds(scm_recv_record, 0);
}

int main(void)
{
#define scm_test(name)      cmocka_unit_test_setup_teardown(name, setup, teardown)
#define exact_test(name)    cmocka_unit_test_setup_teardown(name, setup_exact, teardown)
#define bytewise_test(name) cmocka_unit_test_setup_teardown(name, setup_bytewise, teardown)
#define record_test(name)   cmocka_unit_test_setup_teardown(name, setup_records, teardown)
	const struct CMUnitTest tests[] = {
		scm_test(bytes_cross_from_several_pieces),
		scm_test(the_oldest_fds_cross_and_are_cloexec),
		scm_test(dropped_fds_are_an_error_and_none_leaks),
		scm_test(nothing_to_read_does_not_block),
		scm_test(a_full_socket_does_not_block_and_keeps_the_fds),
		scm_test(the_end_is_zero_when_read_and_epipe_when_written),
		scm_test(fds_are_seen_wherever_they_are_queued),
		scm_test(this_kernel_tells_positions),
		exact_test(fds_stay_with_their_bytes),
		exact_test(long_pieces_are_found),
		exact_test(random_bytes_and_fds_arrive_as_sent),
		exact_test(fds_that_are_sent_during_the_look_stay_with_their_bytes),
		exact_test(credentials_do_not_disturb),
		exact_test(credentials_and_offsets_are_switched_off_and_on_again),
		exact_test(what_needs_no_change_stays_when_released),
		scm_test(fds_can_be_refused),
		exact_test(pidfds_that_nobody_wants_are_closed),
		exact_test(bytes_out_of_band_are_left_out),
		exact_test(pieces_end_with_a_stream_that_was_not_read_to_the_end),
		exact_test(a_half_closed_stream_ends_too),
		exact_test(dropped_fds_of_a_piece_are_an_error),
		bytewise_test(fds_stay_with_their_bytes_if_read_bytewise),
		bytewise_test(random_bytes_and_fds_arrive_as_sent_if_read_bytewise),
		bytewise_test(credentials_do_not_disturb),
		bytewise_test(bytes_out_of_band_are_left_out),
		bytewise_test(a_half_closed_stream_ends_too),
		bytewise_test(dropped_fds_of_a_piece_are_an_error),
		record_test(records_are_not_joined),
		record_test(an_empty_record_is_not_the_end),
		record_test(records_sent_before_the_adoption_are_told_from_the_end),
		record_test(a_socket_holds_none_when_empty_records_are_read_too),
		record_test(records_survive_that_the_peer_has_not_read_all),
		record_test(a_record_that_is_too_long_is_lost_with_its_fds),
		record_test(dropped_fds_of_a_record_are_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
