#ifndef TESTS_BENCH_OPAQUE_OBJECT_H
#define TESTS_BENCH_OPAQUE_OBJECT_H

#include <stdbool.h>
#include <stdint.h>

/**
 * Things behind fds, one of each kind in turn. Each carries words that only its number tells, so
 * that neither a wrong object nor a wrong direction goes unnoticed.
 */

enum object_kind {
	OBJECT_READ_END,  // of a pipe
	OBJECT_WRITE_END, // of a pipe
	OBJECT_SOCKET,    // of a socketpair
	OBJECT_MEMORY,    // a memfd, sealed against everything
	OBJECT_KINDS,
};

// What object_create() keeps.
struct object {
	uint64_t number; // also decides the kind
	int fd;          // the other end, or -1
};

// Returns the fd to be passed, the caller's. Ends the program on failure.
int object_create(struct object *object, uint64_t number);

// For who was passed fd, which is taken: whether it is what the number says. Writes an answer
// where the other end waits for one.
bool object_use(int fd, uint64_t number);

// For who keeps the other end, when object_use() has been called: waits for the answer and the end
// of the stream. Closes the object.
bool object_finish(struct object *object);

#endif
