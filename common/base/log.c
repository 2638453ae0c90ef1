#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINES_PER_SECOND 10

static const char *const level_names[] = {
	[LOG_ERROR] = "error",
	[LOG_WARN] = "warn",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

static const char *program_name = "fdferry";
static enum log_level threshold = LOG_WARN;
static unsigned int session_number;

void log_init(const char *program, enum log_level level)
{
	program_name = program;
	threshold = level;
}

bool log_level_parse(const char *word, enum log_level *level)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
		if (strcmp(word, level_names[i]) == 0) {
			*level = (enum log_level)i;
			return true;
		}
	}
	return false;
}

void log_set_session(unsigned int number)
{
	session_number = number;
}

// How many bytes the character of UTF-8 has that text begins with; 0: it is a control, or none.
static size_t character_length(const char *text)
{
	static const uint32_t least[] = {
		[2] = 0xa0, [3] = 0x800, [4] = 0x10000}; // after the controls
	const unsigned char *c = (const unsigned char *)text;
	if (c[0] < 0x80) {
		return c[0] >= ' ' && c[0] != 0x7f;
	}
	if (c[0] < 0xc2 || c[0] > 0xf4) {
		return 0;
	}
	size_t len = c[0] >= 0xf0 ? 4 : c[0] >= 0xe0 ? 3 : 2;
	uint32_t code = c[0] & (0xffu >> (len + 1));
	for (size_t i = 1; i < len; i++) {
		if ((c[i] & 0xc0) != 0x80) {
			return 0;
		}
		code = code << 6 | (c[i] & 0x3fu);
	}
	bool surrogate = code >= 0xd800 && code < 0xe000;
	return code >= least[len] && code <= 0x10ffff && !surrogate ? len : 0;
}

// What a peer has sent is not to look like lines of ours, nor to speak to a terminal.
static void mask_controls(char *text)
{
	while (*text != '\0') {
		size_t len = character_length(text);
		if (len == 0) {
			*text = '?';
		}
		text += len > 0 ? len : 1;
	}
}

static void write_line(enum log_level level, const char *fmt, va_list args)
{
	int saved = errno;
	char text[1024];
	char session[32] = "";
	errno = saved; // %m
	vsnprintf(text, sizeof(text), fmt, args);
	mask_controls(text);
	if (session_number != 0) {
		snprintf(session, sizeof(session), "session %u: ", session_number);
	}
	const char *mark = level == LOG_INFO || level == LOG_ERROR ? "" : level_names[level];
	// One call, so that lines of several processes do not mix.
	fprintf(stderr, "%s: %s%s%s%s\n", program_name, session, mark, *mark ? ": " : "", text);
	errno = saved;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	if (level > threshold) {
		return;
	}
	va_list args;
	va_start(args, fmt);
	write_line(level, fmt, args);
	va_end(args);
}

void log_write_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
	if (level > threshold) {
		return;
	}
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec != limit->second) {
		if (limit->withheld > 0) {
			log_write(level, "%u more lines like the last ones were left out",
				limit->withheld);
		}
		*limit = (struct log_limit){.second = now.tv_sec};
	}
	if (limit->written >= LINES_PER_SECOND) {
		limit->withheld++;
		return;
	}
	limit->written++;
	va_list args;
	va_start(args, fmt);
	write_line(level, fmt, args);
	va_end(args);
}
