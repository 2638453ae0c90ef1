#include "base/guard.h"

#include <assert.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

static sigjmp_buf way_out;
static volatile sig_atomic_t guarded;

static void handle_sigbus(int signal_number)
{
	(void)signal_number;
	siglongjmp(way_out, 1);
}

bool guard_run(void (*func)(void *data), void *data)
{
	assert(!guarded);
	// Not blocked while it is handled, so that the mask need not be saved and restored.
	struct sigaction action = {.sa_handler = handle_sigbus, .sa_flags = SA_NODEFER};
	static struct sigaction before;
	sigaction(SIGBUS, &action, &before);
	guarded = 1;
	bool whole = sigsetjmp(way_out, 0) == 0;
	if (whole) {
		func(data);
	}
	guarded = 0;
	sigaction(SIGBUS, &before, NULL);
	return whole;
}
