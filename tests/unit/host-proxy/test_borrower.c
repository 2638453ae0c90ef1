#include "host-proxy/borrower.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "channel/input.h"
#include "host-proxy/loan.h"
#include "tests/support/fd_count.h"

#define PAGE 4096
#define SIZE (16 * PAGE)

/* A borrower whose device is the test. */
struct fixture {
	struct channel_input *input;
	int fd, device_fd;
	int returns; // what comes back; -1
	int memory;  // a file of the guest's
	uint8_t *data;
};

static void set_up(struct fixture *fixture)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*fixture = (struct fixture){.fd = pair[0], .device_fd = pair[1], .returns = -1};
	fixture->input = borrower_create(pair[0]);
	assert_non_null(fixture->input);
	fixture->memory = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fixture->memory, SIZE), 0);
	fixture->data = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fixture->memory, 0);
	assert_true(fixture->data != MAP_FAILED);
	for (size_t i = 0; i < SIZE; i++) {
		fixture->data[i] = (uint8_t)(i * 7 + i / 256);
	}
}

static void tear_down(struct fixture *fixture)
{
	channel_input_destroy(fixture->input);
	close(fixture->fd);
	if (fixture->device_fd >= 0) {
		close(fixture->device_fd);
	}
	if (fixture->returns >= 0) {
		close(fixture->returns);
	}
	munmap(fixture->data, SIZE);
	close(fixture->memory);
}

static void send_all(struct fixture *fixture, const void *data, size_t len)
{
	assert_int_equal(send(fixture->device_fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL), len);
}

static void send_record(struct fixture *fixture, uint32_t type, uint32_t length)
{
	const struct loan_record record = {.type = type, .length = length};
	send_all(fixture, &record, sizeof(record));
}

static void send_fds(struct fixture *fixture, uint32_t length, const int *fds, size_t n_fds)
{
	const struct loan_record record = {.type = LOAN_FILES, .length = length};
	const struct iovec iov = {.iov_base = (void *)&record, .iov_len = sizeof(record)};
	const struct fdlist list = {.fds = (int *)fds, .count = n_fds};
	assert_int_equal(scm_send(fixture->device_fd, &iov, 1, &list, n_fds), sizeof(record));
}

/* With the pipe, the first time. */
static void send_files(struct fixture *fixture, const int *files, uint32_t n)
{
	int ends[2], fds[1 + LOAN_FILES_MAX];
	size_t n_fds = 0;
	if (fixture->returns < 0) {
		assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
		fixture->returns = ends[0];
		fds[n_fds++] = ends[1];
	}
	memcpy(fds + n_fds, files, n * sizeof(files[0]));
	send_fds(fixture, n, fds, n_fds + n);
	if (n_fds > 0) {
		close(ends[1]);
	}
}

static void send_segments(struct fixture *fixture, const struct loan_segment *segments, uint32_t n)
{
	send_record(fixture, LOAN_SEGMENTS, n);
	send_all(fixture, segments, n * sizeof(segments[0]));
}

static ssize_t read_into(struct fixture *fixture, void *data, size_t len)
{
	const struct iovec piece = {.iov_base = data, .iov_len = len};
	return channel_input_read(fixture->input, &piece, 1);
}

/* All that there is, by reads of at most step bytes. */
static size_t read_all(struct fixture *fixture, uint8_t *data, size_t size, size_t step)
{
	size_t total = 0;
	ssize_t n;
	do {
		size_t part = size - total < step ? size - total : step;
		n = part > 0 ? read_into(fixture, data + total, part) : -EAGAIN;
		total += n > 0 ? (size_t)n : 0;
	} while (n > 0);
	assert_int_equal(n, -EAGAIN);
	return total;
}

/* How many bytes have been given back. */
static size_t returned(struct fixture *fixture)
{
	struct loan_return record;
	size_t total = 0;
	while (read(fixture->returns, &record, sizeof(record)) == sizeof(record)) {
		total += record.length;
	}
	return total;
}

static void bytes_that_are_not_lent_come_as_they_are(void **state)
{
	(void)state;
	struct fixture fixture;
	static uint8_t data[64 * 1024];
	set_up(&fixture);
	for (size_t step = 1; step < 40000; step = step * 3 + 1) {
		send_record(&fixture, LOAN_BYTES, 3);
		send_all(&fixture, "abc", 3);
		send_record(&fixture, LOAN_BYTES, 40000); // more than is read ahead
		send_all(&fixture, fixture.data, 40000);
		send_record(&fixture, LOAN_BYTES, 1);
		send_all(&fixture, "z", 1);
		assert_int_equal(read_all(&fixture, data, sizeof(data), step), 40004);
		assert_memory_equal(data, "abc", 3);
		assert_memory_equal(data + 3, fixture.data, 40000);
		assert_int_equal(data[40003], 'z');
		assert_false(channel_input_has_more(fixture.input));
	}
	tear_down(&fixture);
}

static void records_may_come_byte_by_byte(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[16];
	const struct loan_segment segment = {.offset = 100, .length = 5};
	uint8_t bytes[2 * sizeof(struct loan_record) + 2 + sizeof(segment)];
	const struct loan_record records[] = {{LOAN_BYTES, 2}, {LOAN_SEGMENTS, 1}};
	set_up(&fixture);
	send_files(&fixture, &fixture.memory, 1);
	assert_int_equal(read_into(&fixture, data, sizeof(data)), -EAGAIN);
	memcpy(bytes, &records[0], 8);
	memcpy(bytes + 8, "hi", 2);
	memcpy(bytes + 10, &records[1], 8);
	memcpy(bytes + 18, &segment, sizeof(segment));
	size_t have = 0;
	for (size_t i = 0; i < sizeof(bytes); i++) {
		send_all(&fixture, bytes + i, 1);
		ssize_t n = read_into(&fixture, data + have, sizeof(data) - have);
		have += n > 0 ? (size_t)n : 0;
		assert_false(channel_input_has_more(fixture.input)); // of half a record
	}
	assert_int_equal(have, 7);
	assert_memory_equal(data, "hi", 2);
	assert_memory_equal(data + 2, fixture.data + 100, 5);
	tear_down(&fixture);
}

static void lent_bytes_are_copied_and_given_back(void **state)
{
	(void)state;
	struct fixture fixture;
	static uint8_t data[SIZE];
	for (size_t step = 7; step < 2 * SIZE; step *= 5) {
		set_up(&fixture);
		int other = memfd_create("other", MFD_CLOEXEC);
		assert_int_equal(write(other, "0123456789", 10), 10);
		const int files[] = {fixture.memory, other};
		const struct loan_segment segments[] = {
			{.offset = 5, .length = 3000},
			{.offset = 2, .length = 8, .file = 1},
			{.offset = SIZE - 10000, .length = 10000},
		};
		send_files(&fixture, files, 2);
		send_record(&fixture, LOAN_BYTES, 4);
		send_all(&fixture, "head", 4);
		send_segments(&fixture, segments, 3);
		assert_int_equal(read_all(&fixture, data, sizeof(data), step), 13012);
		assert_memory_equal(data, "head", 4);
		assert_memory_equal(data + 4, fixture.data + 5, 3000);
		assert_memory_equal(data + 3004, "23456789", 8);
		assert_memory_equal(data + 3012, fixture.data + SIZE - 10000, 10000);
		assert_int_equal(returned(&fixture), 13008);
		close(other);
		tear_down(&fixture);
	}
}

static void what_is_not_read_is_not_given_back(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[1000];
	const struct loan_segment segment = {.length = 5000};
	set_up(&fixture);
	send_files(&fixture, &fixture.memory, 1);
	send_segments(&fixture, &segment, 1);
	assert_int_equal(read_into(&fixture, data, sizeof(data)), 1000);
	assert_true(channel_input_has_more(fixture.input));
	assert_int_equal(returned(&fixture), 0);
	fixture.data[1000] = 0xaa; // the guest may, until it has it back
	assert_int_equal(read_into(&fixture, data, sizeof(data)), 1000);
	assert_int_equal(data[0], 0xaa);
	assert_int_equal(read_all(&fixture, fixture.data, SIZE, 999), 3000);
	assert_int_equal(returned(&fixture), 5000);
	tear_down(&fixture);
}

static void pieces_are_filled_one_after_the_other(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[400] = {0};
	const struct loan_segment segments[] = {{.length = 50}, {.offset = 500, .length = 120}};
	const struct iovec pieces[] = {{data, 30}, {data + 100, 40}, {data + 200, 200}};
	set_up(&fixture);
	send_files(&fixture, &fixture.memory, 1);
	send_record(&fixture, LOAN_BYTES, 35);
	send_all(&fixture, fixture.data + 1000, 35);
	send_segments(&fixture, segments, 2);
	assert_int_equal(channel_input_read(fixture.input, pieces, 3), 205);
	assert_memory_equal(data, fixture.data + 1000, 30);
	assert_int_equal(data[30], 0);
	assert_memory_equal(data + 100, fixture.data + 1030, 5);
	assert_memory_equal(data + 105, fixture.data, 35);
	assert_memory_equal(data + 200, fixture.data + 35, 15);
	assert_memory_equal(data + 215, fixture.data + 500, 120);
	tear_down(&fixture);
}

static void new_files_replace_the_old_ones(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[32];
	const struct loan_segment segment = {.offset = 4, .length = 6};
	set_up(&fixture);
	int others[2];
	for (int i = 0; i < 2; i++) {
		others[i] = memfd_create("other", MFD_CLOEXEC);
		assert_int_equal(write(others[i], "0123456789", 10), 10);
	}
	send_files(&fixture, &fixture.memory, 1);
	send_segments(&fixture, &segment, 1);
	send_files(&fixture, others, 2); // what was lent before is of the old ones
	send_segments(&fixture, &segment, 1);
	send_files(&fixture, others, 0);
	assert_int_equal(read_all(&fixture, data, sizeof(data), 5), 12);
	assert_memory_equal(data, fixture.data + 4, 6);
	assert_memory_equal(data + 6, "456789", 6);
	assert_int_equal(returned(&fixture), 12);
	close(others[0]);
	close(others[1]);
	send_segments(&fixture, &segment, 1);
	assert_int_equal(read_into(&fixture, data, sizeof(data)), -EPROTO);
	tear_down(&fixture);
}

static void a_file_that_has_grown_is_read(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[SIZE];
	const struct loan_segment segment = {.offset = PAGE, .length = PAGE};
	set_up(&fixture);
	int file = memfd_create("empty", MFD_CLOEXEC); // which cannot be mapped
	send_files(&fixture, &file, 1);
	assert_int_equal(read_into(&fixture, data, SIZE), -EAGAIN);
	assert_int_equal(pwrite(file, fixture.data, SIZE, 0), SIZE);
	send_segments(&fixture, &segment, 1);
	assert_int_equal(read_all(&fixture, data, SIZE, SIZE), PAGE);
	assert_memory_equal(data, fixture.data + PAGE, PAGE);
	assert_int_equal(returned(&fixture), PAGE);
	close(file);
	tear_down(&fixture);
}

static void memory_that_is_not_there_ends_it(void **state)
{
	(void)state;
	uint8_t data[SIZE];
	const struct loan_segment segments[] = {
		{.offset = SIZE, .length = PAGE}, {.offset = INT64_MAX - PAGE, .length = PAGE},
		{.offset = SIZE - PAGE, .length = PAGE}, // cut off
	};
	for (size_t i = 0; i < 3; i++) {
		struct fixture fixture;
		set_up(&fixture);
		send_files(&fixture, &fixture.memory, 1);
		assert_int_equal(read_into(&fixture, data, SIZE), -EAGAIN);
		assert_int_equal(ftruncate(fixture.memory, SIZE - PAGE), 0);
		send_segments(&fixture, &segments[i], 1);
		assert_int_equal(read_into(&fixture, data, SIZE), -ENODATA);
		assert_int_equal(read_into(&fixture, data, SIZE), -ENODATA);
		assert_int_equal(returned(&fixture), 0);
		tear_down(&fixture);
	}
}

static void a_segment_is_read_as_far_as_it_is_there(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[SIZE];
	const struct loan_segment segment = {.offset = SIZE - PAGE - 10, .length = PAGE};
	set_up(&fixture);
	send_files(&fixture, &fixture.memory, 1);
	send_segments(&fixture, &segment, 1);
	assert_int_equal(ftruncate(fixture.memory, SIZE - PAGE), 0);
	assert_int_equal(read_into(&fixture, data, SIZE), 10);
	assert_int_equal(read_into(&fixture, data, SIZE), -ENODATA);
	tear_down(&fixture);
}

static void nothing_is_lost_when_the_place_vanishes(void **state)
{
	(void)state;
	for (int lent = 0; lent < 2; lent++) {
		struct fixture fixture;
		uint8_t tail[PAGE], data[2 * PAGE];
		set_up(&fixture);
		int file = memfd_create("place", MFD_CLOEXEC);
		assert_int_equal(ftruncate(file, 2 * PAGE), 0);
		uint8_t *place = mmap(NULL, 2 * PAGE, PROT_WRITE, MAP_SHARED, file, 0);
		assert_int_equal(ftruncate(file, PAGE), 0);
		const struct iovec pieces[] = {{place + PAGE - 10, PAGE}, {tail, PAGE}};
		const struct loan_segment segment = {.offset = 0, .length = PAGE};
		if (lent) {
			send_files(&fixture, &fixture.memory, 1);
			send_segments(&fixture, &segment, 1);
		} else {
			send_record(&fixture, LOAN_BYTES, PAGE);
			send_all(&fixture, fixture.data, PAGE);
		}
		size_t had = 0;
		ssize_t n = channel_input_read(fixture.input, pieces, 2);
		if (n > 0) { // up to where it vanishes
			assert_memory_equal(place + PAGE - 10, fixture.data, n);
			had = (size_t)n;
			const struct iovec rest[] = {{place + PAGE, 10}, {tail, PAGE}};
			n = channel_input_read(fixture.input, rest, 2);
		}
		assert_int_equal(n, -EFAULT);
		assert_int_equal(read_all(&fixture, data, sizeof(data), PAGE), PAGE - had);
		assert_memory_equal(data, fixture.data + had, PAGE - had);
		munmap(place, 2 * PAGE);
		close(file);
		tear_down(&fixture);
	}
}

static void what_cannot_be_given_back_is_not_used(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[PAGE];
	const struct loan_segment segment = {.length = PAGE};
	set_up(&fixture);
	send_files(&fixture, &fixture.memory, 1);
	send_segments(&fixture, &segment, 1);
	close(fixture.returns); // the guest has its memory back
	assert_int_equal(read_into(&fixture, data, PAGE), -ECONNRESET);
	fixture.returns = -1;
	tear_down(&fixture);
}

static void what_is_copied_in_part_is_not_used_either(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[PAGE];
	const struct loan_segment segment = {.length = PAGE};
	set_up(&fixture);
	send_files(&fixture, &fixture.memory, 1);
	send_segments(&fixture, &segment, 1);
	assert_int_equal(read_into(&fixture, data, 100), 100);
	close(fixture.returns);
	assert_int_equal(read_into(&fixture, data, 100), -ECONNRESET);
	fixture.returns = -1;
	tear_down(&fixture);
}

static void the_end_comes_between_records_only(void **state)
{
	(void)state;
	const struct loan_record records[] = {{LOAN_BYTES, 5}, {LOAN_SEGMENTS, 1}};
	const size_t sent[] = {0, 3, 8, 12, 16, 20};
	for (size_t i = 0; i < sizeof(sent) / sizeof(sent[0]); i++) {
		struct fixture fixture;
		uint8_t data[PAGE];
		uint8_t bytes[32] = {0};
		set_up(&fixture);
		memcpy(bytes, &records[i / 4], 8); // the last two are of segments
		if (sent[i] > 0) {
			send_all(&fixture, bytes, sent[i] - (i == 4 ? 8 : 0));
		}
		close(fixture.device_fd);
		fixture.device_fd = -1;
		ssize_t n;
		do {
			n = read_into(&fixture, data, PAGE);
		} while (n > 0);
		assert_int_equal(n, i == 0 ? 0 : -ECONNRESET);
		tear_down(&fixture);
	}
}

struct nonsense {
	struct loan_record record;
	struct loan_segment segment;
	bool after_files;
};

static void nonsense_ends_it(void **state)
{
	(void)state;
	static const struct nonsense cases[] = {
		{.record = {0, 1}},
		{.record = {99, 1}},
		{.record = {LOAN_BYTES, 0}},
		{.record = {LOAN_FILES, 0}},
		{.record = {LOAN_FILES, 1}, .after_files = true},
		{.record = {LOAN_FILES, LOAN_FILES_MAX + 1}, .after_files = true},
		{.record = {LOAN_FILES, UINT32_MAX}, .after_files = true},
		{.record = {LOAN_SEGMENTS, 0}, .after_files = true},
		{.record = {LOAN_SEGMENTS, LOAN_SEGMENTS_MAX + 1}, .after_files = true},
		{.record = {LOAN_SEGMENTS, UINT32_MAX}, .after_files = true},
		{.record = {LOAN_SEGMENTS, 1}, .segment = {.length = 1}},
		{.record = {LOAN_SEGMENTS, 1}, .after_files = true},
		{.record = {LOAN_SEGMENTS, 1}, .segment = {0, 1, 1}, .after_files = true},
		{.record = {LOAN_SEGMENTS, 1}, .segment = {0, 1, UINT32_MAX}, .after_files = true},
		{.record = {LOAN_SEGMENTS, 1}, .segment = {UINT64_MAX, 1, 0}, .after_files = true},
		{.record = {LOAN_SEGMENTS, 1}, .segment = {INT64_MAX, 1, 0}, .after_files = true},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture fixture;
		uint8_t data[PAGE];
		set_up(&fixture);
		if (cases[i].after_files) {
			send_files(&fixture, &fixture.memory, 1);
		}
		send_record(&fixture, LOAN_BYTES, 2);
		send_all(&fixture, "ok", 2);
		send_all(&fixture, &cases[i].record, sizeof(cases[i].record));
		send_all(&fixture, &cases[i].segment, sizeof(cases[i].segment));
		send_record(&fixture, LOAN_BYTES, 1);
		send_all(&fixture, "x", 1);
		assert_int_equal(read_into(&fixture, data, PAGE), 2);
		assert_true(channel_input_has_more(fixture.input));
		assert_int_equal(read_into(&fixture, data, PAGE), -EPROTO);
		assert_int_equal(read_into(&fixture, data, PAGE), -EPROTO);
		tear_down(&fixture);
	}
}

static void what_is_no_file_ends_it(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[PAGE];
	set_up(&fixture);
	const int files[] = {fixture.memory, fixture.device_fd};
	send_files(&fixture, files, 2);
	assert_int_equal(read_into(&fixture, data, PAGE), -EPROTO);
	tear_down(&fixture);
}

static void fds_that_belong_to_nothing_end_it(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[PAGE];
	int fds[40];
	set_up(&fixture);
	for (int i = 0; i < 40; i++) {
		fds[i] = fixture.memory;
	}
	send_fds(&fixture, 1, fds, 40);
	assert_int_equal(read_into(&fixture, data, PAGE), -EPROTO);
	assert_int_equal(read_into(&fixture, data, PAGE), -EPROTO);
	tear_down(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(bytes_that_are_not_lent_come_as_they_are),
		fd_count_test(records_may_come_byte_by_byte),
		fd_count_test(lent_bytes_are_copied_and_given_back),
		fd_count_test(what_is_not_read_is_not_given_back),
		fd_count_test(pieces_are_filled_one_after_the_other),
		fd_count_test(new_files_replace_the_old_ones),
		fd_count_test(a_file_that_has_grown_is_read),
		fd_count_test(memory_that_is_not_there_ends_it),
		fd_count_test(a_segment_is_read_as_far_as_it_is_there),
		fd_count_test(nothing_is_lost_when_the_place_vanishes),
		fd_count_test(what_cannot_be_given_back_is_not_used),
		fd_count_test(what_is_copied_in_part_is_not_used_either),
		fd_count_test(the_end_comes_between_records_only),
		fd_count_test(nonsense_ends_it),
		fd_count_test(what_is_no_file_ends_it),
		fd_count_test(fds_that_belong_to_nothing_end_it),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
