#ifndef HOST_PROXY_DEVICE_SANDBOX_H
#define HOST_PROXY_DEVICE_SANDBOX_H

struct host_options;

/**
 * The sandbox of a vsock device's process (base/sandbox.h): it opens no file but memfds that it has, and
 * makes no socket but pairs. Where --vsock-port leads to a socket of this machine, or from one, it may connect, or accept.
 */

// 0, or -errno, which has been logged. With --no-sandbox nothing is done.
int device_sandbox_enter(const struct host_options *options);

#endif
