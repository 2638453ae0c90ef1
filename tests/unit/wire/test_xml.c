#include "wire/xml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/fd_count.h"

static char error[256];

static struct wire_xml *load_bytes(const char *bytes, size_t len)
{
	char path[] = "/tmp/test-xml-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), (ssize_t)len);
	close(fd);
	error[0] = '\0';
	struct wire_xml *xml = wire_xml_load(path, error, sizeof(error));
	if (xml == NULL) {
		assert_int_equal(strncmp(error, path, strlen(path)), 0);
		assert_null(strchr(error, '\n'));
	}
	unlink(path);
	return xml;
}

static struct wire_xml *load(const char *text)
{
	return load_bytes(text, strlen(text));
}

static struct wire_xml *load_good(const char *text)
{
	struct wire_xml *xml = load(text);
	if (xml == NULL) {
		fail_msg("%s", error);
	}
	return xml;
}

// The error must name the line and contain the phrase.
static void check_bad(const char *text, int line, const char *phrase)
{
	assert_null(load(text));
	char place[32];
	snprintf(place, sizeof(place), ":%d: ", line);
	if (strstr(error, place) == NULL || strstr(error, phrase) == NULL) {
		fail_msg("expected \"%s%s\", got \"%s\"", place, phrase, error);
	}
}

#define IN_PROTOCOL(text)  "<protocol name='p'>\n" text "</protocol>"
#define IN_INTERFACE(text) IN_PROTOCOL("<interface name='a' version='2'>\n" text "</interface>")
#define IN_REQUEST(text)   IN_INTERFACE("<request name='r'>\n" text "</request>")

static void a_protocol_becomes_what_wayland_scanner_would_make(void **state)
{
	(void)state;
	struct wire_xml *xml = load_good(
		"<?xml version='1.0' encoding='UTF-8'?>\n"
		"<protocol name='p'><copyright>text &amp; more</copyright>"
		"<interface name='a' version='7'><description summary='s'>arg</description>"
		"<request name='destroy' type='destructor'/>"
		"<request name='all' since='3'><description summary='s'/>"
		"<arg name='a0' type='int'/><arg name='a1' type='uint' enum='e'/>"
		"<arg name='a2' type='fixed'/><arg name='a3' type='string' allow-null='true'/>"
		"<arg name='a4' type='object' interface='b' allow-null='true'/>"
		"<arg name='a5' type='object'/><arg name='a6' type='new_id' interface='a'/>"
		"<arg name='a7' type='array'/><arg name='a8' type='fd' summary='s'/></request>"
		"<request name='any'><arg name='id' type='new_id'/></request>"
		"<event name='e0'/><event name='e1' type='destructor'/>"
		"<enum name='e'><entry name='one' value='1'/></enum></interface>"
		"<interface name='b' version='1'/></protocol>");
	assert_int_equal(xml->n_interfaces, 2);
	const struct wl_interface *a = xml->interfaces[0].interface;
	const struct wl_interface *b = xml->interfaces[1].interface;
	assert_string_equal(a->name, "a");
	assert_int_equal(a->version, 7);
	assert_int_equal(a->method_count, 3);
	assert_int_equal(a->event_count, 2);
	assert_string_equal(a->methods[0].signature, "");
	assert_string_equal(a->methods[1].name, "all");
	assert_string_equal(a->methods[1].signature, "3iuf?s?oonah");
	assert_null(a->methods[1].types[3]);
	assert_ptr_equal(a->methods[1].types[4], b);
	assert_null(a->methods[1].types[5]);
	assert_ptr_equal(a->methods[1].types[6], a);
	assert_string_equal(a->methods[2].signature, "sun");
	assert_string_equal(a->events[1].name, "e1");
	assert_int_equal(xml->interfaces[0].request_destructors, 1);
	assert_int_equal(xml->interfaces[0].event_destructors, 2);
	assert_int_equal(b->method_count, 0);
	wire_xml_destroy(xml);
	wire_xml_destroy(NULL);
}

static void an_interface_of_another_file_is_a_stub(void **state)
{
	(void)state;
	struct wire_xml *xml =
		load_good(IN_REQUEST("<arg name='x' type='object' interface='elsewhere'/>"
				     "<arg name='y' type='new_id' interface='elsewhere'/>"));
	const struct wl_message *message = &xml->interfaces[0].interface->methods[0];
	assert_string_equal(message->types[0]->name, "elsewhere");
	assert_ptr_equal(message->types[0], message->types[1]);
	wire_xml_destroy(xml);
}

static void a_file_that_is_not_there_is_named(void **state)
{
	(void)state;
	assert_null(wire_xml_load("/nonexistent/p.xml", error, sizeof(error)));
	assert_string_equal(error, "/nonexistent/p.xml: No such file or directory");
	assert_null(wire_xml_load("/", error, sizeof(error)));
}

static void what_is_not_xml_is_refused(void **state)
{
	(void)state;
	assert_null(load(""));
	assert_null(load("text"));
	assert_null(load("<protocol name='p'>"));
	assert_null(load("<protocol name='p'></interface>"));
	check_bad("<protocol name='p'>\n<interface <", 2, "not well-formed");
	assert_null(load_bytes("<protocol>\0</protocol>", 22));
}

static void what_is_not_a_protocol_is_refused(void **state)
{
	(void)state;
	check_bad("<html/>", 1, "<html>");
	check_bad("<interface name='a' version='1'/>", 1, "<interface>");
	check_bad("<protocol name='p'/>", 1, "no interface");
}

static void elements_must_be_in_their_place(void **state)
{
	(void)state;
	check_bad(IN_PROTOCOL("<request name='r'/>"), 2, "<request> outside");
	check_bad(IN_PROTOCOL("<enum name='e'><request name='r'/></enum>"), 2, "outside");
	check_bad(IN_INTERFACE("<arg name='r' type='int'/>"), 3, "<arg> outside");
	check_bad(IN_INTERFACE("<enum name='e'><arg name='r' type='int'/></enum>"), 3, "outside");
	check_bad(IN_INTERFACE("<interface name='b' version='1'/>"), 3, "out of its place");
	check_bad(IN_REQUEST("<event name='e'/>"), 4, "<event> outside");
	check_bad(IN_REQUEST("<arg name='x' type='int'><arg name='y' type='int'/></arg>"), 4,
		"<arg> outside");
}

static void names_must_be_there_and_be_names(void **state)
{
	(void)state;
	check_bad(IN_PROTOCOL("<interface version='1'/>"), 2, "without a name");
	check_bad(IN_PROTOCOL("<interface name='' version='1'/>"), 2, "cannot be");
	check_bad(IN_PROTOCOL("<interface name='a&#10;b' version='1'/>"), 2, "cannot be");
	check_bad(IN_INTERFACE("<request/>"), 3, "without a name");
	check_bad(IN_INTERFACE("<event name='a b'/>"), 3, "cannot be");
	check_bad(IN_REQUEST("<arg type='int'/>"), 4, "without a name");
	check_bad(IN_REQUEST("<arg name='x' type='object' interface='%s'/>"), 4, "cannot be");
	char text[400], name[130];
	memset(name, 'x', 129);
	name[129] = '\0';
	snprintf(text, sizeof(text), IN_PROTOCOL("<interface name='%s' version='1'/>"), name);
	check_bad(text, 2, "cannot be");
}

static void versions_must_be_numbers_from_one(void **state)
{
	(void)state;
	check_bad(IN_PROTOCOL("<interface name='a'/>"), 2, "without a version");
	check_bad(IN_PROTOCOL("<interface name='a' version='0'/>"), 2, "version \"0\"");
	check_bad(IN_PROTOCOL("<interface name='a' version='-1'/>"), 2, "version");
	check_bad(IN_PROTOCOL("<interface name='a' version='1x'/>"), 2, "version");
	check_bad(IN_PROTOCOL("<interface name='a' version=''/>"), 2, "version");
	check_bad(IN_PROTOCOL("<interface name='a' version='4294967296'/>"), 2, "version");
	check_bad(
		IN_PROTOCOL("<interface name='a' version='99999999999999999999'/>"), 2, "version");
	check_bad(IN_INTERFACE("<request name='r' since='0'/>"), 3, "since \"0\"");
	check_bad(IN_INTERFACE("<request name='r' since='3'/>"), 3, "newer than its interface");
}

static void nothing_may_be_defined_twice(void **state)
{
	(void)state;
	check_bad(
		IN_PROTOCOL("<interface name='a' version='1'/>\n<interface name='a' version='2'/>"),
		3, "defined twice");
	check_bad(IN_INTERFACE("<event name='e'/>\n<event name='e'/>"), 4, "defined twice");
	struct wire_xml *xml = load_good(IN_INTERFACE("<event name='e'/><request name='e'/>"));
	wire_xml_destroy(xml);
}

static void arguments_must_make_sense(void **state)
{
	(void)state;
	check_bad(IN_REQUEST("<arg name='x'/>"), 4, "without a type");
	check_bad(IN_REQUEST("<arg name='x' type='float'/>"), 4, "unknown type \"float\"");
	check_bad(IN_REQUEST("<arg name='x' type=''/>"), 4, "unknown type");
	check_bad(IN_REQUEST("<arg name='x' type='int' interface='a'/>"), 4, "with an interface");
	check_bad(IN_REQUEST("<arg name='x' type='int' allow-null='true'/>"), 4, "cannot be null");
	check_bad(IN_REQUEST("<arg name='x' type='object' allow-null='yes'/>"), 4, "allow-null");
	check_bad(IN_INTERFACE("<request name='r' type='constructor'/>"), 3, "unknown type");
}

// part has a place for the number.
static char *repeat(char *text, const char *part, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		text += sprintf(text, part, i);
	}
	return text;
}

static void check_limit(const char *head, const char *part, const char *tail, size_t limit)
{
	char *text = malloc(200 + (limit + 1) * (strlen(part) + 10));
	assert_non_null(text);
	for (size_t n = limit; n <= limit + 1; n++) {
		char *end = stpcpy(text, head);
		strcpy(repeat(end, part, n), tail);
		struct wire_xml *xml = load(text);
		if ((xml != NULL) != (n == limit)) {
			fail_msg("%zu times %s: %s", n, part, error);
		}
		wire_xml_destroy(xml);
	}
	free(text);
}

static void counts_are_limited(void **state)
{
	(void)state;
	check_limit("<protocol><interface name='a' version='1'><request name='r'>",
		"<arg name='a%zu' type='int'/>", "</request></interface></protocol>", 20);
	check_limit("<protocol><interface name='a' version='1'><request name='r' since='1'>",
		"<arg name='a%zu' type='object' allow-null='true' interface='b'/>",
		"</request></interface></protocol>", 20);
	check_limit("<protocol><interface name='a' version='1'><request name='r'>"
		    "<arg name='n' type='new_id'/>",
		"<arg name='a%zu' type='int'/>", "</request></interface></protocol>", 17);
	check_limit("<protocol><interface name='a' version='1'>", "<request name='r%zu'/>",
		"</interface></protocol>", 64);
	check_limit("<protocol><interface name='a' version='1'>", "<event name='r%zu'/>",
		"</interface></protocol>", 64);
	check_limit("<protocol>", "<interface name='a%zu' version='1'/>", "</protocol>", 256);
}

static void a_mask_has_a_bit_for_the_last_message(void **state)
{
	(void)state;
	char text[4000];
	char *end = text + sprintf(text, "<protocol><interface name='a' version='1'>");
	end = repeat(end, "<event name='e%zu'/>", 63);
	strcpy(end, "<event name='last' type='destructor'/></interface></protocol>");
	struct wire_xml *xml = load_good(text);
	assert_true(xml->interfaces[0].event_destructors == UINT64_C(1) << 63);
	wire_xml_destroy(xml);
}

static void a_file_that_is_too_large_is_refused(void **state)
{
	(void)state;
	static const char head[] = "<protocol><interface name='a' version='1'/>";
	static const char tail[] = "</protocol>";
	char *text = malloc(WIRE_XML_SIZE_MAX + 1);
	assert_non_null(text);
	for (size_t len = WIRE_XML_SIZE_MAX; len <= WIRE_XML_SIZE_MAX + 1; len++) {
		memset(text, ' ', len);
		memcpy(text, head, strlen(head));
		memcpy(text + len - strlen(tail), tail, strlen(tail));
		struct wire_xml *xml = load_bytes(text, len);
		assert_int_equal(xml != NULL, len == WIRE_XML_SIZE_MAX);
		wire_xml_destroy(xml);
	}
	assert_non_null(strstr(error, "larger than"));
	free(text);
}

static void an_entity_bomb_does_not_go_off(void **state)
{
	(void)state;
	check_bad("<?xml version='1.0'?>\n<!DOCTYPE protocol [\n"
		  "<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]>\n"
		  "<protocol name='&b;'><interface name='a' version='1'/></protocol>",
		2, "document type");
	check_bad("<!DOCTYPE protocol SYSTEM '/etc/passwd'>\n<protocol/>", 1, "document type");
	check_bad(IN_PROTOCOL("<interface name='&b;' version='1'/>"), 2, "undefined entity");
}

static void a_long_error_is_cut(void **state)
{
	(void)state;
	char small[8];
	memset(small, 'x', sizeof(small));
	assert_null(wire_xml_load("/nonexistent/p.xml", small, sizeof(small)));
	assert_string_equal(small, "/nonexi");
}

static void every_truncation_of_a_file_is_refused(void **state)
{
	(void)state;
	static const char text[] = IN_REQUEST("<arg name='x' type='object' interface='b'/>"
					      "<arg name='y' type='new_id'/>");
	for (size_t len = 0; len < sizeof(text) - 1; len++) {
		assert_null(load_bytes(text, len));
	}
	wire_xml_destroy(load_good(text));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		fd_count_test(a_protocol_becomes_what_wayland_scanner_would_make),
		fd_count_test(an_interface_of_another_file_is_a_stub),
		fd_count_test(a_file_that_is_not_there_is_named),
		fd_count_test(what_is_not_xml_is_refused),
		fd_count_test(what_is_not_a_protocol_is_refused),
		fd_count_test(elements_must_be_in_their_place),
		fd_count_test(names_must_be_there_and_be_names),
		fd_count_test(versions_must_be_numbers_from_one),
		fd_count_test(nothing_may_be_defined_twice),
		fd_count_test(arguments_must_make_sense),
		fd_count_test(counts_are_limited),
		fd_count_test(a_mask_has_a_bit_for_the_last_message),
		fd_count_test(a_file_that_is_too_large_is_refused),
		fd_count_test(an_entity_bomb_does_not_go_off),
		fd_count_test(a_long_error_is_cut),
		fd_count_test(every_truncation_of_a_file_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
