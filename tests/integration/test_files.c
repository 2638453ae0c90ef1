#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "gamma-control-client.h"
#include "relay/session.h"
#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

#define KEYMAP_SIZE 70001
#define SEALS       (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct stage {
	struct world *world;
	uint8_t bytes[KEYMAP_SIZE];
	int fd; // of the compositor's keymap
	size_t times;
};

struct keyboard {
	struct wl_seat *seat;
	struct wl_keyboard *keyboard;
	int fd;
	uint32_t size;
	size_t keymaps;
};

static void send_keymap(void *data, struct wl_resource *seat, const union wl_argument *args)
{
	struct stage *stage = data;
	for (size_t i = 0; i < stage->times; i++) {
		wl_keyboard_send_keymap(compositor_made(seat, &args[0]),
			WL_KEYBOARD_KEYMAP_FORMAT_XKB_V1, stage->fd, KEYMAP_SIZE);
	}
}

static void begin(struct stage *stage)
{
	struct paint_rng rng = {.state = 11};
	*stage = (struct stage){.times = 1};
	stage->world = world_create();
	compositor_add_global(stage->world->compositor, &wl_seat_interface, 7);
	compositor_hook(stage->world->compositor, "wl_seat", "get_keyboard", send_keymap, stage);
	paint_noise(&rng, stage->bytes, KEYMAP_SIZE);
	stage->fd = memfd_create("keymap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(write(stage->fd, stage->bytes, KEYMAP_SIZE), KEYMAP_SIZE);
}

static void end(struct stage *stage)
{
	close(stage->fd);
	world_destroy(stage->world);
}

static void reopen_read_only(struct stage *stage)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", stage->fd);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	close(stage->fd);
	stage->fd = fd;
}

static void handle_keymap(
	void *data, struct wl_keyboard *keyboard, uint32_t format, int32_t fd, uint32_t size)
{
	(void)keyboard;
	struct keyboard *k = data;
	assert_int_equal(format, WL_KEYBOARD_KEYMAP_FORMAT_XKB_V1);
	if (k->keymaps++ > 0) {
		close(k->fd);
	}
	k->fd = fd;
	k->size = size;
}

static const struct wl_keyboard_listener keyboard_listener = {.keymap = handle_keymap};

static void get_keyboard(struct client *client, struct keyboard *k)
{
	*k = (struct keyboard){.fd = -1};
	k->seat = client_bind(client, &wl_seat_interface, 7);
	k->keyboard = wl_seat_get_keyboard(k->seat);
	wl_keyboard_add_listener(k->keyboard, &keyboard_listener, k);
	client_roundtrip(client);
}

static void drop_keyboard(struct keyboard *k)
{
	close(k->fd);
	wl_keyboard_destroy(k->keyboard);
	wl_seat_destroy(k->seat);
}

static void expect_same_file(const struct stage *stage, int fd)
{
	struct stat st;
	uint8_t *bytes = malloc(KEYMAP_SIZE);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, KEYMAP_SIZE);
	assert_int_equal(pread(fd, bytes, KEYMAP_SIZE, 0), KEYMAP_SIZE);
	assert_memory_equal(bytes, stage->bytes, KEYMAP_SIZE);
	free(bytes);
	void *mapping = mmap(NULL, KEYMAP_SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(mapping != MAP_FAILED);
	munmap(mapping, KEYMAP_SIZE);
}

static void a_keymap_is_what_the_compositor_made(void **state)
{
	(void)state;
	struct stage stage;
	struct keyboard k;
	begin(&stage);
	struct client *client = client_create(stage.world, NULL);
	get_keyboard(client, &k);
	assert_int_equal(k.keymaps, 1);
	assert_int_equal(k.size, KEYMAP_SIZE);
	expect_same_file(&stage, k.fd);
	assert_int_equal(fcntl(k.fd, F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(fcntl(k.fd, F_GET_SEALS), 0);
	assert_int_equal(lseek(k.fd, 0, SEEK_CUR), KEYMAP_SIZE); // it was just written
	drop_keyboard(&k);
	end(&stage);
}

static void a_read_only_keymap_cannot_be_written(void **state)
{
	(void)state;
	struct stage stage;
	struct keyboard k;
	begin(&stage);
	reopen_read_only(&stage);
	assert_int_equal(lseek(stage.fd, 1234, SEEK_SET), 1234);
	struct client *client = client_create(stage.world, NULL);
	get_keyboard(client, &k);
	expect_same_file(&stage, k.fd);
	assert_int_equal(fcntl(k.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(lseek(k.fd, 0, SEEK_CUR), 1234);
	assert_int_equal(write(k.fd, "x", 1), -1);
	assert_true(mmap(NULL, KEYMAP_SIZE, PROT_WRITE, MAP_SHARED, k.fd, 0) == MAP_FAILED);
	// The compositor's own offset has not moved.
	assert_int_equal(lseek(stage.fd, 0, SEEK_CUR), 1234);
	drop_keyboard(&k);
	end(&stage);
}

static void a_sealed_keymap_has_the_same_seals(void **state)
{
	(void)state;
	struct stage stage;
	struct keyboard k;
	begin(&stage);
	assert_int_equal(fcntl(stage.fd, F_ADD_SEALS, SEALS), 0);
	struct client *client = client_create(stage.world, NULL);
	get_keyboard(client, &k);
	expect_same_file(&stage, k.fd);
	assert_int_equal(fcntl(k.fd, F_GET_SEALS), SEALS);
	assert_int_equal(fcntl(k.fd, F_GETFL) & O_ACCMODE, O_RDWR);
	drop_keyboard(&k);
	end(&stage);
}

static void a_second_client_is_not_sent_the_keymap_again(void **state)
{
	(void)state;
	struct stage stage;
	struct keyboard k;
	struct content_store store;
	struct pair_options options = {.contents = &store};
	content_store_init(&store);
	begin(&stage);
	assert_int_equal(fcntl(stage.fd, F_ADD_SEALS, SEALS), 0);
	for (size_t i = 0; i < 3; i++) {
		struct client *client = client_create(stage.world, &options);
		get_keyboard(client, &k);
		expect_same_file(&stage, k.fd);
		assert_int_equal(fcntl(k.fd, F_GET_SEALS), SEALS);
		const struct stats *host = session_stats(client->pair.host.session);
		const struct stats *guest = session_stats(client->pair.guest.session);
		assert_int_equal(host->fds[STATS_FD_FILE], 1);
		assert_int_equal(host->fds_cached, i > 0);
		assert_int_equal(host->memory_bytes_sent, i > 0 ? 0 : KEYMAP_SIZE);
		assert_int_equal(guest->memory_bytes_received, i > 0 ? 0 : KEYMAP_SIZE);
		drop_keyboard(&k);
		client_destroy(client);
		assert_int_equal(store.count, 1);
	}
	end(&stage);
	content_store_finish(&store);
}

static void a_hundred_keymaps_in_one_burst_arrive(void **state)
{
	(void)state;
	struct stage stage;
	struct keyboard k;
	begin(&stage);
	stage.times = 100;
	struct client *client = client_create(stage.world, NULL);
	get_keyboard(client, &k);
	assert_int_equal(k.keymaps, 100);
	expect_same_file(&stage, k.fd);
	drop_keyboard(&k);
	end(&stage);
}

/* ---- from the client ---- */

struct ramps {
	uint16_t values[3 * 256];
	ssize_t size;
	size_t times;
};

static void read_ramps(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	(void)resource;
	struct ramps *ramps = data;
	ramps->size = read(args[0].h, ramps->values, sizeof(ramps->values)); // from its offset
	ramps->times++;
	close(args[0].h);
}

struct night_light {
	struct wl_output *output;
	struct zwlr_gamma_control_manager_v1 *manager;
	struct zwlr_gamma_control_v1 *control;
};

static struct night_light begin_night(struct stage *stage, struct client **client,
	struct ramps *ramps, const struct pair_options *options)
{
	begin(stage);
	struct compositor *compositor = stage->world->compositor;
	compositor_add_global(compositor, &wl_output_interface, 3);
	compositor_add_global(compositor, &zwlr_gamma_control_manager_v1_interface, 1);
	compositor_hook(compositor, "zwlr_gamma_control_v1", "set_gamma", read_ramps, ramps);
	*client = client_create(stage->world, options);
	struct night_light light = {
		.output = client_bind(*client, &wl_output_interface, 3),
		.manager = client_bind(*client, &zwlr_gamma_control_manager_v1_interface, 1),
	};
	light.control =
		zwlr_gamma_control_manager_v1_get_gamma_control(light.manager, light.output);
	return light;
}

static void end_night(struct stage *stage, const struct night_light *light)
{
	zwlr_gamma_control_v1_destroy(light->control);
	zwlr_gamma_control_manager_v1_destroy(light->manager);
	wl_output_destroy(light->output);
	end(stage);
}

static void set_ramps(
	const struct night_light *light, const uint16_t *values, size_t size, off_t offset)
{
	int fd = memfd_create("ramps", MFD_CLOEXEC);
	assert_int_equal(write(fd, values, size), size);
	lseek(fd, offset, SEEK_SET);
	zwlr_gamma_control_v1_set_gamma(light->control, fd);
	close(fd);
}

static void gamma_ramps_are_read_from_the_files_offset(void **state)
{
	(void)state;
	struct stage stage;
	struct client *client;
	struct ramps ramps = {.times = 0};
	struct night_light light = begin_night(&stage, &client, &ramps, NULL);
	uint16_t values[3 * 256];
	for (size_t i = 0; i < 3 * 256; i++) {
		values[i] = (uint16_t)(i * 85);
	}
	set_ramps(&light, values, sizeof(values), 0);
	client_roundtrip(client);
	assert_int_equal(ramps.size, sizeof(values));
	assert_memory_equal(ramps.values, values, sizeof(values));

	set_ramps(&light, values, sizeof(values), 512);
	client_roundtrip(client);
	assert_int_equal(ramps.size, sizeof(values) - 512);
	assert_memory_equal(ramps.values, values + 256, sizeof(values) - 512);
	end_night(&stage, &light);
}

static void files_leave_nothing_behind_in_a_long_session(void **state)
{
	(void)state;
	struct stage stage;
	struct client *client;
	struct ramps ramps = {.times = 0};
	const struct pair_options options = {.max_fds = 32, .max_memory = 1 << 20};
	struct night_light light = begin_night(&stage, &client, &ramps, &options);
	uint16_t values[3 * 256] = {0};
	for (size_t i = 0; i < 2000; i++) {
		values[0] = (uint16_t)i;
		set_ramps(&light, values, sizeof(values), 0);
		client_roundtrip(client);
		assert_int_equal(ramps.values[0], i);
	}
	assert_int_equal(ramps.times, 2000);
	end_night(&stage, &light);
}

static void an_empty_file_crosses(void **state)
{
	(void)state;
	struct stage stage;
	struct client *client;
	struct ramps ramps = {.size = -1};
	struct night_light light = begin_night(&stage, &client, &ramps, NULL);
	set_ramps(&light, NULL, 0, 0);
	client_roundtrip(client);
	assert_int_equal(ramps.times, 1);
	assert_int_equal(ramps.size, 0);
	end_night(&stage, &light);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_keymap_is_what_the_compositor_made),
		fd_count_test(a_read_only_keymap_cannot_be_written),
		fd_count_test(a_sealed_keymap_has_the_same_seals),
		fd_count_test(a_second_client_is_not_sent_the_keymap_again),
		fd_count_test(a_hundred_keymaps_in_one_burst_arrive),
		fd_count_test(gamma_ramps_are_read_from_the_files_offset),
		fd_count_test(files_leave_nothing_behind_in_a_long_session),
		fd_count_test(an_empty_file_crosses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
