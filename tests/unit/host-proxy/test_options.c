#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host-proxy/options.h"
#include "tests/support/fd_count.h"
#include "wire/schema.h"

#define LISTEN "--listen", "unix:/run/channel"

#define parse(options, ...) \
	parse_list((options), (const char *[]){"fdferry-host", __VA_ARGS__, NULL})

static int parse_list(struct host_options *options, const char *argv[])
{
	int argc = 0;
	while (argv[argc] != NULL) {
		argc++;
	}
	return host_options_parse(options, argc, (char **)argv);
}

static int group_setup(void **state)
{
	(void)state;
	return unsetenv("LISTEN_FDS");
}

static void without_options_the_defaults_hold(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN), OPTIONS_STATUS_RUN);
	assert_string_equal(options.listen.path, "/run/channel");
	assert_null(options.compositor);
	assert_null(options.app_id_prefix);
	assert_null(options.title_prefix);
	assert_int_equal(options.limits.most[BUDGET_MEMORY], UINT64_C(2) << 30);
	assert_int_equal(options.limits.most[BUDGET_OBJECTS], 262144);
	assert_int_equal(options.limits.most[BUDGET_FDS], 4096);
	assert_int_equal(options.program.max_sessions, 256);
	assert_int_equal(policy_offer(&options.policy, "wl_shm", 1), 1);
	assert_int_equal(policy_offer(&options.policy, "zwlr_layer_shell_v1", 4), 0);
}

static void a_gpu_that_is_ours_is_resolved_beside_its_socket(void **state)
{
	(void)state;
	struct host_options options;
	char text[128] = "vhost-user:";
	assert_int_equal(
		parse(&options, LISTEN, "--resolver", "unix:/run/other"), OPTIONS_STATUS_RUN);
	assert_string_equal(options.resolver.path, "/run/other");
	assert_string_equal(options.gpu.path, "");
	assert_int_equal(
		parse(&options, LISTEN, "--resolver", "vhost-user:/run/gpu"), OPTIONS_STATUS_RUN);
	assert_string_equal(options.gpu.path, "/run/gpu");
	assert_int_equal(options.resolver.kind, TRANSPORT_SEQPACKET);
	assert_string_equal(options.resolver.path, "/run/gpu.resolver");
	memset(text + strlen(text), 'x', 98); // and .resolver is 107 bytes
	assert_int_equal(parse(&options, LISTEN, "--resolver", text), OPTIONS_STATUS_RUN);
	text[strlen(text)] = 'x';
	assert_int_equal(parse(&options, LISTEN, "--resolver", text), 2);
	assert_int_equal(parse(&options, LISTEN, "--resolver", "vhost-user:"), 2);
	assert_int_equal(parse(&options, LISTEN, "--resolver", "vsock:7"), 2);
}

static void a_gpu_that_is_ours_is_one_machines(void **state)
{
	(void)state;
	struct host_options options;
	const char *gpu = "vhost-user:/run/gpu";
	assert_int_equal(parse(&options, "--listen", "vsock:7", "--resolver", gpu), 2);
	assert_int_equal(parse(&options, "--listen", "vsock:7", "--resolver", gpu, "--allow-cid",
				 "3", "--allow-cid", "4"),
		2);
	assert_int_equal(
		parse(&options, "--listen", "vsock:7", "--resolver", gpu, "--allow-cid", "3"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(parse(&options, "--listen", "vhost-user:/run/vm", "--resolver", gpu),
		OPTIONS_STATUS_RUN);
}

static void every_option_is_understood(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(
		parse(&options, "--listen", "vsock:1022", "--compositor", "wayland-5", "--allow",
			"zwlr_layer_shell_v1:3", "--deny", "wl_shm", "--app-id-prefix", "vm.",
			"--title-prefix", "[vm] ", "--max-memory", "64M", "--max-objects", "100",
			"--max-fds", "50", "--max-sessions", "7"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.listen.port, 1022);
	assert_string_equal(options.compositor, "wayland-5");
	assert_string_equal(options.app_id_prefix, "vm.");
	assert_string_equal(options.title_prefix, "[vm] ");
	assert_int_equal(options.limits.most[BUDGET_MEMORY], 64 << 20);
	assert_int_equal(options.limits.most[BUDGET_OBJECTS], 100);
	assert_int_equal(options.limits.most[BUDGET_FDS], 50);
	assert_int_equal(policy_offer(&options.policy, "wl_shm", 1), 0);
	assert_int_equal(policy_offer(&options.policy, "zwlr_layer_shell_v1", 4), 3);
}

static void a_vsock_device_has_a_cid_and_ports(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, "--listen", "vhost-user:/run/vm"), OPTIONS_STATUS_RUN);
	assert_int_equal(options.listen.kind, TRANSPORT_VHOST_USER);
	assert_string_equal(options.listen.path, "/run/vm");
	assert_int_equal(options.guest_cid, 3);
	assert_int_equal(options.device_fd, -1);
	assert_int_equal(parse(&options, "--listen", "vhost-user:/run/vm", "--guest-cid", "42",
				 "--vsock-port", "1022=unix:/run/ssh", "--vsock-port",
				 "unix:/run/vm-ssh=22", "--device-fd", "3"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.guest_cid, 42);
	assert_int_equal(options.vsock_ports.n_from_guest, 1);
	assert_int_equal(options.vsock_ports.n_to_guest, 1);
	assert_int_equal(options.device_fd, 3);
}

static void a_vsock_device_needs_its_listener(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN, "--guest-cid", "4"), OPTIONS_STATUS_USAGE);
	assert_int_equal(
		parse(&options, LISTEN, "--vsock-port", "1=unix:/run/a"), OPTIONS_STATUS_USAGE);
	assert_int_equal(parse(&options, "--listen", "vhost-user:/run/vm", "--guest-cid", "2"),
		OPTIONS_STATUS_USAGE);
	assert_int_equal(
		parse(&options, "--listen", "vhost-user:/run/vm", "--guest-cid", "4294967295"),
		OPTIONS_STATUS_USAGE);
}

static void limits_of_a_vm_follow_from_those_of_a_session(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN, "--max-fds", "50", "--max-vm-memory", "3G",
				 "--max-rate", "7", "--max-burst", "9"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.limits.most[BUDGET_STREAMS], 50);
	assert_int_equal(options.vms.limits.most[BUDGET_FDS], 200);
	assert_int_equal(options.vms.limits.most[BUDGET_STREAMS], 100);
	assert_int_equal(options.limits.most[BUDGET_FLIGHT], 256);
	assert_int_equal(options.vms.limits.most[BUDGET_FLIGHT], 256);
	assert_int_equal(options.vms.limits.most[BUDGET_MEMORY], UINT64_C(3) << 30);
	assert_int_equal(options.limits.rate, 7);
	assert_int_equal(options.vms.limits.rate, 14);
	assert_int_equal(options.vms.limits.burst, 18);
	assert_int_equal(options.vms.limits.told, 2 * options.limits.told);
	assert_int_equal(options.vms.max_sessions, 256);
	assert_int_equal(
		parse(&options, "--listen", "vsock:1", "--max-sessions", "7"), OPTIONS_STATUS_RUN);
	assert_int_equal(options.vms.max_sessions, 4);
	assert_int_equal(
		parse(&options, LISTEN, "--max-memory", "9223372036854775807"), OPTIONS_STATUS_RUN);
	assert_true(options.vms.limits.most[BUDGET_MEMORY] == UINT64_MAX);
}

static void every_limit_has_its_options(void **state)
{
	(void)state;
	static const char *const options_of[BUDGET_COUNT] = {
		[BUDGET_FDS] = "--max-fds",
		[BUDGET_MEMORY] = "--max-memory",
		[BUDGET_UNSENT] = "--max-unsent",
		[BUDGET_OBJECTS] = "--max-objects",
		[BUDGET_STREAMS] = "--max-streams",
		[BUDGET_PENDING] = "--max-pending-fds",
		[BUDGET_POOLS] = "--max-pools",
		[BUDGET_MAPPED] = "--max-mapped",
		[BUDGET_FRAMES] = "--max-frames",
		[BUDGET_FLIGHT] = "--max-fds-in-flight",
		[BUDGET_PLANES] = "--max-planes",
		[BUDGET_LISTED] = "--max-listed",
	};
	for (size_t i = 0; i < BUDGET_COUNT; i++) {
		struct host_options options;
		char vm[40] = "--max-vm-";
		strcat(vm, options_of[i] + strlen("--max-"));
		assert_int_equal(parse(&options, LISTEN, options_of[i], "1100", vm, "1300"),
			OPTIONS_STATUS_RUN);
		assert_int_equal(options.limits.most[i], 1100);
		assert_int_equal(options.vms.limits.most[i], 1300);
		assert_int_equal(parse(&options, LISTEN, options_of[i], "0"), OPTIONS_STATUS_USAGE);
		assert_int_equal(parse(&options, LISTEN, vm, "x"), OPTIONS_STATUS_USAGE);
	}
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN, "--max-told", "4K", "--max-vm-told", "1M"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.limits.told, 4096);
	assert_int_equal(options.vms.limits.told, 1 << 20);
	assert_int_equal(parse(&options, LISTEN, "--max-told", "4095"), OPTIONS_STATUS_USAGE);
	assert_int_equal(parse(&options, LISTEN, "--max-vm-told", "17G"), OPTIONS_STATUS_USAGE);
	// A message's fds would wait for ever.
	assert_int_equal(
		parse(&options, LISTEN, "--max-fds-in-flight", "252"), OPTIONS_STATUS_USAGE);
}

static void a_vm_has_a_rate_of_connections(void **state)
{
	(void)state;
	struct host_options options;
	const struct rate *rate = &options.vms.connections;
	assert_int_equal(parse(&options, LISTEN), OPTIONS_STATUS_RUN);
	assert_int_equal(rate->per_second, 100);
	assert_int_equal(rate->burst, 1000);
	assert_int_equal(parse(&options, LISTEN, "--connection-rate", "7"), OPTIONS_STATUS_RUN);
	assert_int_equal(rate->per_second, 7);
	assert_int_equal(rate->burst, 70);
	assert_int_equal(parse(&options, LISTEN, "--connection-rate", "7:9"), OPTIONS_STATUS_RUN);
	assert_int_equal(rate->per_second, 7);
	assert_int_equal(rate->burst, 9);
	static const char *const wrong[] = {"", "0", "7:", "7:0", ":7", "7:8:9", "x", "-1",
		"1000000001", "1:1000000001", "000000000000000000000000001"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(parse(&options, LISTEN, "--connection-rate", wrong[i]), 2);
	}
}

static void memory_has_units(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "1"), OPTIONS_STATUS_RUN);
	assert_int_equal(options.limits.most[BUDGET_MEMORY], 1);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "3K"), OPTIONS_STATUS_RUN);
	assert_int_equal(options.limits.most[BUDGET_MEMORY], 3072);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "5G"), OPTIONS_STATUS_RUN);
	assert_int_equal(options.limits.most[BUDGET_MEMORY], UINT64_C(5) << 30);
}

static void a_policy_has_a_file_and_the_machine_its_name(void **state)
{
	(void)state;
	struct host_options options;
	char name[HOST_VM_NAME_SIZE];
	assert_int_equal(parse(&options, LISTEN), OPTIONS_STATUS_RUN);
	assert_false(host_options_vm_name(&options, name));
	assert_int_equal(options.security_context, SECURITY_CONTEXT_AUTO);
	assert_int_equal(parse(&options, LISTEN, "--policy", "/etc/vm/work.old.policy",
				 "--require-security-context"),
		OPTIONS_STATUS_RUN);
	assert_string_equal(options.policy_path, "/etc/vm/work.old.policy");
	assert_int_equal(options.security_context, SECURITY_CONTEXT_REQUIRE);
	assert_true(host_options_vm_name(&options, name));
	assert_string_equal(name, "work.old");
	assert_int_equal(parse(&options, LISTEN, "--policy", "play"), OPTIONS_STATUS_RUN);
	assert_true(host_options_vm_name(&options, name));
	assert_string_equal(name, "play");
	assert_int_equal(parse(&options, LISTEN, "--policy", "play.policy", "--vm-name", "vm.2"),
		OPTIONS_STATUS_RUN);
	assert_true(host_options_vm_name(&options, name));
	assert_string_equal(name, "vm.2");
}

static void requests_can_be_denied(void **state)
{
	(void)state;
	struct host_options options;
	char error[256];
	assert_int_equal(parse(&options, LISTEN, "--deny-request", "xdg_toplevel.set_fullscreen",
				 "--ignore-request", "xdg_toplevel.set_maximized"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.policy.n_requests, 2);
	assert_true(host_options_check(&options, error, sizeof(error)));
	assert_int_equal(
		parse(&options, LISTEN, "--deny-request", "wl_shm.none"), OPTIONS_STATUS_RUN);
	assert_false(host_options_check(&options, error, sizeof(error)));
	assert_string_equal(error, "--deny-request wl_shm.none: the interface has no such request");
	wire_schema_finish();
}

static void an_explanation_needs_no_listener(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, "--explain-policy"), OPTIONS_STATUS_RUN);
	assert_true(options.explain_policy);
}

static void the_service_wayland_is_the_compositor(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(
		parse(&options, LISTEN, "--service", "wayland=unix:/run/w"), OPTIONS_STATUS_RUN);
	assert_string_equal(options.compositor, "/run/w");
	assert_int_equal(options.program.services.count, 0);
}

static void other_services_are_kept(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN, "--service", "dbus=unix:/run/bus", "--service",
				 "alias=unix:/run/bus", "--service", "zygote=seqpacket:@zygote"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.program.services.count, 3);
	assert_string_equal(
		services_find(&options.program.services, "alias")->address.path, "/run/bus");
	assert_null(options.compositor);
}

static void a_resolver_is_named_once(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, LISTEN), OPTIONS_STATUS_RUN);
	assert_null(options.resolver_text);
	assert_int_equal(parse(&options, LISTEN, "--resolver", "unix:/run/r"), OPTIONS_STATUS_RUN);
	assert_string_equal(options.resolver_text, "unix:/run/r");
	assert_string_equal(options.resolver.path, "/run/r");
	assert_int_equal(parse(&options, LISTEN, "--resolver", "/run/r"), 2);
	assert_int_equal(parse(&options, "--listen", "vsock:7000", "--resolver", "unix:/run/r"), 2);
	assert_int_equal(parse(&options, "--listen", "vsock:7000", "--resolver", "unix:/run/r",
				 "--allow-cid", "3", "--allow-cid", "4"),
		2);
	assert_int_equal(parse(&options, "--listen", "vsock:7000", "--resolver", "unix:/run/r",
				 "--allow-cid", "3"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(
		parse(&options, LISTEN, "--resolver", "unix:/run/r", "--resolver", "unix:/run/s"),
		2);
}

static void activation_makes_listen_superfluous(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, "--trace"), 2);
	setenv("LISTEN_FDS", "1", 1);
	assert_int_equal(parse(&options, "--trace"), OPTIONS_STATUS_RUN);
	unsetenv("LISTEN_FDS");
	assert_int_equal(parse(&options, "--session-fd", "3", "--trace"), OPTIONS_STATUS_RUN);
}

static void wrong_usage_is_status_2(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, "--listen", "vhost-user:"), 2);
	assert_int_equal(parse(&options, LISTEN, LISTEN), 2);
	assert_int_equal(parse(&options, LISTEN, "--connect", "unix:/x"), 2);
	assert_int_equal(parse(&options, LISTEN, "--", "command"), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", ""), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "G"), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "0"), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "1T"), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-memory", "8589934592G"), 2);
	assert_int_equal(
		parse(&options, LISTEN, "--max-memory", "00000000000000000000000000000001"), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-fds", "4294967296"), 2);
	assert_int_equal(parse(&options, LISTEN, "--max-objects", "0"), 2);
	assert_int_equal(parse(&options, LISTEN, "--allow", "x y"), 2);
	assert_int_equal(parse(&options, LISTEN, "--deny", "wl_shm:1"), 2);
	assert_int_equal(parse(&options, LISTEN, "--deny", "*"), 2);
	assert_int_equal(parse(&options, LISTEN, "--deny-request", "xdg_toplevel"), 2);
	assert_int_equal(parse(&options, LISTEN, "--ignore-request", ".x"), 2);
	assert_int_equal(parse(&options, LISTEN, "--policy", ""), 2);
	assert_int_equal(parse(&options, LISTEN, "--policy", "a", "--policy", "b"), 2);
	assert_int_equal(parse(&options, LISTEN, "--vm-name", ""), 2);
	assert_int_equal(parse(&options, LISTEN, "--vm-name", "a b"), 2);
	assert_int_equal(parse(&options, LISTEN, "--compositor", ""), 2);
	assert_int_equal(parse(&options, LISTEN, "--service", "dbus"), 2);
	assert_int_equal(parse(&options, LISTEN, "--service", "dbus=/run/bus"), 2);
	assert_int_equal(parse(&options, LISTEN, "--service", "wayland=unix:relative"), 2);
	assert_int_equal(
		parse(&options, LISTEN, "--service", "dbus=unix:/a", "--service", "dbus=unix:/b"),
		2);
	assert_int_equal(parse(&options, LISTEN, "--compositor", "wayland-0", "--service",
				 "wayland=unix:/run/w"),
		2);
}

static void help_and_version_need_nothing_else(void **state)
{
	(void)state;
	struct host_options options;
	assert_int_equal(parse(&options, "--help"), 0);
	assert_int_equal(parse(&options, "--version"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(without_options_the_defaults_hold),
		fd_count_test(a_gpu_that_is_ours_is_resolved_beside_its_socket),
		fd_count_test(a_gpu_that_is_ours_is_one_machines),
		fd_count_test(every_option_is_understood),
		fd_count_test(a_vsock_device_has_a_cid_and_ports),
		fd_count_test(a_vsock_device_needs_its_listener),
		fd_count_test(limits_of_a_vm_follow_from_those_of_a_session),
		fd_count_test(every_limit_has_its_options),
		fd_count_test(a_vm_has_a_rate_of_connections),
		fd_count_test(memory_has_units),
		fd_count_test(a_policy_has_a_file_and_the_machine_its_name),
		fd_count_test(requests_can_be_denied),
		fd_count_test(an_explanation_needs_no_listener),
		fd_count_test(the_service_wayland_is_the_compositor),
		fd_count_test(other_services_are_kept),
		fd_count_test(a_resolver_is_named_once),
		fd_count_test(activation_makes_listen_superfluous),
		fd_count_test(wrong_usage_is_status_2),
		fd_count_test(help_and_version_need_nothing_else),
	};
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
