#include "fdpass/file.h"

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

#include "ends.h"
#include "tests/support/fd_count.h"

static uint32_t export_file(struct ends *ends, int fd)
{
	const char *wrong;
	uint32_t id = file_export(&ends->guest.refs, fd, &wrong);
	assert_int_not_equal(id, 0);
	assert_null(wrong);
	ends_run(ends);
	assert_null(ends->host.wrong);
	assert_int_equal(ends->host.opened, id);
	return id;
}

static void close_file(struct ends *ends, uint32_t id)
{
	fdrefs_close(fdrefs_get(&ends->guest.refs, id));
	ends_run(ends);
	assert_null(fdrefs_get(&ends->guest.refs, id));
	assert_null(fdrefs_get(&ends->host.refs, id));
}

static void expect_contents(int fd, size_t size)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, size);
	if (size == 0) {
		return;
	}
	const uint8_t *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(data[i], pattern(i));
	}
	munmap((void *)data, size);
}

// Takes fd, and gives its copy on the other side.
static int cross(int fd)
{
	struct ends ends;
	ends_init(&ends);
	uint32_t id = export_file(&ends, fd);
	int copy = end_take(&ends.host);
	assert_true(copy >= 0);
	close_file(&ends, id);
	ends_finish(&ends);
	return copy;
}

static int reopened(int fd, int flags)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int again = open(path, flags | O_CLOEXEC);
	assert_true(again >= 0);
	close(fd);
	return again;
}

/* ---- what the copy has of the original ---- */

static void contents_of_any_size_cross(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 4095, 65535, 65536, 65537, 300001};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int copy = cross(new_memfd(sizes[i]));
		expect_contents(copy, sizes[i]);
		assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
		close(copy);
	}
}

static void the_access_mode_is_the_originals(void **state)
{
	(void)state;
	int copy = cross(reopened(new_memfd(100), O_RDONLY));
	assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(write(copy, "x", 1), -1);
	expect_contents(copy, 100);
	copy = reopened(copy, O_RDWR); // which root can
	assert_int_equal(write(copy, "x", 1), -1);
	assert_int_equal(errno, EPERM);
	close(copy);

	copy = cross(new_memfd(100));
	assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(pwrite(copy, "x", 1, 0), 1);
	close(copy);
}

static void the_seals_are_the_originals(void **state)
{
	(void)state;
	static const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
		F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE};
	for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
		int fd = new_memfd(100);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		int copy = cross(fd);
		assert_int_equal(fcntl(copy, F_GET_SEALS), seals[i]);
		expect_contents(copy, 100);
		close(copy);
	}
}

static void a_copy_that_cannot_be_written_is_sealed(void **state)
{
	(void)state;
	const int shared = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	int copy = cross(reopened(new_memfd(100), O_RDONLY));
	assert_int_equal(fcntl(copy, F_GET_SEALS), shared);
	close(copy);
	int fd = new_memfd(100);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	copy = cross(fd);
	assert_int_equal(fcntl(copy, F_GET_SEALS), shared);
	close(copy);
}

static void the_offset_is_the_originals_and_is_not_shared(void **state)
{
	(void)state;
	static const off_t offsets[] = {0, 1, 100, 1000};
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		int fd = new_memfd(100), original = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		assert_int_equal(lseek(fd, offsets[i], SEEK_SET), offsets[i]);
		struct ends ends;
		ends_init(&ends);
		export_file(&ends, fd);
		int first = end_take(&ends.host), second = end_take(&ends.host);
		assert_int_equal(lseek(first, 0, SEEK_CUR), offsets[i]);
		assert_int_equal(lseek(first, 50, SEEK_SET), 50);
		assert_int_equal(lseek(second, 0, SEEK_CUR), offsets[i]);
		assert_int_equal(lseek(original, 0, SEEK_CUR), offsets[i]);
		close(first);
		close(second);
		close(original);
		ends_finish(&ends);
	}
}

static void a_plain_file_whose_offset_is_at_its_end_crosses_whole(void **state)
{
	(void)state;
	char path[] = "/tmp/file-XXXXXX";
	int fd = mkstemp(path);
	unlink(path);
	for (size_t i = 0; i < 100; i++) {
		uint8_t byte = pattern(i);
		assert_int_equal(write(fd, &byte, 1), 1);
	}
	int copy = cross(fd);
	expect_contents(copy, 100);
	assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(lseek(copy, 0, SEEK_CUR), 100);
	close(copy);
}

/* ---- exact copies ---- */

static uint32_t export_exact(struct ends *ends, int fd)
{
	const char *wrong;
	uint32_t id = file_export_exact(&ends->guest.refs, fd, &wrong);
	assert_int_not_equal(id, 0);
	assert_null(wrong);
	return id;
}

static int cross_exactly(int fd)
{
	struct ends ends;
	ends_init(&ends);
	uint32_t id = export_exact(&ends, fd);
	ends_run(&ends);
	assert_null(ends.host.wrong);
	int copy = end_take(&ends.host);
	assert_true(copy >= 0);
	assert_int_equal(ends.host.stored, 0);
	assert_int_equal(ends.host.contents.count, 0);
	close_file(&ends, id);
	assert_int_equal(
		ends.host.budget.used[BUDGET_MEMORY], 0); // the app's memfd is its own affair
	ends_finish(&ends);
	return copy;
}

static void an_exact_copy_of_any_size_crosses(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 4096, 262143, 262144, 262145, 1000001};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int fd = new_memfd(sizes[i]);
		assert_int_equal(lseek(fd, 77, SEEK_SET), 77);
		int copy = cross_exactly(fd);
		assert_int_equal(lseek(copy, 0, SEEK_CUR), 77);
		expect_contents(copy, sizes[i]);
		assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
		close(copy);
	}
}

static void an_exact_copy_has_the_originals_seals_and_no_others(void **state)
{
	(void)state;
	static const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE,
		F_SEAL_SHRINK | F_SEAL_GROW,
		F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE};
	for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
		for (int access = O_RDONLY; access <= O_RDWR; access += O_RDWR) {
			int fd = new_memfd(100);
			assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
			int copy = cross_exactly(access == O_RDWR ? fd : reopened(fd, access));
			assert_int_equal(fcntl(copy, F_GET_SEALS), seals[i]);
			assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, access);
			expect_contents(copy, 100);
			close(copy);
		}
	}
}

static void an_exact_copy_of_what_cannot_be_sealed_cannot_either(void **state)
{
	(void)state;
	char path[] = "/tmp/file-XXXXXX";
	int fd = mkstemp(path);
	unlink(path);
	assert_int_equal(write(fd, "text", 4), 4);
	int copy = cross_exactly(fd);
	assert_int_equal(fcntl(copy, F_GET_SEALS), F_SEAL_SEAL);
	assert_int_equal(fcntl(copy, F_ADD_SEALS, F_SEAL_WRITE), -1);
	close(copy);
	fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	copy = cross_exactly(fd);
	assert_int_equal(fcntl(copy, F_GET_SEALS), F_SEAL_SEAL);
	close(copy);
}

static void an_exact_copy_waits_as_a_reference(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	int fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, FILE_MAX), 0);
	export_exact(&ends, fd);
	assert_true(channel_queued(ends.guest.channel) > FILE_MAX);
	assert_true(channel_kept(ends.guest.channel) < 64 * 1024);
	ends_run(&ends);
	int copy = end_take(&ends.host);
	assert_int_equal(lseek(copy, 0, SEEK_END), FILE_MAX);
	close(copy);
	ends_finish(&ends);
}

static void what_vanishes_before_it_is_sent_is_zeros(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	int fd = new_memfd(10000), original = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	export_exact(&ends, fd);
	assert_int_equal(ftruncate(original, 5000), 0);
	ends_run(&ends);
	int copy = end_take(&ends.host);
	uint8_t data[10001];
	assert_int_equal(pread(copy, data, sizeof(data), 0), 10000);
	for (size_t i = 0; i < 10000; i++) {
		assert_int_equal(data[i], i < 5000 ? pattern(i) : 0);
	}
	close(copy);
	fd = fcntl(original, F_DUPFD_CLOEXEC, 0);
	export_exact(&ends, fd);
	assert_int_equal(ftruncate(original, 6000), 0);
	ends_run(&ends);
	copy = end_take(&ends.host);
	expect_contents(copy, 5000);
	close(copy);
	close(original);
	ends_finish(&ends);
}

static void what_cannot_be_copied_exactly_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	struct fdrefs *refs = &ends.guest.refs;
	refs->rules.max_file_copy = 99;
	assert_int_equal(file_export_exact(refs, new_memfd(100), &wrong), 0);
	assert_string_equal(wrong, "a file larger than may be copied (--max-file-copy)");
	refs->rules.max_file_copy = 0;
	int fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, FILE_MAX + 1), 0);
	assert_int_equal(file_export_exact(refs, fd, &wrong), 0);
	assert_string_equal(wrong, "a file larger than may be copied (--max-file-copy)");
	assert_int_equal(file_export_exact(refs, reopened(new_memfd(1), O_WRONLY), &wrong), 0);
	assert_string_equal(wrong, "a file that can only be written to");
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(file_export_exact(refs, fd, &wrong), 0);
	assert_string_equal(wrong, "an fd that should be a file is not one");
	refs->budget->limits.most[BUDGET_FDS] = 0;
	assert_int_equal(file_export_exact(refs, new_memfd(100), &wrong), 0);
	assert_string_equal(wrong, "too many fds are open in this session");
	assert_int_equal(channel_queued(ends.guest.channel), 0);
	ends_finish(&ends);
}

static void an_exact_file_may_be_as_large_as_the_memory_allows(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	struct channel_open_memory open = {.seals = CHANNEL_NO_SEALS, .exact = 1};
	ends.host.refs.any_kind = false;
	channel_put64(open.size, FILE_MAX + 1);
	struct end *host = &ends.host;
	assert_string_equal(
		end_frame(host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &open, sizeof(open)),
		"OPEN of a file with a wrong access mode or size");
	host->refs.any_kind = true;
	assert_null(end_frame(host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &open, sizeof(open)));
	assert_int_equal(host->budget.used[BUDGET_MEMORY], FILE_MAX + 1);
	channel_put64(open.size, host->budget.limits.most[BUDGET_MEMORY]);
	assert_string_equal(
		end_frame(host, CHANNEL_OPEN, 2, CHANNEL_KIND_FILE, &open, sizeof(open)),
		"more memory than the session may have");
	channel_put64(open.size, UINT64_MAX);
	assert_non_null(end_frame(host, CHANNEL_OPEN, 2, CHANNEL_KIND_FILE, &open, sizeof(open)));
	ends_finish(&ends);
}

static void contradictory_fields_are_wrong(void **state)
{
	(void)state;
	static const struct channel_open_memory opens[] = {
		{.seals = CHANNEL_NO_SEALS, .exact = 2},
		{.seals = CHANNEL_NO_SEALS, .exact = 1, .cached = 1},
		{.seals = CHANNEL_NO_SEALS, .cached = 3},
		{.seals = CHANNEL_NO_SEALS, .cached = UINT32_MAX},
	};
	struct ends ends;
	ends_init(&ends);
	for (size_t i = 0; i < sizeof(opens) / sizeof(opens[0]); i++) {
		assert_string_equal(end_frame(&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE,
					    &opens[i], sizeof(opens[i])),
			"OPEN of a file with contradictory fields");
	}
	ends_finish(&ends);
}

/* ---- what is refused ---- */

static void refuse(int fd, const char *reason)
{
	struct ends ends;
	const char *wrong = NULL;
	ends_init(&ends);
	assert_true(fd >= 0);
	assert_int_equal(file_export(&ends.guest.refs, fd, &wrong), 0);
	assert_string_equal(wrong, reason);
	assert_int_equal(ends.guest.refs.ours.used, 0);
	assert_int_equal(channel_queued(ends.guest.channel), 0);
	ends_finish(&ends);
}

static void what_is_no_readable_file_is_refused(void **state)
{
	(void)state;
	static const char no_file[] = "an fd that should be a file is not one";
	refuse(open("/dev/null", O_RDWR | O_CLOEXEC), no_file);
	refuse(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), no_file);
	int ends[2];
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	refuse(ends[0], no_file);
	refuse(ends[1], no_file);
	refuse(reopened(new_memfd(100), O_WRONLY), "a file cannot be read whole");
}

static void a_file_that_is_too_large_is_refused(void **state)
{
	(void)state;
	int fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, FILE_MAX + 1), 0);
	refuse(fd, "a file is larger than 64 MiB");
	fd = new_memfd(0);
	assert_int_equal(ftruncate(fd, (off_t)1 << 40), 0);
	refuse(fd, "a file is larger than 64 MiB");
}

static void a_file_beyond_the_limit_of_fds_is_refused(void **state)
{
	(void)state;
	struct ends ends;
	const char *wrong;
	ends_init(&ends);
	ends.guest.budget.limits.most[BUDGET_FDS] = 0;
	assert_int_equal(file_export(&ends.guest.refs, new_memfd(100), &wrong), 0);
	assert_string_equal(wrong, "too many fds are open in this session");
	ends_finish(&ends);
}

/* ---- contents that the other side has ---- */

static const struct content_hash *last_hash(const struct end *end)
{
	return &end->contents.entries[end->contents.count - 1].hash;
}

static void a_file_that_the_other_side_has_does_not_cross_again(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	export_file(&ends, reopened(new_memfd(5000), O_RDONLY));
	close(end_take(&ends.host));
	assert_int_equal(ends.host.stored, 1);
	assert_int_equal(ends.host.contents.count, 1);
	unsigned int writes = ends.host.frames[CHANNEL_MEM_WRITE];

	ends.guest.refs.peer_contents = last_hash(&ends.host);
	ends.guest.refs.n_peer_contents = 1;
	int fd = reopened(new_memfd(5000), O_RDONLY);
	assert_int_equal(lseek(fd, 7, SEEK_SET), 7);
	uint32_t id = export_file(&ends, fd);
	assert_int_equal(ends.host.frames[CHANNEL_MEM_WRITE], writes);
	int copy = end_take(&ends.host);
	expect_contents(copy, 5000);
	assert_int_equal(fcntl(copy, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(lseek(copy, 0, SEEK_CUR), 7);
	close(copy);
	assert_int_equal(ends.host.stored, 1);
	assert_int_equal(ends.guest.refs.counts.files_cached, 1);
	assert_int_equal(ends.host.refs.counts.files_cached, 1);
	close_file(&ends, id);
	ends_finish(&ends);
}

static void other_contents_are_another_file(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	export_file(&ends, reopened(new_memfd(5000), O_RDONLY));
	close(end_take(&ends.host));
	ends.guest.refs.peer_contents = last_hash(&ends.host);
	ends.guest.refs.n_peer_contents = 1;
	export_file(&ends, reopened(new_memfd(4999), O_RDONLY));
	int fd = new_memfd(5000);
	assert_int_equal(pwrite(fd, "!", 1, 4000), 1);
	export_file(&ends, reopened(fd, O_RDONLY));
	assert_int_equal(ends.guest.refs.counts.files_cached, 0);
	ends_finish(&ends);
}

static void who_may_write_gets_a_copy_of_a_file_that_is_kept(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	export_file(&ends, reopened(new_memfd(5000), O_RDONLY));
	close(end_take(&ends.host));
	ends.guest.refs.peer_contents = last_hash(&ends.host);
	ends.guest.refs.n_peer_contents = 1;
	for (int i = 0; i < 2; i++) {
		export_file(&ends, new_memfd(5000));
		assert_int_equal(ends.guest.refs.counts.files_cached, i + 1);
		int copy = end_take(&ends.host);
		expect_contents(copy, 5000);
		assert_int_equal(pwrite(copy, "changed", 7, 100), 7);
		close(copy);
	}
	expect_contents(ends.host.contents.entries[0].fd, 5000);
	ends_finish(&ends);
}

static void a_file_that_its_receiver_may_write_is_not_kept(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	export_file(&ends, new_memfd(100));
	close(end_take(&ends.host));
	assert_int_equal(ends.host.stored, 0);
	assert_int_equal(ends.host.contents.count, 0);
	int fd = new_memfd(100); // writable, but sealed
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
	export_file(&ends, fd);
	close(end_take(&ends.host));
	assert_int_equal(ends.host.stored, 1);
	ends_finish(&ends);
}

static void a_large_file_is_not_kept(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	export_file(&ends, reopened(new_memfd(CONTENT_FILE_MAX + 1), O_RDONLY));
	int copy = end_take(&ends.host);
	expect_contents(copy, CONTENT_FILE_MAX + 1);
	close(copy);
	assert_int_equal(ends.host.stored, 0);
	ends_finish(&ends);
}

/* ---- an opener that may say anything ---- */

static const char *open_file(struct end *end, uint32_t id, uint64_t size, uint32_t cached)
{
	struct channel_open_memory open = {.seals = CHANNEL_NO_SEALS, .cached = cached};
	channel_put64(open.size, size);
	return end_frame(end, CHANNEL_OPEN, id, CHANNEL_KIND_FILE, &open, sizeof(open));
}

static void a_file_we_never_said_we_have_is_wrong(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	assert_string_equal(
		open_file(&ends.host, 1, 100, 1), "OPEN of a file that we never said we have");
	ends.host.refs.contents = NULL;
	assert_non_null(open_file(&ends.host, 1, 100, 1));
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 0);
	ends_finish(&ends);
}

static void hostile_sizes_and_access_modes_are_wrong(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	static const uint64_t sizes[] = {
		FILE_MAX + 1, (uint64_t)1 << 32, (uint64_t)INT64_MAX + 1, UINT64_MAX};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_non_null(open_file(&ends.host, 1, sizes[i], 0));
		assert_non_null(open_file(&ends.host, 1, sizes[i], 1));
	}
	struct channel_open_memory open = {.access = 3, .seals = CHANNEL_NO_SEALS};
	assert_non_null(
		end_frame(&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &open, sizeof(open)));
	open.access = UINT32_MAX;
	assert_non_null(
		end_frame(&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &open, sizeof(open)));
	// seals and offsets that cannot be had give an error or another file, but no harm
	open = (struct channel_open_memory){
		.seals = 0x7fffffff, .offset = {UINT32_MAX, UINT32_MAX}};
	assert_null(end_frame(&ends.host, CHANNEL_OPEN, 1, CHANNEL_KIND_FILE, &open, sizeof(open)));
	struct fdref *ref = fdrefs_get(&ends.host.refs, 1);
	int fd = ref->interface->get_fd(ref);
	if (fd >= 0) {
		close(fd);
	}
	ends_finish(&ends);
}

static void files_are_charged(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	ends.host.budget.limits.most[BUDGET_MEMORY] = 1000;
	assert_null(open_file(&ends.host, 1, 600, 0));
	assert_string_equal(
		open_file(&ends.host, 2, 401, 0), "more memory than the session may have");
	assert_null(open_file(&ends.host, 2, 400, 0));
	assert_null(end_frame(&ends.host, CHANNEL_CLOSE, 1, 0, NULL, 0));
	assert_int_equal(ends.host.budget.used[BUDGET_MEMORY], 400);
	ends_finish(&ends);
}

static const char *write_file(struct end *end, uint32_t offset, uint32_t row_bytes, uint32_t rows)
{
	struct channel_mem_write write = {
		.offset = {offset}, .stride = row_bytes, .row_bytes = row_bytes, .rows = rows};
	struct channel_rows placed;
	const char *wrong = end_write(end, 1, &write, &placed);
	if (wrong == NULL) {
		memset(placed.base, 'x', row_bytes);
	}
	return wrong;
}

static void contents_come_in_order_and_once(void **state)
{
	(void)state;
	static const char order[] = "MEM_WRITE to a file out of order or past its end";
	struct ends ends;
	ends_init(&ends);
	assert_null(open_file(&ends.host, 1, 100, 0));
	assert_string_equal(write_file(&ends.host, 1, 10, 1), order);
	assert_string_equal(write_file(&ends.host, 0, 101, 1), order);
	assert_string_equal(write_file(&ends.host, 0, UINT32_MAX, 1), order);
	assert_string_equal(write_file(&ends.host, 0, 10, 2), order);
	assert_string_equal(write_file(&ends.host, 0, 10, 0), order);
	assert_null(write_file(&ends.host, 0, 60, 1));
	assert_string_equal(write_file(&ends.host, 0, 60, 1), order);
	assert_string_equal(write_file(&ends.host, 60, 41, 1), order);
	assert_null(write_file(&ends.host, 60, 40, 1));
	assert_string_equal(write_file(&ends.host, 100, 1, 1), order);
	ends.host.opened = 1;
	close(end_take(&ends.host));
	assert_string_equal(
		write_file(&ends.host, 100, 0, 1), "MEM_WRITE to a file that is complete");
	ends_finish(&ends);
}

static void a_file_whose_contents_have_not_come_is_not_given_out(void **state)
{
	(void)state;
	struct ends ends;
	ends_init(&ends);
	assert_null(open_file(&ends.host, 1, 100, 0));
	ends.host.opened = 1;
	assert_int_equal(end_take(&ends.host), -EPROTO);
	assert_null(write_file(&ends.host, 0, 99, 1));
	assert_int_equal(end_take(&ends.host), -EPROTO);
	assert_int_equal(ends.host.contents.count, 0);
	assert_null(end_frame(&ends.host, CHANNEL_CLOSE, 1, 0, NULL, 0));
	ends_finish(&ends);
}

static void frames_of_the_wrong_type_are_wrong(void **state)
{
	(void)state;
	static const uint16_t types[] = {CHANNEL_MEM_RESIZE, CHANNEL_MEM_COPY, CHANNEL_CREDIT,
		CHANNEL_STREAM_DATA, CHANNEL_STREAM_EOF, CHANNEL_STREAM_STOP, 0, 0xffff};
	struct ends ends;
	struct channel_rows rows;
	struct channel_mem_write write = {.stride = 1, .row_bytes = 1, .rows = 1};
	ends_init(&ends);
	uint32_t id = export_file(&ends, new_memfd(100));
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_non_null(end_frame(&ends.host, types[i], id, 0, NULL, 0));
		assert_non_null(end_frame(&ends.guest, types[i], id, 0, NULL, 0));
	}
	assert_non_null(end_write(&ends.guest, id, &write, &rows)); // not to the original
	ends_finish(&ends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(contents_of_any_size_cross),
		fd_count_test(the_access_mode_is_the_originals),
		fd_count_test(the_seals_are_the_originals),
		fd_count_test(a_copy_that_cannot_be_written_is_sealed),
		fd_count_test(the_offset_is_the_originals_and_is_not_shared),
		fd_count_test(a_plain_file_whose_offset_is_at_its_end_crosses_whole),
		fd_count_test(an_exact_copy_of_any_size_crosses),
		fd_count_test(an_exact_copy_has_the_originals_seals_and_no_others),
		fd_count_test(an_exact_copy_of_what_cannot_be_sealed_cannot_either),
		fd_count_test(an_exact_copy_waits_as_a_reference),
		fd_count_test(what_vanishes_before_it_is_sent_is_zeros),
		fd_count_test(what_cannot_be_copied_exactly_is_refused),
		fd_count_test(an_exact_file_may_be_as_large_as_the_memory_allows),
		fd_count_test(contradictory_fields_are_wrong),
		fd_count_test(what_is_no_readable_file_is_refused),
		fd_count_test(a_file_that_is_too_large_is_refused),
		fd_count_test(a_file_beyond_the_limit_of_fds_is_refused),
		fd_count_test(a_file_that_the_other_side_has_does_not_cross_again),
		fd_count_test(other_contents_are_another_file),
		fd_count_test(who_may_write_gets_a_copy_of_a_file_that_is_kept),
		fd_count_test(a_file_that_its_receiver_may_write_is_not_kept),
		fd_count_test(a_large_file_is_not_kept),
		fd_count_test(a_file_we_never_said_we_have_is_wrong),
		fd_count_test(hostile_sizes_and_access_modes_are_wrong),
		fd_count_test(files_are_charged),
		fd_count_test(contents_come_in_order_and_once),
		fd_count_test(a_file_whose_contents_have_not_come_is_not_given_out),
		fd_count_test(frames_of_the_wrong_type_are_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
