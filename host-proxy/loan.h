#ifndef HOST_PROXY_LOAN_H
#define HOST_PROXY_LOAN_H

#include <stdint.h>

/**
 * How a device process hands to a session process what a guest sends. On the stream socket between
 * them, records come in this direction; bytes for the guest go back as they are. A record says either
 * that bytes follow, or where in the guest's memory they lie: those are lent. The session copies them
 * from there to where they belong, then says so by the pipe that it was given, and only then the guest
 * gets its buffer back. The device closes its end of the pipe before it takes anything back unasked: a
 * session that cannot return what it has copied must not use it.
 */

#define LOAN_FILES_MAX    32 // of a guest's memory
#define LOAN_SEGMENTS_MAX 32 // of a record

enum loan_record_type {
	LOAN_BYTES = 1, // length bytes follow
	// The files of the guest's memory, instead of those known so far: length of them come as fds,
	// in order, read-only. Before them, the first time, the end of the pipe to write to.
	LOAN_FILES,
	LOAN_SEGMENTS, // length segments follow
	// Before all others, if at all: a socket comes as an fd, by which the session gets dma-bufs of the
	// guest's pages (page_lender.h). length is 0.
	LOAN_PAGES,
};

struct loan_record {
	uint32_t type;
	uint32_t length;
};

struct loan_segment {
	uint64_t offset; // in the file
	uint32_t length; // bytes
	uint32_t file;
};

// In the pipe: bytes of records whose segments have all been copied. 0: files were taken. None are told of
// before those of the last record were, as each of them is an fd in flight of the user's until then.
struct loan_return {
	uint32_t length;
};

#endif
