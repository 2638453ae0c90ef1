#include "channel/zerocopy.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"
#include "tests/support/tcp_pair.h"

#define SENDS_MAX 64

struct fixture {
	int pair[2];
	struct zerocopy *zerocopy;
	size_t n_sends;        // rooms
	size_t sent, received; // bytes
};

static void set_up(struct fixture *fixture)
{
	*fixture = (struct fixture){0};
	tcp_pair(fixture->pair);
	fixture->zerocopy = zerocopy_create(fixture->pair[0]);
	assert_non_null(fixture->zerocopy);
}

static void tear_down(struct fixture *fixture)
{
	zerocopy_destroy(fixture->zerocopy);
	close(fixture->pair[0]);
	close(fixture->pair[1]);
}

/* Another byte for each room that is sent, whichever it lies in. */
static uint8_t mark(size_t send)
{
	return (uint8_t)(send * 37 + 1);
}

/* False: no room is free, or the peer's side is full. */
static bool send_one(struct fixture *fixture)
{
	uint8_t *room = zerocopy_room(fixture->zerocopy);
	if (room == NULL) {
		return false;
	}
	memset(room, mark(fixture->n_sends), ZEROCOPY_ROOM);
	ssize_t n = zerocopy_send(fixture->zerocopy, ZEROCOPY_ROOM);
	if (n <= 0) {
		assert_int_equal(n, -EAGAIN);
		return false;
	}
	fixture->n_sends++;
	fixture->sent += (size_t)n;
	return n == ZEROCOPY_ROOM;
}

/* All that was sent, of which only the last room was perhaps taken in part. */
static void receive_all(struct fixture *fixture)
{
	uint8_t bytes[ZEROCOPY_ROOM], expected[ZEROCOPY_ROOM];
	while (fixture->received < fixture->sent) {
		size_t left = ZEROCOPY_ROOM - fixture->received % ZEROCOPY_ROOM;
		size_t rest = fixture->sent - fixture->received;
		ssize_t n = recv(fixture->pair[1], bytes, left < rest ? left : rest, 0);
		assert_true(n > 0);
		memset(expected, mark(fixture->received / ZEROCOPY_ROOM), (size_t)n);
		assert_memory_equal(bytes, expected, (size_t)n);
		fixture->received += (size_t)n;
	}
}

static void a_socket_that_copies_has_no_rooms(void **state)
{
	(void)state;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	errno = 0;
	assert_null(zerocopy_create(pair[0]));
	assert_int_equal(errno, EOPNOTSUPP);
	close(pair[0]);
	close(pair[1]);
	zerocopy_destroy(NULL);
}

static void a_room_that_the_kernel_still_reads_is_not_given(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	while (fixture.n_sends < SENDS_MAX && send_one(&fixture)) {
	}
	assert_in_range(fixture.n_sends, 2, SENDS_MAX - 1); // nobody reads
	receive_all(&fixture);
	tear_down(&fixture);
}

static void rooms_come_back(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	for (size_t i = 0; i < SENDS_MAX; i++) {
		// The kernel says so when it can, and wakes who waits.
		while (zerocopy_room(fixture.zerocopy) == NULL) {
			struct pollfd told = {.fd = fixture.pair[0]};
			assert_int_equal(poll(&told, 1, -1), 1);
			assert_int_equal(told.revents, POLLERR);
		}
		assert_true(send_one(&fixture));
		receive_all(&fixture);
	}
	tear_down(&fixture);
}

static void what_the_kernel_has_said_wakes_once(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	assert_true(send_one(&fixture));
	receive_all(&fixture);
	struct pollfd told = {.fd = fixture.pair[0]};
	assert_int_equal(poll(&told, 1, -1), 1);
	zerocopy_reap(fixture.zerocopy);
	assert_int_equal(poll(&told, 1, 0), 0);
	tear_down(&fixture);
}

static void what_is_under_way_outlives_the_rooms(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	while (fixture.n_sends < SENDS_MAX && send_one(&fixture)) {
	}
	zerocopy_destroy(fixture.zerocopy);
	fixture.zerocopy = NULL;
	receive_all(&fixture);
	tear_down(&fixture);
}

static void a_peer_that_is_gone_is_told(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	shutdown(fixture.pair[0], SHUT_WR);
	assert_non_null(zerocopy_room(fixture.zerocopy));
	assert_int_equal(zerocopy_send(fixture.zerocopy, ZEROCOPY_ROOM), -EPIPE);
	tear_down(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_socket_that_copies_has_no_rooms),
		fd_count_test(a_room_that_the_kernel_still_reads_is_not_given),
		fd_count_test(rooms_come_back),
		fd_count_test(what_the_kernel_has_said_wakes_once),
		fd_count_test(what_is_under_way_outlives_the_rooms),
		fd_count_test(a_peer_that_is_gone_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
