#ifndef EXAMPLES_MOJO_INTRODUCTION_H
#define EXAMPLES_MOJO_INTRODUCTION_H

#include <stdbool.h>
#include <stdint.h>

#include "examples/mojo/format.h"

struct event_base;
struct introduction;

/**
 * What two introduced clients say to each other.
 */

// wrong: NULL if all went well.
typedef void (*introduction_done)(void *data, const char *wrong);

// Takes fd, also on failure. One of the two is the first. NULL on failure.
struct introduction *introduction_create(struct event_base *base, int fd, enum mojo_format format,
	uint64_t seed, bool first, introduction_done done, void *data);
void introduction_destroy(struct introduction *introduction); // not inside done; NULL is fine
// What came, once it is done; borrowed.
const char *introduction_result(struct introduction *introduction);

#endif
