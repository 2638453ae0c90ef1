/*
 * Preloaded into a program, makes the system call whose number comes with SIGUSR2 (sigqueue(3)), in
 * whatever the process is doing. That it was let through is told on stderr.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void handle_signal(int signal, siginfo_t *info, void *context)
{
	static const char text[] = "forbidden: went through\n";
	int saved = errno;
	(void)signal;
	(void)context;
	syscall(info->si_value.sival_int, 0L, 0L, 0L, 0L, 0L, 0L);
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
		_exit(EXIT_FAILURE);
	}
	errno = saved;
}

__attribute__((constructor)) static void catch_signal(void)
{
	const struct sigaction action = {
		.sa_sigaction = handle_signal,
		.sa_flags = SA_SIGINFO | SA_RESTART,
	};
	sigaction(SIGUSR2, &action, NULL);
}
