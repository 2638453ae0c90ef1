#ifndef GUEST_PROXY_REFUSAL_H
#define GUEST_PROXY_REFUSAL_H

// Tells a client that it cannot be served: wl_display.error with "fdferry-guest: text". fd is
// borrowed. Never blocks; a client that does not take it is none the wiser.
void refusal_send(int fd, const char *text);

#endif
