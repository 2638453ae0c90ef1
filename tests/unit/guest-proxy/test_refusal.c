#include "guest-proxy/refusal.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <wayland-client.h>

#include "tests/support/fd_count.h"
#include "wire/message.h"

static _Alignas(uint32_t) uint8_t bytes[8192];
static struct wire_message message;

static void open_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

// All that comes until the end of the stream.
static size_t read_all(int fd)
{
	size_t len = 0;
	ssize_t n;
	while ((n = read(fd, bytes + len, sizeof(bytes) - len)) > 0) {
		len += (size_t)n;
	}
	assert_int_equal(n, 0);
	return len;
}

// Decodes the one message that a client gets; its text.
static const char *refuse(const char *text)
{
	int fds[2];
	open_pair(fds);
	refusal_send(fds[0], text);
	size_t len = read_all(fds[1]);
	assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC); // borrowed
	close(fds[0]);
	close(fds[1]);
	struct wire_header header;
	assert_true(wire_header_decode(bytes, len, &header));
	assert_int_equal(header.object, 1);
	assert_int_equal(header.opcode, 0);
	assert_int_equal(header.size, len);
	const struct wire_interface *display = wire_schema_find("wl_display");
	assert_non_null(display);
	const struct wire_op *op = &display->ops[WIRE_EVENT].ops[0];
	assert_string_equal(op->name, "error");
	const char *wrong = wire_message_decode(&message, &header, bytes, op);
	if (wrong != NULL) {
		fail_msg("%s", wrong);
	}
	assert_int_equal(message.args[0].value, 1); // wl_display
	assert_int_equal(message.args[1].value, 3); // implementation
	return message.args[2].string;
}

static int teardown(void **state)
{
	wire_schema_finish();
	return fd_count_teardown(state);
}

static void the_client_gets_an_error_with_the_text(void **state)
{
	(void)state;
	assert_string_equal(refuse("no host"), "fdferry-guest: no host");
	assert_string_equal(refuse(""), "fdferry-guest: ");
	assert_string_equal(refuse("100%s%n"), "fdferry-guest: 100%s%n");
}

static void every_length_is_well_formed_and_a_long_text_is_cut(void **state)
{
	(void)state;
	static char text[6000];
	for (size_t len = 0; len < sizeof(text); len += len < 600 ? 1 : 900) {
		memset(text, 'x', len);
		text[len] = '\0';
		const char *told = refuse(text);
		assert_memory_equal(told, "fdferry-guest: xxxx", len < 4 ? 15 : 19);
		assert_true(strlen(told) <= 15 + len && strlen(told) < 1024);
	}
}

static void libwayland_takes_it_for_a_protocol_error(void **state)
{
	(void)state;
	int fds[2];
	open_pair(fds);
	struct wl_display *display = wl_display_connect_to_fd(fds[1]);
	assert_non_null(display);
	refusal_send(fds[0], "too many clients");
	assert_int_equal(wl_display_roundtrip(display), -1);
	assert_int_equal(wl_display_get_error(display), EPROTO);
	const struct wl_interface *interface;
	uint32_t id;
	assert_int_equal(wl_display_get_protocol_error(display, &interface, &id),
		WL_DISPLAY_ERROR_IMPLEMENTATION);
	assert_string_equal(interface->name, "wl_display");
	assert_int_equal(id, 1);
	wl_display_disconnect(display);
	close(fds[0]);
}

static void a_client_that_is_gone_does_no_harm(void **state)
{
	(void)state;
	int fds[2];
	open_pair(fds);
	close(fds[1]);
	signal(SIGPIPE, SIG_DFL);
	refusal_send(fds[0], "no host");
	refusal_send(fds[0], "no host");
	close(fds[0]);
	open_pair(fds);
	shutdown(fds[1], SHUT_RD);
	refusal_send(fds[0], "no host");
	close(fds[0]);
	close(fds[1]);
}

static void a_client_that_does_not_read_blocks_nobody(void **state)
{
	(void)state;
	int fds[2];
	open_pair(fds);
	while (send(fds[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
	}
	while (send(fds[0], bytes, 1, MSG_DONTWAIT) > 0) {
	}
	assert_int_equal(errno, EAGAIN);
	refusal_send(fds[0], "no host");
	close(fds[0]);
	close(fds[1]);
}

static void what_is_no_socket_does_no_harm(void **state)
{
	(void)state;
	int fds[2];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	refusal_send(fds[1], "no host");
	close(fds[1]);
	assert_int_equal(read_all(fds[0]), 0);
	close(fds[0]);
}

int main(void)
{
#define refusal_test(name) cmocka_unit_test_setup_teardown(name, fd_count_setup, teardown)
	const struct CMUnitTest tests[] = {
		refusal_test(the_client_gets_an_error_with_the_text),
		refusal_test(every_length_is_well_formed_and_a_long_text_is_cut),
		refusal_test(libwayland_takes_it_for_a_protocol_error),
		refusal_test(a_client_that_is_gone_does_no_harm),
		refusal_test(a_client_that_does_not_read_blocks_nobody),
		refusal_test(what_is_no_socket_does_no_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
