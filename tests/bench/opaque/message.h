#ifndef TESTS_BENCH_OPAQUE_MESSAGE_H
#define TESTS_BENCH_OPAQUE_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

struct passed_fds;

/**
 * What bench-client asks of bench-service: a protocol that no proxy knows. A request is one message,
 * the answer too where nothing else is said. An answer has the request's number.
 */

enum opaque_task {
	OPAQUE_ECHO = 1, // answered at once; then number is written into the fd, if there is one
	OPAQUE_TAKE,     // size bytes follow; answered with their sum
	OPAQUE_GIVE,     // size bytes are the answer
	OPAQUE_OBJECTS,  // objects are passed, see object.h; answered with how many were right
};

struct opaque_message {
	uint32_t task;
	uint32_t n_right;
	uint64_t number; // of the message; of the first of the objects
	uint64_t size;   // a multiple of STREAM_CHUNK
	uint64_t sum;
	uint8_t padding[32];
};
_Static_assert(sizeof(struct opaque_message) == 64, "small, as most messages are");

// fds go with the first byte and stay the caller's. Ends the program where the socket fails.
void opaque_send(int sock, const struct opaque_message *message, const struct passed_fds *fds);

// The fds are the caller's. Returns false at the end of the stream, where there are none; ends the
// program where the socket fails.
bool opaque_receive(int sock, struct opaque_message *message, struct passed_fds *fds);

#endif
