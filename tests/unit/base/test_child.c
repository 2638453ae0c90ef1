#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "base/closer.h"
#include "base/fdlist.h"
#include "base/scm.h"
#include "tests/support/fd_count.h"

// Says of each of the standard fds how it can be used, and whether it is a terminal or another device.
static int tell_standard(int fd)
{
	char text[6];
	for (int i = 0; i < 3; i++) {
		struct stat st;
		bool device = fstat(i, &st) == 0 && S_ISCHR(st.st_mode);
		text[2 * i] = "rwb"[fcntl(i, F_GETFL) & O_ACCMODE];
		text[2 * i + 1] = isatty(i) ? 't' : device ? 'd' : '-';
	}
	return send(fd, text, sizeof(text), 0) > 0 ? 7 : 1;
}

// What the child does: says on the socket which fds it has, and its last argument.
static int child_main(int fd, const char *word)
{
	char text[64];
	size_t n = fd_count();
	if (strcmp(word, "standard") == 0) {
		return tell_standard(fd);
	}
	text[0] = (char)('0' + n);
	strncpy(text + 1, word, sizeof(text) - 2);
	return send(fd, text, 1 + strlen(word), 0) > 0 ? 7 : 1;
}

static void a_child_has_its_arguments_and_one_fd(void **state)
{
	(void)state;
	static char program[] = "test-child", word[] = "word";
	char *const argv[] = {program, word, NULL};
	char text[64] = "";
	int extra = dup(STDIN_FILENO); // which the child must not have
	char **all = child_argv(argv, "--child-fd");
	pid_t pid;
	int status;
	int fd = child_start(all, &pid);
	assert_true(fd >= 0);
	assert_true(recv(fd, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, "4word"); // the standard ones, and the pair's end
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	close(fd);
	close(extra);
	free(all);
}

// What a child says that is started with these standard fds.
static void start_with(const int standard[3], char text[64])
{
	static char program[] = "test-child", word[] = "standard";
	char *const argv[] = {program, word, NULL};
	char **all = child_argv(argv, "--child-fd");
	int kept[3];
	pid_t pid;
	for (int i = 0; i < 3; i++) {
		kept[i] = fcntl(i, F_DUPFD_CLOEXEC, 0);
		dup2(standard[i], i);
	}
	int fd = child_start(all, &pid);
	for (int i = 0; i < 3; i++) {
		dup2(kept[i], i);
		close(kept[i]);
	}
	assert_true(fd >= 0);
	ssize_t n = recv(fd, text, 63, 0);
	assert_true(n > 0);
	text[n] = '\0';
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(fd);
	free(all);
}

static void a_child_cannot_read_its_parents_terminal(void **state)
{
	(void)state;
	char text[64];
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(master >= 0);
	assert_int_equal(unlockpt(master), 0);
	int terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(terminal >= 0);
	const int standard[3] = {terminal, terminal, terminal};
	start_with(standard, text);
	assert_string_equal(text, "rdwtwt");
	close(terminal);
	close(master);
}

static void a_child_writes_to_its_parents_files(void **state)
{
	(void)state;
	char text[64];
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	const int standard[3] = {ends[0], ends[1], ends[1]};
	start_with(standard, text);
	assert_string_equal(text, "rdw-w-");
	close(ends[0]);
	close(ends[1]);
}

#define NONSENSE 7 // bytes

struct seen {
	size_t n, len;
	int fd;
};

static bool see(void *data, const void *record, size_t len, struct fdlist *fds)
{
	struct seen *seen = data;
	assert_int_equal((uintptr_t)record % _Alignof(max_align_t), 0);
	seen->n++;
	seen->len += len;
	if (seen->n == 2) {
		seen->fd = fdlist_take(fds);
	}
	return len != NONSENSE;
}

static void send_record(int fd, const void *bytes, size_t len, size_t n_fds)
{
	struct fdlist fds;
	struct iovec iov = {(void *)bytes, len};
	fdlist_init(&fds);
	for (size_t i = 0; i < n_fds; i++) {
		assert_true(fdlist_push(&fds, dup(STDIN_FILENO)));
	}
	assert_int_equal(scm_send(fd, &iov, 1, &fds, n_fds), len);
	fdlist_finish(&fds);
}

static void records_come_whole_and_with_their_fds(void **state)
{
	(void)state;
	static const char bytes[CHILD_RECORD_MAX + 1];
	int pair[2];
	struct seen seen = {.fd = -1};
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(child_read_records(pair[0], 9, see, &seen), CHILD_GOES_ON);
	assert_int_equal(seen.n, 0);
	send_record(pair[1], bytes, 10, 1);
	send_record(pair[1], bytes, 20, 1);
	send_record(pair[1], bytes, sizeof(bytes), 0);
	assert_int_equal(child_read_records(pair[0], 2, see, &seen), CHILD_GOES_ON); // no more
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.len, 30);
	assert_true(seen.fd >= 0);
	close(pair[1]);
	assert_int_equal(child_read_records(pair[0], 9, see, &seen), CHILD_GONE);
	assert_int_equal(seen.n, 3);
	assert_int_equal(seen.len, 30 + CHILD_RECORD_MAX);
	close(seen.fd);
	close(pair[0]);
}

static void nothing_is_read_after_nonsense(void **state)
{
	(void)state;
	static const char bytes[CHILD_RECORD_MAX];
	int pair[2];
	struct seen seen = {.fd = -1};
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	for (int i = 0; i < 2; i++) {
		send_record(pair[1], bytes, NONSENSE, 1);
	}
	assert_int_equal(child_read_records(pair[0], 9, see, &seen), CHILD_NONSENSE);
	assert_int_equal(seen.n, 1);
	assert_int_equal(child_read_records(pair[0], 9, see, &seen), CHILD_NONSENSE);
	close(seen.fd);
	send_record(pair[1], bytes, 1, 2); // one fd too many
	assert_int_equal(child_read_records(pair[0], 9, see, &seen), CHILD_NONSENSE);
	assert_int_equal(seen.n, 2);
	close(pair[0]);
	close(pair[1]);
}

struct echo {
	size_t n;
	int fd; // of whoever has the child's end
	ssize_t sent;
};

/* For each record that is read, another one is sent. */
static bool echo(void *data, const void *record, size_t len, struct fdlist *fds)
{
	(void)fds;
	struct echo *echo = data;
	assert_true(++echo->n < 10);
	echo->sent = send(echo->fd, record, len, MSG_NOSIGNAL);
	return true;
}

static void the_last_records_of_a_child_are_those_that_it_has_sent(void **state)
{
	(void)state;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	struct echo echoes = {.fd = pair[1]};
	send_record(pair[1], "one", 3, 0);
	send_record(pair[1], "two", 3, 1);
	assert_int_equal(child_read_last(pair[0], echo, &echoes), CHILD_GONE);
	assert_int_equal(echoes.n, 2);
	assert_int_equal(echoes.sent, -1);
	closer_close_socket(pair[0]);
	close(pair[1]);
}

static void a_record_whose_fd_is_lost_is_left_out(void **state)
{
	(void)state;
	struct rlimit limit, low;
	int pair[2];
	struct seen seen = {.fd = -1};
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	send_record(pair[1], "lost", 4, 1);
	send_record(pair[1], "next", 4, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = limit;
	low.rlim_cur = 3; // all of them are open
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	enum child_reading reading = child_read_records(pair[0], 9, see, &seen);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(reading, CHILD_GOES_ON);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.len, 4);
	close(pair[0]);
	close(pair[1]);
}

int main(int argc, char *argv[])
{
	if (argc == 4 && strcmp(argv[1], "--child-fd") == 0) {
		return child_main(atoi(argv[2]), argv[3]);
	}
	const struct CMUnitTest tests[] = {
		fd_count_test(a_child_has_its_arguments_and_one_fd),
		fd_count_test(a_child_cannot_read_its_parents_terminal),
		fd_count_test(a_child_writes_to_its_parents_files),
		fd_count_test(records_come_whole_and_with_their_fds),
		fd_count_test(nothing_is_read_after_nonsense),
		fd_count_test(the_last_records_of_a_child_are_those_that_it_has_sent),
		fd_count_test(a_record_whose_fd_is_lost_is_left_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
