#include "channel/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/channel.h"
#include "tests/support/fd_count.h"

#define PAGE 4096

static int new_file(void)
{
	int fd = memfd_create("recording", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	return fd;
}

static struct record *new_record(int file)
{
	struct record *record =
		record_create(fcntl(file, F_DUPFD_CLOEXEC, 0), RECORD_TO_HOST, "wayland", 0);
	assert_non_null(record);
	return record;
}

static void add(struct record *record, enum record_direction direction, uint64_t clock,
	const void *bytes, size_t len)
{
	const struct iovec piece = {(void *)bytes, len};
	assert_true(record_add(record, direction, clock, &piece, len));
}

static const char *read_back(struct recording *recording, int file)
{
	recording_init(recording);
	assert_int_equal(lseek(file, 0, SEEK_SET), 0);
	return recording_read(recording, file);
}

// The n-th frame.
static const struct recorded_frame *frame_at(const struct recording *recording, int n)
{
	const struct recorded_frame *frame;
	wl_list_for_each (frame, &recording->frames, link) {
		if (n-- == 0) {
			return frame;
		}
	}
	fail_msg("a frame is missing");
	return NULL;
}

static size_t put_frame(uint8_t *at, uint16_t type, uint32_t id, const char *text)
{
	struct channel_header header = {
		.length = (uint32_t)strlen(text),
		.type = type,
		.id = id,
	};
	memcpy(at, &header, sizeof(header));
	memcpy(at + sizeof(header), text, header.length);
	return sizeof(header) + header.length;
}

static void expect_frame(const struct recording *recording, int n, enum record_direction direction,
	uint64_t clock, uint32_t id, const char *text)
{
	const struct recorded_frame *frame = frame_at(recording, n);
	assert_int_equal(frame->direction, direction);
	assert_int_equal(frame->clock, clock);
	assert_int_equal(frame->header.id, id);
	assert_int_equal(frame->header.length, strlen(text));
	assert_memory_equal(frame->payload, text, strlen(text));
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	int file = new_file();
	struct record *record = new_record(file);
	uint8_t bytes[64];
	size_t len = put_frame(bytes, CHANNEL_STREAM_DATA, 7, "hello");
	add(record, RECORD_TO_HOST, UINT64_C(5000000000), bytes, len);
	len = put_frame(bytes, CHANNEL_CREDIT, 8, "");
	add(record, RECORD_TO_GUEST, 6, bytes, len);
	record_destroy(record);

	struct recording recording;
	assert_null(read_back(&recording, file));
	assert_string_equal(recording.service, "wayland");
	assert_int_equal(recording.flags, 0);
	assert_false(recording.torn);
	assert_int_equal(wl_list_length(&recording.frames), 2);
	expect_frame(&recording, 0, RECORD_TO_HOST, UINT64_C(5000000000), 7, "hello");
	expect_frame(&recording, 1, RECORD_TO_GUEST, 6, 8, "");
	recording_finish(&recording);
	close(file);
}

static void frames_are_joined_from_pieces_of_one_byte(void **state)
{
	(void)state;
	int file = new_file();
	struct record *record = new_record(file);
	uint8_t there[64], back[64];
	size_t len = put_frame(there, CHANNEL_STREAM_DATA, 1, "there");
	assert_int_equal(put_frame(back, CHANNEL_STREAM_DATA, 2, "again"), len);
	for (size_t i = 0; i < len; i++) {
		add(record, RECORD_TO_HOST, 10 + i, &there[i], 1);
		add(record, RECORD_TO_GUEST, 100 + i, &back[i], 1);
	}
	record_destroy(record);

	struct recording recording;
	assert_null(read_back(&recording, file));
	assert_int_equal(wl_list_length(&recording.frames), 2);
	expect_frame(&recording, 0, RECORD_TO_HOST, 10 + len - 1, 1, "there");
	expect_frame(&recording, 1, RECORD_TO_GUEST, 100 + len - 1, 2, "again");
	recording_finish(&recording);
	close(file);
}

static void frames_of_one_piece_are_parted(void **state)
{
	(void)state;
	int file = new_file();
	struct record *record = new_record(file);
	uint8_t bytes[64];
	size_t len = put_frame(bytes, CHANNEL_STREAM_DATA, 1, "odd");
	len += put_frame(bytes + len, CHANNEL_STREAM_DATA, 2, "even");
	add(record, RECORD_TO_HOST, 3, bytes, len);
	record_destroy(record);

	struct recording recording;
	assert_null(read_back(&recording, file));
	assert_int_equal(wl_list_length(&recording.frames), 2);
	expect_frame(&recording, 0, RECORD_TO_HOST, 3, 1, "odd");
	expect_frame(&recording, 1, RECORD_TO_HOST, 3, 2, "even");
	recording_finish(&recording);
	close(file);
}

static void a_file_that_ends_anywhere_gives_what_is_whole(void **state)
{
	(void)state;
	int file = new_file();
	struct record *record = new_record(file);
	uint8_t bytes[64];
	size_t len = put_frame(bytes, CHANNEL_STREAM_DATA, 1, "first");
	add(record, RECORD_TO_HOST, 1, bytes, len);
	off_t first = lseek(file, 0, SEEK_END);
	add(record, RECORD_TO_HOST, 2, bytes, len);
	off_t second = lseek(file, 0, SEEK_END);
	record_destroy(record);

	for (off_t size = second; size >= 0; size--) {
		struct recording recording;
		assert_int_equal(ftruncate(file, size), 0);
		const char *wrong = read_back(&recording, file);
		if (size < (off_t)sizeof(struct record_head)) {
			assert_non_null(wrong);
		} else {
			int whole = (size >= first) + (size == second);
			assert_null(wrong);
			assert_int_equal(wl_list_length(&recording.frames), whole);
			bool ends = size == second || size == first ||
				size == (off_t)sizeof(struct record_head);
			assert_int_equal(recording.torn, !ends);
		}
		recording_finish(&recording);
	}
	close(file);
}

// A head with n bytes at offset changed, and one piece behind it.
static const char *read_changed(off_t offset, const void *bytes, size_t n)
{
	int file = new_file();
	struct record *record = new_record(file);
	uint8_t frame[64];
	add(record, RECORD_TO_HOST, 1, frame, put_frame(frame, CHANNEL_STREAM_DATA, 1, "text"));
	record_destroy(record);
	assert_int_equal(pwrite(file, bytes, n, offset), n);
	struct recording recording;
	const char *wrong = read_back(&recording, file);
	recording_finish(&recording);
	close(file);
	return wrong;
}

static void what_is_no_recording_is_refused(void **state)
{
	(void)state;
	const uint16_t two = 2, none = 0, long_name = RECORD_SERVICE_MAX + 1;
	assert_null(read_changed(0, "F", 1));
	assert_string_equal(read_changed(0, "f", 1), "not a recording");
	off_t version = offsetof(struct record_head, version);
	assert_string_equal(
		read_changed(version, &two, sizeof(two)), "a recording of another version");
	off_t frames = offsetof(struct record_head, channel_version);
	assert_string_equal(
		read_changed(frames, &two, sizeof(two)), "a recording of another version");
	off_t length = offsetof(struct record_head, service_length);
	assert_non_null(read_changed(length, &none, sizeof(none)));
	assert_non_null(read_changed(length, &long_name, sizeof(long_name)));
	assert_non_null(read_changed(offsetof(struct record_head, service), "\0", 1));
}

static void pieces_of_wrong_lengths_and_directions_are_refused(void **state)
{
	(void)state;
	const uint32_t none = 0, too_long = RECORD_PIECE_MAX + 1;
	const uint16_t sideways = 2;
	off_t piece = sizeof(struct record_head);
	off_t length = piece + (off_t)offsetof(struct record_piece, length);
	assert_non_null(read_changed(length, &none, sizeof(none)));
	assert_non_null(read_changed(length, &too_long, sizeof(too_long)));
	off_t direction = piece + (off_t)offsetof(struct record_piece, direction);
	assert_non_null(read_changed(direction, &sideways, sizeof(sideways)));
}

static void a_frame_longer_than_the_channel_allows_is_refused(void **state)
{
	(void)state;
	off_t header = sizeof(struct record_head) + sizeof(struct record_piece);
	const struct channel_header rows = {
		.type = CHANNEL_MEM_WRITE,
		.length = sizeof(struct channel_mem_write) + CHANNEL_MAX_ROWS + 1,
	};
	assert_non_null(read_changed(header, &rows, sizeof(rows)));
	const struct channel_header other = {
		.type = CHANNEL_MESSAGES,
		.length = CHANNEL_MAX_PAYLOAD + 1,
	};
	assert_non_null(read_changed(header, &other, sizeof(other)));
}

static void memory_that_was_truncated_is_recorded_as_zeros(void **state)
{
	(void)state;
	int file = new_file(), memory = new_file();
	assert_int_equal(ftruncate(memory, 3 * PAGE), 0);
	uint8_t *data = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	assert_true(data != MAP_FAILED);
	memset(data, 0x55, 3 * PAGE);
	assert_int_equal(ftruncate(memory, PAGE), 0);
	struct channel_header header = {.type = CHANNEL_MEM_WRITE, .length = 2 * PAGE};
	const struct iovec pieces[] = {
		{&header, sizeof(header)},
		{data + PAGE / 2, 2 * PAGE},
	};
	struct record *record = new_record(file);
	assert_true(record_add(record, RECORD_TO_HOST, 1, pieces, sizeof(header) + 2 * PAGE));
	record_destroy(record);

	struct recording recording;
	assert_null(read_back(&recording, file));
	const struct recorded_frame *frame = frame_at(&recording, 0);
	for (size_t i = 0; i < 2 * PAGE; i++) {
		assert_int_equal(frame->payload[i], i < PAGE / 2 ? 0x55 : 0);
	}
	recording_finish(&recording);
	munmap(data, 3 * PAGE);
	close(memory);
	close(file);
}

static void a_full_disk_ends_the_recording_with_what_is_whole(void **state)
{
	(void)state;
	int file = new_file();
	struct record *record = new_record(file);
	uint8_t bytes[64];
	size_t len = put_frame(bytes, CHANNEL_STREAM_DATA, 1, "kept");
	add(record, RECORD_TO_HOST, 1, bytes, len);
	assert_int_equal(fcntl(file, F_ADD_SEALS, F_SEAL_GROW), 0); // stands for the disk
	const struct iovec piece = {bytes, len};
	assert_false(record_add(record, RECORD_TO_HOST, 2, &piece, len));
	assert_false(record_add(record, RECORD_TO_HOST, 3, &piece, len));
	record_destroy(record);

	struct recording recording;
	assert_null(read_back(&recording, file));
	assert_false(recording.torn);
	assert_int_equal(wl_list_length(&recording.frames), 1);
	recording_finish(&recording);
	close(file);
}

static void a_recording_is_written_again(void **state)
{
	(void)state;
	int file = new_file(), other = new_file();
	struct record *record = new_record(file);
	uint8_t bytes[64];
	add(record, RECORD_TO_GUEST, 9, bytes, put_frame(bytes, CHANNEL_STREAM_DATA, 1, "text"));
	record_destroy(record);
	struct recording recording;
	assert_null(read_back(&recording, file));
	recording.flags = RECORD_MUTATED;
	assert_true(recording_write(&recording, fcntl(other, F_DUPFD_CLOEXEC, 0)));
	recording_finish(&recording);

	assert_null(read_back(&recording, other));
	assert_int_equal(recording.flags, RECORD_MUTATED);
	expect_frame(&recording, 0, RECORD_TO_GUEST, 9, 1, "text");
	recording_finish(&recording);
	close(other);
	close(file);
}

static void each_session_has_a_new_file(void **state)
{
	(void)state;
	char directory[] = "/tmp/fdferry-recording.XXXXXX", path[64], name[80];
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/file", directory);
	const char *const ends[] = {"", ".2", ".3"};
	for (size_t i = 0; i < 3; i++) {
		char expected[80];
		struct stat status;
		int fd = record_create_file(path, name, sizeof(name));
		assert_true(fd >= 0);
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fstat(fd, &status), 0);
		assert_int_equal(status.st_mode & 0777, 0600);
		snprintf(expected, sizeof(expected), "%s%s", path, ends[i]);
		assert_string_equal(name, expected);
		close(fd);
	}
	for (size_t i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "%s%s", path, ends[i]);
		assert_int_equal(unlink(name), 0);
	}
	assert_int_equal(rmdir(directory), 0);
	assert_int_equal(record_create_file(path, name, sizeof(name)), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_written_is_read),
		fd_count_test(frames_are_joined_from_pieces_of_one_byte),
		fd_count_test(frames_of_one_piece_are_parted),
		fd_count_test(a_file_that_ends_anywhere_gives_what_is_whole),
		fd_count_test(what_is_no_recording_is_refused),
		fd_count_test(pieces_of_wrong_lengths_and_directions_are_refused),
		fd_count_test(a_frame_longer_than_the_channel_allows_is_refused),
		fd_count_test(memory_that_was_truncated_is_recorded_as_zeros),
		fd_count_test(a_full_disk_ends_the_recording_with_what_is_whole),
		fd_count_test(a_recording_is_written_again),
		fd_count_test(each_session_has_a_new_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
