#ifndef FDPASS_ANY_H
#define FDPASS_ANY_H

#include <stddef.h>
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
	ANY_WAIT,    // ask again when interface->retry is called
};

// fd is taken unless the result is ANY_WAIT.
enum any_result any_export(struct fdrefs *refs, int fd, uint32_t *id, char wrong[ANY_WRONG_MAX]);

#endif
