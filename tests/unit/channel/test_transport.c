#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/transport.h"
#include "tests/support/fd_count.h"

static struct transport temporary(void)
{
	struct transport transport = {.kind = TRANSPORT_UNIX};
	char dir[] = "/tmp/transport-XXXXXX";
	assert_non_null(mkdtemp(dir));
	snprintf(transport.path, sizeof(transport.path), "%s/socket", dir);
	return transport;
}

static void clean(struct transport *transport)
{
	transport_unlink(transport);
	*strrchr(transport->path, '/') = '\0';
	assert_int_equal(rmdir(transport->path), 0);
}

static void addresses_are_parsed(void **state)
{
	(void)state;
	struct transport transport;
	assert_null(transport_parse("unix:/run/x", &transport));
	assert_int_equal(transport.kind, TRANSPORT_UNIX);
	assert_string_equal(transport.path, "/run/x");
	assert_null(transport_parse("unix:@name", &transport));
	assert_string_equal(transport.path, "@name");
	assert_null(transport_parse("vsock:1022", &transport));
	assert_int_equal(transport.kind, TRANSPORT_VSOCK);
	assert_int_equal(transport.cid, UINT32_MAX);
	assert_int_equal(transport.port, 1022);
	assert_null(transport_parse("vsock:3:4294967294", &transport));
	assert_int_equal(transport.cid, 3);
	assert_int_equal(transport.port, 4294967294u);
}

static void wrong_addresses_are_refused(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"",
		"unix",
		"unix:",
		"unix:@",
		"tcp:1:2",
		"vsock:",
		"vsock::1",
		"vsock:1:",
		"vsock:-1",
		"vsock:+1",
		"vsock: 1",
		"vsock:1x",
		"vsock:4294967295",
		"vsock:4294967296",
		"vsock:99999999999999999999",
		"vsock:1:2:3",
		"vhost-user:",
		"/run/x",
	};
	struct transport transport;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(transport_parse(wrong[i], &transport));
	}
}

static void a_service_is_at_a_unix_socket_of_either_kind(void **state)
{
	(void)state;
	struct transport transport;
	assert_null(transport_parse_service("unix:/run/x", &transport));
	assert_int_equal(transport.kind, TRANSPORT_UNIX);
	assert_string_equal(transport.path, "/run/x");
	assert_null(transport_parse_service("seqpacket:@name", &transport));
	assert_int_equal(transport.kind, TRANSPORT_SEQPACKET);
	assert_string_equal(transport.path, "@name");
	static const char *const wrong[] = {"", "unix:", "seqpacket:", "seqpacket:@", "/run/x",
		"vsock:1022", "dgram:/run/x", "seqpacket/run/x"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(transport_parse_service(wrong[i], &transport));
	}
	assert_non_null(transport_parse("seqpacket:/run/x", &transport)); // no channel
}

static void a_resolver_is_at_a_unix_socket_with_records(void **state)
{
	(void)state;
	struct transport transport;
	assert_null(transport_parse_resolver("unix:/run/x", &transport));
	assert_int_equal(transport.kind, TRANSPORT_SEQPACKET);
	assert_string_equal(transport.path, "/run/x");
	static const char *const wrong[] = {
		"", "unix:", "unix:@", "/run/x", "vsock:1022", "seqpacket:/run/x"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(transport_parse_resolver(wrong[i], &transport));
	}
}

static void a_path_has_to_fit(void **state)
{
	(void)state;
	struct transport transport;
	char text[5 + 108 + 1] = "unix:";
	memset(text + 5, 'x', 107);
	assert_null(transport_parse(text, &transport));
	text[5 + 107] = 'x';
	assert_non_null(transport_parse(text, &transport));
}

static void talk(const struct transport *transport, int listener)
{
	char byte = 0, name[32];
	int client = transport_connect(transport);
	assert_true(client >= 0);
	int server = accept(listener, NULL, NULL);
	assert_true(server >= 0);
	assert_int_equal(write(client, "a", 1), 1);
	assert_int_equal(read(server, &byte, 1), 1);
	assert_int_equal(byte, 'a');
	transport_peer_name(server, name, sizeof(name));
	assert_string_equal(name, "unix");
	close(client);
	close(server);
}

static void a_unix_socket_connects_and_is_only_for_its_owner(void **state)
{
	(void)state;
	struct transport transport = temporary();
	struct stat st;
	int fd = transport_listen(&transport);
	assert_true(fd >= 0);
	assert_int_equal(stat(transport.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	talk(&transport, fd);
	close(fd);
	clean(&transport);
}

static void an_abstract_socket_connects(void **state)
{
	(void)state;
	struct transport transport = {.kind = TRANSPORT_UNIX};
	snprintf(transport.path, sizeof(transport.path), "@transport-test-%d", (int)getpid());
	int fd = transport_listen(&transport);
	assert_true(fd >= 0);
	talk(&transport, fd);
	transport_unlink(&transport); // there is nothing to remove
	close(fd);
}

static void a_dead_socket_is_replaced_but_a_live_one_is_not(void **state)
{
	(void)state;
	struct transport transport = temporary();
	int first = transport_listen(&transport);
	assert_true(first >= 0);
	assert_int_equal(transport_listen(&transport), -EADDRINUSE);
	assert_int_equal(accept(first, NULL, NULL), -1); // it was not even connected to
	assert_int_equal(errno, EAGAIN);
	close(first);
	int second = transport_listen(&transport);
	assert_true(second >= 0);
	talk(&transport, second);
	close(second);
	clean(&transport);
}

static int type_of(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len), 0);
	return type;
}

static void records_are_a_kind_of_their_own(void **state)
{
	(void)state;
	struct transport records = temporary();
	struct transport stream = records;
	records.kind = TRANSPORT_SEQPACKET;
	int fd = transport_listen(&records);
	assert_true(fd >= 0);
	assert_int_equal(type_of(fd), SOCK_SEQPACKET);
	talk(&records, fd);
	assert_int_equal(transport_connect(&stream), -EPROTOTYPE);
	assert_int_equal(transport_listen(&stream), -EADDRINUSE); // it is not dead
	close(fd);
	fd = transport_listen(&stream); // in its place
	assert_true(fd >= 0);
	assert_int_equal(type_of(fd), SOCK_STREAM);
	assert_int_equal(transport_connect(&records), -EPROTOTYPE);
	close(fd);
	transport_unlink(&records);
	assert_int_equal(access(records.path, F_OK), -1);
	clean(&records);
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
	(void)state;
	struct transport transport = temporary();
	FILE *file = fopen(transport.path, "w");
	assert_non_null(file);
	fclose(file);
	assert_int_equal(transport_listen(&transport), -EADDRINUSE);
	assert_int_equal(access(transport.path, F_OK), 0);
	clean(&transport);
}

static void nobody_listening_is_an_error(void **state)
{
	(void)state;
	struct transport transport = temporary();
	assert_int_equal(transport_connect(&transport), -ENOENT);
	int fd = transport_listen(&transport);
	close(fd);
	assert_int_equal(transport_connect(&transport), -ECONNREFUSED);
	clean(&transport);
}

// Who does not accept must not keep those who would connect for ever.
static void a_listener_that_does_not_accept_is_an_error_in_the_end(void **state)
{
	(void)state;
	struct transport transport = temporary();
	int listener = transport_listen(&transport), fds[2], n = 0;
	assert_int_equal(listen(listener, 0), 0);
	alarm(60);
	while (n < 2 && (fds[n] = transport_connect_now(&transport)) >= 0) {
		n++;
	}
	assert_int_equal(n, 1);
	assert_int_equal(fds[n], -EAGAIN);
	assert_int_equal(transport_connect(&transport), -ETIMEDOUT);
	alarm(0);
	close(fds[0]);
	close(listener);
	clean(&transport);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(addresses_are_parsed),
		fd_count_test(wrong_addresses_are_refused),
		fd_count_test(a_service_is_at_a_unix_socket_of_either_kind),
		fd_count_test(a_resolver_is_at_a_unix_socket_with_records),
		fd_count_test(a_path_has_to_fit),
		fd_count_test(a_unix_socket_connects_and_is_only_for_its_owner),
		fd_count_test(an_abstract_socket_connects),
		fd_count_test(a_dead_socket_is_replaced_but_a_live_one_is_not),
		fd_count_test(records_are_a_kind_of_their_own),
		fd_count_test(a_file_that_is_no_socket_is_left_alone),
		fd_count_test(nobody_listening_is_an_error),
		fd_count_test(a_listener_that_does_not_accept_is_an_error_in_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
