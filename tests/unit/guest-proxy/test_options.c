#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guest-proxy/options.h"
#include "tests/support/fd_count.h"

#define CONNECT "--connect", "unix:/run/channel"

#define parse(options, ...) \
	parse_list((options), (const char *[]){"fdferry-guest", __VA_ARGS__, NULL})

static int parse_list(struct guest_options *options, const char *argv[])
{
	int argc = 0;
	while (argv[argc] != NULL) {
		argc++;
	}
	return guest_options_parse(options, argc, (char **)argv);
}

static void without_options_the_defaults_hold(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(parse(&options, CONNECT), OPTIONS_STATUS_RUN);
	assert_int_equal(options.connect.kind, TRANSPORT_UNIX);
	assert_string_equal(options.connect_text, "unix:/run/channel");
	assert_null(options.display);
	assert_null(options.command);
	assert_int_equal(options.program.max_sessions, 256);
	assert_int_equal(options.program.session_fd, -1);
	assert_int_equal(options.program.log_level, LOG_WARN);
	assert_false(options.program.trace || options.program.stats);
	assert_false(options.program.oneshot || options.program.print_ready);
}

static void every_option_is_understood(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(
		parse(&options, "--connect=vsock:2:1022", "--display", "wayland-7", "--protocol",
			"a.xml", "--protocol", "b.xml", "--trace", "--stats", "--log-level",
			"debug", "--oneshot", "--print-ready", "--max-sessions", "3"),
		OPTIONS_STATUS_RUN);
	assert_int_equal(options.connect.kind, TRANSPORT_VSOCK);
	assert_string_equal(options.display, "wayland-7");
	assert_int_equal(options.program.n_protocols, 2);
	assert_string_equal(options.program.protocols[1], "b.xml");
	assert_int_equal(options.program.log_level, LOG_DEBUG);
	assert_int_equal(options.program.max_sessions, 3);
	assert_true(options.program.trace && options.program.stats);
	assert_true(options.program.oneshot && options.program.print_ready);
}

static void a_command_keeps_its_own_options(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(
		parse(&options, CONNECT, "--", "weston", "--help", "--"), OPTIONS_STATUS_RUN);
	assert_string_equal(options.command[0], "weston");
	assert_string_equal(options.command[1], "--help");
	assert_string_equal(options.command[2], "--");
	assert_null(options.command[3]);
}

static void a_session_process_parses_the_same_arguments(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(
		parse(&options, "--session-fd", "3", CONNECT, "--", "weston"), OPTIONS_STATUS_RUN);
	assert_int_equal(options.program.session_fd, 3);
}

static void the_service_wayland_is_the_display(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(
		parse(&options, CONNECT, "--service", "wayland=unix:/run/w"), OPTIONS_STATUS_RUN);
	assert_string_equal(options.display, "/run/w");
	assert_int_equal(options.program.services.count, 0);
}

static void other_services_are_kept_in_order(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(parse(&options, CONNECT, "--service", "dbus=unix:/run/bus", "--service",
				 "wayland=unix:/run/w", "--service", "zygote=seqpacket:@zygote"),
		OPTIONS_STATUS_RUN);
	const struct services *services = &options.program.services;
	assert_int_equal(services->count, 2);
	assert_string_equal(services->list[0].name, "dbus");
	assert_string_equal(services->list[0].address.path, "/run/bus");
	assert_string_equal(services->list[1].name, "zygote");
	assert_int_equal(services->list[1].address.kind, TRANSPORT_SEQPACKET);
	assert_string_equal(options.display, "/run/w");
}

static void wayland_is_served_unless_only_others_are_asked_for(void **state)
{
	(void)state;
	struct guest_options options;
	parse(&options, CONNECT);
	assert_true(guest_options_serve_wayland(&options));
	parse(&options, CONNECT, "--service", "dbus=unix:/run/bus");
	assert_false(guest_options_serve_wayland(&options));
	parse(&options, CONNECT, "--service", "dbus=unix:/run/bus", "--display", "wayland-3");
	assert_true(guest_options_serve_wayland(&options));
	parse(&options, CONNECT, "--service", "dbus=unix:/run/bus", "--service",
		"wayland=unix:/run/w");
	assert_true(guest_options_serve_wayland(&options));
	parse(&options, CONNECT, "--service", "dbus=unix:/run/bus", "--", "foot");
	assert_true(guest_options_serve_wayland(&options));
}

static void wrong_usage_is_status_2(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(parse(&options, "--trace"), 2);
	assert_int_equal(parse(&options, "--connect"), 2);
	assert_int_equal(parse(&options, "--connect", "tcp:host:1"), 2);
	assert_int_equal(parse(&options, CONNECT, CONNECT), 2);
	assert_int_equal(parse(&options, CONNECT, "--unknown"), 2);
	assert_int_equal(parse(&options, CONNECT, "--token-file", ""), 2);
	assert_int_equal(parse(&options, CONNECT, "-x"), 2);
	assert_int_equal(parse(&options, CONNECT, "--trace=yes"), 2);
	assert_int_equal(parse(&options, CONNECT, "weston"), 2);
	assert_int_equal(parse(&options, CONNECT, "--"), 2);
	assert_int_equal(parse(&options, CONNECT, "--display", ""), 2);
	assert_int_equal(parse(&options, CONNECT, "--display", "a/b"), 2);
	assert_int_equal(parse(&options, CONNECT, "--max-sessions", "0"), 2);
	assert_int_equal(parse(&options, CONNECT, "--max-sessions", "-1"), 2);
	assert_int_equal(parse(&options, CONNECT, "--max-sessions", "1x"), 2);
	assert_int_equal(parse(&options, CONNECT, "--max-sessions", "99999999999999999999"), 2);
	assert_int_equal(parse(&options, CONNECT, "--log-level", "loud"), 2);
	assert_int_equal(parse(&options, CONNECT, "--service", "mojo"), 2);
	assert_int_equal(parse(&options, CONNECT, "--service", "mojo=vsock:1"), 2);
	assert_int_equal(
		parse(&options, CONNECT, "--service", "mojo=unix:/a", "--service", "mojo=unix:/b"),
		2);
	assert_int_equal(parse(&options, CONNECT, "--service", "mojo=unix:/a", "--service",
				 "dbus=seqpacket:/a"),
		2);
	assert_int_equal(
		parse(&options, CONNECT, "--service", "mojo=unix:/a", "--display", "/a"), 2);
	assert_int_equal(parse(&options, CONNECT, "--service", "wayland=seqpacket:/run/w"), 2);
	assert_int_equal(parse(&options, CONNECT, "--service", "wayland=unix:relative"), 2);
	assert_int_equal(
		parse(&options, CONNECT, "--display", "a", "--service", "wayland=unix:/run/w"), 2);
	assert_int_equal(parse(&options, CONNECT, "--session-fd", "1"), 2);
}

static void help_and_version_need_nothing_else(void **state)
{
	(void)state;
	struct guest_options options;
	assert_int_equal(parse(&options, "--help"), 0);
	assert_int_equal(parse(&options, "--version"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(without_options_the_defaults_hold),
		fd_count_test(every_option_is_understood),
		fd_count_test(a_command_keeps_its_own_options),
		fd_count_test(a_session_process_parses_the_same_arguments),
		fd_count_test(the_service_wayland_is_the_display),
		fd_count_test(other_services_are_kept_in_order),
		fd_count_test(wayland_is_served_unless_only_others_are_asked_for),
		fd_count_test(wrong_usage_is_status_2),
		fd_count_test(help_and_version_need_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
