#ifndef TESTS_SUPPORT_PAIR_H
#define TESTS_SUPPORT_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/budget.h"
#include "fdpass/content.h"
#include "fdpass/fdref.h"
#include "relay/dmabuf.h"
#include "relay/handshake.h"

struct channel_input;
struct denied_request;
struct event_base;
struct page_buffers;
struct page_pinner;
struct resolver;
struct session;
struct virtgpu;

/**
 * The two relay sessions of one client, joined in one process: see channel_pair.h.
 */

struct pair_options {
	int channel_buffer; // bytes that the channel holds, see channel_pair_limit; 0: the system's
	int local_buffer;   // SO_SNDBUF of the two local sockets
	int64_t clock;      // nanoseconds that the host's clock seems to be ahead; 0: one kernel
	void (*make_channel)(int fds[2]);            // guest's end, host's end; NULL: a socketpair
	struct channel_input *(*make_input)(int fd); // the host's; NULL: channel_input_create
	bool no_host;                                // the test plays the host: pair.channel_fd
	bool no_guest;                               // the test plays the guest
	bool region;                                 // is shared: for channels of UNIX sockets
	bool loses_region;                           // its fd on the way
	bool no_region_rows;                         // one side does not know REGION_ROWS
	uint64_t region_size;                        // bytes; 0: as much as can be used
	struct content_store *contents;              // the guest's; told to the host
	uint32_t (*offer_global)(void *data, const char *interface, uint32_t version);
	const struct denied_request *denied; // of the host
	size_t n_denied;
	const char *app_id_prefix, *title_prefix;
	// dma-bufs cross, and the host's are made by this; borrowed; NULL: they do not.
	struct resolver *resolver;
	// Those of the guest's virtio-gpu are named, and found by this; both borrowed; NULL: they are not.
	struct resolver *handles;
	struct virtgpu *virtgpu;
	// Their timelines cross, by this: a DRM device, borrowed; 0: they do not.
	int guest_node, host_node;
	struct resolver *guest_resolver; // makes copies of the compositor's; borrowed, may be NULL
	struct dmabuf_device device;     // of the guest
	// Pools go by their pages; borrowed; NULL: they do not.
	struct page_pinner *pinner;
	struct page_buffers *page_buffers;
	uint64_t max_memory; // 0: plenty, as below
	uint32_t max_objects;
	uint32_t max_fds;
	const char *service; // of unknown protocol; NULL: Wayland
	int service_type;    // of its sockets; 0: SOCK_STREAM
	struct fdref_rules rules;
	struct event_base *host_base; // of the host's session, borrowed; NULL: the guest's
};

struct pair_side {
	struct session *session; // NULL: the test plays it
	struct budget budget;
	bool over;
	char reason[512]; // empty: orderly
};

struct pair {
	struct pair_side guest, host;
	int client_fd;                   // for the client; -1: taken
	int compositor_fd;               // for the compositor; -1: taken
	int guest_channel, host_channel; // the sessions' ends, borrowed; -1: none
	int channel_fd;                  // the test's end, if it plays a side; else -1
	struct handshake_hello hello;    // the host borrows its hashes
};

// base is borrowed.
void pair_init(struct pair *pair, struct event_base *base, const struct pair_options *options);
void pair_finish(struct pair *pair);

// The fd is the caller's from now on.
int pair_take_client(struct pair *pair);
int pair_take_compositor(struct pair *pair);

#endif
