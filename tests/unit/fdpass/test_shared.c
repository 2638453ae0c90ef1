#include "fdpass/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/channel.h"
#include "ends.h"
#include "fdpass/any.h"
#include "fdpass/file.h"
#include "tests/support/fd_count.h"

#define PAGE 4096u

static int reopened(int fd, int flags)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int again = open(path, flags | O_CLOEXEC);
	assert_true(again >= 0);
	return again;
}

static int duplicate(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static uint8_t *map(int fd, size_t size)
{
	uint8_t *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	return data;
}

static uint64_t inode(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

// fd goes into a message from one end to the other, which gives its local peer an fd. Takes fd.
static int send_fd(struct ends *ends, struct end *from, struct end *to, int fd)
{
	const char *wrong;
	assert_true(shared_push_changes(&from->refs));
	uint32_t id = shared_export(&from->refs, fd, &wrong);
	assert_null(wrong);
	assert_int_not_equal(id, 0);
	ends_run(ends);
	assert_null(to->wrong);
	assert_int_equal(to->opened, id);
	int got = end_take(to);
	struct fdref *ref = fdrefs_get(&from->refs, id);
	ref->interface->named(ref);
	ends_run(ends);
	assert_null(fdrefs_get(&from->refs, id));
	assert_null(fdrefs_get(&to->refs, id));
	return got;
}

static void message(struct ends *ends, struct end *from)
{
	assert_true(shared_push_changes(&from->refs));
	ends_run(ends);
	assert_null(ends->guest.wrong);
	assert_null(ends->host.wrong);
}

// A memory of the guest's that was sent to the host, and how the two programs see it.
struct fixture {
	struct ends ends;
	int fd, copy;
	size_t size;
	uint8_t *ours, *theirs;
};

static void share(struct fixture *fixture, int fd, size_t size)
{
	ends_init(&fixture->ends);
	fixture->size = size;
	fixture->fd = fd;
	fixture->copy =
		send_fd(&fixture->ends, &fixture->ends.guest, &fixture->ends.host, duplicate(fd));
	assert_true(fixture->copy >= 0);
	fixture->ours = map(fd, size);
	fixture->theirs = map(fixture->copy, size);
}

// The host's program gives its fd and mapping up.
static void leave(struct fixture *fixture)
{
	munmap(fixture->theirs, fixture->size);
	close(fixture->copy);
}

static void finish(struct fixture *fixture)
{
	munmap(fixture->ours, fixture->size);
	close(fixture->fd);
	ends_finish(&fixture->ends);
}

/* ---- what the copy is ---- */

static void memory_of_any_size_crosses_and_comes_back(void **state)
{
	(void)state;
	static const size_t sizes[] = {1, 4095, 4096, 4097, 300001};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct fixture fixture;
		share(&fixture, new_memfd(sizes[i]), sizes[i]);
		assert_memory_equal(fixture.ours, fixture.theirs, sizes[i]);
		fixture.theirs[sizes[i] - 1] ^= 0xff;
		message(&fixture.ends, &fixture.ends.host);
		assert_memory_equal(fixture.ours, fixture.theirs, sizes[i]);
		leave(&fixture);
		finish(&fixture);
	}
}

static void memory_of_no_bytes_crosses(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	int copy = send_fd(&ends, &ends.guest, &ends.host, new_memfd(0));
	struct stat st;
	assert_int_equal(fstat(copy, &st), 0);
	assert_int_equal(st.st_size, 0);
	close(copy);
	message(&ends, &ends.host);
	ends_finish(&ends);
}

static void seals_and_offset_are_the_originals(void **state)
{
	(void)state;
	static const int seals[] = {0, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW,
		F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_FUTURE_WRITE};
	for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
		struct ends ends;
		ends_init(&ends);
		int fd = new_memfd(PAGE);
		uint8_t *data = map(fd, PAGE);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		assert_int_equal(lseek(fd, 77, SEEK_SET), 77);
		int copy = send_fd(&ends, &ends.guest, &ends.host, fd);
		assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fcntl(copy, F_GET_SEALS), seals[i]);
		assert_int_equal(lseek(copy, 0, SEEK_CUR), 77);
		data[5] = 200; // who has a mapping writes on
		message(&ends, &ends.guest);
		uint8_t byte;
		assert_int_equal(pread(copy, &byte, 1, 5), 1);
		assert_int_equal(byte, 200);
		bool sealed = seals[i] & F_SEAL_FUTURE_WRITE;
		assert_int_equal(pwrite(copy, "x", 1, 0), sealed ? -1 : 1);
		munmap(data, PAGE);
		close(copy);
		ends_finish(&ends);
	}
}

static void fds_of_one_memory_are_of_one_memory_there(void **state)
{
	(void)state;
	static const int modes[][2] = {{O_RDWR, O_RDONLY}, {O_RDONLY, O_RDWR}};
	for (size_t i = 0; i < 2; i++) {
		struct ends ends;
		ends_init(&ends);
		int fd = new_memfd(PAGE);
		int first = send_fd(&ends, &ends.guest, &ends.host, reopened(fd, modes[i][0]));
		int second = send_fd(&ends, &ends.guest, &ends.host, reopened(fd, modes[i][1]));
		assert_int_equal(inode(first), inode(second));
		assert_int_equal(fcntl(first, F_GETFL) & O_ACCMODE, modes[i][0]);
		assert_int_equal(fcntl(second, F_GETFL) & O_ACCMODE, modes[i][1]);
		assert_int_equal(ends.host.refs.shared, 1);
		assert_int_equal(ends.host.refs.counts.shared, 2);
		// whichever came first, what is written there comes here
		int writer = modes[i][0] == O_RDWR ? first : second;
		assert_int_equal(pwrite(writer, "x", 1, 0), 1);
		message(&ends, &ends.host);
		char byte;
		assert_int_equal(pread(fd, &byte, 1, 0), 1);
		assert_int_equal(byte, 'x');
		assert_int_equal(ends.guest.refs.counts.shared_conflicts, 0);
		close(first);
		close(second);
		close(fd);
		ends_finish(&ends);
	}
}

static void an_fd_that_comes_home_is_of_the_original(void **state)
{
	(void)state;
	struct fixture fixture;
	share(&fixture, new_memfd(PAGE), PAGE);
	struct ends *ends = &fixture.ends;
	assert_true(shared_knows(&ends->host.refs, fixture.copy));
	assert_true(shared_knows(&ends->guest.refs, fixture.fd));
	int stranger = new_memfd(PAGE);
	assert_false(shared_knows(&ends->host.refs, stranger));
	close(stranger);

	int home = send_fd(ends, &ends->host, &ends->guest, duplicate(fixture.copy));
	assert_int_equal(inode(home), inode(fixture.fd));
	assert_int_equal(fcntl(home, F_GETFL) & O_ACCMODE, O_RDWR);
	close(home);
	home = send_fd(ends, &ends->host, &ends->guest, reopened(fixture.copy, O_RDONLY));
	assert_int_equal(inode(home), inode(fixture.fd));
	assert_int_equal(fcntl(home, F_GETFL) & O_ACCMODE, O_RDONLY);
	close(home);
	assert_int_equal(ends->guest.refs.shared, 1);
	leave(&fixture);
	finish(&fixture);
}

static void nobody_gets_more_access_than_was_given(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	int fd = new_memfd(PAGE);
	int copy = send_fd(&ends, &ends.guest, &ends.host, reopened(fd, O_RDONLY));
	int writer = reopened(copy, O_RDWR);
	assert_int_equal(send_fd(&ends, &ends.host, &ends.guest, duplicate(writer)), -EACCES);
	// what is written all the same is put right
	assert_int_equal(pwrite(writer, "x", 1, 0), 1);
	message(&ends, &ends.host);
	message(&ends, &ends.guest);
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	assert_int_equal(byte, pattern(0));
	assert_int_equal(pread(copy, &byte, 1, 0), 1);
	assert_int_equal(byte, pattern(0));
	assert_int_equal(ends.guest.refs.counts.shared_conflicts, 1);
	close(writer);
	close(copy);
	close(fd);
	ends_finish(&ends);
}

static void refuse(int fd, const char *reason)
{
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	assert_int_equal(shared_export(&ends.guest.refs, fd, &wrong), 0);
	assert_string_equal(wrong, reason);
	assert_int_equal(ends.guest.refs.ours.used, 0);
	assert_int_equal(ends.guest.refs.shared, 0);
	assert_int_equal(channel_queued(ends.guest.channel), 0);
	ends_finish(&ends);
}

static void what_cannot_be_shared_is_refused(void **state)
{
	(void)state;
	int pipe_ends[2];
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	refuse(pipe_ends[0], "shared memory that is not a memory");
	close(pipe_ends[1]);

	int fd = new_memfd(PAGE);
	refuse(reopened(fd, O_WRONLY), "shared memory that cannot be read");
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	refuse(fd, "shared memory that is sealed against writing");

	fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, (off_t)1 << 40), 0);
	refuse(fd, "more memory than the session may have");
	fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, INT64_MAX), 0);
	refuse(fd, "more memory than the session may have");
}

static void an_fd_beyond_the_limit_is_refused(void **state)
{
	(void)state;
	const char *wrong;
	for (size_t max = 0; max < 2; max++) {
		struct ends ends;
		ends_init(&ends);
		ends.guest.budget.limits.most[BUDGET_FDS] = max;
		assert_int_equal(shared_export(&ends.guest.refs, new_memfd(PAGE), &wrong), 0);
		assert_string_equal(wrong, "too many fds are open in this session");
		assert_int_equal(ends.guest.refs.ours.used, max);
		ends_finish(&ends);
	}
}

/* ---- taking turns ---- */

static void two_programs_that_take_turns_see_each_others_words(void **state)
{
	(void)state;
	struct fixture fixture;
	share(&fixture, new_memfd(4 * PAGE), 4 * PAGE);
	srand(1);
	for (int turn = 0; turn < 200; turn++) {
		bool here = turn % 2 == 0;
		uint8_t *mine = here ? fixture.ours : fixture.theirs;
		for (int i = rand() % 20; i >= 0; i--) {
			mine[(size_t)rand() % fixture.size] = (uint8_t)rand();
		}
		message(&fixture.ends, here ? &fixture.ends.guest : &fixture.ends.host);
		assert_memory_equal(fixture.ours, fixture.theirs, fixture.size);
	}
	assert_int_equal(fixture.ends.guest.refs.counts.shared_conflicts, 0);
	assert_int_equal(fixture.ends.host.refs.counts.shared_conflicts, 0);
	leave(&fixture);
	finish(&fixture);
}

#define RING 500u

// Indices in words of their own, then the ring.
struct ring {
	uint64_t written, read;
	uint8_t data[RING];
};

static void a_ring_buffer_carries_bytes_both_ways_at_a_time(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, sizeof(struct ring)), 0);
	share(&fixture, fd, sizeof(struct ring));
	struct ring *writer = (struct ring *)fixture.ours;
	struct ring *reader = (struct ring *)fixture.theirs;
	srand(2);
	while (reader->read < 20000) {
		for (int i = rand() % 300; i > 0 && writer->written - writer->read < RING; i--) {
			writer->data[writer->written % RING] = pattern(writer->written);
			writer->written++;
		}
		for (int i = rand() % 300; i > 0 && reader->read < reader->written; i--) {
			assert_int_equal(reader->data[reader->read % RING], pattern(reader->read));
			reader->read++;
		}
		// both tell each other at the same moment
		assert_true(shared_push_changes(&fixture.ends.guest.refs));
		assert_true(shared_push_changes(&fixture.ends.host.refs));
		ends_run(&fixture.ends);
	}
	assert_int_equal(fixture.ends.guest.refs.counts.shared_conflicts, 0);
	assert_int_equal(fixture.ends.host.refs.counts.shared_conflicts, 0);
	leave(&fixture);
	finish(&fixture);
}

static void memory_comes_before_the_frame_that_tells_of_it(void **state)
{
	(void)state;
	struct fixture fixture;
	share(&fixture, new_memfd(PAGE), PAGE);
	memset(fixture.ours, 7, PAGE);
	assert_true(shared_push_changes(&fixture.ends.guest.refs));
	memset(fixture.ours, 9, PAGE); // after it was told, before it went out
	ends_run(&fixture.ends);
	assert_int_equal(fixture.theirs[0], 7);
	assert_int_equal(fixture.theirs[PAGE - 1], 7);
	leave(&fixture);
	finish(&fixture);
}

static void a_conflict_is_counted_and_both_have_the_openers_words(void **state)
{
	(void)state;
	struct fixture fixture;
	share(&fixture, new_memfd(PAGE), PAGE);
	memset(fixture.ours, 'a', 16);
	memset(fixture.theirs, 'b', 24);
	assert_true(shared_push_changes(&fixture.ends.guest.refs));
	message(&fixture.ends, &fixture.ends.host);
	message(&fixture.ends, &fixture.ends.guest);
	assert_memory_equal(fixture.ours, fixture.theirs, PAGE);
	assert_memory_equal(fixture.ours, "aaaaaaaaaaaaaaaabbbbbbbb", 24);
	assert_int_equal(fixture.ends.guest.refs.counts.shared_conflicts, 2);
	assert_int_equal(fixture.ends.host.refs.counts.shared_conflicts, 2);
	leave(&fixture);
	finish(&fixture);
}

static void a_memory_that_is_truncated_harms_nobody(void **state)
{
	(void)state;
	for (int side = 0; side < 2; side++) {
		struct fixture fixture;
		share(&fixture, new_memfd(4 * PAGE), 4 * PAGE);
		assert_int_equal(ftruncate(side ? fixture.copy : fixture.fd, PAGE), 0);
		fixture.ours[0] = 1;
		fixture.theirs[8] = 2;
		uint8_t *longer = side ? fixture.ours : fixture.theirs;
		memset(longer + 2 * PAGE, 3, PAGE);
		message(&fixture.ends, &fixture.ends.guest);
		message(&fixture.ends, &fixture.ends.host);
		assert_int_equal(fixture.theirs[0], 1);
		assert_int_equal(fixture.ours[8], 2);
		leave(&fixture);
		finish(&fixture);
	}
}

/* ---- lifetimes ---- */

static void a_memory_that_nobody_there_uses_is_closed(void **state)
{
	(void)state;
	struct fixture fixture;
	share(&fixture, new_memfd(PAGE), PAGE);
	struct ends *ends = &fixture.ends;
	shared_collect(&ends->host.refs);
	ends_run(ends);
	assert_int_equal(ends->guest.frames[CHANNEL_MEM_UNUSED], 0);

	close(fixture.copy); // a mapping is left
	shared_collect(&ends->host.refs);
	ends_run(ends);
	assert_int_equal(ends->guest.frames[CHANNEL_MEM_UNUSED], 0);

	fixture.theirs[0] = 99; // its last words
	munmap(fixture.theirs, PAGE);
	shared_collect(&ends->host.refs);
	shared_collect(&ends->host.refs);
	ends_run(ends);
	assert_int_equal(ends->guest.frames[CHANNEL_MEM_UNUSED], 1);
	assert_int_equal(ends->guest.frames[CHANNEL_CLOSED], 2); // of the fd and of the memory
	assert_int_equal(fixture.ours[0], 99);
	assert_int_equal(ends->guest.refs.shared + ends->host.refs.shared, 0);
	assert_int_equal(
		ends->guest.budget.used[BUDGET_MEMORY] + ends->host.budget.used[BUDGET_MEMORY], 0);

	// and is sent anew if it goes again
	fixture.ours[1] = 98;
	fixture.copy = send_fd(ends, &ends->guest, &ends->host, duplicate(fixture.fd));
	fixture.theirs = map(fixture.copy, PAGE);
	assert_memory_equal(fixture.ours, fixture.theirs, PAGE);
	leave(&fixture);
	finish(&fixture);
}

static void a_memory_that_goes_again_meanwhile_is_not_closed(void **state)
{
	(void)state;
	struct fixture fixture;
	const char *wrong;
	share(&fixture, new_memfd(PAGE), PAGE);
	struct ends *ends = &fixture.ends;
	leave(&fixture);
	shared_collect(&ends->host.refs); // crosses with:
	uint32_t id = shared_export(&ends->guest.refs, duplicate(fixture.fd), &wrong);
	ends_run(ends);
	assert_int_equal(ends->guest.frames[CHANNEL_MEM_UNUSED], 1);
	assert_int_equal(ends->guest.refs.shared, 1);
	shared_collect(&ends->host.refs); // the fd is still to be taken
	int copy = end_take(&ends->host);
	struct fdref *ref = fdrefs_get(&ends->guest.refs, id);
	ref->interface->named(ref);
	shared_collect(&ends->host.refs);
	ends_run(ends);
	assert_int_equal(ends->guest.frames[CHANNEL_MEM_UNUSED], 1);
	assert_int_equal(pwrite(copy, "x", 1, 0), 1);
	message(ends, &ends->host);
	assert_int_equal(fixture.ours[0], 'x');

	close(copy);
	shared_collect(&ends->host.refs);
	ends_run(ends);
	assert_int_equal(ends->guest.frames[CHANNEL_MEM_UNUSED], 2);
	assert_int_equal(ends->guest.refs.shared, 0);
	finish(&fixture);
}

static void new_memory_makes_room_for_itself(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	ends.host.budget.limits.most[BUDGET_MEMORY] = 8 * PAGE;
	for (int i = 0; i < 50; i++) {
		close(send_fd(&ends, &ends.guest, &ends.host, new_memfd(PAGE)));
	}
	assert_in_range(ends.host.refs.shared, 1, 3);
	assert_in_range(ends.guest.refs.shared, 1, 3);
	ends_finish(&ends);
}

static void memory_that_cannot_be_executed_cannot_there(void **state)
{
	(void)state;
	const int no_exec = 0x20; // F_SEAL_EXEC, since Linux 6.3
	int fd = new_memfd(PAGE);
	assert_int_equal(fchmod(fd, 0666), 0);
	if (fcntl(fd, F_ADD_SEALS, no_exec) < 0) {
		close(fd);
		skip();
	}
	struct ends ends;
	ends_init(&ends);
	int copy = send_fd(&ends, &ends.guest, &ends.host, fd);
	assert_int_equal(fcntl(copy, F_GET_SEALS), no_exec);
	close(copy);
	ends_finish(&ends);
}

/* ---- copied once instead ---- */

static void a_snapshot_shows_the_memory_as_it_was(void **state)
{
	(void)state;
	static const int modes[] = {O_RDWR, O_RDONLY};
	for (size_t i = 0; i < 2; i++) {
		struct ends ends;
		const char *wrong;
		ends_init(&ends);
		int fd = new_memfd(PAGE);
		assert_int_not_equal(
			file_export(&ends.guest.refs, reopened(fd, modes[i]), &wrong), 0);
		assert_int_equal(
			pwrite(fd, "x", 1, 0), 1); // too late, also if nothing went out yet
		ends_run(&ends);
		int copy = end_take(&ends.host);
		assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, modes[i]);
		uint8_t byte;
		assert_int_equal(pread(copy, &byte, 1, 0), 1);
		assert_int_equal(byte, pattern(0));
		assert_int_equal(pwrite(copy, "y", 1, 0), modes[i] == O_RDWR ? 1 : -1);
		assert_int_equal(pread(fd, &byte, 1, 0), 1);
		assert_int_equal(byte, 'x');
		close(copy);
		close(fd);
		ends_finish(&ends);
	}
}

/* ---- hostile peers ---- */

static const char *open_shared(struct end *end, uint32_t id, const struct channel_open_shared *open)
{
	return end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_SHARED, open, sizeof(*open));
}

static void hostile_opens_are_wrong(void **state)
{
	(void)state;
	static const char too_much[] = "more memory than the session may have";
	static const uint64_t sizes[] = {2 * PAGE, (uint64_t)1 << 40, INT64_MAX / 4, INT64_MAX};
	struct ends ends;
	ends_init(&ends);
	struct end *host = &ends.host;
	host->budget.limits.most[BUDGET_MEMORY] = 5 * PAGE - 1;
	struct channel_open_shared open = {.seals = CHANNEL_NO_SEALS};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		channel_put64(open.size, sizes[i]);
		assert_string_equal(open_shared(host, 1, &open), too_much);
	}
	channel_put64(open.size, UINT64_MAX);
	assert_non_null(open_shared(host, 1, &open));
	channel_put64(open.size, PAGE);
	open.seals = F_SEAL_WRITE;
	assert_string_equal(
		open_shared(host, 1, &open), "OPEN of shared memory with a wrong size or seal");
	open.seals = 0xfffffff0 & ~(uint32_t)F_SEAL_WRITE; // those of a later day
	assert_null(open_shared(host, 1, &open));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], 5 * PAGE / 2);
	for (size_t len = 0; len < sizeof(open); len++) {
		assert_string_equal(
			end_frame(host, CHANNEL_OPEN, 2, CHANNEL_KIND_SHARED, &open, len),
			"OPEN of shared memory with a wrong length");
	}

	// fds of what is no memory: nothing, the session, an fd, a pipe, itself
	struct channel_open_shared fd = {.memory = 1};
	assert_null(open_shared(host, 2, &fd));
	struct channel_open_pipe pipe_open = {.access = CHANNEL_ACCESS_WRITE};
	assert_null(
		end_frame(host, CHANNEL_OPEN, 3, CHANNEL_KIND_PIPE, &pipe_open, sizeof(pipe_open)));
	static const uint32_t ids[] = {2, 3, 4, 99, UINT32_MAX, CHANNEL_ID_HOST | 1};
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		fd.memory = ids[i];
		assert_string_equal(
			open_shared(host, 4, &fd), "OPEN of an fd of what is no shared memory");
	}
	fd = (struct channel_open_shared){.memory = 1, .access = 3};
	assert_non_null(open_shared(host, 4, &fd));
	fd = (struct channel_open_shared){.memory = 1};
	channel_put64(fd.offset, UINT64_MAX);
	assert_non_null(open_shared(host, 4, &fd));
	assert_int_equal(host->refs.theirs.used, 3);
	ends_finish(&ends);
}

static void a_memory_that_is_closed_early_lasts_as_long_as_its_fds(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	struct end *host = &ends.host;
	struct channel_open_shared open = {0}, fd = {.memory = 1};
	channel_put64(open.size, PAGE);
	assert_null(open_shared(host, 1, &open));
	assert_null(open_shared(host, 2, &fd));
	host->opened = 2;
	assert_null(end_frame(host, CHANNEL_CLOSE, 1, 0, NULL, 0));
	assert_string_equal(open_shared(host, 3, &fd), "OPEN of an fd of what is no shared memory");
	int copy = end_take(host);
	assert_true(copy >= 0);
	close(copy);
	shared_collect(&host->refs);
	assert_non_null(fdrefs_get(&host->refs, 1));
	assert_null(end_frame(host, CHANNEL_CLOSE, 2, 0, NULL, 0));
	shared_collect(&host->refs);
	assert_null(fdrefs_get(&host->refs, 1));
	ends_finish(&ends);
}

static void what_is_open_at_the_end_leaves_nothing_behind(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	// a memory and an fd of each side's, and an fd that goes home
	int fd = new_memfd(PAGE);
	int copy = send_fd(&ends, &ends.guest, &ends.host, duplicate(fd));
	assert_int_not_equal(shared_export(&ends.host.refs, copy, &wrong), 0);
	assert_int_not_equal(shared_export(&ends.guest.refs, fd, &wrong), 0);
	assert_int_not_equal(shared_export(&ends.host.refs, new_memfd(PAGE), &wrong), 0);
	ends_run(&ends);
	ends_finish(&ends);
}

static void hostile_frames_are_wrong(void **state)
{
	(void)state;
	static const uint16_t types[] = {CHANNEL_STREAM_DATA, CHANNEL_STREAM_EOF, CHANNEL_MESSAGES,
		CHANNEL_MEM_RESIZE, CHANNEL_MEM_COPY, CHANNEL_EVENT_ADD, 0, 0xffff};
	struct fixture fixture;
	share(&fixture, new_memfd(PAGE), PAGE);
	struct end *guest = &fixture.ends.guest, *host = &fixture.ends.host;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_string_equal(end_frame(guest, types[i], 1, 0, NULL, 0),
			"frame of the wrong type for shared memory");
		assert_string_equal(end_frame(host, types[i], 1, 0, NULL, 0),
			"frame of the wrong type for shared memory");
	}
	struct {
		struct channel_run run;
		uint8_t word[8];
	} frame = {.run = {.offset = {PAGE}, .length = 8}};
	assert_string_equal(end_frame(guest, CHANNEL_MEM_WORDS, 1, 0, &frame, sizeof(frame)),
		"MEM_WORDS past the end of its memory");
	assert_string_equal(end_frame(host, CHANNEL_MEM_WORDS, 1, 0, &frame, sizeof(frame)),
		"MEM_WORDS past the end of its memory");
	assert_string_equal(end_frame(guest, CHANNEL_CREDIT, 1, 1, NULL, 0),
		"CREDIT for more MEM_WORDS than were sent");
	assert_non_null(end_frame(host, CHANNEL_MEM_UNUSED, 1, 0, NULL, 0));

	// MEM_WRITE is for other kinds
	struct channel_rows rows;
	struct channel_mem_write write = {.stride = 8, .row_bytes = 8, .rows = 1};
	assert_non_null(end_write(host, 1, &write, &rows));

	// it is unused, says who uses it: what comes later is forgotten
	assert_null(end_frame(guest, CHANNEL_MEM_UNUSED, 1, 0, NULL, 0));
	frame.run.offset[0] = 0;
	assert_null(end_frame(guest, CHANNEL_MEM_WORDS, 1, 0, &frame, sizeof(frame)));
	assert_null(end_frame(guest, CHANNEL_MEM_UNUSED, 1, 0, NULL, 0));
	assert_int_equal(fixture.ours[0], pattern(0));
	message(&fixture.ends, guest);
	assert_int_equal(guest->refs.shared, 0);
	leave(&fixture);
	finish(&fixture);
}

// A service has it from a session that shares memory, and gives it to one that does not.
static void memory_that_a_service_passes_on_ends_no_session_on_the_host(void **state)
{
	(void)state;
	struct fixture fixture;
	struct ends others;
	char wrong[ANY_WRONG_MAX];
	uint32_t id;
	share(&fixture, new_memfd(PAGE), PAGE);
	ends_init(&others);
	others.host.refs.rules.shared = others.guest.refs.rules.shared = FDREF_SHARED_REFUSE;
	assert_int_equal(
		any_export(&others.host.refs, duplicate(fixture.copy), &id, wrong), ANY_OPENED);
	assert_int_equal(others.host.refs.counts.unsupported, 1);
	// but what the service has made itself does, and in the guest all does
	assert_int_equal(any_export(&others.host.refs, new_memfd(PAGE), &id, wrong), ANY_REFUSED);
	assert_int_equal(
		any_export(&others.guest.refs, duplicate(fixture.copy), &id, wrong), ANY_REFUSED);
	ends_finish(&others);
	leave(&fixture);
	finish(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(memory_of_any_size_crosses_and_comes_back),
		fd_count_test(memory_of_no_bytes_crosses),
		fd_count_test(seals_and_offset_are_the_originals),
		fd_count_test(fds_of_one_memory_are_of_one_memory_there),
		fd_count_test(an_fd_that_comes_home_is_of_the_original),
		fd_count_test(memory_that_a_service_passes_on_ends_no_session_on_the_host),
		fd_count_test(nobody_gets_more_access_than_was_given),
		fd_count_test(what_cannot_be_shared_is_refused),
		fd_count_test(an_fd_beyond_the_limit_is_refused),
		fd_count_test(two_programs_that_take_turns_see_each_others_words),
		fd_count_test(a_ring_buffer_carries_bytes_both_ways_at_a_time),
		fd_count_test(memory_comes_before_the_frame_that_tells_of_it),
		fd_count_test(a_conflict_is_counted_and_both_have_the_openers_words),
		fd_count_test(a_memory_that_is_truncated_harms_nobody),
		fd_count_test(a_memory_that_nobody_there_uses_is_closed),
		fd_count_test(a_memory_that_goes_again_meanwhile_is_not_closed),
		fd_count_test(new_memory_makes_room_for_itself),
		fd_count_test(memory_that_cannot_be_executed_cannot_there),
		fd_count_test(a_snapshot_shows_the_memory_as_it_was),
		fd_count_test(hostile_opens_are_wrong),
		fd_count_test(a_memory_that_is_closed_early_lasts_as_long_as_its_fds),
		fd_count_test(what_is_open_at_the_end_leaves_nothing_behind),
		fd_count_test(hostile_frames_are_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
