#include "guest-proxy/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG     128
#define MAX_DISPLAY 32
#define LOCK_MODE   0660

void listener_init(struct listener *listener)
{
	*listener = (struct listener){.fd = -1, .lock_fd = -1};
}

void listener_finish(struct listener *listener)
{
	if (listener->fd >= 0) {
		close(listener->fd);
	}
	if (listener->lock_fd >= 0) {
		unlink(listener->path);
		unlink(listener->lock_path);
		close(listener->lock_fd);
	}
	listener_init(listener);
}

static bool runtime_dir(const char **dir, char *error, size_t error_len)
{
	struct stat st;
	*dir = getenv("XDG_RUNTIME_DIR");
	if (*dir == NULL || (*dir)[0] == '\0') {
		snprintf(error, error_len,
			"XDG_RUNTIME_DIR is not set: --display needs an absolute path");
		return false;
	}
	if ((*dir)[0] != '/') {
		snprintf(error, error_len, "XDG_RUNTIME_DIR is no absolute path: %s", *dir);
		return false;
	}
	if (stat(*dir, &st) < 0) {
		snprintf(error, error_len, "XDG_RUNTIME_DIR: %s: %s", *dir, strerror(errno));
		return false;
	}
	if (!S_ISDIR(st.st_mode)) {
		snprintf(error, error_len, "XDG_RUNTIME_DIR is no directory: %s", *dir);
		return false;
	}
	return true;
}

static bool set_path(struct listener *listener, const char *name, char *error, size_t error_len)
{
	const char *dir = "";
	if (name[0] != '/' && !runtime_dir(&dir, error, error_len)) {
		return false;
	}
	int n = snprintf(listener->path, sizeof(listener->path), "%s%s%s", dir,
		name[0] == '/' ? "" : "/", name);
	if (n < 0 || (size_t)n >= sizeof(listener->path)) {
		snprintf(error, error_len, "%s%s%s: the path is too long for a UNIX socket", dir,
			name[0] == '/' ? "" : "/", name);
		return false;
	}
	snprintf(listener->lock_path, sizeof(listener->lock_path), "%s.lock", listener->path);
	snprintf(listener->display, sizeof(listener->display), "%s", name);
	return true;
}

// 0 or -errno; -EWOULDBLOCK: somebody else has it.
static int take_lock(struct listener *listener)
{
	int fd = open(listener->lock_path, O_CREAT | O_CLOEXEC | O_RDWR, LOCK_MODE);
	if (fd < 0) {
		return -errno;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int error = -errno;
		close(fd);
		return error;
	}
	listener->lock_fd = fd;
	return 0;
}

static void drop_lock(struct listener *listener)
{
	unlink(listener->lock_path);
	close(listener->lock_fd);
	listener->lock_fd = -1;
}

static void fill_address(const struct listener *listener, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, listener->path, sizeof(address->sun_path));
}

// Not everybody who listens has taken the lock. A socket of another type is refused before there is a
// connection.
static bool somebody_listens(const struct listener *listener)
{
	struct sockaddr_un address;
	fill_address(listener, &address);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		return false;
	}
	bool listens = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ||
		errno == EPROTOTYPE;
	close(fd);
	return listens;
}

// With the lock held. 0 or -errno.
static int remove_stale(const struct listener *listener)
{
	struct stat st;
	if (lstat(listener->path, &st) < 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	if (!S_ISSOCK(st.st_mode)) {
		return -EEXIST;
	}
	if (somebody_listens(listener)) {
		return -EWOULDBLOCK;
	}
	return unlink(listener->path) < 0 && errno != ENOENT ? -errno : 0;
}

static int bind_and_listen(struct listener *listener)
{
	struct sockaddr_un address;
	fill_address(listener, &address);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		return -errno;
	}
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0) {
		int error = -errno;
		close(fd);
		return error;
	}
	listener->fd = fd;
	return 0;
}

static int open_path(struct listener *listener)
{
	int error = take_lock(listener);
	if (error < 0) {
		return error;
	}
	error = remove_stale(listener);
	if (error == 0) {
		error = bind_and_listen(listener);
	}
	if (error < 0) {
		drop_lock(listener);
	}
	return error;
}

static void describe(const struct listener *listener, int code, char *error, size_t error_len)
{
	const char *why = strerror(-code);
	if (code == -EWOULDBLOCK) {
		why = "another program is this display";
	} else if (code == -EEXIST) {
		why = "there is something that is no socket";
	}
	snprintf(error, error_len, "cannot listen at %s: %s", listener->path, why);
}

static bool open_first_free(struct listener *listener, char *error, size_t error_len)
{
	for (int i = 0; i <= MAX_DISPLAY; i++) {
		char name[32];
		snprintf(name, sizeof(name), "wayland-%d", i);
		if (!set_path(listener, name, error, error_len)) {
			return false;
		}
		int code = open_path(listener);
		if (code == 0) {
			return true;
		}
		if (code != -EWOULDBLOCK && code != -EEXIST) {
			describe(listener, code, error, error_len);
			return false;
		}
	}
	snprintf(error, error_len, "wayland-0 to wayland-%d are all taken", MAX_DISPLAY);
	return false;
}

bool listener_open(struct listener *listener, const char *name, char *error, size_t error_len)
{
	if (name == NULL) {
		return open_first_free(listener, error, error_len);
	}
	if (!set_path(listener, name, error, error_len)) {
		return false;
	}
	int code = open_path(listener);
	if (code < 0) {
		describe(listener, code, error, error_len);
	}
	return code == 0;
}

bool listener_adopt(struct listener *listener, int fd, char *error, size_t error_len)
{
	struct sockaddr_un address = {0};
	socklen_t len = sizeof(address);
	listener->fd = fd;
	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0) {
		snprintf(error, error_len, "the service manager's socket: %s", strerror(errno));
		return false;
	}
	if (address.sun_family != AF_UNIX || address.sun_path[0] != '/') {
		snprintf(error, error_len, "the service manager's socket has no path");
		return false;
	}
	snprintf(listener->display, sizeof(listener->display), "%.*s",
		(int)sizeof(address.sun_path), address.sun_path);
	return true;
}

int listener_take_fd(struct listener *listener)
{
	int fd = listener->fd;
	listener->fd = -1;
	return fd;
}
