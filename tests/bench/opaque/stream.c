#include "tests/bench/opaque/stream.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include "tests/bench/noise.h"

#define BLOCK_CHUNKS 16 // 1 MiB: the sender's source does not live in the first caches

void stream_init(struct stream *stream)
{
	*stream = (struct stream){.block = malloc(BLOCK_CHUNKS * STREAM_CHUNK)};
	if (stream->block == NULL) {
		err(1, "stream");
	}
	noise_fill(stream->block, BLOCK_CHUNKS * STREAM_CHUNK, 1);
}

void stream_finish(struct stream *stream)
{
	free(stream->block);
	*stream = (struct stream){0};
}

// The number of a chunk is its first word. The pointer is good until the block is through.
static const char *next_chunk(struct stream *stream)
{
	char *chunk = stream->block + stream->chunks % BLOCK_CHUNKS * STREAM_CHUNK;
	memcpy(chunk, &stream->chunks, sizeof(stream->chunks));
	stream->chunks++;
	return chunk;
}

static uint64_t add_chunk(uint64_t sum, const char *chunk)
{
	return sum * 0x100000001b3 + noise_sum(chunk, STREAM_CHUNK);
}

uint64_t stream_sum(struct stream *stream, uint64_t size)
{
	uint64_t sum = 0;
	for (uint64_t done = 0; done < size; done += STREAM_CHUNK) {
		sum = add_chunk(sum, next_chunk(stream));
	}
	return sum;
}

static void send_chunk(int sock, const char *chunk)
{
	size_t done = 0;
	while (done < STREAM_CHUNK) {
		ssize_t sent = send(sock, chunk + done, STREAM_CHUNK - done, MSG_NOSIGNAL);
		if (sent < 0) {
			err(1, "cannot send");
		}
		done += (size_t)sent;
	}
}

void stream_send(struct stream *stream, int sock, uint64_t size)
{
	for (uint64_t done = 0; done < size; done += STREAM_CHUNK) {
		send_chunk(sock, next_chunk(stream));
	}
}

static void receive_chunk(int sock, char chunk[STREAM_CHUNK])
{
	size_t done = 0;
	while (done < STREAM_CHUNK) {
		ssize_t got = recv(sock, chunk + done, STREAM_CHUNK - done, 0);
		if (got < 0) {
			err(1, "cannot receive");
		}
		if (got == 0) {
			errx(1, "the stream is cut off");
		}
		done += (size_t)got;
	}
}

uint64_t stream_receive(int sock, uint64_t size)
{
	char chunk[STREAM_CHUNK];
	uint64_t sum = 0;
	for (uint64_t done = 0; done < size; done += STREAM_CHUNK) {
		receive_chunk(sock, chunk);
		sum = add_chunk(sum, chunk);
	}
	return sum;
}
