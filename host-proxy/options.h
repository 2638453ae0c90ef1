#ifndef HOST_PROXY_OPTIONS_H
#define HOST_PROXY_OPTIONS_H

#include <stdint.h>

#include "channel/transport.h"
#include "host-proxy/admission.h"
#include "host-proxy/policy.h"
#include "host-proxy/vsock_ports.h"
#include "program/options.h"
#include "program/vms.h"

struct host_options {
	struct program_options program; // first
	struct transport listen;
	const char *listen_text; // as it was given; NULL: the service manager has to pass a socket
	uint32_t guest_cid;      // of the VM whose vsock device is ours (vhost-user)
	struct vsock_ports vsock_ports;
	int device_fd;          // -1 in other than device processes
	const char *compositor; // NULL: $WAYLAND_DISPLAY
	struct admission admission;
	struct policy policy;
	const char *app_id_prefix;   // may be NULL
	const char *title_prefix;    // may be NULL
	struct budget_limits limits; // of a session
	struct vms_options vms;      // and of all sessions of a VM
};

// OPTIONS_STATUS_RUN, or the status to exit with at once. What is kept points into argv.
int host_options_parse(struct host_options *options, int argc, char *argv[]);

#endif
