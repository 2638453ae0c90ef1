#include "tests/support/record_lock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

void record_lock_take(int fd)
{
	struct flock lock = {.l_type = F_WRLCK};
	if (fcntl(fd, F_SETLK, &lock) < 0) {
		abort();
	}
}

bool record_lock_is_held(int fd)
{
	int status = 0;
	pid_t pid = fork(); // one's own are not told of
	if (pid == 0) {
		struct flock lock = {.l_type = F_WRLCK};
		_exit(fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 1;
}
