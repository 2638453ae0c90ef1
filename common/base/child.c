#include "base/child.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/closer.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"

#define CHILD_FD   3
#define N_STANDARD 3

char **child_argv(char *const argv[], const char *option)
{
	static char number[] = {'0' + CHILD_FD, '\0'};
	size_t n = 0;
	while (argv[n] != NULL) {
		n++;
	}
	assert(n > 0);
	char **copy = calloc(n + 3, sizeof(*copy));
	if (copy == NULL) {
		return NULL;
	}
	copy[0] = argv[0];
	copy[1] = (char *)option;
	copy[2] = number;
	memcpy(copy + 3, argv + 1, (n - 1) * sizeof(*copy));
	return copy;
}

// What the child gets in place of a standard fd, which is not among those that it replaces; -1: the same. Whoever
// has a terminal can read what is typed there, and set how others read and write.
static int open_standard(int fd)
{
	char path[] = "/proc/self/fd/N";
	path[sizeof(path) - 2] = (char)('0' + fd);
	int own = -1;
	if (fd == STDIN_FILENO) {
		own = open("/dev/null", O_RDONLY | O_CLOEXEC);
	} else if (isatty(fd)) {
		own = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	}
	int moved = own >= 0 ? fcntl(own, F_DUPFD_CLOEXEC, CHILD_FD + 1) : -1;
	if (own >= 0) {
		close(own);
	}
	return moved;
}

static int add_standard(posix_spawn_file_actions_t *actions, const int standard[N_STANDARD])
{
	int error = 0;
	for (int i = 0; error == 0 && i < N_STANDARD; i++) {
		if (standard[i] >= 0) {
			error = posix_spawn_file_actions_adddup2(actions, standard[i], i);
		}
	}
	return error;
}

// The child's end of the pair becomes CHILD_FD; no other fd but the standard ones is left.
static int spawn(char *const argv[], int child_fd, const int standard[N_STANDARD], pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	int error = posix_spawn_file_actions_init(&actions);
	if (error != 0) {
		return -error;
	}
	posix_spawnattr_t attr;
	error = posix_spawnattr_init(&attr);
	if (error != 0) {
		goto err_actions;
	}
	sigset_t mask, defaults;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &mask);
	posix_spawnattr_setsigdefault(&attr, &defaults);
	error = posix_spawn_file_actions_adddup2(&actions, child_fd, CHILD_FD);
	if (error == 0) {
		error = add_standard(&actions, standard);
	}
	if (error == 0) {
		error = posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	}
	if (error == 0) {
		error = posix_spawn(pid, "/proc/self/exe", &actions, &attr, argv, environ);
	}
	posix_spawnattr_destroy(&attr);
err_actions:
	posix_spawn_file_actions_destroy(&actions);
	return -error;
}

int child_start(char *const argv[], pid_t *pid)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		return -errno;
	}
	int standard[N_STANDARD];
	for (int i = 0; i < N_STANDARD; i++) {
		standard[i] = open_standard(i);
	}
	int error = spawn(argv, pair[1], standard, pid);
	for (int i = 0; i < N_STANDARD; i++) {
		if (standard[i] >= 0) {
			close(standard[i]);
		}
	}
	close(pair[1]);
	if (error < 0) {
		close(pair[0]);
		return error;
	}
	return pair[0];
}

// What the other process may have sent can have been made to let us wait.
static void drop_fds(struct fdlist *fds)
{
	int fd;
	while ((fd = fdlist_take(fds)) >= 0) {
		closer_close(fd);
	}
	fdlist_finish(fds);
}

static enum child_reading read_record(int fd, child_record_func handle, void *data, bool *more)
{
	_Alignas(max_align_t) unsigned char record[CHILD_RECORD_MAX];
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = closer_is_full() ? scm_recv_none(fd, record, sizeof(record), &fds)
				     : scm_recv_one(fd, record, sizeof(record), &fds);
	bool lost = n == -EPROTO;
	bool ok = !lost || fds.count == 0;
	if (n > 0) {
		ok = handle(data, record, (size_t)n, &fds);
	} else if (lost && ok) {
		log_limited(LOG_WARN, "a process's record is lost: too many %s",
			closer_is_full() ? "fds wait to be closed" : "open files");
	}
	drop_fds(&fds);
	*more = ok && (n > 0 || lost);
	if (!ok) {
		return CHILD_NONSENSE;
	}
	return *more || n == -EAGAIN ? CHILD_GOES_ON : CHILD_GONE;
}

enum child_reading child_read_records(
	int fd, unsigned int max, child_record_func handle, void *data)
{
	enum child_reading reading = CHILD_GOES_ON;
	bool more = true;
	for (unsigned int i = 0; more && i < max; i++) {
		reading = read_record(fd, handle, data, &more);
	}
	return reading;
}

enum child_reading child_read_last(int fd, child_record_func handle, void *data)
{
	shutdown(fd, SHUT_RD);
	return child_read_records(fd, UINT_MAX, handle, data);
}
