#include "channel/zerocopy.h"

#include <assert.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define ROOMS 16u

// What the kernel numbers, from 0, are the calls that have sent something.
struct zerocopy {
	int fd;
	uint8_t *rooms;   // NULL until one is asked for
	uint32_t next;    // number of the next call, which is for room next % ROOMS
	uint32_t pending; // rooms that are busy
	bool busy[ROOMS];
};

static_assert((UINT32_MAX - ROOMS + 1) % ROOMS == 0, "numbers may wrap");

struct zerocopy *zerocopy_create(int fd)
{
	int set = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &set, &(socklen_t){sizeof(set)}) < 0 || !set) {
		errno = EOPNOTSUPP;
		return NULL;
	}
	struct zerocopy *zerocopy = calloc(1, sizeof(*zerocopy));
	if (zerocopy != NULL) {
		zerocopy->fd = fd;
	}
	return zerocopy;
}

void zerocopy_destroy(struct zerocopy *zerocopy)
{
	if (zerocopy == NULL) {
		return;
	}
	if (zerocopy->rooms != NULL) {
		munmap(zerocopy->rooms, (size_t)ROOMS * ZEROCOPY_ROOM);
	}
	free(zerocopy);
}

/* Calls first to last are through. */
static void free_rooms(struct zerocopy *zerocopy, uint32_t first, uint32_t last)
{
	for (uint32_t i = 0; i < ROOMS && i <= last - first; i++) {
		bool *busy = &zerocopy->busy[(last - i) % ROOMS];
		zerocopy->pending -= *busy;
		*busy = false;
	}
}

/* Whatever the socket's family: its error queue tells of nothing else by this origin. */
static void take_message(struct zerocopy *zerocopy, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		struct sock_extended_err error;
		if (c->cmsg_len < CMSG_LEN(sizeof(error))) {
			continue;
		}
		memcpy(&error, CMSG_DATA(c), sizeof(error));
		if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY) {
			free_rooms(zerocopy, error.ee_info, error.ee_data);
		}
	}
}

void zerocopy_reap(struct zerocopy *zerocopy)
{
	union {
		struct cmsghdr align;
		char bytes[128];
	} control;
	while (zerocopy->pending > 0) {
		struct msghdr msg = {
			.msg_control = control.bytes,
			.msg_controllen = sizeof(control.bytes),
		};
		ssize_t n = recvmsg(zerocopy->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT);
		if (n < 0 && errno != EINTR) {
			return;
		}
		if (n >= 0) {
			take_message(zerocopy, &msg);
		}
	}
}

static uint8_t *map_rooms(void)
{
	void *rooms = mmap(NULL, (size_t)ROOMS * ZEROCOPY_ROOM, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return rooms == MAP_FAILED ? NULL : rooms;
}

uint8_t *zerocopy_room(struct zerocopy *zerocopy)
{
	uint32_t i = zerocopy->next % ROOMS;
	if (zerocopy->busy[i]) {
		zerocopy_reap(zerocopy);
	}
	if (zerocopy->rooms == NULL) {
		zerocopy->rooms = map_rooms();
	}
	if (zerocopy->rooms == NULL || zerocopy->busy[i]) {
		return NULL;
	}
	return zerocopy->rooms + (size_t)i * ZEROCOPY_ROOM;
}

static ssize_t send_room(const struct zerocopy *zerocopy, size_t len, int flags)
{
	const uint8_t *room = zerocopy->rooms + (size_t)(zerocopy->next % ROOMS) * ZEROCOPY_ROOM;
	ssize_t n;
	do {
		n = send(zerocopy->fd, room, len, MSG_DONTWAIT | MSG_NOSIGNAL | flags);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t zerocopy_send(struct zerocopy *zerocopy, size_t len)
{
	assert(len <= ZEROCOPY_ROOM && !zerocopy->busy[zerocopy->next % ROOMS]);
	ssize_t n = send_room(zerocopy, len, MSG_ZEROCOPY);
	if (n == -ENOBUFS || n == -ENOMEM) { // more pinned, or to be told, than this user may have
		return send_room(zerocopy, len, 0);
	}
	if (n > 0) {
		zerocopy->busy[zerocopy->next++ % ROOMS] = true;
		zerocopy->pending++;
	}
	return n;
}
