#include "base/rlimit.h"

#include <stdbool.h>
#include <sys/resource.h>

#include "base/log.h"

static struct rlimit original;
static bool raised;

static void set_limit(const struct rlimit *limit)
{
	if (setrlimit(RLIMIT_NOFILE, limit) < 0) {
		log_errno("cannot change the limit of open files");
	}
}

void rlimit_raise_files(void)
{
	if (!raised && getrlimit(RLIMIT_NOFILE, &original) < 0) {
		log_errno("cannot read the limit of open files");
		return;
	}
	raised = true;
	struct rlimit limit = {.rlim_cur = original.rlim_max, .rlim_max = original.rlim_max};
	set_limit(&limit);
}

void rlimit_restore_files(void)
{
	if (raised) {
		set_limit(&original);
	}
}
