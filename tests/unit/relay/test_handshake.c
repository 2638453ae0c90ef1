#include "relay/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/channel.h"
#include "channel/input.h"
#include "tests/support/channel_pair.h"
#include "tests/support/fd_count.h"

#define PATIENCE_MS 60000

static const char wrong_length[] = "HELLO with a wrong length";
static const char torn[] = "the connection ended within HELLO";

// A HELLO as it is on the wire.
struct packet {
	struct channel_header header;
	struct channel_hello head;
	uint8_t rest[4096];
};

static size_t packet_size(const struct packet *packet)
{
	return sizeof(packet->header) + packet->header.length;
}

static struct packet new_packet(const char *service, uint16_t n_contents)
{
	struct packet packet = {
		.header = {.type = CHANNEL_HELLO},
		.head = {.magic = CHANNEL_MAGIC,
			.version_min = CHANNEL_VERSION,
			.version_max = CHANNEL_VERSION,
			.service_length = (uint16_t)strlen(service),
			.n_contents = n_contents},
	};
	memcpy(packet.rest, service, strlen(service));
	packet.header.length =
		(uint32_t)(sizeof(packet.head) + strlen(service) + n_contents * CONTENT_HASH_SIZE);
	return packet;
}

// What is said of the first len bytes of a packet, after which the connection is closed or left.
// Until something has arrived, or the other end's close has: over AF_VSOCK both take a moment.
static void wait_for(int fd, short events)
{
	struct pollfd arrived = {.fd = fd, .events = events};
	assert_int_equal(poll(&arrived, 1, PATIENCE_MS), 1);
}

static const char *read_packet(const struct packet *packet, size_t len, bool closes)
{
	int ends[2];
	struct handshake_hello hello;
	channel_pair_create(ends);
	assert_int_equal(write(ends[0], packet, len), (ssize_t)len);
	if (closes) {
		close(ends[0]);
	}
	if (len > 0) {
		wait_for(ends[1], POLLIN);
	}
	struct channel_input *input = channel_input_create(ends[1]);
	assert_non_null(input);
	const char *wrong = handshake_read(input, closes ? PATIENCE_MS : 0, &hello);
	channel_input_destroy(input);
	if (!closes) {
		close(ends[0]);
	}
	close(ends[1]);
	return wrong;
}

static const char *read_whole(const struct packet *packet)
{
	return read_packet(packet, packet_size(packet), true);
}

static void what_is_opened_is_read(void **state)
{
	(void)state;
	static const size_t n_contents[] = {0, 1, CHANNEL_MAX_CONTENTS};
	for (size_t i = 0; i < sizeof(n_contents) / sizeof(n_contents[0]); i++) {
		struct handshake_hello hello = {
			.service = "wayland", .features = 0x80000001, .n_contents = n_contents[i]};
		for (size_t n = 0; n < n_contents[i]; n++) {
			memset(hello.contents[n].bytes, (int)n + 1, CONTENT_HASH_SIZE);
		}
		memset(hello.link, 0x5a, sizeof(hello.link));
		int ends[2];
		uint8_t boot_id[16], byte;
		channel_pair_create(ends);
		uint64_t before = channel_clock();
		assert_int_equal(handshake_open(ends[0], &hello, PATIENCE_MS), 0);
		assert_int_equal(write(ends[0], "x", 1), 1); // the next frame
		struct handshake_hello read;
		struct channel_input *input = channel_input_create(ends[1]);
		assert_non_null(input);
		assert_null(handshake_read(input, PATIENCE_MS, &read));
		channel_input_destroy(input);
		assert_string_equal(read.service, "wayland");
		assert_int_equal(read.features, 0x80000001);
		assert_int_equal(read.n_contents, n_contents[i]);
		assert_memory_equal(read.contents, hello.contents, sizeof(hello.contents));
		assert_memory_equal(read.link, hello.link, sizeof(hello.link));
		assert_true(read.clock >= before && read.clock <= channel_clock());
		handshake_boot_id(boot_id);
		assert_memory_equal(read.boot_id, boot_id, sizeof(boot_id));
		// nothing was read beyond it
		assert_int_equal(recv(ends[1], &byte, 1, 0), 1);
		assert_int_equal(byte, 'x');
		close(ends[0]);
		close(ends[1]);
	}
}

static void the_longest_service_name_is_read(void **state)
{
	(void)state;
	char name[HANDSHAKE_SERVICE_MAX + 2];
	memset(name, 'a', sizeof(name));
	name[HANDSHAKE_SERVICE_MAX + 1] = '\0';
	struct packet packet = new_packet(name, 0);
	assert_string_equal(read_whole(&packet), wrong_length);
	name[HANDSHAKE_SERVICE_MAX] = '\0';
	packet = new_packet(name, CHANNEL_MAX_CONTENTS);
	assert_null(read_whole(&packet));
	packet = new_packet("", 0);
	assert_string_equal(read_whole(&packet), wrong_length);
}

static void every_truncation_is_an_end_within_hello(void **state)
{
	(void)state;
	struct packet packet = new_packet("wayland", 2);
	assert_null(read_whole(&packet));
	for (size_t len = 0; len < packet_size(&packet); len++) {
		assert_string_equal(read_packet(&packet, len, true), torn);
	}
}

static void every_truncation_that_is_left_open_times_out(void **state)
{
	(void)state;
	struct packet packet = new_packet("wayland", 2);
	for (size_t len = 0; len < packet_size(&packet); len++) {
		assert_string_equal(read_packet(&packet, len, false), "no HELLO came in time");
	}
	assert_null(read_packet(&packet, packet_size(&packet), false)); // it is there already
}

static void the_first_frame_has_to_be_hello(void **state)
{
	(void)state;
	static const uint16_t types[] = {0, CHANNEL_WELCOME, CHANNEL_MEM_WRITE, 0xffff};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct packet packet = new_packet("wayland", 0);
		packet.header.type = types[i];
		assert_string_equal(read_whole(&packet), "the first frame is not HELLO");
	}
}

static void another_protocol_is_told_by_its_magic(void **state)
{
	(void)state;
	struct packet packet = new_packet("wayland", 0);
	for (int bit = 0; bit < 32; bit++) {
		packet.head.magic = CHANNEL_MAGIC ^ 1u << bit;
		assert_string_equal(read_whole(&packet), "the first frame is not fdferry's HELLO");
	}
}

static void a_range_of_versions_has_to_hold_ours(void **state)
{
	(void)state;
	static const char none[] = "no channel version in common";
	static const struct {
		uint16_t min, max;
		const char *wrong;
	} table[] = {
		{0, CHANNEL_VERSION, NULL},
		{CHANNEL_VERSION, 0xffff, NULL},
		{0, 0xffff, NULL},
		{0, CHANNEL_VERSION - 1, none},
		{CHANNEL_VERSION + 1, 0xffff, none},
		{0xffff, 0, none},
	};
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct packet packet = new_packet("wayland", 0);
		packet.head.version_min = table[i].min;
		packet.head.version_max = table[i].max;
		const char *wrong = read_whole(&packet);
		assert_true((wrong == NULL) == (table[i].wrong == NULL));
		if (wrong != NULL) {
			assert_string_equal(wrong, table[i].wrong);
		}
	}
}

static void lengths_have_to_agree(void **state)
{
	(void)state;
	const struct packet right = new_packet("wayland", 1);
	static const uint32_t lengths[] = {0, 1, sizeof(struct channel_hello) - 1,
		sizeof(struct channel_hello), sizeof(struct channel_hello) + 7 + 15,
		sizeof(struct channel_hello) + 7 + 17, 2000, 0x7fffffff, UINT32_MAX};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct packet packet = right;
		packet.header.length = lengths[i];
		// as many bytes as it says, where that can be
		assert_string_equal(
			read_packet(&packet, lengths[i] < 4000 ? packet_size(&packet) : 4096, true),
			wrong_length);
	}
	static const uint16_t wrong[] = {0, 6, 8, HANDSHAKE_SERVICE_MAX + 1, 0x7fff, 0xffff};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct packet packet = right;
		packet.head.service_length = wrong[i];
		assert_string_equal(read_whole(&packet), wrong_length);
		packet = right;
		packet.head.n_contents = wrong[i];
		assert_string_equal(read_whole(&packet), wrong_length);
	}
	// lengths that make up for each other
	struct packet packet = new_packet("waylandwaylandwayland--", 0);
	packet.head.service_length = 7;
	packet.head.n_contents = 1;
	assert_null(read_whole(&packet));
}

static void too_many_contents_are_wrong(void **state)
{
	(void)state;
	struct packet packet = new_packet("wayland", CHANNEL_MAX_CONTENTS + 1);
	assert_string_equal(read_whole(&packet), wrong_length);
}

static void a_nul_in_the_name_is_wrong(void **state)
{
	(void)state;
	for (size_t i = 0; i < 7; i++) {
		struct packet packet = new_packet("wayland", 1);
		packet.rest[i] = '\0';
		assert_string_equal(read_whole(&packet), "HELLO with a NUL in the service name");
	}
}

static void a_connection_that_is_gone_is_an_error_for_who_opens(void **state)
{
	(void)state;
	struct handshake_hello hello = {.service = "wayland"};
	int ends[2];
	channel_pair_create(ends);
	close(ends[1]);
	wait_for(ends[0], POLLRDHUP);
	assert_int_equal(handshake_open(ends[0], &hello, PATIENCE_MS), -EPIPE);
	assert_int_equal(handshake_welcome(ends[0], &hello, 0, -1, PATIENCE_MS), -EPIPE);
	handshake_refuse(ends[0], CHANNEL_REFUSE_BUSY, "busy");
	close(ends[0]);
}

static void fill(int fd)
{
	static const uint8_t bytes[4096];
	for (size_t len = sizeof(bytes); len > 0; len /= 2) {
		while (send(fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
		}
	}
}

static void a_peer_that_does_not_read_is_not_waited_for(void **state)
{
	(void)state;
	struct handshake_hello hello = {.service = "wayland"};
	int ends[2];
	channel_pair_create(ends);
	fill(ends[0]);
	assert_int_equal(handshake_open(ends[0], &hello, 1), -ETIMEDOUT);
	assert_int_equal(handshake_welcome(ends[0], &hello, 0, -1, 1), -ETIMEDOUT);
	assert_int_equal(handshake_welcome(ends[0], &hello, 0, -1, 0), -ETIMEDOUT);
	handshake_refuse(ends[0], CHANNEL_REFUSE_BUSY, "busy");
	close(ends[0]);
	close(ends[1]);
}

static void what_a_peer_reads_late_is_sent(void **state)
{
	(void)state;
	struct handshake_hello hello = {.service = "wayland"};
	int ends[2];
	channel_pair_create(ends);
	fill(ends[0]);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(ends[1]);
		_exit(handshake_open(ends[0], &hello, PATIENCE_MS) == 0 ? 0 : 1);
	}
	close(ends[0]);
	uint8_t bytes[4096];
	while (recv(ends[1], bytes, sizeof(bytes), 0) > 0) {
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(ends[1]);
}

static void welcome_gives_back_what_hello_said(void **state)
{
	(void)state;
	struct handshake_hello hello = {.features = 0x0f, .clock = 0x123456789abcdef0};
	struct {
		struct channel_header header;
		struct channel_welcome welcome;
	} read;
	int ends[2];
	uint8_t boot_id[16];
	channel_pair_create(ends);
	assert_int_equal(handshake_welcome(ends[0], &hello, 0x3c, -1, PATIENCE_MS), 0);
	close(ends[0]);
	assert_int_equal(recv(ends[1], &read, sizeof(read), 0), sizeof(read));
	assert_int_equal(read.header.type, CHANNEL_WELCOME);
	assert_int_equal(read.header.length, sizeof(read.welcome));
	assert_int_equal(read.welcome.magic, CHANNEL_MAGIC);
	assert_int_equal(read.welcome.version, CHANNEL_VERSION);
	assert_int_equal(read.welcome.features, 0x0c);
	assert_true(channel_get64(read.welcome.hello_clock) == hello.clock);
	assert_true(channel_get64(read.welcome.received_clock) <= channel_clock());
	assert_true(channel_get64(read.welcome.received_clock) <=
		channel_get64(read.welcome.sent_clock));
	handshake_boot_id(boot_id);
	assert_memory_equal(read.welcome.boot_id, boot_id, sizeof(boot_id));
	assert_int_equal(recv(ends[1], &read, 1, 0), 0);
	close(ends[1]);
}

static ino_t inode(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static void receive_welcome(struct channel_input *input)
{
	uint8_t read[sizeof(struct channel_header) + sizeof(struct channel_welcome)];
	const struct iovec pieces[] = {{read, 10}, {read + 10, sizeof(read) - 10}};
	assert_int_equal(channel_input_read(input, pieces, 2), sizeof(read));
	struct channel_header header;
	memcpy(&header, read, sizeof(header));
	assert_int_equal(header.type, CHANNEL_WELCOME);
}

static void a_region_comes_with_welcome_for_who_takes_it(void **state)
{
	(void)state;
	for (int takes = 0; takes < 2; takes++) {
		struct handshake_hello hello = {.features = CHANNEL_FEATURE_REGION};
		int ends[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
		int region = memfd_create("region", MFD_CLOEXEC);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(handshake_welcome(ends[0], &hello, CHANNEL_FEATURE_REGION,
						 region, PATIENCE_MS),
				0);
		}
		struct channel_input *input = takes ? channel_input_create_with_fd(ends[1])
						    : channel_input_create(ends[1]);
		receive_welcome(input);
		int fd = channel_input_take_fd(input);
		assert_int_equal(fd >= 0, takes);
		if (takes) {
			assert_int_equal(inode(fd), inode(region));
			assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
			close(fd);
		}
		receive_welcome(input); // whose fd nobody waits for any more
		assert_int_equal(channel_input_take_fd(input), -1);
		channel_input_destroy(input);
		close(region);
		close(ends[0]);
		close(ends[1]);
	}
}

static void who_has_our_boot_id_is_local(void **state)
{
	(void)state;
	struct handshake_hello hello = {0};
	assert_false(handshake_is_local(&hello));
	handshake_boot_id(hello.boot_id);
	assert_true(handshake_is_local(&hello));
	hello.boot_id[15] ^= 1;
	assert_false(handshake_is_local(&hello));
}

static void refuse_says_why_and_ends_the_stream(void **state)
{
	(void)state;
	char text[CHANNEL_MAX_TEXT + 100];
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	static const size_t lengths[] = {0, 5, CHANNEL_MAX_TEXT, CHANNEL_MAX_TEXT + 1};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		int ends[2];
		struct channel_header header;
		char read[2 * CHANNEL_MAX_TEXT];
		size_t expected = lengths[i] < CHANNEL_MAX_TEXT ? lengths[i] : CHANNEL_MAX_TEXT;
		channel_pair_create(ends);
		handshake_refuse(
			ends[0], CHANNEL_REFUSE_SERVICE, text + sizeof(text) - 1 - lengths[i]);
		assert_int_equal(recv(ends[1], &header, sizeof(header), 0), sizeof(header));
		assert_int_equal(header.type, CHANNEL_REFUSE);
		assert_int_equal(header.arg, CHANNEL_REFUSE_SERVICE);
		assert_int_equal(header.length, expected);
		assert_int_equal(recv(ends[1], read, sizeof(read), MSG_WAITALL), expected);
		close(ends[0]);
		close(ends[1]);
	}
}

// Would hang if it failed.
static void refuse_does_not_wait_for_a_peer_that_does_not_read(void **state)
{
	(void)state;
	int ends[2];
	char data[4096] = {0};
	channel_pair_create(ends);
	while (send(ends[0], data, sizeof(data), MSG_DONTWAIT) > 0) {
	}
	handshake_refuse(ends[0], CHANNEL_REFUSE_BUSY, "busy");
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	signal(SIGPIPE, SIG_DFL); // nothing here may raise it
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_opened_is_read),
		fd_count_test(the_longest_service_name_is_read),
		fd_count_test(every_truncation_is_an_end_within_hello),
		fd_count_test(every_truncation_that_is_left_open_times_out),
		fd_count_test(the_first_frame_has_to_be_hello),
		fd_count_test(another_protocol_is_told_by_its_magic),
		fd_count_test(a_range_of_versions_has_to_hold_ours),
		fd_count_test(lengths_have_to_agree),
		fd_count_test(too_many_contents_are_wrong),
		fd_count_test(a_nul_in_the_name_is_wrong),
		fd_count_test(a_connection_that_is_gone_is_an_error_for_who_opens),
		fd_count_test(a_peer_that_does_not_read_is_not_waited_for),
		fd_count_test(what_a_peer_reads_late_is_sent),
		fd_count_test(welcome_gives_back_what_hello_said),
		fd_count_test(a_region_comes_with_welcome_for_who_takes_it),
		fd_count_test(who_has_our_boot_id_is_local),
		fd_count_test(refuse_says_why_and_ends_the_stream),
		fd_count_test(refuse_does_not_wait_for_a_peer_that_does_not_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
