#ifndef FDPASS_SOCKET_IMPL_H
#define FDPASS_SOCKET_IMPL_H

#include <event2/util.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "base/fdlist.h"
#include "base/scm.h"
#include "fdpass/fdref.h"

struct event;
struct flight;
struct parcel;

/**
 * What the four parts of a socket's fdref share, and nobody else includes: its life and its way home
 * (socket.c), what it reads from the local peer (socket_source.c), that nobody else reads that
 * (socket_reader.c), what it writes to it (socket_sink.c).
 */

// What is to be written to the local peer: fds go with its first byte. A piece without fds may go
// together with its neighbours unless it is a record.
struct piece {
	struct wl_list link; // socket.pieces
	struct fdlist fds;
	struct parcel *parcel; // charged for fds; NULL: they came from the local peer
	size_t len, sent;
	size_t charged; // to the session
	uint32_t cost;  // of the credit
	uint8_t bytes[];
};

// How far a socket that came from the other side is on its way back.
enum homing {
	HOMING_NOT,
	HOMING_SENDING, // what was written here goes ahead
	HOMING_ASKED,   // STREAM_PAUSE was sent
	HOMING_PAUSED,  // nothing more comes from the other side
	HOMING_HOME,    // it has been named
};

struct socket {
	struct fdref ref;
	bool ours; // opened here
	bool root; // no local peer has passed it
	bool counted;
	bool named;  // in a message; the same socket sent again is a new one
	bool over;   // in both directions
	bool home;   // the local peer has it again: what becomes of the other copy does not matter
	int type;    // SOCK_STREAM or SOCK_SEQPACKET
	int fd;      // our end; -1 when over
	int given;   // of an import: the local peer's end until it is asked for
	int adopted; // for scm_release
	struct flight *flight; // what was written to fd; NULL when over
	struct event *read_event, *write_event;
	struct event *hang_up_event; // edge-triggered: the peer may leave after its last byte
	struct event *retry_event;

	// From the local peer to the channel.
	bool reading;
	bool read_over;  // nothing more will be sent
	bool paused;     // the other side asked for it
	bool pause_owed; // and has not been answered
	uint32_t credit;
	uint64_t position;          // bytes that were read, for texts
	struct piece *held;         // read, but one of its fds has to wait
	uint32_t held_ids[SCM_MAX]; // of what is being pushed
	uint32_t n_held_ids;

	// From the channel to the local peer.
	bool write_over; // nothing more will be written
	bool eof;        // after the pieces
	bool eof_closes; // the whole socket, that is: nobody reads there either
	uint32_t receivable;
	uint32_t unreported; // cost of what was written since the last CREDIT
	struct wl_list pieces;
	struct piece *partial; // a record of which more is to come; in no list

	enum homing homing;
	bool behind;   // PAUSED, but the other side has not written all that came
	bool forsaken; // ASKED, and nobody waits for the answer
};

/* socket.c */

// len bytes in a piece that has room for more. NULL on ENOMEM.
struct piece *piece_create(const void *bytes, size_t len, size_t room);
void piece_destroy(struct piece *piece); // NULL is fine

// How much the kernel keeps of what is written to fd.
size_t socket_buffer_size(int fd);
// What a frame takes of the credit.
uint32_t socket_frame_cost(size_t len, size_t n_fds);
// Queues a frame without payload.
void socket_push(struct socket *sock, uint16_t type, uint32_t arg);
void socket_trace(
	const struct socket *sock, bool sent, size_t len, const void *ids, uint32_t n_ids);
// The local peer is gone in both directions.
bool socket_has_hung_up(int fd);
void socket_wait_for(struct socket *sock, struct event *event);

// One direction has ended. When both have, the fd is closed.
void socket_end_reading(struct socket *sock);
void socket_end_writing(struct socket *sock);
// The other side's reader is gone.
void socket_stop_reading(struct socket *sock);
// Waits for what the socket's state wants to be waited for.
void socket_update(struct socket *sock);
// Something has happened to it. It may be gone after this.
void socket_settle(struct socket *sock);

/* socket_reader.c */

// A local peer's socket is to be read by this process. False: another one reads from it.
bool socket_claim(int fd);
// sock is to be read no more.
void socket_give_up_claim(const struct socket *sock);
// Opened here and reading what comes for that socket; NULL: none of this session is.
struct socket *socket_find_reader(const struct fdrefs *refs, const struct fd_identity *identity);
// After an fd of that socket was closed: the claim may be gone with it.
void socket_claim_again(const struct fdrefs *refs, const struct fd_identity *identity);

/* socket_source.c */

// The most that one read can cost.
uint32_t socket_read_cost(const struct socket *sock);
void socket_handle_readable(evutil_socket_t fd, short what, void *data);
// Tries again to send what one of its fds has held up.
void socket_export_held(struct socket *sock);
// The caller's; NULL if there is none.
struct piece *socket_take_held(struct socket *sock);
void socket_drop_held(struct socket *sock);
// STREAM_PAUSED, if it is owed and nothing is held.
void socket_answer_pause(struct socket *sock);

/* socket_sink.c */

// Frames; NULL, or what is wrong.
const char *socket_handle_data(struct socket *sock, const struct channel_frame *frame);
const char *socket_handle_eof(struct socket *sock, uint32_t closes);
void socket_handle_writable(evutil_socket_t fd, short what, void *data);
void socket_handle_hang_up(evutil_socket_t fd, short what, void *data);
void socket_drop_pieces(struct socket *sock);

#endif
