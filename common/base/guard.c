#include "base/guard.h"

#include <assert.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

static sigjmp_buf way_out;
static volatile sig_atomic_t guarded;

static void handle_sigbus(int signal_number)
{
	if (guarded) {
		siglongjmp(way_out, 1);
	}
	signal(signal_number, SIG_DFL); // not ours: it is raised again when this returns
}

static void install(void)
{
	static bool installed;
	if (!installed) {
		// Not blocked while it is handled, so that the mask need not be saved and restored.
		struct sigaction action = {.sa_handler = handle_sigbus, .sa_flags = SA_NODEFER};
		sigaction(SIGBUS, &action, NULL);
		installed = true;
	}
}

bool guard_run(void (*func)(void *data), void *data)
{
	assert(!guarded);
	install();
	if (sigsetjmp(way_out, 0) != 0) {
		guarded = 0;
		return false;
	}
	guarded = 1;
	func(data);
	guarded = 0;
	return true;
}
