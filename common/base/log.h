#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <time.h>

/**
 * One line per event on stderr: "fdferry-host: session 12: text". Lines that a peer can provoke
 * again and again go through log_limited, where each place in the sources has its own limit: no line
 * keeps others of another kind from being seen.
 */

enum log_level {
	LOG_ERROR,
	LOG_WARN,
	LOG_INFO,
	LOG_DEBUG,
};

// program is borrowed for the life of the process.
void log_init(const char *program, enum log_level level);
// "error", "warn", "info" or "debug"; false for any other word.
bool log_level_parse(const char *word, enum log_level *level);
// Names the session in every later line of this process; 0 names none.
void log_set_session(unsigned int number);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Of one kind of line; zeros at first.
struct log_limit {
	time_t second;
	unsigned int written, withheld; // in it
};

// At most ten such lines per second and limit; what was left out is counted and said.
void log_write_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_limited(...) \
	do { \
		static struct log_limit log_limit_; \
		log_write_limited(&log_limit_, __VA_ARGS__); \
	} while (0)

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
// Adds strerror(errno).
#define log_errno(fmt, ...) log_write(LOG_ERROR, fmt ": %m", ##__VA_ARGS__)

#endif
