#ifndef PROTOCOL_CHANNEL_H
#define PROTOCOL_CHANNEL_H

#include <assert.h>
#include <stdint.h>

/**
 * The channel's frames as they are on the wire; channel.md says what they mean. All integers are
 * little-endian; nothing is aligned beyond four bytes, so 64-bit fields are read with memcpy.
 */

#define CHANNEL_MAGIC   0x52444646u // "FFDR"
#define CHANNEL_VERSION 1

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the frames below are little-endian");

#define CHANNEL_MAX_PAYLOAD  (68u * 1024)  // of any frame but MEM_WRITE
#define CHANNEL_MAX_MESSAGES (64u * 1024)  // bytes of messages in one MESSAGES frame
#define CHANNEL_MAX_FDREFS   253u          // named by one MESSAGES frame
#define CHANNEL_MAX_ROWS     (256u * 1024) // bytes of rows in one MEM_WRITE frame
#define CHANNEL_MAX_STREAM   (64u * 1024)  // bytes in one STREAM_DATA frame
#define CHANNEL_MAX_TEXT     1024u         // of REFUSE and END
#define CHANNEL_MAX_CONTENTS 8u            // hashes in HELLO
#define CHANNEL_MAX_RECTS    64u           // in one MEM_COPY frame
#define CHANNEL_MAX_UNNAMED  64u           // eventfds that wait for EVENT_ROLE
#define CHANNEL_REGION_STEP  (64u * 1024)  // what ranges begin and end at: a page anywhere
#define CHANNEL_MAX_REGION   0x7fff0000u   // bytes that are used: wl_shm's sizes are signed
#define CHANNEL_MAX_PAGES    0x04000000u   // bytes of a pool by its pages: udmabuf's size_limit_mb
#define CHANNEL_MAX_RANGES   1024u         // of pages, in one OPEN: udmabuf's list_limit
#define CHANNEL_PAGE         4096u         // what ranges of pages are multiples of

// Credit that each side has at first, without being told.
#define CHANNEL_MESSAGE_WINDOW (4u * 1024 * 1024)
#define CHANNEL_STREAM_WINDOW  (256u * 1024)
#define CHANNEL_SOCKET_WINDOW  (1024u * 1024)

// What a STREAM_DATA frame of a socket takes of its window beside its bytes.
#define CHANNEL_SOCKET_FRAME_COST 64u
#define CHANNEL_SOCKET_FDREF_COST 1024u
#define CHANNEL_MAX_RECORD        (256u * 1024) // bytes of one SOCK_SEQPACKET record

// An fdref opened by the host has this bit set, one opened by the guest has not. 0 is the session.
#define CHANNEL_ID_HOST 0x80000000u
#define CHANNEL_MAX_ID  0x0000ffffu // without the bit

struct channel_header {
	uint32_t length; // of the payload that follows
	uint16_t type;   // enum channel_type
	uint16_t flags;  // CHANNEL_FLAG_*
	uint32_t id;     // the fdref spoken of, or 0
	uint32_t arg;    // by type
};
static_assert(sizeof(struct channel_header) == 16, "on-wire size");

// A receiver that does not know the type skips the frame; without the flag it ends the session.
#define CHANNEL_FLAG_SKIPPABLE 0x0001

enum channel_type {
	CHANNEL_HELLO = 1,
	CHANNEL_WELCOME = 2,
	CHANNEL_REFUSE = 3, // arg: enum channel_refuse; payload: text
	CHANNEL_END = 4,    // arg: enum channel_end; payload: text
	CHANNEL_PING = 5,
	CHANNEL_PONG = 6,
	CHANNEL_MESSAGES = 7, // arg: number of fdref ids in front of the bytes
	CHANNEL_CREDIT = 8,   // id: 0 for messages, else a stream; arg: bytes
	CHANNEL_OPEN = 9,     // arg: enum channel_kind
	CHANNEL_CLOSE = 10,
	CHANNEL_CLOSED = 11,
	CHANNEL_MEM_WRITE = 12,
	CHANNEL_MEM_COPY = 13,
	CHANNEL_MEM_RESIZE = 14,
	CHANNEL_MEM_READ = 15,       // arg: the asking side's number for it
	CHANNEL_MEM_READ_REPLY = 16, // arg: as asked
	CHANNEL_STREAM_DATA = 17,
	CHANNEL_STREAM_EOF = 18,
	CHANNEL_STREAM_STOP = 19,  // arg: enum channel_stop
	CHANNEL_STREAM_PAUSE = 20, // arg: 1 asks the source to send no more, 0 to go on
	CHANNEL_STREAM_PAUSED = 21,
	CHANNEL_EVENT_ADD = 22, // arg: how many of them the sender has received
	CHANNEL_MEM_WORDS = 23,
	CHANNEL_MEM_UNUSED = 24,
	CHANNEL_CHALLENGE = 25,
	CHANNEL_PROOF = 26,
	CHANNEL_EVENT_ROLE = 27, // arg: enum channel_event_role of the sender
	CHANNEL_REGION_MAP = 28,
	CHANNEL_REGION_UNMAP = 29,
	CHANNEL_TIMELINE_SIGNAL = 30,
	CHANNEL_TIMELINE_WATCH = 31,
	CHANNEL_REGION_ROWS = 32,
};

// arg of STREAM_DATA of a socket: the number of fdref ids in front of the bytes, and
#define CHANNEL_SOCKET_MORE 0x80000000u // the record goes on in the next frame

enum channel_refuse {
	CHANNEL_REFUSE_VERSION = 1,
	CHANNEL_REFUSE_SERVICE = 2,
	CHANNEL_REFUSE_BUSY = 3,
	CHANNEL_REFUSE_PROTOCOL = 4,
	CHANNEL_REFUSE_UNREACHABLE = 5,
	CHANNEL_REFUSE_AUTHENTICATION = 6,
};

enum channel_end {
	CHANNEL_END_DONE = 0,  // the local peer closed its connection
	CHANNEL_END_ERROR = 1, // text says why
};

enum channel_stop {
	CHANNEL_STOP_READER_GONE = 1, // the sender of data should see EPIPE
	CHANNEL_STOP_ERROR = 2,
};

enum channel_kind {
	CHANNEL_KIND_POOL = 1,
	CHANNEL_KIND_FILE = 2,
	CHANNEL_KIND_PIPE = 3,
	// Only where the service is not "wayland":
	CHANNEL_KIND_SOCKET = 4,
	CHANNEL_KIND_EVENT = 5,
	CHANNEL_KIND_DEVICE = 6,
	CHANNEL_KIND_SHARED = 7,
	CHANNEL_KIND_SYNC = 8,
	// Only where the service is "wayland", and both sides have CHANNEL_FEATURE_DMABUF:
	CHANNEL_KIND_DMABUF = 9,
	// The same with CHANNEL_FEATURE_TIMELINE:
	CHANNEL_KIND_TIMELINE = 10,
};

// The guest has a token: it proves so before anything else, and wants the same of the host.
#define CHANNEL_FEATURE_TOKEN 0x00000001u
// The guest opens dma-bufs, and the host can make some.
#define CHANNEL_FEATURE_DMABUF 0x00000002u
// The fd of a region comes with WELCOME.
#define CHANNEL_FEATURE_REGION 0x00000004u
// Beside DMABUF: the guest names buffers of its virtio-gpu, and the host can find them.
#define CHANNEL_FEATURE_HANDLE 0x00000008u
// Beside DMABUF: both sides have a DRM device for timelines.
#define CHANNEL_FEATURE_TIMELINE 0x00000020u
// Beside REGION: what is written to ranges is told of by REGION_ROWS, and dma-bufs have some.
#define CHANNEL_FEATURE_REGION_ROWS 0x00000040u
// The guest names the pages that pools are in, and the host has the guest's memory.
#define CHANNEL_FEATURE_PAGES 0x00010000u

struct channel_hello {
	uint32_t magic;
	uint16_t version_min;
	uint16_t version_max;
	uint32_t features;       // CHANNEL_FEATURE_*: what the sender knows
	uint16_t service_length; // bytes of the name that follows this struct, without a NUL
	uint16_t n_contents;     // 16-byte hashes that follow the name
	uint8_t boot_id[16];
	uint32_t clock[2]; // low and high half of CLOCK_MONOTONIC in nanoseconds, as in every clock
	uint8_t link[16];  // the same in all sessions of one guest program, and secret; zeros: none
};
static_assert(sizeof(struct channel_hello) == 56, "on-wire size");

struct channel_welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
	uint32_t features; // those of HELLO that are agreed to
	uint8_t boot_id[16];
	uint32_t hello_clock[2];    // as HELLO gave it
	uint32_t received_clock[2]; // when HELLO came
	uint32_t sent_clock[2];
};
static_assert(sizeof(struct channel_welcome) == 52, "on-wire size");

#define CHANNEL_NONCE_SIZE 32
#define CHANNEL_PROOF_SIZE 32

struct channel_challenge {
	uint8_t nonce[CHANNEL_NONCE_SIZE]; // the host's
};
static_assert(sizeof(struct channel_challenge) == 32, "on-wire size");

struct channel_proof {
	uint8_t nonce[CHANNEL_NONCE_SIZE]; // the guest's; zeros in the host's PROOF
	uint8_t proof[CHANNEL_PROOF_SIZE];
};
static_assert(sizeof(struct channel_proof) == 64, "on-wire size");

struct channel_ping {
	uint32_t clock[2];
};
static_assert(sizeof(struct channel_ping) == 8, "on-wire size");

struct channel_pong {
	uint32_t ping_clock[2];
	uint32_t received_clock[2];
	uint32_t sent_clock[2];
};
static_assert(sizeof(struct channel_pong) == 24, "on-wire size");

// F_GET_SEALS of the original; CHANNEL_NO_SEALS where it cannot be sealed.
#define CHANNEL_NO_SEALS 0xffffffffu

enum channel_access {
	CHANNEL_ACCESS_READ = 0, // the values of O_ACCMODE
	CHANNEL_ACCESS_WRITE = 1,
	CHANNEL_ACCESS_BOTH = 2,
};

enum channel_cached {
	CHANNEL_CACHED_NO = 0,
	CHANNEL_CACHED_KNOWN = 1,     // the receiver has the contents: none follow
	CHANNEL_CACHED_ON_DEMAND = 2, // they are asked for by MEM_READ
};

// OPEN of POOL and FILE. A file's contents follow in MEM_WRITE frames unless the receiver named its
// hash in HELLO.
struct channel_open_memory {
	uint32_t access; // enum channel_access of the original
	uint32_t seals;
	uint32_t size[2];
	uint32_t offset[2]; // file offset of the original
	uint8_t hash[16];   // of a file; zeros for a pool
	uint32_t cached;    // enum channel_cached
	uint32_t exact;     // 1: the copy has these seals and no others, and is not kept
};
static_assert(sizeof(struct channel_open_memory) == 48, "on-wire size");

// A pool's pages follow its OPEN, in the order in which they are in it: whole pages of the guest's memory.
struct channel_page_range {
	uint32_t address[2]; // guest-physical
	uint32_t length;     // bytes
};
static_assert(sizeof(struct channel_page_range) == 12, "on-wire size");

// How the bytes of a dma-buf get to the other side.
enum channel_plane {
	CHANNEL_PLANE_COPY = 0,   // by MEM_WRITE and MEM_COPY
	CHANNEL_PLANE_HANDLE = 1, // they are the same pages, as the VM's GPU knows them
	CHANNEL_PLANE_REGION = 2, // by a range of the region, and REGION_ROWS
};

// OPEN of DMABUF. What its plane needs follows.
struct channel_open_dmabuf {
	uint32_t size[2];
	uint32_t access; // enum channel_access of the original: READ or BOTH
	uint32_t plane;  // enum channel_plane
};
static_assert(sizeof(struct channel_open_dmabuf) == 16, "on-wire size");

// After channel_open_dmabuf, with CHANNEL_PLANE_HANDLE.
struct channel_open_handle {
	uint32_t resource; // virtio-gpu's id of it
	uint32_t reserved;
};
static_assert(sizeof(struct channel_open_handle) == 8, "on-wire size");

// OPEN of PIPE: the access of the end that the opener holds. WRITE: the receiver's side sends data.
struct channel_open_pipe {
	uint32_t access;
	uint32_t nonblocking; // 1: the original had O_NONBLOCK set
};
static_assert(sizeof(struct channel_open_pipe) == 8, "on-wire size");

// OPEN of SOCKET.
struct channel_open_socket {
	uint32_t type;        // SOCK_STREAM (1) or SOCK_SEQPACKET (5)
	uint32_t nonblocking; // 1: the original had O_NONBLOCK set
	uint32_t root;        // 1: the connection that the session is about
	uint32_t reserved;
};
static_assert(sizeof(struct channel_open_socket) == 16, "on-wire size");

// Of an eventfd, in every session of a link the same; 0: it is known to one session only. Whose side
// has given it: the host's has this bit set.
#define CHANNEL_EVENT_HOST (UINT64_C(1) << 63)

// Which of a link's sessions moves the counts of an eventfd that several of them have passed.
enum channel_event_role {
	CHANNEL_EVENT_OTHER = 0,  // another one
	CHANNEL_EVENT_MOVES = 1,  // this one; counts may appear on either side
	CHANNEL_EVENT_SOURCE = 2, // this one; counts appear on the sender's side
	CHANNEL_EVENT_SINK = 3,   // this one; they appear on the receiver's
};

// OPEN of EVENT, an eventfd.
struct channel_open_event {
	uint32_t semaphore; // 1: EFD_SEMAPHORE
	uint32_t nonblocking;
	uint32_t count[2]; // that the copy starts with
	uint32_t name[2];
	uint32_t role; // enum channel_event_role: OTHER or MOVES
};
static_assert(sizeof(struct channel_open_event) == 28, "on-wire size");

struct channel_event_add {
	uint32_t count[2]; // at least 1
};
static_assert(sizeof(struct channel_event_add) == 8, "on-wire size");

enum channel_device {
	CHANNEL_DEVICE_NULL = 0, // /dev/null
	CHANNEL_DEVICE_ZERO = 1,
	CHANNEL_DEVICE_FULL = 2,
	CHANNEL_DEVICE_RANDOM = 3,
	CHANNEL_DEVICE_URANDOM = 4,
};

// OPEN of DEVICE: one that is the same everywhere.
struct channel_open_device {
	uint32_t device; // enum channel_device
	uint32_t access; // enum channel_access
	uint32_t nonblocking;
	uint32_t reserved;
};
static_assert(sizeof(struct channel_open_device) == 16, "on-wire size");

// OPEN of SHARED: a memory that both sides may write to, or an fd of one.
struct channel_open_shared {
	uint32_t memory;    // of an fd: the fdref of its memory; 0: this is a memory
	uint32_t seals;     // of a memory; as in channel_open_memory
	uint32_t size[2];   // of a memory
	uint32_t access;    // of an fd: enum channel_access
	uint32_t offset[2]; // of an fd
	uint32_t reserved;
};
static_assert(sizeof(struct channel_open_shared) == 32, "on-wire size");

// MEM_WORDS: runs one after another, each followed by its length bytes.
struct channel_run {
	uint32_t offset[2]; // in the memory; a multiple of 8
	uint32_t length;    // a multiple of 8, unless the run ends where the memory does
};
static_assert(sizeof(struct channel_run) == 12, "on-wire size");

// MEM_READ, and what its reply begins with; see channel.md, "Files".
struct channel_mem_read {
	uint32_t offset[2];
	uint32_t length; // 1 to CHANNEL_MAX_STREAM
	uint32_t reserved;
};
static_assert(sizeof(struct channel_mem_read) == 16, "on-wire size");

struct channel_mem_read_reply {
	uint32_t offset[2]; // as asked
	uint32_t error;     // errno of the opener's side, or 0
	uint32_t reserved;
};
static_assert(sizeof(struct channel_mem_read_reply) == 16, "on-wire size");

// Followed by rows * row_bytes bytes, the rows one after another.
struct channel_mem_write {
	uint32_t offset[2]; // of the first row in the memory
	uint32_t stride;    // from row to row in the memory, at least row_bytes
	uint32_t row_bytes;
	uint32_t rows;
	uint32_t reserved;
};
static_assert(sizeof(struct channel_mem_write) == 24, "on-wire size");

// Followed by n_rects rectangles. id is the destination; both layouts have the same stride, and a
// rectangle is at the same place in both. Within one memory the layouts do not overlap.
struct channel_mem_copy {
	uint32_t source; // fdref
	uint32_t stride;
	uint32_t source_offset[2];
	uint32_t destination_offset[2];
	uint32_t n_rects;
	uint32_t reserved;
};
static_assert(sizeof(struct channel_mem_copy) == 32, "on-wire size");

struct channel_rect {
	uint32_t x, y; // x and width in bytes, y and height in rows
	uint32_t width, height;
};
static_assert(sizeof(struct channel_rect) == 16, "on-wire size");

struct channel_mem_resize {
	uint32_t size[2];
};
static_assert(sizeof(struct channel_mem_resize) == 8, "on-wire size");

// TIMELINE_SIGNAL, TIMELINE_WATCH.
struct channel_point {
	uint32_t point[2];
};
static_assert(sizeof(struct channel_point) == 8, "on-wire size");

// REGION_MAP, REGION_UNMAP; after channel_open_dmabuf, with CHANNEL_PLANE_REGION: a range of the region.
struct channel_region_range {
	uint32_t offset[2]; // multiples of CHANNEL_REGION_STEP
	uint32_t length[2];
};
static_assert(sizeof(struct channel_region_range) == 16, "on-wire size");

// REGION_ROWS: rows of a memory, which are in a range of the region now.
struct channel_region_rows {
	uint32_t range[2];  // where the range begins, with the memory's first byte
	uint32_t offset[2]; // of the first row in the memory
	uint32_t stride;    // from row to row, at least row_bytes
	uint32_t row_bytes;
	uint32_t rows;
	uint32_t reserved;
};
static_assert(sizeof(struct channel_region_rows) == 32, "on-wire size");

#endif
