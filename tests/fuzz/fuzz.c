#include "tests/fuzz/fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/log.h"
#include "tests/support/fd_count.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	signal(SIGPIPE, SIG_IGN); // as both programs do
	log_init("fuzz", LOG_ERROR);
	return 0;
}

size_t fuzz_take(struct fuzz_input *input, void *data, size_t len)
{
	len = len < input->size ? len : input->size;
	if (len > 0) {
		memcpy(data, input->data, len);
	}
	input->data += len;
	input->size -= len;
	return len;
}

uint8_t fuzz_take8(struct fuzz_input *input)
{
	uint8_t number = 0;
	fuzz_take(input, &number, sizeof(number));
	return number;
}

uint16_t fuzz_take16(struct fuzz_input *input)
{
	uint16_t number = 0;
	fuzz_take(input, &number, sizeof(number));
	return number;
}

uint32_t fuzz_take32(struct fuzz_input *input)
{
	uint32_t number = 0;
	fuzz_take(input, &number, sizeof(number));
	return number;
}

void fuzz_check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "fuzz: not true: %s\n", what);
		abort();
	}
}

static bool is_memfd_mapped(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	fuzz_check(maps != NULL, "/proc/self/maps can be read");
	char line[512];
	bool found = false;
	while (!found && fgets(line, sizeof(line), maps) != NULL) {
		found = strstr(line, "/memfd:") != NULL;
	}
	fclose(maps);
	return found;
}

static bool has_child(void)
{
	siginfo_t info;
	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .size = size};
	bool child_before = has_child(); // an engine may have one
	size_t fds_before = fd_count();
	fuzz_one(&input);
	fuzz_check(fd_count() == fds_before, "as many fds are open as before");
	fuzz_check(has_child() == child_before, "no child is left");
	fuzz_check(!is_memfd_mapped(), "no memory is mapped");
	return 0;
}
