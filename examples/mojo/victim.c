#include "examples/mojo/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "examples/mojo/pattern.h"

/* In the child: nothing of its parent's stays open. */
static void keep_only(int fd)
{
	if (dup3(fd, STDERR_FILENO + 1, O_CLOEXEC) < 0 && errno != EINVAL) {
		_exit(EXIT_FAILURE);
	}
	close_range(STDERR_FILENO + 2, ~0u, 0);
}

static bool write_all(int fd, const uint8_t *data, size_t size)
{
	while (size > 0) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return false;
		}
		data += n;
		size -= (size_t)n;
	}
	return true;
}

static void write_and_exit(int fd, uint64_t seed, size_t size)
{
	uint8_t *bytes = malloc(size);
	if (bytes == NULL) {
		_exit(EXIT_FAILURE);
	}
	pattern_fill(seed, bytes, size);
	_exit(write_all(fd, bytes, size) ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* The hash does not depend on how the bytes were cut: it is taken of whole pieces. */
static bool read_piece(int fd, uint8_t *bytes, size_t *size)
{
	*size = 0;
	while (*size < VICTIM_PIECE) {
		ssize_t n = read(fd, bytes + *size, VICTIM_PIECE - *size);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return n == 0;
		}
		*size += (size_t)n;
	}
	return true;
}

static void read_and_answer(int fd)
{
	uint8_t bytes[VICTIM_PIECE];
	uint64_t hash = 0;
	size_t size = 0;
	while (read_piece(fd, bytes, &size) && size > 0) {
		hash = pattern_hash(hash, bytes, size);
	}
	_exit(write_all(fd, (const uint8_t *)&hash, sizeof(hash)) ? EXIT_SUCCESS : EXIT_FAILURE);
}

pid_t victim_start_exiting(int fd, uint64_t seed, size_t size)
{
	pid_t pid = fork();
	if (pid == 0) {
		keep_only(fd);
		write_and_exit(STDERR_FILENO + 1, seed, size);
	}
	int error = errno;
	close(fd);
	return pid < 0 ? -error : pid;
}

pid_t victim_start_stopped(int fd)
{
	pid_t pid = fork();
	if (pid == 0) {
		keep_only(fd);
		raise(SIGSTOP);
		read_and_answer(STDERR_FILENO + 1);
	}
	int error = errno;
	close(fd);
	while (pid > 0 && waitpid(pid, NULL, WUNTRACED) < 0 && errno == EINTR) {
	}
	return pid < 0 ? -error : pid;
}

void victim_continue(pid_t pid)
{
	kill(pid, SIGCONT);
}

void victim_end(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
	}
}
