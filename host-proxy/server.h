#ifndef HOST_PROXY_SERVER_H
#define HOST_PROXY_SERVER_H

struct host_options;

// The parent process, from the listening socket to the end of the last session; its exit status.
int host_server_run(const struct host_options *options, char *const argv[]);

#endif
