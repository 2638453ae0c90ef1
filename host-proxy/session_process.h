#ifndef HOST_PROXY_SESSION_PROCESS_H
#define HOST_PROXY_SESSION_PROCESS_H

struct host_options;

// A process that serves one client of a guest; its exit status.
int host_session_run(struct host_options *options);

#endif
