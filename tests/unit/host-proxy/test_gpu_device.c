#include <event2/event.h>
#include <linux/virtio_gpu.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "host-proxy/gpu_device.h"
#include "tests/support/fd_count.h"
#include "tests/support/gpu_driver.h"
#include "tests/support/virtual_machine.h"

#define PAGE      4096u
#define OK        VIRTIO_GPU_RESP_OK_NODATA
#define ERROR(of) VIRTIO_GPU_RESP_ERR_##of

struct fixture {
	struct event_base *base;
	struct ram_buffers buffers;
	struct gpu_device *device;
	struct machine machine;
	struct gpu_driver driver;
	unsigned int ended;
	char wrong[128];
};

static void handle_ended(void *data, const char *wrong)
{
	struct fixture *fixture = data;
	fixture->ended++;
	strncpy(fixture->wrong, wrong != NULL ? wrong : "", sizeof(fixture->wrong) - 1);
}

static void turn(void *data)
{
	struct fixture *fixture = data;
	for (int i = 0; i < 20; i++) {
		event_base_loop(fixture->base, EVLOOP_NONBLOCK);
	}
}

static void begin_with(struct fixture *fixture, uint64_t features)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*fixture = (struct fixture){.base = event_base_new()};
	ram_buffers_open(&fixture->buffers);
	const struct gpu_device_config config = {
		.base = fixture->base,
		.fd = pair[1],
		.buffers = &fixture->buffers,
		.ended = handle_ended,
		.data = fixture,
	};
	fixture->device = gpu_device_create(&config);
	assert_non_null(fixture->device);
	machine_init(&fixture->machine, pair[0], MACHINE_VERSION_1 | features);
	machine_boot(&fixture->machine, 0);
	fixture->driver = (struct gpu_driver){
		.machine = &fixture->machine,
		.wait = turn,
		.data = fixture,
	};
	turn(fixture);
}

static void begin(struct fixture *fixture)
{
	begin_with(fixture, MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
}

static void end(struct fixture *fixture)
{
	gpu_device_destroy(fixture->device);
	machine_finish(&fixture->machine);
	ram_buffers_close(&fixture->buffers);
	event_base_free(fixture->base);
}

static void expect_counts(
	const struct fixture *fixture, size_t resources, size_t ranges, uint64_t backed)
{
	const struct gpu_resources *counts = gpu_device_resources(fixture->device);
	assert_int_equal(counts->count, resources);
	assert_int_equal(counts->n_ranges, ranges);
	assert_int_equal(counts->backed, backed);
}

// Page number n of the guest's buffers.
static struct virtio_gpu_mem_entry page(const struct fixture *fixture, uint32_t n)
{
	const uint8_t *data = fixture->machine.memory + GPU_DRIVER_PAGES + n * PAGE;
	return (struct virtio_gpu_mem_entry){
		.addr = machine_address(&fixture->machine, data),
		.length = PAGE,
	};
}

static void no_display_is_connected(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtio_gpu_resp_display_info info;
	begin(&fixture);
	assert_int_equal(gpu_driver_ask(&fixture.driver, VIRTIO_GPU_CMD_GET_DISPLAY_INFO),
		VIRTIO_GPU_RESP_OK_DISPLAY_INFO);
	assert_int_equal(fixture.driver.response_len, sizeof(info));
	memcpy(&info, fixture.driver.response, sizeof(info));
	for (size_t i = 0; i < VIRTIO_GPU_MAX_SCANOUTS; i++) {
		assert_int_equal(info.pmodes[i].enabled, 0);
	}
	end(&fixture);
}

static void a_resource_is_remembered_until_it_is_gone(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	const struct virtio_gpu_mem_entry entries[] = {
		page(&fixture, 3), page(&fixture, 4), page(&fixture, 9)};
	assert_int_equal(gpu_driver_create(&fixture.driver, 7, 32, 32), OK);
	expect_counts(&fixture, 1, 0, 0);
	assert_int_equal(gpu_driver_attach(&fixture.driver, 7, entries, 3), OK);
	expect_counts(&fixture, 1, 2, 3 * PAGE); // neighbours are one
	assert_int_equal(gpu_driver_detach(&fixture.driver, 7), OK);
	expect_counts(&fixture, 1, 0, 0);
	assert_int_equal(gpu_driver_attach(&fixture.driver, 7, entries, 1), OK);
	assert_int_equal(gpu_driver_unref(&fixture.driver, 7), OK);
	expect_counts(&fixture, 0, 0, 0);
	end(&fixture);
}

// 7680 x 4320 pixels, and no page beside another one.
static void check_large_backing(uint64_t features)
{
	const uint32_t n = 7680 * 4320 / 1024;
	struct virtio_gpu_mem_entry *entries = calloc(n, sizeof(*entries));
	struct fixture fixture;
	begin_with(&fixture, features);
	for (uint32_t i = 0; i < n; i++) {
		entries[i] = (struct virtio_gpu_mem_entry){
			.addr = UINT64_C(0x200000000) - 2 * i * PAGE,
			.length = PAGE,
		};
	}
	assert_int_equal(gpu_driver_create(&fixture.driver, 1, 7680, 4320), OK);
	assert_int_equal(gpu_driver_attach(&fixture.driver, 1, entries, n), OK);
	expect_counts(&fixture, 1, n, (uint64_t)n * PAGE);
	assert_int_equal(gpu_driver_unref(&fixture.driver, 1), OK);
	expect_counts(&fixture, 0, 0, 0);
	end(&fixture);
	free(entries);
}

static void a_backing_may_be_of_very_many_pages(void **state)
{
	(void)state;
	check_large_backing(0);
	check_large_backing(MACHINE_INDIRECT | MACHINE_EVENT_INDEX);
}

static void fences_are_reached_at_once(void **state)
{
	(void)state;
	struct fixture fixture;
	const struct virtio_gpu_ctrl_hdr command = {
		.type = VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
		.flags = VIRTIO_GPU_FLAG_FENCE,
		.fence_id = 0x123456789,
		.ctx_id = 5,
	};
	struct virtio_gpu_ctrl_hdr response;
	begin(&fixture);
	gpu_driver_run(&fixture.driver, &command, sizeof(command), sizeof(response));
	memcpy(&response, fixture.driver.response, sizeof(response));
	assert_int_equal(response.flags, VIRTIO_GPU_FLAG_FENCE);
	assert_int_equal(response.fence_id, 0x123456789);
	assert_int_equal(response.ctx_id, 5);
	assert_int_equal(gpu_driver_create(&fixture.driver, 1, 1, 1), OK);
	memcpy(&response, fixture.driver.response, sizeof(response));
	assert_int_equal(response.flags, 0);
	end(&fixture);
}

static void resources_that_make_no_sense_are_refused(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	struct gpu_driver *driver = &fixture.driver;
	assert_int_equal(gpu_driver_create(driver, 0, 1, 1), ERROR(INVALID_RESOURCE_ID));
	assert_int_equal(gpu_driver_create(driver, 1, 0, 1), ERROR(INVALID_PARAMETER));
	assert_int_equal(gpu_driver_create(driver, 1, 1, 16385), ERROR(INVALID_PARAMETER));
	assert_int_equal(gpu_driver_create(driver, 1, UINT32_MAX, 1), ERROR(INVALID_PARAMETER));
	assert_int_equal(gpu_driver_unref(driver, 1), ERROR(INVALID_RESOURCE_ID));
	assert_int_equal(gpu_driver_detach(driver, 1), ERROR(INVALID_RESOURCE_ID));
	assert_int_equal(gpu_driver_create(driver, 1, 1, 1), OK);
	assert_int_equal(gpu_driver_create(driver, 1, 1, 1), ERROR(INVALID_RESOURCE_ID));
	assert_int_equal(gpu_driver_detach(driver, 1), ERROR(INVALID_RESOURCE_ID));
	expect_counts(&fixture, 1, 0, 0);
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

static void backings_that_make_no_sense_are_refused(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	struct gpu_driver *driver = &fixture.driver;
	const struct virtio_gpu_mem_entry good = page(&fixture, 0);
	struct virtio_gpu_mem_entry bad = {.addr = good.addr, .length = 0};
	assert_int_equal(gpu_driver_attach(driver, 1, &good, 1), ERROR(INVALID_RESOURCE_ID));
	assert_int_equal(gpu_driver_create(driver, 1, 1, 1), OK);
	assert_int_equal(gpu_driver_attach(driver, 1, &bad, 1), ERROR(INVALID_PARAMETER));
	bad = (struct virtio_gpu_mem_entry){.addr = UINT64_MAX - 10, .length = PAGE};
	assert_int_equal(gpu_driver_attach(driver, 1, &bad, 1), ERROR(INVALID_PARAMETER));
	assert_int_equal(gpu_driver_attach(driver, 1, NULL, 0), ERROR(INVALID_PARAMETER));
	expect_counts(&fixture, 1, 0, 0);
	assert_int_equal(gpu_driver_attach(driver, 1, &good, 1), OK);
	assert_int_equal(gpu_driver_attach(driver, 1, &good, 1), ERROR(UNSPEC));
	expect_counts(&fixture, 1, 1, PAGE);
	end(&fixture);
}

static void entries_that_did_not_come_are_not_read(void **state)
{
	(void)state;
	struct fixture fixture;
	struct {
		struct virtio_gpu_resource_attach_backing head;
		struct virtio_gpu_mem_entry entry;
	} command = {
		.head = {.hdr.type = VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
			.resource_id = 1,
			.nr_entries = 2},
	};
	begin(&fixture);
	command.entry = page(&fixture, 0);
	assert_int_equal(gpu_driver_create(&fixture.driver, 1, 1, 1), OK);
	assert_int_equal(gpu_driver_run(&fixture.driver, &command, sizeof(command), 24),
		ERROR(INVALID_PARAMETER));
	command.head.nr_entries = UINT32_MAX;
	assert_int_equal(gpu_driver_run(&fixture.driver, &command, sizeof(command), 24),
		ERROR(INVALID_PARAMETER));
	expect_counts(&fixture, 1, 0, 0);
	end(&fixture);
}

static void commands_of_wrong_lengths_and_kinds_are_errors(void **state)
{
	(void)state;
	struct fixture fixture;
	const struct virtio_gpu_set_scanout scanout = {
		.hdr.type = VIRTIO_GPU_CMD_SET_SCANOUT,
		.scanout_id = 1,
	};
	const struct virtio_gpu_resource_create_2d create = {
		.hdr.type = VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
		.resource_id = 1,
	};
	begin(&fixture);
	struct gpu_driver *driver = &fixture.driver;
	for (size_t len = 1; len < sizeof(create); len++) {
		assert_int_equal(gpu_driver_run(driver, &create, len, 24), ERROR(UNSPEC));
	}
	assert_int_equal(gpu_driver_ask(driver, 0), ERROR(UNSPEC));
	assert_int_equal(gpu_driver_ask(driver, VIRTIO_GPU_CMD_GET_EDID), ERROR(UNSPEC));
	assert_int_equal(gpu_driver_ask(driver, VIRTIO_GPU_CMD_CTX_CREATE), ERROR(UNSPEC));
	assert_int_equal(gpu_driver_ask(driver, UINT32_MAX), ERROR(UNSPEC));
	assert_int_equal(
		gpu_driver_run(driver, &scanout, sizeof(scanout), 24), ERROR(INVALID_SCANOUT_ID));
	assert_int_equal(gpu_driver_run(driver, &scanout, sizeof(scanout), 0), 0);
	gpu_driver_run(driver, &scanout, sizeof(scanout), 2);
	assert_int_equal(driver->response_len, 2);
	assert_int_equal(fixture.ended, 0);
	end(&fixture);
}

static void resources_have_a_limit(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	for (uint32_t i = 1; i <= GPU_RESOURCES_MAX; i++) {
		assert_int_equal(gpu_driver_create(&fixture.driver, i, 1, 1), OK);
	}
	assert_int_equal(
		gpu_driver_create(&fixture.driver, UINT32_MAX, 1, 1), ERROR(OUT_OF_MEMORY));
	assert_int_equal(gpu_driver_unref(&fixture.driver, 100), OK);
	assert_int_equal(gpu_driver_create(&fixture.driver, UINT32_MAX, 1, 1), OK);
	end(&fixture);
}

static void ranges_have_a_limit(void **state)
{
	(void)state;
	struct fixture fixture;
	struct virtio_gpu_mem_entry *entries = calloc(GPU_ENTRIES_MAX, sizeof(*entries));
	begin(&fixture);
	struct gpu_driver *driver = &fixture.driver;
	for (uint32_t i = 0; i < GPU_ENTRIES_MAX; i++) {
		entries[i] = page(&fixture, i % 2);
		entries[i].addr = i % 2 == 0 ? 0 : 2 * PAGE;
	}
	uint32_t id = 1;
	for (; id <= GPU_RANGES_MAX / GPU_ENTRIES_MAX; id++) {
		assert_int_equal(gpu_driver_create(driver, id, 1, 1), OK);
		assert_int_equal(gpu_driver_attach(driver, id, entries, GPU_ENTRIES_MAX), OK);
	}
	assert_int_equal(gpu_driver_create(driver, id, 1, 1), OK);
	assert_int_equal(gpu_driver_attach(driver, id, entries, 1), ERROR(OUT_OF_MEMORY));
	assert_int_equal(gpu_driver_detach(driver, 1), OK);
	assert_int_equal(gpu_driver_attach(driver, id, entries, 1), OK);
	end(&fixture);
	free(entries);
}

static void what_the_cursor_is_does_not_matter(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	struct machine *machine = &fixture.machine;
	machine->queues[1].desc[0] = (struct vring_desc){
		.addr = MACHINE_ADDRESS + GPU_DRIVER_PAGES,
		.len = sizeof(struct virtio_gpu_update_cursor),
	};
	machine_offer(machine, 1, 0);
	turn(&fixture);
	assert_int_equal(machine->queues[1].used->idx, 1);
	assert_int_equal(machine->queues[1].used->ring[0].len, 0);
	end(&fixture);
}

static void a_guest_that_reboots_has_no_resources(void **state)
{
	(void)state;
	struct fixture fixture;
	uint32_t base[2];
	begin(&fixture);
	assert_int_equal(gpu_driver_create(&fixture.driver, 1, 1, 1), OK);
	for (unsigned int i = 0; i < 2; i++) { // it is paused, and goes on
		machine_send_state(&fixture.machine, MACHINE_GET_VRING_BASE, i, 0);
		turn(&fixture);
		machine_reply(&fixture.machine, MACHINE_GET_VRING_BASE, base, sizeof(base));
		machine_start_queue(&fixture.machine, i, (uint16_t)base[1]);
	}
	turn(&fixture);
	expect_counts(&fixture, 1, 0, 0);
	machine_stop(&fixture.machine);
	machine_boot(&fixture.machine, 0);
	turn(&fixture);
	expect_counts(&fixture, 0, 0, 0);
	assert_int_equal(gpu_driver_create(&fixture.driver, 1, 1, 1), OK);
	end(&fixture);
}

static void a_broken_ring_ends_the_device(void **state)
{
	(void)state;
	struct fixture fixture;
	begin(&fixture);
	machine_offer(&fixture.machine, 0, MACHINE_RING);
	turn(&fixture);
	assert_int_equal(fixture.ended, 1);
	assert_string_equal(fixture.wrong, "a chain that begins outside of the ring");
	end(&fixture);
}

static void the_vmms_display_is_kept_and_hears_nothing(void **state)
{
	(void)state;
	struct fixture fixture;
	const uint32_t config[7] = {0, 16, 0};
	char byte;
	int first[2], second[2];
	begin(&fixture);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, first), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, second), 0);
	machine_send_number(&fixture.machine, MACHINE_SET_PROTOCOL_FEATURES, 1 << 9);
	machine_send(&fixture.machine, MACHINE_SET_CONFIG, config, sizeof(config), NULL, 0);
	machine_send(&fixture.machine, MACHINE_GPU_SET_SOCKET, NULL, 0, &first[1], 1);
	close(first[1]);
	turn(&fixture);
	assert_int_equal(recv(first[0], &byte, 1, MSG_DONTWAIT), -1);
	machine_send(&fixture.machine, MACHINE_GPU_SET_SOCKET, NULL, 0, &second[1], 1);
	close(second[1]);
	turn(&fixture);
	assert_int_equal(recv(first[0], &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(recv(second[0], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(fixture.ended, 0);
	machine_send(&fixture.machine, MACHINE_GPU_SET_SOCKET, NULL, 0, NULL, 0);
	turn(&fixture);
	assert_string_equal(fixture.wrong, "a socket that did not come");
	end(&fixture);
	close(first[0]);
	close(second[0]);
}

static void a_resource_without_enough_behind_it_is_no_buffer(void **state)
{
	(void)state;
	struct fixture fixture;
	struct gpu_buffer buffer;
	begin(&fixture);
	const struct virtio_gpu_mem_entry entry = page(&fixture, 0);
	assert_string_equal(
		gpu_device_get_buffer(fixture.device, 7, &buffer), "there is no such resource");
	assert_int_equal(gpu_driver_create(&fixture.driver, 7, 32, 33), OK);
	assert_string_equal(gpu_device_get_buffer(fixture.device, 7, &buffer), "it has no backing");
	assert_int_equal(gpu_driver_attach(&fixture.driver, 7, &entry, 1), OK);
	assert_string_equal(gpu_device_get_buffer(fixture.device, 7, &buffer),
		"its backing is too small for it");
	end(&fixture);
}

static void all_buffers_together_are_no_larger_than_the_memory(void **state)
{
	(void)state;
	struct fixture fixture;
	struct gpu_buffer buffer;
	begin(&fixture);
	const struct virtio_gpu_mem_entry entry = {
		.addr = MACHINE_ADDRESS, .length = MACHINE_MEMORY + PAGE};
	assert_int_equal(gpu_driver_create(&fixture.driver, 7, 32, 32), OK);
	assert_int_equal(gpu_driver_attach(&fixture.driver, 7, &entry, 1), OK);
	assert_string_equal(gpu_device_get_buffer(fixture.device, 7, &buffer), "too many buffers");
	end(&fixture);
}

static void check_same_bytes(const struct fixture *fixture, int fd)
{
	uint8_t *data = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t *pages = fixture->machine.memory + GPU_DRIVER_PAGES;
	assert_ptr_not_equal(data, MAP_FAILED);
	pages[5 * PAGE] = 1;
	pages[2 * PAGE + 17] = 2;
	assert_int_equal(data[0], 1);
	assert_int_equal(data[PAGE + 17], 2);
	data[0] = 3;
	assert_int_equal(pages[5 * PAGE], 3);
	munmap(data, 2 * PAGE);
}

static void a_buffer_is_the_same_one_until_its_backing_goes(void **state)
{
	(void)state;
	struct fixture fixture;
	struct gpu_buffer buffer, again;
	begin(&fixture);
	if (fixture.buffers.device < 0) {
		end(&fixture);
		skip();
	}
	const struct virtio_gpu_mem_entry entries[] = {page(&fixture, 5), page(&fixture, 2)};
	assert_int_equal(gpu_driver_create(&fixture.driver, 7, 64, 32), OK);
	assert_int_equal(gpu_driver_attach(&fixture.driver, 7, entries, 2), OK);
	assert_null(gpu_device_get_buffer(fixture.device, 7, &buffer));
	assert_int_equal(buffer.stride, 256);
	check_same_bytes(&fixture, buffer.fd);
	assert_null(gpu_device_get_buffer(fixture.device, 7, &again));
	assert_int_equal(again.fd, buffer.fd);
	assert_int_equal(gpu_device_resources(fixture.device)->n_buffers, 1);
	size_t before = fd_count();
	assert_int_equal(gpu_driver_detach(&fixture.driver, 7), OK);
	assert_int_equal(fd_count(), before - 1);
	assert_int_equal(gpu_device_resources(fixture.device)->n_buffers, 0);
	assert_non_null(gpu_device_get_buffer(fixture.device, 7, &again));
	end(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(no_display_is_connected),
		fd_count_test(a_resource_is_remembered_until_it_is_gone),
		fd_count_test(a_backing_may_be_of_very_many_pages),
		fd_count_test(fences_are_reached_at_once),
		fd_count_test(resources_that_make_no_sense_are_refused),
		fd_count_test(backings_that_make_no_sense_are_refused),
		fd_count_test(entries_that_did_not_come_are_not_read),
		fd_count_test(commands_of_wrong_lengths_and_kinds_are_errors),
		fd_count_test(resources_have_a_limit),
		fd_count_test(ranges_have_a_limit),
		fd_count_test(what_the_cursor_is_does_not_matter),
		fd_count_test(a_guest_that_reboots_has_no_resources),
		fd_count_test(a_broken_ring_ends_the_device),
		fd_count_test(the_vmms_display_is_kept_and_hears_nothing),
		fd_count_test(a_resource_without_enough_behind_it_is_no_buffer),
		fd_count_test(all_buffers_together_are_no_larger_than_the_memory),
		fd_count_test(a_buffer_is_the_same_one_until_its_backing_goes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
