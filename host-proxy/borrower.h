#ifndef HOST_PROXY_BORROWER_H
#define HOST_PROXY_BORROWER_H

struct channel_input;

/**
 * A session's end of a connection from the vsock device: reads what a guest sends from the guest's own
 * memory (loan.h). What the device says is checked, for the guest may have taken it over; the guest
 * itself may change its bytes while they are copied, but not afterwards.
 */

// fd is borrowed. NULL with errno on failure.
struct channel_input *borrower_create(int fd);
// The socket to a page_lender, which is the caller's; -1: there is none. It has come with the first bytes.
int borrower_take_pages(struct channel_input *input);

#endif
