#ifndef HOST_PROXY_SESSION_PROCESS_H
#define HOST_PROXY_SESSION_PROCESS_H

struct host_options;

// A process that serves one client of a guest; its exit status. argv has been parsed into options
// already; it is parsed once more on top of a policy file.
int host_session_run(struct host_options *options, int argc, char *argv[]);

#endif
