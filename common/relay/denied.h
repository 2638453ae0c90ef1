#ifndef RELAY_DENIED_H
#define RELAY_DENIED_H

#include <stdbool.h>

struct wire_op;

// A request that is not to reach the compositor, although its interface is offered.
struct denied_request {
	const struct wire_op *op;
	bool ignored; // left out in silence; false: it ends the session
};

#endif
