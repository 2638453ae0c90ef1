#include "examples/mojo/channel.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/scm.h"
#include "tests/support/fd_count.h"

static struct event_base *base;
static int bare; // the peer's socket
static struct mojo_channel *channel;

static unsigned int messages, handles, ends;
static uint32_t last_number;
static size_t last_size;
static const char *last_wrong;

static void handle_message(void *data, struct mojo_message *message)
{
	(void)data;
	messages++;
	handles += (unsigned int)message->handles.count;
	last_number = message->number;
	last_size = message->size;
}

static void handle_ended(void *data, const char *wrong)
{
	(void)data;
	ends++;
	last_wrong = wrong;
}

static const struct mojo_channel_handler handler = {
	.message = handle_message,
	.ended = handle_ended,
};

static int setup(void **state)
{
	fd_count_setup(state);
	messages = handles = ends = 0;
	last_wrong = NULL;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		return -1;
	}
	bare = pair[0];
	base = event_base_new();
	channel = mojo_channel_create(base, pair[1], MOJO_LEGACY, &handler, NULL);
	return channel != NULL ? 0 : -1;
}

static int teardown(void **state)
{
	mojo_channel_destroy(channel);
	event_base_free(base);
	if (bare >= 0) {
		close(bare);
	}
	return fd_count_teardown(state);
}

static void add_handles(struct fdlist *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_true(fdlist_push(list, open("/dev/null", O_RDONLY | O_CLOEXEC)));
	}
}

static void turn(void)
{
	event_base_loop(base, EVLOOP_NONBLOCK);
}

/* The head and first bytes of a legacy message, from the bare peer. */
static void send_bare(uint32_t payload, uint16_t announced, size_t sent_handles)
{
	uint32_t words[4] = {8 + payload, announced, 5, 6};
	struct iovec iov = {.iov_base = words, .iov_len = sizeof(words)};
	struct fdlist list;
	fdlist_init(&list);
	add_handles(&list, sent_handles);
	assert_int_equal(scm_send(bare, &iov, 1, &list, sent_handles), sizeof(words));
	fdlist_finish(&list);
}

static void handles_go_with_the_first_byte_of_a_long_message(void **state)
{
	(void)state;
	const size_t size = 1024 * 1024;
	uint8_t *bytes = calloc(1, size);
	struct fdlist list;
	fdlist_init(&list);
	add_handles(&list, 3);
	assert_true(mojo_channel_send(channel, 1, 2, bytes, size, &list));
	assert_int_equal(list.count, 0);
	size_t total = 0;
	while (total < size + 16) {
		ssize_t n = scm_recv(bare, bytes, size, &list);
		assert_true(n > 0 || n == -EAGAIN);
		if (n > 0) {
			assert_int_equal(list.count, total == 0 ? 3 : 0);
			total += (size_t)n;
			fdlist_drop(&list, list.count);
		}
		turn();
	}
	assert_int_equal(mojo_channel_queued(channel), 0);
	fdlist_finish(&list);
	free(bytes);
}

static void a_message_comes_with_its_handles(void **state)
{
	(void)state;
	send_bare(8, 2, 2);
	turn();
	assert_int_equal(messages, 1);
	assert_int_equal(handles, 2);
	assert_int_equal(last_number, 6);
	assert_int_equal(last_size, 0);
}

static void a_message_waits_for_its_handles(void **state)
{
	(void)state;
	send_bare(8, 1, 0);
	turn();
	assert_int_equal(messages, 0);
	send_bare(8, 1, 2);
	turn();
	assert_int_equal(messages, 2);
	assert_int_equal(handles, 2);
}

static void handles_that_come_early_wait_for_their_message(void **state)
{
	(void)state;
	send_bare(8, 0, 2);
	turn();
	assert_int_equal(messages, 1);
	assert_int_equal(handles, 0);
	assert_int_equal(mojo_channel_waiting_handles(channel), 2);
	send_bare(8, 2, 0);
	turn();
	assert_int_equal(messages, 2);
	assert_int_equal(handles, 2);
}

static void a_message_in_pieces_comes_once_it_is_whole(void **state)
{
	(void)state;
	send_bare(12, 0, 0);
	turn();
	assert_int_equal(messages, 0);
	assert_int_equal(write(bare, "abcd", 4), 4);
	turn();
	assert_int_equal(messages, 1);
	assert_int_equal(last_size, 4);
}

static void the_peers_last_message_comes_before_its_end(void **state)
{
	(void)state;
	send_bare(8, 0, 0);
	close(bare);
	bare = -1;
	mojo_channel_send(channel, 1, 2, NULL, 0, NULL); // EPIPE
	turn();
	assert_int_equal(messages, 1);
	assert_int_equal(ends, 1);
	assert_null(last_wrong);
	struct fdlist list;
	fdlist_init(&list);
	add_handles(&list, 1);
	assert_false(mojo_channel_send(channel, 1, 2, NULL, 0, &list));
	fdlist_finish(&list);
}

static void an_end_inside_a_message_is_wrong(void **state)
{
	(void)state;
	send_bare(100, 0, 0);
	close(bare);
	bare = -1;
	turn();
	assert_int_equal(messages, 0);
	assert_int_equal(ends, 1);
	assert_non_null(last_wrong);
}

static void an_end_with_handles_missing_is_wrong(void **state)
{
	(void)state;
	send_bare(8, 1, 0);
	close(bare);
	bare = -1;
	turn();
	assert_int_equal(messages, 0);
	assert_non_null(last_wrong);
}

static void a_length_that_cannot_be_ends_the_channel(void **state)
{
	(void)state;
	send_bare(UINT32_MAX / 2, 0, 0);
	turn();
	assert_int_equal(ends, 1);
	assert_non_null(last_wrong);
}

#define channel_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		channel_test(handles_go_with_the_first_byte_of_a_long_message),
		channel_test(a_message_comes_with_its_handles),
		channel_test(a_message_waits_for_its_handles),
		channel_test(handles_that_come_early_wait_for_their_message),
		channel_test(a_message_in_pieces_comes_once_it_is_whole),
		channel_test(the_peers_last_message_comes_before_its_end),
		channel_test(an_end_inside_a_message_is_wrong),
		channel_test(an_end_with_handles_missing_is_wrong),
		channel_test(a_length_that_cannot_be_ends_the_channel),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
