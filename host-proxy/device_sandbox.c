#include "host-proxy/device_sandbox.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/sandbox.h"
#include "host-proxy/device_process.h"
#include "host-proxy/options.h"

static const struct sandbox_rule device_rules[] = {
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_GETFL)),
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, SIOCOUTQ)),
	SANDBOX_ALLOW("pipe2"),           // by which a session returns what it was lent
	SANDBOX_OWN("process_vm_writev"), // what a slow reader has not taken is copied
	{0},
};

static const struct sandbox_rule accept_rules[] = {
	SANDBOX_ALLOW("accept4"),
	{0},
};

static const struct sandbox_rule connect_rules[] = {
	SANDBOX_IF_BOTH("socket", SANDBOX_ARG(0, AF_UNIX),
		SANDBOX_ARG_ONLY(1, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)),
	SANDBOX_ALLOW("connect"),
	{0},
};

int device_sandbox_enter(const struct host_options *options)
{
	const struct vsock_ports *ports = &options->vsock_ports;
	struct sandbox_profile profile = {
		.rules = {sandbox_basics, device_rules},
		.opens = true, // the guest's memory once more, to be lent
		.strict = true,
		.report_fd = options->device_fd,
		.report_type = DEVICE_VIOLATION,
	};
	size_t n = 2;
	if (ports->n_to_guest > 0) {
		profile.rules[n++] = accept_rules;
	}
	if (ports->n_from_guest > 0) {
		profile.rules[n++] = connect_rules;
	}
	if (options->program.no_sandbox) {
		return 0;
	}
	struct sandbox_filter filter = {0};
	int error = sandbox_enter(&profile, &filter);
	sandbox_filter_finish(&filter);
	return error;
}
