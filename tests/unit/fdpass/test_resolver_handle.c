#include "fdpass/resolver.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "fdpass/kind.h"
#include "tests/support/dmabufs.h"
#include "tests/support/fd_count.h"

#define PAGE     4096u
#define RESOURCE 7u
#define REQUEST  "{\"GetBuffer\":{\"id\":7}}"
#define PLANE    "{\"offset\":0,\"stride\":1024}"
#define REPLY(handle, modifier) \
	"{\"Resource\":{\"Buffer\":{\"handle\":" handle ",\"planes\":[" PLANE "," PLANE "," PLANE \
	"," PLANE "],\"modifier\":" modifier ",\"guest_cpu_mappable\":true}}}"
#define GOOD    REPLY("0", "0")
#define INVALID "\"Invalid\""

/* ---- what stands for a dma-buf where there are none ---- */

#define STANDS "stands-for-a-dma-buf"

enum fd_kind __real_fd_kind_of(int fd);
enum fd_kind __wrap_fd_kind_of(int fd);

enum fd_kind __wrap_fd_kind_of(int fd)
{
	char path[64], name[128] = "";
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	bool stands = readlink(path, name, sizeof(name) - 1) > 0 &&
		strncmp(name, "/memfd:" STANDS, strlen("/memfd:" STANDS)) == 0;
	return stands ? FD_KIND_DMABUF : __real_fd_kind_of(fd);
}

static int new_memory(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* ---- a service that has said what it will be asked for ---- */

struct fixture {
	struct resolver *resolver;
	int service; // -1: it is gone
};

static void begin(struct fixture *fixture)
{
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	fixture->resolver = resolver_create_handle(fds[0]);
	fixture->service = fds[1];
	assert_non_null(fixture->resolver);
}

static void end(struct fixture *fixture)
{
	resolver_destroy(fixture->resolver);
	if (fixture->service >= 0) {
		close(fixture->service);
	}
}

/* Takes the fds up to -1. */
static void say_bytes(const struct fixture *fixture, const char *text, size_t len, const int fds[])
{
	struct fdlist list;
	struct iovec iov = {.iov_base = (void *)text, .iov_len = len};
	fdlist_init(&list);
	for (size_t i = 0; fds != NULL && fds[i] >= 0; i++) {
		assert_true(fdlist_push(&list, fds[i]));
	}
	assert_int_equal(scm_send(fixture->service, &iov, 1, &list, list.count), len);
	fdlist_finish(&list);
}

static void say(const struct fixture *fixture, const char *text, int fd)
{
	say_bytes(fixture, text, strlen(text), (const int[]){fd, -1});
}

static int find(const struct fixture *fixture, uint64_t size, struct resolver_buffer *buffer)
{
	struct resolver *resolver = fixture->resolver;
	return resolver->interface->find(resolver, RESOURCE, size, buffer);
}

static int find_none(const struct fixture *fixture)
{
	struct resolver_buffer buffer;
	int error = find(fixture, PAGE, &buffer);
	assert_true(error < 0);
	return error;
}

static void expect_found(const struct fixture *fixture, uint64_t size, uint64_t there)
{
	struct resolver_buffer buffer;
	assert_int_equal(find(fixture, size, &buffer), 0);
	assert_int_equal(buffer.size, there);
	assert_null(buffer.mapping);
	assert_int_equal(fd_kind_of(buffer.fd), FD_KIND_DMABUF);
	assert_int_equal(fcntl(buffer.fd, F_GETFD), FD_CLOEXEC);
	close(buffer.fd);
}

/* How often the service was asked, always for the same. */
static unsigned int requests(const struct fixture *fixture)
{
	char text[256];
	ssize_t n;
	unsigned int count = 0;
	while ((n = recv(fixture->service, text, sizeof(text), MSG_DONTWAIT)) > 0) {
		assert_int_equal(n, strlen(REQUEST));
		assert_memory_equal(text, REQUEST, strlen(REQUEST));
		count++;
	}
	return count;
}

/* ---- */

static void what_is_known_is_found(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	for (int i = 0; i < 3; i++) {
		say(&fixture, GOOD, new_memory(STANDS, 2 * PAGE));
		expect_found(&fixture, PAGE + 1, 2 * PAGE);
		assert_int_equal(requests(&fixture), 1);
	}
	end(&fixture);
}

static void a_real_one_is_found(void **state)
{
	struct fixture fixture;
	int memory;
	(void)state;
	if (!dmabufs_have_udmabuf()) {
		print_message("no /dev/udmabuf\n");
		skip();
	}
	begin(&fixture);
	say(&fixture, GOOD, dmabufs_new(2 * PAGE, &memory));
	expect_found(&fixture, 2 * PAGE, 2 * PAGE);
	close(memory);
	end(&fixture);
}

static void what_comes_a_little_later_is_asked_for_again(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	say(&fixture, INVALID, -1);
	say(&fixture, GOOD, new_memory(STANDS, PAGE));
	expect_found(&fixture, PAGE, PAGE);
	assert_int_equal(requests(&fixture), 2);
	end(&fixture);
}

/* Each time for half as long: in the end, what is not known at once is not there. */
static void what_never_comes_is_asked_for_less_and_less(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	for (int i = 0; i < 100; i++) {
		say(&fixture, INVALID, -1);
	}
	assert_int_equal(find_none(&fixture), -ENOENT);
	assert_true(requests(&fixture) > 1);
	for (int i = 0; i < 9; i++) {
		assert_int_equal(find_none(&fixture), -ENOENT);
	}
	requests(&fixture);
	assert_int_equal(find_none(&fixture), -ENOENT);
	assert_int_equal(requests(&fixture), 1);
	end(&fixture);
}

static void what_is_no_dmabuf_is_not_taken(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	say(&fixture, GOOD, new_memory("other", PAGE));
	assert_int_equal(find_none(&fixture), -EINVAL);
	say(&fixture, GOOD, new_memory(STANDS, PAGE)); // the next may be one
	expect_found(&fixture, PAGE, PAGE);
	end(&fixture);
}

static void what_is_too_small_or_not_linear_is_not_taken(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	say(&fixture, GOOD, new_memory(STANDS, PAGE - 1));
	assert_int_equal(find_none(&fixture), -EINVAL);
	say(&fixture, REPLY("0", "72057594037927935"), new_memory(STANDS, PAGE));
	assert_int_equal(find_none(&fixture), -EINVAL);
	say(&fixture, GOOD, new_memory(STANDS, PAGE));
	expect_found(&fixture, PAGE, PAGE);
	end(&fixture);
}

/* It is not asked again, nor is the next thing that it says looked at. */
static void expect_given_up(struct fixture *fixture, int error)
{
	assert_int_equal(find_none(fixture), error);
	if (fixture->service >= 0) {
		assert_int_equal(requests(fixture), 1);
		char byte;
		assert_int_equal(recv(fixture->service, &byte, 1, MSG_DONTWAIT), 0);
	}
	assert_int_equal(find_none(fixture), -ENOTCONN);
	end(fixture);
}

static void a_service_that_makes_no_sense_is_given_up(void **state)
{
	static const char *const wrong[] = {
		REPLY("1", "0"),
		REPLY("-1", "0"),
		REPLY("\"0\"", "0"),
		REPLY("0", "-1"),
		REPLY("0", "null"),
		REPLY("0", "0") REPLY("0", "0"),
		"{\"Resource\":{\"Fence\":{\"handle\":0}}}",
		"{\"Resource\":{\"Buffer\":{\"handle\":0}}}",
		"{\"Resource\":\"Buffer\"}",
		"{\"Resource\":{\"Buffer\":[0]}}",
		"{\"Resource\":null}",
		"[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]",
		"\"Valid\"",
		INVALID, // with an fd
		"null",
		"0",
		"{",
		"\"Inv",
		"nonsense",
		" ",
	};
	struct fixture fixture;
	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		begin(&fixture);
		say(&fixture, wrong[i], new_memory(STANDS, PAGE));
		expect_given_up(&fixture, -EPROTO);
	}
}

static void every_beginning_of_a_reply_makes_no_sense(void **state)
{
	struct fixture fixture;
	(void)state;
	for (size_t len = 1; len < strlen(GOOD); len++) {
		begin(&fixture);
		say_bytes(&fixture, GOOD, len, (const int[]){new_memory(STANDS, PAGE), -1});
		expect_given_up(&fixture, -EPROTO);
	}
}

static void a_number_of_fds_that_is_wrong_makes_no_sense(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	say(&fixture, GOOD, -1);
	expect_given_up(&fixture, -EPROTO);
	begin(&fixture);
	say_bytes(&fixture, GOOD, strlen(GOOD),
		(const int[]){new_memory(STANDS, PAGE), new_memory(STANDS, PAGE), -1});
	expect_given_up(&fixture, -EPROTO);
}

static void a_reply_without_an_end_is_not_read(void **state)
{
	struct fixture fixture;
	char *text = malloc(100000);
	(void)state;
	assert_non_null(text);
	memset(text, ' ', 100000);
	memcpy(text, GOOD, strlen(GOOD));
	begin(&fixture);
	say_bytes(&fixture, text, 100000, (const int[]){new_memory(STANDS, PAGE), -1});
	expect_given_up(&fixture, -EMSGSIZE);
	free(text);
}

static void a_service_that_is_silent_is_given_up(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	expect_given_up(&fixture, -ETIMEDOUT);
}

static void a_service_that_reads_nothing_is_given_up(void **state)
{
	struct fixture fixture;
	int fds[2];
	char byte = 0;
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	while (send(fds[0], &byte, 1, MSG_DONTWAIT) == 1) {
	}
	fixture.resolver = resolver_create_handle(fds[0]);
	fixture.service = fds[1];
	assert_int_equal(find_none(&fixture), -ETIMEDOUT);
	assert_int_equal(find_none(&fixture), -ENOTCONN);
	end(&fixture);
}

static void a_service_that_is_gone_is_given_up(void **state)
{
	struct fixture fixture;
	(void)state;
	begin(&fixture);
	close(fixture.service);
	fixture.service = -1;
	assert_true(find_none(&fixture) < 0);
	assert_int_equal(find_none(&fixture), -ENOTCONN);
	end(&fixture);
	begin(&fixture);
	shutdown(fixture.service, SHUT_WR);
	expect_given_up(&fixture, -ECONNRESET);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_known_is_found),
		fd_count_test(a_real_one_is_found),
		fd_count_test(what_comes_a_little_later_is_asked_for_again),
		fd_count_test(what_never_comes_is_asked_for_less_and_less),
		fd_count_test(what_is_no_dmabuf_is_not_taken),
		fd_count_test(what_is_too_small_or_not_linear_is_not_taken),
		fd_count_test(a_service_that_makes_no_sense_is_given_up),
		fd_count_test(every_beginning_of_a_reply_makes_no_sense),
		fd_count_test(a_number_of_fds_that_is_wrong_makes_no_sense),
		fd_count_test(a_reply_without_an_end_is_not_read),
		fd_count_test(a_service_that_is_silent_is_given_up),
		fd_count_test(a_service_that_reads_nothing_is_given_up),
		fd_count_test(a_service_that_is_gone_is_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
