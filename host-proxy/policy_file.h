#ifndef HOST_PROXY_POLICY_FILE_H
#define HOST_PROXY_POLICY_FILE_H

#include <stdbool.h>
#include <stddef.h>

struct option_spec;

/**
 * The policy file (fdferry-policy(5)): "[section]" lines, "key = value" lines, and comments, which
 * begin with # or ;. A key is the command line's option of the same name, in the section that the
 * option's row names.
 */

#define POLICY_FILE_MAX (64 * 1024) // bytes

struct policy_file {
	const char *path;                // for what is said about it; borrowed, as all here
	const struct option_spec *specs; // their end has no name
	void *options;                   // that the specs set
	unsigned int *line;              // is that of the key which is being set; 0 in the end
};

// All of the file as a string that the caller frees. NULL: error says why in one line.
char *policy_file_load(const char *path, char *error, size_t error_len);

// Sets what text says. Values are kept by reference, so text, which is changed, has to live as long
// as the options. False: error names the file, the line and what is wrong in it.
bool policy_file_read(const struct policy_file *file, char *text, char *error, size_t error_len);

#endif
