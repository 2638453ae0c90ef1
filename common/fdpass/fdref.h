#ifndef FDPASS_FDREF_H
#define FDPASS_FDREF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "base/budget.h"
#include "channel/channel.h"
#include "fdpass/content.h"
#include "fdpass/kind.h"

struct departure;
struct event_base;
struct event_note;
struct fileserver;
struct flights;
struct fdref;
struct fdrefs;
struct page_buffers;
struct page_pinner;
struct resolver;
struct sync_wait;
struct virtgpu;

/**
 * An fdref is an fd's stand-in on the channel: the thing behind the fd and what keeps its two copies
 * the same thing. The side that had the fd opens it (export: fd -> fdref), the other makes an fd of
 * it (import: fdref -> fd). A session's fdrefs live in one table and end with it.
 *
 * The opener sends CLOSE when it needs the fdref no more, and keeps the id until CLOSED comes back.
 */

enum fdref_again {
	FDREF_AGAIN_NAME, // ref is what it is
	FDREF_AGAIN_NEW,  // a new fdref has to be made for it
};

struct fdref_interface {
	const char *name; // "pool", "file", "pipe"
	// A frame for this fdref other than MEM_WRITE and CLOSED. NULL, or what is wrong with it.
	const char *(*frame)(struct fdref *ref, const struct channel_frame *frame);
	// Where rows go; see struct channel_handler. NULL: not a memory.
	const char *(*place)(struct fdref *ref, const struct channel_mem_write *write,
		struct channel_rows *rows);
	// An fd for the local peer: the caller's, CLOEXEC; -errno. One that was opened here and that the
	// other side names has come home: the original, or -EBADF where that makes no sense. NULL:
	// never.
	int (*get_fd)(struct fdref *ref);
	// The message that names it was pushed: one that was opened here, or that again has let be named.
	// NULL: of no interest.
	void (*named)(struct fdref *ref);
	// The channel can take more. NULL: of no interest.
	void (*drained)(struct fdref *ref);
	// What ref waited for (any_must_wait) may have come. NULL: of no interest.
	void (*retry)(struct fdref *ref);
	// The bytes that came are there, and those that the other side has had are read. NULL: of no
	// interest.
	void (*settle)(struct fdref *ref);
	// The local peer sends an fd with ref's identity: can ref be named for it? fd is borrowed. NULL:
	// no, never.
	enum fdref_again (*again)(struct fdref *ref, int fd);
	// Whether again cannot tell yet; fdrefs_retry is called when to ask once more. NULL: it can.
	bool (*must_wait)(struct fdref *ref, int fd);
	// Who was told to wait does so no more, and will not ask again. NULL: of no interest.
	void (*forsaken)(struct fdref *ref);
	void (*destroy)(struct fdref *ref);
};

struct fdref {
	const struct fdref_interface *interface;
	struct fdrefs *refs;
	uint32_t id;
	enum channel_kind kind;
	bool closing; // opened here: CLOSE is sent; opened there: CLOSE has come
	// What the local peers' fds of it have in common; zeros if it does not matter. Once it is open,
	// fdref_identify changes it.
	struct fd_identity identity;
	struct wl_list alike; // fdrefs.by_identity; empty where identity is zeros
	// Of the memory that each fd of it keeps, while that is ours to answer for; else NULL.
	struct charge *memory;
};

// Nothing is taken from local peers for an fdref while more bytes than this are queued on the channel:
// messages must not wait behind it.
#define FDREFS_BUSY (64u * 1024)

// What is to be done with an fd of which no protocol says what it is for (fdpass/any.h).
struct fdref_rules {
	// Memory that both sides may write to.
	enum {
		FDREF_SHARED_REFUSE,
		FDREF_SHARED_SNAPSHOT, // copied once
		FDREF_SHARED_DIFF,     // changed words are pushed before messages and counts
	} shared;
	// What cannot cross.
	enum {
		FDREF_UNSUPPORTED_CLOSE, // ends the session
		FDREF_UNSUPPORTED_DROP,  // the message goes without it
		FDREF_UNSUPPORTED_DEVNULL,
	} unsupported;
	uint64_t max_file_copy; // bytes; a larger file is read on demand. 0: FILE_MAX
	// How long a read of such a file waits for the other side; 0: ONDEMAND_READ_MS.
	uint32_t read_ms;
	// How long a count lies on its reader's side before that is the writer's; 0: EVENT_GRACE_MS.
	uint32_t turn_ms;
};

struct fdref_counts {
	uint64_t pools, files, pipes, files_cached;
	uint64_t sockets, events, devices, shared, syncs, dmabufs, timelines;
	uint64_t dmabufs_shared;   // of dmabufs: both sides have the same pages
	uint64_t dmabufs_held;     // that the local peer had not let go in time
	uint64_t files_on_demand;  // of files
	uint64_t homecomings;      // that were the other side's own
	uint64_t unsupported;      // dropped or replaced
	uint64_t shared_conflicts; // words that both sides had changed
	uint64_t memory_sent, memory_received, memory_twinned; // bytes
	uint64_t memory_shared;                                // copied to the region, or from it
	uint64_t memory_saved; // neither, as both sides have the same pages
	uint64_t stream_sent, stream_received;
};

#define FDREFS_BUCKETS 256

struct fdref_table {
	struct fdref **refs; // by id without the bit
	size_t size;
	size_t used;
	size_t next; // where the search for a free id begins
};

// Embedded in a session.
struct fdrefs {
	struct channel *channel;
	struct fd_identity
		channel_identity; // of its socket, which is never passed on; may be zeros
	struct event_base *base;
	uint32_t own_bit; // of the ids that we open: 0 or CHANNEL_ID_HOST
	struct fdref_table ours, theirs;
	struct wl_list *
		by_identity; // fdref.alike, in an array of FDREFS_BUCKETS; NULL: nothing was open yet
	struct budget *budget;   // what the other side may make us keep; borrowed
	size_t streams;          // that are open: data may still be under way on the other side
	bool any_kind;           // but pools; else only those that Wayland's messages can name
	size_t shared;           // memories that are compared before each message
	uint64_t words_memory;   // bytes that are charged for their words
	struct sync_wait *waits; // sync_files that have not signalled (sync.h)
	struct departure *departures; // of fdrefs that are closed and charged (departure.h)
	size_t waiting;               // sockets with a message that cannot be exported yet
	uint64_t uses;                // of eventfds, ever
	size_t unnamed;               // eventfds of ours that cannot be named yet
	size_t unsettled;             // eventfds of theirs that may be others that are here already
	size_t questions; // for pieces of files that wait until the channel can take more
	struct fileserver *fileserver; // of files that are read on demand; NULL: none can be
	size_t accessed;               // dma-bufs whose bytes are being read or written
	bool dmabufs;                  // both sides have agreed to them (dmabuf.h)
	// Makes dma-bufs for those of the other side; borrowed. NULL: there can be none here.
	struct resolver *resolver;
	// Finds those of the guest's GPU; borrowed. NULL: they are copied.
	struct resolver *handles;
	struct virtgpu *virtgpu; // in the guest: that GPU; borrowed. NULL: they are copied
	bool timelines;          // both sides have agreed to them, too (timeline.h)
	int node;                // that they are made with: a DRM device's, borrowed
	// Pools go by their pages (pages.h): the guest's, and the host's; borrowed. NULL: they do not.
	struct page_pinner *pinner;
	struct page_buffers *page_buffers;
	struct fdref_rules rules;

	struct region *region;          // ours; NULL: none is shared
	struct content_store *contents; // files that we have, borrowed; may be NULL
	const struct content_hash *peer_contents;
	size_t n_peer_contents;
	void (*stored)(void *data, const struct content_hash *hash, int fd); // may be NULL
	void (*streams_over)(void *data); // streams has become 0; may be NULL
	// The session cannot go on; may be NULL. Then nothing is read from local peers any more.
	void (*failed)(void *failed_data, const char *text);
	void *failed_data;
	// What an export waited for may have come, beside fdrefs; may be NULL.
	void (*retried)(void *data);
	// A socket carries len bytes and the fds of ids, which are not aligned; may be NULL.
	void (*trace)(void *failed_data, uint32_t socket, bool sent, size_t len, const void *ids,
		uint32_t n_ids);
	struct flights *flights; // fds that wait for local peers; see fdrefs_flights
	bool stopped;
	bool ending; // counts of eventfds that are not taken yet stay where they are
	// Tells who looks after the eventfds of all sessions of the link, or asks there: event_answer
	// follows. fd is borrowed, -1 for none. False: it was not sent. NULL: the session is alone.
	bool (*ask)(void *data, const struct event_note *note, int fd);
	// A connection that the other side's root socket is to be joined to, until it is.
	bool has_root;
	int root_fd;
	void *data;

	struct fdref_counts counts;
};

// Destroys what is left in the table. The channel may be gone already.
void fdrefs_finish(struct fdrefs *refs);

// Gives ref a free id, which nobody is told yet. False: too many, or ENOMEM (ref is untouched).
bool fdrefs_reserve(struct fdrefs *refs, struct fdref *ref, const struct fdref_interface *interface,
	enum channel_kind kind);
// Sends OPEN of one that was reserved.
void fdrefs_push_open(
	const struct fdref *ref, enum channel_kind kind, const void *open, size_t open_len);
// Both. False as fdrefs_reserve.
bool fdrefs_open(struct fdrefs *refs, struct fdref *ref, const struct fdref_interface *interface,
	enum channel_kind kind, const void *open, size_t open_len);
// Opened here and needed no more.
void fdrefs_close(struct fdref *ref);
// Opened there, CLOSE has come, and nobody here uses it any more. ref is destroyed.
void fdrefs_confirm_closed(struct fdref *ref);
// The same, but ref stays charged until fdrefs_destroy. Its id is another's by then.
void fdrefs_confirm_charged(struct fdref *ref);
void fdrefs_destroy(struct fdref *ref);
// For interface.frame where nothing comes but CLOSE, which it confirms.
const char *fdref_expect_close(struct fdref *ref, const struct channel_frame *frame);

// What keeps fds charged until the local peers have taken them. NULL on ENOMEM.
struct flights *fdrefs_flights(struct fdrefs *refs);
// NULL if there is none such.
struct fdref *fdrefs_get(const struct fdrefs *refs, uint32_t id);
void fdref_identify(struct fdref *ref, const struct fd_identity *identity);
// The open fdref with that identity, whoever opened it; NULL if there is none.
struct fdref *fdrefs_find(const struct fdrefs *refs, const struct fd_identity *identity);
// The oldest of them that suits, with data.
struct fdref *fdrefs_find_suitable(const struct fdrefs *refs, const struct fd_identity *identity,
	bool (*suits)(const struct fdref *ref, const void *data), const void *data);
// Charges bytes to the session before they are allocated; false: over the limit.
bool fdrefs_charge(struct fdrefs *refs, uint64_t bytes);
void fdrefs_discharge(struct fdrefs *refs, uint64_t bytes);

// The frame is for an fdref (its id is not 0), or OPEN. NULL, or what is wrong with it.
const char *fdrefs_frame(struct fdrefs *refs, const struct channel_frame *frame);
const char *fdrefs_place(struct fdrefs *refs, uint32_t id, const struct channel_mem_write *write,
	struct channel_rows *rows);
// The channel can take more.
void fdrefs_drained(struct fdrefs *refs);
// The message that names these ids was pushed.
void fdrefs_named(const struct fdrefs *refs, const uint32_t *ids, size_t n);
// A new fd for the local peer, CLOEXEC: the caller's; -errno, -EBADF also if there is no such fdref.
int fdrefs_get_fd(const struct fdrefs *refs, uint32_t id);
// Ends the session with a text; once.
void fdrefs_fail(struct fdrefs *refs, const char *text);
// What an export waited for may have come.
void fdrefs_retry(struct fdrefs *refs);
// Messages have come: what was sent before them is there, and what the peers had to read has been read.
void fdrefs_settle(struct fdrefs *refs);

#endif
