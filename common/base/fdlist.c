#include "base/fdlist.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fdlist_init(struct fdlist *list)
{
	*list = (struct fdlist){0};
}

void fdlist_finish(struct fdlist *list)
{
	fdlist_drop(list, list->count);
	free(list->fds);
	fdlist_init(list);
}

static bool make_room(struct fdlist *list)
{
	if (list->first + list->count < list->capacity) {
		return true;
	}
	if (list->first > 0) {
		memmove(list->fds, list->fds + list->first, list->count * sizeof(*list->fds));
		list->first = 0;
		return true;
	}
	size_t capacity = list->capacity == 0 ? 8 : list->capacity * 2;
	int *fds = realloc(list->fds, capacity * sizeof(*fds));
	if (fds == NULL) {
		return false;
	}
	list->fds = fds;
	list->capacity = capacity;
	return true;
}

bool fdlist_push(struct fdlist *list, int fd)
{
	if (!make_room(list)) {
		close(fd);
		return false;
	}
	list->fds[list->first + list->count++] = fd;
	return true;
}

int fdlist_take(struct fdlist *list)
{
	if (list->count == 0) {
		return -1;
	}
	int fd = list->fds[list->first++];
	list->count--;
	if (list->count == 0) {
		list->first = 0;
	}
	return fd;
}

bool fdlist_move(struct fdlist *list, struct fdlist *from, size_t n)
{
	assert(n <= from->count);
	for (size_t i = 0; i < n; i++) {
		if (!fdlist_push(list, fdlist_take(from))) {
			fdlist_drop(from, n - i - 1);
			return false;
		}
	}
	return true;
}

void fdlist_drop(struct fdlist *list, size_t n)
{
	assert(n <= list->count);
	for (size_t i = 0; i < n; i++) {
		close(fdlist_take(list));
	}
}

const int *fdlist_peek(const struct fdlist *list)
{
	return list->fds + list->first;
}
