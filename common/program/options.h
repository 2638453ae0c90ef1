#ifndef PROGRAM_OPTIONS_H
#define PROGRAM_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "fdpass/fdref.h"
#include "program/services.h"

struct token;

/**
 * The command line: a table says which options there are, one function reads them all. Wrong usage
 * is one line on stderr and exit status 2.
 */

#define OPTIONS_STATUS_RUN   (-1) // no exit status: go on
#define OPTIONS_STATUS_USAGE 2
#define OPTIONS_MAX          80 // in one table, with its end

struct option_spec {
	const char *name;  // without its "--"; NULL ends the table
	const char *value; // what --help calls its value; NULL if it has none
	const char *help;  // NULL hides it
	bool repeatable;
	// NULL, or in one static phrase what is wrong with the value, which is kept by reference.
	const char *(*set)(void *options, const char *value);
	// Of the policy file, if there the option is a key by the same name; NULL: it is none.
	const char *section;
};

struct options_usage {
	const char *program;
	const char *synopsis; // what follows the name in the usage line
	bool takes_command;   // arguments after "--"
	const struct option_spec *specs;
};

#define OPTIONS_MAX_PROTOCOLS 256

// What both programs can be told. Has to be the first member of the options of each.
struct program_options {
	enum log_level log_level;
	bool trace;
	bool stats;
	bool oneshot;
	bool print_ready;
	bool no_sandbox;
	bool no_dmabuf;
	bool region; // a memory is shared with the other side, if that can be
	unsigned int max_sessions;
	int session_fd;             // -1 in the parent
	unsigned int ping_interval; // seconds
	unsigned int ping_timeout;  // seconds, at least ping_interval; 0: never
	bool ping_timeout_given;
	const char *token_file; // NULL: none
	const char *record;     // the file of the first session; NULL: none
	struct fdref_rules rules;
	struct services services; // by --service
	size_t n_protocols;
	const char *protocols[OPTIONS_MAX_PROTOCOLS];
};

void program_options_init(struct program_options *options);

// The rows of PROGRAM_OPTIONS.
const char *program_set_protocol(void *options, const char *value);
const char *program_set_trace(void *options, const char *value);
const char *program_set_stats(void *options, const char *value);
const char *program_set_log_level(void *options, const char *value);
const char *program_set_oneshot(void *options, const char *value);
const char *program_set_print_ready(void *options, const char *value);
const char *program_set_max_sessions(void *options, const char *value);
const char *program_set_shm_mode(void *options, const char *value);
const char *program_set_on_unsupported(void *options, const char *value);
const char *program_set_max_file_copy(void *options, const char *value);
const char *program_set_region(void *options, const char *value);
const char *program_set_token_file(void *options, const char *value);
const char *program_set_ping_interval(void *options, const char *value);
const char *program_set_ping_timeout(void *options, const char *value);
const char *program_set_no_sandbox(void *options, const char *value);
const char *program_set_no_dmabuf(void *options, const char *value);
const char *program_set_record(void *options, const char *value);
const char *program_set_session_fd(void *options, const char *value);

// --version, --help, and the end of the table.
// clang-format off
#define PROGRAM_OPTIONS \
	{"protocol", "FILE.xml", "add the interfaces of a protocol file", true, \
		program_set_protocol}, \
	{"max-sessions", "N", "clients at a time (default 256)", false, \
		program_set_max_sessions, "limits"}, \
	{"shm-mode", "MODE", "memory that both sides write: refuse, snapshot or diff", false, \
		program_set_shm_mode}, \
	{"on-unsupported", "WHAT", "an fd that cannot cross: close, drop or devnull", false, \
		program_set_on_unsupported}, \
	{"max-file-copy", "BYTES[K|M|G]", "a larger file is read on demand (default 64M)", false, \
		program_set_max_file_copy}, \
	{"no-dmabuf", NULL, "hide GPU buffers (zwp_linux_dmabuf_v1) from clients", false, \
		program_set_no_dmabuf}, \
	{"region", "auto|none", "memory for pools that both sides share (default auto)", false, \
		program_set_region}, \
	{"token-file", "FILE", "a secret that the other side has to have, too (mode 0600)", false, \
		program_set_token_file}, \
	{"ping-interval", "SECONDS", "how often to ask for a sign of life (default 20)", false, \
		program_set_ping_interval}, \
	{"ping-timeout", "SECONDS", "a longer silence ends a session (default 4 intervals)", false, \
		program_set_ping_timeout}, \
	{"record", "FILE", "write each session to a file: FILE, FILE.2, ...", false, \
		program_set_record}, \
	{"trace", NULL, "print every message to stderr", false, program_set_trace}, \
	{"stats", NULL, "print what crossed when a session ends, and at exit", false, \
		program_set_stats}, \
	{"log-level", "LEVEL", "error, warn (default), info or debug", false, \
		program_set_log_level}, \
	{"oneshot", NULL, "serve one client, then exit", false, program_set_oneshot}, \
	{"print-ready", NULL, "print READY to stdout when listening", false, \
		program_set_print_ready}, \
	{"no-sandbox", NULL, "let session processes do what the user may", false, \
		program_set_no_sandbox}, \
	{"version", NULL, "print the version and exit", false, NULL}, \
	{"help", NULL, "print this and exit", false, NULL}, \
	{"session-fd", "N", NULL, false, program_set_session_fd}, \
	{NULL, NULL, NULL, false, NULL}
// clang-format on

// Reads argv. OPTIONS_STATUS_RUN, or the status to exit with at once. *command is what follows
// "--", or NULL.
int options_parse(
	const struct options_usage *usage, int argc, char *argv[], void *options, char ***command);

// After options_parse: what only several options together can say, or get wrong. Returns as that does.
int program_options_settle(const struct options_usage *usage, struct program_options *options);

// Reads --token-file; a token of length 0 without it. False: it cannot be used, which has been logged.
bool program_options_token(const struct program_options *options, struct token *token);

// Says in one line on stderr what is wrong with the usage; returns OPTIONS_STATUS_USAGE.
int options_wrong(const struct options_usage *usage, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

// Decimal numbers from min to max. NULL, or what is wrong.
const char *options_number(
	const char *text, unsigned long min, unsigned long max, unsigned long *number);
// Bytes from min to INT64_MAX, with a K, M or G for powers of 1024. NULL, or what is wrong.
const char *options_size(const char *text, uint64_t min, uint64_t *size);

#endif
