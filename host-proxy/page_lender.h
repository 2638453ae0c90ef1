#ifndef HOST_PROXY_PAGE_LENDER_H
#define HOST_PROXY_PAGE_LENDER_H

#include <stdbool.h>

struct event_base;
struct guest_memory;
struct page_lender;
struct ram_buffers;

/**
 * Makes dma-bufs of a guest's pages for one session, in the device's process, which has the guest's memory.
 * Each request of the session is a record on a SOCK_SEQPACKET socket: struct ram_range, one after another.
 * The answer is a struct page_answer, with the dma-buf's fd unless it says what is wrong.
 */

#define PAGE_ANSWER_MAX 96

struct page_answer {
	char wrong[PAGE_ANSWER_MAX]; // with a NUL; empty: nothing
};

// Whether all that a session may ask for (protocol/channel.md, "Pages") can be made of this memory: udmabuf's
// limits allow it, and takes all of the memory's files.
bool page_lender_possible(const struct ram_buffers *buffers, const struct guest_memory *memory);

// Answers whatever comes, all borrowed. *their_end is the session's end of the socket: the caller's. NULL with
// errno on failure.
struct page_lender *page_lender_create(struct event_base *base, const struct ram_buffers *buffers,
	const struct guest_memory *memory, int *their_end);
void page_lender_destroy(struct page_lender *lender); // NULL is fine

#endif
