/*
 * Gives each file of the directories that are its arguments to a target, for compilers without
 * libFuzzer.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

#define INPUT_MAX (1u << 20)

static void replay_file(const char *path)
{
	// Of its own size, so that a read beyond its end is seen.
	uint8_t *buffer = malloc(INPUT_MAX);
	FILE *file = fopen(path, "re");
	fuzz_check(buffer != NULL && file != NULL, path);
	size_t size = fread(buffer, 1, INPUT_MAX, file);
	fclose(file);
	uint8_t *data = malloc(size > 0 ? size : 1);
	fuzz_check(data != NULL, path);
	memcpy(data, buffer, size);
	free(buffer);
	fprintf(stderr, "# %s\n", path); // the last one is the one that failed
	LLVMFuzzerTestOneInput(data, size);
	free(data);
}

static int is_input(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static int replay_directory(const char *path)
{
	struct dirent **entries;
	int n = scandir(path, &entries, is_input, alphasort);
	fuzz_check(n >= 0, path);
	for (int i = 0; i < n; i++) {
		char name[4096];
		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		replay_file(name);
		free(entries[i]);
	}
	free(entries);
	return n;
}

int main(int argc, char *argv[])
{
	int n = 0;
	LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		n += replay_directory(argv[i]);
	}
	printf("%d inputs\n", n);
	return n > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
