#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "host-proxy/compositor.h"
#include "tests/support/fd_count.h"

static struct transport compositor;
static char error[512];

static bool locate(const char *name)
{
	error[0] = '\0';
	return compositor_locate(name, &compositor, error, sizeof(error));
}

static int setup(void **state)
{
	unsetenv("WAYLAND_DISPLAY");
	setenv("XDG_RUNTIME_DIR", "/tmp", 1);
	return fd_count_setup(state);
}

static void the_default_is_wayland_0(void **state)
{
	(void)state;
	assert_true(locate(NULL));
	assert_int_equal(compositor.kind, TRANSPORT_UNIX);
	assert_string_equal(compositor.path, "/tmp/wayland-0");
}

static void the_environment_names_it(void **state)
{
	(void)state;
	setenv("WAYLAND_DISPLAY", "wayland-3", 1);
	assert_true(locate(NULL));
	assert_string_equal(compositor.path, "/tmp/wayland-3");
	setenv("WAYLAND_DISPLAY", "/run/w", 1);
	assert_true(locate(NULL));
	assert_string_equal(compositor.path, "/run/w");
	setenv("WAYLAND_DISPLAY", "", 1);
	assert_true(locate(NULL));
	assert_string_equal(compositor.path, "/tmp/wayland-0");
}

static void an_option_wins_over_the_environment(void **state)
{
	(void)state;
	setenv("WAYLAND_DISPLAY", "wayland-3", 1);
	assert_true(locate("wayland-4"));
	assert_string_equal(compositor.path, "/tmp/wayland-4");
}

static void an_absolute_path_needs_no_runtime_dir(void **state)
{
	(void)state;
	unsetenv("XDG_RUNTIME_DIR");
	assert_true(locate("/run/w"));
	assert_string_equal(compositor.path, "/run/w");
}

static void a_name_needs_a_runtime_dir(void **state)
{
	(void)state;
	unsetenv("XDG_RUNTIME_DIR");
	assert_false(locate("wayland-1"));
	assert_non_null(strstr(error, "XDG_RUNTIME_DIR"));
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	assert_false(locate("wayland-1"));
	setenv("XDG_RUNTIME_DIR", "/dev/null", 1);
	assert_false(locate("wayland-1"));
	assert_non_null(strstr(error, "/dev/null"));
}

static void a_path_has_to_fit(void **state)
{
	(void)state;
	char name[110];
	memset(name, 'x', sizeof(name));
	name[0] = '/';
	name[107] = '\0';
	assert_true(locate(name));
	name[107] = 'x';
	name[108] = '\0';
	assert_false(locate(name));
	assert_non_null(strstr(error, "too long"));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, fd_count_teardown)

static int listen_at(const struct transport *address)
{
	int fd = transport_listen(address);
	assert_true(fd >= 0);
	return fd;
}

static void a_socket_at_the_same_path_is_another_one(void **state)
{
	(void)state;
	char dir[] = "/tmp/fdferry-compositor-XXXXXX";
	struct transport address = {.kind = TRANSPORT_UNIX};
	struct compositor_id first, again, second;
	assert_non_null(mkdtemp(dir));
	snprintf(address.path, sizeof(address.path), "%s/socket", dir);
	assert_false(compositor_identify(&address, &first));
	int fd = listen_at(&address);
	assert_true(compositor_identify(&address, &first));
	assert_true(compositor_identify(&address, &again));
	assert_true(compositor_id_equal(&first, &again));
	close(fd);
	transport_unlink(&address);
	fd = listen_at(&address);
	assert_true(compositor_identify(&address, &second));
	// Times of files may have steps of some milliseconds, inodes may be used again at once.
	for (int i = 0; i < 10000 && compositor_id_equal(&first, &second); i++) {
		close(fd);
		transport_unlink(&address);
		usleep(1000);
		fd = listen_at(&address);
		assert_true(compositor_identify(&address, &second));
	}
	assert_false(compositor_id_equal(&first, &second));
	const struct compositor_id none = {0};
	assert_false(compositor_id_equal(&second, &none));
	close(fd);
	transport_unlink(&address);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(the_default_is_wayland_0),
		test(the_environment_names_it),
		test(an_option_wins_over_the_environment),
		test(an_absolute_path_needs_no_runtime_dir),
		test(a_name_needs_a_runtime_dir),
		test(a_path_has_to_fit),
		test(a_socket_at_the_same_path_is_another_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
