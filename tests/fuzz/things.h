#ifndef TESTS_FUZZ_THINGS_H
#define TESTS_FUZZ_THINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fdlist;
struct fuzz_input;

/**
 * The fds that local peers have: one of each kind, made when it is first named, and those that they have
 * received.
 */

enum thing {
	THING_MEMORY,
	THING_SEALED_MEMORY,
	THING_FILE_TO_READ,
	THING_PIPE_READ,
	THING_PIPE_WRITE,
	THING_STREAM_A,
	THING_STREAM_B,
	THING_RECORDS_A,
	THING_RECORDS_B,
	THING_EVENT,
	THING_SEMAPHORE,
	THING_NULL_DEVICE,
	THING_DIRECTORY,
	THING_FENCE,    // stand_ins.h
	THING_TIMELINE, // of the node
	THING_BUFFER,   // a dma-buf, as of the guest's GPU
	THING_QUEUE,    // of that GPU: once it is written to, the device knows all buffers
	THING_BUFFER_TO_READ,
	THINGS,
};

#define THINGS_HELD 8 // that were received
#define THINGS_SENT 4 // at once

struct things {
	int made[THINGS];      // -1: not made, or closed
	int held[THINGS_HELD]; // likewise
	size_t next_held;
	int node;          // for timelines (syncobjs.h)
	uint32_t timeline; // a handle; 0: none was made
};

void things_init(struct things *things);
void things_finish(struct things *things);

// By a byte of the input: a thing, or one that was received, which may be -1.
int *things_get(struct things *things, uint8_t number);
// Up to THINGS_SENT of them, as the input says: fds is initialized, and the caller's.
void things_take(struct things *things, struct fuzz_input *input, struct fdlist *fds);
// Sends a message to end, with fds, which are closed then. Nothing is sent if end is -1.
void things_send(int end, const void *data, size_t len, struct fdlist *fds);
// The same with bytes and things that the input says.
void things_send_bytes(struct things *things, int end, struct fuzz_input *input);
// Takes fd.
void things_hold(struct things *things, int fd);
// Whether fd is one of the things that were made, or a copy of it.
bool things_have(const struct things *things, int fd);

// Closes it unless it is -1, which it is then.
void things_close(int *fd);
// Whether poll(2) says so now.
bool things_ready(int fd, short what);

#endif
