#include "program/options.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/token.h"

#define DEFAULT_MAX_SESSIONS  256
#define DEFAULT_MAX_FILE_COPY (UINT64_C(64) << 20)
#define DEFAULT_PING_INTERVAL 20 // seconds
#define DEFAULT_PING_TIMEOUT  4  // intervals
#define MAX_PING              86400
#define HELP_COLUMN           26

void program_options_init(struct program_options *options)
{
	*options = (struct program_options){
		.log_level = LOG_WARN,
		.region = true,
		.max_sessions = DEFAULT_MAX_SESSIONS,
		.session_fd = -1,
		.ping_interval = DEFAULT_PING_INTERVAL,
		.rules =
			{
				.shared = FDREF_SHARED_REFUSE,
				.unsupported = FDREF_UNSUPPORTED_CLOSE,
				.max_file_copy = DEFAULT_MAX_FILE_COPY,
			},
	};
}

const char *options_number(
	const char *text, unsigned long min, unsigned long max, unsigned long *number)
{
	char *end;
	if (*text < '0' || *text > '9') {
		return "not a number";
	}
	errno = 0;
	*number = strtoul(text, &end, 10);
	if (*end != '\0') {
		return "not a number";
	}
	if (errno != 0 || *number > max) {
		return "too large";
	}
	return *number < min ? "too small" : NULL;
}

static unsigned int unit_shift(char unit)
{
	switch (unit) {
	case 'K':
		return 10;
	case 'M':
		return 20;
	case 'G':
		return 30;
	default:
		return 0;
	}
}

const char *options_size(const char *text, uint64_t min, uint64_t *size)
{
	char digits[24];
	size_t len = strlen(text);
	unsigned int shift = len > 0 ? unit_shift(text[len - 1]) : 0;
	len -= shift > 0 ? 1 : 0;
	if (len >= sizeof(digits)) {
		return "too large";
	}
	memcpy(digits, text, len);
	digits[len] = '\0';
	unsigned long number;
	const char *wrong = options_number(digits, 0, (unsigned long)(INT64_MAX >> shift), &number);
	if (wrong != NULL) {
		return wrong;
	}
	*size = (uint64_t)number << shift;
	return *size < min ? "too small" : NULL;
}

const char *program_set_protocol(void *options, const char *value)
{
	struct program_options *program = options;
	if (program->n_protocols == OPTIONS_MAX_PROTOCOLS) {
		return "too many files";
	}
	program->protocols[program->n_protocols++] = value;
	return value[0] != '\0' ? NULL : "the name is missing";
}

const char *program_set_trace(void *options, const char *value)
{
	(void)value;
	struct program_options *program = options;
	program->trace = true;
	return NULL;
}

const char *program_set_stats(void *options, const char *value)
{
	(void)value;
	struct program_options *program = options;
	program->stats = true;
	return NULL;
}

const char *program_set_log_level(void *options, const char *value)
{
	struct program_options *program = options;
	return log_level_parse(value, &program->log_level) ? NULL
							   : "must be error, warn, info or debug";
}

const char *program_set_oneshot(void *options, const char *value)
{
	(void)value;
	struct program_options *program = options;
	program->oneshot = true;
	return NULL;
}

const char *program_set_print_ready(void *options, const char *value)
{
	(void)value;
	struct program_options *program = options;
	program->print_ready = true;
	return NULL;
}

const char *program_set_no_dmabuf(void *options, const char *value)
{
	(void)value;
	struct program_options *program = options;
	program->no_dmabuf = true;
	return NULL;
}

const char *program_set_no_sandbox(void *options, const char *value)
{
	(void)value;
	struct program_options *program = options;
	program->no_sandbox = true;
	return NULL;
}

const char *program_set_max_sessions(void *options, const char *value)
{
	struct program_options *program = options;
	unsigned long number;
	const char *wrong = options_number(value, 1, 100000, &number);
	if (wrong == NULL) {
		program->max_sessions = (unsigned int)number;
	}
	return wrong;
}

const char *program_set_shm_mode(void *options, const char *value)
{
	struct program_options *program = options;
	if (strcmp(value, "refuse") == 0) {
		program->rules.shared = FDREF_SHARED_REFUSE;
	} else if (strcmp(value, "snapshot") == 0) {
		program->rules.shared = FDREF_SHARED_SNAPSHOT;
	} else if (strcmp(value, "diff") == 0) {
		program->rules.shared = FDREF_SHARED_DIFF;
	} else {
		return "must be refuse, snapshot or diff";
	}
	return NULL;
}

const char *program_set_on_unsupported(void *options, const char *value)
{
	struct program_options *program = options;
	if (strcmp(value, "close") == 0) {
		program->rules.unsupported = FDREF_UNSUPPORTED_CLOSE;
	} else if (strcmp(value, "drop") == 0) {
		program->rules.unsupported = FDREF_UNSUPPORTED_DROP;
	} else if (strcmp(value, "devnull") == 0) {
		program->rules.unsupported = FDREF_UNSUPPORTED_DEVNULL;
	} else {
		return "must be close, drop or devnull";
	}
	return NULL;
}

const char *program_set_max_file_copy(void *options, const char *value)
{
	struct program_options *program = options;
	return options_size(value, 1, &program->rules.max_file_copy);
}

const char *program_set_region(void *options, const char *value)
{
	struct program_options *program = options;
	program->region = strcmp(value, "auto") == 0;
	return program->region || strcmp(value, "none") == 0 ? NULL : "must be auto or none";
}

const char *program_set_token_file(void *options, const char *value)
{
	struct program_options *program = options;
	program->token_file = value;
	return value[0] != '\0' ? NULL : "the name is missing";
}

const char *program_set_ping_interval(void *options, const char *value)
{
	struct program_options *program = options;
	unsigned long number;
	const char *wrong = options_number(value, 1, MAX_PING, &number);
	if (wrong == NULL) {
		program->ping_interval = (unsigned int)number;
	}
	return wrong;
}

const char *program_set_ping_timeout(void *options, const char *value)
{
	struct program_options *program = options;
	unsigned long number;
	const char *wrong = options_number(value, 0, MAX_PING, &number);
	if (wrong == NULL) {
		program->ping_timeout = (unsigned int)number;
		program->ping_timeout_given = true;
	}
	return wrong;
}

int program_options_settle(const struct options_usage *usage, struct program_options *options)
{
	if (!options->ping_timeout_given) {
		options->ping_timeout = DEFAULT_PING_TIMEOUT * options->ping_interval;
	} else if (options->ping_timeout > 0 && options->ping_timeout < options->ping_interval) {
		return options_wrong(usage, "--ping-timeout %u: shorter than --ping-interval %u",
			options->ping_timeout, options->ping_interval);
	}
	return OPTIONS_STATUS_RUN;
}

bool program_options_token(const struct program_options *options, struct token *token)
{
	*token = (struct token){0};
	if (options->token_file == NULL) {
		return true;
	}
	const char *wrong = token_load(token, options->token_file);
	if (wrong != NULL) {
		log_limited(LOG_ERROR, "--token-file %s: %s", options->token_file, wrong);
	}
	return wrong == NULL;
}

const char *program_set_record(void *options, const char *value)
{
	struct program_options *program = options;
	program->record = value;
	return *value != '\0' ? NULL : "the name is missing";
}

const char *program_set_session_fd(void *options, const char *value)
{
	struct program_options *program = options;
	unsigned long number;
	const char *wrong = options_number(value, 3, INT_MAX, &number);
	if (wrong == NULL) {
		program->session_fd = (int)number;
	}
	return wrong;
}

int options_wrong(const struct options_usage *usage, const char *fmt, ...)
{
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fprintf(stderr, "%s: %s\n", usage->program, text);
	return OPTIONS_STATUS_USAGE;
}

static int print_help(const struct options_usage *usage)
{
	printf("Usage: %s %s\n\n", usage->program, usage->synopsis);
	for (const struct option_spec *spec = usage->specs; spec->name != NULL; spec++) {
		if (spec->help == NULL) {
			continue;
		}
		int width = printf("  --%s%s%s", spec->name, spec->value != NULL ? " " : "",
			spec->value != NULL ? spec->value : "");
		printf("%*s%s%s\n", width < HELP_COLUMN ? HELP_COLUMN - width : 1, "", spec->help,
			spec->repeatable ? " (repeatable)" : "");
	}
	return ferror(stdout) || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int print_version(const struct options_usage *usage)
{
	printf("%s %s\n", usage->program, FDFERRY_VERSION);
	return fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

#define FIRST_OPTION 256 // beyond what getopt_long says of its own

static void fill_long_options(const struct option_spec *specs, struct option *longs)
{
	size_t n = 0;
	for (; specs[n].name != NULL; n++) {
		assert(n + 1 < OPTIONS_MAX);
		longs[n] = (struct option){
			.name = specs[n].name,
			.has_arg = specs[n].value != NULL ? required_argument : no_argument,
			.val = FIRST_OPTION + (int)n, // all equal, no prefix would be ambiguous
		};
	}
	longs[n] = (struct option){0};
}

static int apply(const struct options_usage *usage, const struct option_spec *spec, bool *seen,
	void *options)
{
	if (strcmp(spec->name, "help") == 0) {
		return print_help(usage);
	}
	if (strcmp(spec->name, "version") == 0) {
		return print_version(usage);
	}
	if (*seen && !spec->repeatable) {
		return options_wrong(usage, "--%s: given twice", spec->name);
	}
	if (spec->value != NULL && strcmp(optarg, "--") == 0) {
		return options_wrong(usage, "--%s: its value is missing", spec->name);
	}
	*seen = true;
	const char *wrong = spec->set(options, optarg);
	if (wrong == NULL) {
		return OPTIONS_STATUS_RUN;
	}
	return spec->value != NULL ? options_wrong(usage, "--%s %s: %s", spec->name, optarg, wrong)
				   : options_wrong(usage, "--%s: %s", spec->name, wrong);
}

static int check_rest(const struct options_usage *usage, int argc, char *argv[], char ***command)
{
	*command = NULL;
	bool dashes = optind > 1 && strcmp(argv[optind - 1], "--") == 0;
	if (dashes && usage->takes_command) {
		if (optind == argc) {
			return options_wrong(usage, "the command after -- is missing");
		}
		*command = argv + optind;
		return OPTIONS_STATUS_RUN;
	}
	if (optind == argc) {
		return OPTIONS_STATUS_RUN;
	}
	return options_wrong(usage, "unexpected argument '%s'%s", argv[optind],
		usage->takes_command ? " (a command goes after --)" : "");
}

int options_parse(
	const struct options_usage *usage, int argc, char *argv[], void *options, char ***command)
{
	struct option longs[OPTIONS_MAX];
	bool seen[OPTIONS_MAX] = {false};
	fill_long_options(usage->specs, longs);
	opterr = 0;
	optind = 0; // start over, also in a process that has parsed before
	for (;;) {
		int word = optind > 0 ? optind : 1;
		int c = getopt_long(argc, argv, "+:", longs, NULL);
		if (c == -1) {
			return check_rest(usage, argc, argv, command);
		}
		if (c == ':') {
			return options_wrong(usage, "%s: its value is missing", argv[word]);
		}
		if (c == '?') {
			return options_wrong(usage, "unknown option '%s' (see --help)", argv[word]);
		}
		size_t index = (size_t)(c - FIRST_OPTION);
		int status = apply(usage, &usage->specs[index], &seen[index], options);
		if (status != OPTIONS_STATUS_RUN) {
			return status;
		}
	}
}
