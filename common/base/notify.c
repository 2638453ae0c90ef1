#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

#define LISTEN_FDS_START 3

static void send_state(const char *path, const char *state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || len >= sizeof(address.sun_path)) {
		log_warn("NOTIFY_SOCKET %s: no address that we know", path);
		return;
	}
	memcpy(address.sun_path, path, len);
	if (path[0] == '@') {
		address.sun_path[0] = '\0';
	}
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		log_errno("NOTIFY_SOCKET %s", path);
		return;
	}
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0) {
		log_errno("NOTIFY_SOCKET %s", path);
	}
	close(fd);
}

void notify_ready(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	if (path != NULL && path[0] != '\0') {
		send_state(path, "READY=1");
	}
	unsetenv("NOTIFY_SOCKET");
}

static int check_listener(int fd)
{
	int listens = 0;
	socklen_t len = sizeof(listens);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0) {
		return -errno;
	}
	if (!listens) {
		return -EINVAL;
	}
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		return -errno;
	}
	return fd;
}

int notify_take_listener(void)
{
	const char *pid = getenv("LISTEN_PID");
	const char *count = getenv("LISTEN_FDS");
	char *end = NULL;
	bool ours = pid != NULL && count != NULL && strtol(pid, &end, 10) == getpid() &&
		end != pid && *end == '\0';
	bool one = ours && strcmp(count, "1") == 0;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (!ours) {
		return 0;
	}
	int fd = one ? check_listener(LISTEN_FDS_START) : -EINVAL;
	if (fd < 0) {
		log_error("the service manager must pass exactly one listening socket");
	}
	return fd;
}
