#ifndef GUEST_PROXY_TRANSLATION_H
#define GUEST_PROXY_TRANSLATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wayland-util.h>

#include "guest-proxy/conversation.h"

struct channel_header;

/**
 * What a recorded client said, for another run: names of globals, serials and ids that were the
 * recorded compositor's become those of the one that is there now. protocol/record.md, "Replay".
 */

enum translation_run {
	TRANSLATION_RECORDED,
	TRANSLATION_LIVE,
	TRANSLATION_RUNS,
};

struct translation {
	bool lenient; // what cannot be translated stays as it is
	struct conversation conversations[TRANSLATION_RUNS];
	// Of each run, in the order in which they came.
	struct wl_array globals[TRANSLATION_RUNS];    // struct known_global
	struct wl_array made[TRANSLATION_RUNS];       // struct made_object
	struct wl_array serials[TRANSLATION_RUNS];    // struct known_serial
	struct wl_array configures[TRANSLATION_RUNS]; // struct known_configure: not acknowledged
	struct wl_array opened[TRANSLATION_RUNS];     // struct opened_fdref
	struct wl_array counters;                     // struct counter
	struct wl_array answers;                      // messages that are due to what came live
	struct wl_array messages, fdrefs;             // of the request that is being translated
	uint32_t sync;                                // the wl_callback of translation_ask, or 0
	size_t left_out;                              // requests
	char error[512];                              // the live compositor's wl_display.error
	char missing[256];                            // why the last translation has failed
};

enum translation_verdict {
	TRANSLATION_SEND, // what is in messages and fdrefs, or the header as it is now
	TRANSLATION_SKIP,
	TRANSLATION_WAIT, // for a global that was not announced yet
};

// False on ENOMEM.
bool translation_init(struct translation *translation, bool lenient);
void translation_finish(struct translation *translation);

// A frame that came to the guest in one of the runs. The payload may be changed.
void translation_hear(struct translation *translation, enum translation_run run,
	const struct channel_header *header, uint8_t *payload);
// Whether all that a client may have waited for in what was recorded has come live as well.
bool translation_caught_up(const struct translation *translation);
// A compositor by libwayland keeps delete_id back until it has an event to send as well. If nothing
// else is missing, appends a wl_display.sync to answers; its id is free again when all has come.
void translation_ask(struct translation *translation);
// It will not come.
void translation_give_up(struct translation *translation);

// A recorded MESSAGES frame to the host. The payload is changed. With WAIT, nothing has happened
// yet, and missing says what is not there.
enum translation_verdict translation_messages(
	struct translation *translation, const struct channel_header *header, uint8_t *payload);
// The fdref that a recorded frame to the host is about. SEND or SKIP.
enum translation_verdict translation_fdref(
	const struct translation *translation, struct channel_header *header);

#endif
