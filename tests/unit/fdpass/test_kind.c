#include "fdpass/kind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "protocol/channel.h"
#include "tests/support/fd_count.h"

// Takes fd.
static void expect_kind(int fd, enum fd_kind kind)
{
	assert_true(fd >= 0);
	assert_string_equal(fd_kind_name(fd_kind_of(fd)), fd_kind_name(kind));
	close(fd);
}

static void files_and_memfds_are_files(void **state)
{
	(void)state;
	char path[] = "/tmp/kind-XXXXXX";
	expect_kind(mkstemp(path), FD_KIND_FILE);
	unlink(path);
	expect_kind(memfd_create("test", MFD_CLOEXEC), FD_KIND_FILE);
	expect_kind(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), FD_KIND_FILE);
}

static void both_ends_of_a_pipe_and_a_fifo_are_pipes(void **state)
{
	(void)state;
	int ends[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	expect_kind(ends[0], FD_KIND_PIPE);
	expect_kind(ends[1], FD_KIND_PIPE);

	char dir[] = "/tmp/kind-XXXXXX", path[64];
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_kind(open(path, O_RDWR | O_CLOEXEC), FD_KIND_PIPE);
	unlink(path);
	rmdir(dir);
}

static void sockets_are_told_by_their_domain(void **state)
{
	(void)state;
	static const int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		int ends[2];
		assert_int_equal(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, ends), 0);
		expect_kind(ends[0], FD_KIND_UNIX_SOCKET);
		expect_kind(ends[1], FD_KIND_UNIX_SOCKET);
	}
	expect_kind(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), FD_KIND_OTHER_SOCKET);
}

static void devices_and_directories_are_told_apart(void **state)
{
	(void)state;
	expect_kind(open("/dev/null", O_RDWR | O_CLOEXEC), FD_KIND_CHARACTER_DEVICE);
	expect_kind(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), FD_KIND_DIRECTORY);
}

static void an_eventfd_is_told_from_other_anonymous_inodes(void **state)
{
	(void)state;
	expect_kind(eventfd(0, EFD_CLOEXEC), FD_KIND_EVENTFD);
	expect_kind(eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE), FD_KIND_EVENTFD);
	expect_kind(epoll_create1(EPOLL_CLOEXEC), FD_KIND_UNKNOWN);
}

static void a_dma_buf_is_one(void **state)
{
	(void)state;
	int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (device < 0) {
		skip();
	}
	int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(memfd >= 0);
	assert_int_equal(ftruncate(memfd, 4096), 0);
	assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	struct udmabuf_create create = {
		.memfd = (uint32_t)memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .size = 4096};
	expect_kind(ioctl(device, UDMABUF_CREATE, &create), FD_KIND_DMABUF);
	close(memfd);
	close(device);
}

static void what_gives_no_access_is_unknown(void **state)
{
	(void)state;
	expect_kind(open("/proc/self/exe", O_PATH | O_CLOEXEC), FD_KIND_UNKNOWN);
	expect_kind(open("/", O_PATH | O_CLOEXEC), FD_KIND_UNKNOWN);
	assert_int_equal(fd_kind_of(-1), FD_KIND_UNKNOWN);
}

static void looking_changes_nothing(void **state)
{
	(void)state;
	int fd = memfd_create("test", MFD_CLOEXEC), ends[2];
	char byte;
	assert_int_equal(write(fd, "abc", 3), 3);
	fd_kind_of(fd);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
	close(fd);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(write(ends[1], "x", 1), 1);
	fd_kind_of(ends[0]);
	assert_int_equal(fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	close(ends[0]);
	close(ends[1]);
}

static void every_kind_has_a_name(void **state)
{
	(void)state;
	for (enum fd_kind kind = FD_KIND_FILE; kind <= FD_KIND_UNKNOWN; kind++) {
		assert_non_null(fd_kind_name(kind));
		for (enum fd_kind other = FD_KIND_FILE; other < kind; other++) {
			assert_string_not_equal(fd_kind_name(kind), fd_kind_name(other));
		}
	}
}

static void seals_are_those_of_the_memfd(void **state)
{
	(void)state;
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(fd_seals(fd), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	assert_int_equal(fd_seals(fd), F_SEAL_SHRINK | F_SEAL_GROW);
	close(fd);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fd_seals(fd), CHANNEL_NO_SEALS);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(files_and_memfds_are_files),
		fd_count_test(both_ends_of_a_pipe_and_a_fifo_are_pipes),
		fd_count_test(sockets_are_told_by_their_domain),
		fd_count_test(devices_and_directories_are_told_apart),
		fd_count_test(an_eventfd_is_told_from_other_anonymous_inodes),
		fd_count_test(a_dma_buf_is_one),
		fd_count_test(what_gives_no_access_is_unknown),
		fd_count_test(looking_changes_nothing),
		fd_count_test(every_kind_has_a_name),
		fd_count_test(seals_are_those_of_the_memfd),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
