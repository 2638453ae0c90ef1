#include "program/services.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/fd_count.h"

#define NAME_64 "0123456789abcdef0123456789ABCDEF0123456789._-z.._-0123456789abcd"

static void a_service_is_a_name_and_an_address(void **state)
{
	(void)state;
	struct services services = {0};
	assert_null(services_parse(&services, "dbus=unix:/run/bus"));
	assert_null(services_parse(&services, NAME_64 "=seqpacket:@a=b"));
	assert_int_equal(services.count, 2);
	const struct service *service = services_find(&services, "dbus");
	assert_non_null(service);
	assert_int_equal(service->address.kind, TRANSPORT_UNIX);
	assert_string_equal(service->address.path, "/run/bus");
	service = services_find(&services, NAME_64);
	assert_non_null(service);
	assert_int_equal(service->address.kind, TRANSPORT_SEQPACKET);
	assert_string_equal(service->address.path, "@a=b");
	assert_null(services_find(&services, "dbu"));
	assert_null(services_find(&services, "DBUS"));
	assert_null(services_find(&services, ""));
}

static void what_is_no_service_is_refused(void **state)
{
	(void)state;
	static const char *const wrong[] = {"", "=", "dbus", "dbus=", "dbus=/run/bus",
		"dbus=unix:", "dbus=vsock:1", "=unix:/run/bus", "d bus=unix:/b", "d/bus=unix:/b",
		"d:=unix:/b", "d\n=unix:/b", "d\xc3\xa4=unix:/b", NAME_64 "x=unix:/b",
		NAME_64 "xyz=unix:/b"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct services services = {0};
		assert_non_null(services_parse(&services, wrong[i]));
		assert_int_equal(services.count, 0);
	}
}

static void a_name_is_given_once(void **state)
{
	(void)state;
	struct services services = {0};
	assert_null(services_parse(&services, "dbus=unix:/a"));
	assert_string_equal(
		services_parse(&services, "dbus=unix:/b"), "the service is named already");
	assert_string_equal(services_find(&services, "dbus")->address.path, "/a");
}

static void there_is_an_end_to_services(void **state)
{
	(void)state;
	struct services services = {0};
	char text[32];
	for (int i = 0; i < SERVICES_MAX; i++) {
		snprintf(text, sizeof(text), "s%d=unix:/s%d", i, i);
		assert_null(services_parse(&services, text));
	}
	assert_string_equal(services_parse(&services, "one.more=unix:/m"), "too many services");
	assert_int_equal(services.count, SERVICES_MAX);
}

static void the_same_address_is_a_collision(void **state)
{
	(void)state;
	struct services services = {0};
	assert_false(services_collide(&services));
	services_parse(&services, "a=unix:/a");
	services_parse(&services, "b=unix:@/a");
	assert_false(services_collide(&services));
	services_parse(&services, "c=seqpacket:/a");
	assert_true(services_collide(&services));
}

static void wayland_has_an_absolute_path(void **state)
{
	(void)state;
	const char *path;
	assert_true(service_parse_wayland("wayland=unix:/run/w", &path));
	assert_string_equal(path, "/run/w");
	static const char *const wrong[] = {"wayland=", "wayland=/run/w",
		"wayland=unix:", "wayland=unix:w", "wayland=unix:@w", "wayland=seqpacket:/run/w"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_true(service_parse_wayland(wrong[i], &path));
		assert_null(path);
	}
	assert_false(service_parse_wayland("wayland", &path));
	assert_false(service_parse_wayland("wayland2=unix:/run/w", &path));
	assert_false(service_parse_wayland("dbus=unix:/run/bus", &path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_service_is_a_name_and_an_address),
		fd_count_test(what_is_no_service_is_refused),
		fd_count_test(a_name_is_given_once),
		fd_count_test(there_is_an_end_to_services),
		fd_count_test(the_same_address_is_a_collision),
		fd_count_test(wayland_has_an_absolute_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
