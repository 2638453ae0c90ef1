#include "relay/crossing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/wayland/protocol.h"
#include "tests/support/fd_count.h"
#include "wire/schema.h"

static bool crosses(const char *name)
{
	const struct wire_interface *interface = wire_schema_find(name);
	if (interface == NULL) {
		fail_msg("%s is not known", name);
	}
	bool possible = crossing_possible(interface);
	assert_int_equal(crossing_possible(interface), possible); // from now on without a search
	return possible;
}

static void globals_without_fds_or_with_fds_that_cross_are_possible(void **state)
{
	(void)state;
	static const char *const names[] = {
		"wl_compositor",
		"wl_subcompositor",
		"wl_shm",
		"wl_seat",
		"wl_output",
		"wl_data_device_manager",
		"xdg_wm_base",
		"wp_viewporter",
		"wp_presentation",
		"zxdg_decoration_manager_v1",
		"zwp_primary_selection_device_manager_v1",
		"zwlr_data_control_manager_v1",
		"zwlr_gamma_control_manager_v1",
		"zwp_virtual_keyboard_manager_v1",
		"zwp_input_method_manager_v2",
		"zwlr_screencopy_manager_v1",
		"ext_image_copy_capture_manager_v1",
		"zwlr_layer_shell_v1",
		"wp_color_manager_v1",
		"zwp_pointer_constraints_v1",
		"zwp_linux_dmabuf_v1",
		"wl_drm",
		"zwlr_export_dmabuf_manager_v1",
		"zwp_linux_explicit_synchronization_v1",
		"wp_linux_drm_syncobj_manager_v1",
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!crosses(names[i])) {
			fail_msg("%s does not cross", names[i]);
		}
	}
	wire_schema_finish();
}

static void globals_whose_fds_cannot_cross_are_not(void **state)
{
	(void)state;
	static const char *const names[] = {
		"wp_drm_lease_device_v1",
		"wp_security_context_manager_v1",
		"org_kde_kwin_remote_access_manager",
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (crosses(names[i])) {
			fail_msg("%s crosses", names[i]);
		}
	}
	wire_schema_finish();
}

// The same question asked another way: every interface that can be reached, by colouring them all.
struct reach {
	bool *reached;
	bool possible;
};

static size_t index_of(const char *name)
{
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		if (strcmp(protocol_interfaces[i].interface->name, name) == 0) {
			return i;
		}
	}
	fail_msg("%s is not known", name);
	return 0;
}

static bool kind_crosses(const struct protocol_fd *fd)
{
	switch (fd->kind) {
	case PROTOCOL_FD_POOL:
	case PROTOCOL_FD_FILE:
	case PROTOCOL_FD_STREAM:
	case PROTOCOL_FD_PLANE:
	case PROTOCOL_FD_SYNC_FILE:
	case PROTOCOL_FD_SYNCOBJ:
		return true;
	default:
		return false;
	}
}

static void look_at(struct reach *reach, const struct wl_interface *interface)
{
	size_t index = index_of(interface->name);
	if (reach->reached[index]) {
		return;
	}
	reach->reached[index] = true;
	for (int side = 0; side < 2; side++) {
		int count = side == 0 ? interface->method_count : interface->event_count;
		const struct wl_message *messages =
			side == 0 ? interface->methods : interface->events;
		for (int i = 0; i < count; i++) {
			const struct protocol_fd *fd =
				protocol_fd_find(interface->name, messages[i].name);
			if (fd != NULL && !kind_crosses(fd)) {
				reach->possible = false;
			}
			size_t arg = 0;
			for (const char *c = messages[i].signature; *c != '\0'; c++) {
				if (strchr("iufsonah", *c) == NULL) {
					continue; // a version or '?'
				}
				const struct wl_interface *made = messages[i].types[arg++];
				if (*c == 'n' && made != NULL) {
					look_at(reach, made);
				}
			}
		}
	}
}

static void every_known_interface_is_judged_by_all_that_it_can_make(void **state)
{
	(void)state;
	size_t possible = 0;
	for (size_t i = 0; i < protocol_interfaces_len; i++) {
		const struct wl_interface *interface = protocol_interfaces[i].interface;
		struct reach reach = {
			.reached = calloc(protocol_interfaces_len, sizeof(bool)),
			.possible = true,
		};
		look_at(&reach, interface);
		free(reach.reached);
		if (crosses(interface->name) != reach.possible) {
			fail_msg("%s", interface->name);
		}
		possible += reach.possible;
	}
	assert_true(possible > protocol_interfaces_len / 2);
	wire_schema_finish();
}

static void a_global_is_judged_by_its_name_and_known_version(void **state)
{
	(void)state;
	const struct wire_interface *seat = wire_schema_find("wl_seat");
	uint32_t version = 1000;
	assert_int_equal(crossing_of_global("wl_seat", &version), CROSSING_POSSIBLE);
	assert_int_equal(version, seat->version);
	version = 2;
	assert_int_equal(crossing_of_global("wl_seat", &version), CROSSING_POSSIBLE);
	assert_int_equal(version, 2);
	assert_int_equal(crossing_of_global("no_such_interface", &version), CROSSING_UNKNOWN);
	version = 1;
	assert_int_equal(
		crossing_of_global("wp_drm_lease_device_v1", &version), CROSSING_IMPOSSIBLE);
	wire_schema_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(globals_without_fds_or_with_fds_that_cross_are_possible),
		fd_count_test(globals_whose_fds_cannot_cross_are_not),
		fd_count_test(a_global_is_judged_by_its_name_and_known_version),
		fd_count_test(every_known_interface_is_judged_by_all_that_it_can_make),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
