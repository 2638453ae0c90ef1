#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "host-proxy/guest_memory.h"
#include "host-proxy/vhost_user.h"
#include "tests/support/fd_count.h"
#include "tests/support/virtual_machine.h"

#define FEATURES  (MACHINE_VERSION_1 | MACHINE_INDIRECT | MACHINE_EVENT_INDEX | MACHINE_PROTOCOL)
#define REPLY_ACK (1u << 3)
#define CONFIG    (1u << 9)
#define MEM_SLOTS (1u << 15)

struct fixture {
	struct event_base *base;
	struct vhost_user *vhost;
	struct machine machine;
	uint64_t space;
	unsigned int starts, kicks, resets, ends;
	char wrong[128]; // empty: orderly
};

static void handle_started(void *data, unsigned int queue)
{
	(void)queue;
	((struct fixture *)data)->starts++;
}

static void handle_kicked(void *data, unsigned int queue)
{
	(void)queue;
	((struct fixture *)data)->kicks++;
}

static void handle_reset(void *data)
{
	((struct fixture *)data)->resets++;
}

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	fixture->ends++;
	strncpy(fixture->wrong, wrong != NULL ? wrong : "", sizeof(fixture->wrong) - 1);
}

static const struct vhost_user_handler handler = {
	.started = handle_started,
	.kicked = handle_kicked,
	.reset = handle_reset,
	.ended = handle_ended,
};

static void begin(struct fixture *fixture)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*fixture = (struct fixture){.space = 42};
	fixture->base = event_base_new();
	const struct vhost_user_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.device = &fixture->space,
		.device_size = sizeof(fixture->space),
		.n_queues = VHOST_USER_QUEUES_MAX,
		.handler = &handler,
		.data = fixture,
	};
	fixture->vhost = vhost_user_create(&config);
	assert_non_null(fixture->vhost);
	machine_init(&fixture->machine, pair[0], MACHINE_VERSION_1);
}

static void end(struct fixture *fixture)
{
	vhost_user_destroy(fixture->vhost);
	machine_finish(&fixture->machine);
	event_base_free(fixture->base);
}

static void turn(struct fixture *fixture)
{
	for (int i = 0; i < 10; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static void expect_end(struct fixture *fixture, const char *wrong)
{
	turn(fixture);
	assert_int_equal(fixture->ends, 1);
	assert_string_equal(fixture->wrong, wrong);
	end(fixture);
}

static uint64_t ask(struct fixture *fixture, uint32_t request)
{
	uint64_t number = 0;
	machine_send(&fixture->machine, request, NULL, 0, NULL, 0);
	turn(fixture);
	assert_int_equal(machine_reply(&fixture->machine, request, &number, sizeof(number)), 8);
	return number;
}

static void features_are_negotiated(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	assert_int_equal(ask(&fixture, MACHINE_GET_FEATURES), FEATURES);
	assert_int_equal(
		ask(&fixture, MACHINE_GET_PROTOCOL_FEATURES), REPLY_ACK | CONFIG | MEM_SLOTS);
	machine_send_number(&fixture.machine, MACHINE_SET_PROTOCOL_FEATURES, CONFIG);
	machine_send_number(&fixture.machine, MACHINE_SET_FEATURES, FEATURES);
	turn(&fixture);
	assert_int_equal(fixture.ends, 0);
	machine_hang_up(&fixture.machine);
	expect_end(&fixture, "");
}

static void queues_start_when_they_have_all(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	assert_null(vhost_user_queue(fixture.vhost, 0));
	machine_boot(&fixture.machine, 4);
	turn(&fixture);
	assert_int_equal(fixture.starts, 2);
	assert_int_equal(fixture.resets, 0);
	assert_non_null(vhost_user_queue(fixture.vhost, 0));
	assert_null(vhost_user_queue(fixture.vhost, 2));
	unsigned int before = fixture.kicks;
	machine_kick(&fixture.machine, 1);
	turn(&fixture);
	assert_int_equal(fixture.kicks, before + 1);
	end(&fixture);
}

static void a_queue_stops_and_goes_on(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtqueue_chain chain;
	uint32_t reply[2];
	begin(&fixture);
	machine_boot(&fixture.machine, 4);
	turn(&fixture);
	const struct guest_memory *memory = vhost_user_memory(fixture.vhost);
	assert_int_equal(
		virtqueue_pop(vhost_user_queue(fixture.vhost, 0), memory, &chain), VIRTQUEUE_CHAIN);
	machine_send_state(&fixture.machine, MACHINE_GET_VRING_BASE, 0, 0);
	turn(&fixture);
	assert_int_equal(machine_reply(&fixture.machine, MACHINE_GET_VRING_BASE, reply, 8), 8);
	assert_int_equal(reply[1], 1);
	assert_null(vhost_user_queue(fixture.vhost, 0));
	machine_start_queue(&fixture.machine, 0, 1); // after a pause
	turn(&fixture);
	assert_int_equal(fixture.resets, 0);
	assert_int_equal(
		virtqueue_pop(vhost_user_queue(fixture.vhost, 0), memory, &chain), VIRTQUEUE_CHAIN);
	assert_int_equal(chain.head, 1);
	machine_send_state(&fixture.machine, MACHINE_GET_VRING_BASE, 0, 0);
	machine_start_queue(&fixture.machine, 0, 0); // after a reboot
	turn(&fixture);
	assert_int_equal(fixture.resets, 1);
	end(&fixture);
}

static void each_kick_is_heard_once(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_boot(&fixture.machine, 1);
	turn(&fixture);
	fixture.kicks = 0;
	for (unsigned int i = 1; i <= 3; i++) {
		assert_int_equal(eventfd_write(fixture.machine.queues[0].kick_fd, i), 0);
		turn(&fixture);
		assert_int_equal(fixture.kicks, i);
	}
	end(&fixture);
}

static void the_guest_is_called(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtqueue_chain chain;
	uint64_t count = 0;
	begin(&fixture);
	machine_boot(&fixture.machine, 1);
	turn(&fixture);
	struct virtqueue *queue = vhost_user_queue(fixture.vhost, 0);
	virtqueue_pop(queue, vhost_user_memory(fixture.vhost), &chain);
	vhost_user_call(fixture.vhost, 0);
	assert_true(read(fixture.machine.queues[0].call_fd, &count, 8) < 0);
	virtqueue_push(queue, &chain, 0);
	vhost_user_call(fixture.vhost, 0);
	assert_int_equal(read(fixture.machine.queues[0].call_fd, &count, 8), 8);
	assert_int_equal(count, 1);
	end(&fixture);
}

static void a_call_is_made_again_when_its_eventfd_is_another(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtqueue_chain chain;
	const uint64_t index = 0;
	uint64_t count = 0;
	begin(&fixture);
	machine_boot(&fixture.machine, 1);
	turn(&fixture);
	struct virtqueue *queue = vhost_user_queue(fixture.vhost, 0);
	virtqueue_pop(queue, vhost_user_memory(fixture.vhost), &chain);
	virtqueue_push(queue, &chain, 0);
	int other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(other >= 0);
	machine_send(&fixture.machine, MACHINE_SET_VRING_CALL, &index, sizeof(index), &other, 1);
	vhost_user_call(fixture.vhost, 0); // before that is read
	turn(&fixture);
	assert_int_equal(read(other, &count, 8), 8);
	close(other);
	end(&fixture);
}

static void the_configuration_is_read(void **state)
{
	(void)state;
	struct fixture fixture;
	struct {
		uint32_t offset, size, flags;
		uint8_t bytes[8];
	} space = {.size = 8};
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_PROTOCOL_FEATURES, CONFIG);
	machine_send(&fixture.machine, MACHINE_GET_CONFIG, &space, 20, NULL, 0);
	turn(&fixture);
	assert_int_equal(machine_reply(&fixture.machine, MACHINE_GET_CONFIG, &space, 20), 20);
	assert_int_equal(space.bytes[0], 42);
	space.offset = 1;
	machine_send(&fixture.machine, MACHINE_GET_CONFIG, &space, 20, NULL, 0);
	turn(&fixture);
	assert_int_equal(machine_reply(&fixture.machine, MACHINE_GET_CONFIG, &space, 20), 0);
	end(&fixture);
}

static void memory_comes_in_regions_too(void **state)
{
	(void)state;
	struct fixture fixture;
	const struct {
		uint64_t padding, address, size, user, offset;
	} region = {0, MACHINE_ADDRESS, MACHINE_MEMORY, MACHINE_USER, 0};
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_PROTOCOL_FEATURES, MEM_SLOTS);
	machine_send(&fixture.machine, MACHINE_ADD_MEM_REG, &region, sizeof(region),
		&fixture.machine.memory_fd, 1);
	turn(&fixture);
	assert_int_equal(vhost_user_memory(fixture.vhost)->count, 1);
	machine_send(&fixture.machine, MACHINE_REM_MEM_REG, &region, sizeof(region), NULL, 0);
	turn(&fixture);
	assert_int_equal(vhost_user_memory(fixture.vhost)->count, 0);
	assert_int_equal(fixture.ends, 0);
	end(&fixture);
}

static void bytes_may_come_one_by_one(void **state)
{
	(void)state;
	struct fixture fixture;
	const uint32_t message[] = {MACHINE_SET_FEATURES, 1, 8, 0, 1};
	begin(&fixture);
	for (size_t i = 0; i < sizeof(message); i++) {
		assert_int_equal(send(fixture.machine.fd, (const char *)message + i, 1, 0), 1);
		turn(&fixture);
	}
	assert_int_equal(fixture.ends, 0);
	assert_int_equal(ask(&fixture, MACHINE_GET_FEATURES), FEATURES);
	end(&fixture);
}

static void send_raw(struct fixture *fixture, uint32_t request, uint32_t flags, uint32_t size)
{
	const uint32_t header[] = {request, flags, size};
	assert_int_equal(send(fixture->machine.fd, header, sizeof(header), 0), sizeof(header));
}

static void impossible_headers_end_the_connection(void **state)
{
	(void)state;
	const char *text = "a message of an impossible size or version";
	struct fixture fixture;
	begin(&fixture);
	send_raw(&fixture, MACHINE_GET_FEATURES, 1, 4097);
	expect_end(&fixture, text);
	begin(&fixture);
	send_raw(&fixture, MACHINE_GET_FEATURES, 1, UINT32_MAX);
	expect_end(&fixture, text);
	begin(&fixture);
	send_raw(&fixture, MACHINE_GET_FEATURES, 2, 0);
	expect_end(&fixture, text);
}

static void what_was_not_negotiated_ends_the_connection(void **state)
{
	(void)state;
	const char *text = "a message that was not negotiated";
	const uint32_t requests[] = {0, 6, 24, 36, 37, 39, 44, 1000, UINT32_MAX};
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		struct fixture fixture;
		uint8_t body[64] = {0};
		begin(&fixture);
		machine_send(&fixture.machine, requests[i], body, sizeof(body), NULL, 0);
		expect_end(&fixture, text);
	}
}

static void features_that_were_not_offered_end_the_connection(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_FEATURES, UINT64_C(1) << 33);
	expect_end(&fixture, "features that were not offered");
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_PROTOCOL_FEATURES, 1 << 5);
	expect_end(&fixture, "protocol features that were not offered");
}

// QEMU negotiates for some devices what it does by itself.
static void a_reset_of_queues_is_the_vmms_own_business(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_FEATURES,
		MACHINE_VERSION_1 | MACHINE_PROTOCOL | UINT64_C(1) << 40);
	turn(&fixture);
	assert_int_equal(fixture.ends, 0);
	end(&fixture);
}

static void a_device_that_is_no_gpu_takes_no_display(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_send(
		&fixture.machine, MACHINE_GPU_SET_SOCKET, NULL, 0, &fixture.machine.memory_fd, 1);
	expect_end(&fixture, "a socket for a display, and there is none");
}

static void short_messages_end_the_connection(void **state)
{
	(void)state;
	const uint32_t requests[] = {MACHINE_SET_FEATURES, MACHINE_SET_MEM_TABLE,
		MACHINE_SET_VRING_NUM, MACHINE_SET_VRING_ADDR, MACHINE_SET_VRING_BASE,
		MACHINE_GET_VRING_BASE, MACHINE_SET_VRING_KICK, MACHINE_SET_VRING_CALL,
		MACHINE_SET_VRING_ENABLE};
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		struct fixture fixture;
		begin(&fixture);
		machine_send(&fixture.machine, requests[i], "1234", 4, NULL, 0);
		expect_end(&fixture, "a message that is too short");
	}
}

static void memory_has_to_come_with_its_files(void **state)
{
	(void)state;
	struct fixture fixture;
	struct {
		uint32_t count, padding;
		struct guest_range ranges[2];
	} table = {2, 0, {{0, 4096, 0, 0}, {4096, 4096, 4096, 0}}};
	begin(&fixture);
	int fds[] = {fixture.machine.memory_fd, fixture.machine.memory_fd};
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table), fds, 1);
	expect_end(&fixture, "a memory table without its files");
	begin(&fixture);
	table.count = 9;
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table), NULL, 0);
	expect_end(&fixture, "a memory table of the wrong size");
	begin(&fixture);
	table.count = 3;
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table), NULL, 0);
	expect_end(&fixture, "a memory table of the wrong size");
	begin(&fixture);
	fds[0] = fds[1] = fixture.machine.memory_fd;
	table.count = 2;
	table.ranges[1].address = 100;
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table), fds, 2);
	expect_end(&fixture, "memory regions that overlap");
}

static void fds_that_nobody_asked_for_end_the_connection(void **state)
{
	(void)state;
	struct fixture fixture;
	const uint64_t number = 0;
	begin(&fixture);
	machine_send(
		&fixture.machine, MACHINE_SET_FEATURES, &number, 8, &fixture.machine.memory_fd, 1);
	expect_end(&fixture, "fds where none may be");
}

static void a_kick_is_an_eventfd(void **state)
{
	(void)state;
	struct fixture fixture;
	uint64_t number = 0;
	begin(&fixture);
	machine_send(&fixture.machine, MACHINE_SET_VRING_KICK, &number, 8, NULL, 0);
	expect_end(&fixture, "an eventfd that did not come");
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_VRING_KICK, 0x100);
	expect_end(&fixture, "a queue that wants to be polled");
	begin(&fixture);
	machine_send(&fixture.machine, MACHINE_SET_VRING_KICK, &number, 8,
		&fixture.machine.memory_fd, 1);
	expect_end(&fixture, "a kick that cannot be waited for");
}

static void queues_that_are_not_there_end_the_connection(void **state)
{
	(void)state;
	const char *text = "a queue that is not there, or runs";
	const uint32_t requests[] = {
		MACHINE_SET_VRING_NUM, MACHINE_SET_VRING_BASE, MACHINE_GET_VRING_BASE};
	struct fixture fixture;
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		begin(&fixture);
		machine_send_state(&fixture.machine, requests[i], 3, 0);
		expect_end(&fixture, text);
	}
	begin(&fixture);
	machine_boot(&fixture.machine, 1);
	machine_send_state(&fixture.machine, MACHINE_SET_VRING_BASE, 1, 0);
	expect_end(&fixture, text);
}

static void enabling_has_to_be_negotiated(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_send_state(&fixture.machine, MACHINE_SET_VRING_ENABLE, 0, 1);
	expect_end(&fixture, "SET_VRING_ENABLE, which was not negotiated");
}

static void rings_outside_of_memory_end_the_connection(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_send_number(&fixture.machine, MACHINE_SET_FEATURES, MACHINE_PROTOCOL);
	machine_start_queue(&fixture.machine, 0, 0); // there is no memory yet
	expect_end(&fixture, "a ring outside of the guest's memory");
	begin(&fixture);
	machine_boot(&fixture.machine, 1);
	const struct {
		uint32_t count, padding;
		struct guest_range range;
	} table = {1, 0, {MACHINE_ADDRESS, 4096, MACHINE_USER, 0}};
	machine_send(&fixture.machine, MACHINE_SET_MEM_TABLE, &table, sizeof(table),
		&fixture.machine.memory_fd, 1);
	expect_end(&fixture, "a ring outside of the guest's memory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(features_are_negotiated),
		fd_count_test(queues_start_when_they_have_all),
		fd_count_test(a_queue_stops_and_goes_on),
		fd_count_test(each_kick_is_heard_once),
		fd_count_test(the_guest_is_called),
		fd_count_test(a_call_is_made_again_when_its_eventfd_is_another),
		fd_count_test(the_configuration_is_read),
		fd_count_test(memory_comes_in_regions_too),
		fd_count_test(bytes_may_come_one_by_one),
		fd_count_test(impossible_headers_end_the_connection),
		fd_count_test(what_was_not_negotiated_ends_the_connection),
		fd_count_test(features_that_were_not_offered_end_the_connection),
		fd_count_test(a_reset_of_queues_is_the_vmms_own_business),
		fd_count_test(a_device_that_is_no_gpu_takes_no_display),
		fd_count_test(short_messages_end_the_connection),
		fd_count_test(memory_has_to_come_with_its_files),
		fd_count_test(fds_that_nobody_asked_for_end_the_connection),
		fd_count_test(a_kick_is_an_eventfd),
		fd_count_test(queues_that_are_not_there_end_the_connection),
		fd_count_test(enabling_has_to_be_negotiated),
		fd_count_test(rings_outside_of_memory_end_the_connection),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
