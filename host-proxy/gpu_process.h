#ifndef HOST_PROXY_GPU_PROCESS_H
#define HOST_PROXY_GPU_PROCESS_H

#include <stdbool.h>

struct fdlist;
struct host_options;

/**
 * The device process that is a VM's 2D GPU, and gives its buffers to who asks for them
 * (resolver_service.h).
 */

// As device_process_serve; fds are those of DEVICE_START_GPU.
bool gpu_process_run(const struct host_options *options, struct fdlist *fds);

#endif
