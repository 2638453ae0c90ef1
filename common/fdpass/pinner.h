#ifndef FDPASS_PINNER_H
#define FDPASS_PINNER_H

struct page_pinner;

/**
 * Pins pages of shared memory and tells where they are (pages.h), in the guest.
 *
 * A page stays where it is as long as io_uring has it as a registered buffer. Nothing is asked of the file:
 * it needs no seals, may end within a page, and its owner may truncate it or punch holes into it, which
 * gives the file other pages and leaves us with these. Where a page is, /proc/self/pagemap says, to who has
 * CAP_SYS_ADMIN when it is opened. It is asked of a mapping that io_uring has just faulted in and nobody
 * touches, so that it cannot show a page that has come instead of the pinned one. The mapping stays, and
 * what the file has lost since is missing in it.
 */

// Everything that cannot be opened in a sandbox is opened now. NULL with errno: EPERM without that
// capability, or what the kernel says of io_uring (Linux 5.19).
struct page_pinner *pinner_create(void);

#endif
