#ifndef HOST_PROXY_PAGE_LENDER_H
#define HOST_PROXY_PAGE_LENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

struct event_base;
struct guest_memory;
struct page_lender;
struct ram_buffers;

/**
 * Makes dma-bufs of a guest's pages for one session, in the device's process, which has the guest's memory.
 * Each request of the session is a record on a SOCK_SEQPACKET socket: struct ram_range, one after another.
 * The answer is a struct page_answer, with the dma-buf's fd unless it says what is wrong. A request with fds is
 * the last one: they are not taken, as closing them could wait for the session. A uint64_t, to which there is no
 * answer, is the number (struct fd_identity) of a dma-buf that the session has let go.
 */

#define PAGE_ANSWER_MAX 96

struct page_answer {
	char wrong[PAGE_ANSWER_MAX]; // with a NUL; empty: nothing
};

// That one device has lent and that somebody may still have: each is kept until nobody else does, which the
// kernel's count of references tells. No more are made when together they are so many times as large as the
// guest's memory, whatever its sessions count: each page behind a dma-buf costs the kernel a few bytes.
// A pool that grows names its pages again while buffers of what it was are there.
#define PAGE_LOANS_TIMES 4
#define PAGE_LOANS_MAX   16384

struct page_loans {
	const struct ram_buffers *buffers; // borrowed; NULL: no session gets any of its pages
	struct wl_list list;               // of dma-bufs, those that were looked at last at its end
	size_t count;
	uint64_t bytes;
};

void page_loans_init(struct page_loans *loans, const struct ram_buffers *buffers);
void page_loans_finish(struct page_loans *loans);

// Whether all that a session may ask for (protocol/channel.md, "Pages") can be made of this memory: udmabuf's
// limits allow it, and takes all of the memory's files; and it can be told when a dma-buf is not used any more.
bool page_lender_possible(const struct ram_buffers *buffers, const struct guest_memory *memory);

// Answers whatever comes, all borrowed. *their_end is the session's end of the socket: the caller's. NULL with
// errno on failure.
struct page_lender *page_lender_create(struct event_base *base, struct page_loans *loans,
	const struct guest_memory *memory, int *their_end);
void page_lender_destroy(struct page_lender *lender); // NULL is fine

#endif
