#include "host-proxy/device_sandbox.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/udmabuf.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/sandbox.h"
#include "host-proxy/device_process.h"
#include "host-proxy/guest_memory.h"
#include "host-proxy/options.h"

static const struct sandbox_rule memory_rules[] = {
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_GET_SEALS)), // pages of the guest's that are shared
	SANDBOX_IF("ioctl", SANDBOX_ARG(1, UDMABUF_CREATE_LIST)),
	SANDBOX_IF("fchmod", SANDBOX_ARG(1, GUEST_MEMORY_MODE)),
	{0},
};

static const struct sandbox_rule vsock_rules[] = {
	SANDBOX_IF("fcntl", SANDBOX_ARG(1, F_GETFL)),
	SANDBOX_ALLOW("pread64"), // who still has pages that are shared
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

static const struct sandbox_path vsock_paths[] = {
	{"/proc/self/fdinfo", false}, // dma-bufs: whether they are still used
	{0},
};

static int enter(const struct host_options *options, const struct sandbox_rule *const *rules,
	const struct sandbox_path *paths)
{
	struct sandbox_profile profile = {
		.paths = paths,
		.opens = true, // the guest's memory once more, which others are given parts of
		.strict = true,
		.report_fd = options->device_fd,
		.report_type = DEVICE_VIOLATION,
	};
	memcpy(profile.rules, rules, sizeof(profile.rules));
	if (options->program.no_sandbox) {
		return 0;
	}
	struct sandbox_filter filter = {0};
	int error = sandbox_enter(&profile, &filter);
	sandbox_filter_finish(&filter);
	return error;
}

int device_sandbox_enter_vsock(const struct host_options *options)
{
	const struct vsock_ports *ports = &options->vsock_ports;
	const struct sandbox_rule *rules[SANDBOX_TABLES] = {
		sandbox_basics, memory_rules, vsock_rules};
	size_t n = 3;
	if (ports->n_to_guest > 0) {
		rules[n++] = accept_rules;
	}
	if (ports->n_from_guest > 0) {
		rules[n++] = connect_rules;
	}
	return enter(options, rules, vsock_paths);
}

int device_sandbox_enter_gpu(const struct host_options *options)
{
	const struct sandbox_rule *rules[SANDBOX_TABLES] = {
		sandbox_basics, memory_rules, accept_rules};
	return enter(options, rules, NULL);
}
