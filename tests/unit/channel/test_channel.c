#include "channel/channel.h"

#include <errno.h>
#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapping.h"
#include "channel/input.h"
#include "tests/support/fd_count.h"

#define PAGE 4096

enum callback {
	CALLBACK_NONE,
	CALLBACK_FRAME,
	CALLBACK_PLACE,
	CALLBACK_WRITTEN,
	CALLBACK_ENDED,
	CALLBACK_DRAINED,
	CALLBACK_SETTLED,
};

struct received {
	struct channel_header header;
	uint8_t payload[64]; // its beginning
};

// A channel whose peer is a bare socket.
struct fixture {
	struct event_base *base;
	struct channel *channel;
	int peer;

	enum callback destroys; // the handler that destroys the channel
	const char *wrong;      // what the frame and place handlers say
	uint8_t *place;         // where rows are placed
	bool lasting;
	struct mapping *mapping; // of place

	size_t n_received;
	struct received received[256];
	struct channel_mem_write write; // the last that was placed
	unsigned int placed, written, ended, drained, settled;
	size_t seen_by_other; // of what was received, when another event had its turn
	uint64_t pause;       // nanoseconds, after each read
	size_t came;          // bytes
	int error;
	char reason[128];
};

static void may_destroy(struct fixture *fixture, enum callback callback)
{
	if (fixture->destroys == callback) {
		channel_destroy(fixture->channel);
		fixture->channel = NULL;
	}
}

static const char *handle_frame(void *data, const struct channel_frame *frame)
{
	struct fixture *fixture = data;
	assert_int_equal((uintptr_t)frame->payload & 3, 0);
	assert_true(fixture->n_received < 256);
	struct received *received = &fixture->received[fixture->n_received++];
	received->header = frame->header;
	size_t len = frame->header.length;
	memcpy(received->payload, frame->payload,
		len < sizeof(received->payload) ? len : sizeof(received->payload));
	memset(frame->payload, 0xee, len); // the handler's to change
	may_destroy(fixture, CALLBACK_FRAME);
	return fixture->wrong;
}

static const char *handle_place(
	void *data, uint32_t id, const struct channel_mem_write *write, struct channel_rows *rows)
{
	struct fixture *fixture = data;
	(void)id;
	assert_null(rows->base);
	assert_int_equal(rows->rows, write->rows);
	fixture->placed++;
	fixture->write = *write;
	rows->base = fixture->place;
	rows->lasting = fixture->lasting;
	rows->mapping = fixture->mapping;
	may_destroy(fixture, CALLBACK_PLACE);
	return fixture->wrong;
}

static void handle_written(void *data, uint32_t id)
{
	struct fixture *fixture = data;
	assert_int_equal(id, 7);
	fixture->written++;
	may_destroy(fixture, CALLBACK_WRITTEN);
}

static void handle_ended(void *data, int error, const char *reason)
{
	struct fixture *fixture = data;
	fixture->ended++;
	fixture->error = error;
	if (reason != NULL) {
		assert_true(strlen(reason) < sizeof(fixture->reason));
		strcpy(fixture->reason, reason);
	}
	may_destroy(fixture, CALLBACK_ENDED);
}

static void handle_drained(void *data)
{
	struct fixture *fixture = data;
	fixture->drained++;
	may_destroy(fixture, CALLBACK_DRAINED);
}

static void handle_settled(void *data)
{
	struct fixture *fixture = data;
	fixture->settled++;
	may_destroy(fixture, CALLBACK_SETTLED);
}

static uint64_t handle_came(void *data, size_t n)
{
	struct fixture *fixture = data;
	fixture->came += n;
	return fixture->pause;
}

static const struct channel_handler handler = {
	.frame = handle_frame,
	.place = handle_place,
	.written = handle_written,
	.ended = handle_ended,
	.drained = handle_drained,
	.settled = handle_settled,
	.came = handle_came,
};

static void set_up(struct fixture *fixture)
{
	int sockets[2];
	*fixture = (struct fixture){.peer = -1};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	fixture->peer = sockets[1];
	fixture->base = event_base_new();
	assert_non_null(fixture->base);
	fixture->channel = channel_create(fixture->base, sockets[0], &handler, fixture);
	assert_non_null(fixture->channel);
}

static void close_peer(struct fixture *fixture)
{
	close(fixture->peer);
	fixture->peer = -1;
}

static void tear_down(struct fixture *fixture)
{
	channel_destroy(fixture->channel);
	event_base_free(fixture->base);
	if (fixture->peer >= 0) {
		close(fixture->peer);
	}
}

// UNIX sockets deliver at once: a few passes do what there is to do.
static void run(struct fixture *fixture)
{
	for (int i = 0; i < 10; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static void write_all(struct fixture *fixture, const void *data, size_t len)
{
	const uint8_t *at = data;
	while (len > 0) {
		ssize_t n = send(fixture->peer, at, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			run(fixture);
			continue;
		}
		at += n;
		len -= (size_t)n;
	}
}

static size_t put_header(uint8_t *at, uint16_t type, uint32_t id, size_t length)
{
	struct channel_header header = {.length = (uint32_t)length, .type = type, .id = id};
	memcpy(at, &header, sizeof(header));
	return sizeof(header);
}

static size_t put_write(uint8_t *at, size_t length, const struct channel_mem_write *write)
{
	size_t n = put_header(at, CHANNEL_MEM_WRITE, 7, length);
	memcpy(at + n, write, sizeof(*write));
	return n + sizeof(*write);
}

// A MEM_WRITE whose bytes count up from first.
static size_t put_rows(
	uint8_t *at, uint32_t stride, uint32_t row_bytes, uint32_t rows, uint8_t first)
{
	struct channel_mem_write write = {.stride = stride, .row_bytes = row_bytes, .rows = rows};
	size_t len = (size_t)row_bytes * rows;
	size_t n = put_write(at, sizeof(write) + len, &write);
	for (size_t i = 0; i < len; i++) {
		at[n + i] = (uint8_t)(first + i);
	}
	return n + len;
}

// What the channel has sent, until it stops or n bytes are there.
static size_t read_some(struct fixture *fixture, uint8_t *data, size_t n)
{
	size_t done = 0;
	while (done < n) {
		ssize_t got = recv(fixture->peer, data + done, n - done, MSG_DONTWAIT);
		if (got == 0 || (got < 0 && channel_queued(fixture->channel) == 0)) {
			break;
		}
		done += got > 0 ? (size_t)got : 0;
		run(fixture);
	}
	return done;
}

static struct mapping *new_mapping(int *fd, size_t size)
{
	*fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, (off_t)size), 0);
	struct mapping *mapping = mapping_create(*fd, size, true);
	assert_non_null(mapping);
	for (size_t i = 0; i < size; i++) {
		mapping->data[i] = (uint8_t)(i * 7 + i / 256);
	}
	return mapping;
}

/* ---- frames that come ---- */

static void a_frame_in_pieces_of_one_byte_is_one_frame(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t bytes[128];
	size_t len = put_header(bytes, CHANNEL_PING, 0, 5);
	memcpy(bytes + len, "hello", 5);
	len += 5;
	len += put_header(bytes + len, CHANNEL_PONG, 9, 0);
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(fixture.n_received, i < 21 ? 0 : 1);
		write_all(&fixture, bytes + i, 1);
		run(&fixture);
	}
	assert_int_equal(fixture.n_received, 2);
	assert_int_equal(fixture.received[0].header.type, CHANNEL_PING);
	assert_int_equal(fixture.received[0].header.length, 5);
	assert_memory_equal(fixture.received[0].payload, "hello", 5);
	assert_int_equal(fixture.received[1].header.type, CHANNEL_PONG);
	assert_int_equal(fixture.received[1].header.id, 9);
	assert_int_equal(channel_bytes_received(fixture.channel), len);
	assert_int_equal(fixture.ended, 0);
	tear_down(&fixture);
}

static void glued_frames_of_odd_lengths_are_told_apart_and_aligned(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t bytes[200 * 64];
	size_t len = 0;
	for (uint32_t i = 0; i < 200; i++) {
		size_t n = i % 23;
		len += put_header(bytes + len, CHANNEL_STREAM_DATA, i, n);
		memset(bytes + len, (int)i, n);
		len += n;
	}
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.n_received, 200);
	for (uint32_t i = 0; i < 200; i++) {
		uint8_t expected[32];
		memset(expected, (int)i, sizeof(expected));
		assert_int_equal(fixture.received[i].header.id, i);
		assert_int_equal(fixture.received[i].header.length, i % 23);
		assert_memory_equal(fixture.received[i].payload, expected, i % 23);
	}
	tear_down(&fixture);
}

static void the_longest_frame_is_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t *bytes = calloc(2, sizeof(struct channel_header) + CHANNEL_MAX_PAYLOAD);
	size_t len = 0;
	for (int i = 0; i < 2; i++) {
		len += put_header(bytes + len, CHANNEL_MESSAGES, 0, CHANNEL_MAX_PAYLOAD);
		len += CHANNEL_MAX_PAYLOAD;
	}
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.n_received, 2);
	assert_int_equal(fixture.received[1].header.length, CHANNEL_MAX_PAYLOAD);
	free(bytes);
	tear_down(&fixture);
}

static void expect_wrong(const void *bytes, size_t len, const char *reason)
{
	struct fixture fixture;
	set_up(&fixture);
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.n_received, 0);
	assert_int_equal(fixture.placed, 0);
	assert_int_equal(fixture.ended, 1);
	assert_int_equal(fixture.error, -EPROTO);
	assert_string_equal(fixture.reason, reason);
	write_all(&fixture, bytes, len); // nobody reads any more
	run(&fixture);
	assert_int_equal(fixture.ended, 1);
	tear_down(&fixture);
}

static void a_frame_that_is_too_long_ends_the_channel(void **state)
{
	(void)state;
	static const uint32_t lengths[] = {
		CHANNEL_MAX_PAYLOAD + 1, 0x7fffffff, 0xfffffff0, 0xffffffff};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint8_t bytes[16];
		size_t len = put_header(bytes, CHANNEL_MESSAGES, 0, lengths[i]);
		expect_wrong(bytes, len, "frame that is too long");
	}
}

static void a_mem_write_with_hostile_lengths_ends_the_channel(void **state)
{
	(void)state;
	static const char fill[] = "MEM_WRITE whose rows do not fill its payload";
	static const struct {
		uint32_t length;
		struct channel_mem_write write;
		const char *reason;
	} table[] = {
		{0, {.rows = 0}, "MEM_WRITE that is too short"},
		{23, {.rows = 0}, "MEM_WRITE that is too short"},
		{24, {.stride = 1, .row_bytes = 1, .rows = 1}, fill},
		{24 + 5, {.stride = 4, .row_bytes = 4, .rows = 1}, fill},
		{24 + 8, {.stride = 4, .row_bytes = 4, .rows = 3}, fill},
		{0xffffffff, {.stride = 4, .row_bytes = 4, .rows = 1}, fill},
		// products that would be right in 32 bits
		{24, {.stride = 0x10000, .row_bytes = 0x10000, .rows = 0x10000}, fill},
		{24 + 4, {.stride = 0x80000001, .row_bytes = 0x80000001, .rows = 4}, fill},
		{24 + CHANNEL_MAX_ROWS + 1,
			{.stride = CHANNEL_MAX_ROWS + 1,
				.row_bytes = CHANNEL_MAX_ROWS + 1,
				.rows = 1},
			fill},
		{24 + 8, {.stride = 3, .row_bytes = 4, .rows = 2}, "MEM_WRITE whose rows overlap"},
		{24 + 8, {.stride = 0, .row_bytes = 4, .rows = 2}, "MEM_WRITE whose rows overlap"},
	};
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		uint8_t bytes[64] = {0};
		size_t len = put_write(bytes, table[i].length, &table[i].write);
		expect_wrong(bytes, len, table[i].reason);
	}
}

static void what_a_handler_finds_wrong_ends_the_channel(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t bytes[64];
	set_up(&fixture);
	fixture.wrong = "a frame out of place";
	size_t len = put_header(bytes, CHANNEL_PING, 0, 0);
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.n_received, 1);
	assert_int_equal(fixture.ended, 1);
	assert_int_equal(fixture.error, -EPROTO);
	assert_string_equal(fixture.reason, fixture.wrong);
	tear_down(&fixture);

	set_up(&fixture);
	fixture.wrong = "rows out of place";
	write_all(&fixture, bytes, put_rows(bytes, 4, 4, 1, 1));
	run(&fixture);
	assert_int_equal(fixture.placed, 1);
	assert_int_equal(fixture.written, 0);
	assert_int_equal(fixture.error, -EPROTO);
	assert_string_equal(fixture.reason, fixture.wrong);
	tear_down(&fixture);
}

/* ---- rows that come ---- */

static void check_rows(
	const uint8_t *place, size_t stride, size_t row_bytes, size_t rows, uint8_t first)
{
	for (size_t row = 0; row < rows; row++) {
		for (size_t i = 0; i < row_bytes; i++) {
			assert_int_equal(
				place[row * stride + i], (uint8_t)(first + row * row_bytes + i));
		}
		for (size_t i = row_bytes; i < stride && row + 1 < rows; i++) {
			assert_int_equal(place[row * stride + i], 0xaa);
		}
	}
}

static void rows_are_written_with_their_stride_and_nothing_between(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t place[10 * 8], bytes[256];
	memset(place, 0xaa, sizeof(place));
	fixture.place = place;
	size_t len = put_rows(bytes, 10, 7, 8, 3);
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.written, 1);
	assert_int_equal(fixture.n_received, 1);
	check_rows(place, 10, 7, 8, 3);
	assert_int_equal(place[77], 0xaa);
	tear_down(&fixture);
}

static void rows_in_pieces_of_one_byte_are_the_same_rows(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t place[10 * 8], bytes[256];
	memset(place, 0xaa, sizeof(place));
	fixture.place = place;
	size_t len = put_rows(bytes, 10, 7, 8, 3);
	size_t rows_end = len;
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	for (size_t i = 0; i < len; i++) {
		write_all(&fixture, bytes + i, 1);
		run(&fixture);
		assert_int_equal(fixture.written, i + 1 >= rows_end ? 1 : 0);
	}
	assert_int_equal(fixture.n_received, 1);
	check_rows(place, 10, 7, 8, 3);
	tear_down(&fixture);
}

static void rows_of_many_reads_arrive_whole(void **state)
{
	(void)state;
	// more rows than one read has pieces for, and one piece larger than any read
	static const struct {
		uint32_t stride, row_bytes, rows;
	} shapes[] = {
		{600, 512, 512},
		{CHANNEL_MAX_ROWS, CHANNEL_MAX_ROWS, 1},
		{1024, 1024, 256},
		{3, 1, 4000},
	};
	const size_t n_shapes = sizeof(shapes) / sizeof(shapes[0]);
	for (size_t i = 0; i < 2 * n_shapes; i++) {
		struct fixture fixture;
		set_up(&fixture);
		fixture.lasting = i >= n_shapes;
		const typeof(shapes[0]) *shape = &shapes[i % n_shapes];
		size_t size = (size_t)shape->stride * shape->rows;
		uint8_t *place = malloc(size), *bytes = malloc(CHANNEL_MAX_ROWS + 256);
		memset(place, 0xaa, size);
		fixture.place = place;
		size_t len = put_rows(bytes, shape->stride, shape->row_bytes, shape->rows, 11);
		len += put_header(bytes + len, CHANNEL_PING, 0, 0);
		size_t chunk = 10007;
		for (size_t at = 0; at < len; at += chunk) {
			write_all(&fixture, bytes + at, len - at < chunk ? len - at : chunk);
			run(&fixture);
		}
		assert_int_equal(fixture.written, 1);
		assert_int_equal(fixture.n_received, 1);
		assert_int_equal(channel_bytes_received(fixture.channel), len);
		check_rows(place, shape->stride, shape->row_bytes, shape->rows, 11);
		free(place);
		free(bytes);
		tear_down(&fixture);
	}
}

static void rows_without_a_place_are_forgotten(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t *bytes = malloc(CHANNEL_MAX_ROWS + 256);
	size_t len = put_rows(bytes, CHANNEL_MAX_ROWS, CHANNEL_MAX_ROWS, 1, 0);
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.placed, 1);
	assert_int_equal(fixture.written, 1);
	assert_int_equal(fixture.n_received, 1);
	free(bytes);
	tear_down(&fixture);
}

static void the_mapping_of_placed_rows_is_kept_until_they_are_written(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd;
	uint8_t bytes[256];
	size_t len = put_rows(bytes, 10, 10, 10, 0);
	for (size_t cut = len - 1; cut <= len; cut++) {
		set_up(&fixture);
		fixture.mapping = new_mapping(&fd, PAGE);
		fixture.place = fixture.mapping->data;
		write_all(&fixture, bytes, cut);
		run(&fixture);
		assert_int_equal(fixture.written, cut == len);
		assert_int_equal(fixture.mapping->refs, cut == len ? 1 : 2);
		tear_down(&fixture);
		assert_int_equal(fixture.mapping->refs, 1);
		mapping_unref(fixture.mapping);
		close(fd);
	}
}

static void a_mem_write_without_bytes_is_taken(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t bytes[128];
	struct channel_mem_write none = {.stride = 4, .row_bytes = 0, .rows = 0xffffffff};
	int fd;
	fixture.mapping = new_mapping(&fd, PAGE);
	fixture.place = fixture.mapping->data;
	size_t len = put_write(bytes, sizeof(none), &none);
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.placed, 1);
	assert_int_equal(fixture.n_received, 1);
	assert_int_equal(fixture.ended, 0);
	tear_down(&fixture);
	assert_int_equal(fixture.mapping->refs, 1);
	mapping_unref(fixture.mapping);
	close(fd);
}

// Rows for memory that is truncated when cut bytes have come.
static void truncate_while_receiving(size_t cut, uint32_t row_bytes, uint32_t rows)
{
	struct fixture fixture;
	int fd;
	set_up(&fixture);
	size_t size = (size_t)(row_bytes + 64) * rows;
	struct mapping *mapping = new_mapping(&fd, size);
	fixture.place = mapping->data;
	uint8_t *bytes = malloc(size + 256);
	size_t len = put_rows(bytes, row_bytes + 64, row_bytes, rows, 1);
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	write_all(&fixture, bytes, cut);
	run(&fixture);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	write_all(&fixture, bytes + cut, len - cut);
	run(&fixture);
	assert_int_equal(fixture.written, 1);
	assert_int_equal(fixture.n_received, 1);
	assert_int_equal(fixture.ended, 0);
	free(bytes);
	mapping_unref(mapping);
	close(fd);
	tear_down(&fixture);
}

static void rows_for_truncated_memory_are_forgotten_and_frames_go_on(void **state)
{
	(void)state;
	truncate_while_receiving(0, 100, 100);       // through the buffer from the start
	truncate_while_receiving(16, 100, 100);      // between the header and its second part
	truncate_while_receiving(40, 100, 1000);     // straight into the rows
	truncate_while_receiving(5000, 100, 1000);   // in their middle
	truncate_while_receiving(40, 100 * 1024, 2); // long rows
	truncate_while_receiving(100 * 1024, 100 * 1024, 2);
}

/* ---- bytes that do not come by the socket ---- */

// Says that there is more where one byte in the socket has told of all.
struct store {
	struct channel_input input;
	const uint8_t *data;
	size_t len, step; // bytes that are left, that are given at once
	size_t asked;     // for, at first
	bool *destroyed;
};

static ssize_t store_read(struct channel_input *input, const struct iovec *pieces, size_t n_pieces)
{
	struct store *store = (struct store *)input;
	char byte;
	assert_int_equal(n_pieces, 1);
	store->asked = store->asked == 0 ? pieces[0].iov_len : store->asked;
	if (recv(input->fd, &byte, 1, MSG_DONTWAIT) < 0 && store->len == 0) {
		return -EAGAIN;
	}
	size_t n = pieces[0].iov_len < store->step ? pieces[0].iov_len : store->step;
	n = n < store->len ? n : store->len;
	memcpy(pieces[0].iov_base, store->data, n);
	store->data += n;
	store->len -= n;
	return (ssize_t)n;
}

static bool store_has_more(const struct channel_input *input)
{
	return ((const struct store *)input)->len > 0;
}

static void store_destroy(struct channel_input *input)
{
	*((struct store *)input)->destroyed = true;
}

static const struct channel_input_interface store_interface = {
	.read = store_read,
	.has_more = store_has_more,
	.destroy = store_destroy,
};

static void set_up_with_store(struct fixture *fixture, struct store *store)
{
	int sockets[2];
	*fixture = (struct fixture){.base = event_base_new()};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	fixture->peer = sockets[1];
	store->input.interface = &store_interface;
	store->input.fd = sockets[0];
	fixture->channel = channel_create_with_input(
		fixture->base, sockets[0], &store->input, &handler, fixture);
	assert_non_null(fixture->channel);
	assert_int_equal(send(fixture->peer, "", 1, 0), 1);
}

static void what_an_input_still_has_is_read_though_its_socket_is_silent(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[100 * 20];
	bool destroyed = false;
	memset(data, 1, sizeof(data));
	for (uint32_t i = 0; i < 100; i++) {
		put_header(data + i * 20, CHANNEL_PING, i, 4);
	}
	struct store store = {.input.read_ahead = 4096,
		.data = data,
		.len = sizeof(data),
		.step = 7,
		.destroyed = &destroyed};
	set_up_with_store(&fixture, &store);
	for (int i = 0; i < 100; i++) {
		run(&fixture);
	}
	assert_int_equal(fixture.n_received, 100);
	assert_int_equal(fixture.received[99].header.id, 99);
	assert_int_equal(fixture.ended, 0);
	tear_down(&fixture);
	assert_true(destroyed);
}

static void no_more_is_read_ahead_than_an_input_wants(void **state)
{
	(void)state;
	struct fixture fixture;
	static uint8_t data[16 + CHANNEL_MAX_PAYLOAD];
	bool destroyed = false;
	put_header(data, CHANNEL_PING, 5, CHANNEL_MAX_PAYLOAD);
	struct store store = {.input.read_ahead = 64,
		.data = data,
		.len = sizeof(data),
		.step = sizeof(data),
		.destroyed = &destroyed};
	set_up_with_store(&fixture, &store);
	run(&fixture);
	assert_int_equal(store.asked, 64);
	assert_int_equal(fixture.n_received, 1); // in two reads, not in a thousand
	assert_int_equal(fixture.settled, 2);
	tear_down(&fixture);
}

/* ---- frames that go ---- */

static void what_is_pushed_arrives_at_another_channel(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	struct fixture other = {.base = fixture.base};
	other.channel = channel_create(fixture.base, fixture.peer, &handler, &other);
	fixture.peer = -1;
	int fd;
	struct mapping *mapping = new_mapping(&fd, 100 * 1000);
	uint8_t place[100 * 1000];
	memset(place, 0, sizeof(place));
	other.place = place;
	struct channel_rows rows = {
		.base = mapping->data, .stride = 1000, .row_bytes = 900, .rows = 100};
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 1, 2, "abc", 3, "defg", 4));
	assert_true(channel_push_rows(fixture.channel, 7, 0x123456789ab, mapping, &rows));
	assert_true(channel_push(fixture.channel, CHANNEL_PONG, 3, 4, NULL, 0, NULL, 0));
	size_t queued = channel_queued(fixture.channel);
	channel_flush(fixture.channel);
	run(&fixture);
	assert_int_equal(channel_queued(fixture.channel), 0);
	assert_int_equal(channel_bytes_sent(fixture.channel), queued);
	assert_int_equal(other.n_received, 2);
	assert_int_equal(other.received[0].header.type, CHANNEL_PING);
	assert_int_equal(other.received[0].header.id, 1);
	assert_int_equal(other.received[0].header.arg, 2);
	assert_memory_equal(other.received[0].payload, "abcdefg", 7);
	assert_int_equal(other.received[1].header.arg, 4);
	assert_int_equal(other.written, 1);
	assert_true(channel_get64(other.write.offset) == 0x123456789ab);
	for (size_t row = 0; row < 100; row++) {
		assert_memory_equal(place + row * 1000, mapping->data + row * 1000, 900);
		assert_int_equal(place[row * 1000 + 900], 0);
	}
	assert_int_equal(mapping->refs, 1);
	mapping_unref(mapping);
	close(fd);
	channel_destroy(other.channel);
	tear_down(&fixture);
}

// Over a socket that takes little.
static void set_up_narrow(struct fixture *fixture)
{
	int sockets[2];
	set_up(fixture);
	channel_destroy(fixture->channel);
	close_peer(fixture);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	int least = 1;
	assert_int_equal(setsockopt(sockets[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
	fixture->peer = sockets[1];
	fixture->channel = channel_create(fixture->base, sockets[0], &handler, fixture);
	assert_non_null(fixture->channel);
}

// Pushes one frame and rows, then compares what comes out.
static void short_writes_lose_nothing(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd;
	set_up_narrow(&fixture);

	struct mapping *mapping = new_mapping(&fd, 256 * 1000);
	struct channel_rows rows = {
		.base = mapping->data, .stride = 1000, .row_bytes = 997, .rows = 256};
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 1, 0, "abc", 3, NULL, 0));
	assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &rows));
	assert_true(channel_push(fixture.channel, CHANNEL_PONG, 2, 0, "xyz", 3, NULL, 0));
	size_t total = channel_queued(fixture.channel);
	assert_int_equal(total, 19 + 40 + 256 * 997 + 19);
	channel_flush(fixture.channel);
	assert_true(channel_queued(fixture.channel) > 0);
	assert_true(mapping->refs > 1);

	uint8_t *data = malloc(total + 1);
	assert_int_equal(read_some(&fixture, data, total + 1), total);
	assert_memory_equal(data + 16, "abc", 3);
	const uint8_t *at = data + 19 + 40;
	for (size_t row = 0; row < 256; row++) {
		assert_memory_equal(at + row * 997, mapping->data + row * 1000, 997);
	}
	assert_memory_equal(data + total - 3, "xyz", 3);
	assert_true(fixture.drained > 0);
	assert_int_equal(channel_bytes_sent(fixture.channel), total);
	assert_int_equal(mapping->refs, 1);
	free(data);
	mapping_unref(mapping);
	close(fd);
	tear_down(&fixture);
}

static void rows_are_cut_into_frames_of_bounded_length(void **state)
{
	(void)state;
	// one row longer than a frame may be; rows that fill frames unevenly; rows of no length
	static const struct {
		size_t stride, row_bytes, rows, frames;
	} shapes[] = {
		{CHANNEL_MAX_ROWS * 2 + 5, CHANNEL_MAX_ROWS * 2 + 5, 1, 3},
		{CHANNEL_MAX_ROWS + 9, CHANNEL_MAX_ROWS + 2, 2, 4},
		{100 * 1024, 100 * 1024, 5, 3},
		{1000, 0, 10, 0},
		{1000, 10, 0, 0},
	};
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct fixture fixture;
		int fd;
		set_up(&fixture);
		size_t size = shapes[i].stride * (shapes[i].rows > 0 ? shapes[i].rows : 1);
		struct mapping *mapping = new_mapping(&fd, size);
		uint8_t *copy = calloc(1, size), *data = malloc(size + 4096);
		struct channel_rows rows = {.base = mapping->data,
			.stride = shapes[i].stride,
			.row_bytes = shapes[i].row_bytes,
			.rows = shapes[i].rows};
		assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &rows));
		channel_flush(fixture.channel);
		size_t len = read_some(&fixture, data, size + 4096), at = 0, frames = 0;
		while (at < len) {
			struct channel_header header;
			struct channel_mem_write write;
			memcpy(&header, data + at, sizeof(header));
			memcpy(&write, data + at + sizeof(header), sizeof(write));
			assert_int_equal(header.type, CHANNEL_MEM_WRITE);
			assert_int_equal(
				header.length, sizeof(write) + write.row_bytes * write.rows);
			assert_true(write.row_bytes * write.rows <= CHANNEL_MAX_ROWS);
			assert_true(write.stride >= write.row_bytes);
			at += sizeof(header) + sizeof(write);
			for (size_t row = 0; row < write.rows; row++) {
				memcpy(copy + channel_get64(write.offset) + row * write.stride,
					data + at, write.row_bytes);
				at += write.row_bytes;
			}
			frames++;
		}
		assert_int_equal(at, len);
		assert_int_equal(frames, shapes[i].frames);
		for (size_t row = 0; row < shapes[i].rows; row++) {
			size_t start = row * shapes[i].stride;
			assert_memory_equal(
				copy + start, mapping->data + start, shapes[i].row_bytes);
		}
		free(copy);
		free(data);
		mapping_unref(mapping);
		close(fd);
		tear_down(&fixture);
	}
}

// Sends a frame whose payload of len bytes counts up, in three pieces.
static bool send_counting(struct fixture *fixture, uint32_t id, size_t len)
{
	uint8_t header[16], *bytes = malloc(len);
	for (size_t i = 0; i < len; i++) {
		bytes[i] = (uint8_t)(i * 7 + i / 256);
	}
	const struct iovec pieces[] = {
		{header, put_header(header, CHANNEL_STREAM_DATA, id, len)},
		{bytes, len / 3},
		{bytes + len / 3, len - len / 3},
	};
	bool ok = channel_send(fixture->channel, pieces, 3);
	free(bytes);
	return ok;
}

static void expect_counting(const uint8_t *data, uint32_t id, size_t len)
{
	struct channel_header header;
	memcpy(&header, data, sizeof(header));
	assert_int_equal(header.id, id);
	assert_int_equal(header.length, len);
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(data[sizeof(header) + i], (uint8_t)(i * 7 + i / 256));
	}
}

static void what_is_sent_is_with_the_peer_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[128];
	set_up(&fixture);
	assert_true(send_counting(&fixture, 1, 30));
	assert_int_equal(channel_queued(fixture.channel), 0);
	assert_int_equal(channel_bytes_sent(fixture.channel), 46);
	assert_int_equal(recv(fixture.peer, data, sizeof(data), MSG_DONTWAIT), 46);
	expect_counting(data, 1, 30);
	tear_down(&fixture);
}

static void what_is_sent_comes_after_what_is_queued(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[128];
	set_up(&fixture);
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 1, 0, "abc", 3, NULL, 0));
	assert_true(send_counting(&fixture, 2, 30));
	assert_int_equal(channel_queued(fixture.channel), 0);
	assert_int_equal(channel_bytes_sent(fixture.channel), 19 + 46);
	assert_int_equal(recv(fixture.peer, data, sizeof(data), MSG_DONTWAIT), 19 + 46);
	assert_memory_equal(data + 16, "abc", 3);
	expect_counting(data + 19, 2, 30);
	tear_down(&fixture);
}

static void what_the_peer_does_not_take_at_once_is_kept(void **state)
{
	(void)state;
	static const size_t lengths[] = {30000, 12000, 2};
	const size_t total = 30000 + 12000 + 2 + 3 * 16;
	struct fixture fixture;
	uint8_t *data = malloc(total + 1), *at = data;
	set_up_narrow(&fixture);
	for (uint32_t i = 0; i < 3; i++) {
		assert_true(send_counting(&fixture, i, lengths[i]));
	}
	size_t sent = channel_bytes_sent(fixture.channel);
	assert_int_equal(sent + channel_queued(fixture.channel), total);
	assert_true(sent > 0 && sent < 30000);
	assert_int_equal(read_some(&fixture, data, total + 1), total);
	for (uint32_t i = 0; i < 3; i++) {
		expect_counting(at, i, lengths[i]);
		at += 16 + lengths[i];
	}
	assert_true(fixture.drained > 0);
	assert_int_equal(channel_bytes_sent(fixture.channel), total);
	free(data);
	tear_down(&fixture);
}

static void a_frame_that_the_peer_has_no_room_for_is_kept_whole(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t data[46];
	uint32_t n = 0;
	set_up_narrow(&fixture);
	while (channel_queued(fixture.channel) == 0) {
		assert_true(send_counting(&fixture, n++, 30));
	}
	assert_int_equal(channel_queued(fixture.channel), sizeof(data));
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(read_some(&fixture, data, sizeof(data)), sizeof(data));
		expect_counting(data, i, 30);
	}
	assert_int_equal(channel_queued(fixture.channel), 0);
	tear_down(&fixture);
}

static void a_send_that_fails_is_told_from_the_loop(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	assert_int_equal(shutdown(fixture.peer, SHUT_RD), 0);
	assert_true(send_counting(&fixture, 1, 30));
	assert_true(send_counting(&fixture, 2, 30));
	assert_int_equal(fixture.ended, 0);
	run(&fixture);
	assert_int_equal(fixture.ended, 1);
	assert_int_equal(fixture.error, -EPIPE);
	assert_int_equal(channel_bytes_sent(fixture.channel), 0);
	tear_down(&fixture);
}

static void truncated_memory_is_sent_as_zeros_and_frames_go_on(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd;
	set_up(&fixture);
	const size_t size = 16 * PAGE;
	struct mapping *mapping = new_mapping(&fd, size);
	uint8_t *expected = calloc(1, size), *data = malloc(size + 4096);
	memcpy(expected, mapping->data, PAGE);
	struct channel_rows whole = {
		.base = mapping->data, .stride = size, .row_bytes = size, .rows = 1};
	struct channel_rows strided = {
		.base = mapping->data + 100, .stride = 1000, .row_bytes = 900, .rows = 20};
	assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &whole));
	assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &strided));
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 1, 0, "abc", 3, NULL, 0));
	size_t total = channel_queued(fixture.channel);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	channel_flush(fixture.channel);
	assert_int_equal(read_some(&fixture, data, size + 4096), size + 4096);
	assert_memory_equal(data + 40, expected, size);
	uint8_t *tail = malloc(total);
	size_t left = total - size - 4096;
	memcpy(tail, data + 40 + size, 4096 - 40);
	assert_int_equal(read_some(&fixture, tail + 4096 - 40, left), left);
	for (size_t row = 0; row < 20; row++) {
		assert_memory_equal(tail + 40 + row * 900, expected + 100 + row * 1000, 900);
	}
	assert_memory_equal(tail + 40 + 20 * 900 + 16, "abc", 3);
	assert_int_equal(channel_queued(fixture.channel), 0);
	assert_int_equal(fixture.ended, 0);
	free(expected);
	free(data);
	free(tail);
	mapping_unref(mapping);
	close(fd);
	tear_down(&fixture);
}

static void a_channel_that_is_destroyed_lets_go_of_queued_memory(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd;
	set_up(&fixture);
	struct mapping *mapping = new_mapping(&fd, PAGE);
	struct channel_rows rows = {
		.base = mapping->data, .stride = 100, .row_bytes = 50, .rows = 10};
	assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &rows));
	assert_int_equal(mapping->refs, 11);
	channel_destroy(fixture.channel);
	fixture.channel = NULL;
	assert_int_equal(mapping->refs, 1);
	mapping_unref(mapping);
	close(fd);
	tear_down(&fixture);
}

/* ---- the end ---- */

static void a_peer_that_closes_between_frames_ends_the_channel_without_error(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t bytes[16];
	write_all(&fixture, bytes, put_header(bytes, CHANNEL_END, 0, 0));
	close_peer(&fixture);
	run(&fixture);
	assert_int_equal(fixture.n_received, 1);
	assert_int_equal(fixture.ended, 1);
	assert_int_equal(fixture.error, 0);
	assert_string_equal(fixture.reason, "");
	tear_down(&fixture);
}

static void a_peer_that_closes_within_a_frame_is_a_broken_connection(void **state)
{
	(void)state;
	uint8_t bytes[128];
	size_t frame = put_header(bytes, CHANNEL_MESSAGES, 0, 8) + 8;
	memset(bytes + 16, 0, 8);
	for (size_t cut = 1; cut < frame; cut++) {
		struct fixture fixture;
		set_up(&fixture);
		write_all(&fixture, bytes, cut);
		close_peer(&fixture);
		run(&fixture);
		assert_int_equal(fixture.n_received, 0);
		assert_int_equal(fixture.ended, 1);
		assert_int_equal(fixture.error, -ECONNRESET);
		tear_down(&fixture);
	}
	uint8_t place[64];
	size_t rows = put_rows(bytes, 4, 4, 4, 0);
	for (size_t cut = 1; cut < rows; cut++) {
		struct fixture fixture;
		set_up(&fixture);
		fixture.place = place;
		write_all(&fixture, bytes, cut);
		close_peer(&fixture);
		run(&fixture);
		assert_int_equal(fixture.written, 0);
		assert_int_equal(fixture.ended, 1);
		assert_int_equal(fixture.error, -ECONNRESET);
		tear_down(&fixture);
	}
}

static void a_broken_pipe_is_told_after_the_peers_last_frames(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	uint8_t bytes[64];
	size_t len = put_header(bytes, CHANNEL_END, 0, 3);
	memcpy(bytes + len, "why", 3);
	write_all(&fixture, bytes, len + 3);
	close_peer(&fixture);
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 0, 0, NULL, 0, NULL, 0));
	channel_flush(fixture.channel);
	assert_int_equal(fixture.ended, 0); // never from within channel_flush
	assert_int_equal(channel_queued(fixture.channel), 0);
	run(&fixture);
	assert_int_equal(fixture.n_received, 1);
	assert_memory_equal(fixture.received[0].payload, "why", 3);
	assert_int_equal(fixture.ended, 1);
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 0, 0, NULL, 0, NULL, 0));
	channel_flush(fixture.channel);
	run(&fixture);
	assert_int_equal(fixture.ended, 1);
	tear_down(&fixture);
}

static void a_peer_that_takes_nothing_more_is_told_as_a_broken_pipe(void **state)
{
	(void)state;
	struct fixture fixture;
	set_up(&fixture);
	assert_int_equal(shutdown(fixture.peer, SHUT_RD), 0);
	assert_true(channel_push(fixture.channel, CHANNEL_PING, 0, 0, NULL, 0, NULL, 0));
	channel_flush(fixture.channel);
	run(&fixture);
	assert_int_equal(fixture.ended, 1);
	assert_int_equal(fixture.error, -EPIPE);
	tear_down(&fixture);
}

static void shutdown_lets_the_queue_out_first(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd;
	set_up(&fixture);
	struct mapping *mapping = new_mapping(&fd, 1024 * 1024);
	struct channel_rows rows = {
		.base = mapping->data, .stride = 1024, .row_bytes = 1024, .rows = 1024};
	assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &rows));
	size_t total = channel_queued(fixture.channel);
	channel_shutdown(fixture.channel);
	assert_true(channel_queued(fixture.channel) > 0);
	uint8_t *data = malloc(total + 1);
	assert_int_equal(read_some(&fixture, data, total), total);
	assert_int_equal(recv(fixture.peer, data, 1, MSG_DONTWAIT), 0); // the end of the stream
	assert_int_equal(fixture.ended, 0);
	free(data);
	mapping_unref(mapping);
	close(fd);

	// what the peer has to say is still heard
	uint8_t bytes[16];
	write_all(&fixture, bytes, put_header(bytes, CHANNEL_PING, 0, 0));
	run(&fixture);
	assert_int_equal(fixture.n_received, 1);
	tear_down(&fixture);
}

static void shutdown_of_an_empty_queue_is_seen_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t byte;
	set_up(&fixture);
	channel_shutdown(fixture.channel);
	assert_int_equal(recv(fixture.peer, &byte, 1, MSG_DONTWAIT), 0);
	tear_down(&fixture);
}

static void a_channel_may_be_destroyed_by_each_handler(void **state)
{
	(void)state;
	static const enum callback callbacks[] = {
		CALLBACK_FRAME, CALLBACK_PLACE, CALLBACK_WRITTEN, CALLBACK_SETTLED};
	uint8_t place[4096], bytes[8192];
	size_t len = put_rows(bytes, 16, 16, 200, 1);
	for (int i = 0; i < 3; i++) {
		len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	}
	for (size_t i = 0; i < sizeof(callbacks) / sizeof(callbacks[0]); i++) {
		// all of it in one read; and so that the rows end in a read of their own
		static const size_t cuts[] = {0, 100};
		for (size_t cut = 0; cut < 2; cut++) {
			struct fixture fixture;
			set_up(&fixture);
			fixture.place = place;
			fixture.destroys = callbacks[i];
			write_all(&fixture, bytes, cuts[cut]);
			run(&fixture);
			if (fixture.channel != NULL) {
				write_all(&fixture, bytes + cuts[cut], len - cuts[cut]);
			}
			run(&fixture);
			assert_null(fixture.channel);
			if (callbacks[i] == CALLBACK_FRAME) {
				assert_int_equal(fixture.n_received, 1);
			} else if (callbacks[i] != CALLBACK_SETTLED) {
				assert_int_equal(fixture.n_received, 0);
			}
			tear_down(&fixture);
		}
	}
}

static void a_channel_may_be_destroyed_when_it_has_ended(void **state)
{
	(void)state;
	uint8_t bytes[64];
	size_t len = put_header(bytes, CHANNEL_PING, 0, 0);
	size_t wrong = len + put_header(bytes + len, CHANNEL_PING, 0, CHANNEL_MAX_PAYLOAD + 1);
	for (int closes = 0; closes < 2; closes++) {
		struct fixture fixture;
		set_up(&fixture);
		fixture.destroys = CALLBACK_ENDED;
		write_all(&fixture, bytes, closes ? len : wrong);
		if (closes) {
			close_peer(&fixture);
		}
		run(&fixture);
		assert_null(fixture.channel);
		assert_int_equal(fixture.n_received, 1);
		assert_int_equal(fixture.ended, 1);
		tear_down(&fixture);
	}
}

static void a_read_that_was_handed_over_is_settled(void **state)
{
	(void)state;
	struct fixture fixture;
	uint8_t bytes[64];
	set_up(&fixture);
	size_t len = put_header(bytes, CHANNEL_PING, 0, 0);
	len += put_header(bytes + len, CHANNEL_PING, 0, 0);
	write_all(&fixture, bytes, len);
	run(&fixture);
	assert_int_equal(fixture.n_received, 2);
	assert_int_equal(fixture.settled, 1);
	tear_down(&fixture);
}

static void a_channel_may_be_destroyed_when_it_is_drained(void **state)
{
	(void)state;
	struct fixture fixture;
	int fd;
	set_up(&fixture);
	fixture.destroys = CALLBACK_DRAINED;
	struct mapping *mapping = new_mapping(&fd, 1024 * 1024);
	struct channel_rows rows = {
		.base = mapping->data, .stride = 1024, .row_bytes = 1024, .rows = 1024};
	assert_true(channel_push_rows(fixture.channel, 7, 0, mapping, &rows));
	channel_flush(fixture.channel);
	assert_true(channel_queued(fixture.channel) > 0);
	uint8_t data[64 * 1024];
	while (recv(fixture.peer, data, sizeof(data), MSG_DONTWAIT) > 0) {
	}
	run(&fixture);
	assert_null(fixture.channel);
	assert_int_equal(fixture.drained, 1);
	assert_int_equal(mapping->refs, 1);
	mapping_unref(mapping);
	close(fd);
	tear_down(&fixture);
}

static void destroying_no_channel_is_fine(void **state)
{
	(void)state;
	channel_destroy(NULL);
}

// An input of which there is always more, up to a number of frames, while the socket is silent.
struct endless {
	struct channel_input input;
	int event; // readable from half of the first 32 frames on
	unsigned int read;
};

#define ENDLESS_MAX 200 // frames

static ssize_t endless_read(struct channel_input *input, const struct iovec *pieces, size_t n)
{
	struct endless *endless = (struct endless *)input;
	const struct channel_header header = {.type = CHANNEL_CLOSE, .id = 1};
	char byte;
	recv(input->fd, &byte, 1, MSG_DONTWAIT);
	if (endless->read == ENDLESS_MAX) {
		return -EAGAIN;
	}
	assert_true(pieces[n - 1].iov_len >= sizeof(header));
	memcpy(pieces[n - 1].iov_base, &header, sizeof(header));
	if (++endless->read == 16) {
		eventfd_write(endless->event, 1);
	}
	return sizeof(header);
}

static bool endless_has_more(const struct channel_input *input)
{
	return ((const struct endless *)input)->read < ENDLESS_MAX;
}

static void endless_destroy(struct channel_input *input)
{
	close(((struct endless *)input)->event);
	free(input);
}

static const struct channel_input_interface endless_interface = {
	.read = endless_read,
	.has_more = endless_has_more,
	.destroy = endless_destroy,
};

static struct endless *new_endless(int fd)
{
	struct endless *endless = calloc(1, sizeof(*endless));
	assert_non_null(endless);
	endless->input = (struct channel_input){
		.interface = &endless_interface, .fd = fd, .read_ahead = PAGE};
	endless->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return endless;
}

static void note_other(evutil_socket_t fd, short what, void *data)
{
	struct fixture *fixture = data;
	eventfd_t count;
	(void)what;
	eventfd_read(fd, &count);
	fixture->seen_by_other = fixture->n_received;
}

static void what_has_more_leaves_other_events_their_turn(void **state)
{
	(void)state;
	struct fixture fixture = {.base = event_base_new()};
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	struct endless *endless = new_endless(pair[0]);
	fixture.channel = channel_create_with_input(
		fixture.base, pair[0], &endless->input, &handler, &fixture);
	assert_non_null(fixture.channel);
	struct event *other =
		event_new(fixture.base, endless->event, EV_READ | EV_PERSIST, note_other, &fixture);
	event_add(other, NULL);
	assert_int_equal(send(pair[1], "x", 1, 0), 1);
	for (int i = 0; i < ENDLESS_MAX; i++) {
		event_base_loop(fixture.base, EVLOOP_NONBLOCK);
	}
	assert_int_equal(fixture.n_received, ENDLESS_MAX);
	assert_in_range(fixture.seen_by_other, 16, 32);
	event_free(other);
	channel_destroy(fixture.channel);
	event_base_free(fixture.base);
	close(pair[1]);
}

static void nothing_is_read_in_a_pause(void **state)
{
	(void)state;
	struct fixture fixture;
	const struct channel_header ping = {.type = CHANNEL_PING};
	set_up(&fixture);
	fixture.pause = UINT64_C(3600) * 1000000000;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(send(fixture.peer, &ping, sizeof(ping), 0), sizeof(ping));
		for (int pass = 0; pass < 10; pass++) {
			event_base_loop(fixture.base, EVLOOP_NONBLOCK);
		}
	}
	assert_int_equal(fixture.came, sizeof(ping));
	assert_int_equal(fixture.n_received, 1);
	tear_down(&fixture);
}

static void after_a_pause_reading_goes_on(void **state)
{
	(void)state;
	struct fixture fixture;
	const struct channel_header ping = {.type = CHANNEL_PING};
	set_up(&fixture);
	fixture.pause = 1000000;
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(send(fixture.peer, &ping, sizeof(ping), 0), sizeof(ping));
		while (fixture.n_received == i) {
			event_base_loop(fixture.base, EVLOOP_ONCE);
		}
	}
	close(fixture.peer);
	fixture.peer = -1;
	while (fixture.ended == 0) {
		event_base_loop(fixture.base, EVLOOP_ONCE);
	}
	assert_int_equal(fixture.error, 0);
	tear_down(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(nothing_is_read_in_a_pause),
		fd_count_test(after_a_pause_reading_goes_on),
		fd_count_test(a_frame_in_pieces_of_one_byte_is_one_frame),
		fd_count_test(glued_frames_of_odd_lengths_are_told_apart_and_aligned),
		fd_count_test(what_has_more_leaves_other_events_their_turn),
		fd_count_test(the_longest_frame_is_taken),
		fd_count_test(a_frame_that_is_too_long_ends_the_channel),
		fd_count_test(a_mem_write_with_hostile_lengths_ends_the_channel),
		fd_count_test(what_a_handler_finds_wrong_ends_the_channel),
		fd_count_test(rows_are_written_with_their_stride_and_nothing_between),
		fd_count_test(rows_in_pieces_of_one_byte_are_the_same_rows),
		fd_count_test(rows_of_many_reads_arrive_whole),
		fd_count_test(rows_without_a_place_are_forgotten),
		fd_count_test(the_mapping_of_placed_rows_is_kept_until_they_are_written),
		fd_count_test(a_mem_write_without_bytes_is_taken),
		fd_count_test(rows_for_truncated_memory_are_forgotten_and_frames_go_on),
		fd_count_test(what_an_input_still_has_is_read_though_its_socket_is_silent),
		fd_count_test(no_more_is_read_ahead_than_an_input_wants),
		fd_count_test(what_is_pushed_arrives_at_another_channel),
		fd_count_test(short_writes_lose_nothing),
		fd_count_test(rows_are_cut_into_frames_of_bounded_length),
		fd_count_test(what_is_sent_is_with_the_peer_at_once),
		fd_count_test(what_is_sent_comes_after_what_is_queued),
		fd_count_test(what_the_peer_does_not_take_at_once_is_kept),
		fd_count_test(a_frame_that_the_peer_has_no_room_for_is_kept_whole),
		fd_count_test(a_send_that_fails_is_told_from_the_loop),
		fd_count_test(truncated_memory_is_sent_as_zeros_and_frames_go_on),
		fd_count_test(a_channel_that_is_destroyed_lets_go_of_queued_memory),
		fd_count_test(a_peer_that_closes_between_frames_ends_the_channel_without_error),
		fd_count_test(a_peer_that_closes_within_a_frame_is_a_broken_connection),
		fd_count_test(a_broken_pipe_is_told_after_the_peers_last_frames),
		fd_count_test(a_peer_that_takes_nothing_more_is_told_as_a_broken_pipe),
		fd_count_test(shutdown_lets_the_queue_out_first),
		fd_count_test(shutdown_of_an_empty_queue_is_seen_at_once),
		fd_count_test(a_channel_may_be_destroyed_by_each_handler),
		fd_count_test(a_channel_may_be_destroyed_when_it_has_ended),
		fd_count_test(a_channel_may_be_destroyed_when_it_is_drained),
		fd_count_test(a_read_that_was_handed_over_is_settled),
		fd_count_test(destroying_no_channel_is_fine),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
