#ifndef HOST_PROXY_SERVER_H
#define HOST_PROXY_SERVER_H

struct host_options;

// The parent process, from the listening socket to the end of the last session; its exit status.
// argv has been parsed into options already; it is parsed once more on top of a policy file.
int host_server_run(struct host_options *options, int argc, char *argv[]);

#endif
