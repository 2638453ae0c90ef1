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

// Who connects by a network is nobody that could be told apart.
static bool is_local(int fd)
{
	int domain = AF_UNSPEC;
	socklen_t len = sizeof(domain);
	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
		(domain == AF_UNIX || domain == AF_VSOCK);
}

static int check_listener(int fd)
{
	int listens = 0;
	socklen_t len = sizeof(listens);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0) {
		return -errno;
	}
	if (!listens || !is_local(fd)) {
		return -EINVAL;
	}
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		return -errno;
	}
	return fd;
}

// Those that the service manager says it has passed to us: from 1 to max; 0: to nobody or another.
static int count_passed(size_t max)
{
	const char *pid = getenv("LISTEN_PID");
	const char *text = getenv("LISTEN_FDS");
	char *end = NULL;
	if (pid == NULL || text == NULL || strtol(pid, &end, 10) != getpid() || end == pid ||
		*end != '\0') {
		return 0;
	}
	errno = 0;
	long count = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : 0;
	if (errno != 0 || *end != '\0' || count < 1 || (size_t)count > max) {
		log_error("the service manager must pass %s%zu listening socket%s, LISTEN_FDS is "
			  "'%s'",
			max > 1 ? "1 to " : "", max, max > 1 ? "s" : "", text);
		return -EINVAL;
	}
	return (int)count;
}

// The next of names, which are separated by colons; what follows it.
static const char *take_name(const char *names, char name[static NOTIFY_NAME_MAX + 1])
{
	size_t len = strcspn(names, ":");
	size_t kept = len < NOTIFY_NAME_MAX ? len : NOTIFY_NAME_MAX;
	memcpy(name, names, kept);
	name[kept] = '\0';
	return names[len] == ':' ? names + len + 1 : names + len;
}

static int take_passed(struct notify_listener *listeners, int count)
{
	const char *names = getenv("LISTEN_FDNAMES");
	const char *rest = names != NULL ? names : "";
	for (int i = 0; i < count; i++) {
		rest = take_name(rest, listeners[i].name);
		listeners[i].fd = check_listener(LISTEN_FDS_START + i);
		if (listeners[i].fd < 0) {
			log_error(
				"fd %d of the service manager is no listening UNIX or vsock socket",
				LISTEN_FDS_START + i);
			return listeners[i].fd;
		}
	}
	return count;
}

int notify_take_listeners(struct notify_listener *listeners, size_t max)
{
	int count = count_passed(max);
	if (count > 0) {
		count = take_passed(listeners, count);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return count;
}

int notify_take_listener(void)
{
	struct notify_listener listener;
	int count = notify_take_listeners(&listener, 1);
	return count > 0 ? listener.fd : count;
}
