#include "host-proxy/policy_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program/options.h"

/* ---- bytes ---- */

// The first len bytes of the file, or what there is; -errno on failure.
static ssize_t read_all(int fd, char *data, size_t len)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = read(fd, data + done, len - done);
		if (n == 0) {
			break;
		}
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)done;
}

static char *load(int fd, const char *path, char *error, size_t error_len)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		snprintf(error, error_len, "%s: not a regular file", path);
		return NULL;
	}
	char *text = malloc(POLICY_FILE_MAX + 1);
	if (text == NULL) {
		snprintf(error, error_len, "%s: out of memory", path);
		return NULL;
	}
	ssize_t len = read_all(fd, text, POLICY_FILE_MAX + 1);
	if (len < 0) {
		snprintf(error, error_len, "%s: %s", path, strerror((int)-len));
	} else if (len > POLICY_FILE_MAX) {
		snprintf(error, error_len, "%s: larger than %d bytes", path, POLICY_FILE_MAX);
	} else if (memchr(text, '\0', (size_t)len) != NULL) {
		snprintf(error, error_len, "%s: not a text file", path);
	} else {
		text[len] = '\0';
		return text;
	}
	free(text);
	return NULL;
}

char *policy_file_load(const char *path, char *error, size_t error_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0) {
		snprintf(error, error_len, "%s: %s", path, strerror(errno));
		return NULL;
	}
	char *text = load(fd, path, error, error_len);
	close(fd);
	return text;
}

/* ---- lines ---- */

struct reading {
	const struct policy_file *file;
	const char *section;    // NULL: none has begun
	bool seen[OPTIONS_MAX]; // by the row
	// Of the line, as far as they are there: a key or a section, and a value.
	const char *subject, *value;
};

static char *strip(char *text)
{
	while (isspace((unsigned char)*text)) {
		text++;
	}
	size_t len = strlen(text);
	while (len > 0 && isspace((unsigned char)text[len - 1])) {
		len--;
	}
	text[len] = '\0';
	return text;
}

// "text" in quotes keeps its blanks. NULL: it does not end with what it began with.
static char *unquote(char *text)
{
	size_t len = strlen(text);
	if (text[0] != '"') {
		return text;
	}
	if (len < 2 || text[len - 1] != '"') {
		return NULL;
	}
	text[len - 1] = '\0';
	return text + 1;
}

static bool has_section(const struct option_spec *specs, const char *name)
{
	for (; specs->name != NULL; specs++) {
		if (specs->section != NULL && strcmp(specs->section, name) == 0) {
			return true;
		}
	}
	return false;
}

static const char *begin_section(struct reading *reading, char *line)
{
	size_t len = strlen(line);
	if (line[len - 1] != ']') {
		return "a section's name ends with ]";
	}
	line[len - 1] = '\0';
	reading->section = reading->subject = line + 1;
	return has_section(reading->file->specs, reading->section) ? NULL : "unknown section";
}

static const struct option_spec *find_key(const struct reading *reading, const char *key)
{
	const struct option_spec *spec = reading->file->specs;
	for (; spec->name != NULL; spec++) {
		if (spec->section != NULL && strcmp(spec->name, key) == 0 &&
			strcmp(spec->section, reading->section) == 0) {
			return spec;
		}
	}
	return NULL;
}

// An option without a value is one that can be left out.
static const char *set_flag(
	const struct reading *reading, const struct option_spec *spec, const char *value)
{
	if (strcmp(value, "yes") == 0) {
		return spec->set(reading->file->options, NULL);
	}
	return strcmp(value, "no") == 0 ? NULL : "must be yes or no";
}

static const char *set_key(struct reading *reading, char *line)
{
	char *equals = strchr(line, '=');
	if (equals == NULL) {
		return "must be [SECTION] or KEY = VALUE";
	}
	*equals = '\0';
	char *key = strip(line);
	char *value = unquote(strip(equals + 1));
	reading->subject = key;
	if (reading->section == NULL) {
		return "must come after a [SECTION]";
	}
	const struct option_spec *spec = find_key(reading, key);
	if (spec == NULL) {
		return "unknown key in this section";
	}
	bool *seen = &reading->seen[spec - reading->file->specs];
	if (*seen && !spec->repeatable) {
		return "given twice";
	}
	*seen = true;
	if (value == NULL) {
		return "the value has no quote at its end";
	}
	reading->value = value;
	return spec->value != NULL ? spec->set(reading->file->options, value)
				   : set_flag(reading, spec, value);
}

static const char *read_line(struct reading *reading, char *text)
{
	char *line = strip(text);
	reading->subject = reading->value = NULL;
	if (line[0] == '\0' || line[0] == '#' || line[0] == ';') {
		return NULL;
	}
	return line[0] == '[' ? begin_section(reading, line) : set_key(reading, line);
}

static void describe(
	const struct reading *reading, const char *wrong, char *error, size_t error_len)
{
	const struct policy_file *file = reading->file;
	if (reading->subject == NULL) {
		snprintf(error, error_len, "%s:%u: %s", file->path, *file->line, wrong);
	} else if (reading->value == NULL) {
		snprintf(error, error_len, "%s:%u: %s: %s", file->path, *file->line,
			reading->subject, wrong);
	} else {
		snprintf(error, error_len, "%s:%u: %s = %s: %s", file->path, *file->line,
			reading->subject, reading->value, wrong);
	}
}

bool policy_file_read(const struct policy_file *file, char *text, char *error, size_t error_len)
{
	struct reading reading = {.file = file};
	const char *wrong = NULL;
	char *rest = text, *line;
	while (wrong == NULL && (line = strsep(&rest, "\n")) != NULL) {
		++*file->line;
		wrong = read_line(&reading, line);
	}
	if (wrong != NULL) {
		describe(&reading, wrong, error, error_len);
	}
	*file->line = 0;
	return wrong == NULL;
}
