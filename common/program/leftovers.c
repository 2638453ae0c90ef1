#include "program/leftovers.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/closer.h"
#include "base/log.h"
#include "fdpass/kind.h"

struct leftover {
	struct wl_list link; // leftovers.list
	int fd;
	uint64_t amounts[BUDGET_COUNT];
};

void leftovers_init(struct leftovers *leftovers)
{
	*leftovers = (struct leftovers){0};
	wl_list_init(&leftovers->list);
}

static void destroy(struct leftovers *leftovers, struct leftover *leftover)
{
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		leftovers->charged[i] -= leftover->amounts[i];
	}
	leftovers->count--;
	wl_list_remove(&leftover->link);
	closer_close(leftover->fd);
	free(leftover);
}

void leftovers_finish(struct leftovers *leftovers)
{
	struct leftover *leftover, *next;
	wl_list_for_each_safe (leftover, next, &leftovers->list, link) {
		destroy(leftovers, leftover);
	}
}

/* Who was taken over may say anything; sums must not wrap around. */
static uint64_t bounded(uint64_t amount)
{
	const uint64_t most = UINT64_MAX / 2 / LEFTOVERS_MAX;
	return amount < most ? amount : most;
}

bool leftovers_add(struct leftovers *leftovers, int fd, const uint64_t amounts[BUDGET_COUNT])
{
	struct leftover *leftover = NULL;
	bool ok = fd_kind_of(fd) == FD_KIND_UNIX_SOCKET;
	if (ok && leftovers->count < LEFTOVERS_MAX) {
		leftover = calloc(1, sizeof(*leftover));
	}
	if (leftover == NULL) {
		if (ok) {
			log_limited(LOG_WARN, "what a session has left unread is not charged");
		}
		closer_close(fd);
		return ok;
	}
	leftover->fd = fd;
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		leftover->amounts[i] = bounded(amounts[i]);
		leftovers->charged[i] += leftover->amounts[i];
	}
	leftovers->count++;
	wl_list_insert(&leftovers->list, &leftover->link);
	return true;
}

static bool is_read(const struct leftover *leftover)
{
	int unread = 0;
	return ioctl(leftover->fd, SIOCOUTQ, &unread) < 0 || unread <= 0;
}

bool leftovers_look(struct leftovers *leftovers)
{
	struct leftover *leftover, *next;
	wl_list_for_each_safe (leftover, next, &leftovers->list, link) {
		if (!closer_is_full() && is_read(leftover)) {
			destroy(leftovers, leftover);
		}
	}
	return leftovers->count > 0;
}
