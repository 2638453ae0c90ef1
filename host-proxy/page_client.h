#ifndef HOST_PROXY_PAGE_CLIENT_H
#define HOST_PROXY_PAGE_CLIENT_H

struct page_buffers;

/**
 * A session's end of a page_lender. It waits for each answer, so that the messages behind a pool find it
 * there; the device's process answers at once, and what it says is checked, for the guest may have taken it
 * over.
 */

// Takes fd, also on failure: NULL with errno.
struct page_buffers *page_client_create(int fd);

#endif
