#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "tests/support/fd_count.h"

// What the child does: says on the socket which fds it has, and its last argument.
static int child_main(int fd, const char *word)
{
	char text[64];
	size_t n = fd_count();
	text[0] = (char)('0' + n);
	strncpy(text + 1, word, sizeof(text) - 2);
	return send(fd, text, 1 + strlen(word), 0) > 0 ? 7 : 1;
}

static void a_child_has_its_arguments_and_one_fd(void **state)
{
	(void)state;
	static char program[] = "test-child", word[] = "word";
	char *const argv[] = {program, word, NULL};
	char text[64] = "";
	int extra = dup(STDIN_FILENO); // which the child must not have
	char **all = child_argv(argv, "--child-fd");
	pid_t pid;
	int status;
	int fd = child_start(all, &pid);
	assert_true(fd >= 0);
	assert_true(recv(fd, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, "4word"); // the standard ones, and the pair's end
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	close(fd);
	close(extra);
	free(all);
}

int main(int argc, char *argv[])
{
	if (argc == 4 && strcmp(argv[1], "--child-fd") == 0) {
		return child_main(atoi(argv[2]), argv[3]);
	}
	const struct CMUnitTest tests[] = {
		fd_count_test(a_child_has_its_arguments_and_one_fd),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
