#include "guest-proxy/render_node.h"

#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "relay/dmabuf.h"
#include "tests/support/fd_count.h"

/* Whether it is the number of a render node; with 0, whether there is any. */
static bool is_node(uint64_t number)
{
	glob_t nodes;
	bool found = false;
	if (glob("/dev/dri/renderD*", 0, NULL, &nodes) != 0) {
		return false;
	}
	for (size_t i = 0; i < nodes.gl_pathc; i++) {
		struct stat st;
		found = found || number == 0 ||
			(stat(nodes.gl_pathv[i], &st) == 0 && st.st_rdev == number);
	}
	globfree(&nodes);
	return found;
}

static void what_is_told_is_a_render_node_that_is_there(void **state)
{
	(void)state;
	struct dmabuf_device device;
	int virtgpu;
	render_node_find(&device, &virtgpu);
	if (virtgpu >= 0) {
		close(virtgpu);
	}
	if (is_node(0)) {
		struct stat st;
		assert_true(is_node(device.number));
		assert_int_equal(stat(device.path, &st), 0);
		assert_int_equal(st.st_rdev, device.number);
	} else {
		assert_int_equal(device.number, 0);
		assert_string_equal(device.path, "");
	}
}

static void without_a_device_buffers_are_rows(void **state)
{
	(void)state;
	struct dmabuf_device device;
	int virtgpu;
	bool readable = render_node_find(&device, &virtgpu);
	if (device.number != 0) {
		if (virtgpu >= 0) {
			close(virtgpu);
		}
		skip();
	}
	assert_int_equal(virtgpu, -1);
	assert_true(readable);
	assert_true(device.implicit_linear);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(what_is_told_is_a_render_node_that_is_there),
		fd_count_test(without_a_device_buffers_are_rows),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
