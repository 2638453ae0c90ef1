#include "host-proxy/security_context.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <wayland-client-protocol.h>

#include "host-proxy/side_client.h"
#include "protocol/wayland/security-context-client.h"

#define TIMEOUT_MS 10000

/* ---- a listening socket that only we can reach ---- */

struct pending {
	int listen_fd;
	int fd; // connected to it
};

static bool bind_and_connect(struct pending *pending, const struct sockaddr_un *address)
{
	const struct sockaddr *name = (const struct sockaddr *)address;
	const int type = SOCK_STREAM | SOCK_CLOEXEC;
	pending->listen_fd = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
	pending->fd = socket(AF_UNIX, type, 0);
	if (pending->listen_fd >= 0 && pending->fd >= 0 &&
		bind(pending->listen_fd, name, sizeof(*address)) == 0 &&
		listen(pending->listen_fd, 1) == 0 &&
		connect(pending->fd, name, sizeof(*address)) == 0) {
		return true;
	}
	int saved = errno;
	if (pending->listen_fd >= 0) {
		close(pending->listen_fd);
	}
	if (pending->fd >= 0) {
		close(pending->fd);
	}
	errno = saved;
	return false;
}

/*
 * The connection waits to be accepted before anybody is given the listening socket, whose name is
 * gone by then: an abstract one could be connected to by every user.
 */
static int make_pending(struct pending *pending)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/fdferry-XXXXXX/s",
		dir != NULL && dir[0] == '/' ? dir : "/tmp");
	if (n < 0 || (size_t)n >= sizeof(address.sun_path)) {
		return -ENAMETOOLONG;
	}
	char *slash = strrchr(address.sun_path, '/');
	*slash = '\0';
	if (mkdtemp(address.sun_path) == NULL) {
		return -errno;
	}
	*slash = '/';
	int error = bind_and_connect(pending, &address) ? 0 : -errno;
	unlink(address.sun_path);
	*slash = '\0';
	rmdir(address.sun_path);
	return error;
}

/* ---- the compositor ---- */

static void handle_global(void *data, struct wl_registry *registry, uint32_t name,
	const char *interface, uint32_t version)
{
	struct wp_security_context_manager_v1 **manager = data;
	(void)version;
	if (*manager == NULL &&
		strcmp(interface, wp_security_context_manager_v1_interface.name) == 0) {
		*manager = wl_registry_bind(
			registry, name, &wp_security_context_manager_v1_interface, 1);
	}
}

static int find_manager(struct wl_display *display, struct wp_security_context_manager_v1 **manager)
{
	*manager = NULL;
	int error = side_client_list_globals(display, TIMEOUT_MS, handle_global, manager);
	return error == 0 && *manager == NULL ? -EOPNOTSUPP : error;
}

static int commit(struct wl_display *display, struct wp_security_context_manager_v1 *manager,
	const struct security_context *context, int listen_fd, int close_fd)
{
	struct wp_security_context_v1 *object =
		wp_security_context_manager_v1_create_listener(manager, listen_fd, close_fd);
	if (object == NULL) {
		return -ENOMEM;
	}
	wp_security_context_v1_set_sandbox_engine(object, SECURITY_CONTEXT_ENGINE);
	if (context->app_id != NULL) {
		wp_security_context_v1_set_app_id(object, context->app_id);
	}
	wp_security_context_v1_set_instance_id(object, context->instance_id);
	wp_security_context_v1_commit(object);
	wp_security_context_v1_destroy(object);
	return side_client_roundtrip(
		display, TIMEOUT_MS); // it may refuse, and has to have read all of it
}

static int connect_within(struct wl_display *display,
	struct wp_security_context_manager_v1 *manager, const struct security_context *context,
	int *close_fd)
{
	struct pending pending = {.listen_fd = -1, .fd = -1};
	int closing[2];
	int error = make_pending(&pending);
	if (error < 0) {
		return error;
	}
	if (pipe2(closing, O_CLOEXEC) < 0) {
		error = -errno;
		goto out_listener;
	}
	error = commit(display, manager, context, pending.listen_fd, closing[0]);
	close(closing[0]);
	if (error == 0) {
		*close_fd = closing[1];
	} else {
		close(closing[1]);
	}

out_listener:
	close(pending.listen_fd);
	if (error < 0) {
		close(pending.fd);
	}
	return error < 0 ? error : pending.fd;
}

static void finish(struct wl_display *display, struct wp_security_context_manager_v1 *manager)
{
	if (manager != NULL) {
		wp_security_context_manager_v1_destroy(manager);
	}
	wl_display_disconnect(display);
}

int security_context_connect(
	const struct security_context *context, int compositor_fd, int *close_fd)
{
	struct wp_security_context_manager_v1 *manager;
	struct wl_display *display = side_client_create(compositor_fd);
	if (display == NULL) {
		return -errno;
	}
	int result = find_manager(display, &manager);
	if (result == 0) {
		result = connect_within(display, manager, context, close_fd);
	}
	finish(display, manager);
	return result;
}
