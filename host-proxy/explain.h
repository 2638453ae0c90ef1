#ifndef HOST_PROXY_EXPLAIN_H
#define HOST_PROXY_EXPLAIN_H

struct host_options;

// --explain-policy: asks the compositor for its globals, prints what a client would see of each and
// why, and which requests are denied; the exit status. The policy file has not been read yet.
int explain_run(struct host_options *options, int argc, char *argv[]);

#endif
