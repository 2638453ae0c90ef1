#ifndef GUEST_PROXY_CONNECTION_H
#define GUEST_PROXY_CONNECTION_H

#include <stdint.h>

struct content_store;
struct guest_options;
struct handshake_text;

// A channel to the host on which HELLO has been written, and the token been proved where there is one.
// contents, which HELLO names, and link may be NULL; features are CHANNEL_FEATURE_* beside TOKEN. -1:
// why not is in text.
int connection_open(const struct guest_options *options, const char *service,
	const struct content_store *contents, const uint8_t link[16], uint32_t features,
	struct handshake_text *text);

#endif
