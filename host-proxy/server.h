#ifndef HOST_PROXY_SERVER_H
#define HOST_PROXY_SERVER_H

struct host_options;
struct transport;

// The parent process, from the listening socket to the end of the last session; its exit status.
int host_server_run(
	const struct host_options *options, const struct transport *compositor, char *const argv[]);

#endif
