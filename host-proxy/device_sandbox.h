#ifndef HOST_PROXY_DEVICE_SANDBOX_H
#define HOST_PROXY_DEVICE_SANDBOX_H

struct host_options;

/**
 * The sandbox of a device's process (base/sandbox.h): it opens no file but memfds that it has, and
 * makes no socket but pairs. Where --vsock-port leads to a socket of this machine, or from one, a vsock
 * device may connect, or accept; a GPU accepts those who resolve, and makes udmabufs.
 */

// 0, or -errno, which has been logged. With --no-sandbox nothing is done.
int device_sandbox_enter_vsock(const struct host_options *options);
int device_sandbox_enter_gpu(const struct host_options *options);

#endif
