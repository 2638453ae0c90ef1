#ifndef TESTS_BENCH_LISTEN_H
#define TESTS_BENCH_LISTEN_H

#include <sys/un.h>

// The address of a Wayland display: a path, or a name in $XDG_RUNTIME_DIR. Ends the program where
// it does not fit.
struct sockaddr_un listen_address(const char *display);

// A listening socket, non-blocking and CLOEXEC: of a display, in place of whatever socket was
// there, or at "vsock:PORT". Ends the program on failure.
int listen_on(const char *address);

// A connection, blocking and CLOEXEC, to a display or "vsock:CID:PORT". Ends the program on failure.
int connect_to(const char *address);

#endif
