#include "host-proxy/side_client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <wayland-client-protocol.h>

#include "base/log.h"

static void log_libwayland(const char *fmt, va_list args) __attribute__((format(printf, 1, 0)));

static void log_libwayland(const char *fmt, va_list args)
{
	char text[256];
	vsnprintf(text, sizeof(text), fmt, args);
	log_debug("libwayland: %s", text);
}

struct wl_display *side_client_create(int fd)
{
	wl_log_set_handler_client(log_libwayland);
	return wl_display_connect_to_fd(fd); // closes it on failure
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// 0 if there is something to read, or if it is to be tried again.
static int wait_readable(struct wl_display *display, int64_t deadline)
{
	struct pollfd readable = {.fd = wl_display_get_fd(display), .events = POLLIN};
	int64_t left = deadline - now_ms();
	int n = left > 0 ? poll(&readable, 1, (int)left) : 0;
	if (n < 0) {
		return errno == EINTR ? 0 : -errno;
	}
	return n == 0 ? -ETIMEDOUT : 0;
}

// Reads what comes next and handles it.
static int dispatch(struct wl_display *display, int64_t deadline)
{
	if (wl_display_prepare_read(display) < 0) {
		return wl_display_dispatch_pending(display) < 0 ? -errno : 0;
	}
	wl_display_flush(display); // if it fails, there is an error to be read
	int error = wait_readable(display, deadline);
	if (error < 0) {
		wl_display_cancel_read(display);
		return error;
	}
	if (wl_display_read_events(display) < 0 || wl_display_dispatch_pending(display) < 0) {
		return -errno;
	}
	return 0;
}

static void handle_done(void *data, struct wl_callback *callback, uint32_t serial)
{
	(void)callback;
	(void)serial;
	*(bool *)data = true;
}

static const struct wl_callback_listener callback_listener = {.done = handle_done};

int side_client_roundtrip(struct wl_display *display, int timeout_ms)
{
	bool done = false;
	int64_t deadline = now_ms() + timeout_ms;
	struct wl_callback *callback = wl_display_sync(display);
	if (callback == NULL) {
		return -ENOMEM;
	}
	wl_callback_add_listener(callback, &callback_listener, &done);
	int error = 0;
	while (!done && error == 0) {
		error = dispatch(display, deadline);
	}
	wl_callback_destroy(callback);
	return error;
}

// None is used for longer than the next answer takes.
static void handle_global_remove(void *data, struct wl_registry *registry, uint32_t name)
{
	(void)data;
	(void)registry;
	(void)name;
}

int side_client_list_globals(
	struct wl_display *display, int timeout_ms, side_client_global_func global, void *data)
{
	const struct wl_registry_listener listener = {
		.global = global,
		.global_remove = handle_global_remove,
	};
	struct wl_registry *registry = wl_display_get_registry(display);
	if (registry == NULL) {
		return -ENOMEM;
	}
	wl_registry_add_listener(registry, &listener, data);
	int error = side_client_roundtrip(display, timeout_ms);
	wl_registry_destroy(registry);
	return error;
}
