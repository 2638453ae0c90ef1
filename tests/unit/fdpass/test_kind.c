#include "fdpass/kind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "protocol/channel.h"
#include "tests/support/dmabufs.h"
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
	char text[FD_DESCRIPTION_MAX];
	int memory;
	(void)state;
	if (!dmabufs_have_udmabuf()) {
		print_message("no /dev/udmabuf\n");
		skip();
	}
	int fd = dmabufs_new(4096, &memory);
	assert_string_equal(fd_describe(fd, text), "dma-buf of udmabuf");
	assert_string_equal(fd_describe(memory, text), "file");
	close(memory);
	expect_kind(fd, FD_KIND_DMABUF);
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

/* ---- facts ---- */

// Takes fd.
static struct fd_facts facts_of(int fd)
{
	struct fd_facts facts;
	assert_true(fd >= 0);
	fd_facts_of(fd, &facts);
	close(fd);
	return facts;
}

// Takes fd. Of a kind that never crosses only the name tells which.
static void expect_name(int fd, const char *name)
{
	struct fd_facts facts = facts_of(fd);
	assert_string_equal(facts.name, name);
	assert_int_equal(facts.device, -1);
}

// Takes fd; -1 where the kernel or its rules have no such thing.
static void expect_name_where_there_is_one(int fd, const char *name)
{
	if (fd >= 0) {
		expect_name(fd, name);
	}
}

static void what_never_crosses_has_a_name_of_its_own(void **state)
{
	(void)state;
	sigset_t none;
	sigemptyset(&none);
	expect_name(epoll_create1(EPOLL_CLOEXEC), "an epoll instance");
	expect_name(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), "a timerfd");
	expect_name(signalfd(-1, &none, SFD_CLOEXEC), "a signalfd");
	expect_name(inotify_init1(IN_CLOEXEC), "an inotify instance");
	expect_name(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "a directory");
	expect_name(open("/", O_PATH | O_CLOEXEC), "an fd that only names a file (O_PATH)");
	expect_name(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "a namespace");
	expect_name(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), "a terminal");
	expect_name((int)syscall(SYS_pidfd_open, getpid(), 0), "a pidfd");

	expect_name_where_there_is_one(fanotify_init(FAN_CLOEXEC, O_RDONLY), "a fanotify group");
	expect_name_where_there_is_one(
		(int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY), "a userfaultfd");
	struct io_uring_params uring = {0};
	expect_name_where_there_is_one((int)syscall(SYS_io_uring_setup, 4, &uring), "an io_uring");
	union bpf_attr map = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
	expect_name_where_there_is_one(
		(int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map)), "a bpf object");
	struct perf_event_attr perf = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(perf)};
	expect_name_where_there_is_one(
		(int)syscall(SYS_perf_event_open, &perf, 0, -1, -1, PERF_FLAG_FD_CLOEXEC),
		"a perf event");
	struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};
	expect_name_where_there_is_one(
		(int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0),
		"a Landlock ruleset");
	expect_name_where_there_is_one((int)syscall(SYS_memfd_secret, FD_CLOEXEC), "secret memory");
	expect_name_where_there_is_one(
		open("/dev/loop0", O_RDONLY | O_NONBLOCK | O_CLOEXEC), "a block device");
	expect_name_where_there_is_one(open("/dev/fuse", O_RDWR | O_CLOEXEC), "a character device");
}

static void a_message_queue_is_not_a_file(void **state)
{
	(void)state;
	char name[40];
	snprintf(name, sizeof(name), "/test-kind-%d", (int)getpid());
	mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600, NULL);
	if (queue < 0) {
		skip();
	}
	mq_unlink(name);
	struct fd_facts facts = facts_of(queue);
	assert_int_equal(facts.kind, FD_KIND_UNKNOWN);
	assert_string_equal(facts.name, "a message queue");
}

static void sockets_tell_what_state_they_are_in(void **state)
{
	(void)state;
	int ends[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	struct fd_facts facts = facts_of(ends[0]);
	assert_string_equal(facts.name, "a UNIX socket");
	assert_int_equal(facts.socket_type, SOCK_SEQPACKET);
	assert_true(facts.connected);
	assert_false(facts.listening);
	// its peer is gone, which it will see as the end
	facts = facts_of(ends[1]);
	assert_true(facts.connected);

	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	fd_facts_of(fd, &facts);
	assert_string_equal(facts.name, "an unconnected socket");
	assert_int_equal(facts.socket_type, SOCK_STREAM);
	assert_false(facts.connected);
	assert_true(facts.nonblocking);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(fd, 1), 0);
	facts = facts_of(fd);
	assert_string_equal(facts.name, "a listening socket");
	assert_true(facts.listening);

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
	expect_name(ends[0], "a datagram socket");
	expect_name(ends[1], "a datagram socket");
	expect_name(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "a network socket");
	expect_name(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0), "a netlink socket");
	expect_name_where_there_is_one(
		socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), "a vsock socket");
}

static void memory_is_told_from_files(void **state)
{
	(void)state;
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, 12345), 0);
	struct fd_facts facts;
	fd_facts_of(fd, &facts);
	assert_int_equal(facts.kind, FD_KIND_FILE);
	assert_true(facts.memory);
	assert_false(facts.immutable);
	assert_int_equal(facts.seals, 0);
	assert_int_equal(facts.size, 12345);
	assert_int_equal(facts.access, O_RDWR);
	assert_string_equal(facts.name, "shared memory");
	// who has it mapped already may still write
	assert_int_equal(
		fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE), 0);
	fd_facts_of(fd, &facts);
	assert_false(facts.immutable);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	facts = facts_of(fd);
	assert_true(facts.immutable);
	assert_string_equal(facts.name, "sealed memory");

	facts = facts_of(memfd_create("test", MFD_CLOEXEC | MFD_HUGETLB));
	assert_true(facts.memory);

	facts = facts_of(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	assert_int_equal(facts.kind, FD_KIND_FILE);
	assert_string_equal(facts.name, "a file");
	assert_false(facts.memory);
	assert_true(facts.readable_file);
	assert_true(facts.size > 0);
	assert_int_equal(facts.access, O_RDONLY);
	assert_int_equal(facts.seals, CHANNEL_NO_SEALS);
}

static void a_length_that_lies_is_not_trusted(void **state)
{
	(void)state;
	static const char *const paths[] = {"/proc/self/status", "/sys/kernel/mm/ksm/run"};
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			continue;
		}
		struct fd_facts facts = facts_of(fd);
		assert_int_equal(facts.kind, FD_KIND_FILE);
		assert_false(facts.readable_file);
		assert_false(facts.memory);
		assert_string_equal(facts.name, "a file of the kernel's");
	}
}

static void the_devices_that_are_the_same_everywhere_are_known(void **state)
{
	(void)state;
	static const char *const paths[] = {
		[CHANNEL_DEVICE_NULL] = "/dev/null",
		[CHANNEL_DEVICE_ZERO] = "/dev/zero",
		[CHANNEL_DEVICE_FULL] = "/dev/full",
		[CHANNEL_DEVICE_RANDOM] = "/dev/random",
		[CHANNEL_DEVICE_URANDOM] = "/dev/urandom",
	};
	for (int i = 0; i <= CHANNEL_DEVICE_URANDOM; i++) {
		struct fd_facts facts = facts_of(open(paths[i], O_WRONLY | O_CLOEXEC));
		assert_int_equal(facts.kind, FD_KIND_CHARACTER_DEVICE);
		assert_int_equal(facts.device, i);
		assert_int_equal(facts.access, O_WRONLY);
	}
	// what others have or do not is not
	expect_name_where_there_is_one(
		open("/dev/mem", O_RDONLY | O_CLOEXEC), "a character device");
}

static void the_same_thing_has_one_identity_and_others_have_another(void **state)
{
	(void)state;
	int one = eventfd(0, EFD_CLOEXEC), other = eventfd(0, EFD_CLOEXEC);
	struct fd_identity first, again, second;
	fd_identity_of(one, &first);
	int copy = fcntl(one, F_DUPFD_CLOEXEC, 0);
	fd_identity_of(copy, &again);
	fd_identity_of(other, &second);
	assert_int_equal(first.device, UINT64_MAX);
	assert_true(fd_identity_equal(&first, &again));
	assert_false(fd_identity_equal(&first, &second));
	again = facts_of(one).identity;
	assert_true(fd_identity_equal(&first, &again));
	close(copy);
	close(other);

	int ends[2], more[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(more, O_CLOEXEC), 0);
	first = facts_of(ends[0]).identity;
	second = facts_of(ends[1]).identity; // of one pipe
	assert_true(fd_identity_equal(&first, &second));
	second = facts_of(more[0]).identity;
	assert_false(fd_identity_equal(&first, &second));
	close(more[1]);

	// all of these share one inode
	first = facts_of(epoll_create1(EPOLL_CLOEXEC)).identity;
	assert_int_equal(first.device, 0);
	assert_int_equal(first.number, 0);
}

static void a_number_of_fdinfo_is_read_by_its_whole_name(void **state)
{
	(void)state;
	int fd = eventfd(0x1234, EFD_CLOEXEC | EFD_NONBLOCK);
	int info = fd_info_open(fd);
	uint64_t number;
	assert_true(fd_info_number(info, "eventfd-count", 16, &number));
	assert_int_equal(number, 0x1234);
	assert_true(fd_info_number(info, "flags", 8, &number));
	assert_true(number & O_NONBLOCK);
	assert_false(fd_info_number(info, "count", 16, &number));
	assert_false(fd_info_number(info, "eventfd", 16, &number));
	// it is as of now
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_true(fd_info_number(info, "eventfd-count", 16, &number));
	assert_int_equal(number, 0x1235);
	close(fd);
	assert_false(fd_info_number(info, "eventfd-count", 16, &number));
	close(info);
	assert_int_equal(fd_info_open(fd), -1);
}

static void what_is_not_open_is_nothing(void **state)
{
	(void)state;
	struct fd_facts facts;
	struct fd_identity identity = {1, 1};
	fd_facts_of(-1, &facts);
	assert_int_equal(facts.kind, FD_KIND_UNKNOWN);
	assert_string_equal(facts.name, "an fd that is not open");
	fd_identity_of(-1, &identity);
	assert_int_equal(identity.device, 0);
	assert_int_equal(identity.number, 0);
}

static void telling_all_changes_nothing(void **state)
{
	(void)state;
	struct fd_facts facts;
	int fd = eventfd(7, EFD_CLOEXEC);
	uint64_t count;
	fd_facts_of(fd, &facts);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 7);
	close(fd);

	fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(write(fd, "abc", 3), 3);
	fd_facts_of(fd, &facts);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
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
		fd_count_test(what_never_crosses_has_a_name_of_its_own),
		fd_count_test(a_message_queue_is_not_a_file),
		fd_count_test(sockets_tell_what_state_they_are_in),
		fd_count_test(memory_is_told_from_files),
		fd_count_test(a_length_that_lies_is_not_trusted),
		fd_count_test(the_devices_that_are_the_same_everywhere_are_known),
		fd_count_test(the_same_thing_has_one_identity_and_others_have_another),
		fd_count_test(a_number_of_fdinfo_is_read_by_its_whole_name),
		fd_count_test(what_is_not_open_is_nothing),
		fd_count_test(telling_all_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
