#include "host-proxy/options.h"

#include <assert.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scm.h"
#include "host-proxy/policy_file.h"
#include "relay/denied.h"

#define FIRST_GUEST_CID 3          // those below it are reserved
#define MAX_RATE        1000000000 // one in a nanosecond
// Limits of a VM, if not given, of those of a session.
#define VM_FACTOR       4
#define VM_RATE_FACTOR  2 // all use the time of one compositor
#define VM_PLANE_FACTOR 2 // half of what most compositors may have open
#define VM_STREAM_FACTOR \
	2 // of a page each at least, when 16384 pages are what a user's pipes may have
// With less, answers would come later than they are waited for; no session reads more.
#define MIN_THROUGHPUT (64u * 1024)
#define MAX_THROUGHPUT (UINT64_C(16) << 30)
#define MIN_TOLD       4096
// Connections of a VM per second, and at once in seconds of that.
#define CONNECTION_RATE  100
#define CONNECTION_BURST 10

static const struct budget_limits default_limits = {
	.most =
		{
			[BUDGET_FDS] = 4096,
			[BUDGET_MEMORY] = UINT64_C(2) << 30,
			[BUDGET_UNSENT] = 96 << 20,
			[BUDGET_OBJECTS] = 4 * 65536,
			[BUDGET_PENDING] = 1024,
			[BUDGET_POOLS] = 4096,
			[BUDGET_MAPPED] = UINT64_C(1) << 40,
			[BUDGET_FRAMES] = 4 * 65536,
			[BUDGET_FLIGHT] = 256,
			[BUDGET_PLANES] = 256,
			[BUDGET_LISTED] = 256,
		},
	.rate = 100000,
	.burst = 2000000,
	.told = 48 << 10, // a socket has room for four times that, in messages of any length
};

static const char *set_listen(void *data, const char *value)
{
	struct host_options *options = data;
	options->listen_text = value;
	return transport_parse(value, &options->listen);
}

static const char *set_guest_cid(void *data, const char *value)
{
	struct host_options *options = data;
	unsigned long number;
	const char *wrong = options_number(value, FIRST_GUEST_CID, UINT32_MAX - 1, &number);
	if (wrong == NULL) {
		options->guest_cid = (uint32_t)number;
	}
	return wrong;
}

static const char *set_vsock_port(void *data, const char *value)
{
	struct host_options *options = data;
	return vsock_ports_parse(&options->vsock_ports, value);
}

static const char *set_device_fd(void *data, const char *value)
{
	struct host_options *options = data;
	unsigned long number;
	const char *wrong = options_number(value, 3, INT_MAX, &number);
	if (wrong == NULL) {
		options->device_fd = (int)number;
	}
	return wrong;
}

static const char *set_allow_cid(void *data, const char *value)
{
	struct host_options *options = data;
	return admission_allow_cid(&options->admission, value);
}

static const char *set_allow_uid(void *data, const char *value)
{
	struct host_options *options = data;
	return admission_allow_uid(&options->admission, value);
}

static const char *set_require_privileged_port(void *data, const char *value)
{
	(void)value;
	struct host_options *options = data;
	options->admission.privileged_port = true;
	return NULL;
}

static const char *set_compositor(void *data, const char *value)
{
	struct host_options *options = data;
	if (options->compositor != NULL) {
		return "--service wayland names the compositor already";
	}
	if (value[0] == '\0') {
		return "the name is missing";
	}
	options->compositor = value;
	return NULL;
}

// We resolve ourselves, beside the socket of the VMM.
static const char *set_gpu(struct host_options *options, const char *value)
{
	const char *wrong = transport_parse(value, &options->gpu);
	options->resolver.kind = TRANSPORT_SEQPACKET;
	int n = snprintf(options->resolver.path, sizeof(options->resolver.path), "%s.resolver",
		options->gpu.path);
	if (wrong == NULL && (size_t)n >= sizeof(options->resolver.path)) {
		wrong = "the path is too long for a UNIX socket that ends in .resolver";
	}
	return wrong;
}

static const char *set_resolver(void *data, const char *value)
{
	struct host_options *options = data;
	options->resolver_text = value;
	return strncmp(value, "vhost-user:", 11) == 0
		? set_gpu(options, value)
		: transport_parse_resolver(value, &options->resolver);
}

static const char *set_service(void *data, const char *value)
{
	struct host_options *options = data;
	const char *path;
	if (!service_parse_wayland(value, &path)) {
		return services_parse(&options->program.services, value);
	}
	if (path == NULL) {
		return "must be wayland=unix:PATH with an absolute path";
	}
	if (options->compositor != NULL) {
		return "the compositor is named already";
	}
	options->compositor = path;
	return NULL;
}

static const char *set_allow(void *data, const char *value)
{
	struct host_options *options = data;
	return policy_allow(&options->policy, value);
}

static const char *set_deny(void *data, const char *value)
{
	struct host_options *options = data;
	return policy_deny(&options->policy, value);
}

static const char *set_deny_request(void *data, const char *value)
{
	struct host_options *options = data;
	return policy_deny_request(&options->policy, value);
}

static const char *set_ignore_request(void *data, const char *value)
{
	struct host_options *options = data;
	return policy_ignore_request(&options->policy, value);
}

static const char *set_policy(void *data, const char *value)
{
	struct host_options *options = data;
	options->policy_path = value;
	return value[0] != '\0' ? NULL : "the name is missing";
}

static const char *set_explain_policy(void *data, const char *value)
{
	(void)value;
	struct host_options *options = data;
	options->explain_policy = true;
	return NULL;
}

static const char *set_vm_name(void *data, const char *value)
{
	struct host_options *options = data;
	options->vm_name = value;
	return service_name_is_valid(value) ? NULL : "must be 1 to 64 of A-Z a-z 0-9 . _ -";
}

// Within a file, or a command line, there is no order that a reader would think of.
static const char *use_security_context(struct host_options *options, enum security_context_use use)
{
	bool in_file = options->policy.line != 0;
	bool said = in_file ? options->security_context != SECURITY_CONTEXT_AUTO
			    : options->security_context_given;
	if (said && options->security_context != use) {
		return in_file ? "contradicts another line" : "contradicts another option";
	}
	options->security_context = use;
	options->security_context_given = !in_file;
	return NULL;
}

static const char *set_require_security_context(void *data, const char *value)
{
	(void)value;
	return use_security_context(data, SECURITY_CONTEXT_REQUIRE);
}

static const char *set_no_security_context(void *data, const char *value)
{
	(void)value;
	return use_security_context(data, SECURITY_CONTEXT_NEVER);
}

static const char *set_app_id_prefix(void *data, const char *value)
{
	struct host_options *options = data;
	options->app_id_prefix = value;
	return NULL;
}

static const char *set_title_prefix(void *data, const char *value)
{
	struct host_options *options = data;
	options->title_prefix = value;
	return NULL;
}

static const char *set_count(uint64_t *count, const char *value)
{
	unsigned long number;
	const char *wrong = options_number(value, 1, UINT32_MAX, &number);
	if (wrong == NULL) {
		*count = number;
	}
	return wrong;
}

static const char *set_rate(uint64_t *rate, const char *value)
{
	unsigned long number;
	const char *wrong = options_number(value, 1, MAX_RATE, &number);
	if (wrong == NULL) {
		*rate = number;
	}
	return wrong;
}

// A message has up to SCM_MAX, and would wait for ever.
static const char *set_flight(uint64_t *count, const char *value)
{
	unsigned long number;
	static_assert(SCM_MAX == 253, "what is said");
	const char *wrong = options_number(value, 1, UINT32_MAX, &number);
	if (wrong == NULL && number < SCM_MAX) {
		wrong = "too small: at least 253, as many as one message may have";
	}
	if (wrong == NULL) {
		*count = number;
	}
	return wrong;
}

static const char *set_size(uint64_t *size, const char *value)
{
	return options_size(value, 1, size);
}

static const char *set_throughput(uint64_t *throughput, const char *value)
{
	const char *wrong = options_size(value, 1, throughput);
	if (wrong == NULL && *throughput < MIN_THROUGHPUT) {
		wrong = "too small: at least 64K";
	}
	return wrong == NULL && *throughput > MAX_THROUGHPUT ? "too large: at most 16G" : wrong;
}

static const char *set_told(uint64_t *told, const char *value)
{
	const char *wrong = options_size(value, MIN_TOLD, told);
	return wrong == NULL && *told > MAX_THROUGHPUT ? "too large" : wrong;
}

// A limit of a session, and the same of a VM.
#define LIMIT(name, set, member) \
	static const char *set_max_##name(void *data, const char *value) \
	{ \
		return set(&((struct host_options *)data)->limits.member, value); \
	} \
	static const char *set_max_vm_##name(void *data, const char *value) \
	{ \
		return set(&((struct host_options *)data)->vms.limits.member, value); \
	}

LIMIT(memory, set_size, most[BUDGET_MEMORY])
LIMIT(unsent, set_size, most[BUDGET_UNSENT])
LIMIT(objects, set_count, most[BUDGET_OBJECTS])
LIMIT(fds, set_count, most[BUDGET_FDS])
LIMIT(streams, set_count, most[BUDGET_STREAMS])
LIMIT(pending_fds, set_count, most[BUDGET_PENDING])
LIMIT(pools, set_count, most[BUDGET_POOLS])
LIMIT(mapped, set_size, most[BUDGET_MAPPED])
LIMIT(frames, set_count, most[BUDGET_FRAMES])
LIMIT(fds_in_flight, set_flight, most[BUDGET_FLIGHT])
LIMIT(planes, set_count, most[BUDGET_PLANES])
LIMIT(listed, set_count, most[BUDGET_LISTED])
LIMIT(rate, set_rate, rate)
LIMIT(burst, set_count, burst)
LIMIT(throughput, set_throughput, throughput)
LIMIT(told, set_told, told)

static const char *set_max_vm_sessions(void *data, const char *value)
{
	struct host_options *options = data;
	unsigned long number;
	const char *wrong = options_number(value, 1, 100000, &number);
	if (wrong == NULL) {
		options->vms.max_sessions = (unsigned int)number;
	}
	return wrong;
}

// N[:BURST], both at least 1.
static const char *set_connection_rate(void *data, const char *value)
{
	struct rate *rate = &((struct host_options *)data)->vms.connections;
	char number[24];
	size_t len = strcspn(value, ":");
	if (len >= sizeof(number)) {
		return "too large";
	}
	memcpy(number, value, len);
	number[len] = '\0';
	const char *wrong = set_rate(&rate->per_second, number);
	rate->burst = CONNECTION_BURST * rate->per_second;
	return wrong == NULL && value[len] == ':' ? set_rate(&rate->burst, value + len + 1) : wrong;
}

static const struct option_spec specs[] = {
	{"listen", "ADDR", "unix:PATH, vsock:[CID:]PORT or vhost-user:PATH", false, set_listen},
	{"guest-cid", "N", "vhost-user: the guest's CID (default 3)", false, set_guest_cid},
	{"vsock-port", "FROM=TO", "vhost-user: bridge N=unix:PATH or unix:PATH=N", true,
		set_vsock_port},
	{"allow-cid", "N", "serve the VM with this CID, and no other one", true, set_allow_cid},
	{"require-privileged-port", NULL, "serve only who is root in its VM", false,
		set_require_privileged_port},
	{"allow-uid", "N", "UNIX socket: let this user connect, too", true, set_allow_uid},
	{"compositor", "DISPLAY", "name or absolute path (default $WAYLAND_DISPLAY)", false,
		set_compositor},
	{"service", "NAME=unix:PATH", "where a service is; or seqpacket:PATH", true, set_service},
	{"resolver", "ADDR", "unix:PATH or vhost-user:PATH: knows the VM's GPU buffers", false,
		set_resolver},
	{"allow", "G[:V]", "offer a global, up to version V; '*' for all", true, set_allow,
		"globals"},
	{"deny", "G", "never offer a global", true, set_deny, "globals"},
	{"deny-request", "I.R", "end who makes request R of interface I", true, set_deny_request,
		"requests"},
	{"ignore-request", "I.R", "leave request R of interface I out", true, set_ignore_request,
		"requests"},
	{"policy", "FILE", "read these rules and more from a file; again on SIGHUP", false,
		set_policy},
	{"explain-policy", NULL, "print what clients would see and why, and exit", false,
		set_explain_policy},
	{"vm-name", "NAME", "what the compositor is told of the VM (default FILE's name)", false,
		set_vm_name, "vm"},
	{"require-security-context", NULL, "refuse clients where the compositor has none", false,
		set_require_security_context, "vm"},
	{"no-security-context", NULL, "do without, also where the compositor has them", false,
		set_no_security_context, "vm"},
	{"app-id-prefix", "S", "put S in front of every app id", false, set_app_id_prefix, "vm"},
	{"title-prefix", "S", "put S in front of every window title", false, set_title_prefix,
		"vm"},
	{"max-memory", "BYTES[K|M|G]", "memory of a session (default 2G)", false, set_max_memory,
		"limits"},
	{"max-unsent", "BYTES[K|M|G]", "what waits for a session's guest (default 96M)", false,
		set_max_unsent, "limits"},
	{"max-objects", "N", "Wayland objects of a session (default 262144)", false,
		set_max_objects, "limits"},
	{"max-fds", "N", "open fds of a session (default 4096)", false, set_max_fds, "limits"},
	{"max-streams", "N", "of them, pipes and sockets (default: all)", false, set_max_streams,
		"limits"},
	{"max-pending-fds", "N", "of them, without their message yet (default 1024)", false,
		set_max_pending_fds, "limits"},
	{"max-pools", "N", "pools of a session that its compositor maps (default 4096)", false,
		set_max_pools, "limits"},
	{"max-mapped", "BYTES[K|M|G]", "the sum of their sizes (default 1024G)", false,
		set_max_mapped, "limits"},
	{"max-frames", "N", "frames that wait for a session's service (default 262144)", false,
		set_max_frames, "limits"},
	{"max-fds-in-flight", "N", "fds of a session that are not read yet (default 256)", false,
		set_max_fds_in_flight, "limits"},
	{"max-planes", "N", "planes of dma-bufs that a compositor has (default 256)", false,
		set_max_planes, "limits"},
	{"max-listed", "N", "objects that a compositor has a list of (default 256)", false,
		set_max_listed, "limits"},
	{"max-rate", "N", "messages of a session per second (default 100000)", false, set_max_rate,
		"limits"},
	{"max-burst", "N", "messages at once, beyond that (default 2000000)", false, set_max_burst,
		"limits"},
	{"max-throughput", "BYTES[K|M|G]", "what a session reads per second (default: any)", false,
		set_max_throughput, "limits"},
	{"max-told", "BYTES[K|M|G]", "what others are told of a session per second (default 48K)",
		false, set_max_told, "limits"},
	{"max-vm-sessions", "N", "clients of a VM at a time (default: half of all)", false,
		set_max_vm_sessions, "limits"},
	{"connection-rate", "N[:BURST]", "connections of a VM per second (default 100:1000)", false,
		set_connection_rate, "limits"},
	{"max-vm-memory", "BYTES[K|M|G]", "as --max-memory, of a VM (default: 4 times that)", false,
		set_max_vm_memory, "limits"},
	{"max-vm-unsent", "BYTES[K|M|G]", "as --max-unsent, of a VM (default: 4 times that)", false,
		set_max_vm_unsent, "limits"},
	{"max-vm-objects", "N", "as --max-objects, of a VM (default: 4 times that)", false,
		set_max_vm_objects, "limits"},
	{"max-vm-fds", "N", "as --max-fds, of a VM (default: 4 times that)", false, set_max_vm_fds,
		"limits"},
	{"max-vm-streams", "N", "as --max-streams, of a VM (default: twice that)", false,
		set_max_vm_streams, "limits"},
	{"max-vm-pending-fds", "N", "as --max-pending-fds, of a VM (default: 4 times that)", false,
		set_max_vm_pending_fds, "limits"},
	{"max-vm-pools", "N", "as --max-pools, of a VM (default: 4 times that)", false,
		set_max_vm_pools, "limits"},
	{"max-vm-mapped", "BYTES[K|M|G]", "as --max-mapped, of a VM (default: 4 times that)", false,
		set_max_vm_mapped, "limits"},
	{"max-vm-frames", "N", "as --max-frames, of a VM (default: 4 times that)", false,
		set_max_vm_frames, "limits"},
	{"max-vm-fds-in-flight", "N", "as --max-fds-in-flight, of a VM (default: the same)", false,
		set_max_vm_fds_in_flight, "limits"},
	{"max-vm-planes", "N", "as --max-planes, of a VM (default: twice that)", false,
		set_max_vm_planes, "limits"},
	{"max-vm-listed", "N", "as --max-listed, of a VM (default: 4 times that)", false,
		set_max_vm_listed, "limits"},
	{"max-vm-rate", "N", "as --max-rate, of a VM (default: twice that)", false, set_max_vm_rate,
		"limits"},
	{"max-vm-burst", "N", "as --max-burst, of a VM (default: twice that)", false,
		set_max_vm_burst, "limits"},
	{"max-vm-throughput", "BYTES[K|M|G]", "as --max-throughput, of a VM (default: any)", false,
		set_max_vm_throughput, "limits"},
	{"max-vm-told", "BYTES[K|M|G]", "as --max-told, of a VM (default: twice that)", false,
		set_max_vm_told, "limits"},
	{"device-fd", "N", NULL, false, set_device_fd},
	PROGRAM_OPTIONS,
};

static const struct options_usage usage = {
	.program = "fdferry-host",
	.synopsis = "--listen ADDR [OPTION]...",
	.specs = specs,
};

static void settle(uint64_t *of_vm, uint64_t of_session, unsigned int factor)
{
	if (*of_vm == 0) {
		*of_vm = of_session < UINT64_MAX / factor ? factor * of_session : UINT64_MAX;
	}
}

// What was not given follows from what was.
static void settle_limits(struct host_options *options)
{
	struct budget_limits *session = &options->limits, *vm = &options->vms.limits;
	unsigned int sessions = options->program.max_sessions;
	if (session->most[BUDGET_STREAMS] == 0) {
		session->most[BUDGET_STREAMS] = session->most[BUDGET_FDS];
	}
	settle(&vm->most[BUDGET_FLIGHT], session->most[BUDGET_FLIGHT],
		1); // the user has one number
	settle(&vm->most[BUDGET_STREAMS], session->most[BUDGET_STREAMS], VM_STREAM_FACTOR);
	settle(&vm->most[BUDGET_PLANES], session->most[BUDGET_PLANES], VM_PLANE_FACTOR);
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		settle(&vm->most[i], session->most[i], VM_FACTOR);
	}
	settle(&vm->rate, session->rate, VM_RATE_FACTOR);
	settle(&vm->burst, session->burst, VM_RATE_FACTOR);
	settle(&vm->told, session->told, VM_RATE_FACTOR);
	if (options->vms.max_sessions == 0) {
		// Where there can be several, one VM leaves room for the others.
		bool several = options->listen.kind == TRANSPORT_VSOCK;
		options->vms.max_sessions = several ? (sessions + 1) / 2 : sessions;
	}
}

static int check(struct host_options *options)
{
	settle_limits(options);
	bool listens = options->program.session_fd < 0 && options->device_fd < 0 &&
		!options->explain_policy;
	bool has_ports =
		options->vsock_ports.n_from_guest > 0 || options->vsock_ports.n_to_guest > 0;
	if (options->listen_text == NULL && getenv("LISTEN_FDS") == NULL && listens) {
		return options_wrong(&usage, "--listen is missing (see --help)");
	}
	if (options->listen.kind != TRANSPORT_VHOST_USER &&
		(options->guest_cid != 0 || has_ports)) {
		return options_wrong(
			&usage, "--guest-cid and --vsock-port go with --listen vhost-user:PATH");
	}
	bool wants_vm = options->admission.n_cids > 0 || options->admission.privileged_port;
	if (options->listen_text != NULL && options->listen.kind == TRANSPORT_UNIX && wants_vm) {
		return options_wrong(&usage,
			"--allow-cid and --require-privileged-port are not for --listen unix:PATH");
	}
	if (options->listen.kind == TRANSPORT_VSOCK && options->admission.n_uids > 0) {
		return options_wrong(&usage, "--allow-uid is not for --listen vsock:PORT");
	}
	if (options->resolver_text != NULL && options->listen.kind == TRANSPORT_VSOCK &&
		options->admission.n_cids != 1) {
		return options_wrong(&usage,
			"--resolver is of one VM: --listen vsock: needs one --allow-cid with it");
	}
	options->guest_cid = options->guest_cid != 0 ? options->guest_cid : FIRST_GUEST_CID;
	return OPTIONS_STATUS_RUN;
}

bool host_options_vm_name(const struct host_options *options, char name[HOST_VM_NAME_SIZE])
{
	const char *source = options->vm_name != NULL ? options->vm_name : options->policy_path;
	if (source == NULL) {
		return false;
	}
	const char *slash = strrchr(source, '/');
	snprintf(name, HOST_VM_NAME_SIZE, "%s", slash != NULL ? slash + 1 : source);
	char *dot = strrchr(name, '.');
	if (options->vm_name == NULL && dot != NULL && dot > name) {
		*dot = '\0';
	}
	return name[0] != '\0';
}

bool host_options_check(const struct host_options *options, char *error, size_t error_len)
{
	struct denied_request denied[POLICY_MAX_REQUESTS];
	return policy_resolve_requests(
		&options->policy, options->policy_path, denied, error, error_len);
}

static bool read_policy(struct host_options *options, char *text, char *error, size_t error_len)
{
	struct policy_file file = {
		.path = options->policy_path,
		.specs = specs,
		.options = options,
		.line = &options->policy.line,
	};
	return policy_file_read(&file, text, error, error_len);
}

static void init(struct host_options *options)
{
	*options = (struct host_options){
		.limits = default_limits,
		.vms.connections =
			{
				.per_second = CONNECTION_RATE,
				.burst = CONNECTION_BURST * CONNECTION_RATE,
			},
		.device_fd = -1,
	};
	program_options_init(&options->program);
}

static int read_command_line(struct host_options *options, int argc, char *argv[])
{
	char **command;
	int status = options_parse(&usage, argc, argv, options, &command);
	if (status == OPTIONS_STATUS_RUN) {
		status = program_options_settle(&usage, &options->program);
	}
	return status;
}

int host_options_parse(struct host_options *options, int argc, char *argv[])
{
	static_assert(offsetof(struct host_options, program) == 0, "what the shared rows set");
	init(options);
	int status = read_command_line(options, argc, argv);
	return status == OPTIONS_STATUS_RUN ? check(options) : status;
}

bool host_options_apply(struct host_options *options, int argc, char *argv[], char *text,
	char *error, size_t error_len)
{
	struct host_options *fresh = malloc(sizeof(*fresh));
	if (fresh == NULL) {
		snprintf(error, error_len, "%s: out of memory", options->policy_path);
		return false;
	}
	init(fresh);
	fresh->policy_path = options->policy_path;
	bool ok = read_policy(fresh, text, error, error_len);
	if (ok && read_command_line(fresh, argc, argv) != OPTIONS_STATUS_RUN) {
		snprintf(error, error_len, "%s: the command line does not go with it",
			options->policy_path);
		ok = false;
	}
	ok = ok && host_options_check(fresh, error, error_len);
	if (ok) {
		settle_limits(fresh);
		fresh->program.services = options->program.services;
		fresh->guest_cid = options->guest_cid;
		*options = *fresh;
	}
	free(fresh);
	return ok;
}
