#include "wire/socket.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/budget.h"
#include "base/flight.h"
#include "base/scm.h"
#include "tests/support/fd_count.h"

enum in_callback {
	DO_NOTHING,
	DESTROY_IN_READABLE,
	DESTROY_IN_ENDED,
	DESTROY_IN_DRAINED,
	STOP_IN_READABLE,
};

// A wire socket and its peer.
struct fixture {
	struct event_base *base;
	struct wire_socket *sock;
	int own; // the socket's fd, borrowed
	int peer;
	enum in_callback action;
	bool keep; // do not consume
	size_t n_readable;
	size_t n_drained;
	size_t n_ended;
	int error;
	uint8_t *bytes; // consumed
	size_t n_bytes;
};

static void handle_readable(void *data)
{
	struct fixture *f = data;
	f->n_readable++;
	assert_int_equal(f->n_ended, 0);
	size_t len;
	uint8_t *bytes = wire_socket_data(f->sock, &len);
	assert_true(len > 0);
	if (f->action == DESTROY_IN_READABLE) {
		wire_socket_destroy(f->sock);
		f->sock = NULL;
		assert_true(bytes[len - 1] != '\0'); // still there
		return;
	}
	if (f->action == STOP_IN_READABLE) {
		wire_socket_set_reading(f->sock, false);
	}
	if (f->keep) {
		return;
	}
	f->bytes = realloc(f->bytes, f->n_bytes + len);
	assert_non_null(f->bytes);
	memcpy(f->bytes + f->n_bytes, bytes, len);
	f->n_bytes += len;
	wire_socket_consume(f->sock, len);
}

static void handle_ended(void *data, int error)
{
	struct fixture *f = data;
	f->n_ended++;
	f->error = error;
	if (f->action == DESTROY_IN_ENDED) {
		wire_socket_destroy(f->sock);
		f->sock = NULL;
	}
}

static void handle_drained(void *data)
{
	struct fixture *f = data;
	f->n_drained++;
	if (f->action == DESTROY_IN_DRAINED) {
		wire_socket_destroy(f->sock);
		f->sock = NULL;
	}
}

static const struct wire_socket_handler handler = {
	.readable = handle_readable,
	.ended = handle_ended,
	.drained = handle_drained,
};

// In place of the C library's: fails as often as it is told, like a kernel that is out of something.
static int failures, failure;

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	if (failures > 0) {
		failures--;
		errno = failure;
		return -1;
	}
	return syscall(SYS_sendmsg, fd, message, flags);
}

static int setup(void **state)
{
	fd_count_setup(state);
	struct fixture *f = calloc(1, sizeof(*f));
	f->base = event_base_new();
	int fds[2];
	if (f->base == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
		return -1;
	}
	f->own = fds[0];
	f->peer = fds[1];
	f->sock = wire_socket_create(f->base, fds[0], NULL, &handler, f);
	*state = f;
	return f->sock != NULL ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	wire_socket_destroy(f->sock);
	if (f->peer >= 0) {
		close(f->peer);
	}
	event_base_free(f->base);
	free(f->bytes);
	free(f);
	return fd_count_teardown(state);
}

static void run(struct fixture *f)
{
	for (size_t i = 0; i < 20; i++) {
		event_base_loop(f->base, EVLOOP_NONBLOCK);
	}
}

static void close_peer(struct fixture *f)
{
	close(f->peer);
	f->peer = -1;
}

// An fd that is told apart by its file's size.
static int numbered_fd(size_t number)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)number), 0);
	return fd;
}

static size_t number_of(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (size_t)st.st_size;
}

static void add_fds(struct fdlist *list, size_t first, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_true(fdlist_push(list, numbered_fd(first + i)));
	}
}

static void check_fds(struct fdlist *list, size_t first, size_t n)
{
	assert_int_equal(list->count, n);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(number_of(fdlist_peek(list)[i]), first + i);
	}
	fdlist_drop(list, n);
}

static void peer_sends(struct fixture *f, const void *bytes, size_t len, size_t first, size_t n)
{
	struct fdlist list;
	fdlist_init(&list);
	add_fds(&list, first, n);
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
	assert_int_equal(scm_send(f->peer, &iov, 1, &list, n), (ssize_t)len);
	fdlist_finish(&list);
}

static uint8_t *pattern(size_t len)
{
	uint8_t *bytes = malloc(len);
	assert_non_null(bytes);
	for (size_t i = 0; i < len; i++) {
		bytes[i] = (uint8_t)(i * 31 + i / 251);
	}
	return bytes;
}

static void push(struct fixture *f, const char *bytes, size_t first, size_t n)
{
	struct fdlist list;
	fdlist_init(&list);
	add_fds(&list, first, n);
	assert_true(wire_socket_push(f->sock, bytes, strlen(bytes), &list, NULL));
	assert_int_equal(list.count, 0);
	fdlist_finish(&list);
}

static void shrink_send_buffer(struct fixture *f)
{
	int size = 1; // the kernel makes it its least
	assert_int_equal(setsockopt(f->own, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
}

static void what_the_kernel_has_no_room_for_is_sent_later(void **state)
{
	struct fixture *f = *state;
	const int errors[] = {ETOOMANYREFS, ENOBUFS, ENOMEM};
	char bytes[8];
	for (size_t i = 0; i < 3; i++) {
		failure = errors[i];
		failures = 3;
		push(f, "with fds", 0, 2);
		wire_socket_flush(f->sock);
		assert_int_equal(failures, 2);
		while (wire_socket_queued(f->sock) > 0) {
			event_base_loop(f->base, EVLOOP_ONCE);
		}
		assert_int_equal(failures, 0);
		struct fdlist fds;
		fdlist_init(&fds);
		assert_int_equal(scm_recv(f->peer, bytes, sizeof(bytes), &fds), sizeof(bytes));
		assert_int_equal(fds.count, 2);
		fdlist_finish(&fds);
	}
	assert_int_equal(f->n_drained, 3);
	assert_int_equal(f->n_ended, 0);
}

static void one_that_is_destroyed_tries_no_more(void **state)
{
	struct fixture *f = *state;
	failure = ETOOMANYREFS;
	failures = 1;
	push(f, "with fds", 0, 2);
	wire_socket_flush(f->sock);
	assert_int_equal(failures, 0);
	wire_socket_destroy(f->sock);
	f->sock = NULL;
	run(f);
	assert_int_equal(recv(f->peer, (char[1]){0}, 1, MSG_DONTWAIT), 0);
}

static void fds_are_charged_until_the_peer_has_them(void **state)
{
	struct fixture *f = *state;
	struct budget budget = {.limits.most = {[BUDGET_FDS] = 100, [BUDGET_FLIGHT] = 100}};
	struct parcel *parcel = parcel_create(&budget);
	struct fdlist list;
	char bytes[8];
	struct flights *flights = flights_create(f->base, &budget);
	wire_socket_destroy(f->sock);
	close(f->peer);
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->peer = pair[1];
	f->sock = wire_socket_create(f->base, pair[0], flights, &handler, f);
	fdlist_init(&list);
	add_fds(&list, 0, 30); // more than go at once
	for (size_t i = 0; i < 30; i++) {
		assert_true(parcel_add(parcel, NULL));
	}
	assert_true(wire_socket_push(f->sock, "with fds", 8, &list, parcel));
	wire_socket_flush(f->sock);
	assert_int_equal(wire_socket_queued(f->sock), 0);
	assert_int_equal(budget.used[BUDGET_FDS], 30);
	assert_int_equal(scm_recv(f->peer, bytes, 4, &list), 4);
	assert_int_equal(scm_recv(f->peer, bytes, 4, &list), 4);
	fdlist_finish(&list);
	while (budget.used[BUDGET_FDS] > 0) {
		event_base_loop(f->base, EVLOOP_ONCE);
	}
	// what is not sent any more is given back with the socket, also after the session's rest
	parcel = parcel_create(&budget);
	assert_true(parcel_add(parcel, NULL));
	add_fds(&list, 0, 1);
	assert_true(wire_socket_push(f->sock, "with fds", 8, &list, parcel));
	fdlist_finish(&list);
	flights_destroy(flights);
	wire_socket_flush(f->sock);
	assert_int_equal(budget.used[BUDGET_FDS], 1);
	wire_socket_destroy(f->sock);
	f->sock = NULL;
	assert_int_equal(budget.used[BUDGET_FDS], 0);
}

static void bytes_arrive_in_order(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "abcd", 4, 0, 0);
	run(f);
	peer_sends(f, "efgh", 4, 0, 0);
	run(f);
	assert_int_equal(f->n_bytes, 8);
	assert_memory_equal(f->bytes, "abcdefgh", 8);
	assert_int_equal(f->n_readable, 2);
	assert_int_equal(f->n_ended, 0);
}

static void what_is_not_consumed_stays_and_grows(void **state)
{
	struct fixture *f = *state;
	f->keep = true;
	peer_sends(f, "abcd", 4, 0, 0);
	run(f);
	peer_sends(f, "efgh", 4, 0, 0);
	run(f);
	size_t len;
	uint8_t *bytes = wire_socket_data(f->sock, &len);
	assert_int_equal(len, 8);
	assert_memory_equal(bytes, "abcdefgh", 8);
	wire_socket_consume(f->sock, 4);
	bytes = wire_socket_data(f->sock, &len);
	assert_int_equal(len, 4);
	assert_memory_equal(bytes, "efgh", 4);
	assert_int_equal((uintptr_t)bytes % 4, 0);
}

static void the_largest_message_fits_behind_any_rest(void **state)
{
	struct fixture *f = *state;
	f->keep = true;
	size_t size = 65532, total = 6 * size, sent = 0, consumed = 0;
	uint8_t *bytes = pattern(total);
	while (consumed < total) {
		if (sent < total) {
			ssize_t n = send(
				f->peer, bytes + sent, total - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n > 0) {
				sent += (size_t)n;
			}
		}
		event_base_loop(f->base, EVLOOP_NONBLOCK);
		size_t len;
		uint8_t *data = wire_socket_data(f->sock, &len);
		assert_int_equal((uintptr_t)data % 4, 0);
		if (len >= size) {
			assert_memory_equal(data, bytes + consumed, size);
			wire_socket_consume(f->sock, size);
			consumed += size;
		}
	}
	free(bytes);
	assert_int_equal(f->n_ended, 0);
}

static void one_wake_up_does_bounded_work(void **state)
{
	struct fixture *f = *state;
	int size = 4 << 20;
	setsockopt(f->peer, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	size_t total = 0;
	static uint8_t bytes[65536];
	for (ssize_t n; (n = send(f->peer, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0;) {
		total += (size_t)n;
	}
	while (f->n_bytes < total) {
		size_t before = f->n_bytes;
		event_base_loop(f->base, EVLOOP_NONBLOCK | EVLOOP_ONCE);
		assert_true(f->n_bytes > before);
		assert_true(f->n_bytes - before <= 4 * 65536);
	}
}

static void a_short_read_is_the_last_of_its_wake_up(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "abcd", 4, 0, 1);
	peer_sends(f, "efgh", 4, 1, 1);
	event_base_loop(f->base, EVLOOP_NONBLOCK | EVLOOP_ONCE);
	assert_int_equal(f->n_readable, 1);
	event_base_loop(f->base, EVLOOP_NONBLOCK | EVLOOP_ONCE);
	assert_int_equal(f->n_readable, 2);
	check_fds(wire_socket_fds(f->sock), 0, 2);
}

static void a_full_buffer_stops_reading_until_it_is_consumed(void **state)
{
	struct fixture *f = *state;
	f->keep = true;
	size_t total = 160 * 1024, sent = 0;
	uint8_t *bytes = pattern(total);
	size_t len = 0;
	for (size_t i = 0; i < 50; i++) {
		ssize_t n = send(f->peer, bytes + sent, total - sent, MSG_DONTWAIT);
		if (n > 0) {
			sent += (size_t)n;
		}
		event_base_loop(f->base, EVLOOP_NONBLOCK);
	}
	wire_socket_data(f->sock, &len);
	assert_int_equal(len, 128 * 1024);
	size_t n_readable = f->n_readable;
	run(f);
	assert_int_equal(f->n_readable, n_readable);
	uint8_t *data = wire_socket_data(f->sock, &len);
	assert_memory_equal(data, bytes, len);
	wire_socket_consume(f->sock, len);
	f->keep = false;
	while (sent < total) {
		ssize_t n = send(f->peer, bytes + sent, total - sent, MSG_DONTWAIT);
		assert_true(n > 0);
		sent += (size_t)n;
		run(f);
	}
	run(f);
	assert_int_equal(f->n_bytes, total - len);
	assert_memory_equal(f->bytes, bytes + len, total - len);
	free(bytes);
}

static void received_fds_wait_to_be_taken(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "abcd", 4, 10, 3);
	peer_sends(f, "efgh", 4, 13, 2);
	run(f);
	struct fdlist *fds = wire_socket_fds(f->sock);
	assert_int_equal(fcntl(fdlist_peek(fds)[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	check_fds(fds, 10, 5);
}

static void fds_that_nobody_takes_are_closed(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "abcd", 4, 10, 28);
	push(f, "bytes", 1, 5);
	run(f);
	assert_int_equal(wire_socket_fds(f->sock)->count, 28);
	// The bracket around the test sees the rest.
}

static void too_many_untaken_fds_end_the_connection(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, high;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	if (old.rlim_max < 1200) {
		skip();
	}
	high = old;
	high.rlim_cur = old.rlim_max < 4096 ? old.rlim_max : 4096;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &high), 0);
	for (size_t i = 0; i < 36; i++) {
		peer_sends(f, "abcd", 4, 0, 28);
		run(f);
	}
	assert_int_equal(wire_socket_fds(f->sock)->count, 1008);
	peer_sends(f, "abcd", 4, 0, 16);
	run(f);
	assert_int_equal(f->n_ended, 0);
	peer_sends(f, "abcd", 4, 0, 1);
	run(f);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, -EPROTO);
	wire_socket_destroy(f->sock);
	f->sock = NULL;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void no_room_for_fds_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "abcd", 4, 0, 20);
	struct rlimit old, low;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	int next = dup(f->peer);
	close(next);
	low = old;
	low.rlim_cur = (rlim_t)next + 5;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	run(f);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, -EPROTO);
}

static void nothing_is_written_before_flush(void **state)
{
	struct fixture *f = *state;
	assert_true(wire_socket_push(f->sock, "abcd", 4, NULL, NULL));
	assert_int_equal(wire_socket_queued(f->sock), 4);
	run(f);
	char byte;
	assert_int_equal(recv(f->peer, &byte, 1, MSG_DONTWAIT), -1);
	wire_socket_flush(f->sock);
	assert_int_equal(wire_socket_queued(f->sock), 0);
	assert_int_equal(recv(f->peer, &byte, 1, MSG_DONTWAIT), 1);
	run(f);
	assert_int_equal(f->n_drained, 0);
}

// Reads what is to be read in small pieces and tells at which byte each fd came.
static size_t read_bytewise(struct fixture *f, uint8_t *bytes, size_t max, size_t *positions)
{
	size_t len = 0, n_fds = 0;
	struct fdlist fds;
	fdlist_init(&fds);
	while (len < max) {
		ssize_t n = scm_recv(f->peer, bytes + len, 1, &fds);
		if (n <= 0) {
			break;
		}
		for (size_t i = 0; i < fds.count; i++) {
			assert_int_equal(number_of(fdlist_peek(&fds)[i]), n_fds);
			positions[n_fds++] = len;
		}
		fdlist_drop(&fds, fds.count);
		len += (size_t)n;
	}
	fdlist_finish(&fds);
	positions[n_fds] = SIZE_MAX;
	return len;
}

static void fds_come_with_the_first_byte_of_their_message(void **state)
{
	struct fixture *f = *state;
	push(f, "aaaa", 0, 0);
	push(f, "bbbb", 0, 2);
	push(f, "cccc", 2, 1);
	push(f, "dddd", 0, 0);
	push(f, "eeee", 3, 28);
	wire_socket_flush(f->sock);
	uint8_t bytes[64];
	size_t positions[64];
	assert_int_equal(read_bytewise(f, bytes, sizeof(bytes), positions), 20);
	assert_memory_equal(bytes, "aaaabbbbccccddddeeee", 20);
	assert_int_equal(positions[0], 4);
	assert_int_equal(positions[1], 4);
	assert_int_equal(positions[2], 8);
	for (size_t i = 3; i < 31; i++) {
		assert_int_equal(positions[i], 16);
	}
	assert_int_equal(positions[31], SIZE_MAX);
}

static void two_hundred_fifty_three_fds_go_in_parts_within_their_message(void **state)
{
	struct fixture *f = *state;
	char text[65];
	memset(text, 'x', 64);
	text[64] = '\0';
	push(f, "head", 0, 0);
	push(f, text, 0, 253);
	push(f, "tail", 253, 1);
	wire_socket_flush(f->sock);
	assert_int_equal(wire_socket_queued(f->sock), 0);
	uint8_t bytes[128];
	size_t positions[300];
	assert_int_equal(read_bytewise(f, bytes, sizeof(bytes), positions), 72);
	for (size_t i = 0; i < 253; i++) {
		assert_int_equal(positions[i], 4 + i / 28 * 4);
	}
	assert_int_equal(positions[253], 68);
	assert_int_equal(positions[254], SIZE_MAX);
}

static void many_fds_stay_within_a_short_message(void **state)
{
	struct fixture *f = *state;
	push(f, "12345678", 0, 200);
	push(f, "tail", 200, 1);
	wire_socket_flush(f->sock);
	uint8_t bytes[16];
	size_t positions[300];
	assert_int_equal(read_bytewise(f, bytes, sizeof(bytes), positions), 12);
	for (size_t i = 0; i < 200; i++) {
		assert_int_equal(positions[i], i / 28);
	}
	assert_int_equal(positions[200], 8);
}

static void fds_that_cannot_fit_their_bytes_fail(void **state)
{
	struct fixture *f = *state;
	struct fdlist list;
	fdlist_init(&list);
	add_fds(&list, 0, 57);
	assert_false(wire_socket_push(f->sock, "ab", 2, &list, NULL));
	assert_int_equal(list.count, 0);
	fdlist_finish(&list);
}

static void what_the_peer_does_not_take_goes_out_later(void **state)
{
	struct fixture *f = *state;
	shrink_send_buffer(f);
	size_t total = 300000, received = 0, pushed = 0;
	uint8_t *bytes = pattern(total);
	uint8_t *got = malloc(total);
	assert_non_null(got);
	struct fdlist fds;
	fdlist_init(&fds);
	size_t n_fds = 0;
	// Messages of many sizes, every third with fds.
	for (size_t i = 0; pushed < total; i++) {
		size_t len = 4 * (i * 37 % 900 + 2);
		len = len < total - pushed ? len : total - pushed;
		if (i % 3 == 0 && n_fds < 90 && len >= 8) {
			add_fds(&fds, n_fds, i % 30 + 1);
			n_fds += i % 30 + 1;
		}
		assert_true(wire_socket_push(f->sock, bytes + pushed, len, &fds, NULL));
		assert_int_equal(fds.count, 0);
		wire_socket_flush(f->sock);
		pushed += len;
	}
	assert_true(wire_socket_queued(f->sock) > 0);
	assert_int_equal(f->n_drained, 0);
	while (received < total) {
		ssize_t n = scm_recv(f->peer, got + received, 1000, &fds);
		if (n > 0) {
			received += (size_t)n;
		}
		event_base_loop(f->base, EVLOOP_NONBLOCK);
		assert_int_equal(f->n_ended, 0);
	}
	assert_memory_equal(got, bytes, total);
	check_fds(&fds, 0, n_fds);
	fdlist_finish(&fds);
	assert_true(f->n_drained > 0);
	assert_int_equal(wire_socket_queued(f->sock), 0);
	size_t n_drained = f->n_drained;
	run(f);
	assert_int_equal(f->n_drained, n_drained);
	free(bytes);
	free(got);
}

static void fill_peer(struct fixture *f)
{
	static char text[4001];
	memset(text, 'x', sizeof(text) - 1);
	while (wire_socket_queued(f->sock) == 0) {
		push(f, text, 0, 0);
		wire_socket_flush(f->sock);
	}
}

static void empty_peer(struct fixture *f)
{
	char bytes[65536];
	while (recv(f->peer, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
	}
}

static void drained_is_told_also_when_flush_did_the_work(void **state)
{
	struct fixture *f = *state;
	fill_peer(f);
	empty_peer(f);
	wire_socket_flush(f->sock);
	assert_int_equal(wire_socket_queued(f->sock), 0);
	assert_int_equal(f->n_drained, 0); // not from inside flush
	run(f);
	assert_int_equal(f->n_drained, 1);
}

static void the_end_comes_after_the_data(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "last words", 10, 1, 2);
	close_peer(f);
	run(f);
	assert_int_equal(f->n_bytes, 10);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, 0);
	check_fds(wire_socket_fds(f->sock), 1, 2);
}

static void a_peer_that_closes_with_unread_data_has_just_closed(void **state)
{
	struct fixture *f = *state;
	push(f, "unread", 0, 1);
	wire_socket_flush(f->sock);
	peer_sends(f, "last words", 10, 0, 0);
	close_peer(f);
	run(f);
	assert_int_equal(f->n_bytes, 10);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, 0);
}

static void last_words_are_read_after_a_failed_write(void **state)
{
	struct fixture *f = *state;
	size_t total = 150000, sent = 0;
	uint8_t *bytes = pattern(total);
	while (sent < total) {
		ssize_t n = send(f->peer, bytes + sent, total - sent, MSG_DONTWAIT);
		if (n < 0) {
			break;
		}
		sent += (size_t)n;
	}
	close_peer(f);
	push(f, "too late", 0, 3);
	wire_socket_flush(f->sock);
	assert_int_equal(wire_socket_queued(f->sock), 0);
	assert_int_equal(f->n_ended, 0);
	push(f, "even later", 0, 3);
	wire_socket_flush(f->sock);
	run(f);
	assert_int_equal(f->n_bytes, sent);
	assert_memory_equal(f->bytes, bytes, sent);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, 0);
	free(bytes);
}

static void a_failed_write_is_told_though_the_peer_stays(void **state)
{
	struct fixture *f = *state;
	peer_sends(f, "last words", 10, 0, 0);
	shutdown(f->peer, SHUT_RD);
	size_t n_open = fd_count();
	push(f, "too late", 0, 3);
	wire_socket_flush(f->sock);
	assert_int_equal(fd_count(), n_open);
	run(f);
	assert_int_equal(f->n_bytes, 10);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, -EPIPE);
}

static void a_failed_write_is_told_once_reading_goes_on(void **state)
{
	struct fixture *f = *state;
	wire_socket_set_reading(f->sock, false);
	peer_sends(f, "last words", 10, 0, 0);
	shutdown(f->peer, SHUT_RD);
	push(f, "too late", 0, 0);
	wire_socket_flush(f->sock);
	run(f);
	assert_int_equal(f->n_ended, 0);
	wire_socket_set_reading(f->sock, true);
	run(f);
	assert_int_equal(f->n_bytes, 10);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, -EPIPE);
}

static void a_peer_that_only_stops_sending_still_gets_what_is_pushed(void **state)
{
	struct fixture *f = *state;
	shutdown(f->peer, SHUT_WR);
	run(f);
	assert_int_equal(f->n_ended, 1);
	assert_int_equal(f->error, 0);
	push(f, "farewell", 0, 0);
	wire_socket_flush(f->sock);
	char bytes[8];
	assert_int_equal(recv(f->peer, bytes, sizeof(bytes), MSG_DONTWAIT), 8);
	close_peer(f);
	push(f, "too late", 0, 2);
	wire_socket_flush(f->sock);
	run(f);
	assert_int_equal(f->n_ended, 1); // still
	assert_int_equal(wire_socket_queued(f->sock), 0);
	assert_int_equal(f->n_drained, 1);
}

static void the_fds_of_a_failed_write_are_closed_at_once(void **state)
{
	struct fixture *f = *state;
	close_peer(f);
	size_t n_open = fd_count();
	push(f, "one", 0, 3);
	push(f, "two", 0, 28);
	wire_socket_flush(f->sock);
	assert_int_equal(fd_count(), n_open);
	push(f, "three", 0, 3);
	assert_int_equal(fd_count(), n_open);
}

static void nothing_is_read_while_reading_is_off(void **state)
{
	struct fixture *f = *state;
	wire_socket_set_reading(f->sock, false);
	peer_sends(f, "abcd", 4, 0, 0);
	close_peer(f);
	run(f);
	assert_int_equal(f->n_readable, 0);
	assert_int_equal(f->n_ended, 0);
	wire_socket_set_reading(f->sock, true);
	run(f);
	assert_int_equal(f->n_bytes, 4);
	assert_int_equal(f->n_ended, 1);
}

static void what_was_left_is_readable_when_reading_goes_on(void **state)
{
	struct fixture *f = *state;
	f->keep = true;
	f->action = STOP_IN_READABLE;
	peer_sends(f, "abcd", 4, 0, 0);
	run(f);
	peer_sends(f, "efgh", 4, 0, 0);
	run(f);
	assert_int_equal(f->n_readable, 1);
	f->keep = false;
	f->action = DO_NOTHING;
	wire_socket_set_reading(f->sock, true);
	assert_int_equal(f->n_readable, 1); // not from inside set_reading
	run(f);
	assert_int_equal(f->n_readable, 3);
	assert_memory_equal(f->bytes, "abcdefgh", 8);
}

static void the_socket_may_be_destroyed_in_readable(void **state)
{
	struct fixture *f = *state;
	f->action = DESTROY_IN_READABLE;
	static char bytes[70000];
	memset(bytes, 'x', sizeof(bytes));
	peer_sends(f, "abcd", 4, 0, 5);
	assert_true(send(f->peer, bytes, sizeof(bytes), MSG_DONTWAIT) > 0);
	run(f);
	assert_null(f->sock);
	assert_int_equal(f->n_readable, 1);
	assert_int_equal(f->n_ended, 0);
	assert_int_equal(send(f->peer, bytes, 1, MSG_DONTWAIT | MSG_NOSIGNAL), -1);
}

static void the_socket_may_be_destroyed_in_readable_of_left_over_bytes(void **state)
{
	struct fixture *f = *state;
	f->keep = true;
	f->action = STOP_IN_READABLE;
	peer_sends(f, "abcd", 4, 0, 5);
	run(f);
	f->action = DESTROY_IN_READABLE;
	wire_socket_set_reading(f->sock, true);
	run(f);
	assert_null(f->sock);
	assert_int_equal(f->n_readable, 2);
}

static void the_socket_may_be_destroyed_in_ended(void **state)
{
	struct fixture *f = *state;
	f->action = DESTROY_IN_ENDED;
	peer_sends(f, "abcd", 4, 0, 5);
	close_peer(f);
	run(f);
	assert_null(f->sock);
	assert_int_equal(f->n_ended, 1);
}

static void the_socket_may_be_destroyed_in_ended_after_a_failed_write(void **state)
{
	struct fixture *f = *state;
	f->action = DESTROY_IN_ENDED;
	shutdown(f->peer, SHUT_RD);
	push(f, "too late", 0, 3);
	wire_socket_flush(f->sock);
	run(f);
	assert_null(f->sock);
	assert_int_equal(f->error, -EPIPE);
}

static void the_socket_may_be_destroyed_in_drained(void **state)
{
	struct fixture *f = *state;
	f->action = DESTROY_IN_DRAINED;
	fill_peer(f);
	push(f, "more", 0, 5);
	empty_peer(f);
	run(f);
	assert_null(f->sock);
	assert_int_equal(f->n_drained, 1);
}

static void a_socket_with_a_queue_and_an_error_may_be_destroyed(void **state)
{
	struct fixture *f = *state;
	fill_peer(f);
	push(f, "more", 0, 50);
	close_peer(f);
	wire_socket_flush(f->sock);
	wire_socket_destroy(f->sock);
	f->sock = NULL;
	run(f);
	assert_int_equal(f->n_ended, 0);
	wire_socket_destroy(NULL);
}

int main(void)
{
#define socket_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		socket_test(what_the_kernel_has_no_room_for_is_sent_later),
		socket_test(one_that_is_destroyed_tries_no_more),
		socket_test(fds_are_charged_until_the_peer_has_them),
		socket_test(bytes_arrive_in_order),
		socket_test(what_is_not_consumed_stays_and_grows),
		socket_test(the_largest_message_fits_behind_any_rest),
		socket_test(one_wake_up_does_bounded_work),
		socket_test(a_short_read_is_the_last_of_its_wake_up),
		socket_test(a_full_buffer_stops_reading_until_it_is_consumed),
		socket_test(received_fds_wait_to_be_taken),
		socket_test(fds_that_nobody_takes_are_closed),
		socket_test(too_many_untaken_fds_end_the_connection),
		socket_test(no_room_for_fds_ends_the_connection),
		socket_test(nothing_is_written_before_flush),
		socket_test(fds_come_with_the_first_byte_of_their_message),
		socket_test(two_hundred_fifty_three_fds_go_in_parts_within_their_message),
		socket_test(many_fds_stay_within_a_short_message),
		socket_test(fds_that_cannot_fit_their_bytes_fail),
		socket_test(what_the_peer_does_not_take_goes_out_later),
		socket_test(drained_is_told_also_when_flush_did_the_work),
		socket_test(the_end_comes_after_the_data),
		socket_test(a_peer_that_closes_with_unread_data_has_just_closed),
		socket_test(last_words_are_read_after_a_failed_write),
		socket_test(a_failed_write_is_told_though_the_peer_stays),
		socket_test(a_failed_write_is_told_once_reading_goes_on),
		socket_test(a_peer_that_only_stops_sending_still_gets_what_is_pushed),
		socket_test(the_fds_of_a_failed_write_are_closed_at_once),
		socket_test(nothing_is_read_while_reading_is_off),
		socket_test(what_was_left_is_readable_when_reading_goes_on),
		socket_test(the_socket_may_be_destroyed_in_readable),
		socket_test(the_socket_may_be_destroyed_in_readable_of_left_over_bytes),
		socket_test(the_socket_may_be_destroyed_in_ended),
		socket_test(the_socket_may_be_destroyed_in_ended_after_a_failed_write),
		socket_test(the_socket_may_be_destroyed_in_drained),
		socket_test(a_socket_with_a_queue_and_an_error_may_be_destroyed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
