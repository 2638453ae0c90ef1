#include "fdpass/ondemand.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sodium.h>

#include "ends.h"
#include "fdpass/any.h"
#include "fdpass/fileserver.h"
#include "tests/support/fd_count.h"

#define MIB       (1024 * 1024)
#define SIZE      (200ll * MIB)
#define READ_SIZE (20ll * MIB) // of a file of which every byte is asked for
#define STRIPE    (7 * MIB)    // from one piece with a pattern to the next
#define PIECE     (300 * 1000) // bytes of such a piece
#define READER_FD 3

// Where no FUSE can be mounted the tests that need it are skipped.
static bool can_mount;

static void need_mount(void)
{
	if (!can_mount) {
		skip();
	}
}

// Read-only, with a pattern in a sparse file; no name is left.
static int new_file(off_t size)
{
	char path[] = "/tmp/ondemand-XXXXXX";
	int fd = mkstemp(path), read_only = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && read_only >= 0);
	unlink(path);
	uint8_t *data = malloc(PIECE);
	for (off_t at = 0; at < size; at += STRIPE) {
		for (size_t i = 0; i < PIECE; i++) {
			data[i] = pattern((size_t)at / 3 + i);
		}
		size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;
		assert_int_equal(pwrite(fd, data, n, at), n);
	}
	free(data);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
	return read_only;
}

static uint32_t export_file(struct ends *ends, int fd)
{
	const char *wrong;
	ondemand_prepare(&ends->host.refs);
	uint32_t id = ondemand_export(&ends->guest.refs, fd, &wrong);
	assert_int_not_equal(id, 0);
	assert_null(wrong);
	ends_run(ends);
	assert_null(ends->host.wrong);
	assert_int_equal(ends->host.opened, id);
	return id;
}

// The host's fd for a file of the guest, which is taken.
static int cross(struct ends *ends, int fd)
{
	uint32_t id = export_file(ends, fd);
	int copy = end_take(&ends->host);
	assert_true(copy >= 0);
	struct fdref *ref = fdrefs_get(&ends->guest.refs, id);
	ref->interface->named(ref);
	ends_run(ends);
	return copy;
}

/* ---- readers: processes of their own, since FUSE is answered in this one ---- */

typedef bool (*reader)(int fd);

// Takes fd. The reader has no other fds of ours, as in real life.
static pid_t start_reader(reader read_it, int fd)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(90);
		bool ok = dup2(fd, READER_FD) == READER_FD &&
			close_range(READER_FD + 1, ~0u, 0) == 0 && read_it(READER_FD);
		_exit(ok ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	close(fd);
	return pid;
}

static bool has_ended(pid_t pid, int *status)
{
	pid_t ended = waitpid(pid, status, WNOHANG);
	assert_true(ended == 0 || ended == pid);
	return ended == pid;
}

static void handle_tick(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	(void)data;
}

// Waits for a moment where there is nothing to do: a reader may end, which is no event.
static void turn(struct ends *ends)
{
	const struct timeval moment = {.tv_usec = 1000};
	channel_flush(ends->guest.channel);
	channel_flush(ends->host.channel);
	assert_int_equal(
		event_base_once(ends->base, -1, EV_TIMEOUT, handle_tick, NULL, &moment), 0);
	event_base_loop(ends->base, EVLOOP_ONCE);
}

static void expect_reader(struct ends *ends, pid_t pid)
{
	int status;
	while (!has_ended(pid, &status)) {
		turn(ends);
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EXIT_SUCCESS);
}

static void run_reader(struct ends *ends, reader read_it, int fd)
{
	expect_reader(ends, start_reader(read_it, fd));
}

static int original; // the readers' to compare with

static bool same_at(int fd, off_t offset, size_t len)
{
	uint8_t *ours = malloc(len), *theirs = malloc(len);
	ssize_t n = pread(original, theirs, len, offset), got = 0, more = 1;
	while (got < n && more > 0) {
		more = pread(fd, ours + got, (size_t)(n - got), offset + got);
		got += more;
	}
	bool same = got == n && memcmp(ours, theirs, (size_t)n) == 0;
	free(ours);
	free(theirs);
	return same;
}

static void hash_file(int fd, uint8_t hash[crypto_hash_sha256_BYTES])
{
	crypto_hash_sha256_state state;
	uint8_t *data = malloc(MIB);
	ssize_t n;
	crypto_hash_sha256_init(&state);
	while ((n = read(fd, data, MIB)) > 0) {
		crypto_hash_sha256_update(&state, data, (unsigned long long)n);
	}
	crypto_hash_sha256_final(&state, hash);
	free(data);
}

static uint8_t hash_of_original[crypto_hash_sha256_BYTES];

static bool reads_all(int fd)
{
	uint8_t hash[crypto_hash_sha256_BYTES];
	hash_file(fd, hash);
	return memcmp(hash, hash_of_original, sizeof(hash)) == 0;
}

static void a_file_beyond_the_limit_reads_as_the_original(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	int fd = new_file(READ_SIZE);
	hash_file(fd, hash_of_original);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	int copy = cross(&ends, fd);
	run_reader(&ends, reads_all, copy);
	assert_true(ends.host.frames[CHANNEL_MEM_READ_REPLY] >= READ_SIZE / CHANNEL_MAX_STREAM);
	assert_int_equal(ends.host.frames[CHANNEL_MEM_WRITE], 0);
	assert_int_equal(ends.host.refs.counts.files_on_demand, 1);
	assert_int_equal(ends.host.refs.counts.memory_received, READ_SIZE);
	assert_int_equal(ends.guest.refs.counts.files_on_demand, 1);
	assert_int_equal(ends.guest.refs.counts.memory_sent, READ_SIZE);
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 0);
	ends_finish(&ends);
}

static bool reads_here_and_there(int fd)
{
	static const off_t offsets[] = {
		0, 1, STRIPE - 5, 65535, 28 * (off_t)MIB, SIZE - 100, SIZE - 1, SIZE, SIZE + 100};
	static const size_t lengths[] = {1, 4097, 65536, 200001};
	bool same = true;
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		for (size_t j = 0; j < sizeof(lengths) / sizeof(lengths[0]); j++) {
			same = same && same_at(fd, offsets[i], lengths[j]);
		}
	}
	const uint8_t *data = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
	const uint8_t *expected = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, original, 0);
	same = same && data != MAP_FAILED && expected != MAP_FAILED &&
		memcmp(data + 21 * MIB - 1000, expected + 21 * MIB - 1000, MIB) == 0;
	return same;
}

// As start_reader, with the original beside it.
static void read_beside_original(struct ends *ends, reader read_it, int fd, int source)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(90);
		original = source;
		_exit(read_it(fd) ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	while (!has_ended(pid, &status)) {
		turn(ends);
	}
	assert_int_equal(status, 0);
}

static void reads_and_mappings_at_any_offset_agree(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	int fd = new_file(SIZE), source = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int copy = cross(&ends, fd);
	read_beside_original(&ends, reads_here_and_there, copy, source);
	close(copy);
	close(source);
	ends_finish(&ends);
}

static bool is_read_only(int fd)
{
	char path[32], byte;
	struct stat st;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return write(fd, "x", 1) == -1 && errno == EBADF && ftruncate(fd, 0) == -1 &&
		open(path, O_RDWR | O_CLOEXEC) == -1 && errno == EROFS && fstat(fd, &st) == 0 &&
		st.st_size == SIZE && S_ISREG(st.st_mode) && lseek(fd, 0, SEEK_CUR) == 5 * STRIPE &&
		read(fd, &byte, 1) == 1 && (uint8_t)byte == pattern(5 * STRIPE / 3) &&
		lseek(fd, 0, SEEK_END) == SIZE;
}

static void the_offset_and_the_access_mode_are_the_originals(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	int fd = new_file(SIZE), source = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(lseek(fd, 5 * STRIPE, SEEK_SET), 5 * STRIPE);
	int copy = cross(&ends, fd);
	assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDONLY);
	run_reader(&ends, is_read_only, copy);
	assert_int_equal(lseek(source, 0, SEEK_CUR), 5 * STRIPE);
	close(source);
	ends_finish(&ends);
}

static bool reads_a_byte(int fd)
{
	char byte;
	return read(fd, &byte, 1) == 1;
}

static void asking_what_the_fd_is_does_not_wait_for_ourselves(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	struct stat st;
	ends_init(&ends);
	int copy = cross(&ends, new_file(SIZE));
	struct fdref *ref = fdrefs_get(&ends.host.refs, ends.host.opened);
	run_reader(&ends, reads_a_byte, fcntl(copy, F_DUPFD_CLOEXEC, 0));
	assert_int_equal(fstat(copy, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	const struct fd_identity identity = {.device = st.st_dev, .number = st.st_ino};
	assert_ptr_equal(fdrefs_find(&ends.host.refs, &identity), ref);
	assert_int_equal(fd_kind_of(copy), FD_KIND_UNKNOWN);
	assert_int_equal(fd_seals(copy), CHANNEL_NO_SEALS);
	close(copy);
	ends_finish(&ends);
}

static bool ends_at_ten_mebibytes(int fd)
{
	char data[100];
	return pread(fd, data, sizeof(data), 10 * MIB - 40) == 40 &&
		pread(fd, data, sizeof(data), 10 * MIB) == 0 &&
		pread(fd, data, sizeof(data), 20 * MIB) == 0;
}

static void a_file_that_was_truncated_ends_early(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	char path[] = "/tmp/ondemand-XXXXXX";
	int writable = mkstemp(path), fd = open(path, O_RDONLY | O_CLOEXEC);
	unlink(path);
	assert_int_equal(ftruncate(writable, SIZE), 0);
	int copy = cross(&ends, fd);
	assert_int_equal(ftruncate(writable, 10 * MIB), 0);
	run_reader(&ends, ends_at_ten_mebibytes, copy);
	close(writable);
	ends_finish(&ends);
}

static bool reads_from_many(int fd)
{
	pid_t pids[40];
	bool ok = true;
	for (int i = 0; i < 40; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			_exit(same_at(fd, i * (off_t)5 * MIB, 300000) ? 0 : 1);
		}
	}
	for (int i = 0; i < 40; i++) {
		int status;
		ok = waitpid(pids[i], &status, 0) == pids[i] && status == 0 && ok;
	}
	return ok;
}

static void many_read_at_once(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	int fd = new_file(SIZE), source = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int copy = cross(&ends, fd);
	read_beside_original(&ends, reads_from_many, copy, source);
	close(copy);
	close(source);
	ends_finish(&ends);
}

static void a_file_is_confirmed_when_nobody_has_it_open_any_more(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	int fd = new_file(2 * MIB);
	int first = cross(&ends, fd);
	uint32_t id = ends.host.opened;
	assert_true(fdrefs_get(&ends.host.refs, id)->closing);
	int second = fcntl(first, F_DUPFD_CLOEXEC, 0);
	close(first);
	ends_run(&ends);
	assert_int_equal(ends.guest.frames[CHANNEL_CLOSED], 0);
	assert_non_null(fdrefs_get(&ends.guest.refs, id));
	close(second);
	while (ends.guest.frames[CHANNEL_CLOSED] == 0) {
		turn(&ends);
	}
	assert_null(fdrefs_get(&ends.guest.refs, id));
	assert_null(fdrefs_get(&ends.host.refs, id));

	// the same id again is another file
	fd = new_file(3 * MIB);
	struct stat st;
	int copy = cross(&ends, fd);
	assert_int_equal(ends.host.opened, id);
	assert_int_equal(fstat(copy, &st), 0);
	assert_int_equal(st.st_size, 3 * MIB);
	close(copy);
	ends_finish(&ends);
}

static void a_file_that_nobody_took_is_confirmed_at_once(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	ends_init(&ends);
	uint32_t id = export_file(&ends, new_file(2 * MIB));
	fdrefs_close(fdrefs_get(&ends.guest.refs, id));
	ends_run(&ends);
	assert_null(fdrefs_get(&ends.guest.refs, id));
	assert_null(fdrefs_get(&ends.host.refs, id));
	ends_finish(&ends);
}

static void a_file_that_is_sent_back_is_the_original(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	char wrong[ANY_WRONG_MAX];
	uint32_t id;
	struct stat st, home_st;
	ends_init(&ends);
	int fd = new_file(2 * MIB);
	assert_int_equal(fstat(fd, &st), 0);
	int copy = cross(&ends, fd);
	// the message waits when the local peer's last fd is taken, and closed
	assert_int_equal(any_export(&ends.host.refs, copy, &id, wrong), ANY_OPENED);
	assert_int_equal(id, ends.host.opened);
	for (int i = 0; i < 100; i++) {
		turn(&ends);
	}
	int home = fdrefs_get_fd(&ends.guest.refs, id);
	assert_int_equal(fstat(home, &home_st), 0);
	assert_int_equal(home_st.st_ino, st.st_ino);
	assert_int_equal(ends.guest.refs.counts.homecomings, 1);
	close(home);
	struct fdref *ref = fdrefs_get(&ends.host.refs, id);
	ref->interface->named(ref);
	while (fdrefs_get(&ends.guest.refs, id) != NULL) {
		turn(&ends);
	}
	assert_null(fdrefs_get(&ends.host.refs, id));
	ends_finish(&ends);
}

// The session that serves it does not answer meanwhile.
static void another_session_does_not_look_at_a_file_that_this_one_serves(void **state)
{
	(void)state;
	need_mount();
	struct ends ends, others;
	char wrong[ANY_WRONG_MAX];
	uint32_t id = 0;
	ends_init(&ends);
	ends_init(&others);
	int copy = cross(&ends, new_file(SIZE)), again = fcntl(copy, F_DUPFD_CLOEXEC, 0);
	alarm(90); // who asks for bytes or for the file system would wait for this process
	assert_false(any_must_wait(&others.guest.refs, copy));
	assert_int_equal(any_export(&others.guest.refs, copy, &id, wrong), ANY_REFUSED);
	assert_string_equal(wrong, "a file that another session serves on demand cannot cross");
	others.host.refs.rules.unsupported = FDREF_UNSUPPORTED_DROP;
	assert_int_equal(any_export(&others.host.refs, again, &id, wrong), ANY_DROPPED);
	alarm(0);
	ends_finish(&others);
	ends_finish(&ends);
}

// Who has sent it is another VM, which would learn nothing of the end of this session.
static void what_a_service_passes_on_ends_no_session_on_the_host(void **state)
{
	(void)state;
	need_mount();
	struct ends ends, others;
	char wrong[ANY_WRONG_MAX];
	uint32_t id = 0;
	ends_init(&ends);
	ends_init(&others);
	others.guest.takes = true;
	int copy = cross(&ends, new_file(SIZE));
	alarm(90);
	assert_int_equal(any_export(&others.host.refs, copy, &id, wrong), ANY_OPENED);
	assert_string_equal(wrong, "a file that another session serves on demand cannot cross");
	assert_int_equal(others.host.refs.counts.unsupported, 1);
	alarm(0);
	ends_run(&others);
	struct stat st;
	assert_int_equal(fstat(others.guest.taken, &st), 0);
	assert_int_equal(st.st_rdev, makedev(1, 3)); // /dev/null
	close(others.guest.taken);
	ends_finish(&others);
	ends_finish(&ends);
}

/* ---- the other side does not answer ---- */

// A host whose peer is bare, with a file of 200 MiB that was opened as id 1. The peer's end.
static int open_from_bare_peer(struct ends *ends)
{
	int pair[2];
	ends_init(ends);
	ondemand_prepare(&ends->host.refs);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	end_reconnect(&ends->host, ends->base, pair[0]);
	struct channel_open_memory open = {
		.seals = CHANNEL_NO_SEALS, .cached = CHANNEL_CACHED_ON_DEMAND};
	channel_put64(open.size, SIZE);
	assert_null(
		end_frame(&ends->host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &open, sizeof(open)));
	ends->host.opened = 1;
	return pair[1];
}

// The next question that comes to the peer; its number.
static uint32_t next_question(struct ends *ends, int peer, struct channel_mem_read *question)
{
	struct channel_header header;
	ssize_t n = -1;
	while (n < 0) {
		turn(ends);
		n = recv(peer, &header, sizeof(header), MSG_DONTWAIT);
	}
	assert_int_equal(n, sizeof(header));
	assert_int_equal(header.type, CHANNEL_MEM_READ);
	assert_int_equal(header.id, 1);
	assert_int_equal(header.length, sizeof(*question));
	assert_int_equal(recv(peer, question, sizeof(*question), 0), sizeof(*question));
	assert_in_range(question->length, 1, CHANNEL_MAX_STREAM);
	return header.arg;
}

static const char *reply(
	struct ends *ends, uint32_t number, uint64_t offset, uint32_t error, size_t len)
{
	static uint8_t payload[sizeof(struct channel_mem_read_reply) + CHANNEL_MAX_STREAM + 1];
	struct channel_mem_read_reply head = {.error = error};
	channel_put64(head.offset, offset);
	memset(payload, 'x', sizeof(payload));
	memcpy(payload, &head, sizeof(head));
	return end_frame(
		&ends->host, CHANNEL_MEM_READ_REPLY, 1, number, payload, sizeof(head) + len);
}

static bool read_fails(int fd)
{
	char byte;
	return pread(fd, &byte, 1, 100 * MIB) == -1 &&
		(errno == EIO || errno == ENOTCONN || errno == ECONNABORTED);
}

static void a_read_that_is_not_answered_in_time_fails(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	struct channel_mem_read question;
	int peer = open_from_bare_peer(&ends);
	ends.host.refs.rules.read_ms = 50;
	run_reader(&ends, read_fails, end_take(&ends.host));
	uint32_t number = next_question(&ends, peer, &question);

	// The late answer finds its question still open, also after CLOSE.
	assert_null(end_frame(&ends.host, CHANNEL_CLOSE, 1, 0, NULL, 0));
	assert_non_null(fdrefs_get(&ends.host.refs, 1));
	uint64_t offset = channel_get64(question.offset);
	assert_null(reply(&ends, number, offset, 0, question.length));
	while (fdrefs_get(&ends.host.refs, 1) != NULL) { // kernels read ahead
		number = next_question(&ends, peer, &question);
		offset = channel_get64(question.offset);
		assert_null(reply(&ends, number, offset, 0, question.length));
	}
	close(peer);
	ends_finish(&ends);
}

static void a_reader_that_waits_when_the_session_ends_gets_an_error(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	struct channel_mem_read question;
	int status;
	int peer = open_from_bare_peer(&ends);
	pid_t pid = start_reader(read_fails, end_take(&ends.host));
	next_question(&ends, peer, &question);
	assert_false(has_ended(pid, &status));
	close(peer);
	ends_finish(&ends);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void no_fd_works_when_the_session_has_ended(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	char byte;
	int peer = open_from_bare_peer(&ends);
	int fd = end_take(&ends.host);
	close(peer);
	ends_finish(&ends);
	assert_int_equal(pread(fd, &byte, 1, 0), -1);
	assert_int_equal(errno, ENOTCONN);
	close(fd);
}

// Past the page cache, so that each is a question.
static bool reads_directly_from_many(int fd)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	void *data = aligned_alloc(4096, 4096);
	for (int i = 0; i < 2 * ONDEMAND_QUESTIONS; i++) {
		if (fork() == 0) {
			_exit(pread(direct, data, 4096, i * (off_t)MIB) < 0 ? 0 : 1);
		}
	}
	bool ok = direct >= 0 && data != NULL;
	for (int i = 0; i < 2 * ONDEMAND_QUESTIONS; i++) {
		int status;
		ok = wait(&status) > 0 && status == 0 && ok;
	}
	free(data);
	return ok;
}

static void at_most_sixteen_questions_are_open(void **state)
{
	(void)state;
	need_mount();
	struct ends ends;
	struct channel_mem_read question;
	int status;
	int peer = open_from_bare_peer(&ends);
	pid_t pid = start_reader(reads_directly_from_many, end_take(&ends.host));
	uint64_t offsets[ONDEMAND_QUESTIONS];
	uint32_t numbers[ONDEMAND_QUESTIONS];
	for (size_t i = 0; i < ONDEMAND_QUESTIONS; i++) {
		numbers[i] = next_question(&ends, peer, &question);
		offsets[i] = channel_get64(question.offset);
	}
	for (int i = 0; i < 500; i++) {
		turn(&ends);
	}
	char byte;
	assert_int_equal(recv(peer, &byte, 1, MSG_DONTWAIT | MSG_PEEK), -1);
	// an answer makes room for the next one
	assert_null(reply(&ends, numbers[0], offsets[0], EIO, 0));
	next_question(&ends, peer, &question);
	close(peer);
	ends_finish(&ends);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static bool read_fails_with_enospc(int fd)
{
	char byte;
	return pread(fd, &byte, 1, 100 * MIB) == -1 && errno == ENOSPC;
}

static void hostile_replies_are_wrong(void **state)
{
	(void)state;
	need_mount();
	static const char order[] = "MEM_READ_REPLY to what was not asked, or out of order";
	static const char shape[] =
		"MEM_READ_REPLY with more bytes than were asked for, or a wrong error";
	struct ends ends;
	struct channel_mem_read question;
	int peer = open_from_bare_peer(&ends);
	assert_string_equal(reply(&ends, 0, 0, 0, 0), order);
	assert_string_equal(reply(&ends, 1, 0, 0, 0), order);
	pid_t pid = start_reader(read_fails_with_enospc, end_take(&ends.host));
	uint32_t number = next_question(&ends, peer, &question);
	uint64_t offset = channel_get64(question.offset);
	assert_string_equal(reply(&ends, number + 1, offset, 0, 0), order);
	assert_string_equal(reply(&ends, number, offset + 1, 0, 0), order);
	assert_string_equal(reply(&ends, number, offset, 0, question.length + 1), shape);
	assert_string_equal(reply(&ends, number, offset, 512, 0), shape);
	assert_string_equal(reply(&ends, number, offset, UINT32_MAX, 0), shape);
	assert_string_equal(reply(&ends, number, offset, EIO, 1), shape);
	static const uint8_t nothing[sizeof(struct channel_mem_read_reply) - 1];
	assert_string_equal(
		end_frame(&ends.host, CHANNEL_MEM_READ_REPLY, 1, number, nothing, sizeof(nothing)),
		"MEM_READ_REPLY that is too short");
	assert_null(reply(&ends, number, offset, ENOSPC, 0));
	assert_string_equal(reply(&ends, number, offset, ENOSPC, 0), order); // twice
	int status;
	while (!has_ended(pid, &status)) { // what was read ahead
		struct channel_header header;
		if (recv(peer, &header, sizeof(header), MSG_DONTWAIT) == sizeof(header)) {
			recv(peer, &question, sizeof(question), 0);
			offset = channel_get64(question.offset);
			assert_null(reply(&ends, header.arg, offset, ENOSPC, 0));
		}
		turn(&ends);
	}
	assert_int_equal(status, 0);
	close(peer);
	ends_finish(&ends);
}

/* ---- an opener that may say anything ---- */

static const char *open_file(struct end *end, const struct channel_open_memory *open)
{
	return end_frame(end, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, open, sizeof(*open));
}

static void hostile_opens_are_wrong(void **state)
{
	(void)state;
	static const char contradictory[] = "OPEN of a file with contradictory fields";
	struct ends ends;
	ends_init(&ends);
	struct channel_open_memory open = {
		.seals = CHANNEL_NO_SEALS, .cached = CHANNEL_CACHED_ON_DEMAND};
	open.access = CHANNEL_ACCESS_BOTH;
	assert_string_equal(open_file(&ends.host, &open), contradictory);
	open.access = CHANNEL_ACCESS_READ;
	open.exact = 1;
	assert_string_equal(open_file(&ends.host, &open), contradictory);
	open.exact = 0;
	channel_put64(open.size, (uint64_t)INT64_MAX + 1);
	assert_string_equal(
		open_file(&ends.host, &open), "OPEN of a file with a wrong access mode or size");
	channel_put64(open.size, 100);
	ends.host.refs.any_kind = false;
	assert_string_equal(open_file(&ends.host, &open),
		"OPEN of a file on demand for a service that does not expect it");
	assert_null(ends.host.refs.fileserver);
	ends_finish(&ends);
}

/* ---- the opener's side ---- */

static void only_what_is_read_only_crosses_on_demand(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	struct fdrefs *refs = &ends.guest.refs;
	assert_int_equal(ondemand_export(refs, new_memfd(100), &wrong), 0);
	assert_string_equal(wrong, "a file that can be written to and is too large to copy");
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(ondemand_export(refs, fd, &wrong), 0);
	assert_string_equal(wrong, "an fd that should be a file is not one");
	refs->budget->limits.most[BUDGET_FDS] = 0;
	assert_int_equal(ondemand_export(refs, new_file(100), &wrong), 0);
	assert_string_equal(wrong, "too many fds are open in this session");
	assert_int_equal(channel_queued(ends.guest.channel), 0);
	ends_finish(&ends);
}

// The guest's answers wait unread: its channel has a bare peer.
static uint32_t export_to_bare_peer(struct ends *ends, int fd, int *peer)
{
	int pair[2];
	const char *wrong;
	ends_init(ends);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	end_reconnect(&ends->guest, ends->base, pair[0]);
	*peer = pair[1];
	return ondemand_export(&ends->guest.refs, fd, &wrong);
}

static const char *ask(struct ends *ends, uint32_t id, uint64_t offset, uint32_t length)
{
	struct channel_mem_read question = {.length = length};
	channel_put64(question.offset, offset);
	return end_frame(&ends->guest, CHANNEL_MEM_READ, id, 7, &question, sizeof(question));
}

static void hostile_questions_are_wrong(void **state)
{
	(void)state;
	static const char shape[] = "MEM_READ of nothing, of too much, or of what no file has";
	static const uint16_t types[] = {CHANNEL_MEM_READ_REPLY, CHANNEL_MEM_RESIZE,
		CHANNEL_MEM_COPY, CHANNEL_CREDIT, CHANNEL_STREAM_DATA, 0, 0xffff};
	struct ends ends;
	int peer;
	uint32_t id = export_to_bare_peer(&ends, new_file(3 * MIB), &peer);
	assert_string_equal(ask(&ends, id, 0, 0), shape);
	assert_string_equal(ask(&ends, id, 0, CHANNEL_MAX_STREAM + 1), shape);
	assert_string_equal(ask(&ends, id, UINT64_MAX, 1), shape);
	assert_string_equal(ask(&ends, id, INT64_MAX, 1), shape);
	assert_null(ask(&ends, id, INT64_MAX - 1, 1));
	assert_string_equal(end_frame(&ends.guest, CHANNEL_MEM_READ, id, 7, "1234567", 7),
		"MEM_READ with a wrong length");
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_non_null(end_frame(&ends.guest, types[i], id, 0, NULL, 0));
	}
	close(peer);
	ends_finish(&ends);
}

static void a_seventeenth_question_is_wrong(void **state)
{
	(void)state;
	struct ends ends;
	int peer;
	uint32_t id = export_to_bare_peer(&ends, new_file(3 * MIB), &peer);
	size_t sent = channel_bytes_sent(ends.guest.channel), wanted = 0;
	while (ends.guest.refs.questions == 0) { // fills the socket and the queue
		assert_null(ask(&ends, id, 0, CHANNEL_MAX_STREAM));
		wanted += 32 + CHANNEL_MAX_STREAM;
	}
	size_t filled = channel_queued(ends.guest.channel);
	assert_in_range(filled, CHANNEL_MAX_STREAM, 3 * CHANNEL_MAX_STREAM);
	for (uint32_t i = 1; i < ONDEMAND_QUESTIONS; i++) {
		assert_null(ask(&ends, id, i * 1000u, 1000));
		wanted += 32 + 1000;
	}
	assert_int_equal(channel_queued(ends.guest.channel), filled);
	assert_string_equal(ask(&ends, id, 0, 1), "MEM_READ while sixteen are not answered yet");
	assert_int_equal(ends.guest.refs.questions, ONDEMAND_QUESTIONS);

	// when the channel has room again, they are answered
	char data[4096];
	wanted += sizeof(struct channel_header) + sizeof(struct channel_open_memory);
	for (size_t got = 0; got < wanted;) {
		turn(&ends);
		ssize_t n = recv(peer, data, sizeof(data), MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(channel_bytes_sent(ends.guest.channel), sent + wanted);
	assert_int_equal(ends.guest.refs.questions, 0);
	close(peer);
	ends_finish(&ends);
}

static void an_original_that_comes_home_is_itself(void **state)
{
	(void)state;
	struct ends ends;
	int peer;
	struct stat st, home_st;
	int fd = new_file(3 * MIB);
	assert_int_equal(fstat(fd, &st), 0);
	uint32_t id = export_to_bare_peer(&ends, fd, &peer);
	struct fdref *ref = fdrefs_get(&ends.guest.refs, id);
	fdrefs_close(ref); // does not end it
	int home = ref->interface->get_fd(ref);
	assert_int_equal(fstat(home, &home_st), 0);
	assert_int_equal(home_st.st_ino, st.st_ino);
	assert_int_equal(fcntl(home, F_GETFD), FD_CLOEXEC);
	assert_null(ask(&ends, id, 0, 10));
	close(home);
	close(peer);
	ends_finish(&ends);
}

static void find_out_what_can_be_mounted(void)
{
	struct event_base *base = event_base_new();
	struct fileserver *server = fileserver_create(base);
	const char *wrong = server == NULL ? "there is no /dev/fuse" : fileserver_start(server);
	can_mount = wrong == NULL;
	if (!can_mount) {
		print_message("some tests are skipped: %s\n", wrong);
	}
	fileserver_destroy(server);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_file_beyond_the_limit_reads_as_the_original),
		fd_count_test(reads_and_mappings_at_any_offset_agree),
		fd_count_test(the_offset_and_the_access_mode_are_the_originals),
		fd_count_test(asking_what_the_fd_is_does_not_wait_for_ourselves),
		fd_count_test(a_file_that_was_truncated_ends_early),
		fd_count_test(many_read_at_once),
		fd_count_test(a_file_is_confirmed_when_nobody_has_it_open_any_more),
		fd_count_test(a_file_that_nobody_took_is_confirmed_at_once),
		fd_count_test(a_file_that_is_sent_back_is_the_original),
		fd_count_test(another_session_does_not_look_at_a_file_that_this_one_serves),
		fd_count_test(what_a_service_passes_on_ends_no_session_on_the_host),
		fd_count_test(a_read_that_is_not_answered_in_time_fails),
		fd_count_test(a_reader_that_waits_when_the_session_ends_gets_an_error),
		fd_count_test(no_fd_works_when_the_session_has_ended),
		fd_count_test(at_most_sixteen_questions_are_open),
		fd_count_test(hostile_replies_are_wrong),
		fd_count_test(hostile_opens_are_wrong),
		fd_count_test(only_what_is_read_only_crosses_on_demand),
		fd_count_test(hostile_questions_are_wrong),
		fd_count_test(a_seventeenth_question_is_wrong),
		fd_count_test(an_original_that_comes_home_is_itself),
	};
	find_out_what_can_be_mounted();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
