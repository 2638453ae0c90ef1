#include "relay/hooks.h"

#include <string.h>

/* Grouped by interface: the look-up remembers where the last one began. */
static const struct wayland_hook hooks[] = {
	{"wl_display", "delete_id", display_delete_id, display_delete_id},
	{"wl_display", "error", display_error, display_error},
	{"wl_display", "get_registry", NULL, registry_import_create},
	{"wl_registry", "global", registry_global, registry_global},
	{"wl_registry", "global_remove", registry_global_remove, registry_global_remove},
	{"wl_registry", "bind", registry_bind, registry_import_bind},

	{"wl_shm", "create_pool", shm_export_create_pool, shm_import_create_pool},
	{"wl_shm_pool", "create_buffer", shm_export_create_buffer, shm_import_create_buffer},
	{"wl_shm_pool", "resize", shm_export_resize, shm_import_resize},

	{"zwp_linux_dmabuf_v1", "format", feedback_format, feedback_format},
	{"zwp_linux_dmabuf_v1", "modifier", feedback_modifier, feedback_modifier},
	{"zwp_linux_dmabuf_v1", "get_default_feedback", feedback_create, feedback_create},
	{"zwp_linux_dmabuf_v1", "get_surface_feedback", feedback_create, feedback_create},
	{"zwp_linux_dmabuf_v1", "create_params", dmabuf_create_params, dmabuf_create_params},
	{"zwp_linux_dmabuf_feedback_v1", "format_table", feedback_export_format_table,
		feedback_import_format_table},
	{"zwp_linux_dmabuf_feedback_v1", "main_device", feedback_device, feedback_device},
	{"zwp_linux_dmabuf_feedback_v1", "tranche_target_device", feedback_tranche_detail,
		feedback_tranche_detail},
	{"zwp_linux_dmabuf_feedback_v1", "tranche_flags", feedback_tranche_detail,
		feedback_tranche_detail},
	{"zwp_linux_dmabuf_feedback_v1", "tranche_formats", feedback_tranche_formats,
		feedback_tranche_formats},
	{"zwp_linux_dmabuf_feedback_v1", "tranche_done", feedback_tranche_done,
		feedback_tranche_done},
	{"zwp_linux_dmabuf_feedback_v1", "done", feedback_done, feedback_done},
	{"zwp_linux_buffer_params_v1", "add", dmabuf_export_add, dmabuf_import_add},
	{"zwp_linux_buffer_params_v1", "create", dmabuf_create, dmabuf_create},
	{"zwp_linux_buffer_params_v1", "create_immed", dmabuf_create_immed, dmabuf_create_immed},
	{"zwp_linux_buffer_params_v1", "created", dmabuf_created, dmabuf_created},
	{"zwp_linux_buffer_params_v1", "failed", dmabuf_failed, dmabuf_failed},

	{"wl_drm", "device", drm_device, drm_device},
	{"wl_drm", "format", drm_format, drm_format},
	{"wl_drm", "capabilities", drm_capabilities, drm_capabilities},
	{"wl_drm", "authenticate", drm_authenticate, drm_authenticate},
	{"wl_drm", "create_buffer", drm_create_named_buffer, drm_create_named_buffer},
	{"wl_drm", "create_planar_buffer", drm_create_named_buffer, drm_create_named_buffer},
	{"wl_drm", "create_prime_buffer", drm_export_create_prime_buffer,
		drm_import_create_prime_buffer},

	{"wl_buffer", "release", dmabuf_export_release, NULL},

	{"zwp_linux_explicit_synchronization_v1", "get_synchronization", synchronization_create,
		NULL},
	{"zwp_linux_surface_synchronization_v1", "set_acquire_fence", synchronization_export_fence,
		NULL},
	{"zwp_linux_buffer_release_v1", "fenced_release", synchronization_export_release, NULL},

	{"wp_linux_drm_syncobj_manager_v1", "get_surface", syncobj_get_surface, NULL},
	{"wp_linux_drm_syncobj_manager_v1", "import_timeline", syncobj_import_timeline, NULL},
	{"wp_linux_drm_syncobj_surface_v1", "set_acquire_point", syncobj_set_acquire_point, NULL},
	{"wp_linux_drm_syncobj_surface_v1", "set_release_point", syncobj_set_release_point, NULL},

	{"wl_compositor", "create_surface", surface_create, NULL},
	{"wl_surface", "attach", surface_attach, rectangles_import_attach},
	{"wl_surface", "damage", surface_damage, rectangles_import_damage},
	{"wl_surface", "damage_buffer", surface_damage_buffer, rectangles_import_damage},
	{"wl_surface", "set_buffer_scale", surface_set_scale, NULL},
	{"wl_surface", "set_buffer_transform", surface_set_transform, NULL},
	{"wl_surface", "offset", surface_offset, NULL},
	{"wl_surface", "set_opaque_region", NULL, rectangles_import_opaque},
	{"wl_surface", "set_input_region", NULL, rectangles_import_input},
	{"wl_surface", "commit", surface_commit, rectangles_import_commit},
	{"wl_subcompositor", "get_subsurface", NULL, rectangles_import_subsurface},
	{"wl_subsurface", "place_above", NULL, rectangles_import_place},
	{"wl_subsurface", "place_below", NULL, rectangles_import_place},
	{"wl_subsurface", "set_desync", NULL, rectangles_import_desync},
	{"wl_region", "add", NULL, rectangles_import_add},
	{"wl_region", "subtract", NULL, rectangles_import_subtract},
	{"wp_viewporter", "get_viewport", surface_get_viewport, NULL},
	{"wp_viewport", "set_source", viewport_set_source, NULL},
	{"wp_viewport", "set_destination", viewport_set_destination, NULL},

	{"wl_data_device", "set_selection", NULL, told_import_selection},
	{"zwp_primary_selection_device_v1", "set_selection", NULL, told_import_selection},
	{"gtk_primary_selection_device", "set_selection", NULL, told_import_selection},
	{"wl_data_offer", "accept", NULL, told_import_accept},
	{"wl_data_offer", "set_actions", NULL, told_import_actions},
	{"wl_data_offer", "finish", NULL, told_import_finish},
	{"wl_data_offer", "receive", NULL, told_import_receive},
	{"zwp_primary_selection_offer_v1", "receive", NULL, told_import_receive},
	{"gtk_primary_selection_offer", "receive", NULL, told_import_receive},
	{"zwlr_data_control_offer_v1", "receive", NULL, told_import_receive},
	{"ext_data_control_offer_v1", "receive", NULL, told_import_receive},
	{"wl_data_source", "offer", NULL, offers_import_offer},
	{"zwp_primary_selection_source_v1", "offer", NULL, offers_import_offer},
	{"gtk_primary_selection_source", "offer", NULL, offers_import_offer},
	{"zwlr_data_control_source_v1", "offer", NULL, offers_import_offer},
	{"ext_data_control_source_v1", "offer", NULL, offers_import_offer},

	{"zwp_pointer_constraints_v1", "lock_pointer", NULL, listed_import_create},
	{"zwp_pointer_constraints_v1", "confine_pointer", NULL, listed_import_create},
	{"zwp_keyboard_shortcuts_inhibit_manager_v1", "inhibit_shortcuts", NULL,
		listed_import_create},
	{"zxdg_exporter_v1", "export", NULL, listed_import_create},
	{"zxdg_exporter_v2", "export_toplevel", NULL, listed_import_create},

	{"zwlr_screencopy_frame_v1", "copy", capture_copy, capture_copy},
	{"zwlr_screencopy_frame_v1", "copy_with_damage", capture_copy, capture_copy},
	{"zwlr_screencopy_frame_v1", "ready", capture_export_ready_time, times_import},
	{"zwlr_screencopy_frame_v1", "linux_dmabuf", capture_linux_dmabuf, capture_linux_dmabuf},
	{"ext_image_copy_capture_session_v1", "dmabuf_device", capture_dmabuf_device,
		capture_dmabuf_device},
	{"ext_image_copy_capture_session_v1", "dmabuf_format", capture_dmabuf_format,
		capture_dmabuf_format},
	{"ext_image_copy_capture_frame_v1", "attach_buffer", capture_attach, capture_attach},
	{"ext_image_copy_capture_frame_v1", "capture", capture_export_begin, NULL},
	{"ext_image_copy_capture_frame_v1", "presentation_time", times_export, times_import},
	{"ext_image_copy_capture_frame_v1", "ready", capture_export_ready, NULL},

	{"hyprland_toplevel_export_frame_v1", "copy", capture_copy, capture_copy},
	{"hyprland_toplevel_export_frame_v1", "ready", capture_export_ready_time, times_import},
	{"hyprland_toplevel_export_frame_v1", "linux_dmabuf", capture_linux_dmabuf,
		capture_linux_dmabuf},
	{"weston_screenshooter", "take_shot", capture_copy, capture_copy},
	{"weston_screenshooter", "done", capture_export_ready, NULL},
	{"weston_capture_source_v1", "capture", capture_copy, capture_copy},
	{"weston_capture_source_v1", "complete", capture_export_ready, NULL},

	{"zwlr_export_dmabuf_manager_v1", "capture_output", scanout_create, scanout_create},
	{"zwlr_export_dmabuf_frame_v1", "frame", scanout_export_frame, NULL},
	{"zwlr_export_dmabuf_frame_v1", "object", scanout_export_object, scanout_import_object},
	{"zwlr_export_dmabuf_frame_v1", "ready", scanout_export_ready, scanout_import_ready},

	{"wp_presentation", "clock_id", times_export_clock_id, NULL},
	{"wp_presentation_feedback", "presented", times_export, times_import},
	{"wp_commit_timer_v1", "set_timestamp", times_export, times_import},
	{"zwp_input_timestamps_v1", "timestamp", times_export, times_import},

	{"xdg_toplevel", "set_title", NULL, told_import_title},
	{"xdg_toplevel", "set_app_id", NULL, told_import_app_id},
	{"xdg_toplevel", "set_parent", NULL, told_import_parent},
	{"xdg_toplevel", "set_maximized", NULL, told_import_maximized},
	{"xdg_toplevel", "unset_maximized", NULL, told_import_maximized},
	{"xdg_toplevel", "set_fullscreen", NULL, told_import_fullscreen},
	{"xdg_toplevel", "unset_fullscreen", NULL, told_import_fullscreen},
	{"xdg_toplevel", "set_minimized", NULL, told_import_minimized},
	{"xdg_surface", "get_toplevel", NULL, told_import_window},
	{"xdg_surface", "get_popup", NULL, popups_import_create},
	{"zxdg_toplevel_v6", "set_title", NULL, told_import_title},
	{"zxdg_toplevel_v6", "set_app_id", NULL, told_import_app_id},
	{"zxdg_toplevel_v6", "set_parent", NULL, told_import_parent},
	{"zxdg_toplevel_v6", "set_maximized", NULL, told_import_maximized},
	{"zxdg_toplevel_v6", "unset_maximized", NULL, told_import_maximized},
	{"zxdg_toplevel_v6", "set_fullscreen", NULL, told_import_fullscreen},
	{"zxdg_toplevel_v6", "unset_fullscreen", NULL, told_import_fullscreen},
	{"zxdg_toplevel_v6", "set_minimized", NULL, told_import_minimized},
	{"zxdg_surface_v6", "get_toplevel", NULL, told_import_window},
	{"zxdg_surface_v6", "get_popup", NULL, popups_import_create},
	{"wl_shell_surface", "set_title", NULL, told_import_title},
	{"wl_shell_surface", "set_class", NULL, told_import_app_id},
	{"wl_shell", "get_shell_surface", NULL, told_import_window},
	{"gtk_surface1", "set_dbus_properties", NULL, labels_import_app_id},
	{"xdg_activation_token_v1", "set_app_id", NULL, labels_import_app_id},
	{"xdg_toplevel_tag_manager_v1", "set_toplevel_tag", NULL, labels_import_app_id},
	{"xdg_toplevel_tag_manager_v1", "set_toplevel_description", NULL, labels_import_title},
	{"xdg_toplevel_icon_v1", "set_name", NULL, labels_import_icon},
};

#define N_HOOKS (sizeof(hooks) / sizeof(hooks[0]))

static const struct wayland_hook buffer_args = {.on_export = shm_export_buffer_args};
static const struct wayland_hook region_args = {.on_import = rectangles_import_region_args};

static bool names(const struct wire_op *op, const char *name)
{
	for (size_t i = 0; i < op->n_args; i++) {
		const struct wl_interface *interface = op->args[i].interface;
		if (op->args[i].type == WIRE_ARG_OBJECT && interface != NULL &&
			strcmp(interface->name, name) == 0) {
			return true;
		}
	}
	return false;
}

static const void *find_hook(const struct wire_interface *interface, enum wire_direction direction,
	const struct wire_op *op)
{
	static size_t first; // of the interface that was looked for last
	if (first == N_HOOKS || strcmp(hooks[first].interface, interface->name) != 0) {
		first = 0;
		while (first < N_HOOKS && strcmp(hooks[first].interface, interface->name) != 0) {
			first++;
		}
	}
	for (size_t i = first; i < N_HOOKS && strcmp(hooks[i].interface, interface->name) == 0;
		i++) {
		if (strcmp(hooks[i].message, op->name) == 0) {
			return &hooks[i];
		}
	}
	if (direction != WIRE_REQUEST) {
		return NULL;
	}
	return names(op, "wl_buffer") ? &buffer_args : names(op, "wl_region") ? &region_args : NULL;
}

void hooks_init(void)
{
	wire_schema_set_hooks(find_hook);
}

const struct wayland_hook *hooks_table(size_t *len)
{
	*len = N_HOOKS;
	return hooks;
}
