#ifndef FDPASS_ANY_H
#define FDPASS_ANY_H

#include <stdbool.h>
#include <stdint.h>

#include "fdpass/fdref.h"

/**
 * An fd of which nothing is known but the fd itself: what it is decides how it crosses.
 */

#define ANY_WRONG_MAX 128

enum any_result {
	ANY_OPENED,  // *id names it; it may be one that was open before
	ANY_DROPPED, // the rules have it left out
	ANY_REFUSED, // wrong says in a phrase what it is and why it cannot cross
};

// Whether fd, which is borrowed, cannot be exported yet: interface->retry is called when to ask again.
// The fds of one message are exported together when none has to wait any more, so that what becomes
// of one until then cannot tell on the others.
bool any_must_wait(struct fdrefs *refs, int fd);
// That was asked of fd, and it will not be exported.
void any_forget(struct fdrefs *refs, int fd);
// Takes fd.
enum any_result any_export(struct fdrefs *refs, int fd, uint32_t *id, char wrong[ANY_WRONG_MAX]);

#endif
