#include "tests/bench/compositor/compositor.h"

#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wayland-server-protocol.h>

// As large as the keymap of a common layout.
#define KEYMAP_SIZE 61440

static const char keymap_text[] = "xkb_keymap {\n"
				  "xkb_keycodes { include \"evdev+aliases(qwerty)\" };\n"
				  "xkb_types { include \"complete\" };\n"
				  "xkb_compat { include \"complete\" };\n"
				  "xkb_symbols { include \"pc+us+inet(evdev)\" };\n"
				  "};\n";

static int create_keymap(void)
{
	static char text[KEYMAP_SIZE]; // ends with a NUL
	memset(text, '\n', sizeof(text) - 1);
	memcpy(text, keymap_text, sizeof(keymap_text) - 1);
	int fd = memfd_create("keymap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || write(fd, text, sizeof(text)) != sizeof(text) ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) <
			0) {
		err(1, "keymap");
	}
	return fd;
}

static const struct requests device_requests = {
	.handlers = {[OPCODE(wl_keyboard, release)] = request_destroy},
};
_Static_assert(OPCODE(wl_keyboard, release) == OPCODE(wl_touch, release), "one table for both");

static void handle_get_keyboard(struct wl_resource *resource, const union wl_argument *args)
{
	static int keymap = -1;
	if (keymap < 0) {
		keymap = create_keymap();
	}
	struct wl_resource *keyboard =
		request_resource_create(wl_resource_get_client(resource), &wl_keyboard_interface,
			wl_resource_get_version(resource), args[0].n, &device_requests, NULL, NULL);
	if (keyboard == NULL) {
		return;
	}
	wl_keyboard_send_keymap(keyboard, WL_KEYBOARD_KEYMAP_FORMAT_XKB_V1, keymap, KEYMAP_SIZE);
	if (wl_resource_get_version(keyboard) >= WL_KEYBOARD_REPEAT_INFO_SINCE_VERSION) {
		wl_keyboard_send_repeat_info(keyboard, 25, 600);
	}
}

static const struct requests pointer_requests = {
	.handlers = {[OPCODE(wl_pointer, release)] = request_destroy},
};

static void handle_get_pointer(struct wl_resource *resource, const union wl_argument *args)
{
	request_resource_create(wl_resource_get_client(resource), &wl_pointer_interface,
		wl_resource_get_version(resource), args[0].n, &pointer_requests, NULL, NULL);
}

static void handle_get_touch(struct wl_resource *resource, const union wl_argument *args)
{
	request_resource_create(wl_resource_get_client(resource), &wl_touch_interface,
		wl_resource_get_version(resource), args[0].n, &device_requests, NULL, NULL);
}

static const struct requests seat_requests = {
	.handlers =
		{
			[OPCODE(wl_seat, get_pointer)] = handle_get_pointer,
			[OPCODE(wl_seat, get_keyboard)] = handle_get_keyboard,
			[OPCODE(wl_seat, get_touch)] = handle_get_touch,
			[OPCODE(wl_seat, release)] = request_destroy,
		},
};

static void bind_seat(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	struct wl_resource *seat = request_resource_create(
		client, &wl_seat_interface, (int)version, id, &seat_requests, data, NULL);
	if (seat == NULL) {
		return;
	}
	wl_seat_send_capabilities(seat, WL_SEAT_CAPABILITY_KEYBOARD);
	if (version >= WL_SEAT_NAME_SINCE_VERSION) {
		wl_seat_send_name(seat, "seat0");
	}
}

static const struct requests output_requests = {
	.handlers = {[OPCODE(wl_output, release)] = request_destroy},
};

static void bind_output(struct wl_client *client, void *data, uint32_t version, uint32_t id)
{
	struct wl_resource *output = request_resource_create(
		client, &wl_output_interface, (int)version, id, &output_requests, data, NULL);
	if (output == NULL) {
		return;
	}
	wl_output_send_geometry(output, 0, 0, 600, 340, WL_OUTPUT_SUBPIXEL_UNKNOWN, "bench", "null",
		WL_OUTPUT_TRANSFORM_NORMAL);
	wl_output_send_mode(output, WL_OUTPUT_MODE_CURRENT, 3840, 2160, 60000);
	if (version >= WL_OUTPUT_DONE_SINCE_VERSION) {
		wl_output_send_scale(output, 1);
		wl_output_send_done(output);
	}
}

void seat_create_globals(struct wl_display *display)
{
	wl_global_create(display, &wl_seat_interface, 5, NULL, bind_seat);
	wl_global_create(display, &wl_output_interface, 3, NULL, bind_output);
}
