#ifndef FDPASS_FDREF_H
#define FDPASS_FDREF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/channel.h"
#include "fdpass/content.h"

struct event_base;
struct fdref;
struct fdrefs;

/**
 * An fdref is an fd's stand-in on the channel: the thing behind the fd and what keeps its two copies
 * the same thing. The side that had the fd opens it (export: fd -> fdref), the other makes an fd of
 * it (import: fdref -> fd). A session's fdrefs live in one table and end with it.
 *
 * The opener sends CLOSE when it needs the fdref no more, and keeps the id until CLOSED comes back.
 */

struct fdref_interface {
	const char *name; // "pool", "file", "pipe"
	// A frame for this fdref other than MEM_WRITE and CLOSED. NULL, or what is wrong with it.
	const char *(*frame)(struct fdref *ref, const struct channel_frame *frame);
	// Where rows go; see struct channel_handler. NULL: not a memory.
	const char *(*place)(struct fdref *ref, const struct channel_mem_write *write,
		struct channel_rows *rows);
	// An fd for the local peer: the caller's, CLOEXEC; -errno. NULL: not imported.
	int (*get_fd)(struct fdref *ref);
	// Opened here, and the message that it goes with was pushed. NULL: of no interest.
	void (*named)(struct fdref *ref);
	// The channel can take more. NULL: of no interest.
	void (*drained)(struct fdref *ref);
	void (*destroy)(struct fdref *ref);
};

struct fdref {
	const struct fdref_interface *interface;
	struct fdrefs *refs;
	uint32_t id;
	bool closing; // opened here: CLOSE is sent; opened there: CLOSE has come
};

struct fdref_counts {
	uint64_t pools, files, pipes, files_cached;
	uint64_t memory_sent, memory_received, memory_twinned; // bytes
	uint64_t stream_sent, stream_received;
};

struct fdref_table {
	struct fdref **refs; // by id without the bit
	size_t size;
	size_t used;
	size_t next; // where the search for a free id begins
};

// Embedded in a session.
struct fdrefs {
	struct channel *channel;
	struct event_base *base;
	uint32_t own_bit; // of the ids that we open: 0 or CHANNEL_ID_HOST
	struct fdref_table ours, theirs;
	size_t max_refs;     // of ours and theirs together
	uint64_t max_memory; // bytes that the peer may make us keep
	uint64_t memory;
	size_t streams; // that are open: data may still be under way on the other side

	struct content_store *contents; // files that we have, borrowed; may be NULL
	const struct content_hash *peer_contents;
	size_t n_peer_contents;
	void (*stored)(void *data, const struct content_hash *hash, int fd); // may be NULL
	void (*streams_over)(void *data); // streams has become 0; may be NULL
	void *data;

	struct fdref_counts counts;
};

// Destroys what is left in the table. The channel may be gone already.
void fdrefs_finish(struct fdrefs *refs);

// Gives ref a free id and sends OPEN with it. False: too many, or ENOMEM (ref is untouched).
bool fdrefs_open(struct fdrefs *refs, struct fdref *ref, const struct fdref_interface *interface,
	enum channel_kind kind, const void *open, size_t open_len);
// Opened here and needed no more.
void fdrefs_close(struct fdref *ref);
// Opened there, CLOSE has come, and nobody here uses it any more. ref is destroyed.
void fdrefs_confirm_closed(struct fdref *ref);

// NULL if there is none such.
struct fdref *fdrefs_get(const struct fdrefs *refs, uint32_t id);
// Charges bytes to the session before they are allocated; false: over the limit.
bool fdrefs_charge(struct fdrefs *refs, uint64_t bytes);
void fdrefs_discharge(struct fdrefs *refs, uint64_t bytes);

// The frame is for an fdref (its id is not 0), or OPEN. NULL, or what is wrong with it.
const char *fdrefs_frame(struct fdrefs *refs, const struct channel_frame *frame);
const char *fdrefs_place(struct fdrefs *refs, uint32_t id, const struct channel_mem_write *write,
	struct channel_rows *rows);
// The channel can take more.
void fdrefs_drained(struct fdrefs *refs);

#endif
