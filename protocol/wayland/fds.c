#include "protocol/wayland/fds.h"

#include <string.h>

const struct protocol_fd protocol_fds[] = {
	{"wl_shm", "create_pool", PROTOCOL_FD_POOL},

	{"river_xkb_config_v1", "create_keymap", PROTOCOL_FD_FILE},
	{"wl_keyboard", "keymap", PROTOCOL_FD_FILE},
	{"wp_image_description_creator_icc_v1", "set_icc_file", PROTOCOL_FD_FILE},
	{"wp_image_description_info_v1", "icc_file", PROTOCOL_FD_FILE},
	{"zwlr_gamma_control_v1", "set_gamma", PROTOCOL_FD_FILE},
	{"zwp_input_method_keyboard_grab_v2", "keymap", PROTOCOL_FD_FILE},
	{"zwp_linux_dmabuf_feedback_v1", "format_table", PROTOCOL_FD_FILE},
	{"zwp_virtual_keyboard_v1", "keymap", PROTOCOL_FD_FILE},

	{"ext_data_control_offer_v1", "receive", PROTOCOL_FD_STREAM},
	{"ext_data_control_source_v1", "send", PROTOCOL_FD_STREAM},
	{"gtk_primary_selection_offer", "receive", PROTOCOL_FD_STREAM},
	{"gtk_primary_selection_source", "send", PROTOCOL_FD_STREAM},
	{"org_kde_plasma_window", "get_icon", PROTOCOL_FD_STREAM},
	{"weston_debug_v1", "subscribe", PROTOCOL_FD_STREAM},
	{"wl_data_offer", "receive", PROTOCOL_FD_STREAM},
	{"wl_data_source", "send", PROTOCOL_FD_STREAM},
	{"zwlr_data_control_offer_v1", "receive", PROTOCOL_FD_STREAM},
	{"zwlr_data_control_source_v1", "send", PROTOCOL_FD_STREAM},
	{"zwp_primary_selection_offer_v1", "receive", PROTOCOL_FD_STREAM},
	{"zwp_primary_selection_source_v1", "send", PROTOCOL_FD_STREAM},

	{"wl_drm", "create_prime_buffer", PROTOCOL_FD_PLANE},
	{"zwlr_export_dmabuf_frame_v1", "object", PROTOCOL_FD_PLANE},
	{"zwp_linux_buffer_params_v1", "add", PROTOCOL_FD_PLANE},

	{"org_kde_kwin_remote_buffer", "gbm_handle", PROTOCOL_FD_DMABUF},

	{"zwp_linux_buffer_release_v1", "fenced_release", PROTOCOL_FD_SYNC_FILE},
	{"zwp_linux_surface_synchronization_v1", "set_acquire_fence", PROTOCOL_FD_SYNC_FILE},

	{"wp_linux_drm_syncobj_manager_v1", "import_timeline", PROTOCOL_FD_SYNCOBJ},

	{"cosmic_atspi_manager_v1", "key_events_eis", PROTOCOL_FD_SOCKET},
	{"hyprland_input_capture_v1", "eis_fd", PROTOCOL_FD_SOCKET},

	{"wp_drm_lease_device_v1", "drm_fd", PROTOCOL_FD_REFUSED},
	{"wp_drm_lease_v1", "lease_fd", PROTOCOL_FD_REFUSED},
	{"wp_security_context_manager_v1", "create_listener", PROTOCOL_FD_REFUSED}, // two fds
};

const size_t protocol_fds_len = sizeof(protocol_fds) / sizeof(protocol_fds[0]);

// Asked only for messages that carry an fd, which are rare: no need for anything but a walk.
const struct protocol_fd *protocol_fd_find(const char *interface, const char *message)
{
	for (size_t i = 0; i < protocol_fds_len; i++) {
		const struct protocol_fd *fd = &protocol_fds[i];
		if (strcmp(fd->interface, interface) == 0 && strcmp(fd->message, message) == 0) {
			return fd;
		}
	}
	return NULL;
}
