#include "tests/bench/client/connection.h"

#include <err.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "linux-dmabuf-client-protocol.h"
#include "xdg-shell-client-protocol.h"

static const struct {
	const struct wl_interface *interface;
	uint32_t version;
	size_t offset; // in struct connection
	bool optional;
} globals[] = {
	{&wl_compositor_interface, 4, offsetof(struct connection, compositor), false},
	{&wl_shm_interface, 1, offsetof(struct connection, shm), false},
	{&xdg_wm_base_interface, 1, offsetof(struct connection, wm_base), false},
	{&wl_seat_interface, 5, offsetof(struct connection, seat), false},
	{&wl_data_device_manager_interface, 3, offsetof(struct connection, data_device_manager),
		false},
	{&zwp_linux_dmabuf_v1_interface, 3, offsetof(struct connection, dmabuf), true},
};

#define GLOBALS (sizeof(globals) / sizeof(globals[0]))

static struct wl_proxy **global_slot(struct connection *connection, size_t i)
{
	return (struct wl_proxy **)(void *)((char *)connection + globals[i].offset);
}

static void handle_global(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version)
{
	struct connection *connection = data;
	for (size_t i = 0; i < GLOBALS; i++) {
		if (strcmp(interface, globals[i].interface->name) == 0 &&
			version >= globals[i].version) {
			*global_slot(connection, i) = wl_registry_bind(
				registry, name, globals[i].interface, globals[i].version);
		}
	}
}

static void handle_global_remove(void *data, struct wl_registry *registry, uint32_t name)
{
	(void)data, (void)registry, (void)name;
}

static const struct wl_registry_listener registry_listener = {
	.global = handle_global,
	.global_remove = handle_global_remove,
};

static void fail(struct connection *connection)
{
	err(1, "connection lost (protocol error %d)", wl_display_get_error(connection->display));
}

void connection_dispatch(struct connection *connection)
{
	if (wl_display_dispatch(connection->display) < 0) {
		fail(connection);
	}
}

void connection_roundtrip(struct connection *connection)
{
	if (wl_display_roundtrip(connection->display) < 0) {
		fail(connection);
	}
}

void connection_init(struct connection *connection)
{
	*connection = (struct connection){.display = wl_display_connect(NULL)};
	if (connection->display == NULL) {
		err(1, "cannot connect to the display");
	}
	connection->registry = wl_display_get_registry(connection->display);
	wl_registry_add_listener(connection->registry, &registry_listener, connection);
	connection_roundtrip(connection);
	for (size_t i = 0; i < GLOBALS; i++) {
		if (*global_slot(connection, i) == NULL && !globals[i].optional) {
			errx(1, "the display lacks %s version %u", globals[i].interface->name,
				globals[i].version);
		}
	}
}

void connection_finish(struct connection *connection)
{
	if (connection->keyboard != NULL) {
		wl_keyboard_destroy(connection->keyboard);
	}
	for (size_t i = 0; i < GLOBALS; i++) {
		if (*global_slot(connection, i) != NULL) {
			wl_proxy_destroy(*global_slot(connection, i));
		}
	}
	wl_registry_destroy(connection->registry);
	wl_display_disconnect(connection->display);
}

static void handle_keymap(
	void *data, struct wl_keyboard *keyboard, uint32_t format, int fd, uint32_t size)
{
	(void)keyboard, (void)format;
	struct connection *connection = data;
	char *text = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (text == MAP_FAILED || strncmp(text, "xkb_keymap", strlen("xkb_keymap")) != 0 ||
		text[size - 1] != '\0') {
		errx(1, "this is no keymap");
	}
	munmap(text, size);
	connection->has_keymap = true;
}

static void handle_enter(void *data, struct wl_keyboard *keyboard, uint32_t serial,
	struct wl_surface *surface, struct wl_array *keys)
{
	(void)data, (void)keyboard, (void)serial, (void)surface, (void)keys;
}

static void handle_leave(
	void *data, struct wl_keyboard *keyboard, uint32_t serial, struct wl_surface *surface)
{
	(void)data, (void)keyboard, (void)serial, (void)surface;
}

static void handle_key(void *data, struct wl_keyboard *keyboard, uint32_t serial, uint32_t time,
	uint32_t key, uint32_t state)
{
	(void)data, (void)keyboard, (void)serial, (void)time, (void)key, (void)state;
}

static void handle_modifiers(void *data, struct wl_keyboard *keyboard, uint32_t serial,
	uint32_t depressed, uint32_t latched, uint32_t locked, uint32_t group)
{
	(void)data, (void)keyboard, (void)serial, (void)depressed, (void)latched, (void)locked,
		(void)group;
}

static void handle_repeat_info(
	void *data, struct wl_keyboard *keyboard, int32_t rate, int32_t delay)
{
	(void)data, (void)keyboard, (void)rate, (void)delay;
}

static const struct wl_keyboard_listener keyboard_listener = {
	.keymap = handle_keymap,
	.enter = handle_enter,
	.leave = handle_leave,
	.key = handle_key,
	.modifiers = handle_modifiers,
	.repeat_info = handle_repeat_info,
};

void connection_get_keymap(struct connection *connection)
{
	connection->keyboard = wl_seat_get_keyboard(connection->seat);
	wl_keyboard_add_listener(connection->keyboard, &keyboard_listener, connection);
	while (!connection->has_keymap) {
		connection_dispatch(connection);
	}
}
