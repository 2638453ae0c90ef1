#ifndef GUEST_PROXY_SERVER_H
#define GUEST_PROXY_SERVER_H

struct guest_options;

// The parent process, from the display's socket to the end of the last session; its exit status.
int guest_server_run(const struct guest_options *options, char *const argv[]);

#endif
