#include "host-proxy/page_lender.h"

#include <errno.h>
#include <event2/event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "fdpass/departure.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/ram_buffer.h"
#include "protocol/channel.h"

#define LOOKED_AT 2 // dma-bufs, for each that is made

struct page_loan {
	struct wl_list link;      // page_loans.list
	struct wl_list of_lender; // page_lender.lent; empty once that is gone
	int fd;
	uint64_t size;   // bytes
	uint64_t number; // struct fd_identity
};

struct page_lender {
	struct page_loans *loans;
	const struct guest_memory *memory;
	int fd;
	struct event *readable;
	struct wl_list lent; // page_loan.of_lender
};

/* ---- what is lent ---- */

static void end_loan(struct page_loans *loans, struct page_loan *loan)
{
	loans->count--;
	loans->bytes -= loan->size;
	wl_list_remove(&loan->link);
	wl_list_remove(&loan->of_lender);
	close(loan->fd);
	free(loan);
}

/* Ends it if nobody else has it. */
static void look_at(struct page_loans *loans, struct page_loan *loan)
{
	if (departure_count_references(loan->fd) == 1) {
		end_loan(loans, loan);
	} else {
		wl_list_remove(&loan->link);
		wl_list_insert(loans->list.prev, &loan->link);
	}
}

static void look_at_next(struct page_loans *loans)
{
	struct page_loan *loan = wl_container_of(loans->list.next, loan, link);
	look_at(loans, loan);
}

static bool has_room(const struct page_loans *loans, const struct guest_memory *memory)
{
	return loans->count < PAGE_LOANS_MAX &&
		loans->bytes / PAGE_LOANS_TIMES < guest_memory_size(memory);
}

void page_loans_init(struct page_loans *loans, const struct ram_buffers *buffers)
{
	*loans = (struct page_loans){.buffers = buffers};
	wl_list_init(&loans->list);
}

void page_loans_finish(struct page_loans *loans)
{
	struct page_loan *loan, *next;
	wl_list_for_each_safe (loan, next, &loans->list, link) {
		end_loan(loans, loan);
	}
}

/* ---- requests ---- */

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
	bool countable = departure_count_references(fd) == 1;
	if (!countable) {
		log_limited(LOG_INFO,
			"the guest's pages cannot be shared: who uses a dma-buf cannot be told");
	}
	close(fd);
	return countable;
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

static const char *make_room(struct page_loans *loans, const struct guest_memory *memory)
{
	for (size_t left = loans->count; left > 0 && !has_room(loans, memory); left--) {
		look_at_next(loans);
	}
	return has_room(loans, memory) ? NULL
				       : "more pages than its virtual machine may have shared";
}

/* NULL: *wrong says why. */
static struct page_loan *make_loan(
	struct page_lender *lender, const struct ram_range *ranges, size_t n, const char **wrong)
{
	struct page_loans *loans = lender->loans;
	struct page_loan *loan = calloc(1, sizeof(*loan));
	if (loan == NULL) {
		*wrong = "out of memory";
		return NULL;
	}
	loan->fd = ram_buffer_create(loans->buffers, lender->memory, ranges, n, &loan->size, wrong);
	if (loan->fd < 0) {
		free(loan);
		return NULL;
	}
	struct stat st; // its device is known, and no more is looked at in this sandbox
	loan->number = fstat(loan->fd, &st) == 0 ? st.st_ino : 0;
	loans->count++;
	loans->bytes += loan->size;
	wl_list_insert(loans->list.prev, &loan->link);
	wl_list_insert(&lender->lent, &loan->of_lender);
	return loan;
}

/* False: the session is gone, or asks without reading the answers. */
static bool answer_request(struct page_lender *lender, const struct ram_range *ranges, size_t n)
{
	struct page_answer answer = {0};
	for (size_t i = 0; i < LOOKED_AT && lender->loans->count > i; i++) {
		look_at_next(lender->loans);
	}
	const char *wrong = make_room(lender->loans, lender->memory);
	struct page_loan *loan = wrong == NULL ? make_loan(lender, ranges, n, &wrong) : NULL;
	if (loan == NULL) {
		snprintf(answer.wrong, sizeof(answer.wrong), "%s", wrong);
	}
	bool sent = send_answer(lender, &answer, loan != NULL ? loan->fd : -1);
	if (!sent && loan != NULL) {
		end_loan(lender->loans, loan);
	}
	return sent;
}

/* One that it was not lent is nothing to it. */
static void handle_let_go(struct page_lender *lender, uint64_t number)
{
	struct page_loan *loan;
	wl_list_for_each (loan, &lender->lent, of_lender) {
		if (loan->number == number) {
			look_at(lender->loans, loan);
			return;
		}
	}
}

/* One at a time: making a large one takes a while, and the guest's packets wait. */
static bool handle_request(struct page_lender *lender)
{
	struct ram_range ranges[CHANNEL_MAX_RANGES + 1];
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv_none(lender->fd, ranges, sizeof(ranges), &fds);
	fdlist_finish(&fds);
	if (n == -EAGAIN) {
		return true;
	}
	if (n == sizeof(uint64_t)) {
		handle_let_go(lender, ranges[0].address);
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

struct page_lender *page_lender_create(struct event_base *base, struct page_loans *loans,
	const struct guest_memory *memory, int *their_end)
{
	int ends[2];
	struct page_lender *lender = calloc(1, sizeof(*lender));
	if (lender == NULL || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		free(lender);
		return NULL;
	}
	*lender = (struct page_lender){.loans = loans, .memory = memory, .fd = ends[0]};
	wl_list_init(&lender->lent);
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

/* What it has lent is left to others to look at, if somebody still has it. */
static void leave_loans(struct page_lender *lender)
{
	struct page_loan *loan, *next;
	wl_list_for_each_safe (loan, next, &lender->lent, of_lender) {
		wl_list_remove(&loan->of_lender);
		wl_list_init(&loan->of_lender);
		look_at(lender->loans, loan);
	}
}

void page_lender_destroy(struct page_lender *lender)
{
	if (lender != NULL) {
		stop(lender);
		leave_loans(lender);
		free(lender);
	}
}
