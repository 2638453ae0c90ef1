#ifndef FDPASS_MEMORY_IMPL_H
#define FDPASS_MEMORY_IMPL_H

#include "fdpass/memory.h"

/**
 * What pools (memory.c) and dma-bufs (dmabuf.c) share, and nobody else includes.
 */

/* memory.c */

// Of what fd has, from the start; writable if it can be and that is wanted. What was mapped before goes.
bool memory_map(struct memory *memory, uint64_t size, bool writable);
// Gives back everything but the memory itself.
void memory_finish(struct memory *memory);

// For struct fdref_interface, of the opener and of the importer.
const char *memory_place_in_original(
	struct fdref *ref, const struct channel_mem_write *write, struct channel_rows *rows);
const char *memory_place_in_replica(
	struct fdref *ref, const struct channel_mem_write *write, struct channel_rows *rows);
const char *memory_copy_from_twin(struct memory *memory, const struct channel_frame *frame);
// REGION_ROWS: what is in the range is in the memory, too, after that. What it has no place for, truncated, closed or
// for reading only, is forgotten.
const char *memory_copy_from_region(struct memory *memory, const struct channel_frame *frame);
int memory_get_fd(struct fdref *ref);

/* dmabuf.c */

// Its bytes are about to be read or written here, until dmabuf_settle. What devices are still doing with
// it is waited for: at an opener, memory_must_wait has seen to that.
// anew: what was read before may be old.
void dmabuf_begin_reading(struct memory *memory, bool anew);
void dmabuf_begin_writing(struct memory *memory);
void dmabuf_settle(struct fdref *ref);
bool dmabuf_must_wait(struct memory *memory);
bool dmabuf_is_in_use(struct memory *memory);
// The opener has closed it and nobody here uses it: confirms that when the local peer has let it go.
void dmabuf_let_go(struct memory *memory);

#endif
