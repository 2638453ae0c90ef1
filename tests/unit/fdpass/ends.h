#ifndef TESTS_UNIT_FDPASS_ENDS_H
#define TESTS_UNIT_FDPASS_ENDS_H

#include "base/budget.h"
#include "fdpass/fdref.h"

/**
 * The fdrefs of a guest and of a host, joined by two channels over a socket pair.
 */
struct end {
	struct channel *channel;
	struct fdrefs refs;
	struct budget budget;
	struct content_store contents;
	const char *wrong; // what was wrong with the peer's frames; NULL: nothing
	bool ended;
	unsigned int frames[CHANNEL_REGION_ROWS + 1]; // that came, by type
	uint32_t opened;                              // the id of the last OPEN that came
	bool takes;                                   // its fd at once, as a message does
	int taken;
	uint32_t stop_reason; // of the last STREAM_STOP that came
	unsigned int stored, streams_over;
};

struct ends {
	struct event_base *base;
	struct end guest, host;
};

void ends_init(struct ends *ends);
// Of a Wayland session, which has pools and else only files and pipes.
void ends_init_wayland(struct ends *ends);
void ends_finish(struct ends *ends);
// A region of size bytes from now on.
void ends_share_region(struct ends *ends, uint64_t size);
// A quarter of it is the host's, as both know.
void ends_divide_region(struct ends *ends);

// Lets the loop run until nothing happens any more.
void ends_run(struct ends *ends);

// Gives the end another channel, whose peer is bare; its old one is closed. Takes fd.
void end_reconnect(struct end *end, struct event_base *base, int fd);

// A frame as from a peer that may write anything. What is wrong with it.
const char *end_frame(
	struct end *end, uint16_t type, uint32_t id, uint32_t arg, const void *payload, size_t len);
const char *end_write(struct end *end, uint32_t id, const struct channel_mem_write *write,
	struct channel_rows *rows);
// The fd of what the peer has opened last: the caller's.
int end_take(struct end *end);

// A memfd whose bytes are a pattern.
int new_memfd(size_t size);
uint8_t pattern(size_t at);

#endif
