#ifndef HOST_PROXY_OPTIONS_H
#define HOST_PROXY_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/transport.h"
#include "host-proxy/admission.h"
#include "host-proxy/policy.h"
#include "host-proxy/vsock_ports.h"
#include "program/options.h"
#include "program/vms.h"

enum security_context_use {
	SECURITY_CONTEXT_AUTO, // where the compositor has it
	SECURITY_CONTEXT_REQUIRE,
	SECURITY_CONTEXT_NEVER,
};

struct host_options {
	struct program_options program; // first
	struct transport listen;
	const char *listen_text; // as it was given; NULL: the service manager has to pass a socket
	uint32_t guest_cid;      // of the VM whose vsock device is ours (vhost-user)
	struct vsock_ports vsock_ports;
	int device_fd;             // -1 in other than device processes
	const char *compositor;    // NULL: $WAYLAND_DISPLAY
	const char *resolver_text; // as it was given; NULL: guests' buffers are copied
	struct transport resolver; // where sessions ask
	struct transport gpu;      // where the VMM of a GPU that is ours connects; no path: none is
	struct admission admission;
	struct policy policy;
	const char *app_id_prefix; // may be NULL
	const char *title_prefix;  // may be NULL
	const char *vm_name;       // may be NULL
	enum security_context_use security_context;
	bool security_context_given; // on the command line, which wins over the policy file
	const char *policy_path;     // of --policy; NULL: none
	bool explain_policy;
	struct budget_limits limits; // of a session
	struct vms_options vms;      // and of all sessions of a VM
};

// OPTIONS_STATUS_RUN, or the status to exit with at once. What is kept points into argv. What the
// policy file says is not known yet.
int host_options_parse(struct host_options *options, int argc, char *argv[]);

#define HOST_VM_NAME_SIZE 256

// --vm-name, or else the name of the policy file without its directory and suffix. False: neither.
bool host_options_vm_name(const struct host_options *options, char name[HOST_VM_NAME_SIZE]);

// What can be checked only when all protocols are known. False: error says in one line what is
// wrong.
bool host_options_check(const struct host_options *options, char *error, size_t error_len);

// Parses and checks again, but the text of the policy file counts where the command line says
// nothing. What is kept points into text, too, which is changed. Services stay as they are. False:
// options are as before, error says why in one line.
bool host_options_apply(struct host_options *options, int argc, char *argv[], char *text,
	char *error, size_t error_len);

#endif
