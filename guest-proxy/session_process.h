#ifndef GUEST_PROXY_SESSION_PROCESS_H
#define GUEST_PROXY_SESSION_PROCESS_H

struct guest_options;

// A process that serves one client; its exit status.
int guest_session_run(struct guest_options *options);

#endif
