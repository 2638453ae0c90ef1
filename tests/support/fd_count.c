#include "tests/support/fd_count.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static size_t count_at_start;

static DIR *open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	if (dir == NULL) {
		perror("/proc/self/fd");
		abort();
	}
	return dir;
}

size_t fd_count(void)
{
	DIR *dir = open_fds();
	size_t n = 0;
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		if (entry->d_name[0] != '.') {
			n++;
		}
	}
	closedir(dir);
	return n - 1; // without dir's own
}

static void print_fds(void)
{
	DIR *dir = open_fds();
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		char target[256];
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		if (len >= 0 && atoi(entry->d_name) != dirfd(dir)) {
			target[len] = '\0';
			fprintf(stderr, "  fd %s: %s\n", entry->d_name, target);
		}
	}
	closedir(dir);
}

int fd_count_setup(void **state)
{
	(void)state;
	count_at_start = fd_count();
	return 0;
}

int fd_count_teardown(void **state)
{
	(void)state;
	size_t n = fd_count();
	if (n == count_at_start) {
		return 0;
	}
	fprintf(stderr, "%zu fds are open, %zu were before the test:\n", n, count_at_start);
	print_fds();
	return -1;
}
