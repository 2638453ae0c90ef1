#include "guest-proxy/listeners.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest-proxy/options.h"
#include "tests/support/fd_count.h"

#define PASSED_FD  3 // where sd_listen_fds(3) begins
#define PASSED_MAX 2

static char dir[32];
static int saved[PASSED_MAX]; // what the process itself has there; -1 if nothing
static struct guest_options options;
static struct listeners listeners;

static int setup(void **state)
{
	strcpy(dir, "/tmp/listeners-XXXXXX");
	if (mkdtemp(dir) == NULL || fd_count_setup(state) < 0) {
		return -1;
	}
	setenv("XDG_RUNTIME_DIR", dir, 1);
	unsetenv("LISTEN_PID");
	for (int i = 0; i < PASSED_MAX; i++) {
		saved[i] = fcntl(PASSED_FD + i, F_DUPFD_CLOEXEC, PASSED_FD + PASSED_MAX);
	}
	for (int i = 0; i < PASSED_MAX; i++) {
		close(PASSED_FD + i);
	}
	options = (struct guest_options){0};
	listeners_init(&listeners, &options);
	return 0;
}

// Everything that was made has to be gone.
static int teardown(void **state)
{
	listeners_finish(&listeners);
	for (int i = 0; i < PASSED_MAX; i++) {
		if (saved[i] >= 0) {
			dup2(saved[i], PASSED_FD + i);
			close(saved[i]);
		}
	}
	return rmdir(dir) < 0 ? -1 : fd_count_teardown(state);
}

static struct transport in_dir(enum transport_kind kind, const char *name)
{
	struct transport address = {.kind = kind};
	snprintf(address.path, sizeof(address.path), "%s/%s", dir, name);
	return address;
}

static void add(const char *name, enum transport_kind kind)
{
	struct transport address = in_dir(kind, name);
	assert_null(services_add(&options.program.services, name, &address));
}

static bool exists(const char *name)
{
	return access(in_dir(TRANSPORT_UNIX, name).path, F_OK) == 0;
}

static void assert_accepts(int listen_fd, enum transport_kind kind, const char *name)
{
	struct transport address = in_dir(kind, name);
	int client = transport_connect(&address);
	assert_true(client >= 0);
	int server = accept(listen_fd, NULL, NULL);
	assert_true(server >= 0);
	close(server);
	close(client);
}

// Makes a listener as a service manager does, at the next free place.
static void pass(int place, const char *name)
{
	struct transport address = in_dir(TRANSPORT_UNIX, name);
	int fd = transport_listen(&address);
	assert_true(fd >= 0);
	if (fd != PASSED_FD + place) {
		assert_int_equal(dup2(fd, PASSED_FD + place), PASSED_FD + place);
		close(fd);
	}
}

static void activate(const char *count, const char *names)
{
	char pid[32];
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", count, 1);
	setenv("LISTEN_FDNAMES", names, 1);
}

static void discard(const char *name)
{
	assert_int_equal(unlink(in_dir(TRANSPORT_UNIX, name).path), 0);
}

static void without_services_there_is_the_display(void **state)
{
	(void)state;
	assert_true(listeners_open(&listeners));
	assert_int_equal(listeners.count, 1);
	assert_int_equal(listeners.list[0].service, 0);
	assert_string_equal(listeners.display.display, "wayland-0");
	assert_accepts(listeners.list[0].fd, TRANSPORT_UNIX, "wayland-0");
}

static void each_service_has_its_own_and_there_is_no_display(void **state)
{
	(void)state;
	add("dbus", TRANSPORT_UNIX);
	add("zygote", TRANSPORT_SEQPACKET);
	assert_true(listeners_open(&listeners));
	assert_int_equal(listeners.count, 2);
	assert_int_equal(listeners.list[0].service, 1);
	assert_accepts(listeners.list[0].fd, TRANSPORT_UNIX, "dbus");
	assert_int_equal(listeners.list[1].service, 2);
	assert_accepts(listeners.list[1].fd, TRANSPORT_SEQPACKET, "zygote");
	assert_string_equal(listeners.display.display, "");
	assert_false(exists("wayland-0"));
	listeners_finish(&listeners);
	assert_false(exists("dbus") || exists("zygote"));
}

static void a_display_that_is_asked_for_comes_first(void **state)
{
	(void)state;
	add("dbus", TRANSPORT_UNIX);
	options.display = "wayland-7";
	assert_true(listeners_open(&listeners));
	assert_int_equal(listeners.count, 2);
	assert_int_equal(listeners.list[0].service, 0);
	assert_accepts(listeners.list[0].fd, TRANSPORT_UNIX, "wayland-7");
	assert_int_equal(listeners.list[1].service, 1);
}

static void a_stale_socket_is_replaced(void **state)
{
	(void)state;
	struct transport address = in_dir(TRANSPORT_UNIX, "dbus");
	close(transport_listen(&address));
	assert_true(exists("dbus"));
	add("dbus", TRANSPORT_UNIX);
	assert_true(listeners_open(&listeners));
	assert_accepts(listeners.list[0].fd, TRANSPORT_UNIX, "dbus");
}

static void a_live_socket_is_an_error_and_left_alone(void **state)
{
	(void)state;
	struct transport address = in_dir(TRANSPORT_UNIX, "dbus");
	int live = transport_listen(&address);
	add("first", TRANSPORT_UNIX);
	add("dbus", TRANSPORT_UNIX);
	assert_false(listeners_open(&listeners));
	listeners_finish(&listeners);
	assert_false(exists("first"));
	assert_accepts(live, TRANSPORT_UNIX, "dbus");
	close(live);
	discard("dbus");
}

static void a_passed_socket_goes_to_the_service_of_its_name(void **state)
{
	(void)state;
	add("pipewire", TRANSPORT_UNIX);
	add("dbus", TRANSPORT_UNIX);
	pass(0, "bus");
	activate("1", "dbus");
	assert_true(listeners_open(&listeners));
	assert_int_equal(listeners.count, 2);
	assert_int_equal(listeners.list[0].fd, PASSED_FD);
	assert_int_equal(listeners.list[0].service, 2);
	assert_accepts(PASSED_FD, TRANSPORT_UNIX, "bus");
	assert_int_equal(listeners.list[1].service, 1);
	assert_false(exists("dbus"));
	assert_true(exists("pipewire"));
	listeners_finish(&listeners);
	assert_true(exists("bus")); // it is the service manager's
	discard("bus");
}

static void a_passed_socket_of_another_name_is_the_display(void **state)
{
	(void)state;
	add("dbus", TRANSPORT_UNIX);
	pass(0, "bus");
	pass(1, "wayland-4");
	activate("2", "dbus:fdferry-guest.socket");
	assert_true(listeners_open(&listeners));
	assert_int_equal(listeners.count, 2);
	assert_int_equal(listeners.list[0].service, 1);
	assert_int_equal(listeners.list[1].service, 0);
	assert_string_equal(listeners.display.display, in_dir(TRANSPORT_UNIX, "wayland-4").path);
	listeners_finish(&listeners);
	discard("bus");
	discard("wayland-4");
}

static void a_second_socket_for_the_same_is_an_error(void **state)
{
	(void)state;
	static const char *const names[] = {"dbus:dbus", "one:other", ":", ""};
	add("dbus", TRANSPORT_UNIX);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		pass(0, "a");
		pass(1, "b");
		activate("2", names[i]);
		assert_false(listeners_open(&listeners));
		listeners_finish(&listeners);
		assert_int_equal(fcntl(PASSED_FD, F_GETFD), -1);
		assert_int_equal(fcntl(PASSED_FD + 1, F_GETFD), -1);
		discard("a");
		discard("b");
	}
	assert_false(exists("dbus"));
}

static void a_passed_display_cannot_be_chosen(void **state)
{
	(void)state;
	options.display = "wayland-7";
	pass(0, "wayland-4");
	activate("1", "wayland");
	assert_false(listeners_open(&listeners));
	discard("wayland-4");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(without_services_there_is_the_display),
		test(each_service_has_its_own_and_there_is_no_display),
		test(a_display_that_is_asked_for_comes_first),
		test(a_stale_socket_is_replaced),
		test(a_live_socket_is_an_error_and_left_alone),
		test(a_passed_socket_goes_to_the_service_of_its_name),
		test(a_passed_socket_of_another_name_is_the_display),
		test(a_second_socket_for_the_same_is_an_error),
		test(a_passed_display_cannot_be_chosen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
