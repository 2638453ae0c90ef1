#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "protocol/channel.h"
#include "relay/handshake.h"
#include "relay/session.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/world.h"

#define TEXT "no such thing, h\xc3\xb6" // what a compositor says

/* A client whose session is to end, and another one that must not notice. */
struct stage {
	struct world *world;
	struct client *other, *client;
};

static void begin_with(struct stage *stage, const struct pair_options *options)
{
	stage->world = world_create();
	compositor_add_global(stage->world->compositor, &wl_seat_interface, 5);
	stage->other = client_create(stage->world, NULL);
	stage->client = client_create(stage->world, options);
}

static void begin(struct stage *stage)
{
	begin_with(stage, NULL);
}

/* The compositor of the client is the test, which has its socket. */
static int begin_with_own_compositor(struct stage *stage)
{
	stage->world = world_create();
	stage->other = client_create(stage->world, NULL);
	stage->client = client_create_bare(stage->world, NULL);
	int fd = pair_take_compositor(&stage->client->pair);
	stage->client->display = wl_display_connect_to_fd(pair_take_client(&stage->client->pair));
	stage->client->registry = wl_display_get_registry(stage->client->display);
	world_until_readable(stage->world, fd);
	return fd;
}

static void end(struct stage *stage)
{
	client_roundtrip(stage->other);
	world_destroy(stage->world);
}

static void expect_text(struct stage *stage, const char *text)
{
	client_wait_failed(stage->client);
	if (strstr(stage->client->error, text) == NULL) {
		fail_msg("\"%s\" is not in \"%s\"", text, stage->client->error);
	}
}

static void expect_error(struct stage *stage, const char *text)
{
	expect_text(stage, text);
	client_wait_over(stage->client);
}

static void a_client_that_leaves_leaves_the_compositor(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	client_disconnect(stage.client);
	client_wait_over(stage.client);
	assert_string_equal(stage.client->pair.guest.reason, "");
	assert_string_equal(stage.client->pair.host.reason, "");
	world_turns(stage.world, 5);
	assert_null(stage.client->far);
	end(&stage);
}

static void write_requests(struct client *client, size_t n)
{
	for (size_t i = 0; i < n && !client->failed; i++) {
		wl_callback_destroy(wl_display_sync(client->display));
	}
}

static void what_a_client_said_last_arrives(void **state)
{
	(void)state;
	struct stage stage;
	int fd = begin_with_own_compositor(&stage);
	write_requests(stage.client, 3000);
	assert_true(wl_display_flush(stage.client->display) >= 0);
	client_disconnect(stage.client);
	const size_t size = 12 + 3000 * 12; // with get_registry
	size_t received = 0;
	uint8_t bytes[4096];
	ssize_t n;
	while ((n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) != 0) {
		received += n > 0 ? (size_t)n : 0;
		world_turn(stage.world);
	}
	assert_int_equal(received, size);
	close(fd);
	client_wait_over(stage.client);
	end(&stage);
}

static void a_compositor_that_leaves_is_told_to_the_client(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	wl_client_destroy(stage.client->far);
	expect_error(&stage, "the compositor closed the connection");
	end(&stage);
}

static void a_channel_that_is_cut_is_told_to_the_client(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	shutdown(stage.client->pair.guest_channel, SHUT_RDWR);
	expect_error(&stage, "the connection between guest and host was lost");
	world_turns(stage.world, 5);
	assert_null(stage.client->far);
	end(&stage);
}

static void a_refusal_reaches_the_client_with_its_text(void **state)
{
	(void)state;
	struct stage stage;
	const struct pair_options options = {.no_host = true};
	begin_with(&stage, &options);
	handshake_refuse(stage.client->pair.channel_fd, CHANNEL_REFUSE_BUSY, "not today");
	expect_error(&stage, "refused by the host: not today");
	end(&stage);
}

static void the_compositors_error_reaches_the_client_unchanged(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	struct wl_seat *seat = client_bind(stage.client, &wl_seat_interface, 5);
	client_roundtrip(stage.client);
	uint32_t id = wl_proxy_get_id((struct wl_proxy *)seat);
	wl_resource_post_error(wl_client_get_object(stage.client->far, id), 77, TEXT);
	expect_text(&stage, "error 77: " TEXT);
	const struct wl_interface *interface;
	uint32_t object;
	assert_int_equal(
		wl_display_get_protocol_error(stage.client->display, &interface, &object), 77);
	assert_string_equal(interface->name, "wl_seat");
	assert_int_equal(object, id);
	wl_seat_destroy(seat);
	client_disconnect(stage.client); // the compositor waits for that
	client_wait_over(stage.client);
	end(&stage);
}

static void session_stop_is_told_to_the_client(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	session_stop(stage.client->pair.host.session, "time to go");
	expect_error(&stage, "time to go");
	assert_string_equal(stage.client->pair.host.reason, "time to go");
	end(&stage);
}

/* ---- last words ---- */

static size_t put_error(uint8_t *at, const char *text)
{
	uint32_t len = (uint32_t)strlen(text) + 1, padded = (len + 3) & ~3u;
	uint32_t words[] = {1, (20 + padded) << 16, 1, 3, len};
	memcpy(at, words, sizeof(words));
	memset(at + sizeof(words), 0, padded);
	memcpy(at + sizeof(words), text, len - 1);
	return sizeof(words) + padded;
}

static void a_compositors_last_words_arrive_though_the_client_goes_on_writing(void **state)
{
	(void)state;
	for (size_t turns = 0; turns < 8; turns++) {
		struct stage stage;
		uint8_t error[256];
		int fd = begin_with_own_compositor(&stage);
		write_requests(stage.client, 100); // what the compositor does not read any more
		world_turns(stage.world, turns);
		size_t len = put_error(error, TEXT);
		assert_int_equal(send(fd, error, len, MSG_NOSIGNAL), len);
		close(fd);
		while (!stage.client->failed) {
			write_requests(stage.client, 50);
			world_turn(stage.world);
		}
		expect_error(&stage, TEXT);
		end(&stage);
	}
}

/* ---- what is malformed ---- */

static void send_words(int fd, const uint32_t *words, size_t n)
{
	ssize_t len = (ssize_t)(n * sizeof(*words));
	assert_int_equal(send(fd, words, (size_t)len, MSG_NOSIGNAL), len);
}

#define SEND(fd, ...) \
	send_words(fd, (const uint32_t[]){__VA_ARGS__}, \
		sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

#define HEADER(opcode, size) ((uint32_t)(size) << 16 | (opcode))

/* The text of a wl_display.error on a socket that is read here. */
static void read_error(struct stage *stage, int fd, char *text, size_t size)
{
	uint32_t words[256];
	ssize_t len;
	while ((len = recv(fd, words, sizeof(words), MSG_DONTWAIT)) < 0) {
		assert_int_equal(errno, EAGAIN);
		world_turn(stage->world);
	}
	assert_true(len > 20);
	assert_int_equal(words[0], 1);
	assert_int_equal(words[1] & 0xffff, 0);
	assert_true(words[4] <= size);
	memcpy(text, &words[5], words[4]);
}

static void send_as_client(const uint32_t *words, size_t n, const char *expected)
{
	struct stage stage;
	char text[1024] = "";
	stage.world = world_create();
	stage.other = client_create(stage.world, NULL);
	stage.client = client_create_bare(stage.world, NULL);
	int fd = stage.client->pair.client_fd;
	send_words(fd, words, n);
	read_error(&stage, fd, text, sizeof(text));
	if (strstr(text, expected) == NULL) {
		fail_msg("\"%s\" is not in \"%s\"", expected, text);
	}
	client_wait_over(stage.client);
	assert_string_not_equal(stage.client->pair.guest.reason, "");
	assert_string_not_equal(stage.client->pair.host.reason, "");
	end(&stage);
}

#define SEND_AS_CLIENT(expected, ...) \
	send_as_client((const uint32_t[]){__VA_ARGS__}, \
		sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t), expected)

static void a_malformed_request_ends_the_session_of_its_client_alone(void **state)
{
	(void)state;
	SEND_AS_CLIENT("wrong size", 1, HEADER(1, 4));
	SEND_AS_CLIENT("wrong size", 1, HEADER(1, 0));
	SEND_AS_CLIENT("wrong size", 1, HEADER(1, 13), 2);
	SEND_AS_CLIENT("invalid object 7", 7, HEADER(0, 8));
	SEND_AS_CLIENT("invalid object 0", 0, HEADER(0, 8));
	SEND_AS_CLIENT("invalid object", 0xff000000, HEADER(0, 8));
	SEND_AS_CLIENT("invalid method 99", 1, HEADER(99, 8));
	SEND_AS_CLIENT("get_registry", 1, HEADER(1, 8));
	SEND_AS_CLIENT("get_registry", 1, HEADER(1, 16), 2, 0);
	SEND_AS_CLIENT("skips", 1, HEADER(1, 12), 99);
	SEND_AS_CLIENT("in use", 1, HEADER(1, 12), 1);
	SEND_AS_CLIENT("other side's range", 1, HEADER(1, 12), 0xff000000);
	SEND_AS_CLIENT(
		"never offered", 1, HEADER(1, 12), 2, 2, HEADER(0, 28), 1, 4, 0x00616161, 1, 3);
	SEND_AS_CLIENT("bind", 1, HEADER(1, 12), 2, 2, HEADER(0, 28), 1, 4, 0x61616161, 1, 3);
}

static void send_as_compositor(const uint32_t *words, size_t n, const char *expected)
{
	struct stage stage;
	int fd = begin_with_own_compositor(&stage);
	send_words(fd, words, n);
	expect_text(&stage, expected);
	close(fd);
	client_wait_over(stage.client);
	assert_string_not_equal(stage.client->pair.host.reason, "");
	end(&stage);
}

#define SEND_AS_COMPOSITOR(expected, ...) \
	send_as_compositor((const uint32_t[]){__VA_ARGS__}, \
		sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t), expected)

static void a_malformed_event_ends_that_session_alone(void **state)
{
	(void)state;
	SEND_AS_COMPOSITOR("wrong size", 1, HEADER(1, 4));
	SEND_AS_COMPOSITOR("invalid object 9", 9, HEADER(0, 8));
	SEND_AS_COMPOSITOR("invalid method 5", 1, HEADER(5, 8));
	SEND_AS_COMPOSITOR("delete_id", 1, HEADER(1, 8));
	SEND_AS_COMPOSITOR("global", 2, HEADER(0, 20), 1, 4, 0x61616161);
}

static void send_as_host(const void *frame, size_t len, const char *expected)
{
	struct stage stage;
	const struct pair_options options = {.no_host = true};
	begin_with(&stage, &options);
	assert_int_equal(
		send(stage.client->pair.channel_fd, frame, len, MSG_NOSIGNAL), (ssize_t)len);
	expect_error(&stage, expected);
	end(&stage);
}

static void a_malformed_frame_ends_that_session_alone(void **state)
{
	(void)state;
	const struct channel_header unknown = {.type = 999};
	send_as_host(&unknown, sizeof(unknown), "unknown type");
	const struct channel_header long_frame = {.type = CHANNEL_PING, .length = 1u << 30};
	send_as_host(&long_frame, sizeof(long_frame), "too long");
	const struct channel_header closed = {.type = CHANNEL_CLOSED, .id = 5};
	send_as_host(&closed, sizeof(closed), "not open");
	const struct channel_header credit = {.type = CHANNEL_CREDIT, .arg = UINT32_MAX};
	send_as_host(&credit, sizeof(credit), "CREDIT beyond");
	const struct channel_header messages = {.type = CHANNEL_MESSAGES, .arg = 9};
	send_as_host(&messages, sizeof(messages), "number of fdrefs");
	struct {
		struct channel_header header;
		uint32_t words[3];
	} torn = {
		.header = {.type = CHANNEL_MESSAGES, .length = 12},
		.words = {1, HEADER(1, 16), 0},
	};
	send_as_host(&torn, sizeof(torn), "whole message");
}

/* ---- who does not read ---- */

static void a_client_that_reads_nothing_does_not_keep_its_session_for_ever(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage);
	stage.client->paused = true;
	wl_client_destroy(stage.client->far);
	client_wait_over(stage.client);
	end(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_client_that_leaves_leaves_the_compositor),
		fd_count_test(what_a_client_said_last_arrives),
		fd_count_test(a_compositor_that_leaves_is_told_to_the_client),
		fd_count_test(a_channel_that_is_cut_is_told_to_the_client),
		fd_count_test(a_refusal_reaches_the_client_with_its_text),
		fd_count_test(the_compositors_error_reaches_the_client_unchanged),
		fd_count_test(session_stop_is_told_to_the_client),
		fd_count_test(a_compositors_last_words_arrive_though_the_client_goes_on_writing),
		fd_count_test(a_malformed_request_ends_the_session_of_its_client_alone),
		fd_count_test(a_malformed_event_ends_that_session_alone),
		fd_count_test(a_malformed_frame_ends_that_session_alone),
		fd_count_test(a_client_that_reads_nothing_does_not_keep_its_session_for_ever),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
