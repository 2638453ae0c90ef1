#include "host-proxy/lender.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <wayland-util.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/loan.h"
#include "host-proxy/vhost_user.h"
#include "host-proxy/vsock_sender.h"

#define SHARE        4 // of the ring that may be lent: the rest is for those who return it
#define RETURNS_READ 64

/* A chain of the guest's. */
struct loan {
	struct wl_list link; // lender.chains
	uint16_t head;
	size_t left; // bytes that have not come back
};

struct lender {
	struct lender_config config;
	struct event *readable;
	int returns;               // pipe; -1: nothing comes back any more
	int their_end;             // of it; -1: the session has it
	struct wl_list chains;     // loan.link, the oldest first
	size_t lent;               // bytes
	uint32_t known;            // guest_memory.version that the session was told of; 0: none
	bool untaken;              // it has not taken the files of that yet, so they are in flight
	struct page_lender *pages; // NULL: there are none for this session
};

static_assert(LOAN_FILES_MAX >= GUEST_MEMORY_MAX, "each region can be a file");

static void end_loan(struct lender *lender, struct loan *loan)
{
	struct loans *loans = lender->config.loans;
	vhost_user_give_back(loans->vhost, VSOCK_TX, loan->head);
	loans->count--;
	lender->lent -= loan->left;
	wl_list_remove(&loan->link);
	free(loan);
}

static void stop(struct lender *lender)
{
	if (lender->readable != NULL) {
		event_free(lender->readable);
		lender->readable = NULL;
	}
	if (lender->returns >= 0) {
		close(lender->returns);
		lender->returns = -1;
	}
	if (lender->their_end >= 0) {
		close(lender->their_end);
		lender->their_end = -1;
	}
	// Only now: the session must not use what it copies from here on.
	struct loan *loan, *next;
	wl_list_for_each_safe (loan, next, &lender->chains, link) {
		end_loan(lender, loan);
	}
}

/* False: more than was lent. */
static bool take_back(struct lender *lender, size_t len)
{
	if (len > lender->lent) {
		return false;
	}
	while (len > 0) {
		struct loan *loan = wl_container_of(lender->chains.next, loan, link);
		size_t part = loan->left < len ? loan->left : len;
		loan->left -= part;
		lender->lent -= part;
		len -= part;
		if (loan->left == 0) {
			end_loan(lender, loan);
		}
	}
	return true;
}

/* False: nothing more will come. */
static bool read_returns(struct lender *lender)
{
	struct loan_return returns[RETURNS_READ];
	ssize_t n;
	do {
		n = read(lender->returns, returns, sizeof(returns));
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return errno == EAGAIN;
	}
	for (size_t i = 0; i < (size_t)n / sizeof(returns[0]); i++) {
		lender->untaken = lender->untaken && returns[i].length > 0;
		if (!take_back(lender, returns[i].length)) {
			log_limited(LOG_WARN, "a session has returned what it was not lent");
			return false;
		}
	}
	return n > 0 && (size_t)n % sizeof(returns[0]) == 0;
}

static void handle_returns(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct lender *lender = data;
	if (!read_returns(lender)) {
		stop(lender);
	}
	lender->config.returned(lender->config.data);
}

static const struct guest_memory *memory_of(const struct lender *lender)
{
	return vhost_user_memory(lender->config.loans->vhost);
}

/* 0, or -errno. The kernel does not split what is as short. */
static int send_record(
	struct lender *lender, const void *record, size_t len, const struct fdlist *fds)
{
	const struct iovec iov = {.iov_base = (void *)record, .iov_len = len};
	ssize_t n = scm_send(lender->config.fd, &iov, 1, fds, fds->count);
	assert(n < 0 || (size_t)n == len);
	return n < 0 ? (int)n : 0;
}

/* Without, the session goes on with what is lent. */
static void lend_pages(struct lender *lender)
{
	struct page_loans *loans = &lender->config.loans->pages;
	const struct loan_record record = {.type = LOAN_PAGES};
	int their_end;
	if (!lender->config.pages || loans->buffers == NULL ||
		!page_lender_possible(loans->buffers, memory_of(lender))) {
		return;
	}
	lender->pages =
		page_lender_create(lender->config.base, loans, memory_of(lender), &their_end);
	if (lender->pages == NULL) {
		return;
	}
	const struct fdlist list = {.fds = &their_end, .count = 1};
	if (send_record(lender, &record, sizeof(record), &list) < 0) {
		page_lender_destroy(lender->pages);
		lender->pages = NULL;
	}
	close(their_end);
}

struct lender *lender_create(const struct lender_config *config)
{
	struct lender *lender = calloc(1, sizeof(*lender));
	if (lender == NULL) {
		return NULL;
	}
	int ends[2];
	lender->config = *config;
	lender->returns = lender->their_end = -1;
	wl_list_init(&lender->chains);
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
		free(lender);
		return NULL;
	}
	lender->returns = ends[0];
	lender->their_end = ends[1];
	lender->readable =
		event_new(config->base, ends[0], EV_READ | EV_PERSIST, handle_returns, lender);
	if (lender->readable == NULL || event_add(lender->readable, NULL) < 0) {
		lender_destroy(lender);
		errno = ENOMEM;
		return NULL;
	}
	lend_pages(lender);
	return lender;
}

void lender_destroy(struct lender *lender)
{
	if (lender != NULL) {
		stop(lender);
		page_lender_destroy(lender->pages);
		free(lender);
	}
}

size_t lender_lent(const struct lender *lender)
{
	return lender->lent;
}

bool lender_is_stale(const struct lender *lender)
{
	return lender->known != 0 && lender->known != memory_of(lender)->version &&
		!lender->untaken && lender->returns >= 0;
}

/* Borrowed: what the session is to get, in order. Their number. */
static size_t collect_fds(const struct lender *lender, int *fds)
{
	const struct guest_memory *memory = memory_of(lender);
	size_t n = 0;
	if (lender->their_end >= 0) {
		fds[n++] = lender->their_end;
	}
	for (size_t i = 0; i < memory->count; i++) {
		if (memory->regions[i].fd >= 0) {
			fds[n++] = memory->regions[i].fd;
		}
	}
	return n;
}

bool lender_update(struct lender *lender)
{
	const struct guest_memory *memory = memory_of(lender);
	if (lender->known == memory->version || lender->untaken) {
		return lender->known == memory->version;
	}
	int fds[1 + LOAN_FILES_MAX];
	size_t n = collect_fds(lender, fds);
	const struct fdlist list = {.fds = fds, .count = n};
	const struct loan_record record = {
		.type = LOAN_FILES,
		.length = (uint32_t)(n - (lender->their_end >= 0)),
	};
	int error = send_record(lender, &record, sizeof(record), &list);
	if (error < 0) {
		// What is not for lack of room may last: it is tried again when there is something to lend.
		lender->known = error == -EAGAIN ? lender->known : 0;
		return false;
	}
	lender->known = memory->version;
	lender->untaken = true;
	if (lender->their_end >= 0) {
		close(lender->their_end);
		lender->their_end = -1;
	}
	return true;
}

static bool may_lend(const struct lender *lender, const struct iovec *pieces, size_t n_pieces)
{
	const struct loans *loans = lender->config.loans;
	const struct virtqueue *queue = vhost_user_queue(loans->vhost, VSOCK_TX);
	size_t len = 0;
	for (size_t i = 0; i < n_pieces; i++) {
		len += pieces[i].iov_len;
	}
	return lender->returns >= 0 && len >= LENDER_MIN && n_pieces <= LOAN_SEGMENTS_MAX &&
		queue != NULL && loans->count < queue->ring.num / SHARE;
}

struct segments {
	struct loan_record record;
	struct loan_segment list[LOAN_SEGMENTS_MAX];
};

static_assert(offsetof(struct segments, list) == sizeof(struct loan_record), "without padding");

/* False: they are not all in files that can be given away. */
static bool find_segments(const struct lender *lender, const struct iovec *pieces, size_t n_pieces,
	struct segments *segments)
{
	segments->record = (struct loan_record){
		.type = LOAN_SEGMENTS,
		.length = (uint32_t)n_pieces,
	};
	for (size_t i = 0; i < n_pieces; i++) {
		struct loan_segment *segment = &segments->list[i];
		segment->length = (uint32_t)pieces[i].iov_len;
		if (!guest_memory_locate(memory_of(lender), pieces[i].iov_base, &segment->file,
			    &segment->offset)) {
			return false;
		}
	}
	return true;
}

static bool send_segments(struct lender *lender, const struct segments *segments)
{
	const struct fdlist none = {0};
	size_t size =
		sizeof(segments->record) + segments->record.length * sizeof(segments->list[0]);
	return lender_update(lender) && send_record(lender, segments, size, &none) == 0;
}

int lender_lend(struct lender *lender, uint16_t head, const struct iovec *pieces, size_t n_pieces)
{
	struct segments segments;
	if (!may_lend(lender, pieces, n_pieces) ||
		!find_segments(lender, pieces, n_pieces, &segments)) {
		return 0;
	}
	struct loan *loan = calloc(1, sizeof(*loan));
	if (loan == NULL) {
		return -ENOMEM;
	}
	if (!send_segments(lender, &segments)) {
		free(loan);
		return 0;
	}
	loan->head = head;
	for (size_t i = 0; i < n_pieces; i++) {
		loan->left += pieces[i].iov_len;
	}
	wl_list_insert(lender->chains.prev, &loan->link);
	lender->config.loans->count++;
	lender->lent += loan->left;
	return 1;
}
