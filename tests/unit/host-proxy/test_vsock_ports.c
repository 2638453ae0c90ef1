#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "host-proxy/vsock_ports.h"
#include "tests/support/fd_count.h"

static void a_port_leads_to_a_socket(void **state)
{
	(void)state;
	struct vsock_ports ports = {0};
	assert_null(vsock_ports_parse(&ports, "1022=unix:/run/a=b"));
	assert_int_equal(ports.n_from_guest, 1);
	assert_int_equal(ports.n_to_guest, 0);
	assert_string_equal(ports.from_guest[0].address.path, "/run/a=b");
	assert_ptr_equal(vsock_ports_find_from_guest(&ports, 1022), &ports.from_guest[0]);
	assert_null(vsock_ports_find_from_guest(&ports, 1023));
}

static void a_socket_leads_to_a_port(void **state)
{
	(void)state;
	struct vsock_ports ports = {0};
	assert_null(vsock_ports_parse(&ports, "unix:/run/a=b=22"));
	assert_null(vsock_ports_parse(&ports, "unix:@ssh=22"));
	assert_int_equal(ports.n_from_guest, 0);
	assert_int_equal(ports.n_to_guest, 2);
	assert_string_equal(ports.to_guest[0].address.path, "/run/a=b");
	assert_int_equal(ports.to_guest[0].port, 22);
	assert_null(vsock_ports_find_from_guest(&ports, 22));
}

static void what_is_no_bridge_is_refused(void **state)
{
	(void)state;
	static const char *const wrong[] = {"", "=", "1022", "1022=", "1022=/run/a",
		"x=unix:/run/a", "-1=unix:/run/a", "4294967295=unix:/run/a", "1=vsock:2",
		"unix:/run/a", "unix:=1", "unix:/run/a=", "unix:/run/a=x", "unix:/run/a=4294967295",
		"1=seqpacket:/run/a", "1=unix:"};
	struct vsock_ports ports = {0};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_non_null(vsock_ports_parse(&ports, wrong[i]));
	}
	assert_int_equal(ports.n_from_guest + ports.n_to_guest, 0);
}

static void each_is_named_once(void **state)
{
	(void)state;
	struct vsock_ports ports = {0};
	assert_null(vsock_ports_parse(&ports, "1=unix:/run/a"));
	assert_non_null(vsock_ports_parse(&ports, "1=unix:/run/b"));
	assert_null(vsock_ports_parse(&ports, "unix:/run/a=1"));
	assert_non_null(vsock_ports_parse(&ports, "unix:/run/a=2"));
}

static void too_many_are_refused(void **state)
{
	(void)state;
	struct vsock_ports ports = {0};
	char text[64];
	for (int i = 0; i < VSOCK_PORTS_MAX; i++) {
		snprintf(text, sizeof(text), "%d=unix:/run/a", i);
		assert_null(vsock_ports_parse(&ports, text));
		snprintf(text, sizeof(text), "unix:/run/%d=1", i);
		assert_null(vsock_ports_parse(&ports, text));
	}
	assert_non_null(vsock_ports_parse(&ports, "1000=unix:/run/a"));
	assert_non_null(vsock_ports_parse(&ports, "unix:/run/x=1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_port_leads_to_a_socket),
		fd_count_test(a_socket_leads_to_a_port),
		fd_count_test(what_is_no_bridge_is_refused),
		fd_count_test(each_is_named_once),
		fd_count_test(too_many_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
