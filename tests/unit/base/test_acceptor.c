#include "base/acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "tests/support/fd_count.h"

// What listens, and what came in.
struct scene {
	struct event_base *base;
	struct acceptor *acceptor;
	struct sockaddr_un address;
	socklen_t address_len;
	int connections[4];
	size_t n_connections;
};

static void keep(void *data, int fd)
{
	struct scene *scene = data;
	assert_true(scene->n_connections < 4);
	scene->connections[scene->n_connections++] = fd;
	event_base_loopbreak(scene->base);
}

static void keep_and_destroy(void *data, int fd)
{
	struct scene *scene = data;
	acceptor_destroy(scene->acceptor);
	scene->acceptor = NULL;
	keep(scene, fd);
}

static void scene_init(struct scene *scene, void (*connected)(void *data, int fd))
{
	*scene = (struct scene){.address_len = sizeof(scene->address)};
	scene->base = event_base_new();
	assert_non_null(scene->base);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	// The kernel chooses an abstract name.
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(
		getsockname(fd, (struct sockaddr *)&scene->address, &scene->address_len), 0);
	scene->acceptor = acceptor_create(scene->base, fd, connected, scene);
	assert_non_null(scene->acceptor);
}

static void scene_finish(struct scene *scene)
{
	for (size_t i = 0; i < scene->n_connections; i++) {
		close(scene->connections[i]);
	}
	acceptor_destroy(scene->acceptor);
	event_base_free(scene->base);
}

static int open_client(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	return fd;
}

static int connect_to(const struct scene *scene, int fd)
{
	return connect(fd, (const struct sockaddr *)&scene->address, scene->address_len);
}

static void a_connection_is_handed_on_cloexec_and_blocking(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep);
	int client = open_client();
	assert_int_equal(connect_to(&scene, client), 0);
	event_base_dispatch(scene.base);
	assert_int_equal(scene.n_connections, 1);
	int fd = scene.connections[0];
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	char byte = 'a';
	assert_int_equal(write(client, &byte, 1), 1);
	byte = 0;
	assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(byte, 'a');
	close(client);
	scene_finish(&scene);
}

static void all_who_wait_are_handed_on(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep);
	int clients[3];
	for (size_t i = 0; i < 3; i++) {
		clients[i] = open_client();
		assert_int_equal(connect_to(&scene, clients[i]), 0);
	}
	while (scene.n_connections < 3) {
		event_base_dispatch(scene.base);
	}
	for (size_t i = 0; i < 3; i++) {
		close(clients[i]);
	}
	scene_finish(&scene);
}

static void who_left_meanwhile_does_no_harm(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep);
	int client = open_client();
	assert_int_equal(connect_to(&scene, client), 0);
	close(client);
	client = open_client();
	assert_int_equal(connect_to(&scene, client), 0);
	while (scene.n_connections < 2) {
		event_base_dispatch(scene.base);
	}
	char byte;
	assert_int_equal(read(scene.connections[0], &byte, 1), 0);
	close(client);
	scene_finish(&scene);
}

static void an_acceptor_may_be_destroyed_by_its_handler(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep_and_destroy);
	int clients[2] = {open_client(), open_client()};
	assert_int_equal(connect_to(&scene, clients[0]), 0);
	assert_int_equal(connect_to(&scene, clients[1]), 0);
	event_base_dispatch(scene.base);
	event_base_dispatch(scene.base); // has nothing left to wait for
	assert_int_equal(scene.n_connections, 1);
	assert_int_equal(event_base_get_num_events(scene.base, EVENT_BASE_COUNT_ADDED), 0);
	close(clients[0]);
	close(clients[1]);
	scene_finish(&scene);
}

static void destroying_it_closes_the_socket(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep);
	acceptor_destroy(scene.acceptor);
	scene.acceptor = NULL;
	int client = open_client();
	assert_int_equal(connect_to(&scene, client), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(client);
	scene_finish(&scene);
	acceptor_destroy(NULL);
}

static void who_comes_when_no_fd_is_left_waits_until_one_is(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep);
	int client = open_client();
	assert_int_equal(connect_to(&scene, client), 0);
	struct rlimit before;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	int lowest = dup(client);
	assert_true(lowest >= 0);
	close(lowest);
	const struct rlimit none = {.rlim_cur = (rlim_t)lowest, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	event_base_loop(scene.base, EVLOOP_ONCE);
	size_t n = scene.n_connections;
	int waiting = event_base_get_num_events(scene.base, EVENT_BASE_COUNT_ADDED);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(n, 0);
	assert_int_equal(waiting, 1); // for the end of the pause alone
	event_base_dispatch(scene.base);
	assert_int_equal(scene.n_connections, 1);
	close(client);
	scene_finish(&scene);
}

static void during_a_pause_it_can_be_destroyed(void **state)
{
	(void)state;
	struct scene scene;
	scene_init(&scene, keep);
	int client = open_client();
	assert_int_equal(connect_to(&scene, client), 0);
	struct rlimit before;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	const struct rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	event_base_loop(scene.base, EVLOOP_ONCE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	acceptor_destroy(scene.acceptor);
	scene.acceptor = NULL;
	assert_int_equal(event_base_dispatch(scene.base), 1); // no events
	close(client);
	scene_finish(&scene);
}

static void what_cannot_be_polled_is_refused_and_closed(void **state)
{
	(void)state;
	struct event_base *base = event_base_new();
	assert_non_null(base);
	int fd = memfd_create("file", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_null(acceptor_create(base, fd, keep, NULL));
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_connection_is_handed_on_cloexec_and_blocking),
		fd_count_test(all_who_wait_are_handed_on),
		fd_count_test(who_left_meanwhile_does_no_harm),
		fd_count_test(an_acceptor_may_be_destroyed_by_its_handler),
		fd_count_test(destroying_it_closes_the_socket),
		fd_count_test(who_comes_when_no_fd_is_left_waits_until_one_is),
		fd_count_test(during_a_pause_it_can_be_destroyed),
		fd_count_test(what_cannot_be_polled_is_refused_and_closed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
