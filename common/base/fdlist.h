#ifndef BASE_FDLIST_H
#define BASE_FDLIST_H

#include <stdbool.h>
#include <stddef.h>

/**
 * A queue of owned file descriptors. What nobody took is closed by fdlist_finish.
 */
struct fdlist {
	int *fds; // the queue is fds[first .. first + count)
	size_t first;
	size_t count;
	size_t capacity;
};

void fdlist_init(struct fdlist *list);
void fdlist_finish(struct fdlist *list);

// Takes fd, also on failure (ENOMEM: fd is closed and false is returned).
bool fdlist_push(struct fdlist *list, int fd);
// The oldest fd, which is the caller's from now on; -1 if the list is empty.
int fdlist_take(struct fdlist *list);
// Moves the n oldest fds (n <= from->count) to the end of list. On ENOMEM false is returned and
// all n are closed.
bool fdlist_move(struct fdlist *list, struct fdlist *from, size_t n);
// Closes the n oldest fds.
void fdlist_drop(struct fdlist *list, size_t n);
// Borrowed: the oldest fds, list->count of them.
const int *fdlist_peek(const struct fdlist *list);

#endif
