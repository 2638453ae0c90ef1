#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wayland-server-protocol.h>
#include <cmocka.h>

#include "tests/support/compositor.h"
#include "tests/support/fd_count.h"
#include "tests/support/paint.h"
#include "tests/support/world.h"

#define MESSAGE_MAX          65532
#define HEADER(opcode, size) ((uint32_t)(size) << 16 | (opcode))

/* An xdg_activation_token_v1, number 4: its "set_app_id" and "done" have one string. */
#define TOKEN      4
#define SET_APP_ID 1
#define DONE       0

/* Bytes that go one way between two sockets of the test. */
struct way {
	int from, to;
	uint32_t opcode; // of what has one string
	uint8_t *bytes, *got;
	size_t size, capacity, sent, received;
	bool reads;
};

struct stage {
	struct world *world;
	struct client *client;
	int client_fd, far_fd; // borrowed
	struct way up, down;
};

/* ---- sockets of the test's own ---- */

static void put(struct way *way, const void *bytes, size_t len)
{
	if (way->size + len > way->capacity) {
		way->capacity = 2 * (way->size + len);
		way->bytes = realloc(way->bytes, way->capacity);
	}
	memcpy(way->bytes + way->size, bytes, len);
	way->size += len;
}

static void put_words(struct way *way, const uint32_t *words, size_t n)
{
	put(way, words, n * sizeof(*words));
}

#define PUT(way, ...) \
	put_words(way, (const uint32_t[]){__VA_ARGS__}, \
		sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

/* A message of size bytes whose one argument is a string, to the object of the tests. */
static void put_string(struct way *way, size_t size)
{
	uint8_t *message = malloc(size);
	uint32_t head[] = {TOKEN, HEADER(way->opcode, size), (uint32_t)size - 12};
	memset(message, 'a' + (int)(way->size % 23), size);
	memcpy(message, head, sizeof(head));
	message[size - 1] = '\0';
	put(way, message, size);
	free(message);
}

static void move(struct way *way)
{
	while (way->sent < way->size) {
		ssize_t n = send(way->from, way->bytes + way->sent, way->size - way->sent,
			MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
		way->sent += (size_t)n;
	}
	while (way->reads && way->received < way->size) {
		ssize_t n = recv(
			way->to, way->got + way->received, way->size - way->received, MSG_DONTWAIT);
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
		assert_true(n > 0);
		way->received += (size_t)n;
	}
}

static bool has_moved(void *data)
{
	struct stage *stage = data;
	move(&stage->up);
	move(&stage->down);
	return (!stage->up.reads || stage->up.received == stage->up.size) &&
		(!stage->down.reads || stage->down.received == stage->down.size);
}

static void move_all(struct stage *stage)
{
	stage->up.got = realloc(stage->up.got, stage->up.size);
	stage->down.got = realloc(stage->down.got, stage->down.size);
	world_wait(stage->world, has_moved, stage);
	if (stage->up.reads) {
		assert_memory_equal(stage->up.got, stage->up.bytes, stage->up.size);
	}
	if (stage->down.reads) {
		assert_memory_equal(stage->down.got, stage->down.bytes, stage->down.size);
	}
}

static void begin(struct stage *stage, const struct pair_options *options)
{
	*stage = (struct stage){0};
	stage->world = world_create();
	stage->client = client_create_bare(stage->world, options);
	const struct pair *pair = &stage->client->pair;
	stage->up = (struct way){
		.from = pair->client_fd,
		.to = pair->compositor_fd,
		.opcode = SET_APP_ID,
		.reads = true,
	};
	stage->down = (struct way){
		.from = pair->compositor_fd,
		.to = pair->client_fd,
		.opcode = DONE,
		.reads = true,
	};
	PUT(&stage->up, 1, HEADER(1, 12), 2);
	move_all(stage);
	static const char name[20] = "xdg_activation_v1";
	PUT(&stage->down, 2, HEADER(0, 40), 1, 18);
	put(&stage->down, name, sizeof(name));
	PUT(&stage->down, 1);
	move_all(stage);
	PUT(&stage->up, 2, HEADER(0, 44), 1, 18);
	put(&stage->up, name, sizeof(name));
	PUT(&stage->up, 1, 3);
	PUT(&stage->up, 3, HEADER(1, 12), TOKEN);
	move_all(stage);
}

static void end(struct stage *stage)
{
	free(stage->up.bytes);
	free(stage->up.got);
	free(stage->down.bytes);
	free(stage->down.got);
	world_destroy(stage->world);
}

/* ---- tests ---- */

static void the_longest_messages_cross_both_ways(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, NULL);
	for (size_t i = 0; i < 3; i++) {
		for (size_t size = MESSAGE_MAX - 8; size <= MESSAGE_MAX; size += 4) {
			put_string(&stage.up, size);
			put_string(&stage.down, size);
			put_string(&stage.up, 16);
			put_string(&stage.down, 16);
		}
		move_all(&stage);
	}
	end(&stage);
}

static void put_many(struct way *way, size_t bytes)
{
	struct paint_rng rng = {.state = bytes};
	while (way->size < bytes) {
		int32_t most = paint_once_in(&rng, 50) ? MESSAGE_MAX / 4 : 40;
		put_string(way, (size_t)paint_range(&rng, 4, most) * 4);
	}
}

static void more_than_all_buffers_hold_crosses_both_ways_at_once(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, NULL);
	put_many(&stage.up, 16u << 20);
	put_many(&stage.down, 16u << 20);
	move_all(&stage);
	end(&stage);
}

static void it_does_over_sockets_that_take_little(void **state)
{
	(void)state;
	const struct pair_options options = {.channel_buffer = 1, .local_buffer = 1};
	struct stage stage;
	begin(&stage, &options);
	put_many(&stage.up, 2u << 20);
	put_many(&stage.down, 2u << 20);
	move_all(&stage);
	end(&stage);
}

static void what_a_peer_does_not_read_waits_and_is_not_lost(void **state)
{
	(void)state;
	struct stage stage;
	begin(&stage, NULL);
	struct client *other = client_create(stage.world, NULL);
	// First the client reads nothing, then the compositor.
	for (size_t i = 0; i < 2; i++) {
		struct way *stuck = i == 0 ? &stage.down : &stage.up;
		put_many(stuck, stuck->size + (12u << 20));
		stuck->reads = false;
		stuck->got = realloc(stuck->got, stuck->size);
		for (size_t n = 0; n < 200; n++) {
			world_turn(stage.world);
			has_moved(&stage);
		}
		assert_true(stuck->sent < stuck->size); // the sender is held back
		client_roundtrip(other);
		struct way *free_way = i == 0 ? &stage.up : &stage.down;
		put_many(free_way, free_way->size + (1u << 20));
		move_all(&stage);
		stuck->reads = true;
		move_all(&stage);
	}
	end(&stage);
}

/* ---- libwayland's compositor ---- */

struct flood {
	size_t came;
	struct wl_resource *source;
};

static void take_source(void *data, struct wl_resource *resource, const union wl_argument *args)
{
	((struct flood *)data)->source = compositor_made(resource, &args[0]);
}

static void count_target(void *data, struct wl_data_source *source, const char *mime)
{
	(void)source;
	struct flood *flood = data;
	char expected[16];
	snprintf(expected, sizeof(expected), "%zu", flood->came++);
	assert_memory_equal(mime, expected, strlen(expected));
}

static const struct wl_data_source_listener source_listener = {.target = count_target};

static void a_client_that_does_not_read_loses_nothing_of_three_mebibytes(void **state)
{
	(void)state;
	struct flood flood = {0};
	struct world *world = world_create();
	compositor_add_global(world->compositor, &wl_data_device_manager_interface, 3);
	compositor_hook(world->compositor, "wl_data_device_manager", "create_data_source",
		take_source, &flood);
	struct client *other = client_create(world, NULL);
	struct client *client = client_create(world, NULL);
	struct wl_data_device_manager *manager =
		client_bind(client, &wl_data_device_manager_interface, 3);
	struct wl_data_source *source = wl_data_device_manager_create_data_source(manager);
	wl_data_source_add_listener(source, &source_listener, &flood);
	client_roundtrip(client);

	client->paused = true;
	char mime[1000];
	for (size_t i = 0; i < 3146; i++) {
		memset(mime, '.', sizeof(mime) - 1);
		mime[sizeof(mime) - 1] = '\0';
		mime[snprintf(mime, sizeof(mime), "%zu", i)] = ' ';
		wl_data_source_send_target(flood.source, mime);
		world_turn(world);
		if (i % 500 == 0) {
			client_roundtrip(other);
		}
	}
	assert_non_null(client->far);
	assert_int_equal(flood.came, 0);
	client->paused = false;
	client_roundtrip(client);
	assert_int_equal(flood.came, 3146);
	client_roundtrip(other);
	wl_data_source_destroy(source);
	wl_data_device_manager_destroy(manager);
	world_destroy(world);
}

/* ---- many fds ---- */

static void a_hundred_pools_in_one_burst_keep_their_order(void **state)
{
	(void)state;
	enum { POOLS = 100 };
	struct world *world = world_create();
	struct client *client = client_create(world, NULL);
	struct wl_shm *shm = client_bind(client, &wl_shm_interface, 1);
	struct wl_shm_pool *pools[POOLS];
	for (size_t i = 0; i < POOLS; i++) {
		int fd = memfd_create("pool", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fd, (off_t)(i + 1) * 100), 0);
		pools[i] = wl_shm_create_pool(shm, fd, (int32_t)(i + 1) * 100);
		close(fd);
	}
	client_roundtrip(client);
	for (size_t i = 0; i < POOLS; i++) {
		struct stat st;
		const struct screen_pool *pool = screen_pool(&world->screen, POOLS - 1 - i);
		assert_int_equal(pool->size, (i + 1) * 100);
		assert_int_equal(fstat(pool->fd, &st), 0);
		assert_int_equal(st.st_size, (i + 1) * 100);
		wl_shm_pool_destroy(pools[i]);
	}
	wl_shm_destroy(shm);
	client_roundtrip(client);
	world_destroy(world);
}

/* As libwayland's clients would send it, if their sendmsg took more than 28. */
static void send_with_fds(int sock, const void *bytes, size_t len, const int *fds, size_t n)
{
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
	size_t room = CMSG_SPACE(n * sizeof(int));
	struct cmsghdr *control = calloc(1, room);
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(control), fds, n * sizeof(int));
	assert_int_equal(sendmsg(sock, &msg, MSG_NOSIGNAL), (ssize_t)len);
	free(control);
}

#define FDS 253

static bool has_all_pools(void *data)
{
	const struct world *world = data;
	return screen_pool(&world->screen, FDS - 1) != NULL;
}

static void as_many_fds_as_the_kernel_passes_at_once_are_taken(void **state)
{
	(void)state;
	struct world *world = world_create();
	struct client *client = client_create_bare(world, NULL);
	client->far = wl_client_create(
		compositor_display(world->compositor), pair_take_compositor(&client->pair));
	struct way way = {0};
	static const char name[8] = "wl_shm";
	PUT(&way, 1, HEADER(1, 12), 2);
	assert_int_equal(
		send(client->pair.client_fd, way.bytes, way.size, MSG_NOSIGNAL), (ssize_t)way.size);
	world_until_readable(world, client->pair.client_fd);
	way.size = 0;
	PUT(&way, 2, HEADER(0, 32), 1, 7);
	put(&way, name, sizeof(name));
	PUT(&way, 1, 3);
	int fds[FDS];
	for (uint32_t i = 0; i < FDS; i++) {
		fds[i] = memfd_create("pool", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fds[i], (off_t)(i + 1)), 0);
		PUT(&way, 3, HEADER(0, 16), i + 4, i + 1);
	}
	send_with_fds(client->pair.client_fd, way.bytes, way.size, fds, FDS);
	for (size_t i = 0; i < FDS; i++) {
		close(fds[i]);
	}
	world_wait(world, has_all_pools, world);
	for (size_t i = 0; i < FDS; i++) {
		struct stat st;
		const struct screen_pool *pool = screen_pool(&world->screen, FDS - 1 - i);
		assert_non_null(pool);
		assert_int_equal(fstat(pool->fd, &st), 0);
		assert_int_equal(st.st_size, i + 1);
	}
	free(way.bytes);
	world_destroy(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(the_longest_messages_cross_both_ways),
		fd_count_test(more_than_all_buffers_hold_crosses_both_ways_at_once),
		fd_count_test(it_does_over_sockets_that_take_little),
		fd_count_test(what_a_peer_does_not_read_waits_and_is_not_lost),
		fd_count_test(a_client_that_does_not_read_loses_nothing_of_three_mebibytes),
		fd_count_test(a_hundred_pools_in_one_burst_keep_their_order),
		fd_count_test(as_many_fds_as_the_kernel_passes_at_once_are_taken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
