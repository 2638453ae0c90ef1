#ifndef TESTS_FUZZ_GPU_H
#define TESTS_FUZZ_GPU_H

#include <stdbool.h>
#include <stdint.h>

struct fuzz_input;
struct resolver;
struct things;
struct virtgpu;

/**
 * Where both sides' dma-bufs come from: memory stands for them, so what is done with the bytes is the same,
 * and what is told by ioctl(2) fails.
 */

// Makes any, and of two resources it finds one. Borrowed, and for ever.
struct resolver *gpu_resolver(void);

// The guest's GPU, which has made THING_BUFFER and its copies; things is borrowed until the next call.
struct virtgpu *gpu_of_guest(struct things *things);

// The resolver that asks a service, in *service, of which nothing but what gpu_answer sends is heard. Both
// are the caller's.
struct resolver *gpu_create_resolver(int *service);
// The next answer, right or wrong.
void gpu_answer(int service, struct things *things, struct fuzz_input *input);

#endif
