#ifndef HOST_PROXY_LENDER_H
#define HOST_PROXY_LENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "host-proxy/page_lender.h"

struct event_base;
struct lender;
struct vhost_user;

/**
 * The device's end of a connection to a session that reads payload from the guest's memory by itself
 * (loan.h). It keeps the chains of the guest's that the payload is in, and gives each back to the
 * guest when it has been copied, or can be no more.
 */

// What is smaller is written into the socket, which costs less (tests/bench/vsock.c).
#define LENDER_MIN 32768 // bytes

// Of one device.
struct loans {
	struct vhost_user *vhost; // borrowed
	unsigned int count;       // chains that are lent
	struct page_loans pages;
};

struct lender_config {
	struct event_base *base; // borrowed
	struct loans *loans;     // borrowed
	int fd;     // the connection's stream socket, borrowed; nothing was written to it yet
	bool pages; // the session may have some of the guest's, if that can be
	// Something came back. The lender may be destroyed from here.
	void (*returned)(void *data);
	void *data;
};

// NULL with errno on failure.
struct lender *lender_create(const struct lender_config *config);
// All that is still lent goes back to the guest; the session can tell. NULL is fine.
void lender_destroy(struct lender *lender);

// Lends the payload of a chain, which is in these pieces of the guest's memory, if it is worth it, not
// too many chains are lent and the socket has room. Nothing else may wait to be written. 1: the chain
// is the lender's now; 0: its payload has to be written; -ENOMEM.
int lender_lend(struct lender *lender, uint16_t head, const struct iovec *pieces, size_t n_pieces);
// Bytes that are lent.
size_t lender_lent(const struct lender *lender);

// The session has taken files that are no longer the guest's memory: lender_update.
bool lender_is_stale(const struct lender *lender);
// Tells it of those that are, while nothing else waits to be written. False: the socket has no room, or the
// session has not taken those that it was told of last. It is heard of by returned when it has.
bool lender_update(struct lender *lender);

#endif
