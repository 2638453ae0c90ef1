#include "relay/hooks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"
#include "wire/schema.h"

static const struct wire_op *find_op(
	const char *interface, enum wire_direction direction, const char *message)
{
	const struct wire_interface *found = wire_schema_find(interface);
	if (found == NULL) {
		fail_msg("%s is not known", interface);
		return NULL;
	}
	for (size_t i = 0; i < found->ops[direction].count; i++) {
		if (strcmp(found->ops[direction].ops[i].name, message) == 0) {
			return &found->ops[direction].ops[i];
		}
	}
	return NULL;
}

static bool is_event(const struct wayland_hook *hook)
{
	static const char *const events[][2] = {
		{"wl_display", "delete_id"},
		{"wl_display", "error"},
		{"wl_registry", "global"},
		{"wl_registry", "global_remove"},
		{"wl_buffer", "release"},
		{"zwlr_screencopy_frame_v1", "ready"},
		{"zwlr_screencopy_frame_v1", "linux_dmabuf"},
		{"ext_image_copy_capture_session_v1", "dmabuf_device"},
		{"ext_image_copy_capture_session_v1", "dmabuf_format"},
		{"ext_image_copy_capture_frame_v1", "presentation_time"},
		{"ext_image_copy_capture_frame_v1", "ready"},
		{"hyprland_toplevel_export_frame_v1", "ready"},
		{"hyprland_toplevel_export_frame_v1", "linux_dmabuf"},
		{"weston_screenshooter", "done"},
		{"weston_capture_source_v1", "complete"},
		{"zwp_linux_dmabuf_v1", "format"},
		{"zwp_linux_dmabuf_v1", "modifier"},
		{"zwp_linux_dmabuf_feedback_v1", "format_table"},
		{"zwp_linux_dmabuf_feedback_v1", "main_device"},
		{"zwp_linux_dmabuf_feedback_v1", "tranche_target_device"},
		{"zwp_linux_dmabuf_feedback_v1", "tranche_flags"},
		{"zwp_linux_dmabuf_feedback_v1", "tranche_formats"},
		{"zwp_linux_dmabuf_feedback_v1", "tranche_done"},
		{"zwp_linux_dmabuf_feedback_v1", "done"},
		{"zwp_linux_buffer_params_v1", "created"},
		{"zwp_linux_buffer_params_v1", "failed"},
		{"wl_drm", "device"},
		{"wl_drm", "format"},
		{"wl_drm", "capabilities"},
		{"zwlr_export_dmabuf_frame_v1", "frame"},
		{"zwlr_export_dmabuf_frame_v1", "object"},
		{"zwlr_export_dmabuf_frame_v1", "ready"},
		{"zwp_linux_buffer_release_v1", "fenced_release"},
		{"wp_presentation", "clock_id"},
		{"wp_presentation_feedback", "presented"},
		{"zwp_input_timestamps_v1", "timestamp"},
	};
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		if (strcmp(events[i][0], hook->interface) == 0 &&
			strcmp(events[i][1], hook->message) == 0) {
			return true;
		}
	}
	return false;
}

// The op of an entry, which names one message in the direction that is expected of it.
static const struct wire_op *op_of(const struct wayland_hook *hook)
{
	enum wire_direction direction = is_event(hook) ? WIRE_EVENT : WIRE_REQUEST;
	enum wire_direction other = is_event(hook) ? WIRE_REQUEST : WIRE_EVENT;
	const struct wire_op *op = find_op(hook->interface, direction, hook->message);
	if (op == NULL || find_op(hook->interface, other, hook->message) != NULL) {
		fail_msg("%s.%s", hook->interface, hook->message);
	}
	return op;
}

static void every_entry_names_one_message_of_the_schema(void **state)
{
	(void)state;
	size_t len;
	const struct wayland_hook *hooks = hooks_table(&len);
	assert_true(len > 0);
	for (size_t i = 0; i < len; i++) {
		assert_non_null(op_of(&hooks[i]));
		assert_true(hooks[i].on_export != NULL || hooks[i].on_import != NULL);
	}
	wire_schema_finish();
}

static void every_entry_is_found_by_its_message(void **state)
{
	(void)state;
	size_t len;
	const struct wayland_hook *hooks = hooks_table(&len);
	hooks_init();
	for (size_t i = 0; i < len; i++) {
		if (op_of(&hooks[i])->hook != &hooks[i]) {
			fail_msg("%s.%s", hooks[i].interface, hooks[i].message);
		}
	}
	assert_null(find_op("wl_surface", WIRE_REQUEST, "frame")->hook);
	assert_null(find_op("wl_shm", WIRE_EVENT, "format")->hook);
	wire_schema_finish();
}

static void entries_are_grouped_by_interface_and_unique(void **state)
{
	(void)state;
	size_t len;
	const struct wayland_hook *hooks = hooks_table(&len);
	for (size_t i = 0; i < len; i++) {
		for (size_t j = i + 1; j < len; j++) {
			bool same = strcmp(hooks[i].interface, hooks[j].interface) == 0;
			if (same &&
				(strcmp(hooks[i].message, hooks[j].message) == 0 ||
					strcmp(hooks[j - 1].interface, hooks[j].interface) != 0)) {
				fail_msg("%s.%s", hooks[j].interface, hooks[j].message);
			}
		}
	}
}

static bool uses(const struct wayland_hook *hook, wayland_hook_func func)
{
	return hook->on_export == func || hook->on_import == func;
}

static bool names(const struct wire_op *op, enum wire_arg_type type, const char *interface)
{
	return op->n_args > 0 && op->args[0].type == type && op->args[0].interface != NULL &&
		strcmp(op->args[0].interface->name, interface) == 0;
}

static bool names_a_buffer(const struct wire_op *op)
{
	bool found = false;
	for (size_t i = 0; i < op->n_args; i++) {
		found = found ||
			(op->args[i].type == WIRE_ARG_OBJECT && op->args[i].interface != NULL &&
				strcmp(op->args[i].interface->name, "wl_buffer") == 0);
	}
	return found;
}

static bool begins_with_a_time(const struct wire_op *op)
{
	return op->n_args >= 3 && op->args[0].type == WIRE_ARG_UINT &&
		op->args[1].type == WIRE_ARG_UINT && op->args[2].type == WIRE_ARG_UINT;
}

static bool has_text(const struct wire_op *op)
{
	bool found = false;
	for (size_t i = 0; i < op->n_args; i++) {
		found = found || op->args[i].type == WIRE_ARG_STRING;
	}
	return found;
}

static void hooks_find_the_arguments_that_they_look_at(void **state)
{
	(void)state;
	size_t len;
	const struct wayland_hook *hooks = hooks_table(&len);
	for (size_t i = 0; i < len; i++) {
		const struct wayland_hook *hook = &hooks[i];
		const struct wire_op *op = op_of(hook);
		bool right = true;
		if (uses(hook, times_export) || uses(hook, times_import) ||
			uses(hook, capture_export_ready_time) || uses(hook, scanout_export_ready)) {
			right = begins_with_a_time(op);
		} else if (uses(hook, labels_import_title) || uses(hook, labels_import_app_id) ||
			uses(hook, labels_import_icon) || uses(hook, told_import_title) ||
			uses(hook, told_import_app_id)) {
			right = op->n_fds == 0 && !op->makes_object && has_text(op);
		} else if (uses(hook, told_import_window) || uses(hook, listed_import_create)) {
			right = op->n_args > 0 && op->args[0].type == WIRE_ARG_NEW_ID;
		} else if (uses(hook, told_import_selection)) {
			right = op->n_args == 2 && op->args[0].type == WIRE_ARG_OBJECT &&
				op->args[0].interface != NULL;
		} else if (uses(hook, told_import_receive)) {
			right = op->n_fds == 1 && !op->makes_object;
		} else if (uses(hook, capture_attach) || uses(hook, capture_copy)) {
			right = names_a_buffer(op);
		} else if (uses(hook, surface_attach)) {
			right = names(op, WIRE_ARG_OBJECT, "wl_buffer");
		} else if (uses(hook, shm_export_create_buffer)) {
			right = names(op, WIRE_ARG_NEW_ID, "wl_buffer");
		} else if (uses(hook, surface_create)) {
			right = names(op, WIRE_ARG_NEW_ID, "wl_surface");
		} else if (uses(hook, dmabuf_create_params)) {
			right = names(op, WIRE_ARG_NEW_ID, "zwp_linux_buffer_params_v1");
		} else if (uses(hook, feedback_create)) {
			right = names(op, WIRE_ARG_NEW_ID, "zwp_linux_dmabuf_feedback_v1");
		} else if (uses(hook, dmabuf_create_immed) || uses(hook, dmabuf_created)) {
			right = names(op, WIRE_ARG_NEW_ID, "wl_buffer");
		} else if (uses(hook, dmabuf_export_add) ||
			uses(hook, feedback_export_format_table)) {
			right = op->n_fds == 1 && op->args[0].type == WIRE_ARG_FD;
		} else if (uses(hook, scanout_create)) {
			right = names(op, WIRE_ARG_NEW_ID, "zwlr_export_dmabuf_frame_v1");
		} else if (uses(hook, scanout_export_frame)) {
			right = op->n_args == 10 && op->only_words;
		} else if (uses(hook, scanout_export_object)) {
			right = op->n_args == 6 && op->n_fds == 1 &&
				op->args[1].type == WIRE_ARG_FD;
		} else if (uses(hook, drm_export_create_prime_buffer)) {
			right = op->n_fds == 1 && op->n_args == 11 &&
				names(op, WIRE_ARG_NEW_ID, "wl_buffer");
		} else if (uses(hook, feedback_device) || uses(hook, capture_dmabuf_device)) {
			right = op->n_args == 1 && op->args[0].type == WIRE_ARG_ARRAY;
		} else if (uses(hook, capture_dmabuf_format)) {
			right = op->n_args == 2 && op->args[0].type == WIRE_ARG_UINT &&
				op->args[1].type == WIRE_ARG_ARRAY;
		} else if (uses(hook, drm_format) || uses(hook, drm_capabilities) ||
			uses(hook, capture_linux_dmabuf)) {
			right = op->n_fds == 0 && op->n_args > 0 &&
				op->args[0].type == WIRE_ARG_UINT;
		} else if (uses(hook, feedback_tranche_detail) ||
			uses(hook, feedback_tranche_formats) || uses(hook, feedback_tranche_done)) {
			right = op->n_fds == 0 && !op->makes_object;
		}
		if (!right) {
			fail_msg("%s.%s", hook->interface, hook->message);
		}
	}
	wire_schema_finish();
}

static void other_requests_that_name_a_buffer_have_it_sent_first(void **state)
{
	(void)state;
	static const char *const requests[][2] = {
		{"wl_surface", "attach"},
		{"xdg_toplevel_icon_v1", "add_buffer"},
	};
	hooks_init();
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		const struct wire_op *op = find_op(requests[i][0], WIRE_REQUEST, requests[i][1]);
		assert_non_null(op);
		const struct wayland_hook *hook = op->hook;
		assert_non_null(hook);
		assert_ptr_equal(hook->on_export, i == 0 ? surface_attach : shm_export_buffer_args);
	}
	assert_null(find_op("wl_surface", WIRE_EVENT, "enter")->hook);
	wire_schema_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(every_entry_names_one_message_of_the_schema),
		fd_count_test(every_entry_is_found_by_its_message),
		fd_count_test(entries_are_grouped_by_interface_and_unique),
		fd_count_test(hooks_find_the_arguments_that_they_look_at),
		fd_count_test(other_requests_that_name_a_buffer_have_it_sent_first),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
