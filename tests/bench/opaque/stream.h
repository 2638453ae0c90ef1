#ifndef TESTS_BENCH_OPAQUE_STREAM_H
#define TESTS_BENCH_OPAQUE_STREAM_H

#include <stddef.h>
#include <stdint.h>

#define STREAM_CHUNK ((size_t)64 * 1024)

// Noise without end: whoever makes it gets the same, and no two chunks are alike.
struct stream {
	char *block;
	uint64_t chunks; // that were taken
};

void stream_init(struct stream *stream);
void stream_finish(struct stream *stream);

// The sum of the next size bytes. All sizes are multiples of STREAM_CHUNK.
uint64_t stream_sum(struct stream *stream, uint64_t size);

// Sends the next size bytes. Ends the program where the socket fails.
void stream_send(struct stream *stream, int sock, uint64_t size);

// Receives size bytes and returns their sum. Ends the program where the socket fails or ends.
uint64_t stream_receive(int sock, uint64_t size);

#endif
