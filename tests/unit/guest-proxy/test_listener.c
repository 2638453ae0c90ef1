#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest-proxy/listener.h"
#include "tests/support/fd_count.h"

static char dir[32];
static char error[512];

static int setup(void **state)
{
	strcpy(dir, "/tmp/listener-XXXXXX");
	if (mkdtemp(dir) == NULL) {
		return -1;
	}
	setenv("XDG_RUNTIME_DIR", dir, 1);
	error[0] = '\0';
	return fd_count_setup(state);
}

// Everything that was made has to be gone.
static int teardown(void **state)
{
	return rmdir(dir) < 0 ? -1 : fd_count_teardown(state);
}

static const char *in_dir(const char *name)
{
	static char path[128];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static bool exists(const char *name)
{
	return access(in_dir(name), F_OK) == 0;
}

static bool open_name(struct listener *listener, const char *name)
{
	listener_init(listener);
	return listener_open(listener, name, error, sizeof(error));
}

static void fill(const char *name, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "%s/%s", dir, name);
}

static int listen_without_a_lock(const char *name)
{
	struct sockaddr_un address;
	fill(name, &address);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static void assert_connects(const char *name)
{
	struct sockaddr_un address;
	fill(name, &address);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

static void a_name_is_in_the_runtime_dir(void **state)
{
	(void)state;
	struct listener listener;
	assert_true(open_name(&listener, "wayland-9"));
	assert_string_equal(listener.display, "wayland-9");
	assert_true(exists("wayland-9") && exists("wayland-9.lock"));
	assert_connects("wayland-9");
	listener_finish(&listener);
	assert_false(exists("wayland-9") || exists("wayland-9.lock"));
}

static void an_absolute_path_needs_no_runtime_dir(void **state)
{
	(void)state;
	struct listener listener;
	unsetenv("XDG_RUNTIME_DIR");
	const char *path = in_dir("socket");
	assert_true(open_name(&listener, path));
	assert_string_equal(listener.display, path);
	listener_finish(&listener);
}

static void the_first_free_name_is_taken(void **state)
{
	(void)state;
	struct listener first, second;
	assert_true(open_name(&first, NULL));
	assert_true(open_name(&second, NULL));
	assert_string_equal(first.display, "wayland-0");
	assert_string_equal(second.display, "wayland-1");
	listener_finish(&first);
	listener_finish(&second);
}

static void a_locked_name_is_refused(void **state)
{
	(void)state;
	struct listener first, second;
	assert_true(open_name(&first, "w"));
	assert_false(open_name(&second, "w"));
	assert_non_null(strstr(error, "another program"));
	listener_finish(&second);
	assert_true(exists("w") && exists("w.lock"));
	assert_connects("w");
	listener_finish(&first);
}

static void a_stale_socket_is_replaced(void **state)
{
	(void)state;
	struct listener listener;
	close(listen_without_a_lock("w"));
	close(open(in_dir("w.lock"), O_CREAT | O_RDWR, 0600));
	assert_true(open_name(&listener, "w"));
	assert_connects("w");
	listener_finish(&listener);
}

static void a_live_socket_without_a_lock_is_left_alone(void **state)
{
	(void)state;
	struct listener listener;
	int fd = listen_without_a_lock("wayland-0");
	assert_false(open_name(&listener, "wayland-0"));
	listener_finish(&listener);
	assert_true(open_name(&listener, NULL));
	assert_string_equal(listener.display, "wayland-1");
	listener_finish(&listener);
	assert_connects("wayland-0");
	close(fd);
	unlink(in_dir("wayland-0"));
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
	(void)state;
	struct listener listener;
	close(open(in_dir("file"), O_CREAT | O_RDWR, 0600));
	assert_false(open_name(&listener, "file"));
	assert_non_null(strstr(error, "no socket"));
	listener_finish(&listener);
	assert_true(exists("file"));
	unlink(in_dir("file"));
}

static void a_name_needs_a_runtime_dir(void **state)
{
	(void)state;
	struct listener listener;
	unsetenv("XDG_RUNTIME_DIR");
	assert_false(open_name(&listener, NULL));
	assert_non_null(strstr(error, "XDG_RUNTIME_DIR is not set"));
	setenv("XDG_RUNTIME_DIR", "relative", 1);
	assert_false(open_name(&listener, NULL));
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	assert_false(open_name(&listener, "w"));
	assert_non_null(strstr(error, "/nonexistent"));
	setenv("XDG_RUNTIME_DIR", "/dev/null", 1);
	assert_false(open_name(&listener, "w"));
	listener_finish(&listener);
}

static void a_path_has_to_fit(void **state)
{
	(void)state;
	struct listener listener;
	char name[120];
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_false(open_name(&listener, name));
	assert_non_null(strstr(error, "too long"));
	listener_finish(&listener);
}

static void an_inherited_socket_names_the_display(void **state)
{
	(void)state;
	struct listener listener;
	int fd = listen_without_a_lock("w");
	listener_init(&listener);
	assert_true(listener_adopt(&listener, fd, error, sizeof(error)));
	assert_string_equal(listener.display, in_dir("w"));
	assert_int_equal(listener_take_fd(&listener), fd);
	close(fd);
	listener_finish(&listener);
	assert_true(exists("w")); // it is the service manager's
	unlink(in_dir("w"));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(a_name_is_in_the_runtime_dir),
		test(an_absolute_path_needs_no_runtime_dir),
		test(the_first_free_name_is_taken),
		test(a_locked_name_is_refused),
		test(a_stale_socket_is_replaced),
		test(a_live_socket_without_a_lock_is_left_alone),
		test(a_file_that_is_no_socket_is_left_alone),
		test(a_name_needs_a_runtime_dir),
		test(a_path_has_to_fit),
		test(an_inherited_socket_names_the_display),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
