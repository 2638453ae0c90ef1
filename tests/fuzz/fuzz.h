#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * What the targets have in common. A target is one file with fuzz_one, which takes its input for a
 * list of operations and does them. Then nothing may be left of them: as many fds are open as before,
 * there is no child, and no memfd is mapped.
 */

// By whichever engine. Called once for each input, and returns 0.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
// Called once before all inputs.
int LLVMFuzzerInitialize(int *argc, char ***argv);

// What is left of an input; where it is at its end, numbers are 0.
struct fuzz_input {
	const uint8_t *data; // borrowed
	size_t size;
};

// The target's.
void fuzz_one(struct fuzz_input *input);

uint8_t fuzz_take8(struct fuzz_input *input);
uint16_t fuzz_take16(struct fuzz_input *input);
uint32_t fuzz_take32(struct fuzz_input *input);
// The next bytes, at most len. Their number.
size_t fuzz_take(struct fuzz_input *input, void *data, size_t len);

// Ends the program, which is how an engine hears of a finding.
void fuzz_check(bool ok, const char *what);

#endif
