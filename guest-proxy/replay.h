#ifndef GUEST_PROXY_REPLAY_H
#define GUEST_PROXY_REPLAY_H

struct guest_options;

#define REPLAY_COMPOSITOR_GONE 3 // exit status

// Plays the recording of the options to the host, and says on stdout what has come of it; the exit
// status.
int replay_main(const struct guest_options *options);

#endif
