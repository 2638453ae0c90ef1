#include "host-proxy/page_lender.h"

#include <errno.h>
#include <event2/event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/ram_buffer.h"
#include "protocol/channel.h"

struct page_lender {
	const struct ram_buffers *buffers;
	const struct guest_memory *memory;
	int fd;
	struct event *readable;
};

/* One page at its start, as udmabuf tells only then what it thinks of the file. */
static bool can_be_lent(const struct ram_buffers *buffers, const struct guest_memory *memory,
	const struct guest_region *region)
{
	const struct ram_range page = {
		.address = region->range.address,
		.size = CHANNEL_PAGE,
	};
	const char *wrong;
	uint64_t size;
	int fd = ram_buffer_create(buffers, memory, &page, 1, &size, &wrong);
	if (fd < 0) {
		log_limited(LOG_INFO, "the guest's pages cannot be shared: %s", wrong);
		return false;
	}
	close(fd);
	return true;
}

bool page_lender_possible(const struct ram_buffers *buffers, const struct guest_memory *memory)
{
	if (buffers->device < 0 || buffers->max_pieces < CHANNEL_MAX_RANGES ||
		buffers->max_size < CHANNEL_MAX_PAGES || sysconf(_SC_PAGESIZE) != CHANNEL_PAGE) {
		return false;
	}
	for (size_t i = 0; i < memory->count; i++) {
		if (!can_be_lent(buffers, memory, &memory->regions[i])) {
			return false;
		}
	}
	return memory->count > 0;
}

static bool send_answer(const struct page_lender *lender, const struct page_answer *answer, int fd)
{
	const struct iovec iov = {.iov_base = (void *)answer, .iov_len = sizeof(*answer)};
	const struct fdlist fds = {.fds = &fd, .count = fd >= 0};
	return scm_send(lender->fd, &iov, 1, &fds, fds.count) == sizeof(*answer);
}

/* False: the session is gone, or asks without reading the answers. */
static bool answer_request(
	const struct page_lender *lender, const struct ram_range *ranges, size_t n)
{
	struct page_answer answer = {0};
	const char *wrong;
	uint64_t size;
	int fd = ram_buffer_create(lender->buffers, lender->memory, ranges, n, &size, &wrong);
	if (fd < 0) {
		snprintf(answer.wrong, sizeof(answer.wrong), "%s", wrong);
	}
	bool sent = send_answer(lender, &answer, fd);
	if (fd >= 0) {
		close(fd);
	}
	return sent;
}

/* One at a time: making a large one takes a while, and the guest's packets wait. */
static bool handle_request(const struct page_lender *lender)
{
	struct ram_range ranges[CHANNEL_MAX_RANGES + 1];
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv(lender->fd, ranges, sizeof(ranges), &fds);
	fdlist_finish(&fds);
	if (n == -EAGAIN) {
		return true;
	}
	return n > 0 && n % sizeof(ranges[0]) == 0 &&
		answer_request(lender, ranges, (size_t)n / sizeof(ranges[0]));
}

static void stop(struct page_lender *lender)
{
	if (lender->readable != NULL) {
		event_free(lender->readable);
		lender->readable = NULL;
	}
	if (lender->fd >= 0) {
		close(lender->fd);
		lender->fd = -1;
	}
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct page_lender *lender = data;
	if (!handle_request(lender)) {
		stop(lender);
	}
}

struct page_lender *page_lender_create(struct event_base *base, const struct ram_buffers *buffers,
	const struct guest_memory *memory, int *their_end)
{
	int ends[2];
	struct page_lender *lender = calloc(1, sizeof(*lender));
	if (lender == NULL || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		free(lender);
		return NULL;
	}
	*lender = (struct page_lender){.buffers = buffers, .memory = memory, .fd = ends[0]};
	lender->readable = event_new(base, ends[0], EV_READ | EV_PERSIST, handle_readable, lender);
	if (lender->readable == NULL || event_add(lender->readable, NULL) < 0) {
		close(ends[1]);
		page_lender_destroy(lender);
		errno = ENOMEM;
		return NULL;
	}
	*their_end = ends[1];
	return lender;
}

void page_lender_destroy(struct page_lender *lender)
{
	if (lender != NULL) {
		stop(lender);
		free(lender);
	}
}
