#include "fdpass/fusemount.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "protocol/channel.h"

#define START_MS     1000
#define CHILD_SOCKET 3

struct request {
	uint64_t number;
	uint64_t offset;
};

/* ---- the other process ---- */

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0) {
		close(fd);
	}
	return ok;
}

/* Who is not root may mount FUSE in a namespace of his own. */
static bool enter_namespaces(void)
{
	char uids[32], gids[32];
	snprintf(uids, sizeof(uids), "%u %u 1", geteuid(), geteuid());
	snprintf(gids, sizeof(gids), "%u %u 1", getegid(), getegid());
	return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
		write_text("/proc/self/setgroups", "deny") &&
		write_text("/proc/self/gid_map", gids) && write_text("/proc/self/uid_map", uids);
}

static bool set_number(int fs, const char *key, const char *format, unsigned int value)
{
	char text[16];
	snprintf(text, sizeof(text), format, value);
	return fsconfig(fs, FSCONFIG_SET_STRING, key, text, 0) == 0;
}

static bool configure(int fs, int dev, bool everybody)
{
	return set_number(fs, "fd", "%u", (unsigned int)dev) &&
		set_number(fs, "rootmode", "%o", S_IFDIR) &&
		set_number(fs, "user_id", "%u", geteuid()) &&
		set_number(fs, "group_id", "%u", getegid()) &&
		set_number(fs, "max_read", "%u", CHANNEL_MAX_STREAM) &&
		(!everybody || fsconfig(fs, FSCONFIG_SET_FLAG, "allow_other", NULL, 0) == 0) &&
		fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) == 0 &&
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0;
}

/* The mount's fd, and *dev; or -errno. */
static int make_mount(int *dev)
{
	bool privileged = true;
	int fs = fsopen("fuse", FSOPEN_CLOEXEC);
	if (fs < 0 && errno == EPERM) {
		privileged = false;
		if (enter_namespaces()) {
			fs = fsopen("fuse", FSOPEN_CLOEXEC);
		}
	}
	if (fs < 0) {
		return -errno;
	}
	int mount = -1;
	*dev = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC); // belongs to the namespace
	if (*dev >= 0 && configure(fs, *dev, privileged)) {
		mount = fsmount(fs, FSMOUNT_CLOEXEC,
			MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				MOUNT_ATTR_NOEXEC);
	}
	int error = errno;
	close(fs);
	return mount < 0 ? -error : mount;
}

/* Takes fd; -1 is none. */
static bool send_answer(const struct fusemount_answer *answer, int fd)
{
	struct iovec iov = {.iov_base = (void *)answer, .iov_len = sizeof(*answer)};
	struct fdlist fds;
	fdlist_init(&fds);
	bool ok = (fd < 0 || fdlist_push(&fds, fd)) &&
		scm_send(CHILD_SOCKET, &iov, 1, &fds, fds.count) > 0;
	fdlist_finish(&fds);
	return ok;
}

/*
 * Closing a file waits for FUSE, too, until it has said once that it does not care (ENOSYS). It is made
 * to say so here, before the other process gets an fd that it will close.
 */
static void provoke_flush(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy >= 0) {
		close(copy);
	}
}

static bool open_file(int mount, const struct request *request)
{
	char name[24];
	struct fusemount_answer answer = {.number = request->number};
	struct stat st;
	snprintf(name, sizeof(name), "%" PRIu64, request->number);
	int fd = openat(mount, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		answer.error = errno;
	} else {
		answer.identity = (struct fd_identity){.device = st.st_dev, .number = st.st_ino};
		lseek(fd, (off_t)request->offset, SEEK_SET);
		provoke_flush(fd);
	}
	return send_answer(&answer, fd);
}

static bool receive_request(struct request *request)
{
	return recv(CHILD_SOCKET, request, sizeof(*request), 0) == sizeof(*request);
}

/* Has no fds but the standard ones and the socket, and gets no signals. */
static void run(void)
{
	struct request request;
	prctl(PR_SET_NAME, "fdferry-files");
	if (!receive_request(&request)) {
		return; // no file had to be served
	}
	int dev = -1;
	int mount = make_mount(&dev);
	struct fusemount_answer first = {.error = mount < 0 ? -mount : 0};
	if (!send_answer(&first, mount < 0 ? -1 : dev) || mount < 0) {
		return;
	}
	while (receive_request(&request) && open_file(mount, &request)) {
	}
}

/* ---- this process ---- */

/* The child's pid, or -errno. */
static pid_t fork_child(int socket)
{
	sigset_t all, before;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before); // our handlers are not the child's
	pid_t pid = fork();
	int error = errno;
	if (pid == 0) {
		if (dup2(socket, CHILD_SOCKET) == CHILD_SOCKET &&
			close_range(CHILD_SOCKET + 1, ~0u, 0) == 0) {
			run();
		}
		_exit(0);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid < 0 ? -error : pid;
}

int fusemount_receive(struct fusemount *mount, struct fusemount_answer *answer)
{
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv(mount->socket, answer, sizeof(*answer), &fds);
	int result = -ECONNRESET; // the other process is gone
	if (n < 0) {
		result = n == -EPROTO ? -EMFILE : (int)n; // there was no room for the fd
	} else if (n == sizeof(*answer)) {
		int fd = fdlist_take(&fds);
		result = fd >= 0 ? fd : -(answer->error != 0 ? answer->error : EIO);
	}
	fdlist_finish(&fds);
	return result;
}

int fusemount_create(struct fusemount *mount)
{
	int pair[2];
	*mount = (struct fusemount){.socket = -1};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		return -errno;
	}
	pid_t pid = fork_child(pair[1]);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return pid;
	}
	*mount = (struct fusemount){.pid = pid, .socket = pair[0]};
	return 0;
}

int fusemount_start(struct fusemount *mount)
{
	struct pollfd socket = {.fd = mount->socket, .events = POLLIN};
	struct fusemount_answer answer;
	int dev = fusemount_ask(mount, 0, 0); // which is no file's number
	if (dev == 0) {
		while (poll(&socket, 1, START_MS) < 0 && errno == EINTR) {
		}
		dev = fusemount_receive(mount, &answer);
	}
	if (dev < 0) {
		errno = -dev;
		log_errno("cannot mount a FUSE file system");
	}
	return dev;
}

void fusemount_finish(struct fusemount *mount)
{
	if (mount->socket < 0) {
		return;
	}
	close(mount->socket);
	mount->socket = -1;
	while (waitpid(mount->pid, NULL, 0) < 0 && errno == EINTR) {
	}
}

int fusemount_ask(struct fusemount *mount, uint64_t number, uint64_t offset)
{
	const struct request request = {.number = number, .offset = offset};
	ssize_t n = send(mount->socket, &request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : 0;
}
