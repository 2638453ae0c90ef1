#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/rlimit.h"
#include "base/scm.h"
#include "host-proxy/admission.h"
#include "host-proxy/gpu_resources.h"
#include "host-proxy/resolver_service.h"
#include "tests/support/fd_count.h"
#include "tests/support/record_lock.h"

#define KNOWN   7
#define INVALID "\"Invalid\""

struct fixture {
	struct event_base *base;
	struct resolver_service *service;
	struct admission admission;
	struct sockaddr_un address;
	socklen_t address_len;
	int buffer;
	unsigned int asked;
};

static const char *get_buffer(void *data, uint32_t id, struct gpu_buffer *buffer)
{
	struct fixture *fixture = data;
	fixture->asked++;
	*buffer = (struct gpu_buffer){.fd = fixture->buffer, .stride = 1024};
	return id == KNOWN || id == UINT32_MAX ? NULL : "there is no such resource";
}

static void begin(struct fixture *fixture)
{
	*fixture = (struct fixture){.base = event_base_new(), .address.sun_family = AF_UNIX};
	fixture->buffer = memfd_create("buffer", MFD_CLOEXEC);
	fixture->address_len = sizeof(fixture->address);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	// The kernel chooses an abstract name.
	assert_int_equal(bind(fd, (struct sockaddr *)&fixture->address, sizeof(sa_family_t)), 0);
	assert_int_equal(
		getsockname(fd, (struct sockaddr *)&fixture->address, &fixture->address_len), 0);
	assert_int_equal(listen(fd, SOMAXCONN), 0);
	const struct resolver_service_config config = {
		.base = fixture->base,
		.listen_fd = fd,
		.admission = &fixture->admission,
		.get_buffer = get_buffer,
		.data = fixture,
	};
	fixture->service = resolver_service_create(&config);
	assert_non_null(fixture->service);
}

static void end(struct fixture *fixture)
{
	resolver_service_destroy(fixture->service);
	close(fixture->buffer);
	event_base_free(fixture->base);
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < 20; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static int connect_to(struct fixture *fixture)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(
		connect(fd, (struct sockaddr *)&fixture->address, fixture->address_len), 0);
	turn(fixture);
	return fd;
}

// How many fds came with the reply.
static size_t ask(struct fixture *fixture, int fd, const char *request, size_t len, char reply[512])
{
	struct fdlist fds;
	fdlist_init(&fds);
	assert_int_equal(send(fd, request, len, MSG_NOSIGNAL), len);
	turn(fixture);
	ssize_t n = scm_recv(fd, reply, 511, &fds);
	assert_true(n > 0);
	reply[n] = '\0';
	size_t count = fds.count;
	fdlist_finish(&fds);
	return count;
}

static void expect_invalid(struct fixture *fixture, int fd, const char *request, size_t len)
{
	char reply[512];
	assert_int_equal(ask(fixture, fd, request, len, reply), 0);
	assert_string_equal(reply, INVALID);
}

static void a_resource_is_answered_by_its_buffer(void **state)
{
	(void)state;
	static const char expected[] = "{\"Resource\":{\"Buffer\":{\"handle\":0,\"planes\":["
				       "{\"offset\":0,\"stride\":1024},{\"offset\":0,\"stride\":0},"
				       "{\"offset\":0,\"stride\":0},{\"offset\":0,\"stride\":0}],"
				       "\"modifier\":0,\"guest_cpu_mappable\":true}}}";
	static const char *const requests[] = {
		"{\"GetBuffer\":{\"id\":7}}",
		" { \"GetBuffer\" : { \"id\" : 7 , \"more\" : [] } } ",
		"{\"GetBuffer\":{\"id\":4294967295}}",
	};
	struct fixture fixture;
	char reply[512];
	begin(&fixture);
	int fd = connect_to(&fixture);
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		assert_int_equal(ask(&fixture, fd, requests[i], strlen(requests[i]), reply), 1);
		assert_string_equal(reply, expected);
	}
	close(fd);
	end(&fixture);
}

static void what_is_not_known_is_invalid(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	int fd = connect_to(&fixture);
	expect_invalid(&fixture, fd, "{\"GetBuffer\":{\"id\":8}}", 22);
	assert_int_equal(fixture.asked, 1);
	close(fd);
	end(&fixture);
}

static void what_is_not_understood_is_invalid(void **state)
{
	(void)state;
	static const char *const requests[] = {
		"x",
		"7",
		"[]",
		"{}",
		"null",
		"{\"GetBuffer\":7}",
		"{\"GetBuffer\":{}}",
		"{\"GetBuffer\":{\"id\":-1}}",
		"{\"GetBuffer\":{\"id\":4294967296}}",
		"{\"GetBuffer\":{\"id\":18446744073709551623}}",
		"{\"GetBuffer\":{\"id\":7.5}}",
		"{\"GetBuffer\":{\"id\":\"7\"}}",
		"{\"GetBuffer\":{\"id\":7}",
		"{\"GetBuffer\":{\"id\":7}}{}",
		"{\"GetFence\":{\"seqno\":7}}",
		"[[[[[[[[[[[[[[[[[[[[",
	};
	struct fixture fixture;
	char large[8192];
	begin(&fixture);
	int fd = connect_to(&fixture);
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		expect_invalid(&fixture, fd, requests[i], strlen(requests[i]));
	}
	expect_invalid(&fixture, fd, "{\"GetBuffer\":{\"id\":7}}\0", 23);
	memset(large, ' ', sizeof(large));
	memcpy(large, requests[0], 1);
	expect_invalid(&fixture, fd, large, sizeof(large));
	memcpy(large, "{\"GetBuffer\":{\"id\":7}}", 22);
	expect_invalid(&fixture, fd, large, sizeof(large));
	assert_int_equal(fixture.asked, 0);
	close(fd);
	end(&fixture);
}

// Its close could wait for who has sent it.
static void an_fd_of_a_request_is_not_taken(void **state)
{
	(void)state;
	char request[] = "{\"GetBuffer\":{\"id\":7}}", reply[64];
	struct fixture fixture;
	begin(&fixture);
	struct iovec iov = {.iov_base = request, .iov_len = strlen(request)};
	int fd = connect_to(&fixture);
	const struct fdlist fds = {.fds = &fixture.buffer, .count = 1};
	record_lock_take(fixture.buffer);
	assert_true(scm_send(fd, &iov, 1, &fds, 1) > 0);
	turn(&fixture);
	assert_true(record_lock_is_held(fixture.buffer));
	assert_int_equal(recv(fd, reply, sizeof(reply), MSG_DONTWAIT), 0);
	close(fd);
	end(&fixture);
}

static void who_does_not_read_is_cut_off(void **state)
{
	(void)state;
	struct fixture fixture;
	char byte;
	begin(&fixture);
	int fd = connect_to(&fixture), other = connect_to(&fixture);
	ssize_t n = 0;
	for (int i = 0; i < 10000 && n >= 0; i++) {
		n = send(fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		turn(&fixture);
	}
	assert_int_equal(n, -1);
	for (int i = 0; i < 10000 && n != 0; i++) {
		n = recv(fd, &byte, 1, MSG_DONTWAIT);
	}
	assert_int_equal(n, 0);
	expect_invalid(&fixture, other, "{\"GetBuffer\":{\"id\":8}}", 22);
	close(fd);
	close(other);
	end(&fixture);
}

static void those_who_ask_are_not_too_many(void **state)
{
	(void)state;
	struct fixture fixture;
	int fds[RESOLVER_CLIENTS_MAX], one_more;
	char byte;
	begin(&fixture);
	for (size_t i = 0; i < RESOLVER_CLIENTS_MAX; i++) {
		fds[i] = connect_to(&fixture);
	}
	one_more = connect_to(&fixture);
	assert_int_equal(recv(one_more, &byte, 1, MSG_DONTWAIT), 0);
	close(one_more);
	close(fds[0]);
	turn(&fixture);
	fds[0] = connect_to(&fixture);
	expect_invalid(&fixture, fds[0], "{\"GetBuffer\":{\"id\":8}}", 22);
	for (size_t i = 0; i < RESOLVER_CLIENTS_MAX; i++) {
		close(fds[i]);
	}
	turn(&fixture);
	end(&fixture);
}

static int group_setup(void **state)
{
	(void)state;
	rlimit_raise_files();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_resource_is_answered_by_its_buffer),
		fd_count_test(what_is_not_known_is_invalid),
		fd_count_test(what_is_not_understood_is_invalid),
		fd_count_test(an_fd_of_a_request_is_not_taken),
		fd_count_test(who_does_not_read_is_cut_off),
		fd_count_test(those_who_ask_are_not_too_many),
	};
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
