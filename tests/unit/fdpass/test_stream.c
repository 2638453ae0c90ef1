#include "fdpass/stream.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ends.h"
#include "tests/support/fd_count.h"

#define LARGE (1024 * 1024 + 7)

static uint32_t export(struct ends *ends, int fd, bool writer)
{
	const char *wrong;
	uint32_t id = stream_export(&ends->guest.refs, fd, writer, &wrong);
	assert_int_not_equal(id, 0);
	assert_null(wrong);
	ends_run(ends);
	assert_null(ends->host.wrong);
	return id;
}

// The host's end, which does not block.
static int take(struct ends *ends)
{
	int fd = end_take(&ends->host);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

static void new_pipe(int *read_end, int *write_end)
{
	int ends[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	*read_end = ends[0];
	*write_end = ends[1];
}

// Writes the pattern's bytes [at, at + n) as far as they are taken.
static size_t feed(struct ends *ends, int fd, size_t at, size_t n)
{
	uint8_t data[8192];
	size_t done = 0;
	int full = 0;
	while (done < n && full < 2) {
		size_t len = n - done < sizeof(data) ? n - done : sizeof(data);
		for (size_t i = 0; i < len; i++) {
			data[i] = pattern(at + done + i);
		}
		ssize_t written = write(fd, data, len);
		if (written < 0) {
			assert_int_equal(errno, EAGAIN);
			ends_run(ends);
			full++;
			continue;
		}
		full = 0;
		done += (size_t)written;
	}
	ends_run(ends);
	return done;
}

// Reads and compares until nothing more comes; says whether it ended.
static size_t drain(struct ends *ends, int fd, size_t at, bool *eof)
{
	uint8_t data[8192];
	size_t done = 0;
	int empty = 0;
	*eof = false;
	while (!*eof && empty < 2) {
		ssize_t n = read(fd, data, sizeof(data));
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			ends_run(ends);
			empty++;
			continue;
		}
		for (ssize_t i = 0; i < n; i++) {
			assert_int_equal(data[i], pattern(at + done + (size_t)i));
		}
		empty = 0;
		*eof = n == 0;
		done += (size_t)n;
	}
	return done;
}

static void expect_all_closed(struct ends *ends)
{
	ends_run(ends);
	assert_null(ends->guest.wrong);
	assert_null(ends->host.wrong);
	assert_int_equal(ends->guest.refs.streams, 0);
	assert_int_equal(ends->host.refs.streams, 0);
	assert_int_equal(ends->guest.refs.ours.used, 0);
	assert_int_equal(ends->host.refs.theirs.used, 0);
}

/* ---- data and its end ---- */

// From a pipe's write end on the guest to what the host was given, all that fits at a time.
static void cross(struct ends *ends, int from, int to, size_t total)
{
	size_t fed = 0, drained = 0;
	bool eof;
	while (drained < total) {
		fed += feed(ends, from, fed, total - fed);
		size_t n = drain(ends, to, drained, &eof);
		assert_true(n > 0);
		assert_false(eof);
		drained += n;
	}
	assert_int_equal(fed, total);
}

static void what_is_written_to_an_exported_pipe_is_read_on_the_other_side(void **state)
{
	(void)state;
	static const size_t totals[] = {0, 1, 65536, LARGE};
	for (size_t i = 0; i < sizeof(totals) / sizeof(totals[0]); i++) {
		struct ends ends;
		int read_end, write_end;
		bool eof;
		ends_init(&ends);
		new_pipe(&read_end, &write_end);
		export(&ends, read_end, false);
		int copy = take(&ends);
		assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDONLY);
		cross(&ends, write_end, copy, totals[i]);
		close(write_end);
		assert_int_equal(drain(&ends, copy, totals[i], &eof), 0);
		assert_true(eof);
		expect_all_closed(&ends);
		assert_int_equal(ends.guest.refs.counts.stream_sent, totals[i]);
		assert_int_equal(ends.host.refs.counts.stream_received, totals[i]);
		assert_int_equal(ends.guest.streams_over, 1);
		assert_int_equal(ends.host.streams_over, 1);
		close(copy);
		ends_finish(&ends);
	}
}

static void what_the_other_side_writes_is_read_from_an_exported_pipe(void **state)
{
	(void)state;
	static const size_t totals[] = {0, 1, 65536, LARGE};
	for (size_t i = 0; i < sizeof(totals) / sizeof(totals[0]); i++) {
		struct ends ends;
		int read_end, write_end;
		bool eof;
		ends_init(&ends);
		new_pipe(&read_end, &write_end);
		export(&ends, write_end, true);
		int copy = take(&ends);
		assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_WRONLY);
		cross(&ends, copy, read_end, totals[i]);
		close(copy);
		assert_int_equal(drain(&ends, read_end, totals[i], &eof), 0);
		assert_true(eof);
		expect_all_closed(&ends);
		close(read_end);
		ends_finish(&ends);
	}
}

static void the_end_follows_the_last_byte_however_late_it_is_read(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	bool eof;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	export(&ends, read_end, false);
	int copy = take(&ends);
	// more than the pipe on the other side holds: the rest waits in between
	size_t fed = feed(&ends, write_end, 0, 200 * 1024);
	assert_int_equal(fed, 200 * 1024);
	close(write_end);
	ends_run(&ends);
	assert_int_equal(ends.host.frames[CHANNEL_STREAM_EOF], 1);
	assert_int_equal(ends.host.frames[CHANNEL_CLOSE], 1); // its opener needs it no more
	assert_int_equal(ends.guest.frames[CHANNEL_CLOSED], 0);
	assert_int_equal(drain(&ends, copy, 0, &eof), fed);
	assert_true(eof);
	expect_all_closed(&ends);
	close(copy);
	ends_finish(&ends);
}

static void a_reader_that_stops_holds_up_no_more_than_the_credit(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	bool eof;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	export(&ends, read_end, false);
	int copy = take(&ends);
	size_t fed = feed(&ends, write_end, 0, 64 * LARGE);
	size_t crossed = ends.guest.refs.counts.stream_sent;
	// what the two pipes hold, and what the credit lets wait
	assert_true(fed > CHANNEL_STREAM_WINDOW);
	assert_true(crossed <= CHANNEL_STREAM_WINDOW + 2 * 65536);
	assert_int_equal(feed(&ends, write_end, fed, LARGE), 0);
	assert_int_equal(channel_queued(ends.guest.channel), 0); // other frames pass

	assert_int_equal(drain(&ends, copy, 0, &eof), fed);
	assert_false(eof);
	cross(&ends, write_end, copy, 0);
	size_t more = feed(&ends, write_end, fed, 1000);
	assert_int_equal(drain(&ends, copy, fed, &eof), more);
	close(write_end);
	drain(&ends, copy, fed + more, &eof);
	assert_true(eof);
	expect_all_closed(&ends);
	close(copy);
	ends_finish(&ends);
}

/* ---- readers that go away ---- */

static void a_writer_gets_epipe_when_the_reader_on_the_other_side_goes(void **state)
{
	(void)state;
	static const size_t before[] = {0, 1, 300 * 1024}; // idle; idle again; with data waiting
	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
		struct ends ends;
		int read_end, write_end;
		ends_init(&ends);
		new_pipe(&read_end, &write_end);
		export(&ends, read_end, false);
		int copy = take(&ends);
		feed(&ends, write_end, 0, before[i]);
		close(copy);
		ends_run(&ends);
		assert_int_equal(ends.guest.frames[CHANNEL_STREAM_STOP], 1);
		assert_int_equal(ends.guest.stop_reason, CHANNEL_STOP_READER_GONE);
		errno = 0;
		assert_int_equal(write(write_end, "x", 1), -1);
		assert_int_equal(errno, EPIPE);
		expect_all_closed(&ends);
		close(write_end);
		ends_finish(&ends);
	}
}

static void the_other_side_gets_epipe_when_the_reader_of_an_exported_pipe_goes(void **state)
{
	(void)state;
	static const size_t before[] = {0, 1, 300 * 1024};
	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
		struct ends ends;
		int read_end, write_end;
		ends_init(&ends);
		new_pipe(&read_end, &write_end);
		export(&ends, write_end, true);
		int copy = take(&ends);
		feed(&ends, copy, 0, before[i]);
		close(read_end);
		ends_run(&ends);
		assert_int_equal(ends.host.stop_reason, CHANNEL_STOP_READER_GONE);
		errno = 0;
		assert_int_equal(write(copy, "x", 1), -1);
		assert_int_equal(errno, EPIPE);
		expect_all_closed(&ends);
		close(copy);
		ends_finish(&ends);
	}
}

static void a_pipe_without_a_reader_is_told_at_once(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	close(read_end);
	export(&ends, write_end, true);
	assert_int_equal(ends.host.stop_reason, CHANNEL_STOP_READER_GONE);
	assert_int_equal(ends.guest.refs.streams, 0);
	ends_finish(&ends);
}

static void what_cannot_be_written_is_told_as_an_error(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	export(&ends, open("/dev/full", O_WRONLY | O_CLOEXEC), true);
	int copy = take(&ends);
	feed(&ends, copy, 0, 100);
	assert_int_equal(ends.host.stop_reason, CHANNEL_STOP_ERROR);
	assert_int_equal(write(copy, "x", 1), -1);
	expect_all_closed(&ends);
	close(copy);
	ends_finish(&ends);
}

/* ---- whatever can be read or written ---- */

static void a_socket_is_a_target_and_a_source(void **state)
{
	(void)state;
	for (int writer = 0; writer < 2; writer++) {
		struct ends ends;
		int sockets[2];
		bool eof;
		ends_init(&ends);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
		assert_int_equal(fcntl(sockets[1], F_SETFL, O_NONBLOCK), 0);
		int original = fcntl(sockets[0], F_DUPFD_CLOEXEC, 0);
		export(&ends, sockets[0], writer);
		int copy = take(&ends);
		int from = writer ? copy : sockets[1], to = writer ? sockets[1] : copy;
		cross(&ends, from, to, LARGE);
		assert_int_equal(fcntl(original, F_GETFL) & O_NONBLOCK, 0);
		close(original);
		close(from);
		drain(&ends, to, LARGE, &eof);
		assert_true(eof);
		expect_all_closed(&ends);
		close(to);
		ends_finish(&ends);
	}
}

static void a_socket_whose_peer_goes_is_told_by_the_next_write(void **state)
{
	(void)state;
	struct ends ends;
	int sockets[2];
	ends_init(&ends);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	export(&ends, sockets[0], true);
	int copy = take(&ends);
	close(sockets[1]);
	feed(&ends, copy, 0, 1);
	assert_int_equal(ends.host.stop_reason, CHANNEL_STOP_READER_GONE);
	expect_all_closed(&ends);
	close(copy);
	ends_finish(&ends);
}

static void a_fifo_open_for_both_is_what_it_is_for(void **state)
{
	(void)state;
	char dir[] = "/tmp/stream-XXXXXX", path[64];
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	for (int writer = 0; writer < 2; writer++) {
		struct ends ends;
		bool eof;
		ends_init(&ends);
		int fifo = open(path, O_RDWR | O_CLOEXEC);
		int other = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		export(&ends, fifo, writer);
		int copy = take(&ends);
		assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, writer ? O_WRONLY : O_RDONLY);
		int from = writer ? copy : other, to = writer ? other : copy;
		cross(&ends, from, to, 200 * 1024);
		close(from);
		drain(&ends, to, 200 * 1024, &eof);
		assert_int_equal(eof, !writer); // to a fifo, somebody else could write
		expect_all_closed(&ends);
		close(to);
		ends_finish(&ends);
	}
	unlink(path);
	rmdir(dir);
}

static void a_regular_file_is_written_where_its_offset_is(void **state)
{
	(void)state;
	struct ends ends;
	uint8_t data[LARGE];
	ends_init(&ends);
	int file = new_memfd(0), original = fcntl(file, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(lseek(file, 10, SEEK_SET), 10);
	export(&ends, file, true);
	int copy = take(&ends);
	assert_int_equal(feed(&ends, copy, 0, LARGE), LARGE);
	close(copy);
	expect_all_closed(&ends);
	assert_int_equal(lseek(original, 0, SEEK_END), LARGE + 10);
	assert_int_equal(pread(original, data, LARGE, 10), LARGE);
	for (size_t i = 0; i < LARGE; i++) {
		assert_int_equal(data[i], pattern(i));
	}
	close(original);
	ends_finish(&ends);
}

static void a_regular_file_is_not_read_as_a_stream(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	int file = new_memfd(LARGE);
	int reader = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_int_equal(stream_export(&ends.guest.refs, reader, true, &wrong), 0);
	assert_string_equal(wrong, "a file that is to be read is not a pipe");
	assert_int_equal(stream_export(&ends.guest.refs, file, false, &wrong), 0);
	assert_string_equal(wrong, "a file that is to be read is not a pipe");
	assert_int_equal(ends.guest.refs.streams, 0);
	ends_finish(&ends);
}

static void the_null_device_takes_all_and_gives_nothing(void **state)
{
	(void)state;
	struct ends ends;
	bool eof;
	ends_init(&ends);
	export(&ends, open("/dev/null", O_RDWR | O_CLOEXEC), true);
	int copy = take(&ends);
	assert_int_equal(feed(&ends, copy, 0, LARGE), LARGE);
	close(copy);
	expect_all_closed(&ends);
	ends.host.takes = true; // the end comes at once
	export(&ends, open("/dev/null", O_RDWR | O_CLOEXEC), false);
	assert_int_equal(drain(&ends, ends.host.taken, 0, &eof), 0);
	assert_true(eof);
	expect_all_closed(&ends);
	close(ends.host.taken);
	ends_finish(&ends);
}

static int import_pipe(struct ends *ends, uint32_t id)
{
	const struct channel_open_pipe open = {.access = CHANNEL_ACCESS_READ};
	assert_null(
		end_frame(&ends->host, CHANNEL_OPEN, id, CHANNEL_KIND_PIPE, &open, sizeof(open)));
	int fd = fdrefs_get_fd(&ends->host.refs, id);
	assert_true(fd >= 0);
	return fd;
}

static void pipes_beyond_the_first_ones_are_small(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	for (uint32_t id = 1; id <= STREAM_FULL_PIPES; id++) {
		int fd = import_pipe(&ends, id);
		assert_true(fcntl(fd, F_GETPIPE_SZ) > sysconf(_SC_PAGESIZE));
		close(fd);
	}
	int fd = import_pipe(&ends, STREAM_FULL_PIPES + 1);
	assert_int_equal(fcntl(fd, F_GETPIPE_SZ), sysconf(_SC_PAGESIZE));
	close(fd);
	ends_finish(&ends);
}

static void what_is_no_stream_is_refused(void **state)
{
	(void)state;
	const int fds[] = {
		open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		eventfd(0, EFD_CLOEXEC),
		open("/proc/self/exe", O_PATH | O_CLOEXEC),
	};
	struct ends ends;
	ends_init(&ends);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		const char *wrong = NULL;
		assert_int_equal(stream_export(&ends.guest.refs, fds[i], true, &wrong), 0);
		assert_string_equal(wrong, "an fd that should be a pipe is not one");
	}
	ends.guest.budget.limits.most[BUDGET_FDS] = 0;
	const char *wrong = NULL;
	int read_end, write_end;
	new_pipe(&read_end, &write_end);
	assert_int_equal(stream_export(&ends.guest.refs, read_end, false, &wrong), 0);
	assert_string_equal(wrong, "too many fds are open in this session");
	close(write_end);
	assert_int_equal(ends.guest.refs.streams, 0);
	assert_int_equal(channel_queued(ends.guest.channel), 0);
	ends_finish(&ends);
}

/* ---- flags and blocking ---- */

static void the_flags_of_the_original_are_not_touched(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		bool writer = i & 1, nonblocking = i & 2;
		struct ends ends;
		int read_end, write_end;
		ends_init(&ends);
		new_pipe(&read_end, &write_end);
		int exported = writer ? write_end : read_end;
		int other = writer ? read_end : write_end;
		assert_int_equal(fcntl(exported, F_SETFL, nonblocking ? O_NONBLOCK : 0), 0);
		int original = fcntl(exported, F_DUPFD_CLOEXEC, 0);
		int flags = fcntl(original, F_GETFL);
		export(&ends, exported, writer);
		assert_int_equal(fcntl(original, F_GETFL), flags);
		int copy = end_take(&ends.host);
		assert_int_equal(fcntl(copy, F_GETFL) & O_NONBLOCK, nonblocking ? O_NONBLOCK : 0);
		int again = end_take(&ends.host);
		const int seen = O_ACCMODE | O_NONBLOCK;
		assert_int_equal(fcntl(again, F_GETFL) & seen, fcntl(copy, F_GETFL) & seen);
		close(again);
		close(copy);
		ends_run(&ends);
		assert_int_equal(fcntl(original, F_GETFL), flags);
		close(original);
		close(other);
		ends_finish(&ends);
	}
}

// Would hang if it failed.
static void a_blocking_fd_is_never_blocked_on(void **state)
{
	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		struct ends ends;
		int fds[2];
		bool eof;
		ends_init(&ends);
		if (kind == 0) {
			assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		} else {
			assert_int_equal(
				socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		}
		export(&ends, fds[1], true);
		int copy = take(&ends);
		size_t fed = feed(&ends, copy, 0, 64 * LARGE); // nobody reads
		assert_true(fed < 64 * LARGE);
		assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
		assert_int_equal(drain(&ends, fds[0], 0, &eof), fed);
		close(copy);
		drain(&ends, fds[0], fed, &eof);
		assert_true(eof);
		expect_all_closed(&ends);
		close(fds[0]);
		ends_finish(&ends);
	}
}

static void read_all(evutil_socket_t fd, short what, void *data)
{
	(void)what;
	uint8_t bytes[16];
	*(ssize_t *)data = read(fd, bytes, sizeof(bytes));
}

static void a_wake_up_for_nothing_does_not_end_the_reading(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	bool eof;
	ssize_t stolen = 0;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	int other = fcntl(read_end, F_DUPFD_CLOEXEC, 0);
	export(&ends, read_end, false);
	int copy = take(&ends);
	// somebody else reads from the same pipe first
	struct event *thief = event_new(ends.base, other, EV_READ, read_all, &stolen);
	assert_int_equal(event_priority_set(thief, 0), 0);
	event_add(thief, NULL);
	assert_int_equal(write(write_end, "x", 1), 1);
	ends_run(&ends);
	assert_int_equal(stolen, 1);
	event_free(thief);
	close(other);

	assert_int_equal(feed(&ends, write_end, 0, 100), 100);
	assert_int_equal(drain(&ends, copy, 0, &eof), 100);
	close(write_end);
	close(copy);
	ends_finish(&ends);
}

/* ---- closing ---- */

static void a_session_that_ends_with_data_under_way_closes_all(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	export(&ends, read_end, false);
	int copy = take(&ends);
	feed(&ends, write_end, 0, 300 * 1024);
	ends_finish(&ends);
	assert_int_equal(ends.guest.refs.streams, 0);
	assert_int_equal(ends.host.refs.streams, 0);
	assert_int_equal(write(write_end, "x", 1), -1);
	close(write_end);
	close(copy);
}

static void an_end_that_nobody_takes_is_closed_with_its_fdref(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	export(&ends, read_end, false);
	close(write_end);
	expect_all_closed(&ends);
	ends_finish(&ends);
}

static void a_source_that_its_opener_closes_ends_for_its_writer(void **state)
{
	(void)state;
	struct ends ends;
	int read_end, write_end;
	ends_init(&ends);
	new_pipe(&read_end, &write_end);
	uint32_t id = export(&ends, write_end, true);
	int copy = take(&ends);
	fdrefs_close(fdrefs_get(&ends.guest.refs, id));
	ends_run(&ends);
	assert_null(fdrefs_get(&ends.host.refs, id));
	assert_int_equal(write(copy, "x", 1), -1);
	assert_int_equal(errno, EPIPE);
	close(copy);
	close(read_end);
	ends_finish(&ends);
}

/* ---- a peer that may say anything ---- */

static const char *open_pipe(struct end *end, uint32_t id, uint32_t access, uint32_t nonblocking)
{
	struct channel_open_pipe open = {.access = access, .nonblocking = nonblocking};
	return end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_PIPE, &open, sizeof(open));
}

static void what_the_kernel_keeps_of_a_sinks_pipe_is_charged_for(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	const uint64_t *used = &ends.host.budget.used[BUDGET_MEMORY];
	struct channel_open_pipe open = {.access = CHANNEL_ACCESS_WRITE};
	const uint32_t kind = CHANNEL_KIND_PIPE;
	assert_null(end_frame(&ends.host, CHANNEL_OPEN, 1, kind, &open, sizeof(open)));
	assert_int_equal(*used, 0);
	open.access = CHANNEL_ACCESS_READ;
	assert_null(end_frame(&ends.host, CHANNEL_OPEN, 2, kind, &open, sizeof(open)));
	assert_int_equal(*used, 65536);
	assert_null(end_frame(&ends.host, CHANNEL_STREAM_DATA, 2, 0, "x", 1));
	assert_int_equal(*used, 65536);
	assert_null(end_frame(&ends.host, CHANNEL_CLOSE, 2, 0, NULL, 0));
	assert_int_equal(*used, 0);
	ends_finish(&ends);
}

static void hostile_opens_are_wrong(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	assert_non_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_BOTH, 0));
	assert_non_null(open_pipe(&ends.host, 1, UINT32_MAX, 0));
	assert_non_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_READ, 2));
	assert_non_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_READ, UINT32_MAX));
	assert_int_equal(ends.host.refs.streams, 0);
	ends_finish(&ends);
}

static void data_beyond_the_credit_is_wrong(void **state)
{
	(void)state;
	static const uint8_t data[CHANNEL_MAX_PAYLOAD];
	struct ends ends;
	ends_init(&ends);
	assert_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_READ, 0));
	// the pipe itself takes 64 KiB, but says so only by CREDIT that we do not wait for
	size_t sent = 0;
	const char *wrong = NULL;
	while (wrong == NULL) {
		wrong = end_frame(&ends.host, CHANNEL_STREAM_DATA, 1, 0, data, CHANNEL_MAX_STREAM);
		sent += wrong == NULL ? CHANNEL_MAX_STREAM : 0;
	}
	assert_string_equal(wrong, "STREAM_DATA beyond its credit");
	assert_true(sent <= CHANNEL_STREAM_WINDOW + 65536);
	ends_finish(&ends);
}

static void data_after_its_end_is_wrong(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	assert_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_READ, 0));
	assert_null(end_frame(&ends.host, CHANNEL_STREAM_DATA, 1, 0, "abc", 3));
	assert_null(end_frame(&ends.host, CHANNEL_STREAM_DATA, 1, 0, NULL, 0));
	assert_null(end_frame(&ends.host, CHANNEL_STREAM_EOF, 1, 0, NULL, 0));
	assert_string_equal(end_frame(&ends.host, CHANNEL_STREAM_DATA, 1, 0, "abc", 3),
		"STREAM_DATA after STREAM_EOF");
	assert_string_equal(
		end_frame(&ends.host, CHANNEL_STREAM_EOF, 1, 0, NULL, 0), "STREAM_EOF twice");
	ends_finish(&ends);
}

static void credit_beyond_the_window_is_wrong(void **state)
{
	(void)state;
	static const uint32_t amounts[] = {1, CHANNEL_STREAM_WINDOW, UINT32_MAX};
	struct ends ends;
	ends_init(&ends);
	assert_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_WRITE, 0));
	assert_null(end_frame(&ends.host, CHANNEL_CREDIT, 1, 0, NULL, 0));
	for (size_t i = 0; i < sizeof(amounts) / sizeof(amounts[0]); i++) {
		assert_string_equal(end_frame(&ends.host, CHANNEL_CREDIT, 1, amounts[i], NULL, 0),
			"CREDIT beyond the window of a stream");
	}
	ends_finish(&ends);
}

static void frames_of_the_other_role_are_wrong(void **state)
{
	(void)state;
	static const uint16_t source[] = {CHANNEL_STREAM_DATA, CHANNEL_STREAM_EOF,
		CHANNEL_MEM_RESIZE, CHANNEL_MEM_COPY, 0, 0xffff};
	static const uint16_t sink[] = {CHANNEL_CREDIT, CHANNEL_STREAM_STOP, CHANNEL_MEM_RESIZE,
		CHANNEL_MEM_COPY, 0, 0xffff};
	struct ends ends;
	ends_init(&ends);
	assert_null(open_pipe(&ends.host, 1, CHANNEL_ACCESS_WRITE, 0));
	assert_null(open_pipe(&ends.host, 2, CHANNEL_ACCESS_READ, 0));
	for (size_t i = 0; i < sizeof(source) / sizeof(source[0]); i++) {
		assert_non_null(end_frame(&ends.host, source[i], 1, 0, NULL, 0));
		assert_non_null(end_frame(&ends.host, sink[i], 2, 0, NULL, 0));
	}
	ends_finish(&ends);
}

static void ignore_log(int severity, const char *text)
{
	(void)severity;
	(void)text;
}

int main(void)
{
	event_set_log_callback(ignore_log); // that epoll does not take files is expected
	signal(SIGPIPE, SIG_IGN);           // as the programs do
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_written_to_an_exported_pipe_is_read_on_the_other_side),
		fd_count_test(what_the_other_side_writes_is_read_from_an_exported_pipe),
		fd_count_test(the_end_follows_the_last_byte_however_late_it_is_read),
		fd_count_test(a_reader_that_stops_holds_up_no_more_than_the_credit),
		fd_count_test(a_writer_gets_epipe_when_the_reader_on_the_other_side_goes),
		fd_count_test(the_other_side_gets_epipe_when_the_reader_of_an_exported_pipe_goes),
		fd_count_test(a_pipe_without_a_reader_is_told_at_once),
		fd_count_test(what_cannot_be_written_is_told_as_an_error),
		fd_count_test(a_socket_is_a_target_and_a_source),
		fd_count_test(a_socket_whose_peer_goes_is_told_by_the_next_write),
		fd_count_test(a_fifo_open_for_both_is_what_it_is_for),
		fd_count_test(a_regular_file_is_written_where_its_offset_is),
		fd_count_test(a_regular_file_is_not_read_as_a_stream),
		fd_count_test(the_null_device_takes_all_and_gives_nothing),
		fd_count_test(pipes_beyond_the_first_ones_are_small),
		fd_count_test(what_is_no_stream_is_refused),
		fd_count_test(the_flags_of_the_original_are_not_touched),
		fd_count_test(a_blocking_fd_is_never_blocked_on),
		fd_count_test(a_wake_up_for_nothing_does_not_end_the_reading),
		fd_count_test(a_session_that_ends_with_data_under_way_closes_all),
		fd_count_test(an_end_that_nobody_takes_is_closed_with_its_fdref),
		fd_count_test(a_source_that_its_opener_closes_ends_for_its_writer),
		fd_count_test(what_the_kernel_keeps_of_a_sinks_pipe_is_charged_for),
		fd_count_test(hostile_opens_are_wrong),
		fd_count_test(data_beyond_the_credit_is_wrong),
		fd_count_test(data_after_its_end_is_wrong),
		fd_count_test(credit_beyond_the_window_is_wrong),
		fd_count_test(frames_of_the_other_role_are_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
