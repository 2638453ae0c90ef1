#include "host-proxy/compositor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *default_name(void)
{
	const char *name = getenv("WAYLAND_DISPLAY");
	return name != NULL && name[0] != '\0' ? name : "wayland-0";
}

static bool check_runtime_dir(const char *dir, const char *name, char *error, size_t error_len)
{
	struct stat st;
	if (dir == NULL || dir[0] == '\0') {
		snprintf(error, error_len,
			"the compositor %s is in XDG_RUNTIME_DIR, which is not set", name);
		return false;
	}
	if (stat(dir, &st) < 0) {
		snprintf(error, error_len, "XDG_RUNTIME_DIR: %s: %s", dir, strerror(errno));
		return false;
	}
	if (!S_ISDIR(st.st_mode)) {
		snprintf(error, error_len, "XDG_RUNTIME_DIR is no directory: %s", dir);
		return false;
	}
	return true;
}

bool compositor_locate(
	const char *name, struct transport *compositor, char *error, size_t error_len)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	if (name == NULL) {
		name = default_name();
	}
	bool absolute = name[0] == '/';
	if (!absolute && !check_runtime_dir(dir, name, error, error_len)) {
		return false;
	}
	*compositor = (struct transport){.kind = TRANSPORT_UNIX};
	int n = snprintf(compositor->path, sizeof(compositor->path), "%s%s%s", absolute ? "" : dir,
		absolute ? "" : "/", name);
	if (n < 0 || (size_t)n >= sizeof(compositor->path)) {
		snprintf(error, error_len,
			"the compositor's path is too long for a UNIX socket: %s%s%s",
			absolute ? "" : dir, absolute ? "" : "/", name);
		return false;
	}
	return true;
}

bool compositor_identify(const struct transport *compositor, struct compositor_id *id)
{
	struct stat st;
	if (stat(compositor->path, &st) < 0) {
		return false;
	}
	*id = (struct compositor_id){
		.device = st.st_dev,
		.inode = st.st_ino,
		.changed = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec,
	};
	return true;
}

bool compositor_id_equal(const struct compositor_id *a, const struct compositor_id *b)
{
	return a->device == b->device && a->inode == b->inode && a->changed == b->changed;
}
